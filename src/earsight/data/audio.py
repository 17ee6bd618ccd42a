"""Decoding sound files: whole, as mono float32 samples at one rate, or piece by piece in constant memory.

Comes in: the path of any file that libsndfile reads (WAV FLAC OGG Opus MP3 AIFF AU CAF and more), or FFmpeg with the
extra `formats` (M4A WebM WMA and more), recognised by its content, not by its name. Goes out: float32 arrays
(samples,), full scale at 1; rates in Hz, lengths in seconds. Whatever is wrong with a file ends as one `AudioError`;
nothing here blocks on a pipe or a device. A path that ends in ``@begin-end`` (seconds with three decimals), where no
file has that name, is that part of the file before it, as data sets name windows of recordings.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from earsight.data import containers, contents, decoders
from earsight.data.ffmpeg import CUT, Refused
from earsight.data.ffmpeg import Wave as Wave
from earsight.data.frames import Survey
from earsight.data.intake import Channel, energy_of, picked
from earsight.errors import AudioError, counted, unless_address
from earsight.library_output import report
from earsight.portable import read_at

Observer = Callable[[Wave, int], None]
Excuse = Callable[[str, float], None]
"""Called where a sound is damaged or cut, with what is wrong and how many seconds before it were read."""

EXTENSIONS = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aiff", ".aif"}
    | {".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".voc", ".sph", ".nist", ".amb", ".8svx", ".ircam"}
    | {".mpa", ".mpga", ".paf", ".pvf", ".sf", ".svx", ".avr", ".htk", ".sds"}
    | decoders.EXTRA_EXTENSIONS
)
"""Lower-case suffixes that a search through folders takes for sound, whether or not a decoder for them is installed."""
# A header may promise this much more than decodes before a file counts as truncated: MP3 headers count whole frames.
_SLACK_FRAMES = 2304
_SLACK_BYTES = 64
_BLOCK_VALUES = 1 << 22  # samples times channels decoded at a time: 16 MiB
LOUDEST = 1e8  # 80 dB above 32-bit integers; beyond it the power of a spectrogram leaves float32
LONGER = 1.1
"""A sound of more windows than this is cut into several: see `windows`."""
_EDGE_SECONDS = 0.25  # decoded beyond a limit, so that the resampling filter sees what follows

_PART = re.compile(r"(.+)@(\d+\.\d{3})-(\d+\.\d{3})", re.DOTALL)
_VALUES = 1 << 18
"""Samples times channels decoded at a time: what a damaged place costs of the sound before it."""


@dataclass(frozen=True)
class AudioInfo:
    """A header: rate in Hz, channels, length in seconds, and the container's name, such as ``WAV``."""

    sample_rate_hz: int
    channels: int
    seconds: float
    format: str


class Piece(NamedTuple):
    """Some seconds of a recording: float32 ``wave`` (samples,), the ``first`` of them being that of the recording.

    ``seconds`` is the recording's length by its header; 0 where it does not say.
    """

    first: int
    wave: Wave
    rate_hz: int
    seconds: float


def file_of(path: Path | str) -> Path:
    """The file that a path names, or names a part of."""
    part = None if os.path.lexists(path) else _PART.fullmatch(str(path))
    return Path(part[1] if part else path)


def info(path: Path | str) -> AudioInfo:
    """Read a sound file's header, or raise `AudioError`; the length is counted by decoding where it gives none.

    Of a cut or damaged file it is the length that the header or the file's end tells, else that of what is whole.
    """
    with opened(path, cut=True, excuse=lambda reason, seconds: None) as sound:
        found = sound.decoder
        frames = found.frames or sum(len(block) for block in blocks(sound, limit=None, mono=True))
        return AudioInfo(found.rate_hz, found.channels, frames / found.rate_hz, found.format)


