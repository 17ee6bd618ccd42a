"""A pool of decoding processes (`earsight.serving.decoder`), each replaced when it dies, hangs or has done many jobs.

Comes in: the path of an upload. Goes out: `Decoded`, mono float32 at the model's rate in a file of raw samples that the
process wrote; or a `Refusal`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import earsight
from earsight.data.audio import Wave
from earsight.data.intake import NO_LOSS, Loss
from earsight.errors import ServiceError
from earsight.recipe import Features
from earsight.serving.limits import Limits
from earsight.serving.refusals import Refusal, unreadable

_START_SECONDS = 60.0
_JOBS_OF_ONE = 500  # then a process is replaced, in case a library leaks memory
_LINE_BYTES = 1 << 16
# HTTP status and remedy of each decoder code; `unreadable` has its own.
_REMEDIES = {
    "too_long": (422, "cut it into pieces, or use `earsight predict MODEL FILE` instead"),
    "past_the_end": (422, "choose a time within the sound"),
    "too_much_memory": (422, "convert it to mono at 48 kHz or less and send that"),
    "no_space": (507, "try again later; whoever runs the service must make room"),
}
_PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV"),
    *("SYSTEMROOT", "TEMP", "TMP"),  # Windows', whose Python does not start without the first
)
_OUT_OF_TIME = [-getattr(signal, name) for name in ("SIGXCPU",) if hasattr(signal, name)]
# Ctrl-C at a terminal is for the service, which ends what is in flight first.
_ALONE: dict[str, Any] = {
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    "start_new_session": os.name != "nt",
}


@dataclass(frozen=True)
class Decoded:
    """A decoded sound, or the part of it that was asked for."""

    raw: Path  # its samples, mono float32
    samples: int  # how many, at the model's rate
    seconds: float  # of the whole sound
    sample_rate_hz: int  # of the file, as the channels
    channels: int
    format: str  # its container, such as FLAC
    loss: Loss = NO_LOSS  # what of it the network does not get

    def part(self, first: int, count: int) -> Wave:
        """``count`` samples from number ``first`` on, or as many as there are, at least one."""
        # No memory map: if its file shrank, the service would crash.
        wave = np.fromfile(self.raw, dtype=np.float32, count=min(count, self.samples - first), offset=4 * first)
        if not len(wave) or not np.isfinite(wave).all():
            raise Refusal(422, "decoder_died", "the decoded sound is not whole", "send it again")
        return wave


class Decoders:
    """A pool of decoding processes, whose sounds are at the rate of ``features``, of the channel that they choose.

    ``on_end`` is called with why (``crash``, ``timeout``, ``worn``) each time that a process is replaced.
    """

    def __init__(self, limits: Limits, *, features: Features, on_end: Callable[[str], None]) -> None:
        self._limits, self._features, self._on_end = limits, features, on_end
        self._idle: asyncio.Queue[_Child] = asyncio.Queue()
        self._all: set[_Child] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def alive(self) -> int:
        """Number of living processes."""
        return len(self._all)

    async def start(self) -> None:
        """Start the processes; `ServiceError` if one does not come up."""
        await asyncio.gather(*(self._spawn() for _ in range(self._limits.decoders)))

    async def close(self) -> None:
        """End the processes."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for child in tuple(self._all):
            await child.kill()
        self._all.clear()

    async def decode(
        self, path: Path, *, start: float = 0.0, seconds: float | None = None, window: float | None = None
    ) -> Decoded:
        """Decode one file, when a process is free: from ``start`` for so many seconds, or to the end, to its ``.raw``.

        With ``window`` it is what windows of so many seconds take of it: of a short sound one at most, else all.

        `Refusal` 422 if the file is no sound, too long, or ends a process; 504 if it takes too long; 507 if the disk is
        full.
        """
        out = path.with_suffix(".raw")
        job = {
            **{"path": str(path), "out": str(out), "rate": self._features.rate, "channel": self._features.channel},
            **{"start": start, "seconds": seconds, "window": window, "longest": self._limits.sound_seconds},
            **{"cpu_seconds": self._limits.decode_seconds, "features": self._features.model_dump(mode="json")},
        }
        child = await self._idle.get()
        why = "crash"
        try:
            async with asyncio.timeout(self._limits.decode_seconds):
                answer = await child.ask(job)
            why = "worn" if child.jobs >= _JOBS_OF_ONE or answer.get("code") == "too_much_memory" else ""
        except TimeoutError as error:
            why = "timeout"
            raise self._too_slow() from error
        except _Gone as error:
            if error.code in _OUT_OF_TIME:
                why = "timeout"
                raise self._too_slow() from error
            raise Refusal(
                *(422, "decoder_died", f"this file ended the process that decodes ({error})"),
                "convert it with ffmpeg to WAV or FLAC and send that",
            ) from error
        finally:
            if why:
                await self._replace(child, why)
            else:
                self._idle.put_nowait(child)
        return _decoded(answer, out)

    def _too_slow(self) -> Refusal:
        return Refusal(
            *(504, "decode_timeout", f"decoding took more than {self._limits.decode_seconds:g} s"),
            "send a shorter sound, or one that is WAV or FLAC",
        )

    async def _spawn(self) -> None:
        limits = self._limits
        # Half a second more than is allowed, for rounding; beyond it a file that lies about its length is stopped.
        most = round((limits.sound_seconds + 0.5) * self._features.rate) * 4
        child = await _Child.start(limits.decode_bytes, most)
        self._all.add(child)
        self._idle.put_nowait(child)

    async def _replace(self, child: _Child, why: str) -> None:
        if why != "worn":
            self._all.discard(child)
        self._on_end(why)
        await child.kill()
        if not self._closed:
            task = asyncio.create_task(self._respawn(child))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _respawn(self, last: _Child) -> None:
        while True:
            try:
                return await self._spawn()
            except (ServiceError, OSError):  # no memory for it just now: /healthz says so meanwhile
                await asyncio.sleep(1.0)
            finally:  # a worn one counts until its successor is there, or is known not to come
                self._all.discard(last)


