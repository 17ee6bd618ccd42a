"""What this machine can do, and how to make it do it: device, precision, memory allocator.

Goes out: a torch device, the dtype for training, and the description that run folders record.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from earsight.errors import RecipeError
from earsight.training.cuda import repeat_results


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on: ``auto`` takes a GPU where there is one.

    Raises
    ------
    RecipeError
        If the named device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RecipeError(f"device {name}: not supported, since the front end computes in float64; use auto or cpu")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"device {name}: not available here ({reason}); use auto or cpu") from error
    return device


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a training step's matrix work; ``auto`` is bfloat16 where the hardware computes in it."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def progress_seconds(device: torch.device) -> float:
    """How long to leave a loss unread, at least: reading one makes the host wait for a GPU."""
    return 0.0 if device.type == "cpu" else 0.5


def set_up(device: torch.device) -> None:
    """Settings of this process for training on the device."""
    keep_freed_memory()
    if device.type == "cuda":
        repeat_results()


def _cpu_has_bfloat16() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capability and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_freed_memory() -> bool:
    """Let glibc keep large freed blocks instead of giving them back and faulting them in again at every step.

    Returns whether the allocator took it; other C libraries are left as they are. Measured in docs/performance.md.
    """
    if not sys.platform.startswith("linux"):
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages, if torch has not taken any memory yet
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    mmap_threshold, trim_threshold, top_pad = -3, -1, -2  # M_* of malloc.h
    taken = [
        libc.mallopt(mmap_threshold, 1 << 30),
        libc.mallopt(trim_threshold, (1 << 31) - 1),
        libc.mallopt(top_pad, 1 << 26),
    ]
    return all(taken)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a figure depends on: processor, cores, threads, versions."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
