"""``python -m benchmarks.boxes epoch|memory MADE [...]``: what training from boxes costs.

``epoch MADE`` takes the folder that `benchmarks.recordings_made` wrote: the windows that its boxes give are written as
files of their own too, both are trained on, and the seconds of their epochs are compared, once spectrograms are cached.
``memory FOLDER --hours 1 24`` writes sparse recordings of so many hours, with as many boxes in each, and compares the
peak memory of `earsight prepare`.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import wave
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.processes import run
from earsight.data import audio
from earsight.data.boxes import BoxRules, open_recordings

RATE_HZ = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boxes", description=__doc__)
    parser.add_argument("what", choices=("epoch", "memory"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 24.0])
    parser.add_argument("--boxes", type=int, default=300, help="of each recording, for memory")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    arguments = parser.parse_args()
    sets = [word for one in arguments.assignments for word in ("--set", one)]
    if arguments.what == "epoch":
        found: object = epoch(arguments.folder, arguments.epochs, sets)
    else:
        found = {f"{hours:g} h": memory(arguments.folder, hours, arguments.boxes, sets) for hours in arguments.hours}
    print(json.dumps(found, indent=1))


def epoch(made: Path, epochs: int, sets: list[str]) -> dict[str, object]:
    """Median seconds of an epoch from boxes, from as many clips, and their ratio, without the first of each."""
    dataset = open_recordings(made / "recordings", made / "boxes.csv", rules=BoxRules(labels="single"), folds=None)
    out: dict[str, object] = {"clips": len(dataset.clips)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with (folder / "clips.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "group", "fold"))
            for number, clip in enumerate(dataset.clips):
                (sound,) = audio.read_parts(dataset.root / clip.path, [clip.part], sample_rate_hz=RATE_HZ)
                soundfile.write(folder / f"{number:06}.wav", sound, RATE_HZ, subtype="PCM_16")
                writer.writerow((f"{number:06}.wav", clip.label, clip.group, clip.fold))
        boxes = [str(made / "recordings"), "--boxes", str(made / "boxes.csv"), "--labels", "single"]
        for name, data in (("boxes", boxes), ("clips", [str(folder / "clips.csv")])):
            common = [*data, "--cache", str(folder / "cache"), "--set", f"training.epochs={epochs}", *sets]
            run(["prepare", *common])
            run(["train", *common, "--fold", "1", "--out", str(folder / name)])
            (history,) = (folder / name).glob("fold-*/seed-*/history.jsonl")
            seconds = [json.loads(line)["seconds"] for line in history.read_text(encoding="utf-8").splitlines()]
            out[name] = statistics.median(seconds[1:])
    out["ratio"] = round(float(out["boxes"]) / float(out["clips"]), 3)  # type: ignore[arg-type]
    return out


def memory(folder: Path, hours: float, boxes: int, sets: list[str]) -> dict[str, float]:
    """Seconds and peak memory in MB of `prepare` on two recordings of so many hours."""
    place = folder / f"{hours:g}h"
    (place / "recordings").mkdir(parents=True, exist_ok=True)
    frames = round(3600 * hours * RATE_HZ)
    generator = np.random.default_rng(0)
    rows = []
    for name in "ab":
        path = place / "recordings" / f"{name}.wav"
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(RATE_HZ)
            sound.setnframes(frames)
            sound.writeframes(b"")
        with path.open("r+b") as raw:
            raw.truncate(44 + 2 * frames)
            raw.seek(4)
            raw.write((36 + 2 * frames).to_bytes(4, "little"))
            raw.seek(40)
            raw.write((2 * frames).to_bytes(4, "little"))
            for place_of in np.linspace(10, 3600 * hours - 10, boxes):
                raw.seek(44 + 2 * int(place_of * RATE_HZ))
                raw.write(generator.integers(-9000, 9000, RATE_HZ, dtype=np.int16).tobytes())
                rows.append((f"{name}.wav", f"{place_of:.3f}", f"{place_of + 1:.3f}", "xy"[len(rows) % 2]))
    with (place / "boxes.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "begin", "end", "label"), *rows])
    with tempfile.TemporaryDirectory() as cache:
        words = ["prepare", str(place / "recordings"), "--boxes", str(place / "boxes.csv"), "--complete"]
        seconds, peak = run([*words, "--cache", cache, *sets])
    return {"seconds": round(seconds, 1), "peak_memory_mb": round(peak * 1024**2 / 1e6)}


if __name__ == "__main__":
    main()
