"""The store: what it holds, and that no kill, second process or full disk leaves anything half done."""

import os
import shutil
import signal
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import store_jobs
import torch

from earsight.cache import default_cache
from earsight.data import audio
from earsight.data.datasets import Clip, Dataset, Hints
from earsight.errors import AudioError, DataError
from earsight.features import store as store_module
from earsight.features.augment import Draws
from earsight.features.spectrogram import Spectrogram
from earsight.features.stft import SimdStft
from earsight.features.store import encode, open_store, store_bytes, store_key
from earsight.recipe import Features

SMALL = Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)
STEPS = (-1, 0, 2)
FILES = ("checks.u32", "moments.f64", "pictures.i16", "sounds.u8", "state.u8", "store.json")


@pytest.fixture
def some(tmp_path):
    """Forty-eight clips of noise, of several lengths and rates."""
    return make(tmp_path / "data", 48)


def make(folder, count, *, seed=0):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    clips = []
    for row in range(count):
        rate = (8000, 11025)[row % 2]
        wave = generator.uniform(-0.5, 0.5, int(rate * generator.uniform(0.2, 0.7)))
        soundfile.write(folder / f"{row}.wav", wave, rate, subtype="PCM_16")
        clips.append(Clip(f"{row}.wav", "ab"[row % 2], row % 3, str(row)))
    return Dataset("noise", "folder", folder, tuple(clips), ("a", "b"), Hints(8000, 0.5, 32))


def content(cache):
    (folder,) = [path for path in cache.iterdir() if path.is_dir()]
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return {name: (folder / name).read_bytes() for name in FILES}


def at_step(step, count):
    names = ("speed", "place", "roll", "time_masks", "band_masks", "partner", "share")
    return Draws(semitones=np.full(count, step), **dict.fromkeys(names, np.zeros(count)))


def no_reading(*_, **__):
    raise AssertionError("a clip was decoded")


def test_rows_are_what_the_front_end_computes(some, tmp_path):
    store = open_store(some, SMALL, semitones=STEPS, cache=tmp_path / "cache", workers=2)
    rows = np.array([5, 0, 23, 5])
    for step in STEPS:
        front_end = Spectrogram(SMALL, semitones=(float(step),))
        waves = [audio.fit(audio.read(some.file(row), sample_rate_hz=8000), 4000) for row in rows]
        expected = torch.cat([front_end.spectrograms(torch.from_numpy(wave)[None])[:, 0] for wave in waves])
        found = store.read(rows, draws=at_step(step, 4))
        assert (found.shape, found.dtype) == ((4, 3, 32, 32), torch.float32)
        torch.testing.assert_close(found, expected, atol=1 / 2048 + 1e-4, rtol=0)
    torch.testing.assert_close(store.read(rows), store.read(rows, draws=at_step(0, 4)), atol=0, rtol=0)


@pytest.mark.parametrize("representation", ["log_spectrogram", "mfcc", "gammatone"])
def test_rows_of_every_representation(some, tmp_path, representation):
    features = SMALL.model_copy(update={"representation": representation})
    store = open_store(some, features, semitones=STEPS, cache=tmp_path / "cache", workers=1)
    rows = np.array([3, 11])
    waves = [audio.fit(audio.read(some.file(row), sample_rate_hz=8000), 4000) for row in rows]
    front_end = Spectrogram(features, semitones=STEPS)
    expected = front_end.spectrograms(torch.from_numpy(np.stack(waves)))
    for index, step in enumerate(STEPS):
        found = store.read(rows, draws=at_step(step, 2))
        torch.testing.assert_close(found, expected[:, index], atol=1e-3, rtol=0)
    mean, std = store.statistics(rows)
    spectrograms = expected[:, STEPS.index(0)].double().transpose(0, 1).reshape(3, -1)
    np.testing.assert_allclose(mean, spectrograms.mean(dim=1), atol=1e-3)
    np.testing.assert_allclose(std, spectrograms.std(dim=1, correction=0), atol=1e-3)
    torch.testing.assert_close(
        store.silence, front_end.spectrograms(torch.zeros(1, 4000))[0, 1, 0, :, 0], atol=2e-5, rtol=0
    )


