"""The same sound twice: copies, also in other bytes, and near duplicates at another level, rate, codec or length.

Comes in: files, or the first `SECONDS` of each sound as mono float32 (samples,) with its rate in Hz. Goes out: groups
of rows. A near duplicate is found in two steps, at `RATE`. A fingerprint of a sound are its patches, one every 50 ms: a
second of log mel bands, as cosine coefficients over time and bands without the constant ones in time (which level and
equalisation change), each weighted by its order to the power 3/4, for they fall off so. Of each sound four patches, the
liveliest of each quarter, are compared with all patches of all others, by products of matrices. What is alike
(`ALIKE`) is then decoded again, and found if the waves themselves agree (`SAME`): the peak of their cross-correlation,
each first half whitened and kept to 100 to 3400 Hz, divided by the energies where they overlap. A sound of which little
lies there, as a bat's call above wind or hum, has no fingerprint, and no near duplicates.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from earsight.data.audio import Wave, blocks, opened, resampled
from earsight.data.intake import FROM_HZ, LEVEL, moments
from earsight.errors import AudioError
from earsight.parallel import pool_size

_T = TypeVar("_T", bound=Hashable)
Progress = Callable[[int, int], None]

RATE = 8000
SECONDS = 30.0
ALIKE = 0.8
"""Cosine of two patches from which their waves are compared; chosen, as `SAME`, on ESC-50 without its ESC-10."""
SAME = 0.6
OVERLAP = 0.5
"""Share of the energy of one of the two sounds that must lie where they overlap."""
_FFT, _HOP, _BANDS, _PATCH, _STEP, _ANCHORS = 512, 200, 20, 40, 2, 4
_TIMES, _SHAPES = 12, 8
_LOW_HZ, _HIGH_HZ = 120.0, 3400.0
_BEYOND = 0.95
"""Share of a sound's energy from 1 kHz on above `_HIGH_HZ`, beyond which the band does not tell it from another."""
_FLOOR = 1e-5
_QUERIES, _ROWS = 1024, 4096
_SAMPLED_BYTES = 4096
_BEGIN_SECONDS = 0.25


def identical_files(files: Sequence[Path]) -> list[list[int]]:
    """Rows whose files have the same bytes, in rising order, each group of two or more.

    Files of one size are compared by a few KiB of their begin, middle and end; only what is equal there is read
    whole. Files that cannot be read, or are empty, are no copies of each other.
    """
    sizes = _together((row, _size(path)) for row, path in enumerate(files))
    alike = (part for rows in sizes for part in _together((row, _digest(files[row], sampled=True)) for row in rows))
    return sorted(part for rows in alike for part in _together((row, _digest(files[row])) for row in rows))


def same_sounds(files: Sequence[Path]) -> list[list[int]]:
    """Rows of one sound, in rising order, each group of two or more: the same bytes, or the same samples in others.

    Samples are compared at 16 bits, their channels averaged, so that a WAV, its FLAC and its stereo copy are one.
    Only files of one rate and length are decoded, and whole only those that also begin alike. Silence and what cannot
    be read is the same only by its bytes.
    """
    copies = identical_files(files)
    further = {row for rows in copies for row in rows[1:]}
    rows = [row for row in range(len(files)) if row not in further]

    def marked(rows: list[int], mark: Callable[[Path], _T | None]) -> list[list[int]]:
        return _together(zip(rows, pool.map(mark, [files[row] for row in rows]), strict=True))

    with ThreadPoolExecutor(max_workers=pool_size()) as pool:
        equal = [part for rows in marked(rows, _begin) for part in marked(rows, _samples)]
    return connected((rows[0], row) for rows in (*copies, *equal) for row in rows[1:])


def equal_rows(marks: Sequence[bytes]) -> list[list[int]]:
    """Rows with the same mark, such as a sound's digest; each group of two or more, rising."""
    return _together(enumerate(marks))


