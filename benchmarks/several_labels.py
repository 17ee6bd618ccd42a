"""``python -m benchmarks.several_labels mix ESC OUT``, ``... rest OUT/clips.csv RUN [--folds 1,2]``: sounds at once.

``mix`` adds clips of ESC-50's layout two by two, of two classes of one fold, at a drawn level between them (the second
is up to ``--levels`` dB softer or louder); a share stays alone. Sources are paired once, so that a mixture's group is
both of its sources and no source is in two groups; folds are ESC's own, by source. Train on ``OUT/clips.csv`` with
``earsight crossval``.

``rest`` is one-against-rest in plain PyTorch beside such a run: for each fold and class a network of its own (the same
backbone, starting weights, epochs, batch size and peak rate, AdamW with a one-cycle schedule, binary cross-entropy; no
augmentation but a roll in time), on the spectrograms of the run's own front end. It prints the mean average precision
of both on each fold, by scikit-learn.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from earsight.data import audio
from earsight.evaluation.summary import read_run
from earsight.features.spectrogram import Spectrogram
from earsight.models.backbones import build
from earsight.models.modelfile import load_card


def mix(data: Path, out: Path, *, clips: int, alone: float, levels: float, seed: int) -> None:
    """Write the mixtures as FLAC, and their table."""
    with (data / "meta" / "esc50.csv").open() as file:
        rows = list(csv.DictReader(file))
    draws = np.random.default_rng(seed)
    (out / "audio").mkdir(parents=True, exist_ok=True)
    table = []
    for fold in sorted({row["fold"] for row in rows}):
        mine: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if row["fold"] == fold:
                mine.setdefault(row["src_file"], []).append(row)
        pairs = _pairs(mine, draws)
        for number in range(clips):
            one, other = pairs[number % len(pairs)]
            a, b = (mine[source][draws.integers(len(mine[source]))] for source in (one, other))
            level = float(draws.uniform(-levels, levels))
            parts = [a] if draws.random() < alone else [a, b]
            name = f"audio/{fold}-{number:04}.flac"
            _write(out / name, [data / "audio" / part["filename"] for part in parts], level)
            labels = ";".join(sorted({part["category"] for part in parts}))
            table.append([name, labels, f"{one}+{other}", fold, f"{level:.1f}" if len(parts) > 1 else ""])
    with (out / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "group", "fold", "level_db"], *table])
    print(f"{out / 'clips.csv'}: {len(table)} clips, {len({row[2] for row in table})} groups")


def _pairs(mine: dict[str, list[dict[str, str]]], draws: np.random.Generator) -> list[tuple[str, str]]:
    """Sources of a fold two by two, of different classes; one that is left over stays out."""
    left, pairs = [str(name) for name in draws.permutation(sorted(mine))], []
    while left:
        one = left.pop()
        kind = mine[one][0]["category"]
        other = next((name for name in left if mine[name][0]["category"] != kind), None)
        if other is not None:
            left.remove(other)
            pairs.append((one, other))
    return pairs


def _write(path: Path, files: list[Path], level: float) -> None:
    waves = []
    for place, file in enumerate(files):
        wave, rate = soundfile.read(file, dtype="float64", always_2d=True)
        wave = wave.mean(axis=1)
        gain = 10 ** (level / 20) if place else 1.0
        waves.append(gain * wave / max(float(np.sqrt((wave**2).mean())), 1e-6))
    length = max(map(len, waves))
    whole = sum(np.pad(wave, (0, length - len(wave))) for wave in waves)
    soundfile.write(path, 0.5 * whole / max(float(np.abs(whole).max()), 1e-6), rate)


def rest(table: Path, run: Path, *, folds: list[int], epochs: int | None) -> None:
    """Train one network a class and fold, and print the scores beside the run's."""
    trials = {(one.about["fold"], one.about["seed"]): one for one in read_run(run, several=True)}
    with table.open() as file:
        rows = list(csv.DictReader(file))
    card = load_card(next(run.glob("fold-*/seed-*/model.safetensors")))
    recipe, classes = card.recipe, card.classes
    front_end, features = Spectrogram(recipe.features).use_kernels(), recipe.features
    spectrograms = []
    for row in rows:
        wave = audio.read(
            table.parent / row["path"], sample_rate_hz=features.rate, seconds=features.samples / features.rate
        )
        with torch.inference_mode():
            spectrograms.append(front_end(torch.from_numpy(audio.fit(wave, features.samples))[None])[0])
    x = torch.stack(spectrograms)
    y = torch.tensor([[float(name in row["label"].split(";")) for name in classes] for row in rows])
    fold_of = np.array([int(row["fold"]) for row in rows])
    for fold in folds:
        held, trained = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        mean, std = x[trained].mean(dim=(0, 2, 3), keepdim=True), x[trained].std(dim=(0, 2, 3), keepdim=True)
        inputs, started = (x - mean) / std, time.monotonic()
        scores = np.stack(
            [
                _one_class(inputs, y[:, [kind]], trained, held, recipe=recipe, epochs=epochs or recipe.training.epochs)
                for kind in range(len(classes))
            ],
            axis=1,
        )
        truth = y[held].numpy()
        shown = {
            "fold": fold,
            "one_against_rest": _mean_precision(truth, scores),
            "seconds": time.monotonic() - started,
        }
        found = trials.get((fold, 0))
        if found is not None:
            shown |= {
                "earsight": _mean_precision(found.marks, found.logits),
                "earsight_seconds": found.about["seconds"],
            }
        print(json.dumps({name: round(value, 4) for name, value in shown.items()}), flush=True)


def _one_class(inputs, target, trained, held, *, recipe, epochs) -> np.ndarray:
    """Logits of the held-out clips by a network that tells one class from all else."""
    torch.manual_seed(0)
    training = recipe.training
    network = build(recipe.backbone.name, classes=1, weights=recipe.backbone.weights, seed=0)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    steps = max(1, round(len(trained) / training.batch_size))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=epochs * steps, pct_start=training.warmup
    )
    draws = np.random.default_rng(0)
    network.train()
    for _ in range(epochs):
        for batch in np.array_split(draws.permutation(trained), steps):
            part = torch.roll(inputs[batch], int(draws.integers(inputs.shape[-1])), dims=-1)
            loss = nn.functional.binary_cross_entropy_with_logits(network(part.expand(-1, 3, -1, -1)), target[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(inputs[part].expand(-1, 3, -1, -1)) for part in np.array_split(held, 8)])[
            :, 0
        ].numpy()


def _mean_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    kinds = [kind for kind in range(truth.shape[1]) if 0 < truth[:, kind].sum() < len(truth)]
    return float(np.mean([average_precision_score(truth[:, kind], scores[:, kind]) for kind in kinds]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mix", "rest"))
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--clips", type=int, default=200, help="of each fold")
    parser.add_argument("--alone", type=float, default=0.25, help="share of clips of one sound")
    parser.add_argument("--levels", type=float, default=10.0, help="largest difference of level in dB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", default="1,2,3,4,5")
    parser.add_argument("--epochs", type=int)
    given = parser.parse_args()
    if given.what == "mix":
        mix(given.first, given.second, clips=given.clips, alone=given.alone, levels=given.levels, seed=given.seed)
    else:
        rest(given.first, given.second, folds=[int(one) for one in given.folds.split(",")], epochs=given.epochs)


if __name__ == "__main__":
    main()
