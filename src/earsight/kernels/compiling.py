"""Compile kernels for feature maps before they are needed, in several processes.

Comes in: a dtype. Goes out: every kernel's code in the cache folder, and loaded. Numba compiles one kernel at a time in
a process, and they take some 20 seconds together, so other processes compile a part of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from earsight.kernels.code_cache import is_kept
from earsight.kernels.runtime import MODULES, compiled, folder

MOST_PROCESSES = 4
_FEWEST = 3
"""Kernels that a process must have to do: it takes as long to begin as to compile one or two."""
_CODE = "import sys; from earsight.kernels.runtime import compiled; [compiled(*one.split()) for one in sys.argv[1:]]"


def compile_kernels(dtype: torch.dtype) -> None:
    """Compile every kernel for a dtype, or read what an earlier process compiled from the cache folder."""
    kind = str(dtype).removeprefix("torch.")
    missing = [name for name in MODULES if not is_kept(folder() / f"{name}_{kind}")]
    processes = max(1, min(os.cpu_count() or 1, MOST_PROCESSES, len(missing) // _FEWEST))
    with _others(missing, kind, processes):
        for name in missing[::processes]:
            compiled(name, kind)
        for name in MODULES:  # by the others, for whom this waits where they are not done; or here, where they failed
            compiled(name, kind)


def is_compiled(dtype: torch.dtype) -> bool:
    """Whether an earlier process has left the kernels for a dtype in the cache folder."""
    kind = str(dtype).removeprefix("torch.")
    return all(is_kept(folder() / f"{name}_{kind}") for name in MODULES)


@contextmanager
def _others(names: Sequence[str], kind: str, processes: int) -> Iterator[None]:
    """Processes beside this one that compile their share of kernels, until the block ends."""
    running = []
    path = os.pathsep.join(entry for entry in sys.path if entry)
    try:
        for place in range(1, processes):
            mine = [f"{name} {kind}" for name in names[place::processes]]
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", _CODE, *mine],
                    env=os.environ | {"PYTHONPATH": path},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
