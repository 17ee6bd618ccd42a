"""Confidence intervals of accuracies, paired tests of two, and variance over folds and seeds.

Comes in: whether each clip was classified right, (clips,) bool, or the share of the seeds that had it right, (clips,)
float between 0 and 1; and each clip's fold, (clips,). Goes out: accuracies between 0 and 1 with 95 % intervals.

An accuracy is everywhere the mean of the folds' accuracies, each fold weighing the same, as published figures are. The
clip is the unit: several seeds' predictions of one clip are not independent, so they are averaged and move together.
The intervals are about the choice of clips; `variance_parts` is about the folds and the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import DataError

TAIL = 0.025  # on each side of a 95 % interval
FEW_GROUPS = 30
"""Below this many groups redrawing is too sure of itself, and a t interval over groups counts too."""
_CELLS = 1 << 20  # array entries held at once: 8 MiB of float64


class Interval(NamedTuple):
    """An accuracy and its 95 % interval."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """``mean`` and ``ci95``, as JSON values."""
        return {"mean": self.mean, "ci95": [self.low, self.high]}


class PairedResult(NamedTuple):
    """Accuracy of a minus that of b, its 95 % interval, and the two-sided p-value of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves 0 out and the p-value is below 0.05.

        Both are asked: where few clips differ and all in one direction, the bootstrap leaves 0 out too soon.
        """
        return (self.low > 0 or self.high < 0) and self.p_value < 2 * TAIL

    def to_dict(self) -> dict[str, Any]:
        """``difference``, ``ci95``, ``p_value`` and ``beyond_noise``, as JSON values."""
        found = {"difference": self.difference, "ci95": [self.low, self.high], "p_value": self.p_value}
        return found | {"beyond_noise": self.beyond_noise}


class VarianceParts(NamedTuple):
    """Variance of accuracies (from 0 to 1) between folds, and between seeds of one fold."""

    fold_variance: float
    seed_variance: float


class ClipMeans(NamedTuple):
    """One entry per clip, in the order of the clips' names: name, share of its predictions that are right, fold, group.

    ``groups`` is None where no sources are known.
    """

    clips: np.ndarray
    correct: NDArray[np.float64]
    folds: np.ndarray
    groups: np.ndarray | None = None


class Constant(NamedTuple):
    """Always naming one class: its number, its accuracy, and how far the network lies above it on the same clips."""

    label: int
    share: float
    gain: PairedResult

    @property
    def beaten(self) -> bool:
        """Whether the network is better beyond the noise."""
        return self.gain.beyond_noise and self.gain.difference > 0


def average_seeds(
    correct: np.ndarray, *, clips: np.ndarray, folds: np.ndarray, groups: np.ndarray | None = None
) -> ClipMeans:
    """Average each clip's predictions over the seeds, matching clips by name.

    ``correct`` is bool, ``clips`` names, ``folds`` numbers and ``groups`` names, all (predictions,): those of every
    fold and seed in any order. DataError if the lengths differ or a clip is in two folds.
    """
    values, folds = _checked(correct, folds)
    clips = np.asarray(clips)
    if clips.shape != values.shape:
        raise DataError(f"found clips of shape {clips.shape}, expected {values.shape}: one name per prediction")
    names, first, inverse = np.unique(clips, return_index=True, return_inverse=True)
    strays = np.flatnonzero(folds[first][inverse] != folds)
    if strays.size:
        raise DataError(f"clip {clips[strays[0]]} is in more than one fold: each clip is held out by one fold only")
    means = np.bincount(inverse, weights=values) / np.bincount(inverse)
    return ClipMeans(names, means, folds[first], None if groups is None else np.asarray(groups)[first])


def shared_groups(groups: np.ndarray | None) -> int:
    """How many groups there are if some clips share one; 0 where every clip is its own, or nothing is known."""
    if groups is None:
        return 0
    found = len(np.unique(groups))
    return found if found < len(groups) else 0


def bootstrap_accuracy(
    correct: np.ndarray, *, folds: np.ndarray, groups: np.ndarray | None = None, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Mean accuracy over the folds with a 95 % percentile-bootstrap interval over clips, drawn within each fold.

    ``correct`` is bool or float, (clips,): whether each clip is right, or the share of its seeds that are
    (`average_seeds`); ``folds`` and ``groups``, each clip's source, are (clips,) too. Where clips share groups, these
    are redrawn too, and the wider limits count; below `FEW_GROUPS` also those of a t interval over groups. One group
    alone says nothing about others: 0 to 1.

    Where every clip is right, or every clip is wrong, resampling has no spread to show; the limit is then the exact
    binomial one (Clopper and Pearson 1934) of that many clips, or groups. The same ``seed`` gives the same interval,
    whatever the order of the clips. DataError if there is no clip, the lengths differ, or a value is outside 0 to 1.

    B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13; A. Davison and D. Hinkley,
    "Bootstrap Methods and their Application", 1997, section 3.8 (groups).
    """
    values, folds = _checked(correct, folds)
    units = shared_groups(groups) or values.size
    if np.all(values == 1):
        return Interval(1.0, TAIL ** (1 / units), 1.0)
    if np.all(values == 0):
        return Interval(0.0, 0.0, 1 - TAIL ** (1 / units))
    low, high = _limits(values, folds, groups, draws=draws, seed=seed)
    return Interval(_fold_mean(values, folds), max(0.0, low), min(1.0, high))


