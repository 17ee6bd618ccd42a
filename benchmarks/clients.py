"""Clients that are slow, lie, send too much, go away, or do not speak HTTP; for `benchmarks.hostile`."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import threading
import time
from collections.abc import Iterator

from benchmarks.broken import RATE, encoded, hours
from benchmarks.watched import Found, Row, Site, code_of

POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
GIB = 1 << 30


def odd(site: Site) -> Iterator[Row | None]:
    """Every kind of them."""
    import numpy as np

    noise = (0.1 * np.random.default_rng(0).standard_normal(10 * RATE)).astype(np.float32)
    good = encoded(noise[:RATE])
    yield from _sizes(site)
    yield from _forms(site, good)
    yield from _parameters(site, good, encoded(noise, form="OGG"))
    yield from _lines(site, good)
    yield site.row("a gzip bomb as Content-Encoding", ((422, "unreadable"),), lambda: _encoded(site))
    yield site.row("1 hour", ((422, "too_long"),), lambda: site.post(hours(1), "/predict?hop=0.1"))
    for count in (550, 900):
        what = f"{count} idle connections, then after 12 s a good sound"
        yield site.row(what, ((200, ""),), lambda count=count: _flood(site, good, count))
    yield site.row("100 good sounds at once, 64 are taken", ((200, ""), (503, "busy")), lambda: _together(site, good))
    yield site.row("100 clients that go away", ((200, ""), (503, "busy")), lambda: _gone(site, good))


def _sizes(site: Site) -> Iterator[Row | None]:
    def endless(size: int) -> Iterator[bytes]:
        for _ in range(size >> 20):
            yield bytes(1 << 20)

    refused = ((413, "too_large"), (0, "BrokenPipeError"), (0, "ConnectionResetError"))
    yield site.row("1 GB, declared", refused, lambda: site.post(endless(GIB), headers={"Content-Length": str(GIB)}))
    yield site.row("1 GB in chunks, not declared", refused, lambda: site.post(endless(GIB)))
    yield site.row("49 MB of zeros", ((422, "unreadable"),), lambda: site.post(bytes(49_000_000)))
    yield site.row("60 MB in a form", ((413, "too_large"),), lambda: site.post_form(bytes(60_000_000)))


def _forms(site: Site, good: bytes) -> Iterator[Row | None]:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\nx\r\n'
    bodies = {
        "a form without a file": (part % b"a" + b"--b--", ((422, "no_file"),)),
        "a form of 10,000 fields": (part % b"a" * 10_000 + b"--b--", ((400, "bad_form"),)),
        "a form that never ends": (part % b"a" * 2 + b"--b", ((422, "no_file"), (400, "bad_form"))),
        "a field's name of 1 MB": (part % (b"a" * 1_000_000) + b"--b--", ((400, "bad_form"), (413, "too_large"))),
        "an empty form": (b"", ((400, "bad_form"), (422, "no_file"))),
        "no form at all": (good, ((400, "bad_form"),)),
    }
    for name, (body, expected) in bodies.items():
        yield site.row(name, expected, lambda body=body: site.post(body, headers=kind))
    no_mark = {"Content-Type": "multipart/form-data"}
    yield site.row("a form without a boundary", ((400, "bad_form"),), lambda: site.post(good, headers=no_mark))
    yield site.row("a form of two files", ((400, "bad_form"),), lambda: site.post_form(good, count=2))
    yield site.row("a form with an empty file", ((422, "empty"),), lambda: site.post_form(b""))
    for name in ("../../../../etc/passwd", "..\\..\\x", "/etc/passwd", "a" * 1000, "\x00\x01", "<script>", "%2e%2e/x"):
        yield site.row(f"a file named {name[:24]!r}", ((200, ""),), lambda name=name: site.post_form(good, name))


def _parameters(site: Site, good: bytes, longer: bytes) -> Iterator[Row | None]:
    for query in ("hop=0", "hop=nan", "hop=-1", "hop=x", "at=-1", "at=inf", "top=0", "top=1e9", "explain=maybe"):
        yield site.row(f"?{query}", ((422, "bad_parameter"),), lambda query=query: site.post(good, f"/predict?{query}"))
    yield site.row("?hop=1e-9", ((422, "too_many_windows"),), lambda: site.post(longer, "/predict?hop=1e-9"))
    yield site.row("?at=1e9", ((422, "past_the_end"),), lambda: site.post(good, "/predict?at=1e9"))
    yield site.row("?label=no+class", ((422, "unknown_label"),), lambda: site.post(good, "/predict?label=no+class"))
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/app.py", "/nothing", "/docs", "//etc/passwd"):
        yield site.row(f"GET {path}", ((404, "not_found"),), lambda path=path: site.ask("GET", path))
    for method in ("PUT", "DELETE", "PATCH"):
        expected = ((405, "wrong_method"),)
        yield site.row(f"{method} /predict", expected, lambda method=method: site.ask(method, "/predict"))


def _lines(site: Site, good: bytes) -> Iterator[Row | None]:
    """Bytes that a client library would not send."""
    ended = ((0, ""),)
    length = f"Content-Length: {len(good) + 1000}\r\n\r\n".encode()
    chunk = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    talks: dict[str, tuple[bytes, tuple[Found, ...]]] = {
        "a Content-Length that is too long, then silence": (POST + length + good, ((408, "upload_timeout"),)),
        "a Content-Length that is too short": (
            POST + b"Content-Length: 500\r\nConnection: close\r\n\r\n" + good,
            ((422, "unreadable"),),
        ),
        "a negative Content-Length": (POST + b"Content-Length: -5\r\n\r\n", ((400, "bad_request"),)),
        "two Content-Lengths": (
            POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            ((400, "bad_request"),),
        ),
        "a chunk of no number": (chunk + b"zz\r\nabc\r\n", ((400, "bad_request"), (400, "bad_form"))),
        "a chunk of 2^64 bytes": (chunk + b"ffffffffffffffff\r\nabc", ((408, "upload_timeout"), (400, "bad_request"))),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), ((400, "bad_request"),)),
        "1 MB of header": (b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20), ((400, "bad_request"), (431, "bad_request"))),
        "a request that never ends": (b"POST /predict HT", ended),
        "nothing": (b"", ended),
    }
    for name, (sent, expected) in talks.items():
        yield site.row(name, expected, lambda sent=sent: _talk(site, sent))
    yield site.row("a byte every 2 s", ((408, "upload_timeout"),), lambda: _drip(site, good))


def _talk(site: Site, sent: bytes) -> Found:
    """Send bytes as they are, and wait for the other side to close or to answer."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as line:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.sendall(sent)
        return _answer(line)


