"""Parts of files: read straight on for many windows, and one by the name that lists have for it."""

import tracemalloc

import numpy as np
import pytest
import soundfile

from earsight.data import audio
from earsight.errors import AudioError

RATE = 44100


@pytest.fixture
def stereo(tmp_path):
    """Twelve seconds of two channels: noise that swells."""
    noise = np.random.default_rng(1).normal(0, 0.1, (12 * RATE, 2)) * np.linspace(0.1, 1, 12 * RATE)[:, None]
    soundfile.write(tmp_path / "a.wav", noise, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "a.flac", noise, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "a.ogg", noise, RATE)
    return tmp_path


SPANS = [(0.0, 2.0), (0.5, 2.5), (1.0, 3.0), (7.25, 9.25), (7.3, 9.3), (10.0, 12.0)]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_at_the_files_rate_parts_are_the_files_samples(stereo, name):
    whole = audio.read(stereo / name, sample_rate_hz=RATE)
    for (begin, end), wave in zip(SPANS, audio.read_parts(stereo / name, SPANS, sample_rate_hz=RATE), strict=True):
        assert np.array_equal(wave, whole[round(begin * RATE) : round(begin * RATE) + round((end - begin) * RATE)])


@pytest.mark.parametrize("rate", [22050, 16000, 48000])
def test_at_another_rate_parts_lie_on_the_whole_sounds_grid(stereo, rate):
    whole = audio.read(stereo / "a.wav", sample_rate_hz=rate)
    for (begin, end), wave in zip(SPANS, audio.read_parts(stereo / "a.wav", SPANS, sample_rate_hz=rate), strict=True):
        wanted = whole[round(begin * rate) : round(begin * rate) + round((end - begin) * rate)]
        assert np.abs(wave - wanted).max() < 1e-5


def test_a_part_has_the_same_bits_whichever_others_are_read(stereo):
    together = list(audio.read_parts(stereo / "a.flac", SPANS, sample_rate_hz=16000))
    for span, wave in zip(SPANS, together, strict=True):
        assert np.array_equal(wave, next(audio.read_parts(stereo / "a.flac", [span], sample_rate_hz=16000)))


def test_channels_are_chosen_as_of_whole_files(stereo):
    for channel in ("left", 2, "loudest"):
        whole = audio.read(stereo / "a.wav", sample_rate_hz=RATE, channel=channel)
        wave = next(audio.read_parts(stereo / "a.wav", [(3.0, 4.0)], sample_rate_hz=RATE, channel=channel))
        assert np.array_equal(wave, whole[3 * RATE : 4 * RATE])


def test_gaps_are_passed_by_seeks_where_they_are_exact(stereo, monkeypatch):
    read = []
    observe = lambda block, rate: read.append(len(block))  # noqa: E731
    list(audio.read_parts(stereo / "a.wav", [(0.0, 1.0), (11.0, 12.0)], sample_rate_hz=RATE, observe=observe))
    assert sum(read) <= 7 * RATE


def test_a_part_beyond_the_end_is_named(stereo):
    with pytest.raises(AudioError, match=r"ends after 12.00 s, and a part is from 12.5 to 13 s; mend its boxes"):
        list(audio.read_parts(stereo / "a.wav", [(11.0, 12.0), (12.5, 13.0)], sample_rate_hz=16000))


def test_of_a_cut_file_the_parts_before_the_cut_are_read(stereo):
    raw = (stereo / "a.wav").read_bytes()
    (stereo / "cut.wav").write_bytes(raw[: len(raw) // 2])
    parts = audio.read_parts(stereo / "cut.wav", [(1.0, 3.0), (5.0, 7.0)], sample_rate_hz=RATE)
    assert len(next(parts)) == 2 * RATE
    with pytest.raises(AudioError, match="truncated"):
        next(parts)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("cut", [False, True])
def test_damage_behind_what_is_asked_for_is_passed_over(stereo, name, cut):
    raw = bytearray((stereo / name).read_bytes())
    at = len(raw) * 3 // 4
    (stereo / name).write_bytes(raw[:at] if cut else raw[:at] + bytes(2000) + raw[at + 2000 :])
    parts = list(audio.read_parts(stereo / name, [(0.0, 2.0), (4.0, 6.0)], sample_rate_hz=16000))
    assert list(map(len, parts)) == [32000, 32000]
    told = []
    excuse = lambda reason, seconds: told.append((reason, seconds))  # noqa: E731
    assert len(audio.read(stereo / name, sample_rate_hz=16000, seconds=2)) == 32000
    assert len(audio.read(stereo / name, sample_rate_hz=16000, seconds=2, excuse=excuse)) == 32000
    assert not told
    if cut or name != "a.wav":  # changed samples of PCM show nowhere
        wave = audio.read(stereo / name, sample_rate_hz=RATE, excuse=excuse)
        assert len(told) == 1
        assert told[0][1] == len(wave) / RATE < 12
        told.clear()
        *_, (begin, window) = audio.read_windows(stereo / name, sample_rate_hz=RATE, seconds=2, excuse=excuse)
        assert len(told) == 1
        assert told[0][1] == (begin + len(window)) / RATE
        for begin in (7.5, 11.0) if cut else (7.5,):  # the second is a seek behind the cut
            with pytest.raises(AudioError, match=r"truncated|damaged"):
                list(audio.read_parts(stereo / name, [(0.0, 2.0), (begin, 12.0)], sample_rate_hz=16000))


def test_a_wav_whose_format_has_no_bytes_is_named(stereo):
    raw = (stereo / "a.wav").read_bytes()
    (stereo / "a.wav").write_bytes(raw[:16] + bytes(4) + raw[20:])
    with pytest.raises(AudioError):
        audio.info(stereo / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_part_by_its_name(stereo, name):
    whole = audio.read(stereo / name, sample_rate_hz=RATE)
    path = stereo / f"{name}@2.500-4.000"
    assert np.array_equal(audio.read(path, sample_rate_hz=RATE), whole[round(2.5 * RATE) : 4 * RATE])
    assert audio.info(path).seconds == 1.5
    assert [begin for begin, _ in audio.read_windows(path, sample_rate_hz=RATE, seconds=0.5)] == [0, 22050, 44100]
    assert audio.file_of(path) == stereo / name


def test_a_file_of_such_a_name_is_itself(stereo):
    (stereo / "a.wav").rename(stereo / "b.wav@0.000-1.000")
    assert audio.info(stereo / "b.wav@0.000-1.000").seconds == 12
    with pytest.raises(AudioError, match="no such file"):
        audio.info(stereo / "c.wav@0.000-1.000")


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Of Vorbis, which is read straight on, for a seek in it is not exact."""
    peaks = []
    for seconds in (480, 1440):
        path = tmp_path / f"{seconds}.ogg"
        with soundfile.SoundFile(path, "w", 8000, 1) as file:
            for _ in range(seconds // 10):
                file.write(np.random.default_rng(seconds).normal(0, 0.1, 80000))
        spans = [(begin, begin + 2.0) for begin in np.linspace(0, seconds - 2, 20).tolist()]
        tracemalloc.start()
        assert [len(wave) for wave in audio.read_parts(path, spans, sample_rate_hz=8000)] == [16000] * 20
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # How blocks and parts lie to each other makes some of the difference; whole sounds are 15 and 46 MB.
    assert peaks[1] < 1.1 * peaks[0] < 5e6
