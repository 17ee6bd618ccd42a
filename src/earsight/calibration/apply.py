"""Applies a model card's calibration: temperature, OOD threshold and prediction sets.

Comes in: a model card, its network, and spectrograms (batch, 3, bands, frames) float32. Goes out: `Outputs`, of each
spectrogram, or by `Pool` of all windows of one sound. The card's ``calibration`` holds, where `earsight calibrate`
wrote them::

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
from earsight.evaluation.metrics import logit, probabilities
from earsight.models.card import DEFAULT_THRESHOLD, ModelCard
from earsight.models.ensemble import Ensemble
from earsight.models.mahalanobis import logits_and_features, statistics_of


class Outputs(NamedTuple):
    """What a model gives for a batch of sounds.

    ``probabilities`` (batch, classes) float32, at the calibrated temperature: they add up to 1, or, where classes may
    sound together, are each by itself; ``unknown`` (batch,) bool, all False where the model was not calibrated;
    ``ood_score`` (batch,) float64 and ``prediction_sets`` (batch, classes) bool, both None there.
    """

    probabilities: NDArray[np.float32]
    unknown: NDArray[np.bool_]
    ood_score: NDArray[np.float64] | None
    prediction_sets: NDArray[np.bool_] | None


class Raw(NamedTuple):
    """What a network gives for a batch of windows, before the calibration.

    ``logits`` (batch, classes) float64; ``distance`` (batch,) float64, None where the card asks for none.
    """

    logits: NDArray[np.float64]
    distance: NDArray[np.float64] | None

    def row(self, place: int) -> Raw:
        """That of one window, as a batch."""
        rows = slice(place, place + 1)
        return Raw(self.logits[rows], None if self.distance is None else self.distance[rows])


def raw_outputs(card: ModelCard, model: nn.Module, spectrograms: Tensor) -> Raw:
    """What the card's calibration needs of a network and its spectrograms."""
    unknown, distance = card.calibration.get("unknown"), None
    with torch.inference_mode():
        if unknown and unknown["score"] == "distance":
            raw, distance = _logits_and_distance(card, model, spectrograms)
        else:
            raw = model(spectrograms)
        return Raw(raw.float().cpu().numpy().astype(np.float64), distance)


def calibrated(card: ModelCard, raw: Raw) -> Outputs:
    """The outputs of each window by itself."""
    with np.errstate(all="ignore"):  # whoever asked looks for what is not finite
        shares, scores = card_probabilities(card, raw.logits), _scores(card, raw)
    return _outputs(card, shares, scores)


def card_probabilities(card: ModelCard, logits: np.ndarray) -> NDArray[np.float64]:
    """Probabilities (batch, classes) of logits by a card: at its temperatures, by softmax or sigmoids."""
    return probabilities(logits / np.array(card.scale), several=card.several)


def own_thresholds(card: ModelCard) -> dict[str, float]:
    """The thresholds that a card holds, by class."""
    return {name: float(found["threshold"]) for name, found in card.thresholds.items()}


def threshold_of(card: ModelCard, name: str) -> float:
    """The probability from which on a class is named: the one that held-out clips chose, else 1/2."""
    found = card.thresholds.get(name)
    return float(found["threshold"]) if found else DEFAULT_THRESHOLD


def _scores(card: ModelCard, raw: Raw) -> NDArray[np.float64] | None:
    unknown = card.calibration.get("unknown")
    if not unknown:
        return None
    return ood_scores(
        unknown["score"], raw.logits, temperature=card.temperature, distance=raw.distance, several=card.several
    )


def _outputs(card: ModelCard, shares: NDArray[np.float64], scores: NDArray[np.float64] | None) -> Outputs:
    """Probabilities and scores with what the card's thresholds say of them."""
    unknown, sets = card.calibration.get("unknown"), card.calibration.get("sets")
    strange, inside = np.zeros(len(shares), dtype=bool), None
    if unknown and scores is not None:
        strange = is_unknown(scores, unknown["threshold"])
        if card.background in card.classes:  # none of the classes is an answer, and no strange sound
            strange = strange & (shares.argmax(axis=1) != card.classes.index(card.background))
    if sets:
        inside = prediction_sets(shares, threshold=sets["threshold"], method=sets["method"])
    return Outputs(shares.astype(np.float32), strange, scores, inside)


def fits_pools(card: ModelCard) -> bool:
    """Whether the card's temperature and thresholds are for answers from several windows.

    They are where at least half of the clips that calibrated it were judged by several windows, whose probabilities
    were averaged as they are; an ensemble's, only if its members have no temperatures of their own.
    """
    score = (card.calibration.get("unknown") or {}).get("score")
    return (
        card.recipe.training.windows == "all"
        and card.calibration.get("pools", True)
        and score != "energy"
        and all(member.temperature == 1 and not member.temperatures for member in card.members)
    )


class Pool:
    """The outputs of one sound from all its windows, gathered in memory that does not grow with their number.

    The windows' probabilities are averaged: before the temperature where `fits_pools`, for so were those that fitted
    it, else at the temperature of one window. The OOD score is the windows' mean, or the max-softmax score
    of the mean probabilities.
    """

    def __init__(self, card: ModelCard) -> None:
        self._card, self._fits = card, fits_pools(card)
        self.windows = 0
        self._shares, self._votes = np.zeros(len(card.classes)), np.zeros(len(card.classes), dtype=np.int64)
        self._score = 0.0

    def add(self, raw: Raw) -> None:
        """Add a batch of windows."""
        with np.errstate(all="ignore"):
            scale = 1.0 if self._fits else np.array(self._card.scale)
            shares = probabilities(raw.logits / scale, several=self._card.several)
            scores = _scores(self._card, raw)
        for row, one in enumerate(shares):  # one by one, so that the bits do not depend on the batches
            self._shares += one
            self._votes[one.argmax()] += 1
            self._score += 0.0 if scores is None else float(scores[row])
        self.windows += len(shares)

    def outputs(self) -> Outputs:
        """The outputs, a batch of one."""
        card, shares = self._card, self._shares[None] / self.windows
        with np.errstate(all="ignore"):
            if self._fits:
                shares = card_probabilities(card, logit(shares) if card.several else np.log(shares))
            unknown, scores = card.calibration.get("unknown"), None
            if unknown:
                scores = np.array([self._score / self.windows])
                if unknown["score"] == "doubt":
                    scores = 1 - shares.max(axis=1)
        return _outputs(card, shares, scores)

    @property
    def agreement(self) -> float:
        """Share of the windows whose most probable class is the whole sound's."""
        return float(self._votes[self._shares.argmax()] / self.windows)


def check_calibration(card: ModelCard, model: nn.Module) -> None:
    """Refuse, by a `ModelError`, a card whose calibration cannot be carried out with this network."""
    score = (card.calibration.get("unknown") or {}).get("score")
    if score == "distance" and None in statistics_of(model):
        raise ModelError("calibration: asks for distances, and the model file has none; calibrate it again")
    if score == "doubt" and card.several:
        raise ModelError("calibration: asks for the max-softmax score of classes that may sound together")
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
