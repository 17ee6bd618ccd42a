"""Random choices as tensors: an epoch's draws go to the device at once, and are applied there.

Comes in: the batches of an epoch, rows and `earsight.features.augment.Draws`, and pictures (batch, windows, bands,
frames) on a device. Goes out: what `earsight.features.augment.apply` gives on the host, to rounding. Nothing here looks
at a value from Python or makes the host wait, so that a GPU can record it once and replay it with other draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earsight.features.augment import Draws

_SINGLE = 4  # speed, place, roll and share stand before the masks


@dataclass(frozen=True)
class Packed:
    """Rows and draws of some examples.

    Attributes
    ----------
    whole : Tensor of int64, shape (examples, 3)
        Row, index of the pitch step, and the place in its batch of the example that it is mixed with.
    real : Tensor of float64, shape (examples, 4 + 2 * masks)
        Speed, place, roll, share, then start and end of each time mask and of each band mask. Double precision, as on
        the host: rounding must not push a column over the edge of a sound.
    time_masks : int
        How many of the masks are of time.
    """

    whole: Tensor
    real: Tensor
    time_masks: int

    @property
    def share(self) -> Tensor:
        """Weight of each example in its mixture, shape (examples,), float32."""
        return self.real[:, _SINGLE - 1].float()

    def __getitem__(self, part: slice) -> Packed:
        """Some of the examples; a view."""
        return Packed(self.whole[part], self.real[part], self.time_masks)


def pack(
    batches: Sequence[tuple[NDArray[np.int64], Draws]], *, semitones: Sequence[int], device: torch.device
) -> Packed:
    """All batches' rows and draws, one after the other, on a device.

    Parameters
    ----------
    batches : sequence of (rows, draws)
    semitones : sequence of int
        The pitch steps that the source holds, rising.
    device : torch.device
    """
    whole = np.concatenate(
        [
            np.stack([rows, np.searchsorted(semitones, draws.semitones), draws.partner], axis=1)
            for rows, draws in batches
        ]
    )
    real = np.concatenate(
        [
            np.concatenate(
                [
                    np.stack([draws.speed, draws.place, draws.roll, draws.share], axis=1),
                    draws.time_masks.reshape(len(rows), -1),
                    draws.band_masks.reshape(len(rows), -1),
                ],
                axis=1,
            )
            for rows, draws in batches
        ]
    )
    time_masks = batches[0][1].time_masks.shape[1]
    return Packed(torch.from_numpy(whole).to(device), torch.from_numpy(real).to(device), time_masks)


def apply_packed(pictures: Tensor, packed: Packed, *, silence: Tensor) -> Tensor:
    """Roll, stretch, mask and mix a batch of normalised pictures, as `earsight.features.augment.apply` does.

    Parameters
    ----------
    pictures : Tensor, shape (batch, channels, bands, frames)
    packed : Packed
        Of the same examples, on the same device.
    silence : Tensor, shape (channels, bands)

    Returns
    -------
    Tensor, shape (batch, channels, bands, frames)
    """
    batch, _, bands, frames = pictures.shape
    speed, place, roll = packed.real[:, : _SINGLE - 1, None].unbind(1)
    masks = packed.real[:, _SINGLE:].reshape(batch, -1, 2)
    length = (frames - 1) / speed + 1
    first = place * (frames - length)
    position = (torch.arange(frames, device=pictures.device) - first) * speed
    inside = (position >= -1e-9) & (position <= frames - 1 + 1e-9)
    position = position.clamp(0.0, frames - 1.0)
    lower = position.floor()
    fraction = (position - lower).to(pictures.dtype)
    offset = (roll * frames).floor()
    left = ((lower - offset) % frames).long()
    right = (((lower + 1).clamp(max=frames - 1.0) - offset) % frames).long()

    def columns(index: Tensor) -> Tensor:
        return pictures.gather(3, index[:, None, None, :].expand_as(pictures))

    out = torch.lerp(columns(left), columns(right), fraction[:, None, None, :])
    out = torch.where(inside[:, None, None, :], out, silence[:, :, None])
    keep_time = _keep(masks[:, : packed.time_masks], frames)
    keep_bands = _keep(masks[:, packed.time_masks :], bands)
    out = out * (keep_bands[:, None, :, None] & keep_time[:, None, None, :])
    return torch.lerp(out[packed.whole[:, 2]], out, packed.share[:, None, None, None])


def _keep(masks: Tensor, size: int) -> Tensor:
    cells = (torch.arange(size, device=masks.device, dtype=torch.float64) + 0.5) / size
    covered = (cells >= masks[..., :1]) & (cells < masks[..., 1:])
    return ~covered.any(dim=1)
