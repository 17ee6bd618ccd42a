"""One trial: a recipe on one fold with one seed, in a crash-safe folder.

Comes in: a `Trial` and a run folder. Goes out, in ``fold-k/seed-s/``: ``history.jsonl``, ``model.safetensors``,
``predictions.npz``, of data sets with a validation part ``validation.npz``, and last of all ``DONE``. A trial that was
killed goes on from its checkpoint and ends with the same bits; one that is DONE is not run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import nn

from earsight.data.datasets import Dataset
from earsight.data.duplicates import joined
from earsight.data.splits import VALIDATION, holdout_sounds
from earsight.errors import DataError, RunError
from earsight.evaluation.summary import check_place
from earsight.features.device_cache import WaveCache
from earsight.files import read_state, replace_text, write_state
from earsight.models.fast.swap import use_fast_layers
from earsight.models.stages import starting_model
from earsight.recipe import Recipe
from earsight.training.artifacts import distances, feature_statistics, tidy, write_history, write_inner, write_outcome
from earsight.training.batches import Data
from earsight.training.checkpoint import checkpoints, has_checkpoint
from earsight.training.device import memory_errors, set_up
from earsight.training.loop import Fitted, fit, predict
from earsight.training.optim import start_at_prior
from earsight.training.preparation import APART, ONE_CLIP, Prepared, source_of
from earsight.training.teachers import Teacher, Teaching, check_taught

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


@dataclass
class Start:
    """Results of the checks before spectrograms are computed: the run folder matches, the network can be built.

    ``begun`` are the identities of the trials in the run folder that are DONE or have a checkpoint, by their folders;
    ``networks`` the starting networks that were built to check the recipe, by seed, for the first trials to take.
    """

    begun: Mapping[Path, Mapping[str, Any]]
    networks: dict[int, nn.Module] = field(default_factory=dict)


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
    start: Start | None = None,
) -> Path:
    """Train on every fold but one, predict that one, and write the trial's folder, which is returned with DONE in it.

    ``run`` is the run folder; ``weights`` the path of the recipe's starting weights on this machine, if not that in the
    recipe; ``start`` comes from `check_run`, if the run folder has been checked before. ``on_step`` is called with
    (steps done, steps in all, loss).

    RunError if the run folder holds a trial of another recipe or data set, or another process runs this trial;
    DataError if the fold has no test clip, or a class has no training clip.
    """
    start = _checked(prepared, run, start)

    def work(folder: Path) -> None:
        rows = _rows(prepared, trial)
        fitted, model, data = _fitted(
            *(prepared, trial, rows, folder), start=start, device=device, weights=weights, on_step=on_step
        )
        logits = predict(model, data, rows.test)
        statistics, distance = feature_statistics(model, data, train=rows.train, test=rows.test, logits=logits)
        given = np.flatnonzero(prepared.dataset.validation & prepared.usable)
        if len(given):
            about = {"fold": trial.fold, "seed": trial.seed, "part": VALIDATION}
            far, found = distances(model, data, given, statistics), predict(model, data, given)
            write_inner(folder, prepared, fitted, rows=given, logits=found, distance=far, **about)
        write_outcome(
            *(folder, prepared, fitted, data),
            fold=trial.fold,
            seed=trial.seed,
            test_rows=rows.test,
            logits=logits,
            train_clips=len(rows.train),
            statistics=statistics,
            distance=distance,
        )

    return _once(trial.folder(run), _identity(prepared, trial), work)


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
    """Train on a part of the training folds and predict the rest of them; the held-out fold is not used.

    As `run_trial`, but the folder holds ``inner.npz``: what the epoch that the recipe's protocol reports (the last one;
    the best for ``inner`` and ``test``) predicts for the inner rows. ``on_epoch`` is called after each epoch with all
    records so far, each with the ``log_loss`` and ``accuracy`` of the inner rows. Raises `DataError` also if no clip
    can be set aside.
    """
    start = _checked(prepared, run, None)

    def work(folder: Path) -> None:
        train, inner = inner_split(prepared, trial.fold)
        rows = _Rows(train=train, score=inner, pick=prepared.recipe.training.protocol != "last", test=inner)
        fitted, model, data = _fitted(
            *(prepared, trial, rows, folder),
            start=start,
            device=device,
            weights=weights,
            on_step=on_step,
            on_epoch=on_epoch,
        )
        logits = predict(model, data, inner)
        write_inner(folder, prepared, fitted, fold=trial.fold, seed=trial.seed, rows=inner, logits=logits)

    return _once(trial.folder(run), _identity(prepared, trial), work)


def _identity(prepared: Prepared, trial: Trial) -> dict[str, Any]:
    """Recipe and data of a trial, and the state of the sound files, as in ``trial.json``."""
    dataset, recipe = prepared.dataset, prepared.recipe
    identity = {"recipe": recipe.digest, "dataset": dataset.digest, "pictures": prepared.identity}
    # `root` is not compared, since folders move; later analyses use it to find the held-out clips.
    about = {"fold": trial.fold, "seed": trial.seed, "root": str(dataset.root.absolute())}
    twins = {} if prepared.twins_drawn == APART else {"twins": prepared.twins_drawn}  # in the inner split
    teachers = {} if prepared.teaching is None else {"teachers": prepared.teaching.digests[trial.fold]}
    return identity | about | {"windows": recipe.training.windows} | twins | teachers


def _once(folder: Path, identity: dict[str, Any], work: Callable[[Path], None]) -> Path:
    """Do the work in the trial's folder unless it is DONE, and return the folder."""
    if is_done(folder):
        tidy(folder)
        return folder
    with lock_trial(folder):
        # Another process may have trained here since the run folder was checked.
        found = _begun(folder)
        if found is not None:
            _check_same({folder: found}, {key: identity.get(key) for key in _NAMES})
        if not is_done(folder):
            started = time.monotonic()
            for part in folder.glob(".*.part"):  # left by a kill, and as large as a checkpoint
                part.unlink()
            write_state(folder / "trial.json", identity)
            with memory_errors():
                work(folder)
            replace_text(folder / "DONE", f"{time.monotonic() - started:.1f} s\n")
            tidy(folder)
    return folder


