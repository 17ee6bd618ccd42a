"""Two decoders behind one face: libsndfile, and FFmpeg (the extra `formats`) where libsndfile refuses or miscounts.

Comes in: an open descriptor and what `earsight.data.containers` found in the file. Goes out: a `Decoder` whose `read`
gives float32 (frames, channels), full scale at 1, from the first frame to the last: joined files one after the other,
at the rate and with the channels of the first. Encoders' delay and padding are left out where the file tells them.
What decoders write to standard error is caught, and printed once, with the file's name.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from earsight.data.containers import flac_last_frame
from earsight.data.contents import INSTALL
from earsight.data.mpeg import Link, Survey
from earsight.errors import counted
from earsight.library_output import listening

Wave = npt.NDArray[np.float32]

_EXACT_CONTAINERS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"})
_EXACT_CODINGS = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_UNCOUNTED = 1 << 48  # libsndfile gives a number beyond where a header does not say
_STEP = 256  # frames at a time where a damaged place is looked for
_PRETENDED = 1 << 40
_TAIL = 8192  # frames beyond the promised end that can be an encoder's padding
_BARE_AAC_BYTES = 1 << 22
_ALAC_PACKET = 4096  # frames
EXTRA_EXTENSIONS = frozenset(
    {".m4a", ".m4b", ".mp4", ".3gp", ".3ga", ".aac", ".amr", ".awb", ".webm", ".mka", ".weba", ".wma", ".wv", ".ape"}
    | {".tta", ".mpc", ".ac3", ".eac3", ".dts", ".dsf", ".dff", ".tak", ".spx", ".mkv", ".mov", ".avi"}
    | {
        ".adts",
        ".latm",
        ".loas",
        ".m4r",
        ".m4v",
        ".3g2",
        ".mts",
        ".mpg",
        ".mpeg",
        ".vob",
        ".wmv",
        ".flv",
        ".rm",
        ".ogv",
    }
)
"""Lower-case suffixes of files that FFmpeg alone reads."""
# FFmpeg's demultiplexers by the first bytes; none of them opens other files.
_DEMUXERS = (
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"#!AMR", "amr"),
    (b"MAC ", "ape"),
    (b"wvpk", "wv"),
    (b"TTA1", "tta"),
    (b"MPCK", "mpc8"),
    (b"MP+", "mpc"),
    (b"DSD ", "dsf"),
    (b"FRM8", "iff"),
    (b"tBaK", "tak"),
    (b".RMF", "rm"),
    (b"FLV\x01", "flv"),
    (b"\x0b\x77", "ac3"),
    (b"\x7f\xfe\x80\x01", "dts"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"caff", "caf"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"FORM", "aiff"),
    (b".snd", "au"),
    (b"riff", "w64"),
    (b"Creative Voice File", "voc"),
)


class Refused(Exception):  # noqa: N818
    """A file that no decoder at hand opens; ``wanting`` is true where the extra decoder might."""

    def __init__(self, detail: str, *, wanting: bool = False) -> None:
        super().__init__(detail)
        self.detail, self.wanting = detail, wanting


class Decoder(Protocol):
    """An open sound. ``frames`` is its length, 0 where nothing tells it."""

    rate_hz: int
    channels: int
    frames: int
    format: str
    coding: str
    damage: str
    """What stopped `read` before the end; empty as long as nothing did."""
    notes: Counter[str]
    """What the library wrote to standard error, line by line."""

    def read(self, frames: int) -> Wave:
        """The next frames (frames, channels); fewer at the end, or where the sound is damaged."""
        raise NotImplementedError

    def seek(self, frame: int) -> int:
        """Go to a frame if that is exact; returns the next frame, 0 where it is not."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what is held; the descriptor is not closed."""


