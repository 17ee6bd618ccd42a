"""How a process's threads share the cores with others: OpenMP's waiting threads sleep soon, and woken ones run soon.

The count of spins is read by libgomp, the OpenMP of torch's wheels for Linux (oneDNN's, MKL's and our kernels' too),
when torch is imported. Time slices are Linux's: threads that wait for one another at every layer lose a whole slice of
some other process, 3 ms, whenever one of them is not run at once; a thread that asks for short slices is run first when
it wakes, within its fair share.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from earsight.portable import c_library

SPINS = 20_000  # some 1 ms; libgomp's own are 300,000, longer than a time slice
SLICE_NS = 100_000  # the shortest that Linux grants, from 6.12 on; before, it is passed over
CROWDED_SECONDS = 20.0  # of threads' time, running and waiting together: long enough to be no accident
# sched_setattr and sched_getattr have no function in glibc before 2.41, only their numbers.
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}


class _Attributes(ctypes.Structure):
    """Linux's struct sched_attr, of its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),  # nanoseconds: of a thread without real-time policy, the slice it asks for
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def time_slice() -> int:
    """The slice of this thread in nanoseconds; 0 where the system does not say, or another policy is set."""
    found = _Attributes()
    calls, library = _CALLS.get(platform.machine()), c_library()
    if calls is None or library is None or not sys.platform.startswith("linux"):
        return 0
    if library.syscall(calls[1], 0, ctypes.byref(found), ctypes.sizeof(found), 0) or found.policy:
        return 0
    return int(found.runtime)


def ask_for_short_slices() -> None:
    """For this thread, and all threads and processes that it starts from now on; nice values and policies stay."""
    library = c_library()
    if library is None or not time_slice():
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    asked = _Attributes(size=ctypes.sizeof(_Attributes), nice=nice, runtime=SLICE_NS)
    library.syscall(_CALLS[platform.machine()][0], 0, ctypes.byref(asked), 0)  # refused: all stays as it was


def times() -> tuple[float, float]:
    """Seconds that the threads of this process ran, and that they waited for a core since others had it; or zeros.

    Read from Linux's schedstat; the times of threads that have ended are not in it.
    """
    found = [0, 0]
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError):  # the thread has ended, or this Linux keeps no such times
            ran, waited, _ = map(int, path.read_text("ascii").split())
            found = [found[0] + ran, found[1] + waited]
    return found[0] / 1e9, found[1] / 1e9


class Crowding:
    """Says once where other processes slow several threads down so much that one would be faster."""

    def __init__(self, threads: int) -> None:
        self._at = times() if threads > 1 else None

    def note(self) -> str | None:
        """What to say, once there were `CROWDED_SECONDS` of work and threads waited for longer than they ran."""
        if self._at is None:
            return None
        now = times()
        ran, waited = now[0] - self._at[0], now[1] - self._at[1]
        if ran + waited < CROWDED_SECONDS:
            return None
        self._at = now
        if waited <= ran:
            return None
        self._at = None
        return (
            f"note: for {waited / (ran + waited):.0%} of the time others hold the cores, and threads that wait for one "
            "another lose most by that: with --threads 1 it may be twice as fast (results differ by rounding)"
        )


def spin_briefly() -> None:
    """Set it in this process's environment, for what is started from here too, unless the user has set it."""
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


@contextmanager
def spinning_briefly() -> Iterator[None]:
    """The same for processes that are started within the block alone."""
    before = os.environ.get("GOMP_SPINCOUNT")
    spin_briefly()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("GOMP_SPINCOUNT", None)