def copies_note(names: Sequence[str], labels: Sequence[str], groups: Sequence[Sequence[int]]) -> str:
    """A line on files that are copies of one another, groups of rows, with names and labels of all rows."""
    count = sum(map(len, groups))
    shown = ", ".join(" = ".join(names[row] for row in rows[:3]) for rows in groups[:3])
    torn = sum(len({labels[row] for row in rows}) > 1 for rows in groups)
    two = f", {torn} of them under two labels" if torn else ""
    sounds = f"{len(groups)} sound{'s' if len(groups) > 1 else ''}"
    return f"{count} files are {sounds}{two} ({shown}{', ...' if len(groups) > 3 else ''})"


def joined(names: npt.NDArray[np.str_], groups: Iterable[Sequence[int]]) -> npt.NDArray[np.str_]:
    """Names (rows,) of which those of each group of rows are made one; without groups the names as they are."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while name in parent:
            name = parent[name]
        return name

    for rows in groups:
        roots = sorted({root(str(names[row])) for row in rows})
        parent.update(dict.fromkeys(roots[1:], roots[0]))
    return np.array([root(str(name)) for name in names]) if parent else names


def connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Rows that pairs connect, directly or through others; rising."""
    pairs = list(pairs)
    rows = sorted({row for pair in pairs for row in pair})
    place = {row: index for index, row in enumerate(rows)}
    width = len(str(len(rows)))
    names = np.array([f"{index:0{width}}" for index in range(len(rows))])
    found = joined(names, [[place[row] for row in pair] for pair in pairs])
    return _together(zip(rows, found.tolist(), strict=True))


@dataclass(frozen=True)
class Fingerprint:
    """Patches float16 (patches, 96) of length 1, and the places of the few that are looked for in other sounds."""

    patches: npt.NDArray[np.float16]
    anchors: npt.NDArray[np.int64]


def fingerprint(wave: Wave, rate_hz: int) -> Fingerprint | None:
    """The fingerprint of a sound's first `SECONDS` (samples,); None for silence, and where the band holds little."""
    if _beyond(wave[: round(SECONDS * rate_hz)], rate_hz) > _BEYOND:
        return None
    logs = _log_bands(at_rate(wave, rate_hz))
    if logs is None:
        return None
    if len(logs) < _PATCH:
        short = np.full((_PATCH - len(logs), _BANDS), np.log(_FLOOR), dtype=np.float32)
        logs = np.concatenate([logs, short])
    in_time, in_bands, weights = _cosines()
    views = np.lib.stride_tricks.sliding_window_view(logs @ in_bands, _PATCH, axis=0)[::_STEP]
    values = (views @ in_time) * weights
    values = values.reshape(len(values), -1)
    lengths = np.linalg.norm(values, axis=1)
    if not lengths.max() > 0:
        return None
    lively = np.flatnonzero(lengths >= 0.1 * lengths.max())
    parts = np.array_split(lively, min(_ANCHORS, len(lively)))
    anchors = np.array([part[lengths[part].argmax()] for part in parts], dtype=np.int64)
    return Fingerprint((values / np.maximum(lengths, 1e-9)[:, None]).astype(np.float16), anchors)


def at_rate(wave: Wave, rate_hz: int) -> Wave:
    """The first `SECONDS` of a wave (samples,), at `RATE`."""
    return resampled(wave[: round(SECONDS * rate_hz)], rate_hz=rate_hz, sample_rate_hz=RATE)


def candidates(prints: Sequence[Fingerprint | None], *, progress: Progress | None = None) -> list[tuple[int, int]]:
    """Pairs of rows, the lower first, of which some patch is alike: what `same_wave` then decides."""
    known = [(row, found) for row, found in enumerate(prints) if found is not None]
    if len(known) < 2:
        return []
    queries = np.concatenate([found.patches[found.anchors] for _, found in known]).astype(np.float32)
    askers = np.concatenate([np.full(len(found.anchors), row) for row, found in known])
    pairs: set[tuple[int, int]] = set()
    begin = 0
    while begin < len(known):
        end, count = begin, 0
        while end < len(known) and (end == begin or count + len(known[end][1].patches) <= _ROWS):
            count += len(known[end][1].patches)
            end += 1
        block = np.concatenate([found.patches for _, found in known[begin:end]]).astype(np.float32)
        owners = np.concatenate([np.full(len(found.patches), row) for row, found in known[begin:end]])
        for first in range(0, len(queries), _QUERIES):
            asked, answered = np.nonzero(queries[first : first + _QUERIES] @ block.T > ALIKE)
            ones, others = askers[first + asked], owners[answered]
            low, high = np.minimum(ones, others), np.maximum(ones, others)
            pairs.update(zip(low[ones != others].tolist(), high[ones != others].tolist(), strict=True))
        begin = end
        if progress is not None:
            progress(end, len(known))
    return sorted(pairs)


