"""A run of two folds with three seeds, and the ensemble of its members."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from earsight.ensembles.build import make_ensemble
from earsight.models.backbones import build
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial

CPU = torch.device("cpu")
FOLDS, SEEDS = (1, 2), (0, 1, 2)


@pytest.fixture(scope="session")
def recipe(tiny_recipe, tmp_path_factory):
    """The tiny recipe from a weights file, which stands for ImageNet's, so that the seeds share a start."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(build("test_resnet", classes=1000, weights="none", seed=9).state_dict(), path)
    return tiny_recipe.override([f"backbone.weights={path}", "training.learning_rate=0.003"])


@pytest.fixture(scope="session")
def prepared(synthetic, recipe):
    return prepare(synthetic, recipe, workers=1)


@pytest.fixture(scope="session")
def run(prepared, tmp_path_factory):
    """Two folds of three seeds."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    for fold in FOLDS:
        for seed in SEEDS:
            run_trial(prepared, Trial(fold, seed), run=folder, device=CPU)
    return folder


@pytest.fixture(scope="session")
def made(run, tmp_path_factory):
    """All of it: the average's files, and a row for every way."""
    out = tmp_path_factory.mktemp("ensembles") / "average"
    result = make_ensemble([run], out=out, device=CPU)
    return out, result
