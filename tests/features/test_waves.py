"""Waves on disk: to the last bit what is decoded, kept as the spectrograms are, int16 only where that is exact."""

import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import store_jobs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.data import audio
from earsight.data.datasets import Clip, Dataset, Hints
from earsight.data.layouts import open_dataset
from earsight.errors import DataError
from earsight.features.augment import Draws
from earsight.features.spectrogram import Spectrogram
from earsight.features.store import open_store
from earsight.features.waves import exact_scale, open_waves, waves_key
from earsight.recipe import Features

SMALL = Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)
STEPS = (-1, 0, 2)


def write(folder, sounds):
    """A data set of waves, each with its rate and the subtype of its WAV file."""
    folder.mkdir(parents=True)
    for row, (wave, rate, subtype) in enumerate(sounds):
        soundfile.write(folder / f"{row}.wav", wave, rate, subtype=subtype)
    clips = tuple(Clip(f"{row}.wav", "ab"[row % 2], row % 3, str(row)) for row in range(len(sounds)))
    return Dataset("noise", "folder", folder, clips, ("a", "b"), Hints(8000, 0.5, 32))


def noise(seed, seconds=0.5, rate=8000, loud=0.5, channels=None):
    shape = round(seconds * rate) if channels is None else (round(seconds * rate), channels)
    return np.random.default_rng(seed).uniform(-loud, loud, shape)


@pytest.fixture
def exact(tmp_path):
    """Twelve clips of 16 bits, of several lengths."""
    return write(tmp_path / "data", [(noise(row, 0.2 + 0.05 * row), 8000, "PCM_16") for row in range(12)])


@pytest.fixture
def mixed(tmp_path):
    """Clips of all kinds: 16 and 8 bits, 24 bits loud and quiet, float, stereo, another rate, full scale, silence."""
    sounds = [
        (noise(0), 8000, "PCM_16"),
        (noise(1), 8000, "PCM_U8"),
        (noise(2), 8000, "PCM_24"),
        (noise(3, loud=2**-10), 8000, "PCM_24"),
        (noise(4), 8000, "FLOAT"),
        (noise(5, loud=0.9, channels=2), 8000, "PCM_16"),
        (noise(6, rate=11025), 11025, "PCM_16"),
        (np.sign(noise(7)), 8000, "PCM_16"),
        (np.zeros(3000), 8000, "PCM_16"),
        (noise(9, loud=1e-4), 8000, "FLOAT"),
    ]
    return write(tmp_path / "data", sounds)


def decoded(dataset, row):
    return audio.fit(audio.read(dataset.file(row), sample_rate_hz=8000, seconds=0.5), 4000)


def at_steps(steps):
    names = ("speed", "place", "roll", "time_masks", "band_masks", "partner", "share")
    return Draws(semitones=np.array(steps), **dict.fromkeys(names, np.zeros(len(steps))))


def test_rows_are_what_is_decoded(mixed, tmp_path):
    waves = open_waves(mixed, SMALL, cache=tmp_path / "cache", workers=2)
    rows = np.array([9, 0, 3, 7, 8, 1, 2, 4, 5, 6, 9])
    found = waves.read_waves(rows)
    assert (found.shape, found.dtype) == ((11, 4000), torch.float32)
    for wave, row in zip(found, rows, strict=True):
        assert np.array_equal(wave.numpy(), decoded(mixed, row))
    whole = [row for row in range(10) if waves.scales[row]]
    assert whole == [0, 1, 3, 7, 8]
    assert not waves.whole
    assert waves.bytes_on_disk == 4000 * (2 * 5 + 4 * 5)


def test_sixteen_bits_lose_nothing(exact, tmp_path):
    waves = open_waves(exact, SMALL, cache=tmp_path / "cache", workers=1)
    assert waves.whole
    assert set(waves.scales) == {np.float32(2**-15)}
    assert all(np.array_equal(waves.read_waves(np.array([row]))[0], decoded(exact, row)) for row in range(12))


