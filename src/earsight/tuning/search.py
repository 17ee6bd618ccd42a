"""A search over recipes by inner validation: each point trained on the training folds alone, here or with Ray Tune.

Comes in: points, each prepared, and the folds and seeds to average over. Goes out, in ``points/DIGEST/``: for each
trial that was run to its end ``fold-k/seed-s/`` with ``inner.npz`` and DONE, and STOPPED where ASHA gave the point up.
The held-out fold is never read. The same call goes on where it was stopped, and runs nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from earsight.errors import RunError
from earsight.execution.ray_cluster import Cluster
from earsight.execution.ray_driver import Post, Unit, beside_driver, open_post
from earsight.execution.ray_trials import END_SECONDS, LOOK_SECONDS, told_in_a_line
from earsight.files import replace_text
from earsight.training.preparation import Prepared
from earsight.training.trial import Trial, check_run, is_done, run_inner
from earsight.tuning.raytune import Terms, conduct
from earsight.tuning.space import Point

STOPPED = "STOPPED"


@dataclass(frozen=True)
class Candidate:
    """A point that is ready to be trained.

    Attributes
    ----------
    point : Point
    prepared : Prepared
        With the point's recipe, resolved.
    run : Path
        Its folder.
    trials : tuple of Trial
    """

    point: Point
    prepared: Prepared
    run: Path
    trials: tuple[Trial, ...]

    @property
    def units(self) -> list[Unit]:
        """Its trials."""
        return [Unit(self.prepared, trial, self.run) for trial in self.trials]

    @property
    def done(self) -> bool:
        """Whether all of them are done."""
        return all(is_done(unit.folder) for unit in self.units)

    @property
    def stopped(self) -> bool:
        """Whether ASHA has given the point up."""
        return (self.run / STOPPED).is_file()


def candidate(point: Point, prepared: Prepared, *, out: Path, trials: Sequence[Trial]) -> Candidate:
    """A point in its place below the search's folder; what is there must be of the same recipe and data."""
    run = out / "points" / prepared.recipe.digest
    check_run(prepared.dataset, prepared.recipe, run, spectrograms=prepared.identity)
    return Candidate(point, prepared, run, tuple(trials))


def search(
    candidates: Sequence[Candidate],
    *,
    out: Path,
    device: torch.device,
    cluster: Cluster | None,
    asha: bool,
    metric: str,
    progress: Callable[[int, int, str], None],
    say: Callable[[str], None],
) -> None:
    """Train what is not done.

    Parameters
    ----------
    candidates : sequence of Candidate
    out : Path
        The search's folder.
    device : torch.device
        To train on here, without a cluster.
    cluster : Cluster, optional
        Where Ray Tune runs the points.
    asha : bool
        Stop points that fall behind; needs a cluster.
    metric : str
        ``accuracy`` or ``log_loss``: what ASHA goes by.
    progress : callable
        Called with (steps done, steps in all, a note) over all points.
    say : callable
        Called with a line for what ends, and about nodes.

    Raises
    ------
    RunError
        If a point cannot be trained; the others are stopped, and go on when the same is called again.
    """
    check_search(asha=asha, on="ray" if cluster else "local")
    if not asha:
        for one in candidates:
            (one.run / STOPPED).unlink(missing_ok=True)
    bar = _Bar(candidates, progress)
    if cluster is None:
        for one in candidates:
            for unit in one.units:
                run_inner(unit.prepared, unit.trial, run=unit.run, device=device, on_step=bar.of(unit, one))
            bar.end(one)
        return
    waiting = [one for one in candidates if asha or not one.done]
    for one in candidates:
        if one not in waiting:
            bar.end(one)
    if any(not one.done and not one.stopped for one in waiting):
        _tune(cluster, waiting, out=out, asha=asha, metric=metric, bar=bar, say=say)
    for one in waiting:
        bar.end(one)


