"""Augmentation of spectrograms: random draws, applied to one batch on the host or to many batches on a device.

Comes in: spectrograms (batch, channels, bands, frames) float, and the `Draws` of the batch, drawn beforehand so that
they can be replayed. Goes out: spectrograms of the same shape, of any representation, on any device:

- pitch: one of the pitch steps that the front end computed with warped filterbanks, without a phase vocoder;
- stretch by r: the spectrogram is read at r times the speed, with linear interpolation between columns. A faster sound
  is padded with silence, a slower one is cropped;
- shift: the spectrogram is rolled in time; its end goes to the beginning;
- masks: ranges of columns or of bands are set to the mean (SpecAugment, Park et al. 2019, arXiv 1904.08779);
- mixup: convex combinations of two examples and of their labels (Zhang et al. 2018, arXiv 1710.09412);
- background: of another row, which holds none of the classes, at a drawn signal-to-noise ratio, before all others but
  pitch. Powers are added where waves would be: the cross term, which has no mean, is what that leaves out.

Batched augmentation (`BatchedDraws`) gives the same to rounding, and Python reads no value, so a GPU can replay it.

A new augmentation goes into both `apply` and `apply_batched` (a test compares them). Guard its draw as mixup's is, so
that nothing is drawn while it is off: one generator serves the epoch, and an extra draw would change old runs' bits. A
new single number goes before ``share`` in the columns of `BatchedDraws.real`; its recipe field goes into ``NEUTRAL``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from earsight.features.filterbanks import LOG_OFFSET
from earsight.recipe import Augment


@dataclass(frozen=True)
class Draws:
    """The random choices for one batch; arrays have one entry an example.

    ``semitones``: pitch shift, upwards positive. ``speed``: above 1 the sound is faster and shorter. ``place``, in
    [0, 1): where a longer sound is cropped, or a shorter one placed. ``roll``, in [0, 1): in time, as a share of the
    clip. ``time_masks``, ``band_masks``, shape (batch, masks, 2): start and end of each as shares of the spectrogram.
    ``partner``: the example each one is mixed with; ``share``, in [0.5, 1]: the example's own weight in the mixture.
    ``background``: the row whose sound is added, -1 for none; ``snr``: the example's energy over that row's, in dB.
    """

    semitones: NDArray[np.int64]
    speed: NDArray[np.float64]
    place: NDArray[np.float64]
    roll: NDArray[np.float64]
    time_masks: NDArray[np.float64]
    band_masks: NDArray[np.float64]
    partner: NDArray[np.int64]
    share: NDArray[np.float64]
    background: NDArray[np.int64] | None = None
    snr: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def pitch_steps(augment: Augment) -> tuple[int, ...]:
    """The pitch steps in semitones that a store must hold for this augmentation: -n, ..., n."""
    reach = augment.pitch_semitones if augment.backend == "spectrogram" else 0
    return tuple(range(-reach, reach + 1))


def step_indices(semitones: Sequence[int], rows: int, draws: Draws | None) -> NDArray[np.int64]:
    """Index of each row's pitch step (rows,) among ``semitones``, rising; of 0 where there are no draws."""
    return np.searchsorted(semitones, np.zeros(rows, dtype=np.int64) if draws is None else draws.semitones)


def draw(
    augment: Augment,
    *,
    batch: int,
    generator: np.random.Generator,
    kept: NDArray[np.bool_] | None = None,
    backgrounds: NDArray[np.int64] | None = None,
) -> Draws:
    """Random choices for a batch of that many examples, within the recipe's ranges, all from one generator.

    Examples that are ``kept`` (batch,) stay as they are; others may be mixed with them. ``backgrounds`` are the rows
    that may be added to examples.
    """
    changed = generator.random(batch) < augment.probability
    if kept is not None:
        changed &= ~kept
    reach = augment.pitch_semitones
    semitones = np.where(changed, generator.integers(-reach, reach + 1, batch), 0)
    speed = np.where(changed, generator.uniform(*augment.stretch, batch), 1.0)
    roll = np.where(changed, generator.random(batch), 0.0) if augment.shift else np.zeros(batch)
    share = np.ones(batch)
    if augment.mixup:
        share = np.where(changed, generator.beta(augment.mixup, augment.mixup, batch), 1.0)
    background, snr = None, np.zeros(batch)
    if augment.background and backgrounds is not None:
        noisy = generator.random(batch) < augment.background
        background = np.where(noisy if kept is None else noisy & ~kept, generator.choice(backgrounds, batch), -1)
        snr = generator.uniform(*augment.background_snr_db, batch)
    return Draws(
        semitones=semitones,
        speed=speed,
        place=generator.random(batch),
        roll=roll,
        time_masks=_masks(augment.time_masks, augment.time_mask_fraction, changed, generator),
        band_masks=_masks(augment.band_masks, augment.band_mask_fraction, changed, generator),
        partner=generator.permutation(batch),
        # The example itself keeps the larger share, so that its own label stays the main one.
        share=np.maximum(share, 1.0 - share),
        background=background,
        snr=snr,
    )


