"""A recording of any length as overlapping windows, each classified as a clip, in constant memory.

Comes in: a model and the path of a sound file. Goes out: `Window`s of the model's clip length, every ``hop_seconds``.
Overlapping windows share their decoding, but each is resampled by itself, so that its prediction equals that of the
excerpt cut from the file. (Shared resampling saves a twentieth of the work, but changed probabilities by up to 0.05,
because an excerpt that is cut before resampling rings at its edges.)

The first window begins at 0. The last one is the first that reaches the recording's end, and is padded with silence
like a short clip; if windows do not overlap, it is left out if less than a tenth of it is sound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.data import audio
from earsight.data.audio import Piece, pieces
from earsight.data.intake import Meter, is_constant
from earsight.errors import AudioError, EarsightError
from earsight.inference.activity import frames_of
from earsight.inference.model import Model
from earsight.inference.predictions import Window
from earsight.parallel import in_order

BATCH = 2
"""Windows classified at once: more are no faster on a CPU and take more memory. Batches begin at multiples of it, also
in a resumed command, so that the bits are the same."""
_LEAST_SHARE = 0.1


_Cut = tuple[int, NDArray[np.float32], int]  # where a window begins, its wave, where the window before it ended


class Batch(NamedTuple):
    """Windows to classify at once: their times in seconds, and waves (samples,) float32 at the recording's rate.

    ``samples``: where each begins, and where the window before it ended, in samples of the recording.
    """

    path: str
    spans: list[tuple[float, float]]
    waves: list[NDArray[np.float32]]
    rate_hz: int
    samples: list[tuple[int, int]]


class Recording:
    """One recording; iterating, once or more often, gives its windows.

    ``hop_seconds`` is the time from the start of one window to that of the next, and may be longer than a window;
    EarsightError if it is no length. Once reading has begun, ``rate_hz`` is the file's own and ``promised_seconds`` its
    length as its header has it (0 where it does not say); ``seconds`` is what was read, ``failure`` the `AudioError`
    that ended it before the recording's end; ``meter`` measures what of it the network does not get.
    """

    def __init__(self, model: Model, path: str | Path, *, hop_seconds: float) -> None:
        check_hop(hop_seconds, sample_rate_hz=model.sample_rate_hz)
        self.path = str(path)
        self.rate_hz, self.promised_seconds, self.seconds = 0, 0.0, 0.0
        self.failure: AudioError | None = None
        self.meter = Meter(model.card.recipe.features)
        self._size = 0  # samples of a window at the file's rate
        self._model, self._hop = model, hop_seconds

    def __repr__(self) -> str:
        return f"<Recording {self.path}: iterate over its windows, one every {self._hop:g} s>"

    def __iter__(self) -> Iterator[Window]:
        """Windows in order; AudioError if the file cannot be read, after the windows of its readable part."""
        for windows in in_order(lambda batch: classify(self._model, batch), self.batches(), ahead=2):
            yield from windows
        if self.failure is not None:
            raise self.failure

    def batches(self, *, first: int = 0) -> Iterator[Batch]:
        """The windows' waves, from batch ``first`` on; if reading fails, `failure` is set after the last batch."""
        number = first * BATCH
        begin = 0  # index in the recording of the first buffered sample
        held: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        waiting: list[_Cut] = []
        for piece in self._pieces(number * self._hop):
            held, begin = np.concatenate([held, piece.wave]), begin if len(held) else piece.first
            end = begin + len(held)
            self.seconds = end / self.rate_hz
            while (start := self._start(number)) + self._size <= end:
                waiting.append((start, held[start - begin : start - begin + self._size], self._heard(number)))
                number += 1
                if len(waiting) == BATCH:
                    yield self._batch(waiting)
                    waiting = []
            kept = min(len(held), max(0, start - begin))
            held, begin = held[kept:], begin + kept
        if self.rate_hz and self._has_another(number, begin + len(held)):
            start = self._start(number)
            waiting.append((start, held[start - begin :], self._heard(number)))
        if waiting:
            yield self._batch(waiting)

    def _pieces(self, begin_seconds: float) -> Iterator[Piece]:
        channel = self._model.card.recipe.features.channel
        try:
            for piece in pieces(self.path, begin_seconds=begin_seconds, channel=channel, observe=self.meter.add):
                self.rate_hz, self.promised_seconds = piece.rate_hz, piece.seconds
                self._size = math.ceil(self._model.clip_seconds * piece.rate_hz)
                yield piece
        except AudioError as error:
            self.failure = error
        self._model.note_loss(self.path, self.meter)

    def _start(self, number: int) -> int:
        return round(number * self._hop * self.rate_hz)

    def _heard(self, number: int) -> int:
        return self._start(number - 1) + self._size if number else 0

    def _has_another(self, number: int, end: int) -> bool:
        """Whether there is a window ``number``: the recording's end lies in no window before it."""
        if number == 0:
            return end > 0
        return self._start(number - 1) + self._size < end and self._start(number) + _LEAST_SHARE * self._size <= end

    def _batch(self, windows: list[_Cut]) -> Batch:
        spans = [(start / self.rate_hz, (start + len(wave)) / self.rate_hz) for start, wave, _ in windows]
        places = [(start, covered) for start, _, covered in windows]
        return Batch(self.path, spans, [wave.copy() for _, wave, _ in windows], self.rate_hz, places)


def classify(model: Model, batch: Batch) -> list[Window]:
    """The windows of a batch with their predictions and frames; each is resampled by itself, and silence named."""
    waves = [audio.resampled(wave, rate_hz=batch.rate_hz, sample_rate_hz=model.sample_rate_hz) for wave in batch.waves]
    found = model.predict_waves(np.stack([audio.fit(wave, model.samples) for wave in waves]), name=batch.path)
    band_hz = model.card.recipe.features.band_hz
    frames = [
        frames_of(wave, begin=begin, covered=covered, rate_hz=batch.rate_hz, band_hz=band_hz)
        for wave, (begin, covered) in zip(batch.waves, batch.samples, strict=True)
    ]
    lost: list[dict[str, float]] = [{"silent": 1.0} if is_constant(wave, wave[0]) else {} for wave in batch.waves]
    found = [replace(one, left_out=left_out) for one, left_out in zip(found, lost, strict=True)]
    return [Window(*span, one, new) for span, one, new in zip(batch.spans, found, frames, strict=True)]


def check_hop(hop_seconds: float, *, sample_rate_hz: int) -> None:
    """Raise EarsightError unless windows can be this far apart."""
    if not 1 / sample_rate_hz <= hop_seconds < math.inf:
        raise EarsightError(f"hop is {hop_seconds:g} s; expected one sample, 1/{sample_rate_hz} s, or more")
