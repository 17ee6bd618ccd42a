"""ASGI middleware: which hosts' names the service answers to, and which pages' scripts may ask it.

A page of another site can have a visitor's browser send requests here, and, by a name that it points to this address
(DNS rebinding), read the answers too. So the ``Host`` of a request must be an address or a known name, and the
``Origin`` of a POST, which browsers send, must be this host or a known one.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from earsight.serving.refusals import Refusal, refused


@dataclass(frozen=True)
class Known:
    """Who may ask.

    ``hosts``: names that the service is reached by, without ports, beside ``localhost`` and addresses of loopback;
    ``origins``: other sites whose pages may use it, such as ``https://example.org``; ``*`` for any, in both.
    ``addresses``: whether it answers to any address, as where it listens at more than loopback. An address is no name,
    which somebody else could point here.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    addresses: bool = False

    def has_host(self, host: str) -> bool:
        """Whether a request with this header ``Host`` is for this service."""
        name = _name(host)
        if "*" in self.hosts or name in self.hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            found = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.addresses or found.is_loopback

    def has_origin(self, origin: str, *, host: str) -> bool:
        """Whether a page of this header ``Origin`` may ask the service at a ``Host``."""
        return "*" in self.origins or origin in self.origins or urlsplit(origin).netloc.lower() == host.lower() != ""


LOOPBACK = Known()
"""Visitors on this machine alone."""


def listening_at(host: str, *, hosts: list[str], origins: list[str]) -> Known:
    """Who may ask a service that listens at this host, with what the user named beside."""
    names = tuple(_name(one) for one in hosts)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return Known((*names, host.lower()), tuple(origins))
    return Known(names, tuple(origins), addresses=not address.is_loopback)


def add_visitors(app: FastAPI, known: Known) -> None:
    """Refuse requests of others; call it last, so that it comes before all else."""
    if known.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(known.origins),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(_Visitors, known=known)


class _Visitors:
    def __init__(self, app: ASGIApp, known: Known) -> None:
        self._app, self._known = app, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes from a known visitor, HEAD as GET without the body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        refusal = None
        if "host" in headers and not self._known.has_host(host):  # browsers always send one
            refusal = Refusal(
                421,
                "unknown_host",
                f"this service does not go by the name {_name(host)[:80]!r}",
                "use its address, or start it with --allow-host and that name",
            )
        elif scope["method"] == "POST" and origin is not None and not self._known.has_origin(origin, host=host):
            refusal = Refusal(
                403,
                "unknown_origin",
                f"pages of {origin[:80]!r} may not use this service",
                "start it with --allow-origin and that site",
            )
        if refusal is not None:
            await refused(refusal)(scope, receive, send)
            return
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def bodiless(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, bodiless)


def _name(host: str) -> str:
    """A host's name or address, in small letters, without its port, brackets or the dot at the end."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:  # a bracket alone, say
        return ""