class Window:
    """Bytes of an open file as a file object of its own, behind the link's ``head``.

    ``pretended`` is a length that it has by `seek`, with zeros at its far end, where decoders look for tags; reading on
    ends with the bytes that there are.
    """

    def __init__(self, descriptor: int, link: Link, *, pretended: int = 0) -> None:
        self._descriptor, self._link, self._at = descriptor, link, 0
        self._bytes = len(link.head) + link.end - link.begin
        self._size = pretended or self._bytes

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes from the window's begin."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, count: int = -1) -> bytes:
        """As of a file."""
        if self._size > self._bytes and self._at >= self._size - 4096:
            self._at += count
            return bytes(count)
        left = max(0, self._bytes - self._at)
        count = left if count < 0 else min(count, left)
        head = self._link.head
        found = head[self._at : self._at + count]
        if len(found) < count:
            place = self._link.begin + self._at + len(found) - len(head)
            found += os.pread(self._descriptor, count - len(found), place)
        self._at += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def needing_extra(names: Iterable[str]) -> str:
    """How many files FFmpeg alone reads, by their endings, and the remedy; empty if there are none or it is there."""
    endings = Counter(ending for name in names if (ending := Path(name).suffix.lower()) in EXTRA_EXTENSIONS)
    if not endings or has_ffmpeg():
        return ""
    listed = ", ".join(f"{ending} {count}" for ending, count in sorted(endings.items()))
    found = counted(endings.total(), "file")
    return f"{found} ({listed}) in codings that libsndfile does not read: `{INSTALL}`"


def has_ffmpeg() -> bool:
    """Whether the extra decoder is installed."""
    return importlib.util.find_spec("av") is not None


def open_decoder(descriptor: int, found: Survey) -> Decoder:
    """Open a sound by whichever decoder reads it; `Refused` if none does."""
    size = os.fstat(descriptor).st_size
    links = found.links or (Link(0, size),)
    openers = [functools.partial(_open_link, descriptor, link, found) for link in links]
    if len(links) == 1:
        return openers[0]()
    return _Joined(openers)


def _open_link(descriptor: int, link: Link, found: Survey) -> Decoder:
    import soundfile

    detail = "it holds more blocks than libsndfile reads"
    if not found.miscounted:
        try:
            return _Sndfile(descriptor, link)
        except (soundfile.SoundFileError, RuntimeError) as error:
            detail = str(error).rsplit(": ", 1)[-1].rstrip(".")
    head = Window(descriptor, link).read(4096)
    demuxer = _demuxer(head)
    if demuxer is None:
        raise Refused(detail)
    if not has_ffmpeg():
        raise Refused(detail, wanting=True)
    return _Ffmpeg(descriptor, link, demuxer, detail)


def _demuxer(head: bytes) -> str | None:
    """The FFmpeg demultiplexer for a file's first bytes; None where the bytes are of no sound."""
    if head[:3] == b"ID3" and len(head) > 10:
        behind = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        return _demuxer(head[behind:]) if behind + 2 < len(head) else "mp3"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "mov"
    if head[:4] in (b"RIFF", b"RF64", b"RIFX"):
        return {b"WAVE": "wav", b"AVI ": "avi"}.get(head[8:12])
    if len(head) > 188 and head[0] == head[188] == 0x47:
        return "mpegts"
    if len(head) > 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if len(head) > 3 and head[0] == 0x56 and head[1] & 0xE0 == 0xE0:
        return "loas"
    if head[:2] == b"\x0b\x77" and len(head) > 6 and head[5] >> 3 > 10:
        return "eac3"
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3"
    return next((name for magic, name in _DEMUXERS if head.startswith(magic)), None)


