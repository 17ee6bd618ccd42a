"""Prometheus metrics of the service, for ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Meters:
    """The metrics of one service; each has a registry of its own, so that several live in one process.

    ``waiting`` gives the windows that are in no batch yet, ``decoders`` the decoding processes.
    """

    def __init__(self, *, waiting: Callable[[], int], decoders: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        seconds = partial(Histogram, registry=registry, buckets=_SECONDS)
        self.requests = counter(
            "earsight_requests", "Requests to /predict by status and error code.", ["status", "code"]
        )
        self.seconds = seconds("earsight_request_seconds", "From a request's first byte to its answer.")
        self.decode_seconds = seconds("earsight_decode_seconds", "Of a decoder's time for a sound.")
        self.batch_size = Histogram(
            "earsight_batch_size", "Windows in a batch of the network.", registry=registry, buckets=_SIZES
        )
        self.windows = counter("earsight_windows", "Windows that the network classified.")
        self.sound_seconds = counter("earsight_sound_seconds", "Length of the sounds that were answered.")
        self.labels = counter("earsight_labels", "Answers by class; unknown ones as such.", ["label"])
        self.ended = counter("earsight_decoders_replaced", "Decoding processes replaced.", ["why"])
        self.in_flight = gauge("earsight_requests_in_flight", "Requests that have no answer yet.")
        gauge("earsight_windows_waiting", "Windows that are in no batch yet.").set_function(waiting)
        gauge("earsight_decoders", "Decoding processes.").set_function(decoders)
        for why in ("crash", "timeout", "worn"):
            self.ended.labels(why)

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)
