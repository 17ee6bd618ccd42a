"""A recording of any length as it is decoded, piece by piece, in constant memory.

Comes in: the path of a sound file, hours long or short, and where to begin. Goes out: `Piece`s of mono float32 at the
file's own rate, the same samples wherever one begins. What can be decoded of a cut or damaged file is given before
the error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from earsight.data import audio
from earsight.data.audio import Wave

_VALUES = 1 << 18
"""Samples times channels decoded at a time: what a damaged place costs of the sound before it."""
_EXACT_CONTAINERS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"})
_EXACT_CODINGS = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")


class Piece(NamedTuple):
    """Some seconds of a recording.

    Attributes
    ----------
    first : int
        Its first sample's place in the recording.
    wave : ndarray
        float32, shape (samples,).
    rate_hz : int
    seconds : float
        The recording's length as its header has it; 0 where it does not say.
    """

    first: int
    wave: Wave
    rate_hz: int
    seconds: float


def pieces(path: Path | str, *, begin_seconds: float = 0.0) -> Iterator[Piece]:
    """Decode a file from some time on and average its channels.

    Parameters
    ----------
    path : Path or str
        The file.
    begin_seconds : float
        What lies before is passed over: by a seek where that is exact, else by decoding it.

    Yields
    ------
    Piece
        The first begins at this time, rounded down to a sample; each begins where the one before ended.

    Raises
    ------
    AudioError
        As `audio.read`, but at the end.
    """
    with audio.opened(path, cut=True) as sound:
        rate = int(sound.samplerate)
        seconds = sound.frames / rate if 0 < sound.frames < 1 << 48 else 0.0
        begin = int(begin_seconds * rate)
        at = _go_to(sound, begin)
        for block in audio.blocks(sound, path, limit=None, mono=True, skipped=at, values=_VALUES):
            wave = block[max(0, begin - at) :, 0]
            if len(wave):
                yield Piece(max(begin, at), wave, rate, seconds)
            at += len(block)


def _go_to(sound: Any, frame: int) -> int:
    """Seek where that is exact; the frame that is read next."""
    exact = sound.format in _EXACT_CONTAINERS and sound.subtype.startswith(_EXACT_CODINGS)
    if not frame or not exact or not sound.seekable() or frame > sound.frames:
        return 0
    return int(sound.seek(frame))
