"""``python -m benchmarks [DATA] [--only PART ...] [--rounds N] [--json]``: ratios of the reference's time to ours.

Both sides run in one process family, in turn, several rounds; what is printed are the medians and the spread of the
ratios. Parts: spectrograms, augmentation, train:BACKBONE, fold, predict, start, memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import measures, processes
from earsight.data.datasets import Dataset
from earsight.data.layouts import open_dataset
from earsight.training.device import describe_machine
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial

PARTS = (
    "spectrograms",
    "spectrograms:wav",
    "augmentation",
    "train:tf_efficientnet_lite0",
    "train:resnet50",
    "train:densenet201",
    "predict",
    "start",
    "memory",
    "fold",
)


def pairs(part: str, dataset: Dataset, rounds: int) -> Iterator[measures.Pair]:
    name, _, backbone = part.partition(":")
    if name == "spectrograms":
        return measures.spectrograms(measures.Setting(dataset, rounds, 200), wav=backbone == "wav")
    if name == "augmentation":
        return measures.augmentation(measures.Setting(dataset, rounds, 8))
    if name == "train":
        return measures.training(measures.Setting(dataset, rounds, 2), backbone=backbone)
    if name == "predict":
        return measures.prediction(measures.Setting(dataset, rounds, 400))
    if name == "fold":
        return measures.fold(measures.Setting(dataset, rounds, 0))
    raise SystemExit(f"{part}: no such part; known: {', '.join(PARTS)}")


def ratio_row(part: str, found: list[measures.Pair]) -> dict[str, Any]:
    ratios = [pair.reference / pair.ours for pair in found]
    return {
        "part": part,
        "rounds": len(found),
        "reference_per_s": statistics.median(pair.items / pair.reference for pair in found),
        "ours_per_s": statistics.median(pair.items / pair.ours for pair in found),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "note": "; ".join(dict.fromkeys(pair.note for pair in found if pair.note)),
    }


def starts(dataset: Dataset, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        recipe = measures.Setting(dataset, 1, 1).recipe.override(["training.epochs=1", "backbone.weights=none"])
        done = run_trial(prepare(dataset, recipe), Trial(1, 0), run=Path(folder), device=torch.device("cpu"))
        found = processes.cold_starts(done / "model.safetensors", dataset.file(0), rounds=rounds)
    return [
        {"part": name, "rounds": rounds, "seconds": statistics.median(times), "min": min(times), "max": max(times)}
        for name, times in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data/esc10"))
    parser.add_argument("--only", nargs="+", default=list(PARTS), metavar="PART")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    rows: list[dict[str, Any]] = []
    for part in arguments.only:
        if part == "start":
            found = starts(dataset, arguments.rounds)
        elif part == "memory":
            found = [
                {"part": f"memory of {name}, MiB at 100 and at 1000 clips", "first": a, "second": b, "ratio": b / a}
                for name, (a, b) in processes.memory(clips=100).items()
            ]
        else:
            found = [ratio_row(part, list(pairs(part, dataset, arguments.rounds)))]
        rows += found
        for row in found:
            cells = (
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
            sys.stderr.write("  ".join(cells) + "\n")
    if arguments.json:
        json.dump({"machine": describe_machine(torch.device("cpu")), "rows": rows}, sys.stdout, indent=2)
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
