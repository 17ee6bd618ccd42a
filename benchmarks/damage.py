"""``python -m benchmarks.damage``: kills, flipped bytes, cuts and full disks; then the verb that reads what is left.

Seeded and bounded: each case's number decides what happens to it, results go to a file, and a second sitting goes on
behind the cases that are in it. Of each: did the verb give the ``same`` bits, was the damage ``named`` (exit code 2, or
a line or sentence beside a result), did the result change in silence (``silent``), or was there a ``traceback``?
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FIELDS = (
    *("backbone.name=test_resnet", "backbone.weights=none", "transfer.cut=block1", "training.precision=float32"),
    *("features.bands=8", "features.frames=16", "augment.pitch_semitones=1", "training.epochs=3"),
)
RECIPE = [word for field in FIELDS for word in ("--set", field)]
CROSSVAL = ["crossval", "data", "--folds", "1,2", "--seeds", "2", "--threads", "1", "--cache", "cache", *RECIPE]
TRAIN = ["train", "data", "--out", "begun", "--threads", "1", "--cache", "cache", *RECIPE]
MODEL = "run/fold-1/seed-0/model.safetensors"
PREDICT = ["predict", MODEL, "data", "--hop", "0.25", "--rows", "both", "--csv", "--threads", "1"]
SOUNDS = ["data/audio/1-1000-A-0.wav", "data/audio/1-1000-B-0.wav"]
EXPLAIN = ["explain", MODEL, *SOUNDS, "--out", "explained", "--no-curves", "--max-steps", "1024", "--threads", "1"]
TUNE = ["tune", "default", "data", "--on", "local", "--grid", "training.learning_rate=1e-3,1e-4", "--out", "search"]
TUNE += ["--threads", "1", "--cache", "cache", *RECIPE]
SWEEP = ["analyze", "cutoff", "data", "--stages", "block1", "--folds", "1,2", "--threads", "1", "--cache", "newcache"]
SWEEP += [*RECIPE, "--set", "transfer.cut=none", "--out", "new"]
SWEEPS = {kind: [SWEEP[0], kind, *SWEEP[2:]] for kind in ("freeze", "fusion")}
SWEEPS["fusion"] += ["--set", "backbone.weights=donor.safetensors"]
OBSERVE = ["--data", "data", "--clips", "3", "--max-steps", "32", "--threads", "1"]
FINER = ["--set", "features.bands=32", "--set", "features.frames=48"]  # whose boundaries can be measured
JOINT = ["ensemble", "run", "--data", "data", "--seeds", "3", "--threads", "1", "--cache", "newcache", "--out", "joint"]
REPRODUCE = ["reproduce", "table1", "esc10", "--scale", "scale.yaml", "--folds", "1,2", "--threads", "1"]
REPRODUCE += ["--cache", "newcache", "--out", "new", "--weights", "test_resnet=donor.safetensors"]
SCALE = """\
title: Tiny
table1:
  rows: [{data: esc10, model: Tiny, pretrained: pretrained.yaml, random: random.yaml}]
"""
CELL = """\
backbone: {name: test_resnet%s}
training: {epochs: 3, precision: float32}
features: {bands: 8, frames: 16}
augment: {pitch_semitones: 0}
"""
WEIGHTS = random.Random(0).randbytes(6 << 20)
WEIGHTS_NAME = f"test_resnet-{hashlib.sha256(WEIGHTS).hexdigest()[:8]}.safetensors"
PRELOAD = [
    *("earsight.cli", "earsight.training.trial", "earsight.reports.report", "earsight.ensembles.build", "timm"),
    *("earsight.calibration.calibrate", "earsight.execution.schedule", "earsight.inference.transcribe"),
    *("earsight.inference.scoring", "earsight.kernels.batch_norm", "earsight.kernels.stft_power", "scipy.stats"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "jinja2", "soundfile"),
    "captum.attr",
]
"""What the verbs import, loaded once: else importing would take most of a case's time."""
SECONDS = 600
"""That a command may take, beside other work."""
# A process ends with the second checkpoint of its training, or with the twelfth commit of an output's journal.
STOP = """
real, calls = getattr(place, name), []
def stop(*values, **named):
    real(*values, **named)
    calls.append(1)
    if len(calls) == last:
        os._exit(9)
setattr(place, name, stop)
"""
STOP_TRAINING = (
    """
import earsight.training.loop as place
place.CHECKPOINT_SECONDS, place.CHECKPOINT_COST = 0.0, 1e9
name, last = "save_checkpoint", 2
"""
    + STOP
)
STOP_WRITING = (
    """
import earsight.inference.journal as journal
journal.COMMIT_SECONDS = 0.0
place, name, last = journal.FileOutput, "commit", 12
"""
    + STOP
)


