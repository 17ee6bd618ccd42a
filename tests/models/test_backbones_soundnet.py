"""The 8-layer CNN: its layers as they are described, and that it serves wherever timm's models do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from earsight.errors import ModelError
from earsight.models.backbones import build, stages
from earsight.models.card import ModelCard
from earsight.models.modelfile import load, save
from earsight.models.weights import load_pretrained
from earsight.recipe import Recipe


def _noise(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


def test_the_layers_are_those_described():
    model = build("soundnet8", classes=7, weights="none", seed=3).eval()
    state = model.state_dict()
    for key, value in state.items():  # statistics of their own, so that a missing normalisation would show
        if key.endswith("running_mean"):
            value.copy_(_noise(len(value)) / 10)
        if key.endswith("running_var"):
            value.copy_(1 + _noise(len(value)).abs())
    filters, pooled = (16, 32, 64, 128, 256, 512, 1024), (1, 2, 5)
    kernels, strides = (7, 5, 5, 3, 3, 3, 3), (1, 1, 2, 2, 1, 1, 1)
    x = _noise(2, 3, 40, 50)
    with torch.no_grad():
        found = model(x)
        for number, (width, kernel, stride) in enumerate(zip(filters, kernels, strides, strict=True), start=1):
            weight = state[f"conv{number}.0.weight"]
            assert weight.shape == (width, x.shape[1], kernel, kernel)
            x = F.conv2d(x, weight, stride=stride, padding=(kernel - 1) // 2)
            norm = [state[f"conv{number}.1.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
            x = F.relu(F.batch_norm(x, *norm))
            if number in pooled:
                x = F.max_pool2d(x, 2, ceil_mode=True)
        expected = x.mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    assert sum(value.ndim == 4 for value in state.values()) == 7
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_feature_maps_of_the_papers_spectrogram():
    model = build("soundnet8", classes=7, weights="none").eval()
    with torch.no_grad():
        maps = model.forward_features(torch.zeros(1, 3, 128, 250))
        assert maps.shape == (1, 1024, 4, 8)
        assert model.forward_head(maps, pre_logits=True).shape == (1, model.num_features)
        assert model(torch.zeros(1, 3, 8, 16)).shape == (1, 7)  # the smallest spectrogram that a recipe allows


def test_each_layer_is_a_stage():
    names = ["stem", "block1", "block2", "block3", "block4", "block5", "block6"]
    found = stages(build("soundnet8", classes=7, weights="none"))
    assert found == {**{name: [f"conv{number}"] for number, name in enumerate(names, start=1)}, "head": ["fc"]}


def test_dropout_stands_before_the_head():
    model = build("soundnet8", classes=7, weights="none", dropout=0.5).eval()
    x = _noise(2, 3, 32, 32)
    assert torch.equal(model(x), model(x))
    model.training = True
    dropped = model.forward_head(torch.ones(2, 1024, 4, 8), pre_logits=True)
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    assert set(dropped.unique().tolist()) == {0.0, 2.0}


def test_imagenet_weights_are_one_line():
    with pytest.raises(
        ModelError, match=r"^soundnet8: there are no ImageNet weights .*backbone\.weights=none"
    ) as caught:
        build("soundnet8", classes=7)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [3, 1])
def test_a_checkpoint_of_its_own_fits(tmp_path, channels):
    donor = build("soundnet8", classes=4, weights="none", seed=1).state_dict()
    torch.save(donor, tmp_path / "w.pth")
    model = build("soundnet8", classes=7, weights=str(tmp_path / "w.pth"), seed=2, channels=channels)
    for key, value in model.state_dict().items():
        if key == "conv1.0.weight" and channels == 1:
            torch.testing.assert_close(value, donor[key].sum(dim=1, keepdim=True))
        elif not key.startswith("fc."):
            assert torch.equal(value, donor[key]), key
    fresh = build("soundnet8", classes=7, weights="none", seed=2, channels=channels)
    assert torch.equal(model.fc.weight, fresh.fc.weight)


def test_a_checkpoint_of_another_is_refused(tmp_path):
    torch.save(build("test_resnet", classes=4, weights="none").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="does not fit soundnet8"):
        load_pretrained(build("soundnet8", classes=4, weights="none"), "soundnet8", str(tmp_path / "w.pth"))


def test_a_model_file_comes_back(tmp_path):
    recipe = Recipe().override(["backbone.name=soundnet8", "backbone.weights=none", "features.representation=mfcc"])
    recipe = recipe.resolve(sample_rate_hz=8000, clip_seconds=1.0, frames=64)
    model = build("soundnet8", classes=2, weights="none", seed=4).eval()
    card = ModelCard(classes=("a", "b"), recipe=recipe, mean=(0.0,) * 3, std=(1.0,) * 3)
    save(tmp_path / "m.safetensors", state=model.state_dict(), card=card)
    loaded, again = load(tmp_path / "m.safetensors")
    assert loaded.recipe.features.representation == "mfcc"
    x = _noise(2, 3, 128, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
