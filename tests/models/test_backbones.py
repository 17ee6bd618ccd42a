"""Backbones by name: heads, seeds, stages that cover every parameter once, and the layers of SoundNet8."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from earsight.errors import ModelError
from earsight.models.backbones import OWN, belongs, build, build_empty, stages
from earsight.models.card import ModelCard
from earsight.models.modelfile import load, save
from earsight.models.weights import load_pretrained
from earsight.recipe import Recipe

FAMILIES = [
    "tf_efficientnet_lite0",
    "resnet50",
    "densenet201",
    "inception_v3",
    "test_resnet",
    "test_efficientnet",
    "mobilenetv3_small_050",
    "convnext_atto",
    "regnety_002",
    "vgg11_bn",
    "hrnet_w18_small",
    *OWN,
]


def _equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_belongs_to_exactly_one_stage(name):
    model = build_empty(name, classes=7)
    found = stages(model)
    assert next(iter(found)) == "stem"
    assert list(found)[-1] == "head"
    assert list(found)[1:-1] == [f"block{number}" for number in range(1, len(found) - 1)]
    for key in model.state_dict():
        assert sum(belongs(key, prefixes) for prefixes in found.values()) == 1, key
    assert all(prefixes for prefixes in found.values())
    classifier = model.get_classifier()
    (title,) = [title for title, module in model.named_modules() if module is classifier]
    assert belongs(title, found["head"])


def test_densenet_stages_are_the_papers():
    found = stages(build_empty("densenet201", classes=50))
    assert found == {
        "stem": ["features.conv0", "features.norm0"],
        "block1": ["features.denseblock1", "features.transition1"],
        "block2": ["features.denseblock2", "features.transition2"],
        "block3": ["features.denseblock3", "features.transition3"],
        "block4": ["features.denseblock4"],
        "head": ["features.norm5", "classifier"],
    }


def test_stages_of_other_families_by_name():
    found = stages(build_empty("resnet50", classes=5))
    assert found == {
        "stem": ["conv1", "bn1"],
        "block1": ["layer1"],
        "block2": ["layer2"],
        "block3": ["layer3"],
        "block4": ["layer4"],
        "head": ["fc"],
    }
    lite = stages(build_empty("tf_efficientnet_lite0", classes=5))
    assert lite["stem"] == ["conv_stem", "bn1"]
    assert lite["block7"] == ["blocks.6", "conv_head", "bn2"]
    assert lite["head"] == ["classifier"]
    inception = stages(build_empty("inception_v3", classes=5))
    assert inception["stem"] == ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"]
    assert inception["block12"] == ["Mixed_7c"]


def test_stage_order_is_the_order_of_the_forward_pass():
    model = build("test_resnet", classes=3, weights="none").eval()
    found = stages(model)
    seen: list[str] = []

    def note(stage: str):
        return lambda *_: seen.append(stage) if stage not in seen else None

    for stage, prefixes in found.items():
        for prefix in prefixes:
            model.get_submodule(prefix).register_forward_hook(note(stage))
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert seen == list(found)


def test_belongs_matches_whole_names_alone():
    assert belongs("layer1.0.conv1.weight", ["layer1"])
    assert belongs("layer1", ["layer1"])
    assert not belongs("layer10.0.conv1.weight", ["layer1"])


def test_a_module_without_stages_is_refused():
    with pytest.raises(ModelError, match="Linear: has no group_matcher"):
        stages(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("classes", [1, 4, 1000])
def test_head_and_spectrogram_sizes(classes):
    model = build("test_resnet", classes=classes, weights="none").eval()
    with torch.no_grad():
        for size in ((128, 250), (128, 64), (96, 333)):
            assert model(torch.zeros(2, 3, *size)).shape == (2, classes)


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    a = build("test_resnet", classes=4, weights="none", seed=7)
    torch.manual_seed(2)
    b = build("test_resnet", classes=4, weights="none", seed=7)
    c = build("test_resnet", classes=4, weights="none", seed=8)
    assert _equal(a, b)
    assert not torch.equal(a.conv1[0].weight, c.conv1[0].weight)
    assert not torch.equal(a.fc.weight, c.fc.weight)


@pytest.mark.parametrize("make", [build, build_empty])
def test_the_global_generator_is_left_alone(make):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    make("test_resnet", classes=4, **({"weights": "none"} if make is build else {}))
    assert torch.equal(torch.get_rng_state(), before)


def test_residual_blocks_start_as_timms_or_as_torchvisions():
    timms, torchvisions = (build("resnet18", classes=3, weights="none", zero_init_last=at) for at in (True, False))
    last = [name for name in timms.state_dict() if name.endswith("bn2.weight")]
    assert len(last) == 8
    for name, value in torchvisions.state_dict().items():
        before = timms.state_dict()[name]
        if name in last:
            assert not before.any()
            assert (value == 1).all()
        else:
            assert torch.equal(value, before), f"{name}: nothing else changes, and nothing more is drawn"


@pytest.mark.parametrize("name", ["densenet121", "soundnet8", "tf_efficientnet_lite0"])
def test_without_such_norms_the_choice_is_refused(name):
    with pytest.raises(ModelError, match="zero_init_last=false has no meaning"):
        build(name, classes=3, weights="none", zero_init_last=False)


def test_pretrained_body_with_a_head_from_the_seed():
    a = build("tf_efficientnet_lite0", classes=10, seed=0)
    b = build("tf_efficientnet_lite0", classes=10, seed=1)
    assert a.training
    different = [key for key, value in a.state_dict().items() if not torch.equal(value, b.state_dict()[key])]
    assert different == ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_resnet"])
def test_a_new_head_starts_near_even_odds(name):
    """timm's own start of EfficientNet heads gives ten classes logits of several units."""
    model = build(name, classes=10, weights="none")
    features = model.num_features
    assert model.get_classifier().weight.abs().max() <= features**-0.5


