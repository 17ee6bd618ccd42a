"""Resumable output: whole lines on a full disk, and a journal that counts nothing but what is on the disk."""

from __future__ import annotations

import json
import os
import resource
import signal

import pytest

from earsight.errors import EarsightError
from earsight.inference.journal import FileOutput

SETTINGS = {"hop": 1.0, "rows": ["events"]}


def _output(path, *, resume=False, folder=False, settings=SETTINGS):
    return FileOutput(path, folder=folder, settings=settings, resume=resume)


def _begun(path):
    """An output that was killed behind its second line and within its third."""
    output = _output(path)
    output.commit({"done": 0}, now=True)
    assert output.open("")
    output.write("", "one\ntwo\n")
    output.commit({"done": 2}, now=True)
    output.write("", "three\nfo")
    output.drop()
    return output


def test_going_on_cuts_back_to_what_is_whole(tmp_path):
    _begun(tmp_path / "x.csv")
    again = _output(tmp_path / "x.csv", resume=True)
    assert again.place == {"done": 2}
    assert not again.open("")
    assert (tmp_path / "x.csv").read_text() == "one\ntwo\n"
    again.write("", "three\n")
    again.end()
    assert (tmp_path / "x.csv").read_text() == "one\ntwo\nthree\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.csv.finished", "x.csv"]
    done = _output(tmp_path / "x.csv", resume=True)
    assert done.whole
    assert done.place is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.csv.finished", "x.csv"]


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "x.csv").write_text("mine\n")
    with pytest.raises(EarsightError, match="is there already; --resume"):
        _output(tmp_path / "x.csv")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.csv").write_text("mine\n")
    with pytest.raises(EarsightError, match="is there already; --resume"):
        _output(tmp_path / "folder", folder=True)
    assert (tmp_path / "x.csv").read_text() == "mine\n"


@pytest.mark.parametrize("folder", [False, True])
def test_a_journal_that_was_being_written_at_the_kill_is_removed(tmp_path, folder):
    out = tmp_path / "out"
    half = out / "..progress.17.part" if folder else tmp_path / ".out.progress.17.part"
    half.parent.mkdir(exist_ok=True)
    half.write_text("{")
    output = _output(out, folder=folder)
    output.commit({"done": 0}, now=True)
    assert not half.exists()
    output.end()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_text("one\n"), "shorter than its journal"),
        (lambda path: path.with_name("x.csv.progress").write_text("{"), "cannot be read"),
        (lambda path: path.with_name("x.csv.progress").write_text("[]"), "cannot be read"),
    ],
)
def test_a_journal_that_does_not_fit(tmp_path, spoil, words):
    _begun(tmp_path / "x.csv")
    spoil(tmp_path / "x.csv")
    with pytest.raises(EarsightError, match=words):
        _output(tmp_path / "x.csv", resume=True)


def _folder(path, lives=99):
    """A folder with an index and two recordings; it is left as a kill would leave it after so many steps."""
    output = _output(path, folder=True)
    steps = [lambda: output.commit({"done": 0}, now=True), lambda: output.open("recordings.csv")]
    for name in ("a.csv", "b.csv"):
        steps += [
            lambda name=name: output.open(name),
            lambda name=name: output.write(name, "row of a file\n"),
            lambda name=name: output.write("recordings.csv", f"{name},1\n"),
            lambda name=name: output.close(name),
            lambda name=name: output.commit({"done": "ab".index(name[0]) + 1}, now=True),
        ]
    for step in [*steps, output.end][:lives]:
        step()
    output.drop()
    return path


