"""Damage midway in what FFmpeg reads: named with its second; lengths that containers tell, to the frame."""

from __future__ import annotations

import io
import os
import random
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from codings import RATE, WAVE, by_ffmpeg

from earsight.data import audio, containers, decoders, ffmpeg, films
from earsight.errors import AudioError

LONG = np.tile(WAVE, 4)  # 12 s
# Container and coding, how it is written, and whether the file's length says that bytes at its end are missing.
KINDS = {
    "AAC in M4A": (("mp4", "aac"), {}),
    "AAC in fragments": (("mp4", "aac"), {"options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}}),
    "AAC in ADTS": (("adts", "aac"), {}),
    "AAC in MPEG-TS": (("mpegts", "aac"), {}),
    "MP2 in MPEG-TS": (("mpegts", "mp2"), {"sample_format": "s16"}),
    "AC-3 in MPEG-TS": (("mpegts", "ac3"), {}),
    "MP2 in MPEG-PS": (("mpeg", "mp2"), {"sample_format": "s16"}),
    "Opus in WebM": (("webm", "libopus"), {"rate": 48000, "sample_format": "s16"}),
    "Opus in live WebM": (("webm", "libopus"), {"rate": 48000, "sample_format": "s16", "options": {"live": "1"}}),
    "AAC in Matroska": (("matroska", "aac"), {}),
    "FLAC in Matroska": (("matroska", "flac"), {"sample_format": "s16"}),
    "WMA 2": (("asf", "wmav2"), {"codec_options": {"b": "96000"}}),
    "WMA 1": (("asf", "wmav1"), {"codec_options": {"b": "96000"}}),
    "AC-3": (("ac3", "ac3"), {}),
    "E-AC-3": (("eac3", "eac3"), {}),
    "WavPack": (("wv", "wavpack"), {"sample_format": "s16p"}),
    "True Audio": (("tta", "tta"), {"sample_format": "s16"}),
    "AAC in FLV": (("flv", "aac"), {}),
    "MP3 in FLV": (("flv", "libmp3lame"), {"sample_format": "s16p"}),
    "AC-3 in RealMedia": (("rm", "ac3"), {}),
}


@pytest.fixture(scope="module")
def made():
    """The bytes of a kind, written once."""
    kept = {}

    def bytes_of(kind):
        if kind not in kept:
            of, how = KINDS[kind]
            kept[kind] = by_ffmpeg(*of, wave=LONG, **how)
        return kept[kind]

    return bytes_of


def seconds_of(kind):
    return len(LONG) / KINDS[kind][1].get("rate", RATE)


def read(path, content):
    path.write_bytes(content)
    found = audio.info(path)
    wave = audio.read(path, sample_rate_hz=found.sample_rate_hz)
    assert found.seconds == len(wave) / found.sample_rate_hz
    return wave


def reason(path, content):
    with pytest.raises(AudioError) as caught:
        read(path, content)
    with pytest.raises(AudioError) as again:  # whoever reads windows learns it too
        list(audio.read_windows(path, sample_rate_hz=8000, seconds=1.0))
    assert again.value.reason == caught.value.reason
    return caught.value.reason


def overwritten(content, *, noise):
    half = len(content) // 2
    return content[:half] + (random.Random(1).randbytes(2000) if noise else bytes(2000)) + content[half + 2000 :]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read_whole(tmp_path, made, kind):
    rate = KINDS[kind][1].get("rate", RATE)
    wave = read(tmp_path / "x", made(kind))
    assert 0 <= len(wave) - len(LONG) < 4096
    late = 48 * rate // 1000
    assert np.corrcoef(wave[late:-4096], LONG[late : len(wave) - 4096])[0, 1] > 0.9 or kind not in (
        "WMA 2",
        "AAC in M4A",
    )


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_midway_is_named_with_its_second(tmp_path, made, kind, noise):
    found = reason(tmp_path / "x", overwritten(made(kind), noise=noise))
    assert found.startswith("damaged at ")
    assert float(found.split()[2]) == pytest.approx(seconds_of(kind) / 2, abs=0.8)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"AAC in M4A", "AAC in fragments"}))
