"""Masked sounds: nothing is lost, and what is kept is what was asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.analysis.masking import half_level, positive_part, smoothed, soft_mask, split_sound
from earsight.analysis.time_axis import band_hz, filterbank, sum_channels
from earsight.features.filterbanks import REPRESENTATIONS
from earsight.features.spectrogram import Spectrogram
from earsight.recipe import Features

RATE = 16000


def noise(samples, seed=0):
    return (0.3 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def share_between(wave, low_hz, high_hz):
    """Share of a wave's energy between two frequencies, by an FFT of the whole."""
    power = np.abs(np.fft.rfft(wave.astype(np.float64))) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
    return power[(hertz >= low_hz) & (hertz <= high_hz)].sum() / power.sum()


@given(
    seed=st.integers(0, 50),
    samples=st.sampled_from([1, 37, 800, 1601, 7999, 8000]),
    density=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
)
@settings(max_examples=25, deadline=None)
def test_what_is_kept_and_what_is_removed_add_up_to_the_sound(front_end, seed, samples, density):
    wave = noise(samples, seed)
    random = np.random.default_rng(seed)
    mask = random.random((64, 40)) * (random.random((64, 40)) < density)
    kept, removed = split_sound(wave, mask, front_end)
    assert kept.shape == removed.shape == wave.shape
    assert kept.dtype == removed.dtype == np.float32
    np.testing.assert_allclose(kept + removed, wave, atol=1e-7)


@pytest.mark.parametrize("samples", [200, 8000])
def test_all_or_nothing(front_end, samples):
    wave = noise(samples)
    kept, removed = split_sound(wave, np.ones((64, 40)), front_end)
    np.testing.assert_allclose(kept, wave, atol=1e-6)
    assert np.abs(removed).max() < 1e-6
    kept, removed = split_sound(wave, np.zeros((64, 40)), front_end)
    assert np.abs(kept).max() == 0
    np.testing.assert_array_equal(removed, wave)


@pytest.mark.parametrize("representation", ["log_mel", "log_spectrogram", "gammatone", "mfcc"])
def test_an_attribution_on_a_few_bands_keeps_those_frequencies_alone(representation):
    front_end = Spectrogram(
        Features(sample_rate_hz=RATE, clip_seconds=0.5, frames=40, bands=64, representation=representation)
    )
    attribution = np.zeros((3, 64, 40))
    attribution[:, 30:40] = 1.0
    wave = noise(8000)
    kept, removed = split_sound(wave, soft_mask(attribution, front_end), front_end)
    hertz = band_hz(front_end)
    # Smoothing reaches six bands beyond; a gammatone filter's skirts reach further.
    slack = 0.9 if representation == "gammatone" else 0.995
    assert share_between(kept, hertz[23], hertz[46]) > slack
    assert share_between(wave, hertz[23], hertz[46]) < 0.6
    inside = share_between(removed, hertz[33], hertz[36]) / share_between(wave, hertz[33], hertz[36])
    assert inside < (0.2 if representation == "gammatone" else 0.05)
    low, high = 0.9 * hertz[33], hertz[36]
    loud = (
        share_between(kept, low, high)
        * np.square(kept).sum()
        / (share_between(wave, low, high) * np.square(wave).sum())
    )
    assert 0.6 < loud < 1.05


def test_an_attribution_on_a_moment_keeps_that_moment_alone(front_end):
    attribution = np.zeros((3, 64, 40))
    attribution[:, :, 16:20] = 1.0  # 0.2 to 0.25 s
    wave = noise(8000)
    kept, _ = split_sound(wave, soft_mask(attribution, front_end), front_end)
    energy = np.square(kept.astype(np.float64))
    seconds = np.arange(8000) / RATE
    middle = (energy / energy.sum()) @ seconds
    assert middle == pytest.approx(0.225, abs=0.01)
    # 40 ms of smoothing, three deviations, and half a window of 50 ms.
    outside = (seconds < 0.2 - 0.145) | (seconds > 0.25 + 0.145)
    assert energy[outside].sum() < 1e-4 * energy.sum()