def read(
    path: Path | str,
    *,
    sample_rate_hz: int,
    seconds: float | None = None,
    channel: Channel = "mix",
    observe: Observer | None = None,
    excuse: Excuse | None = None,
) -> Wave:
    """Decode a sound file, average its channels or choose one, and resample it: (samples,) at least one, all finite.

    Resampling is soxr's at its high quality. At most ``seconds`` are returned, and little more is decoded, so that the
    length of the file does not matter. ``channel`` is as in `earsight.recipe.Features`; ``loudest`` is decided by the
    whole file. ``observe`` is called with each decoded block (frames, channels) and its rate in Hz. With ``excuse``
    what is whole before damage or a cut is returned, if it is anything, and no `AudioError` raised; its last call says
    how many seconds were read.

    AudioError if the file is missing, no regular file, empty, no sound, or if what is asked for is cut, damaged, or
    holds NaN or infinite samples. What lies behind it is not looked at.
    """
    channel = channel_of(path, channel)
    with opened(path, cut=seconds is not None or excuse is not None, excuse=excuse) as sound:
        rate = sound.decoder.rate_hz
        limit = None if seconds is None else max(1, math.ceil((seconds + _EDGE_SECONDS) * rate))
        seen = (_seen(block, channel, sound, observe) for block in blocks(sound, limit=limit, mono=False))
        wave = np.concatenate(list(seen))
    wave = resampled(wave, rate_hz=rate, sample_rate_hz=sample_rate_hz)
    if seconds is not None:
        wave = wave[: max(1, round(seconds * sample_rate_hz))]
    return np.ascontiguousarray(wave)


