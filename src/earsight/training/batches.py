"""What a training step is fed with: an epoch's batches as tensors on the device.

Comes in: the rows and draws of an epoch's batches. Goes out: for each batch the tensors that `assemble` turns into
network input and targets. Where the data are on the host it makes the spectrograms there, batch by batch; where they are on
the device the draws of the whole epoch go up at once, and everything else is the step's own work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earsight.features.augment import BatchedDraws, Draws, apply_batched, batch_draws, mix_targets, one_hot
from earsight.features.device_cache import DeviceCache

if TYPE_CHECKING:
    from earsight.training.loop import Data

Batch = tuple[NDArray[np.int64], Draws]
"""Rows, and what is done to them."""


class Feed(Protocol):
    """Batches of one epoch, as a step takes them."""

    def epoch(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """The tensors of each batch, on the device."""

    def assemble(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Network input (batch, 3, bands, frames) and label distributions (batch, classes)."""


def feed_of(data: Data, *, smoothing: float) -> Feed:
    """The feed that fits where the data are; labels are smoothed towards uniform by ``smoothing``."""
    if isinstance(data.source, DeviceCache):
        return ResidentFeed(data, data.source, smoothing=smoothing)
    return HostFeed(data, smoothing=smoothing)


class HostFeed:
    """Spectrograms made by the host, one batch after the other."""

    def __init__(self, data: Data, *, smoothing: float) -> None:
        self._data, self._smoothing = data, smoothing

    def epoch(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """Spectrograms and targets of each batch."""
        data = self._data
        for rows, draws in batches:
            targets = one_hot(data.labels[rows], classes=data.classes, smoothing=self._smoothing)
            yield data.spectrograms(rows, draws=draws), mix_targets(targets, draws).to(data.device)

    def assemble(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """What `epoch` gave, as it is."""
        spectrograms, targets = batch
        return spectrograms, targets


class ResidentFeed:
    """Rows and draws of a source on the device, which a step makes its spectrograms of."""

    def __init__(self, data: Data, source: DeviceCache, *, smoothing: float) -> None:
        self._data, self._source, self._smoothing = data, source, smoothing
        self._labels = torch.tensor(data.labels, device=data.device)
        self._classes = torch.arange(data.classes, device=data.device)
        self._time_masks = 0

    def epoch(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """Whole-numbered and real choices of each batch; all of them go up before the first."""
        drawn = list(batches)
        packed = batch_draws(drawn, semitones=self._source.semitones, device=self._data.device)
        self._time_masks = packed.time_masks
        start = 0
        for rows, _ in drawn:
            part = packed[start : start + len(rows)]
            start += len(rows)
            yield part.whole, part.real

    def assemble(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrograms at the drawn pitch, changed by the draws; and their labels, mixed as they are."""
        whole, real = batch
        packed = BatchedDraws(whole, real, time_masks=self._time_masks)
        rows, steps, partner = whole.unbind(1)
        spectrograms = self._data.normalised(self._source.pick(rows, steps))
        spectrograms = apply_batched(spectrograms, packed, silence=self._data.silence)
        hot = (self._labels[rows][:, None] == self._classes).float()
        targets = hot * (1.0 - self._smoothing) + self._smoothing / len(self._classes)
        return self._data.as_input(spectrograms), torch.lerp(targets[partner], targets, packed.share[:, None])
