"""The verbs where files are broken, disks full or read-only, clips exchanged, models of another version, ports taken;
for `benchmarks.hostile`.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch

from benchmarks import broken, damage
from benchmarks.watched import Row, Site
from earsight.cache import default_cache

CLIPS = 300
"""Clips of a second whose rows do not fit on a small disk."""
SIZES = 8
"""Small disks for each verb that writes."""
KILLS = 10
"""Of the service."""
SETTINGS = ["--threads", "1", *damage.RECIPE, "--cache"]


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
        ("small disks", lambda: _small(place)),
        ("exchanged clips", lambda: _exchanged(place)),
        ("read-only disk", lambda: _read_only(model, sound, run, place)),
        ("service on a full disk", lambda: iter([_full_service(model, sound, place)])),
        ("service killed", lambda: _killed_service(model, sound, place)),
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


def _small(place: Path) -> Iterator[Row]:
    """Verbs on disks of sizes drawn up to what they need; with room, the same command ends with a large disk's bits."""
    data, small = _tones(place / "small set", "WAV"), place / "small"
    safetensors.torch.save_file({"fc.weight": torch.ones(1000, 100)}, weights := place / "weights")
    name = f"test_resnet-{hashlib.sha256(body := weights.read_bytes()).hexdigest()[:8]}.safetensors"
    train = ["train", data, "--out", "{}/run", *SETTINGS, "{}/cache"]
    tune = [
        "tune",
        "default",
        data,
        "--on",
        "local",
        "--grid",
        "training.learning_rate=1e-3,1e-4",
        "--out",
        "{}/search",
    ]
    rows = ["predict", place / "small run" / "model.safetensors", data, "--csv", "--threads", "1", "--resume", "--out"]
    with disk(small, "1g"):
        _forked(place, train)
        shutil.copytree(small / "run", run := place / "small run")
    with served(body) as url:
        code = f"from earsight.models import weights; weights.KNOWN['test_resnet'] = '{url}/{name}'"
        for what, words, results in (
            ("check --sources", ["check", data, "--no-near", "--sources", "{}/sources.csv"], ["sources.csv"]),
            ("download weights", ["download", "weights", "test_resnet", "--out", "{}/weights"], ["weights/*"]),
            ("predict --out", [*rows, "{}/rows.csv"], ["rows.csv"]),
            ("predict --hop --out", [*rows, "{}/rows", "--hop", "0.1", "--rows", "both"], ["rows/**/*.csv"]),
            ("train", train, ["run/fold-*/seed-*/model.safetensors", "run/fold-*/seed-*/predictions.npz"]),
            ("report", ["report", run, "--out", "{}/page.html"], ["page.html"]),
            ("tune", [*tune, *SETTINGS, "{}/cache"], ["search/best.yaml", "search/points/*/fold-*/seed-*/inner.npz"]),
        ):
            yield from _refilled(f"small disk: {what}", words, results, place, code)


def _refilled(what: str, words: list[object], results: list[str], place: Path, code: str) -> Iterator[Row]:
    small = place / "small"
    with disk(small, "1g"):
        whole, wanted = _forked(place, words, code), _content(small, results)
        used = shutil.disk_usage(small).used
    yield Row(f"{what}, 1 GB", f"exit {whole.code}, {used} bytes", not whole.code and bool(wanted), whole.seconds)
    for number in range(SIZES):
        size = 4096 * int(used / 4096 * random.Random(f"{what} {number}").random() ** 2)
        with disk(small, str(size + 4096)):
            (small / "fill").write_bytes(bytes(4096))  # for a disk has a page at least
            first = _forked(place, words, code)
            subprocess.run(["mount", "-o", "remount,size=1g", small], check=True)
            again = _forked(place, words, code)
            same = _content(small, results) == wanted
        refusal = _refusal(what, first)
        told = first.code == 0 or (refusal.ok and re.search("make room|name another", first.err) is not None)
        found = f"{refusal.found}; with room: exit {again.code}, same bytes: {same}"
        ok = told and same and again.code == 0 and "Traceback" not in again.err
        yield Row(f"{what}, {size} bytes", found, ok, first.seconds + again.seconds)


def _forked(place: Path, words: list[object], code: str = "") -> Done:
    """A verb in a process forked with everything imported; ``{}`` in its words is the small disk."""
    began = time.perf_counter()
    text = [str(word).replace("{}", str(place / "small")) for word in words]
    status, out, err = damage.forked(text, place, place / "kernels", code=code)
    return Done(-1 if status is None else status, out, err, time.perf_counter() - began, 0)


def _content(folder: Path, results: list[str]) -> dict[str, bytes]:
    paths = [path for one in results for path in sorted(folder.glob(one))]
    return {str(path.relative_to(folder)): damage.content_of(path) for path in paths}


