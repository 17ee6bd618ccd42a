"""Background added to examples: sums of powers held against mixed waves, and the draws of what is added to what."""

import numpy as np
import pytest
import torch

from earsight.features.augment import add_background, draw
from earsight.features.filterbanks import LOG_OFFSET
from earsight.features.spectrogram import Spectrogram
from earsight.recipe import Augment, Features, Recipe

FEATURES = Features(sample_rate_hz=16000, clip_seconds=2.0, frames=100)
AUGMENT = Augment(background=0.6, background_snr_db=(-3.0, 9.0))


def level(logs):
    """Energy over all windows, bands and frames."""
    return (torch.exp(logs.double()) - LOG_OFFSET).sum(dim=(1, 2, 3))


def waves(count=24):
    """Chirps with silence around them, and pink noise."""
    generator, time = np.random.default_rng(5), np.arange(32000) / 16000
    calls, noises = [], []
    for _ in range(count):
        low, high, begin = generator.uniform(300, 1500), generator.uniform(2000, 6000), generator.uniform(0, 1)
        call = np.sin(2 * np.pi * np.cumsum(low + (high - low) * time / 2) / 16000)
        calls.append(call * ((time > begin) & (time < begin + 0.8)) * generator.uniform(0.01, 0.5))
        spectrum = np.fft.rfft(generator.standard_normal(32000)) / np.sqrt(np.arange(16001) + 8.0)
        noise = np.fft.irfft(spectrum, 32000)
        noises.append(noise / np.sqrt(np.mean(noise**2)) * generator.uniform(0.001, 0.1))
    return tuple(torch.tensor(np.array(one), dtype=torch.float32) for one in (calls, noises))


def test_summed_powers_are_mixed_waves_but_for_the_cross_term():
    """Of 24 chirps in pink noise at -5 to 15 dB the mean cell is off by 0.1 dB or less, a single one by some 2 dB.

    What is compared: the log-mel of the mixed wave, and the sum. The means over a band agree better than single cells,
    whose cross term has no mean but a spread.
    """
    calls, noises = waves()
    front_end = Spectrogram(FEATURES)
    snr = torch.linspace(-5, 15, len(calls), dtype=torch.float64)
    one, other = (front_end.spectrograms(wave)[:, 0] for wave in (calls, noises))
    found = add_background(one, other, snr)
    gain = (level(one) / level(other) * 10 ** (-snr / 10)).sqrt().float()
    mixed = front_end.spectrograms(calls + gain[:, None] * noises)[:, 0]
    off = 10 / np.log(10) * (found - mixed).double()
    assert abs(float(off.mean())) < 0.35
    assert float(off.std()) < 2.5
    power = [level(logs) for logs in (found, mixed)]
    assert float((10 * torch.log10(power[0] / power[1])).abs().max()) < 0.5


def test_the_ratio_is_the_one_that_is_asked_for():
    calls, noises = waves(4)
    front_end = Spectrogram(FEATURES)
    one, other = (front_end.spectrograms(wave)[:, 0] for wave in (calls, noises))
    for asked in (-6.0, 0.0, 12.0):
        found = add_background(one, other, torch.full((4,), asked, dtype=torch.float64))
        ratio = 10 * torch.log10(level(one) / (level(found) - level(one)))
        assert ratio.numpy() == pytest.approx(asked, abs=0.01)


def test_silence_adds_nothing_and_gets_nothing():
    calls, noises = waves(2)
    front_end, nothing = Spectrogram(FEATURES), torch.zeros(2, 32000)
    one, other, silent = (front_end.spectrograms(wave)[:, 0] for wave in (calls, noises, nothing))
    snr = torch.zeros(2, dtype=torch.float64)
    assert torch.allclose(add_background(one, silent, snr), one, atol=1e-5)
    assert torch.allclose(add_background(silent, other, snr), silent, atol=1e-5)


def test_what_is_drawn():
    generator = np.random.default_rng(0)
    drawn = draw(AUGMENT, batch=4000, generator=generator, backgrounds=np.array([7, 9, 11]))
    noisy = drawn.background >= 0
    assert noisy.mean() == pytest.approx(0.6, abs=0.03)
    assert set(drawn.background.tolist()) == {-1, 7, 9, 11}
    assert -3 <= drawn.snr.min() < -2.9
    assert 8.9 < drawn.snr.max() <= 9
    kept = np.arange(4000) % 2 == 0
    drawn = draw(AUGMENT, batch=4000, generator=generator, backgrounds=np.array([7]), kept=kept)
    assert not (drawn.background[kept] >= 0).any()


def test_nothing_is_drawn_where_it_is_off():
    """Older runs go on with the bits that they had."""
    plain, other = np.random.default_rng(3), np.random.default_rng(3)
    one = draw(Augment(), batch=8, generator=plain, backgrounds=np.array([1]))
    two = draw(AUGMENT, batch=8, generator=other)
    assert one.background is two.background is None
    assert plain.random() == other.random()


def test_recipes_without_it_keep_their_digest():
    assert Recipe().digest == Recipe(augment=Augment(background=0.0)).digest
    assert Recipe(augment=AUGMENT).digest != Recipe(augment=Augment(background=0.6)).digest != Recipe().digest
    with pytest.raises(ValueError, match="background_snr_db is"):
        Augment(background_snr_db=(5.0, 1.0))
