"""Without what Windows lacks: the main verbs do the same work, to the same bits."""

from __future__ import annotations

import ast
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import TINY_MODEL

import earsight
from earsight import files, portable
from earsight.recipe import load_recipe

pytestmark = pytest.mark.timeout(900)  # each command is a process that imports torch, and one compiles kernels
START_CODE = Path(__file__).parent / "helpers" / "without_posix"


GUARDED = {  # each behind a question whether it is there, or on Linux alone
    "portable.py": {"pread"},
    "files.py": {"getuid"},
    "kernels/code_cache.py": {"geteuid"},
    "openmp.py": {"getpriority", "PRIO_PROCESS"},
    "execution/ray_cluster.py": {"sched_getaffinity"},
    "serving/decoder.py": {"resource"},
}


def test_what_windows_lacks_stands_where_it_is_asked_for_alone():
    lacking = runpy.run_path(str(START_CODE / "lacking.py"))
    root, found = Path(earsight.__file__).parent, {}
    for path in sorted(root.rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names |= {node.attr} & lacking[{"os": "OS", "signal": "SIGNAL"}.get(node.value.id, "MODULES")]
            elif isinstance(node, ast.Import):
                names |= {one.name for one in node.names} & lacking["MODULES"]
            elif isinstance(node, ast.ImportFrom):
                names |= {str(node.module)} & lacking["MODULES"]
                names |= {one.name for one in node.names} & lacking.get(str(node.module).upper(), set())
        if names:
            found[path.relative_to(root).as_posix()] = names
    assert found == GUARDED


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """Three kinds of tones and noise, in five formats, two of them in formats that are read through a window."""
    folder, rng = tmp_path_factory.mktemp("portable") / "sounds", np.random.default_rng(7)
    endings = ("wav", "flac", "ogg", "mp3", "aiff", "wav")
    for kind, hz in (("low", 300), ("high", 3000), ("noise", None)):
        (folder / kind).mkdir(parents=True)
        for number, ending in enumerate(endings):
            wave = rng.normal(size=16000) if hz is None else np.sin(np.arange(16000) / 16000 * 2 * np.pi * hz)
            wave = 0.3 * wave + 0.01 * rng.normal(size=16000)
            soundfile.write(folder / kind / f"{number}.{ending}", wave, 16000)
    return folder


class Runner:
    """Runs earsight in a process of its own, as here or as on Windows."""

    def __init__(self, home: Path, *, windows: bool) -> None:
        self.home, self.log = home, home / "asked"
        self.training = [word for one in (*TINY_MODEL, "features.sample_rate_hz=16000") for word in ("--set", one)]
        # The compiled kernels' cache is the usual one, so that nobody waits for a compiler here.
        self.training += ["--cache", str(home / "cache"), "--threads", "1", "--device", "cpu"]
        package = str(Path(earsight.__file__).parents[1])
        path = [*([str(START_CODE)] if windows else []), package, os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path),
            "WITHOUT_POSIX": str(self.log),
            "TMPDIR": str(home),
        }
        if windows:
            self.environment["PYTHONWARNDEFAULTENCODING"] = "1"

    def __call__(self, *words: str | Path, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "earsight", *map(str, words)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=self.environment | environment,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=[True, False], ids=["as on Windows", "as here"])
def runner(request, tmp_path_factory) -> Runner:
    return Runner(tmp_path_factory.mktemp("home"), windows=request.param)


RESULTS: dict[str, list[object]] = {}


def _same_on_both(name: str, found: object) -> None:
    """Both systems' results are the same."""
    RESULTS.setdefault(name, []).append(found)
    assert all(one == RESULTS[name][0] for one in RESULTS[name])


def test_check_train_and_predict(runner, sounds):
    checked = json.loads(runner("check", sounds, "--json"))
    assert checked["clips"] == 18
    _same_on_both("check", checked)
    run = runner.home / "run"
    runner("train", sounds, "--out", run, *runner.training)
    model = run / "model.safetensors"
    found = runner("predict", model, sounds / "low", sounds / "noise", "--json", "--threads", "1")
    _same_on_both("predict", found.replace(str(run), "RUN"))
    assert found.count(".mp3") == 2
    runner("train", sounds, "--out", run, *runner.training)  # goes on, finds all done
    runner("predict", model, sounds / "low", "--hop", "0.5", "--format", "csv", "--out", runner.home / "rows.csv")
    _same_on_both("rows", (runner.home / "rows.csv").read_text(encoding="utf-8"))
    assert list(runner.home.glob("*.lock")) == []


def test_names_that_the_output_has_no_letters_for_are_escaped(runner, tmp_path):
    for kind in ("вода", "low"):
        (tmp_path / kind).mkdir()
        for number in range(2):
            soundfile.write(tmp_path / kind / f"{number}.wav", np.full(1600, 0.25 * (number + 1)), 16000)
    found = runner("check", tmp_path, "--no-near", PYTHONIOENCODING="cp1252")
    assert "\\u0432\\u043e\\u0434\\u0430" in found
    assert "вода" in runner("check", tmp_path, "--no-near", PYTHONIOENCODING="utf-8")


