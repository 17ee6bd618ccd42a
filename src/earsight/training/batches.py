"""Batches of labelled spectrograms, as training steps take them.

Comes in: `Data`, and the rows and draws of an epoch's batches. Goes out: for each batch the tensors on the device that
`assemble` turns into network input (batch, 3, bands, frames) float32 and targets (batch, classes). Data on the host
become spectrograms there, batch by batch; for data on the device the draws of the whole epoch go up at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earsight.features.augment import (
    BatchedDraws,
    Draws,
    add_background,
    apply,
    apply_batched,
    batch_draws,
    mix_marks,
    mix_targets,
    one_hot,
    smoothed,
)
from earsight.features.device_cache import DeviceCache
from earsight.features.windows import ClipWindows, single_windows

Batch = tuple[NDArray[np.int64], Draws]
"""Rows of a batch, and its augmentation draws."""


class Source(Protocol):
    """Where spectrograms come from: the store, or the waveform backend."""

    stretches: bool
    """Whether `read` already stretches and rolls the sound by the draws."""

    @property
    def silence(self) -> Tensor:
        """Value of each spectrogram row in digital silence, shape (bands,)."""

    def read(self, rows: NDArray[np.int64], *, draws: Draws | None) -> Tensor:
        """Spectrograms (batch, windows, bands, frames) of some rows, at the drawn pitch."""


@dataclass(frozen=True)
class Data:
    """Labelled, normalised spectrograms.

    ``labels`` int64 (clips,) are those of every clip, used or not; where clips may have several they are float32
    (clips, classes): 1, 0, or NaN where that is not known. ``windows`` says which part of which clip a row of the
    source is, and is None where row i is clip i. Spectrograms go to the ``device``, where they are normalised by
    the channels' ``mean`` and ``std`` (windows,) and changed. ``background`` (clips,) are those that hold none of the
    classes, and may be added to others.
    """

    source: Source
    labels: NDArray[Any]
    classes: int
    mean: Tensor
    std: Tensor
    device: torch.device
    windows: ClipWindows | None = None
    background: NDArray[np.bool_] | None = None

    @property
    def several(self) -> bool:
        """Whether clips may have several labels."""
        return self.labels.ndim == 2

    @cached_property
    def cut(self) -> ClipWindows:
        """Which part of which clip each row is."""
        return self.windows or single_windows(len(self.labels))

    def spectrograms(self, rows: NDArray[np.int64], *, draws: Draws | None = None) -> Tensor:
        """Network input (batch, 3, bands, frames), channels-last, augmented by the draws if given."""
        raw = self.source.read(rows, draws=draws).to(self.device, non_blocking=True)
        if draws is not None and draws.background is not None and (noisy := draws.background >= 0).any():
            other = self.source.read(draws.background[noisy], draws=None).to(self.device)
            snr = torch.from_numpy(draws.snr[noisy]).to(self.device)
            raw[noisy] = add_background(raw[noisy], other, snr)
        out = self.normalised(raw)
        if draws is not None:
            out = apply(out, draws, silence=self.silence, stretch=not self.source.stretches)
        return self.as_input(out)

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        return self.mean.to(self.device)[:, None, None], self.std.to(self.device)[:, None, None]

    @cached_property
    def silence(self) -> Tensor:
        """Normalised value of digital silence in each row, shape (windows, bands), on the device."""
        mean, std = self._scale
        return (self.source.silence.to(self.device) - mean[:, 0]) / std[:, 0]

    def normalised(self, raw: Tensor) -> Tensor:
        """Spectrograms (batch, windows, bands, frames) less the mean, divided by the deviation, in place."""
        mean, std = self._scale
        return raw.sub_(mean).div_(std)

    def raw(self, spectrograms: Tensor) -> Tensor:
        """Network input, as `as_input` gives it, in the units of the source again."""
        mean, std = self._scale
        return spectrograms * std + mean

    def as_input(self, spectrograms: Tensor) -> Tensor:
        """Network input (batch, 3, bands, frames), channels-last, of spectrograms (batch, windows, bands, frames)."""
        return spectrograms.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


class Batches(Protocol):
    """Source of a training step's input."""

    def epoch(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """The tensors of each batch, on the device."""

    def assemble(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Network input (batch, 3, bands, frames), and label distributions or marks (batch, classes)."""


def batches_of(data: Data, *, smoothing: float) -> Batches:
    """Batches assembled on the host or on the device, wherever the data are; labels are smoothed towards uniform."""
    if isinstance(data.source, DeviceCache):
        return DeviceBatches(data, data.source, smoothing=smoothing)
    return HostBatches(data, smoothing=smoothing)


class HostBatches:
    """Spectrograms made by the host, one batch after the other."""

    def __init__(self, data: Data, *, smoothing: float) -> None:
        self._data, self._smoothing = data, smoothing

    def epoch(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """Spectrograms and targets of each batch."""
        data = self._data
        for rows, draws in batches:
            found = data.labels[data.cut.clips[rows]]
            if data.several:
                marks = smoothed(torch.from_numpy(found), self._smoothing)
                share = torch.from_numpy(draws.share).to(marks)[:, None]
                targets = mix_marks(marks, torch.from_numpy(draws.partner), share)
                yield data.spectrograms(rows, draws=draws), targets.to(data.device)
                continue
            targets = one_hot(found, classes=data.classes, smoothing=self._smoothing)
            yield data.spectrograms(rows, draws=draws), mix_targets(targets, draws).to(data.device)

    def assemble(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """What `epoch` gave, as it is."""
        return batch[0], batch[1]


class DeviceBatches:
    """Rows and draws of a source on the device, from which a step computes its spectrograms."""

    def __init__(self, data: Data, source: DeviceCache, *, smoothing: float) -> None:
        self._data, self._source, self._smoothing = data, source, smoothing
        self._labels = torch.tensor(data.labels[data.cut.clips], device=data.device)
        self._classes = torch.arange(data.classes, device=data.device)
        self._centre = int(np.searchsorted(source.semitones, 0))
        self._layout: BatchedDraws | None = None

    def epoch(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """Integer and real draws of each batch; those of the whole epoch are uploaded before its first batch."""
        drawn = list(batches)
        all_draws = batch_draws(drawn, semitones=self._source.semitones, device=self._data.device)
        self._layout = all_draws[:0]
        start = 0
        for rows, _ in drawn:
            part = all_draws[start : start + len(rows)]
            start += len(rows)
            yield part.whole, part.real

    def assemble(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented spectrograms at the drawn pitch, and their labels, mixed in the same shares."""
        if self._layout is None:
            raise RuntimeError("a batch is assembled before its epoch has begun")
        whole, real = batch
        draws = replace(self._layout, whole=whole, real=real)
        rows, steps, partner, background = whole.unbind(1)
        raw = self._source.pick(rows, steps)
        if self._data.background is not None:
            noisy = background >= 0
            other = self._source.pick(background.clamp(min=0), torch.full_like(steps, self._centre))
            mixed = add_background(raw, other, draws.snr)
            raw = torch.where(noisy[:, None, None, None], mixed, raw)
        spectrograms = self._data.normalised(raw)
        spectrograms = apply_batched(spectrograms, draws, silence=self._data.silence)
        if self._data.several:
            marks = smoothed(self._labels[rows], self._smoothing)
            return self._data.as_input(spectrograms), mix_marks(marks, partner, draws.share[:, None])
        hot = (self._labels[rows][:, None] == self._classes).float()
        targets = hot * (1.0 - self._smoothing) + self._smoothing / len(self._classes)
        return self._data.as_input(spectrograms), torch.lerp(targets[partner], targets, draws.share[:, None])
