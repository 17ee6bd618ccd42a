"""The front end against librosa and torch, and what training and serving rest on."""

import make_golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from earsight.data import audio
from earsight.errors import RecipeError
from earsight.features.filterbanks import FLOOR
from earsight.features.spectrogram import Spectrogram, resize_matrix
from earsight.recipe import Features

SMALL = Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)


def sounds(count=3, *, features=SMALL, seed=0):
    draws = np.random.default_rng(seed).standard_normal((count, features.samples))
    return torch.from_numpy((0.1 * draws).astype(np.float32))


@pytest.mark.real_audio
@pytest.mark.parametrize("compiled", [False, True])
def test_log_mels_are_librosas_on_real_clips(real_clips, compiled):
    features = Features(sample_rate_hz=44100, clip_seconds=5.0, frames=250)
    front_end = Spectrogram(features).use_kernels() if compiled else Spectrogram(features)
    worst = 0.0
    for path in real_clips:
        wave = audio.fit(audio.read(path, sample_rate_hz=44100), features.samples)
        for window, (window_ms, hop_ms) in enumerate(zip(features.windows_ms, features.hops_ms, strict=True)):
            ours = front_end.log_bands(front_end.reflected(torch.from_numpy(wave)[None]), window=window)[0, 0].numpy()
            theirs = make_golden.librosa_log_mels(
                wave, rate=44100, window_ms=window_ms, hop_ms=hop_ms, fft_ms=features.fft_ms, bands=features.bands
            )
            assert ours.shape == theirs.shape
            worst = max(worst, float(np.abs(ours - theirs).max()))
    assert len(real_clips) == 20
    assert worst < 1e-4


def test_log_mels_are_the_golden_ones():
    golden = np.load(make_golden.FILE)
    waves = torch.from_numpy(golden["waves"].astype(np.float32) / 32768)
    front_end = Spectrogram(SMALL)
    for window in range(3):
        ours = front_end.log_bands(front_end.reflected(waves), window=window)[:, 0].numpy()
        np.testing.assert_allclose(ours, golden[f"log_mels{window}"], atol=1e-3, rtol=0)


def test_the_script_still_makes_the_golden_values():
    golden, again = np.load(make_golden.FILE), make_golden.golden()
    assert sorted(golden) == sorted(again)
    for name, values in again.items():
        np.testing.assert_allclose(golden[name], values, atol=1e-5)


@pytest.mark.parametrize(("columns_in", "columns_out"), [(501, 250), (201, 250), (101, 250), (51, 32), (40, 40)])
def test_resize_is_torchs(columns_in, columns_out):
    spectrograms = torch.randn(2, 3, 8, columns_in, generator=torch.Generator().manual_seed(0))
    theirs = F.interpolate(spectrograms, size=(8, columns_out), mode="bilinear", antialias=True)
    torch.testing.assert_close(spectrograms @ resize_matrix(columns_in, columns_out), theirs, atol=1e-5, rtol=0)


def test_views_are_the_resized_log_mels_at_each_pitch():
    front_end = Spectrogram(SMALL, semitones=(-2.0, 0.0, 1.0))
    waves = sounds(2)
    views = front_end.spectrograms(waves)
    assert views.shape == (2, 3, 3, 32, 32)
    for step, semitones in enumerate((-2.0, 0.0, 1.0)):
        alone = Spectrogram(SMALL, semitones=(semitones,))
        for window in range(3):
            expected = F.interpolate(
                alone.log_bands(alone.reflected(waves), window=window), (32, 32), mode="bilinear", antialias=True
            )
            torch.testing.assert_close(views[:, step, window], expected[:, 0], atol=2e-5, rtol=0)


def test_each_wave_may_have_a_pitch_of_its_own():
    front_end = Spectrogram(SMALL, semitones=(-2.0, 0.0, 1.0))
    waves, steps = sounds(4), torch.tensor([2, 0, 0, 1])
    every = front_end.spectrograms(waves)
    picked = front_end.spectrograms(waves, steps=steps)
    assert picked.shape == (4, 1, 3, 32, 32)
    for wave, step in enumerate(steps):
        torch.testing.assert_close(picked[wave, 0], every[wave, step])
    alone = front_end.log_bands(front_end.reflected(waves), window=1, steps=steps)
    torch.testing.assert_close(alone[0, 0], front_end.log_bands(front_end.reflected(waves), window=1)[0, 2])


def test_one_window_is_copied_to_three_channels():
    features = SMALL.model_copy(update={"windows_ms": (25.0,), "hops_ms": (10.0,)})
    waves = sounds()
    spectrograms = Spectrogram(features)(waves)
    assert spectrograms.shape == (3, 3, 32, 32)
    assert torch.equal(spectrograms[:, 0], spectrograms[:, 1])
    assert torch.equal(spectrograms[:, 0], spectrograms[:, 2])
    torch.testing.assert_close(spectrograms[:, 0], Spectrogram(SMALL)(waves)[:, 0])


def test_a_clip_does_not_depend_on_its_batch():
    front_end = Spectrogram(SMALL)
    waves = sounds(5)
    alone = torch.cat([front_end(wave[None]) for wave in waves])
    torch.testing.assert_close(front_end(waves), alone, atol=2e-5, rtol=0)


def test_silence_is_the_floor():
    spectrograms = Spectrogram(SMALL)(torch.zeros(1, SMALL.samples))
    torch.testing.assert_close(spectrograms, torch.full_like(spectrograms, FLOOR), atol=1e-5, rtol=0)


def test_quiet_bands_beside_a_loud_tone_are_not_the_ffts_noise():
    tone = 0.99 * np.sin(2 * np.pi * 1000 * np.arange(SMALL.samples) / 8000)
    ours = (
        Spectrogram(SMALL)
        .log_bands(Spectrogram(SMALL).reflected(torch.from_numpy(tone.astype(np.float32))[None]), window=2)[0, 0]
        .numpy()
    )
    theirs = make_golden.librosa_log_mels(
        tone.astype(np.float32), rate=8000, window_ms=100, hop_ms=50, fft_ms=100, bands=32
    )
    assert np.abs(ours - theirs).max() < 1e-3


def test_gradients_reach_the_wave():
    tiny = Features(
        sample_rate_hz=2000, clip_seconds=0.1, frames=16, bands=8, windows_ms=(10.0,), hops_ms=(10.0,), fft_ms=20.0
    )
    front_end = Spectrogram(tiny).double()
    wave = sounds(1, features=tiny).double().requires_grad_()
    assert torch.autograd.gradcheck(front_end.spectrograms, (wave,), eps=1e-7, atol=1e-4)


def test_a_clip_shorter_than_half_an_fft_is_refused():
    features = Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, fft_ms=1000.0)
    with pytest.raises(RecipeError, match=r"clip_seconds is 0\.5, below half of fft_ms = 1000: set a longer"):
        Spectrogram(features)
    Spectrogram(features.model_copy(update={"clip_seconds": 0.51}))(torch.zeros(1, 4080))


@pytest.mark.parametrize("hop", [1e12, 1e29, 1e308])
def test_hops_beyond_the_clip_have_one_column_however_long_they_are(hop):
    """The longer ones do not fit in an integer of C, or in none at all."""
    once, ever = (SMALL.model_copy(update={"hops_ms": (10.0, 25.0, ms)}) for ms in (2000.0, hop))
    waves = sounds(features=SMALL)
    for kernels in (False, True):
        expected, found = (Spectrogram(features) for features in (once, ever))
        if kernels:
            expected.use_kernels(), found.use_kernels()
        assert found.spectrograms(waves).equal(expected.spectrograms(waves))
