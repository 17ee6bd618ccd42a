"""``python -m benchmarks.against_base BASE DATA``: this checkout's speed over another one's, in paired rounds.

BASE is a checkout of another commit (its ``src`` is on the path of the base's processes), DATA a data set. Each round
measures both sides one after the other, and who goes first changes from round to round. What is printed is the ratio of
base's time to ours (above 1: faster than base): its geometric mean and a 95 % t interval of the logarithms.
Parts: ``train:BACKBONE`` (training steps of batch 32 on spectrograms of 3 x 128 x 250, in one process a side),
``predict:FILES`` (a whole process that names the classes of so many files, DATA's, again and again; 1 is a cold start),
``recording:SECONDS`` (one that finds the events of a recording joined from DATA at 48 kHz, ``--hop 3``), both also with
``:bfloat16`` after them, for our side alone, and ``read:KIND``, KIND being WAV, FLAC, OGG or MP3 (200 clips of 5 s at
44.1 kHz read to the model's rate, 22,050 Hz, in one process a side; DATA is not looked at).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
PARTS = (
    *("train:tf_efficientnet_lite0", "train:resnet50", "train:densenet201"),
    *("predict:1", "predict:400", "predict:2000", "predict:2000:bfloat16", "recording:900", "recording:900:bfloat16"),
    *("read:WAV", "read:FLAC", "read:OGG", "read:MP3"),
)
CLIPS = 200
# Two-sided 97.5 % quantiles of Student's t by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 11: 2.201, 14: 2.145}


def train_side(backbone: str, steps: int) -> None:
    """A process of one side: for each line on standard input, the seconds of some training steps on standard output."""
    import torch

    try:
        from earsight.models.fast.swap import use_fast_layers
        from earsight.training.device import keep_freed_memory, training_dtype
    except ImportError:  # 6cdc006 and before
        from earsight.training.machine import keep_freed_memory, training_dtype

        from earsight.models.fast import use_fast_layers
    from earsight.models.backbones import build

    keep_freed_memory()
    torch.manual_seed(0)
    inputs = torch.randn(32, 3, 128, 250).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 50, (32,))
    network = build(backbone, classes=50, weights="none").to(memory_format=torch.channels_last)
    use_fast_layers(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    dtype = training_dtype("auto", torch.device("cpu"))

    def step() -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = network(inputs)
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    for _ in range(3):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        print(time.perf_counter() - started, flush=True)


def read_side(folder: str) -> None:
    """A process of one side: for each line on standard input, the seconds in which a folder's files are read."""
    from earsight.data.audio import read

    files = sorted(Path(folder).iterdir())
    for file in files:
        read(file, sample_rate_hz=22050)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for file in files:
            read(file, sample_rate_hz=22050)
        print(time.perf_counter() - started, flush=True)


def write_clips(folder: Path, kind: str) -> None:
    """Seeded clips of noise under a tone."""
    import numpy as np
    import soundfile

    draws = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(5 * 44100) / 44100)
    for number in range(CLIPS):
        soundfile.write(
            folder / f"{number}.{kind.lower()}", tone + draws.normal(0, 0.05, len(tone)), 44100, format=kind
        )


def write_recording(path: Path, sounds: list[Path], seconds: int) -> None:
    """Sounds one after the other, again and again, as a WAV file at 48 kHz."""
    import numpy as np
    import soundfile

    from earsight.data.audio import read

    waves = [read(sound, sample_rate_hz=48000) for sound in sounds]
    joined = np.concatenate(waves)
    soundfile.write(path, np.resize(joined, seconds * 48000), 48000, subtype="PCM_16")


def environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout / "src"), str(HERE)])}