@dataclass(frozen=True)
class Reader:
    """A verb that reads state: its command, the files it reads (globs), and those of its result, or its output."""

    name: str
    command: list[str]
    files: tuple[str, ...]
    results: tuple[str, ...] = ()
    code: str = ""


_TRIAL = ("fold-*/seed-*/predictions.npz", "fold-*/seed-*/model.safetensors")
READERS = (
    Reader("predict", ["predict", MODEL, "data", "--json", "--threads", "1"], (MODEL,)),
    Reader(
        "report",
        ["report", "run", "--out", "page.html", "--mistakes", "0"],
        ("run/*.*", "run/fold-*/seed-*/*.*"),
        ("page.html",),
    ),
    Reader("summary", ["summary", "run", "--json"], ("run/fold-*/seed-*/predictions.npz", "run/summary.json")),
    Reader(
        "finished run",
        [*CROSSVAL, "--out", "run"],
        ("run/*.*", "run/fold-*/seed-*/*.*"),
        tuple(f"run/{one}" for one in _TRIAL[:1]),
    ),
    Reader(
        "ensemble",
        ["ensemble", "run", "--out", "joint", "--json", "--threads", "1"],
        ("run/fold-*/seed-*/*.*",),
        ("joint/fold-*/seed-*/predictions.npz",),
    ),
    Reader(
        "cache", [*CROSSVAL, "--out", "fresh"], ("cache/*/*", "cache/*.json"), tuple(f"fresh/{one}" for one in _TRIAL)
    ),
    Reader("checkpoint", TRAIN, ("begun/fold-*/seed-*/*.*",), tuple(f"begun/{one}" for one in _TRIAL)),
    Reader("resumed output", [*PREDICT, "--out", "half", "--resume"], ("half/*", "half/.[fp]*"), ("half/*.csv",)),
    Reader("finished output", [*PREDICT, "--out", "out", "--resume"], ("out/*", "out/.[fp]*"), ("out/*.csv",)),
    Reader("evaluate", ["evaluate", MODEL, "data", "--json", "--threads", "1"], (MODEL,)),
    Reader(
        "compare",
        ["compare", "run", "observed", "--json", "--threads", "1"],
        ("run/*.*", "run/fold-*/seed-*/*.*", "observed/fold-*/seed-*/*.*"),
    ),
    Reader(
        "boundaries",
        ["analyze", "boundaries", "observed", *OBSERVE],
        ("observed/analysis/*", "observed/fold-*/seed-*/*.*"),
        ("observed/analysis/*.csv", "observed/analysis/*.json"),
    ),
    Reader("explain", EXPLAIN, ("explained/*.json",), ("explained/*.wav",)),
    Reader(
        "tune",
        TUNE,
        ("search/points/*/fold-*/seed-*/*.*",),
        ("search/best.yaml", "search/points/*/fold-*/seed-*/inner.npz"),
    ),
    Reader(
        "kernels",
        ["crossval", *CROSSVAL[1:], "--out", "new", "--cache", "newcache"],
        ("../cache/kernels/**/*",),
        tuple(f"new/{one}" for one in _TRIAL),
    ),
)
# What writes, from nothing; given again it goes on.
WRITERS = (
    Reader(
        "crossval",
        ["crossval", *CROSSVAL[1:], "--out", "new", "--cache", "newcache"],
        (),
        tuple(f"new/{one}" for one in _TRIAL),
    ),
    Reader("prepare", ["prepare", "data", "--cache", "newcache", *RECIPE], (), ("newcache/*/*",)),
    *(one for one in READERS if one.name in ("ensemble", "report", "summary", "checkpoint", "resumed output")),
    Reader("predict --out", [*PREDICT, "--out", "new", "--resume"], (), ("new/*.csv",)),
    Reader(
        "predict --csv --out",
        ["predict", MODEL, "data", "--csv", "--out", "new.csv", "--resume", "--threads", "1"],
        (),
        ("new.csv",),
    ),
    Reader("calibrate", ["calibrate", "run", "--json"], ()),
    Reader("explain --out", [*EXPLAIN, "--out", "new"], (), ("new/*.wav",)),
    Reader("tune --out", [*TUNE, "--out", "new"], (), ("new/best.yaml", "new/points/*/fold-*/seed-*/inner.npz")),
    Reader(
        "train",
        ["train", "data", "--out", "new", "--threads", "1", "--cache", "newcache", *RECIPE],
        (),
        (*(f"new/{one}" for one in _TRIAL), "new/model.safetensors"),
    ),
    Reader(
        "crossval --jobs",
        [*CROSSVAL, "--jobs", "2", "--out", "new", "--cache", "newcache"],
        (),
        tuple(f"new/{one}" for one in _TRIAL),
    ),
    Reader("ensemble --seeds", JOINT, (), tuple(f"joint/{one}" for one in _TRIAL)),
    Reader("check --sources", ["check", "classes", "--sources", "new.csv", "--threads", "1"], (), ("new.csv",)),
    *(
        Reader(kind, words, (), (*(f"new/*/{one}" for one in _TRIAL), "new/analysis/*.png"))
        for kind, words in SWEEPS.items()
    ),
    Reader(
        "boundaries from nothing",
        ["analyze", "boundaries", "observed", *OBSERVE[:-3], "16", "--threads", "1"],  # other steps begin anew
        (),
        ("observed/analysis/*.csv", "observed/analysis/*.json"),
    ),
    Reader("analyze", SWEEP, (), (*(f"new/*/{one}" for one in _TRIAL), "new/analysis/*.png")),
    Reader("similarity", ["analyze", "similarity", "run", "--threads", "1"], (), ("run/analysis/*",)),
    Reader("reproduce", REPRODUCE, (), (*(f"new/runs/*/{one}" for one in _TRIAL), "new/report.md")),
)
EXPORT = Reader("export", ["export", MODEL, "--out", "new.onnx", "--threads", "1"], (), ("new.onnx",))
QUICKSTART = Reader(
    "quickstart",
    ["quickstart", "--epochs", "1", "--out", "new"],
    (),
    (*(f"new/run-*/{one}" for one in _TRIAL), "new/run-*/model.safetensors", "new/*.png"),
)
"""Both take as long as ten of the others; the first comes once in sixty cases, and both where they are named."""
DOWNLOAD = Reader(
    "download weights",
    ["download", "weights", "test_resnet", "--out", "weights"],
    ("weights/*.part",),
    ("weights/*",),
    "from earsight.models import weights; weights.KNOWN['test_resnet'] = '{}'",
)
"""From a server on this machine that takes its time, for it must be killed; half of the file is there."""
ON_RAY = (
    Reader("predict --on ray", [*PREDICT, "--on", "ray", "--out", "new", "--resume"], (), ("new/*.csv",)),
    Reader(
        "tune --on ray",
        [*TUNE, "--on", "ray", "--out", "new"],
        (),
        ("new/best.yaml", "new/points/*/fold-*/seed-*/inner.npz"),
    ),
)
"""Where they are named alone, as `DOWNLOAD` is, for they need Ray and a server."""


