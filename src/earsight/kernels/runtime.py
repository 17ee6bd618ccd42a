"""Runtime of the numba kernels: compiled once for this machine's processor, kept in the cache folder, run on threads.

Comes in: a kernel's name, a dtype and a job, or the sizes of an STFT kernel. Goes out: the work done, or the STFT
kernel, None if numba cannot be used. Compiling takes some seconds, importing numba and reading cached code half a
second.

Kernels for feature maps run on PyTorch's own OpenMP threads, as many as ``torch.get_num_threads()`` says, so that two
pools never contend for the same cores. An STFT kernel runs in the thread that calls it, without the interpreter's lock.
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
from numpy.typing import NDArray

from earsight.kernels.code_cache import code_folder, load_or_compile, numba_settings


@cache
def power_kernel(radices: tuple[int, int, int, int], inside: int, value_bytes: int = 8) -> Any:
    """A kernel of `earsight.kernels.stft_power`, or None if numba is not installed."""
    try:
        module = importlib.import_module("earsight.kernels.stft_power")
        # A folder each: numba tells kernels apart by a number that two processes could give at once.
        name = "-".join(map(str, (*radices, inside, value_bytes)))
        folder = code_folder("runtime", "widths", "simd", "fft", "stft_power") / name
        return load_or_compile(folder, lambda keep: module.compiled(radices, inside, value_bytes, keep=keep))
    except ImportError:  # numba is not there for every Python and every NumPy
        return None


def job_of(fields: Mapping[str, int]) -> NDArray[np.void]:
    """The record (1,) that an STFT kernel reads, with some of its fields; the others are 0."""
    return _record(importlib.import_module("earsight.kernels.stft_power").JOB, fields)


def _record(kind: np.dtype[Any], fields: Mapping[str, float]) -> NDArray[np.void]:
    record = np.zeros(1, kind)
    for name, value in fields.items():
        record[name] = value
    return record


_KERNELS = {
    "batch_norm": ("moments", "apply", "affine_gradients", "input_gradient"),
    "dense_block": ("add_gradient", "finish_gradient"),
    "covariance": ("covariance",),
    "depthwise_conv": tuple(
        f"{name}{size}" for name in ("convolve", "strided_gradient", "weight_gradient") for size in (3, 5)
    ),
}
"""Kernels by their modules; each stands there once for each dtype."""
MODULES = {name: module for module, names in _KERNELS.items() for name in names}
"""The module of each."""
DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes of feature maps."""


def run(name: str, dtype: torch.dtype, job: Mapping[str, float]) -> None:
    """Do a job, given as the fields of its record (others are 0), on all of PyTorch's threads; numba must be there."""
    code, kind = compiled(name, str(dtype).removeprefix("torch."))
    record = _record(kind, job)
    pointer = record.ctypes.data
    record["here"] = pointer
    _team()(code.address, pointer, torch.get_num_threads())


@cache
def why_none() -> str | None:
    """Why kernels are not available here; None if they are."""
    try:
        importlib.import_module("earsight.kernels.simd")
    except ImportError as error:  # numba is not there for every Python and every NumPy
        return f"numba cannot be used ({error})"
    return None


def folder() -> Path:
    """Where the machine code of the kernels for feature maps is kept."""
    return code_folder("runtime", "widths", "simd", "sliding_window", *_KERNELS)


@cache
def compiled(name: str, kind: str) -> tuple[Any, np.dtype[Any]]:
    """A kernel's code for a dtype, whose memory lives as long as the object, and the dtype of its record."""
    module, simd = (importlib.import_module(f"earsight.kernels.{one}") for one in (MODULES[name], "simd"))
    numba: Any = importlib.import_module("numba")
    entry = numba.types.void(numba.types.CPointer(numba.from_dtype(module.JOB)))
    function = getattr(module, f"{name}_{kind}")
    # The third level of optimisation takes twice as long as the second, for kernels that are no faster.
    with numba_settings(OPT=type(numba.core.config.OPT)(2)):
        return load_or_compile(
            folder() / f"{name}_{kind}", lambda keep: numba.cfunc(entry, cache=keep, **simd.OPTIONS)(function)
        ), module.JOB


@cache
def _team() -> Callable[[int, int, int], None]:
    """A function that runs code at an address on several threads, each with the same pointer."""
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
