"""Metrics of several labels a clip: average precision, AUROC, F1 at thresholds, binary log loss, co-occurrence.

Comes in: ``targets`` (clips, classes): 1, 0, or NaN where that is not known; and ``scores`` (clips, classes), logits or
probabilities, higher for more likely. Goes out: plain floats, or arrays (classes,), NaN for a class that has no
positive clip or no negative one, of which they say nothing. Means leave such classes out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import DataError

_Floats = NDArray[np.float64]
_CELLS = 1 << 22  # array entries held at once: 32 MiB of float64
DRAWS = 1000
"""Resamples of an interval; fewer, down to 200, of large data sets."""
_WORK = 4e8  # draws times clips times classes: about a minute


class Ranking:
    """One class's known clips from the highest score to the lowest, sorted once for many weightings of the clips."""

    def __init__(self, targets: np.ndarray, scores: np.ndarray) -> None:
        known = np.flatnonzero(~np.isnan(targets))
        self.rows = known[np.argsort(-scores[known], kind="stable")]
        self.positive = np.asarray(targets)[self.rows] == 1
        ordered = np.asarray(scores)[self.rows]
        first = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
        begins = np.flatnonzero(first)
        tie = np.cumsum(first) - 1
        # Clips of one score are one step of the curve: each sees all that are at least as high, ties too.
        self._end = np.append(begins[1:], len(ordered))[tie] - 1 if len(ordered) else begins
        self._begin = begins[tie] if len(ordered) else begins

    @property
    def ends(self) -> NDArray[np.int64]:
        """Places in `rows` of the last clip of each score."""
        return np.unique(self._end)

    @property
    def says(self) -> bool:
        """Whether there are positives and negatives."""
        return bool(self.positive.any() and not self.positive.all())

    def average_precision(self, weights: _Floats) -> _Floats:
        """Average precision (draws,) under weights (draws, clips); NaN where a draw has no positive or no negative."""
        mine = weights[:, self.rows]
        hits = mine * self.positive
        # Exact where weights are whole numbers, so that a perfect ranking has exactly 1.
        precision = np.cumsum(hits, axis=1)[:, self._end] / _safe(np.cumsum(mine, axis=1)[:, self._end])
        total = hits.sum(axis=1)
        found = (hits * precision).sum(axis=1) / _safe(total)
        return np.where((total > 0) & (total < mine.sum(axis=1)), found, np.nan)

    def auroc(self, weights: _Floats) -> _Floats:
        """Area under the ROC curve (draws,): how often a positive has the higher score; ties count half."""
        mine = weights[:, self.rows]
        hits = mine * self.positive
        misses = np.cumsum(mine - hits, axis=1)
        above = np.where(self._begin > 0, misses[:, self._begin - 1], 0.0)
        total, negatives = hits.sum(axis=1), misses[:, -1:] if misses.size else misses
        won = negatives - (above + misses[:, self._end]) / 2
        bad = (total <= 0) | (negatives[:, 0] <= 0) if misses.size else np.ones(len(weights), dtype=bool)
        return np.where(bad, np.nan, (hits * won).sum(axis=1) / _safe(total * negatives.sum(axis=1)))


def average_precisions(targets: np.ndarray, scores: np.ndarray) -> _Floats:
    """Average precision of each class, (classes,), as scikit-learn's ``average_precision_score``: no interpolation."""
    return _each(targets, scores, Ranking.average_precision)


def aurocs(targets: np.ndarray, scores: np.ndarray) -> _Floats:
    """Area under the ROC curve of each class, (classes,)."""
    return _each(targets, scores, Ranking.auroc)


def mean_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Mean of the classes' average precisions (macro), each class weighing the same; 0 where none has any."""
    return mean_of(average_precisions(targets, scores))


def mean_of(values: np.ndarray) -> float:
    """Mean of what is no NaN; 0 where all is."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else 0.0


def binary_log_loss(targets: np.ndarray, logits: np.ndarray) -> float:
    """Mean binary cross-entropy in nats over all that is known, of logits (clips, classes)."""
    known = ~np.isnan(targets)
    scores = np.asarray(logits, dtype=np.float64)
    losses = np.maximum(scores, 0) - scores * np.nan_to_num(targets) + np.log1p(np.exp(-np.abs(scores)))
    return float(losses[known].mean()) if known.any() else 0.0


class F1(NamedTuple):
    """Precision, recall and F1 of each class, (classes,), and F1 over all decisions (micro) and over classes (macro).

    The macro F1 is the mean over classes that have a positive clip or are predicted; a ratio of nothing is 0.
    """

    precision: _Floats
    recall: _Floats
    f1: _Floats
    micro: float
    macro: float


def f1_at(targets: np.ndarray, probabilities: np.ndarray, thresholds: float | Sequence[float] | np.ndarray) -> F1:
    """F1 of predicting each class whose probability is at least its threshold (one for all, or (classes,))."""
    known = ~np.isnan(targets)
    named = (np.asarray(probabilities) >= np.asarray(thresholds)) & known
    positive = targets == 1
    right, predicted, present = ((part).sum(axis=0).astype(float) for part in (named & positive, named, positive))
    f1 = 2 * right / _safe(predicted + present)
    seen = predicted + present > 0
    return F1(
        precision=right / _safe(predicted),
        recall=right / _safe(present),
        f1=f1,
        micro=float(2 * right.sum() / _safe(np.array(predicted.sum() + present.sum()))),
        macro=float(f1[seen].mean()) if seen.any() else 0.0,
    )


def co_occurrence(targets: np.ndarray, named: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clips by two classes that sound in them, and by a class that sounds and one that is wrongly named beside it.

    ``named`` bool (clips, classes) are the predicted classes. Both (classes, classes); rows are the classes that sound.
    """
    positive = (targets == 1).astype(np.int64)
    wrong = (named & (targets == 0)).astype(np.int64)
    return positive.T @ positive, positive.T @ wrong