def lock_trial(folder: Path) -> AbstractContextManager[Any]:
    """Keep other processes from a trial's folder, which is made, while the block runs; `BusyError` if one is there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder.with_name(f".{folder.name}.lock")).acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"{folder}: another process is training this trial; wait for it, or end it") from error


@dataclass(frozen=True)
class _Rows:
    """Rows to train on, to score an epoch (and whether that picks it), to predict, and to watch."""

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
    start: Start,
    device: torch.device,
    weights: str | None,
    on_step: Step | None,
    on_epoch: Epoch | None = None,
) -> tuple[Fitted, nn.Module, Data]:
    """Fit the starting network to the training rows, or resume from the folder's checkpoint."""
    set_up(device)
    data = _data(prepared, rows.train, device=device)
    model = start.networks.pop(trial.seed, None)  # built when the recipe was checked
    if model is None:
        model = starting_model(prepared.recipe, classes=data.classes, seed=trial.seed, weights=weights)
    if data.several:
        start_at_prior(model, data.labels[rows.train])
    model = model.to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        use_fast_layers(model)

    def note(history: list[dict[str, Any]]) -> None:
        write_history(folder / "history.jsonl", history)
        if on_epoch:
            on_epoch(history)

    fitted = fit(
        *(model, data, rows.train),
        recipe=prepared.recipe,
        seed=trial.seed,
        score_rows=rows.score,
        pick_epoch=rows.pick,
        watch_rows=rows.watch,
        checkpoint=checkpoints(folder)[0],
        on_step=on_step,
        on_epoch=note,
        teacher=None if prepared.teaching is None else _teacher(prepared, prepared.teaching, trial, data),
    )
    return fitted, model, data


