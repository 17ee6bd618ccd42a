"""``python -m benchmarks.recordings MODEL CLIPS [--hours 24] [--hop 5]``: a long recording, its memory and its speed.

Writes a recording at 48 kHz out of the clips of a folder, one after the other, and has ``earsight predict --hop`` read
it: peak memory, and speed as a multiple of real time. With ``--kills N`` it is read again, killed with SIGKILL at N
random instants and resumed each time, and its rows are compared with those of the first time, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from benchmarks.processes import run
from earsight.data.folders import sounds_below

RATE_HZ = 48_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recordings", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("clips", type=Path)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--hop", type=float, default=5.0, help="seconds")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--scratch", type=Path, help="where 350 MB an hour find room")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        recording = Path(folder) / "recording.wav"
        write_recording(recording, sounds_below(arguments.clips), hours=arguments.hours)

        def command(name: str) -> list[str]:
            words = ["predict", arguments.model, str(recording), "--hop", str(arguments.hop), "--rows", "windows"]
            return [*words, "--format", "csv", "--out", str(Path(folder) / name)]

        seconds, peak = run(command("whole.csv"))
        whole = (Path(folder) / "whole.csv").read_bytes()
        found = {
            "hours": arguments.hours,
            "rows": whole.count(b"\n") - 1,
            "seconds": round(seconds, 1),
            "times_real_time": round(3600 * arguments.hours / seconds, 1),
            "peak_memory_mb": round(peak * 1024**2 / 1e6),
        }
        if arguments.kills:
            killed_after = []
            for kill in range(arguments.kills):
                resumed = ["--resume"] if kill else []
                words = [sys.executable, "-m", "earsight", *command("killed.csv"), *resumed]
                process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
                killed_after.append(round(chance.uniform(0.8, 1.2) * seconds / (arguments.kills + 1), 1))
                time.sleep(killed_after[-1])
                process.kill()
                if process.wait() != -signal.SIGKILL:
                    raise SystemExit("all was read before the kill: take more hours")
            run([*command("killed.csv"), "--resume"])
            found["killed_after_seconds"] = killed_after
            found["same_rows"] = (Path(folder) / "killed.csv").read_bytes() == whole
    print(json.dumps(found, indent=1))
    if not found.get("same_rows", True):
        raise SystemExit(1)


def write_recording(path: Path, clips: Sequence[Path], *, hours: float) -> None:
    """A recording of that length at 48 kHz, 16 bits, in RF64, which may be longer than WAV's 4 GB."""
    parts = []
    for clip in clips:
        wave, rate = soundfile.read(clip, dtype="float32", always_2d=True)
        wave = soxr.resample(wave.mean(axis=1), rate, RATE_HZ)
        parts.append((np.clip(wave, -1, 1) * 32767).astype(np.int16))
    left = round(3600 * hours * RATE_HZ)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, subtype="PCM_16", format="RF64") as file:
        while left:
            for part in parts:
                file.write(part[:left])
                left -= min(left, len(part))


if __name__ == "__main__":
    main()
