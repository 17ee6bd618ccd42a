"""The driver of trials on a Ray cluster: starts them, follows them, and restarts any whose worker died.

Comes in: a connected cluster and units (a trial, its data, its run folder). Goes out: the trials' folders, each DONE,
with the bits of a local run at the same thread count on the same kind of processor. The driver keeps no state of its
own: after any stop, the same call resumes from the run folders, on this machine or on any cluster.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from earsight.errors import RunError
from earsight.execution.ray_cluster import Cluster, cluster_errors
from earsight.execution.ray_mailbox import Files, Mailbox
from earsight.execution.ray_worker import STATE, Job, work
from earsight.files import link_or_copy, replace_bytes
from earsight.training.artifacts import tidy
from earsight.training.checkpoint import checkpoints
from earsight.training.preparation import Prepared
from earsight.training.trial import Trial, is_done, lock_trial

PART_BYTES = 32 * 2**20  # files are sent in parts of this size, which Ray's object store can move to disk one by one
POLL_SECONDS = 0.3  # between two readings of the mailbox
RETRIES = 3  # restarts allowed without progress since the last crash
STOP_SECONDS = 5.0  # for workers to end when all is stopped, before they are killed
_OLD_SECONDS = 24 * 3600

Tokens = Mapping[Path, tuple[Path, str]]


@dataclass(frozen=True)
class Unit:
    """A trial, its prepared data, and its run folder."""

    prepared: Prepared
    trial: Trial
    run: Path

    @property
    def folder(self) -> Path:
        """The trial's folder."""
        return self.trial.folder(self.run)

    @property
    def name(self) -> str:
        """For messages."""
        return f"fold {self.trial.fold} seed {self.trial.seed}"


class Driver:
    """The driver's side of a mailbox, made by `open_driver`; a unit's number is its place in ``units``.

    ``tokens`` are, by run folder, a file and its secret, by which a node finds whether it shares that folder.
    """

    def __init__(self, cluster: Cluster, units: Sequence[Unit], tokens: Tokens, say: Callable[[str], None]) -> None:
        import ray

        self.units, self.say = units, say
        self.mailbox: Any = ray.remote(num_cpus=0, scheduling_strategy=beside_driver())(Mailbox).remote()
        self.running: dict[Any, int] = {}  # unit number of each Ray task
        self.steps: dict[int, int] = {}  # last reported step of each unit
        self._ray: Any = ray
        self._cluster, self._tokens = cluster, tokens
        self._deaths: dict[int, tuple[int, int]] = {}  # per unit: (step of last crash, crashes without progress)
        self._locks: dict[int, ExitStack] = {}
        self._data: dict[int, Any] = {}  # references to prepared data by its id
        self._sent: dict[str, tuple[str, Any]] = {}  # names of and references to files of weights, by their paths

    def job(self, number: int, *, inner: bool = False) -> tuple[Any, Job]:
        """A reference to a unit's data, and its job; puts the unit's checkpoint into the mailbox."""
        unit = self.units[number]
        prepared, dataset, store = unit.prepared, unit.prepared.dataset, unit.prepared.store
        self._unlock(number)
        newest, before = checkpoints(unit.folder)
        names = (*STATE, before.name)
        state = {name: (unit.folder / name).read_bytes() for name in names if (unit.folder / name).is_file()}
        if newest.name in state or before.name in state:
            self._ray.get(self.mailbox.put_state.remote(number, state, fresh=False))
        if id(prepared) not in self._data:
            dataset = replace(dataset, root=dataset.root.absolute())
            changes: dict[str, Any] = {"dataset": dataset, "store": _absolute(store)}
            if prepared.teaching and prepared.teaching.store:
                changes["teaching"] = replace(prepared.teaching, store=_absolute(prepared.teaching.store))
            self._data[id(prepared)] = self._ray.put(replace(prepared, **changes))
        weights = prepared.recipe.backbone.weights
        teachers = prepared.teaching.files[unit.trial.fold] if prepared.teaching else ()
        job = Job(
            number=number,
            trial=unit.trial,
            run=unit.run.absolute(),
            token=self._tokens[unit.run],
            weights=None if weights in ("imagenet", "none") else self._file(weights),
            teachers=tuple(self._file(str(path)) for path in teachers),
            threads=self._cluster.threads,
            device=self._cluster.device,
            inner=inner,
        )
        return self._data[id(prepared)], job

    def _file(self, path: str) -> tuple[str, Any]:
        """The name of a file and a reference to its content, which is put there once."""
        if path not in self._sent:
            self._sent[path] = Path(path).name, self._ray.put(Path(path).read_bytes())
        return self._sent[path]

    def collect(self) -> dict[str, Any]:
        """Process the mailbox: print notes, save checkpoints, upload requested folders; returns it all."""
        news: dict[str, Any] = self._ray.get(self.mailbox.take_news.remote())
        for text in news["notes"]:
            self.say(text)
        for number, files in news["states"].items():
            self._write(number, files)
        for source in news["wanted"]:
            self.mailbox.put_artifact.remote(source, self._put(Path(source)))
        return news

    def receive(self, number: int, files: Files) -> None:
        """Write the files of a trial that has ended; there are none if its worker shares the run folder."""
        if files:
            self._write(number, files)
            tidy(self.units[number].folder)
        self.mailbox.forget_state.remote(number)
        self._unlock(number)

    def _write(self, number: int, files: Files) -> None:
        folder = self.units[number].folder
        if not is_done(folder):
            if number not in self._locks:
                self._locks[number] = ExitStack()
                self._locks[number].enter_context(lock_trial(folder))
            newest, before = checkpoints(folder)
            for name, content in files.items():
                if name == newest.name and newest.is_file():  # what travels is the newest alone
                    before.unlink(missing_ok=True)
                    link_or_copy(newest, before)
                replace_bytes(folder / Path(name).name, content)

    def _unlock(self, number: int) -> None:
        if number in self._locks:
            self._locks.pop(number).close()

    def _put(self, folder: Path) -> list[tuple[str, int, Any]]:
        """Put a folder's files into the object store: (name, bytes, reference) of their parts."""
        parts = []
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            with path.open("rb") as file:
                for _ in range(0, max(1, path.stat().st_size), PART_BYTES):
                    content = file.read(PART_BYTES)
                    parts.append((path.name, len(content), self._ray.put(content)))
        return parts

    def start(self, number: int) -> None:
        """Start a unit's task; Ray's own retries would be silent and begin at the arguments, not at the checkpoint."""
        prepared, job = self.job(number)
        options = {"num_cpus": self._cluster.cpus, "num_gpus": self._cluster.gpus, "max_retries": 0}
        self.running[self._ray.remote(**options)(work).remote(prepared, job, self.mailbox)] = number

    def finish(self, task: Any) -> bool:
        """Receive a task's result; if its worker has died, restart the unit and return False."""
        number, lost = self.running.pop(task), self._ray.exceptions
        died = (lost.WorkerCrashedError, lost.NodeDiedError, lost.LocalRayletDiedError, lost.ObjectLostError)
        try:
            outcome: Files | Exception = self._ray.get(task)
        except (*died, lost.OutOfMemoryError) as error:
            self._start_again(number, error)
            return False
        if isinstance(outcome, Exception):
            raise outcome
        self.receive(number, outcome)
        return True

    def _start_again(self, number: int, error: Exception) -> None:
        unit, step = self.units[number], self.steps.get(number, 0)
        before, deaths = self._deaths.get(number, (-1, 0))
        deaths = deaths + 1 if step <= before else 1
        self._deaths[number] = step, deaths
        if deaths > RETRIES:
            reason = " ".join(str(error).split())[:160]
            raise RunError(
                f"{unit.name}: its worker died {deaths} times at step {step}, perhaps for want of memory ({reason}); "
                "the same command goes on, with more --cpus-per-trial or --gpus-per-trial"
            ) from error
        self.say(f"{unit.name}: its worker died at step {step} ({type(error).__name__}); it goes on elsewhere")
        time.sleep(deaths)  # the cluster may not know yet that a node is gone
        self.start(number)

    def close(self) -> None:
        """Cancel running tasks, kill those that do not end in time, and release locks."""
        for force in (False, True):
            for task in self.running:
                self._ray.cancel(task, force=force)
            if self.running:
                _, rest = self._ray.wait(list(self.running), num_returns=len(self.running), timeout=STOP_SECONDS)
                self.running = {task: self.running[task] for task in rest}
        for number in list(self._locks):
            self._unlock(number)


