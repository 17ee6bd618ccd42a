"""Trials whose clips have several labels, never trained, for the tests of what calibrates and compares them."""

from __future__ import annotations

import numpy as np

from earsight.evaluation.summary import Predictions


def several_trials(*, folds=(1, 2), seeds=(0,), clips=60, skill=2.0, noise=1.0, distance=True, recipe="r"):
    out = []
    for fold in folds:
        truth = (np.random.default_rng([fold, 7]).random((clips, 3)) < 0.4).astype(np.float32)
        for seed in seeds:
            generator = np.random.default_rng([fold, seed, 9])
            logits = skill * (2 * truth - 1) + generator.normal(0, 2 * noise, truth.shape)
            about = {
                "fold": fold,
                "seed": seed,
                "seconds": 1.0,
                "epoch": 3,
                "protocol": "last",
                "recipe_digest": recipe,
            }
            out.append(
                Predictions(
                    clips=np.array([f"f{fold}/{n:03}.wav" for n in range(clips)]),
                    labels=np.full(clips, -1),
                    logits=logits.astype(np.float32),
                    classes=("a", "b", "c"),
                    about=about | {"recipe_digest": recipe, "dataset": {"name": "m", "classes": 3, "digest": "d" * 12}},
                    distance=generator.random(clips) if distance else None,
                    targets=truth,
                )
            )
    return out
