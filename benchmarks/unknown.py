"""``python -m benchmarks.unknown DATA --out DIR``: does a model say *unknown* where it should?

Leaves two classes out, trains on the rest, and gives each fold's calibrated model its held-out clips, the clips of
the two classes, and synthesised noise, tones and silence. Prints for each OOD score how well it separates
(AUROC) and, at the threshold that the other folds gave, how many known and unknown sounds are called unknown; and the
coverage of the sets. Pairs are neighbours in the alphabet. The first ``--chosen-on`` pairs may choose the score, the
others report it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.strange import strange_sounds
from earsight.calibration.calibrate import calibrate_run
from earsight.calibration.fit import Wanted, fit_calibration, others_of
from earsight.calibration.ood import SCORES, is_unknown, ood_scores
from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.data.layouts import open_dataset
from earsight.evaluation.summary import Predictions, read_run
from earsight.execution.schedule import run_trials
from earsight.inference.classifier import Classifier, load_classifier
from earsight.models.mahalanobis import logits_and_features, statistics_of
from earsight.recipe import load_recipe
from earsight.training.device import describe_machine
from earsight.training.preparation import prepare
from earsight.training.trial import Trial

BATCH = 16


def without(dataset: Dataset, pair: tuple[str, ...]) -> Dataset:
    """The data set without some classes."""
    return replace(
        dataset,
        name=f"{dataset.name}-without-{'-'.join(pair)}",
        clips=tuple(clip for clip in dataset.clips if clip.label not in pair),
        classes=tuple(name for name in dataset.classes if name not in pair),
    )


def outputs_of(classifier: Classifier, waves: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Logits and distances of waves."""
    (reference,) = statistics_of(classifier.model)
    logits, far = [], []
    with torch.inference_mode():
        for start in range(0, len(waves), BATCH):
            spectrograms = classifier.spectrograms(torch.from_numpy(waves[start : start + BATCH]))
            output, features = logits_and_features(classifier.model, spectrograms)
            logits.append(output.numpy())
            far.append(reference.distance(features))
    return np.concatenate(logits), np.concatenate(far)


def listen(run: Path, dataset: Dataset, pair: tuple[str, ...], trial: Predictions) -> dict[str, tuple[Any, Any]]:
    """A fold's model's outputs: kind of sound -> logits and distances; kept beside the run."""
    kept = run / f"strange-{trial.about['fold']}.npz"
    if not kept.is_file():
        classifier = load_classifier(run / f"fold-{trial.about['fold']}" / "seed-0" / "model.safetensors")
        rows = [row for row, clip in enumerate(dataset.clips) if clip.label in pair]
        waves = [audio.fit(classifier.waveform(dataset.file(row))[0], classifier.samples) for row in rows]
        sounds = {"left out": np.stack(waves)}
        sounds |= strange_sounds(rate_hz=classifier.sample_rate_hz, samples=classifier.samples)
        arrays = {}
        for kind, some in sounds.items():
            arrays[f"{kind}/logits"], arrays[f"{kind}/distance"] = outputs_of(classifier, some)
        np.savez(kept, allow_pickle=False, **arrays)
    with np.load(kept, allow_pickle=False) as file:
        kinds = [name.removesuffix("/logits") for name in file.files if name.endswith("/logits")]
        return {kind: (file[f"{kind}/logits"], file[f"{kind}/distance"]) for kind in kinds}


def fold_rows(run: Path, dataset: Dataset, pair: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row for each fold and score."""
    trials = read_run(run)
    rows = []
    for trial in trials:
        sounds = listen(run, dataset, pair, trial)
        for score in SCORES:
            calibration = fit_calibration(others_of(trial, trials), Wanted(score=score))
            if calibration.unknown is None:
                raise SystemExit(f"{run}: too few clips for a threshold; train more folds")
            threshold, temperature = calibration.unknown["threshold"], calibration.temperature
            known = ood_scores(score, trial.logits, temperature=temperature, distance=trial.distance)
            found = {
                kind: ood_scores(score, logits, temperature=temperature, distance=far)
                for kind, (logits, far) in sounds.items()
            }
            rows.append(
                {
                    **{"pair": "+".join(pair), "fold": trial.about["fold"], "score": score},
                    "false alarms": [int(is_unknown(known, threshold).sum()), len(known)],
                    "auroc": {kind: _auroc(known, other) for kind, other in found.items()},
                    "called unknown": {
                        kind: float(is_unknown(other, threshold).mean()) for kind, other in found.items()
                    },
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over pairs and folds of each score."""
    out = []
    for score in SCORES:
        some = [row for row in rows if row["score"] == score]
        if not some:
            continue
        alarms, clips = (sum(row["false alarms"][place] for row in some) for place in (0, 1))
        kinds = some[0]["auroc"]
        left_out = [row["auroc"]["left out"] for row in some]
        out.append(
            {
                **{"score": score, "folds": len(some), "false alarms": alarms / clips, "known clips": clips},
                "auroc left out, least and most": [min(left_out), max(left_out)],
                **{f"auroc {kind}": float(np.mean([row["auroc"][kind] for row in some])) for kind in kinds},
                **{f"unknown {kind}": float(np.mean([row["called unknown"][kind] for row in some])) for kind in kinds},
            }
        )
    return out


def train(dataset: Dataset, run: Path, arguments: argparse.Namespace) -> None:
    trials = [Trial(int(fold), 0) for fold in arguments.folds.split(",")]
    if not all((trial.folder(run) / "DONE").is_file() for trial in trials):
        ready = prepare(dataset, load_recipe("default", overrides=arguments.set), cache=arguments.out / "cache")
        run_trials(
            *(ready, trials),
            run=run,
            device=torch.device("cpu"),
            progress=lambda done, total, note: None,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unknown", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="runs go here; a second call goes on")
    parser.add_argument("--folds", default="1,2,3")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--chosen-on", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    pairs = [tuple(dataset.classes[place : place + 2]) for place in range(0, len(dataset.classes) - 1, 2)]
    result: dict[str, Any] = {"rows": [], "figures": {}, "machine": describe_machine(torch.device("cpu"))}
    for pair in pairs[: arguments.pairs]:
        run = arguments.out / "-".join(pair)
        train(without(dataset, pair), run, arguments)
        result["figures"]["+".join(pair)] = calibrate_run(run, Wanted())["figures"]
        result["rows"] += fold_rows(run, dataset, pair)
    chosen = {"+".join(pair) for pair in pairs[: arguments.chosen_on]}
    parts = {"chosen on": [row for row in result["rows"] if row["pair"] in chosen]}
    parts["reported on"] = [row for row in result["rows"] if row["pair"] not in chosen]
    result |= {name: table(rows) for name, rows in parts.items()}
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
        return
    for name in parts:
        for line in result[name]:
            print(name, *(f"{key}: {_shown(value)}" for key, value in line.items()), sep="\n  ")
    for pair, found in result["figures"].items():
        print(pair, json.dumps(found))


def _auroc(known: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    truth = np.concatenate([np.zeros(len(known)), np.ones(len(other))])
    return float(roc_auc_score(truth, np.concatenate([known, other])))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
