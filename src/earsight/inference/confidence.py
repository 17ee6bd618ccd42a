"""What a calibrated model says beside its probabilities: whether a sound is unknown, and which classes are plausible.

Comes in: a model card and the network's logits. Goes out: `Answers`. The card's ``calibration`` holds, where
`earsight calibrate` wrote them::

    {"unknown": {"score", "threshold", "rate", "ci95"}, "sets": {"method", "threshold", "coverage"}, ...}

A model without them answers with probabilities alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.evaluation.conformal import plausible_classes
from earsight.evaluation.metrics import softmax
from earsight.evaluation.novelty import doubt, energy
from earsight.models.card import ModelCard


class Answers(NamedTuple):
    """What a model says of a batch of sounds.

    ``probabilities`` (batch, classes) float32, at the calibrated temperature; ``unknown`` (batch,) bool, all False
    where the model was not calibrated; ``novelty`` (batch,) float64 and ``plausible`` (batch, classes) bool, both None
    there.
    """

    probabilities: NDArray[np.float32]
    unknown: NDArray[np.bool_]
    novelty: NDArray[np.float64] | None
    plausible: NDArray[np.bool_] | None


SCORES = {"energy": energy, "doubt": doubt}


def answers_of(card: ModelCard, logits: NDArray[np.float32]) -> Answers:
    """The answers that a card's calibration gives to logits (batch, classes)."""
    shares = softmax(logits.astype(np.float64) / card.temperature)
    unknown, sets = card.calibration.get("unknown"), card.calibration.get("sets")
    novelty = SCORES[unknown["score"]](logits) if unknown else None
    strange = np.zeros(len(logits), dtype=bool)
    return Answers(
        probabilities=shares.astype(np.float32),
        unknown=strange if unknown is None else np.asarray(novelty > unknown["threshold"]),
        novelty=novelty,
        plausible=plausible_classes(shares, threshold=sets["threshold"], method=sets["method"]) if sets else None,
    )
