"""Each representation against an oracle of its own: librosa, torch's resize, SciPy, and gammatones in time."""

from typing import get_args

import librosa
import make_golden
import numpy as np
import pytest
import scipy.integrate
import scipy.signal
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.data import audio
from earsight.features.filterbanks import (
    FLOOR,
    REPRESENTATIONS,
    cosine_basis,
    erb_width_hz,
    erbs_to_hz,
    gammatone_filterbank,
    hz_to_erbs,
    hz_to_mel,
    linear_filterbank,
    mel_filterbank,
    mel_to_hz,
)
from earsight.features.spectrogram import Spectrogram, silence
from earsight.features.store import encode
from earsight.recipe import Features

SMALL = Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)
REAL = Features(sample_rate_hz=44100, clip_seconds=5.0, frames=250)
NAMES = list(REPRESENTATIONS)
each = pytest.mark.parametrize("name", NAMES)


def showing(name, features=SMALL):
    return features.model_copy(update={"representation": name})


def test_the_recipes_names_are_those_there_are():
    assert set(get_args(Features.model_fields["representation"].annotation)) == set(NAMES)


# Oracles that share nothing with the code: each takes a wave and gives (bands, columns) before the resize in time.


def librosa_power(wave, features, window):
    spectrum = librosa.stft(
        y=np.asarray(wave, dtype=np.float64),
        n_fft=round(features.fft_ms * features.rate / 1000),
        hop_length=round(features.hops_ms[window] * features.rate / 1000),
        win_length=round(features.windows_ms[window] * features.rate / 1000),
        window="hann",
        center=True,
        pad_mode="reflect",
        dtype=np.complex128,
    )
    return np.abs(spectrum) ** 2


def log_mel(wave, features, window):
    return make_golden.librosa_log_mels(
        wave,
        rate=features.rate,
        window_ms=features.windows_ms[window],
        hop_ms=features.hops_ms[window],
        fft_ms=features.fft_ms,
        bands=features.bands,
    )


def log_spectrogram(wave, features, window):
    power = torch.from_numpy(librosa_power(wave, features, window))[None, None]
    pooled = F.interpolate(power, (features.bands, power.shape[3]), mode="bilinear", antialias=True)
    return np.log(pooled[0, 0].numpy() + 1e-6)


def mfcc(wave, features, window):
    return librosa.feature.mfcc(
        S=log_mel(wave, features, window), n_mfcc=features.bands, dct_type=2, norm="ortho", lifter=0
    )


