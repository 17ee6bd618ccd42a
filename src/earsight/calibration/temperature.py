"""Temperature scaling, reliability curves and the expected calibration error.

Comes in: logits or probabilities (clips, classes) float, and labels (clips,) int. Goes out: a temperature (no unit), an
expected calibration error between 0 and 1, or the arrays of a reliability curve. Fit the temperature on clips that did
not choose the weights, and measure the error on others still.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import DataError
from earsight.evaluation.metrics import checked_logits, softmax
from earsight.evaluation.summary import Predictions

COLDEST, HOTTEST = 0.01, 100.0  # a temperature outside says that the logits are broken, not how to mend them
PRIOR = math.log(2)
"""Deviation of log T about 0 before clips are seen: a handful of them, of which one is wrong by a hair, says little."""


class Reliability(NamedTuple):
    """A reliability curve: edges (bins + 1,), the others (bins,); empty bins have nan confidence and accuracy."""

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    clips: NDArray[np.int64]


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the most probable T of ``softmax(logits / T)``; before the labels, log T is normal about 0 (`PRIOR`).

    With hundreds of clips this is the T of the highest likelihood; a few can move it by a factor of two or so. If
    every clip is classified right, or all logits of each clip are equal, the clips do not say what T should be, and 1
    is returned, which changes nothing.

    Comes in: logits (clips, classes) float of held-out clips, and labels (clips,) int. Goes out: T, from 0.01 to 100;
    above 1, the classifier was too sure. DataError if the arrays do not fit each other or a logit is not finite.

    C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    scores, labels = checked_logits(logits, labels)
    own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    # The likelihood has no maximum at a finite 1/T where no class ever scores above the label.
    if np.all(own == scores.max(axis=1)):
        return 1.0
    return most_probable_temperature(partial(_slope, scores, own), clips=len(own))


def most_probable_temperature(derivatives: Callable[[float], tuple[float, float]], *, clips: int) -> float:
    """The T, from 0.01 to 100, of the highest likelihood times prior, by Newton's method in 1/T in a shrinking bracket.

    ``derivatives`` gives the first and second derivative, at a value of 1/T, of the mean negative log likelihood of so
    many clips, which is convex in 1/T.
    """

    def penalized(inverse: float) -> tuple[float, float]:
        slope, curvature = derivatives(inverse)
        pull, place = 1 / (PRIOR**2 * clips * inverse), math.log(inverse)
        return slope + pull * place, curvature + pull * (1 - place) / inverse

    low, high = 1 / HOTTEST, 1 / COLDEST
    if penalized(low)[0] >= 0:
        return HOTTEST
    if penalized(high)[0] <= 0:
        return COLDEST
    inverse = 1.0
    for _ in range(200):
        slope, curvature = penalized(inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else low
        # A step that leaves the bracket, as on the flat far side of the curve, is replaced by a bisection.
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - inverse) <= 1e-12 * inverse:
            break
        inverse = following
    return float(1 / inverse)


def reliability(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> Reliability:
    """How often the predicted class is right, in bins of its probability; bins include their upper edge.

    Comes in: probabilities (clips, classes) float, whose rows sum to 1, labels (clips,) int, and how many bins, at
    least 1, of equal width. DataError if these are not such.
    """
    if bins < 1:
        raise DataError(f"bins is {bins}, expected 1 or more")
    shares, labels = checked_logits(probabilities, labels)
    if shares.min() < -1e-6 or np.abs(shares.sum(axis=1) - 1).max() > 1e-3:
        raise DataError("rows do not sum to 1, expected probabilities: apply softmax to logits first")
    top = np.clip(shares.max(axis=1), 0, 1)
    right = shares.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, bins - 1)
    clips = np.bincount(place, minlength=bins).astype(np.int64)
    divisor = np.where(clips > 0, clips, np.nan)
    return Reliability(
        edges=edges,
        confidence=np.bincount(place, weights=top, minlength=bins) / divisor,
        accuracy=np.bincount(place, weights=right, minlength=bins) / divisor,
        clips=clips,
    )


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """Mean over clips of their bin's distance between confidence and accuracy, 0 to 1; arguments as in `reliability`.

    M. Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015; C. Guo et al. 2017.
    """
    curve = reliability(probabilities, labels, bins=bins)
    filled = curve.clips > 0
    gaps = np.abs(curve.confidence[filled] - curve.accuracy[filled])
    return float(np.sum(gaps * curve.clips[filled]) / curve.clips.sum())


def binary_reliability(probabilities: np.ndarray, targets: np.ndarray, *, bins: int = 15) -> Reliability:
    """A reliability curve of classes that may sound together: of each one's probability, over all that is known."""
    known = ~np.isnan(targets)
    shares, truth = np.asarray(probabilities, dtype=np.float64)[known], np.asarray(targets)[known]
    place = np.minimum((shares * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.int64)
    divisor = np.where(count > 0, count, np.nan)
    confidence, found = (np.bincount(place, weights=part, minlength=bins) / divisor for part in (shares, truth))
    return Reliability(np.linspace(0, 1, bins + 1), confidence, found, count)


def binary_calibration_error(probabilities: np.ndarray, targets: np.ndarray, *, bins: int = 15) -> float:
    """The same of classes that may sound together: mean over all that is known of the targets (clips, classes).

    In bins of the probability of a class: how far the mean probability is from the share of clips that it sounds in.
    """
    curve = binary_reliability(probabilities, targets, bins=bins)
    filled = curve.clips > 0
    gaps = np.abs(curve.confidence[filled] - curve.accuracy[filled])
    return float(np.sum(gaps * curve.clips[filled]) / max(1, curve.clips.sum()))


class Confidence(NamedTuple):
    """Probabilities (predictions, classes) of all trials together, and the labels (predictions,).

    ``scaled`` holds the probabilities at the temperature fitted to the other folds, one in ``temperatures`` for each
    fold; it is None where there is one fold only.
    """

    labels: NDArray[np.int64]
    raw: NDArray[np.float64]
    scaled: NDArray[np.float64] | None
    temperatures: dict[int, float]


def cross_fitted_confidence(trials: Sequence[Predictions]) -> Confidence:
    """Probabilities before and after temperature scaling, each fold's temperature fitted to the other folds.

    Raises `DataError` if logits are not finite.
    """
    for one in trials:
        if not np.isfinite(one.logits).all():
            raise DataError(f"fold {one.about['fold']}: has logits that are not finite; train with a lower rate")
    temperatures: dict[int, float] = {}
    for fold in sorted({int(one.about["fold"]) for one in trials}):
        if others := [one for one in trials if one.about["fold"] != fold]:
            logits, labels = ([getattr(one, name) for one in others] for name in ("logits", "labels"))
            temperatures[fold] = fit_temperature(np.concatenate(logits), np.concatenate(labels))
    scaled = [softmax(one.logits / temperatures[one.about["fold"]]) for one in trials] if temperatures else None
    return Confidence(
        labels=np.concatenate([one.labels for one in trials]),
        raw=np.concatenate([softmax(one.logits) for one in trials]),
        scaled=None if scaled is None else np.concatenate(scaled),
        temperatures=temperatures,
    )


def _slope(scores: NDArray[np.float64], own: NDArray[np.float64], inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean negative log likelihood by 1/T."""
    shares = softmax(scores * inverse)
    mean = (shares * scores).sum(axis=1)
    spread = (shares * (scores - mean[:, None]) ** 2).sum(axis=1)
    return float((mean - own).mean()), float(spread.mean())
