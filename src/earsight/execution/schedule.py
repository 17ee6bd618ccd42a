"""Run trials: in this process, in several, or on a Ray cluster.

Comes in: prepared data, trials and a run folder. Goes out: the trials' folders, each DONE. A trial that is DONE is not
run again; an interrupted one resumes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from earsight.data.datasets import Dataset
from earsight.errors import DataError, RunError, remedy_of
from earsight.evaluation.multilabel import mean_average_precision
from earsight.evaluation.summary import read_predictions
from earsight.execution.processes import run_at_once
from earsight.execution.ray_cluster import Cluster
from earsight.execution.ray_driver import Unit, run_units
from earsight.files import link_or_copy, replace_text, replacing, sealed
from earsight.models.fast.swap import make_kernels_ready
from earsight.models.stages import starting_model
from earsight.openmp import Crowding
from earsight.recipe import Recipe
from earsight.training.device import training_dtype
from earsight.training.preparation import Prepared
from earsight.training.teachers import Teaching
from earsight.training.trial import Start, Trial, check_rows, check_run, is_done, run_trial


def chosen_folds(text: str | None, numbers: Sequence[int]) -> list[int]:
    """Fold numbers out of ``1,2``; all of them for None; DataError if one is no number or no fold of the data set."""
    if text is None:
        return list(numbers)
    chosen = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) not in numbers:
            known = ", ".join(str(number) for number in numbers)
            raise DataError(f"--folds {text}: '{part.strip()}' is no fold of this data set; its folds are {known}")
        chosen.append(int(part))
    return list(dict.fromkeys(chosen))


def check_start(
    dataset: Dataset, recipe: Recipe, trials: Sequence[Trial], *, run: Path, teaching: Teaching | None = None
) -> Start:
    """Check everything that would stop the trials, before spectrograms are computed.

    The start has the network of the first trial that is not DONE, which was built as a check. RunError if the run
    folder cannot be written, or holds trials of another recipe or data set, or other teachers; DataError if a fold has
    no test clip, or a class has no training clip; ModelError or RecipeError if the backbone or its weights are not
    available, or the recipe names stages that it does not have, or does not fit its teachers.
    """
    start = check_run(dataset, recipe, run, teaching=teaching)
    for fold in sorted({trial.fold for trial in trials}):
        check_rows(dataset, fold, np.flatnonzero(dataset.training(fold)), np.flatnonzero(dataset.folds == fold))
    first = next((trial for trial in trials if not is_done(trial.folder(run))), None)
    if first is not None:
        start.networks[first.seed] = starting_model(recipe, classes=len(dataset.classes), seed=first.seed)
    there = next(place for place in (run, *run.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "is not a folder" if not there.is_dir() else "may not be written to"
        raise RunError(f"{run}: cannot be written, because {there} {what}; name another folder with --out")
    return start


def run_trials(
    prepared: Prepared,
    trials: Sequence[Trial],
    *,
    run: Path,
    device: torch.device,
    progress: Callable[[int, int, str], None],
    say: Callable[[str], None],
    jobs: int = 1,
    cluster: Cluster | None = None,
    start: Start | None = None,
) -> None:
    """Run what is not DONE, ``jobs`` at a time in processes, or on a ``cluster``, each on a device of its own there.

    ``progress`` is called with (steps done, steps in all, a note) over all trials, of which those that were DONE count
    as done; ``say`` with one line for each trial that ends. ``start`` is what `check_start` found; without it the run
    is checked here. RunError if the run folder cannot be written, or holds trials of another recipe or data set; see
    also `check_start`.
    """
    start = start or check_start(prepared.dataset, prepared.recipe, trials, run=run, teaching=prepared.teaching)
    if cluster:
        start.networks.clear()  # each node builds its own
        run_groups(cluster, [Group(prepared, trials, run, start=start)], progress=progress, say=say)
        return
    _write_recipe(prepared.recipe, run)
    done = [trial for trial in trials if is_done(trial.folder(run))]
    if device.type == "cpu" and len(done) < len(trials):
        make_kernels_ready(training_dtype(prepared.recipe.training.precision, device), say=say)
    steps, part = dict.fromkeys(trials, 0), prepared.dataset.part_name
    crowding = Crowding(torch.get_num_threads() if jobs == 1 and device.type == "cpu" else 1)

    def show(trial: Trial, step: int, total: int, loss: float) -> None:
        if note := crowding.note():
            say(note)
        steps.update({trial: step, **dict.fromkeys(done, total)})
        progress(sum(steps.values()), len(steps) * total, f"{part(trial.fold)} seed {trial.seed}, loss {loss:.3f}")

    def end(trial: Trial) -> None:
        say(_line(prepared, trial, run, before=trial in done))
        done.append(trial)

    if jobs > 1:
        for trial in list(done):
            say(_line(prepared, trial, run, before=True))
        rest = [trial for trial in steps if trial not in done]
        start.networks.clear()  # each process builds its own
        run_at_once(prepared, rest, run=run, device=device, jobs=jobs, on_step=show, on_end=end)
        return
    for trial in trials:
        run_trial(prepared, trial, run=run, device=device, on_step=partial(show, trial), start=start)
        end(trial)


@dataclass(frozen=True)
class Group:
    """Trials of one recipe in one run folder, by a name of its own, and what `check_start` found if it was called."""

    prepared: Prepared
    trials: Sequence[Trial]
    run: Path
    name: str = ""
    start: Start | None = None


def run_groups(
    cluster: Cluster, groups: Sequence[Group], *, progress: Callable[[int, int, str], None], say: Callable[[str], None]
) -> None:
    """Run what is not DONE of several recipes on a cluster, all of their trials side by side; as `run_trials` does."""
    units: dict[Path, tuple[Unit, str]] = {}
    done = 0
    for group in groups:
        if group.start is None:
            prepared = group.prepared
            check_start(prepared.dataset, prepared.recipe, group.trials, run=group.run, teaching=prepared.teaching)
        _write_recipe(group.prepared.recipe, group.run)
        prefix = f"{group.name}, " if group.name else ""
        for trial in group.trials:
            if is_done(trial.folder(group.run)):
                done += 1
                say(prefix + _line(group.prepared, trial, group.run, before=True))
            else:
                unit = Unit(group.prepared, trial, group.run)
                units[unit.folder] = unit, prefix
    steps: dict[Path, int] = {}
    totals: dict[Path, int] = {}

    def show(unit: Unit, step: int, total: int, loss: float) -> None:
        steps[unit.folder], totals[unit.folder] = step, total
        # The steps of trials that have not begun are unknown: assume as many as the others have.
        typical = sum(totals.values()) / len(totals)
        every = round(sum(totals.get(folder, typical) for folder in units) + done * typical)
        ahead = sum(steps.values()) + round(done * typical)
        progress(ahead, every, f"{units[unit.folder][1]}{unit.name}, loss {loss:.3f}")

    def end(unit: Unit) -> None:
        say(units[unit.folder][1] + _line(unit.prepared, unit.trial, unit.run, before=False))

    if units:
        run_units(cluster, [unit for unit, _ in units.values()], on_step=show, on_end=end, say=say)


def _write_recipe(recipe: Recipe, run: Path) -> None:
    """Make the run folder, with its recipe in it."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        replace_text(run / "recipe.yaml", sealed(recipe.to_yaml()))
    except OSError as error:
        raise RunError(
            f"{run}: cannot be written ({error.strerror}); {remedy_of(error)} or name another folder with --out"
        ) from error


def _line(prepared: Prepared, trial: Trial, run: Path, *, before: bool) -> str:
    """One line on a trial's result."""
    found = read_predictions(trial.folder(run) / "predictions.npz")
    note = "done before" if before else f"{found.about['seconds']:.0f} s"
    optimistic = ", optimistic: they chose the epoch" if prepared.recipe.training.protocol == "test" else ""
    if found.targets is not None:
        precision = 100 * mean_average_precision(found.targets, found.logits)
        share = f"mean average precision {precision:.1f} % of {len(found.clips)} held-out clips"
    else:
        share = f"{100 * found.correct.mean():.1f} % of {len(found.labels)} held-out clips"
    return f"{prepared.dataset.part_name(trial.fold)} seed {trial.seed}: {share} ({note}){optimistic}"


def publish_model(run: Path, trial: Trial) -> Path:
    """Put a trial's model file at the top of its run folder, without a second copy where links are possible."""
    source, target = trial.folder(run) / "model.safetensors", run / "model.safetensors"
    for left in run.glob(".model.safetensors*.part"):  # by a kill
        left.unlink(missing_ok=True)
    with replacing(target) as part:
        link_or_copy(source, part)
    return target