def test_a_band_of_two_tones_is_heard_without_the_other(front_end):
    seconds = np.arange(8000) / RATE
    low, high = (0.4 * np.sin(2 * np.pi * hertz * seconds).astype(np.float32) for hertz in (500, 3000))
    hertz = band_hz(front_end)
    attribution = np.zeros((3, 64, 40))
    attribution[:, np.abs(hertz - 3000) < 400] = 2.0
    attribution[:, np.abs(hertz - 500) < 100] = -2.0
    kept, removed = split_sound(low + high, soft_mask(attribution, front_end), front_end)
    inner = slice(800, -800)
    assert np.square(kept - high)[inner].mean() < 0.01 * np.square(high).mean()
    assert np.square(removed - low)[inner].mean() < 0.01 * np.square(low).mean()


def test_a_mask_is_soft_and_whole_where_half_of_the_attribution_is(front_end):
    attribution = np.random.default_rng(0).normal(size=(3, 64, 40))
    mask = soft_mask(attribution, front_end)
    used = sum_channels(positive_part(attribution, seconds=0.5), front_end)
    assert mask.min() >= 0
    assert mask.max() == 1
    whole = mask == 1
    assert used[whole].sum() == pytest.approx(0.5 * used.sum(), rel=0.02)
    np.testing.assert_allclose(mask[~whole], used[~whole] / used[whole].min(), rtol=1e-9)


def test_windows_that_cancel_do_not_hide_what_one_of_them_uses(front_end):
    attribution = np.zeros((3, 64, 40))
    attribution[0, 20:30, 10:20], attribution[1, 20:30, 10:20] = 1.0, -1.0
    mask = soft_mask(attribution, front_end)
    assert mask[22:28, 12:18].min() > 0.9
    assert mask[40:].max() == 0


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_where_nothing_speaks_for_the_class_nothing_is_kept(front_end, value):
    assert soft_mask(np.full((3, 64, 40), value), front_end).max() == 0


@given(values=st.lists(st.floats(0, 1e3), min_size=1, max_size=60).filter(any))
@settings(deadline=None)
def test_the_cells_at_the_level_and_above_hold_half(values):
    cells = np.array(values)
    level = half_level(cells)
    assert cells[cells >= level].sum() >= 0.5 * cells.sum() * (1 - 1e-12)
    assert cells[cells > level].sum() <= 0.5 * cells.sum() * (1 + 1e-12)


def test_smoothing_keeps_the_mean_of_what_lies_inside_and_has_the_widths_it_says():
    spike = np.zeros((64, 250))
    spike[30, 120] = 1.0
    found = smoothed(spike, seconds=5.0)
    assert found.sum() == pytest.approx(1)
    bands, columns = np.mgrid[:64, :250]
    assert np.sqrt((found * (bands - 30) ** 2).sum()) == pytest.approx(2.0, rel=0.03)
    assert np.sqrt((found * (columns - 120) ** 2).sum()) * 5.0 / 250 == pytest.approx(0.04, rel=0.05)
    np.testing.assert_allclose(smoothed(np.ones((64, 250)), seconds=5.0), 1.0)


def test_bins_that_no_band_hears_go_with_the_nearest():
    front_end = Spectrogram(Features(sample_rate_hz=RATE, clip_seconds=0.5, frames=40, bands=64))
    silent = filterbank(front_end).sum(axis=0) == 0
    assert silent[0]
    hum = np.full(8000, 0.5, dtype=np.float32)  # 0 Hz alone
    attribution = np.zeros((3, 64, 40))
    attribution[:, :8] = 1.0
    kept, _ = split_sound(hum, soft_mask(attribution, front_end), front_end)
    assert np.abs(kept - hum)[1600:-1600].max() < 0.02
    assert set(REPRESENTATIONS) == {"log_mel", "log_spectrogram", "mfcc", "gammatone"}
