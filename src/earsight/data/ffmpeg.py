"""FFmpeg's decoders, by PyAV (the extra `formats`): the first stream with sound of what libsndfile does not read.

Comes in: an open descriptor, the bytes that are one sound, and the demultiplexer for them. Goes out: float32 (frames,
channels), full scale at 1, without the encoder's delay and padding where the file tells them. Packets that do not
decode, checksums that fail and gaps in the timestamps end it, and are named.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from earsight.data.containers import Window
from earsight.data.frames import Link
from earsight.portable import read_at

Wave = npt.NDArray[np.float32]

_TAIL = 8192  # frames beyond the promised end that can be an encoder's padding
_BARE_AAC_BYTES = 1 << 22
_OPUS_DELAY = 312  # frames at 48 kHz
_PCM = re.compile(r"pcm_[usf](\d+)(le|be)?$")
_LAYOUTS = {3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}  # those of so many channels by FFmpeg
_LATE_SECONDS = 0.002  # by which rounded timestamps can err
CUT = "its last packet is cut or damaged"
"""What `Decoder.damage` says where nothing follows."""
# Demultiplexers that know how many frames there are, rather than guess it by the bit rate or round it to 1 ms.
_COUNTING = frozenset({"wv", "tta", "caf", "mov", "flac", "ape", "dsf", "iff", "wav", "aiff", "au", "w64", "tak"})
_EXACT = frozenset({"wv", "tta", "caf", "flac", "ape"})  # to the frame; others may promise two packets too much
_SLACK_FRAMES = 2304
_SAMPLES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}  # numpy's names
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
# Codings whose packets have checksums that FFmpeg looks at only where it is asked to.
_CHECKED = frozenset({"flac", "wavpack", "tta", "ac3", "eac3"})
_CHECKS = {"err_detect": "crccheck+explode"}
# FFmpeg's demultiplexers by the first bytes; none of them opens other files.
_DEMUXERS = {
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf", b"\x1a\x45\xdf\xa3": "matroska", b"#!AMR": "amr", b"MAC ": "ape",
    b"wvpk": "wv", b"TTA1": "tta", b"MPCK": "mpc8", b"MP+": "mpc", b"DSD ": "dsf", b"FRM8": "iff", b"tBaK": "tak",
    b".RMF": "rm", b"FLV\x01": "flv", b"\x0b\x77": "ac3", b"\x7f\xfe\x80\x01": "dts", b"\x00\x00\x01\xba": "mpeg",
    b"caff": "caf", b"fLaC": "flac", b"OggS": "ogg", b"FORM": "aiff", b".snd": "au", b"riff": "w64",
    b"Creative Voice File": "voc",
}  # fmt: skip


class Refused(Exception):  # noqa: N818
    """A file that no decoder at hand opens; ``wanting`` is true where the extra decoder might."""

    def __init__(self, detail: str, *, wanting: bool = False) -> None:
        super().__init__(detail)
        self.detail, self.wanting = detail, wanting


def demuxer_of(head: bytes) -> str | None:
    """The FFmpeg demultiplexer for a file's first bytes; None where the bytes are of no sound."""
    if head[:3] == b"ID3" and len(head) > 10:
        behind = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        return demuxer_of(head[behind:]) if behind + 2 < len(head) else "mp3"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "mov"
    if head[:4] in (b"RIFF", b"RF64", b"RIFX"):
        return {b"WAVE": "wav", b"AVI ": "avi"}.get(head[8:12])
    if head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV"):
        return "iff"
    # Of 188 bytes, or of 192 with the time in front, as camcorders write them.
    if len(head) > 196 and (head[0] == head[188] == 0x47 or head[4] == head[196] == 0x47):
        return "mpegts"
    if len(head) > 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if len(head) > 3 and head[0] == 0x56 and head[1] & 0xE0 == 0xE0:
        return "loas"
    if head[:2] == b"\x0b\x77" and len(head) > 6 and head[5] >> 3 > 10:
        return "eac3"
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3"
    return next((name for magic, name in _DEMUXERS.items() if head.startswith(magic)), None)


