"""Makes what lies beside this file: runs, an ensemble, a store and answers, all written by commit 6cdc006.

Run it with that commit's package on the path, not with the one of this checkout::

    git worktree add ../base 6cdc006 && PYTHONPATH=../base/src python tests/written_by_base/make.py

Everything is synthetic. The sounds are not kept: `sounds` makes them again, to the same bytes and times.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
WRITTEN_NS = 1_700_000_000_000_000_000
RECIPE = (
    *("backbone.name=test_resnet", "backbone.weights=none", "transfer.cut=block1", "training.precision=float32"),
    *("features.bands=8", "features.frames=16", "augment.pitch_semitones=1", "augment.backend=picture"),
    *("training.epochs=2", "training.source=auto"),
)


def sounds(folder: Path) -> Path:
    """The data set: 100 clips of half a second at 8 kHz, all of one time, for a store's key holds the files' times."""
    from earsight.data.synthetic import write_synthetic

    root = write_synthetic(folder / "sounds", clips_per_class=10, seconds=0.5, sample_rate_hz=8000)
    for path in root.rglob("*"):
        os.utime(path, ns=(WRITTEN_NS, WRITTEN_NS))
    return root


def clips(root: Path) -> list[Path]:
    """One clip of each class, of those that fold 1 holds out."""
    return sorted(path for path in (root / "audio").iterdir() if path.name.startswith("1-"))[::2]


def earsight(*args: object, cache: Path, code: str = "") -> str:
    program = f"{code}\nimport sys\nfrom earsight.cli import main\nsys.argv = {['earsight', *map(str, args)]!r}\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "EARSIGHT_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        check=not code,
        text=True,
    )
    return done.stdout


VERBS = {
    "evaluate": ("evaluate", "run/fold-1/seed-0/model.safetensors", "sounds", "--json"),
    "explain": (
        "explain",
        "run/fold-1/seed-0/model.safetensors",
        "sounds/audio/1-1000-A-0.wav",
        "--out",
        "why",
        "--json",
    ),
    "calibrate": ("calibrate", "run", "--json"),
    "ensemble": ("ensemble", "run", "--out", "anew", "--json"),
    "similarity": ("analyze", "similarity", "run", "--data", "sounds", "--json"),
    "compare": ("compare", "run", "ensemble", "--json"),
    "summary": ("summary", "ensemble", "--json"),
}
"""What base printed for these is kept in verbs.json; they run in a folder that holds sounds, run and ensemble."""

KILLED = """
import earsight.training.loop as loop, os
loop.CHECKPOINT_SECONDS = 0
save, saved = loop.save_checkpoint, []
def and_die(*args, **kwargs):
    save(*args, **kwargs)
    os._exit(1)
loop.save_checkpoint = and_die
"""


def main() -> None:
    recipe = [word for field in RECIPE for word in ("--set", field)]
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place), Path(place) / "cache"
        root = sounds(folder)
        run = folder / "run"
        earsight("crossval", root, "--out", run, "--folds", "1,2", "--seeds", 2, "--threads", 1, *recipe, cache=cache)
        earsight("ensemble", run, "--out", folder / "ensemble", "--threads", 1, cache=cache)
        earsight("train", root, "--out", folder / "killed", "--threads", 1, *recipe, cache=cache, code=KILLED)
        answers = {}
        for name, model in {"run": run / "fold-1" / "seed-0", "ensemble": folder / "ensemble"}.items():
            # From within the folder, so that no path of this machine is kept.
            os.chdir(folder)
            told = earsight(
                *("predict", model / "model.safetensors", *(path.relative_to(folder) for path in clips(root))),
                *("--format", "jsonl", "--threads", 1),
                cache=cache,
            )
            answers[name] = [json.loads(line) for line in told.splitlines()]
        (HERE / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
        for name in ("run", "ensemble", "killed"):
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(folder / name, HERE / name, ignore=shutil.ignore_patterns(".*.lock"))
        shutil.rmtree(HERE / "store", ignore_errors=True)
        (store,) = (path for path in cache.iterdir() if path.is_dir() and path.name != "kernels")
        shutil.copytree(store, HERE / "store" / store.name)
        printed = {name: json.loads(earsight(*args, cache=cache)) for name, args in VERBS.items()}
        (HERE / "verbs.json").write_text(json.dumps(printed, indent=1) + "\n")
        for path in HERE.rglob("*.json"):  # where the sounds lay is no fact to keep
            path.write_text(path.read_text().replace(f"{folder.resolve()}/", "").replace(f"{folder}/", ""))


if __name__ == "__main__":
    main()
