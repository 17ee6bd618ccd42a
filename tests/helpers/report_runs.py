"""Run folders that were never trained, with names and sounds as asked, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from earsight.recipe import Recipe, load_recipe

MACHINE = {"device": "a small machine", "cores": 2}


def small_recipe(*changes: str) -> Recipe:
    """Spectrograms of half a second at 8 kHz."""
    recipe = load_recipe("default", overrides=["features.bands=16", "backbone.name=test_resnet", *changes])
    return recipe.resolve(sample_rate_hz=8000, clip_seconds=0.5, frames=20)


def make_run(
    run: Path,
    *,
    classes=("cat", "dog", "owl"),
    folds=(1, 2),
    seeds=(0,),
    clips=12,
    skill=1.5,
    draw=0,
    recipe=None,
    root=None,
    history=True,
    logits=None,
    **about,
):
    """A run folder; with a root its clips lie there as sounds. ``logits`` takes (labels, generator)."""
    recipe = recipe or small_recipe()
    generator = np.random.default_rng(draw)
    for fold in folds:
        labels = np.arange(clips) % len(classes)
        names = [f"fold{fold}/{number:03} é.wav" for number in range(clips)]
        for seed in seeds:
            scores = generator.normal(size=(clips, len(classes)))
            scores[np.arange(clips), labels] += skill
            scores = scores if logits is None else logits(labels, generator)
            folder = run / f"fold-{fold}" / f"seed-{seed}"
            folder.mkdir(parents=True)
            told = {
                "fold": fold,
                "seed": seed,
                "seconds": 60.0,
                "epoch": 3,
                "protocol": recipe.training.protocol,
                "recipe_digest": recipe.digest,
                "dataset": {"name": "mine", "clips": 99, "classes": len(classes), "digest": "d" * 12, "skipped": []},
            }
            told["dataset"] |= about.get("dataset", {})
            np.savez(
                folder / "predictions.npz",
                clip=np.array(names),
                label=labels,
                logits=scores.astype(np.float32),
                classes=np.array(classes),
                about=np.array(json.dumps(told)),
            )
            if history:
                rows = [{"epoch": n, "loss": 1 / n, "learning_rate": 0.1 / n, "seconds": 1.0} for n in (1, 2, 3)]
                (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "trial.json").write_text(json.dumps({"root": str(root)} if root else {}))
            (folder / "DONE").touch()
        if root:
            (root / f"fold{fold}").mkdir(parents=True, exist_ok=True)
            for number, name in enumerate(names):
                wave = np.sin(np.arange(4000) * 0.05 * (1 + number % 5)) * 0.5
                soundfile.write(root / name, wave, 8000)
    (run / "recipe.yaml").write_text(recipe.to_yaml())
    (run / "summary.json").write_text(json.dumps({"machine": MACHINE}))
    return run
