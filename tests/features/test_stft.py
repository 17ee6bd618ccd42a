"""Power in bands against the long FFT, written out."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.features import stft as power_module
from earsight.features.stft import BandEnergies, SimdStft, grid_points, on_shorter_grid, simd_stft


def power_by_long_fft(wave, bank, *, window, hop, points):
    """Bands (rows, columns) float64 of one wave, frame by frame, with the zero-padded FFT itself."""
    padded = np.pad(wave.astype(np.float64), points // 2, mode="reflect")
    shape = np.zeros(points)
    first = (points - window) // 2
    shape[first : first + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    columns = 1 + len(wave) // hop
    frames = [padded[column * hop : column * hop + points] * shape for column in range(columns)]
    return bank @ (np.abs(np.fft.rfft(frames, axis=1)) ** 2).T


def padded(waves, points):
    return torch.from_numpy(np.pad(waves, ((0, 0), (points // 2, points // 2)), mode="reflect"))


def triangles(rows, bins, *, narrowest=1.5):
    """Narrow filters at the lowest bins, wider ones above, as mel banks have them."""
    centres = np.geomspace(narrowest, bins, rows)[:, None]
    return np.maximum(0, 1 - np.abs(np.arange(bins) - centres) / np.maximum(narrowest, 0.1 * centres)).astype(
        np.float32
    )


def sounds(rate, samples):
    """Waves whose bands differ by many orders of magnitude, and plain noise."""
    time = np.arange(samples) / rate
    noise = np.random.default_rng(0).standard_normal(samples)
    loud = 0.99 * np.sin(2 * np.pi * 0.11 * rate * time)
    pair = 0.5 * np.sin(2 * np.pi * 0.03 * rate * time) + 0.5 * np.sin(2 * np.pi * 0.42 * rate * time)
    click = np.zeros(samples)
    click[samples // 3] = 1.0
    return np.stack([0.1 * noise, loud, pair, click, loud * (time > time[-1] / 2)]).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("window_ms", [10, 25, 50, 100])
@pytest.mark.parametrize("compiled", [False, True])
def test_bands_are_those_of_the_long_fft(rate, window_ms, compiled):
    points, window, hop = round(0.1 * rate), round(window_ms * rate / 1000), round(0.01 * rate)
    bank = triangles(24, points // 2 + 1)
    waves = sounds(rate, round(0.3 * rate))
    module = BandEnergies(bank, window_samples=window, hop_samples=hop, fft_points=points)
    if compiled:
        module = simd_stft(module)
        assert isinstance(module, SimdStft)
    ours = module(padded(waves, points)).mT.numpy()
    for wave, found in zip(waves, ours, strict=True):
        expected = power_by_long_fft(wave, bank, window=window, hop=hop, points=points)
        np.testing.assert_allclose(np.log(found + 1e-6), np.log(expected + 1e-6), atol=1e-3)


def test_short_windows_take_a_shorter_fft():
    assert (grid_points(1102, fft_points=4410), grid_points(2205, fft_points=4410)) == (3200, 4410)
    assert BandEnergies(triangles(8, 2206), window_samples=1102, hop_samples=441, fft_points=4410).points == 3200


@given(st.integers(2, 5000), st.integers(2, 20000))
def test_a_shorter_grid_is_fast_and_long_enough(window, points):
    found = grid_points(window, fft_points=points)
    assert found == points or (2.9 * window <= found <= 0.75 * points)
    if found != points:
        rest = found
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert (rest, found % 2) == (1, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_any_bank_moves_to_the_shorter_grid(window, seed, odd):
    draws = np.random.default_rng(seed)
    points, fine = 2 * int(np.ceil(1.45 * window)), 6 * window + odd
    bank = draws.random((3, fine // 2 + 1))
    moved = on_shorter_grid(bank, window_samples=window, fft_points=fine, points=points)
    frame = draws.standard_normal(window)
    expected = bank @ np.abs(np.fft.rfft(frame, fine)) ** 2
    np.testing.assert_allclose(moved @ np.abs(np.fft.rfft(frame, points)) ** 2, expected, rtol=1e-9)


def test_pieces_and_batches_change_nothing(monkeypatch):
    bank = triangles(40, 401)[::-1].copy()  # rows that do not come in the order of their bins
    module = BandEnergies(bank, window_samples=200, hop_samples=80, fft_points=800)
    waves = padded(sounds(8000, 2400), 800)
    whole = module(waves)
    monkeypatch.setattr(power_module, "VALUES_AT_A_TIME", {"cpu": 1})
    torch.testing.assert_close(module(waves), whole, rtol=1e-6, atol=0)
    monkeypatch.setattr(power_module, "VALUES_AT_A_TIME", {})
    torch.testing.assert_close(torch.cat([module(wave[None]) for wave in waves]), whole, rtol=1e-6, atol=0)


def test_a_row_without_weights_is_zero():
    bank = triangles(8, 401)
    bank[3] = 0
    found = BandEnergies(bank, window_samples=200, hop_samples=80, fft_points=800)(torch.ones(1, 2400))
    assert not found[0, :, 3].any()
    assert found[0, :, 2].all()


def test_a_long_fft_takes_memory_for_its_bank_and_not_for_the_square_of_its_points():
    """A model file names the length: of 131,072 points the matrix of the interpolation would have 24 GB."""
    bank = np.ones((1, 65537))
    tracemalloc.start()
    try:
        moved = on_shorter_grid(bank, window_samples=32000, fft_points=131072, points=93312)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6
    # The power of a click is the same at every point: 65,537 of them, by whichever grid.
    np.testing.assert_allclose(moved.sum(), 65537, rtol=1e-9)