def test_each_row_of_a_batch_has_its_own_pitch(some, tmp_path):
    store = open_store(some, SMALL, semitones=STEPS, cache=tmp_path / "cache", workers=1)
    mixed = replace(at_step(0, 3), semitones=np.array([2, -1, 0]))
    found = store.read(np.array([7, 8, 9]), draws=mixed)
    for index, step in enumerate((2, -1, 0)):
        alone = store.read(np.array([7 + index]), draws=at_step(step, 1))
        assert torch.equal(found[index], alone[0])


def test_codes_reach_and_hold_at_the_end():
    values = torch.tensor([-13.8155, 0.0, 10.5, 60.0, -40.0, 16.0])
    decoded = torch.from_numpy(encode(values)).float() / 1024 + 16
    torch.testing.assert_close(decoded[[0, 1, 2, 5]], values[[0, 1, 2, 5]], atol=1 / 2048 + 1e-5, rtol=0)
    assert 47.9 < decoded[3] < 48
    assert decoded[4] == -16


def test_statistics_are_those_of_the_spectrograms(some, tmp_path):
    store = open_store(some, SMALL, semitones=STEPS, cache=tmp_path / "cache", workers=1)
    rows = np.array([1, 4, 20])
    mean, std = store.statistics(rows)
    spectrograms = store.read(rows).double().transpose(0, 1).reshape(3, -1)
    np.testing.assert_allclose(mean, spectrograms.mean(dim=1), atol=1e-3)
    np.testing.assert_allclose(std, spectrograms.std(dim=1, correction=0), atol=1e-3)


def test_workers_do_not_change_a_byte(some, tmp_path):
    threads = torch.get_num_threads()
    for workers in (1, 4):
        open_store(some, SMALL, semitones=STEPS, cache=tmp_path / str(workers), workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "4")
    assert torch.get_num_threads() == threads


