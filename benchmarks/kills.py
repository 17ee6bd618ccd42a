"""``python -m benchmarks.kills DATA [--set ...]``: one fold killed with SIGKILL at five random instants, and resumed.

Compares its logits, bit for bit, with those of a run that nobody touched.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from earsight.evaluation.summary import read_predictions

KILLS = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    options = [word for assignment in arguments.set for word in ("--set", assignment)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def command(name: str) -> list[str]:
            words = ["crossval", arguments.data, "--folds", "1", "--out", str(place / name), *options]
            return [sys.executable, "-m", "earsight", *words]

        subprocess.run([sys.executable, "-m", "earsight", "prepare", arguments.data, *options], check=True)
        started = time.monotonic()
        subprocess.run(command("whole"), check=True, capture_output=True)
        length = time.monotonic() - started
        for kill in range(KILLS):
            process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            after = chance.uniform(0.15, 0.3) * length
            time.sleep(after)
            process.kill()
            code = process.wait()
            print(f"kill {kill + 1} after {after:.1f} s of {length:.1f} s, exit code {code}", flush=True)
            if code != -signal.SIGKILL:
                raise SystemExit("the fold was done before the kill: set more epochs")
        subprocess.run(command("killed"), check=True, capture_output=True)
        found = [
            read_predictions(place / name / "fold-1" / "seed-0" / "predictions.npz") for name in ("whole", "killed")
        ]
        same = found[0].logits.tobytes() == found[1].logits.tobytes()
        print(f"{found[0].logits.shape[0]} clips: logits {'bit-identical' if same else 'DIFFER'}")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
