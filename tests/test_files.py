"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from earsight.files import replace_bytes, replace_text, replacing


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
