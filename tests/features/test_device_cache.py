"""Sources on the device: the same spectrograms as the store reads, for the same draws."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from earsight.data.datasets import Clip, Dataset, Hints
from earsight.features import device_cache
from earsight.features.augment import draw, pitch_steps
from earsight.features.device_cache import SpectrogramCache, WaveCache
from earsight.features.store import open_store
from earsight.features.waves import open_waves
from earsight.recipe import Augment, Features

CPU = torch.device("cpu")
SMALL = Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)
AUGMENT = Augment(probability=1.0)


@pytest.fixture(scope="module")
def store(synthetic, tmp_path_factory):
    few = replace(synthetic, clips=synthetic.clips[:23])
    return open_store(few, SMALL, semitones=pitch_steps(AUGMENT), cache=tmp_path_factory.mktemp("cache"))


def some(store, count=11):
    generator = np.random.default_rng(3)
    rows = generator.integers(0, store.shape[0], count)
    return rows, draw(AUGMENT, batch=count, generator=generator)


def test_spectrograms_on_the_device_are_the_stores(store, monkeypatch):
    monkeypatch.setattr(device_cache, "_CHUNK_ROWS", 10)  # 115 spectrograms: the last part is short
    source = SpectrogramCache(store, CPU)
    rows, draws = some(store)
    assert len(set(draws.semitones)) > 2
    assert torch.equal(source.read(rows, draws=draws), store.read(rows, draws=draws))
    assert torch.equal(source.read(rows), store.read(rows))
    assert not torch.equal(source.read(rows), source.read(rows, draws=draws))
    assert (source.stretches, source.semitones) == (store.stretches, store.semitones)


def test_waves_on_the_device_show_the_stores_spectrograms(store, synthetic, monkeypatch):
    monkeypatch.setattr(device_cache, "_CHUNK_ROWS", 10)
    few = replace(synthetic, clips=synthetic.clips[:23])
    waves = open_waves(few, SMALL, semitones=pitch_steps(AUGMENT), cache=store.folder.parent)
    source = WaveCache(waves, CPU)
    rows, draws = some(store)
    torch.testing.assert_close(source.read(rows, draws=draws), store.read(rows, draws=draws), atol=1e-3, rtol=0)
    torch.testing.assert_close(source.read(rows), store.read(rows), atol=1e-3, rtol=0)
    for ours, theirs in zip(source.statistics(rows), store.statistics(rows), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert torch.equal(source.silence, store.silence)


def test_waves_of_one_inexact_clip_are_float32_for_all(tmp_path):
    generator, clips = np.random.default_rng(0), []
    for row, subtype in enumerate(["PCM_16", "FLOAT", "PCM_16", "PCM_16"]):
        soundfile.write(tmp_path / f"{row}.wav", generator.uniform(-0.9, 0.9, 4000), 8000, subtype=subtype)
        clips.append(Clip(f"{row}.wav", "ab"[row % 2], row % 2, str(row)))
    dataset = Dataset("noise", "folder", tmp_path, tuple(clips), ("a", "b"), Hints(8000, 0.5, 32))
    (tmp_path / "3.wav").write_bytes(b"no sound at all")
    for chosen, kind in ((clips, torch.float32), ([clips[0], clips[2], clips[3]], torch.int16)):
        part = replace(dataset, clips=tuple(chosen))
        waves = open_waves(part, SMALL, cache=tmp_path / "cache")
        assert list(waves.errors) == [len(chosen) - 1]
        source = WaveCache(waves, CPU)
        assert source.waves.dtype == kind
        rows = np.arange(len(chosen) - 1)
        expected = open_store(part, SMALL, cache=tmp_path / "cache").read(rows)
        torch.testing.assert_close(source.read(rows), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("representation", ["mfcc", "gammatone"])
def test_every_representation_lies_on_the_device(synthetic, tmp_path, representation):
    few = replace(synthetic, clips=synthetic.clips[:6])
    features = SMALL.model_copy(update={"representation": representation})
    steps = (-1, 0, 1)
    store = open_store(few, features, semitones=steps, cache=tmp_path)
    rows = np.array([4, 0, 5])
    draws = replace(draw(AUGMENT, batch=3, generator=np.random.default_rng(0)), semitones=np.array([1, -1, 0]))
    expected = store.read(rows, draws=draws)
    torch.testing.assert_close(SpectrogramCache(store, CPU).read(rows, draws=draws), expected, atol=1e-5, rtol=0)
    waves = WaveCache(open_waves(few, features, semitones=steps, cache=tmp_path), CPU)
    # An MFCC adds up the errors of all bands.
    allowed = {"mfcc": 5e-3, "gammatone": 1e-3}[representation]
    torch.testing.assert_close(waves.read(rows, draws=draws), expected, atol=allowed, rtol=0)


def test_what_was_recorded_with_some_waves_shows_others(store, synthetic):
    """A trace without values, as a graph records it: rows and pitches reach it as tensors alone."""
    few = replace(synthetic, clips=synthetic.clips[:23])
    waves = open_waves(few, SMALL, semitones=pitch_steps(AUGMENT), cache=store.folder.parent)
    nothing, rows, steps = torch.zeros(4, dtype=torch.int64), torch.tensor([3, 9, 9, 22]), torch.tensor([0, 4, 2, 1])
    for source in (WaveCache(waves, CPU), SpectrogramCache(store, CPU)):
        recorded = make_fx(picking(source), tracing_mode="fake", _allow_non_fake_inputs=True)(nothing, nothing.clone())
        assert torch.equal(recorded(rows, steps), source.pick(rows, steps))
        assert not torch.equal(recorded(nothing, steps), source.pick(rows, steps))


def picking(source):
    """A function of two arguments, as a trace takes it."""

    def work(rows, steps):
        return source.pick(rows, steps)

    return work
