"""Kernels that numba compiles for this machine's processor, and the threads that run them.

Comes in: the name of a kernel and a dtype, or a kernel and its job. Goes out: the kernel, or None where it cannot be
had; or the work done.

A kernel is compiled when it is first asked for, which takes some seconds, and kept in the cache folder for later
processes. It runs on the threads of PyTorch's own OpenMP, as many as ``torch.get_num_threads()`` says, so that two
pools of threads never contend for the same cores.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earsight.features.compiled import code_folder, kept_in

_KERNELS = {
    "norm_kernels": ("moments", "apply", "slopes", "gradient"),
    "dense_kernels": ("pull", "settle"),
    "expansion_kernels": ("covary",),
    "depthwise_kernels": ("convolve3", "convolve5", "spread3", "spread5", "gather3", "gather5"),
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
        importlib.import_module("earsight.features.simd")
    except ImportError as error:  # numba is not there for every Python and every NumPy
        return f"numba cannot be used ({error})"
    return None


def folder() -> Path:
    """Where the kernels' machine code is kept."""
    here = Path(__file__).parent
    sources = [here / f"{source}.py" for source in ("columns", "windows", *_KERNELS)]
    return code_folder(here.parent / "features" / "simd.py", *sources)


@cache
def _compiled(name: str, kind: str) -> Kernel:
    module = importlib.import_module(f"earsight.models.{_HOMES[name]}")
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