def _absolute(store: Any) -> Any:
    return replace(store, folder=store.folder.absolute())


@contextmanager
def open_driver(
    cluster: Cluster, units: Sequence[Unit], *, say: Callable[[str], None], root: Path | None = None
) -> Iterator[Driver]:
    """Open a mailbox for units; ``root`` is the common parent of their run folders, if there is one."""
    name, secret = f".shared-{secrets.token_hex(8)}", secrets.token_hex(16)
    tokens = {unit.run: ((root or unit.run).absolute() / name, secret) for unit in units}
    with cluster_errors(), ExitStack() as stack:
        for token, _ in tokens.values():
            token.parent.mkdir(parents=True, exist_ok=True)
            for other in token.parent.glob(".shared-*"):
                if other.stat().st_mtime < time.time() - _OLD_SECONDS:  # of a driver that was killed
                    other.unlink(missing_ok=True)
            stack.callback(token.unlink, missing_ok=True)
            token.write_text(secret, encoding="utf-8")
        driver = Driver(cluster, units, tokens, say)
        stack.callback(driver.close)
        yield driver


def beside_driver() -> Any:
    """Scheduling strategy that pins an actor or a task to the driver's node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def run_units(
    cluster: Cluster,
    units: Sequence[Unit],
    *,
    on_step: Callable[[Unit, int, int, float], None],
    on_end: Callable[[Unit], None],
    say: Callable[[str], None],
) -> None:
    """Run trials on a connected cluster, in this order, as many at a time as it has room for.

    ``on_step`` is called with (unit, steps done, steps in all, loss); ``on_end`` with each unit whose trial is DONE in
    its run folder; ``say`` with a line about a node, or about a trial that is started again.

    RunError if a trial's worker dies `RETRIES` times more without progress, or the cluster is gone; also whatever a
    trial raises. The other trials are stopped, and resume when they are run again.
    """
    import ray

    with open_driver(cluster, units, say=say) as driver:
        for number in range(len(units)):
            driver.start(number)
        while driver.running:
            ended, _ = ray.wait(list(driver.running), timeout=POLL_SECONDS)
            for number, step in driver.collect()["steps"].items():
                driver.steps[number] = step[0]
                on_step(units[number], *step)
            for task in ended:
                number = driver.running[task]
                if driver.finish(task):
                    on_end(units[number])