def _masks(
    count: int, fraction: float, changed: NDArray[np.bool_], generator: np.random.Generator
) -> NDArray[np.float64]:
    width = generator.uniform(0.0, fraction, (len(changed), count)) * changed[:, None]
    start = generator.uniform(0.0, 1.0, (len(changed), count)) * (1.0 - width)
    return np.stack([start, start + width], axis=-1)


def stretch_matrix(
    speed: NDArray[np.float64], *, place: NDArray[np.float64], roll: NDArray[np.float64], frames: int
) -> Tensor:
    """Matrices (batch, frames, frames) float32 that roll and stretch spectrograms.

    Column t of the result is the (rolled) input at ``start + speed * t``, interpolated between two columns. Columns
    that lie outside the sound have no weight at all; the caller fills them with silence.
    """
    length = (frames - 1) / speed + 1  # columns that the stretched sound takes
    # Slower sounds are longer than the spectrogram: the crop begins anywhere. Faster ones stand anywhere in it.
    first = place * (frames - length)
    position = (np.arange(frames)[None, :] - first[:, None]) * speed[:, None]
    inside = (position >= -1e-9) & (position <= frames - 1 + 1e-9)
    position = np.clip(position, 0.0, frames - 1)
    lower = np.floor(position).astype(np.int64)
    upper = np.minimum(lower + 1, frames - 1)
    fraction = (position - lower) * inside
    offset = np.floor(roll * frames).astype(np.int64)[:, None]
    weights = np.zeros((len(speed), frames, frames), dtype=np.float32)
    rows = np.arange(len(speed))[:, None]
    columns = np.arange(frames)[None, :]
    # += through an index would lose one of two weights on the same cell (lower == upper at the last column).
    np.add.at(weights, (rows, (lower - offset) % frames, columns), (inside - fraction).astype(np.float32))
    np.add.at(weights, (rows, (upper - offset) % frames, columns), fraction.astype(np.float32))
    return torch.from_numpy(weights)


def add_background(logs: Tensor, other: Tensor, snr: Tensor) -> Tensor:
    """Log band energies of a sound with a background added to it, both of shape (batch, channels, bands, frames).

    The background gets the gain by which the energies of the two, over all bands and frames, are ``snr`` (batch,) dB
    apart. Each cell is the logarithm of the sum of powers, which is the mean of what mixed waves have there over all
    phases; a cell of them differs from it the more the fewer bins its band and window hold.
    """
    power, added = (torch.exp(one.double()) - LOG_OFFSET for one in (logs, other))
    energies = [one.clamp(min=0).sum(dim=(1, 2, 3)) for one in (power, added)]
    # What float32 leaves of digital silence is no background to be amplified.
    gain = 10 ** (-snr.double() / 10) * energies[0] / energies[1]
    gain = torch.where(energies[1] > 1e-3 * LOG_OFFSET * added[0].numel(), gain, 0.0)
    return torch.log((power + gain[:, None, None, None] * added).clamp(min=0) + LOG_OFFSET).to(logs.dtype)


def apply(spectrograms: Tensor, draws: Draws, *, silence: Tensor, stretch: bool = True) -> Tensor:
    """Roll, stretch, mask and mix a batch of normalised spectrograms; their pitch is shifted already.

    ``spectrograms``, and what is returned, are (batch, channels, bands, frames), normalised so that 0 is the training
    rows' mean. Faster sounds are padded with ``silence``, (channels, bands), the normalised value of digital silence.
    ``stretch`` is False if the wave itself has been stretched and rolled.
    """
    batch, channels, bands, frames = spectrograms.shape
    out = spectrograms
    if stretch:
        matrix = stretch_matrix(draws.speed, place=draws.place, roll=draws.roll, frames=frames).to(out.device)
        empty = 1.0 - matrix.sum(dim=1)  # (batch, frames)
        out = torch.bmm(out.reshape(batch, channels * bands, frames), matrix).view(batch, channels, bands, frames)
        out += silence[:, :, None] * empty[:, None, None, :]
    keep_time = _keep(draws.time_masks, frames).to(out.device)
    keep_bands = _keep(draws.band_masks, bands).to(out.device)
    out = out * (keep_bands[:, None, :, None] & keep_time[:, None, None, :])
    if (draws.share < 1).any():
        share = torch.from_numpy(draws.share).to(out)[:, None, None, None]
        out = torch.lerp(out[torch.from_numpy(draws.partner).to(out.device)], out, share)
    return out


def _keep(masks: NDArray[np.float64], size: int) -> Tensor:
    cells = (np.arange(size) + 0.5)[None, None, :] / size
    covered = (cells >= masks[..., :1]) & (cells < masks[..., 1:])
    return torch.from_numpy(~covered.any(axis=1))


def mix_targets(targets: Tensor, draws: Draws) -> Tensor:
    """Label distributions (batch, classes), mixed in the same shares as the spectrograms."""
    share = torch.from_numpy(draws.share).to(targets)[:, None]
    return torch.lerp(targets[torch.from_numpy(draws.partner).to(targets.device)], targets, share)