def read_windows(
    path: Path | str,
    *,
    sample_rate_hz: int,
    seconds: float,
    channel: Channel = "mix",
    observe: Observer | None = None,
    excuse: Excuse | None = None,
) -> Iterator[tuple[int, Wave]]:
    """Decode a file, in constant memory, into the windows of so many seconds that `windows` cuts it into.

    Yields where each begins, in samples at ``sample_rate_hz``, and its mono wave: of a short sound what `read` gives,
    bit for bit; of a long one parts of equal length of the whole resampled sound. Raises, or excuses, as `read` does;
    that a long file is cut may show only after some windows.
    """
    samples = round(seconds * sample_rate_hz)
    channel = channel_of(path, channel)
    with opened(path, cut=excuse is not None, excuse=excuse) as sound:

        def seen(limit: int | None, skipped: int = 0, values: int = 0) -> Iterator[Wave]:
            for block in blocks(sound, limit=limit, mono=False, skipped=skipped, values=values):
                yield _seen(block, channel, sound, observe)

        rate = sound.decoder.rate_hz
        limit = max(1, math.ceil((seconds + _EDGE_SECONDS) * rate))
        start = list(seen(limit))
        frames = sum(map(len, start))
        rest = seen(None, skipped=frames, values=_VALUES) if frames == limit else iter(())
        # A little beyond the limit, a sound may still count as short. (Of its length, soxr rounds halves up.)
        more: list[Wave] = []
        while len(windows((2 * frames * sample_rate_hz + rate) // (2 * rate), samples)) == 1:
            block = next(rest, None)
            if block is None:
                wave = resampled(np.concatenate(start), rate_hz=rate, sample_rate_hz=sample_rate_hz)
                yield 0, np.ascontiguousarray(wave[: max(1, samples)])
                return
            more.append(block)
            frames += len(block)
        yield from _side_by_side(
            _resampled_blocks(chain(start, more, rest), rate_hz=rate, sample_rate_hz=sample_rate_hz), samples
        )


def read_parts(
    path: Path | str,
    spans: Sequence[tuple[float, float]],
    *,
    sample_rate_hz: int,
    channel: Channel = "mix",
    observe: Observer | None = None,
) -> Iterator[Wave]:
    """Decode parts of a file, straight on and each place once, in memory that holds little more than one of them.

    ``spans`` are begin and end of each part in seconds, by rising begin; they may overlap. Gaps are passed by a seek
    where that is exact. ``channel`` and ``observe`` are as in `read`. Each part (samples,) is at ``sample_rate_hz``, to
    rounding what the whole resampled sound has there, and the same bits whichever other parts are read; shorter where
    the sound ends before it. AudioError as of `read`, once a part is not whole; damage behind the last is passed over.
    """
    channel = channel_of(path, channel)
    faults: list[str] = []
    with opened(path, cut=True, excuse=lambda reason, seconds: faults.append(reason)) as sound:
        decoder = sound.decoder
        rate = decoder.rate_hz
        # Frames after which both rates count whole samples: resampling begins there, on the whole sound's grid.
        step = rate // math.gcd(rate, sample_rate_hz)
        edge = 0 if rate == sample_rate_hz else math.ceil(_EDGE_SECONDS * rate)
        at, held = 0, np.empty(0, dtype=np.float32)  # held ends with frame `at`
        stream = blocks(sound, limit=None, mono=False, values=_VALUES)
        for begin, end in spans:
            start = max(0, math.floor(begin * rate) - edge) // step * step
            stop = math.ceil(end * rate) + edge
            if start > at + rate and (found := decoder.seek(start)):
                at, held = found, held[:0]
                stream = blocks(sound, limit=None, mono=False, skipped=at, values=_VALUES)
            held = held[max(0, len(held) - max(0, at - start)) :]
            parts, have = [held], at
            while have < stop and (block := next(stream, None)) is not None:
                have += len(block)
                wave = _seen(block, channel, sound, observe)
                if have > start:  # an empty view of a block would keep the block
                    parts.append(wave[max(0, len(wave) - (have - start)) :])
            at, held = have, np.concatenate(parts)
            part = resampled(held[: stop - start], rate_hz=rate, sample_rate_hz=sample_rate_hz) if len(held) else held
            first = round(begin * sample_rate_hz) - start // step * (sample_rate_hz * step // rate)
            wanted = max(1, round((end - begin) * sample_rate_hz))
            wave = part[first : first + wanted]
            lacking = (wanted - len(wave)) / sample_rate_hz
            if not len(wave) or (lacking > 0 and faults) or lacking > _SLACK_FRAMES / rate:
                reason = f"ends after {at / rate:.2f} s, and a part is from {begin:g} to {end:g} s; mend its boxes"
                raise AudioError(sound.name, faults[0] if faults else reason)
            yield np.ascontiguousarray(wave)


def _side_by_side(wave: Iterable[Wave], samples: int) -> Iterator[tuple[int, Wave]]:
    """The windows of a long sound that comes in blocks: one after another, and a last one that ends with the sound."""
    begin, held, last = 0, np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32)
    for block in wave:
        held = np.concatenate([held, block])
        while len(held) >= samples:
            last, held = held[:samples], held[samples:]
            yield begin, last
            begin += samples
    if len(held):
        yield begin + len(held) - samples, np.concatenate([last[len(held) :], held])


def _resampled_blocks(blocks: Iterable[Wave], *, rate_hz: int, sample_rate_hz: int) -> Iterator[Wave]:
    """A wave that comes in blocks as `resampled` gives it whole."""
    resample = resampler(rate_hz=rate_hz, sample_rate_hz=sample_rate_hz)
    for block in blocks:
        yield resample(np.ascontiguousarray(block), last=False)
    yield resample(np.zeros(0, dtype=np.float32), last=True)


def resampled(wave: Wave, *, rate_hz: int, sample_rate_hz: int) -> Wave:
    """A wave (samples,) of one rate at another, by soxr at its high quality; at least one sample of one or more."""
    if rate_hz == sample_rate_hz:
        return wave
    import soxr

    out: Wave = soxr.resample(wave, rate_hz, sample_rate_hz, quality="HQ").astype(np.float32, copy=False)
    # A few samples at a high rate can round down to none at a low one.
    return out if len(out) else wave[:1]


def resampler(*, rate_hz: int, sample_rate_hz: int) -> Callable[..., Wave]:
    """A function that resamples consecutive parts of a wave as `resampled` does the whole; ``last`` ends it."""
    if rate_hz == sample_rate_hz:
        return lambda wave, last: wave
    import soxr

    stream = soxr.ResampleStream(rate_hz, sample_rate_hz, 1, dtype="float32", quality="HQ")
    return lambda wave, last: np.asarray(stream.resample_chunk(wave, last=last))


def read_blocks(path: Path | str) -> Iterator[tuple[Wave, int]]:
    """Decode a file of any length to float32 blocks (samples, channels) of at most 16 MiB, each with its rate in Hz.

    Raises `AudioError` as `read` does; that the file is cut may show only at its end.
    """
    with opened(path) as sound:
        for block in blocks(sound, limit=None, mono=False):
            yield block, sound.decoder.rate_hz


def probe(path: Path | str) -> None:
    """Raise the `AudioError` of a file that does not open, or that decoding alone shows to be damaged or to hold NaN.

    PCM and what has its checksums or frames looked through already is not decoded.
    """
    with opened(path) as sound:
        kind, coding = sound.decoder.format, sound.decoder.coding
        plain = coding.startswith(("PCM_", "ULAW", "ALAW")) and not coding.startswith("PCM_F") and kind != "FLAC"
        for _ in () if plain or kind in ("OGG", "MP3") else blocks(sound, limit=None, mono=False, values=_VALUES):
            pass


def _seen(block: Wave, channel: Channel, sound: Sound, observe: Observer | None) -> Wave:
    """The channel of a block, after it was shown to the observer."""
    if observe is not None:
        observe(block, sound.decoder.rate_hz)
    return picked(block, channel, sound.name)


def channel_of(path: Path | str, channel: Channel) -> Channel:
    """The number of a file's loudest channel, by what can be decoded of it; any other choice as it is."""
    if channel != "loudest":
        return channel
    energy = np.zeros(1)
    try:
        with opened(path, cut=True) as sound:
            for block in blocks(sound, limit=None, mono=False, values=_VALUES):
                energy = energy + energy_of(block)
    except AudioError:  # whoever reads the file next meets it again
        pass
    return int(np.argmax(energy)) + 1


def pieces(
    path: Path | str, *, begin_seconds: float = 0.0, channel: Channel = "mix", observe: Observer | None = None
) -> Iterator[Piece]:
    """Decode a file from ``begin_seconds`` on, by a seek where that is exact, and take its channel as `read` does.

    The first piece begins at this time, rounded down to a sample, and each other where the one before ended. What can
    be decoded of a cut or damaged file comes before the `AudioError`.
    """
    channel = channel_of(path, channel)
    with opened(path, cut=True) as sound:
        rate = sound.decoder.rate_hz
        seconds = sound.decoder.frames / rate
        begin = int(begin_seconds * rate)
        at = sound.decoder.seek(begin)
        for block in blocks(sound, limit=None, mono=False, skipped=at, values=_VALUES):
            if begin - at < len(block):
                wave = _seen(block[max(0, begin - at) :], channel, sound, observe)
                yield Piece(max(begin, at), wave, rate, seconds)
            at += len(block)


def fit(wave: Wave, samples: int) -> Wave:
    """A copy (samples,) float32 of a wave, cropped at its end or padded there with zeros."""
    out = np.zeros(samples, dtype=np.float32)
    kept = min(samples, len(wave))
    out[:kept] = wave[:kept]
    return out


def windows(samples: int, window: int) -> list[int]:
    """Where the windows begin that a sound of so many samples is cut into; both lengths count the same rate.

    A sound that is longer than a window by more than a tenth is used whole: windows side by side from 0, the last one
    moved back so that it ends with the sound. Of a shorter one it is the window at 0, which `fit` pads or cuts.
    """
    if samples <= round(LONGER * window, 6):
        return [0]
    return [*range(0, samples - window, window), samples - window]


@dataclass
class Sound:
    """An open file: its decoder, and what was found wrong with it, at which frame where that is known.

    ``placed`` is false where nothing tells which samples lie before the fault.
    """

    name: str
    decoder: decoders.Decoder
    fault: AudioError | None
    whole: int | None = None
    excuse: Excuse | None = None
    placed: bool = True


class _Part:
    """Some seconds of a sound as a `decoders.Decoder` of their own."""

    def __init__(self, decoder: decoders.Decoder, begin: float, end: float) -> None:
        self._decoder, self.notes, self.damage = decoder, decoder.notes, ""
        self.rate_hz, self.channels = decoder.rate_hz, decoder.channels
        self.format, self.coding = decoder.format, decoder.coding
        first, last = round(begin * self.rate_hz), round(end * self.rate_hz)
        self._left = self.frames = max(0, (min(last, decoder.frames) if decoder.frames else last) - first)
        self._before = first - decoder.seek(first)

    def read(self, frames: int) -> Wave:
        while self._before and (passed := len(self._decoder.read(min(self._before, _VALUES)))):
            self._before -= passed
        block = self._decoder.read(min(frames, self._left) if not self._before else 0)
        self._left -= len(block)
        self.damage = self._decoder.damage
        return block

    def seek(self, frame: int) -> int:
        return 0

    def close(self) -> None:
        self._decoder.close()


@contextmanager
def opened(path: Path | str, *, cut: bool = False, excuse: Excuse | None = None) -> Iterator[Sound]:
    """Open a sound by its content alone, never by its extension.

    Where ``cut`` is true, a file whose end is missing or that is damaged is opened too; `blocks` raises the error, or
    gives it to ``excuse``, once what is asked for is not whole.
    """
    name = str(path)
    part = None if os.path.lexists(name) else _PART.fullmatch(name)
    descriptor = _descriptor(part[1] if part else name)
    try:
        head = read_at(descriptor, contents.HEAD_BYTES, 0)
        found = containers.survey(descriptor)
        fault = _fault(name, found)
        if fault is not None and (other := contents.no_sound(head)) is not None:
            raise AudioError(name, other)
        if fault is not None and not cut:
            raise fault
        try:
            decoder = decoders.open_decoder(descriptor, found)
            if part:
                decoder = _Part(decoder, float(part[2]), float(part[3]))
        except Refused as error:
            reason = contents.explain(descriptor, head, error.detail, wanting=error.wanting)
            raise fault or AudioError(name, reason) from error
        try:
            begun = float(part[2]) if part else 0.0
            second = None if found.damage is None else found.damage[0]
            whole = None if second is None else max(0, int((second - begun) * decoder.rate_hz))
            yield Sound(name, decoder, fault, whole, excuse, placed=found.damage is None or second is not None)
        finally:
            decoder.close()
        report(name, decoder.notes)
    except OSError as error:
        raise AudioError(name, f"cannot be read ({error.strerror or error})") from error
    finally:
        os.close(descriptor)


def blocks(sound: Sound, *, limit: int | None, mono: bool, skipped: int = 0, values: int = 0) -> Iterator[Wave]:
    """Blocks of float32 (frames, channels) to the limit or the end, checked for NaN, and in the end for loss.

    ``skipped`` frames were passed before; where ``values`` is given, a block holds at most so many over all channels.
    """
    decoder = sound.decoder
    promised, asked = max(0, decoder.frames - skipped), limit
    if sound.whole is not None:
        limit = max(0, min(sound.whole - skipped, limit if limit is not None else promised or sound.whole))
    most = max(1, (values or _BLOCK_VALUES) // decoder.channels)
    # One block for a common clip.
    guess = promised + 1152 if 0 < promised < most else most
    frames = 0
    while limit is None or frames < limit:
        size = min(most, guess) if limit is None else min(most, guess, limit - frames)
        block = decoder.read(size)
        frames += len(block)
        if len(block):
            part = block.mean(axis=1, keepdims=True) if mono and decoder.channels > 1 else block
            if not np.abs(part).max() < LOUDEST:  # false for NaN too
                what = "samples beyond any scale" if np.isfinite(part).all() else "NaN or infinite samples"
                raise AudioError(sound.name, f"{what}; write the file again from its source")
            yield part
        if len(block) < size:
            break
    seconds = (skipped + frames) / decoder.rate_hz
    fault = sound.fault or (_damaged(sound.name, seconds, decoder.damage) if decoder.damage else None)
    if frames == 0 and not skipped and not promised and fault is None:
        raise AudioError(sound.name, "a sound file with 0 samples; copy or record it again")
    expected = promised if limit is None else min(promised, limit)
    slack = 0 if decoder.format == "FLAC" else _SLACK_FRAMES
    short = (expected - frames > slack and decoder.format != "OGG") or (expected and not frames)
    if fault is None and short:
        found = f"{skipped + expected} samples expected, {skipped + frames} decoded"
        fault = AudioError(sound.name, f"truncated: {found}; copy it again")
    if fault is None or (frames == asked and sound.placed):  # it lies behind what was asked for
        return
    if sound.excuse is None or not frames + skipped:
        raise fault
    sound.excuse(fault.reason, seconds)


def _fault(name: str, found: Survey) -> AudioError | None:
    """What a container's structure shows to be wrong; a few bytes are missing from many a whole file."""
    if found.damage is not None:
        return _damaged(name, *found.damage)
    if found.missing > (0 if found.exact else _SLACK_BYTES):
        lost = f"{counted(found.missing, 'byte')} of its sound {'is' if found.missing == 1 else 'are'} missing"
        return AudioError(name, f"truncated: {lost}; copy it again")
    return None


def _damaged(name: str, seconds: float | None, what: str) -> AudioError:
    if what == CUT:
        return AudioError(name, f"truncated at {seconds:.2f} s ({what}); copy it again")
    place = "" if seconds is None else f" at {seconds:.2f} s"
    return AudioError(name, f"damaged{place} ({what}); copy it again, or convert it with ffmpeg")


def _descriptor(name: str) -> int:
    """Open a regular file that is not empty; its kind is checked first, since opening a pipe would block."""
    try:
        status = Path(name).stat()
    except FileNotFoundError as error:
        found = "a link to a file that does not exist" if Path(name).is_symlink() else "no such file"
        way = unless_address("correct the path or remove it from the list", name)
        raise AudioError(name, f"{found}; {way}") from error
    except (OSError, ValueError) as error:
        raise AudioError(name, f"cannot be reached ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(name, f"{_kind(status.st_mode)}, not a sound file: remove it or name the right file")
    if status.st_size == 0:
        raise AudioError(name, "an empty file (0 bytes); copy or download it again")
    try:
        # Non-blocking, in case the file has just been replaced by a pipe.
        return os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise AudioError(name, f"cannot be opened ({error.strerror})") from error


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
