"""Recordings piece by piece: the whole file's samples, from wherever one begins, and what is left of a damaged one."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from earsight.data import audio
from earsight.errors import AudioError

RATE = 8000
KINDS = {
    "wav": {"subtype": "PCM_16"},
    "wave": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "rf64": {"format": "RF64", "subtype": "FLOAT"},
    "w64": {"format": "W64", "subtype": "PCM_24"},
    "flac": {},
    "ogg": {},
    "mp3": {},
    "aiff": {"subtype": "ALAW"},
}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(audio, "_VALUES", 3000)


def _written(path, *, seconds=2.3, channels=2, **kind):
    generator = np.random.default_rng(0)
    wave = generator.normal(0, 0.1, (int(seconds * RATE), channels)).clip(-1, 1)
    soundfile.write(path, wave, RATE, **kind)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_pieces_are_the_file_wherever_one_begins(tmp_path, kind, channels):
    path = _written(tmp_path / f"x.{kind}", channels=channels, **KINDS[kind])
    whole = audio.read(path, sample_rate_hz=RATE)
    found = list(audio.pieces(path))
    assert len(found) > 3
    joined = np.concatenate([piece.wave for piece in found])
    np.testing.assert_allclose(joined, whole, atol=1e-6)  # MP3 decoders round by where blocks begin
    assert [piece.first for piece in found] == list(np.cumsum([0, *(len(piece.wave) for piece in found[:-1])]))
    assert {piece.rate_hz for piece in found} == {RATE}
    assert found[0].seconds == pytest.approx(2.3, abs=0.2)
    for begin in (0.25, 1.0, 2.2):
        later = list(audio.pieces(path, begin_seconds=begin))
        assert later[0].first == int(begin * RATE)
        np.testing.assert_array_equal(np.concatenate([p.wave for p in later]), joined[int(begin * RATE) :])


@pytest.mark.parametrize("begin", [2.3, 100.0])
def test_behind_the_end_there_is_nothing(tmp_path, begin):
    for kind in ("wav", "mp3"):
        path = _written(tmp_path / f"x.{kind}", seconds=2.3)
        assert sum(len(piece.wave) for piece in audio.pieces(path, begin_seconds=begin + 0.2)) == 0


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "w64"])
def test_what_can_be_read_of_a_cut_file_comes_before_the_error(tmp_path, kind):
    path = _written(tmp_path / f"x.{kind}", **(KINDS[kind]))
    whole = audio.read(path, sample_rate_hz=RATE)
    (tmp_path / "cut").write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    found = []
    with pytest.raises(AudioError, match="truncated"):
        _gather(audio.pieces(tmp_path / "cut"), found)
    heard = np.concatenate(found)
    assert 0.3 * len(whole) < len(heard) < 0.7 * len(whole)
    np.testing.assert_allclose(heard[:-2304], whole[: len(heard)][:-2304], atol=1e-6)


def _gather(pieces, found):
    for piece in pieces:
        found.append(piece.wave)


def test_a_damaged_place_costs_what_is_behind_it(tmp_path):
    wave = np.full(2 * RATE, 0.1, dtype=np.float32)
    wave[RATE] = np.nan
    soundfile.write(tmp_path / "x.wav", wave, RATE, subtype="FLOAT")
    found = []
    with pytest.raises(AudioError, match="NaN"):
        _gather(audio.pieces(tmp_path / "x.wav"), found)
    assert RATE - 3000 <= sum(map(len, found)) <= RATE


def test_no_sound_at_all(tmp_path):
    (tmp_path / "x.wav").write_text("hello")
    with pytest.raises(AudioError, match="a text file"):
        list(audio.pieces(tmp_path / "x.wav"))
    with pytest.raises(AudioError, match="no such file"):
        list(audio.pieces(tmp_path / "y.wav"))


def test_a_piece_resampled_is_the_whole_resampled_but_for_its_edges(tmp_path):
    """What a window hears of a recording at another rate is what the whole file resampled has there."""
    generator = np.random.default_rng(1)
    wave = generator.normal(0, 0.1, 48000 * 6).astype(np.float32)
    whole = audio.resampled(wave, rate_hz=48000, sample_rate_hz=44100)
    part = audio.resampled(wave[48000 * 2 : 48000 * 4], rate_hz=48000, sample_rate_hz=44100)
    inner = slice(2205, -2205)
    np.testing.assert_allclose(part[inner], whole[44100 * 2 : 44100 * 4][inner], atol=1e-4)