def one_hot(labels: NDArray[np.int64], *, classes: int, smoothing: float = 0.0) -> Tensor:
    """Label distributions (batch, classes) float32, smoothed towards uniform."""
    hot = F.one_hot(torch.from_numpy(labels), classes).float()
    return hot * (1.0 - smoothing) + smoothing / classes


def mix_marks(marks: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Marks (batch, classes) of several labels, 1, 0 or NaN for not known, mixed as the spectrograms are.

    ``partner`` (batch,) and ``share`` (batch, 1) are the draws'. What is not known of a part is not of the mixture.
    """
    known, values = ~marks.isnan(), marks.nan_to_num()
    mixed = torch.lerp(values[partner], values, share)
    return torch.where(known & (known[partner] | (share >= 1)), mixed, torch.nan)


def smoothed(marks: Tensor, smoothing: float) -> Tensor:
    """Marks (batch, classes) of several labels, smoothed towards 1/2."""
    return marks * (1.0 - smoothing) + smoothing / 2


_SINGLE = 5  # speed, place, roll, snr and share stand before the masks


@dataclass(frozen=True)
class BatchedDraws:
    """Rows and draws of some examples as tensors on a device.

    ``whole`` (examples, 4) int64: row, index of the pitch step, the mixup partner's place in the batch, and the
    background's row or -1. ``real`` (examples, 5 + 2 * masks) float64: speed, place, roll, signal-to-noise ratio,
    share, then start and end of each time mask and of each band mask. (Double precision, as on the host: rounding must
    not push a column over the edge of a sound.) ``time_masks``: how many of these there are.
    """

    whole: Tensor
    real: Tensor
    time_masks: int

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio in dB of each example over its background, shape (examples,), float64."""
        return self.real[:, _SINGLE - 2]

    @property
    def share(self) -> Tensor:
        """Weight of each example in its mixture, shape (examples,), float32."""
        return self.real[:, _SINGLE - 1].float()

    def __getitem__(self, part: slice) -> BatchedDraws:
        """Some of the examples; a view."""
        return BatchedDraws(self.whole[part], self.real[part], self.time_masks)


def batch_draws(
    batches: Sequence[tuple[NDArray[np.int64], Draws]], *, semitones: Sequence[int], device: torch.device
) -> BatchedDraws:
    """All batches' rows and draws, one after the other, on a device; ``semitones`` are the source's steps, rising."""
    whole, real = [], []
    for rows, draws in batches:
        steps = step_indices(semitones, len(rows), draws)
        background = np.full(len(rows), -1) if draws.background is None else draws.background
        whole.append(np.stack([rows, steps, draws.partner, background], axis=1))
        snr = draws.snr if len(draws.snr) else np.zeros(len(rows))
        single = np.stack([draws.speed, draws.place, draws.roll, snr, draws.share], axis=1)
        masks = (masks.reshape(len(rows), -1) for masks in (draws.time_masks, draws.band_masks))
        real.append(np.concatenate([single, *masks], axis=1))
    whole_numbers, shares = (torch.from_numpy(np.concatenate(parts)).to(device) for parts in (whole, real))
    return BatchedDraws(whole_numbers, shares, time_masks=batches[0][1].time_masks.shape[1])


def apply_batched(spectrograms: Tensor, draws: BatchedDraws, *, silence: Tensor) -> Tensor:
    """Roll, stretch, mask and mix a batch of normalised spectrograms; shapes as in `apply`."""
    batch, _, bands, frames = spectrograms.shape
    speed, place, roll = draws.real[:, : _SINGLE - 2, None].unbind(1)
    masks = draws.real[:, _SINGLE:].reshape(batch, -1, 2)
    length = (frames - 1) / speed + 1
    first = place * (frames - length)
    position = (torch.arange(frames, device=spectrograms.device) - first) * speed
    inside = (position >= -1e-9) & (position <= frames - 1 + 1e-9)
    position = position.clamp(0.0, frames - 1.0)
    lower = position.floor()
    fraction = (position - lower).to(spectrograms.dtype)
    offset = (roll * frames).floor()
    left = ((lower - offset) % frames).long()
    right = (((lower + 1).clamp(max=frames - 1.0) - offset) % frames).long()

    def columns(index: Tensor) -> Tensor:
        return spectrograms.gather(3, index[:, None, None, :].expand_as(spectrograms))

    out = torch.lerp(columns(left), columns(right), fraction[:, None, None, :])
    out = torch.where(inside[:, None, None, :], out, silence[:, :, None])
    keep_time = _keep_batched(masks[:, : draws.time_masks], frames)
    keep_bands = _keep_batched(masks[:, draws.time_masks :], bands)
    out = out * (keep_bands[:, None, :, None] & keep_time[:, None, None, :])
    return torch.lerp(out[draws.whole[:, 2]], out, draws.share[:, None, None, None])


def _keep_batched(masks: Tensor, size: int) -> Tensor:
    cells = (torch.arange(size, device=masks.device, dtype=torch.float64) + 0.5) / size
    covered = (cells >= masks[..., :1]) & (cells < masks[..., 1:])
    return ~covered.any(dim=1)
