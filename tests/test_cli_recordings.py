"""`predict --hop` as a user runs it: forms, folders, standard input, kills, full disks and wrong options."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earsight.errors import counted
from test_cli import invoke, process

THREAD = ["--threads", "1"]


@pytest.fixture(scope="module")
def model(synthetic, tmp_path_factory) -> Path:
    """A model without training: what is said does not matter here."""
    import torch

    from earsight.recipe import load_recipe
    from earsight.training.preparation import prepare
    from earsight.training.trial import Trial, run_trial

    chosen = ["backbone.name=test_resnet", "backbone.weights=none", "features.bands=32", "features.frames=32"]
    recipe = load_recipe(overrides=[*chosen, "training.epochs=1", "augment.pitch_semitones=0"])
    run = tmp_path_factory.mktemp("run")
    return run_trial(prepare(synthetic, recipe, workers=1), Trial(1, 0), run=run, device=torch.device("cpu")) / (
        "model.safetensors"
    )


@pytest.fixture(scope="module")
def long(synthetic, tmp_path_factory) -> Path:
    """A minute of sounds."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    waves = [soundfile.read(synthetic.file(row % 100), dtype="float32") for row in range(0, 420, 7)]
    soundfile.write(path, np.concatenate([wave for wave, _ in waves]), waves[0][1])
    return path


def _predict(model, *args, code=0, **kwargs):
    return invoke("predict", model, *args, *THREAD, code=code, **kwargs)


LOW = ("--threshold", "0.11", "--release", "0.1")


def test_forms(model, long):
    events = list(csv.DictReader(_predict(model, long, "--hop", "1", *LOW, "--csv").stdout.splitlines(), strict=True))
    assert events
    assert {row["path"] for row in events} == {str(long)}
    assert all(float(row["begin_s"]) < float(row["end_s"]) <= 60 for row in events)
    objects = [json.loads(line) for line in _predict(model, long, "--hop", "1", *LOW, "--json").stdout.splitlines()]
    assert [row["label"] for row in objects] == [row["label"] for row in events]
    labels = _predict(model, long, "--hop", "1", *LOW, "--format", "audacity").stdout.splitlines()
    assert [float(line.split("\t")[1]) for line in labels] == [float(row["end_s"]) for row in events]
    begins = [float(row["begin_s"]) for row in events]
    assert begins == sorted(begins)
    raven = _predict(model, long, "--hop", "1", *LOW, "--format", "raven").stdout.splitlines()
    assert raven[0].startswith("Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)")
    assert len(raven) == len(events) + 1
    windows = _predict(model, long, "--hop", "2.5", "--rows", "windows").stdout.splitlines()
    assert len(windows) == 24
    assert _predict(model, long, "--hop", "2.5", "--rows", "windows", "--top", "3").stdout.count(" %") == 72


def test_broken_files_and_names_from_the_stream(model, long, tmp_path):
    (tmp_path / "bad.wav").write_text("hello")
    names = f"{long}\n{tmp_path / 'bad.wav'}\n{tmp_path / 'absent.wav'}\n{long}\n"
    result = _predict(model, "-", "--hop", "5", "--rows", "windows", "--csv", code=1, input=names)
    rows = list(csv.DictReader(result.stdout.splitlines(), strict=True))
    assert [row["path"] for row in rows if row["error"]] == [str(tmp_path / "bad.wav"), str(tmp_path / "absent.wav")]
    assert sum(row["path"] == str(long) for row in rows) == 24
    assert "2 of the files could not be read" in result.stderr
    audacity = _predict(model, tmp_path / "bad.wav", "--hop", "1", "--format", "audacity", code=1)
    assert audacity.stdout == ""
    assert "bad.wav: a text file" in audacity.stderr


