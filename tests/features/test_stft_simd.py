"""Sixteen frames at once against the FFT of NumPy, and what the kernel must leave alone."""

import copy
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.features import stft
from earsight.features.spectrogram import Spectrogram
from earsight.features.stft import LARGEST_RADIX, SHORTEST, BandEnergies, SimdStft, radices, simd_stft
from earsight.kernels.runtime import power_kernel
from earsight.onnx.dft import with_matrix_dft
from earsight.recipe import Features


def band_power(points, window, hop, *, bank=None):
    """A power whose FFT is that long, whatever the window: every bin is a row, unless there is a bank."""
    bins = points // 2 + 1
    every = np.eye(bins, dtype=np.float32) if bank is None else bank
    return BandEnergies(every, window_samples=window, hop_samples=hop, fft_points=points)


def expected(wave, points, window, hop, columns):
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    first = (points - window) // 2
    wave = np.append(wave, 0)  # an odd FFT may need one sample more
    frames = [wave[first + t * hop : first + t * hop + window] * shape for t in range(columns)]
    return np.abs(np.fft.rfft(np.array(frames, dtype=np.float64), points)) ** 2


@pytest.mark.parametrize(
    ("points", "window"),
    [
        (4410, 4410),
        (4410, 3400),
        (3200, 2900),
        (2205, 2205),
        (2205, 1700),
        (441, 441),
        (210, 200),
        (1024, 800),
        (10, 8),
    ],
)
@pytest.mark.parametrize("columns", [1, 16, 19])
def test_powers_are_those_of_numpys_fft(points, window, columns):
    hop = max(1, points // 3)
    module = simd_stft(band_power(points, window, hop))
    assert isinstance(module, SimdStft)
    assert module.power.points == points
    generator = np.random.default_rng(points + window + columns)
    samples = (columns - 1) * hop + points // 2 * 2
    waves = generator.standard_normal((2, samples)).astype(np.float32)
    waves[1, : samples // 2] *= 1e-4  # faint frames, and loud ones beside them in the same vectors
    found = module(torch.from_numpy(waves)).numpy()
    for wave, ours in zip(waves, found, strict=True):
        wanted = expected(wave.astype(np.float64), points, window, hop, ours.shape[0])
        # Rounded once to float32; what a bin lacks of the loudest is rounding of the transform itself.
        np.testing.assert_allclose(ours, wanted, rtol=2e-6, atol=1e-20 * wanted.max())


@pytest.mark.parametrize(("points", "window"), [(4410, 4410), (3200, 2900), (441, 441), (10, 8)])
@pytest.mark.parametrize("columns", [1, 32, 45])
def test_in_float32_powers_are_within_its_rounding_of_the_loudest(points, window, columns):
    """Two frames share a complex transform, so that a faint one has the rounding of a loud one too."""
    hop = max(1, points // 3)
    bank = np.eye(points // 2 + 1, dtype=np.float32)
    power = BandEnergies(bank, window_samples=window, hop_samples=hop, fft_points=points, dtype=torch.float32)
    module = simd_stft(power)
    assert isinstance(module, SimdStft)
    generator = np.random.default_rng(points + window + columns)
    wave = generator.standard_normal((columns - 1) * hop + points // 2 * 2).astype(np.float32)
    wave[: len(wave) // 2] *= 1e-4  # faint frames, and loud ones beside them in the same vectors
    found = module(torch.from_numpy(wave[None]))[0].numpy()
    wanted = expected(wave.astype(np.float64), points, window, hop, columns)
    assert np.abs(np.sqrt(found) - np.sqrt(wanted)).max() <= 1e-6 * np.sqrt(wanted.mean(axis=1).max())


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([160, 252, 441, 500]), st.sampled_from([torch.float64, torch.float32]), st.data())
def test_any_window_hop_and_bank(points, dtype, data):
    window = data.draw(st.integers(SHORTEST, points))
    hop = data.draw(st.integers(1, points))
    columns = data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    bank = generator.random((5, points // 2 + 1), dtype=np.float32)
    bank[generator.random(bank.shape) < 0.3] = 0
    bank[1], bank[2, 9:] = 0, 0
    power = BandEnergies(bank, window_samples=window, hop_samples=hop, fft_points=points, dtype=dtype)
    waves = torch.from_numpy(generator.standard_normal((3, points // 2 * 2 + (columns - 1) * hop)).astype(np.float32))
    fast = simd_stft(power)
    assert isinstance(fast, SimdStft) == (radices(power.points) is not None)
    found, plain = fast(waves), power(waves)
    assert found.shape == plain.shape == (3, columns, 5)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5 * float(plain.max()))


@pytest.mark.parametrize("points", [882, 441])
def test_nothing_beyond_the_wave_is_read(points):
    """The last window ends with the wave, or one sample later where the FFT is odd: what lies there must not matter."""
    hop, columns = 147, 18
    module = simd_stft(band_power(points, points, hop))
    length = points // 2 * 2 + (columns - 1) * hop
    room = torch.full((length + 512,), torch.nan)
    room[256 : 256 + length] = torch.randn(length, generator=torch.Generator().manual_seed(0))
    found = module(room[256 : 256 + length][None])
    assert found.shape == (1, columns, points // 2 + 1)
    torch.testing.assert_close(found, module.power(room[256 : 256 + length][None]), rtol=1e-4, atol=1e-6)


def test_a_front_end_that_was_moved_or_converted_computes_as_before():
    front_end = Spectrogram(Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)).use_kernels()
    waves = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    power = front_end.kernels[0]
    before = power(F.pad(waves, (400, 400)))
    again = copy.deepcopy(front_end).half().kernels[0](F.pad(waves, (400, 400)))
    assert torch.equal(again, before)


def test_a_power_that_was_converted_before_is_read_as_what_the_kernel_needs():
    waves = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    wanted = simd_stft(band_power(160, 150, 40))(waves)
    assert torch.equal(simd_stft(band_power(160, 150, 40).double())(waves), wanted)


def test_waves_shorter_than_an_fft_are_left_to_torch():
    power = band_power(160, 150, 40)
    with pytest.raises(RuntimeError):
        power(torch.zeros(1, 100))
    with pytest.raises(RuntimeError):
        simd_stft(power)(torch.zeros(1, 100))


def test_products_replace_kernels_too():
    front_end = Spectrogram(Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)).use_kernels()
    assert with_matrix_dft(front_end).kernels is None


def test_kernels_read_no_memory_that_was_given_back():
    """Freed memory is filled at once, so that whatever reads it shows."""
    program = (
        "import numpy as np, torch\n"
        "from earsight.features.stft import simd_stft\n"
        "from earsight.features.stft import BandEnergies\n"
        "power = BandEnergies(np.eye(9, dtype=np.float32), window_samples=16, hop_samples=4, fft_points=16)\n"
        "waves = torch.randn(2, 200, generator=torch.Generator().manual_seed(0))\n"
        "torch.testing.assert_close(simd_stft(power)(waves), power(waves), rtol=1e-4, atol=1e-4)"
    )
    settings = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0", "MALLOC_PERTURB_": "165"}
    subprocess.run([sys.executable, "-c", program], env=os.environ | settings, check=True)


def test_a_frame_is_the_same_wherever_it_stands():
    module = simd_stft(band_power(800, 640, 100))
    wave = torch.randn(1, 800 + 100 * 40, generator=torch.Generator().manual_seed(0))
    whole = module(wave)[0]
    assert len(whole) > 32
    for first in (1, 7, 16, 25):
        assert torch.allclose(module(wave[:, 100 * first :])[0], whole[first:], rtol=2e-6, atol=0)
    both = torch.cat([wave, wave.flip(1)])
    assert torch.equal(module(both)[0], whole)


PRODUCTS = {a * b * c * d for a, b, c, d in itertools.combinations_with_replacement(range(1, LARGEST_RADIX + 1), 4)}


@given(st.integers(1, 20_000) | st.sampled_from(sorted(PRODUCTS)))
def test_radices_are_factors(points):
    four = radices(points)
    assert (four is not None) == (points in PRODUCTS)
    if four is not None:
        assert len(four) == 4
        assert np.prod(four) == points
        assert max(four) <= LARGEST_RADIX


def test_the_default_front_ends_sizes_have_kernels(monkeypatch):
    """Which are compiled for the first and the last alone: that takes half a second each."""
    for rate in (8000, 96000, 16000, 22050, 24000, 32000, 44100, 48000):
        if rate == 16000:
            monkeypatch.setattr(stft, "power_kernel", lambda *_: len)
        front_end = Spectrogram(Features(sample_rate_hz=rate, clip_seconds=1.0, frames=50)).use_kernels()
        assert all(isinstance(power, SimdStft) for power in front_end.kernels), rate


def test_sizes_without_a_kernel_are_left_to_torch():
    for power in (
        band_power(1102, 1000, 100),  # 19 and 29
        band_power(20, 7, 3),  # too short a window
        band_power(160, 150, 40).to("meta"),  # on another device
        BandEnergies(
            np.eye(81, dtype=np.float32), window_samples=150, hop_samples=9, fft_points=160, dtype=torch.bfloat16
        ),
    ):
        assert simd_stft(power) is power


def test_gradients_are_left_to_torch():
    power = band_power(160, 150, 40)
    module = simd_stft(power)
    waves = torch.randn(2, 400, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = module(waves)
    assert torch.equal(found, power(waves))
    found.sum().backward()
    assert waves.grad is not None
    assert waves.grad.abs().max() > 0


def test_without_numba_all_is_as_before(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba.core", None)
    assert power_kernel.__wrapped__((2, 2, 2, 2), 2) is None
    monkeypatch.setattr(stft, "power_kernel", power_kernel.__wrapped__)
    front_end = Spectrogram(Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32))
    waves = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    plain = front_end.spectrograms(waves)
    assert torch.equal(copy.copy(front_end).use_kernels().spectrograms(waves), plain)


def test_where_nothing_can_be_written_it_is_compiled_every_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EARSIGHT_CACHE", str(tmp_path / "file"))
    kernel = power_kernel.__wrapped__((2, 2, 2, 2), 2)
    assert type(kernel._cache).__name__ == "NullCache"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_kernels_have_a_folder_each_whatever_numba_was_told(tmp_path, monkeypatch):
    """Numba numbers the kernels of a folder, and two processes at once could give one number twice."""
    monkeypatch.setenv("EARSIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr("numba.core.config.CACHE_DIR", "/nowhere")
    for four in ((2, 2, 2, 2), (3, 2, 2, 2)):
        power_kernel.__wrapped__(four, 2)
    assert sorted(path.parent.name for path in tmp_path.rglob("*.nbi")) == ["2-2-2-2-2-8", "3-2-2-2-2-8"]


def test_a_kernel_is_made_once():
    assert power_kernel((2, 2, 2, 2), 2) is power_kernel((2, 2, 2, 2), 2)
