"""Files are replaced whole or not at all, and state that changed is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import filelock
import pytest

from earsight import files
from earsight.errors import RunError, refused
from earsight.files import (
    link_or_copy,
    publish_folder,
    read_state,
    remove_stale,
    replace_bytes,
    replace_text,
    replacing,
    scratch_folder,
    seal_fits,
    sealed,
    write_state,
)


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "a.json"
    replace_text(path, "one\n")
    replace_text(path, "zwei ü\n")
    assert path.read_bytes() == "zwei ü\n".encode()
    replace_bytes(path, b"\0\1")
    assert path.read_bytes() == b"\0\1"
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_block_ends_the_old_file_stands(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == path.parent  # a rename within one folder is one step
        assert part.name.startswith(".")
    assert path.read_text() == "new"


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise RuntimeError("a full disk, say")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_write_beside_different_names(tmp_path, monkeypatch):
    with replacing(tmp_path / "a") as first:
        first.write_text("1")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with replacing(tmp_path / "a") as second:
            second.write_text("2")
    assert first != second


def test_two_threads_write_beside_different_names(tmp_path):
    """Nor two containers, in which processes have the same numbers."""
    with replacing(tmp_path / "a") as first:
        first.write_text("1")
        with replacing(tmp_path / "a") as second:
            second.write_text("2")
    assert first != second
    assert (tmp_path / "a").read_text() == "1"


def test_sync_waits_for_the_file_before_it_gets_its_name_and_for_the_folder_after(tmp_path, monkeypatch):
    path, synced = tmp_path / "a", []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    replace_text(path, "x", sync=True)
    assert synced[0][0].startswith(f".a.{os.getpid()}.")
    assert synced[0][0].endswith(".part")
    assert [synced[0][1], *synced[1:]] == [False, (tmp_path.name, True)]
    synced.clear()
    replace_text(path, "y")
    assert synced == []


def test_state_that_changed_is_named(tmp_path):
    """Each flipped byte of a state file is named with its remedy, or what is read is the same."""
    path, content = tmp_path / "trial.json", {"recipe": "abc", "fold": 1, "share": 0.1 + 0.2, "rows": [1, None]}
    write_state(path, content)
    fields = {"recipe": str, "fold": int}
    assert read_state(path, fields, remedy="mend it") == content
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        said = f"{path}: cannot be read"
        try:
            found = read_state(path, fields, remedy="mend it", error=RunError)
        except RunError as error:
            said, found = str(error), content
        assert said.startswith(f"{path}: cannot be read")
        assert content.items() <= found.items()
    for text in ("", "{", "[]", "1", '{"fold": 1}', "[" * 10**5, data.decode()[:-1]):
        path.write_text(text)
        with pytest.raises(RunError, match="cannot be read"):
            read_state(path, fields, remedy="mend it", error=RunError)
    path.write_text(json.dumps(content))  # without a digest, as earlier versions wrote it
    assert read_state(path, fields, remedy="mend it") == content
    path.unlink()
    with pytest.raises(RunError, match="is not there any more; mend it"):
        read_state(path, fields, remedy="mend it", error=RunError)


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_or_a_copy(tmp_path, monkeypatch, links):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("one")
    if not links:

        def refuse(*_):
            raise OSError("a file system without links")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    link_or_copy(source, target)
    assert target.read_text() == "one"
    assert source.samefile(target) == links


def test_a_folder_takes_its_name_whole(tmp_path):
    for content in ("1", "2"):  # the second takes the place of the first
        built = tmp_path / ".new"
        built.mkdir()
        (built / content).write_text(content)
        publish_folder(built, tmp_path / "set")
        assert [path.name for path in tmp_path.iterdir()] == ["set"]
        assert [path.name for path in (tmp_path / "set").iterdir()] == [content]


def test_a_sealed_text_shows_what_changed_and_one_without_a_seal_fits():
    text = sealed("# what it is\na: 1\nb: 2\n")
    assert seal_fits(text)
    for other in ("", "\n", "a: 1\nb: 2\n", "# what it is\na: 1\n", "#\na: 1\n", "# Digest\na: 1\n", "# mine\n"):
        assert seal_fits(other), other
    for place in range(len(text)):
        for bit in range(7):
            changed = text[:place] + chr(ord(text[place]) ^ 1 << bit) + text[place + 1 :]
            assert not seal_fits(changed), (place, bit)
    for end in range(1, len(text)):
        assert not seal_fits(text[:end]), end
    assert not seal_fits(text + "# a comment\n")
    assert not seal_fits("# a comment\n" + text)


def test_state_is_json_whatever_it_holds(tmp_path):
    write_state(tmp_path / "s.json", {"a": [1.0, float("nan")], "b": {"c": float("inf")}}, indent=1)
    text = (tmp_path / "s.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert read_state(tmp_path / "s.json", {}, remedy="") == {"a": [1.0, None], "b": {"c": None}}


_DYING = """
import os, sys, time
from earsight.files import scratch_folder
with scratch_folder("earsight-test-") as folder:
    (folder / "weights").write_bytes(bytes(9))
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="a process is killed by its signal")
def test_scratch_folders_of_killed_processes_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "kept").write_text("x")
    (tmp_path / "earsight-test-link.lock").symlink_to(precious / "kept")
    (tmp_path / "earsight-test-link").symlink_to(precious)
    (tmp_path / "earsight-test-unlocked").mkdir()
    (tmp_path / "earsight-other-1").mkdir()
    (tmp_path / "earsight-other-1.lock").touch()
    (tmp_path / "earsight-test-folder.lock").mkdir()  # cannot be locked
    processes = [subprocess.Popen([sys.executable, "-c", _DYING], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        dead, alive = (Path(one.stdout.readline().strip()) for one in processes)
        assert dead.stat().st_mode & 0o777 == 0o700
        processes[0].kill()
        processes[0].wait()
        opened, lock = [], filelock.FileLock
        monkeypatch.setattr(filelock, "FileLock", lambda path, **rest: opened.append(path.name) or lock(path, **rest))
        with scratch_folder("earsight-test-") as own:
            assert own.is_dir()
            assert f"{dead.name}.lock" in opened
            assert "earsight-test-link.lock" not in opened  # not even opened: not every version refuses a link
            assert (dead.exists(), alive.is_dir(), (precious / "kept").read_text()) == (False, True, "x")
            assert remove_stale("earsight-test-") == 2
        assert not own.exists()
        assert not own.with_name(f"{own.name}.lock").exists()
    finally:
        for one in processes:
            one.kill()
            one.communicate()
    with monkeypatch.context() as other:
        other.setattr(os, "getuid", lambda: 12345)
        assert remove_stale("earsight-test-") == 0
    assert alive.is_dir()  # another user's
    assert remove_stale("earsight-*-") == 0  # a name, not a pattern
    assert alive.is_dir()
    assert remove_stale("earsight-test-") == 0
    left = ["earsight-other-1", "earsight-other-1.lock", "earsight-test-folder.lock", "earsight-test-link"]
    left += ["earsight-test-link.lock", "earsight-test-unlocked", "precious"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_the_cost_of_digests_is_measured_against_none(tmp_path):
    """What `benchmarks.check_cost` leaves out of one of its two sides is the hashing that the other one does."""
    from benchmarks.check_cost import unchecked

    place = tmp_path / "a.wav"
    place.write_bytes(b"one")
    digest = files.content_digest(place)
    with unchecked():
        free = files.content_digest(place)
        place.write_bytes(b"two")
        assert files.content_digest(place) == free != digest
    assert files.content_digest(place) != digest


def test_a_folder_in_the_place_of_a_file_is_named_itself(tmp_path):
    (tmp_path / "DONE").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        replace_text(tmp_path / "DONE", "x")
    assert refused(caught.value).startswith(f"{tmp_path / 'DONE'}: Is a directory; a folder is where a file belongs")
    assert [path.name for path in tmp_path.iterdir()] == ["DONE"]