class _Sndfile:
    """libsndfile, by descriptor where the file is read as it stands."""

    def __init__(self, descriptor: int, link: Link) -> None:
        self._descriptor, self._link = descriptor, link
        size = os.fstat(descriptor).st_size
        self._windowed = link.begin > 0 or link.end < size or bool(link.head)
        self._pretended = 0
        self.damage, self.notes = "", Counter[str]()
        self._file = self._opened()
        if link.frames is not None and 0 < self._file.frames < link.frames and self._file.format == "MP3":
            # Without a header libsndfile guesses the length by the first frame, and stops there. It ends where the
            # bytes do if it takes the file for longer.
            self._windowed, self._pretended = True, _PRETENDED
            self._file.close()
            self._file = self._opened()
        file = self._file
        self.rate_hz, self.channels = int(file.samplerate), int(file.channels)
        self.format, self.coding = str(file.format), str(file.subtype)
        self.frames = link.frames if link.frames is not None else int(file.frames) if file.frames < _UNCOUNTED else 0
        self._at = 0

    def _opened(self) -> Any:
        import soundfile

        class Unsought(soundfile.SoundFile):  # type: ignore[misc]
            """A sound file that is read straight on.

            `soundfile` seeks after each read of what is seekable, which fails behind the end of a FLAC file of unknown
            length, and in Vorbis can go to another place than the one it was at.
            """

            def seekable(self) -> bool:
                return False

        if self._windowed:
            source: Any = Window(self._descriptor, self._link, pretended=self._pretended)
        else:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            source = self._descriptor
        with listening() as lines:
            file = Unsought(source, closefd=False)
        self.notes.update(lines)
        return file

    def read(self, frames: int) -> Wave:
        """See `Decoder`."""
        block = np.empty((frames, self.channels), dtype=np.float32)
        got, damage = self._read_into(self._file, block)
        if damage:
            # The block is read once more in small steps, so that all before the damaged place is kept.
            got = self._whole(self._at, frames, block)
            last = flac_last_frame(self._descriptor, self._link) if self.format == "FLAC" else None
            # A stream that lacks its end is no damaged one: it just falls short of what it promised.
            if last is not None and self.frames and last[1] < self.frames:
                damage = ""
            elif last is not None and self._at + got >= last[0]:
                damage = "its last frame is cut or damaged"
            self.damage = damage
        self._at += got
        return block[:got]

    def _read_into(self, file: Any, block: Wave) -> tuple[int, str]:
        """Frames that were read, and what is damaged among them."""
        import soundfile

        got, damage = 0, ""
        with listening() as lines:
            try:
                got = int(file.buffer_read_into(block, dtype="float32"))
            except (soundfile.SoundFileError, RuntimeError) as error:
                damage = str(error).rsplit(": ", 1)[-1].rstrip(".")
        errors = [line for line in lines if "error:" in line]
        self.notes.update(() if errors else lines)
        return got, damage or (errors[0].rsplit("error: ", 1)[-1] if errors else "")

    def _whole(self, at: int, frames: int, block: Wave) -> int:
        """Fill a block from frame ``at`` on as far as nothing is damaged; returns how many frames."""
        file = self._opened()
        try:
            passed = np.empty((_STEP * 64, self.channels), dtype=np.float32)
            while at:
                got, damage = self._read_into(file, passed[: min(at, len(passed))])
                if damage or not got:
                    return 0
                at -= got
            filled = 0
            while filled < frames:
                got, damage = self._read_into(file, block[filled : filled + _STEP])
                if damage or not got:
                    break
                filled += got
            return filled
        finally:
            file.close()

    def seek(self, frame: int) -> int:
        """See `Decoder`."""
        exact = self.format in _EXACT_CONTAINERS and self.coding.startswith(_EXACT_CODINGS)
        if not frame or not exact or not self.frames or frame > self.frames:
            return 0
        self._at = int(self._file.seek(frame))
        return self._at

    def close(self) -> None:
        """See `Decoder`."""
        self._file.close()


