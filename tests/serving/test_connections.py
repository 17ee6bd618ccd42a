"""No answer is lost at the end of a connection: refused bodies, crowds, a service that stops."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest
from at_port import encoded, serving, tone

import earsight.serving.connections as module


@contextlib.contextmanager
def line_to(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as line:
        yield line


def until_end(line) -> bytes:
    """What comes until the other side ends."""
    out = b""
    while piece := line.recv(65536):
        out += piece
    return out


def status_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    found = json.loads(body) if body else {}
    return int(head.split()[1]), found.get("error", {}).get("code", "")


def post(body: bytes, query: str = "", *more: str, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    lines = [f"POST /predict{query} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (post(bytes(1000), "?top=0", "Connection: close", length=300_000), (422, "bad_parameter")),
        (
            post(bytes(1000), "", "Connection: close", "Origin: https://evil.example", length=300_000),
            (403, "unknown_origin"),
        ),
        (post(bytes(1000), length=3_000_000), (413, "too_large")),
        (post(b"", "", "Connection: close", length=300_000).replace(b"POST", b"PUT"), (405, "wrong_method")),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", (400, "bad_request")),
    ],
)
def test_the_rest_of_a_refused_body_may_come_after_the_answer(client, request_, expected):
    with line_to(client) as line:
        line.sendall(request_)
        assert status_of(until_end(line)) == expected  # and the service's half is closed
        for _ in range(6):  # of a connection that is reset, the second of these fails
            line.sendall(bytes(50_000))
        line.shutdown(socket.SHUT_WR)
        assert line.recv(1) == b""


def test_what_comes_after_the_answer_has_an_end(classifier, monkeypatch):
    """In bytes, and in seconds without one."""
    with serving(classifier, body_bytes=10_000) as (client, _), line_to(client) as line:
        line.sendall(post(bytes(1000), "?top=0", "Connection: close", length=10**9))
        assert status_of(until_end(line)) == (422, "bad_parameter")
        with pytest.raises(ConnectionError):
            line.sendall(bytes(10**9))
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.1)
    with serving(classifier) as (client, server), line_to(client) as line:
        line.sendall(b"rubbish\r\n\r\n")
        assert status_of(until_end(line)) == (400, "bad_request")
        while server.server_state.connections:
            threading.Event().wait(0.01)


def test_a_client_that_sends_no_more_gets_its_answer(client):
    with line_to(client) as line:
        line.sendall(post(encoded(tone())))
        line.shutdown(socket.SHUT_WR)
        assert status_of(until_end(line)) == (200, "")


def test_a_body_that_breaks_is_refused_once(client, caplog):
    chunked = b"POST /predict%s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with line_to(client) as line:
        line.sendall(chunked % b"")
        line.sendall(b"zz\r\nabc\r\n")
        assert status_of(until_end(line)) == (400, "bad_request")
    with line_to(client) as line:
        line.sendall(chunked % b"?top=0")
        answer = b""
        while not answer.endswith(b"}}"):
            answer += line.recv(65536)
        assert status_of(answer) == (422, "bad_parameter")
        line.sendall(b"zz\r\nabc\r\n")
        assert until_end(line) == b""
    assert client.get("/healthz").status_code == 200
    assert caplog.text == ""


def test_a_crowd_of_connections_is_told_to_come_again(classifier, monkeypatch):
    monkeypatch.setattr(module, "CONNECTIONS", 8)
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    monkeypatch.setattr(module, "MOST", 20)
    with serving(classifier) as (client, server), contextlib.ExitStack() as stack:
        place = (client.base_url.host, client.base_url.port)
        lines = [stack.enter_context(socket.create_connection(place, timeout=30)) for _ in range(24)]
        for line in lines[20:]:  # before they ask
            answer = until_end(line)
            assert b"retry-after: 1" in answer.lower()
            assert status_of(answer) == (503, "busy")
        for line in lines[:20]:
            line.sendall(ask)
        statuses = [status_of(until_end(line))[0] for line in lines[:20]]
        assert statuses == [200] * 8 + [503] * 12
        for line in lines:
            line.close()
        while server._door.inside:
            threading.Event().wait(0.01)
        assert client.get("/healthz").status_code == 200


def test_what_waits_when_the_service_stops_is_answered_or_refused(classifier):
    body = encoded(tone())
    with serving(classifier) as (client, server), contextlib.ExitStack() as stack:
        uploading, kept, silent = (stack.enter_context(line_to(client)) for _ in range(3))
        uploading.sendall(post(body[:1000], length=len(body)))
        kept.sendall(b"HEAD /model HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        while not server.service.in_flight:
            threading.Event().wait(0.01)
        server.should_exit = True
        while not server._door.stopping:
            threading.Event().wait(0.01)
        kept.sendall(post(body))
        silent.sendall(post(body, "", "Connection: close"))
        for line in (kept, silent):
            assert status_of(until_end(line)) == (503, "stopping")
        uploading.sendall(body[1000:])
        assert status_of(until_end(uploading)) == (200, "")


def test_an_answer_during_the_stop_says_that_its_connection_ends(classifier):
    """Else a client that keeps it sends its next request into the end, which is then lost without an answer."""
    go = threading.Event()
    with serving(classifier) as (client, server), contextlib.ExitStack() as stack:
        stack.callback(go.set)
        compute = server.service._batcher._compute
        server.service._batcher._compute = lambda waves: compute(waves) if go.wait(30) else None
        kept = stack.enter_context(line_to(client))
        kept.sendall(post(encoded(tone())))
        while not server.service.in_flight:
            threading.Event().wait(0.01)
        server.should_exit = True
        while not server._door.stopping:
            threading.Event().wait(0.01)
        go.set()
        answer = until_end(kept)
        assert status_of(answer) == (200, "")
        assert b"\r\nconnection: close\r\n" in answer.lower()


def test_what_takes_longer_than_the_stop_is_refused(classifier):
    go = threading.Event()
    with serving(classifier, stop_seconds=0.5) as (client, server), contextlib.ExitStack() as stack:
        stack.callback(go.set)
        compute = server.service._batcher._compute
        server.service._batcher._compute = lambda waves: compute(waves) if go.wait(30) else None
        lines = [stack.enter_context(line_to(client)) for _ in range(3)]
        for line in lines:
            line.sendall(post(encoded(tone())))
        while server.service.in_flight < 3:
            threading.Event().wait(0.01)
        server.should_exit = True
        for line in lines:
            assert status_of(until_end(line)) == (503, "stopping")
        go.set()


def test_connections_that_were_not_accepted_yet_are_answered_at_the_stop(classifier):
    """Closing a listening socket resets them."""
    with serving(classifier) as (client, server), contextlib.ExitStack() as stack:
        held, go = threading.Event(), threading.Event()
        stack.callback(go.set)

        def hold() -> None:  # the event loop accepts nobody meanwhile
            server.should_exit = True
            held.set()
            go.wait(30)

        next(iter(server.servers)).get_loop().call_soon_threadsafe(hold)
        assert held.wait(30)
        lines = [stack.enter_context(line_to(client)) for _ in range(20)]
        for line in lines:
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        go.set()
        assert {status_of(until_end(line))[0] for line in lines} <= {200, 503}
