"""Inference on a Ray cluster: batches of waves go to the workers, results come back in the order of the batches.

Comes in: a connected cluster, a model file, and batches that are decoded where the command runs: a worker needs no
sound, no model file and no shared disk, only the same version of earsight. Goes out: results with the same bits as
here, on the same kind of processor. A batch whose worker dies is computed again elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from earsight.errors import EarsightError, counted
from earsight.execution.ray_cluster import Cluster
from earsight.inference.model import Model
from earsight.models.card import BUDGET_VARIABLE
from earsight.version import __version__

Kept = TypeVar("Kept")
Job = TypeVar("Job")
Result = TypeVar("Result")

RETRIES = 3
"""How often a batch is computed again after its worker died."""
AHEAD = 3
"""Batches submitted for each that the cluster can compute at once."""


class RayInference:
    """The workers of a cluster, each with the model.

    Takes a connected cluster and a model file, whose bytes are sent once to each node; with ``kernels``, workers call
    `Model.use_kernels`.
    """

    def __init__(self, cluster: Cluster, model: Path, *, kernels: bool = False) -> None:
        import ray

        self._ray = ray
        content = model.read_bytes()
        self._model = ray.put(content)
        self._order = {
            "version": __version__,
            "key": f"{hashlib.sha256(content).hexdigest()} {kernels}",
            "threads": cluster.threads,
            "device": cluster.device,
            "kernels": kernels,
            "budget": os.environ.get(BUDGET_VARIABLE, "1"),
        }
        self._work: Any = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=RETRIES)(_work)
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        at_once = there.get("CPU", 1) // max(cluster.cpus, 0.01)
        if cluster.gpus:
            at_once = min(at_once, there.get("GPU", 0) // cluster.gpus)
        self._most = AHEAD * max(1, int(at_once))

    def map(
        self, compute: Callable[[Model, Job], Result], jobs: Iterable[tuple[Kept, Job | None]]
    ) -> Iterator[tuple[Kept, Result | None]]:
        """Compute each job on some node; yields (kept, result) in order. The result of None is None.

        ``compute`` is a function of a module of earsight, called with the model and the job; ``jobs`` are (kept, job),
        read as far as is needed. Raises what ``compute`` raises, and EarsightError if a node cannot run earsight,
        workers die again and again, or the cluster is gone.
        """
        under_way: deque[tuple[Kept, Any]] = deque()
        with _ray_errors(self._ray):
            try:
                for kept, job in jobs:
                    under_way.append((kept, None if job is None else self._sent(compute, job)))
                    if len(under_way) >= self._most:
                        yield self._next(under_way)
                while under_way:
                    yield self._next(under_way)
            finally:
                for _, task in under_way:
                    if task is not None:
                        self._ray.cancel(task, force=True)

    def _sent(self, compute: Callable[[Model, Job], Result], job: Job) -> Any:
        # Put separately: Ray's client sends a call's arguments again with every call, and warns of it.
        return self._work.remote(self._model, self._order, compute, self._ray.put(job))

    def _next(self, under_way: deque[tuple[Kept, Any]]) -> tuple[Kept, Any]:
        kept, task = under_way.popleft()
        return kept, None if task is None else self._ray.get(task)


_LOADED: dict[str, Model] = {}
"""In a worker: the loaded model, by its file's digest and settings."""


def _work(content: bytes, order: dict[str, Any], compute: Callable[[Model, Job], Result], job: Job) -> Result:
    """In a worker: one job."""
    if order["version"] != __version__:
        raise EarsightError(f"a node has earsight {__version__}, here it is {order['version']}")
    torch.set_num_threads(order["threads"])
    if order["key"] not in _LOADED:
        _LOADED.clear()
        os.environ[BUDGET_VARIABLE] = order["budget"]
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            file.write(content)
            file.flush()
            _LOADED[order["key"]] = Model.load(file.name, device=torch.device(order["device"]))
        if order["kernels"]:
            _LOADED[order["key"]].use_kernels()
    return compute(_LOADED[order["key"]], job)


@contextmanager
def _ray_errors(ray: Any) -> Iterator[None]:
    """Turn Ray's errors into an EarsightError of one line."""
    lost = ray.exceptions
    try:
        yield
    except lost.RayTaskError as error:
        if isinstance(error.cause, EarsightError):
            raise error.cause from None
        reason = str(error.cause or error).splitlines()[-1]
        raise EarsightError(f"a node cannot run earsight ({reason}); install the same version on every node") from error
    except (lost.WorkerCrashedError, lost.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())[:160]
        raise EarsightError(
            f"the worker of one batch died {counted(RETRIES + 1, 'time')}, perhaps for want of memory ({reason}); "
            "with --out, the same command with --resume goes on"
        ) from error
    except (lost.RayError, ConnectionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EarsightError(
            f"the Ray cluster is gone ({reason}); with --out, the same command with --resume goes on"
        ) from error
