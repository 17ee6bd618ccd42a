"""Estimated time of jobs: how many trials are unfinished, and how long they take here.

Comes in: jobs. Goes out: rows with seconds. Cells with DONE trials use their times. For the others a few training steps
of each backbone on each kind of spectrogram are timed: on the data set's spectrograms if they are in the cache, else on
those of a few of its clips, which are not kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earsight.cache import default_cache
from earsight.data.datasets import Dataset
from earsight.evaluation.summary import read_predictions
from earsight.execution.timing import TIMED_STEPS, WARM_UP_STEPS, timed_steps
from earsight.experiments.plan import Job
from earsight.features.augment import pitch_steps
from earsight.features.row_file import DESCRIPTION
from earsight.features.store import store_key
from earsight.features.windows import clip_windows
from earsight.files import scratch_folder
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, is_done

_SCORING = 1 / 3
"""Cost of a prediction in training steps: it has no backward pass and no step of the optimiser."""


@dataclass(frozen=True)
class _Rate:
    """Seconds of one training step, and of computing one clip's spectrograms (0 if they are in the cache)."""

    step: float
    clip: float


def job_costs(
    jobs: Sequence[Job], *, device: torch.device, cache: Path | None = None, progress: Callable[[int, int, str], None]
) -> list[dict[str, Any]]:
    """A row a job: ``cell``, ``data``, ``trials``, ``done``, ``epochs``, and ``seconds`` of what is not DONE.

    Seconds are for one trial at a time; ``cache`` is that of the spectrograms; ``progress`` is called with
    (jobs timed, jobs in all, a note).
    """
    rates: dict[str, _Rate] = {}
    counted_stores: set[str] = set()
    rows: list[dict[str, Any]] = []
    for number, job in enumerate(jobs):
        progress(number, len(jobs), job.cell.name)
        rows.append(_row(job, rates, counted_stores, device=device, cache=cache))
    progress(len(jobs), len(jobs), "")
    return rows


def _row(
    job: Job, rates: dict[str, _Rate], counted_stores: set[str], *, device: torch.device, cache: Path | None
) -> dict[str, Any]:
    pending, seconds = job.pending, 0.0
    if pending:
        measured = _seconds_of_done(job)
        dataset, recipe = job.dataset, job.recipe
        windows = clip_windows(dataset.seconds, recipe.features, recipe.training)
        store = store_key(dataset, recipe.features, pitch_steps(recipe.augment), cache=cache, windows=windows)
        kind = f"{job.recipe.backbone.name} {store} {job.recipe.training.batch_size}"
        if measured is None and kind not in rates:
            rates[kind] = _rate(job, store, device=device, cache=cache)
        if measured is None:
            seconds = rates[kind].step * sum(_steps(job, trial.fold) for trial in pending)
        else:
            seconds = measured * len(pending)
        if kind in rates and store not in counted_stores:
            seconds += rates[kind].clip * len(job.dataset.clips)
            counted_stores.add(store)
    return {
        "cell": job.cell.name,
        "data": job.cell.data,
        "trials": len(job.trials),
        "done": len(job.trials) - len(pending),
        "epochs": job.recipe.training.epochs,
        "seconds": round(seconds, 1),
    }


def _seconds_of_done(job: Job) -> float | None:
    """Mean over the trials that are DONE; None if there is none."""
    done = [trial.folder(job.run) for trial in job.trials if is_done(trial.folder(job.run))]
    times = [float(read_predictions(folder / "predictions.npz").about["seconds"]) for folder in done]
    return float(np.mean(times)) if times else None


def _steps(job: Job, fold: int) -> float:
    """Training steps of a trial, with its predictions converted to steps."""
    training = job.recipe.training
    held = float((job.dataset.folds == fold).sum())
    train = len(job.dataset.clips) - held
    scored = held * (training.epochs if training.watch or training.protocol == "test" else 1)
    if training.protocol == "inner":
        inner = training.inner_fraction * train
        train, scored = train - round(inner), scored + inner * training.epochs
    train *= job.recipe.augment.copies
    return training.epochs * math.ceil(train / training.batch_size) + _SCORING * scored / training.batch_size


def _rate(job: Job, store: str, *, device: torch.device, cache: Path | None) -> _Rate:
    """Time a few steps."""
    fold = job.pending[0].fold
    # The time of a step does not depend on weights, but on frozen or cut stages: without them it is longest.
    untransferred = ["transfer.fuse=all", "transfer.freeze=none", "transfer.cut=none", "backbone.weights=none"]
    recipe = job.recipe.override(untransferred)
    if ((cache or default_cache()) / store / DESCRIPTION).is_file():
        ready = prepare(job.dataset, recipe, cache=cache, skip_bad=True, device=device)
        return _Rate(timed_steps(ready, Trial(fold, 0), device=device)[0], 0.0)
    clips = _few(job.dataset, fold, rows=(WARM_UP_STEPS + TIMED_STEPS + 1) * recipe.training.batch_size)
    with scratch_folder("earsight-timing-") as folder:
        started = time.perf_counter()
        ready = prepare(clips, recipe, cache=folder, skip_bad=True, device=device)
        made = (time.perf_counter() - started) / len(clips.clips)
        return _Rate(timed_steps(ready, Trial(fold, 0), device=device)[0], made)


def _few(dataset: Dataset, fold: int, *, rows: int) -> Dataset:
    """Some of a data set: at least so many clips to train on, and some to hold out, from all classes in turn."""
    held = dataset.folds == fold
    kept = []
    for mask, count in ((~held, rows), (held, len(dataset.classes))):
        each = math.ceil(count / len(dataset.classes))
        for label in range(len(dataset.classes)):
            kept += np.flatnonzero(mask & (dataset.labels == label))[:each].tolist()
    return replace(dataset, clips=tuple(dataset.clips[row] for row in sorted(kept)))