class _Ffmpeg:
    """FFmpeg's decoders, by PyAV; the first stream with sound is read."""

    def __init__(self, descriptor: int, link: Link, demuxer: str, detail: str) -> None:
        import av

        self._error = av.error.FFmpegError
        self.damage, self.notes = "", Counter[str]()
        options = {"err_detect": "crccheck+explode"} if demuxer in ("flac", "wv", "tta") else {}
        try:
            self._container: Any = av.open(
                Window(descriptor, link), format=demuxer, metadata_errors="ignore", buffer_size=1 << 16
            )
        except (self._error, ValueError, OSError) as error:
            raise Refused(f"{detail}; FFmpeg: {_words(error)}") from error
        try:
            self._prepare(descriptor, link, demuxer, options)
        except (self._error, ValueError, OSError) as error:
            self._container.close()
            raise Refused(f"{detail}; FFmpeg: {_words(error)}") from error
        except Refused:
            self._container.close()
            raise

    def _prepare(self, descriptor: int, link: Link, demuxer: str, options: dict[str, str]) -> None:
        from av.codec.context import Flags2

        streams = self._container.streams.audio
        if not streams:
            raise Refused("it holds no sound")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise Refused("its coding is not known")
        context.thread_count = 1  # a service's decoding process may start no threads
        self._skip, self._promised = 0, 0
        context.options = options
        if demuxer == "caf" and (trim := _caf_trim(descriptor, link)) is not None:
            # FFmpeg takes the remainder off twice where the last packet is short already.
            context.flags2 |= Flags2.skip_manual
            self._skip, self._promised = trim
        if context.name in ("wmav1", "wmav2"):
            # FFmpeg leaves out two frames; the delay of some encoders, its own among them, is one.
            context.flags2 |= Flags2.skip_manual
            self._skip = _wma_frame(stream.rate, context.name)
        self._frames = self._decoded(stream, demuxer, descriptor, link)
        first = next(self._frames, None)
        if first is None:
            raise Refused(self.damage or "it holds no sound")
        wave, self.rate_hz = first
        self.channels = wave.shape[1]
        self._fit = _Fitter(self.rate_hz, self.channels)
        self._held: list[Wave] = [wave]
        self._ended = False
        self.format, self.coding = self._container.format.name.split(",")[0].upper(), context.name.upper()
        seconds = 0.0
        if stream.duration is not None and stream.time_base is not None and demuxer not in ("mpegts", "aac", "ac3"):
            seconds = float(stream.duration * stream.time_base)
        elif demuxer == "matroska" and self._container.duration is not None:
            seconds = self._container.duration / 1e6
        self._promised = self._promised or (round(seconds * self.rate_hz) if demuxer == "mov" else 0)
        self.frames = self._promised or max(0, round(seconds * self.rate_hz))
        if demuxer == "caf" and context.name == "alac" and self._promised % _ALAC_PACKET == 0:
            self.frames = 0  # FFmpeg before 6 counts whole packets, and the last may be shorter
        self._at = 0

    def _decoded(self, stream: Any, demuxer: str, descriptor: int, link: Link) -> Iterator[tuple[Wave, int]]:
        """Waves (frames, channels) with their rates, to the end or to what is damaged."""
        try:
            if demuxer == "wav" and stream.codec_context.name == "aac":
                frames: Iterator[Any] = iter(_bare_aac(stream.codec_context, descriptor, link))
            elif demuxer == "matroska" and stream.codec_context.name == "opus":
                frames = self._opus(stream)
            else:
                frames = self._container.decode(stream)
            for frame in frames:
                if frame.samples:
                    yield _wave(frame), int(frame.sample_rate)
        except (self._error, ValueError) as error:
            self.damage = _words(error)

    def _opus(self, stream: Any) -> Iterator[Any]:
        """Frames of Opus in Matroska, whose delay FFmpeg counts at the rate of the encoder's input, not at 48 kHz."""
        head, begun = stream.codec_context.extradata or b"", False
        for packet in self._container.demux(stream):
            if not begun and packet.size:
                begun = True
                trimmed = bytes(packet.get_sidedata("skip_samples"))[:4] if packet.has_sidedata("skip_samples") else b""
                self._skip = max(0, int.from_bytes(head[10:12], "little") - int.from_bytes(trimmed, "little"))
            yield from packet.decode()

    def read(self, frames: int) -> Wave:
        """See `Decoder`."""
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
        return np.ascontiguousarray(out)

    def seek(self, frame: int) -> int:
        """See `Decoder`."""
        return 0

    def close(self) -> None:
        """See `Decoder`."""
        self._frames.close()  # type: ignore[attr-defined]
        self._container.close()


