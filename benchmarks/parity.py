"""``python -m benchmarks.parity RUN DATA``: model files, given the audio alone, against their trials' predictions.

The predictions came from the store of spectrograms, the model file reads the sound files: training and serving are one
path where the labels are equal and the probabilities within 1e-3.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from earsight.data.layouts import open_dataset
from earsight.evaluation.metrics import softmax
from earsight.evaluation.summary import read_run
from earsight.inference.classifier import load_classifier

ALLOWED = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    root = open_dataset(arguments.data).root
    worst, other = 0.0, 0
    for trial in read_run(arguments.run):
        fold, seed = trial.about["fold"], trial.about["seed"]
        classifier = load_classifier(arguments.run / f"fold-{fold}" / f"seed-{seed}" / "model.safetensors")
        stored = softmax(trial.logits / classifier.card.temperature)
        given = np.zeros_like(stored)
        files = [root / clip for clip in trial.clips]
        for row, found in enumerate(classifier.predict_files(files)):
            given[row] = [dict(zip(found.classes, found.probabilities, strict=True))[name] for name in trial.classes]
        gap = float(np.abs(given - stored).max())
        changed = int((given.argmax(axis=1) != stored.argmax(axis=1)).sum())
        print(f"fold {fold} seed {seed}: {len(files)} files, {changed} other labels, largest difference {gap:.1e}")
        worst, other = max(worst, gap), other + changed
    if other or worst > ALLOWED:
        raise SystemExit(f"{other} other labels, largest difference {worst:.1e}; allowed: none and {ALLOWED:g}")


if __name__ == "__main__":
    main()