def _answer(line: socket.socket) -> Found:
    out = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := line.recv(65536):
            out += piece
            body = out.partition(b"\r\n\r\n")[2]
            if body and code_of(400, body) != "NO JSON":
                break
    if not out:
        return 0, ""
    head, _, body = out.partition(b"\r\n\r\n")
    return int(head.split()[1]), code_of(int(head.split()[1]), body)


def _drip(site: Site, good: bytes) -> Found:
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as line:
        line.sendall(POST + f"Content-Length: {len(good)}\r\n\r\n".encode())
        line.settimeout(2)
        for place in range(40):
            try:
                line.sendall(good[place : place + 1])
                if line.recv(1, socket.MSG_PEEK):
                    return _answer(line)
            except TimeoutError:
                continue
    return 0, "no answer in 80 s"


def _encoded(site: Site) -> Found:
    return site.post(gzip.compress(bytes(200_000_000)), headers={"Content-Encoding": "gzip"})


def _flood(site: Site, good: bytes, count: int) -> Found:
    """Open connections that say nothing; the service drops them after ten seconds."""
    lines = []
    try:
        for _ in range(count):
            lines.append(socket.create_connection(("127.0.0.1", site.port), timeout=10))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, http.client.HTTPException):
            refused = site.post(good)
            if refused != (503, "busy"):
                return refused
        time.sleep(12)
        return site.post(good)
    finally:
        for line in lines:
            line.close()


def _together(site: Site, good: bytes) -> Found:
    found: list[Found] = []
    threads = [threading.Thread(target=lambda: found.append(site.post(good))) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = [one for one in found if one not in ((200, ""), (503, "busy"))]
    return wrong[0] if wrong else (200, "") if len(found) == 100 else (0, "some had no answer")


def _gone(site: Site, good: bytes) -> Found:
    for number in range(100):
        with socket.create_connection(("127.0.0.1", site.port), timeout=60) as line:
            line.sendall(POST + f"Content-Length: {len(good)}\r\n\r\n".encode() + good[: number * len(good) // 99])
    return site.post(good)