def test_sixteen_bits_take_half_of_their_place(tmp_path):
    dataset = write(tmp_path / "data", [(noise(row, 4.0), 8000, "PCM_16") for row in range(4)])
    waves = open_waves(dataset, SMALL.model_copy(update={"clip_seconds": 4.0}), cache=tmp_path / "cache")
    file = (waves.folder / "waves.bin").stat()
    assert file.st_size == 4 * 32000 * 4
    assert file.st_blocks * 512 < 0.7 * file.st_size  # the other half is a hole


@given(
    bits=st.integers(1, 20),
    power=st.integers(0, 34),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=60)
def test_a_scale_gives_every_sample_back(bits, power, seed):
    """Whole multiples of a power of two: exact where they fit in 16 bits, and 0 only where they do not."""
    largest = 2 ** (bits - 1)
    whole = np.random.default_rng(seed).integers(-largest, largest, 64)
    whole[0] = 1  # odd: no coarser scale is exact
    wave = (whole * 2.0**-power).astype(np.float32)
    scale = exact_scale(wave)
    fits = 15 <= power <= 30 and -32768 <= whole.min() <= whole.max() <= 32767
    coarse = power < 15 and -32768 <= (wave * 2.0**15).min() <= (wave * 2.0**15).max() <= 32767
    assert bool(scale) == (fits or coarse)
    if scale:
        codes = wave / np.float32(scale)
        assert np.array_equal(codes.astype(np.int16) * np.float32(scale), wave)


@pytest.mark.parametrize("wave", [np.zeros(5), np.full(5, -1.0), np.array([0.1, 0.2]), np.array([1.0, 0.5])])
def test_scales_at_the_edges(wave):
    wave = wave.astype(np.float32)
    scale = exact_scale(wave)
    # Full scale upwards is 32768, one more than int16 holds; a tenth is no binary fraction.
    assert scale == (2**-15 if wave.max() <= 0 else 0)


def test_rounding_to_sixteen_bits_would_not_do(tmp_path):
    """The reason for float32: a loud tone with silence above it, decoded from more than 16 bits."""
    time = np.arange(4000) / 8000
    wave = (0.9 * np.sin(2 * np.pi * 200 * time) * np.hanning(4000)).astype(np.float32)
    dataset = write(tmp_path / "data", [(wave, 8000, "FLOAT")])
    waves = open_waves(dataset, SMALL, cache=tmp_path / "cache", workers=1)
    front_end = Spectrogram(SMALL)
    expected = front_end.spectrograms(torch.from_numpy(wave)[None])
    torch.testing.assert_close(front_end.spectrograms(waves.read_waves(np.array([0]))), expected, atol=0, rtol=0)
    rounded = torch.from_numpy(np.rint(wave * 32767).astype(np.int16) / np.float32(32767))[None]
    assert (front_end.spectrograms(rounded) - expected).abs().max() > 0.1


