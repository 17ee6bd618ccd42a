"""The server (uvicorn): parity check of the model, the port, and a stop that lets open requests end.

Comes in: a `Classifier`, `Limits`, a bound socket. `Server.work` returns after SIGINT or SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import h11
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from earsight.errors import ModelError, ServiceError
from earsight.inference.classifier import Classifier
from earsight.models.modelfile import TOLERANCE, distance, load_probe, probe_wave
from earsight.serving.app import create_app
from earsight.serving.limits import Limits
from earsight.serving.refusals import Refusal, busy, refused
from earsight.serving.service import Service
from earsight.serving.visitors import LOOPBACK, Known

HEADER_SECONDS = 10.0
_CONNECTIONS = 512  # further connections get "busy"; beyond an eighth more they get no response


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
            f"{100 * off:.2g} % of their spread, allowed {100 * TOLERANCE:g} %; "
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
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",  # `work` opens the service, so that its errors are raised unchanged
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
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


class _Protocol(H11Protocol):
    """A connection that is closed unless each request's header comes within `HEADER_SECONDS`."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS * 9 // 8:
            transport.abort()
        self._wait()

    def data_received(self, data: bytes) -> None:
        # Not by uvicorn's own limit, whose answer is bare text.
        self.app = _crowded if len(self.connections) > _CONNECTIONS else self.config.loaded_app
        super().data_received(data)
        self._wait()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the form of every refusal."""
        refusal = refused(Refusal(400, "bad_request", msg.rstrip("."), "send one request of HTTP/1.1", close=True))
        for event in (
            h11.Response(status_code=400, headers=refusal.raw_headers, reason=b"Bad Request"),
            h11.Data(data=bytes(refusal.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._close_idle)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_idle(self) -> None:
        self._timer = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


async def _crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """The response to connections beyond the limit."""
    refusal = busy("there are more connections than this service takes", close=True)
    await refused(refusal)(scope, receive, send)
