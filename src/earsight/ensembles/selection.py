"""Choose ensemble members, and measure the gain from averaging them.

Comes in: the predictions of one or more runs on one data set. A member is one seed of one run, with one network for
each fold, not trained on that fold. Goes out: a `Grid` of probabilities by fold and member, weights of the members, and
rows of accuracy as in the paper's Table II, with 95 % intervals and the gain over a single network. Members are chosen
for a fold by their predictions on the other folds, never on the reported fold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import DataError, RunError
from earsight.evaluation.metrics import probabilities
from earsight.evaluation.multilabel import Ranking, limits, mean_average_precision, means_of, resampled
from earsight.evaluation.statistics import bootstrap_accuracy, paired_difference, variance_parts
from earsight.evaluation.summary import Predictions, bootstrap_p, clip_draws, clip_groups


class Member(NamedTuple):
    """One seed of the ``run``-th run, counted from 0."""

    run: int
    seed: int


@dataclass(frozen=True)
class Grid:
    """The predictions of at least two members on each fold.

    By fold: ``clips`` (clips,) are manifest paths, ``labels`` (clips,) class numbers, ``probabilities`` (members,
    clips, classes). ``left_out`` are members that lack a fold. Where clips may have several labels these are 0 or 1, or
    NaN, (clips, classes).
    """

    folds: tuple[int, ...]
    members: tuple[Member, ...]
    clips: Mapping[int, NDArray[np.str_]]
    labels: Mapping[int, NDArray[Any]]
    probabilities: Mapping[int, NDArray[np.float64]]
    trials: Mapping[tuple[int, Member], Predictions]
    left_out: tuple[Member, ...]

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """Source of each clip, fold after fold; None where the runs do not know them."""
        return clip_groups([self.trials[fold, self.members[0]] for fold in self.folds])

    def mixed(self, fold: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The weighted mean of the members' probabilities (clips, classes); equal weights for None."""
        return np.average(self.probabilities[fold], axis=0, weights=weights)

    def mixed_distance(self, fold: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64] | None:
        """The weighted mean of the members' distances (clips,); None where a member has none."""
        table = [self.trials[fold, member].distance for member in self.members]
        kept = [one for one in table if one is not None]
        return np.average(np.stack(kept), axis=0, weights=weights) if len(kept) == len(table) else None

    @property
    def several(self) -> bool:
        """Whether clips may have several labels."""
        return self.labels[self.folds[0]].ndim == 2

    def correct(self, fold: int) -> NDArray[np.bool_]:
        """Whether each member is right on each clip, shape (members, clips)."""
        return np.asarray(self.probabilities[fold].argmax(axis=2) == self.labels[fold])

    def score(self, fold: int, probabilities: NDArray[np.float64]) -> float:
        """Accuracy of probabilities (clips, classes) of a fold's clips; of several labels mean average precision."""
        if self.several:
            return mean_average_precision(self.labels[fold], probabilities)
        return float((probabilities.argmax(axis=1) == self.labels[fold]).mean())


def gather(
    runs: Sequence[Sequence[Predictions]],
    *,
    names: Sequence[str],
    fold: int | None = None,
    temperature: Callable[[int, Predictions], Any] = lambda run, trial: 1.0,
) -> Grid:
    """Line up the members of some runs, given by their trials (`earsight.evaluation.summary.read_run`) and folders.

    Takes one ``fold``, by default every fold that all runs have. ``temperature`` of (place of the run, trial) divides
    that trial's logits before the softmax, or each class's before its sigmoid. RunError if the runs are of different
    data sets, classes or protocols, share no fold or clips, or give fewer than two members.
    """
    trials = {
        (trial.about["fold"], Member(place, trial.about["seed"])): trial
        for place, run in enumerate(runs)
        for trial in run
    }
    _check_alike(trials, names)
    shared = set.intersection(*({trial.about["fold"] for trial in run} for run in runs))
    folds = tuple(sorted(shared if fold is None else shared & {fold}))
    if not folds:
        asked = f"fold {fold}: not in" if fold is not None else "no fold in common in"
        raise RunError(f"{asked} {_folds_of(runs, names)}; train it with `earsight crossval`, or leave a run out")
    every = sorted({member for _, member in trials})
    members = tuple(member for member in every if all((one, member) in trials for one in folds))
    if len(members) < 2:
        raise RunError(
            f"{' '.join(names)}: {len(members)} seed on every fold of {', '.join(map(str, folds))}; an ensemble needs "
            "two or more: `earsight crossval DATA --seeds 5` adds seeds to the run"
        )
    first = {one: trials[one, members[0]] for one in folds}
    for (one, member), trial in trials.items():
        if one in folds and member in members and not np.array_equal(trial.clips, first[one].clips):
            raise RunError(
                f"{names[member.run]}: fold {one} of seed {member.seed} has other clips than that of "
                f"{names[members[0].run]}; leave the run out"
            )
    return Grid(
        folds=folds,
        members=members,
        clips={one: trial.clips for one, trial in first.items()},
        labels={one: trial.labels if trial.targets is None else trial.targets for one, trial in first.items()},
        probabilities={
            one: np.stack([_shares(trials[one, m], temperature(m.run, trials[one, m])) for m in members])
            for one in folds
        },
        trials=trials,
        left_out=tuple(member for member in every if member not in members),
    )


