"""Levels, background and activity: against sounds whose edges and statistics are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from earsight.inference.activity import BANDS, FRAME_SECONDS, Activity, frames_of
from earsight.inference.predictions import Frames

RATE = 22050
BAND = (0.0, 11025.0)


def _frames(wave, *, begin=0, covered=0, rate=RATE, band=BAND):
    return frames_of(np.asarray(wave, dtype=np.float32), begin=begin, covered=covered, rate_hz=rate, band_hz=band)


def _activity(wave, **kwargs):
    activity = Activity()
    activity.add(_frames(wave, **kwargs))
    return activity


def _noise(seconds, *, rate=RATE, level=0.01, seed=0):
    return level * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def _tone(seconds, *, hz=1000.0, rate=RATE, level=0.1):
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_levels_are_the_power_in_bands(rate):
    levels = np.frombuffer(_frames(_tone(2.0, rate=rate), rate=rate).levels, dtype=np.uint8).reshape(-1, BANDS)
    assert len(levels) == pytest.approx(2 / FRAME_SECONDS, abs=2)
    # A sine of amplitude 0.1 has a mean square of -23 dB, which lies in one band or two.
    power = (10 ** (np.minimum(levels * 0.5 - 100.0, 0) / 10)).sum(axis=1)
    assert 10 * np.log10(power) == pytest.approx(10 * np.log10(0.005), abs=1.0)
    assert not np.frombuffer(_frames(np.zeros(rate), rate=rate).levels, dtype=np.uint8).any()


@pytest.mark.parametrize(("hop", "rate"), [(0.25, 22050), (0.37, 11025), (1.0, 8000)])
def test_windows_give_each_frame_once(hop, rate):
    wave = _noise(12.0, rate=rate)
    size, whole = 5 * rate, _frames(wave, rate=rate)
    parts, heard, number = [], 0, 0
    while round(number * hop * rate) + size <= len(wave):
        begin = round(number * hop * rate)
        parts.append(_frames(wave[begin : begin + size], begin=begin, covered=heard, rate=rate))
        heard, number = begin + size, number + 1
    firsts = np.cumsum([0, *(len(part.levels) // BANDS for part in parts)])[:-1]
    assert [part.first for part in parts] == list(firsts)
    joined = b"".join(part.levels for part in parts)
    assert joined == whole.levels[: len(joined)]
    assert len(joined) >= len(whole.levels) - BANDS * hop / FRAME_SECONDS


@pytest.mark.parametrize("level", [0.1, 0.001])
@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_steady_noise_is_noise_and_other_sounds_are_none(level, rate):
    band = (0.0, rate / 2)
    for seed in range(5):
        wave = _noise(5.0, rate=rate, level=level, seed=seed)
        assert _activity(wave, rate=rate, band=band).noise(0, 5)
        swelling = wave * (1 + 0.8 * np.sin(2 * np.pi * np.arange(len(wave)) / rate))
        assert not _activity(swelling, rate=rate, band=band).noise(0, 5)
        clicks = wave.copy()
        clicks[:: rate // 2] += 300 * level
        assert not _activity(clicks, rate=rate, band=band).noise(0, 5)
        pink = np.fft.irfft(np.fft.rfft(wave) / np.sqrt(np.arange(1, len(wave) // 2 + 2)), len(wave))
        assert _activity(pink * level / pink.std(), rate=rate, band=band).noise(0, 5)
    assert _activity(np.zeros(5 * rate), rate=rate, band=band).noise(0, 5)
    assert not _activity(_tone(5.0, rate=rate), rate=rate, band=band).noise(0, 5), "a constant tone is a sound"
    assert not _activity(_noise(0.5, rate=rate), rate=rate, band=band).noise(0, 0.5), "too short to tell"


@pytest.mark.parametrize("background", [0.0, 0.001])
def test_active_from_begin_to_end(background):
    wave = np.concatenate([np.zeros(RATE * 11), _tone(2.0), np.zeros(RATE * 7)])
    wave = wave + background * np.random.default_rng(1).standard_normal(len(wave))
    activity = _activity(wave)
    assert activity.known
    ((begin, end),) = activity.active(8.0, 16.0)
    assert (begin, end) == (pytest.approx(11.0, abs=0.04), pytest.approx(13.0, abs=0.04))
    assert activity.active(14.0, 19.0) == []
    assert activity.active(11.5, 12.5) == [(11.5, 12.5)]


def test_pauses_within_a_sound():
    call = np.concatenate([_tone(0.3), np.zeros(RATE // 2)])
    wave = np.concatenate([np.zeros(RATE * 12), call, call, np.zeros(RATE * 2), call, np.zeros(RATE * 3)])
    runs = _activity(wave).active(10.0, 19.0)
    assert runs == [
        (pytest.approx(12.0, abs=0.04), pytest.approx(13.1, abs=0.04)),
        (pytest.approx(15.6, abs=0.04), pytest.approx(15.9, abs=0.04)),
    ]


def test_what_is_kept_is_bounded_and_a_state_goes_on():
    first, second = Activity(), None
    for number in range(900):
        wave = _noise(1.0, seed=number)
        new = _frames(wave, begin=number * RATE, covered=number * RATE)
        first.add(new)
        if number == 450:
            second = Activity(json.loads(json.dumps(first.state())))
        elif second:
            second.add(new)
    assert first.state() == second.state()
    assert len(json.dumps(first.state())) < 60_000


def test_windows_with_gaps_between_them():
    activity = Activity()
    for number in range(20):
        begin = number * 60 * RATE
        activity.add(_frames(_noise(5.0, seed=number), begin=begin, covered=max(0, begin - 55 * RATE)))
    assert activity.known
    assert activity.noise(19 * 60, 19 * 60 + 5)
    assert activity.active(19 * 60, 19 * 60 + 5) == [], "what was not read is no background"
    empty = Activity()
    empty.add(Frames(0, b"", (1.0,) * BANDS))
    assert not empty.noise(0, 5)
    assert empty.active(0, 5) == []
