"""Fuse, freeze and cut, by the weights; where stages end, and cut networks, held to timm's own forward passes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from earsight.errors import ModelError, RecipeError
from earsight.models.backbones import belongs, build, build_empty, stages
from earsight.models.card import ModelCard
from earsight.models.fast.depthwise import use_fast_depthwise
from earsight.models.fast.swap import use_fast_layers
from earsight.models.modelfile import load, save
from earsight.models.stages import (
    Truncated,
    empty_model,
    forward_steps,
    freeze,
    stage_ends,
    stage_names,
    starting_model,
    training_mode,
)
from earsight.models.weights import packaged_file, read_state
from earsight.recipe import Recipe

LITE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny network whose every entry differs from any random start."""
    path = tmp_path_factory.mktemp("weights") / "donor.safetensors"
    state = build("test_resnet", classes=9, weights="none", seed=77).state_dict()
    state = {key: value + 0.25 if value.is_floating_point() else value + 3 for key, value in state.items()}
    safetensors.torch.save_file(state, path)
    return path


def recipe_of(name: str, weights: object, **transfer: object) -> Recipe:
    changes = [f"transfer.{field}={value}" for field, value in transfer.items()]
    return Recipe().override([f"backbone.name={name}", f"backbone.weights={weights}", *changes])


def stage_of(model: nn.Module) -> dict[str, str]:
    found = stages(model)
    return {key: stage for key in model.state_dict() for stage, names in found.items() if belongs(key, names)}


def packaged() -> dict[str, Tensor]:
    """The ImageNet weights as the installed package has them, under timm's keys, which are in the same order."""
    keys = build(LITE, classes=3, weights="none").state_dict()
    return dict(zip(keys, read_state(packaged_file(LITE)).values(), strict=True))


# Fuse


@pytest.mark.parametrize("upto", ["none", "stem", "block2", "block4", "head", "all"])
def test_stages_up_to_k_equal_the_file_and_those_above_the_random_start(file, upto):
    donor = safetensors.torch.load_file(file)
    model = starting_model(recipe_of("test_resnet", file, fuse=upto), classes=4, seed=5)
    random = build("test_resnet", classes=4, weights="none", seed=5).state_dict()
    names = ["none", *stages(model)]
    limit = len(names) if upto == "all" else names.index(upto)
    for key, stage in stage_of(model).items():
        given = names.index(stage) <= limit and not key.startswith("fc.")
        assert torch.equal(model.state_dict()[key], (donor if given else random)[key]), key
        assert key.startswith("fc.") or not torch.equal(donor[key], random[key])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_fusing_the_packaged_weights():
    donor = packaged()
    model = starting_model(recipe_of(LITE, "imagenet", fuse="block3"), classes=3, seed=1)
    random = build(LITE, classes=3, weights="none", seed=1).state_dict()
    given = {"stem", "block1", "block2", "block3"}
    for key, stage in stage_of(model).items():
        expected = donor[key] if stage in given else random[key]
        assert torch.equal(model.state_dict()[key], expected.to(random[key].dtype)), key


def test_the_random_part_follows_the_seed(file):
    first, second = (starting_model(recipe_of("test_resnet", file, fuse="block1"), classes=4, seed=s) for s in (0, 1))
    same = {key for key, value in first.state_dict().items() if torch.equal(value, second.state_dict()[key])}
    assert all(stage in ("stem", "block1") for key, stage in stage_of(first).items() if key in same and "conv" in key)
    assert "layer2.0.conv1.weight" not in same
    assert "layer1.0.conv1.weight" in same


# Freeze


