"""The members of an ensemble and what each said of the clips that it never saw.

Comes in: the predictions of one or more runs on one data set. Goes out: a `Grid` of probabilities by fold and member. A
member is one seed of one run; on each fold it is a network of its own, which that fold did not train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import RunError
from earsight.evaluation.metrics import softmax
from earsight.evaluation.summary import Predictions


class Member(NamedTuple):
    """One seed of the ``run``-th run, counted from 0."""

    run: int
    seed: int


@dataclass(frozen=True)
class Grid:
    """What each member says of each fold.

    Attributes
    ----------
    folds : tuple of int
    members : tuple of Member
        At least two, each on every fold.
    clips, labels : mapping of fold to ndarray, shape (clips,)
        Manifest paths, and class numbers int64.
    probabilities : mapping of fold to ndarray of float64, shape (members, clips, classes)
    trials : mapping of (fold, member) to Predictions
    left_out : tuple of Member
        Members that lack a fold.
    """

    folds: tuple[int, ...]
    members: tuple[Member, ...]
    clips: Mapping[int, NDArray[np.str_]]
    labels: Mapping[int, NDArray[np.int64]]
    probabilities: Mapping[int, NDArray[np.float64]]
    trials: Mapping[tuple[int, Member], Predictions]
    left_out: tuple[Member, ...]

    def mixed(self, fold: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The weighted mean of the members' probabilities (clips, classes); equal weights for None."""
        table = self.probabilities[fold]
        return np.average(table, axis=0, weights=weights)

    def mixed_distance(self, fold: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64] | None:
        """The weighted mean of the members' distances (clips,); None where a member has none."""
        table = [self.trials[fold, member].distance for member in self.members]
        kept = [one for one in table if one is not None]
        return np.average(np.stack(kept), axis=0, weights=weights) if len(kept) == len(table) else None

    def right(self, fold: int) -> NDArray[np.bool_]:
        """Whether each member is right on each clip, shape (members, clips)."""
        return np.asarray(self.probabilities[fold].argmax(axis=2) == self.labels[fold])


def gather(
    runs: Sequence[Sequence[Predictions]],
    *,
    names: Sequence[str],
    fold: int | None = None,
    temperature: Callable[[int, Predictions], float] = lambda run, trial: 1.0,
) -> Grid:
    """Line up the members of some runs.

    Parameters
    ----------
    runs : sequence of sequence of Predictions
        Each run's trials, as `earsight.evaluation.summary.read_run` gives them.
    names : sequence of str
        The runs' folders, for messages.
    fold : int, optional
        Only this fold; default every fold that all runs have.
    temperature : callable, optional
        What (place of the run, trial) divides its logits by before the softmax.

    Returns
    -------
    Grid

    Raises
    ------
    RunError
        If the runs are of different data sets, classes or protocols, share no fold or clips, or give fewer than two
        members.
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
        labels={one: trial.labels for one, trial in first.items()},
        probabilities={
            one: np.stack(
                [softmax(trials[one, m].logits / temperature(m.run, trials[one, m])) for m in members], axis=0
            )
            for one in folds
        },
        trials=trials,
        left_out=tuple(member for member in every if member not in members),
    )


def _check_alike(trials: Mapping[tuple[int, Member], Predictions], names: Sequence[str]) -> None:
    """Refuse members that were not trained and tested alike; their recipes may differ."""
    (_, first), one = next(iter(trials.items()))
    for (_, member), trial in trials.items():
        found = {
            "data set or split of it": trial.about["dataset"]["digest"] == one.about["dataset"]["digest"],
            "classes": trial.classes == one.classes,
            "protocol": trial.about["protocol"] == one.about["protocol"],
        }
        for what, same in found.items():
            if not same:
                raise RunError(
                    f"{names[member.run]}: seed {member.seed} is of another {what} than {names[first.run]}; members "
                    "share the folds of one `earsight crossval` (--seeds 5) or of several on one data set"
                )


def _folds_of(runs: Sequence[Sequence[Predictions]], names: Sequence[str]) -> str:
    found = [
        f"{name} ({', '.join(map(str, sorted({trial.about['fold'] for trial in run})))})"
        for name, run in zip(names, runs, strict=True)
    ]
    return ", ".join(found)