@contextmanager
def process_of(checkout: Path, side: str, steps: int) -> Iterator[Callable[[], float]]:
    """A side's process, and the function that makes it do its steps."""
    command = [sys.executable, "-m", "benchmarks.against_base", "--side", side, "--steps", str(steps)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(checkout), **pipes) as process:  # type: ignore[call-overload]
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{checkout}: the process for {side} ended before it was ready")

        def measure() -> float:
            process.stdin.write("go\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield measure
        process.stdin.close()


def predicting(checkout: Path, model: Path, files: list[str], *options: str) -> Callable[[], float]:
    """The function that predicts all files in a process of its own."""
    command = [sys.executable, "-m", "earsight", "predict", str(model), *files, "--csv", *options]

    def measure() -> float:
        started = time.perf_counter()
        subprocess.run(command, env=environment(checkout), check=True, capture_output=True)
        return time.perf_counter() - started

    return measure


def paired(base: Callable[[], float], ours: Callable[[], float], rounds: int) -> list[tuple[float, float]]:
    """Seconds of both sides, round by round; each goes first in every other round."""
    out = []
    for number in range(rounds):
        if number % 2:
            mine = ours()
            out.append((base(), mine))
        else:
            theirs = base()
            out.append((theirs, ours()))
    return out


def row(part: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """The ratio of a part with its interval."""
    logs = [math.log(theirs / mine) for theirs, mine in pairs]
    mean = statistics.fmean(logs)
    degrees = len(logs) - 1
    t = T[max(known for known in T if known <= degrees)]
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return {
        "part": part,
        "rounds": len(pairs),
        "ratio": math.exp(mean),
        "low": math.exp(mean - half),
        "high": math.exp(mean + half),
        "pairs": [[round(value, 3) for value in pair] for pair in pairs],
    }


def trained(data: Path, folder: Path, base: Path) -> Path:
    """A model file, written by base, that both sides can read."""
    words = ("backbone.weights=none", "training.epochs=1", "augment.pitch_semitones=0")
    command = [sys.executable, "-m", "earsight", "train", str(data), "--out", str(folder / "run")]
    command += [word for field in words for word in ("--set", field)]
    subprocess.run(command, env=environment(base), check=True, capture_output=True)
    return folder / "run" / "model.safetensors"


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, nargs="?", help="a checkout of the commit to compare with")
    parser.add_argument("data", type=Path, nargs="?", help="a data set of 400 files or more")
    parser.add_argument("--only", nargs="+", default=PARTS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=0, help="training steps a round; default about two seconds' worth")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        return train_side(asked.side, asked.steps) if asked.steps else read_side(asked.side)
    reading = all(part.startswith("read:") for part in asked.only)
    if not asked.base or not (asked.data or reading):
        parser.error("name the base's checkout and a data set")
    for part in asked.only:
        name, _, backbone = part.partition(":")
        if name == "train":
            steps = asked.steps or (8 if "lite" in backbone else 2)
            with process_of(asked.base, backbone, steps) as base, process_of(HERE, backbone, steps) as ours:
                found = row(part, paired(base, ours, asked.rounds))
        elif name == "read":
            with tempfile.TemporaryDirectory() as folder:
                write_clips(Path(folder), backbone)
                with process_of(asked.base, folder, 0) as base, process_of(HERE, folder, 0) as ours:
                    found = row(part, paired(base, ours, asked.rounds))
        elif name in ("predict", "recording"):
            number, _, precision = backbone.partition(":")
            with tempfile.TemporaryDirectory() as folder:
                model = trained(asked.data, Path(folder), asked.base)
                sounds = [path for path in sorted(asked.data.rglob("*")) if path.suffix in {".ogg", ".wav", ".flac"}]
                files = [str(path) for path in islice(cycle(sounds), int(number))]
                options: list[str] = []
                if name == "recording":
                    files, options = [str(Path(folder) / "long.wav")], ["--hop", "3"]
                    write_recording(Path(files[0]), sounds[:100], int(number))
                less = ["--precision", precision] if precision else []
                sides = [
                    predicting(asked.base, model, files, *options),
                    predicting(HERE, model, files, *options, *less),
                ]
                for measure in sides:
                    measure()  # compiles what is compiled once on a machine
                found = row(part, paired(*sides, asked.rounds))
        else:
            parser.error(f"{part}: no such part; known are train:BACKBONE, predict:FILES, recording:SECONDS, read:KIND")
        print(
            json.dumps(found) if asked.json else "{part}: {ratio:.3f} ({low:.3f} to {high:.3f})".format(**found),
            flush=True,
        )
    return None


if __name__ == "__main__":
    main()
