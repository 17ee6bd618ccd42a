"""``python -m benchmarks.unseen_files [OUT] [--set first|second|third]``: files of many encoders, heard or not.

Every file is a seeded sweep, written by an encoder of Debian's (ffmpeg, sox, lame, flac, oggenc, opusenc, wavpack,
espeak-ng), which must be there. Each is read and compared with the wave that went in: its length within the codec's
padding (`Kind.slack`), its samples by their correlation at the offset 0 (or, where a container cannot say how long the
encoder's delay is, within `Kind.delay`). A copy that lacks its last third must be named. Then `check`, `train` and
`predict` run over all of them, each within ``--limit`` seconds. Counted are silent losses (a file that was read, but is
shorter or other than what went in, or is cut, without a word) and false refusals. What is done is kept in
``OUT/state.json``; the same command goes on with it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from benchmarks.unseen_kinds import FIRST, SECOND, THIRD, Kind
from earsight.data.audio import info, read
from earsight.errors import AudioError

ENCODERS = ("ffmpeg", "sox", "lame", "flac", "oggenc", "opusenc", "wavpack", "espeak-ng")
TINY = ("backbone.name=soundnet8", "backbone.weights=none", "training.epochs=1", "features.clip_seconds=1")
SETS = {"first": FIRST, "second": SECOND, "third": THIRD}
SAID = 64  # samples: of shorter sounds a lossy codec keeps no shape


def wave(rate: int, samples: int, low: float, seed: int) -> np.ndarray:
    """A sweep from ``low`` Hz over an octave and a half, whose level changes, so that no offset looks like another."""
    t = np.arange(samples) / rate
    length = samples / rate
    sweep = 0.4 * np.sin(2 * np.pi * (low * t + low * t**2 / length) + 0.7)
    steps = np.random.default_rng(seed).uniform(-1, 1, samples // 50 + 1)
    return sweep * (0.6 + 0.4 * np.repeat(steps, 50)[:samples])


def jobs(kinds: tuple[Kind, ...]) -> Iterator[tuple[str, Kind, int, int, int]]:
    """Name, kind, rate, channels and samples of each file; the third set's lengths are drawn, 0.2 to 7 s."""
    drawn = map(float, np.random.default_rng(14).uniform(0.2, 7, 500))
    lengths = drawn if kinds is THIRD else itertools.cycle((1.0003, 2.31, 3.777, 0.5101, 5.0))
    for number, (kind, (rate, channels, samples)) in enumerate((one, at) for one in kinds for at in one.sounds()):
        yield f"{number:03d}.{kind.ending}", kind, rate, channels, samples or round(next(lengths) * rate) | 1


def write(path: Path, kind: Kind, rate: int, channels: int, before: np.ndarray) -> str:
    """Write a file; empty, or why it cannot be written."""
    source = path.with_name("in.wav")
    gains = np.linspace(1, 0.6, channels)
    sf.write(source, before[:, None] * gains, rate, subtype="PCM_16")
    command = kind.command.replace("IN", str(source)).replace("OUT", str(path)).replace("RATE", str(rate))
    made = subprocess.run(["bash", "-c", "set -o pipefail; " + command], capture_output=True, text=True, timeout=120)
    for left in path.parent.glob("in.wav*"):
        left.unlink()
    return made.stderr[-200:] or "no file" if made.returncode or not path.is_file() or not path.stat().st_size else ""


def heard(path: Path, before: np.ndarray, rate: int, channels: int, kind: Kind) -> str:
    """``same``, or what is wrong with what is read of a file."""
    try:
        found = read(path, sample_rate_hz=rate)
        seconds = info(path).seconds
    except AudioError as error:
        return f"refused: {error.reason}"
    if abs(seconds * rate - len(found)) > 1:
        return f"length by info {seconds * rate:.0f}, read {len(found)}"
    if abs(len(found) - len(before)) > kind.slack + kind.delay + 1:
        return f"length {len(found)} for {len(before)}"
    if len(before) < SAID:
        return "same"
    expected = before * np.linspace(1, 0.6, channels).mean()
    offset = 0
    if kind.delay:
        size = 1 << (len(found) + len(expected)).bit_length()
        lags = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size)), size)
        offset = int(np.argmax(lags[: kind.delay + 1]))
    a = found[offset : offset + len(expected)]
    a, b = a - a.mean(), expected[: len(a)] - expected[: len(a)].mean()
    best = float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-12))
    return "same" if best >= kind.least else f"correlation {best:.3f}"


