"""A card's calibration applied to logits: probabilities, OOD scores, unknown sounds and prediction sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from earsight.calibration.apply import calibrated, raw_outputs
from earsight.models.backbones import build
from earsight.models.card import ModelCard
from earsight.models.mahalanobis import attach_statistics, mahalanobis_statistics
from earsight.recipe import load_recipe

LOGITS = torch.tensor([[2.0, 1.0, -1.0], [0.5, 0.25, 0.0], [0.0, 4.0, 0.0]])


@pytest.fixture(scope="module")
def card():
    recipe = load_recipe(overrides=["backbone.name=test_resnet", "features.bands=32", "features.frames=32"])
    recipe = recipe.resolve(sample_rate_hz=22050, clip_seconds=1.0, frames=32)
    return ModelCard(classes=("cat", "dog", "owl"), recipe=recipe, mean=(0.0,) * 3, std=(1.0,) * 3, temperature=0.7)


def _of(card, network, spectrograms):
    return calibrated(card, raw_outputs(card, network, spectrograms))


def _outputs(card, **calibration):
    return _of(replace(card, calibration=calibration), torch.nn.Identity(), LOGITS)


def test_without_a_calibration_there_are_probabilities_alone(card):
    found = _outputs(card)
    np.testing.assert_allclose(found.probabilities, softmax(LOGITS.double().numpy() / 0.7, axis=1), atol=1e-6)
    assert found.probabilities.dtype == np.float32
    assert not found.unknown.any()
    assert (found.ood_score, found.prediction_sets) == (None, None)


@pytest.mark.parametrize("score", ["energy", "doubt"])
def test_a_sound_is_unknown_above_the_threshold_and_not_at_it(card, score):
    exact = LOGITS.double().numpy()
    expected = -logsumexp(exact, axis=1) if score == "energy" else 1 - softmax(exact / 0.7, axis=1).max(axis=1)
    scores = _outputs(card, unknown={"score": score, "threshold": 0.0, "rate": 0.05}).ood_score
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    at = float(scores[0])
    for threshold, unknown in ((at, False), (np.nextafter(at, -np.inf), True)):
        found = _outputs(card, unknown={"score": score, "threshold": threshold, "rate": 0.05}).unknown
        assert found.tolist() == [unknown, True, False]


def test_background_is_an_answer_and_no_strange_sound(card):
    """Of the three sounds the last is one of background, as the card names it."""
    unknown = {"score": "energy", "threshold": -100.0, "rate": 0.05}
    assert _outputs(card, unknown=unknown).unknown.tolist() == [True, True, True]
    assert _outputs(replace(card, background="dog"), unknown=unknown).unknown.tolist() == [True, True, False]
    assert _outputs(replace(card, background="background"), unknown=unknown).unknown.all()


def test_a_distance_that_equals_the_threshold_is_a_known_sounds(card):
    generator = np.random.default_rng(0)
    network = build("test_resnet", classes=3, weights="none").eval()
    features = generator.normal(size=(30, 96)).astype(np.float32)
    attach_statistics(network, mahalanobis_statistics(features, np.arange(30) % 3, classes=3))
    spectrograms = torch.from_numpy(generator.normal(size=(2, 3, 32, 32)).astype(np.float32))
    unknown = {"score": "distance", "threshold": 0.0, "rate": 0.05}
    first = _of(replace(card, calibration={"unknown": unknown}), network, spectrograms)
    unknown = {"score": "distance", "threshold": float(first.ood_score.max()), "rate": 0.05}
    second = _of(replace(card, calibration={"unknown": unknown}), network, spectrograms)
    assert first.unknown.all()
    assert not second.unknown.any()


def test_prediction_sets_are_those_of_the_threshold(card):
    found = _outputs(card, sets={"method": "lac", "threshold": 0.75, "coverage": 0.9})
    assert found.prediction_sets.tolist() == (found.probabilities >= 0.25 - 1e-6).tolist()
