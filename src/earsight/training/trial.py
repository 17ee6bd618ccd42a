"""One trial: a recipe on one fold with one seed, in a crash-safe folder.

Comes in: a `Trial` and a folder. Goes out, in ``fold-k/seed-s/``: ``history.jsonl``, ``predictions.npz``,
``model.safetensors`` and last of all ``DONE``. A trial that was killed goes on from its checkpoint and ends with the
same bits; one that is DONE is not run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import nn

from earsight.data.datasets import Dataset
from earsight.data.splits import holdout
from earsight.errors import DataError, RunError
from earsight.features.device_cache import WaveCache
from earsight.files import replace_text
from earsight.models.fast.swap import use_fast_layers
from earsight.models.stages import starting_model
from earsight.recipe import Recipe
from earsight.training.artifacts import known_sounds, tidy, write_history, write_inner, write_outcome
from earsight.training.device import memory_errors, set_up
from earsight.training.loop import Data, Fitted, fit, predict
from earsight.training.preparation import Prepared, source_of

Step = Callable[[int, int, float], None]
Epoch = Callable[[list[dict[str, Any]]], None]
_Numbers = NDArray[np.int64]


class BusyError(RunError):
    """A trial that another process is at work on."""


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
    weights: str | None = None,
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
    weights : str, optional
        Where the recipe's starting weights lie on this machine, if not where the recipe says.
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

    def work(folder: Path) -> None:
        rows = _rows(prepared, trial)
        fitted, model, data = _fitted(
            prepared, trial, rows, folder, device=device, weights=weights, on_step=on_step, on_epoch=None
        )
        logits = predict(model, data, rows.test)
        reference, distance = known_sounds(model, data, train=rows.train, test=rows.test, logits=logits)
        write_outcome(
            folder,
            prepared,
            fitted,
            data,
            fold=trial.fold,
            seed=trial.seed,
            test_rows=rows.test,
            logits=logits,
            train_clips=len(rows.train),
            reference=reference,
            distance=distance,
        )

    return _once(prepared, trial, run, work)


def run_inner(
    prepared: Prepared,
    trial: Trial,
    *,
    run: Path,
    device: torch.device,
    weights: str | None = None,
    on_step: Step | None = None,
    on_epoch: Epoch | None = None,
) -> Path:
    """Train on a part of the training folds and predict the rest of them; the held-out fold is not looked at.

    Parameters
    ----------
    prepared, trial, run, device, weights, on_step
        As for `run_trial`.
    on_epoch : callable, optional
        Called with all records so far after each epoch; each holds the ``log_loss`` and ``accuracy`` of the inner rows.

    Returns
    -------
    Path
        The trial's folder, with DONE and ``inner.npz`` in it: what the epoch that the recipe's protocol reports (the
        last one; the best for ``inner`` and ``test``) predicts for the inner rows.

    Raises
    ------
    RunError
        If the run folder holds a trial of another recipe or data set, or another process is at work on this one.
    DataError
        If a class has no clip to train on, or no clip can be set aside.
    """

    def work(folder: Path) -> None:
        train, inner = inner_split(prepared, trial.fold)
        rows = _Rows(train=train, score=inner, pick=prepared.recipe.training.protocol != "last", test=inner)
        fitted, model, data = _fitted(
            prepared, trial, rows, folder, device=device, weights=weights, on_step=on_step, on_epoch=on_epoch
        )
        logits = predict(model, data, inner)
        write_inner(folder, prepared, fitted, fold=trial.fold, seed=trial.seed, inner_rows=inner, logits=logits)

    return _once(prepared, trial, run, work)


def _once(prepared: Prepared, trial: Trial, run: Path, work: Callable[[Path], None]) -> Path:
    """The trial's folder, after the work in it if it is not DONE."""
    folder = trial.folder(run)
    check_run(prepared.dataset, prepared.recipe, run, spectrograms=prepared.identity)
    if is_done(folder):
        tidy(folder)
        return folder
    with lock_trial(folder):
        if not is_done(folder):  # another process may have ended it meanwhile
            started = time.monotonic()
            with memory_errors():
                work(folder)
            replace_text(folder / "DONE", f"{time.monotonic() - started:.1f} s\n")
            tidy(folder)
    return folder


