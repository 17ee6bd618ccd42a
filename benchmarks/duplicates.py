"""``python -m benchmarks.duplicates DATA [--seed N] [--without-esc10]``: how well near duplicates are found.

With ``--make N FOLDER`` N clips are written in place of that, a folder a class, for `earsight check FOLDER` to be timed
on: DATA's clips in turn, each at a speed of its own, seven per cent apart, so that no two are one sound.

DATA is in ESC-50's layout. Each clip gets one copy of each kind: 20 dB lower; MP3 at 64 kbit/s, Vorbis and Opus through
soundfile; trimmed by 0.1 to 1 s at the begin or the end, or at both; at 16 and at 8 kHz. Printed are the share of these
pairs that is found (with the share whose copy holds half of the sound's energy at least), and how many pairs of
original clips of different sources are called near duplicates, of how many. The thresholds in
`earsight.data.duplicates` were chosen on ESC-50 without its ESC-10.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from earsight.data import audio, duplicates
from earsight.data.layouts import open_dataset

Wave = audio.Wave
Change = Callable[[Wave, int, np.random.Generator], tuple[Wave, int]]


def coded(kind: str, coding: str, rate: int | None = None) -> Change:
    def change(wave: Wave, given: int, _: np.random.Generator) -> tuple[Wave, int]:
        use, file = rate or given, io.BytesIO()
        sound = audio.resampled(wave, rate_hz=given, sample_rate_hz=use)
        level = {"bitrate_mode": "CONSTANT", "compression_level": mp3_level(use)} if kind == "MP3" else {}
        soundfile.write(file, sound, use, format=kind, subtype=coding, **level)
        SIZES.setdefault(kind + " " + coding, []).append(8e-3 * file.tell() / (len(sound) / use))
        file.seek(0)
        return soundfile.read(file, dtype="float32")

    return change


SIZES: dict[str, list[float]] = {}


def mp3_level(rate: int) -> float:
    """The compression level that gives 64 kbit/s: libsndfile spreads the rates that MP3 knows evenly over 0 to 1."""
    low, high = (8, 160) if rate <= 24000 else (32, 320)
    return (high - 64) / (high - low)


def trimmed(begin: bool, end: bool) -> Change:
    def change(wave: Wave, rate: int, draws: np.random.Generator) -> tuple[Wave, int]:
        head, tail = (round(draws.uniform(0.1, 1) * rate) for _ in range(2))
        return wave[head if begin else 0 : len(wave) - (tail if end else 0)], rate

    return change


CHANGES: dict[str, Change] = {
    "20 dB lower": lambda wave, rate, _: (0.1 * wave, rate),
    "MP3": coded("MP3", "MPEG_LAYER_III"),
    "Vorbis": coded("OGG", "VORBIS"),
    "Opus": coded("OGG", "OPUS", 48000),
    "begin trimmed": trimmed(True, False),
    "end trimmed": trimmed(False, True),
    "both trimmed": trimmed(True, True),
    "16 kHz": lambda wave, rate, _: (soxr.resample(wave, rate, 16000), 16000),
    "8 kHz": lambda wave, rate, _: (soxr.resample(wave, rate, 8000), 8000),
}


def measure(data: Path, *, seed: int, without_esc10: bool) -> dict[str, Any]:
    dataset = open_dataset(data)
    rows = range(len(dataset.clips))
    if without_esc10:
        with (data / "meta" / "esc50.csv").open() as file:
            rows = [row for row, line in enumerate(csv.DictReader(file)) if line["esc10"].lower() != "true"]
    draws = np.random.default_rng(seed)
    waves: list[Wave] = []
    copies: list[tuple[str, int, Wave]] = []
    for place, row in enumerate(rows):
        wave, rate = soundfile.read(dataset.file(row), dtype="float32")
        waves.append(duplicates.at_rate(wave, rate))
        for name, change in CHANGES.items():
            copies.append((name, place, duplicates.at_rate(*change(wave, rate, draws))))
    began = time.process_time()
    prints = [duplicates.fingerprint(wave, duplicates.RATE) for wave in waves]
    print_ms = 1e3 * (time.process_time() - began) / len(waves)
    sources = [dataset.groups[row] for row in rows]
    began, wall = time.process_time(), time.monotonic()
    candidates = duplicates.candidates(prints)
    search, search_wall = time.process_time() - began, time.monotonic() - wall
    began = time.process_time()
    found = duplicates.near_duplicates(prints, waves.__getitem__)
    waves_ms = 1e3 * (time.process_time() - began - search) / max(1, len(candidates))
    pairs = len(waves) * (len(waves) - 1) // 2
    apart = sum(sources[one] != sources[other] for one in range(len(waves)) for other in range(one))
    named = [(one, other) for one, other, _ in found if sources[one] != sources[other]]
    recall: dict[str, Any] = {}
    for name in CHANGES:
        hits, whole = [], []
        for kind, place, copy in copies:
            if kind != name:
                continue
            both = [prints[place], duplicates.fingerprint(copy, duplicates.RATE)]
            hits.append(bool(duplicates.near_duplicates(both, [waves[place], copy].__getitem__, workers=1)))
            energy = float(np.square(duplicates.whitened(waves[place])).sum())
            whole.append("trimmed" not in name or float(np.square(duplicates.whitened(copy)).sum()) >= energy / 2)
        recall[name] = [sum(hits), len(hits), sum(h for h, w in zip(hits, whole, strict=True) if w), sum(whole)]
    total = np.array(list(recall.values())).sum(axis=0).tolist()
    return {
        "clips": len(waves),
        "recall (found, of, found where half the energy is left, of)": recall | {"all": total},
        "pairs of different sources": apart,
        "named among them": [[dataset.clips[rows[row]].path for row in pair] for pair in named],
        "pairs whose waves were compared": len(candidates),
        "kbit/s": {name: round(float(np.mean(sizes)), 1) for name, sizes in SIZES.items()},
        "fingerprint, ms of CPU a clip, decoded": round(print_ms, 2),
        "search, s of CPU and of the clock": [round(search, 2), round(search_wall, 2)],
        "search, ns of CPU a pair": round(1e9 * search / pairs),
        "waves, ms of CPU a pair": round(waves_ms, 2),
    }


def make(data: Path, folder: Path, *, count: int) -> None:
    dataset = open_dataset(data)
    for number in range(count):
        turn, row = divmod(number, len(dataset.clips))
        wave, rate = soundfile.read(dataset.file(row), dtype="float32")
        wave = soxr.resample(wave, rate, rate / (0.8 * 1.07**turn))
        place = folder / dataset.clips[row].label / f"{number:06}.flac"
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, wave, rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-esc10", action="store_true")
    parser.add_argument("--make", nargs=2, metavar=("N", "FOLDER"))
    given = parser.parse_args()
    if given.make:
        make(given.data, Path(given.make[1]), count=int(given.make[0]))
        return
    print(json.dumps(measure(given.data, seed=given.seed, without_esc10=given.without_esc10), indent=1))


if __name__ == "__main__":
    main()
