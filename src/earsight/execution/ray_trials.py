"""Trials on a Ray cluster: sent out, watched, started again when a worker dies, and their files brought home.

Comes in: units and a connected cluster. Goes out: the trials' folders, each DONE, with the bits that they have here at
the same thread count on the same kind of processor. The driver keeps no state of its own: whenever it is stopped, the
same call goes on, on this machine or on any cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from earsight.errors import RunError
from earsight.execution.ray_cluster import Cluster
from earsight.execution.ray_driver import Post, Unit, open_post
from earsight.execution.ray_worker import work

LOOK_SECONDS = 0.3
"""Between two looks into the mailbox."""
RETRIES = 3
"""How often a trial is started again without having come further."""
END_SECONDS = 5.0
"""How long workers may take to end when all is stopped, before they are killed."""


def run_units(
    cluster: Cluster,
    units: Sequence[Unit],
    *,
    on_step: Callable[[Unit, int, int, float], None],
    on_end: Callable[[Unit], None],
    say: Callable[[str], None],
    inner: bool = False,
) -> None:
    """Run trials on a cluster, as many at a time as it has room for.

    Parameters
    ----------
    cluster : Cluster
        Connected.
    units : sequence of Unit
        Given out in this order.
    on_step : callable
        Called with (unit, steps done, steps in all, loss).
    on_end : callable
        Called with each unit whose trial is DONE in its run folder.
    say : callable
        Called with a line about a node, or about a trial that is started again.
    inner : bool
        Whether the trials are run on the training folds alone (`earsight.training.trial.run_inner`).

    Raises
    ------
    RunError
        If a trial's worker dies `RETRIES` times more without getting further, or the cluster is gone; also whatever a
        trial raises. The other trials are stopped; they go on when they are run again.
    """
    import ray

    with told_in_a_line(ray), ExitStack() as stack:
        post = stack.enter_context(open_post(ray, units, say=say))
        tasks = _Tasks(ray, cluster, post, inner=inner)
        stack.callback(tasks.stop)
        for number in range(len(units)):
            tasks.start(number)
        while tasks.running:
            ended, _ = ray.wait(list(tasks.running), num_returns=1, timeout=LOOK_SECONDS)
            for number, step in post.collect()["steps"].items():
                tasks.steps[number] = step[0]
                on_step(units[number], *step)
            for task in ended:
                number = tasks.running[task]
                if tasks.finish(task):
                    on_end(units[number])


class _Tasks:
    """Ray's tasks, one for each unit that is not DONE.

    Attributes
    ----------
    running : dict of reference to int
        The unit of each task.
    steps : dict of int to int
        How far each unit was when it was last heard of.
    """

    def __init__(self, ray: Any, cluster: Cluster, post: Post, *, inner: bool) -> None:
        self.running: dict[Any, int] = {}
        self.steps: dict[int, int] = {}
        self._ray, self._cluster, self._post, self._inner = ray, cluster, post, inner
        self._deaths: dict[int, tuple[int, int]] = {}
        # Ray would start a task again from its beginning and in silence: that is done here.
        self._work = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=0)(work)

    def start(self, number: int) -> None:
        prepared, order = self._post.order(number, self._cluster, inner=self._inner)
        self.running[self._work.remote(prepared, order, self._post.mailbox)] = number

    def finish(self, task: Any) -> bool:
        """Take what a task left; where its worker has died, start its unit again and return False."""
        number = self.running.pop(task)
        lost = self._ray.exceptions
        try:
            outcome = self._ray.get(task)
        except (lost.WorkerCrashedError, lost.NodeDiedError, lost.LocalRayletDiedError, lost.ObjectLostError) as error:
            self._again(number, error)
        except lost.OutOfMemoryError as error:
            self._again(number, error)
        else:
            if outcome is not None:
                raise outcome
            self._post.receive(number)
            return True
        return False

    def _again(self, number: int, error: Exception) -> None:
        unit, step = self._post.units[number], self.steps.get(number, 0)
        before, deaths = self._deaths.get(number, (-1, 0))
        deaths = deaths + 1 if step <= before else 1
        self._deaths[number] = step, deaths
        reason = " ".join(str(error).split())[:160]
        if deaths > RETRIES:
            raise RunError(
                f"{unit.name}: its worker died {deaths} times at step {step}, perhaps for want of memory ({reason}); "
                "the same command goes on, with more --cpus-per-trial or --gpus-per-trial"
            ) from error
        self._post.say(f"{unit.name}: its worker died at step {step} ({type(error).__name__}); it goes on elsewhere")
        time.sleep(deaths)  # the cluster may not know yet that a node is gone
        self.start(number)

    def stop(self) -> None:
        """End what still runs: first so that it can clear up after itself, then at once."""
        for force in (False, True):
            for task in self.running:
                self._ray.cancel(task, force=force)
            if self.running:
                _, rest = self._ray.wait(list(self.running), num_returns=len(self.running), timeout=END_SECONDS)
                self.running = {task: self.running[task] for task in rest}


@contextmanager
def told_in_a_line(ray: Any) -> Iterator[None]:
    """Say in a line that the cluster is gone, or cannot run earsight at all."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:  # ours return what goes wrong: this is from before they begin
        reason = str(error.cause or error).splitlines()[-1]
        raise RunError(f"a node cannot run earsight ({reason}); install the same version on every node") from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"the Ray cluster is gone ({reason}); the same command goes on from the checkpoints") from error
