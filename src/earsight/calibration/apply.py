"""What a calibrated model says beside its probabilities: whether a sound is unknown, and which classes are plausible.

Comes in: a model card, its network, and spectrograms. Goes out: `Outputs`. The card's ``calibration`` holds, where
`earsight calibrate` wrote them::

    {"unknown": {"score", "threshold", "rate", "ci95"}, "sets": {"method", "threshold", "coverage", "ci95"}, ...}

A model without them answers with probabilities alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.calibration.conformal import METHODS, prediction_sets
from earsight.calibration.ood import energy, max_softmax_score
from earsight.errors import ModelError
from earsight.evaluation.metrics import softmax
from earsight.models.card import ModelCard
from earsight.models.ensemble import Ensemble
from earsight.models.mahalanobis import MahalanobisStatistics, logits_and_features, statistics_of

_SCORES = ("distance", "energy", "doubt")


class Outputs(NamedTuple):
    """What a model says of a batch of sounds.

    ``probabilities`` (batch, classes) float32, at the calibrated temperature; ``unknown`` (batch,) bool, all False
    where the model was not calibrated; ``ood_score`` (batch,) float64 and ``prediction_sets`` (batch, classes) bool,
    both None there.
    """

    probabilities: NDArray[np.float32]
    unknown: NDArray[np.bool_]
    ood_score: NDArray[np.float64] | None
    prediction_sets: NDArray[np.bool_] | None


def calibrated_outputs(card: ModelCard, model: nn.Module, spectrograms: Tensor) -> Outputs:
    """The answers of a model to spectrograms (batch, 3, bands, frames), as its card calibrates them.

    The card is one that `check_calibration` let pass.
    """
    unknown, sets = card.calibration.get("unknown"), card.calibration.get("sets")
    with torch.inference_mode():
        far = None
        if unknown and unknown["score"] == "distance":
            said, far = _said_and_distance(card, model, spectrograms)
        else:
            said = model(spectrograms)
        logits = said.float().cpu().numpy().astype(np.float64)
    shares = softmax(logits / card.temperature)
    strange, novelty, inside = np.zeros(len(logits), dtype=bool), None, None
    if unknown:
        novelty = far if far is not None else energy(logits)
        if unknown["score"] == "doubt":
            novelty = max_softmax_score(logits / card.temperature)
        strange = np.asarray(novelty > unknown["threshold"])
    if sets:
        inside = prediction_sets(shares, threshold=sets["threshold"], method=sets["method"])
    return Outputs(shares.astype(np.float32), strange, novelty, inside)


def check_calibration(card: ModelCard, model: nn.Module) -> None:
    """Refuse a card whose calibration cannot be carried out with this network.

    Raises
    ------
    ModelError
    """
    unknown, sets = card.calibration.get("unknown"), card.calibration.get("sets")
    if unknown is not None:
        _check(unknown, "unknown", {"score": _SCORES})
        if unknown["score"] == "distance" and None in statistics_of(model):
            raise ModelError("calibration: asks for distances, and the model file has none; calibrate it again")
        if unknown["score"] == "energy" and card.members:
            raise ModelError("calibration: asks for energies, which an ensemble has not; calibrate it again")
    if sets is not None:
        _check(sets, "sets", {"method": METHODS})


def _check(part: Any, name: str, choices: dict[str, tuple[str, ...]]) -> None:
    try:
        fits = all(part[key] in known for key, known in choices.items()) and math.isfinite(part["threshold"])
    except (TypeError, KeyError) as error:
        raise ModelError(f"calibration.{name}: cannot be read; calibrate the model again") from error
    if not fits:
        raise ModelError(f"calibration.{name}: found {part}; calibrate the model again")


def _said_and_distance(card: ModelCard, model: nn.Module, spectrograms: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
    """Logits, and how far each sound is from the training clips: of an ensemble, its members' mean by their shares."""
    if not isinstance(model, Ensemble):
        said, features = logits_and_features(model, spectrograms)
        return said, _references(model)[0].distance(features)
    logits, far = [], np.zeros(len(spectrograms))
    for place, (network, reference) in enumerate(zip(model.networks, _references(model), strict=True)):
        said, features = logits_and_features(network, model.normalised(spectrograms, place))
        logits.append(said)
        far += card.weights[place] * reference.distance(features)
    return model.combined(logits), far


def _references(model: nn.Module) -> list[MahalanobisStatistics]:
    return [reference for reference in statistics_of(model) if reference is not None]
