"""Conformal prediction sets: sets of classes that contain the true one with a stated probability.

Comes in: probabilities (clips, classes) float of clips that did not choose the weights, and their labels (clips,) int.
Goes out: a threshold (no unit) for a coverage, and with it the prediction set of any clip. If the clips and those to
come are exchangeable, a new clip's set holds its class with at least the coverage, whatever the network is; over all
draws of clips, not for each class nor for each clip. Sets are not randomised and always hold the most probable class;
both can only add to coverage.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from earsight.errors import DataError
from earsight.evaluation.metrics import checked_logits
from earsight.models.card import SetMethod

METHODS: tuple[str, ...] = get_args(SetMethod)
_CLOSE = 1e-6  # serving computes in float32, calibration in float64: equal scores may differ by this much


def nonconformity_scores(probabilities: np.ndarray, *, method: str = "lac") -> NDArray[np.float64]:
    """How badly each class fits each clip, shape (clips, classes), from 0 to 1.

    ``lac``: 1 less the class's probability, which gives the smallest sets. ``aps``: the probability of all classes at
    least as probable, which spends larger sets on harder clips.

    M. Sadinle, J. Lei, L. Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", JASA 2019.
    Y. Romano, M. Sesia, E. Candes, "Classification with Valid and Adaptive Coverage", NeurIPS 2020.
    """
    shares = np.asarray(probabilities, dtype=np.float64)
    if method == "lac":
        return 1 - shares
    if method != "aps":
        raise DataError(f"no conformal score {method!r}; expected one of {', '.join(METHODS)}")
    order = np.argsort(-shares, axis=1, kind="stable")
    total = np.minimum(np.cumsum(np.take_along_axis(shares, order, axis=1), axis=1), 1.0)
    out = np.empty_like(total)
    np.put_along_axis(out, order, total, axis=1)
    return out


def conformal_threshold(
    probabilities: np.ndarray, labels: np.ndarray, *, coverage: float, method: str = "lac"
) -> float:
    """The score up to which a class is in the set: the ``ceil((clips + 1) coverage)``-th smallest of the true classes'.

    It is from 0 to 1, and 1, which lets every class in, where the clips are too few for the coverage. Probabilities
    (clips, classes) float and labels (clips,) int are those of clips that did not train the network. DataError if they
    do not fit each other, or the coverage is not between 0 and 1.
    """
    shares, labels = checked_logits(probabilities, labels)
    own = np.take_along_axis(nonconformity_scores(shares, method=method), labels[:, None], axis=1)[:, 0]
    place = rank(len(own), share=coverage)
    return 1.0 if place > len(own) else float(np.sort(own)[place - 1])


def prediction_sets(probabilities: np.ndarray, *, threshold: float, method: str = "lac") -> NDArray[np.bool_]:
    """Which classes are in each clip's prediction set, shape (clips, classes); no set is empty."""
    shares = np.asarray(probabilities, dtype=np.float64)
    inside = nonconformity_scores(shares, method=method) <= threshold + _CLOSE
    inside[np.arange(len(shares)), shares.argmax(axis=1)] = True
    return np.asarray(inside)


def coverage_band(clips: int, *, coverage: float) -> tuple[float, float]:
    """Where the coverage reached with a threshold of so many clips lies, with 95 % probability.

    Over draws of the clips it has a beta distribution, of which these are the middle 95 %; the class that is always in
    the set can lift it above.
    """
    from scipy.stats import beta  # slow to load, and a prediction does not need it

    place = rank(clips, share=coverage)
    if place > clips:
        return 1.0, 1.0
    low, high = beta.ppf([0.025, 0.975], place, clips + 1 - place)
    return float(low), float(high)


def rank(clips: int, *, share: float) -> int:
    """The place, from 1, of the score that a new clip's does not exceed with at least this probability.

    ``clips + 1`` where so few clips cannot say.
    """
    if not 0 < share < 1:
        raise DataError(f"a share of {share:g}; expected one between 0 and 1, such as 0.95")
    # Rounded first: (19 + 1) * 0.95 is 19.000000000000004 in floats, and the 19th of 19 is meant.
    return min(clips + 1, int(np.ceil(round((clips + 1) * share, 9))))
