"""One trial: a recipe on one fold with one seed, in a crash-safe folder.

Comes in: a `Trial` and a folder. Goes out, in ``fold-k/seed-s/``: ``history.jsonl``, ``predictions.npz``,
``model.safetensors`` and last of all ``DONE``. A trial that was killed goes on from its checkpoint and ends with the
same bits; one that is DONE is not run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from earsight.data.datasets import Dataset
from earsight.data.splits import holdout
from earsight.errors import DataError, RunError
from earsight.models.backbones import build
from earsight.models.depthwise import use_fast_depthwise
from earsight.recipe import Recipe
from earsight.training.loop import Data, Source, fit, predict
from earsight.training.machine import keep_freed_memory
from earsight.training.outcome import replace_text, tidy, write_history, write_outcome
from earsight.training.preparation import Prepared

Step = Callable[[int, int, float], None]
_Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Trial:
    """One fold held out, one seed."""

    fold: int
    seed: int

    def folder(self, run: Path) -> Path:
        """Where the trial lies in its run folder."""
        return run / f"fold-{self.fold}" / f"seed-{self.seed}"


def is_done(folder: Path) -> bool:
    """Whether a trial's folder is complete."""
    return (folder / "DONE").is_file()


def run_trial(
    prepared: Prepared,
    trial: Trial,
    *,
    run: Path,
    device: torch.device,
    on_step: Step | None = None,
) -> Path:
    """Train on every fold but one, predict that one, and write the trial's folder.

    Parameters
    ----------
    prepared : Prepared
    trial : Trial
    run : Path
        The run folder.
    device : torch.device
    on_step : callable, optional
        Called with (steps done, steps in all, loss).

    Returns
    -------
    Path
        The trial's folder, with DONE in it.

    Raises
    ------
    RunError
        If the run folder holds a trial of another recipe or data set, or another process is at work on this one.
    DataError
        If the fold has no usable clip to test or a class none to train on.
    """
    folder = trial.folder(run)
    check_run(prepared.dataset, prepared.recipe, run, pictures=prepared.identity)
    if is_done(folder):
        tidy(folder)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder.with_name(f".{folder.name}.lock")).acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"{folder}: another process is training this trial; wait for it, or end it") from error
    with lock:
        if not is_done(folder):  # another process may have ended it meanwhile
            _run_alone(prepared, trial, folder, device=device, on_step=on_step)
    return folder


def _run_alone(prepared: Prepared, trial: Trial, folder: Path, *, device: torch.device, on_step: Step | None) -> None:
    keep_freed_memory()
    dataset, recipe = prepared.dataset, prepared.recipe
    identity = {
        "recipe": recipe.digest,
        "dataset": dataset.digest,
        "pictures": prepared.identity,
        "fold": trial.fold,
        "seed": trial.seed,
    }
    replace_text(folder / "trial.json", json.dumps(identity))
    started = time.monotonic()
    train_rows, score_rows, test_rows = _rows(prepared, trial)
    data = _data(prepared, train_rows, device=device)
    model = build(
        recipe.backbone.name,
        classes=data.classes,
        weights=recipe.backbone.weights,
        dropout=recipe.backbone.dropout,
        seed=trial.seed,
    ).to(device)
    model = model.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        use_fast_depthwise(model)
    fitted = fit(
        model,
        data,
        train_rows,
        recipe=recipe,
        seed=trial.seed,
        score_rows=score_rows,
        watch_rows=test_rows if recipe.training.watch else None,
        checkpoint=folder / "checkpoint.safetensors",
        on_step=on_step,
        on_epoch=lambda history: write_history(folder / "history.jsonl", history),
    )
    write_outcome(
        folder,
        prepared,
        fitted,
        data,
        fold=trial.fold,
        seed=trial.seed,
        test_rows=test_rows,
        logits=predict(model, data, test_rows),
        train_clips=len(train_rows),
    )
    replace_text(folder / "DONE", f"{time.monotonic() - started:.1f} s\n")
    tidy(folder)


def _rows(prepared: Prepared, trial: Trial) -> tuple[_Rows, _Rows | None, _Rows]:
    """Rows that train, rows that score an epoch (None: the last is taken), and rows that are held out."""
    dataset, training = prepared.dataset, prepared.recipe.training
    held_out = dataset.folds == trial.fold
    test_rows = np.flatnonzero(held_out & prepared.usable)
    train_rows = np.flatnonzero(~held_out & prepared.usable)
    check_rows(dataset, trial.fold, train_rows, test_rows)
    if training.protocol == "last":
        return train_rows, None, test_rows
    if training.protocol == "test":
        return train_rows, test_rows, test_rows
    labels, groups = dataset.labels[train_rows], dataset.groups[train_rows]
    # One split for all seeds, so that the head and the order of the batches alone tell them apart.
    inner = holdout(labels, groups, fraction=training.inner_fraction, seed=0)
    return train_rows[~inner], train_rows[inner], test_rows


def _data(prepared: Prepared, train_rows: _Rows, *, device: torch.device) -> Data:
    """The pictures as the network takes them, normalised by the training rows alone."""
    dataset, recipe = prepared.dataset, prepared.recipe
    source: Source = prepared.store
    if recipe.augment.backend == "waveform":
        from earsight.features.waveform import WaveformSource

        source = WaveformSource(dataset, recipe.features)
    windows = len(recipe.features.windows_ms)
    mean, std = np.zeros(windows), np.ones(windows)
    if recipe.normalize == "dataset":
        mean, std = prepared.store.statistics(train_rows)
    return Data(
        source=source,
        labels=dataset.labels,
        classes=len(dataset.classes),
        mean=torch.tensor(mean, dtype=torch.float32),
        std=torch.tensor(std, dtype=torch.float32),
        device=device,
    )


def check_run(dataset: Dataset, recipe: Recipe, run: Path, *, pictures: str | None = None) -> None:
    """Refuse a run folder that holds trials of another recipe or data set, DONE or stopped in the midst of training.

    With ``pictures`` (`Prepared.identity`), trials on sounds that have changed since are refused too.

    Raises
    ------
    RunError
        That names the first such trial.
    """
    identity = {"recipe": recipe.digest, "dataset": dataset.digest}
    if pictures is not None:
        identity["pictures"] = pictures
    names = {"recipe": "recipe", "dataset": "data set or split of it", "pictures": "state of the sound files"}
    for path in sorted(run.glob("fold-*/seed-*/trial.json")):
        if not is_done(path.parent) and not (path.parent / "checkpoint.safetensors").is_file():
            continue  # nothing was trained, as after a mistake in the recipe that this one mends
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in identity if found.get(name) != identity[name]]
        if changed:
            what = " and ".join(names[name] for name in changed)
            raise RunError(
                f"{path.parent}: holds a trial of another {what}; name another folder with --out, or remove it"
            )


def check_rows(dataset: Dataset, fold: int, train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]) -> None:
    """Refuse a fold without clips to test, or with a class that no clip outside it shows."""
    if not len(test_rows):
        raise DataError(f"fold {fold}: has no usable clip; the folds are {list(dataset.fold_numbers)}")
    absent = np.bincount(dataset.labels[train_rows], minlength=len(dataset.classes)) == 0
    if absent.any():
        names = ", ".join(np.array(dataset.classes)[absent][:3])
        raise DataError(
            f"fold {fold}: no clip of {names} outside it, so it cannot be learnt; "
            "add clips from other groups, or use fewer folds"
        )
