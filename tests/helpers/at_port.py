"""A service at a free port of this machine, for a test; and sounds to send it."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import soundfile

from earsight.inference.classifier import Classifier
from earsight.serving.limits import Limits
from earsight.serving.server import Server, bind
from earsight.serving.visitors import LOOPBACK, Known

RATE = 8000
CLASSES = ("bell", "cat & <b>dog</b>", "réveil 鳥")
QUICK = {"body_bytes": 2_000_000, "sound_seconds": 60.0, "decode_seconds": 20.0, "stop_seconds": 10.0}


@contextmanager
def serving(
    classifier: Classifier, *, known: Known = LOOPBACK, **limits: float
) -> Iterator[tuple[httpx.Client, Server]]:
    """A server in a thread, and a client of it."""
    started = threading.Event()
    listening = bind("127.0.0.1", 0)
    server = Server(classifier, Limits(**(QUICK | limits)), listening=listening, started=started.set, known=known)
    thread = threading.Thread(target=lambda: asyncio.run(server.work()), daemon=True)
    thread.start()
    try:
        assert started.wait(60)
        address = "http://{}:{}".format(*listening.getsockname())
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            yield client, server
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def tone(seconds: float = 1.0, *, hz: float = 440.0) -> np.ndarray:
    """A tone in noise."""
    times = np.arange(round(seconds * RATE)) / RATE
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(times))
    return (0.3 * np.sin(2 * np.pi * hz * times) + noise).astype(np.float32)


def encoded(wave: np.ndarray, rate: int = RATE, **how: str) -> bytes:
    """A sound file's bytes; WAV by default."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, **({"format": "WAV"} | how))
    return file.getvalue()


def error_of(response):
    """The error of a refusal, in the one form that all have."""
    error = response.json()["error"]
    assert set(error) == {"code", "message", "what_to_do"}
    assert all(isinstance(value, str) and value for value in error.values())
    assert "Traceback" not in response.text
    return error