def whitened(wave: Wave) -> Wave:
    """A wave (samples,) at `RATE`, from 100 to 3400 Hz, each frequency divided by the root of its magnitude."""
    import scipy.fft

    length = scipy.fft.next_fast_len(len(wave), real=True)
    spectrum = scipy.fft.rfft(wave, length)
    frequencies = np.arange(len(spectrum)) * (RATE / length)
    size = np.sqrt(np.abs(spectrum))
    kept = (frequencies >= 100) & (frequencies <= _HIGH_HZ) & (size > 0)
    out: Wave = scipy.fft.irfft(np.divide(spectrum, size, out=np.zeros_like(spectrum), where=kept), length)
    return out[: len(wave)]


def same_wave(one: Wave, other: Wave) -> float:
    """How far two whitened waves agree where they overlap best, 0 to 1; 0 where little of either overlaps.

    Level, polarity and a shift change nothing.
    """
    import scipy.fft

    length = scipy.fft.next_fast_len(len(one) + len(other), real=True)
    product = scipy.fft.rfft(one, length) * np.conj(scipy.fft.rfft(other, length))
    correlation = np.abs(scipy.fft.irfft(product, length))
    shift = int(correlation.argmax())
    peak = float(correlation[shift])
    shift = shift if shift < len(one) else shift - length  # of the other's begin, against this one
    left, right = one[max(0, shift) :], other[max(0, -shift) :]
    both = min(len(left), len(right))
    energies = float(np.square(left[:both]).sum()), float(np.square(right[:both]).sum())
    wholes = float(np.square(one).sum()), float(np.square(other).sum())
    if not min(energies) > 0 or max(energies[0] / wholes[0], energies[1] / wholes[1]) < OVERLAP:
        return 0.0
    return min(1.0, peak / float(np.sqrt(energies[0] * energies[1])))


def near_duplicates(
    prints: Sequence[Fingerprint | None],
    read: Callable[[int], Wave],
    *,
    workers: int = 0,
    progress: Progress | None = None,
) -> list[tuple[int, int, float]]:
    """Pairs of rows that are nearly the same sound, the lower first, and how far their waves agree.

    ``prints`` are of each row. ``read`` gives the wave (samples,) of a row at `RATE`, its first `SECONDS`; it is
    called, in threads, for rows that may have a near duplicate. There are ``workers`` threads; 0 is one a core.
    ``progress`` is called with (steps done, steps in all): the search counts as many steps as there are sounds, and
    then each pair one.
    """
    total = len(prints)
    pairs = candidates(prints, progress=None if progress is None else lambda done, _: progress(done, total))
    wave = functools.lru_cache(maxsize=256)(lambda row: whitened(read(row)))
    found = []
    with ThreadPoolExecutor(max_workers=pool_size(workers)) as pool:
        agreements = pool.map(lambda pair: same_wave(wave(pair[0]), wave(pair[1])), pairs)
        for number, (pair, agreed) in enumerate(zip(pairs, agreements, strict=True)):
            if agreed >= SAME:
                found.append((*pair, agreed))
            if progress is not None:
                progress(total + number + 1, total + len(pairs))
    return found


def _beyond(wave: Wave, rate_hz: int) -> float:
    """The share of the energy from 1 kHz on above `_HIGH_HZ`, where that is no recorder's noise."""
    if rate_hz / 2 <= _HIGH_HZ:
        return 0.0
    above = everything = 0.0
    for power, hz in moments(wave[:, None], rate_hz):
        over = power[:, hz > _HIGH_HZ].sum(axis=1)
        above += float(over[over > LEVEL**2].sum())
        everything += float(power[:, hz >= FROM_HZ].sum())
    return above / everything if everything else 0.0