def _child(words: list[str], folder: Path, cache: Path, code: str, limit: int) -> None:
    """The command line in a process of its own, forked with everything imported."""
    os.chdir(folder)
    os.environ["EARSIGHT_CACHE"] = str(cache)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(cache.parent / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    exec(code, {"os": os})
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = ["earsight", *words]
    from earsight.cli import app

    try:
        app()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def forked(
    words: list[str], folder: Path, cache: Path, *, code: str = "", limit: int = 0, kill: float = 0.0
) -> tuple[int | None, str, str]:
    """Exit code (None after the kill), standard output and errors of a command in a folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_child, args=(words, folder, cache, code, limit))
    process.start()
    process.join(kill or SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None, "", "" if kill else f"Traceback: it took more than {SECONDS} s"
    out, err = ((cache.parent / name).read_text(errors="replace") for name in ("stdout", "stderr"))
    return process.exitcode, out, err


class Scene:
    """A folder with a data set and state of every kind, ``whole``, and its copy ``work`` in which cases happen.

    ``few``: without explanations and a search, which take longest to make.
    """

    def __init__(self, place: Path, *, few: bool = False) -> None:
        self.place, self.work, self._whole = place, place / "work", place / "whole"
        self._expected: dict[str, tuple[dict[str, bytes], float]] = {}
        self._server, self._url = contextlib.ExitStack(), ""
        if not (self._whole / "DONE").exists():
            self._make(few)

    def run(
        self, words: Iterable[str], *, code: str = "", limit: int = 0, kill: float = 0.0
    ) -> tuple[int | None, str, str]:
        """A command in the folder ``work``; see `forked`."""
        return forked(list(words), self.work, self.place / "cache", code=code, limit=limit, kill=kill)

    def code_of(self, reader: Reader) -> str:
        """What is run before a reader's verb, with the address of a server that begins here where it has a gap."""
        if "{}" in reader.code and not self._url:
            from benchmarks.disks import served

            self._url = f"{self._server.enter_context(served(WEIGHTS))}/{WEIGHTS_NAME}"
        return reader.code.replace("{}", self._url)

    def reset(self) -> None:
        """The state as it was made, with its times."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._whole, self.work)

    def _make(self, few: bool) -> None:
        from earsight.data.synthetic import write_synthetic

        shutil.rmtree(self.work, ignore_errors=True)
        write_synthetic(self.work / "data", clips_per_class=10, seconds=0.5, sample_rate_hz=8000)
        self._make_scale()
        self._make_rest()
        for words, code, expected in (
            ([*CROSSVAL, "--out", "run"], "", 0),
            *([] if few else [([*CROSSVAL, *FINER, "--out", "observed"], "", 0)]),
            *([] if few else [(["analyze", "boundaries", "observed", *OBSERVE], "", 0)]),
            (TRAIN, STOP_TRAINING, 9),
            ([*PREDICT, "--out", "out"], "", 0),
            ([*PREDICT, "--out", "half"], STOP_WRITING, 9),
            *([] if few else [(EXPLAIN, "", 0), (TUNE, "", 0)]),
        ):
            status, _, errors = self.run(words, code=code)
            if status != expected:
                raise SystemExit(f"{words}: exit code {status}\n{errors}")
        (self.work / "DONE").touch()
        self.work.rename(self._whole)

    def _make_scale(self) -> None:
        """The sounds as an ESC-10, and a scale of tiny networks, one from a file of weights."""
        from safetensors.torch import save_file

        from earsight.models.backbones import build

        shutil.copytree(self.work / "data", self.work / "esc10")
        table = self.work / "esc10" / "meta" / "esc50.csv"
        table.write_text(table.read_text().replace("FALSE", "TRUE"))
        for name, text in (
            ("scale", SCALE),
            ("pretrained", CELL % ""),
            ("random", CELL % ", weights: none"),
        ):
            (self.work / f"{name}.yaml").write_text(text)
        save_file(build("test_resnet", classes=3, weights="none", seed=9).state_dict(), self.work / "donor.safetensors")

    def _make_rest(self) -> None:
        """The sounds in class folders, where nobody knows their sources; half a file of weights."""
        for path in self.work.glob("data/audio/*.wav"):
            fold, source, take, kind = path.stem.split("-")
            (home := self.work / "classes" / f"class{kind}").mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, home / f"{take.lower()}_{source}_{fold}.wav")
        (self.work / "weights").mkdir()
        (self.work / "weights" / f"{WEIGHTS_NAME}.part").write_bytes(WEIGHTS[: len(WEIGHTS) // 2])

    def result(self, reader: Reader, out: str) -> dict[str, bytes]:
        """What a reader's verb gave, but for times: its files, and its output where it has none."""
        paths = [path for glob in reader.results for path in sorted(self.work.glob(glob))]
        found = {str(path.relative_to(self.work)): content_of(path) for path in paths if path.name != "store.json"}
        return found if reader.results else {"output": out.encode()}

    def expected(self, reader: Reader) -> tuple[dict[str, bytes], float]:
        """The result of an undamaged state, and the seconds that it takes."""
        if reader.name not in self._expected:
            self.reset()
            if not self._expected:
                self.run(["--version"])  # what all are forked from begins, which is no part of a verb's time
            code = self.code_of(reader)
            began = time.monotonic()
            status, out, errors = self.run(reader.command, code=code)
            if status:
                raise SystemExit(f"{reader.name}: exit code {status} without damage\n{errors}")
            self._expected[reader.name] = self.result(reader, out), time.monotonic() - began
        return self._expected[reader.name]

    def outcome(self, reader: Reader, damaged: str) -> tuple[str, str]:
        """Run a reader's verb and judge it; ``damaged`` is the file's name."""
        expected = self.expected(reader)[0] if reader.name in self._expected else {}
        status, out, errors = self.run(reader.command, code=self.code_of(reader))
        if "Traceback" in errors or status not in (0, 2):
            return "traceback", errors[-2000:]
        if status == 2:
            return ("named" if "earsight: " in errors else "traceback"), errors[-300:]
        found = self.result(reader, out)
        if found == expected:
            return "same", ""
        said = errors + "".join(data.decode(errors="replace") for name, data in found.items() if name.endswith(".html"))
        shown = damaged and (damaged in said or "damaged" in said)
        return (
            "named" if shown else "silent"
        ), f"{[one for one in expected if found.get(one) != expected[one]]} {errors[-300:]}"


def content_of(path: Path) -> bytes:
    """A file's bytes; of predictions and sounds the arrays alone, for beside them stand seconds, and a time."""
    if path.suffix == ".wav":
        import soundfile

        return bytes(soundfile.read(path, dtype="float32")[0].tobytes())
    if path.suffix != ".npz":
        return path.read_bytes()
    from earsight.evaluation.summary import read_predictions

    found = read_predictions(path)
    arrays = (found.clips, found.labels, found.logits, found.distance, found.groups, found.targets)
    held = [None if one is None else (one.tobytes(), str(one.dtype), one.shape) for one in arrays]
    timed = {"seconds": None, "history": None}  # the latter is a checksum of lines that have seconds
    return repr((held, found.classes, {**found.about, **timed})).encode()


def spoil(path: Path, how: str, chance: random.Random) -> None:
    """Flip one bit of a file, or cut it, with size (but for the cut) and times kept."""
    status, data = path.stat(), bytearray(path.read_bytes())
    if how == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
    else:
        os.truncate(path, chance.randrange(len(data)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def damage(scene: Scene, kind: str, number: int, readers: Iterable[Reader] = READERS) -> dict[str, str]:
    """One flip or cut: of a reader in turn, and a file drawn from the kinds (endings) that it reads."""
    choices = list(readers)
    reader, chance = choices[number % len(choices)], random.Random(f"{kind} {number}")
    scene.expected(reader)
    scene.reset()
    files = sorted(
        {path for glob in reader.files for path in scene.work.glob(glob) if path.is_file() and path.stat().st_size}
    )
    name = chance.choice(sorted({path.name for path in files}))
    path = chance.choice([path for path in files if path.name == name])
    spoil(path, kind, chance)
    judged, note = scene.outcome(reader, path.name)
    return {"verb": reader.name, "file": str(path.relative_to(scene.work)), "outcome": judged, "note": note}


def interrupt(scene: Scene, kind: str, number: int, writers: Iterable[Reader] = ()) -> dict[str, str]:
    """One kill, or one full disk; then the command is given again and must end with the bits of one left alone.

    A note says where the kill came too late.
    """
    choices = list(writers)
    writer = (
        choices[number % len(choices)] if choices else EXPORT if number % 60 == 59 else WRITERS[number % len(WRITERS)]
    )
    chance = random.Random(f"{kind} {number}")
    _, seconds = scene.expected(writer)
    scene.reset()
    first = ""
    if kind == "kill":
        moment = chance.uniform(0.05, seconds)
        first = (
            f"ended within {moment:.1f} s"
            if scene.run(writer.command, code=scene.code_of(writer), kill=moment)[0] == 0
            else ""
        )
    else:
        status, _, errors = _full(scene, writer, chance)
        if "Traceback" in errors or status not in (0, 2):
            return {"verb": writer.name, "file": "", "outcome": "traceback", "note": errors[-2000:]}
        first = errors[-200:]
    judged, note = scene.outcome(writer, "")
    return {"verb": writer.name, "file": "", "outcome": judged, "note": f"{first} {note}"}


def _full(scene: Scene, writer: Reader, chance: random.Random) -> tuple[int | None, str, str]:
    """Run a command on a small disk, mounted in memory where that is allowed; else with a limit on each file's size."""
    disk = scene.place / "disk"
    disk.mkdir(exist_ok=True)
    used = sum(path.stat().st_size + 4096 for path in scene.work.rglob("*"))
    size = used + int(10 ** chance.uniform(3.5, 6.5))
    mount = ctypes.CDLL(None, use_errno=True)
    if mount.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, f"size={size}".encode()):
        return scene.run(writer.command, code=scene.code_of(writer), limit=int(10 ** chance.uniform(2, 5.5)))
    try:
        shutil.copytree(scene.work, disk / "work")
        scene.work, kept = disk / "work", scene.work
        try:
            answer = scene.run(writer.command, code=scene.code_of(writer))
        finally:
            scene.work = kept
        shutil.rmtree(kept)
        shutil.copytree(disk / "work", kept)
    finally:
        mount.umount2(str(disk).encode(), 2)
    return answer


def _case(scene: Scene, kind: str, number: int, named: str | None) -> dict[str, str]:
    """One case of all verbs, or of the named ones."""
    interrupted = kind in ("kill", "fill")
    known = (*WRITERS, EXPORT, QUICKSTART, DOWNLOAD, *ON_RAY) if interrupted else (*READERS, DOWNLOAD)
    chosen = [one for one in known if named and one.name in named.split(",")]
    if named and len(chosen) != len(named.split(",")):
        raise SystemExit(f"--verbs {named}: choose from {', '.join(one.name for one in known)}")
    if interrupted:
        return interrupt(scene, kind, number, chosen)
    return damage(scene, kind, number, chosen or READERS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.damage", description=__doc__)
    for name, count in (("kill", 500), ("flip", 500), ("cut", 200), ("fill", 200)):
        parser.add_argument(f"--{name}s", type=int, default=count)
    parser.add_argument("--first", type=int, default=0, help="number of each kind's first case")
    parser.add_argument("--verbs", help="of these alone, as in train,analyze; default all in turn")
    parser.add_argument("--at", type=Path, default=Path("damage"), help="the scene's folder, kept between sittings")
    parser.add_argument("--results", type=Path, help="default AT/results.jsonl")
    parser.add_argument("--minutes", type=float, default=30.0, help="of this sitting")
    asked = parser.parse_args()
    asked.at.mkdir(parents=True, exist_ok=True)
    scene, results = Scene(asked.at.absolute()), asked.results or asked.at / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done, until = (
        {(row["kind"], row["number"], row.get("verbs")) for row in rows},
        time.monotonic() + 60 * asked.minutes,
    )
    kinds = ("kill", "flip", "cut", "fill")
    wanted = [(kind, asked.first + count) for kind in kinds for count in range(getattr(asked, f"{kind}s"))]
    wanted.sort(key=lambda one: one[1])
    with results.open("a") as file:
        for kind, number in wanted:
            if (kind, number, asked.verbs) in done or time.monotonic() > until:
                continue
            row = {"kind": kind, "number": number, "verbs": asked.verbs} | _case(scene, kind, number, asked.verbs)
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            if row["outcome"] in ("silent", "traceback"):
                print(f"{kind} {number}: {row['verb']} {row['file']}: {row['outcome']}\n{row['note']}", flush=True)
    names = ("same", "named", "silent", "traceback")
    for heading, key in (("", "kind"), ("\n", "verb")):
        print(f"{heading}{key:20}", *(f"{name:>10}" for name in names))
        for value in dict.fromkeys(row[key] for row in rows):
            counts = Counter(row["outcome"] for row in rows if row[key] == value)
            print(f"{value:20}", *(f"{counts[name]:10}" for name in names))


if __name__ == "__main__":
    main()
