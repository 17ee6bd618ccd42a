"""``python -m benchmarks.recordings_made ESC50 OUT [--recordings 6] [--minutes 10]``: recordings with known boxes.

Writes long recordings out of the clips of an ESC-50 copy: what sounds in a clip (within 40 dB of its loudest moment)
is put at a drawn time and level over a background of rain, wind, waves or crickets, several at once where times meet
(``--overlap`` of them are put on purpose within the one before). Recording i takes events and background from the
sources of one official fold alone, so that a split by recording is one by source. ``OUT/recordings/*.flac`` are the
sounds, ``OUT/boxes.csv`` has path, begin, end, label, fmin, fmax, fold and the level in dB over the background, and
``OUT/clips.csv`` names the whole clips of the same folds and classes, as a data set of clips. The same seed gives the
same bytes.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from earsight.data import audio

RATE_HZ = 16_000
BACKGROUNDS = ("rain", "wind", "sea_waves", "crickets")
EVENTS = (
    *("dog", "rooster", "crow", "cat", "sheep", "crying_baby", "sneezing", "coughing", "clapping", "glass_breaking"),
)
_MOMENT = RATE_HZ // 50
_LOUD_DB = 40.0
_FADE = RATE_HZ // 100
Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Event:
    """A sound in a recording: begin and end in seconds, label, and dB over the background."""

    begin: float
    end: float
    label: str
    level_db: float
    source: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recordings_made", description=__doc__)
    parser.add_argument("esc50", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recordings", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--folds", default="1,2,3", help="official folds, which recordings take in turn")
    parser.add_argument("--classes", default=",".join(EVENTS))
    parser.add_argument("--each-minute", type=float, default=5.0, help="events a minute")
    parser.add_argument("--levels", type=float, nargs=2, default=(0.0, 20.0), help="dB over the background")
    parser.add_argument("--overlap", type=float, default=0.2, help="share of events put within the one before")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    classes, folds = arguments.classes.split(","), [int(fold) for fold in arguments.folds.split(",")]
    clips = read_clips(arguments.esc50, [*classes, *BACKGROUNDS])
    (arguments.out / "recordings").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(arguments.recordings):
        fold = folds[number % len(folds)]
        wave, events = make_recording(
            {label: found[fold] for label, found in clips.items()},
            classes,
            seconds=60 * arguments.minutes,
            each_minute=arguments.each_minute,
            levels=tuple(arguments.levels),
            overlap=arguments.overlap,
            draw=np.random.default_rng([arguments.seed, number]),
        )
        name = f"fold{fold}-{number:02}.flac"
        soundfile.write(arguments.out / "recordings" / name, wave, RATE_HZ, subtype="PCM_16")
        rows += [
            (name, f"{one.begin:.3f}", f"{one.end:.3f}", one.label, fold, f"{one.level_db:.1f}", one.source)
            for one in events
        ]
        print(f"{name}: {len(events)} events", flush=True)
    _write(arguments.out / "boxes.csv", ("path", "begin", "end", "label", "fold", "level_db", "source"), rows)
    whole = [(path, label, fold) for label in classes for fold in folds for path in clips[label][fold]]
    _write(arguments.out / "clips.csv", ("path", "label", "fold"), whole)


def _write(path: Path, head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def read_clips(esc50: Path, classes: list[str]) -> dict[str, dict[int, list[str]]]:
    """The files of an ESC-50 copy by class and fold."""
    out: dict[str, dict[int, list[str]]] = {name: defaultdict(list) for name in classes}
    with (esc50 / "meta" / "esc50.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["category"] in out:
                out[row["category"]][int(row["fold"])].append(str((esc50 / "audio" / row["filename"]).absolute()))
    return out


def make_recording(
    files: dict[str, list[str]],
    classes: list[str],
    *,
    seconds: float,
    each_minute: float,
    levels: tuple[float, ...],
    overlap: float,
    draw: np.random.Generator,
) -> tuple[Wave, list[Event]]:
    """One recording, and what sounds in it by begin."""
    length = round(seconds * RATE_HZ)
    wave = background(files, length, draw)
    floor = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    count, events = round(seconds / 60 * each_minute), list[Event]()
    for place in np.sort(draw.uniform(0, seconds - 6, count)):
        label = str(draw.choice(classes))
        file = str(draw.choice(files[label]))
        sound = sounding(audio.read(file, sample_rate_hz=RATE_HZ))
        if events and draw.random() < overlap:
            place = draw.uniform(events[-1].begin, events[-1].end)
        first = round(place * RATE_HZ)
        sound = sound[: length - first]
        level = float(draw.uniform(*levels))
        loud = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) or 1.0
        wave[first : first + len(sound)] += sound * (floor * 10 ** (level / 20) / loud)
        begin = first / RATE_HZ
        events.append(Event(begin, begin + len(sound) / RATE_HZ, label, level, Path(file).name))
    peak = float(np.abs(wave).max())
    return (wave / max(1.0, peak / 0.99)).astype(np.float32), sorted(events, key=lambda one: one.begin)


def background(files: dict[str, list[str]], length: int, draw: np.random.Generator) -> Wave:
    """Clips of background classes, one after the other, each at one level, faded into each other; -40 dBFS."""
    out, at, fade = np.zeros(length + 10 * RATE_HZ, dtype=np.float32), 0, RATE_HZ // 2
    pool = [file for name in BACKGROUNDS for file in files[name]]
    while at < length:
        sound = audio.read(str(draw.choice(pool)), sample_rate_hz=RATE_HZ)
        level = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
        if level < 1e-4 or len(sound) < 3 * fade:
            continue
        ramp = np.ones(len(sound), dtype=np.float32)
        ramp[:fade] = np.sqrt(np.linspace(0, 1, fade))
        ramp[-fade:] = np.sqrt(np.linspace(1, 0, fade))
        out[at : at + len(sound)] += sound * ramp * (0.01 / level)
        at += len(sound) - fade
    return out[:length]


def sounding(wave: Wave) -> Wave:
    """What lies between the first and the last moment within 40 dB of the loudest, faded in and out."""
    moments = len(wave) // _MOMENT
    power = np.square(wave[: moments * _MOMENT], dtype=np.float64).reshape(moments, _MOMENT).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-_LOUD_DB / 10))
    out = wave[loud[0] * _MOMENT : (loud[-1] + 1) * _MOMENT].copy()
    fade = min(_FADE, len(out) // 2)
    out[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
    out[len(out) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return out


if __name__ == "__main__":
    main()
