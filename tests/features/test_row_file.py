"""A folder of rows: a row counts as done only once it is on the disk, whatever fails; old folders are still opened."""

import errno
import io
import json
import os
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from earsight.data import audio
from earsight.data.datasets import Clip, Dataset, Hints
from earsight.errors import DataError
from earsight.features import row_file
from earsight.features.row_file import RowFile, RowLayout, open_rows
from earsight.features.store import open_store, store_key
from earsight.features.waves import open_waves, waves_key
from earsight.files import read_state, write_state
from earsight.recipe import Features

COUNT = 12
SMALL = Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)
LAYOUT = RowLayout("rows", "rows.f32", row_bytes=4 * 4000, tables={"peak.f64": ("float64", (1,))})
FILES = ("rows.f32", "peak.f64", "sounds.u8", "checks.u32", "state.u8")


def make(folder, count=COUNT):
    """Clips of fixed samples and times of change: their keys are the same everywhere."""
    folder.mkdir()
    clips = []
    for row in range(count):
        with wave.open(str(folder / f"{row}.wav"), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes((np.arange(4000) * (row + 1) * 37 % 2001 - 1000).astype("<i2").tobytes())
        os.utime(folder / f"{row}.wav", ns=(1, 1_700_000_000_000_000_000 + row))
        clips.append(Clip(f"{row}.wav", "ab"[row % 2], row % 2, str(row)))
    return Dataset("fixed", "folder", folder, tuple(clips), ("a", "b"), Hints(8000, 0.5, 32))


@pytest.fixture
def clips(tmp_path):
    return make(tmp_path / "data")


def build(clips, folder, *, reads=None):
    def compute(wave):
        if reads is not None:
            reads.append(round(abs(float(wave[1] - wave[0])) * 32768) // 37 - 1)
        return wave, {"peak.f64": np.abs(wave).max(keepdims=True).astype(np.float64)}

    how = {"dataset": clips, "features": SMALL, "semitones": (0,), "about": {}, "workers": 1}
    return open_rows(RowFile, folder, LAYOUT, compute=compute, **how)


def content(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def rows_of(content, name):
    return np.frombuffer(content[name], dtype=np.uint8).reshape(COUNT, -1)


class Disk:
    """What is written to the files of rows and synced, row by row; one write or sync can be made to fail."""

    def __init__(self, monkeypatch, *, fails=None, how="refused"):
        self.dirty = {name: set() for name in FILES}
        self.synced = {name: set() for name in FILES}
        self.undone, self.syncs = [], 0
        disk, real = self, row_file._sized

        class File(io.FileIO):
            def write(self, values):
                name = Path(self.name).name
                row = self.tell() // (Path(self.name).stat().st_size // COUNT)
                if fails == (name, row):
                    taken = super().write(bytes(values)[: len(bytes(values)) // 2])
                    if how == "short":
                        return taken
                    raise OSError(errno.ENOSPC, "No space left on device", self.name)
                if name == "state.u8":
                    done = np.flatnonzero(np.frombuffer(values, dtype=np.uint8) == 1)
                    disk.undone += [(row, at) for row in done for at in FILES[:-1] if row not in disk.synced[at]]
                disk.dirty[name].add(row)
                return super().write(values)

        def opened(path, size):
            real(path, size).close()
            return File(path, "r+b")

        def fsync(descriptor, real=os.fsync):
            name = Path(f"/proc/self/fd/{descriptor}").readlink().name
            if name in self.dirty:
                self.syncs += 1
                if fails == self.syncs:
                    self.dirty[name].clear()  # what the failed sync lost is lost
                    raise OSError(errno.EIO, "Input/output error", name)
                self.synced[name] |= self.dirty[name]
            real(descriptor)

        monkeypatch.setattr(row_file, "_sized", opened)
        monkeypatch.setattr(os, "fsync", fsync)


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are named by /proc")


@needs_proc
@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_a_state_is_written_after_its_row_is_on_the_disk(clips, tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(row_file, "_SYNC_SECONDS", seconds)
    monkeypatch.setattr(row_file, "_SYNC_SHARE", 1e9)
    disk = Disk(monkeypatch)
    build(clips, tmp_path / "rows")
    assert disk.undone == []
    assert all(disk.synced[name] == set(range(COUNT)) for name in FILES[:-1])
    assert disk.syncs == (5 * (COUNT + 1) if seconds == 0 else 5)


@needs_proc
@pytest.mark.parametrize("how", ["short", "refused"])
@pytest.mark.parametrize("file", FILES[:-1])
@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_a_full_disk_leaves_no_row_that_only_seems_done(clips, tmp_path, monkeypatch, file, how, seconds):
    whole = content(build(clips, tmp_path / "whole").folder)
    with monkeypatch.context() as patch:
        patch.setattr(row_file, "_SYNC_SECONDS", seconds)
        patch.setattr(row_file, "_SYNC_SHARE", 1e9)
        Disk(patch, fails=(file, 7), how=how)
        with pytest.raises(OSError, match="No space") as caught:
            build(clips, tmp_path / "rows")
        assert caught.value.errno == errno.ENOSPC
    left = content(tmp_path / "rows.building")
    done = np.flatnonzero(np.frombuffer(left["state.u8"], dtype=np.uint8) == 1)
    assert done.tolist() == list(range(7))
    for name in FILES[:-1]:
        assert np.array_equal(rows_of(left, name)[done], rows_of(whole, name)[done])
    reads = []
    assert content(build(clips, tmp_path / "rows", reads=reads).folder) == whole
    assert sorted(reads) == list(range(7, COUNT))


@needs_proc
@pytest.mark.parametrize("file", [1, 2, 3, 4])
def test_a_sync_that_fails_leaves_its_rows_undone(clips, tmp_path, monkeypatch, file):
    """The next sync may succeed though the rows of this one are lost: it must not count them."""
    with monkeypatch.context() as patch:
        patch.setattr(row_file, "_SYNC_SECONDS", 0.0)
        patch.setattr(row_file, "_SYNC_SHARE", 1e9)
        disk = Disk(patch, fails=2 * 5 + file)
        with pytest.raises(OSError, match="Input/output"):
            build(clips, tmp_path / "rows")
        assert disk.undone == []
    assert np.fromfile(tmp_path / "rows.building" / "state.u8", dtype=np.uint8).tolist() == [1, 1] + [0] * 10
    assert content(build(clips, tmp_path / "rows").folder) == content(build(clips, tmp_path / "whole").folder)


@pytest.mark.parametrize("lost", ["removed", "cut"])
@pytest.mark.parametrize("file", FILES[:-1])
def test_rows_whose_file_is_lost_are_computed_again(clips, tmp_path, monkeypatch, file, lost):
    whole = content(build(clips, tmp_path / "whole").folder)
    (build(clips, tmp_path / "rows").folder).rename(tmp_path / "rows.building")  # as if killed before the end
    (tmp_path / "rows.building" / "store.json").unlink()
    place = tmp_path / "rows.building" / file
    place.unlink() if lost == "removed" else os.truncate(place, place.stat().st_size - 1)
    assert content(build(clips, tmp_path / "rows").folder) == whole


GOLDEN = ("1760ccef0cfd7957", "5f3a66c8647bd311")
"""Keys that version 0.1.0 gave, by size and time: their stores are still found."""


KEYS = ("86415329df259c50", "5fa8993aa3ac0362")
"""Keys that this version gives, by content: a change of these builds everybody's stores again."""


def test_keys_stay(tmp_path):
    clips = make(tmp_path / "data", 3)
    assert (store_key(clips, SMALL, (-1, 0, 2)), waves_key(clips, SMALL)) == KEYS


def test_a_store_of_an_earlier_version_is_opened_as_it_is(tmp_path, monkeypatch):
    clips, cache = make(tmp_path / "data", 3), tmp_path / "cache"
    where = {"dataset": {"name": "fixed", "digest": "d218e4a464df", "root": "/elsewhere"}, "errors": {}}
    settings = {"representation": "log_mel", "sample_rate_hz": 8000, "clip_seconds": 0.5, "frames": 32}
    settings |= {"windows_ms": [25.0, 50.0, 100.0], "hops_ms": [10.0, 25.0, 50.0], "fft_ms": 100.0, "bands": 32}
    steps = [-1, 0, 2]
    store = {"format_version": 3, "shape": [3, 3, 3, 32, 32], "semitones": steps, "features": settings}
    waves = {"waves_version": 2, "sample_rate_hz": 8000, "samples": 4000}
    codes = (np.arange(3**3 * 32 * 32) % 30000).astype("<i2")
    files = (
        {"pictures.i16": codes, "moments.f64": np.ones((3, 3, 2)), "store.json": store},
        {"waves.bin": np.arange(3 * 4000, dtype="<f4"), "scales.f32": np.zeros(3, "<f4"), "store.json": waves},
    )
    for key, those in zip(GOLDEN, files, strict=True):
        (cache / key).mkdir(parents=True)
        for name, held in {**those, "sounds.u8": np.full(48, 7, "u1"), "state.u8": np.ones(3, "u1")}.items():
            data = json.dumps(held | where, indent=1).encode() if isinstance(held, dict) else held.tobytes()
            (cache / key / name).write_bytes(data)

    def no_reading(*_, **__):
        raise AssertionError("a clip was decoded")

    monkeypatch.setattr(audio, "read", no_reading)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    opened = open_store(clips, SMALL, semitones=steps, cache=cache)
    assert np.array_equal(
        opened.read_codes(np.array([2, 0]), np.array([1, 2])), codes.reshape(3, 3, 3, 32, 32)[[2, 0], [1, 2]]
    )
    assert opened.shape == (3, 3, 3, 32, 32)
    assert opened.moments.tolist() == np.ones((3, 3, 2)).tolist()
    raw = open_waves(clips, SMALL, semitones=steps, cache=cache)
    assert raw.read_waves(np.array([1]))[0].tolist() == list(range(4000, 8000))
    assert (raw.sounds == 7).all()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path.name for path in cache.iterdir() if path.is_dir()} == set(GOLDEN)


def flipped(path, place, bit=3):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["store", "waves"])
def test_whatever_changes_in_a_folder_of_rows_is_made_anew(clips, tmp_path, monkeypatch, caplog, kind):
    """Flipped bytes, cut and lost files: the rows read are the same, and the damage is said."""
    opens = {"store": open_store, "waves": open_waves}[kind]
    steps, rows = (-1, 0, 2), np.arange(COUNT)

    def read():
        one = opens(clips, SMALL, semitones=steps, cache=tmp_path / "cache", workers=1)
        values = [one.read_codes(rows, rows % 3)] if kind == "store" else [one.read_waves(rows).numpy()]
        return one, [held.tobytes() for held in (*values, one.sounds, *one.tables.values())]

    one, expected = read()
    whole = {path.name: path.read_bytes() for path in one.folder.iterdir()}
    generator = np.random.default_rng(5)
    large = one.layout.file
    for name, data in whole.items():
        for how in ("flip", "flip", "cut", "lost"):
            caplog.clear()
            path = one.folder / name
            if how == "flip":
                flipped(path, int(generator.integers(len(data))), int(generator.integers(8)))
            elif how == "cut":
                os.truncate(path, len(data) - int(generator.integers(1, len(data))))
            else:
                path.unlink()
            spoilt = {path.name: path.read_bytes() for path in one.folder.iterdir()}
            again, found = read()
            assert found == expected, (name, how)
            assert (
                name == "state.u8"
                or caplog.text
                or b'"digest"' not in spoilt["store.json"]
                or (
                    name == large and how == "flip"  # in a part that was not read
                )
            ), (name, how)
            if name not in ("state.u8", large):
                assert {file: (again.folder / file).read_bytes() for file in whole if file != "state.u8"} == {
                    file: data for file, data in whole.items() if file != "state.u8"
                }, (name, how)
            path.write_bytes(data)


def test_stores_that_were_exchanged_are_built_anew(tmp_path, caplog):
    """Two data sets of one size; a store without its key, of an earlier version, is used and said not to be checked."""
    one, other, cache = make(tmp_path / "one"), make(tmp_path / "other"), tmp_path / "cache"
    for row in range(COUNT):
        other.file(row).write_bytes(one.file(COUNT - 1 - row).read_bytes())
    stores = [open_store(data, SMALL, cache=cache, workers=1) for data in (one, other)]
    rows, first = np.arange(COUNT), np.zeros(COUNT, dtype=np.int64)
    expected = [store.read_codes(rows, first) for store in stores]
    assert not np.array_equal(*expected)
    stores[0].folder.rename(tmp_path / "aside")
    stores[1].folder.rename(stores[0].folder)
    (tmp_path / "aside").rename(stores[1].folder)
    for data, codes in zip((one, other), expected, strict=True):
        caplog.clear()
        assert np.array_equal(open_store(data, SMALL, cache=cache, workers=1).read_codes(rows, first), codes)
        assert "so folders were exchanged; it is built anew" in caplog.text
    caplog.clear()
    place = stores[0].folder / "store.json"
    about = read_state(place, {"key": str}, remedy="")
    write_state(place, {name: value for name, value in about.items() if name != "key"})
    assert np.array_equal(open_store(one, SMALL, cache=cache, workers=1).read_codes(rows, first), expected[0])
    assert "without its key; an exchange would not be noticed" in caplog.text


def test_a_damaged_row_without_its_sound_is_named(clips, tmp_path, caplog):
    store = open_store(clips, SMALL, semitones=(0,), cache=tmp_path / "cache", workers=1)
    whole = store.read_codes(np.arange(COUNT), np.zeros(COUNT, dtype=np.int64))
    flipped(store.folder / "pictures.i16", whole[:1].nbytes * 4 + 77)
    clips.file(4).rename(tmp_path / "away.wav")
    with pytest.raises(
        DataError, match=r"the row of 4\.wav is damaged, and its sound cannot be read .*remove .*built anew"
    ):
        store.read_codes(np.array([4]), np.array([0]))
    clips.file(5).rename(clips.file(4))
    with pytest.raises(
        DataError,
        match=r"the row of 4\.wav is damaged, and its sound now gives another: .* processor has; remove",
    ):
        store.read_codes(np.array([4]), np.array([0]))
    (tmp_path / "away.wav").rename(clips.file(4))
    assert np.array_equal(store.read_codes(np.array([4]), np.array([0])), whole[4:5])
    assert "the row of 4.wav is damaged and made anew from its sound" in caplog.text
    caplog.clear()
    assert np.array_equal(store.read_codes(np.array([4]), np.array([0])), whole[4:5])
    assert not caplog.text, "it was written in its place"
    shutil.rmtree(store.folder)
    with pytest.raises(DataError, match="is gone; run the command again, which builds it anew"):
        store.read_codes(np.array([4]), np.array([0]))


def test_a_state_that_lies_is_not_believed(clips, tmp_path):
    """A killed build whose table of states changed on the disk: no row of zeros counts as done."""
    whole = content(build(clips, tmp_path / "whole").folder)
    shutil.copytree(tmp_path / "whole", tmp_path / "rows.building")
    (tmp_path / "rows.building" / "store.json").unlink()
    for name, size in (("rows.f32", 16000), ("checks.u32", 12)):
        os.truncate(tmp_path / "rows.building" / name, 3 * size)
    reads = []
    assert content(build(clips, tmp_path / "rows", reads=reads).folder) == whole
    assert sorted(reads) == list(range(3, COUNT))