def test_spectrograms_are_the_stores(mixed, tmp_path):
    waves = open_waves(mixed, SMALL, semitones=STEPS, cache=tmp_path / "cache", workers=1)
    store = open_store(mixed, SMALL, semitones=STEPS, cache=tmp_path / "cache", workers=1)
    rows, draws = np.array([3, 0, 6, 9]), at_steps([2, -1, 0, 2])
    torch.testing.assert_close(waves.read(rows, draws=draws), store.read(rows, draws=draws), atol=1e-3, rtol=0)
    torch.testing.assert_close(waves.read(rows), store.read(rows), atol=1e-3, rtol=0)
    assert not torch.allclose(waves.read(rows), waves.read(rows, draws=draws), atol=0.1)
    for ours, theirs in zip(waves.statistics(rows), store.statistics(rows), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_second_open_decodes_nothing_whatever_the_spectrograms_look_like(exact, tmp_path, monkeypatch):
    told = []
    first = open_waves(exact, SMALL, cache=tmp_path / "cache", progress=lambda *counts: told.append(counts))
    assert told == [(done, 12) for done in range(13)]

    def no_reading(*_, **__):
        raise AssertionError("a clip was decoded")

    monkeypatch.setattr(audio, "read", no_reading)
    other = SMALL.model_copy(update={"bands": 40, "windows_ms": (20.0, 40.0, 80.0)})
    second = open_waves(exact, other, semitones=STEPS, cache=tmp_path / "cache", progress=no_reading)
    assert second.folder == first.folder
    assert torch.equal(first.read_waves(np.arange(12)), second.read_waves(np.arange(12)))


def test_the_key_names_files_rate_and_length(exact):
    changed = [{"sample_rate_hz": 11025}, {"clip_seconds": 0.4}]
    keys = {waves_key(exact, SMALL.model_copy(update=update)) for update in ({}, *changed)}
    keys.add(waves_key(replace(exact, clips=exact.clips[::-1]), SMALL))
    exact.file(3).write_bytes(exact.file(4).read_bytes())
    keys.add(waves_key(exact, SMALL))
    assert len(keys) == 5


def test_an_interrupted_build_goes_on(exact, tmp_path, monkeypatch):
    original, reads = audio.read, []

    def read(path, **keywords):
        reads.append(path.name)
        if len(reads) == 8:
            raise KeyboardInterrupt
        return original(path, **keywords)

    monkeypatch.setattr(audio, "read", read)
    with pytest.raises(KeyboardInterrupt):
        open_waves(exact, SMALL, cache=tmp_path / "cache", workers=1)
    before = len(reads)
    waves = open_waves(exact, SMALL, cache=tmp_path / "cache", workers=1)
    assert "0.wav" not in reads[before:]
    assert all(np.array_equal(waves.read_waves(np.array([row]))[0], decoded(exact, row)) for row in range(12))


def test_unreadable_clips_are_named_and_read_as_silence(exact, tmp_path):
    exact.file(4).write_bytes(b"no sound at all")
    waves = open_waves(exact, SMALL, cache=tmp_path / "cache", workers=2)
    assert list(waves.errors) == [4]
    assert waves.whole
    assert not waves.read_waves(np.array([4])).any()


def test_a_full_disk_is_said_before_any_work(exact, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 12 * 4000 * 4))
    with pytest.raises(
        DataError,
        match=r"the waves need \d+\.\d [kM]B and [1-9][\d.]* \w+ are free; make room, name another folder",
    ):
        open_waves(exact, SMALL, cache=tmp_path / "cache")


@pytest.mark.skipif(store_jobs.os.name != "posix", reason="the size of a process is asked of POSIX")
def test_memory_does_not_grow_with_the_clips(tmp_path):
    # 960 clips are 123 MB of waves.
    features = SMALL.model_copy(update={"clip_seconds": 4.0})
    few = write(tmp_path / "data", [(noise(row, 4.0), 8000, "FLOAT") for row in range(8)])
    sizes = []
    for times in (12, 120):
        clips = tuple(replace(clip, group=f"{clip.group}-{time}") for time in range(times) for clip in few.clips)
        answer = store_jobs.CONTEXT.SimpleQueue()
        job = (replace(few, clips=clips), features, tmp_path / f"cache{times}", answer)
        process = store_jobs.CONTEXT.Process(target=store_jobs.decode_and_weigh, args=job, daemon=True)
        process.start()
        process.join()
        assert process.exitcode == 0
        sizes.append(answer.get())
    assert sizes[1] / sizes[0] < 1.1, sizes


@pytest.mark.real_audio
def test_real_clips_are_what_is_decoded(esc10, tmp_path):
    dataset = open_dataset(esc10)
    few = replace(dataset, clips=dataset.clips[::40])
    features = Features(sample_rate_hz=44100, clip_seconds=5.0, frames=250)
    waves = open_waves(few, features, cache=tmp_path, workers=2)
    for row in range(10):
        wave = audio.fit(audio.read(few.file(row), sample_rate_hz=44100, seconds=5.0), 220500)
        assert np.array_equal(waves.read_waves(np.array([row]))[0], wave)