def cut(path: Path) -> str:
    """``named`` if a copy without its last third, less a few bytes, is refused; else how it was read."""
    content, copy = path.read_bytes(), path.with_name("cut" + path.suffix)
    if len(content) < 3000:
        return "named"
    copy.write_bytes(content[: len(content) * 2 // 3 - 3])
    try:
        found = read(copy, sample_rate_hz=8000)
        return f"read without a word ({len(found) / 8000:.2f} s)"
    except AudioError:
        return "named"
    finally:
        copy.unlink()


def run(*words: object, cache: Path, limit: float) -> dict[str, Any]:
    """A verb of the command line: its exit code, or that it took too long, and what it printed."""
    command = [sys.executable, "-m", "earsight", *map(str, words)]
    given = os.environ | {"EARSIGHT_CACHE": str(cache)}
    try:
        done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"exit": f"not ended within {limit:g} s", "stdout": "", "stderr": ""}
    return {"exit": done.returncode, "stdout": done.stdout, "stderr": done.stderr[-2000:]}


def compare(out: Path, kinds: tuple[Kind, ...], state: dict[str, Any]) -> None:
    """Write and read what was not read yet."""
    for number, (name, kind, rate, channels, samples) in enumerate(jobs(kinds)):
        key = json.dumps([name, asdict(kind), rate, channels, samples])
        if key in state["files"]:
            continue
        label, low = (("low", min(150.0, rate / 40)), ("high", min(900.0, rate / 8)))[number % 2]
        path = out / "sounds" / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = wave(rate, samples, low, number)
        failed = write(path, kind, rate, channels, before)
        if failed:
            path.unlink(missing_ok=True)
            state["files"][key] = {"what": f"{kind.name}, {rate} Hz, {channels} channels", "unwritten": failed}
        else:
            before = np.concatenate([before] * kind.times)
            found = {"heard": heard(path, before, rate, channels, kind), "cut": cut(path) if kind.cuts else "named"}
            state["files"][key] = {"what": f"{name} ({kind.name}, {rate} Hz, {channels} channels, {samples})", **found}
        (out / "state.json").write_text(json.dumps(state, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path("unseen-files"), help="where files and results stay")
    parser.add_argument("--set", choices=tuple(SETS), default="first", help="which ways to write files")
    parser.add_argument("--limit", type=float, default=500, help="most seconds of check, train and predict each")
    asked = parser.parse_args()
    missing = [name for name in ENCODERS if not shutil.which(name)]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    kinds = SETS[asked.set]
    out = asked.out / asked.set
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "state.json"
    state = json.loads(kept.read_text()) if kept.is_file() else {"files": {}, "verbs": {}}
    compare(out, kinds, state)
    files = sorted(path for path in (out / "sounds").rglob("*") if path.is_file())
    verbs = {
        "check": ("check", out / "sounds", "--json"),
        "train": ("train", out / "sounds", "--out", out / "run", *(word for one in TINY for word in ("--set", one))),
        "predict": ("predict", out / "run" / "model.safetensors", *files, "--json"),
    }
    for verb, words in verbs.items():
        if state["verbs"].get(verb, {}).get("exit") != 0:
            state["verbs"][verb] = run(*words, cache=out / "cache", limit=asked.limit)
            kept.write_text(json.dumps(state, indent=1))
    report(state, kinds, len(files))


def report(state: dict[str, Any], kinds: tuple[Kind, ...], files: int) -> None:
    """Print the counts, and each file that is not as it should be."""
    rows = list(state["files"].values())
    written = [row for row in rows if "heard" in row]
    wrong = [row for row in written if row["heard"] != "same"]
    uncut = [row for row in written if row["cut"] != "named"]
    print(
        f"{files} files by {len(kinds)} ways; read and compared: {len(written) - len(wrong)} of {len(written)} the same"
    )
    print(*(f"  {row['what']}: {row['heard']}" for row in wrong), sep="\n")
    print(f"cut copies named: {len(written) - len(uncut)}")
    print(*(f"  {row['what']}: {row['cut']}" for row in uncut), sep="\n")
    print(*(f"  not written: {row['what']}: {row['unwritten']}" for row in rows if "unwritten" in row), sep="\n")
    refused = sum(row["heard"].startswith("refused") for row in wrong)
    print(f"silent losses: {len(wrong) - refused + len(uncut)}; false refusals: {refused}")
    done = state["verbs"]
    if done["check"]["stdout"]:
        findings = json.loads(done["check"]["stdout"]).get("findings", [])
        print("check: exit", done["check"]["exit"], json.dumps(Counter(one.get("kind", "?") for one in findings)))
    print("train: exit", done["train"]["exit"], done["train"]["stderr"].strip().splitlines()[-1:])
    answers = [json.loads(line) for line in done["predict"]["stdout"].splitlines()]
    errors = [row for row in answers if "error" in row]
    print(f"predict: exit {done['predict']['exit']}, {len(answers)} of {files} answered, {len(errors)} errors")
    print(*(f"  {row}" for row in errors), sep="\n")


if __name__ == "__main__":
    main()