class Draws(NamedTuple):
    """How often each clip counts in each resample, (draws, clips)."""

    weights: _Floats
    units: int
    """How many groups or clips were redrawn."""


def draws_for(clips: int, classes: int) -> int:
    """How many resamples so many clips and classes get."""
    return int(min(DRAWS, max(200, _WORK // max(1, clips * classes))))


def resamples(
    clips: np.ndarray, folds: np.ndarray, groups: np.ndarray | None, *, draws: int = DRAWS, seed: int = 0
) -> Draws:
    """Bootstrap weights of clips: groups redrawn whole where clips share some, else clips within folds.

    Of G groups G - 1 are redrawn, which makes the variance right for few of them (J. Rao and C. Wu, JASA 83, 1988). The
    same names give the same draws, in whatever order they come. All arrays are (clips,).
    """
    generator = np.random.default_rng([seed, 5])
    units = len(clips) if groups is None else len(np.unique(groups))
    if groups is not None and 1 < units < len(clips):
        owner = np.unique(groups, return_inverse=True)[1]
        drawn = generator.multinomial(units - 1, np.full(units, 1 / units), size=draws)
        return Draws(drawn[:, owner].astype(np.float64), units)
    out = np.zeros((draws, len(clips)))
    for fold in np.unique(folds):
        mine = np.flatnonzero(folds == fold)
        mine = mine[np.argsort(np.asarray(clips)[mine], kind="stable")]
        out[:, mine] = generator.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=draws)
    return Draws(out, len(clips))


def resampled(
    targets: np.ndarray, scores: np.ndarray, weights: _Floats, measure: Callable[[Ranking, _Floats], _Floats]
) -> _Floats:
    """A metric of each class under each weighting, (draws, classes)."""
    out = np.full((len(weights), targets.shape[1]), np.nan)
    step = max(1, _CELLS // max(1, len(targets)))
    for kind in range(targets.shape[1]):
        ranking = Ranking(targets[:, kind], scores[:, kind])
        if ranking.says:
            for start in range(0, len(weights), step):
                out[start : start + step, kind] = measure(ranking, weights[start : start + step])
    return out


def means_of(values: _Floats, axis: int) -> _Floats:
    """Means along an axis of what is no NaN; NaN where all is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mean of nothing, which is NaN as it should be
        return np.asarray(np.nanmean(values, axis=axis))


def limits(values: _Floats, *, around: float | None = None) -> list[float]:
    """The middle 95 % of draws (draws,), of those that are numbers; 0 to 1 where none is.

    ``around`` is a score from 0 to 1 that the draws are moved to, by their mean: average precision of redrawn clips is
    too high, since a positive that is drawn twice follows itself. With a few positives a class the interval is still
    too narrow.
    """
    found = values[~np.isnan(values)]
    if not len(found):
        return [0.0, 1.0]
    if around is None or np.isnan(around):
        return [float(one) for one in np.quantile(found, [0.025, 0.975])]
    low, high = np.quantile(found, [0.025, 0.975]) - found.mean() + around
    return [float(max(0.0, min(low, around))), float(min(1.0, max(high, around)))]


def checked(targets: np.ndarray, scores: np.ndarray) -> None:
    """Raise DataError unless targets and scores fit each other and the scores are finite."""
    if targets.ndim != 2 or targets.shape != scores.shape or not len(targets):
        raise DataError(f"found targets of shape {targets.shape} and scores {scores.shape}; expected (clips, classes)")
    if not np.isfinite(scores).all():
        raise DataError("some scores are not finite: train with a lower rate")


def _each(targets: np.ndarray, scores: np.ndarray, measure: Callable[[Ranking, _Floats], _Floats]) -> _Floats:
    targets, scores = np.asarray(targets), np.asarray(scores, dtype=np.float64)
    checked(targets, scores)
    return np.asarray(resampled(targets, scores, np.ones((1, len(targets))), measure)[0])


def _safe(below: _Floats) -> _Floats:
    return np.where(below > 0, below, 1.0)