def test_a_head_of_1000_classes_is_new_too():
    random = build("tf_efficientnet_lite0", classes=1000, weights="none", seed=5)
    pretrained = build("tf_efficientnet_lite0", classes=1000, seed=5)
    assert torch.equal(random.classifier.weight, pretrained.classifier.weight)
    assert not torch.equal(random.conv_stem.weight, pretrained.conv_stem.weight)


def test_dropout_is_set():
    model = build("test_resnet", classes=4, weights="none", dropout=0.5)
    x = torch.randn(2, 3, 64, 64)
    assert model.drop_rate == 0.5
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.train()
    model.training = True  # the classifier's dropout is functional in some families
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_pretrained_first_convolution_follows_the_channels(channels):
    model = build("tf_efficientnet_lite0", classes=4, channels=channels).eval()
    three = build("tf_efficientnet_lite0", classes=4).eval()
    plane = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.conv_stem(plane.expand(1, channels, 64, 64))
        expected = three.conv_stem(plane.expand(1, 3, 64, 64))
    if channels == 2:  # the first two planes' kernels, scaled
        expected = torch.nn.functional.conv2d(
            torch.nn.functional.pad(plane.expand(1, 2, 64, 64), (0, 1, 0, 1)),
            three.conv_stem.weight[:, :2] * 1.5,
            stride=2,
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "resnetblur18", "soundnet8"])
def test_an_empty_model_takes_a_whole_state(name):
    full = build(name, classes=6, weights="none", seed=2).eval()
    # Its blur kernels are in no state dict: without memory they have no values.
    empty = build_empty(name, classes=6, device="cpu" if name == "resnetblur18" else "meta")
    empty.load_state_dict(full.state_dict(), assign=True)
    tensors = [*empty.parameters(), *empty.buffers()]
    assert not any(tensor.is_meta for tensor in tensors)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(full(x), empty.eval()(x))


@pytest.mark.parametrize("name", [*FAMILIES, "resnetblur18", "vit_5b_patch16_sapiens2"])
def test_empty_models_hold_no_memory(name):
    model = build_empty(name, classes=50)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("make", [build, build_empty])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tf_efficientnet_lite", "did you mean 'tf_efficientnet_lite"),
        ("resnet5O", "did you mean 'resnet50"),
        ("soundnet", "did you mean 'soundnet8'"),
        ("", "no such model"),
        ("qqqqqqqqqqqq", r"timm.list_models\(\)"),
        ("hf-hub:timm/resnet50", "no such model"),
        ("local-dir:somewhere", "no such model"),
        ("some/path", "no such model"),
        ("resnet50.nothing", "those it has: .*resnet50.a1_in1k"),
        ("vit_tiny_patch16_224", "takes spectrograms of 224 x 224 alone"),
    ],
)
def test_names_that_cannot_be_built(make, name, message):
    with pytest.raises(ModelError, match=message):
        make(name, classes=3)


def test_no_classes_are_refused():
    with pytest.raises(ModelError, match="asked for 0 classes"):
        build("test_resnet", classes=0, weights="none")


# SoundNet8


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