@pytest.mark.parametrize("name", [".progress.new", ".progress.lock", "..progress.17.abcd.part"])
def test_a_folder_without_a_first_journal_is_begun(tmp_path, name):
    """A kill, or a full disk, before the first journal took its name: nothing is written, so nothing is whole."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{")
    for resume in (True, False):
        output = _output(tmp_path / "out", folder=True, resume=resume)
        assert (output.whole, output.place) == (False, None)
        output.drop()


@pytest.mark.parametrize(("name", "folder"), [("x.csv", False), ("out", True)])
def test_rows_without_a_journal_that_are_cut_are_not_whole(tmp_path, name, folder):
    place = tmp_path / "out" / "a.csv" if folder else tmp_path / "x.csv"
    place.parent.mkdir(exist_ok=True)
    place.write_text("one\ntw")
    with pytest.raises(EarsightError, match="has no journal and is not as a finished output is"):
        _output(tmp_path / name, folder=folder, resume=True)
    assert place.read_text() == "one\ntw"
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("folder", [False, True])
def test_what_an_earlier_version_finished_is_whole_and_said_not_to_be_checked(tmp_path, caplog, folder):
    place = tmp_path / "recordings.csv" if folder else tmp_path / "x.csv"
    place.write_text("one\n")
    found = _output(tmp_path if folder else place, folder=folder, resume=True)
    assert found.whole
    assert not found.checked
    assert "it cannot be checked, and may lack rows" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_an_earlier_version_s_journal_is_gone_on_with(tmp_path, caplog):
    (tmp_path / "x.csv").write_text("one\ntwo\nth")
    (tmp_path / "x.csv.progress").write_text(json.dumps({"settings": SETTINGS, "place": {"done": 2}, "files": {"": 8}}))
    again = _output(tmp_path / "x.csv", resume=True)
    again.open("")
    again.write("", "three\n")
    again.end()
    assert "the rows so far cannot be checked" in caplog.text
    assert (tmp_path / "x.csv").read_text() == "one\ntwo\nthree\n"
    assert _output(tmp_path / "x.csv", resume=True).whole


def test_every_byte_that_changes_is_noticed(tmp_path):
    """Each bit that flips in an output, begun or finished, is named, or the same is gone on with."""
    places = [_folder(tmp_path / "begun", lives=8), _folder(tmp_path / "finished")]
    for folder in places:
        whole = {path: path.read_bytes() for path in folder.iterdir()}
        expected = _output(folder, folder=True, resume=True)
        expected.drop()
        for path, data in whole.items():
            named = 0
            for place in range(len(data)):
                path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
                try:
                    output = _output(folder, folder=True, resume=True)
                except EarsightError:
                    named += 1
                else:
                    output.drop()
                    assert (output.place, output.whole) == (expected.place, expected.whole), (path, place)
                assert not list(folder.glob("*.lock"))
            # What no journal counts yet is written again, and a digest's name may be lost.
            assert named >= len(data) - 12 or (folder == places[0] and path.name == "b.csv"), path
            path.write_bytes(data)
            os.truncate(path, max(0, len(data) - 1))
            if folder == places[1]:
                with pytest.raises(EarsightError, match="remove it and"):
                    _output(folder, folder=True, resume=True)
            path.write_bytes(data)


def test_an_output_of_a_list_that_was_left_behind_is_begun(tmp_path):
    _folder(tmp_path / "out")
    for path in (tmp_path / "out").glob("*.csv"):
        path.unlink()
    output = _output(tmp_path / "out", folder=True)
    output.drop()
    assert not output.whole


def test_other_settings(tmp_path):
    _begun(tmp_path / "x.csv")
    with pytest.raises(EarsightError, match="begun with another hop"):
        _output(tmp_path / "x.csv", resume=True, settings={**SETTINGS, "hop": 2.0})


def test_only_one_at_a_time(tmp_path):
    _begun(tmp_path / "x.csv")
    first = _output(tmp_path / "x.csv", resume=True)
    with pytest.raises(EarsightError, match="another process"):
        _output(tmp_path / "x.csv", resume=True)
    first.drop()
    _output(tmp_path / "x.csv", resume=True).drop()


def test_a_full_disk_loses_nothing(tmp_path):
    """A limit on file size stands for the disk: the line that does not fit is not there, the lines before it are."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    output = _output(tmp_path / "x.csv")
    output.commit({"done": 0}, now=True)
    output.open("")
    rows = iter(range(1000))

    def fill():
        for row in rows:
            output.write("", f"row {row:04d}\n")
            output.commit({"done": row + 1}, now=True)

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(EarsightError, match=r"x\.csv: cannot be written \(File too large\); make room"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    written = 111  # of nine bytes each
    assert (tmp_path / "x.csv").read_text() == "".join(f"row {row:04d}\n" for row in range(written))
    output.drop()
    again = _output(tmp_path / "x.csv", resume=True)
    assert again.place == {"done": written}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EarsightError, match="cannot be written"):
        _output(tmp_path / "file" / "x.csv")
