"""The range of the bands, fmin_hz to fmax_hz: against librosa, SciPy and torch's resize, and where it has to arrive."""

import json

import librosa
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from earsight.analysis.time_axis import band_hz
from earsight.errors import RecipeError
from earsight.features.filterbanks import REPRESENTATIONS, erbs_to_hz, filterbank, hz_to_erbs
from earsight.features.spectrogram import Spectrogram
from earsight.features.store import open_store, store_key
from earsight.features.waves import waves_key
from earsight.recipe import Features, Recipe, load_recipe

RATE, POINTS = 44100, 4410
PLAIN = Features(sample_rate_hz=RATE, clip_seconds=0.5, frames=32, bands=32)
LIMITS = [(0.0, "none"), (50.0, 2000.0), (1000.0, "none"), (0.0, 11025.0), (3333.3, 16000.5)]
each = pytest.mark.parametrize("name", list(REPRESENTATIONS))
limits = pytest.mark.parametrize(("low", "high"), LIMITS)


def limited(low, high, **more):
    return Features(**{**PLAIN.model_dump(), "fmin_hz": low, "fmax_hz": high, **more})


@limits
def test_mel_banks_are_librosas(low, high):
    top = None if high == "none" else high
    theirs = librosa.filters.mel(sr=RATE, n_fft=POINTS, n_mels=32, fmin=low, fmax=top, htk=True, norm=None)
    np.testing.assert_allclose(filterbank(limited(low, high), fft_points=POINTS), theirs, atol=1e-6)


