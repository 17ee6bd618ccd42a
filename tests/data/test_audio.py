import contextlib
import io
import json
import os
import pickle
import socket
import struct
import zipfile

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from earsight.data import audio
from earsight.errors import AudioError, DataError

RATE = 16000
TONE = (0.4 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav_u8": ("WAV", "PCM_U8"),
    "wav_24": ("WAV", "PCM_24"),
    "wav_32": ("WAV", "PCM_32"),
    "wav_float": ("WAV", "FLOAT"),
    "wav_gsm": ("WAV", "GSM610"),
    "wav_adpcm": ("WAV", "MS_ADPCM"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
}


def encoded(kind, wave=TONE, rate=RATE):
    sound_format, subtype = FORMATS[kind]
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=sound_format, subtype=subtype)
    return buffer.getvalue()


def write(path, kind="wav", wave=TONE, rate=RATE):
    path.write_bytes(encoded(kind, wave, rate))
    return path


def reason(path, **kwargs):
    with pytest.raises(AudioError) as caught:
        audio.read(path, **{"sample_rate_hz": RATE, **kwargs})
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("name", ["x.wav", "x.mp3", "x.ogg", "x.raw", "x.flac", "x.txt", "x"])
@pytest.mark.parametrize("kind", FORMATS)
def test_content_decides_and_not_the_extension(tmp_path, kind, name):
    wave = audio.read(write(tmp_path / name, kind), sample_rate_hz=RATE)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    # Block codecs pad their last block; the sound itself must be there, in its place or within a codec's delay.
    assert abs(len(wave) - len(TONE)) <= 1152
    spectrum = np.abs(np.fft.rfft(wave[: len(TONE) - 1152]))
    assert np.argmax(spectrum) * RATE / (len(TONE) - 1152) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(("kind", "step"), [("wav", 2**-15), ("wav_u8", 2**-7), ("wav_24", 2**-23), ("flac", 2**-15)])
def test_lossless_samples_are_kept(tmp_path, kind, step):
    wave = audio.read(write(tmp_path / "x", kind), sample_rate_hz=RATE)
    np.testing.assert_allclose(wave, TONE, atol=1.01 * step)


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([TONE, -0.5 * TONE, 0 * TONE], axis=1)
    wave = audio.read(write(tmp_path / "x.wav", "wav_float", stereo), sample_rate_hz=RATE)
    np.testing.assert_allclose(wave, TONE / 6, atol=1e-6)


@pytest.mark.parametrize("target", [8000, 22050, 44100])
def test_resampling_agrees_with_scipy(tmp_path, target):
    wave = audio.read(write(tmp_path / "x.wav", "wav_float"), sample_rate_hz=target)
    common = np.gcd(target, RATE)
    expected = resample_poly(TONE.astype(np.float64), target // common, RATE // common, window=("kaiser", 12.0))
    assert abs(len(wave) - len(expected)) <= 1
    inner = slice(target // 10, 2 * target - target // 10)
    np.testing.assert_allclose(wave[inner], expected[inner], atol=2e-3)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "opus"])
@pytest.mark.parametrize("target", [RATE, 22050])
def test_first_seconds_are_those_of_the_whole(tmp_path, kind, target):
    noise = np.random.default_rng(0).normal(scale=0.1, size=3 * RATE).astype(np.float32)
    path = write(tmp_path / "x", kind, noise)
    whole = audio.read(path, sample_rate_hz=target)
    part = audio.read(path, sample_rate_hz=target, seconds=1.0)
    assert len(part) == target
    np.testing.assert_allclose(part, whole[:target], atol=1e-6)
    np.testing.assert_array_equal(audio.read(path, sample_rate_hz=target, seconds=60), whole)


