"""Results of a search: each point's accuracy on the inner rows, and the points not distinguishable from the best.

Comes in: the trials' folders of each point, with ``inner.npz`` where a trial was run to its end and ``history.jsonl``
anyway. Goes out: a dict for tables, figures and JSON; accuracies between 0 and 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from earsight.errors import RunError
from earsight.evaluation import protocols
from earsight.evaluation.metrics import log_loss
from earsight.evaluation.statistics import ClipMeans, average_seeds, bootstrap_accuracy, paired_difference
from earsight.evaluation.summary import Predictions, clip_groups, read_predictions
from earsight.files import read_lines


def search_result(points: Sequence[tuple[Mapping[str, Any], Sequence[Path]]], *, metric: str) -> dict[str, Any]:
    """The points of a search, best first, from pairs of (values by field, folders of the trials).

    The metric decides (``accuracy`` or ``log_loss``), and the other one between equals. Raises `RunError` if no point
    was run to its end.

    Goes out: ``metric``, ``fields``, ``clips`` (inner clips, those of each fold counted), ``best`` (values),
    ``unclear`` (how many other points cannot be told from the best), ``points``: ``values``, ``done``, ``accuracy``
    (mean, ci95), ``log_loss``, ``behind`` (the best's accuracy less this one's: mean, ci95, p_value, beyond_noise; None
    for the best), ``epoch``, ``seconds``, ``curves`` (accuracy and log_loss by epoch, mean over the trials that reached
    it). Of a point that was stopped, accuracy and log_loss are those of its last epoch, without an interval.
    """
    found = [_point(values, folders) for values, folders in points]
    done = [(point, means) for point, means in found if means]
    if not done:
        raise RunError("no point was run to its end; the same command goes on")
    step = 1 if metric == "accuracy" else -1  # the other metric decides between equals
    done.sort(key=lambda pair: (-pair[0]["accuracy"]["mean"], pair[0]["log_loss"])[::step])
    best = done[0][1]
    for point, means in done[1:]:
        gap = paired_difference(best.correct, means.correct, folds=best.folds, groups=best.groups)
        point["behind"] = {
            "mean": gap.difference,
            "ci95": [gap.low, gap.high],
            "p_value": gap.p_value,
            "beyond_noise": gap.beyond_noise,
        }
    stopped = [point for point, means in found if not means]
    stopped.sort(key=lambda point: -len(point["curves"]["accuracy"]))
    ranked = [*(point for point, _ in done), *stopped]
    return {
        "metric": metric,
        "fields": list(points[0][0]),
        "clips": len(best.clips),
        "best": ranked[0]["values"],
        "unclear": sum(1 for point in ranked if point["behind"] and not point["behind"]["beyond_noise"]),
        "points": ranked,
    }


def _point(values: Mapping[str, Any], folders: Sequence[Path]) -> tuple[dict[str, Any], ClipMeans | None]:
    """A point as `search_result` describes it, and of one that is done each inner clip's share of right labels."""
    finished = {folder: read_predictions(folder / "inner.npz") for folder in folders if (folder / "DONE").is_file()}
    histories = [read_history(folder, finished.get(folder)) for folder in folders]
    epochs = [[record for record in records if record] for records in itertools.zip_longest(*histories)]
    curves = {
        name: [float(np.mean([record[name] for record in records])) for records in epochs]
        for name in ("accuracy", "log_loss")
    }
    out: dict[str, Any] = {
        "values": dict(values),
        "done": len(finished) == len(folders),
        "accuracy": {"mean": curves["accuracy"][-1] if epochs else None, "ci95": None},
        "log_loss": curves["log_loss"][-1] if epochs else None,
        "behind": None,
        "epoch": len(epochs),
        "seconds": round(sum(record["seconds"] for history in histories for record in history), 1),
        "curves": curves,
    }
    if not out["done"]:
        return out, None
    trials = list(finished.values())
    # A clip is another one for each fold, whose networks were trained on other clips.
    folds = np.concatenate([np.full(len(trial.clips), trial.about["fold"]) for trial in trials])
    names = np.concatenate([[f"{trial.about['fold']} {clip}" for clip in trial.clips] for trial in trials])
    right = np.concatenate([trial.correct for trial in trials])
    means = average_seeds(right, clips=names, folds=folds, groups=clip_groups(trials))
    interval = bootstrap_accuracy(means.correct, folds=means.folds, groups=means.groups)
    out["accuracy"] = {"mean": interval.mean, "ci95": [interval.low, interval.high]}
    out["log_loss"] = float(np.mean([log_loss(trial.logits, trial.labels) for trial in trials]))
    out["epoch"] = float(np.mean([trial.about["epoch"] for trial in trials]))
    return out, means


def read_history(folder: Path, ended: Predictions | None = None) -> list[dict[str, Any]]:
    """The records of a trial's epochs so far; RunError if they are not what one that has ``ended`` wrote."""
    if ended is not None:
        return protocols.read_history(folder, ended)
    path = folder / "history.jsonl"
    if not path.is_file():
        return []
    return read_lines(path, what="a history of earsight", remedy=f"remove {folder} and run again", error=RunError)
