"""Whole processes: how soon the command line answers, and how its memory grows with the number of clips."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from earsight.data.synthetic import write_synthetic

_TINY = [
    "--set=backbone.name=test_resnet",
    "--set=backbone.weights=none",
    "--set=training.epochs=1",
    "--set=training.batch_size=16",
]


def run(arguments: list[str], *, cache: Path | None = None) -> tuple[float, float]:
    """Seconds and peak MiB of one `earsight` process.

    Raises
    ------
    SystemExit
        If it failed; with what it said.
    """
    environment = dict(os.environ, EARSIGHT_CACHE=str(cache)) if cache else None
    command = [sys.executable, "-m", "earsight", *arguments]
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"exit code {process.returncode}: {' '.join(command)}\n{said.read().decode()}")
    return seconds, usage.ru_maxrss / 1024


def cold_starts(model: Path, sound: Path, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of `earsight --help` and of `earsight predict` on one file, each in a new process."""
    out: dict[str, list[float]] = {"earsight --help": [], "earsight predict, one file": []}
    for _ in range(rounds):
        out["earsight --help"].append(run(["--help"], cache=sound.parent)[0])
        out["earsight predict, one file"].append(run(["predict", str(model), str(sound)], cache=sound.parent)[0])
    return out


def memory(*, clips: int) -> dict[str, tuple[float, float]]:
    """Peak MiB of prepare, train and predict at ``clips`` and at ten times as many synthetic clips."""
    peaks: dict[str, list[float]] = {"prepare": [], "train": [], "predict": []}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for count in (clips, 10 * clips):
            home = place / str(count)
            sounds = write_synthetic(home / "sounds", clips_per_class=count // 10)
            cache, outcome = home / "cache", home / "run"
            peaks["prepare"].append(run(["prepare", str(sounds)], cache=cache)[1])
            peaks["train"].append(run(["train", str(sounds), "--out", str(outcome), *_TINY], cache=cache)[1])
            model = str(outcome / "model.safetensors")
            peaks["predict"].append(run(["predict", model, str(sounds / "audio")], cache=cache)[1])
    return {name: (first, second) for name, (first, second) in peaks.items()}


def peak_of_this_process() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