def _log_bands(wave: Wave) -> npt.NDArray[np.float32] | None:
    """Log energies (frames, bands) below the loudest one, down to 50 dB; None for silence."""
    count = (len(wave) - 1) // _HOP + 1
    padded = np.zeros(count * _HOP + _FFT, dtype=np.float32)
    padded[_FFT // 2 : _FFT // 2 + len(wave)] = wave
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:count]
    window, bank = _window_and_bank()
    import scipy.fft

    energies = np.square(np.abs(scipy.fft.rfft(frames * window, axis=1))) @ bank
    loudest = float(energies.max())
    if not loudest > 1e-12:
        return None
    logs: npt.NDArray[np.float32] = np.log(energies / loudest + _FLOOR).astype(np.float32)
    return logs


@functools.cache
def _window_and_bank() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A periodic Hann window, and triangles on the mel scale, (bins, bands)."""
    low, high = (2595 * math.log10(1 + end / 700) for end in (_LOW_HZ, _HIGH_HZ))
    edges = 700 * (10 ** (np.linspace(low, high, _BANDS + 2) / 2595) - 1)[:, None]
    frequencies = np.fft.rfftfreq(_FFT, 1 / RATE)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    bank = np.maximum(0, np.minimum(rising, falling)).T
    return np.hanning(_FFT + 1)[:-1].astype(np.float32), bank.astype(np.float32)


@functools.cache
def _cosines() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines over time (patch, 12) and bands (bands, 8), and the weights of their products (8, 12)."""
    in_time = np.cos(np.pi * (np.arange(_PATCH)[:, None] + 0.5) * np.arange(1, _TIMES + 1) / _PATCH)
    in_bands = np.cos(np.pi * (np.arange(_BANDS)[:, None] + 0.5) * np.arange(_SHAPES) / _BANDS)
    in_bands[:, 0] /= np.sqrt(2)  # an orthonormal basis, up to one factor
    weights = np.outer(np.arange(1, _SHAPES + 1), np.arange(1, _TIMES + 1)) ** 0.75
    return in_time.astype(np.float32), in_bands.astype(np.float32), weights.astype(np.float32)


def _together(rows: Iterable[tuple[int, _T | None]]) -> list[list[int]]:
    """Rows with one mark, each group of two or more; None is no mark."""
    groups: defaultdict[_T, list[int]] = defaultdict(list)
    for row, mark in rows:
        if mark is not None:
            groups[mark].append(row)
    return [found for found in groups.values() if len(found) > 1]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size or None if path.is_file() else None
    except (OSError, ValueError):
        return None


def _begin(path: Path) -> tuple[int, int, bytes] | None:
    """Rate, frames by the header, and the digest of the first samples at 16 bits; None if a file cannot be read."""
    content = hashlib.blake2b(digest_size=16)
    try:
        with opened(path) as sound:
            rate, frames = sound.decoder.rate_hz, sound.decoder.frames
            for wave in blocks(sound, limit=math.ceil(_BEGIN_SECONDS * rate), mono=True):
                content.update(_at_16_bits(wave).tobytes())
    except AudioError:
        return None
    return rate, frames, content.digest()


def _samples(path: Path) -> bytes | None:
    """Digest of a sound's samples at 16 bits; None if it cannot be read, or is silent."""
    content, sounding = hashlib.blake2b(digest_size=16), False
    try:
        with opened(path) as sound:
            for wave in blocks(sound, limit=None, mono=True):
                samples = _at_16_bits(wave)
                content.update(samples.tobytes())
                sounding = sounding or bool(samples.any())
    except AudioError:
        return None
    return content.digest() if sounding else None


def _at_16_bits(wave: Wave) -> npt.NDArray[np.int32]:
    return np.rint(wave[:, 0].astype(np.float64) * 2**15).astype("<i4")


def _digest(path: Path, *, sampled: bool = False) -> bytes | None:
    """Digest of a file, or of its begin, middle and end; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            if not sampled:
                return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
            size = os.fstat(file.fileno()).st_size
            parts = []
            for place in sorted({0, size // 2, max(0, size - _SAMPLED_BYTES)}):
                file.seek(place)
                parts.append(file.read(_SAMPLED_BYTES))
            return hashlib.blake2b(b"".join(parts), digest_size=16).digest()
    except OSError:
        return None
