"""``python -m benchmarks.endurance MODEL [SOUND] [--only PART] [--source FOLDER] [--json]``: is every request answered?

Raw sockets against a service of its own process: each request must be answered, or refused by a status. Four parts:
``refused`` (a parameter that does not fit, with a body of 300 kB and ``Connection: close``), ``crowd`` (connections at
once, each of which then asks), ``stop`` (Ctrl-C while clients ask), and ``long`` (a mix of which a third is malformed,
and the memory of the service and of its children). A request is lost if a byte of it cannot be sent or its answer does
not come whole. Ends with 1 where one was lost or had another status than it should have.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from benchmarks.watched import code_of
from earsight.training.device import describe_machine

CLIENTS = 8
HOST = "127.0.0.1"


class Request(NamedTuple):
    """Bytes to send, and the statuses that may answer them."""

    kind: str
    sent: bytes
    statuses: tuple[int, ...]
    malformed: bool = False


class Lost(Exception):  # noqa: N818
    """A request that got no whole answer."""


class Line:
    """A connection that is kept as long as the service keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._line: socket.socket | None = None

    def ask(self, sent: bytes) -> int:
        """The status of the answer, whose body is read whole; `Lost` if there is none."""
        try:
            if self._line is None:
                self._line = socket.create_connection((HOST, self._port), timeout=120)
            self._line.sendall(sent)
            status, ends = whole(self._line, b"HEAD" if sent.startswith(b"HEAD") else b"")
        except (OSError, Lost) as error:
            self.close()
            raise Lost(f"{type(error).__name__}: {error}") from error
        if ends:
            self.close()
        return status

    def close(self) -> None:
        """End it."""
        if self._line is not None:
            self._line.close()
        self._line = None


def whole(line: socket.socket, method: bytes = b"") -> tuple[int, bool]:
    """Read one answer: its status, and whether the connection ends with it."""
    out = b""
    while b"\r\n\r\n" not in out:
        if not (piece := line.recv(65536)):
            raise Lost(f"the end after {len(out)} bytes")
        out += piece
    head, _, body = out.partition(b"\r\n\r\n")
    fields = dict(one.lower().split(b": ", 1) for one in head.split(b"\r\n")[1:])
    length = 0 if method == b"HEAD" else int(fields.get(b"content-length", b"0"))
    while len(body) < length:
        if not (piece := line.recv(65536)):
            raise Lost(f"the end after {len(body)} of {length} bytes of the body")
        body += piece
    status = int(head.split()[1])
    if status >= 400 and length and code_of(status, body) == "NO JSON":
        raise Lost(f"{status} without the JSON of refusals")
    return status, fields.get(b"connection") == b"close"


