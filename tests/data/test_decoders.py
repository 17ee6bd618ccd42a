"""Sounds whose header promises nothing, too little or too much, joined sounds, and codings that FFmpeg alone reads."""

from __future__ import annotations

import io
import os
import struct
from collections import defaultdict

import av
import numpy as np
import pytest
import soundfile
from codings import RATE, WAVE, by_ffmpeg

from earsight import library_output
from earsight.data import audio, containers, decoders, ffmpeg, frames
from earsight.errors import AudioError


def written(wave=WAVE, rate=RATE, **kind):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, **kind)
    return buffer.getvalue()


def read(tmp_path, content, name="x"):
    (tmp_path / name).write_bytes(content)
    return audio.read(tmp_path / name, sample_rate_hz=audio.info(tmp_path / name).sample_rate_hz)


def reason(tmp_path, content):
    with pytest.raises(AudioError) as caught:
        read(tmp_path, content)
    return caught.value.reason


def decoded(content):
    return soundfile.read(io.BytesIO(content), dtype="float32")[0]


def offset(wave, expected):
    """By how many samples a wave is late."""
    size = 1 << 19
    found = np.fft.irfft(np.fft.rfft(wave, size) * np.conj(np.fft.rfft(expected, size)), size)
    at = int(np.argmax(found))
    return at - size if at > size // 2 else at


def gather(pieces, found):
    for piece in pieces:
        found.append(piece.wave)


def without_total(flac):
    content = bytearray(flac)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def mp3(wave=WAVE, rate=RATE, mode="CONSTANT"):
    return written(wave, rate, format="MP3", bitrate_mode=mode, compression_level=0.9 if mode == "VARIABLE" else 0.3)


def bare(content):
    """An MP3 without the frame that counts the others."""
    at = content.index(b"\xff\xfb") if b"\xff\xfb" in content[:4] else 0
    step = content.find(content[at : at + 2], at + 40)
    return content[step:]


# Lengths


def test_flac_without_a_total_is_read_to_its_end(tmp_path):
    content = written(format="FLAC")
    np.testing.assert_array_equal(read(tmp_path, without_total(content)), decoded(content))
    assert audio.info(tmp_path / "x").seconds == pytest.approx(3)


