"""The decoding process: opens uploads, so that a decoder's crash ends only this process.

``python -m earsight.serving.decoder BYTES FILE_BYTES``: memory that it may use, and the longest file that it may write.
It answers each line of JSON on standard input with one on standard output; the first says that it is ready. A job is
``{"path", "out", "rate", "channel", "start", "seconds", "window", "longest", "cpu_seconds", "features"}``: of the sound
at ``path``, from ``start`` for ``seconds`` (null: to its end), one channel goes to ``out`` as float32 at ``rate``;
where ``window`` is a number of seconds, what windows of that length take of it; ``features`` are those of the model.
The answer is ``{"samples", "seconds", "rate", "channels", "format", "loss"}``, the last being the fields of
`earsight.data.intake.Loss`, or ``{"code", "message"}`` where the code is ``unreadable``,
``too_long``, ``past_the_end``, ``too_much_memory``, ``no_space`` or ``internal``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile  # noqa: F401 - loaded before the limits are set
import soxr

from earsight.data import audio
from earsight.data.audio import AudioInfo, Wave, pieces
from earsight.data.intake import Meter
from earsight.errors import NO_ROOM, AudioError
from earsight.recipe import Features

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]


class _Refused(Exception):  # noqa: N818
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def decode(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; see the module."""
    try:
        found = audio.info(job["path"])
        if found.seconds > job["longest"]:
            long = f"the sound lasts {found.seconds:.1f} s, this service takes {job['longest']:g} s"
            raise _Refused("too_long", long)
        if job["start"] >= found.seconds:
            raise _Refused("past_the_end", f"at is {job['start']:g} s, the sound lasts {found.seconds:.3g} s")
        meter = Meter(Features.model_validate(job["features"]))
        samples = _write(job, found, meter.add)
    except _Refused as error:
        return {"code": error.code, "message": error.message}
    except AudioError as error:
        return {"code": "unreadable", "message": error.reason}
    except MemoryError:
        return {"code": "too_much_memory", "message": "decoding it takes more memory than this service allows a sound"}
    except OSError as error:
        if error.errno == errno.EFBIG:
            return {"code": "too_long", "message": f"the sound lasts more than the {job['longest']:g} s that are taken"}
        code = "no_space" if error.errno in NO_ROOM else "internal"
        return {"code": code, "message": f"the decoded sound cannot be written ({error.strerror or error})"}
    return {
        **{"samples": samples, "seconds": found.seconds, "rate": found.sample_rate_hz, "channels": found.channels},
        **{"format": found.format, "loss": asdict(meter.loss)},
    }


def _write(job: dict[str, Any], found: AudioInfo, observe: audio.Observer) -> int:
    """Write the requested part, after it was shown to the observer; returns its number of samples.

    A part has the same samples that `earsight predict` reads. A whole sound is written block by block, in constant
    memory.
    """
    rate, start, seconds = job["rate"], job["start"], job["seconds"]
    with Path(job["out"]).open("wb") as out:
        if job["window"] is not None:
            for begin, wave in audio.read_windows(
                job["path"], sample_rate_hz=rate, seconds=job["window"], channel=job["channel"], observe=observe
            ):
                _add(out, wave[out.tell() // 4 - begin :], job)  # the last window overlaps the one before
        elif seconds is None:
            stream = soxr.ResampleStream(found.sample_rate_hz, rate, 1, dtype="float32", quality="HQ")
            for piece in pieces(job["path"], channel=job["channel"], observe=observe):
                _add(out, stream.resample_chunk(piece.wave), job)
            _add(out, stream.resample_chunk(np.zeros(0, np.float32), last=True), job)
        else:
            until = start + seconds
            wave = audio.read(job["path"], sample_rate_hz=rate, seconds=until, channel=job["channel"], observe=observe)
            _add(out, wave[round(start * rate) :], job)
        written = out.tell() // 4
    if not written:
        raise _Refused("past_the_end", f"no sample from {start:g} s on, the sound lasts {found.seconds:.3g} s")
    return written


def _add(out: BinaryIO, samples: Wave, job: dict[str, Any]) -> None:
    """Write samples, but no more than the job allows: systems differ in whether they limit a file's size."""
    if out.tell() // 4 + len(samples) > (job["longest"] + 0.5) * job["rate"]:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    out.write(np.ascontiguousarray(samples).tobytes())


def _limit(most_bytes: int, file_bytes: int) -> None:
    """Limit this process's memory, file sizes, open files and child processes, where the system can."""
    if resource is None:
        return
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: file_bytes, resource.RLIMIT_NOFILE: 32}
    if sys.platform == "linux":  # macOS knows the names and refuses the values
        limits |= {resource.RLIMIT_AS: most_bytes, resource.RLIMIT_NPROC: 0}
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


def _lend_seconds(seconds: float) -> None:
    """Let the kernel end this process if one job takes more CPU time than this; the pool ends it by the clock."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    """Answer jobs until standard input ends."""
    # Output of libraries must not be read as an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    _limit(int(sys.argv[1]), int(sys.argv[2]))
    with contextlib.suppress(BrokenPipeError):  # the service has gone
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            job = json.loads(line)
            _lend_seconds(job["cpu_seconds"])
            print(json.dumps(decode(job)), file=answers, flush=True)


if __name__ == "__main__":
    main()
