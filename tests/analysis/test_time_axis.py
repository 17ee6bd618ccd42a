"""Cells lie where the resize and the filterbank put them."""

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.analysis.time_axis import axis_seconds, band_hz, column_edges, column_seconds, filterbank, sum_channels
from earsight.features.spectrogram import Spectrogram, resize_matrix
from earsight.recipe import Features


@pytest.mark.parametrize("window", [0, 1, 2])
def test_a_column_lies_at_the_middle_of_the_frames_it_is_made_of(window):
    front_end = Spectrogram(Features(sample_rate_hz=16000, clip_seconds=4.0, frames=61, bands=16))
    weights = resize_matrix(1 + 64000 // front_end.hop_samples[window], 61).numpy().astype(np.float64)
    frame_seconds = np.arange(len(weights)) * front_end.hop_samples[window] / 16000
    middles = weights.T @ frame_seconds
    found = column_seconds(front_end, window=window)
    # The first and the last columns lack the frames beyond the ends.
    hop = front_end.hop_samples[window] / 16000
    np.testing.assert_allclose(found[3:-3], middles[3:-3], atol=0.1 * hop)
    assert (found - middles)[3:-3].mean() == pytest.approx(0, abs=0.002 * hop)
    np.testing.assert_allclose(found, middles, atol=0.51 * max(hop, 4 / 61))


def test_a_click_is_found_at_its_time_in_every_channel_and_on_the_common_clock(front_end):
    at = 0.31
    wave = torch.zeros(1, 8000)
    wave[0, round(at * 16000)] = 1.0
    power = torch.exp(front_end.band_energies(wave)[0, 0]).numpy()
    for window in range(3):
        share = power[window].sum(axis=0)
        assert (share / share.sum()) @ column_seconds(front_end, window=window) == pytest.approx(at, abs=0.008)
    alone = np.stack([channel / channel.sum() for channel in power])
    share = sum_channels(alone, front_end).sum(axis=0)
    assert (share / share.sum()) @ axis_seconds(front_end) == pytest.approx(at, abs=0.006)


def test_channels_begin_half_a_hop_before_the_sound_and_end_after_it(front_end):
    for window, hop in enumerate((0.010, 0.025, 0.050)):
        edges = column_edges(front_end, window=window)
        assert len(edges) == 41
        assert edges[0] == pytest.approx(-hop / 2)
        assert edges[-1] == pytest.approx(0.5 + hop / 2)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_merging_loses_nothing(data):
    front_end = Spectrogram(Features(sample_rate_hz=8000, clip_seconds=0.3, frames=17, bands=8))
    seed = data.draw(st.integers(0, 99))
    values = np.random.default_rng(seed).normal(size=(3, 8, 17)).astype(np.float32)
    found = sum_channels(values, front_end)
    np.testing.assert_allclose(found.sum(axis=1), values.astype(np.float64).sum(axis=(0, 2)), atol=1e-10)


def test_bands_are_where_librosa_has_them(front_end):
    centres = librosa.mel_frequencies(n_mels=66, fmin=0, fmax=8000, htk=True)[1:-1]
    found = band_hz(front_end)
    assert (np.diff(found) > 0).all()
    width = np.gradient(centres)
    assert (np.abs(found - centres) / width).max() < 0.5
    assert (np.abs(found - centres) / width)[20:].max() < 0.06


def test_bands_without_a_bin_lie_between_their_neighbours():
    narrow = Spectrogram(
        Features(
            sample_rate_hz=44100, clip_seconds=0.5, frames=16, bands=256, fft_ms=25, windows_ms=(25,), hops_ms=(10,)
        )
    )
    assert (filterbank(narrow).sum(axis=1) == 0).any()
    found = band_hz(narrow)
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
