"""What averaging the members of an ensemble is worth, and which members to take.

Comes in: a `Grid` of members' probabilities. Goes out: weights of members, and rows of accuracy as the paper's Table II
has them: the single network's mean and deviation over the members, and the ensemble's accuracy, each with a 95 %
interval, and the gain with the interval that says whether it is more than noise.

Nothing is chosen on the fold that is reported: members are picked for a fold by what they said of the other folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.errors import DataError
from earsight.evaluation.members import Grid, Member
from earsight.evaluation.statistics import bootstrap_accuracy, paired_difference, variance_parts

ROUNDS = 50
"""How many members, repeats counted, a greedy selection holds at most."""
_SMALLEST = 1e-12  # a probability below this counts as this, so that one sure mistake does not outweigh all else


def greedy_weights(
    own: NDArray[np.float64], *, shares: NDArray[np.float64], rounds: int = ROUNDS
) -> NDArray[np.float64]:
    """Choose members with replacement, each time the one that lowers the mean's log loss most.

    The log loss and not the accuracy is lowered, for on a few hundred clips many sets of members are equally accurate.
    Of all the sets on the way the best is taken, the smallest of equals.

    Parameters
    ----------
    own : ndarray of float64, shape (members, clips)
        The probability that each member gave to the right class.
    shares : ndarray of float64, shape (clips,)
        Each clip's weight in the mean log loss.
    rounds : int
        Members taken at most, repeats counted.

    Returns
    -------
    ndarray of float64, shape (members,)
        Shares of the members, adding up to 1.

    Raises
    ------
    DataError
        If there is no member or clip, or a value is no probability.

    References
    ----------
    R. Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004.
    """
    if own.ndim != 2 or not own.size or shares.shape != own.shape[1:]:
        raise DataError(
            f"found probabilities {own.shape} and shares {shares.shape}, expected (members, clips), (clips,)"
        )
    if not (own.min() >= 0 and own.max() <= 1 + 1e-9):
        raise DataError(f"found probabilities from {own.min():g} to {own.max():g}, expected 0 to 1")
    counts, best_counts = np.zeros(len(own)), np.zeros(len(own))
    total, best = np.zeros(own.shape[1]), np.inf
    for size in range(1, rounds + 1):
        losses = -np.log(np.maximum((total + own) / size, _SMALLEST)) @ shares
        taken = int(losses.argmin())
        counts[taken] += 1
        total += own[taken]
        if losses[taken] < best - 1e-12:
            best, best_counts = float(losses[taken]), counts.copy()
    out: NDArray[np.float64] = best_counts / best_counts.sum()
    return out


def chosen_weights(grid: Grid, *, on: Sequence[int]) -> NDArray[np.float64]:
    """Greedy weights (members,) by what the members said of some folds, each fold weighing the same."""
    own = [
        np.take_along_axis(grid.probabilities[fold], grid.labels[fold][None, :, None], axis=2)[:, :, 0] for fold in on
    ]
    shares = [np.full(part.shape[1], 1 / (len(on) * part.shape[1])) for part in own]
    return greedy_weights(np.concatenate(own, axis=1), shares=np.concatenate(shares))


def cross_fitted(grid: Grid) -> dict[int, NDArray[np.float64]]:
    """For each fold, greedy weights chosen on the others alone.

    Raises
    ------
    DataError
        If there is only one fold.
    """
    if len(grid.folds) < 2:
        raise DataError("a greedy choice for one fold needs other folds to choose on: run two folds or more")
    return {fold: chosen_weights(grid, on=[other for other in grid.folds if other != fold]) for fold in grid.folds}


def greedy_soup(members: Sequence[Member], *, accuracy: Callable[[tuple[Member, ...]], float]) -> tuple[Member, ...]:
    """Which members' weights to average: from the best one on, each that does not lower the soup's accuracy.

    Parameters
    ----------
    members : sequence of Member
    accuracy : callable
        Of the soup of some members, on clips that are not the ones reported.

    Returns
    -------
    tuple of Member
        In the members' order.

    References
    ----------
    M. Wortsman et al., "Model soups", ICML 2022, recipe 1.
    """
    ranked = sorted(members, key=lambda member: (-accuracy((member,)), member))
    soup: tuple[Member, ...] = (ranked[0],)
    best = accuracy(soup)
    for member in ranked[1:]:
        tried = tuple(sorted((*soup, member)))
        found = accuracy(tried)
        if found >= best:
            soup, best = tried, found
    return soup


def single_row(grid: Grid) -> dict[str, Any]:
    """The members by themselves: mean over members and folds, deviation over members of the mean over folds."""
    table = np.array([grid.right(fold).mean(axis=1) for fold in grid.folds])  # (folds, members)
    shares, folds = _by_clip(grid, {fold: grid.right(fold).mean(axis=0) for fold in grid.folds})
    interval = bootstrap_accuracy(shares, folds=folds)
    row: dict[str, Any] = {
        "method": "single",
        "networks": 1,
        "accuracy": {
            "mean": float(table.mean()),
            "std": float(table.mean(axis=0).std(ddof=1)),
            "ci95": [interval.low, interval.high],
        },
        "members": [
            {"run": member.run, "seed": member.seed, "accuracy": float(value)}
            for member, value in zip(grid.members, table.mean(axis=0), strict=True)
        ],
    }
    if len(grid.folds) > 1:
        parts = variance_parts(table)
        row["accuracy"]["fold_std"] = parts.fold_variance**0.5
        row["accuracy"]["seed_std"] = parts.seed_variance**0.5
    return row


def method_row(
    grid: Grid, name: str, right: Mapping[int, NDArray[np.float64] | NDArray[np.bool_]], *, networks: float
) -> dict[str, Any]:
    """One way to combine the members: its accuracy, and its gain over a single one on the same clips.

    Parameters
    ----------
    grid : Grid
    name : str
    right : mapping of fold to ndarray, shape (clips,)
        Whether the combination is right on each clip, or the share of several that are.
    networks : float
        How many networks a clip goes through, mean over the folds.

    Returns
    -------
    dict
        ``method``, ``networks``, ``accuracy`` (mean, ci95) and ``gain`` (difference, ci95, p_value, beyond_noise).
        The gain is paired over clips, against the share of the members that is right on each; its interval is about
        the choice of clips, with these members.
    """
    own, folds = _by_clip(grid, right)
    single, _ = _by_clip(grid, {fold: grid.right(fold).mean(axis=0) for fold in grid.folds})
    interval = bootstrap_accuracy(own, folds=folds)
    gain = paired_difference(own, single, folds=folds)
    return {
        "method": name,
        "networks": networks,
        "accuracy": {"mean": interval.mean, "ci95": [interval.low, interval.high]},
        "gain": {
            "difference": gain.difference,
            "ci95": [gain.low, gain.high],
            "p_value": gain.p_value,
            "beyond_noise": gain.beyond_noise,
        },
    }


def _by_clip(grid: Grid, values: Mapping[int, np.ndarray]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values of all folds' clips in one row, and each one's fold."""
    folds = np.concatenate([np.full(len(values[fold]), fold) for fold in grid.folds])
    return np.concatenate([np.asarray(values[fold], dtype=np.float64) for fold in grid.folds]), folds
