"""An ensemble: the mean of its members' probabilities, in one file that is as safe as a single network's."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from earsight.errors import ModelError
from earsight.models.backbones import build
from earsight.models.card import ModelCard, ensemble_card
from earsight.models.modelfile import load, load_card, save
from earsight.recipe import load_recipe

CLASSES = ("cat", "dog", "owl")


def _card(place: int, *overrides: str, **changes: object) -> ModelCard:
    recipe = load_recipe(overrides=["backbone.name=test_resnet", "backbone.weights=none", *overrides])
    values: dict[str, object] = {
        "classes": CLASSES,
        "recipe": recipe.resolve(sample_rate_hz=8000, clip_seconds=1.0, frames=32),
        "mean": (-4.0 - place, 0.3, -3.1),
        "std": (2.0, 1 / 3 + place, 1.5),
        "temperature": 1.0 + 0.5 * place,
        "trained_on": {"fold": 1, "seed": place},
    }
    return ModelCard(**(values | changes))  # type: ignore[arg-type]


def _network(place: int, name: str = "test_resnet") -> torch.nn.Module:
    return build(name, classes=3, weights="none", seed=place).eval()


WEIGHTS = (0.5, 0.2, 0.3)
NAMES = ("test_resnet", "test_efficientnet", "test_resnet")


def _state(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {f"networks.{place}.{key}": value for place, state in enumerate(states) for key, value in state.items()}


def _write(path: Path) -> None:
    cards = [_card(place, f"backbone.name={name}") for place, name in enumerate(NAMES)]
    states = [_network(place, name).state_dict() for place, name in enumerate(NAMES)]
    save(path, state=_state(states), card=ensemble_card(cards, weights=WEIGHTS, trained_on={"folds": [1]}))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble") / "model.safetensors"
    _write(path)
    return path


@pytest.fixture
def saved(written: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(written.read_bytes())
    return path


def test_its_probabilities_are_the_weighted_mean_of_its_members(saved):
    card, model = load(saved)
    spectrograms = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 - 4
    expected = np.zeros((5, 3))
    for place, name in enumerate(NAMES):
        one, normalised = _card(place), spectrograms.numpy().copy()
        for channel in range(3):
            normalised[:, channel] = (normalised[:, channel] - np.float32(one.mean[channel])) / np.float32(
                one.std[channel]
            )
        with torch.no_grad():
            logits = _network(place, name)(torch.from_numpy(normalised)).numpy().astype(np.float64)
        expected += WEIGHTS[place] * softmax(logits / one.temperature, axis=1)
    with torch.no_grad():
        found = model(spectrograms)
    np.testing.assert_allclose(softmax(found.numpy().astype(np.float64), axis=1), expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(found.numpy().astype(np.float64)), expected, atol=1e-6)
    assert (card.mean, card.std, card.temperature) == ((0.0,) * 3, (1.0,) * 3, 1.0)
    assert not model.training


def test_one_window_serves_three_channels(tmp_path):
    windows = ["features.windows_ms=[25.0]", "features.hops_ms=[10.0]"]
    cards = [_card(place, *windows, mean=(-4.0 - place,), std=(2.0,)) for place in (0, 1)]
    card = ensemble_card(cards, trained_on={})
    save(tmp_path / "m", state=_state([_network(0).state_dict(), _network(1).state_dict()]), card=card)
    spectrograms = torch.randn(2, 1, 32, 32).expand(-1, 3, -1, -1)
    with torch.no_grad():
        singles = [_network(place)((spectrograms + 4.0 + place) / 2.0) / (1 + 0.5 * place) for place in (0, 1)]
        expected = torch.stack([one.softmax(1) for one in singles]).mean(0)
        torch.testing.assert_close(load(tmp_path / "m")[1](spectrograms).exp(), expected)


def test_sure_members_neither_overflow_nor_vanish(tmp_path):
    cards = [_card(place, temperature=1e-3) for place in (0, 1)]
    save(
        tmp_path / "m",
        state=_state([_network(place).state_dict() for place in (0, 1)]),
        card=ensemble_card(cards, trained_on={}),
    )
    with torch.no_grad():
        found = load(tmp_path / "m")[1](100 * torch.randn(4, 3, 32, 32))
    assert found.isfinite().all()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4))


def test_cards_weights_and_bytes_come_back(saved, tmp_path):
    card, model = load(saved)
    assert load_card(saved) == card
    assert card.members == tuple(_card(place, f"backbone.name={name}") for place, name in enumerate(NAMES))
    assert card.weights == WEIGHTS
    assert card.trained_on == {"folds": [1]}
    states = _state([_network(place, name).state_dict() for place, name in enumerate(NAMES)])
    assert model.state_dict().keys() == states.keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in states.items())
    save(tmp_path / "again", state=model.state_dict(), card=card)
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_a_single_network_says_nothing_of_members(tmp_path):
    save(tmp_path / "m", state=_network(0).state_dict(), card=_card(0))
    with safetensors.safe_open(tmp_path / "m", "pt") as file:
        assert not {"members", "weights"} & set(json.loads(file.metadata()["earsight"])["card"])
    assert load_card(tmp_path / "m").members == ()


def test_it_moves_between_devices_and_layouts_with_its_normalisation(saved):
    model = load(saved)[1]
    spectrograms = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(spectrograms)
        moved = model.to(memory_format=torch.channels_last).double()
        torch.testing.assert_close(moved(spectrograms.double()).float(), expected, atol=1e-4, rtol=1e-4)
    assert {buffer.dtype for name, buffer in moved.named_buffers() if name in ("mean", "std")} == {torch.float64}


# What does not fit


@pytest.mark.parametrize(
    ("cards", "weights", "message"),
    [
        ([], None, "no members"),
        ([_card(0), _card(1, classes=("cat", "owl", "dog"))], None, "member 2 has other classes"),
        ([_card(0), _card(1), _card(2, "features.bands=64")], None, "member 3 has other features"),
        ([_card(0), _card(1, mean=(0.0,), std=(1.0,))], None, "member 2 has other windows"),
        ([_card(0), ensemble_card([_card(1)], trained_on={})], None, "member 2 is an ensemble itself"),
        ([_card(0), _card(1)], (0.5,), "2 members and 1 weight;"),
        ([_card(0), _card(1)], (0.5, 0.6), "add up to 1.1"),
        ([_card(0), _card(1)], (1.0, 0.0), "positive share each"),
        ([_card(0), _card(1)], (1.5, -0.5), "positive share each"),
        ([_card(0), _card(1)], (float("nan"), 0.5), "weights.0: found nan; expected a finite number"),
    ],
)
def test_members_that_do_not_fit_each_other(cards, weights, message):
    with pytest.raises(ModelError, match=message) as caught:
        ensemble_card(cards, weights=weights, trained_on={})
    assert "\n" not in str(caught.value)


def _rewritten(path: Path, change) -> None:
    """Write the file again with its card changed and sealed anew, as a hand-made file would be."""
    with safetensors.safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["earsight"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(content["card"])
    text = json.dumps(content["card"], sort_keys=True, separators=(",", ":"))
    content["card_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    safetensors.torch.save_file(tensors, path, metadata={"earsight": json.dumps(content)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["members"].pop(), "its card cannot be read.*2 members and 3 weights"),
        (lambda card: card.update(weights=[0.2, 0.2, 0.2]), "its card cannot be read.*add up to 0.6"),
        (lambda card: card.update(weights=None), "its card cannot be read"),
        (lambda card: card.update(members=[]), "its card cannot be read.*0 members and 3 weights"),
        (lambda card: card.update(members=7), "its card cannot be read"),
        (lambda card: card.update(members={"a": 1}), "its card cannot be read"),
        (lambda card: card.update(members=["x"] * 3), "its card cannot be read"),
        (lambda card: card.update(mean=[1, 1, 1]), "a mean and std of its own"),
        (lambda card: card.update(std=[1, 1, 2]), "a mean and std of its own"),
        (lambda card: card["members"][1].update(classes=["cat", "dog", "cow"]), "member 2 has other classes"),
        (lambda card: card["members"][2]["recipe"]["features"].update(bands=64), "member 3 has other features"),
        (lambda card: card["members"][0].update(std=[0, 0, 0]), "its card cannot be read"),
        (lambda card: card["members"][0].update(members=[card["members"][1]]), "is an ensemble itself"),
        (lambda card: card["members"][1]["recipe"]["backbone"].update(name="test_resnet"), "do not fit an ensemble of"),
        (lambda card: card["members"][1]["recipe"]["backbone"].update(name="no_such_net"), "timm has no such model"),
        (lambda card: card.update(members=[], weights=[]), "of its weights do not fit test_resnet"),
        (lambda card: card.update(members=card["members"][:1] * 600, weights=[1 / 600] * 600), "weights for 600 mem"),
        (lambda card: card.update(members=card["members"][:1] * 999, weights=[1 / 999] * 999), "asks for .* seconds"),
    ],
)
def test_cards_that_do_not_fit_their_weights(saved, change, message):
    _rewritten(saved, change)
    with pytest.raises(ModelError, match=message) as caught:
        load(saved)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(saved))


def test_another_version_is_refused(saved):
    raw = saved.read_bytes()
    changed = re.sub(rb'\\"format_version\\":1', rb'\\"format_version\\":2', raw, count=1)
    assert changed != raw
    saved.write_bytes(changed)
    for read in (load, load_card):
        with pytest.raises(ModelError, match="format version 2, this earsight reads 1; upgrade"):
            read(saved)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.00001, 0.99999), flip=st.booleans())
def test_truncated_and_damaged_files_are_refused(written, tmp_path, share, flip):
    raw = bytearray(written.read_bytes())
    place = int(len(raw) * share)
    if flip:
        raw[place] ^= 0x5A
    path = tmp_path / "broken.safetensors"
    path.write_bytes(raw if flip else raw[: max(1, place)])
    with pytest.raises(ModelError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