def test_a_folder_of_recordings_into_a_folder(model, synthetic, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number in range(4):
        os.link(synthetic.file(number), tmp_path / "in" / ("deep" if number % 2 else "") / f"{number}.wav")
    out = tmp_path / "found"
    _predict(model, tmp_path / "in", "--hop", "0.5", "--rows", "both", "--format", "raven", "--out", out)
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == sorted(
        [".finished", "recordings.csv"]
        + [
            f"{name}.{what}.txt"
            for name in ("0.wav", "2.wav", "deep/1.wav", "deep/3.wav")
            for what in ("events", "windows")
        ]
    )
    _predict(model, tmp_path / "in", "--hop", "0.5", "--rows", "both", "--format", "raven", "--out", out, code=2)
    again = _predict(
        model, tmp_path / "in", "--hop", "0.5", "--rows", "both", "--format", "raven", "--out", out, "--resume"
    )
    assert "is whole" in again.stderr


def test_what_is_found_is_read_back_as_boxes(model, long, tmp_path):
    """One table for many recordings, and one for each: all have the events that JSON lines have."""
    from earsight.data.annotations import read_boxes

    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    sound, rate = soundfile.read(long)
    for name, part in (("a.wav", sound[: 20 * rate]), ("deep/a.wav", sound[15 * rate : 40 * rate])):
        soundfile.write(root / name, part, rate)
    words = (root, "--hop", "0.5", *LOW)
    wanted = []
    for row in map(json.loads, _predict(model, *words, "--json").stdout.splitlines()):
        wanted.append((Path(row["path"]).relative_to(root).as_posix(), row["begin_s"], row["end_s"], row["label"]))
    assert {path for path, *_ in wanted} == {"a.wav", "deep/a.wav"}
    for form, suffix, folder in (
        *(("csv", ".csv", False), ("jsonl", ".jsonl", False), ("raven", ".txt", False)),
        *(("csv", "", True), ("jsonl", "", True), ("raven", "", True), ("audacity", "", True)),
    ):
        out = tmp_path / f"{form}{'-each' if folder else ''}{suffix}"
        _predict(model, *words, "--format", form, "--out", out)
        assert out.is_dir() == folder
        boxes = read_boxes(out, root).boxes
        assert sorted((one.path, one.begin, one.end, one.label) for one in boxes) == sorted(wanted), form


def test_killed_while_it_writes(model, long, tmp_path):
    """SIGKILL at whatever instant: the command with --resume gives the bytes of a run that nobody touched."""
    command = ["predict", model, long, "--hop", "0.05", "--rows", "windows", "--csv", *THREAD]
    _predict(*command[1:-2], "--out", tmp_path / "whole.csv")
    kills = 0
    while True:
        out = tmp_path / "killed.csv"
        running = process(*command, "--out", out, *["--resume"] * bool(kills))
        wanted = 25_000 * (kills + 1)
        while running.poll() is None and not (not kills and out.exists() and out.stat().st_size > wanted):
            time.sleep(0.01)
        if not kills:
            running.kill()
        _, errors = running.communicate()
        if running.returncode == 0:
            break
        assert running.returncode == -signal.SIGKILL, errors
        kills += 1
    assert kills
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["killed.csv", "whole.csv"]


def test_clips_go_on_too(model, synthetic, tmp_path):
    files = [synthetic.file(row) for row in range(40)]
    stdout = _predict(model, *files, "--csv").stdout
    whole = tmp_path / "whole.csv"
    _predict(model, *files, "--csv", "--out", whole)
    assert whole.read_text() == stdout
    # As it lies after a kill behind 32 clips, within a line.
    _predict(model, *files[:32], "--csv", "--out", tmp_path / "x.csv")
    half = tmp_path / "x.csv"
    settings = json.loads(_killed_journal(model, files, tmp_path))["settings"]
    size = half.stat().st_size
    half.write_bytes(half.read_bytes() + b"half a li")
    place = {"settings": settings, "place": {"done": 32, "failed": 0}, "files": {"": size}}
    half.with_name("x.csv.progress").write_text(json.dumps(place))
    _predict(model, *files, "--csv", "--out", half, "--resume")
    assert half.read_bytes() == whole.read_bytes()


def _killed_journal(model, files, folder):
    """What stands in the journal of a run that stopped at a full disk."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900));"
        "from earsight.cli import main; sys.argv[0] = 'earsight'; main()"
    )
    out = folder / "full.csv"
    words = ["predict", model, *files, "--csv", "--out", out, *THREAD]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "full.csv: cannot be written (File too large); make room" in done.stderr
    assert "Traceback" not in done.stderr
    text = out.read_text()
    assert text.endswith("\n")
    assert all(line.count(",") == text.splitlines()[0].count(",") for line in text.splitlines()), "a row is cut"
    return out.with_name("full.csv.progress").read_text()


@pytest.mark.parametrize(
    ("options", "words"), [([], "rows are whole"), (["--out", "r.csv"], "--resume the same command")]
)
def test_ctrl_c_says_how_to_go_on(model, long, monkeypatch, options, words):
    from earsight.commands import predicting

    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(predicting, "run", stopped)
    assert words in _predict(model, long, *options, code=130).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("to", ["stdout", "--out"])
def test_a_full_disk(model, long, to):
    words = ["predict", model, long, "--hop", "5", "--rows", "windows", *THREAD]
    with Path("/dev/full").open("w") as full:
        running = process(*words, stdout=full) if to == "stdout" else process(*words, "--out", "/dev/full")
        _, errors = running.communicate(timeout=120)
    assert running.returncode == 2
    assert b"rows cannot be written (No space left on device)" in errors
    assert b"Output to --out FILE can be resumed with --resume" in errors
    assert b"Traceback" not in errors
    assert b"Exception ignored" not in errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hop", "0"], "hop is 0 s"),
        (["--hop", "-1"], "hop is -1 s"),
        (["--hop", "nan"], "hop is nan s"),
        (["--hop", "1", "--threshold", "0"], "threshold is 0"),
        (["--hop", "1", "--release", "0.9"], "release is 0.9"),
        (["--hop", "1", "--rows", "both"], "name a folder with --out"),
        (["--hop", "1", "--rows", "all"], "expected one of events, windows, both"),
        (["--hop", "1", "--format", "xml"], "expected one of text, csv, jsonl, audacity, raven"),
        (["--hop", "1", "--format", "raven", "--csv"], "choose one"),
        (["--hop", "1", "--resume"], "--resume needs --out"),
        (["--format", "raven"], "give --hop"),
        (["--threshold", "0.9"], "give --hop"),
        (["--out", "folder"], "clips are rows of one file"),
    ],
)
def test_wrong_options_end_in_one_line(model, long, options, words):
    result = _predict(model, long, *options, code=2)
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_forms_of_one_recording_want_one_or_a_folder(model, long):
    result = _predict(model, long, long, "--hop", "1", "--format", "audacity", code=2)
    assert "name a folder with --out" in result.stderr
    raven = _predict(model, long, long, "--hop", "2.5", "--rows", "windows", "--format", "raven").stdout.splitlines()
    rows = list(csv.DictReader(raven, delimiter="\t", strict=True))
    assert len(rows) == 48
    assert (rows[24]["Begin Path"], rows[24]["File Offset (s)"]) == (str(long), "0.000000")
    assert (rows[24]["Selection"], rows[24]["Begin Time (s)"]) == ("25", "60.000000")


NEVER = ("--hop", "1", "--threshold", "0.999")


@pytest.fixture(scope="module")
def surest(model, long):
    """The window of a recording in which some class is most probable."""
    rows = _predict(model, long, "--hop", "1", "--rows", "windows", "--json").stdout.splitlines()
    found = [(max(row["classes"].items(), key=lambda pair: pair[1]), row) for row in map(json.loads, rows)]
    return max(found, key=lambda pair: pair[0][1])


def test_a_recording_without_events_says_what_came_nearest(model, long, surest):
    (label, score), window = surest
    [row] = [json.loads(line) for line in _predict(model, long, *NEVER, "--json").stdout.splitlines()]
    highest = {"label": label, "begin_s": window["begin_s"], "end_s": window["end_s"], "threshold": 0.999}
    assert row == {"path": str(long), "events": 0, "highest": {**highest, "score": pytest.approx(score, abs=1e-5)}}
    [line] = _predict(model, long, *NEVER).stdout.splitlines()
    words = f"the highest score is {label} {100 * score:.1f} % at {window['begin_s']:.3f} s; events of {label} begin at"
    assert line == f"{long}\tno event: {words} 99.9 %"
    # Formats without such a row leave it to the line on standard error, as files do.
    for more in (["--format", "audacity"], ["--csv"]):
        done = _predict(model, long, *NEVER, *more)
        assert f"{long}: no event: {words}" in done.stderr
        assert len(done.stdout.splitlines()) == (more == ["--csv"])


def test_an_event_that_is_too_short_is_said_to_be(model, long, surest):
    (label, _), _ = surest
    done = _predict(model, long, "--hop", "1", "--threshold", "0.02", "--min-duration", "1000")
    assert f"\tno event: the highest score is {label} " in done.stdout
    assert done.stdout.endswith("s; too short, or steady noise\n")


def test_a_recording_with_events_has_no_such_row(model, long):
    assert "no event" not in _predict(model, long, "--hop", "1", *LOW).stdout


def test_the_last_line_says_what_was_written(model, long, synthetic, tmp_path):
    clips = [synthetic.file(0), synthetic.file(1)]
    last = _predict(model, *clips, "--csv", "--out", tmp_path / "a.csv").stderr.splitlines()[-1]
    assert last == f"earsight: 2 rows, one for each file, written to {tmp_path / 'a.csv'} as csv"
    events = len(_predict(model, long, "--hop", "1", *LOW).stdout.splitlines())
    again = [long, "--hop", "1", *LOW, "--out"]
    last = _predict(model, *again, tmp_path / "b.txt").stderr.splitlines()[-1]
    assert last == f"earsight: {counted(events, 'event')} of 1 recording written to {tmp_path / 'b.txt'} as text"
    last = _predict(model, *again, tmp_path / "c", "--rows", "both").stderr.splitlines()[-1]
    assert last == (
        f"earsight: {counted(events, 'event')}, and windows, of 1 recording written to {tmp_path / 'c'} as text, files "
        "for each; recordings.csv there lists them"
    )
    (tmp_path / "bad.wav").write_text("hello")
    done = _predict(model, tmp_path / "bad.wav", "--hop", "1", "--out", tmp_path / "d.txt", code=1)
    assert done.stderr.splitlines()[-1].startswith("earsight: 0 events of 1 recording written to ")
