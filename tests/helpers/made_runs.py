"""Predictions of runs that were never trained, for the tests of what compares and combines them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from earsight.evaluation.summary import Predictions

CLASSES = ("cat", "dog", "owl")
DATASET = {"name": "mine", "clips": 60, "classes": 3, "digest": "d" * 12, "skipped": []}


def trial(fold, seed, labels, logits, *, clips=None, classes=CLASSES, **about):
    names = [f"f{fold}/{n:03}.wav" for n in range(len(labels))] if clips is None else clips
    return Predictions(
        clips=np.array(names),
        labels=np.asarray(labels, dtype=np.int64),
        logits=np.asarray(logits, dtype=np.float32),
        classes=classes,
        about={
            **{"fold": fold, "seed": seed, "seconds": 1.5, "epoch": 3, "protocol": "last", "recipe_digest": "r"},
            **{"dataset": DATASET, **about},
        },
    )


def answered(fold, seed, labels, right, **more):
    """A trial that is right exactly where it is said to be."""
    labels, right = np.asarray(labels), np.asarray(right, dtype=bool)
    guess = np.where(right, labels, (labels + 1) % 3)
    return trial(fold, seed, labels, 5.0 * np.eye(3)[guess], **more)


def drawn(folds, seeds, *, generator, clips=12, rate=0.8, **more):
    """Trials of unequal folds, right at a rate; the same labels whatever the generator."""
    out = []
    for fold in folds:
        labels = np.random.default_rng(fold).integers(3, size=clips + fold)
        out += [answered(fold, seed, labels, generator.random(len(labels)) < rate, **more) for seed in seeds]
    return out


def write(run: Path, one: Predictions, *, history=None) -> Path:
    folder = run / f"fold-{one.about['fold']}" / f"seed-{one.about['seed']}"
    folder.mkdir(parents=True)
    np.savez(
        folder / "predictions.npz",
        **{"clip": one.clips, "label": one.labels, "logits": one.logits, "classes": np.array(one.classes)},
        about=np.array(json.dumps(one.about)),
    )
    if history is not None:
        (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in history))
    (folder / "DONE").touch()
    return folder