def test_seconds_bound_what_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "x.flac", "flac", np.tile(TONE, 30))
    decoded = []
    original = soundfile.SoundFile.buffer_read_into

    def counting(self, buffer, dtype):
        decoded.append(len(buffer))
        return original(self, buffer, dtype)

    monkeypatch.setattr(soundfile.SoundFile, "buffer_read_into", counting)
    audio.read(path, sample_rate_hz=RATE, seconds=1)
    assert sum(decoded) <= 1.5 * RATE


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_blocks_join_to_the_whole(tmp_path, kind, monkeypatch):
    stereo = np.random.default_rng(1).normal(scale=0.1, size=(3 * RATE, 2)).astype(np.float32)
    path = write(tmp_path / "x", kind, stereo)
    whole = np.concatenate([block for block, _ in audio.read_blocks(path)])
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 10000)
    blocks = list(audio.read_blocks(path))
    assert len(blocks) > 5
    assert {rate for _, rate in blocks} == {RATE}
    np.testing.assert_allclose(np.concatenate([block for block, _ in blocks]), whole, atol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_info_reads_the_header(tmp_path, kind):
    found = audio.info(write(tmp_path / "x", kind))
    assert (found.sample_rate_hz, found.channels) == (RATE, 1)
    assert found.seconds == pytest.approx(2, abs=0.08)
    assert found.format in (FORMATS[kind][0], "WAVEX")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50))
def test_fit_crops_or_pads_at_the_end(have, want):
    wave = np.arange(1, have + 1, dtype=np.float32)
    out = audio.fit(wave, want)
    assert out.shape == (want,)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out[:have], wave[:want])
    assert not out[have:].any()
    out[:] = -1
    assert (wave > 0).all()


@pytest.mark.parametrize(
    ("samples", "starts"),
    [(1, [0]), (110, [0]), (111, [0, 11]), (200, [0, 100]), (201, [0, 100, 101]), (350, [0, 100, 200, 250])],
)
def test_windows_of_a_long_sound(samples, starts):
    assert audio.windows(samples, 100) == starts


@given(st.integers(1, 10_000), st.integers(1, 500))
def test_windows_leave_nothing_out_and_hold_no_padding(samples, window):
    starts = audio.windows(samples, window)
    if samples <= 1.1 * window:
        assert starts == [0]
        return
    heard = {place for start in starts for place in range(start, start + window)}
    assert heard == set(range(samples))
    assert len(starts) == -(-samples // window)


@pytest.mark.parametrize("seconds", [0.3, 5.0, 5.2, 5.49, 5.6, 10.0, 12.5, 31.0])
@pytest.mark.parametrize(("kind", "rate", "target"), [("wav", 8000, 8000), ("flac", 11025, 8000), ("ogg", 8000, 11025)])
def test_a_file_comes_in_its_windows(tmp_path, kind, rate, target, seconds):
    wave = np.random.default_rng(1).normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    path = write(tmp_path / "x", kind, wave, rate)
    whole = audio.read(path, sample_rate_hz=target)
    found = list(audio.read_windows(path, sample_rate_hz=target, seconds=5.0))
    assert [start for start, _ in found] == audio.windows(len(whole), 5 * target)
    if len(found) == 1:
        assert np.array_equal(found[0][1], audio.read(path, sample_rate_hz=target, seconds=5.0))
    else:
        for start, window in found:
            assert np.array_equal(window, whole[start : start + 5 * target])


def test_a_short_file_costs_no_more_than_its_first_seconds(tmp_path, monkeypatch):
    """A clip of the window's length is decoded once, in the one block that `read` takes."""
    path = write(tmp_path / "x", "wav", np.full(5 * 8000, 0.1, dtype=np.float32), 8000)
    asked = []
    original = soundfile.SoundFile.buffer_read_into
    monkeypatch.setattr(
        soundfile.SoundFile,
        "buffer_read_into",
        lambda *given, **k: asked.append(len(given[1])) or original(*given, **k),
    )
    audio.read(path, sample_rate_hz=8000, seconds=5.0)
    once, asked[:] = list(asked), []
    list(audio.read_windows(path, sample_rate_hz=8000, seconds=5.0))
    assert asked == once


def test_a_long_file_that_is_cut_says_so_at_its_end(tmp_path):
    path = write(tmp_path / "x", "mp3", np.random.default_rng(0).normal(0, 0.1, 60 * 8000).astype(np.float32), 8000)
    path.write_bytes(path.read_bytes()[:-20_000])
    found = []
    with pytest.raises(AudioError, match="truncated"):
        found.extend(start for start, _ in audio.read_windows(path, sample_rate_hz=8000, seconds=5.0))


def test_missing_and_odd_paths(tmp_path):
    assert "no such file" in reason(tmp_path / "none.wav")
    (tmp_path / "d.wav").mkdir()
    assert "a directory" in reason(tmp_path / "d.wav")
    (tmp_path / "l.wav").symlink_to("gone")
    assert "link" in reason(tmp_path / "l.wav")
    (tmp_path / "self.wav").symlink_to("self.wav")
    reason(tmp_path / "self.wav")
    reason("nul\0.wav")
    reason("x" * 5000)
    reason(write(tmp_path / "f.wav") / "below.wav")
    (tmp_path / "e.wav").touch()
    assert "empty" in reason(tmp_path / "e.wav")


def test_pipes_sockets_and_devices_do_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "p.wav")
    assert "a named pipe" in reason(tmp_path / "p.wav")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind("s.wav")
        assert "a socket" in reason("s.wav")
    assert "a device" in reason("/dev/zero")


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "a")
    return buffer.getvalue()


