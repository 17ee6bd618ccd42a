"""The jobs to run: one for each cell whose data set was given, with reasons for those left out.

Comes in: cells, the data sets that were given, and an output folder. Goes out: `Job`s (a cell with its trials and its
run folder, ``OUT/runs/CELL``) and reasons. What is DONE is not run again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from earsight.data.datasets import Dataset
from earsight.errors import ModelError
from earsight.execution.schedule import check_start, chosen_folds
from earsight.experiments.cells import Asked, Cell
from earsight.experiments.collection import KINDS, Found
from earsight.experiments.scale import Section
from earsight.models.stages import starting_model
from earsight.recipe import Recipe
from earsight.training.preparation import resolved
from earsight.training.trial import Trial, is_done


@dataclass(frozen=True)
class Job:
    """A cell that can be run, with its resolved recipe."""

    cell: Cell
    dataset: Dataset
    recipe: Recipe
    trials: tuple[Trial, ...]
    run: Path

    @property
    def pending(self) -> list[Trial]:
        """Trials that are not DONE."""
        return [trial for trial in self.trials if not is_done(trial.folder(self.run))]


def make_jobs(cells: Sequence[Cell], found: Mapping[str, Found], asked: Asked, *, out: Path) -> list[Job]:
    """A job for each cell whose data set was given; DataError if a fold that was asked for is none of a data set's."""
    jobs = []
    for cell in cells:
        if cell.data in found:
            dataset = found[cell.data].dataset
            trials = tuple(cell_trials(cell, asked, folds=dataset.fold_numbers))
            run = run_folder(out, cell.name)
            jobs.append(Job(cell, dataset, resolved(dataset, cell.recipe, run=run), trials, run))
    return jobs


def run_folder(out: Path, name: str) -> Path:
    """A cell's run folder."""
    return out / "runs" / name


def cell_trials(cell: Cell, asked: Asked, *, folds: Sequence[int] | None = None) -> list[Trial]:
    """The trials of a cell; folds that were asked for come before those of the scale.

    ``folds`` are those that the data set has, by default the usual ones of the paper's data set. DataError if a fold
    that was asked for is none of them.
    """
    there = KINDS[cell.data].folds if folds is None else tuple(folds)
    numbers = [fold for fold in there if cell.folds is None or fold in cell.folds]
    taken = chosen_folds(asked.folds, there) if asked.folds else numbers
    return [Trial(fold, seed) for seed in range(cell.seeds) for fold in taken]


def without_weights(jobs: Sequence[Job], *, named: Sequence[str]) -> dict[str, str]:
    """Cells whose ImageNet weights are not on this machine, and why.

    ModelError if such a cell is among ``named``, the cells that were asked for by name.
    """
    reasons: dict[str, str] = {}
    out = {}
    for job in jobs:
        backbone = job.recipe.backbone
        if backbone.weights != "imagenet" or not job.pending:
            continue
        if backbone.name not in reasons:
            try:
                starting_model(job.recipe, classes=2)
                reasons[backbone.name] = ""
            except ModelError as error:
                reasons[backbone.name] = str(error)
        reason = reasons[backbone.name]
        if reason:
            # Only the reason: the message's other remedies would change the cell's recipe.
            why = reason.partition(":")[2].partition(":")[0].strip()
            out[job.cell.name] = f"{why}; --weights {job.cell.backbone}=FILE"
        if reason and job.cell.name in named:
            raise ModelError(f"{job.cell.name}: {out[job.cell.name]} gives them")
    return out


def check_jobs(jobs: Sequence[Job]) -> None:
    """Check all jobs before the first starts; see `earsight.execution.schedule.check_start`."""
    for job in jobs:
        if job.trials:
            check_start(job.dataset, job.recipe, job.trials, run=job.run)


def filling_command(
    cell: Cell,
    section: Section,
    asked: Asked,
    *,
    only: Sequence[str],
    scale: str,
    found: Mapping[str, Found],
    out: Path,
    weights: bool,
) -> str:
    """The command that fills a cell of a section, or several of one data set that ``only`` names.

    A path stands in for a data set that was not given; ``weights`` says that a file of weights must be named.
    """
    place = str(found[cell.data].path) if cell.data in found else KINDS[cell.data].place
    words = ["earsight", "reproduce", section, place, "--scale", scale, "--out", str(out)]
    for name in only:
        words += ["--only", name]
    words += ["--folds", asked.folds] if asked.folds else []
    words += ["--seeds", str(asked.seeds)] if asked.seeds else []
    for assignment in asked.assignments:
        words += ["--set", assignment]
    file = f"{cell.backbone}.pth" if weights else (asked.weights or {}).get(cell.backbone)
    words += ["--weights", f"{cell.backbone}={file}"] if file is not None else []
    # One of the paper's data sets has a broken file; its recipes name the same option.
    words += ["--skip-bad"] if asked.skip_bad or KINDS[cell.data].broken else []
    return shlex.join(words)
