"""Calibration a class: a temperature for its sigmoid, and the probability from which on it is named.

Comes in: held-out logits or probabilities (clips, classes), and targets (clips, classes): 1, 0, or NaN where not
known. Goes out: temperatures (classes,), and thresholds that a stated rule chooses, with the interval that so few clips
leave. Both are for classes that may sound together; a threshold is also for those that exclude each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.calibration.temperature import most_probable_temperature
from earsight.errors import DataError
from earsight.evaluation.metrics import sigmoid
from earsight.evaluation.multilabel import Ranking, limits, resamples

_Floats = NDArray[np.float64]
FEWEST = 10
"""Positive and negative clips from which on a class has a temperature of its own; others have that of all together."""
DRAWS = 200
RULES = ("best-f1", "precision", "false-alarms-per-hour")


@dataclass(frozen=True)
class ThresholdRule:
    """How a threshold is chosen: ``name`` is one of `RULES`, ``value`` the precision or the rate where it takes one."""

    name: str
    value: float = 0.0

    @property
    def text(self) -> str:
        """The rule as the option takes it."""
        return self.name if self.name == RULES[0] else f"{self.name}={self.value:g}"


def threshold_rule(text: str) -> ThresholdRule:
    """The rule that an option names: ``best-f1``, ``precision=0.9`` or ``false-alarms-per-hour=1``."""
    name, equals, number = text.partition("=")
    try:
        value = float(number) if equals else math.nan
    except ValueError:
        value = math.nan
    fits = {"best-f1": not equals, "precision": 0 < value < 1, "false-alarms-per-hour": 0 <= value < math.inf}
    if not fits.get(name):
        raise DataError(
            f"--threshold-rule {text}: expected best-f1, precision=P with P between 0 and 1, or "
            "false-alarms-per-hour=N with N from 0"
        )
    return ThresholdRule(name, 0.0 if name == "best-f1" else value)


def fit_temperatures(logits: np.ndarray, targets: np.ndarray) -> _Floats:
    """The most probable T of each class (classes,), of ``sigmoid(logit / T)``, with the prior of `fit_temperature`.

    A class with fewer than 10 positive or negative clips gets that of all classes together. Where scores separate the
    classes without an error, clips do not say what T should be, and it is 1. T is from 0.01 to 100.
    """
    known = ~np.isnan(targets)
    whole = _binary_temperature(np.asarray(logits, dtype=np.float64)[known], np.asarray(targets)[known])
    out = np.full(targets.shape[1], whole)
    for kind in range(targets.shape[1]):
        rows = known[:, kind]
        truth = targets[rows, kind]
        if min((truth == 1).sum(), (truth == 0).sum()) >= FEWEST:
            out[kind] = _binary_temperature(np.asarray(logits[rows, kind], dtype=np.float64), truth)
    return out


def _binary_temperature(scores: _Floats, truth: np.ndarray) -> float:
    """The most probable T of one list of logits; 1 where no clip is wrong."""
    signs = np.where(truth == 1, 1.0, -1.0)
    if not len(scores) or np.all(signs * scores >= 0):
        return 1.0

    def derivatives(inverse: float) -> tuple[float, float]:
        shares = sigmoid(inverse * scores)
        return float(((shares - (signs > 0)) * scores).mean()), float((shares * (1 - shares) * scores**2).mean())

    return most_probable_temperature(derivatives, clips=len(scores))


def choose_thresholds(
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    rule: ThresholdRule,
    *,
    clips: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray | None = None,
    clip_seconds: float = 0.0,
) -> dict[str, dict[str, Any]]:
    """A threshold for each class by a rule, as `earsight.models.card.ModelCard.thresholds` has them.

    ``probabilities`` and ``targets`` are (clips, classes), of held-out clips, at the calibrated temperatures;
    ``clips``, ``folds`` and ``groups`` are (clips,): what an interval redraws, as in
    `earsight.evaluation.multilabel.resamples`.

    The rule ``best-f1`` is the highest F1; ``precision=P`` the lowest threshold from which on that share of the named
    clips is right; ``false-alarms-per-hour=N`` the lowest with at most so many wrongly named clips in an hour of clips,
    each ``clip_seconds`` long, without the class. A threshold lies halfway between two clips' probabilities.

    Goes out: for each class ``threshold``, ``rule``, ``ci95``, and ``reached``: F1, precision, or false alarms an hour
    of these clips. Classes without two positive clips and a negative one are left out: they have the default. Where no
    threshold reaches a precision, the one that comes nearest is taken.
    """
    drawn = resamples(clips, folds, groups, draws=DRAWS, seed=1).weights
    out = {}
    for kind, name in enumerate(classes):
        ranking = Ranking(targets[:, kind], probabilities[:, kind])
        if ranking.positive.sum() < 2 or ranking.positive.all():
            continue
        scores = np.asarray(probabilities[:, kind], dtype=np.float64)[ranking.rows]
        weights = np.vstack([np.ones((1, len(drawn[0]))), drawn])[:, ranking.rows]
        place, reached = _chosen(ranking, weights, rule, hours=clip_seconds / 3600)
        limit = _between(scores)[place]
        out[name] = {
            "threshold": float(limit[0]),
            "rule": rule.text,
            "ci95": limits(limit[1:]),
            "reached": float(reached[0]),
        }
    return out


def _chosen(
    ranking: Ranking, weights: _Floats, rule: ThresholdRule, *, hours: float
) -> tuple[NDArray[np.int64], _Floats]:
    """For each weighting (draws, clips) the last clip, from the most probable on, that is named; and what that reaches.

    -1 where none is named.
    """
    hits = np.cumsum(weights * ranking.positive, axis=1)
    named = np.cumsum(weights, axis=1)
    # A threshold parts clips of different probabilities only.
    ends = ranking.ends
    hits, named = hits[:, ends], named[:, ends]
    total = hits[:, -1:]
    if rule.name == "best-f1":
        value = 2 * hits / np.maximum(named + total, 1e-12)
        best = value.argmax(axis=1)
    elif rule.name == "precision":
        value = hits / np.maximum(named, 1e-12)
        good = (value >= rule.value) & (hits > 0)
        last = good.shape[1] - 1 - good[:, ::-1].argmax(axis=1)
        best = np.where(good.any(axis=1), last, np.where(hits > 0, value, 0.0).argmax(axis=1))
    else:
        # Clips without the class; at least some time, so that a draw of positives alone has no rate.
        time = np.maximum((named - hits)[:, -1:] * hours, 1e-12)
        value = (named - hits) / time
        best = (value <= rule.value).sum(axis=1) - 1  # false alarms only grow
        reached = np.where(best >= 0, np.take_along_axis(value, np.maximum(best, 0)[:, None], axis=1)[:, 0], 0.0)
        return np.where(best >= 0, ends[np.maximum(best, 0)], -1), reached
    return ends[best], np.take_along_axis(value, best[:, None], axis=1)[:, 0]


def _between(scores: _Floats) -> _Floats:
    """Thresholds below each of some falling probabilities, halfway to the next lower; the last, for -1, above all."""
    lower = np.append(scores[1:], 0.0)
    halves = (scores + lower) / 2
    return np.append(halves, min(1.0, (1 + scores[0]) / 2))