def _teacher(prepared: Prepared, teaching: Teaching, trial: Trial, data: Data) -> Teacher:
    """The teachers of the held-out fold, and the student's clips as they see them."""
    recipe, apart = prepared.recipe, prepared.taught
    network = teaching.network(trial.fold, temperature=recipe.distillation.temperature)
    if apart is not None:
        # What masks blank out is the mean of the training clips, as the teachers had it.
        mean, std = (network.get_buffer(name)[0].flatten() for name in ("mean", "std"))
        data = replace(data, source=source_of(apart, data.device), mean=mean, std=std)
    return Teacher(network, data, apart=apart is not None, precision=recipe.training.precision)


def _rows(prepared: Prepared, trial: Trial) -> _Rows:
    training = prepared.recipe.training
    held_out = prepared.dataset.folds == trial.fold
    test = np.flatnonzero(held_out & prepared.usable)
    train = np.flatnonzero(prepared.dataset.training(trial.fold) & prepared.usable)
    check_rows(prepared.dataset, trial.fold, train, test)
    score = test if training.protocol == "test" else None
    if training.protocol == "inner":
        train, score = inner_split(prepared, trial.fold)
    return _Rows(train=train, score=score, pick=True, test=test, watch=test if training.watch else None)


def inner_split(prepared: Prepared, fold: int) -> tuple[_Numbers, _Numbers]:
    """Split the training folds into rows to train on and inner rows: whole source groups, stratified by label.

    Clips of the same sound stay on one side, and count as one. A data set that brings a validation part has its inner
    rows from there.
    """
    dataset, training = prepared.dataset, prepared.recipe.training
    rows = np.flatnonzero(dataset.training(fold) & prepared.usable)
    given = np.flatnonzero(dataset.validation & prepared.usable)
    if len(given):
        return rows, given
    # One split for all seeds: they differ only in the head's start and the order of the batches.
    twins = [] if prepared.twins_drawn == APART else prepared.twins
    copies = twins if prepared.twins_drawn == ONE_CLIP else []
    groups = joined(dataset.groups, twins)
    inner = holdout_sounds(dataset.strata, groups, rows, copies, fraction=training.inner_fraction, seed=0)
    return rows[~inner], rows[inner]


def _data(prepared: Prepared, train_rows: _Numbers, *, device: torch.device) -> Data:
    """The spectrograms, normalised by the statistics of the training rows only."""
    dataset, recipe = prepared.dataset, prepared.recipe
    source = source_of(prepared, device)
    windows = len(recipe.features.windows_ms)
    mean, std = np.zeros(windows), np.ones(windows)
    if recipe.normalize == "dataset":
        measured = source if isinstance(source, WaveCache) else prepared.store
        cut = prepared.windows
        mean, std = measured.statistics(cut.rows_of(train_rows) if cut else train_rows)
    return Data(
        source=source,
        labels=dataset.targets if dataset.several else dataset.labels,
        classes=len(dataset.classes),
        mean=torch.tensor(mean, dtype=torch.float32),
        std=torch.tensor(std, dtype=torch.float32),
        device=device,
        windows=prepared.windows,
        background=_backgrounds(dataset, train_rows) if recipe.augment.background else None,
    )


def _backgrounds(dataset: Dataset, train_rows: _Numbers) -> NDArray[np.bool_]:
    """The clips that hold none of the classes, (clips,); `DataError` if none of them trains."""
    own = "" if dataset.several else dataset.background
    mask = np.array([clip.label == own for clip in dataset.clips])
    if not mask[train_rows].any():
        raise DataError("augment.background adds background of the training clips, and none of them is; set it to 0")
    return mask


_NAMES = {
    "recipe": "recipe",
    "dataset": "data set or split of it",
    "pictures": "state of the sound files",
    "teachers": "set of teachers",
}
"""Descriptions of a trial's identity keys, for messages."""


