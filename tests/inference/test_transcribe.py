"""Many recordings in one go: whatever stops it, going on gives the bytes of a run that nobody touched."""

from __future__ import annotations

import csv
import os
import random
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from earsight.errors import EarsightError
from earsight.inference import journal, recordings
from earsight.inference.classifier import Classifier, load_classifier
from earsight.inference.events import EventRules
from earsight.inference.journal import FileOutput
from earsight.inference.transcribe import TranscriptOptions, transcribe

RULES = EventRules(0.4)


@pytest.fixture(scope="module")
def classifier(trained):
    plain = load_classifier(trained / "model.safetensors")
    return Classifier(replace(plain.card, temperature=0.05), plain.model)


@pytest.fixture(scope="module")
def corpus(synthetic, tmp_path_factory):
    """Recordings of several lengths, rates and formats, some of them broken."""
    folder = tmp_path_factory.mktemp("corpus")
    rate = soundfile.info(synthetic.file(0)).samplerate
    waves = [soundfile.read(synthetic.file(row), dtype="float32")[0] for row in range(0, 100, 7)]
    for number, seconds in enumerate((7, 0, 3, 12, 1)):
        wave = np.concatenate([waves[(number + at) % len(waves)] for at in range(seconds)] or [waves[0][:2000]])
        soundfile.write(folder / f"{number}.{('wav', 'mp3', 'flac')[number % 3]}", wave, rate)
    (folder / "2b.wav").write_text("hello")
    whole = (folder / "3.wav").read_bytes()
    (folder / "3b.wav").write_bytes(whole[: len(whole) // 2])
    return folder


def _names(corpus):
    return sorted(str(path) for path in corpus.iterdir())


def _options(form="csv", kinds=("events",), hop=0.5):
    return TranscriptOptions(hop, RULES, kinds, form)


class _Killed(BaseException):
    """The process is gone."""


class _Mortal(FileOutput):
    """An output whose process is killed at one of its steps, between two bytes if it writes there."""

    lives = 10**9

    def _step(self):
        type(self).lives -= 1
        if type(self).lives == 0:
            raise _Killed

    def write(self, name, text):
        if type(self).lives == 1:
            os.write(self._files[name], text.encode()[: len(text) // 2])
        self._step()
        super().write(name, text)

    def close(self, name):
        super().close(name)
        self._step()

    def commit(self, place, *, now=False):
        self._step()
        super().commit(place, now=now)
        self._step()


def _run(classifier, names, out, *, options, folder=False, lives=10**9, resume=False, kind=_Mortal):
    _Mortal.lives = lives
    output = kind(out if folder else out / "rows", folder=folder, settings={}, resume=resume)
    name_of = (lambda path: path.rsplit("/", 1)[1]) if folder else None
    try:
        return transcribe(classifier, names, options, output, start=output.place, name_of=name_of).failed
    finally:
        output.drop()


def _bytes(out):
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("folder", "form", "kinds"),
    [(False, "csv", ("events",)), (False, "jsonl", ("windows",)), (True, "raven", ("events", "windows"))],
)
def test_killed_anywhere_it_goes_on_to_the_same_bytes(classifier, corpus, tmp_path, monkeypatch, folder, form, kinds):
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(recordings, "BATCH", 4)
    names, options = _names(corpus), _options(form, kinds)
    assert _run(classifier, names, tmp_path / "whole", options=options, folder=folder) == 2
    steps = 10**9 - _Mortal.lives
    wanted = _bytes(tmp_path / "whole")
    assert len(b"".join(wanted.values()).splitlines()) > 15
    chance = random.Random(0)
    for turn in range(4):
        out, kills = tmp_path / f"killed{turn}", 0
        while True:
            try:
                lives = chance.randint(1, steps // 2)
                failed = _run(classifier, names, out, options=options, folder=folder, lives=lives, resume=bool(kills))
                break
            except _Killed:
                kills += 1
        assert failed == 2, "what failed before the kill is counted"
        assert kills
        assert _bytes(out) == wanted


def test_one_raven_table_of_many_recordings(classifier, corpus, tmp_path, monkeypatch):
    """Times count on from recording to recording, and so they do after kills."""
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(recordings, "BATCH", 4)
    names, options = _names(corpus), replace(_options("raven", ("windows",)), several_files=True)
    _run(classifier, names, tmp_path / "whole", options=options)
    rows = list(csv.DictReader((tmp_path / "whole" / "rows").open(newline=""), delimiter="\t", strict=True))
    assert [int(row["Selection"]) for row in rows] == list(range(1, len(rows) + 1))
    before, path = 0.0, rows[0]["Begin Path"]
    for row in rows:
        if row["Begin Path"] != path:
            before, path = before + soundfile.info(path).duration, row["Begin Path"]
        assert row["Begin File"] == path.rsplit("/", 1)[1]
        if path < str(corpus / "3b.wav"):  # which is cut: what its header promises is not what it holds
            assert float(row["Begin Time (s)"]) - float(row["File Offset (s)"]) == pytest.approx(before, abs=0.05)
    assert [row["Begin Path"] for row in rows] == sorted(row["Begin Path"] for row in rows)
    kills = 0
    while True:
        try:
            _run(classifier, names, tmp_path / "killed", options=options, lives=20, resume=bool(kills))
            break
        except _Killed:
            kills += 1
    assert kills > 1
    assert (tmp_path / "killed" / "rows").read_bytes() == (tmp_path / "whole" / "rows").read_bytes()


def test_commits_are_seldom_and_a_kill_between_them_loses_nothing(classifier, corpus, tmp_path):
    names, options = _names(corpus), _options("text", ("windows",))
    _run(classifier, names, tmp_path / "whole", options=options)
    steps = 10**9 - _Mortal.lives
    with pytest.raises(_Killed):
        _run(classifier, names, tmp_path / "killed", options=options, lives=steps // 2)
    _run(classifier, names, tmp_path / "killed", options=options, resume=True)
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")


def test_broken_files_are_rows(classifier, corpus, tmp_path):
    noted = []
    output = FileOutput(tmp_path / "x.csv", folder=False, settings={}, resume=False)
    counts = transcribe(classifier, _names(corpus), _options(kinds=("windows",)), output, finished=noted.append)
    noted = [(one.path, one.reason) for one in noted if one.reason]
    rows = list(csv.DictReader((tmp_path / "x.csv").open(newline=""), strict=True))
    assert (counts.recordings, counts.failed) == (len(_names(corpus)), 2)
    bad = [row for row in rows if row["error"]]
    assert [(row["path"], row["error"]) for row in bad] == noted
    assert "a text file" in bad[0]["error"]
    assert bad[1]["error"].startswith("heard up to 6.0")
    assert "truncated" in bad[1]["error"]
    assert sum(row["path"].endswith("3b.wav") for row in rows) > 5, "what was readable is reported"
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert list(dict.fromkeys(row["path"] for row in rows)) == _names(corpus)


def test_a_folder_has_files_for_each_recording_and_a_row(classifier, corpus, tmp_path):
    _run(classifier, _names(corpus), tmp_path / "out", options=_options("csv", ("events", "windows")), folder=True)
    index = list(csv.DictReader((tmp_path / "out" / "recordings.csv").open(newline=""), strict=True))
    assert [row["path"] for row in index] == _names(corpus)
    assert [bool(row["error"]) for row in index] == [name.endswith("b.wav") for name in _names(corpus)]
    for row in index:
        name = row["path"].rsplit("/", 1)[1]
        for what in ("events", "windows"):
            found = list(csv.DictReader((tmp_path / "out" / f"{name}.{what}.csv").open(newline=""), strict=True))
            assert sum(not one["error"] for one in found) == int(row[what])
    assert sum(int(row["events"]) for row in index) > 0
    assert not (tmp_path / "out" / ".progress").exists()


def test_rows_come_while_the_names_do(classifier, corpus, tmp_path):
    """Names without end: little more is read than was classified."""
    read = []

    def names():
        while True:
            read.append(1)
            yield str(corpus / "4.mp3")

    class EnoughError(Exception):
        pass

    def progress(seconds, promised, done, speed):
        assert len(read) <= done + 2 + 3 * (os.cpu_count() or 1)
        if done == 30:
            raise EnoughError

    output = FileOutput(tmp_path / "x.csv", folder=False, settings={}, resume=False)
    with pytest.raises(EnoughError):
        transcribe(classifier, names(), _options(), output, progress=progress)


def test_other_recordings_are_not_gone_on_with(classifier, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(recordings, "BATCH", 4)
    names, options = _names(corpus), _options()
    for lives in range(20, 60):  # until it is killed within a recording that is not the first
        with pytest.raises(_Killed):
            _run(classifier, names, tmp_path / f"{lives}", options=options, lives=lives)
        output = FileOutput(tmp_path / f"{lives}" / "rows", folder=False, settings={}, resume=True)
        place = output.place
        output.drop()
        if place["done"] > 0 and place["batch"] > 0:
            break
    (tmp_path / f"{lives}").rename(tmp_path / "x")
    assert place["done"] > 0
    assert place["batch"] > 0
    for other, words in (
        (names[1:], "are not the first of those given now"),
        (names[: place["done"]] + names[place["done"] + 1 :], "is not the next"),
    ):
        with pytest.raises(EarsightError, match=words):
            _run(classifier, other, tmp_path / "x", options=options, resume=True)
    _run(classifier, names, tmp_path / "x", options=options, resume=True)
