"""Out-of-distribution (OOD) scores, and the threshold above which a sound is called unknown.

Comes in: logits (clips, classes) float, or OOD scores (clips,) of known sounds that did not train the network. Goes
out: OOD scores (clips,) float64, higher for sounds less like any class; and the threshold that known sounds exceed at a
stated rate, with the interval that so few clips leave for that rate.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from earsight.calibration.conformal import rank
from earsight.errors import DataError
from earsight.evaluation.metrics import softmax
from earsight.models.card import OodScore

SCORES: tuple[str, ...] = get_args(OodScore)
"""Mahalanobis distance, energy, and max-softmax score (``doubt`` in model files); best first (docs/results.md)."""


def energy(logits: np.ndarray) -> NDArray[np.float64]:
    """Energy (clips,) of logits (clips, classes): minus the logarithm of the sum of their exponentials.

    W. Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020.
    """
    scores = np.asarray(logits, dtype=np.float64)
    top = scores.max(axis=1)
    return np.asarray(-top - np.log(np.exp(scores - top[:, None]).sum(axis=1)))


def joint_energy(logits: np.ndarray) -> NDArray[np.float64]:
    """The same (clips,) where classes may sound together: minus the sum of each class's log(1 + exp(logit)).

    H. Wang et al., "Can Multi-label Classification Networks Know What They Don't Know?", NeurIPS 2021.
    """
    return np.asarray(-np.logaddexp(0, np.asarray(logits, dtype=np.float64)).sum(axis=1))


def max_softmax_score(logits: np.ndarray) -> NDArray[np.float64]:
    """1 less the highest probability, (clips,), of logits (clips, classes).

    D. Hendrycks, K. Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", ICLR 2017.
    """
    return np.asarray(1 - softmax(np.asarray(logits, dtype=np.float64)).max(axis=1))


def ood_scores(
    score: str, logits: np.ndarray, *, temperature: float, distance: np.ndarray | None = None, several: bool = False
) -> NDArray[np.float64]:
    """The OOD scores (clips,) that one of `SCORES` names.

    ``logits`` (clips, classes) are not divided by the ``temperature`` yet; ``distance`` (clips,) is Mahalanobis's. With
    ``several`` labels a clip there is no max-softmax score: that no class sounds says nothing about it.
    """
    if score == "distance" and distance is not None:
        return np.asarray(distance, dtype=np.float64)
    if score == "energy":
        return joint_energy(logits) if several else energy(logits)
    if several:
        raise DataError("a max-softmax score of classes that may sound together; calibrate the model again")
    return max_softmax_score(logits / temperature)


def is_unknown(scores: np.ndarray, threshold: float) -> NDArray[np.bool_]:
    """Which sounds are unknown, (clips,): those whose OOD score is greater than the threshold.

    A score that equals the threshold is a known sound's: `fit_ood_threshold` returns the score of a calibration clip,
    and counts that clip among the known ones.
    """
    return np.asarray(scores > threshold)


def fit_ood_threshold(scores: np.ndarray, *, rate: float) -> tuple[float, tuple[float, float]]:
    """The threshold that at most this share of known sounds exceeds, and the 95 % interval of the share that does.

    It is the ``ceil((clips + 1)(1 - rate))``-th smallest score, so that a new known sound, exchangeable with these,
    exceeds it with a probability of at most ``rate``. With these very clips that probability is a draw from a beta
    distribution, whose middle 95 % are the interval.

    ``scores`` (clips,) are those of known sounds that the network was not trained on; ``rate`` is between 0 and 1.
    DataError if there are too few clips for the rate (fewer than ``1 / rate - 1``), or a score is not finite.
    """
    from scipy.stats import beta  # slow to load, and a prediction does not need it

    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise DataError("an OOD score is not finite; the model's logits are broken: train it again")
    place = rank(len(scores), share=1 - rate)
    if place > len(scores):
        raise DataError(
            f"{len(scores)} clips cannot say where {100 * rate:g} % of the known sounds lie; "
            f"at least {int(np.ceil(1 / rate - 1))} can: give more clips, or a higher rate of false alarms"
        )
    low, high = beta.ppf([0.025, 0.975], len(scores) + 1 - place, place)
    return float(np.sort(scores)[place - 1]), (float(low), float(high))


def share_interval(share: float, clips: float) -> tuple[float, float]:
    """The 95 % interval of Clopper and Pearson for a share seen in so many clips."""
    from scipy.stats import beta

    hits = share * clips
    low = float(beta.ppf(0.025, hits, clips - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(0.975, hits + 1, clips - hits)) if hits < clips else 1.0
    return low, high
