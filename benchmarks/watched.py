"""A service under test: its answers, its health afterwards, and the memory that it and its children take."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

Found = tuple[int, str]
"""Status and error code; 0 where the connection ended without an answer."""


class Row(NamedTuple):
    """One thing that was tried."""

    what: str
    found: str
    ok: bool
    seconds: float
    service_mb: int = 0


class Site:
    """A service of a process of its own.

    Parameters
    ----------
    model : Path
    good : bytes
        A sound that must always be answered.
    folder : Path
        Made, for what the service writes.
    only : str
        Rows whose name has not this word are left out.
    """

    def __init__(self, model: Path, good: bytes, folder: Path, *, only: str = "") -> None:
        self._model, self._good, self._folder, self._only = model, good, folder, only
        self._peaks: Counter[str] = Counter()
        self._children: set[int] = set()
        self._over = threading.Event()

    def __enter__(self) -> Site:
        self._folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "earsight", "serve", str(self._model), "--port", "0"]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(self._folder)}
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found.group(1))
                break
        else:
            raise SystemExit(f"{self._model}: the service did not start")
        self._log: list[str] = []
        threading.Thread(target=lambda: self._log.extend(self._process.stderr or ()), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        self._check_well()
        self._first = _resident(self._process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._last = _resident(self._process.pid)
        self._over.set()
        self._process.send_signal(signal.SIGTERM)
        self._code = self._process.wait(60)

    @property
    def memory(self) -> dict[str, int]:
        """MB: of the service at the start, at most, and in the end; of one of its decoders at most."""
        return {
            "start": self._first,
            "most": self._peaks["service"],
            "end": self._last,
            "decoder": self._peaks["child"],
        }

    def ended(self) -> Row:
        """Whether the stop left anything behind."""
        left = [pid for pid in self._children if Path(f"/proc/{pid}").exists()]
        files = [path.name for path in self._folder.glob("earsight-*")]
        faults = [line for line in self._log if "Traceback" in line or "Error" in line]
        found = f"exit {self._code}, {len(left)} of {len(self._children)} children left, files left: {files}"
        return Row(
            "the stop", f"{found}, {len(faults)} faults logged", not (self._code or left or files or faults), 0.0
        )

    def kill(self) -> int:
        """SIGKILL the service; how many of its decoders live on five seconds later."""
        self._process.kill()
        self._process.wait()
        time.sleep(5)
        return sum(Path(f"/proc/{pid}").exists() for pid in self._children)

    def answer(self, content: bytes) -> str:
        """The answer to a sound, but for its times."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as line:
            line.request("POST", "/predict", content)
            return re.sub(r'"[a-z_]*seconds": ?[0-9.e-]+', "", line.getresponse().read().decode())

    def row(self, what: str, expected: Sequence[Found], ask: Callable[[], Found]) -> Row | None:
        """Try one thing, and see that the service is well afterwards."""
        if self._only not in what:
            return None
        began = time.perf_counter()
        try:
            found = ask()
        except (OSError, http.client.HTTPException) as error:
            found = (0, type(error).__name__)
        seconds = time.perf_counter() - began
        trouble = self._check_well()
        ok = found in expected and not trouble
        wanted = "" if found in expected else f"; expected {' or '.join(f'{s} {c}'.strip() for s, c in expected)}"
        held = _resident(self._process.pid)
        return Row(what, f"{found[0]} {found[1]}".strip() + wanted + trouble, ok, seconds, held)

    def fuzz(self, contents: Iterable[bytes], expected: Sequence[Found]) -> Row | None:
        """Send many files, one after the other."""
        counts: Counter[Found] = Counter()

        def send() -> Found:
            for content in contents:
                found = self.post(content)
                counts[found] += 1
                if found not in expected:
                    return found
            return expected[0]

        row = self.row("files with random damage", expected, send)
        told = ", ".join(f"{count} x {status} {code}".strip() for (status, code), count in counts.most_common())
        return row and row._replace(found=f"{told}{row.found.removeprefix('200')}")

    def post(
        self, content: bytes | Iterator[bytes], path: str = "/predict", headers: dict[str, str] | None = None
    ) -> Found:
        """Send a raw body."""
        return self.ask("POST", path, content, headers or {})

    def post_form(self, content: bytes, name: str = "a sound.wav", count: int = 1) -> Found:
        """Send a form with the file."""
        mark = secrets.token_hex(16)
        parts = b"".join(
            f'--{mark}\r\nContent-Disposition: form-data; name="file{number}"; filename="{name}"\r\n'
            "Content-Type: audio/wav\r\n\r\n".encode()
            + content
            + b"\r\n"
            for number in range(count)
        )
        body = parts + f"--{mark}--\r\n".encode()
        return self.ask("POST", "/predict", body, {"Content-Type": f"multipart/form-data; boundary={mark}"})

    def ask(
        self, method: str, path: str, content: bytes | Iterator[bytes] = b"", headers: dict[str, str] | None = None
    ) -> Found:
        """One request; a refusal that is not the one JSON form counts as code ``NO JSON``."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(line):
            line.request(method, path, content, headers or {}, encode_chunked=not isinstance(content, bytes))
            response = line.getresponse()
            return response.status, code_of(response.status, response.read())

    def _check_well(self) -> str:
        """What is wrong with the service now; nothing if it is well."""
        until = time.monotonic() + 30
        while (found := self._health()) != "ok" and time.monotonic() < until:
            time.sleep(0.1)
        if found != "ok":
            return f"; then /healthz: {found}"
        if (answered := self.post(self._good)) != (200, ""):
            return f"; then a good sound: {answered}"
        left = [path.name for path in self._folder.glob("earsight-*/*")]
        return f"; left on the disk: {left}" if left else ""

    def _health(self) -> str:
        try:
            line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            with contextlib.closing(line):
                line.request("GET", "/healthz")
                response = line.getresponse()
                found = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            return repr(error)
        return "ok" if response.status == 200 and found["status"] == "ok" and not found["in_flight"] else str(found)

    def _watch(self) -> None:
        tasks = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while not self._over.wait(0.02):
            self._peaks["service"] = max(self._peaks["service"], _resident(self._process.pid))
            with contextlib.suppress(OSError):
                for child in map(int, tasks.read_text().split()):
                    self._children.add(child)
                    self._peaks["child"] = max(self._peaks["child"], _resident(child))


def code_of(status: int, content: bytes) -> str:
    """The error code of a response; nothing of an answer."""
    try:
        found = json.loads(content)
        if status == 200:
            return ""
        error = found["error"]
        return str(error["code"]) if error["message"] and error["what_to_do"] else "NO JSON"
    except (ValueError, KeyError, TypeError):
        return "NO JSON"


def _resident(pid: int) -> int:
    """MB of memory that a process holds; 0 of one that is gone."""
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found.group(1)) // 1024 if found else 0