def check_run(
    dataset: Dataset, recipe: Recipe, run: Path, *, spectrograms: str | None = None, teaching: Teaching | None = None
) -> Start:
    """Raise if a run folder holds finished or interrupted trials of another recipe or data set, or other teachers.

    With ``spectrograms`` (`Prepared.identity`), trials on sounds that have changed since are refused too. The
    `RunError` names the first such trial.
    """
    if recipe.augment.background:
        check_background(dataset, recipe)
    if recipe.distillation.weight or teaching is not None:
        check_taught(dataset, recipe, teaching)
    wanted = {"recipe": recipe.digest, "dataset": dataset.digest}
    wanted |= {} if spectrograms is None else {"pictures": spectrograms}
    begun = _begun_trials(run)
    for folder, found in begun.items():
        digests = {} if teaching is None else {"teachers": teaching.digests.get(found.get("fold", 0))}
        _check_same({folder: found}, wanted | digests)
    return Start(begun)


def _checked(prepared: Prepared, run: Path, start: Start | None) -> Start:
    """Check the run folder, once the spectrograms' identity is known."""
    if start is None:
        return check_run(
            prepared.dataset, prepared.recipe, run, spectrograms=prepared.identity, teaching=prepared.teaching
        )
    _check_same(start.begun, {"pictures": prepared.identity})
    return start


def _begun_trials(run: Path) -> dict[Path, dict[str, Any]]:
    """The identity of each trial in a run folder that is DONE or has a checkpoint, by its folder."""
    found = {path.parent: _begun(path.parent) for path in sorted(run.glob("fold-*/seed-*/trial.json"))}
    return {folder: identity for folder, identity in found.items() if identity is not None}


def _begun(folder: Path) -> dict[str, Any] | None:
    """A trial's identity; None if training never started, e.g. because the recipe was wrong and has been fixed."""
    path = folder / "trial.json"
    if not path.is_file() or not (is_done(folder) or has_checkpoint(folder)):
        return None
    remedy = f"remove {folder} and give the command again: this trial is then trained anew"
    found = read_state(path, {"recipe": str, "dataset": str}, remedy=remedy, error=RunError)
    check_place(folder, found)
    return found


def _check_same(begun: Mapping[Path, Mapping[str, Any]], wanted: Mapping[str, Any]) -> None:
    for folder, found in begun.items():
        changed = [name for name in wanted if found.get(name) != wanted[name]]
        if changed:
            what = " and ".join(_NAMES[name] for name in changed)
            raise RunError(f"{folder}: holds a trial of another {what}; name another folder with --out, or remove it")


def check_background(dataset: Dataset, recipe: Recipe) -> None:
    """Raise if background is to be added to clips and there is none, or not as sums of powers."""
    if dataset.background is None:
        raise DataError(
            f"augment.background={recipe.augment.background:g} adds background to clips, and no clip is background: "
            "name a folder, a label or boxes 'background', add --complete to --boxes, or set augment.background=0"
        )
    if recipe.features.representation == "mfcc":
        raise DataError("augment.background adds powers in bands, which MFCCs do not keep; use log_mel, or set it to 0")


def check_rows(dataset: Dataset, fold: int, train_rows: _Numbers, test_rows: _Numbers) -> None:
    """Raise if the fold cannot be held out or has no test clips, or a class has no training clip."""
    if not len(test_rows) or fold not in dataset.fold_numbers:
        raise DataError(f"fold {fold}: has no usable clip; the folds are {list(dataset.fold_numbers)}")
    absent = dataset.sizes(train_rows) == 0
    # Of several labels rare ones may be absent: the data set's notes say so.
    if absent.any() and (not dataset.several or absent.all()):
        names = ", ".join(np.array(dataset.classes)[absent][:3])
        raise DataError(
            f"fold {fold}: no clip of {names} outside it, so it cannot be learnt; "
            "add clips from other groups, or use fewer folds"
        )