def lock_trial(folder: Path) -> AbstractContextManager[Any]:
    """Keep other processes from a trial's folder, which is made, for as long as the block runs.

    Raises
    ------
    BusyError
        If another process is at work on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder.with_name(f".{folder.name}.lock")).acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"{folder}: another process is training this trial; wait for it, or end it") from error


@dataclass(frozen=True)
class _Rows:
    """What each row is for: training, scoring an epoch (and whether that picks it), being predicted, being watched."""

    train: _Numbers
    score: _Numbers | None
    pick: bool
    test: _Numbers
    watch: _Numbers | None = None


def _fitted(
    prepared: Prepared,
    trial: Trial,
    rows: _Rows,
    folder: Path,
    *,
    device: torch.device,
    weights: str | None,
    on_step: Step | None,
    on_epoch: Epoch | None,
) -> tuple[Fitted, nn.Module, Data]:
    """Name the trial in its folder, and fit a new model, or go on from the folder's checkpoint."""
    set_up(device)
    dataset, recipe = prepared.dataset, prepared.recipe
    identity = {
        "recipe": recipe.digest,
        "dataset": dataset.digest,
        "pictures": prepared.identity,
        "fold": trial.fold,
        "seed": trial.seed,
    }
    # Where the sounds lay, for what looks at the held-out clips again; no identity, for a folder may be moved.
    replace_text(folder / "trial.json", json.dumps(identity | {"root": str(dataset.root.absolute())}))
    data = _data(prepared, rows.train, device=device)
    model = starting_model(recipe, classes=data.classes, seed=trial.seed, weights=weights).to(device)
    model = model.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        use_fast_layers(model)

    def note(history: list[dict[str, Any]]) -> None:
        write_history(folder / "history.jsonl", history)
        if on_epoch:
            on_epoch(history)

    fitted = fit(
        model,
        data,
        rows.train,
        recipe=recipe,
        seed=trial.seed,
        score_rows=rows.score,
        pick_epoch=rows.pick,
        watch_rows=rows.watch,
        checkpoint=folder / "checkpoint.safetensors",
        on_step=on_step,
        on_epoch=note,
    )
    return fitted, model, data


def _rows(prepared: Prepared, trial: Trial) -> _Rows:
    dataset, training = prepared.dataset, prepared.recipe.training
    held_out = dataset.folds == trial.fold
    test = np.flatnonzero(held_out & prepared.usable)
    train = np.flatnonzero(~held_out & prepared.usable)
    check_rows(dataset, trial.fold, train, test)
    score = None
    if training.protocol == "test":
        score = test
    elif training.protocol == "inner":
        train, score = inner_split(prepared, trial.fold)
    return _Rows(train=train, score=score, pick=True, test=test, watch=test if training.watch else None)


def inner_split(prepared: Prepared, fold: int) -> tuple[_Numbers, _Numbers]:
    """Rows of the training folds that train, and the inner rows: whole groups that are set aside, by label."""
    dataset, training = prepared.dataset, prepared.recipe.training
    rows = np.flatnonzero((dataset.folds != fold) & prepared.usable)
    # One split for all seeds, so that the head and the order of the batches alone tell them apart.
    inner = holdout(dataset.labels[rows], dataset.groups[rows], fraction=training.inner_fraction, seed=0)
    return rows[~inner], rows[inner]


def _data(prepared: Prepared, train_rows: _Numbers, *, device: torch.device) -> Data:
    """The spectrograms as the network takes them, normalised by the training rows alone."""
    dataset, recipe = prepared.dataset, prepared.recipe
    source = source_of(prepared, device)
    windows = len(recipe.features.windows_ms)
    mean, std = np.zeros(windows), np.ones(windows)
    if recipe.normalize == "dataset":
        measured = source if isinstance(source, WaveCache) else prepared.store
        mean, std = measured.statistics(train_rows)
    return Data(
        source=source,
        labels=dataset.labels,
        classes=len(dataset.classes),
        mean=torch.tensor(mean, dtype=torch.float32),
        std=torch.tensor(std, dtype=torch.float32),
        device=device,
    )


def check_run(dataset: Dataset, recipe: Recipe, run: Path, *, spectrograms: str | None = None) -> None:
    """Refuse a run folder that holds trials of another recipe or data set, DONE or stopped in the midst of training.

    With ``spectrograms`` (`Prepared.identity`), trials on sounds that have changed since are refused too.

    Raises
    ------
    RunError
        That names the first such trial.
    """
    identity = {"recipe": recipe.digest, "dataset": dataset.digest}
    if spectrograms is not None:
        identity["pictures"] = spectrograms
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