class _Gone(Exception):  # noqa: N818
    """A process that ended, with its exit code."""

    def __init__(self, code: int | None) -> None:
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        super().__init__(name)
        self.code = code


class _Child:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.jobs = 0

    @classmethod
    async def start(cls, most_bytes: int, file_bytes: int) -> _Child:
        package = str(Path(earsight.__file__).parents[1])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        # Nothing of the service's environment that a decoder does not need; numpy's threads count as its memory.
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "earsight.serving.decoder", str(most_bytes), str(file_bytes)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LINE_BYTES,
            env=environment | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            **_ALONE,
        )
        child = cls(process)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await child._answer()
        except BaseException as error:
            await child.kill()
            if not isinstance(error, _Gone | TimeoutError):
                raise
            raise ServiceError(
                f"a decoding process does not start ({error or 'no answer'}); see why with "
                f"`{Path(sys.executable).name} -m earsight.serving.decoder {most_bytes} {file_bytes}`"
            ) from error
        return child

    async def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one job; a process that answers anything but one JSON object counts as dead."""
        self.jobs += 1
        if self._process.stdin is None:
            raise _Gone(None)
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _Gone(await self._process.wait()) from error
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise _Gone(None)
        try:
            line = await self._process.stdout.readline()
            answer = json.loads(line) if line else None
        except ValueError as error:  # no JSON, or a line without end
            raise _Gone(None) from error
        if not isinstance(answer, dict):
            raise _Gone(await self._process.wait() if answer is None else None)
        return answer

    async def kill(self) -> None:
        """End the process and wait for it."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended this very moment
                self._process.kill()
            await self._process.wait()


def _decoded(answer: dict[str, Any], out: Path) -> Decoded:
    """A decoder's answer, with the samples that it wrote."""
    code, message = answer.get("code"), str(answer.get("message"))
    if code == "unreadable":
        raise unreadable(message)
    if code is not None:
        if code not in _REMEDIES:
            raise OSError(message)  # for the log
        status, remedy = _REMEDIES[code]
        raise Refusal(status, code, message, remedy)
    return Decoded(
        raw=out,
        samples=int(answer["samples"]),
        seconds=float(answer["seconds"]),
        sample_rate_hz=int(answer["rate"]),
        channels=int(answer["channels"]),
        format=str(answer["format"]),
        loss=Loss(**{name: float(value) for name, value in answer["loss"].items()}),
    )