def against_constant(
    labels: np.ndarray, correct: np.ndarray, *, folds: np.ndarray, groups: np.ndarray | None = None
) -> Constant:
    """Compare a network with always naming the commonest of these clips' classes, paired over the clips.

    ``labels`` int, ``correct``, ``folds`` and ``groups`` are (clips,), as in `paired_difference`. The commonest class
    is that of the highest share, mean over folds; of equal ones the first.
    """
    labels, weights = np.asarray(labels), _weights(np.asarray(folds))
    label = int(np.round(np.bincount(labels, weights=weights), 12).argmax())
    gain = paired_difference(correct, labels == label, folds=folds, groups=groups)
    return Constant(label, float(weights[labels == label].sum()), gain)


def variance_parts(accuracies: np.ndarray) -> VarianceParts:
    """Take the variance between folds apart from the variance between seeds.

    One-way random-effects analysis of variance with folds as groups: the seed variance is the mean over folds of the
    variance between seeds; the fold variance is that of the folds' means less the part the seeds put there (not below
    0). Searle, Casella and McCulloch, "Variance Components", 1992, chapter 3.

    ``accuracies`` is float of shape (folds, seeds); DataError if one of them is below two, or a value is missing.
    """
    table = np.asarray(accuracies, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        raise DataError(
            f"found accuracies of shape {table.shape}, expected (folds, seeds) with two or more of each and none "
            "missing: run more seeds"
        )
    seed_variance = float(table.var(axis=1, ddof=1).mean())
    between = float(table.mean(axis=1).var(ddof=1))
    return VarianceParts(max(0.0, between - seed_variance / table.shape[1]), seed_variance)


def paired_difference(
    correct_a: np.ndarray,
    correct_b: np.ndarray,
    *,
    folds: np.ndarray,
    groups: np.ndarray | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> PairedResult:
    """Accuracy of a minus accuracy of b on the same clips: 95 % bootstrap interval and sign-flip permutation test.

    ``correct_a`` and ``correct_b`` are bool or float, (clips,): whether a and b are right on each clip, or the share of
    their seeds that are (`average_seeds`); entry i of both is about the same clip. ``folds`` and ``groups``, each
    clip's source, are (clips,) too. Where clips share groups, the interval is as in `bootstrap_accuracy`, and a group's
    clips flip their sign together.

    There are ``draws`` resamples, and as many random sign flips. The p-value is exact where the sign flips can be
    counted out, and drawn otherwise (then it is at least ``1 / (draws + 1)``). With one prediction per clip and folds
    of one size it is McNemar's exact test. DataError if there is no clip, the lengths differ, or a value is outside 0
    to 1.
    """
    a, folds = _checked(correct_a, folds)
    b, _ = _checked(correct_b, folds)
    # Rounded, so that 1 - 2/3 and 1/3 count as one value.
    change = np.round(a - b, 12)
    low, high = _limits(change, folds, groups, draws=draws, seed=seed)
    low, high = max(-1.0, low), min(1.0, high)
    changes = change * _weights(folds)
    if groups is not None and shared_groups(groups):
        changes = group_sums(changes, np.unique(groups, return_inverse=True)[1])
    p_value = _sign_flip(changes, draws=draws, seed=seed)
    return PairedResult(settled(_fold_mean(change, folds)), settled(low), settled(high), p_value)


def settled(difference: float) -> float:
    """A difference of accuracies with rounding errors set to 0."""
    return round(float(difference), 10) + 0.0


def _checked(correct: np.ndarray, folds: np.ndarray) -> tuple[NDArray[np.float64], np.ndarray]:
    values, folds = np.asarray(correct, dtype=np.float64), np.asarray(folds)
    if values.ndim != 1 or values.size == 0 or folds.shape != values.shape:
        raise DataError(
            f"found correct of shape {values.shape} and folds of shape {folds.shape}, expected (clips,) for both "
            "and at least one clip"
        )
    if not (values.min() >= 0 and values.max() <= 1):
        raise DataError(f"found values from {values.min():g} to {values.max():g}, expected right or wrong (1 or 0)")
    return values, folds


def _weights(folds: np.ndarray) -> NDArray[np.float64]:
    """Each clip's weight in the mean over folds of the folds' means."""
    names, inverse, counts = np.unique(folds, return_inverse=True, return_counts=True)
    out: NDArray[np.float64] = 1.0 / (len(names) * counts[inverse])
    return out


def _fold_mean(values: NDArray[np.float64], folds: np.ndarray) -> float:
    return float(np.mean([values[folds == fold].mean() for fold in np.unique(folds)]))


def _limits(
    values: NDArray[np.float64], folds: np.ndarray, groups: np.ndarray | None, *, draws: int, seed: int
) -> tuple[float, float]:
    """Limits over clips; where clips share groups, the widest of those over clips and over groups."""
    low, high = _resampled_limits(values, folds, draws=draws, seed=seed)
    if groups is None or not shared_groups(groups):
        return low, high
    below, above = group_limits(values, folds, groups, draws=draws, seed=seed)
    return min(low, below), max(high, above)


def group_limits(
    values: NDArray[np.float64], folds: np.ndarray, groups: np.ndarray, *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % limits of the mean over folds when groups are redrawn, over all folds at once; -1 and 1 for one group.

    Of G groups G - 1 are redrawn, which makes the variance right for few of them (J. Rao and C. Wu, JASA 83, 1988).
    Below `FEW_GROUPS` the limits of `t_limits` count where they are wider. ``values``, ``folds`` and ``groups`` are
    (clips,).
    """
    weights, owner = _weights(folds), np.unique(groups, return_inverse=True)[1]
    return ratio_limits(group_sums(values * weights, owner), group_sums(weights, owner), draws=draws, seed=seed)


def ratio_limits(
    sums: NDArray[np.float64], masses: NDArray[np.float64], *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % limits of the sum of ``sums`` over that of ``masses``, (groups,) each, as `group_limits` has them."""
    count = len(sums)
    if count < 2:
        return -1.0, 1.0
    # As for clips: how often each distinct pair is redrawn is multinomial.
    pairs, counts = np.unique(np.round(np.column_stack([sums, masses]), 14), axis=0, return_counts=True)
    generator = np.random.default_rng([seed, 3])
    means = np.empty(draws)
    step = max(1, _CELLS // len(pairs))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        redrawn = generator.multinomial(count - 1, counts / count, size=rows) @ pairs
        means[start : start + rows] = redrawn[:, 0] / redrawn[:, 1]
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    if count < FEW_GROUPS:
        below, above = t_limits(sums, masses)
        low, high = min(low, below), max(high, above)
    return float(low), float(high)


def share_limits(
    right: np.ndarray,
    over: Callable[[float, float], tuple[float, float]],
    *,
    clips: np.ndarray,
    groups: np.ndarray | None,
    cases: float | None = None,
) -> tuple[float, float]:
    """95 % limits of the share of predictions that are right, their groups redrawn where clips share them.

    ``right`` bool, ``clips`` and ``groups`` names, all (predictions,), one at least. ``over`` gives the limits for a
    share of so many independent cases: as many as ``cases``, by default as there are different clips. The wider limits
    count; where all are right or all wrong, those of as many cases as there are groups. One group says nothing: 0 to 1.
    """
    share, different = float(np.mean(right)), len(np.unique(clips))
    cases = float(different) if cases is None else cases
    names, owner = np.unique(clips if groups is None else groups, return_inverse=True)
    if len(names) == different:
        return over(share, cases)
    if len(names) < 2:
        return 0.0, 1.0
    if share in (0.0, 1.0):
        return over(share, min(cases, float(len(names))))
    low, high = over(share, cases)
    below, above = ratio_limits(group_sums(np.asarray(right, np.float64), owner), np.bincount(owner).astype(np.float64))
    return max(0.0, min(low, below)), min(1.0, max(high, above))


def t_limits(sums: NDArray[np.float64], masses: NDArray[np.float64]) -> tuple[float, float]:
    """95 % limits of the sum of ``sums`` over that of ``masses``, (groups,) each, by Student's t; two groups or more.

    For groups of equal masses these are the t limits of the groups' means; else of the ratio, linearised (W. Cochran,
    "Sampling Techniques", 1977, section 6.3).
    """
    count, ratio = len(sums), float(sums.sum() / masses.sum())
    rest = (sums - ratio * masses) / masses.sum()
    reach = t_quantile(count - 1) * math.sqrt(count / (count - 1) * float((rest**2).sum()))
    return ratio - reach, ratio + reach


def t_quantile(freedom: int) -> float:
    """How many standard errors a two-sided 95 % interval reaches by Student's t."""
    from scipy.special import stdtrit  # slow to load, and few runs have few groups

    return float(stdtrit(freedom, 1 - TAIL))


def group_sums(values: NDArray[np.float64], owner: np.ndarray) -> NDArray[np.float64]:
    """Sums of values (clips,) by their group's number (clips,), shape (groups,)."""
    return np.bincount(owner, weights=values).astype(np.float64)


def _resampled_limits(values: NDArray[np.float64], folds: np.ndarray, *, draws: int, seed: int) -> tuple[float, float]:
    """Percentile limits of the mean over folds, its clips redrawn with replacement within each fold.

    How often each distinct value is redrawn is multinomial, so that a draw costs as many numbers as there are distinct
    values (two for one seed) and not as many as there are clips.
    """
    if draws < 1:
        raise DataError(f"draws is {draws}, expected 1 or more")
    generator = np.random.default_rng([seed, 0])
    names = np.unique(folds)
    means = np.zeros(draws)
    for fold in names:
        distinct, counts = np.unique(values[folds == fold], return_counts=True)
        clips = int(counts.sum())
        step = max(1, _CELLS // distinct.size)
        for start in range(0, draws, step):
            rows = min(step, draws - start)
            redrawn = generator.multinomial(clips, counts / clips, size=rows)
            means[start : start + rows] += redrawn @ distinct / (clips * len(names))
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _sign_flip(changes: NDArray[np.float64], *, draws: int, seed: int) -> float:
    """Two-sided p-value of the sum of `changes` when each sign is as likely as the other.

    Changes of one size form a group: the sum of k of them with random signs is binomial.
    """
    observed = abs(float(changes.sum()))
    # Relative rounding merges equal sizes that were computed by different routes.
    sizes, counts = np.unique([float(f"{abs(value):.12e}") for value in changes if value != 0], return_counts=True)
    if not sizes.size:
        return 1.0
    at_least = observed - 1e-9 * float(sizes.max())
    if math.prod(int(count) + 1 for count in counts) <= _CELLS:
        sums, chances = np.zeros(1), np.ones(1)
        for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
            steps = size * (2.0 * np.arange(count + 1) - count)
            sums = (sums[:, None] + steps).ravel()
            chances = (chances[:, None] * _fair_coins(count)).ravel()
        return min(1.0, float(chances[np.abs(sums) >= at_least].sum()))
    generator = np.random.default_rng([seed, 1])
    total = np.zeros(draws)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        total += size * (2.0 * generator.binomial(count, 0.5, size=draws) - count)
    return float((1 + np.count_nonzero(np.abs(total) >= at_least)) / (1 + draws))


def _fair_coins(count: int) -> NDArray[np.float64]:
    """Chances of 0, ..., `count` heads; whole numbers until the last division, so that thousands do not overflow."""
    ways, out = 1, []
    for heads in range(count + 1):
        out.append(ways / 2**count)
        ways = ways * (count - heads) // (heads + 1)
    return np.array(out)
