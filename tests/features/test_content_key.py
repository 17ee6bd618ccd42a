"""Keys name what the sounds are, not when they were written; files that did not change are not hashed again."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_row_file import GOLDEN, SMALL, make

from earsight.features import content_key as module
from earsight.features.content_key import content_key, earlier_folder
from earsight.features.store import open_store

KEPT = 1_700_000_000_000_000_000


@pytest.fixture
def clips(tmp_path):
    return make(tmp_path / "data", 6)


def exchange(dataset, first, second, *, in_place=False):
    """Two files of one size and time change their names, or their content."""
    one, two = dataset.file(first), dataset.file(second)
    assert one.stat().st_size == two.stat().st_size
    if in_place:
        contents = one.read_bytes(), two.read_bytes()
        for path, data in zip((two, one), contents, strict=True):
            with path.open("r+b") as file:
                file.write(data)
            os.utime(path, ns=(1, KEPT))
    else:
        one.rename(dataset.root / "x")
        two.rename(one)
        (dataset.root / "x").rename(two)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_exchanged_files_of_one_size_and_time_have_another_key(clips, tmp_path, monkeypatch, in_place, kept):
    if kept:
        monkeypatch.setattr(module, "_RECENT_NS", -1)
    for row in range(6):
        os.utime(clips.file(row), ns=(1, KEPT))
    cache = tmp_path / "cache"
    first = open_store(clips, SMALL, cache=cache, workers=1)
    exchange(clips, 1, 4, in_place=in_place)
    second = open_store(clips, SMALL, cache=cache, workers=1)
    assert second.folder != first.folder
    order = np.array([0, 4, 2, 3, 1, 5])
    assert np.array_equal(second.sounds, first.sounds[order])
    exchange(clips, 1, 4)
    assert open_store(clips, SMALL, cache=cache, workers=1).folder == first.folder


def test_a_copy_of_the_data_has_the_same_key(clips, tmp_path):
    shutil.copytree(clips.root, tmp_path / "copy")
    copy = replace(clips, root=tmp_path / "copy")
    os.utime(copy.file(0))
    assert content_key(copy, 1, cache=tmp_path / "a") == content_key(clips, 1, cache=tmp_path / "b")


def test_files_are_hashed_again_where_they_may_have_changed(clips, tmp_path, monkeypatch):
    hashed = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, how: (hashed.append(file.name), real(file, how))[1])
    key = content_key(clips, 1, cache=tmp_path / "cache")
    assert content_key(clips, 1, cache=tmp_path / "cache") == key
    assert len(hashed) == 12, "what changed a moment ago may change again in the same tick"
    monkeypatch.setattr(module, "_RECENT_NS", -1)
    assert content_key(clips, 1, cache=tmp_path / "cache") == key
    hashed.clear()
    assert content_key(clips, 1, cache=tmp_path / "cache") == key
    assert hashed == []
    part = replace(clips, clips=clips.clips[:2])
    content_key(part, 1, cache=tmp_path / "cache")
    (place,) = (tmp_path / "cache").iterdir()
    whole = place.read_bytes()
    assert hashed == []
    generator = np.random.default_rng(0)
    for at in generator.integers(0, len(whole), 40).tolist():
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert content_key(clips, 1, cache=tmp_path / "cache") == key
    for data in (b"", b"{}", whole[:-5]):
        place.write_bytes(data)
        assert content_key(clips, 1, cache=tmp_path / "cache") == key


def test_a_folder_of_an_earlier_version_stays_with_its_content(tmp_path):
    """Its name says size and time alone: once sounds were exchanged it is another's."""
    clips, cache = make(tmp_path / "data", 3), tmp_path / "cache"
    settings = 3, SMALL.settings(), [-1, 0, 2]
    assert earlier_folder(clips, *settings, key="a", cache=cache) is None
    (cache / GOLDEN[0]).mkdir(parents=True)
    assert earlier_folder(clips, *settings, key="a", cache=cache) == cache / GOLDEN[0]
    assert earlier_folder(clips, *settings, key="b", cache=cache) is None
    assert earlier_folder(clips, *settings, key="a", cache=cache) == cache / GOLDEN[0]