@contextmanager
def served(model: Path, source: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service, and its port."""
    command = [sys.executable, "-m", "earsight", "serve", str(model), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(source)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(rf"http://{re.escape(HOST)}:(\d+)", line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield process, int(found.group(1))
                break
        else:
            raise SystemExit(f"{model}: the service did not start")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def post(body: bytes, query: str = "", *headers: str, close: bool = False) -> bytes:
    """A POST to /predict."""
    lines = [f"POST /predict{query} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, *["Connection: close"] * close, "", ""]).encode() + body


def together(count: int, work: Callable[[int], None]) -> None:
    """Run it in so many threads."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def refused(port: int, count: int) -> dict[str, Any]:
    """A refused parameter, whose body nobody asked for."""
    sent = post(bytes(300_000), "?top=0", close=True)
    found: Counter[str] = Counter()

    def work(number: int) -> None:
        for _ in range(count // CLIENTS):
            found[asked(Line(port), Request("refused", sent, (422,)))] += 1

    together(CLIENTS, work)
    return told(found)


def crowd(port: int, count: int) -> dict[str, Any]:
    """Connections that are all open before each asks for /healthz."""
    sent = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    found: Counter[str] = Counter()
    ready = threading.Barrier(count)

    def work(number: int) -> None:
        line = Line(port)
        try:
            line._line = socket.create_connection((HOST, port), timeout=60)
        except OSError as error:
            found[f"lost: connect: {type(error).__name__}"] += 1
        ready.wait()
        found[asked(line, Request("crowd", sent, (200, 503)))] += 1
        line.close()

    together(count, work)
    return told(found)


def stop(model: Path, source: Path, sound: bytes, *, rounds: int, clients: int = 32) -> dict[str, Any]:
    """Ctrl-C while clients ask, half of them over connections that they keep; a refused connection is no request."""
    found: Counter[str] = Counter()
    for round_ in range(rounds):
        with served(model, source) as (process, port):
            over = threading.Event()

            def work(number: int, port: int = port, over: threading.Event = over) -> None:
                line, sent = Line(port), post(sound, close=number % 2 == 0)
                while not over.is_set():
                    if line._line is None:
                        try:
                            line._line = socket.create_connection((HOST, port), timeout=60)
                        except OSError:
                            return
                    found[asked(line, Request("stop", sent, (200, 503)))] += 1
                line.close()

            threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
            for thread in threads:
                thread.start()
            time.sleep(2 + 0.1 * round_)
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
            over.set()
            for thread in threads:
                thread.join()
            found[f"exit {code}"] += 1
    return told(found)


def asked(line: Line, request: Request) -> str:
    """What came of a request, in words."""
    try:
        status = line.ask(request.sent)
    except Lost as error:
        return f"lost: {request.kind}: {error}"
    return str(status) if status in request.statuses else f"wrong: {request.kind}: {status}"


def told(found: Counter[str]) -> dict[str, Any]:
    """Counts of what came of requests, and how many of them are not as they should be."""
    return {"found": dict(found.most_common()), "bad": sum(n for what, n in found.items() if what[0] in "lw")}


def mix(sound: bytes, dice: random.Random) -> Request:
    """The next request; one in three is malformed."""
    close = dice.random() < 0.5
    busy = (200, 503)
    text = b"no sound at all, " * dice.randrange(1, 2000)
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + sound + b"\r\n--b--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=b"
    get = "{} {} HTTP/1.1\r\nHost: {}\r\n\r\n"
    chunked = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (sound[:1000], sound[1000:])) + b"0\r\n\r\n"
    if dice.random() < 2 / 3:
        return dice.choice(
            [
                Request("a sound", post(sound, close=close), busy),
                Request("a sound in a form", post(form, "?top=3", kind, close=close), busy),
                Request("a sound in chunks", chunked + pieces, busy),
                Request("a timeline", post(sound, "?hop=1", close=close), busy),
                Request("a spectrogram", post(sound, "?spectrogram=true", close=close), busy),
                *[
                    Request(f"{method} {path}", get.format(method, path, "localhost").encode(), (200,))
                    for method in ("GET", "HEAD")
                    for path in ("/", "/model", "/healthz", "/metrics", "/main.js")
                ],
            ]
        )
    return dice.choice(
        [
            Request("a bad parameter", post(bytes(300_000), "?top=0", close=close), (422,), True),
            Request("no class", post(sound, "?label=none", close=close), (422,), True),
            Request("text", post(text, close=close), (422, 503), True),
            Request("a cut sound", post(sound[: len(sound) // 2], close=close), (200, 422, 503), True),
            Request("nothing", post(b"", close=close), (422, 503), True),
            Request("noise", post(dice.randbytes(dice.randrange(1, 60_000)), close=close), (422, 503), True),
            Request("a form of no file", post(b"--b--\r\n", "", kind, close=close), (400, 422, 503), True),
            Request("a bad form", post(sound, "", "Content-Type: multipart/form-data"), (400, 503), True),
            Request(
                "too large", post(b"", "").replace(b": 0\r\n", b": 99000000\r\n") + bytes(200_000), (413, 503), True
            ),
            Request("a bad chunk", chunked + b"zz\r\nabc\r\n", (400,), True),
            Request("a bad length", post(b"").replace(b": 0\r\n", b": -5\r\n"), (400,), True),
            Request("no HTTP", dice.randbytes(300) + b"\r\n\r\n", (400,), True),
            Request("a method", post(sound, close=close).replace(b"POST", b"PUT", 1), (405,), True),
            Request("a path", get.format("GET", "/none/../x", "localhost").encode(), (404,), True),
            Request("a host", post(sound, close=close).replace(b"localhost", b"evil.example", 1), (421,), True),
            Request("an origin", post(sound, "", "Origin: https://evil.example", close=close), (403,), True),
        ]
    )


def long(process: subprocess.Popen[str], port: int, sound: bytes, *, count: int, seconds: float) -> dict[str, Any]:
    """The mix, spread over the seconds and never longer, and the memory of the service and its children meanwhile."""
    found: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    memory: list[tuple[float, int, int]] = []
    over = threading.Event()
    began = time.perf_counter()

    def watch() -> None:
        while True:
            passed = time.perf_counter() - began
            memory.append((round(passed, 1), resident(process.pid), sum(map(resident, children(process.pid)))))
            if over.wait(seconds / 60):
                return

    def work(number: int) -> None:
        dice, line = random.Random(number), Line(port)
        for turn in range(count // CLIENTS):
            if time.perf_counter() - began > seconds:  # the service, or this machine, was too slow for all
                break
            time.sleep(max(0.0, began + seconds * (turn + number / CLIENTS) / (count // CLIENTS) - time.perf_counter()))
            request = mix(sound, dice)
            kinds["malformed" if request.malformed else "well-formed"] += 1
            what = asked(line, request)
            found[what] += 1
        line.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    together(CLIENTS, work)
    over.set()
    watcher.join()
    lasted = time.perf_counter() - began
    return told(found) | {"kinds": dict(kinds), "seconds": round(lasted), "memory: seconds, MB, MB of children": memory}


def children(pid: int) -> list[int]:
    """A process's children."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident(pid: int) -> int:
    """MB of memory that a process holds; 0 of one that is gone."""
    try:
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) // 1024
    except (OSError, IndexError):
        return 0


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("sound", type=Path, nargs="?", help="default: a second of noise, by seed 0")
    parser.add_argument("--only", choices=["refused", "crowd", "stop", "long"])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--crowd", type=int, default=700)
    parser.add_argument("--rounds", type=int, default=5, help="of Ctrl-C")
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.sound:
        sound = given.sound.read_bytes()
    else:
        file = io.BytesIO()
        soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(16000), 16000, format="WAV")
        sound = file.getvalue()
    out: dict[str, Any] = {}
    with served(given.model, given.source) as (process, port):
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "refused": lambda: refused(port, 2000),
            "crowd": lambda: crowd(port, given.crowd),
            "long": lambda: long(process, port, sound, count=given.requests, seconds=given.seconds),
        }
        for name, part in parts.items():
            if given.only in (None, name):
                out[name] = part()
                sys.stderr.write(f"{name}: {json.dumps(out[name])}\n")
    if given.only in (None, "stop"):
        out["stop"] = stop(given.model, given.source, sound, rounds=given.rounds)
        sys.stderr.write(f"stop: {json.dumps(out['stop'])}\n")
    if given.json:
        json.dump({"machine": describe_machine(torch.device("cpu")), **out}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    sys.exit(any(part["bad"] for part in out.values()))


if __name__ == "__main__":
    main()
