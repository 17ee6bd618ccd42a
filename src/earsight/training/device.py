"""The device that computes, its precision, and the settings that make results reproducible.

Comes in: the name of a device, or functions on tensors that stay where they are. Goes out: a torch device, the dtype of
training steps, steps recorded as CUDA graphs, settings of this process, and the machine's description for run folders.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from earsight.errors import RecipeError, RunError
from earsight.models.fast.compiled import bfloat16_pays
from earsight.portable import c_library


def step_kind(wanted: str, device: torch.device) -> str:
    """How training steps run: ``eager``, as a CUDA ``graph``, or ``fused``, compiled by torch and then a graph.

    Raises `RecipeError` if the recipe wants what this device does not have.
    """
    if device.type == "cuda":
        return {"auto": "graph", "none": "eager"}.get(wanted, wanted)
    if wanted in ("auto", "none"):
        return "eager"
    raise RecipeError(f"training.compile is {wanted}, which needs an NVIDIA GPU; set it to auto")


def memory_bytes(device: torch.device) -> int:
    """Memory of a GPU, used or free; 0 where there is none."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0


def make_recorder(kind: str, device: torch.device) -> GraphRecorder | None:
    """The recorder for a `step_kind`; None if steps run eagerly."""
    return None if kind == "eager" else GraphRecorder(device)


def repeat_results() -> None:
    """Make the same work give the same bits, in this process.

    Kernels are chosen by rule rather than by timing, and sums are taken in a fixed order; operations that have no such
    kernel warn. TF32, which torch allows in convolutions, is off: it keeps 11 of float32's 24 bits and would change
    predictions and log-mels by more than 1e-3. Training steps are in bfloat16 and are no slower without it.
    """
    # Read when cuBLAS starts: one of the two workspace sizes for which its sums have a fixed order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a debugging aid


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise, in place of torch's own error, a `RunError` that says what to do about a GPU's full memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the GPU's memory is full ({str(error).partition('. ')[0]}); lower --jobs or training.batch_size, or "
            "leave the data on disk with --set training.source=store"
        ) from error


class GraphRecorder:
    """Records functions as CUDA graphs on one stream and in one pool of memory.

    The graphs share memory, so that no two of them may run at the same time; results must be copied out of them before
    the next replay.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, body: Callable[[], None], *, times: int) -> None:
        """Run the body on the recording stream; the random generators end unchanged."""
        with torch.cuda.device(self._device), torch.random.fork_rng(devices=[self._device]):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(times):
                    body()
            torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Record the body without running it, and give what replays it; `RunError` if it does what no graph holds."""
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(graph, pool=self._pool, stream=self._stream)
        try:
            with torch.cuda.device(self._device), torch.random.fork_rng(devices=[self._device]), recording:
                body()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RunError(
                f"the training steps cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); "
                "set training.compile to none"
            ) from error
        return graph.replay


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on: ``auto`` takes a GPU where there is one; `RecipeError` if a named one is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"device {name}: not available here (PyTorch knows none such); use auto or cpu") from error
    try:
        if device.type not in ("cpu", "cuda"):
            raise RecipeError(f"device {name}: not supported, since the front end computes in float64; use auto or cpu")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"device {name}: not available here ({reason}); use auto or cpu") from error
    return device


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a training step's matrix products; ``auto`` is bfloat16 where it is faster."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def progress_seconds(device: torch.device) -> float:
    """Least time between two readings of the loss, in seconds: each makes the host wait for the GPU."""
    return 0.0 if device.type == "cpu" else 0.5


def set_up(device: torch.device) -> None:
    """Settings of this process for training on the device."""
    keep_freed_memory()
    if device.type == "cuda":
        repeat_results()


def _cpu_has_bfloat16() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capability and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and bfloat16_pays()


def keep_freed_memory() -> bool:
    """Let glibc keep large freed blocks, instead of returning them to the system at every step.

    Returns whether glibc accepted it; other C libraries are left unchanged. Measured in docs/performance.md.
    """
    libc = c_library()
    if libc is None or not sys.platform.startswith("linux"):
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages, if torch has not taken any memory yet
    if not hasattr(libc, "mallopt"):
        return False
    mmap_threshold, trim_threshold, top_pad = -3, -1, -2  # M_* of malloc.h
    wanted = {mmap_threshold: 1 << 30, trim_threshold: (1 << 31) - 1, top_pad: 1 << 26}
    taken = [libc.mallopt(name, value) for name, value in wanted.items()]  # each, also after one that fails
    return all(taken)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The machine on which results were computed: processor, cores, threads, versions."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        **{"cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version()},
        **{"torch": torch.__version__, "system": platform.system()},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