def walked(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each module of the network made in one forward pass in training mode."""
    made: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, given, out, name=name: made.update({name: out}))
    training_mode(model)
    model(x).sum().backward()
    return made


@pytest.mark.parametrize(
    ("name", "ends", "beyond"),
    [
        ("test_resnet", ["conv1", "layer1", "layer2"], "layer3"),
        (LITE, ["bn1", "blocks.0", "blocks.1"], "blocks.2"),
        ("densenet121", ["features.pool0", "features.transition1", "features.transition2"], "features.denseblock3"),
    ],
)
def test_frozen_stages_take_no_gradient_and_keep_no_graph(name, ends, beyond):
    model = starting_model(recipe_of(name, "none", freeze="block2"), classes=3)
    frozen = {key for key, stage in stage_of(model).items() if stage in ("stem", "block1", "block2")}
    made = walked(model, torch.randn(4, 3, 64, 64))
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) is (key in frozen), key
    assert all(made[end].grad_fn is None for end in ends)
    assert made[beyond].grad_fn is not None


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("fast", [False, True])
def test_frozen_statistics_stay_or_follow(statistics, fast):
    model = starting_model(
        recipe_of("test_resnet", "none", freeze="block2", freeze_statistics=str(statistics).lower()), classes=3
    )
    if fast:  # as a trial on a CPU trains it
        use_fast_layers(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    walked(model, torch.randn(8, 3, 64, 64))
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    statistics_of = {"stem": set(), "block1": set(), "block2": set(), "block3": set(), "block4": set(), "head": set()}
    for key, stage in stage_of(model).items():
        if "running" in key or "tracked" in key:
            statistics_of[stage].add(key)
    expected = set().union(*(statistics_of[stage] for stage in ("block3", "block4")))
    if not statistics:
        expected |= set().union(*(statistics_of[stage] for stage in ("stem", "block1", "block2")))
    assert moved == expected
    assert len(moved) > 10


def test_dropout_inside_frozen_stages_rests_too():
    model = build("test_resnet", classes=3, weights="none")
    model.layer1.add_module("drop", nn.Dropout(0.5))
    freeze(model, upto="block1")
    training_mode(model)
    assert not model.layer1.drop.training
    assert model.layer2.training
    assert model.training


def test_eval_mode_is_not_disturbed():
    model = starting_model(recipe_of("test_resnet", "none", freeze="block2"), classes=3)
    training_mode(model)
    assert not any(module.training for module in model.eval().modules())


# Cut


@pytest.mark.parametrize(("name", "cut"), [("test_resnet", "block2"), ("densenet121", "block3"), (LITE, "block5")])
def test_a_cut_model_goes_through_its_file(tmp_path, name, cut):
    recipe = recipe_of(name, "none", cut=cut).resolve(sample_rate_hz=8000, clip_seconds=1.0, frames=64)
    model = starting_model(recipe, classes=3, seed=4).eval()
    card = ModelCard(classes=("a", "b", "c"), recipe=recipe, mean=(0.0,) * 3, std=(1.0,) * 3)
    save(tmp_path / "model.safetensors", state=model.state_dict(), card=card)
    found, again = load(tmp_path / "model.safetensors")
    assert found.recipe.transfer.cut == cut
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert list(stages(again)) == [*list(stages(model))[:-1], "head"]
    assert list(stages(again))[-2] == cut


def test_the_kept_stages_have_the_files_weights_and_the_head_the_seed():
    donor = packaged()
    a, b = (starting_model(recipe_of(LITE, "imagenet", cut="block4"), classes=3, seed=seed) for seed in (0, 1))
    for key, value in a.state_dict().items():
        if not key.startswith("head."):
            assert torch.equal(value, donor[key].to(value.dtype)), key
    assert not any(key.startswith(("blocks.4", "conv_head", "bn2", "classifier")) for key in a.state_dict())
    assert a.head.weight.shape == (3, 80)
    assert not torch.equal(a.head.weight, b.head.weight)
    assert a.head.weight.abs().max() <= 80**-0.5


def test_all_three_together(file):
    model = starting_model(recipe_of("test_resnet", file, fuse="block2", freeze="block1", cut="block3"), classes=3)
    donor = safetensors.torch.load_file(file)
    random = build("test_resnet", classes=3, weights="none").state_dict()
    assert list(stages(model)) == ["stem", "block1", "block2", "block3", "head"]
    owner = stage_of(model)
    for key, value in model.state_dict().items():
        stage = owner[key]
        if stage != "head":
            assert torch.equal(value, (random if stage == "block3" else donor)[key]), key
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad is (owner[key] not in ("stem", "block1"))


def test_the_neutral_section_is_the_plain_backbone(file):
    model = starting_model(recipe_of("test_resnet", file), classes=3, seed=2)
    plain = build("test_resnet", classes=3, weights=str(file), seed=2)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    assert type(model) is type(plain)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    starting_model(recipe_of("test_resnet", "none", cut="block2", freeze="stem"), classes=3)
    empty_model(recipe_of("test_resnet", "none", cut="block2"), classes=3)
    assert torch.equal(torch.get_rng_state(), before)


# What does not fit


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        ({"fuse": "blok2"}, r"transfer.fuse is 'blok2', .* of test_resnet; choose all, none, stem, block1, .*, head$"),
        ({"freeze": "layer1"}, r"transfer.freeze is 'layer1', .*; choose none, stem, block1, block2, block3, block4$"),
        ({"freeze": "head"}, "transfer.freeze is 'head'"),
        ({"cut": "head"}, r"transfer.cut is 'head', .*; choose none, stem"),
        ({"cut": "block5"}, "no such stage of test_resnet"),
        ({"cut": "block1", "freeze": "block2"}, r"transfer.cut=block1 takes away; freeze one below"),
        ({"fuse": "block1"}, "backbone.weights is none, so there is nothing to fuse"),
    ],
)
def test_sections_that_do_not_fit(transfer, message):
    with pytest.raises(RecipeError, match=message) as caught:
        starting_model(recipe_of("test_resnet", "none", **transfer), classes=3)
    assert "\n" not in str(caught.value)


def test_a_network_with_one_stage():
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def group_matcher(self, coarse: bool = False) -> dict[str, str]:
            return {"stem": r"^conv"}

    with pytest.raises(ModelError, match=r"Single: has one stage below its head, .*; choose a CNN with several"):
        stage_names(Single())
    assert stage_names(build("test_resnet", classes=3, weights="none")) == ["stem", *(f"block{n}" for n in range(1, 5))]


# Where stages end, and networks that end at one of them


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


def test_the_head_can_have_a_seed_of_its_own():
    recipe = Recipe().override(["backbone.name=test_resnet", "backbone.weights=none"])
    own = recipe.override(["backbone.seed=4"])
    wanted = starting_model(recipe, classes=3, seed=4).state_dict()
    for seed in (0, 9):
        found = starting_model(own, classes=3, seed=seed).state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in found.items())
    other = starting_model(recipe, classes=3, seed=9).state_dict()
    assert any(not torch.equal(value, wanted[key]) for key, value in other.items())
