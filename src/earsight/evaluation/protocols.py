"""Accuracy of one run under each protocol: last epoch, epoch chosen on training folds, epoch chosen on the test fold.

Comes in: a run folder trained with ``training.watch=true``, so that each epoch's record in ``history.jsonl`` names the
held-out clips that it misclassifies. Goes out: the accuracy under ``last`` (the last epoch), ``inner`` (the epoch that
a part of the training folds chose, where the run is of that protocol) and ``test`` (the best epoch on the held-out fold
itself), each with a 95 % interval, and how far each lies above ``last``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import RunError
from earsight.evaluation.statistics import bootstrap_accuracy, paired_difference
from earsight.evaluation.summary import Predictions, clip_means, read_run
from earsight.files import read_lines


class Watched(NamedTuple):
    """One trial: which held-out clips each epoch has ``right``, (epochs, clips), and each protocol's epoch, from 1."""

    trial: Predictions
    right: NDArray[np.bool_]
    epochs: dict[str, int]


def compare_protocols(run: Path, *, trials: Sequence[Predictions] | None = None) -> dict[str, Any]:
    """Compare the protocols over a run's trials; default all that are DONE.

    Returns ``run``, ``protocol`` (that of the run), ``protocols`` (a row each: protocol, accuracy with mean and ci95,
    optimistic, and for all but ``last`` over_last with difference and ci95), ``trials`` (fold, seed, and each
    protocol's epoch and accuracy) and ``notes``. The interval of a difference is about the choice of clips, with the
    epochs that were chosen. RunError if the folder is no run, or an epoch was not watched.
    """
    watched = [_watched(run, trial) for trial in (read_run(run) if trials is None else trials)]
    names = [name for name in ("last", "inner", "test") if all(name in one.epochs for one in watched)]
    held_out = [one.trial for one in watched]
    right = {name: clip_means(held_out, [one.right[one.epochs[name] - 1] for one in watched]) for name in names}
    rows: list[dict[str, Any]] = []
    for name in names:
        here = right[name]
        interval = bootstrap_accuracy(here.correct, folds=here.folds, groups=here.groups)
        row: dict[str, Any] = {"protocol": name, "accuracy": interval.to_dict(), "optimistic": name == "test"}
        if name != "last":
            above = paired_difference(here.correct, right["last"].correct, folds=here.folds, groups=here.groups)
            row["over_last"] = {"difference": above.difference, "ci95": [above.low, above.high]}
        rows.append(row)
    protocol = watched[0].trial.about["protocol"]
    return {
        "run": str(run),
        "protocol": protocol,
        "protocols": rows,
        "trials": [
            {
                "fold": one.trial.about["fold"],
                "seed": one.trial.about["seed"],
                **{
                    name: {"epoch": epoch, "accuracy": float(one.right[epoch - 1].mean())}
                    for name, epoch in one.epochs.items()
                },
            }
            for one in watched
        ],
        "notes": _notes(protocol),
    }


def read_history(folder: Path, trial: Predictions) -> list[dict[str, Any]]:
    """The records of a finished trial's epochs; RunError if ``history.jsonl`` is missing, broken, or changed since."""
    path = folder / "history.jsonl"
    remedy = "remove its folder and run again"
    records = read_lines(path, what="a history of earsight", remedy=remedy, error=RunError)
    if trial.about.get("history", found := zlib.crc32(path.read_bytes())) != found:
        raise RunError(f"{path}: is damaged, for it is not what the trial wrote; {remedy}")
    return records


def _watched(run: Path, trial: Predictions) -> Watched:
    path = (folder := run / f"fold-{trial.about['fold']}" / f"seed-{trial.about['seed']}") / "history.jsonl"
    right: list[NDArray[np.bool_]] = []
    try:
        for record in read_history(folder, trial):
            held_out = record.get("held_out")
            if held_out is None:
                raise RunError(
                    f"{path}: epoch {record['epoch']} was not watched; train the run again, in another folder, "
                    "with --set training.watch=true"
                )
            row = np.ones(len(trial.clips), dtype=bool)
            row[np.asarray(held_out["wrong"], dtype=np.int64)] = False
            right.append(row)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: not a history of earsight ({error}); remove its folder and run again") from error
    if not right:
        raise RunError(f"{path}: has no epoch; remove its folder and run again")
    table = np.stack(right)
    # The first of equally good epochs, as protocol test takes it.
    epochs = {"last": len(table), "test": int(table.sum(axis=1).argmax()) + 1}
    if trial.about["protocol"] == "inner":
        epochs["inner"] = int(trial.about["epoch"])
    return Watched(trial, table, epochs)


def _notes(protocol: str) -> list[str]:
    notes = [
        "test is optimistic: it reports the epoch that the held-out fold itself chose. Only last and inner are fair."
    ]
    if protocol == "inner":
        notes.append(
            "The run follows inner: part of the training folds chose the epoch and trained nothing, in all rows."
        )
    else:
        notes.append("inner is not here: the run set no training clips aside; --set training.protocol=inner does.")
    return notes