def _wave(frame: Any) -> Wave:
    """A frame's samples as float32 (frames, channels), full scale at 1, as libsndfile scales them."""
    values: npt.NDArray[Any] = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, len(frame.layout.channels))
    if values.dtype.kind == "f":
        return np.asarray(values, dtype=np.float32)
    bits = 8 * values.dtype.itemsize
    if values.dtype.kind == "u":
        values = values.astype(np.int64) - 2 ** (bits - 1)
    return np.asarray(values, dtype=np.float32) * np.float32(2.0 ** (1 - bits))


def _bare_aac(context: Any, descriptor: int, link: Link) -> list[Any]:
    """The frames of a WAV file's raw AAC: nothing marks their ends but decoding them, all at once."""
    import av

    position = link.begin + 12
    while position + 8 <= link.end:
        name, length = struct.unpack("<4sI", os.pread(descriptor, 8, position))
        if name == b"data":
            if length > _BARE_AAC_BYTES:
                raise ValueError(f"raw AAC of {length} bytes, more than {_BARE_AAC_BYTES}")
            return [*context.decode(av.Packet(os.pread(descriptor, length, position + 8)))]
        position += 8 + length + length % 2
    return []


def _caf_trim(descriptor: int, link: Link) -> tuple[int, int] | None:
    """Frames of delay to leave out, and valid frames behind them, by a CAF file's packet table; None without one."""
    position = link.begin + 8
    while position + 12 <= link.end:
        name, length = struct.unpack(">4sq", os.pread(descriptor, 12, position))
        if name == b"pakt" and length >= 24:
            _, valid, priming, _ = struct.unpack(">qqii", os.pread(descriptor, 24, position + 12))
            return (priming, valid) if priming >= 0 and valid > 0 else None
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


class _Joined:
    """Several sounds one after the other, at the rate and with the channels of the first."""

    def __init__(self, openers: Sequence[Callable[[], Decoder]]) -> None:
        self._openers = openers
        self.damage, self.notes = "", Counter[str]()
        first = openers[0]()
        self.rate_hz, self.channels = first.rate_hz, first.channels
        self.format, self.coding = first.format, first.coding
        lengths = [(first.frames, first.rate_hz)]
        for opener in openers[1:]:
            one = opener()
            lengths.append((one.frames, one.rate_hz))
            one.close()
        counted = [math.floor(frames * self.rate_hz / rate + 0.5) for frames, rate in lengths]
        self.frames = sum(counted) if all(counted) else 0
        self._current: Decoder | None = first
        self._next = 1
        self._fit = _Fitter(self.rate_hz, self.channels)
        self._left = np.empty((0, self.channels), dtype=np.float32)

    def read(self, frames: int) -> Wave:
        """See `Decoder`."""
        parts, have = [self._left], len(self._left)
        while have < frames and self._current is not None:
            wave = self._current.read(frames)
            parts.append(self._fit(wave, self._current.rate_hz))
            if len(wave) < frames:
                parts.append(self._fit.end())
                self._advance()
            have = sum(map(len, parts))
        wave = np.concatenate(parts)
        self._left = wave[frames:]
        return wave[:frames]

    def _advance(self) -> None:
        """Go to the next sound, unless this one ended in damage."""
        if self._current is not None:
            self.damage = self._current.damage
            self.notes.update(self._current.notes)
            self._current.close()
        more = not self.damage and self._next < len(self._openers)
        self._current = self._openers[self._next]() if more else None
        self._next += 1

    def seek(self, frame: int) -> int:
        """See `Decoder`."""
        return 0

    def close(self) -> None:
        """See `Decoder`."""
        if self._current is not None:
            self._current.close()
            self._current = None


class _Fitter:
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
