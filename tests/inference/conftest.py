"""A tiny trained model and what its store said of the held-out fold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from earsight.data.datasets import Dataset
from earsight.recipe import Recipe, load_recipe
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial

TINY = (
    *("backbone.name=test_resnet", "backbone.weights=none", "features.bands=32", "features.frames=32"),
    *("training.epochs=2", "augment.pitch_semitones=0", "training.batch_size=16"),
)


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe that trains in a moment."""
    return load_recipe(overrides=TINY)


@pytest.fixture(scope="session")
def trained(synthetic: Dataset, tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a trial with fold 2 of the synthetic set held out."""
    ready = prepare(synthetic, tiny, workers=1)
    run = tmp_path_factory.mktemp("run")
    return run_trial(ready, Trial(fold=2, seed=0), run=run, device=torch.device("cpu"))
