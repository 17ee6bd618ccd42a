"""Resumable output: whole lines on a full disk, and a journal that counts nothing but what is on the disk."""

from __future__ import annotations

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
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
    done = _output(tmp_path / "x.csv", resume=True)
    assert done.whole
    assert done.place is None


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
