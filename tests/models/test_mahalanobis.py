"""The distance from the training clips against Mahalanobis's with the whole matrix, and its way through the file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.errors import ModelError
from earsight.models.backbones import build
from earsight.models.card import ModelCard
from earsight.models.mahalanobis import (
    DIRECTIONS,
    SHRINKAGE,
    attach_statistics,
    has_features,
    logits_and_features,
    mahalanobis_statistics,
    statistics_from_tensors,
    statistics_of,
)
from earsight.models.modelfile import load, load_card, load_probe, save
from earsight.models.weights import read_state
from earsight.recipe import load_recipe

CHANNELS = 96  # of test_resnet


def _features(seed=0, clips=60, channels=CHANNELS, classes=3):
    generator = np.random.default_rng(seed)
    labels = np.arange(clips) % classes
    centres = generator.normal(size=(classes, channels))
    return (centres[labels] + 0.3 * generator.normal(size=(clips, channels))).astype(np.float32), labels


def _by_hand(features, labels, new, *, classes=3):
    """The same by its definition: the covariance matrix whole, its trailing part made equal, and inverted."""
    unit, fresh = (x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, new))
    means = np.array([unit[labels == one].mean(axis=0) for one in range(classes)])
    apart = unit - means[labels]
    covariance = apart.T @ apart / (len(unit) - classes)
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1]
    values, vectors = values[order].clip(0), vectors[:, order]
    kept = min(DIRECTIONS, len(unit), unit.shape[1] - 1)
    values[kept:] = values[kept:].mean()
    values = (1 - SHRINKAGE) * values + SHRINKAGE * np.trace(covariance) / len(values)
    inverse = np.linalg.inv(vectors @ np.diag(values) @ vectors.T)
    squared = [[(x - m) @ inverse @ (x - m) for m in means] for x in fresh]
    return np.sqrt(np.min(squared, axis=1) / unit.shape[1])


@pytest.mark.parametrize("shape", [(60, CHANNELS), (200, CHANNELS), (10, 40), (300, 8)])
def test_it_is_mahalanobis_distance_of_unit_features(shape):
    features, labels = _features(clips=shape[0], channels=shape[1])
    new = np.random.default_rng(9).normal(size=(20, shape[1])).astype(np.float32)
    found = mahalanobis_statistics(features, labels, classes=3).distance(torch.from_numpy(new))
    np.testing.assert_allclose(found, _by_hand(features, labels, new), rtol=2e-4)


def test_known_sounds_are_near_and_others_far():
    features, labels = _features(clips=90)
    reference = mahalanobis_statistics(features[:60], labels[:60], classes=3)
    near = reference.distance(torch.from_numpy(features[60:]))
    far = reference.distance(torch.randn(30, CHANNELS, generator=torch.Generator().manual_seed(0)))
    assert 0.5 < np.median(near) < 2
    assert near.max() < far.min()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), level=st.floats(1e-3, 1e3))
def test_neither_level_nor_order_matter(seed, level):
    features, labels = _features(seed)
    new = torch.from_numpy(_features(seed + 1)[0])
    own = mahalanobis_statistics(features, labels, classes=3).distance(new)
    order = np.random.default_rng(seed).permutation(len(labels))
    channels = np.random.default_rng(seed).permutation(CHANNELS)
    other = mahalanobis_statistics(features[order][:, channels] * np.float32(level), labels[order], classes=3)
    np.testing.assert_allclose(other.distance(new[:, channels] * level), own, rtol=1e-3)


def test_clips_that_are_all_alike_have_no_spread():
    features = np.ones((6, 4), dtype=np.float32)
    assert mahalanobis_statistics(features, np.arange(6) % 2, classes=2) is None
    still, labels = _features()
    assert np.isfinite(mahalanobis_statistics(still, labels, classes=3).distance(torch.zeros(2, CHANNELS))).all()


def test_features_are_what_the_classifier_takes():
    network = build("test_resnet", classes=3, weights="none").eval()
    spectrograms = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        logits, features = logits_and_features(network, spectrograms)
        assert torch.equal(logits, network(spectrograms))
    assert features.shape == (4, CHANNELS)
    assert has_features(network)
    assert not has_features(torch.nn.Linear(2, 2))


# In the model file


@pytest.fixture
def card():
    recipe = load_recipe(overrides=["backbone.name=test_resnet", "features.bands=32", "features.frames=32"])
    recipe = recipe.resolve(sample_rate_hz=22050, clip_seconds=1.0, frames=32)
    return ModelCard(classes=("cat", "dog", "owl"), recipe=recipe, mean=(-4.0,) * 3, std=(2.0,) * 3)


@pytest.fixture
def network():
    return build("test_resnet", classes=3, weights="none")


@pytest.fixture
def reference():
    return mahalanobis_statistics(*_features(), classes=3)


def test_it_goes_through_the_file_bit_for_bit_and_leaves_the_weights_alone(card, network, reference, tmp_path):
    save(tmp_path / "with", state=network.state_dict(), card=card, statistics=(reference,))
    save(tmp_path / "without", state=network.state_dict(), card=card)
    _, model = load(tmp_path / "with")
    (found,) = statistics_of(model)
    assert all(torch.equal(found.tensors()[key], value) for key, value in reference.tensors().items())
    plain = load(tmp_path / "without")[1]
    assert statistics_of(plain) == (None,)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert np.array_equal(load_probe(tmp_path / "with"), load_probe(tmp_path / "without"))
    save(tmp_path / "again", state=model.state_dict(), card=card, statistics=statistics_of(model))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "with").read_bytes()
    # A training that starts from the file finds the weights, and no more.
    assert read_state(tmp_path / "with").keys() == network.state_dict().keys()


def _rewritten(path, change):
    """The file with other tensors and a digest that fits them, as somebody who means harm would write it."""
    from earsight.models.modelfile import _canonical, _digest

    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["earsight"])
    change(tensors)
    content["tensors_sha256"] = _digest(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"earsight": _canonical(content)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("reference.0.means"), "expected means, directions and variances"),
        (lambda t: t.update({"reference.0.extra": torch.ones(2)}), "expected means, directions and variances"),
        (lambda t: t.update({"reference.7.means": torch.ones(2)}), "statistics for 2 networks"),
        (lambda t: t.update({"reference.0.means": torch.ones(4, CHANNELS)}), "do not fit each other or 3 classes"),
        (lambda t: t.update({"reference.0.means": torch.ones(3)}), "do not fit each other"),
        (lambda t: t.update({"reference.0.directions": torch.ones(2, CHANNELS)}), "do not fit each other"),
        (lambda t: t.update({"reference.0.variances": -t["reference.0.variances"]}), "variance of 0 or below"),
        (lambda t: t.update({"reference.0.means": t["reference.0.means"].double()}), "do not fit"),
        (lambda t: t.update({"reference.0.means": t["reference.0.means"] * float("nan")}), "NaN or infinite"),
    ],
)
def test_a_reference_that_is_none_is_refused(card, network, reference, tmp_path, change, message):
    save(tmp_path / "m", state=network.state_dict(), card=card, statistics=(reference,))
    _rewritten(tmp_path / "m", change)
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "m")


def test_a_reference_of_other_channels_than_the_network_is_refused(card, network, tmp_path):
    reference = mahalanobis_statistics(*_features(channels=40), classes=3)
    save(tmp_path / "m", state=network.state_dict(), card=card, statistics=(reference,))
    with pytest.raises(ModelError, match="channels"):
        load(tmp_path / "m")


def test_a_network_gives_its_reference_away(network, reference):
    attach_statistics(network, reference)
    assert statistics_of(network) == (reference,)
    attach_statistics(network, None)
    assert statistics_of(network) == (None,)
    with pytest.raises(ModelError):
        statistics_from_tensors({}, classes=3)


def test_the_card_alone_is_read_as_before(card, network, reference, tmp_path):
    calibrated = replace(
        card, temperature=1.5, calibration={"unknown": {"score": "distance", "threshold": 1.5, "rate": 0.05}}
    )
    save(tmp_path / "m", state=network.state_dict(), card=calibrated, statistics=(reference,))
    assert load_card(tmp_path / "m") == calibrated