def test_flac_that_is_cut_or_damaged_is_named_as_what_it_is(tmp_path):
    content = written(format="FLAC")
    assert "truncated" in reason(tmp_path, content[: len(content) // 2])
    assert "truncated at " in reason(tmp_path, without_total(content)[: len(content) // 2])
    (tmp_path / "x").write_bytes(content[: 3 * len(content) // 4])
    heard = []
    with pytest.raises(AudioError, match="truncated: ") as caught:
        gather(audio.pieces(tmp_path / "x"), heard)
    whole = len(np.concatenate(heard))
    assert f"{len(WAVE)} samples expected, {whole} decoded" in caught.value.reason
    # However far it was read before, the numbers are those of the file; the place is looked for in steps of 256.
    with pytest.raises(AudioError, match=f"{len(WAVE)} samples expected, ") as caught:
        list(audio.read_windows(tmp_path / "x", sample_rate_hz=RATE, seconds=0.5))
    assert 0 <= whole - int(caught.value.reason.split()[4]) < 256
    for whole in (content, without_total(content)):
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 0x55
        found = []
        (tmp_path / "d").write_bytes(damaged)
        with pytest.raises(AudioError, match=r"damaged at 1\.\d\d s"):
            gather(audio.pieces(tmp_path / "d"), found)
        heard = np.concatenate(found)
        assert RATE < len(heard) < 2 * RATE
        np.testing.assert_array_equal(heard, decoded(content)[: len(heard)])


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_without_a_header_is_counted(tmp_path, mode):
    content = mp3(mode=mode)
    found = read(tmp_path, bare(content))
    assert abs(len(found) - len(WAVE)) < 4 * 1152
    assert audio.info(tmp_path / "x").seconds * RATE == pytest.approx(len(found))
    late = offset(found, WAVE)
    assert 0 < late < 3000  # nothing in the file tells the encoder's delay
    end = len(WAVE) - 3000
    np.testing.assert_allclose(found[late : late + end][5000:], decoded(content)[5000:end], atol=1e-4)


def test_mp3_behind_a_picture_is_no_truncated_one(tmp_path):
    size = 200_000
    tag = b"ID3\x03\0\0" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + bytes(size)
    content = bare(mp3())
    np.testing.assert_array_equal(read(tmp_path, tag + content), read(tmp_path, content))


def test_truncated_mp3_is_named(tmp_path):
    content = mp3()
    for share in (0.3, 0.95):
        assert "truncated" in reason(tmp_path, content[: int(share * len(content))])


def test_an_mp3_without_a_header_that_is_cut_within_a_frame_is_named(tmp_path):
    content = bare(mp3())
    read(tmp_path, content)
    read(tmp_path, content + b"TAG" + bytes(125))
    for cut in (1, 50, len(content) // 2 + 33):
        found = reason(tmp_path, content[:-cut])
        assert found.startswith("truncated: ")
        assert int(found.split()[1]) < 1500


def test_joined_files_are_heard_whole(tmp_path):
    ogg, other = written(format="OGG", subtype="VORBIS"), written(WAVE[::2], RATE // 2, format="OGG", subtype="VORBIS")
    kinds = [
        written(format="WAV"),
        written(format="FLAC"),
        written(format="AIFF"),
        mp3(),
        ogg,
        written(rate=48000, format="OGG", subtype="OPUS"),
        *(written(WAVE[: len(WAVE) - 3], format=kind, subtype="PCM_24") for kind in ("CAF", "W64", "AU", "RF64")),
        written(format="AU", subtype="PCM_16", endian="LITTLE"),
        by_ffmpeg("caf", "alac", sample_format="s16p"),
    ]
    for content in kinds:
        alone = read(tmp_path, content)
        np.testing.assert_array_equal(read(tmp_path, content + content), np.concatenate([alone, alone]))
        assert audio.info(tmp_path / "x").seconds * len(alone) > 0
    both = read(tmp_path, ogg + other)
    assert len(both) == 2 * len(WAVE)
    for kind in ("CAF", "W64", "AU"):
        first, second = (written(wave, at, format=kind) for wave, at in ((WAVE, RATE), (WAVE[::2], RATE // 2)))
        found = read(tmp_path, first + second)
        assert len(found) == 2 * len(WAVE)
        assert np.corrcoef(found[len(WAVE) : 2 * len(WAVE)], WAVE)[0, 1] > 0.9
        assert reason(tmp_path, first + second[:-3000]).startswith("truncated")
    # The second's rate is half: it is resampled to the first's.
    assert np.corrcoef(both[len(WAVE) : 2 * len(WAVE)], WAVE)[0, 1] > 0.9
    assert len(read(tmp_path, mp3() + mp3(WAVE[::2], RATE // 2))) == 2 * len(WAVE)
    stereo = written(np.stack([WAVE, WAVE], axis=1), format="FLAC")
    np.testing.assert_allclose(read(tmp_path, written(format="FLAC") + stereo)[len(WAVE) :], WAVE, atol=1e-4)


@pytest.mark.parametrize("first", ["WAV", "AIFF", "CAF", "W64", "AU", "FLAC", "OGG", "MP3"])
def test_a_file_of_another_kind_behind_a_sound_is_named(tmp_path, first):
    """None of its seconds is passed over in silence, or heard as noise; and by choice what stands before it is used."""
    wave = WAVE[: len(WAVE) - 3]
    kinds = {kind: written(wave, format=kind) for kind in ("WAV", "AIFF", "CAF", "W64", "AU", "FLAC", "OGG")}
    kinds["MP3"] = mp3(wave)
    alone = read(tmp_path, kinds.pop(first))
    contents = {**kinds, "ID3": b"ID3\x04\0\0\0\0\0\x10" + bytes(16) + mp3(wave)}
    for kind in contents.keys() - {first, "MP3" if first == "OGG" else "", "ID3" if first == "MP3" else ""}:
        content = (mp3(wave) if first == "MP3" else written(wave, format=first)) + contents[kind]
        found = reason(tmp_path, content)
        assert found.startswith(("damaged", "truncated")), kind
        if first != "OGG":
            name = {"OGG": "Ogg", "ID3": "MP3"}.get(kind, kind)
            named = f"behind its sound begins a file of another kind, {name}: part the two"
            # Of a FLAC the last frame is looked for in the last 256 kB.
            assert named in found or (first == "FLAC" and "behind its sound stand other bytes: part the two" in found)
            said = []
            path = tmp_path / "x"
            heard = audio.read(path, sample_rate_hz=RATE, excuse=lambda *one: said.append(one))  # noqa: B023
            assert len(said) == 1
            assert 0.95 * len(alone) < len(heard) <= len(alone)
            np.testing.assert_array_equal(heard, alone[: len(heard)])


def joined_by_ffmpeg(tmp_path, parts, container):
    """Files in a row by its concat, without coding them anew."""
    for place, part in enumerate(parts):
        (tmp_path / f"{place}.{container}").write_bytes(part)
    (tmp_path / "list").write_text("".join(f"file '{tmp_path}/{n}.{container}'\n" for n in range(len(parts))))
    buffer = io.BytesIO()
    with (
        av.open(str(tmp_path / "list"), format="concat", options={"safe": "0"}) as source,
        av.open(buffer, "w", format=container) as out,
    ):
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("rate", [8000, 24000, 48000])
def test_opus_that_ffmpeg_joined_is_read_to_its_end(tmp_path, rate):
    """libsndfile takes the second's pages for damage, and decodes at the rate that Opus was made from."""
    tones = {300: 2, 700: 1}  # Hz: seconds
    waves = [0.5 * np.sin(2 * np.pi * hz * np.arange(length * rate) / rate) for hz, length in tones.items()]
    parts = [by_ffmpeg("ogg", "libopus", wave=wave, rate=rate, sample_format="s16") for wave in waves]
    found = read(tmp_path, joined_by_ffmpeg(tmp_path, parts, "ogg"))
    made = audio.info(tmp_path / "x").sample_rate_hz
    assert len(found) / made == pytest.approx(3, abs=0.06)
    for begin, hz in ((0.2, 300), (1.2, 300), (2.2, 700)):
        part = found[round(begin * made) : round((begin + 0.6) * made)]
        assert np.argmax(np.abs(np.fft.rfft(part))) / 0.6 == pytest.approx(hz, abs=3)


def test_wavpack_that_ffmpeg_joined_is_read_whole(tmp_path):
    """The first block alone tells the length of all."""
    waves = WAVE[:70_001], WAVE[70_001:120_004]
    parts = [by_ffmpeg("wv", "wavpack", wave=wave, sample_format="s16p") for wave in waves]
    alone = np.concatenate([read(tmp_path, part) for part in parts])
    content = joined_by_ffmpeg(tmp_path, parts, "wv")
    np.testing.assert_array_equal(read(tmp_path, content), alone)
    assert audio.info(tmp_path / "x").seconds == pytest.approx(120_004 / RATE)
    assert reason(tmp_path, content[:-300]).startswith("truncated")


def test_a_length_that_no_bytes_could_hold_is_none(tmp_path):
    """As of Vorbis that FFmpeg joined, whose last page has a time beyond any."""
    content = bytearray(written(format="OGG", subtype="VORBIS"))
    at = content.rindex(b"OggS")
    content[at + 6 : at + 14] = struct.pack("<q", 1 << 32)
    content[at + 22 : at + 26] = bytes(4)
    size = 27 + content[at + 26] + sum(content[at + 27 : at + 27 + content[at + 26]])
    content[at + 22 : at + 26] = struct.pack("<I", containers._ogg_crc(bytes(content[at : at + size])))
    assert len(read(tmp_path, bytes(content))) >= len(WAVE)
    assert audio.info(tmp_path / "x").seconds < 60


TAGS = {
    "ID3v1": b"TAG" + bytes(125),
    "APEv2": b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 17, 1, 0xA0000000) + bytes(8)
    + struct.pack("<II", 3, 0) + b"Title\0abc"
    + b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 17, 1, 0x80000000) + bytes(8),
    "Lyrics3": b"LYRICSBEGININD0000200" + b"000021LYRICS200",
}  # fmt: skip
TAGS["both"] = TAGS["APEv2"] + TAGS["ID3v1"]
TAGGED = {
    "FLAC": lambda: written(format="FLAC"),
    "WavPack": lambda: by_ffmpeg("wv", "wavpack", sample_format="s16p"),
    "M4A": lambda: by_ffmpeg("ipod", "aac"),
    "AC-3": lambda: by_ffmpeg("ac3", "ac3"),
    "AAC": lambda: by_ffmpeg("adts", "aac"),
    "WMA": lambda: by_ffmpeg("asf", "wmav2", codec_options={"b": "96000"}),
    "TTA": lambda: by_ffmpeg("tta", "tta", sample_format="s16"),
    "WebM": lambda: by_ffmpeg("webm", "libopus", rate=48000, sample_format="s16"),
    "MP3": mp3,
}


@pytest.mark.parametrize("kind", [*TAGGED, "WAV", "AIFF", "W64", "AU", "CAF", "OGG"])
@pytest.mark.parametrize("tag", TAGS)
def test_tags_behind_a_sound_take_nothing_from_it(tmp_path, kind, tag):
    content = TAGGED[kind]() if kind in TAGGED else written(format=kind)
    np.testing.assert_array_equal(read(tmp_path, content + TAGS[tag]), read(tmp_path, content))


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "OGG", "W64", "FLAC", "WavPack", "M4A", "TTA", "AAC", "WMA", "MP3"])
@pytest.mark.parametrize("tag", ["ID3v1", "both"])
def test_a_tag_between_two_sounds_hides_neither(tmp_path, kind, tag):
    content = TAGGED[kind]() if kind in TAGGED else written(format=kind)
    both = content + TAGS[tag] + content
    if kind == "WMA":
        assert "part the two" in reason(tmp_path, both)
    else:
        assert len(read(tmp_path, both)) == 2 * len(read(tmp_path, content))


@pytest.mark.parametrize("kind", ["M4A", "WMA"])
def test_zeros_between_two_sounds_hide_neither(tmp_path, kind):
    content = TAGGED[kind]()
    both = read(tmp_path, content + bytes(3000) + content)
    assert len(both) == pytest.approx(2 * len(read(tmp_path, content)), abs=1)


def test_w64_of_three_channels_by_ffmpeg_is_read_as_the_floats_that_it_has(tmp_path):
    """Only beyond two channels FFmpeg 8.1 writes the format whose kind of samples libsndfile passes over."""
    wave = np.stack([WAVE, WAVE[::-1], -WAVE], axis=1)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="w64") as out:
        stream = out.add_stream("pcm_f32le", rate=RATE, layout="3.0")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave).reshape(1, -1), format="flt", layout="3.0")
        frame.sample_rate = RATE
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    (tmp_path / "x").write_bytes(buffer.getvalue())
    for number in range(3):
        found = audio.read(tmp_path / "x", sample_rate_hz=RATE, channel=number + 1)
        np.testing.assert_array_equal(found[: len(WAVE)], wave[:, number])
    (tmp_path / "x").write_bytes(2 * buffer.getvalue())
    assert len(audio.read(tmp_path / "x", sample_rate_hz=RATE)) == 2 * len(found)
    piped = bytearray(buffer.getvalue())
    at = piped.index(b"data\xf3\xac")
    piped[16:24], piped[at + 16 : at + 24] = 2 * (struct.pack("<q", -1),)
    (tmp_path / "x").write_bytes(piped)
    assert len(audio.read(tmp_path / "x", sample_rate_hz=RATE)) == pytest.approx(len(WAVE), abs=8)


@pytest.mark.parametrize("coding", ["pcm_f32le", "pcm_mulaw", "pcm_alaw", "pcm_s16le", "pcm_s32le"])
def test_w64_by_ffmpeg_is_read_as_the_samples_that_it_has(tmp_path, coding):
    content = by_ffmpeg("w64", coding, sample_format={"pcm_s32le": "s32", "pcm_f32le": "flt"}.get(coding, "s16"))
    found = read(tmp_path, content)
    assert len(WAVE) <= len(found) < len(WAVE) + 8  # up to the next multiple of eight bytes
    assert np.abs(found[: len(WAVE)] - WAVE).max() < (0.03 if "law" in coding else 1e-4)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("count", range(1, 9))
def test_channels_of_an_ogg_are_in_the_order_of_all_else(tmp_path, count, subtype):
    """libsndfile leaves those of Ogg as Vorbis has them from three on; FFmpeg has one order for all containers."""
    times = np.arange(2 * 48000) / 48000
    wave = np.stack([0.1 * np.sin(2 * np.pi * (80 + 200 * n) * times) for n in range(count)], axis=1)
    content = written(wave, 48000, format="OGG", subtype=subtype)
    (tmp_path / "x").write_bytes(content)
    descriptor = os.open(tmp_path / "x", os.O_RDONLY)
    other = ffmpeg.FfmpegDecoder(descriptor, frames.Link(0, len(content)), "ogg", "")
    expected = other.read(len(wave))
    other.close()
    os.close(descriptor)
    for number in range(1, count + 1):
        found = audio.read(tmp_path / "x", sample_rate_hz=48000, channel=number)[24000:72000]
        tones = [np.argmax(np.abs(np.fft.rfft(one))) for one in (found, expected[24000:72000, number - 1])]
        assert tones[0] == tones[1], number


@pytest.mark.parametrize("kind", [kind for kind in TAGGED if kind not in ("FLAC", "MP3", "AC-3", "AAC")])
@pytest.mark.parametrize("tag", ["", "ID3v1"])
def test_another_file_behind_what_ffmpeg_reads_is_named(tmp_path, kind, tag):
    content = TAGGED[kind]() + TAGS.get(tag, b"")
    assert "behind its sound begins a file of another kind, MP3: part the two" in reason(tmp_path, content + mp3())


@pytest.mark.parametrize("kind", ["M4A", "WMA", "TTA", "AAC", "AC-3", "MPEG-TS"])
@pytest.mark.parametrize("first", ["WAV", "AIFF", "AU", "CAF", "W64", "MP3", "FLAC", "WavPack"])
def test_what_ffmpeg_reads_behind_another_sound_is_named(tmp_path, first, kind):
    second = by_ffmpeg("mpegts", "aac") if kind == "MPEG-TS" else TAGGED[kind]()
    content = (TAGGED[first]() if first in TAGGED else written(format=first)) + second
    assert f"behind its sound begins a file of another kind, {kind}: part the two" in reason(tmp_path, content)


@pytest.mark.parametrize("first", ["OGG", "FLAC"])
@pytest.mark.parametrize("kind", ["WebM", "WavPack"])
@pytest.mark.parametrize("share", [1, 8])
def test_another_file_behind_one_is_named_however_short(tmp_path, first, kind, share):
    second = {
        "WavPack": lambda wave: by_ffmpeg("wv", "wavpack", wave=wave, sample_format="s16p"),
        "WebM": lambda wave: by_ffmpeg("webm", "libopus", wave=wave, rate=48000, sample_format="s16"),
    }[kind](np.zeros(3000 * share, np.float32))
    assert f"a file of another kind, {kind}: part the two" in reason(tmp_path, written(format=first) + second)


@pytest.mark.parametrize("kind", ["AC-3", "AAC"])
def test_an_mp3_behind_frames_of_another_kind_is_not_heard_alone(tmp_path, kind):
    assert "bytes before its first frame that are none" in reason(tmp_path, TAGGED[kind]() + mp3())


@pytest.mark.parametrize("kind", [*TAGGED, "WAV", "AIFF", "W64", "AU", "CAF"])
@pytest.mark.parametrize("size", [10, 20_000])
def test_a_tag_before_a_sound_takes_nothing_from_it(tmp_path, kind, size):
    content = TAGGED[kind]() if kind in TAGGED else written(format=kind)
    length = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    tagged = b"ID3\x04\0\0" + length + bytes(size) + content
    np.testing.assert_array_equal(read(tmp_path, tagged), read(tmp_path, content))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT"])
def test_bw64_of_broadcasters(tmp_path, subtype):
    content = written(WAVE[:-1], format="RF64", subtype=subtype)
    assert content[:4] == b"RF64"
    np.testing.assert_array_equal(read(tmp_path, b"BW64" + content[4:]), read(tmp_path, content))


def test_mp3_behind_a_tag_of_ape(tmp_path):
    content = mp3()
    np.testing.assert_array_equal(read(tmp_path, TAGS["APEv2"] + content), read(tmp_path, content))


def copied(content, container, packets):
    """Some packets of a file, as FFmpeg copies them without coding them anew."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(buffer, "w", format=container) as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in [packet for packet in source.demux(audio=0) if packet.dts is not None][packets]:
            packet.stream = stream
            out.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize(("container", "codec"), [("wv", "wavpack"), ("flac", "flac"), ("ogg", "flac")])
def test_a_piece_from_the_middle_is_whole(tmp_path, container, codec):
    content = by_ffmpeg(container, codec, sample_format="s16p" if codec == "wavpack" else "s16")
    whole, piece = read(tmp_path, content), copied(content, container, slice(1, 3))
    found = read(tmp_path, piece)
    at = offset(np.concatenate([np.zeros(len(whole) - len(found), np.float32), found]), whole)
    assert 0 < len(found) < len(whole)
    begin = len(whole) - len(found) - at
    np.testing.assert_array_equal(found, whole[begin : begin + len(found)])


def test_parts_of_a_piece_of_a_flac_are_those_of_its_own_seconds(tmp_path):
    """Its frames are numbered as in the whole, which libsndfile seeks by."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 40 * RATE).astype(np.int16)
    content = by_ffmpeg("flac", "flac", wave=noise / np.float32(32768), sample_format="s16")
    piece = copied(content, "flac", slice(40, None))
    whole = read(tmp_path, piece)
    spans = [(1.0, 2.0), (14.0, 16.0)]
    for (begin, end), found in zip(spans, audio.read_parts(tmp_path / "x", spans, sample_rate_hz=RATE), strict=True):
        np.testing.assert_array_equal(found, whole[round(begin * RATE) : round(end * RATE)])


@pytest.mark.parametrize("size", [2**63 - 1, -(2**63), -1, 0])
def test_w64_of_any_stated_size_is_read_to_its_end(tmp_path, size):
    content = bytearray(written(format="W64"))
    at = content.index(b"data\xf3\xac")
    content[at + 16 : at + 24] = struct.pack("<q", size)
    np.testing.assert_array_equal(read(tmp_path, bytes(content)), decoded(written(format="W64")))


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_a_tag_that_is_longer_than_the_file_or_has_no_length_is_none(tmp_path, length):
    content = written(format="FLAC")
    foot = b"APETAGEX" + struct.pack("<IIII", 2000, length, 1, 0) + bytes(8)
    np.testing.assert_array_equal(read(tmp_path, content + foot), read(tmp_path, content))


def test_wavpack_behind_a_tag(tmp_path):
    content = TAGGED["WavPack"]()
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    np.testing.assert_array_equal(read(tmp_path, tag + content), read(tmp_path, content))


@pytest.mark.parametrize("scrap", [b"\n", bytes(4096), bytes(9000), bytes(range(256)) * 2])
def test_scraps_behind_a_flac_take_nothing_from_it(tmp_path, scrap):
    content = written(WAVE, format="FLAC")
    np.testing.assert_array_equal(read(tmp_path, content + scrap), read(tmp_path, content))


def flac_frames(content):
    """Where the frames of a FLAC begin."""
    at, last = 4, False
    while not last:
        last, at = content[at] >= 0x80, at + 4 + int.from_bytes(content[at + 1 : at + 4], "big")
    return at


@pytest.mark.parametrize("frames", [1, 2, 127, 128, 129, 200, 2049])
def test_a_piece_of_a_flac_whose_frames_are_whole_is_whole(tmp_path, frames):
    """As ffmpeg cuts them without encoding anew: the header is that of the whole."""
    wave = np.random.default_rng(0).integers(-3, 4, 4096 * (frames + 2) + 100).astype(np.int16)
    whole, part = (written(one, format="FLAC", subtype="PCM_16") for one in (wave, wave[: 4096 * frames]))
    at = flac_frames(whole)
    assert at == flac_frames(part)
    piece = whole[:at] + part[at:]
    assert whole.startswith(piece)
    np.testing.assert_array_equal(read(tmp_path, piece), wave[: 4096 * frames] / np.float32(32768))
    assert audio.info(tmp_path / "x").seconds == pytest.approx(4096 * frames / RATE)
    assert reason(tmp_path, piece[:-1]).startswith("truncated")
    assert reason(tmp_path, piece + whole[len(piece) : len(piece) + 20]).startswith("truncated")


@pytest.mark.parametrize("lengths", [(50_000, 30_000), (30_000, 50_000), (50_000, 50_000), (50_000, 9000, 50_000)])
def test_flacs_whose_frames_ffmpeg_joined_are_heard_whole(tmp_path, lengths):
    """Behind the header of the first; numbers of frames begin again."""
    noise = np.random.default_rng(0).integers(-3000, 3000, sum(lengths)).astype(np.int16)
    waves = np.split(noise, np.cumsum(lengths)[:-1])
    contents = [by_ffmpeg("flac", "flac", wave=wave / np.float32(32768), sample_format="s16") for wave in waves]
    joined = contents[0] + b"".join(one[flac_frames(one) :] for one in contents[1:])
    np.testing.assert_array_equal(read(tmp_path, joined), noise / np.float32(32768))
    assert audio.info(tmp_path / "x").seconds == pytest.approx(len(noise) / RATE)
    assert reason(tmp_path, joined[:-5]).startswith("truncated")
    plain = np.concatenate([read(tmp_path, one) for one in contents])
    np.testing.assert_array_equal(read(tmp_path, b"".join(contents)), plain)


@pytest.mark.parametrize(("subtype", "channels"), [("PCM_16", 1), ("PCM_24", 2), ("FLOAT", 1), ("PCM_U8", 2)])
def test_a_wav_that_ends_within_a_sample_is_cut(tmp_path, subtype, channels):
    content = written(np.stack([WAVE] * channels, axis=1), format="WAV", subtype=subtype)
    assert reason(tmp_path, content[:-1]) == "truncated: 1 byte of its sound is missing; copy it again"
    odd = written(WAVE[:-1], format="WAV", subtype="PCM_U8")
    assert len(odd) % 2 == 0
    assert len(read(tmp_path, odd[:-1])) == len(WAVE[:-1])  # without the byte that fills up


@pytest.mark.parametrize(("riff", "data"), [(36, 0), (0, 0), (0xFFFFFFFF, 0), (1000, 964)])
def test_wav_of_before_the_power_failed(tmp_path, riff, data):
    content = bytearray(written(format="WAV"))
    at = content.index(b"data")
    content[4:8], content[at + 4 : at + 8] = struct.pack("<I", riff if riff != 1000 else 0), struct.pack("<I", data)
    np.testing.assert_array_equal(read(tmp_path, bytes(content)), decoded(written(format="WAV")))


def chunk(name, content, *, length=None, big=False):
    return name + struct.pack(">I" if big else "<I", len(content) if length is None else length) + content


BEHIND = {
    "a list": chunk(b"LIST", b"INFOIART\x04\0\0\0me\0\0"),
    "a long list": chunk(b"LIST", b"INFOICMT" + struct.pack("<I", 5000) + b"x" * 5000),
    "a list of a wrong size": chunk(b"LIST", b"INFOIART\x04\0\0\0me\0\0", length=1000),
    "a name that is no text": chunk(b"\x01\x02\xf0\xff", bytes(range(200)) * 30),
}


@pytest.mark.parametrize("what", BEHIND)
@pytest.mark.parametrize("fills", [True, False])
@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_chunks_behind_a_sound_are_no_sound(tmp_path, kind, subtype, fills, what):
    """An odd number of bytes of sound is to be filled up, which some writers do not do."""
    wave = WAVE[:8001]
    content = bytearray(written(wave, format=kind, subtype=subtype))
    at, order = (content.index(b"data"), "<I") if kind == "WAV" else (content.index(b"SSND"), ">I")
    end = at + 8 + struct.unpack(order, content[at + 4 : at + 8])[0]
    fill = bytes((end - at) % 2 if fills else 0)
    content = content[:end] + fill + (BEHIND[what] if kind == "WAV" else chunk(b"ANNO", BEHIND[what], big=True))
    content[4:8] = struct.pack(order, len(content) - 8)
    np.testing.assert_array_equal(read(tmp_path, bytes(content)), decoded(written(wave, format=kind, subtype=subtype)))


@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
def test_a_size_of_half_the_sound_is_stale_though_that_of_the_whole_is_right(tmp_path, kind):
    content = bytearray(written(format=kind, subtype="PCM_16"))
    at, order = (content.index(b"data"), "<I") if kind == "WAV" else (content.index(b"SSND"), ">I")
    content[at + 4 : at + 8] = struct.pack(order, len(WAVE))
    assert len(read(tmp_path, bytes(content))) == len(WAVE)


@pytest.mark.parametrize("fills", [0, 1])
def test_a_chunk_behind_an_odd_caf_is_no_sound(tmp_path, fills):
    content = bytearray(written(WAVE[:7001], format="CAF", subtype="PCM_24"))
    at = content.index(b"data")
    end = at + 12 + struct.unpack(">q", content[at + 4 : at + 12])[0]
    content = content[:end] + bytes(fills) + b"info" + struct.pack(">q", 5000) + b"x" * 5000
    assert len(read(tmp_path, bytes(content))) == 7001


@pytest.mark.parametrize("name", [b"levl", b"bext", b"list"])
def test_chunks_behind_a_w64_are_no_sound(tmp_path, name):
    content = written(WAVE[:8001], format="W64")
    tail = b"\x2f\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0" if name == b"list" else content[:0]
    tail = tail or b"\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a"
    behind = name + tail + struct.pack("<q", 24 + 4000) + b"x" * 4000
    content = bytearray(content + bytes(-len(content) % 8) + behind)
    content[16:24] = struct.pack("<q", len(content))
    np.testing.assert_array_equal(read(tmp_path, bytes(content)), decoded(written(WAVE[:8001], format="W64")))


def test_xmp_behind_a_wav_is_no_sound(tmp_path):
    content = written(format="WAV") + b"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?>" + b" " * 9000
    np.testing.assert_array_equal(read(tmp_path, content), decoded(written(format="WAV")))


@pytest.mark.parametrize("kind", ["WAV", "RF64", "AU", "CAF", "AIFF", "FLAC"])
@pytest.mark.parametrize("share", [0, 0.2, 0.8])
def test_sound_behind_a_size_that_fits_itself_is_read(tmp_path, kind, share):
    """A recorder's last good header, before the power failed: all its sizes agree, and the sound goes on."""
    content = bytearray(written(format=kind, subtype="PCM_16"))
    length = round(share * len(WAVE)) * 2
    at = content.find(b"data") + 4
    if kind == "WAV":
        content[4:8], content[at : at + 4] = struct.pack("<I", 36 + length), struct.pack("<I", length)
    elif kind == "RF64":
        ds64 = content.index(b"ds64") + 8
        content[ds64 : ds64 + 24] = struct.pack("<QQQ", at - 4 + length if length else 0, length, length // 2)
    elif kind == "AU":
        content[8:12] = struct.pack(">I", length)
    elif kind == "AIFF":
        at = content.index(b"SSND")
        content[4:8] = struct.pack(">I", at + 8 + (length or 2 * RATE))  # with no size yet, that of a second
        content[22:26], content[at + 4 : at + 8] = struct.pack(">I", length // 2), struct.pack(">I", 8 + length)
    elif kind == "FLAC":
        content[22:26] = struct.pack(">I", length // 2)
    else:
        content[at : at + 8] = struct.pack(">q", 4 + length if share else 0)
    np.testing.assert_array_equal(read(tmp_path, bytes(content)), decoded(written(format=kind, subtype="PCM_16")))


def test_a_flac_total_of_any_size_loses_nothing(tmp_path):
    content, whole = written(format="FLAC"), decoded(written(format="FLAC"))
    for total in (1, 4095, 4096, len(whole) - 1, len(whole)):
        stale = content[:22] + struct.pack(">I", total) + content[26:]
        np.testing.assert_array_equal(read(tmp_path, stale), whole)
        assert audio.info(tmp_path / "x").seconds * RATE == pytest.approx(len(whole))
    np.testing.assert_array_equal(
        read(tmp_path, stale[:22] + bytes([0, 0, 9, 9]) + content[26:] + content)[-9:], whole[-9:]
    )
    assert "truncated" in reason(tmp_path, content[:22] + bytes([0, 0, 9, 9]) + content[26 : len(content) // 2])


@pytest.mark.parametrize(
    ("kind", "size"), [("WAV", 0x7FFFF000), ("AIFF", 0x7F000008), ("AIFF", 8), ("AU", 0xFFFFFFFF), ("AU", 3 * 10**9)]
)
def test_a_size_near_2_gib_or_none_loses_nothing_of_3_gb(tmp_path, kind, size):
    head = bytearray(written(WAVE[:0], 48000, format=kind))
    at = 8 if kind == "AU" else head.index(b"data" if kind == "WAV" else b"SSND") + 4
    order = "<" if kind == "WAV" else ">"
    head[at : at + 4] = struct.pack(order + "I", size)
    with (tmp_path / "x").open("wb") as file:  # sparse
        file.write(head)
        file.seek(3 * 10**9 - 4, os.SEEK_CUR)
        file.write(struct.pack(order + "hh", 1000, 2000))
    assert audio.info(tmp_path / "x").seconds == 3 * 10**9 / 2 / 48000
    last = list(audio.pieces(tmp_path / "x", begin_seconds=3 * 10**9 / 2 / 48000 - 1))[-1]
    assert (last.wave[-2:] * 32768).tolist() == [1000, 2000]


def test_scraps_behind_the_sound_are_no_sound(tmp_path):
    for kind in ("WAV", "CAF", "AIFF"):
        content = written(format=kind, subtype="PCM_16")
        for behind in (b"\0" * 3000, b"\1\2\3", b"free" + bytes(100), b"TAG" + bytes(125)):
            np.testing.assert_array_equal(read(tmp_path, content + behind), decoded(content))
    assert "truncated" in reason(tmp_path, written(format="WAV") + written(format="WAV")[:-3000])  # a second file, cut


@pytest.mark.parametrize(("sizes", "behind"), [("wrapped", b""), ("wrapped", b"LIST\x04\0\0\0abcd"), ("unknown", b"")])
def test_wav_beyond_4_gib(tmp_path, behind, sizes):
    header, length = written(WAVE[:0], 48000, format="WAV")[:44], 5 * 10**9
    riff, data = ((36 + length + len(behind)) % 2**32, length % 2**32) if sizes == "wrapped" else 2 * (0xFFFFFFFF,)
    path = tmp_path / "x.wav"
    with path.open("wb") as file:  # sparse
        file.write(header[:4] + struct.pack("<I", riff) + header[8:40] + struct.pack("<I", data))
        file.seek(44 + length - 4)
        file.write(struct.pack("<hh", 1000, 2000) + behind)
    assert audio.info(path).seconds == length / 2 / 48000
    last = list(audio.pieces(path, begin_seconds=length / 2 / 48000 - 1))[-1]
    assert (last.wave[-2:] * 32768).tolist() == [1000, 2000]


def test_aiff_and_caf_of_unknown_length(tmp_path):
    content = bytearray(written(format="AIFF"))
    at = content.index(b"SSND")
    content[at + 4 : at + 8] = struct.pack(">I", 0x7F000008)
    np.testing.assert_array_equal(read(tmp_path, bytes(content)), decoded(written(format="AIFF")))
    content = bytearray(written(format="CAF", subtype="PCM_16"))
    at = content.index(b"data")
    content[at + 4 : at + 12] = b"\xff" * 8
    np.testing.assert_array_equal(read(tmp_path, bytes(content)), decoded(written(format="CAF", subtype="PCM_16")))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_damaged_in_any_page_is_named(tmp_path, subtype):
    content = written(rate=48000, format="OGG", subtype=subtype)
    for share in (0.5, 0.98):
        damaged = bytearray(content)
        damaged[int(share * len(content))] ^= 1
        assert "damaged at" in reason(tmp_path, bytes(damaged))
    first, last = content.find(b"OggS", len(content) // 2), content.rfind(b"OggS")
    if first < last:
        gone = content[:first] + content[content.find(b"OggS", first + 4) :]
        assert "a page is missing" in reason(tmp_path, gone)


def test_a_damaged_mp3_is_named_with_its_second(tmp_path, capfd):
    content = bytearray(mp3())
    content[len(content) // 2 : len(content) // 2 + 2000] = b"\x55" * 2000
    assert "damaged at 1." in reason(tmp_path, bytes(content))
    assert capfd.readouterr().err == ""


# The second decoder

CODINGS = {
    "wavpack": (("wv", "wavpack"), {"sample_format": "s16p"}),
    "alac": (("mov", "alac"), {"sample_format": "s16p"}),
    "alac in caf": (("caf", "alac"), {"sample_format": "s16p"}),
    "flac in ogg": (("ogg", "flac"), {"sample_format": "s16"}),
    "flac in matroska": (("matroska", "flac"), {"sample_format": "s16"}),
    "true audio": (("tta", "tta"), {"sample_format": "s16"}),
}


@pytest.mark.parametrize("kind", CODINGS)
def test_lossless_codings_exactly(tmp_path, kind):
    of, how = CODINGS[kind]
    expected = np.round(WAVE.astype(np.float64) * 32768).astype(np.int16) / np.float32(32768)
    np.testing.assert_array_equal(read(tmp_path, by_ffmpeg(*of, **how)), expected)


def test_flac_of_32_bits(tmp_path):
    how = {"sample_format": "s32", "codec_options": {"strict": "experimental"}}
    content = by_ffmpeg("flac", "flac", **how)
    np.testing.assert_allclose(read(tmp_path, content), WAVE, atol=1e-7)


@pytest.mark.parametrize(("of", "late"), [(("mp4", "aac"), 0), (("adts", "aac"), 1024), (("webm", "libopus"), 0)])
def test_lossy_codings(tmp_path, of, late):
    rate = 48000 if of[1] == "libopus" else RATE
    found = read(tmp_path, by_ffmpeg(*of, rate=rate, sample_format="s16" if rate == 48000 else "fltp"))
    assert offset(found, WAVE) == late
    assert abs(len(found) - late - len(WAVE)) < (1 if of[0] == "mp4" else 2048)


@pytest.mark.parametrize("container", ["webm", "mp4"])
@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
def test_the_delay_of_opus_is_left_out_at_every_rate(tmp_path, rate, container):
    content = by_ffmpeg(container, "libopus", wave=WAVE[: rate + 1], rate=rate, sample_format="s16")
    found = read(tmp_path, content)[:: 48000 // rate]
    assert rate + 1 - (container == "mp4") <= len(found) <= rate + 1  # its edit list counts milliseconds
    assert offset(found, WAVE[: rate + 1]) == 0


@pytest.mark.parametrize("coding", ["wmav1", "wmav2"])
@pytest.mark.parametrize("rate", [16000, 22050, 32000, 44100])
def test_wma_is_heard_from_its_first_sample(tmp_path, rate, coding):
    found = read(tmp_path, by_ffmpeg("asf", coding, wave=WAVE[: 2 * rate + 1], rate=rate, codec_options={"b": "96000"}))
    assert 2 * rate + 1 <= len(found) < 2 * rate + 1 + 4096
    assert offset(found, WAVE[: 2 * rate + 1]) == 0
    assert np.corrcoef(found[:2000], WAVE[:2000])[0, 1] > 0.9


def test_alac_in_caf_whose_table_counts_whole_packets_is_whole(tmp_path):
    content = bytearray(by_ffmpeg("caf", "alac", sample_format="s16p"))
    at = content.index(b"pakt") + 12
    packets = int.from_bytes(content[at : at + 8], "big")
    content[at + 8 : at + 16] = struct.pack(">q", 4096 * packets)
    content[at + 20 : at + 24] = bytes(4)  # no remainder
    assert 4096 * packets - len(WAVE) > 2304
    np.testing.assert_array_equal(
        read(tmp_path, bytes(content)), read(tmp_path, by_ffmpeg("caf", "alac", sample_format="s16p"), "y")
    )
    assert audio.info(tmp_path / "x").seconds == 3


# What is whole of a damaged sound


def test_an_opus_that_libsndfile_stops_in_is_read_to_its_end_where_its_pages_are_whole(tmp_path, monkeypatch):
    content = written(rate=48000, format="OGG", subtype="OPUS")
    whole, original = read(tmp_path, content), decoders._Sndfile._read_into

    def stopping(self, file, block):
        return (0, "malformed") if self._at >= 100_000 else original(self, file, block[: 100_000 - self._at])

    monkeypatch.setattr(decoders._Sndfile, "_read_into", stopping)
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 50_000)
    np.testing.assert_allclose(read(tmp_path, content), whole, atol=1e-4)
    monkeypatch.setattr(decoders, "has_ffmpeg", lambda: False)
    assert "damaged at 2.08 s (malformed)" in reason(tmp_path, content)


def test_what_is_whole_before_damage_is_read_where_it_is_excused(tmp_path):
    content = written(format="FLAC")
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 0x55
    ogg = bytearray(written(rate=48000, format="OGG", subtype="VORBIS"))
    ogg[int(0.6 * len(ogg))] ^= 1
    broken = {
        "damaged at": [bytes(damaged), bytes(ogg)],
        "truncated": [content[: len(content) // 2], written(format="WAV")[:100000], mp3()[:15000]],
    }
    for words, contents in broken.items():
        for content in contents:
            path, told = tmp_path / "x", []
            path.write_bytes(content)
            rate = RATE
            given = {"sample_rate_hz": rate, "excuse": lambda *what, told=told: told.append(what)}
            for seconds in (None, 0.25):
                with pytest.raises(AudioError, match=words):
                    audio.read(path, sample_rate_hz=rate)
                wave = audio.read(path, seconds=seconds, **given)
                assert words in told[-1][0]
                assert 0 < len(wave) / rate <= told[-1][1] + 0.1 <= 3
            windows = list(audio.read_windows(path, seconds=0.4, **given))
            assert windows[-1][0] / rate + 0.4 == pytest.approx(told[-1][1], abs=0.1)


def test_what_follows_a_damaged_page_is_not_joined_to_what_is_before(tmp_path):
    content = written(rate=48000, format="OGG", subtype="VORBIS")
    whole, told, damaged = read(tmp_path, content), [], bytearray(content)
    damaged[len(content) // 2] ^= 1
    (tmp_path / "x").write_bytes(damaged)
    wave = audio.read(tmp_path / "x", sample_rate_hz=48000, excuse=lambda *what: told.append(what))
    assert "a damaged page" in told[0][0]
    assert 0 < len(wave) < len(whole)
    np.testing.assert_array_equal(wave, whole[: len(wave)])


def test_no_joined_sound_is_heard_behind_a_damaged_one(tmp_path):
    content = bytearray(written(format="FLAC"))
    content[len(content) // 2] ^= 0x55
    told = []
    (tmp_path / "x").write_bytes(bytes(content) + written(format="FLAC"))
    wave = audio.read(tmp_path / "x", sample_rate_hz=RATE, excuse=lambda *what: told.append(what))
    assert told[0][0].startswith("damaged at 1.")
    assert 0 < len(wave) < len(WAVE)
    np.testing.assert_array_equal(wave, decoded(written(format="FLAC"))[: len(wave)])


def test_nothing_is_excused_where_nothing_was_read(tmp_path):
    for content in (written(format="WAV")[:44], b"\0" * 5000, written(format="OGG", subtype="VORBIS")[:300]):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(AudioError):
            audio.read(tmp_path / "x", sample_rate_hz=RATE, excuse=lambda what, seconds: None)


@pytest.mark.parametrize("kind", ["VORBIS", "OPUS", "MPEG_LAYER_III", "PCM_24", "FLAC"])
def test_both_decoders_give_the_same_samples(tmp_path, kind, monkeypatch):
    of = {"VORBIS": "OGG", "OPUS": "OGG", "MPEG_LAYER_III": "MP3", "PCM_24": "WAV", "FLAC": "FLAC"}[kind]
    content = written(rate=48000, format=of, **({} if kind == "FLAC" else {"subtype": kind}))
    one = read(tmp_path, content)
    monkeypatch.setattr(decoders, "_Sndfile", _refusing)
    other = read(tmp_path, content)
    assert len(one) == len(other)
    np.testing.assert_allclose(one, other, atol=0 if kind in ("PCM_24", "FLAC") else 1e-4)


def test_no_share_of_a_long_sound_is_forgiven(tmp_path, monkeypatch):
    class Promising(decoders._Sndfile):
        def __init__(self, descriptor, link):
            super().__init__(descriptor, link)
            self.frames += 3000

    monkeypatch.setattr(decoders, "_Sndfile", Promising)
    content = written(np.tile(WAVE, 3), format="WAV")
    assert "truncated: 399900 samples expected, 396900 decoded" in reason(tmp_path, content)


def _refusing(descriptor, link):
    raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("of", "how", "words"),
    [
        (("mov", "alac"), {"sample_format": "s16p"}, "an MP4 file (ALAC)"),
        (("mp4", "aac"), {}, "an MP4 file (AAC)"),
        (("caf", "alac"), {"sample_format": "s16p"}, "a CAF file (ALAC)"),
        (("ogg", "flac"), {"sample_format": "s16"}, "an Ogg file (FLAC)"),
        (("webm", "libopus"), {"rate": 48000, "sample_format": "s16"}, "a Matroska or WebM file (Opus)"),
        (("wv", "wavpack"), {"sample_format": "s16p"}, "a WavPack file"),
        (("mpegts", "aac"), {}, "an MPEG transport stream"),
    ],
)
def test_without_the_extra_the_coding_and_the_remedy_are_named(tmp_path, monkeypatch, of, how, words):
    content = by_ffmpeg(*of, **how)
    monkeypatch.setattr(decoders, "has_ffmpeg", lambda: False)
    assert reason(tmp_path, content).startswith(words)
    assert "pip install 'earsight[formats]'" in reason(tmp_path, content)


@pytest.mark.parametrize("kept", [30, 60, 1000])
def test_a_cut_file_in_a_coding_that_libsndfile_reads_is_called_cut(tmp_path, monkeypatch, kept):
    for extra in (True, False):
        monkeypatch.setattr(decoders, "has_ffmpeg", lambda extra=extra: extra)
        for kind in ({"format": "CAF", "subtype": "PCM_16"}, {"format": "CAF", "subtype": "ULAW"}):
            assert reason(tmp_path, written(**kind)[:kept]).startswith("truncated or damaged sound (")


@pytest.mark.parametrize(
    ("of", "sample_format", "name"),
    [
        (("nut", "pcm_s16le"), "s16", "a NUT file"),
        (("sox", "pcm_s32le"), "s32", "a SoX file"),
        (("wtv", "ac3"), "fltp", "a recording of television (WTV)"),
    ],
)
def test_a_container_that_is_not_read_is_named_with_what_converts_it(tmp_path, of, sample_format, name):
    content = by_ffmpeg(*of, sample_format=sample_format)
    assert reason(tmp_path, content) == f"{name}: convert it with `ffmpeg -i IN OUT.wav` to WAV or FLAC"
    assert reason(tmp_path, content[:3000]).startswith(f"{name}: ")
    truehd = bytes(4) + b"\xf8\x72\x6f\xba" + content[:3000]
    assert reason(tmp_path, truehd).startswith("a TrueHD or MLP stream: convert it with `ffmpeg")


def test_an_iff_file_of_a_kind_that_is_not_read_is_named(tmp_path):
    header = (0x35D80).to_bytes(4, "big") + bytes([0, 16, 0, 16, 0, 0, 0xAC, 0x44]) + bytes(20)
    content = b"FORM\0\0\x10\0MAUDMHDR\0\0\0\x20" + header + b"MDAT\0\0\x0f\0" + bytes(range(256)) * 15
    assert reason(tmp_path, content) == "an IFF file ('MAUD'): convert it with `sox IN OUT.wav` if it is a sound"


def test_files_that_need_the_extra_are_counted(monkeypatch):
    names = ["a.wav", "b.M4A", "c.m4a", "d.webm"]
    assert decoders.needing_extra(names) == ""
    monkeypatch.setattr(decoders, "has_ffmpeg", lambda: False)
    assert decoders.needing_extra(names).startswith("3 files (.m4a 2, .webm 1)")
    assert decoders.needing_extra(["a.wav"]) == ""


# What decoders print


def test_equal_lines_are_printed_once_under_the_files_name(caplog, monkeypatch):
    monkeypatch.setattr(library_output, "_seen", defaultdict(set))
    library_output.report("a.mp3", {"resync at 5": 20})
    for _ in range(2):  # as a file that is read twice
        library_output.report("b.mp3", {"resync at 7": 1})
    assert [record.getMessage() for record in caplog.records] == [
        "earsight: a.mp3: its decoder says: resync at 5 (20 times)"
    ]
    library_output._sum_up()
    assert "1 more file: the decoder says: resync at #" in caplog.text


def test_what_c_writes_is_caught_in_its_own_thread_alone(capfd):
    import ctypes
    import threading

    library = ctypes.CDLL(None)

    def write(text):
        library.fputs(text, ctypes.c_void_p.in_dll(library, "stderr"))

    with library_output.listening() as lines:
        write(b"mine\n")
        other = threading.Thread(target=write, args=(b"theirs\n",))
        other.start()
        other.join()
        os.write(2, b"python\n")
    write(b"after\n")
    library.fflush(None)
    assert lines == ["mine"]
    assert sorted(capfd.readouterr().err.split()) == ["after", "python", "theirs"]
