"""What a trial leaves in its folder.

Comes in: what was fitted and what it predicted. Goes out: ``history.jsonl``, ``model.safetensors``, ``predictions.npz``
and ``DONE``, each written beside its name and renamed, DONE last of all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight import __version__
from earsight.evaluation.metrics import accuracy
from earsight.models.modelfile import ModelCard, save
from earsight.models.reference import Reference
from earsight.training.loop import Data, Fitted
from earsight.training.preparation import Prepared


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
    reference: Reference | None = None,
    distance: NDArray[np.float64] | None = None,
) -> None:
    """Write the model file and the predictions of a finished trial.

    Parameters
    ----------
    folder : Path
        The trial's folder.
    prepared, fitted, data
        What was trained on, what came of it, and how pictures were normalised.
    fold, seed : int
    test_rows : ndarray of int64, shape (clips,)
    logits : ndarray of float32, shape (clips, classes)
    train_clips : int
        How many clips changed the weights.
    reference : Reference, optional
        What they look like to the network.
    distance : ndarray of float64, shape (clips,), optional
        How far the test rows are from them.
    """
    dataset, recipe = prepared.dataset, prepared.recipe
    labels = dataset.labels[test_rows]
    trained_on = {
        "dataset": dataset.name,
        "digest": dataset.digest,
        "clips_digest": dataset.clips_digest,
        "fold": fold,
        "seed": seed,
        "clips": train_clips,
        "held_out_accuracy": accuracy(labels, logits.argmax(axis=1)),
        "earsight": __version__,
    }
    card = ModelCard(
        classes=dataset.classes,
        recipe=recipe,
        mean=tuple(data.mean.tolist()),
        std=tuple(data.std.tolist()),
        trained_on=trained_on,
    )
    save(folder / "model.safetensors", state=fitted.state, card=card, references=(reference,))
    about = _about(prepared, fitted, fold=fold, seed=seed)
    path = folder / "predictions.npz"
    _write_predictions(path, prepared, rows=test_rows, logits=logits, about=about, distance=distance)


def write_inner(
    folder: Path,
    prepared: Prepared,
    fitted: Fitted,
    *,
    fold: int,
    seed: int,
    inner_rows: NDArray[np.int64],
    logits: NDArray[np.float32],
) -> None:
    """Write ``inner.npz``: as ``predictions.npz``, but of rows that were set aside from the training folds.

    Parameters
    ----------
    folder : Path
        The trial's folder.
    prepared, fitted
        What was trained on, and what came of it.
    fold, seed : int
    inner_rows : ndarray of int64, shape (clips,)
    logits : ndarray of float32, shape (clips, classes)
    """
    about = _about(prepared, fitted, fold=fold, seed=seed) | {"inner": True, "epochs": len(fitted.history)}
    _write_predictions(folder / "inner.npz", prepared, rows=inner_rows, logits=logits, about=about)


def _about(prepared: Prepared, fitted: Fitted, *, fold: int, seed: int) -> dict[str, Any]:
    dataset, recipe = prepared.dataset, prepared.recipe
    return {
        "fold": fold,
        "seed": seed,
        "seconds": round(sum(record["seconds"] for record in fitted.history), 1),
        "epoch": fitted.epoch,
        "protocol": recipe.training.protocol,
        "recipe_digest": recipe.digest,
        "dataset": {
            "name": dataset.name,
            "clips": len(dataset.clips),
            "classes": len(dataset.classes),
            "digest": dataset.digest,
            "skipped": list(prepared.skipped),
        },
    }


def tidy(folder: Path) -> None:
    """Remove from a DONE trial the checkpoint, and what kills left half written under hidden names."""
    for path in (folder / "checkpoint.safetensors", *folder.glob(".*")):
        path.unlink(missing_ok=True)


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One JSON object a line, one line an epoch."""
    replace_text(path, "".join(json.dumps(record) + "\n" for record in history))


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _write_predictions(
    path: Path,
    prepared: Prepared,
    *,
    rows: NDArray[np.int64],
    logits: NDArray[np.float32],
    about: Mapping[str, Any],
    distance: NDArray[np.float64] | None = None,
) -> None:
    dataset = prepared.dataset
    measured = {} if distance is None else {"distance": distance}
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            clip=np.array([dataset.clips[row].path for row in rows]),
            label=dataset.labels[rows],
            logits=logits,
            classes=np.array(dataset.classes),
            about=np.array(json.dumps(about)),
            **measured,
        )
    temporary.replace(path)
