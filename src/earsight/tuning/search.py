"""A search over recipes by inner validation: each point trained on the training folds alone, here or by Ray Tune.

Comes in: points, each prepared, and the folds and seeds to average over. Goes out, in ``points/DIGEST/``: for each
trial that was run to its end ``fold-k/seed-s/`` with ``inner.npz`` and DONE, and STOPPED where ASHA stopped the point.
The held-out fold is never read. The same call resumes an interrupted search, and runs nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from earsight.errors import RunError
from earsight.execution.ray_cluster import Cluster
from earsight.execution.ray_driver import POLL_SECONDS, STOP_SECONDS, Unit, beside_driver, open_driver
from earsight.files import replace_text
from earsight.training.checkpoint import checkpoints
from earsight.training.preparation import Prepared
from earsight.training.trial import Trial, check_run, is_done, run_inner
from earsight.tuning.raytune import TuneSettings, run_tune
from earsight.tuning.result import read_history
from earsight.tuning.space import Point

STOPPED = "STOPPED"

ShowStep = Callable[["Candidate", Unit, int, int, float], None]
"""Shows a step of a point's trial: step, steps in all, loss."""


@dataclass(frozen=True)
class Candidate:
    """A point that is ready to be trained, with its recipe resolved, its run folder and its trials."""

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
        """Whether ASHA has stopped the point."""
        return (self.run / STOPPED).is_file()


def candidate(point: Point, prepared: Prepared, *, out: Path, trials: Sequence[Trial]) -> Candidate:
    """A point with its run folder below the search's; raises `RunError` if that is of another recipe or data set."""
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
    """Train the points that are not done, in the search's folder: on a device here, or by Ray Tune on a cluster.

    With ``asha``, which needs a cluster, points that fall behind by the metric (``accuracy`` or ``log_loss``) are
    stopped. ``progress`` is called with (steps done, steps in all, a note) over all points, and ``say`` with a line for
    what ends. RunError if a point cannot be trained; the others are stopped, and go on when the same is called again.
    """
    check_search(asha=asha, on="ray" if cluster else "local")
    if not asha:
        for one in candidates:
            (one.run / STOPPED).unlink(missing_ok=True)
    show = _step_counter(candidates, progress)
    if cluster is None:
        for one in candidates:
            for unit in one.units:
                on_step = partial(show, one, unit)
                run_inner(unit.prepared, unit.trial, run=unit.run, device=device, on_step=on_step)
    elif not all(one.done or one.stopped for one in candidates):
        waiting = [one for one in candidates if asha or not one.done]
        _tune(cluster, waiting, out=out, asha=asha, metric=metric, show=show, say=say)


def _step_counter(candidates: Sequence[Candidate], progress: Callable[[int, int, str], None]) -> ShowStep:
    """A callback for a trial's steps that reports those of all points; a trial's total is known once it has begun."""
    left = [unit.folder for one in candidates for unit in one.units if not is_done(unit.folder)]
    steps: dict[Path, int] = {}
    totals: dict[Path, int] = {}

    def show(one: Candidate, unit: Unit, step: int, total: int, loss: float) -> None:
        steps[unit.folder], totals[unit.folder] = step, total
        typical = sum(totals.values()) / len(totals)
        every = round(sum(totals.get(folder, typical) for folder in left))
        progress(sum(steps.values()), every, f"{one.point.name}, {unit.name}, loss {loss:.3f}")

    return show


def _tune(
    cluster: Cluster,
    candidates: Sequence[Candidate],
    *,
    out: Path,
    asha: bool,
    metric: str,
    show: ShowStep,
    say: Callable[[str], None],
) -> None:
    """Let Ray Tune run the points, and write what their workers send."""
    import ray

    owners = [one for one in candidates for _ in one.trials]
    units = [unit for one in candidates for unit in one.units]
    settings = TuneSettings(
        cpus=cluster.cpus,
        gpus=cluster.gpus,
        asha=asha,
        metric=metric,
        best_epoch=candidates[0].prepared.recipe.training.protocol != "last",
        epochs=max(one.prepared.recipe.training.epochs * len(one.trials) for one in candidates),
    )
    with open_driver(cluster, units, say=say, root=out) as driver:
        for number, unit in enumerate(units):
            ray.get(driver.mailbox.put_history.remote(number, read_history(unit.folder), done=is_done(unit.folder)))
        jobs = (driver.job(number, inner=True) for number in range(len(units)))
        points = [[next(jobs) for _ in one.trials] for one in candidates]
        remote: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=beside_driver())(run_tune)
        task = remote.remote(points, [one.stopped for one in candidates], settings, driver.mailbox)
        ended = False
        try:
            while not ended:
                ended = bool(ray.wait([task], timeout=POLL_SECONDS)[0])
                news = driver.collect()
                for number, step in news["steps"].items():
                    show(owners[number], units[number], *step)
                for number, outcome in news["ended"]:
                    if isinstance(outcome, Exception):
                        raise outcome
                    driver.receive(number, outcome)
                    say(f"{owners[number].point.name}: {units[number].name} done")
            problems = ray.get(task)
        finally:
            if not ended:
                ray.cancel(task, force=True)  # Tune's workers end with it; stopped gently, it would leave them running
                ray.wait([task], timeout=STOP_SECONDS)
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
        for unit in one.units:
            for path in checkpoints(unit.folder):
                path.unlink(missing_ok=True)
        say(f"{one.point.name}: stopped by ASHA")


def check_search(*, asha: bool, on: str) -> None:
    """Raise `RunError` for a search that cannot be run, before anything starts."""
    if asha and on == "local":
        raise RunError("--asha: is Ray Tune's, so it needs --on ray (which starts a cluster here if there is none)")
