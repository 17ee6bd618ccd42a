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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from earsight.data.containers import Window
from earsight.data.contents import INSTALL
from earsight.data.ffmpeg import CUT, FfmpegDecoder, Fitter, Refused, Wave, demuxer_of
from earsight.data.frames import Link, Survey, flac_last_frame
from earsight.errors import counted
from earsight.library_output import listening

_EXACT_CONTAINERS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"})
_EXACT_CODINGS = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_UNCOUNTED = 1 << 48  # libsndfile gives a number beyond where a header does not say
_LONGEST_OF_BYTE = 8192  # sample frames: those of the longest packet of Vorbis
_STEP = 256  # frames at a time where a damaged place is looked for
_PRETENDED = 1 << 40
_ORDERS = {
    3: [0, 2, 1], 5: [0, 2, 1, 3, 4], 6: [0, 2, 1, 5, 3, 4], 7: [0, 2, 1, 6, 5, 3, 4], 8: [0, 2, 1, 7, 5, 6, 3, 4]
}  # fmt: skip
"""Where the channels of WAV's order stand in that of Vorbis, by their number (Vorbis I, section 4.3.9)."""
EXTRA_EXTENSIONS = frozenset(
    {".m4a", ".m4b", ".mp4", ".3gp", ".3ga", ".aac", ".amr", ".awb", ".webm", ".mka", ".weba", ".wma", ".wv", ".ape"}
    | {".tta", ".mpc", ".ac3", ".eac3", ".dts", ".dsf", ".dff", ".tak", ".spx", ".mkv", ".mov", ".avi"}
    | {".adts", ".latm", ".loas", ".m4r", ".m4v", ".3g2", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv", ".flv"}
    | {".rm", ".ogv"}
)
"""Lower-case suffixes of files that FFmpeg alone reads."""


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


def format_names() -> tuple[str, ...]:
    """Names of the common kinds of files that are read here."""
    return ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", *(("M4A", "WebM") if has_ffmpeg() else ()))


def needing_extra(names: Iterable[str]) -> str:
    """How many files FFmpeg alone reads, by their endings, and the remedy; empty if there are none or it is there."""
    endings = Counter(ending for name in names if (ending := Path(name).suffix.lower()) in (*EXTRA_EXTENSIONS, ".ts"))
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

    detail = "libsndfile takes its parts for other ones"
    if not found.miscounted:
        try:
            return _Sndfile(descriptor, link)
        except (soundfile.SoundFileError, RuntimeError) as error:
            detail = str(error).rsplit(": ", 1)[-1].rstrip(".")
    head = Window(descriptor, link).read(4096)
    demuxer = demuxer_of(head)
    if demuxer is None:
        raise Refused(detail)
    if not has_ffmpeg():
        raise Refused(detail, wanting=True)
    return FfmpegDecoder(descriptor, link, demuxer, detail, joined=found.miscounted and demuxer in ("flac", "wv"))


class _Sndfile:
    """libsndfile, by descriptor where the file is read as it stands."""

    def __init__(self, descriptor: int, link: Link) -> None:
        self._descriptor, self._link = descriptor, link
        size = os.fstat(descriptor).st_size
        # Windows' libsndfile may have another C library than Python, whose descriptors it then does not know.
        self._windowed = link.begin > 0 or link.end < size or bool(link.head) or os.name == "nt"
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
        # What FFmpeg joined of Ogg ends at a time beyond any that its bytes could hold: nothing tells its length.
        most = min(_UNCOUNTED, _LONGEST_OF_BYTE * size) if self.format == "OGG" else _UNCOUNTED
        self.frames = link.frames if link.frames is not None else int(file.frames) if file.frames < most else 0
        # From three channels on libsndfile leaves those of Ogg in Vorbis' order; all else has WAV's.
        head = Window(descriptor, link).read(4096) if self.coding == "OPUS" and self.channels > 2 else b""
        family = head[head.find(b"OpusHead") + 18 :][:1]  # 255: channels that stand for no places
        ordered = self.coding in ("VORBIS", "OPUS") and family != b"\xff"
        self._order = _ORDERS.get(self.channels) if ordered else None
        self._at = 0
        self._rest: Decoder | None = None

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
        if self._rest is not None:
            block = self._rest.read(frames)
            self.damage = self._rest.damage
            return block
        if self.format == "FLAC" and self.frames:  # behind which tags or zeros may stand
            frames = min(frames, self.frames - self._at)
        block = np.empty((frames, self.channels), dtype=np.float32)
        got, damage = self._read_into(self._file, block)
        if damage and self.format == "OGG" and (rest := self._by_ffmpeg()) is not None:
            self._rest = rest
            return self.read(frames)
        if damage:
            # The block is read once more in small steps, so that all before the damaged place is kept.
            got = self._whole(self._at, frames, block)
            last = flac_last_frame(self._descriptor, self._link) if self.format == "FLAC" else None
            # A stream that lacks its end is no damaged one: it just falls short of what it promised.
            if last is not None and self.frames and last[1] < self.frames:
                damage = ""
            elif last is not None and self._at + got >= last[0]:
                damage = CUT
            self.damage = damage
        self._at += got
        return block[:got, self._order] if self._order else block[:got]

    def _by_ffmpeg(self) -> Decoder | None:
        """FFmpeg at the next frame, for an Ogg: libsndfile refuses the last page of some Opus files that are whole."""
        try:
            rest: Decoder | None = FfmpegDecoder(self._descriptor, self._link, "ogg", "") if has_ffmpeg() else None
        except Refused:
            return None
        if rest is None or rest.channels != self.channels:
            return None
        if rest.rate_hz != self.rate_hz:  # Opus, which libsndfile decodes at the rate that it was made from
            rest.close()
            rest = _Joined([functools.partial(FfmpegDecoder, self._descriptor, self._link, "ogg", "")], self.rate_hz)
        left = self._at
        while left and (passed := len(rest.read(min(left, _STEP * 64)))):
            left -= passed
        return rest

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
        exact = self.format in _EXACT_CONTAINERS and self.coding.startswith(_EXACT_CODINGS)
        if not frame or not exact or not self.frames or frame > self.frames:
            return 0
        if self.format == "FLAC" and self._link.frames is not None:  # a piece, whose frames count on from another's
            return 0
        import soundfile

        try:
            self._at = int(self._file.seek(frame))
            return self._at
        except (soundfile.SoundFileError, RuntimeError):  # into a FLAC's damaged part; it is read straight on
            self._file.close()
            self._file, left = self._opened(), self._at
            passed = np.empty((_STEP * 64, self.channels), dtype=np.float32)
            while left and (got := self._read_into(self._file, passed[: min(left, len(passed))])[0]):
                left -= got
            return 0

    def close(self) -> None:
        self._file.close()
        if self._rest is not None:
            self._rest.close()


class _Joined:
    """Several sounds one after the other, with the channels of the first, and at its rate or the given one."""

    def __init__(self, openers: Sequence[Callable[[], Decoder]], rate_hz: int | None = None) -> None:
        self._openers = openers
        self.damage, self.notes = "", Counter[str]()
        first = openers[0]()
        self.rate_hz, self.channels = rate_hz or first.rate_hz, first.channels
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
        self._fit = Fitter(self.rate_hz, self.channels)
        self._left = np.empty((0, self.channels), dtype=np.float32)

    def read(self, frames: int) -> Wave:
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
        return 0

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None
