"""What the training tests share: a recipe that trains in a second, and the synthetic set prepared for it."""

import pytest
import torch

from earsight.recipe import Recipe
from earsight.training.preparation import prepare

TINY = [
    "features.sample_rate_hz=8000",
    "features.clip_seconds=0.5",
    "features.frames=32",
    "features.bands=32",
    "backbone.name=test_resnet",
    "backbone.weights=none",
    "backbone.dropout=0.1",
    "augment.pitch_semitones=1",
    "training.epochs=3",
    "training.batch_size=32",
]


@pytest.fixture(scope="session")
def tiny():
    """A recipe made of the tiny one and overrides."""
    return lambda *overrides: Recipe().override([*TINY, *overrides])


@pytest.fixture(scope="session")
def prepared(synthetic, tiny):
    return prepare(synthetic, tiny())


@pytest.fixture(scope="session")
def prepare_as(synthetic, tiny):
    """The synthetic set prepared for the tiny recipe with overrides."""
    return lambda *overrides: prepare(synthetic, tiny(*overrides))


@pytest.fixture(scope="session")
def cpu():
    return torch.device("cpu")