def gammatones_in_time(features):
    """Power responses (bands, bins) from impulse responses, sampled finely enough that nothing folds back."""
    points, finer = round(features.fft_ms * features.rate / 1000), 16
    seconds = 0.4  # the slowest filter has long died away
    time = np.arange(round(seconds * finer * features.rate)) / (finer * features.rate)
    top = 21.4 * np.log10(1 + 0.00437 * features.rate / 2)
    rows = []
    for band in range(features.bands):
        centre = (10 ** (top * (band + 1) / (features.bands + 1) / 21.4) - 1) / 0.00437
        decay = 1.019 * 24.7 * (4.37 * centre / 1000 + 1)
        wave = time**3 * np.exp(-2 * np.pi * decay * time) * np.cos(2 * np.pi * centre * time)
        power = np.abs(np.fft.rfft(wave)) ** 2
        peak = abs(np.sum(wave * np.exp(-2j * np.pi * centre * time))) ** 2
        hz = np.fft.rfftfreq(len(time), 1 / (finer * features.rate))
        places = np.round(np.arange(points // 2 + 1) * features.rate / points * seconds).astype(int)
        np.testing.assert_allclose(hz[places], np.arange(points // 2 + 1) * features.rate / points, atol=1e-6)
        rows.append(power[places] / peak)
    return np.stack(rows)


def gammatone(wave, features, window, bank={}):  # noqa: B006  one bank for all waves
    if features not in bank:
        bank[features] = gammatones_in_time(features)
    return np.log(bank[features] @ librosa_power(wave, features, window) + 1e-6)


ORACLES = {"log_mel": log_mel, "log_spectrogram": log_spectrogram, "mfcc": mfcc, "gammatone": gammatone}


def largest_difference(name, features, waves):
    front_end = Spectrogram(features)
    worst = 0.0
    for wave in waves:
        for window in range(3):
            ours = front_end.finish(
                front_end.log_bands(front_end.reflected(torch.from_numpy(wave)[None]), window=window)
            )[0, 0].numpy()
            theirs = ORACLES[name](wave, features, window)
            assert ours.shape == theirs.shape
            worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst


@each
def test_spectrograms_are_the_oracles(name):
    assert largest_difference(name, showing(name), make_golden.waves().astype(np.float32) / 32768) < 1e-3


@pytest.mark.real_audio
@each
def test_spectrograms_are_the_oracles_on_real_clips(name, real_clips):
    waves = [audio.fit(audio.read(path, sample_rate_hz=44100), REAL.samples) for path in real_clips[::4]]
    assert largest_difference(name, showing(name, REAL), waves) < 1e-3


# The banks themselves


@pytest.mark.parametrize(("rate", "points", "bands"), [(8000, 800, 32), (22050, 2205, 128), (44100, 4410, 128)])
def test_mel_bank_is_librosas(rate, points, bands):
    theirs = librosa.filters.mel(sr=rate, n_fft=points, n_mels=bands, htk=True, norm=None, dtype=np.float64)
    np.testing.assert_allclose(mel_filterbank(sample_rate_hz=rate, fft_points=points, bands=bands), theirs, atol=2e-7)


@given(st.floats(0, 1e5))
def test_mel_scale_is_librosas_and_has_an_inverse(hz):
    assert hz_to_mel(hz) == pytest.approx(librosa.hz_to_mel(hz, htk=True))
    assert mel_to_hz(hz_to_mel(hz)) == pytest.approx(hz, abs=1e-6)


@pytest.mark.parametrize(("points", "bands"), [(4410, 128), (2205, 100), (256, 129), (80, 128), (61, 8)])
def test_linear_bank_is_torchs_resize(points, bands):
    power = torch.rand(1, 1, points // 2 + 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = F.interpolate(power, (bands, 5), mode="bilinear", antialias=True)[0, 0].numpy()
    ours = linear_filterbank(sample_rate_hz=8000, fft_points=points, bands=bands) @ power[0, 0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_gammatone_bank_is_that_of_the_impulse_responses():
    ours = gammatone_filterbank(sample_rate_hz=8000, fft_points=800, bands=32)
    np.testing.assert_allclose(ours, gammatones_in_time(SMALL), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("band", [10, 20, 30])
def test_gammatone_bank_is_scipys(band):
    # SciPy's filters come from the same papers by another way: taps of the impulse response, at the centre's own scale.
    centre = float(erbs_to_hz(hz_to_erbs(8000) * (band + 1) / 33))
    taps, _ = scipy.signal.gammatone(centre, "fir", order=4, numtaps=4000, fs=64000)
    hz = np.arange(401) * 20.0
    _, response = scipy.signal.freqz(taps, worN=np.append(hz, centre), fs=64000)
    theirs = np.abs(response[:-1]) ** 2 / np.abs(response[-1]) ** 2
    ours = gammatone_filterbank(sample_rate_hz=16000, fft_points=800, bands=32)[band]
    np.testing.assert_allclose(ours, theirs, rtol=5e-3, atol=1e-6)


@given(st.floats(0, 24000))
def test_erbs_are_glasberg_and_moores(hz):
    assert erbs_to_hz(hz_to_erbs(hz)) == pytest.approx(hz, abs=1e-6)
    # The number of ERBs is the integral of 1 / ERB; their rounded constants agree to 0.3 %.
    integral, _ = scipy.integrate.quad(lambda f: 1 / erb_width_hz(f), 0, hz, limit=200)
    assert hz_to_erbs(hz) == pytest.approx(integral, rel=4e-3, abs=1e-9)


def test_erbs_at_one_kilohertz():
    assert erb_width_hz(1000) == pytest.approx(132.639)
    assert hz_to_erbs(1000) == pytest.approx(15.6214, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([*NAMES]), st.floats(-6, 6), st.integers(0, 50))
def test_a_shifted_bank_sees_a_tone_where_the_shifted_tone_would_be(name, semitones, place):
    bank = REPRESENTATIONS[name].bank
    # The plain bank over a grid so fine that the shifted frequency has a bin of its own.
    fine = bank(sample_rate_hz=8000, fft_points=80000, bands=16)
    shifted = bank(sample_rate_hz=8000, fft_points=80000, bands=16, semitones=semitones)
    here = 2000 + 200 * place
    there = round(here * 2 ** (semitones / 12))
    scale = fine.max(axis=1)  # rows of the linear bank are means
    np.testing.assert_allclose(shifted[:, here] / scale, fine[:, there] / scale, atol=2e-3)


@each
@pytest.mark.parametrize("semitones", [-2.0, 0.0, 1.0, 6.0])
def test_banks_weigh_nothing_below_zero_or_beyond_half_the_rate(name, semitones):
    bank = REPRESENTATIONS[name].bank(sample_rate_hz=8000, fft_points=800, bands=32, semitones=semitones)
    assert (bank.shape, bank.dtype) == ((32, 401), np.float32)
    assert bank.min() >= 0
    warped = np.arange(401) * 10 * 2 ** (semitones / 12)
    assert (bank[:, warped > 4000] == 0).all()
    assert (bank[:, (warped > 10) & (warped < 3990)].max(axis=0) > 0).all()
    # Low rows are at low frequencies, in order; where a shift downwards leaves the top empty, nothing is left to order.
    filled = bank.max(axis=1) > 0.01 * bank.max()
    assert (np.diff(bank[filled].argmax(axis=1)) >= 0).all()


@pytest.mark.parametrize("bands", [8, 32, 128, 1024])
def test_the_cosine_basis_turns_and_does_not_stretch(bands):
    basis = cosine_basis(bands).astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(bands), atol=1e-6)
    ramp = np.random.default_rng(0).normal(size=(bands, 3))
    np.testing.assert_allclose(basis @ ramp, scipy.fft.dct(ramp, axis=0, norm="ortho"), atol=1e-5)


# What training rests on


@each
def test_silence_is_the_spectrogram_of_a_silent_wave(name):
    spectrograms = Spectrogram(showing(name)).spectrograms(torch.zeros(1, SMALL.samples))[0, 0]
    rows = silence(showing(name))
    torch.testing.assert_close(spectrograms, rows[None, :, None].expand(3, 32, 32), atol=2e-5, rtol=0)
    assert rows[0] == pytest.approx(FLOOR * (32**0.5 if name == "mfcc" else 1))
    assert rows[1] == pytest.approx(0 if name == "mfcc" else FLOOR, abs=1e-5)


@each
@pytest.mark.parametrize("semitones", [-2.0, 2.0])
def test_pitch_steps_show_the_tone_that_the_shifted_sound_has(name, semitones):
    def tones(factor):
        time = np.arange(SMALL.samples) / SMALL.rate
        wave = sum(0.2 * np.sin(2 * np.pi * factor * hz * time) for hz in (430.0, 910.0, 1730.0))
        return torch.from_numpy(wave.astype(np.float32))[None]

    features = showing(name)
    plain = Spectrogram(features)
    ours = Spectrogram(features, semitones=(semitones,)).spectrograms(tones(1.0)).flatten()
    true = plain.spectrograms(tones(2 ** (semitones / 12))).flatten()
    alike = np.corrcoef(ours, true)[0, 1]
    unshifted = np.corrcoef(plain.spectrograms(tones(1.0)).flatten(), true)[0, 1]
    opposite = np.corrcoef(Spectrogram(features, semitones=(-semitones,)).spectrograms(tones(1.0)).flatten(), true)[
        0, 1
    ]
    assert alike > 0.97
    assert alike > unshifted + 0.02
    assert unshifted > opposite


def reach(features):
    """Waves from silence to full scale, and beyond the middle of nothing."""
    generator = np.random.default_rng(1)
    time = np.arange(features.samples) / features.rate
    loud = np.sign(np.sin(2 * np.pi * 97.0 * time))
    waves = [0 * time, loud, np.sin(2 * np.pi * 1000 * time), generator.uniform(-1, 1, len(time)), 1e-4 * loud]
    half = np.where(time < time[-1] / 2, 0, loud)
    return torch.from_numpy(np.stack([*waves, half]).astype(np.float32))


@each
@pytest.mark.parametrize("features", [SMALL, REAL], ids=["small", "real"])
def test_codes_keep_the_spectrogram_within_a_thousandth(name, features):
    features = showing(name, features)
    front_end, kept = Spectrogram(features), REPRESENTATIONS[name]
    logs = front_end.band_energies(reach(features))
    codes = torch.from_numpy(encode(logs, representation=name))
    again = front_end.finish(codes.float() / kept.steps_per_unit + kept.zero_at)
    torch.testing.assert_close(again, front_end.finish(logs), atol=1e-3, rtol=0)
