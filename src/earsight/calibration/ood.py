"""How unlike all classes a sound is, and from where on it is called unknown.

Comes in: logits (clips, classes) float, or scores (clips,) of known sounds that the network was not trained on. Goes
out: scores, higher for sounds less like any class; and the threshold that known sounds pass at a stated rate, with
what so few clips leave open about that rate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.calibration.conformal import rank
from earsight.errors import DataError
from earsight.evaluation.metrics import softmax


class OodThreshold(NamedTuple):
    """From which score on a sound is unknown.

    ``threshold``: scores above it are. ``rate``: the share of known sounds that are all the same, at most, on average
    over draws of the calibration clips. ``low``, ``high``: where that share lies with these clips, with 95 %
    probability.
    """

    threshold: float
    rate: float
    low: float
    high: float


def energy(logits: np.ndarray) -> NDArray[np.float64]:
    """Minus the logarithm of the sum of the exponentials of each row: high where no class speaks up.

    References
    ----------
    W. Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020.
    """
    scores = np.asarray(logits, dtype=np.float64)
    top = scores.max(axis=1)
    return np.asarray(-top - np.log(np.exp(scores - top[:, None]).sum(axis=1)))


def max_softmax_score(logits: np.ndarray) -> NDArray[np.float64]:
    """1 less the highest probability.

    References
    ----------
    D. Hendrycks, K. Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", ICLR 2017.
    """
    return np.asarray(1 - softmax(np.asarray(logits, dtype=np.float64)).max(axis=1))


def fit_ood_threshold(scores: np.ndarray, *, rate: float) -> OodThreshold:
    """The threshold that at most this share of known sounds exceeds.

    It is the ``ceil((clips + 1)(1 - rate))``-th smallest score, so that a new known sound, exchangeable with these,
    exceeds it with a probability of at most ``rate``. With these very clips that probability is a draw from a beta
    distribution, whose middle 95 % are told.

    Parameters
    ----------
    scores : np.ndarray of float, shape (clips,)
        Of known sounds that the network was not trained on.
    rate : float
        Between 0 and 1.

    Raises
    ------
    DataError
        If there are too few clips for the rate (fewer than ``1 / rate - 1``), or a score is not finite.
    """
    from scipy.stats import beta  # slow to load, and a prediction does not need it

    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise DataError("a score of novelty is not finite; the model's logits are broken: train it again")
    place = rank(len(scores), share=1 - rate)
    if place > len(scores):
        raise DataError(
            f"{len(scores)} clips cannot say where {100 * rate:g} % of the known sounds lie; "
            f"at least {int(np.ceil(1 / rate - 1))} can: give more clips, or a higher rate of false alarms"
        )
    above = len(scores) + 1 - place
    low, high = beta.ppf([0.025, 0.975], above, place)
    return OodThreshold(float(np.sort(scores)[place - 1]), rate, float(low), float(high))


def share_interval(share: float, *, clips: int) -> tuple[float, float]:
    """The 95 % interval of Clopper and Pearson for a share seen in so many clips."""
    from scipy.stats import beta

    hits = share * clips
    low = float(beta.ppf(0.025, hits, clips - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(0.975, hits + 1, clips - hits)) if hits < clips else 1.0
    return low, high
