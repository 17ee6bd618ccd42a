"""The front end's compiled kernels, where numba can be used, and where all kernels' machine code is kept.

Comes in: the sizes of a kernel. Goes out: the kernel, compiled for the processor at hand, or None. Its code is kept in
the cache folder for later processes. To import numba and to read that code takes half a second, so it is for those who
have many clips (`WORTH_IT`).
"""

from __future__ import annotations

import hashlib
import importlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES = 8
"""Values of float64 that a kernel's vectors hold."""
FRAMES = 2 * LANES
"""Frames that are transformed together: one as the real and one as the imaginary part of the wave in each lane."""
WORTH_IT = 40
"""Clips from which on the kernels are asked for: below, numba takes longer to load than all pictures to compute."""

_SETTINGS = threading.RLock()


@cache
def power_kernel(radices: tuple[int, int, int, int], heard: int) -> Any:
    """A kernel of `earsight.features.power_kernels`, or None where numba is not there."""
    sources = ("compiled", "simd", "butterflies", "power_kernels")
    folder = code_folder(*(Path(__file__).with_name(f"{source}.py") for source in sources))
    # A folder each: numba tells kernels apart by a number that two processes could give at once.
    folder /= "-".join(map(str, (*radices, heard)))
    try:
        with kept_in(folder):
            module = importlib.import_module("earsight.features.power_kernels")
            try:
                return module.compiled(radices, heard, keep=_can_write(folder))
            except OSError:  # the disk filled up
                return module.compiled(radices, heard, keep=False)
    except ImportError:  # numba is not there for every Python and every NumPy
        return None


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def job_of(fields: Mapping[str, int]) -> NDArray[np.void]:
    """The record that such a kernel reads, of one element, with some of its fields."""
    job = np.zeros(1, importlib.import_module("earsight.features.power_kernels").JOB)
    for name, value in fields.items():
        job[name] = value
    return job


def code_folder(*sources: Path) -> Path:
    """Where the machine code of kernels is kept: under the cache folder, by their source."""
    from earsight.features.store import default_cache

    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    return default_cache() / "kernels" / digest.hexdigest()[:16]


@contextmanager
def kept_in(folder: Path) -> Iterator[Any]:
    """The settings of numba, by which functions that it is given in the block keep their machine code in that folder.

    One thread at a time is in such a block, for the settings are the process's.

    Raises
    ------
    ImportError
        If numba is not there.
    """
    from numba.core import config

    settings: Any = config
    with _SETTINGS:
        before = settings.CACHE_DIR
        try:
            settings.CACHE_DIR = str(folder)  # whatever NUMBA_CACHE_DIR says, which does not know all of the sources
            yield settings
        finally:
            settings.CACHE_DIR = before