def test_kernels_change_no_more_than_rounding(some, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(Spectrogram, "use_kernels", lambda self, real=Spectrogram.use_kernels: taken.append(real(self)))
    stores = []
    for least in (48, 49):
        monkeypatch.setattr(store_module, "WORTH_IT", least)
        stores.append(open_store(some, SMALL, semitones=STEPS, cache=tmp_path / str(least), workers=2))
    assert [type(power) for front_end in taken for power in front_end.kernels] == [SimdStft] * 3
    rows, steps = np.arange(48), np.arange(48) % len(STEPS)
    fast, plain = (store.read_codes(rows, steps).astype(np.int64) for store in stores)
    assert np.abs(fast - plain).max() <= 1  # of 1024 a unit
    assert (fast != plain).mean() < 1e-3
    np.testing.assert_allclose(stores[0].moments, stores[1].moments, rtol=1e-5)


def test_a_second_open_decodes_nothing(some, tmp_path, monkeypatch):
    told = []
    first = open_store(some, SMALL, cache=tmp_path / "cache", progress=lambda *counts: told.append(counts))
    assert told == [(done, 48) for done in range(49)]
    monkeypatch.setattr(audio, "read", no_reading)
    monkeypatch.setattr(Spectrogram, "use_kernels", no_reading)
    second = open_store(some, SMALL, cache=tmp_path / "cache", progress=no_reading)
    assert torch.equal(first.read(np.arange(48)), second.read(np.arange(48)))
    assert np.array_equal(first.moments, second.moments)


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL elsewhere")
def test_killed_at_random_instants_it_goes_on(some, tmp_path):
    open_store(some, SMALL, semitones=STEPS, cache=tmp_path / "whole", workers=1)
    key = store_key(some, SMALL, STEPS)
    cache, generator = tmp_path / "killed", np.random.default_rng()
    finished, kills = set(), []
    for attempt in range(6):
        log = tmp_path / f"reads{attempt}"
        log.touch()
        # The last attempt is left to end; the others die at a random clip and a random instant within it.
        kill = (int(generator.integers(1, 5)), float(generator.uniform(0, 0.01))) if attempt < 5 else None
        job, how = (some, SMALL, STEPS, cache, log), {"workers": 2, "pause": 0.005, "kill": kill}
        process = store_jobs.CONTEXT.Process(target=store_jobs.build, args=job, kwargs=how, daemon=True)
        process.start()
        process.join()
        again = finished & set(log.read_text().split())
        assert not again, f"decoded though done: {again}"
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills.append(kill)
        assert not (cache / key).exists()
        state = cache / f"{key}.building" / "state.u8"
        done = np.fromfile(state, dtype=np.uint8) == 1 if state.exists() else np.zeros(0)
        finished = {f"{row}.wav" for row in np.flatnonzero(done)}
    assert len(kills) >= 3
    assert content(cache) == content(tmp_path / "whole"), kills


def test_two_processes_at_once_share_one_build(some, tmp_path):
    open_store(some, SMALL, semitones=STEPS, cache=tmp_path / "whole", workers=1)
    log = tmp_path / "reads"
    job, how = (some, SMALL, STEPS, tmp_path / "cache", log), {"pause": 0.005}
    processes = [
        store_jobs.CONTEXT.Process(target=store_jobs.build, args=job, kwargs=how, daemon=True) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(log.read_text().split()) == sorted(clip.path for clip in some.clips)
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


def test_the_key_names_the_content(some):
    key = store_key(some, SMALL, STEPS)
    assert key == store_key(some, SMALL, STEPS)
    changed = [store_key(some, SMALL, (-1, 0)), store_key(some, SMALL.model_copy(update={"bands": 40}), STEPS)]
    changed.append(store_key(some, SMALL.model_copy(update={"representation": "mfcc"}), STEPS))
    changed.append(store_key(replace(some, clips=some.clips[::-1]), SMALL, STEPS))
    status = some.file(3).stat()
    os.utime(some.file(3), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert store_key(some, SMALL, STEPS) == key, "a time is no content"
    with some.file(3).open("ab") as file:
        file.write(b"\0\0")
    os.utime(some.file(3), ns=(status.st_atime_ns, status.st_mtime_ns))
    changed.append(store_key(some, SMALL, STEPS))
    some.file(3).unlink()
    changed.append(store_key(some, SMALL, STEPS))
    assert len({key, *changed}) == 7


def test_folds_labels_and_groups_share_a_store(some):
    other = tuple(replace(clip, fold=9 - clip.fold, label="c", group="g") for clip in some.clips)
    assert store_key(replace(some, clips=other, name="x"), SMALL, STEPS) == store_key(some, SMALL, STEPS)


def test_unreadable_clips_are_named_by_row(some, tmp_path, monkeypatch):
    some.file(4).write_bytes(b"no sound at all")
    some.file(9).unlink()
    store = open_store(some, SMALL, cache=tmp_path / "cache", workers=2)
    assert list(store.errors) == [4, 9]
    assert "no such file" in store.errors[9]
    assert str(some.root) not in store.errors[4]
    # They alone are tried again; a mended file is another content, with another key.
    original, reads = audio.read, []
    with monkeypatch.context() as patch:
        patch.setattr(audio, "read", lambda path, **keywords: (reads.append(path.name), original(path, **keywords))[1])
        assert open_store(some, SMALL, cache=tmp_path / "cache").errors == store.errors
    assert sorted(reads) == ["4.wav", "9.wav"]
    for row in (4, 9):
        shutil.copy(some.file(1), some.file(row))
    mended = open_store(some, SMALL, cache=tmp_path / "cache")
    assert mended.errors == {}
    assert torch.equal(*mended.read(np.array([1, 9])))


def test_a_clip_that_becomes_readable_is_filled_in(some, tmp_path, monkeypatch):
    whole = open_store(some, SMALL, cache=tmp_path / "whole", workers=1)
    original = audio.read

    def read(path, **keywords):
        if path.name == "7.wav":
            raise AudioError(str(path), "cannot be opened (Permission denied)")
        return original(path, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(audio, "read", read)
        store = open_store(some, SMALL, cache=tmp_path / "cache", workers=1)
    assert store.errors == {7: "cannot be opened (Permission denied)"}
    again = open_store(some, SMALL, cache=tmp_path / "cache", workers=1)
    assert again.folder == store.folder
    assert again.errors == {}
    assert torch.equal(again.read(np.arange(48)), whole.read(np.arange(48)))
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


def test_an_interrupted_build_tries_unreadable_clips_again(some, tmp_path, monkeypatch):
    some.file(2).write_bytes(b"no sound at all")
    original, reads = audio.read, []

    def read(path, **keywords):
        reads.append(path.name)
        if len(reads) == 12:
            raise KeyboardInterrupt
        return original(path, **keywords)

    monkeypatch.setattr(audio, "read", read)
    with pytest.raises(KeyboardInterrupt):
        open_store(some, SMALL, cache=tmp_path / "cache", workers=1)
    before = list(reads)
    store = open_store(some, SMALL, cache=tmp_path / "cache", workers=1)
    assert list(store.errors) == [2]
    assert reads[len(before) :].count("2.wav") == 1
    assert "0.wav" not in reads[len(before) :]


def test_a_full_disk_is_said_before_any_work(some, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(audio, "read", no_reading)
    needed = store_bytes(48, SMALL, STEPS)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, needed - 1))
    with pytest.raises(
        DataError, match=r"the spectrograms need \d+\.\d [kM]B and [1-9]\d*\.\d [kM]B are free; make room"
    ) as caught:
        open_store(some, SMALL, semitones=STEPS, cache=tmp_path / "cache")
    assert "overrides augment.pitch_semitones=0" in str(caught.value)
    monkeypatch.undo()
    store = open_store(some, SMALL, semitones=STEPS, cache=tmp_path / "cache")
    assert (store.folder / "pictures.i16").stat().st_size == needed


def test_a_cache_that_cannot_be_made(some, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be made .*EARSIGHT_CACHE or cache"):
        open_store(some, SMALL, cache=tmp_path / "file" / "cache")


def test_the_cache_has_a_place_for_each_user(monkeypatch, tmp_path):
    monkeypatch.setenv("EARSIGHT_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"
    monkeypatch.delenv("EARSIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "earsight"


def test_another_format_version_is_another_store(some, monkeypatch):
    key = store_key(some, SMALL, STEPS)
    monkeypatch.setattr(store_module, "FORMAT_VERSION", store_module.FORMAT_VERSION + 1)
    assert store_key(some, SMALL, STEPS) != key


@pytest.mark.skipif(os.name != "posix", reason="the size of a process is asked of POSIX")
def test_memory_does_not_grow_with_the_clips(tmp_path):
    # 480 clips are 118 MB of spectrograms: held in memory, or as pages of a map, they would more than show.
    features = SMALL.model_copy(update={"bands": 64, "frames": 128})
    few = make(tmp_path / "data", 8)
    sizes = []
    for times in (6, 60):
        clips = tuple(replace(clip, group=f"{clip.group}-{time}") for time in range(times) for clip in few.clips)
        answer = store_jobs.CONTEXT.SimpleQueue()
        job = (replace(few, clips=clips), features, (-2, -1, 0, 1, 2), tmp_path / f"cache{times}", answer)
        process = store_jobs.CONTEXT.Process(target=store_jobs.build_and_weigh, args=job, daemon=True)
        process.start()
        process.join()
        assert process.exitcode == 0
        sizes.append(answer.get())
    assert sizes[1] / sizes[0] < 1.1, sizes
