"""The verbs where files are broken, disks full or read-only, models of another version, ports taken; for
`benchmarks.hostile`.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch

from benchmarks import broken
from benchmarks.watched import Row, Site

CLIPS = 300
"""Clips of a second whose rows do not fit on a small disk."""


class Done(NamedTuple):
    """How a verb ended."""

    code: int
    out: str
    err: str
    seconds: float
    mb: int


def verb(*words: object, to: Path | None = None) -> Done:
    """Run `earsight`; its output may go to a file, such as /dev/full."""
    began = time.perf_counter()
    # A shell of its own, so that the peak of memory is this verb's alone.
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]).returncode;"
        "sys.stderr.write(f'\\n{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024}'); sys.exit(done)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "earsight", *map(str, words)]
    with contextlib.ExitStack() as stack:
        out = subprocess.PIPE if to is None else stack.enter_context(to.open("w"))
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    err, _, mb = done.stderr.rpartition("\n")
    return Done(done.returncode, done.stdout or "", err, time.perf_counter() - began, int(mb))


def met(model: Path, sound: Path, run: Path | None, place: Path, *, only: str = "") -> Iterator[Row]:
    """All of them."""
    for name, rows in (
        ("predict, broken files", lambda: _files(model, sound, place)),
        ("full disk", lambda: _full(model, sound, run, place)),
        ("read-only disk", lambda: _read_only(model, sound, run, place)),
        ("service on a full disk", lambda: iter([_full_service(model, sound, place)])),
        ("models and ports", lambda: _starts(model, sound, place)),
    ):
        if only in name:
            try:
                yield from rows()
            except PermissionError as error:
                yield Row(name, f"not tried: {error}", True, 0.0)


@contextlib.contextmanager
def disk(place: Path, size: str, *, read_only_with: Path | None = None) -> Iterator[Path]:
    """A small disk; read-only once it holds a copy of a folder."""
    place.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        raise PermissionError(mounted.stderr.strip())
    try:
        if read_only_with is not None:
            shutil.copytree(read_only_with, place / "run")
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def _refusal(what: str, done: Done, *, well: bool = True) -> Row:
    """A verb that must end with 2 and say why in one or two lines."""
    lines = [line for line in done.err.splitlines() if line.startswith("earsight: ")]
    ok = done.code == 2 and len(lines) == 1 and "Traceback" not in done.err and well
    return Row(what, f"exit {done.code}: {lines[-1] if lines else done.err[-300:]!r}", ok, done.seconds)


def _files(model: Path, sound: Path, place: Path) -> Iterator[Row]:
    folder = place / "files"
    folder.mkdir()
    expected = {}
    for number, (name, file) in enumerate(broken.files().items()):
        path = folder / f"{number:03} {name.replace('/', ' ')}.wav"
        path.write_bytes(file.content)
        expected[path.name] = {"": "answer", "any": "any", "too_long": "any"}.get(file.code, "error")
    for number, content in enumerate(broken.fuzzed(88)):
        (folder / f"fuzz {number:03}.wav").write_bytes(content)
    shutil.copy(sound, folder / "good.ogg")
    expected["good.ogg"] = "answer"
    for options in ((), ("--hop", "60")):
        done = verb("predict", model, folder, "--csv", *options)
        rows: dict[str, str] = {}
        for row in csv.DictReader(done.out.splitlines()):
            rows[Path(row["path"]).name] = row["error"] or rows.get(Path(row["path"]).name, "")
        if options:  # a sound without events has no row
            expected = {name: kind for name, kind in expected.items() if kind == "error"}
        wrong = [name for name, kind in expected.items() if kind != "any" and bool(rows.get(name)) != (kind == "error")]
        missing = [path.name for path in folder.iterdir() if not options and path.name not in rows]
        failed = sum(map(bool, rows.values()))
        found = f"exit {done.code}, {failed} of {len(list(folder.iterdir()))} with an error, at most {done.mb} MB"
        ok = done.code == 1 and not wrong and not missing and "Traceback" not in done.err
        what = " ".join(["predict, broken files", *options])
        yield Row(what, found + (f"; wrong: {wrong}, missing: {missing}" if wrong or missing else ""), ok, done.seconds)


def _clips(place: Path) -> Path:
    import numpy as np

    folder = place / "clips"
    if not folder.is_dir():
        folder.mkdir()
        content = broken.encoded(0.1 * np.random.default_rng(0).standard_normal(broken.RATE), form="OGG")
        for number in range(CLIPS):
            (folder / f"{'a long name ' * 8}{number:04}.ogg").write_bytes(content)
    return folder


def _full(model: Path, sound: Path, run: Path | None, place: Path) -> Iterator[Row]:
    clips = _clips(place)
    small = place / "small"
    for options, name in (
        (("--csv",), "rows.csv"),
        (("--hop", "0.5", "--rows", "windows", "--format", "csv"), "r.csv"),
    ):
        whole = place / f"whole-{name}"
        verb("predict", model, clips, *options, "--out", whole)
        with disk(small, "40k"):
            first = verb("predict", model, clips, *options, "--out", small / name)
            left = (small / name).read_bytes()
            kept = whole.read_bytes().startswith(left) and left.endswith(b"\n")
            yield _refusal(f"full disk: predict {' '.join(options)} --out", first, well=kept)
            subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
            again = verb("predict", model, clips, *options, "--out", small / name, "--resume")
            same = (small / name).read_bytes() == whole.read_bytes()
            found = (
                f"{len(left)} of {whole.stat().st_size} bytes before; --resume: exit {again.code}, same bytes: {same}"
            )
            yield Row(f"full disk: --resume {name}", found, again.code == 0 and same, again.seconds)
    if Path("/dev/full").exists():
        yield _refusal("full disk: predict > /dev/full", verb("predict", model, sound, to=Path("/dev/full")))
        yield _refusal("full disk: predict --out /dev/full", verb("predict", model, sound, "--out", "/dev/full"))
    with disk(small, "200k"):
        yield _refusal(
            "full disk: export", verb("export", model, "--out", small / "m.onnx"), well=not any(small.iterdir())
        )
        yield _refusal("full disk: explain", verb("explain", model, sound, "--no-curves", "--out", small / "x"))
        if run is not None:
            yield _refusal("full disk: report", verb("report", run, "--out", small / "r.html"))
            yield Row(
                "full disk: the report",
                f"left: {[path.name for path in small.iterdir()]}",
                not (small / "r.html").exists(),
                0.0,
            )
    if run is not None:
        size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
        with disk(small, f"{size // 1024 + 600}k"):
            shutil.copytree(run, small / "run")
            before = _sums(small / "run")
            (small / "fill").write_bytes(bytes(max(0, shutil.disk_usage(small).free - 8192)))
            done = verb("calibrate", small / "run", "--false-alarms", "0.02")
            yield _refusal("full disk: calibrate", done, well=_sums(small / "run") == before)


def _sums(run: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in run.rglob("*.safetensors")}


def _read_only(model: Path, sound: Path, run: Path | None, place: Path) -> Iterator[Row]:
    with disk(place / "small", "1g", read_only_with=run or _clips(place)) as small:
        for words in (
            ("predict", model, sound, "--out", small / "rows.csv"),
            ("predict", model, sound, "--hop", "1", "--format", "raven", "--out", small / "found"),
            ("export", model, "--out", small / "m.onnx"),
            ("explain", model, sound, "--no-curves", "--out", small / "x"),
            *((("calibrate", small / "run"), ("report", small / "run")) if run else ()),
        ):
            yield _refusal(f"read-only disk: {words[0]} {'--hop' if '--hop' in words else ''}".strip(), verb(*words))


def _full_service(model: Path, sound: Path, place: Path) -> Row:
    what, found, began = "a service on a full disk", [], time.perf_counter()
    good = sound.read_bytes()
    with disk(place / "small", "8m") as small, Site(model, good, small) as site:
        (small / "fill").write_bytes(bytes(shutil.disk_usage(small).free - 16384))
        found += [site.post(good), site.post_form(good)]
        (small / "fill").unlink()
        found.append(site.post(good))
    ok = found == [(507, "no_space"), (507, "no_space"), (200, "")]
    return Row(what, f"body {found[0]}, form {found[1]}, with room again {found[2]}", ok, time.perf_counter() - began)


def _starts(model: Path, sound: Path, place: Path) -> Iterator[Row]:
    newer = place / "newer.safetensors"
    with safetensors.safe_open(model, "pt") as file:
        content = json.loads(file.metadata()["earsight"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, newer, metadata={"earsight": json.dumps(content | {"format_version": 99})})
    for words in (
        ("predict", newer, sound),
        ("serve", newer, "--port", 0),
        ("export", newer),
        ("explain", newer, sound),
    ):
        yield _refusal(f"a model of another version: {words[0]}", verb(*words))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield _refusal("a port in use", verb("serve", model, "--port", taken.getsockname()[1]))
