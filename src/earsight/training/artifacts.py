"""Write a trial's output files, and compute the feature statistics of its training clips.

Comes in: a fitted network, its rows and logits. Goes out: ``history.jsonl``, ``model.safetensors`` with the
Mahalanobis statistics of the training clips' features, and ``predictions.npz`` or ``inner.npz``, the former with the
distance (test rows,) float64 of each held-out clip, from which `earsight calibrate` takes the OOD threshold;
``validation.npz`` is the same of a data set's validation part. Every file is replaced whole or not at all.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from earsight.evaluation.metrics import accuracy
from earsight.evaluation.multilabel import mean_average_precision
from earsight.files import json_text, replace_text, save_arrays
from earsight.models.card import ModelCard
from earsight.models.mahalanobis import MahalanobisStatistics, has_features, logits_and_features, mahalanobis_statistics
from earsight.models.modelfile import save, weights_digest
from earsight.training.batches import Data
from earsight.training.checkpoint import checkpoints
from earsight.training.loop import Fitted
from earsight.training.preparation import Prepared
from earsight.version import __version__

BATCH = 32


def feature_statistics(
    model: nn.Module, data: Data, *, train: NDArray[np.int64], test: NDArray[np.int64], logits: NDArray[np.float32]
) -> tuple[MahalanobisStatistics | None, NDArray[np.float64] | None]:
    """Mahalanobis statistics of the training rows' features (without augmentation), and the test rows' distances.

    ``train`` and ``test`` are clips; ``logits`` float32 (test clips, classes) are what `earsight.training.loop.predict`
    gives for the latter; distances are float64 (test clips,), means over the windows of a clip that has several. Both
    are None where the network's last layer has no features to take.
    """
    head = model.get_classifier() if has_features(model) else None  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return None, None
    cut = data.cut
    again, features = _features(model, data, cut.rows_of(test))
    # A head with more than one linear layer (a scale, a second classifier) takes no single feature vector.
    if not np.allclose(cut.log_means(test, again, several=data.several), logits, atol=1e-4, rtol=1e-4):
        return None, None
    rows = cut.rows_of(train)
    reference = mahalanobis_statistics(
        _features(model, data, rows)[1].numpy(), data.labels[cut.clips[rows]], classes=data.classes
    )
    return reference, None if reference is None else cut.means(test, reference.distance(features))


def distances(
    model: nn.Module, data: Data, rows: NDArray[np.int64], statistics: MahalanobisStatistics | None
) -> NDArray[np.float64] | None:
    """The distances of other clips from those training clips, as `feature_statistics` gives those of test clips."""
    if statistics is None:
        return None
    return data.cut.means(rows, statistics.distance(_features(model, data, data.cut.rows_of(rows))[1]))


def _features(model: nn.Module, data: Data, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], torch.Tensor]:
    """Logits and last-layer inputs of spectrograms without augmentation, on the CPU."""
    model.eval()
    with torch.inference_mode():
        parts = [
            [part.float().cpu() for part in logits_and_features(model, data.spectrograms(rows[start : start + BATCH]))]
            for start in range(0, len(rows), BATCH)
        ]
    logits, features = (torch.cat(column) for column in zip(*parts, strict=True))
    return logits.numpy(), features


def write_outcome(
    folder: Path,
    prepared: Prepared,
    fitted: Fitted,
    data: Data,
    *,
    fold: int,
    seed: int,
    test_rows: NDArray[np.int64],
    logits: NDArray[np.float32],
    train_clips: int,
    statistics: MahalanobisStatistics | None = None,
    distance: NDArray[np.float64] | None = None,
) -> None:
    """Write the model file of a finished trial, and its predictions: logits float32 (test rows, classes).

    ``train_clips`` clips changed the weights; ``statistics`` are of their features, and ``distance`` float64 (test
    rows,) is how far the test rows are from them.
    """
    dataset, recipe = prepared.dataset, prepared.recipe
    if dataset.several:
        score = {"held_out_average_precision": mean_average_precision(dataset.targets[test_rows], logits)}
    else:
        score = {"held_out_accuracy": accuracy(dataset.labels[test_rows], logits.argmax(axis=1))}
    trained_on = {
        **({} if prepared.teaching is None else {"teachers": prepared.teaching.digests[fold]}),
        "dataset": dataset.name,
        "digest": dataset.digest,
        "clips_digest": dataset.clips_digest,
        "fold": fold,
        "seed": seed,
        "clips": train_clips,
        **score,
        "earsight": __version__,
    }
    mean, std = tuple(data.mean.tolist()), tuple(data.std.tolist())
    card = ModelCard(
        *(dataset.classes, recipe, mean, std),
        trained_on=trained_on,
        several=dataset.several,
        background=dataset.background,
    )
    save(folder / "model.safetensors", state=fitted.state, card=card, statistics=(statistics,))
    # Which weights predicted: a model file of another training in this folder is then noticed.
    weights = weights_digest(folder / "model.safetensors")
    about = _about(prepared, fitted, fold=fold, seed=seed) | {"weights": weights}
    path = folder / "predictions.npz"
    _write_predictions(path, prepared, rows=test_rows, logits=logits, about=about, distance=distance)


def write_inner(
    folder: Path,
    prepared: Prepared,
    fitted: Fitted,
    *,
    fold: int,
    seed: int,
    rows: NDArray[np.int64],
    logits: NDArray[np.float32],
    distance: NDArray[np.float64] | None = None,
    part: int | None = None,
) -> None:
    """Write ``inner.npz``: as ``predictions.npz``, but of rows that were set aside from the training folds.

    Of a data set's own ``part``, which calibrates, it is ``validation.npz``.
    """
    how = {"inner": True, "epochs": len(fitted.history)} if part is None else {"part": part}
    about = _about(prepared, fitted, fold=fold, seed=seed) | how
    path = folder / ("inner.npz" if part is None else "validation.npz")
    _write_predictions(path, prepared, rows=rows, logits=logits, about=about, distance=distance)


def _about(prepared: Prepared, fitted: Fitted, *, fold: int, seed: int) -> dict[str, Any]:
    dataset, recipe = prepared.dataset, prepared.recipe
    return {
        "fold": fold,
        "seed": seed,
        "seconds": round(sum(record["seconds"] for record in fitted.history), 1),
        "epoch": fitted.epoch,
        "protocol": recipe.training.protocol,
        "recipe_digest": recipe.digest,
        "windows": recipe.training.windows,
        "identity": prepared.identity,
        "history": zlib.crc32(_history_text(fitted.history).encode()),
        **({} if prepared.teaching is None else {"teachers": prepared.teaching.digests[fold]}),
        "dataset": {
            "name": dataset.name,
            "clips": len(dataset.clips),
            "classes": len(dataset.classes),
            "digest": dataset.digest,
            "skipped": [*prepared.skipped, *dataset.missing],
            "options": list(dataset.options),
            "held_out": dataset.held_out,
        },
    }


def tidy(folder: Path) -> None:
    """Remove a DONE trial's checkpoints and the half-written hidden files that kills left."""
    for path in (*checkpoints(folder), *folder.glob(".*")):
        path.unlink(missing_ok=True)


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One JSON object a line, one line an epoch."""
    replace_text(path, _history_text(history))


def _history_text(history: list[dict[str, Any]]) -> str:
    return "".join(json_text(record) + "\n" for record in history)


def _write_predictions(
    path: Path,
    prepared: Prepared,
    *,
    rows: NDArray[np.int64],
    logits: NDArray[np.float32],
    about: Mapping[str, Any],
    distance: NDArray[np.float64] | None = None,
) -> None:
    dataset, cut = prepared.dataset, prepared.windows
    measured: dict[str, NDArray[Any]] = {} if distance is None else {"distance": distance}
    if prepared.recipe.training.windows == "all":
        about = {**about, "pooled": 0 if cut is None else int((cut.counts(rows) > 1).sum())}
    if dataset.sources_known:
        measured["group"] = dataset.groups[rows]
    measured["target" if dataset.several else "label"] = (dataset.targets if dataset.several else dataset.labels)[rows]
    if cut is None and not any(dataset.clips[row].part for row in rows):
        measured["sound"] = np.asarray(prepared.store.sounds)[rows]
    names = np.array([dataset.clips[row].name for row in rows])
    save_arrays(path, about, {"clip": names, "logits": logits, "classes": np.array(dataset.classes), **measured})