class _Bar:
    """Steps over all points; how many a point takes is known once it has begun."""

    def __init__(self, candidates: Sequence[Candidate], progress: Callable[[int, int, str], None]) -> None:
        self._progress = progress
        self._left = [unit for one in candidates for unit in one.units if not is_done(unit.folder)]
        self._steps: dict[Path, int] = {}
        self._totals: dict[Path, int] = {}

    def of(self, unit: Unit, one: Candidate) -> Callable[[int, int, float], None]:
        def show(step: int, total: int, loss: float) -> None:
            self.show(unit, one, step, total, loss)

        return show

    def show(self, unit: Unit, one: Candidate, step: int, total: int, loss: float) -> None:
        self._steps[unit.folder], self._totals[unit.folder] = step, total
        typical = sum(self._totals.values()) / len(self._totals)
        every = round(sum(self._totals.get(other.folder, typical) for other in self._left))
        self._progress(sum(self._steps.values()), every, f"{one.point.name}, {unit.name}, loss {loss:.3f}")

    def end(self, one: Candidate) -> None:
        """Count the point as a whole, also if it was stopped."""
        for unit in one.units:
            if unit.folder in self._totals:
                self._steps[unit.folder] = self._totals[unit.folder]


def _tune(
    cluster: Cluster,
    candidates: Sequence[Candidate],
    *,
    out: Path,
    asha: bool,
    metric: str,
    bar: _Bar,
    say: Callable[[str], None],
) -> None:
    """Let Ray Tune run the points, and bring home what they leave."""
    import ray

    owners = [one for one in candidates for _ in one.trials]
    units = [unit for one in candidates for unit in one.units]
    training = candidates[0].prepared.recipe.training
    terms = Terms(
        cpus=cluster.cpus,
        gpus=cluster.gpus,
        asha=asha,
        metric=metric,
        best_epoch=training.protocol != "last",
        epochs=max(one.prepared.recipe.training.epochs * len(one.trials) for one in candidates),
    )
    with told_in_a_line(ray), open_post(ray, units, say=say, root=out) as post:
        parts = [post.order(number, cluster, inner=True) for number in range(len(units))]
        for number, unit in enumerate(units):
            _remember(post, number, unit)
        orders = iter(parts)
        points = [[next(orders) for _ in one.trials] for one in candidates]
        conductor = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=beside_driver(ray))(conduct)
        task: Any = conductor.remote(points, [one.stopped for one in candidates], terms, post.mailbox)
        try:
            while task is not None:
                ready, _ = ray.wait([task], timeout=LOOK_SECONDS)
                _take(post, owners, bar, say)
                if ready:
                    problems, task = ray.get(task), None
        finally:
            if task is not None:
                ray.cancel(task, force=False)
                ray.wait([task], timeout=END_SECONDS)
    _settle(candidates, problems, asha=asha, say=say)


def _remember(post: Post, number: int, unit: Unit) -> None:
    """Tell the mailbox what is known of a trial from before."""
    history = unit.folder / "history.jsonl"
    if history.is_file():
        records = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
        post.ray.get(post.mailbox.record.remote(number, records))
    if is_done(unit.folder):
        post.ray.get(post.mailbox.end.remote(number, fresh=False))


def _take(post: Post, owners: Sequence[Candidate], bar: _Bar, say: Callable[[str], None]) -> None:
    """Take what has come from the nodes."""
    news: dict[str, Any] = post.collect()
    for number, step in news["steps"].items():
        bar.show(post.units[number], owners[number], *step)
    for number, problem in news["ended"]:
        if problem is not None:
            raise problem
        post.receive(number)
        say(f"{owners[number].point.name}: {post.units[number].name} done")


def _settle(candidates: Sequence[Candidate], problems: list[str], *, asha: bool, say: Callable[[str], None]) -> None:
    """Mark the points that ASHA has stopped, and let their checkpoints go.

    Raises
    ------
    RunError
        If a point was given up because its workers died.
    """
    for one, problem in zip(candidates, problems, strict=True):
        if problem:
            raise RunError(
                f"{one.point.name}: its worker died again and again ({problem}); the same command goes on, with more "
                "--cpus-per-trial or --gpus-per-trial if memory is short"
            )
        if one.done or one.stopped:
            continue
        if not asha:
            raise RunError(f"{one.point.name}: ended before it was done; the same command goes on")
        one.run.mkdir(parents=True, exist_ok=True)
        replace_text(one.run / STOPPED, "by ASHA: others were further ahead at the same epoch\n")
        say(f"{one.point.name}: stopped by ASHA")
        for unit in one.units:
            (unit.folder / "checkpoint.safetensors").unlink(missing_ok=True)


def check_search(*, asha: bool, on: str) -> None:
    """Refuse what cannot be searched, before anything starts.

    Raises
    ------
    RunError
    """
    if asha and on == "local":
        raise RunError("--asha: is Ray Tune's, so it needs --on ray (which starts a cluster here if there is none)")
