"""What NVIDIA GPUs need: settings that make results repeat, and recording a step as a CUDA graph.

Comes in: a CUDA device, and functions whose tensors stay where they are. Goes out: how steps run on it, process-wide
settings of torch, and functions that replay what was recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from earsight.errors import RecipeError, RunError


def step_kind(wanted: str, device: torch.device) -> str:
    """How training steps run: ``eager``, as a CUDA ``graph``, or ``fused``, compiled by torch and then a graph.

    Raises
    ------
    RecipeError
        If the recipe asks for what this device does not have.
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
    """What records the steps of a `step_kind`; None where they run as they are."""
    return None if kind == "eager" else GraphRecorder(device)


def repeat_results() -> None:
    """Make the same work give the same bits, in this process.

    Kernels are chosen by rule rather than by timing, and sums are taken in a fixed order; operations that have no such
    kernel warn. Float32 is computed in all of its 24 bits: TF32, which torch allows in convolutions, keeps 11 and would
    move predictions and log-mels by more than 1e-3. Training steps are in bfloat16 and lose nothing by it.
    """
    # Read when cuBLAS first starts: one of the two sizes with which its sums have a fixed order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a debugging aid


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a GPU's full memory into what to do about it.

    Raises
    ------
    RunError
        In place of torch's own error.
    """
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

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, body: Callable[[], None], *, times: int) -> None:
        """Run the body on the recording stream; the random generators are left as they were."""
        with torch.cuda.device(self._device), torch.random.fork_rng(devices=[self._device]):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(times):
                    body()
            torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Record the body without running it, and give what replays it on the same tensors.

        Raises
        ------
        RunError
            If the body does what a graph cannot hold.
        """
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