@contextlib.contextmanager
def served(body: bytes) -> Iterator[str]:
    """The address of a server that gives one body, from where it is asked to, at 3 MB a second."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first = int(found[1]) if found else 0
            self.send_response(206 if found else 200)
            if found:
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - first))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who asked has no room
                for begin in range(first, len(body), 1 << 16):
                    self.wfile.write(body[begin : begin + (1 << 16)])
                    time.sleep(0.02)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _tones(folder: Path, form: str) -> Path:
    """Tones of four pitches in class folders, by six sources that names tell; files of one size, where a format can."""
    chance, files = np.random.default_rng(len(form)), {}
    for number, label in enumerate(("ant", "bee", "cat", "dog")):
        (folder / label).mkdir(parents=True)
        for take in range(12):
            tone = 0.3 * np.sin(np.arange(4000) * 0.1 * (1 + number)) + chance.normal(0, 0.1, 4000)
            path = folder / label / f"{label}_{'abcdef'[take % 6]}_{take}.{form.lower()}"
            files[path] = broken.encoded(tone, 8000, form=form)
    size = max(map(len, files.values())) + 64
    for path, content in files.items():
        path.write_bytes(_padded(content, form, size))
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def _padded(content: bytes, form: str, size: int) -> bytes:
    spare = size - len(content)
    if form == "MP3":  # a tag before the sound, its length in groups of seven bits
        count = spare - 10
        return b"ID3\4\0\0" + bytes((count >> shift) & 127 for shift in (21, 14, 7, 0)) + bytes(count) + content
    if form == "FLAC":  # a block of padding behind the first, which is 34 bytes behind two headers of four
        return content[:42] + b"\1" + (spare - 4).to_bytes(3) + bytes(spare - 4) + content[42:]
    return content


def _exchanged(place: Path) -> Iterator[Row]:
    """Clips of two classes change places, by name or by content, with sizes and times kept."""
    for form in ("WAV", "FLAC", "MP3"):
        for way in ("mv", "rewritten"):
            home = place / f"exchanged {form} {way}"
            data = _tones(home / "set", form)

            def train(out: str, cache: str, home: Path = home, data: Path = data) -> Done:
                return _forked(place, ["train", data, "--out", home / out, *SETTINGS, home / cache])

            before = train("run", "cache")
            for one, other in zip(sorted(data.glob("ant/*"))[:3], sorted(data.glob("dog/*"))[:3], strict=True):
                _exchange(one, other, way)
            refused = _refusal("", train("run", "cache"))
            again, fresh = train("again", "cache"), train("fresh", "new")
            results = [
                [*_content(home / name, ["fold-*/seed-*/*.[ns]*"]).values()] for name in ("run", "again", "fresh")
            ]
            found = f"old run: {refused.found}; old cache as a new one: {results[1] == results[2]}"
            ok = refused.ok and results[1] == results[2] != results[0] and not (before.code or again.code or fresh.code)
            yield Row(f"exchanged clips: {form}, {way}", found, ok, before.seconds + again.seconds + fresh.seconds)


def _exchange(one: Path, other: Path, way: str) -> None:
    times, parts = [path.stat() for path in (one, other)], [one.read_bytes(), other.read_bytes()]
    if way == "mv":
        one.rename(spare := one.with_name("spare"))
        other.rename(one)
        spare.rename(other)
    else:
        one.write_bytes(parts[1])
        other.write_bytes(parts[0])
    for path, status in zip((one, other), times, strict=True):
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


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


def _killed_service(model: Path, sound: Path, place: Path) -> Iterator[Row]:
    """SIGKILL while uploads come and are answered: the next start answers as the first did, and tidies up."""
    good, folder, chance = sound.read_bytes(), place / "killed", random.Random(0)
    with Site(model, good, folder) as site:
        wanted = site.answer(good)
    kernels = _content(default_cache(), ["kernels/**/*.nb?", "kernels/**/SHA256SUMS"])
    for number in range(KILLS):
        began = time.perf_counter()
        with Site(model, good, folder) as site:
            for _ in range(4):
                threading.Thread(target=_until_it_dies, args=(site, good), daemon=True).start()
            time.sleep(chance.uniform(0, 2))
            orphans = site.kill()
        left = len([*folder.glob("earsight-serving-*/")])
        with Site(model, good, folder) as site:
            same, scratch = site.answer(good) == wanted, len([*folder.glob("earsight-serving-*/")])
        after = len([*folder.glob("earsight-*")])
        kept = kernels == _content(default_cache(), ["kernels/**/*.nb?", "kernels/**/SHA256SUMS"])
        found = (
            f"{left} folder left; next start: same answer {same}, {scratch} folder, {after} after it; orphans {orphans}"
        )
        ok = same and kept and (scratch, after, orphans) == (1, 0, 0)
        yield Row(f"service killed {number}", f"{found}; kernels as before: {kept}", ok, time.perf_counter() - began)


def _until_it_dies(site: Site, content: bytes) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        while True:
            site.post(content, "/predict?explain=true&hop=0.5")
            site.post_form(content)


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
