"""The front end without an FFT: the same spectrograms, from the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from earsight.features.spectrogram import Spectrogram
from earsight.features.stft import Banded
from earsight.onnx.dft import FRAMES_AT_A_TIME, MatrixDft, split_points, with_matrix_dft
from earsight.recipe import load_recipe


def _features(*assignments: str, rate: int = 22050, seconds: float = 1.0, bands: int = 64):
    chosen = [f"features.bands={bands}", *(f"features.{assignment}" for assignment in assignments)]
    recipe = load_recipe(overrides=chosen)
    return recipe.resolve(sample_rate_hz=rate, clip_seconds=seconds, frames=50).features


def _waves(samples: int) -> torch.Tensor:
    """Noise, silence, a loud tone over faint noise (silent bands beside a loud one), a click."""
    draw = np.random.default_rng(0)
    noise = draw.normal(0, 0.2, samples)
    tone = np.sin(0.3 * np.arange(samples)) + 1e-6 * noise
    click = np.zeros(samples)
    click[samples // 3] = 1
    return torch.from_numpy(np.stack([noise, np.zeros(samples), tone, click]).astype(np.float32))


ONE = ("windows_ms=[25]", "hops_ms=[10]")


@pytest.mark.parametrize(
    ("assignments", "rate"),
    [
        ((), 22050),  # 2205 points: odd
        ((), 44100),
        ((), 16000),
        (("representation=mfcc",), 22050),
        (("representation=gammatone",), 22050),
        (("representation=log_spectrogram",), 22050),
        (ONE, 22050),
        (("fft_ms=100.1",), 11030),  # 1104 points; and hops that are no whole number of samples
        (("fft_ms=109",), 10000),  # 1090 = 2 * 5 * 109
        (("windows_ms=[50]", "hops_ms=[10]", "fft_ms=50.35"), 20000),  # 1007 = 19 * 53
        (("windows_ms=[50]", "hops_ms=[10]", "fft_ms=50.9"), 10000),  # 509: prime
    ],
)
def test_the_same_spectrograms(assignments, rate):
    front_end = Spectrogram(_features(*assignments, rate=rate))
    waves = _waves(rate)
    with torch.inference_mode():
        expected, found = front_end(waves), with_matrix_dft(front_end)(waves)
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 2e-5


def test_frames_beyond_one_turn_and_clips_of_a_few_samples_more():
    for seconds in (0.11, 1.5):
        features = _features(*ONE, rate=8000, seconds=seconds)
        front_end = Spectrogram(features)
        waves = _waves(features.samples)
        with torch.inference_mode():
            assert float((with_matrix_dft(front_end)(waves) - front_end(waves)).abs().max()) < 1e-5
    assert 1 + features.samples // front_end.hop_samples[0] > 2 * FRAMES_AT_A_TIME


def test_the_numbers_are_the_front_ends_own():
    front_end = Spectrogram(_features())
    copied = with_matrix_dft(front_end)
    assert [power.power.points for power in copied.energies] == [power.points for power in front_end.energies]
    assert all(isinstance(power, MatrixDft) for power in copied.energies)
    assert not any(isinstance(power, MatrixDft) for power in front_end.energies)
    front_end.energies[0].window.zero_()
    assert float(copied.energies[0].power.window.abs().max()) > 0.9


@pytest.mark.parametrize(("points", "window"), [(4410, 4410), (4410, 2205), (3200, 1103), (509, 500), (2, 2)])
def test_the_split_with_the_fewest_products(points, window):
    slow, fast = split_points(points, window_samples=window)
    assert slow * fast == points

    def products(fast: int) -> int:
        return (points // fast // 2 + 1) * (2 * -(-window // fast) * fast + 4 * fast**2)

    assert products(fast) == min(products(number) for number in range(1, points + 1) if points % number == 0)


def test_a_banded_matrix_comes_back_whole():
    matrix = np.zeros((7, 12), dtype=np.float32)
    for row, first in enumerate([5, 0, 9, 2, 2, 7, 1]):
        matrix[row, first : first + 3] = row + 1
    matrix[3] = 0
    banded = Banded(matrix, block_rows=2)
    assert torch.equal(banded.matrix(12), torch.from_numpy(matrix.T))
    x = torch.randn(4, 12)
    assert torch.allclose(banded(x), x @ banded.matrix(12), atol=1e-6)
