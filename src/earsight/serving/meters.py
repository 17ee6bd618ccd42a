"""Prometheus metrics of the service, for ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable

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
        self.requests = Counter(
            "earsight_requests", "Requests to /predict by status and error code.", ["status", "code"], registry=registry
        )
        self.seconds = Histogram(
            *("earsight_request_seconds", "From a request's first byte to its answer."),
            registry=registry,
            buckets=_SECONDS,
        )
        self.decode_seconds = Histogram(
            "earsight_decode_seconds", "Of a decoder's time for a sound.", registry=registry, buckets=_SECONDS
        )
        self.batch_size = Histogram(
            "earsight_batch_size", "Windows in a batch of the network.", registry=registry, buckets=_SIZES
        )
        self.windows = Counter("earsight_windows", "Windows that the network classified.", registry=registry)
        self.sound_seconds = Counter(
            "earsight_sound_seconds", "Length of the sounds that were answered.", registry=registry
        )
        self.labels = Counter(
            "earsight_labels", "Answers by class; unknown ones as such.", ["label"], registry=registry
        )
        self.ended = Counter("earsight_decoders_replaced", "Decoding processes replaced.", ["why"], registry=registry)
        self.in_flight = Gauge("earsight_requests_in_flight", "Requests that have no answer yet.", registry=registry)
        for name, text, count in (
            ("earsight_windows_waiting", "Windows that are in no batch yet.", waiting),
            ("earsight_decoders", "Decoding processes.", decoders),
        ):
            Gauge(name, text, registry=registry).set_function(count)
        for why in ("crash", "timeout", "worn"):
            self.ended.labels(why)

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)