def _shares(trial: Predictions, temperature: Any) -> NDArray[np.float64]:
    return probabilities(trial.logits / np.asarray(temperature), several=trial.targets is not None)


def _check_alike(trials: Mapping[tuple[int, Member], Predictions], names: Sequence[str]) -> None:
    """Raise if members were trained or tested on different data; their recipes may differ."""
    (_, first), one = next(iter(trials.items()))
    for (_, member), trial in trials.items():
        found = {
            "data set or split of it": trial.about["dataset"]["digest"] == one.about["dataset"]["digest"],
            "classes": trial.classes == one.classes,
            "labels a clip": (trial.targets is None) == (one.targets is None),
            "protocol": trial.about["protocol"] == one.about["protocol"],
        }
        if odd := [what for what, same in found.items() if not same]:
            raise RunError(
                f"{names[member.run]}: seed {member.seed} is of another {odd[0]} than {names[first.run]}; members "
                "share the folds of one `earsight crossval` (--seeds 5) or of several on one data set"
            )


def _folds_of(runs: Sequence[Sequence[Predictions]], names: Sequence[str]) -> str:
    folds = (", ".join(map(str, sorted({trial.about["fold"] for trial in run}))) for run in runs)
    return ", ".join(f"{name} ({found})" for name, found in zip(names, folds, strict=True))


ROUNDS = 50  # members, repeats counted, that a greedy selection holds at most
_SMALLEST = 1e-12  # smaller probabilities are raised to this, so that one confident mistake does not outweigh all else


def greedy_weights(
    own: NDArray[np.float64], *, shares: NDArray[np.float64], rounds: int = ROUNDS
) -> NDArray[np.float64]:
    """Choose members with replacement, each time the one that most lowers the log loss of the mean.

    Log loss and not accuracy, because on a few hundred clips many sets of members are equally accurate. The best of all
    sets on the way is taken, the smallest of equals (R. Caruana et al., "Ensemble Selection from Libraries of Models",
    ICML 2004).

    ``own`` (members, clips) is the probability that each member gave to the right class, ``shares`` (clips,) each
    clip's weight in the mean log loss. Returns the members' weights (members,), float64, adding up to 1. DataError if
    there is no member or clip, or a value is no probability.
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
    """Greedy weights (members,) by the members' predictions on some folds, each fold weighing the same."""
    own = [_of_the_truth(grid, fold) for fold in on]
    shares = [np.full(part.shape[1], 1 / (len(on) * part.shape[1])) for part in own]
    return greedy_weights(np.concatenate(own, axis=1), shares=np.concatenate(shares))


def _of_the_truth(grid: Grid, fold: int) -> NDArray[np.float64]:
    """The probability that each member gives to what is true: of each clip, or of each class in each clip."""
    shares, truth = grid.probabilities[fold], grid.labels[fold]
    if not grid.several:
        return np.take_along_axis(shares, truth[None, :, None], axis=2)[:, :, 0]
    return np.where(truth == 1, shares, 1 - shares)[:, ~np.isnan(truth)]


def cross_fitted(grid: Grid) -> dict[int, NDArray[np.float64]]:
    """For each fold, greedy weights chosen on the others alone; `DataError` if there is only one fold."""
    if len(grid.folds) < 2:
        raise DataError("a greedy choice for one fold needs other folds to choose on: run two folds or more")
    return {fold: chosen_weights(grid, on=[other for other in grid.folds if other != fold]) for fold in grid.folds}


