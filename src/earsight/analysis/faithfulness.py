"""Faithfulness of attributions: deletion and insertion curves against random orders of cells.

Comes in: a function from spectrograms to probabilities of one class, a spectrogram, that of silence, and maps that rank
its cells. Goes out: the probability as cells are silenced, highest first (deletion), and as they are put into silence
in that order (insertion); and the areas under both, for each map and for random orders. A deletion curve that falls
fast and an insertion curve that rises fast show that the network uses the cells that the map ranks high.

Cells are handled in tiles of 8 bands by 0.1 s, in all channels at once: silencing single cells would make a pattern
that no sound has. After V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
Models", BMVC 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earsight.analysis.time_axis import column_seconds
from earsight.features.spectrogram import Spectrogram

TILE_BANDS = 8
TILE_SECONDS = 0.1
POINTS = 20
RANDOM_ORDERS = 10
BATCH_SIZE = 16

_Ints = NDArray[np.int64]
_Reals = NDArray[np.float64]


class Areas(NamedTuple):
    """Areas under one kind of curve, 0 to 1: of each map, and of each random order (orders,).

    ``low`` and ``high``: the 95 % prediction interval of one more random order (Student's t).
    """

    ranked: dict[str, float]
    random: _Reals
    low: float
    high: float


@dataclass(frozen=True)
class Curves:
    """Probability of the class against the share of tiles that were changed, ``shares`` (points,) from 0 to 1.

    ``deletion`` and ``insertion`` (points,) of each map's order; the random ones (orders, points).
    """

    shares: _Reals
    deletion: dict[str, _Reals]
    insertion: dict[str, _Reals]
    random_deletion: _Reals
    random_insertion: _Reals

    def areas(self, kind: str) -> Areas:
        """Areas under the curves of ``deletion`` (less is better) or ``insertion`` (more is better)."""
        from scipy.stats import t

        ranked = self.deletion if kind == "deletion" else self.insertion
        random = self.random_deletion if kind == "deletion" else self.random_insertion
        drawn = np.asarray(np.trapezoid(random, self.shares, axis=1))
        count = len(drawn)
        reach = float(t.ppf(0.975, count - 1) * drawn.std(ddof=1) * math.sqrt(1 + 1 / count))
        middle = float(drawn.mean())
        return Areas(
            {name: float(np.trapezoid(curve, self.shares)) for name, curve in ranked.items()},
            drawn,
            max(0.0, middle - reach),
            min(1.0, middle + reach),
        )

    def to_dict(self) -> dict[str, Any]:
        """Areas and curves as JSON values."""
        out: dict[str, Any] = {"shares": self.shares.tolist()}
        for kind, ranked in (("deletion", self.deletion), ("insertion", self.insertion)):
            areas = self.areas(kind)
            out[kind] = {
                "area": areas.ranked,
                "random_area": {"mean": float(areas.random.mean()), "interval95": [areas.low, areas.high]},
                "curves": {name: curve.tolist() for name, curve in ranked.items()},
            }
        return out


def tiles(front_end: Spectrogram) -> _Ints:
    """The number of the tile that each cell belongs to, shape (windows, bands, frames); each channel by its own times.

    Tiles are numbered along time, then along bands. The last ones may be smaller.
    """
    features = front_end.features
    seconds = features.samples / features.rate
    across = max(1, math.ceil(seconds / TILE_SECONDS - 1e-9))
    rows = np.arange(features.bands)[:, None] // TILE_BANDS
    out = []
    for window in range(len(front_end.window_samples)):
        times = column_seconds(front_end, window=window)
        out.append(rows * across + np.clip(times / TILE_SECONDS, 0, across - 1).astype(np.int64))
    return np.stack(out)


def measure_curves(
    probability: Callable[[Tensor], Tensor],
    spectrogram: Tensor,
    *,
    silence: Tensor,
    tile_of: _Ints,
    maps: Mapping[str, NDArray[np.floating]],
    seed: int = 0,
    points: int = POINTS,
    random_orders: int = RANDOM_ORDERS,
    progress: Callable[[int, int], None] | None = None,
) -> Curves:
    """Deletion and insertion curves, in ``points`` steps from none to all, of some maps and of random orders.

    ``probability`` takes spectrograms (batch, 3, bands, frames) to the probability of the class (batch,);
    ``spectrogram`` and ``silence`` are (1, 3, bands, frames), as the network takes them; ``tile_of`` is from `tiles`;
    a tile ranks by the mean of its cells in a map (windows, bands, frames), the highest first. There are at least 2
    ``random_orders``. ``progress`` is called with (orders done, orders in all).
    """
    count = int(tile_of.max()) + 1
    generator = np.random.default_rng(seed)
    ranked = {name: _order(values, tile_of, count) for name, values in maps.items()}
    orders = [*ranked.values(), *(generator.permutation(count) for _ in range(random_orders))]
    cells = torch.from_numpy(tile_of).to(spectrogram.device)
    changed = [round(count * step / points) for step in range(points + 1)]
    curves = []
    for done, order in enumerate(orders):
        if progress:
            progress(done, len(orders))
        place = np.empty(count, dtype=np.int64)
        place[order] = np.arange(count)
        rank = torch.from_numpy(place).to(spectrogram.device)[cells].expand(spectrogram.shape[1:])
        curves.append(
            [_curve(probability, ends, rank, changed) for ends in ((spectrogram, silence), (silence, spectrogram))]
        )
    if progress:
        progress(len(orders), len(orders))
    named, random = curves[: len(ranked)], curves[len(ranked) :]
    return Curves(
        np.array(changed) / count,
        {name: pair[0] for name, pair in zip(ranked, named, strict=True)},
        {name: pair[1] for name, pair in zip(ranked, named, strict=True)},
        np.array([pair[0] for pair in random]),
        np.array([pair[1] for pair in random]),
    )


def better_than_random(curves: Curves, name: str) -> list[str]:
    """By which curves, of ``deletion`` and ``insertion``, a map is better than random orders."""
    own = {kind: (curves.areas(kind), curves.areas(kind).ranked[name]) for kind in ("deletion", "insertion")}
    return [
        kind for kind, (areas, area) in own.items() if (area < areas.low if kind == "deletion" else area > areas.high)
    ]


def verdict(curves: Curves, name: str, *, rival: str) -> str:
    """Whether the map called ``name`` is better than random orders and than the map called ``rival``, as a sentence."""
    beats_random, beats_rival = better_than_random(curves, name), []
    for kind, better in (("deletion", -1), ("insertion", 1)):
        ranked = curves.areas(kind).ranked
        if better * ranked[name] > better * ranked[rival]:
            beats_rival.append(kind)
    verdict = {2: "Believe", 1: "Believe with care", 0: "Do not believe"}[len(beats_random)]
    return (
        f"{verdict} the {name}: better than random orders in {_both(beats_random)}, "
        f"better than {rival} first in {_both(beats_rival)}."
    )


def _both(kinds: list[str]) -> str:
    return {2: "deletion and insertion", 0: "neither curve"}.get(len(kinds)) or f"{kinds[0]} alone"


def _order(values: NDArray[np.floating], tile_of: _Ints, count: int) -> _Ints:
    sums = np.bincount(tile_of.ravel(), weights=values.ravel().astype(np.float64), minlength=count)
    return np.argsort(-sums / np.maximum(np.bincount(tile_of.ravel(), minlength=count), 1), kind="stable")


def _curve(
    probability: Callable[[Tensor], Tensor], ends: tuple[Tensor, Tensor], rank: Tensor, changed: list[int]
) -> _Reals:
    """Probabilities of the first spectrogram with its ``changed`` highest tiles taken from the second."""
    out = []
    for first in range(0, len(changed), BATCH_SIZE):
        part = torch.tensor(changed[first : first + BATCH_SIZE], device=rank.device)
        mixed = torch.where(rank[None] < part[:, None, None, None], ends[1], ends[0])
        with torch.inference_mode():
            out.append(probability(mixed).double().cpu().numpy())
    return np.concatenate(out)
