"""Where stages end, and networks that end at one of them: held to timm's own forward passes, written out."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from earsight.errors import ModelError
from earsight.models.backbones import belongs, build, build_empty, stages
from earsight.models.fast.depthwise import use_fast_depthwise
from earsight.models.stages import Truncated, forward_steps, stage_ends

FAMILIES = [
    *("test_resnet", "test_efficientnet", "test_convnext2", "tf_efficientnet_lite0", "densenet121", "regnety_002"),
    *("mobilenetv3_small_050", "vgg11_bn", "dla34", "inception_v3", "soundnet8"),
]


def spectrogram(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size + 32, generator=torch.Generator().manual_seed(0))


def shaken(name: str, *, classes: int = 5) -> nn.Module:
    """A random network in eval mode whose statistics and scales are no mere zeros and ones."""
    model = build(name, classes=classes, weights="none", seed=1)
    generator = torch.Generator().manual_seed(2)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + noise if key.endswith(("running_var", "weight")) else 0.2 * noise)
    return model.eval()


def resnet_upto(model: nn.Module, last: str, x: torch.Tensor) -> torch.Tensor:
    x = model.maxpool(model.act1(model.bn1(model.conv1(x))))
    for number in range(1, {"stem": 0}.get(last, int(last[-1]) if last != "stem" else 0) + 1):
        x = getattr(model, f"layer{number}")(x)
    return x


def efficientnet_upto(model: nn.Module, last: str, x: torch.Tensor) -> torch.Tensor:
    x = model.bn1(model.conv_stem(x))
    count = 0 if last == "stem" else int(last.removeprefix("block"))
    for number in range(count):
        x = model.blocks[number](x)
    return model.bn2(model.conv_head(x)) if count == len(model.blocks) else x


def densenet_upto(model: nn.Module, last: str, x: torch.Tensor) -> torch.Tensor:
    features = model.features
    x = features.pool0(features.norm0(features.conv0(x)))
    for number in range(1, 0 if last == "stem" else int(last[-1]) + 1):
        x = getattr(features, f"denseblock{number}")(x)
        if number < 4:
            x = getattr(features, f"transition{number}")(x)
    return x


WRITTEN_OUT = [
    ("test_resnet", resnet_upto),
    ("tf_efficientnet_lite0", efficientnet_upto),
    ("densenet121", densenet_upto),
    ("densenet201", densenet_upto),
]


@pytest.mark.parametrize(("name", "upto"), WRITTEN_OUT)
@pytest.mark.parametrize("place", [0, 1, -2, -1])
def test_the_forward_pass_is_that_of_the_first_stages(name, upto, place):
    whole = shaken(name)
    last = list(stages(whole))[:-1][place]
    cut = Truncated(copy.deepcopy(whole), last, classes=4).eval()
    x = spectrogram(32)
    with torch.no_grad():
        expected = upto(whole, last, x)
        assert torch.equal(cut.forward_features(x), expected)
        assert cut.num_features == expected.shape[1]
        logits = expected.mean(dim=(2, 3)) @ cut.head.weight.T + cut.head.bias
        torch.testing.assert_close(cut(x), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_cut_is_gone_and_the_rest_keeps_its_keys(name):
    whole = build_empty(name, classes=5)
    found = stages(whole)
    body = list(found)[:-1]
    for last in (body[len(body) // 2], body[-1]):
        kept = [prefix for stage in body[: body.index(last) + 1] for prefix in found[stage]]
        cut = Truncated(build_empty(name, classes=5), last, classes=3)
        shapes = {key: value.shape for key, value in cut.state_dict().items()}
        expected = {key: value.shape for key, value in whole.state_dict().items() if belongs(key, kept)}
        expected |= {"head.weight": (3, cut.num_features), "head.bias": (3,)}
        assert shapes == expected
        left = stages(cut)
        assert list(left) == [*body[: body.index(last) + 1], "head"]
        for stage in body[: body.index(last) + 1]:
            ours = {key for key in shapes if belongs(key, left[stage])}
            assert ours == {key for key in whole.state_dict() if belongs(key, found[stage])}


def test_resnet_stages_end_where_timm_says_that_its_features_are():
    model = shaken("resnet18")
    features = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    features.load_state_dict({key: value for key, value in model.state_dict().items() if not key.startswith("fc.")})
    ends = stage_ends(model)
    assert ends == {"stem": "maxpool", **{f"block{number}": f"layer{number}" for number in range(1, 5)}}
    found = {}
    for stage, name in ends.items():
        model.get_submodule(name).register_forward_hook(lambda _, given, made, stage=stage: found.update({stage: made}))
    with torch.no_grad():
        model(spectrogram())
        for number, expected in enumerate(features(spectrogram()), start=1):
            assert torch.equal(found[f"block{number}"], expected)


def test_densenet_stages_end_with_their_transitions():
    assert stage_ends(build_empty("densenet201", classes=5)) == {
        "stem": "features.pool0",
        "block1": "features.transition1",
        "block2": "features.transition2",
        "block3": "features.transition3",
        "block4": "features.denseblock4",
    }


def test_pooling_to_one_value_belongs_to_the_head():
    steps = {step.module: step.stage for step in forward_steps(build_empty("mobilenetv3_small_050", classes=5))}
    assert steps["global_pool"] == "head"
    assert stage_ends(build_empty("mobilenetv3_small_050", classes=5))["block6"] == "blocks.5"


def test_looking_changes_nothing():
    model = build("test_resnet", classes=3, weights="none")
    model.layer1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    forward_steps(model)
    assert model.training
    assert not model.layer1.training
    assert model.layer2.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["hrnet_w18_small", "nasnetalarge"])
def test_networks_whose_stages_are_no_chain_are_refused(name):
    model = build_empty(name, classes=3)
    last = list(stages(model))[-2]
    with pytest.raises(ModelError, match=rf"cannot be cut at {last}, because .* takes more than what") as caught:
        Truncated(model, last, classes=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("last", ["head", "block9", ""])
def test_a_stage_that_is_not_there(last):
    with pytest.raises(ModelError, match=r"its stages are stem, block1, block2, block3, block4"):
        Truncated(build_empty("test_resnet", classes=3), last, classes=3)


def test_dropout_acts_in_training_alone():
    cut = Truncated(build("test_resnet", classes=3, weights="none"), "block2", classes=3, dropout=0.5)
    cut.eval()
    assert torch.equal(cut(spectrogram()), cut(spectrogram()))
    cut.training = True
    assert not torch.equal(cut(spectrogram()), cut(spectrogram()))


def test_the_fast_depthwise_convolutions_reach_a_cut_network():
    cut = Truncated(shaken("tf_efficientnet_lite0"), "block3", classes=3).eval()
    with torch.no_grad():
        before = cut(spectrogram())
        assert use_fast_depthwise(cut) > 3
        torch.testing.assert_close(cut(spectrogram()), before, rtol=1e-4, atol=1e-5)


def test_a_cut_network_is_exported_as_any_other():
    cut = Truncated(shaken("test_resnet"), "block2", classes=3).eval()
    program = torch.export.export(cut, (spectrogram(),)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(spectrogram()), cut(spectrogram()), rtol=1e-4, atol=1e-5)
