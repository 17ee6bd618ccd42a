"""The front end's compiled kernels, where numba can be used, and where all kernels' machine code is kept.

Comes in: the sizes of a kernel. Goes out: the kernel, compiled for the processor at hand, or None. Its code is kept in
the cache folder for later processes. To import numba and to read that code takes half a second, so it is for those who
have many clips (`WORTH_IT`).
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORTH_IT = 40
"""Clips from which on the kernels are asked for: below, numba takes longer to load than all pictures to compute."""


@cache
def power_kernel(radices: tuple[int, int, int, int], heard: int) -> Any:
    """A kernel of `earsight.features.power_kernels`, or None where numba is not there."""
    sources = ("simd", "butterflies", "power_kernels")
    try:
        with kept_in(code_folder(*(Path(__file__).with_name(f"{source}.py") for source in sources))):
            return importlib.import_module("earsight.features.power_kernels").compiled(radices, heard)
    except ImportError:  # numba is not there for every Python and every NumPy
        return None


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

    Raises
    ------
    ImportError
        If numba is not there.
    """
    from numba.core import config

    settings: Any = config
    before = settings.CACHE_DIR
    try:
        settings.CACHE_DIR = before or str(folder)  # one that cannot be written, numba passes over
        yield settings
    finally:
        settings.CACHE_DIR = before
