"""Fuse, freeze and cut, by the weights: what is pretrained, what is random, what takes a gradient, what is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from earsight.errors import ModelError, RecipeError
from earsight.models.backbones import belongs, build, stages
from earsight.models.card import ModelCard
from earsight.models.fast.swap import use_fast_layers
from earsight.models.modelfile import load, save
from earsight.models.stages import empty_model, freeze, stage_names, starting_model, training_mode
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
