"""Hearing on a Ray cluster: waves go out, what a model says of them comes back in the order in which they went.

Comes in: a connected cluster, a model file, and batches of waves, which are read where the command is called: a node
needs no sound, no model file and no shared disk, only the same version of earsight. Goes out: answers with the bits
that they have here, on the same kind of processor. A batch whose worker dies is heard again elsewhere.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from earsight.errors import EarsightError, counted
from earsight.execution.ray_cluster import Cluster
from earsight.inference.classifier import Classifier, load_classifier
from earsight.version import __version__

if TYPE_CHECKING:
    import torch

Kept = TypeVar("Kept")
Job = TypeVar("Job")
Answer = TypeVar("Answer")

RETRIES = 3
"""How often a batch is heard again whose worker died."""
AHEAD = 3
"""Batches that are out for each that a node can hear at once."""


class Fleet:
    """The workers of a cluster, each with the model.

    Parameters
    ----------
    cluster : Cluster
        Connected.
    model : Path
        Its bytes are sent once to each node.
    kernels : bool
        Whether workers call `Classifier.use_kernels`.
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
        }
        self._work: Any = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=RETRIES)(_work)
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        at_once = there.get("CPU", 1) // max(cluster.cpus, 0.01)
        if cluster.gpus:
            at_once = min(at_once, there.get("GPU", 0) // cluster.gpus)
        self._most = AHEAD * max(1, int(at_once))

    def map(
        self, hear: Callable[[Classifier, Job], Answer], jobs: Iterable[tuple[Kept, Job | None]]
    ) -> Iterator[tuple[Kept, Answer | None]]:
        """What ``hear`` says of each job on some node, in order, beside what was kept of it; None of None.

        Parameters
        ----------
        hear : callable
            A function of a module of earsight, called with the classifier and the job.
        jobs : iterable of (kept, job)
            Read as far as is needed.

        Raises
        ------
        EarsightError
            If a node cannot run earsight, workers die again and again, or the cluster is gone; also what ``hear``
            raises.
        """
        out: deque[tuple[Kept, Any]] = deque()
        with _told(self._ray):
            try:
                for kept, job in jobs:
                    out.append((kept, None if job is None else self._sent(hear, job)))
                    if len(out) >= self._most:
                        yield self._next(out)
                while out:
                    yield self._next(out)
            finally:
                for _, task in out:
                    if task is not None:
                        self._ray.cancel(task, force=True)

    def _sent(self, hear: Callable[[Classifier, Job], Answer], job: Job) -> Any:
        # Put by itself: Ray's client carries what is within a call again and again, and warns of it.
        return self._work.remote(self._model, self._order, hear, self._ray.put(job))

    def _next(self, out: deque[tuple[Kept, Any]]) -> tuple[Kept, Any]:
        kept, task = out.popleft()
        return kept, None if task is None else self._ray.get(task)


_LOADED: dict[str, Classifier] = {}
"""In a worker: the one model that it hears with, by the digest of its file and how it is to compute."""


def _work(model: bytes, order: dict[str, Any], hear: Callable[[Classifier, Job], Answer], job: Job) -> Answer:
    """In a worker: one job."""
    import torch

    if order["version"] != __version__:
        raise EarsightError(f"a node has earsight {__version__}, here it is {order['version']}")
    torch.set_num_threads(order["threads"])
    if order["key"] not in _LOADED:
        _LOADED.clear()
        _LOADED[order["key"]] = _loaded(model, torch.device(order["device"]))
        if order["kernels"]:
            _LOADED[order["key"]].use_kernels()
    return hear(_LOADED[order["key"]], job)


def _loaded(model: bytes, device: torch.device) -> Classifier:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(model)
        file.flush()
        return load_classifier(file.name, device=device)


@contextmanager
def _told(ray: Any) -> Iterator[None]:
    """Say in a line what went wrong on the cluster."""
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
