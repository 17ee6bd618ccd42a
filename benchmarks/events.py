"""``python -m benchmarks.events BASE MODEL DATA``: are events right, of this checkout and of another one?

Builds recordings from the clips of one fold, which the model must not have seen: each clip once, without the digital
silence at its ends, every second one cut to its first two seconds, at drawn times in silence and in pink noise of -40
and -60 dBFS, with two minutes of background alone at the end. Both checkouts apply the same model file through their
own command line (``predict --hop``); one scorer judges both. Printed are, for each background and side: recall (an
event of the class overlaps the sound), the mean and median error of the onsets of those found, event F1 at onset
tolerances of 0.25, 0.5 and 1 s, and false events an hour (those that are no sound's).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.data.layouts import open_dataset
from earsight.evaluation.event_scores import Span, score_events

RATE_HZ = 44_100
BACKGROUNDS: dict[str, float | None] = {"silence": None, "pink -60": -60.0, "pink -40": -40.0}
GAP_SECONDS = (1.5, 6.0)
ALONE_SECONDS = 120.0
SHORT_SECONDS = 2.0
TOLERANCES = (0.25, 0.5, 1.0)


def pink(samples: int, *, level_db: float, chance: np.random.Generator) -> NDArray[np.float32]:
    """Noise whose power falls by 3 dB an octave from 20 Hz on, of this root mean square in dB of full scale."""
    size = 1 << (samples - 1).bit_length()
    spectrum = np.fft.rfft(chance.standard_normal(size))
    hz = np.fft.rfftfreq(size, 1 / RATE_HZ)
    wave = np.fft.irfft(spectrum * np.where(hz < 20, 0, 1 / np.sqrt(np.maximum(hz, 1))), size)[:samples]
    return np.asarray(wave * 10 ** (level_db / 20) / np.sqrt(np.square(wave).mean()), dtype=np.float32)


def sounding(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """A wave without the silence (below -80 dB of full scale) at its ends."""
    loud = np.flatnonzero(np.abs(wave) > 1e-4)
    return wave[loud[0] : loud[-1] + 1]


def build(
    dataset: Dataset, *, fold: int, level_db: float | None, seed: int, sounds: int | None = None
) -> tuple[NDArray[np.float32], list[Span]]:
    """A recording, and what sounds in it."""
    chance = np.random.default_rng([seed, fold])
    rows = chance.permutation(np.flatnonzero(dataset.folds == fold))[:sounds]
    parts: list[NDArray[np.float32]] = []
    truth: list[Span] = []
    at = 0
    for place, row in enumerate(rows):
        wave = sounding(audio.read(dataset.file(int(row)), sample_rate_hz=RATE_HZ))
        wave = wave[: round(SHORT_SECONDS * RATE_HZ)] if place % 2 else wave
        gap = round(chance.uniform(*GAP_SECONDS) * RATE_HZ)
        begin, at = at + gap, at + gap + len(wave)
        parts += [np.zeros(gap, dtype=np.float32), wave]
        truth.append(Span("", begin / RATE_HZ, at / RATE_HZ, dataset.clips[row].label))
    sound = np.concatenate([*parts, np.zeros(round(ALONE_SECONDS * RATE_HZ), dtype=np.float32)])
    if level_db is not None:
        sound = sound + pink(len(sound), level_db=level_db, chance=chance)
    return np.clip(sound, -1, 1), truth


def events_by(source: Path, model: Path, recording: Path, *, hop: float, options: list[str]) -> list[Span]:
    """The events that a checkout's command line finds."""
    words = ["predict", str(model), str(recording), "--hop", str(hop), "--csv", *options]
    done = subprocess.run(
        [sys.executable, "-m", "earsight", *words],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{source}: {done.stderr[-2000:]}")
    rows = csv.DictReader(io.StringIO(done.stdout))
    return [Span("", float(row["begin_s"]), float(row["end_s"]), row["label"]) for row in rows]


def figures(truth: list[Span], found: list[Span], *, hours: float) -> dict[str, Any]:
    """What the module's docstring names."""
    out: dict[str, Any] = {"sounds": len(truth), "events": len(found)}
    whole = score_events(truth, found, tolerance=None, hours=hours)
    out |= {"recall": whole["recall"], "false_an_hour": whole["false_an_hour"], "onset_error": whole["onset_error"]}
    for tolerance in TOLERANCES:
        scores = score_events(truth, found, tolerance=tolerance, hours=hours)
        out[f"f1_{tolerance:g}"], out[f"macro_f1_{tolerance:g}"] = scores["f1"], scores["macro_f1"]
    out["f1_overlap"] = whole["f1"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description=__doc__)
    parser.add_argument("base", type=Path, help="the other checkout")
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--fold", type=int, default=1)
    parser.add_argument("--hop", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sounds", type=int, help="only so many of the fold's clips, drawn by the seed")
    parser.add_argument("--at", type=Path, required=True, help="where recordings are written")
    parser.add_argument("--only", nargs="+", default=list(BACKGROUNDS))
    parser.add_argument("--sides", nargs="+", default=["base", "ours"])
    parser.add_argument(
        "--option", action="append", default=[], help="handed on to predict, as in --option=--threshold=0.6"
    )
    arguments = parser.parse_args()
    sides = {"base": arguments.base / "src", "ours": Path(__file__).parents[1] / "src"}
    dataset = open_dataset(arguments.data)
    arguments.at.mkdir(parents=True, exist_ok=True)
    result = []
    for name in arguments.only:
        wave, truth = build(
            dataset, fold=arguments.fold, level_db=BACKGROUNDS[name], seed=arguments.seed, sounds=arguments.sounds
        )
        path = arguments.at / f"{name.replace(' ', '')}-{arguments.fold}-{arguments.seed}.wav"
        soundfile.write(path, wave, RATE_HZ, subtype="PCM_16")
        for side in arguments.sides:
            found = events_by(
                sides[side].resolve(), arguments.model.resolve(), path, hop=arguments.hop, options=arguments.option
            )
            row = figures(truth, found, hours=len(wave) / RATE_HZ / 3600)
            result.append({"background": name, "side": side, **row})
            print(json.dumps(result[-1]), flush=True)


if __name__ == "__main__":
    main()