def test_trials_in_processes(runner, sounds):
    run = runner.home / "folds"
    runner("crossval", sounds, "--splits", "2", "--out", run, "--jobs", "2", *runner.training)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    _same_on_both("crossval", summary["accuracy"])


def test_what_was_taken_away_was_asked_for(runner):
    """The start code takes effect in the main process, in the trials' and in what they import."""
    asked = runner.log.read_text(encoding="utf-8").splitlines() if runner.log.exists() else []
    if runner.environment.get("PYTHONWARNDEFAULTENCODING"):
        assert {"pread", "CDLL", "SIGHUP", "geteuid", "name", "get_all_start_methods"} <= set(asked)
    else:
        assert asked == []


def test_a_decoding_process_without_limits_of_the_system(runner, sounds, tmp_path):
    jobs = [
        {"path": str(sounds / "low" / "0.wav"), "out": str(tmp_path / "low.raw"), "rate": 16000, "channel": "mean"},
        {"path": str(sounds / "low" / "1.flac"), "out": str(tmp_path / "long.raw"), "rate": 16000, "channel": "mean"},
    ]
    features = load_recipe("default").features.model_dump(mode="json") | {"sample_rate_hz": 16000, "clip_seconds": 1.0}
    rest = {"features": features, "start": 0.0, "seconds": None, "window": None, "cpu_seconds": 5.0}
    lines = [json.dumps(job | rest | {"longest": longest}) for job, longest in zip(jobs, (2.0, 0.25), strict=True)]
    done = subprocess.run(
        [sys.executable, "-m", "earsight.serving.decoder", str(1 << 30), str(1 << 20)],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        env=runner.environment,
        check=True,
    )
    ready, whole, cut = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": True}
    assert whole["samples"] == 16000
    assert cut["code"] == "too_long"
    assert np.fromfile(tmp_path / "low.raw", dtype=np.float32).std() == pytest.approx(0.3 / 2**0.5, rel=0.05)


@pytest.mark.parametrize("pread", [True, False])
def test_bytes_from_a_place(tmp_path, monkeypatch, pread):
    (tmp_path / "ten").write_bytes(bytes(range(10)))
    if not pread:
        monkeypatch.delattr(os, "pread")
    with (tmp_path / "ten").open("rb", buffering=0) as file:
        assert file.read(2) == b"\x00\x01"
        assert portable.read_at(file.fileno(), 3, 5) == b"\x05\x06\x07"
        assert portable.read_at(file.fileno(), 9, 8) == b"\x08\x09"
        assert portable.read_at(file.fileno(), 9, 80) == b""
        assert file.read(2) == b"\x02\x03"  # where reading goes on stayed as it was


def test_sockets_lie_where_their_paths_fit(tmp_path, monkeypatch):
    short, usual = tmp_path / "short", tmp_path / ("long" * 20)
    short.mkdir()
    monkeypatch.setattr(portable, "_SHORT", (str(tmp_path / "absent"), str(short)))
    monkeypatch.setattr(portable.tempfile, "tempdir", str(usual))
    fits = portable._SOCKET_BYTES - len(os.fsencode(usual))
    assert portable.socket_folder(fits) == str(usual)
    assert portable.socket_folder(fits + 1) == str(short)
    monkeypatch.setattr(portable.os, "access", lambda *_: False)
    assert portable.socket_folder(fits + 1) == str(usual)  # the system's refusal then says what to do
    monkeypatch.setattr(portable.os, "name", "nt")  # whose sockets are pipes
    assert portable.socket_folder(fits + 1) == str(usual)


@pytest.mark.parametrize("name", ["posix", "nt"])
def test_a_signal_from_another_thread(monkeypatch, name):
    monkeypatch.setattr(portable.os, "name", name)
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: got.append(number))
    try:
        sender = threading.Thread(target=portable.interrupt, args=(signal.SIGTERM,))
        sender.start()
        sender.join()
        for _ in range(200):
            if got:
                break
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


def test_a_file_that_is_open_is_replaced_when_it_is_closed(tmp_path, monkeypatch):
    """As Windows does it: a virus scanner has the file open for a moment."""
    taken, replace = [2], os.replace

    def refused(*paths: object, **options: object) -> None:
        taken[0] -= 1
        if taken[0] >= 0:
            raise PermissionError(13, "in use")
        replace(*paths, **options)

    waits: list[float] = []
    monkeypatch.setattr(files, "_at_once", lambda: False)
    monkeypatch.setattr(files.time, "sleep", waits.append)
    monkeypatch.setattr(os, "replace", refused)
    files.replace_text(tmp_path / "state", "new")
    assert (tmp_path / "state").read_text() == "new"
    assert waits == list(files._WAITS[:2])
    taken[0] = 100
    with pytest.raises(PermissionError):
        files.replace_text(tmp_path / "state", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert len(waits) == 2 + len(files._WAITS)


def test_on_posix_a_refusal_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files.time, "sleep", lambda _seconds: pytest.fail("waited"))
    monkeypatch.setattr(os, "replace", lambda *_paths: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(PermissionError):
        files.replace_text(tmp_path / "state", "new")
