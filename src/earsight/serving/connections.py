"""Connections to clients: how many are served, how long they may ask for nothing, and an end that loses no answer.

A connection that is closed over unread bytes is reset, which the client may see before the answer. So each end is
announced (half-close), and what still comes is read and dropped for a while. uvicorn's `H11Protocol` is not public:
pyproject.toml bounds its versions, and serving.md says which were tried.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from earsight.serving.refusals import Refusal, busy, refused

HEADER_SECONDS = 10.0  # within which each request's header must come
LAST_SECONDS = 1.0  # the same, of a server that stops
LINGER_SECONDS = 2.0  # without a byte, before an ended connection is let go
LINGER_MOST_SECONDS = 30.0
CONNECTIONS = 512  # further ones get "busy" as the answer to their first request
MOST = 896  # and further ones before they ask: many systems let a process open 1024 files

_STOPPING = busy("this service is being stopped", close=True, code="stopping")
_CROWD = busy("there are more connections than this service takes", close=True)


@dataclass
class Door:
    """What the connections of one server share: ``drop_bytes`` are read after an answer, ``inside`` are served."""

    drop_bytes: int
    inside: int = 0
    stopping: bool = False

    def announcing(self, app: ASGIApp) -> ASGIApp:
        """The app; what it answers once the server stops says that its connection ends, so nothing more is asked."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            async def answer(message: Message) -> None:
                if self.stopping and message["type"] == "http.response.start":
                    others = [field for field in message.get("headers", ()) if field[0].lower() != b"connection"]
                    message = {**message, "headers": [*others, (b"connection", b"close")]}
                await send(message)

            await app(scope, receive, answer)

        return serve


class _Line:
    """A transport that lingers: ``close`` sends what is left and a FIN, and lets go when the client does."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, drop_bytes: int) -> None:
        self._transport, self._loop, self._left = transport, loop, drop_bytes
        self.ended = False  # the client sends no more
        self._until: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._until is not None or self._transport.is_closing()

    def close(self) -> None:
        if self.ended or self._transport.is_closing():
            self._transport.close()
        elif self._until is None:
            self._until = self._loop.time() + LINGER_MOST_SECONDS
            with contextlib.suppress(OSError):  # the client has reset it
                self._transport.write_eof()
            self._transport.resume_reading()
            self.drop(0)

    def drop(self, count: int) -> None:
        """So many bytes came after the end."""
        self._left -= count
        if self._timer is not None:
            self._timer.cancel()
        until = min(self._loop.time() + LINGER_SECONDS, self._until or 0)
        self._timer = self._loop.call_at(until if self._left >= 0 else 0, self._transport.close)


class Connection(H11Protocol):
    """A connection of a server whose ``door`` a subclass has."""

    door: Door
    _timer: asyncio.TimerHandle | None = None
    _served = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve it, or leave it to be refused."""
        self._line = _Line(transport, self.loop, self.door.drop_bytes)
        super().connection_made(self._line)  # type: ignore[arg-type]
        self._served = self.door.inside < CONNECTIONS
        self.door.inside += self._served
        if len(self.connections) > MOST:
            self._refuse(_CROWD)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or after the end."""
        if self._line.is_closing():
            self._line.drop(len(data))
            return
        # Not by uvicorn's own limit, whose answer is bare text.
        if self.door.stopping or not self._served:
            self.app = refused(_STOPPING if self.door.stopping else _CROWD)
        super().data_received(data)
        self._wait()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a connection whose client sends no more, but waits for the answer to a whole request."""
        self._line.ended = True
        if waits := self._in_request() and not self.cycle.more_body and not self._line.is_closing():
            self.cycle.keep_alive = False
        return waits

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the form of every refusal."""
        if self._in_request():  # a body that is broken: nobody is to answer it any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._refuse(Refusal(400, "bad_request", msg.rstrip("."), "send one request of HTTP/1.1", close=True))

    def shutdown(self) -> None:
        """End it, as the server stops: after its answer, or when no request has come for a moment."""
        if self._in_request():
            super().shutdown()
        elif not self._line.is_closing():
            self._cancel()
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._cancel()
        self.door.inside -= self._served
        super().connection_lost(exc)

    def _refuse(self, refusal: Refusal) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = refused(refusal)
            head = h11.Response(status_code=response.status_code, headers=response.raw_headers)
            for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        if self._in_request():
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(
                LAST_SECONDS if self.door.stopping else HEADER_SECONDS, self.transport.close
            )

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
