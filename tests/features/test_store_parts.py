"""Spectrograms of windows of recordings: each is that of its part, and a recording is decoded once for all of them."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from earsight.data import audio
from earsight.data.datasets import Clip, Dataset, Hints
from earsight.features import row_file
from earsight.features.spectrogram import Spectrogram
from earsight.features.store import encode, open_store, store_key
from earsight.features.waves import open_waves
from earsight.recipe import Features

FEATURES = Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)


@pytest.fixture
def recordings(tmp_path):
    """Two recordings of four seconds at another rate, and windows of half a second that overlap."""
    generator, clips = np.random.default_rng(4), []
    for name in ("a.wav", "b.flac"):
        soundfile.write(tmp_path / name, generator.uniform(-0.5, 0.5, 44100), 11025, subtype="PCM_16")
        clips += [Clip(name, "xy"[n % 2], n % 2, name, n / 4, n / 4 + 0.5) for n in range(0, 14, 2)]
        clips += [Clip(name, "xy"[n % 2], n % 2, name, n / 4, n / 4 + 0.5) for n in range(1, 14, 2)]
    return Dataset("made", "boxes", tmp_path, tuple(clips), ("x", "y"), Hints(8000, 0.5, 32))


def test_each_row_is_the_spectrogram_of_its_part(recordings, tmp_path, monkeypatch):
    opened = []
    real = audio.read_parts
    monkeypatch.setattr(
        row_file.audio, "read_parts", lambda path, *args, **kw: opened.append(path) or real(path, *args, **kw)
    )
    store = open_store(recordings, FEATURES, cache=tmp_path / "cache", workers=2)
    assert sorted(opened) == [tmp_path / "a.wav", tmp_path / "b.flac"]
    front_end = Spectrogram(FEATURES)
    for row, clip in enumerate(recordings.clips):
        (wave,) = real(tmp_path / clip.path, [clip.part], sample_rate_hz=8000)
        assert len(wave) == 4000
        wanted = encode(front_end.spectrograms(torch.from_numpy(wave)[None])[0, 0])
        steps = np.abs(store.read_codes(np.array([row]), np.array([0]))[0].astype(int) - wanted)
        assert steps.max() <= 1
    assert not store.errors


def test_waves_are_those_of_the_parts(recordings, tmp_path):
    waves = open_waves(recordings, FEATURES, cache=tmp_path / "cache")
    for row, clip in enumerate(recordings.clips):
        (wave,) = audio.read_parts(tmp_path / clip.path, [clip.part], sample_rate_hz=8000)
        assert np.array_equal(waves.read_waves(np.array([row]))[0].numpy(), wave)


def test_a_store_is_named_by_its_parts_too(recordings, tmp_path):
    key = store_key(recordings, FEATURES, (0,), cache=tmp_path)
    clip = dataclasses.replace(recordings.clips[0], begin=0.001, end=0.501)
    moved = dataclasses.replace(recordings, clips=(clip, *recordings.clips[1:]))
    assert store_key(moved, FEATURES, (0,), cache=tmp_path) != key
    assert store_key(recordings, FEATURES, (0,), cache=tmp_path) == key


def test_damage_costs_the_windows_behind_it_alone(recordings, tmp_path):
    raw = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(raw[: len(raw) // 2])
    store = open_store(recordings, FEATURES, cache=tmp_path / "cache")
    bad = {recordings.clips[row].name for row in store.errors}
    assert bad == {clip.name for clip in recordings.clips if clip.path == "a.wav" and clip.end > 1.75}
    assert all("truncated" in reason for reason in store.errors.values())


def test_a_damaged_row_is_made_anew_from_its_part(recordings, tmp_path):
    store = open_store(recordings, FEATURES, cache=tmp_path / "cache")
    before = store.read(np.arange(28))
    path = store.folder / "pictures.i16"
    raw = bytearray(path.read_bytes())
    raw[5 * len(raw) // 28 + 7] ^= 1
    path.write_bytes(raw)
    assert torch.equal(store.read(np.arange(28)), before)