def test_bytes_that_are_gone_midway_are_named_with_their_second(tmp_path, made, kind):
    content = made(kind)
    found = reason(tmp_path / "x", content[: len(content) // 2] + content[len(content) // 2 + 3000 :])
    assert found.startswith("damaged at ")
    assert float(found.split()[2]) == pytest.approx(seconds_of(kind) / 2, abs=0.8)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_damage_behind_what_is_asked_for_is_passed_over(tmp_path, made, kind):
    rate = KINDS[kind][1].get("rate", RATE)
    whole = read(tmp_path / "x", made(kind))[: 2 * rate]
    (tmp_path / "x").write_bytes(overwritten(made(kind), noise=True))
    np.testing.assert_array_equal(audio.read(tmp_path / "x", sample_rate_hz=rate, seconds=2), whole)
    with pytest.raises(AudioError, match="damaged at"):
        audio.read(tmp_path / "x", sample_rate_hz=rate, seconds=10)


@pytest.mark.parametrize("kind", ["AAC in M4A", "AAC in fragments"])
def test_bytes_that_are_gone_before_the_index_are_not_called_cut(tmp_path, made, kind):
    content = made(kind)
    found = reason(tmp_path / "x", content[: len(content) // 2] + content[len(content) // 2 + 3000 :])
    assert found.startswith("damaged (3000 bytes of it are gone)")
    with pytest.raises(AudioError, match="3000 bytes of it are gone"):  # nothing tells whether it is behind this
        audio.read(tmp_path / "x", sample_rate_hz=RATE, seconds=1)


@pytest.mark.parametrize("share", [0.5, 0.93, 1.0])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"True Audio", "AC-3 in RealMedia"}))
def test_a_cut_file_is_called_truncated(tmp_path, made, kind, share):
    content = made(kind)
    assert reason(tmp_path / "x", content[: int(share * len(content)) - 177]).startswith("truncated")


@pytest.mark.parametrize("kind", ["AC-3", "E-AC-3", "FLAC in Matroska", "WavPack", "True Audio"])
def test_a_changed_byte_is_named_where_packets_have_checksums(tmp_path, made, kind):
    content = bytearray(made(kind))
    content[len(content) // 2] ^= 0x55
    assert reason(tmp_path / "x", bytes(content)).startswith("damaged at ")


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("kind", ["AAC in MPEG-TS", "Opus in WebM", "WMA 1", "WMA 2"])
def test_what_is_whole_before_damage_is_that_of_the_whole_file(tmp_path, made, kind, gone):
    rate = KINDS[kind][1].get("rate", RATE)
    content, told = made(kind), []
    whole, half = read(tmp_path / "x", content), len(content) // 2
    (tmp_path / "x").write_bytes(content[:half] + content[half + 3000 :] if gone else overwritten(content, noise=True))
    wave = audio.read(tmp_path / "x", sample_rate_hz=rate, excuse=lambda *what: told.append(what))
    assert len(wave) / rate == pytest.approx(told[0][1], abs=1e-6)
    assert len(wave) / rate == pytest.approx(seconds_of(kind) / 2, abs=0.8)
    np.testing.assert_array_equal(wave, whole[: len(wave)])


def without(content, container, begin, end):
    """A file whose packets of some seconds were left out by whoever wrote it."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(buffer, "w", format=container) as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None and not begin <= packet.dts * packet.time_base < end:
                packet.stream = stream
                out.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "container"), [("Opus in WebM", "webm"), ("AAC in FLV", "flv"), ("WMA 2", "asf")])
def test_a_gap_in_the_timestamps_is_named(tmp_path, made, kind, container):
    read(tmp_path / "x", without(made(kind), container, 99, 99))
    found = reason(tmp_path / "x", without(made(kind), container, 4, 6.5))
    assert found.startswith("damaged at ")
    assert float(found.split()[2]) == pytest.approx(4, abs=0.1)
    assert " s of sound are missing" in found


@pytest.mark.parametrize("kind", ["WMA 1", "WMA 2"])
def test_a_wma_damaged_or_cut_midway_is_named(tmp_path, made, kind):
    content, whole = made(kind), read(tmp_path / "x", made(kind))
    middle, seconds, excused = len(content) // 2, len(whole) / RATE / 2, list[float]()
    for damaged in (
        content[:middle] + b"\x55" * 4000 + content[middle + 4000 :],
        content[:middle] + bytes(8000) + content[middle + 8000 :],
        content[:middle] + content[middle + 1000 :],
    ):
        found = reason(tmp_path / "x", damaged)
        assert found.startswith("damaged at ")
        assert found.split(" s ", 1)[1].startswith("(bytes that are no packet)")
        assert float(found.split()[2]) == pytest.approx(seconds, abs=0.6)
        heard = audio.read(tmp_path / "x", sample_rate_hz=RATE, excuse=lambda why, at: excused.append(at))
        np.testing.assert_array_equal(heard, whole[: len(heard)])
        assert len(heard) == pytest.approx(excused[-1] * RATE)
        assert excused[-1] == pytest.approx(seconds, abs=0.6)
    for cut in (1, 3200, middle):
        assert f"truncated: {cut} byte" in reason(tmp_path / "x", content[:-cut])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.endswith(("in FLV", "in RealMedia"))])
def test_joined_streams_are_heard_one_after_the_other(tmp_path, made, kind):
    content = made(kind)
    alone = read(tmp_path / "x", content)
    # Program streams and fragments join without a seam: the delay of the second's encoder stays.
    assert len(read(tmp_path / "y", content + content)) == pytest.approx(2 * len(alone), abs=2304)
    if kind in ("AAC in M4A", "True Audio", "WMA 2"):
        assert "truncated" in reason(tmp_path / "y", content + content[: len(content) // 2])


@pytest.mark.parametrize("kind", ["AAC in FLV", "MP3 in FLV", "AC-3 in RealMedia"])
def test_a_second_file_that_no_decoder_hears_is_named(tmp_path, made, kind):
    content = made(kind)
    found = reason(tmp_path / "x", content + content)
    assert found.startswith("damaged at 11.9")
    assert "a second file begins" in found or kind.endswith("RealMedia")


def laced(webm, count):
    """A live WebM file whose blocks hold so many packets each, as mkvmerge writes them: all but the first untimed."""
    out, at, held = [], 0, []

    def flush():
        if held:
            sizes = b"".join(b"\xff" * (len(one[4:]) // 255) + bytes([len(one[4:]) % 255]) for one in held[:-1])
            body = (
                held[0][:3]
                + bytes([held[0][3] | 2])
                + bytes([len(held) - 1])
                + sizes
                + b"".join(one[4:] for one in held)
            )
            out.append(b"\xa3\x01" + len(body).to_bytes(7, "big") + body)
            held.clear()

    while at < len(webm):
        name, width = films._ebml(webm[at : at + 4], marked=True)
        length, more = films._ebml(webm[at + width : at + width + 8])
        end = at + width + more + (0 if name in films._MASTERS else length)
        if name == films._SIMPLE_BLOCK:
            held.append(webm[at + width + more : end])
            if len(held) == count:
                flush()
        else:
            flush()
            unknown = b"\x01" + b"\xff" * 7
            out.append(webm[at : at + width] + unknown if name in films._MASTERS else webm[at:end])
        at = end
    flush()
    return b"".join(out)


def test_blocks_of_several_packets_have_no_gaps(tmp_path, made):
    content = made("Opus in live WebM")
    several = laced(content, 4)
    assert len(several) != len(content)
    found, expected = read(tmp_path / "x", several), read(tmp_path / "y", content)
    np.testing.assert_array_equal(found[:400_000], expected[:400_000])
    assert abs(len(found) - len(expected)) < 960


def test_tags_between_joined_streams_are_no_cut(tmp_path, made):
    """As the parts of a broadcast come, each with a tag in front."""
    content = made("AAC in ADTS")
    part = b"ID3\x04\0\0\0\0\0\x3f" + bytes(63) + content
    alone = read(tmp_path / "x", content)
    assert len(read(tmp_path / "y", part + part)) == 2 * len(alone)


def test_a_cut_m4a_or_avi_and_a_caf_that_lacks_bytes_are_named_as_what_they_are(tmp_path):
    # With the index first, as for streaming: its places of the sound are moved by its own length.
    m4a = by_ffmpeg("mp4", "aac")
    at, index = m4a.index(b"mdat") - 4, bytearray(m4a[m4a.index(b"moov") - 4 :])
    place = index.index(b"stco") + 12
    for one in range(place, place + 4 * int.from_bytes(index[place - 4 : place], "big"), 4):
        index[one : one + 4] = struct.pack(">I", int.from_bytes(index[one : one + 4], "big") + len(index))
    whole, m4a = m4a, m4a[:at] + bytes(index) + m4a[at : -len(index)]
    np.testing.assert_array_equal(read(tmp_path / "x", m4a), read(tmp_path / "y", whole))
    assert reason(tmp_path / "x", m4a[:-77]).startswith("truncated: 77 bytes of its sound are missing; copy it again")
    avi = by_ffmpeg("avi", "libmp3lame", sample_format="s16p")
    assert abs(len(read(tmp_path / "x", avi)) - len(WAVE)) < 4096
    short = avi[: len(avi) * 2 // 3]
    missing = len(avi) - len(short)
    assert reason(tmp_path / "x", short).startswith(f"truncated: {missing} bytes of its sound are missing")
    caf = by_ffmpeg("caf", "alac", sample_format="s16p")
    at = caf.index(b"pakt")
    table = caf[at : at + 12 + int.from_bytes(caf[at + 4 : at + 12], "big")]
    behind = caf[: caf.index(b"data")] + caf[caf.index(b"data") : at] + table  # the table is the last
    assert reason(tmp_path / "x", behind[:5000] + behind[6000:]).startswith("damaged (1000 bytes of it are gone)")


class Late:
    """A container in which a stream begins midway: PyAV 18.1 then ends in an IndexError behind the last packet."""

    def __init__(self, container):
        self.container = container

    def __getattr__(self, name):
        return getattr(self.container, name)

    def demux(self, stream):
        yield from (packet for packet in self.container.demux(stream) if packet.size)
        raise IndexError


def test_streams_that_begin_midway_end_no_sound(tmp_path, made, monkeypatch):
    content, opened = made("AAC in FLV"), av.open
    whole = read(tmp_path / "x", content)
    monkeypatch.setattr(av, "open", lambda *given, **named: Late(opened(*given, **named)))
    np.testing.assert_array_equal(read(tmp_path / "y", content), whole)


class Gathered:
    """Three packets as one, which decodes to three frames, as those of Monkey's Audio do to many."""

    def __init__(self, packets):
        self.packets, self.pts, self.time_base = packets, packets[0].pts, packets[0].time_base
        self.size, self.duration = sum(one.size for one in packets), sum(one.duration for one in packets)
        self.is_corrupt = False

    def decode(self):
        return [frame for one in self.packets for frame in one.decode()]


class Gathering(Late):
    def demux(self, stream):
        packets = [packet for packet in self.container.demux(stream) if packet.size]
        yield from (Gathered(packets[at : at + 3]) for at in range(0, len(packets), 3))


def test_packets_of_several_frames_leave_no_gaps(tmp_path, made, monkeypatch):
    content, opened = made("AAC in FLV"), av.open
    whole = read(tmp_path / "x", content)
    monkeypatch.setattr(av, "open", lambda *given, **named: Gathering(opened(*given, **named)))
    np.testing.assert_array_equal(read(tmp_path / "y", content), whole[: len(read(tmp_path / "y", content))])
    assert len(whole) - len(read(tmp_path / "y", content)) < 2048  # what the decoder holds back at the end


@pytest.mark.parametrize("kind", ["AAC in M4A", "WavPack", "WMA 2"])
def test_parts_are_those_of_the_whole_though_no_seek_is_exact(tmp_path, made, kind):
    whole = read(tmp_path / "x", made(kind))
    spans = [(0.5, 1.0), (8.0, 9.25)]
    for (begin, end), part in zip(spans, audio.read_parts(tmp_path / "x", spans, sample_rate_hz=RATE), strict=True):
        np.testing.assert_array_equal(part, whole[round(begin * RATE) : round(end * RATE)])
    later = np.concatenate([piece.wave for piece in audio.pieces(tmp_path / "x", begin_seconds=8.0)])
    np.testing.assert_array_equal(later, whole[8 * RATE :])


@pytest.mark.parametrize(
    ("container", "codec", "kind"), [("mp4", "ac3", "fltp"), ("mp4", "eac3", "fltp"), ("avi", "pcm_s16le", "s16")]
)
def test_lengths_that_a_container_counts_otherwise_are_those_that_are_read(tmp_path, container, codec, kind):
    wave = WAVE[:100_001]
    assert abs(len(read(tmp_path / "x", by_ffmpeg(container, codec, wave=wave, sample_format=kind))) - len(wave)) < 2048


def by_iff(left, right, *, kind):
    """An 8SVX (1 byte a sample) or 16SV file of two channels, one behind the other, as sox writes it."""
    body = left.astype(kind).tobytes() + right.astype(kind).tobytes()
    head = struct.pack(">IIIHBBI", len(left), 0, 0, 8000, 1, 0, 0x10000)
    chunks = [(b"VHDR", head), (b"CHAN", struct.pack(">I", 6)), (b"BODY", body)]
    content = b"".join(name + struct.pack(">I", len(one)) + one for name, one in chunks)
    name = b"8SVX" if kind == "i1" else b"16SV"
    return b"FORM" + struct.pack(">I", 4 + len(content)) + name + content


@pytest.mark.parametrize(("kind", "full"), [("i1", 128), (">i2", 32768)])
def test_the_channels_of_stereo_8svx_are_heard_side_by_side(tmp_path, monkeypatch, kind, full):
    left, right = (np.round(full / 2 * np.sin(np.arange(9000) / one)) for one in (3, 40))
    content = by_iff(left, right, kind=kind)
    np.testing.assert_allclose(read(tmp_path / "x", content), (left + right) / 2 / full, atol=1e-6)
    assert reason(tmp_path / "x", content[:-900]).startswith("truncated: 900 bytes of its sound are missing")
    monkeypatch.setattr(decoders, "has_ffmpeg", lambda: False)
    assert reason(tmp_path / "x", content).startswith("an 8SVX file of two channels, which libsndfile does not read")


def test_the_second_of_damage_follows_the_timestamps_unit(tmp_path, made):
    content = overwritten(made("Opus in WebM"), noise=False)
    assert content.count(b"\x2a\xd7\xb1\x83\x0f\x42\x40") == 1
    halved = content.replace(b"\x2a\xd7\xb1\x83\x0f\x42\x40", b"\x2a\xd7\xb1\x83\x07\xa1\x20")
    seconds = []
    for one in (content, halved):
        (tmp_path / "x").write_bytes(one)
        with (tmp_path / "x").open("rb") as file:
            seconds.append(containers.survey(file.fileno()).damage[0])
    assert seconds[0] == pytest.approx(2 * seconds[1], abs=0.01)
    assert seconds[0] == pytest.approx(seconds_of("Opus in WebM") / 2, abs=0.8)


def test_damaged_speex_has_the_second_of_its_page(tmp_path):
    def page(body, granule, number):
        head = struct.pack("<4sBBqIIIB", b"OggS", 0, 2 if not number else 0, granule, 7, number, 0, 1) + bytes(
            [len(body)]
        )
        crc = containers._ogg_crc(head + body)
        return head[:22] + struct.pack("<I", crc) + head[26:] + body

    first = (b"Speex   " + bytes(28) + struct.pack("<I", 16000)).ljust(80, b"\0")
    content = bytearray(b"".join([page(first, 0, 0), *(page(b"a" * 200, 16000 * at, at) for at in range(1, 9))]))
    content[content.index(b"OggS", len(content) // 2) + 100] ^= 1
    (tmp_path / "x").write_bytes(content)
    with (tmp_path / "x").open("rb") as file:
        assert containers.survey(file.fileno()).damage == (4.0, "a damaged page")


# Lengths and offsets


@pytest.mark.parametrize("stated", [b"\x56\xaa\x83\x21\x0f\x8b", b"\xec\x84" + bytes(4)], ids=["a third", "none"])
def test_opus_in_webm_that_states_another_delay_begins_with_the_sound(tmp_path, stated):
    """ffmpeg 5.1 writes 2.17 ms for 6.5 ms where it encoded 16 kHz; the head of Opus has it right."""
    content = by_ffmpeg("webm", "libopus", rate=48000, sample_format="s16")
    right = b"\x56\xaa\x83" + (6_500_000).to_bytes(3, "big")
    assert content.count(right) == 1
    found = read(tmp_path / "x", content.replace(right, stated))
    np.testing.assert_array_equal(found, read(tmp_path / "y", content))


def test_raw_aac_in_wav_is_decoded_at_once_and_therefore_bounded(tmp_path, monkeypatch):
    content = by_ffmpeg("wav", "aac")
    assert abs(len(read(tmp_path / "x", content)) - len(WAVE)) < 4096
    monkeypatch.setattr(ffmpeg, "_BARE_AAC_BYTES", 1000)
    assert "raw AAC of " in reason(tmp_path / "x", content)


def test_transport_streams_of_camcorders_have_the_time_in_front_of_each_packet(tmp_path, made):
    content = by_ffmpeg("mpegts", "ac3", wave=LONG, options={"mpegts_m2ts_mode": "1"})
    assert (content[4], content[196]) == (0x47, 0x47)
    np.testing.assert_array_equal(read(tmp_path / "x", content), read(tmp_path / "y", made("AC-3 in MPEG-TS")))
    for gone in (1, 5, 191, 192 * 200):  # the last is cut between two packets
        assert reason(tmp_path / "x", content[:-gone]).startswith("truncated")


@pytest.mark.parametrize("frames", [11520, 46080, 46081, 69999])
def test_true_audio_in_matroska_is_read_to_its_last_sample(tmp_path, frames):
    wave = LONG[:frames]
    content = by_ffmpeg("matroska", "tta", wave=wave, sample_format="s16")
    expected = np.round(wave.astype(np.float64) * 32768).astype(np.int16) / np.float32(32768)
    np.testing.assert_array_equal(read(tmp_path / "x", content), expected)
    at = content.rindex(b"\x1c\x53\xbb\x6b") - 99  # in a block before the index
    flipped = content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]
    assert "packet" in reason(tmp_path / "x", flipped)


def test_voc_of_several_blocks(tmp_path):
    wave = np.round(WAVE.astype(np.float64) * 32768).astype(np.int16) / np.float32(32768)
    content = by_ffmpeg("voc", "pcm_s16le", sample_format="s16")
    np.testing.assert_array_equal(read(tmp_path / "x", content), wave)
    assert reason(tmp_path / "x", content[: len(content) * 2 // 3]).startswith("truncated")


@pytest.mark.parametrize(
    ("container", "subtype"), [("SVX", "PCM_16"), ("NIST", "PCM_16"), ("NIST", "ULAW"), ("VOC", "PCM_16")]
)
def test_old_containers_that_are_cut_are_named(tmp_path, container, subtype):
    buffer = io.BytesIO()
    soundfile.write(buffer, WAVE, 16000, format=container, subtype=subtype)
    content = buffer.getvalue()
    assert len(read(tmp_path / "x", content)) == len(WAVE)
    missing = len(content) - len(content) * 2 // 3
    found = reason(tmp_path / "x", content[: len(content) * 2 // 3])
    assert found.startswith("truncated: ")
    assert abs(int(found.split()[1]) - missing) < 32


def opus_in_caf(wave, *, priming, short=()):
    """A CAF file with Opus at 48 kHz; without priming its table is that of ffmpeg 5.1.

    The packets whose numbers are in ``short`` say that they are of 2.5 ms, not 20.
    """
    content = by_ffmpeg("ogg", "libopus", wave=wave, rate=48000, sample_format="s16")
    with av.open(io.BytesIO(content)) as source:
        packets = [bytes(packet) for packet in source.demux(source.streams.audio[0]) if packet.size]
    packets = [bytes([28 << 3 | one[0] & 7]) + one[1:] if at in short else one for at, one in enumerate(packets)]
    frames = 960 * len(packets)
    valid, remainder = (len(wave), frames - priming - len(wave)) if priming else (frames, 0)
    sizes = b"".join(
        bytes([0x80 | len(one) >> 7, len(one) & 127]) if len(one) > 127 else bytes([len(one)]) for one in packets
    )
    chunks = {
        b"desc": struct.pack(">d4s5I", 48000, b"opus", 0, 0, 960, 1, 0),
        b"pakt": struct.pack(">qqii", len(packets), valid, priming, remainder) + sizes,
        b"data": bytes(4) + b"".join(packets),
    }
    return b"caff\0\1\0\0" + b"".join(name + struct.pack(">q", len(body)) + body for name, body in chunks.items())


@pytest.mark.parametrize("samples", [1, 4095, 4096, 8193, 100_001])
def test_alac_and_opus_in_caf_to_the_frame(tmp_path, samples):
    wave = WAVE[:samples]
    expected = np.round(wave.astype(np.float64) * 32768).astype(np.int16) / np.float32(32768)
    found = read(tmp_path / "x", by_ffmpeg("caf", "alac", wave=wave, sample_format="s16p"))
    np.testing.assert_array_equal(found, expected)
    if samples > 8000:
        found = read(tmp_path / "y", opus_in_caf(wave, priming=312))
        assert len(found) == samples
        assert np.corrcoef(found, wave)[0, 1] > 0.95


def _with_table(caf, sizes, *, in_packet, valid):
    """A CAF file whose head and packet table say that every packet has so many frames, and no remainder."""
    at, head = caf.index(b"pakt"), caf.index(b"desc") + 12
    table = b"".join(bytes([0x80 | size >> 7, size & 127] if size > 127 else [size]) for size in sizes)
    whole = struct.pack(">qqii", len(sizes), valid, 0, 0) + table
    end = at + 12 + int.from_bytes(caf[at + 4 : at + 12], "big")
    content = bytearray(caf[:at] + b"pakt" + struct.pack(">q", len(whole)) + whole + caf[end:])
    content[head + 20 : head + 24] = struct.pack(">I", in_packet)
    return bytes(content)


def _sizes(caf, *, numbers):
    """Of each packet of a CAF file, the first of the ``numbers`` that its table holds for it."""
    at, found, value = caf.index(b"pakt"), [], 0
    for byte in caf[at + 36 : at + 12 + int.from_bytes(caf[at + 4 : at + 12], "big")]:
        value = value << 7 | byte & 127
        if byte < 128:
            found.append(value)
            value = 0
    return found[::numbers]


@pytest.mark.parametrize("samples", [1, 2500, 4608, 9217, 100_001])
def test_flac_in_caf_to_the_frame_also_where_its_table_counts_whole_packets(tmp_path, samples):
    wave = np.round(WAVE[:samples].astype(np.float64) * 32768).astype(np.int16)
    caf = by_ffmpeg("caf", "flac", wave=WAVE[:samples], sample_format="s16")
    sizes = _sizes(caf, numbers=2)
    assert sizes[-1] == 0  # behind the last one
    average = samples // (len(sizes) - 1)
    # As FFmpeg 5.1 writes it: each packet, the empty one too, has as many frames as the others on average.
    old = _with_table(caf, sizes, in_packet=average, valid=len(sizes) * average)
    for content in (caf, old):
        np.testing.assert_array_equal(read(tmp_path / "x", content), wave / np.float32(32768))
    lacking = _with_table(caf, [*sizes, 9], in_packet=4608, valid=(len(sizes) + 1) * 4608)
    assert "of sound are promised" in reason(tmp_path / "x", lacking)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_mp3_in_caf_is_whole_at_every_rate(tmp_path, rate):
    caf = by_ffmpeg("caf", "libmp3lame", wave=WAVE[:rate], rate=rate, sample_format="s16p")
    sizes, in_packet = _sizes(caf, numbers=1), 1152 if rate > 24000 else 576
    # FFmpeg 5.1 counts 1152 frames for each packet at any rate.
    old = _with_table(caf, sizes, in_packet=in_packet, valid=len(sizes) * 1152)
    assert len(read(tmp_path / "x", old)) == len(sizes) * in_packet
    assert 0 <= len(read(tmp_path / "y", caf)) - rate < 3 * 1152


def test_opus_in_caf_whose_table_tells_no_delay_begins_with_the_sound(tmp_path):
    found = read(tmp_path / "x", opus_in_caf(WAVE, priming=0))
    assert len(found) == (len(WAVE) + 312 + 959) // 960 * 960 - 312
    assert np.corrcoef(found[: len(WAVE)], WAVE)[0, 1] > 0.95


def test_a_packet_of_opus_in_caf_that_is_shorter_than_the_others_is_named(tmp_path):
    assert reason(tmp_path / "x", opus_in_caf(LONG, priming=312, short=[100])).startswith("damaged at 1.99 s")


def test_sound_that_the_table_of_a_caf_file_promises_and_that_is_not_there_is_named(tmp_path):
    content = bytearray(by_ffmpeg("caf", "alac", wave=WAVE[:44000], sample_format="s16p"))
    at = content.index(b"pakt") + 20
    assert int.from_bytes(content[at : at + 8], "big") == 44000
    content[at : at + 8] = struct.pack(">q", 54001)
    assert reason(tmp_path / "x", bytes(content)).startswith("damaged at 1.00 s (1.22 s of sound are promised)")


@pytest.mark.parametrize("samples", [9001, 44100, 132301])
def test_lengths_are_told_as_they_are_read(tmp_path, samples):
    wave = LONG[:samples]
    for container, coding in [("eac3", "eac3"), ("asf", "wmav2"), ("matroska", "aac"), ("flv", "aac")]:
        found = read(
            tmp_path / "x", by_ffmpeg(container, coding, wave=wave, codec_options={"b": "96000"})
        )  # `read` compares both lengths
        assert 0 <= len(found) - samples < 4096
    found = read(tmp_path / "x", by_ffmpeg("webm", "libopus", wave=wave, rate=48000, sample_format="s16"))
    assert len(found) == samples


# What stands between


@pytest.mark.parametrize("name", ["fltp", "s16p", "s32p", "u8p", "dblp", "flt", "s16"])
@pytest.mark.parametrize("layout", ["mono", "5.1", "7.1", "hexadecagonal"])
def test_samples_of_any_number_of_channels_and_any_format(layout, name):
    """Whatever PyAV's own conversion does with them."""
    kinds = {"flt": np.float32, "dbl": np.float64, "s16": np.int16, "s32": np.int32, "u8": np.uint8}
    kind = kinds[name.removesuffix("p")]
    frame = av.AudioFrame(format=name, layout=layout, samples=64)
    channels = len(frame.layout.channels)
    values = (np.arange(64 * channels) % 100).astype(kind).reshape(64, channels)
    for channel, plane in zip(range(channels if name.endswith("p") else 1), frame.planes, strict=False):
        content = values[:, channel] if name.endswith("p") else values
        plane.update(content.tobytes().ljust(plane.buffer_size, b"\0"))
    scale = {"s16": 2**15, "s32": 2**31, "u8": 2**7}.get(name.removesuffix("p"), 1)
    expected = (values.astype(np.float64) - (128 if kind is np.uint8 else 0)) / scale
    np.testing.assert_array_equal(ffmpeg._wave(frame), expected.astype(np.float32))


@pytest.mark.parametrize("kind", ["FLAC in Matroska", "WavPack"])  # FFmpeg 8.1 decodes WavPack in threads by default
def test_a_decoder_starts_no_threads(tmp_path, made, kind):
    (tmp_path / "x").write_bytes(made(kind))
    before = len(list(Path("/proc/self/task").iterdir()))
    descriptor = os.open(tmp_path / "x", os.O_RDONLY)
    decoder = decoders.open_decoder(descriptor, containers.survey(descriptor))
    decoder.read(1000)
    assert len(list(Path("/proc/self/task").iterdir())) == before
    decoder.close()
    os.close(descriptor)


@pytest.mark.parametrize("coding", ["pcm_s16le", "pcm_u8", "pcm_s24be", "pcm_f32le", "pcm_f64be"])
def test_of_a_pcm_layout_only_the_number_of_channels_counts(tmp_path, coding):
    """Layouts that list their channels may end the process in PyAV."""
    wave = np.round(np.stack([WAVE, WAVE[::-1], -WAVE, 0.5 * WAVE], axis=1) * 100) / 128
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as out:
        stream = out.add_stream(coding, rate=RATE, layout="quad")
        frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1).astype(np.float32), format="flt", layout="quad")
        frame.sample_rate = RATE
        for part in av.AudioResampler(format=stream.format, layout="quad", rate=RATE).resample(frame):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    (tmp_path / "x.mov").write_bytes(buffer.getvalue())
    descriptor = os.open(tmp_path / "x.mov", os.O_RDONLY)
    try:
        decoder = decoders.open_decoder(descriptor, containers.survey(descriptor))
        found = decoder.read(len(wave) + 1)
        assert decoder._container.streams.audio[0].codec_context.layout.name == "4.0"
        decoder.close()
    finally:
        os.close(descriptor)
    np.testing.assert_allclose(found, wave, atol=1e-6)
