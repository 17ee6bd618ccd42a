"""Measure whether attributions lie on the boundaries of loud regions.

Comes in: attributions and log powers (windows, bands, frames) of one clip. Goes out: a number for each of `NAMES`,
as observed and by chance. Palanisamy et al. 2020 (arXiv 2007.11154, Fig. 3) claim it for Integrated Gradients after
looking at some spectrograms. Measured in each channel, and averaged over the channels:

- the rank correlation (and the plain one) of the attributions' size with the spectrogram's gradient magnitude (what a
  boundary is), with its log power (what is loud), and with each of the two given the other (partial correlation);
- the density of the attributions' size on the boundaries of the loudest quarter of the cells (within one cell of the
  edge), inside, and outside, in units of the mean over all cells.

An attribution is a cell's height above silence times the mean gradient of the score, so it grows with loudness by
construction; everything is therefore measured for that gradient (the sensitivity) too. Chance is the mean over the same
attributions rolled in time by every distance of at least a tenth of the clip. Columns of digital silence are left out,
since all attributions are 0 there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from earsight.features.filterbanks import FLOOR

LOUD_SHARE = 0.25
LEAST_SHIFT = 0.1
LEAST_COLUMNS = 20
_SILENT = 1e-3

_Reals = NDArray[np.float64]
_PAIRS = ("gradient", "energy", "gradient_given_energy", "energy_given_gradient")
_PLACES = ("boundary", "inside", "outside")
NAMES = (
    *(f"{kind}_{pair}" for kind in ("spearman", "pearson") for pair in _PAIRS),
    *(f"density_{place}" for place in _PLACES),
)
"""Measures of attributions, and of sensitivities."""


class Measured(NamedTuple):
    """One number for each of `NAMES`: as observed, and its mean over the shifts."""

    observed: dict[str, float]
    shifted: dict[str, float]


class Mean(NamedTuple):
    """A mean over clips with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def measure_clip(attribution: NDArray[np.floating], spectrogram: NDArray[np.floating]) -> dict[str, Measured] | None:
    """The numbers of one clip from its attributions and log powers, both (windows, bands, frames).

    For ``attribution`` and ``sensitivity``; None where less than 20 columns hold sound, or nothing varies.
    """
    found: dict[str, list[Measured]] = {"attribution": [], "sensitivity": []}
    for values, power in zip(attribution.astype(np.float64), spectrogram.astype(np.float64), strict=True):
        height = power - FLOOR
        sounding = (height > _SILENT).any(axis=0)
        if sounding.sum() < LEAST_COLUMNS:
            return None
        size = np.abs(values)
        sizes = {"attribution": size, "sensitivity": size / np.maximum(height, _SILENT)}
        edges = np.hypot(*np.gradient(power))
        places = _places(power, float(np.quantile(power[:, sounding], 1 - LOUD_SHARE)))
        for name, size in sizes.items():
            cells = [each[:, sounding] for each in (size, edges, power, *places)]
            if any(float(np.ptp(cell)) == 0 for cell in cells[:3]):
                return None
            found[name].append(_measure(*cells[:3], places=cells[3:]))
    averaged = {}
    for name, channels in found.items():
        observed, shifted = (
            {number: float(np.mean([part[number] for part in parts])) for number in NAMES}
            for parts in zip(*channels, strict=True)
        )
        averaged[name] = Measured(observed, shifted)
    return averaged


def bootstrap_mean(values: NDArray[np.floating], *, draws: int = 10_000, seed: int = 0) -> Mean:
    """Mean over clips (at least two), and its 95 % percentile-bootstrap interval."""
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,), np.mean, method="percentile", n_resamples=draws, batch=1000, rng=np.random.default_rng(seed)
    )
    return Mean(float(np.mean(values)), *(float(limit) for limit in found.confidence_interval))


def _measure(size: _Reals, edges: _Reals, power: _Reals, *, places: list[_Reals]) -> Measured:
    from scipy.stats import rankdata

    columns = size.shape[1]
    least = max(1, round(LEAST_SHIFT * columns))
    far = np.arange(least, columns - least + 1)
    observed, shifted = {}, {}
    for kind in ("spearman", "pearson"):
        ranks = (rankdata(one).reshape(one.shape) if kind == "spearman" else one for one in (size, edges, power))
        a, g, e = (np.asarray((cells - cells.mean()) / cells.std()) for cells in ranks)
        with_edges, with_power = _circular_correlation(a, g), _circular_correlation(a, e)
        between = float((g * e).mean())
        curves = {
            "gradient": with_edges,
            "energy": with_power,
            "gradient_given_energy": _partial(with_edges, with_power, between),
            "energy_given_gradient": _partial(with_power, with_edges, between),
        }
        for pair, curve in curves.items():
            observed[f"{kind}_{pair}"] = float(curve[0])
            shifted[f"{kind}_{pair}"] = float(curve[far].mean())
    for name, place in zip(_PLACES, places, strict=True):
        share = float(place.mean())
        curve = _circular_correlation(size / size.mean(), place) / share if share else np.ones(columns)
        observed[f"density_{name}"] = float(curve[0])
        shifted[f"density_{name}"] = float(curve[far].mean())
    return Measured(observed, shifted)


def _circular_correlation(moved: _Reals, fixed: _Reals) -> _Reals:
    """Mean product of two arrays (bands, columns) for each roll of the first along the columns."""
    spectrum = np.conj(np.fft.rfft(moved, axis=1)) * np.fft.rfft(fixed, axis=1)
    return np.asarray(np.fft.irfft(spectrum.sum(axis=0), n=moved.shape[1]) / moved.size)


def _partial(first: _Reals, second: _Reals, between: float) -> _Reals:
    """Partial correlation with the first given the second, from the three plain correlations."""
    left = np.sqrt(np.maximum((1 - second**2) * (1 - between**2), 1e-12))
    return np.asarray((first - second * between) / left)


def _places(power: _Reals, level: float) -> list[_Reals]:
    """Masks of the boundary, the inside and the outside of what is above a level; 1 in them, 0 elsewhere."""
    loud = torch.from_numpy((power > level).astype(np.float64))[None, None]
    wide = F.max_pool2d(loud, 3, stride=1, padding=1)[0, 0].numpy()
    narrow = 1 - F.max_pool2d(1 - loud, 3, stride=1, padding=1)[0, 0].numpy()
    return [wide - narrow, narrow, 1 - wide]
