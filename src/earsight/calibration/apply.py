"""Applies a model card's calibration: temperature, OOD threshold and prediction sets.

Comes in: a model card, its network, and spectrograms (batch, 3, bands, frames) float32. Goes out: `Outputs`. The card's
``calibration`` holds, where `earsight calibrate` wrote them::

    {"unknown": {"score", "threshold", "rate", "ci95"}, "sets": {"method", "threshold", "coverage", "ci95"}, ...}

A model without them gives probabilities alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.calibration.conformal import prediction_sets
from earsight.calibration.ood import is_unknown, ood_scores
from earsight.errors import ModelError
from earsight.evaluation.metrics import softmax
from earsight.models.card import ModelCard
from earsight.models.ensemble import Ensemble
from earsight.models.mahalanobis import logits_and_features, statistics_of


class Outputs(NamedTuple):
    """What a model gives for a batch of sounds.

    ``probabilities`` (batch, classes) float32, at the calibrated temperature; ``unknown`` (batch,) bool, all False
    where the model was not calibrated; ``ood_score`` (batch,) float64 and ``prediction_sets`` (batch, classes) bool,
    both None there.
    """

    probabilities: NDArray[np.float32]
    unknown: NDArray[np.bool_]
    ood_score: NDArray[np.float64] | None
    prediction_sets: NDArray[np.bool_] | None


def calibrated_outputs(card: ModelCard, model: nn.Module, spectrograms: Tensor) -> Outputs:
    """The outputs of a model for spectrograms, by a card that `check_calibration` let pass."""
    unknown, sets = card.calibration.get("unknown"), card.calibration.get("sets")
    distance = None
    with torch.inference_mode():
        if unknown and unknown["score"] == "distance":
            raw, distance = _logits_and_distance(card, model, spectrograms)
        else:
            raw = model(spectrograms)
        logits = raw.float().cpu().numpy().astype(np.float64)
    with np.errstate(all="ignore"):  # whoever asked looks for what is not finite
        shares = softmax(logits / card.temperature)
    strange, scores, inside = np.zeros(len(logits), dtype=bool), None, None
    if unknown:
        with np.errstate(all="ignore"):
            scores = ood_scores(unknown["score"], logits, temperature=card.temperature, distance=distance)
        strange = is_unknown(scores, unknown["threshold"])
    if sets:
        inside = prediction_sets(shares, threshold=sets["threshold"], method=sets["method"])
    return Outputs(shares.astype(np.float32), strange, scores, inside)


def check_calibration(card: ModelCard, model: nn.Module) -> None:
    """Refuse, by a `ModelError`, a card whose calibration cannot be carried out with this network."""
    score = (card.calibration.get("unknown") or {}).get("score")
    if score == "distance" and None in statistics_of(model):
        raise ModelError("calibration: asks for distances, and the model file has none; calibrate it again")
    if score == "energy" and card.members:
        raise ModelError("calibration: asks for energies, which an ensemble has not; calibrate it again")


def _logits_and_distance(card: ModelCard, model: nn.Module, spectrograms: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
    """Logits, and the Mahalanobis distance of each sound: of an ensemble, its members' mean by their shares."""
    statistics = [one for one in statistics_of(model) if one is not None]
    if not isinstance(model, Ensemble):
        found, features = logits_and_features(model, spectrograms)
        return found, statistics[0].distance(features)
    logits, distance = [], np.zeros(len(spectrograms))
    for place, (network, own) in enumerate(zip(model.networks, statistics, strict=True)):
        found, features = logits_and_features(network, model.normalised(spectrograms, place))
        logits.append(found)
        distance += card.weights[place] * own.distance(features)
    return model.combined(logits), distance
