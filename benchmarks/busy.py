"""``python -m benchmarks.busy BASE DATA``: an epoch's time on a quiet machine and beside busy processes.

BASE is a checkout of another commit, DATA a data set. In each round `earsight train` runs four times: base's and ours,
quiet and beside ``--busy`` processes that compute without end; who goes first changes from round to round. An epoch's
time is that of the last one in ``history.jsonl``. Printed are the medians, each side's ratio of busy to quiet (aim: at
most 4.5 for ours, with four processes on two cores), and the ratio of the quiet times (aim: at most 1.03). A run that
takes longer than ``--most-seconds`` is stopped and counts as that long, so that all ends after 4 x rounds of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.against_base import HERE, environment


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes of one thread each that compute until the block ends, or this process does."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(100_000))"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def epoch(checkout: Path, data: Path, cache: Path, settings: list[str], most_seconds: float) -> float:
    """Seconds of the last epoch of a training from the start, or ``most_seconds`` where that was stopped."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "earsight", "train", str(data), "--out", f"{folder}/run"]
        command += [word for setting in settings for word in ("--set", setting)]
        variables = environment(checkout) | {"EARSIGHT_CACHE": str(cache)}
        with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                _, err = process.communicate(timeout=most_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                return most_seconds
        if process.returncode:
            raise SystemExit(f"{checkout}: earsight train ended with {process.returncode}: {err.decode()[-300:]}")
        (history,) = Path(folder, "run").rglob("history.jsonl")
        return float(json.loads(history.read_text().splitlines()[-1])["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("data", type=Path, help="a data set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", type=int, default=4, help="processes beside")
    parser.add_argument("--most-seconds", type=float, default=600, help="of a run")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    settings = ["backbone.weights=none", "training.epochs=2", "augment.pitch_semitones=0", *asked.set]
    sides = {"base": asked.base.resolve(), "ours": HERE}
    found: dict[str, list[float]] = {f"{side} {load}": [] for side in sides for load in ("quiet", "busy")}
    with tempfile.TemporaryDirectory() as folder:
        caches = {side: Path(folder) / side for side in sides}
        for side, checkout in sides.items():  # spectrograms and kernels are made before anything is measured
            epoch(checkout, asked.data, caches[side], settings, asked.most_seconds)
        for number in range(asked.rounds):
            for load, processes in (("quiet", 0), ("busy", asked.busy)):
                for side in list(sides)[:: -1 if number % 2 else 1]:
                    with busy(processes):
                        time.sleep(1.0)
                        seconds = epoch(sides[side], asked.data, caches[side], settings, asked.most_seconds)
                    found[f"{side} {load}"].append(seconds)
                    print(f"round {number + 1}: {side} {load} {seconds:.2f} s", file=sys.stderr, flush=True)
    middle = {name: statistics.median(seconds) for name, seconds in found.items()}
    ratios = {
        "base busy / quiet": middle["base busy"] / middle["base quiet"],
        "ours busy / quiet": middle["ours busy"] / middle["ours quiet"],
        "ours quiet / base quiet": middle["ours quiet"] / middle["base quiet"],
    }
    if asked.json:
        print(json.dumps({"busy": asked.busy, "cores": os.cpu_count(), "seconds": found, "ratios": ratios}, indent=2))
    else:
        for name, value in {**middle, **ratios}.items():
            print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    main()