NOT_SOUND = {
    "a text file": b"dear diary,\nnothing happened today\n" * 9,
    "text file": "Grüße aus Köln".encode("utf-16"),
    "an HTML page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a JSON file": json.dumps({"error": "not found"}).encode(),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a JPEG image": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)),
    "a GIF image": b"GIF89a" + bytes(range(256)),
    "a PDF document": b"%PDF-1.7\n" + bytes(range(256)),
    "a ZIP archive": zipped(),
    "an MP4 file": b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(256),
    "a WMA": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c" + bytes(256),
    "a Matroska or WebM": b"\x1a\x45\xdf\xa3" + bytes(range(256)),
    "an AMR": b"#!AMR\n" + b"\xff" * 256,
    "a Python pickle": pickle.dumps({"a": np.arange(9)}),
    "an AVI video": b"RIFF\x10\x01\x00\x00AVI LIST" + bytes(256),
    "a raw AAC stream": b"\xff\xf1\x50\x80\x2e\x7f\xfc" + bytes(256),
    "begins with 4096 zero bytes": bytes(5000) + b"\xff\xf8",
}


@pytest.mark.parametrize("name", ["x.wav", "x.mp3", "x.raw"])
@pytest.mark.parametrize("found", NOT_SOUND)
def test_what_is_no_sound_is_named(tmp_path, found, name):
    path = tmp_path / name
    path.write_bytes(NOT_SOUND[found])
    assert found in reason(path)
    with pytest.raises(AudioError, match=found.split("(")[0]):
        audio.info(path)


def test_mp4_says_how_to_convert(tmp_path):
    path = tmp_path / "x.mp3"
    path.write_bytes(NOT_SOUND["an MP4 file"])
    assert "ffmpeg -i" in reason(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"wav_gsm", "wav_adpcm"}))
