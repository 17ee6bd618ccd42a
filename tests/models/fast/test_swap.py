"""The swap of all fast layers, and networks where numba cannot be used."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn
from typer.testing import CliRunner

from earsight.cli import app
from earsight.models.fast import swap


@pytest.fixture
def no_numba(monkeypatch):
    monkeypatch.setattr(swap, "why_none", lambda: "numba cannot be used (no module)")


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "densenet121", "tf_efficientnet_lite0"])
def test_without_numba_a_network_keeps_its_plain_layers_and_trains(no_numba, name):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3).train()
    kept = copy.deepcopy(plain)
    assert swap.use_fast_layers(kept) is kept
    assert [type(module) for module in kept.modules()] == [type(module) for module in plain.modules()]
    x = torch.randn(2, 3, 64, 64)
    for network in (plain, kept):
        network(x).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), kept.parameters(), strict=True))


def test_with_numba_layers_are_swapped():
    network = swap.use_fast_layers(timm.create_model("tf_efficientnet_lite0", num_classes=3))
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
    assert sum(type(module).__name__ == "_InvertedResidual" for module in network.modules()) == 15


def test_without_numba_the_verbs_train_and_predict(no_numba, synthetic_folder, tmp_path):
    options = ("training.epochs=1", "features.bands=32", "features.frames=40", "backbone.name=test_efficientnet")
    sets = [part for option in (*options, "backbone.weights=none") for part in ("--set", option)]
    done = CliRunner().invoke(app, ["train", str(synthetic_folder), "--out", str(tmp_path / "run"), *sets])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "note: numba cannot be used (no module), so training takes PyTorch's own layers" in done.stderr
    model, sound = tmp_path / "run" / "model.safetensors", next(synthetic_folder.rglob("*.wav"))
    done = CliRunner().invoke(app, ["predict", str(model), str(sound)])
    assert done.exit_code == 0, (done.output, done.exception)


def test_an_import_without_numba(tmp_path):
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from earsight.models.fast import swap\n"
        "import torch; print(swap.why_none()); print(type(swap.use_fast_layers(torch.nn.Conv2d(2, 2, 3, groups=2))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "numba cannot be used (" in done.stdout
    assert "torch.nn.modules.conv.Conv2d" in done.stdout
