"""The server (uvicorn): parity check of the model, the port, and a stop that lets open requests end.

Comes in: a `Classifier`, `Limits`, a bound socket. `Server.work` returns after SIGINT or SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from earsight.errors import ModelError, ServiceError
from earsight.inference.classifier import Classifier
from earsight.inference.predictions import error_words
from earsight.models.modelfile import TOLERANCE, distance, load_probe, probe_wave
from earsight.serving.app import create_app
from earsight.serving.connections import LINGER_MOST_SECONDS, Connection, Door
from earsight.serving.limits import Limits
from earsight.serving.service import Service
from earsight.serving.uploads import FORM_EXTRA_BYTES
from earsight.serving.visitors import LOOPBACK, Known

_ACCEPT_SECONDS = 1.0  # for connections that wait to be accepted when the server stops


def check_parity(path: Path, classifier: Classifier) -> str:
    """Compare this machine's logits for the probe with those in the model file; a note for the user, or nothing.

    ModelError if they differ, or this machine's are not finite.
    """
    stored = load_probe(path)
    try:
        found = classifier.logits(probe_wave(classifier.card.recipe.features)[None])[0]
    except ModelError as error:
        raise ModelError(f"{path}: gives NaN or infinite logits, or none, on this machine: {error}") from error
    if stored is None:
        return "the model file is older than the parity check and has no logits to compare this machine's with"
    off = distance(found, stored)
    if off > TOLERANCE:
        raise ModelError(
            f"{path}: predicts otherwise here than where it was saved: its logits for the probe are off by "
            f"{error_words(off, TOLERANCE)} of their spread, allowed {100 * TOLERANCE:g} %; "
            "install the versions of torch and timm that it was trained with, or train it again"
        )
    return ""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. `ServiceError` if the port is in use or not available."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ServiceError(f"--host {host}: no such address ({error.strerror}); give one of this machine's") from error
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # a port that was just left may be taken again
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        in_use = error.errno == errno.EADDRINUSE
        found = "is in use; end what uses it, or" if in_use else f"cannot be had ({error.strerror});"
        raise ServiceError(f"port {port} of {host} {found} choose another with --port") from error
    return listening


class Server(uvicorn.Server):
    """One service at one port for known visitors.

    ``listening``, from `bind`, is closed in the end, ``started`` called when it answers.
    """

    def __init__(
        self,
        classifier: Classifier,
        limits: Limits,
        *,
        listening: socket.socket,
        started: Callable[[], None],
        known: Known = LOOPBACK,
    ) -> None:
        app = create_app(classifier, limits, known)
        self._door = Door(limits.body_bytes + FORM_EXTRA_BYTES)
        config = uvicorn.Config(
            self._door.announcing(app),
            http=type("Connection", (Connection,), {"door": self._door}),
            ws="none",
            lifespan="off",  # `work` opens the service, so that its errors are raised unchanged
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=math.ceil(limits.stop_seconds + LINGER_MOST_SECONDS),  # `shutdown` is sooner
        )
        super().__init__(config)
        self.service: Service = app.state.service
        self._listening, self._on_start = listening, started

    async def work(self) -> None:
        """Serve until `should_exit`, SIGINT or SIGTERM; `ServiceError` if the decoding processes do not start."""
        async with self.service.opened():
            await self.serve(sockets=[self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and call ``started``."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: what is in flight gets its answer, or 503 after `Limits.stop_seconds`; what comes now gets 503."""
        self._door.stopping = True
        loop = asyncio.get_running_loop()
        over = loop.call_later(
            self.service.limits.stop_seconds, lambda: [task.cancel() for task in self.server_state.tasks]
        )
        # Closing a listening socket resets connections that wait to be accepted: let no more of them wait.
        self._listening.listen(0)
        until = loop.time() + _ACCEPT_SECONDS
        while select.select([self._listening], [], [], 0)[0] and loop.time() < until:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)
        over.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal, at once at the second; unlike uvicorn, do not raise the signal again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {kind: signal.signal(kind, self._stop) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _stop(self, kind: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