def single_row(grid: Grid) -> dict[str, Any]:
    """The members by themselves: mean over members and folds, deviation over members of the mean over folds.

    Of several labels ``average_precision`` stands in place of ``accuracy``.
    """
    if grid.several:
        return _several_single(grid)
    table = np.array([grid.correct(fold).mean(axis=1) for fold in grid.folds])  # (folds, members)
    shares, folds = _by_clip(grid, {fold: grid.correct(fold).mean(axis=0) for fold in grid.folds})
    interval = bootstrap_accuracy(shares, folds=folds, groups=grid.groups)
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


def method_row(grid: Grid, name: str, mixed: Mapping[int, NDArray[np.float64]], *, networks: float) -> dict[str, Any]:
    """One way to combine the members: its accuracy, and its gain over a single one on the same clips.

    ``mixed`` holds by fold the combination's probabilities (clips, classes), ``networks`` how many networks a clip goes
    through, mean over the folds. The gain is paired over clips, against the share of the members that is right on each,
    with an interval over clips.
    """
    if grid.several:
        return {"method": name, "networks": networks} | _several_gain(grid, mixed)
    correct = {fold: np.asarray(shares.argmax(axis=1) == grid.labels[fold]) for fold, shares in mixed.items()}
    own, folds = _by_clip(grid, correct)
    single, _ = _by_clip(grid, {fold: grid.correct(fold).mean(axis=0) for fold in grid.folds})
    return {
        "method": name,
        "networks": networks,
        "accuracy": bootstrap_accuracy(own, folds=folds, groups=grid.groups).to_dict(),
        "gain": paired_difference(own, single, folds=folds, groups=grid.groups).to_dict(),
    }


def _several_draws(grid: Grid, shares: Mapping[int, Sequence[NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Mean average precision under each resample (draws,), mean over folds and over each fold's tables."""
    trials = [grid.trials[fold, grid.members[0]] for fold in grid.folds]
    drawn, rows_of, _ = clip_draws(trials)
    measure, out = Ranking.average_precision, []
    for fold, trial in zip(grid.folds, trials, strict=True):
        weights = drawn[:, rows_of(trial)]
        tables = [means_of(resampled(grid.labels[fold], one, weights, measure), 1) for one in shares[fold]]
        out.append(means_of(np.stack(tables), 0))
    return means_of(np.stack(out), 0)


def _several_single(grid: Grid) -> dict[str, Any]:
    table = np.array([[grid.score(fold, one) for one in grid.probabilities[fold]] for fold in grid.folds])
    over_members = table.mean(axis=0)
    return {
        "method": "single",
        "networks": 1,
        "average_precision": {
            "mean": float(table.mean()),
            "std": float(over_members.std(ddof=1)),
            "ci95": limits(
                _several_draws(grid, {fold: list(grid.probabilities[fold]) for fold in grid.folds}),
                around=float(table.mean()),
            ),
        },
        "members": [
            {"run": member.run, "seed": member.seed, "average_precision": float(value)}
            for member, value in zip(grid.members, over_members, strict=True)
        ],
    }


def _several_gain(grid: Grid, mixed: Mapping[int, NDArray[np.float64]]) -> dict[str, Any]:
    own = _several_draws(grid, {fold: [shares] for fold, shares in mixed.items()})
    single = _several_draws(grid, {fold: list(grid.probabilities[fold]) for fold in grid.folds})
    mean = float(np.mean([grid.score(fold, mixed[fold]) for fold in grid.folds]))
    alone = float(np.mean([[grid.score(fold, one) for one in grid.probabilities[fold]] for fold in grid.folds]))
    low, high = limits(own - single)
    gain = {"difference": mean - alone, "ci95": [low, high], "p_value": bootstrap_p(own - single)}
    return {
        "average_precision": {"mean": mean, "ci95": limits(own, around=mean)},
        "gain": gain | {"beyond_noise": low > 0 or high < 0},
    }


def _by_clip(grid: Grid, values: Mapping[int, np.ndarray]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values of all folds' clips in one array, and each one's fold."""
    folds = np.concatenate([np.full(len(values[fold]), fold) for fold in grid.folds])
    return np.concatenate([np.asarray(values[fold], dtype=np.float64) for fold in grid.folds]), folds