class FfmpegDecoder:
    """FFmpeg's decoders, by PyAV; the first stream with sound is read.

    ``joined``: frames of several FLACs, so that the length in the header is that of one.
    """

    def __init__(self, descriptor: int, link: Link, demuxer: str, detail: str, *, joined: bool = False) -> None:
        import av

        self._error = av.error.FFmpegError
        self.damage, self.notes = "", Counter[str]()
        try:
            self._container: Any = av.open(
                Window(descriptor, link), format=demuxer, metadata_errors="ignore", buffer_size=1 << 16
            )
        except (self._error, ValueError, OSError) as error:
            raise Refused(f"{detail}; FFmpeg: {_words(error)}") from error
        try:
            self._prepare(descriptor, link, demuxer, joined=joined)
        except (self._error, ValueError, OSError) as error:
            self._container.close()
            raise Refused(f"{detail}; FFmpeg: {_words(error)}") from error
        except Refused:
            self._container.close()
            raise

    def _prepare(self, descriptor: int, link: Link, demuxer: str, *, joined: bool) -> None:
        from av.codec.context import Flags2

        streams = self._container.streams.audio
        if not streams:
            raise Refused("it holds no sound")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise Refused("its coding is not known")
        context.thread_count = 1  # a service's decoding process may start no threads
        if (match := _PCM.match(context.name)) and context.bit_rate and context.sample_rate:
            # PyAV 18.1 may end the process where a layout lists its channels, also when it is asked how many there are.
            # Only that matters, so a plain layout of so many is put in its place.
            channels = context.bit_rate / (context.sample_rate * int(match[1]))
            if channels in _LAYOUTS:
                context.layout = _LAYOUTS[channels]
        self._skip, self._promised, counts, short = 0, 0, demuxer in _COUNTING and not joined, 0
        if context.name in ("ac3", "eac3") or (demuxer, context.name) == ("caf", "opus"):
            counts = False  # an MP4 file counts the encoder's delay otherwise than FFmpeg leaves it out
        context.options = _CHECKS if context.name in _CHECKED else {}
        if demuxer == "caf" and (trim := _caf_trim(descriptor, link, context.name)) is not None:
            # FFmpeg takes the remainder off twice where the last packet is short already.
            context.flags2 |= Flags2.skip_manual
            self._skip, self._promised, short = trim
            counts = not short
        if context.name in ("wmav1", "wmav2"):
            # FFmpeg leaves out two frames; the delay of some encoders, its own among them, is one.
            context.flags2 |= Flags2.skip_manual
            self._skip = _wma_frame(stream.rate, context.name)
        if demuxer == "wav" and context.name == "aac":
            self._frames, counts = _bare_aac(context, descriptor, link), False
        else:
            self._frames = self._decoded(stream, demuxer)
        first = next(self._frames, None)
        if first is None:
            raise Refused(self.damage or "it holds no sound")
        wave, self.rate_hz = first
        self.channels = wave.shape[1]
        self._fit = Fitter(self.rate_hz, self.channels)
        self._held: list[Wave] = [wave]
        self._ended = False
        self.format, self.coding = self._container.format.name.split(",")[0].upper(), context.name.upper()
        if counts and not self._promised and stream.duration is not None:
            length = round(float(stream.duration * stream.time_base) * self.rate_hz)
            self._promised = length if demuxer == "mov" else 0
            self.frames = max(0, length)
        else:
            self.frames = self._promised if counts else 0
        slack = 0 if demuxer in _EXACT else _SLACK_FRAMES
        self._at, self._fewest = 0, self._promised - short if short else self.frames - slack

    def _decoded(self, stream: Any, demuxer: str) -> Iterator[tuple[Wave, int]]:
        """Waves (frames, channels) with their rates, to the end or to what is damaged."""
        opus = demuxer in ("matroska", "mov") and stream.codec_context.name == "opus"
        ac3 = stream.codec_context.name in ("ac3", "eac3")
        measured = demuxer == "caf" and stream.codec_context.name == "opus"
        begin: float | None = None
        end: float | None = None
        flaw, seconds = "", 0.0
        for packet in self._demuxed(stream):
            if packet.size and flaw:
                break
            if opus and packet.size:
                # ffmpeg 5.1 writes the delay in the wrong unit; where there is none, FFmpeg goes by the head itself.
                head, opus = stream.codec_context.extradata or b"", False
                if packet.has_sidedata("skip_samples"):
                    cut = bytes(packet.get_sidedata("skip_samples"))[:4]
                    self._skip = max(0, int.from_bytes(head[10:12], "little") - int.from_bytes(cut, "little"))
            flaw = flaw or ("a damaged packet" if packet.is_corrupt else "")
            if ac3 and 0 < packet.size < _ac3_bytes(bytes(packet)[:6]):
                flaw = "a cut packet"  # FFmpeg fills it up
            if packet.size and packet.pts is not None:
                begin = float(packet.pts * packet.time_base)
                # Pages of Ogg are counted; a piece of one goes on at the time that it has in the whole.
                late = begin - end if end is not None and demuxer != "ogg" else 0.0
                if seconds and late > seconds + _LATE_SECONDS:
                    self.damage = f"{late:.2f} s of sound are missing"
                    return
            try:
                waves = [] if flaw else [(_wave(frame), int(frame.sample_rate)) for frame in packet.decode()]
            except (self._error, ValueError):
                waves = self._last_of_true_audio(stream.codec_context, bytes(packet)) if demuxer == "matroska" else []
                if not waves:
                    flaw = "a packet that does not decode"
                    continue
            # Where FFmpeg copied packets, it counts what none of Opus holds: some are 2.5 ms or a multiple.
            stated = packet.duration if measured and packet.size and not packet.duration % 120 else 0
            if sum(len(wave) for wave, _ in waves) < stated:
                flaw = "a packet that is too short"
                continue
            if waves:
                seconds = len(waves[-1][0]) / waves[-1][1]
            if packet.size:
                seconds = float((packet.duration or 0) * packet.time_base) or seconds
                begin = end if packet.pts is None else begin  # one that has no time follows the one before
                end = None if begin is None else begin + seconds
            yield from (one for one in waves if len(one[0]))
        else:
            # It is the last one.
            self.damage = self.damage or (CUT if flaw else "")
            return
        self.damage = flaw

    def _last_of_true_audio(self, context: Any, packet: bytes) -> list[tuple[Wave, int]]:
        """The last packet of True Audio in Matroska, which tells FFmpeg the length to a thousandth of a second alone.

        A packet decodes, and its checksum holds, at its own length only.
        """
        import av

        head = context.extradata or b""
        if context.name != "tta" or len(head) < 18:
            return []
        rate, length = struct.unpack_from("<II", head, 10)
        for off in range(2 * (rate // 1000 + 1) + 1):
            one: Any = av.CodecContext.create("tta", "r")
            one.options = _CHECKS
            stated = max(0, length + (off + 1) // 2 * (1 if off % 2 else -1))
            one.extradata = head[:14] + struct.pack("<I", stated) + head[18:]
            try:
                return [(_wave(frame), int(frame.sample_rate)) for frame in one.decode(av.Packet(packet))]
            except (self._error, ValueError):
                continue
        return []

    def _demuxed(self, stream: Any) -> Iterator[Any]:
        """The packets of a stream; where the container cannot be read on, that is the damage."""
        try:
            yield from self._container.demux(stream)
        except (self._error, ValueError) as error:
            self.damage = _words(error)
        except IndexError:
            # Behind the last packet PyAV 18.1 looks for streams that began midway among those of the head.
            return

    def read(self, frames: int) -> Wave:
        """See `earsight.data.decoders.Decoder`."""
        have = sum(map(len, self._held))
        # The end is held back until it is known whether it is padding.
        while not self._ended and have < frames + _TAIL + self._skip:
            found = next(self._frames, None)
            if found is None:
                self._held.append(self._fit.end())
                self._ended = True
            else:
                self._held.append(self._fit(*found))
            have += len(self._held[-1])
        wave = np.concatenate(self._held) if len(self._held) > 1 else self._held[0]
        wave, self._skip = wave[self._skip :], 0
        if self._ended and self._promised and 0 < self._at + len(wave) - self._promised < _TAIL:
            wave = wave[: max(0, self._promised - self._at)]
        out = wave[:frames]
        self._held = [wave[frames:]]
        self._at += len(out)
        if self._ended and len(out) < frames and self._at < self._fewest:
            self.damage = self.damage or f"{(self.frames or self._promised) / self.rate_hz:.2f} s of sound are promised"
        return np.ascontiguousarray(out)

    def seek(self, frame: int) -> int:
        """See `earsight.data.decoders.Decoder`."""
        return 0

    def close(self) -> None:
        """See `earsight.data.decoders.Decoder`."""
        self._frames.close()  # type: ignore[attr-defined]
        self._container.close()


def _wave(frame: Any) -> Wave:
    """A frame's samples as float32 (frames, channels), full scale at 1, as libsndfile scales them."""
    # Not `frame.to_ndarray`, which crashes on some frames in PyAV 18.1.
    channels, planes = len(frame.layout.channels), frame.planes
    kind = np.dtype(_SAMPLES[frame.format.packed.name])
    if frame.format.is_planar:
        parts = [np.frombuffer(planes[channel], kind, count=frame.samples) for channel in range(channels)]
        values: npt.NDArray[Any] = np.stack(parts, axis=1)
    else:
        values = np.frombuffer(planes[0], kind, count=frame.samples * channels).reshape(-1, channels)
    if kind.kind == "f":
        return np.array(values, dtype=np.float32)
    bits = 8 * kind.itemsize
    if kind.kind == "u":
        values = values.astype(np.int64) - 2 ** (bits - 1)
    return np.asarray(values, dtype=np.float32) * np.float32(2.0 ** (1 - bits))


def _ac3_bytes(head: bytes) -> int:
    """Bytes of the AC-3 or E-AC-3 frame that begins so."""
    if len(head) < 6 or head[:2] != b"\x0b\x77":
        return 0
    if head[5] >> 3 > 10:
        return 2 + 2 * ((head[2] & 7) << 8 | head[3])
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code >> 1 >= len(_AC3_KBITS):
        return 0
    kbits = _AC3_KBITS[code >> 1]
    return (4 * kbits, 2 * (320 * kbits // 147 + (code & 1)), 6 * kbits)[rate]


def _bare_aac(context: Any, descriptor: int, link: Link) -> Iterator[tuple[Wave, int]]:
    """The sound of a WAV file's raw AAC: nothing marks the ends of its frames but decoding them, all at once."""
    import av

    position = link.begin + 12
    while position + 8 <= link.end:
        name, length = struct.unpack("<4sI", read_at(descriptor, 8, position))
        if name == b"data":
            if length > _BARE_AAC_BYTES:
                raise ValueError(f"raw AAC of {length} bytes, more than {_BARE_AAC_BYTES}")
            frames = context.decode(av.Packet(read_at(descriptor, length, position + 8)))
            yield from ((_wave(frame), int(frame.sample_rate)) for frame in frames if frame.samples)
            return
        position += 8 + length + length % 2


def _caf_trim(descriptor: int, link: Link, coding: str) -> tuple[int, int, int] | None:
    """Frames of delay and valid ones by a CAF file's packet table, and by how many its last packet may be shorter."""
    position, in_packet = link.begin + 8, 0
    while position + 12 <= link.end:
        name, length = struct.unpack(">4sq", read_at(descriptor, 12, position))
        if name == b"desc" and length >= 32:
            (in_packet,) = struct.unpack(">I", read_at(descriptor, 4, position + 32))
        if name == b"pakt" and length >= 24:
            packets, valid, priming, remainder = struct.unpack(">qqii", read_at(descriptor, 24, position + 12))
            if coding == "opus" and (in_packet % 120 or valid > 5760 * packets):
                return None  # where FFmpeg copied packets into it: none of Opus lasts so long
            if coding == "opus" and not priming and not remainder and valid > _OPUS_DELAY and packets:
                # FFmpeg before 6 writes neither; the delay of libopus is always the same.
                return _OPUS_DELAY, valid - _OPUS_DELAY, 0
            if priming < 0 or valid <= 0:
                return None
            # FFmpeg takes 1152 frames for a packet of MP3, which at low rates has the 576 that the head says.
            most = packets * in_packet - priming
            valid = min(valid, most) if most > 0 and coding.startswith("mp3") else valid
            # It writes a table of whole packets for ALAC (before 6) and FLAC: the last may be shorter, FLAC's empty.
            whole = coding in ("alac", "flac") and valid == most and not remainder
            return priming, valid, in_packet - (coding == "alac") if whole else 0
        if length < 0:
            break
        position += 12 + length
    return None


def _wma_frame(rate_hz: int, coding: str) -> int:
    """Samples of a frame of WMA, by its rate."""
    if rate_hz <= 16000:
        return 512
    return 1024 if rate_hz <= (32000 if coding == "wmav1" else 22050) else 2048


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).split(":")[0].strip() or type(error).__name__


class Fitter:
    """Waves of changing rates and channels, fitted to those of the first."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        self._rate, self._channels, self._from = rate_hz, channels, rate_hz
        self._stream: Any = None

    def __call__(self, wave: Wave, rate_hz: int) -> Wave:
        """A wave (frames, channels) of some rate, as much of it as can be given yet."""
        if wave.shape[1] != self._channels:
            mono = wave if wave.shape[1] == 1 else wave.mean(axis=1, keepdims=True)
            wave = np.repeat(mono, self._channels, axis=1)
        if rate_hz == self._from and self._stream is None:
            return wave
        before = self.end() if rate_hz != self._from else None
        if rate_hz != self._rate and self._stream is None:
            import soxr

            self._stream = soxr.ResampleStream(rate_hz, self._rate, self._channels, dtype="float32", quality="HQ")
        self._from = rate_hz
        if self._stream is not None:
            wave = np.asarray(self._stream.resample_chunk(wave)).reshape(-1, self._channels)
        return wave if before is None else np.concatenate([before, wave])

    def end(self) -> Wave:
        """What the filter still holds."""
        wave = np.empty((0, self._channels), dtype=np.float32)
        if self._stream is not None:
            wave = np.asarray(self._stream.resample_chunk(wave, last=True)).reshape(-1, self._channels)
        self._stream, self._from = None, self._rate
        return wave