def test_cut_files_are_refused(tmp_path, kind, share):
    noise = np.random.default_rng(0).normal(scale=0.1, size=6 * RATE).astype(np.float32)
    content = encoded(kind, noise)
    path = tmp_path / "x"
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated" in reason(path)


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"wav_gsm", "wav_adpcm"}))
def test_a_cut_behind_what_is_asked_for_is_passed_over_in_every_format(tmp_path, kind):
    noise = np.random.default_rng(0).normal(scale=0.1, size=6 * RATE).astype(np.float32)
    content = encoded(kind, noise)
    path = tmp_path / "x"
    path.write_bytes(content)
    whole = audio.read(path, sample_rate_hz=RATE, seconds=1)
    path.write_bytes(content[: len(content) // 2])
    np.testing.assert_allclose(audio.read(path, sample_rate_hz=RATE, seconds=1), whole, atol=1e-6)
    assert 1.3 < audio.info(path).seconds <= 6.1
    assert "truncated" in reason(path, seconds=4)
    with pytest.raises(AudioError, match="truncated"):
        list(audio.read_windows(path, sample_rate_hz=RATE, seconds=1))
    with pytest.raises(AudioError, match="truncated"):
        list(audio.read_blocks(path))


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_of_a_writer_that_could_not_seek_back_is_read(tmp_path, size):
    content = bytearray(encoded("wav"))
    at = content.index(b"data")
    content[4:8] = struct.pack("<I", 0xFFFFFFFF)
    content[at + 4 : at + 8] = struct.pack("<I", size)
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    np.testing.assert_array_equal(
        audio.read(path, sample_rate_hz=RATE), soundfile.read(io.BytesIO(encoded("wav")), dtype="float32")[0]
    )


def test_more_after_the_sound_is_no_harm(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(encoded("wav") + b"LIST\x04\0\0\0abcd" + b"id3 \xff")
    assert len(audio.read(path, sample_rate_hz=RATE)) == len(TONE)


@pytest.mark.parametrize("kind", ["wav", "au", "aiff"])
def test_no_samples(tmp_path, kind):
    assert "0 samples" in reason(write(tmp_path / "x", kind, TONE[:0]))


@pytest.mark.parametrize("kept", [200, 3000])
def test_cut_within_the_first_frame(tmp_path, kept):
    content = encoded("flac", np.random.default_rng(0).normal(0, 0.1, RATE))
    (tmp_path / "x").write_bytes(content[:kept])
    assert reason(tmp_path / "x") == "truncated: 16000 samples expected, 0 decoded; copy it again"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_numbers(tmp_path, value):
    stereo = np.stack([TONE, TONE], axis=1)
    stereo[100, 1] = value
    assert ("beyond any scale" if value == 1e30 else "NaN or inf") in reason(write(tmp_path / "x", "wav_float", stereo))


def test_one_sample_is_enough(tmp_path):
    path = write(tmp_path / "x.wav", "wav", TONE[5:6])
    assert audio.read(path, sample_rate_hz=RATE).shape == (1,)
    assert audio.read(path, sample_rate_hz=2000, seconds=1e-9).shape == (1,)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(FORMATS)), at=st.lists(st.integers(0, 400), max_size=8), value=st.integers(0, 255))
def test_damaged_bytes_never_end_otherwise(tmp_path_factory, kind, at, value):
    content = bytearray(encoded(kind, TONE[:4000]))
    for place in at:
        content[min(place, len(content) - 1)] = value
    path = tmp_path_factory.mktemp("damage") / "x.wav"
    path.write_bytes(content)
    with contextlib.suppress(AudioError):
        audio.info(path)
        wave = audio.read(path, sample_rate_hz=RATE, seconds=1.0)
        assert np.isfinite(wave).all()
        assert 1 <= len(wave) <= RATE


def test_the_error_is_a_data_error_and_crosses_processes(tmp_path):
    with pytest.raises(DataError) as caught:
        audio.read(tmp_path / "x.wav", sample_rate_hz=RATE)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


@pytest.mark.real_audio
def test_real_clips_as_soundfile_decodes_them(esc10):
    for path in sorted((esc10 / "audio").iterdir())[::40]:
        expected, rate = soundfile.read(path, dtype="float32")
        np.testing.assert_array_equal(audio.read(path, sample_rate_hz=rate), expected)
