"""What `python -m benchmarks` measures against makes the spectrograms that earsight makes."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from earsight.data import audio
from earsight.features.spectrogram import Spectrogram
from earsight.onnx.dft import with_matrix_dft
from earsight.recipe import load_recipe

ALLOWED = 1e-3


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    return importlib.import_module("benchmarks.reference")


@pytest.fixture(scope="module")
def front_end():
    recipe = load_recipe().resolve(sample_rate_hz=44100, clip_seconds=5.0, frames=250)
    return Spectrogram(recipe.features)


def largest_difference(path, reference, front_end) -> float:
    features = front_end.features
    wave = audio.fit(audio.read(path, sample_rate_hz=features.rate, seconds=5.0), features.samples)
    theirs = reference.spectrogram(reference.load(path))
    with torch.inference_mode():
        ours = front_end(torch.from_numpy(wave)[None])[0]
    assert ours.shape == theirs.shape == (3, 128, 250)
    assert float(ours.std()) > 0.1
    return float((ours - theirs).abs().max())


@pytest.mark.real_audio
def test_the_reference_makes_our_spectrograms_of_real_clips(reference, front_end, esc10):
    files = sorted((esc10 / "audio").iterdir())[::40]
    assert len(files) == 10
    found = {path.name: largest_difference(path, reference, front_end) for path in files}
    assert max(found.values()) < ALLOWED, found


def test_and_of_a_file_that_is_short_and_has_two_channels(reference, front_end, tmp_path):
    draw = np.random.default_rng(0)
    soundfile.write(tmp_path / "s.wav", draw.normal(0, 0.2, (100_000, 2)), 44100, subtype="FLOAT")
    assert largest_difference(tmp_path / "s.wav", reference, front_end) < ALLOWED


@pytest.mark.real_audio
def test_what_is_exported_makes_them_too(reference, front_end, esc10):
    exported = with_matrix_dft(front_end)
    for path in sorted((esc10 / "audio").iterdir())[7::100]:
        assert largest_difference(path, reference, exported) < ALLOWED