@pytest.mark.parametrize(("first", "last"), [(0, 2205), (100, 1500), (37, 2205), (400, 460)])
def test_linear_banks_are_torchs_resize_of_the_bins_in_range(first, last):
    power = np.random.default_rng(0).random((POINTS // 2 + 1, 3))
    bank = filterbank(limited(first * 10.0, last * 10.0, representation="log_spectrogram"), fft_points=POINTS)
    theirs = F.interpolate(
        torch.from_numpy(power[first : last + 1])[None, None], (32, 3), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(bank @ power, theirs[0, 0].numpy(), rtol=1e-5)


@limits
def test_gammatones_are_evenly_spaced_in_the_range_and_end_there(low, high):
    features = limited(low, high, representation="gammatone", bands=8)
    bank, hz = filterbank(features, fft_points=POINTS), np.arange(POINTS // 2 + 1) * 10.0
    bottom, top = features.band_hz
    centres = erbs_to_hz(np.linspace(hz_to_erbs(bottom), hz_to_erbs(top), 10)[1:-1])
    assert np.abs(hz[bank.argmax(axis=1)] - centres).max() <= 10.0
    assert not bank[:, (hz < bottom) | (hz > top)].any()


@each
@limits
def test_neither_rumble_nor_hiss_beyond_the_range_is_seen(name, low, high):
    features = limited(low, high, representation=name)
    bottom, top = features.band_hz
    bank, hz = filterbank(features, fft_points=POINTS), np.arange(POINTS // 2 + 1) * 10.0
    assert bank[:, (hz > bottom + 10) & (hz < top - 10)].any()
    assert not bank[:, (hz < bottom - 10) | (hz > top + 10)].any()


@each
@pytest.mark.parametrize("semitones", [-3, 2])
def test_a_tone_that_is_raised_reads_like_a_higher_tone(name, semitones):
    features = limited(1000.0, 9000.0, representation=name)
    hz = 3000.0
    moved = round(hz * 2 ** (semitones / 12))
    shifted = filterbank(features, fft_points=POINTS, semitones=semitones)
    plain = filterbank(features, fft_points=10 * POINTS)  # a bin a hertz
    np.testing.assert_allclose(
        shifted[:, 300], plain[:, moved] * shifted[:, 300].sum() / plain[:, moved].sum(), atol=5e-3
    )
    # What is raised or lowered out of the range is lost.
    edge = 9000.0 if semitones > 0 else 1000.0
    beyond = np.arange(POINTS // 2 + 1) * 10.0 * 2 ** (semitones / 12)
    assert not shifted[:, beyond > edge + 10 if semitones > 0 else beyond < edge - 10].any()


@each
def test_the_limits_by_name_are_the_limits_by_number(name):
    given = limited(0.0, RATE / 2, representation=name)
    plain = limited(0.0, "none", representation=name)
    np.testing.assert_array_equal(filterbank(given, fft_points=POINTS), filterbank(plain, fft_points=POINTS))


@each
def test_kernels_compute_the_same_within_the_range(name):
    features = limited(500.0, 6000.0, representation=name, sample_rate_hz=16000)
    waves = torch.from_numpy(0.1 * np.random.default_rng(1).standard_normal((2, features.samples)).astype(np.float32))
    plain, fast = Spectrogram(features, semitones=(-1.0, 0.0)), Spectrogram(features, semitones=(-1.0, 0.0))
    fast.use_kernels()
    np.testing.assert_allclose(fast.band_energies(waves), plain.band_energies(waves), atol=1e-4)


@each
@limits
def test_the_axis_of_explanations_is_that_of_the_range(name, low, high):
    features = limited(low, high, representation=name)
    bottom, top = features.band_hz
    found = band_hz(Spectrogram(features))
    assert bottom <= found[0] < found[-1] <= top
    assert found[0] < bottom + (top - bottom) / 8
    assert found[-1] > bottom + 0.8 * (top - bottom)


def test_the_range_is_in_keys_and_digests_and_its_default_is_not(synthetic):
    changes = {"fmin_hz": 100.0, "fmax_hz": 4000.0, "channel": "left"}
    keys, waves, digests = set(), set(), set()
    for change in ({}, *({name: value} for name, value in changes.items())):
        features = limited(0.0, "none").model_copy(update=change)
        keys.add(store_key(synthetic, features, [0]))
        waves.add(waves_key(synthetic, features))
        digests.add(Recipe(features=features).digest)
        assert set(features.settings()) & set(changes) == set(change)
    assert (len(keys), len(waves), len(digests)) == (4, 2, 4)  # waves hold all bands, and a channel
    assert "representation" in PLAIN.settings()


def test_a_store_says_its_range(synthetic, tmp_path):
    made = open_store(synthetic, limited(100.0, 4000.0, sample_rate_hz=8000), cache=tmp_path)
    about = json.loads((made.folder / "store.json").read_text())
    assert about["features"]["fmin_hz"] == 100.0
    assert about["features"]["fmax_hz"] == 4000.0


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["features.fmin_hz=-1"], ["fmin_hz", "-1"]),
        (["features.fmin_hz=500", "features.fmax_hz=500"], ["fmax_hz is 500", "fmin_hz = 500"]),
        (["features.fmax_hz=30000", "features.sample_rate_hz=44100"], ["30000 Hz", "sample_rate_hz to 60000 or more"]),
        (["features.fmin_hz=30000", "features.sample_rate_hz=44100"], ["30000 Hz", "44100"]),
        (["features.fmax_hz=half"], ["fmax_hz", "half"]),
        (["features.channel=0"], ["channel", "0"]),
        (["features.channel=both"], ["channel", "both"]),
    ],
)
def test_ranges_and_channels_that_are_none(assignments, words):
    with pytest.raises(RecipeError) as caught:
        load_recipe(overrides=assignments)
    for word in words:
        assert word in str(caught.value)


def test_a_range_that_holds_too_few_points_of_the_fft_is_refused():
    with pytest.raises(RecipeError, match=r"bands is 128, and between fmin_hz = 0 and fmax_hz = 200"):
        Spectrogram(limited(0.0, 200.0, bands=128))
    Spectrogram(limited(0.0, 200.0, bands=16))
