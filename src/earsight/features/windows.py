"""Windows of a data set's clips: which part of which clip a row of a store is.

Comes in: the clips' lengths, resolved features. Goes out: a `ClipWindows` with a row for each window. A clip of at most
1.1 windows has one row, so that where none is longer row i is clip i. Longer clips are cut: judged by windows side by
side, the last of which ends with the clip, and trained on by these and by those halfway between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.data import audio
from earsight.errors import counted
from earsight.evaluation.metrics import logit, probabilities
from earsight.recipe import Features, Training

MUCH = 2.0
"""Factor between the median lengths of two classes from which on padding tells them apart."""

LITTLE = 0.02
"""Share of a window that a clip may lack, or have too much, without more than a mention."""


@dataclass(frozen=True, eq=False)
class ClipWindows:
    """Clip and begin of each row of a store; the rows of a clip lie together, and clips are in the data set's order.

    ``clips`` int64 (rows,) are indices of clips, ``begins`` int64 (rows,) samples at the features' rate; ``judged``
    bool (rows,) says which rows lie side by side, and together give a clip's prediction.
    """

    clips: NDArray[np.int64]
    begins: NDArray[np.int64]
    judged: NDArray[np.bool_]

    @property
    def single(self) -> bool:
        """Whether each clip is one row."""
        return len(self.clips) == len(self._first) - 1

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """First row of each clip, and the number of rows."""
        count = int(self.clips[-1]) + 1 if len(self.clips) else 0
        return np.searchsorted(self.clips, np.arange(count + 1))

    @property
    def key(self) -> list[Any]:
        """What names the windows in a hash of a store's content; nothing where each clip is one row."""
        return [] if self.single else [["windows", self.clips.tolist(), self.begins.tolist()]]

    def rows_in(self, clip: int) -> int:
        """How many rows a clip has."""
        return int(self._first[clip + 1] - self._first[clip])

    def last_begin(self, clip: int) -> int:
        """Begin of a clip's last row."""
        return int(self.begins[self._first[clip + 1] - 1])

    def rows_of(self, clips: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows by which some clips are judged, clip after clip."""
        if self.single:
            return clips
        parts = [np.arange(self._first[clip], self._first[clip + 1]) for clip in clips]
        rows = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        judged: NDArray[np.int64] = rows[self.judged[rows]]
        return judged

    def drawn(self, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """A row for each clip, shape (clips,), by a draw of its own generator that depends on seed and epoch alone."""
        first, counts = self._first[:-1], np.diff(self._first)
        if self.single:
            return first
        shares = np.random.default_rng([seed, epoch, 1]).random(len(first))
        drawn: NDArray[np.int64] = first + np.floor(shares * counts).astype(np.int64)
        return drawn

    def means(self, clips: NDArray[np.int64], values: NDArray[Any]) -> NDArray[Any]:
        """Mean of the values (rows, ...) of `rows_of` over each clip's rows: (clips, ...)."""
        if self.single:
            return values
        owners = np.repeat(np.arange(len(clips)), self.counts(clips))
        sums = np.zeros((len(clips), *values.shape[1:]))
        np.add.at(sums, owners, values)
        return sums / self.counts(clips).reshape(-1, *[1] * (values.ndim - 1))

    def counts(self, clips: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many rows judge each of some clips."""
        counts: NDArray[np.int64] = np.bincount(self.clips[self.judged], minlength=len(self._first) - 1)[clips]
        return counts

    def log_means(
        self, clips: NDArray[np.int64], logits: NDArray[np.float32], *, several: bool = False
    ) -> NDArray[np.float32]:
        """Logits (clips, classes) of clips: of one row its own, of several those of their mean probabilities.

        These are the logarithms; of classes that may sound together (``several``) the log odds.
        """
        if self.single:
            return logits
        shares = self.means(clips, probabilities(logits, several=several))
        if several:
            out = logit(shares).astype(np.float32)
        else:
            out = np.log(np.maximum(shares, np.finfo(np.float32).tiny)).astype(np.float32)
        counts = self.counts(clips)
        out[counts == 1] = logits[np.repeat(counts, counts) == 1]
        return out


def single_windows(clips: int) -> ClipWindows:
    """Each clip as one row, from its begin."""
    return ClipWindows(np.arange(clips), np.zeros(clips, dtype=np.int64), np.ones(clips, dtype=bool))


def clip_windows(seconds: NDArray[np.float64], features: Features, training: Training) -> ClipWindows:
    """The windows that clips of so many ``seconds`` (clips,), NaN where unknown, are cut into by a resolved recipe."""
    if training.windows == "first":
        return single_windows(len(seconds))
    clips, begins, judged = [], [], []
    for clip, lasts in enumerate(np.minimum(seconds, training.most_seconds).tolist()):
        length = 0 if math.isnan(lasts) else round(lasts * features.rate)
        side_by_side = set(audio.windows(length, features.samples))
        for begin in _with_halves(sorted(side_by_side), features.samples):
            clips.append(clip)
            begins.append(begin)
            judged.append(begin in side_by_side)
    return ClipWindows(np.array(clips), np.array(begins), np.array(judged))


def _with_halves(begins: Sequence[int], window: int) -> list[int]:
    """Begins, and those halfway between two that are more than half a window apart."""
    between = [(one + two) // 2 for one, two in pairwise(begins) if two - one > window / 2]
    return sorted({*begins, *between})


def sound_lines(
    seconds: NDArray[np.float64], labels: Sequence[str], features: Features, training: Training
) -> list[str]:
    """What of the clips a resolved recipe gives to a network, as lines to print: rate, lengths, what is cut and padded.

    ``seconds`` are the clips' lengths, as in `clip_windows`. Classes whose clips differ much in length are named, for
    the padding tells them apart.
    """
    window = features.samples / features.rate
    whole = training.windows != "first"
    cut = seconds > audio.LONGER * window
    loose = np.round(seconds * features.rate) > features.samples  # false for NaN
    lacking = np.round(seconds * features.rate) < features.samples
    # A codec's or a cutter's few milliseconds tell a network nothing; half a window of silence does.
    padded = lacking & (seconds < (1 - LITTLE) * window)
    readable = int(np.isfinite(seconds).sum())
    lines = [
        f"sound: {features.rate} Hz, windows of {window:g} s; of {counted(readable, 'clip')} {cut.sum()} are cut "
        f"and {padded.sum()} padded with silence"
    ]
    if cut.any() and whole:
        rows = clip_windows(seconds, features, training)
        count = int(rows.counts(np.flatnonzero(cut)).sum())
        lines.append(
            f"those cut have {counted(count, 'window')}: training draws one of each clip's in every epoch, and "
            "held-out clips are judged by the mean of theirs (--set training.windows=first: only the begin)"
        )
        if (beyond := seconds > training.most_seconds).any():
            lines.append(
                f"of {counted(int(beyond.sum()), 'clip')} only the first {training.most_seconds:g} s are used "
                f"(--set training.most_seconds={np.ceil(np.nanmax(seconds)):g}: all); `predict` and `evaluate` hear all"
            )
    elif cut.any():
        lines.append(f"of those cut only the first {window:g} s are used (--set training.windows=all: all of them)")
    if (near := lacking & ~padded).any():
        lines.append(
            f"{counted(int(near.sum()), 'clip')} shorter than a window by at most "
            f"{float((window - seconds[near]).max()):.2g} s, which is filled with silence"
        )
    if (over := loose & ~cut).any():
        most = float((seconds[over] - window).max())
        way = f"; --set features.clip_seconds={np.ceil(round(10 * (window + most), 6)) / 10:g} uses all"
        lines.append(
            f"{counted(int(over.sum()), 'clip')} longer than a window by at most {most:.2g} s, which is not used"
            + (way if most > LITTLE * window else "")
        )
    lengths: dict[str, list[float]] = {}
    for label, lasts in zip(labels, np.minimum(seconds, window).tolist(), strict=True):
        if not math.isnan(lasts):
            lengths.setdefault(label, []).append(lasts)
    medians = {label: float(np.median(found)) for label, found in lengths.items()}
    if medians:
        short, long = min(medians, key=lambda name: medians[name]), max(medians, key=lambda name: medians[name])
        if medians[long] >= MUCH * medians[short]:
            lines.append(
                f"note: clips of '{short}' last {medians[short]:.2g} s, those of '{long}' {medians[long]:.2g} s "
                "(medians): the padding may give a class away; a shorter features.clip_seconds makes them more alike"
            )
    return lines
