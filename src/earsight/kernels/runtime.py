"""Kernels that numba compiles for this machine's processor, and the threads that run them.

Comes in: the name of a kernel and a dtype, or a kernel and its job. Goes out: the kernel, or None where it cannot be
had; or the work done.

A kernel is compiled when it is first asked for, which takes some seconds, and kept in the cache folder for later
processes. It runs on the threads of PyTorch's own OpenMP, as many as ``torch.get_num_threads()`` says, so that two
pools of threads never contend for the same cores.

The front end's compiled kernels, where numba can be used, and where all kernels' machine code is kept.

Comes in: the sizes of a kernel. Goes out: the kernel, compiled for the processor at hand, or None. Its code is kept in
the cache folder for later processes. To import numba and to read that code takes half a second, so it is for those who
have many clips (`earsight.features.stft.WORTH_IT`).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earsight.cache import default_cache

_SETTINGS = threading.RLock()


@cache
def power_kernel(radices: tuple[int, int, int, int], heard: int) -> Any:
    """A kernel of `earsight.kernels.stft_power`, or None where numba is not there."""
    sources = ("runtime", "widths", "simd", "fft", "stft_power")
    folder = code_folder(*(Path(__file__).with_name(f"{source}.py") for source in sources))
    # A folder each: numba tells kernels apart by a number that two processes could give at once.
    folder /= "-".join(map(str, (*radices, heard)))
    try:
        with kept_in(folder):
            module = importlib.import_module("earsight.kernels.stft_power")
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
    job = np.zeros(1, importlib.import_module("earsight.kernels.stft_power").JOB)
    for name, value in fields.items():
        job[name] = value
    return job


def code_folder(*sources: Path) -> Path:
    """Where the machine code of kernels is kept: under the cache folder, by their source."""
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


_KERNELS = {
    "batch_norm": ("moments", "apply", "slopes", "gradient"),
    "dense_block": ("pull", "settle"),
    "covariance": ("covary",),
    "depthwise_conv": ("convolve3", "convolve5", "spread3", "spread5", "gather3", "gather5"),
}
"""Which module has which kernels."""
_HOMES = {name: module for module, names in _KERNELS.items() for name in names}
DTYPES = (torch.float32, torch.bfloat16)
"""What feature maps may be."""


class Kernel:
    """A compiled kernel: call it with the fields of its job, and it works through all parts on all threads.

    Parameters
    ----------
    code : object
        What numba compiled.
    job : numpy.dtype
        Of the record that it reads; fields that are not named in a call are 0.
    """

    def __init__(self, code: Any, job: np.dtype[Any]) -> None:
        self._code, self._job = code, job  # the code's memory lives as long as the object
        self._address: int = code.address

    def __call__(self, job: Mapping[str, float]) -> None:
        """Do a job, given as the fields of its record."""
        record = np.zeros(1, self._job)
        for name, value in job.items():
            record[name] = value
        pointer = record.ctypes.data
        record["here"] = pointer
        _team()(self._address, pointer, torch.get_num_threads())


def kernel(name: str, dtype: torch.dtype) -> Kernel | None:
    """A kernel for feature maps of a dtype, or None where there are none."""
    return None if why_none() else _compiled(name, str(dtype).removeprefix("torch."))


def run(name: str, dtype: torch.dtype, job: Mapping[str, float]) -> None:
    """Do a job by a kernel, which must be there (`why_none`)."""
    found = kernel(name, dtype)
    if found is None:
        raise RuntimeError(f"{name}: {why_none()}")
    found(job)


def compile_kernels(dtype: torch.dtype) -> None:
    """Make every kernel for a dtype ready; what an earlier process compiled is read from the cache folder."""
    for name in _HOMES:
        kernel(name, dtype)


def is_compiled(dtype: torch.dtype) -> bool:
    """Whether an earlier process has left the kernels for a dtype in the cache folder."""
    kind = str(dtype).removeprefix("torch.")
    return all(any(folder().glob(f"*/*.{name}_{kind}-*.nbi")) for name in _HOMES)


@cache
def why_none() -> str | None:
    """Why there are no kernels here; None where there are."""
    try:
        importlib.import_module("earsight.kernels.simd")
    except ImportError as error:  # numba is not there for every Python and every NumPy
        return f"numba cannot be used ({error})"
    return None


def folder() -> Path:
    """Where the kernels' machine code is kept."""
    here = Path(__file__).parent
    sources = [here / f"{source}.py" for source in ("simd", "sliding_window", *_KERNELS)]
    return code_folder(*sources)


@cache
def _compiled(name: str, kind: str) -> Kernel:
    module = importlib.import_module(f"earsight.kernels.{_HOMES[name]}")
    with kept_in(folder()) as settings:
        before = settings.OPT
        try:
            # The third level of optimisation takes twice as long as the second, for kernels that are no faster.
            settings.OPT = type(before)(2)
            return Kernel(module.compile_entry(getattr(module, f"{name}_{kind}")), module.JOB)
        finally:
            settings.OPT = before


@cache
def _team() -> Callable[[int, int, int], None]:
    """What runs code at an address on some threads at once, each with the same pointer."""
    try:
        # Through PyTorch's library, so that it is the OpenMP that PyTorch itself runs on, not another library's.
        parallel = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return _python_threads
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return lambda code, pointer, threads: parallel(code, pointer, threads, 0)


def _python_threads(code: int, pointer: int, threads: int) -> None:
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code)
    others = [_pool().submit(work, pointer) for _ in range(threads - 1)]
    work(pointer)
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="earsight-kernels")
