"""The budget: what a model file's card may ask for before anything is built."""

from __future__ import annotations

import copy
import json
import re

import pytest

from earsight.errors import ModelError
from earsight.models.card import (
    BUDGET_VARIABLE,
    ModelCard,
    card_of,
    check_budget,
    check_values,
    described,
    ensemble_card,
)
from earsight.recipe import Recipe, list_recipes, load_recipe


def _card(recipe: Recipe, **changes: object) -> ModelCard:
    windows = len(recipe.features.windows_ms)
    values: dict[str, object] = {"classes": ("a", "b"), "recipe": recipe, "mean": (0.0,) * windows}
    return ModelCard(**(values | {"std": (1.0,) * windows} | changes))  # type: ignore[arg-type]


def _recipe(*overrides: str) -> Recipe:
    return load_recipe(overrides=overrides).resolve(sample_rate_hz=44100, clip_seconds=5.0, frames=250)


@pytest.mark.parametrize("name", list_recipes())
def test_recipes_of_the_package_stay_far_below_it(name, monkeypatch):
    recipe = load_recipe(name).resolve(sample_rate_hz=44100, clip_seconds=5.0, frames=250)
    monkeypatch.setenv(BUDGET_VARIABLE, "0.6")
    check_budget(_card(recipe))


def test_columns_count_after_their_resize_too(monkeypatch):
    card = _card(_recipe("features.frames=12000", "features.bands=8"))
    check_budget(card)
    monkeypatch.setenv(BUDGET_VARIABLE, "0.5")
    with pytest.raises(ModelError, match="12,000 columns in a spectrogram"):
        check_budget(card)


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["clip_seconds=600", "frames=250", "hops_ms=[0.07, 0.07, 0.07]"], "600 seconds of sound in a window"),
        (["clip_seconds=300", "frames=250", "hops_ms=[0.07, 10, 10]"], "4,410,001 columns in a spectrogram"),
        (["hops_ms=[1e-300, 10, 10]"], "220,501 columns in a spectrogram"),
        (
            ["clip_seconds=290", "frames=250", "sample_rate_hz=384000", "fft_ms=100", "hops_ms=[500, 500, 500]"],
            "bytes of memory",
        ),
        (["frames=20000", "bands=1024"], "bytes of memory"),
        # Only the bands before their resize are large: 16 clips of 12 bytes for 1024 bands in 3 * 18,001 columns.
        (
            ["clip_seconds=36", "sample_rate_hz=8000", "frames=16", "bands=1024", "fft_ms=256", "hops_ms=[2, 2, 2]"],
            "bytes of memory",
        ),
        (["fft_ms=2900", "windows_ms=[700, 700, 700]"], "bytes of memory"),
        (["fft_ms=2900", "hops_ms=[1, 1, 1]"], "values in the STFTs of a window"),
        (["fft_ms=2900", "bands=1024", "hops_ms=[100, 100, 100]"], "bytes of memory"),  # the banks of the bands
        (["fft_ms=4000"], "176,400 points in an FFT; a model file may ask for 131,072"),
        (["fft_ms=1e306"], "points in an FFT"),
    ],
)
def test_features_that_ask_for_too_much(overrides, what, monkeypatch):
    card = _card(_recipe(*(f"features.{one}" for one in overrides)))
    with pytest.raises(ModelError, match=re.escape(what)) as caught:
        check_budget(card)
    for _ in range(3):  # what the message says lets it pass, or names the next
        factor = re.search(rf"set {BUDGET_VARIABLE}=(\d+)", str(caught.value))
        assert factor, caught.value
        monkeypatch.setenv(BUDGET_VARIABLE, factor[1])
        try:
            check_budget(card)
            break
        except ModelError as error:
            caught.value.args = error.args
    else:
        assert "1e306" in overrides[0]


def test_members_that_are_too_many(monkeypatch):
    member = _card(_recipe())
    check_budget(ensemble_card([member] * 100, trained_on={}))
    with pytest.raises(ModelError, match=r"asks for 740 seconds to load it and answer once; .* may ask for 120"):
        check_budget(ensemble_card([member] * 1000, trained_on={}))
    monkeypatch.setenv(BUDGET_VARIABLE, "7")
    check_budget(ensemble_card([member] * 1000, trained_on={}))
    monkeypatch.setenv(BUDGET_VARIABLE, "1")
    with pytest.raises(ModelError, match="asks for 1,001 members; a model file may ask for 1,000"):
        check_budget(ensemble_card([member] * 1001, trained_on={}))


@pytest.mark.parametrize("value", ["much", "", "0", "-1", "nan"])
def test_a_factor_that_is_none(value, monkeypatch):
    monkeypatch.setenv(BUDGET_VARIABLE, value)
    with pytest.raises(ModelError, match=f"{BUDGET_VARIABLE} is '{value}'; expected how many times"):
        check_budget(_card(_recipe()))


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (1e39, 0.0, 0.0)},
        {"mean": (), "std": ()},
        {"std": (1.0, 1.0, 1e39)},
        {"std": (1.0, 1e-50, 1.0)},
        {"temperature": 1e-320},
        {"temperature": 1e300},
    ],
)
def test_numbers_that_float32_has_not(changes):
    with pytest.raises(ModelError, match="model card"):
        _card(_recipe(), **changes)


_TREE = {
    "classes": ["a"],
    "mean": [0.0],
    "std": [1.0],
    "temperature": 1.0,
    "trained_on": {"fold": 1, "folds": [1], "seed": 0, "seeds": [0], "clips": 3, "held_out_accuracy": 0.5},
    "calibration": {
        "unknown": {"score": "doubt", "threshold": 0.5, "rate": 0.05, "ci95": [0.01, 0.1]},
        "sets": {"method": "aps", "threshold": 0.9, "coverage": 0.9, "ci95": [0.8, 0.95]},
        "clips": 80,
        "folds": [1],
        "own_held_out": False,
        "pools": True,
    },
    "members": [{}],
    "weights": [1.0],
}
_TEXTS = ("dataset", "digest", "clips_digest", "method", "recipe_digest", "seen", "earsight")
_TREE["trained_on"] |= dict.fromkeys(_TEXTS, "x")
_NO_TEXT, _NO_NUMBER, _NO_SHARE = [3, [], {}], ["1", True, [], float("nan"), float("inf")], ["1", True, -0.1, 1.1, []]
_NO_WHOLE, _NO_FOLD, _NO_LIST = ["1", True, 0.5, -1, 1 << 64, []], ["1", True, 0.5, -1, 1 << 31, []], [3, "x", {}, None]
_WRONG = {
    **dict.fromkeys(("classes", "mean", "std", "members", "weights", "calibration.folds"), _NO_LIST),
    "classes.0": _NO_TEXT,
    **dict.fromkeys(("mean.0", "std.0", "weights.0", "temperature"), _NO_NUMBER),
    "members.0": [3, "x", []],
    **{name: [3, "x", [], None] for name in ("trained_on", "calibration")},
    **{f"trained_on.{name}": _NO_TEXT for name in _TEXTS},
    **{f"trained_on.{name}": _NO_FOLD for name in ("fold", "folds.0")},
    **{f"trained_on.{name}": _NO_WHOLE for name in ("seed", "seeds.0", "clips")},
    **{f"trained_on.{name}": [3, "x", {}] for name in ("folds", "seeds")},
    "trained_on.held_out_accuracy": _NO_SHARE,
    **{f"calibration.{name}": [3, "x", []] for name in ("unknown", "sets")},
    **{f"calibration.{name}.threshold": _NO_NUMBER for name in ("unknown", "sets")},
    **{f"calibration.{name}.ci95": [[], [0.1], [0.1, 0.2, 0.3], "x"] for name in ("unknown", "sets")},
    **{f"calibration.{name}.ci95.0": _NO_NUMBER for name in ("unknown", "sets")},
    "calibration.unknown.score": ["x", 3, []],
    "calibration.unknown.rate": _NO_SHARE,
    "calibration.sets.method": ["x", 3, []],
    "calibration.sets.coverage": _NO_SHARE,
    "calibration.clips": _NO_WHOLE,
    "calibration.folds.0": _NO_FOLD,
    "calibration.own_held_out": ["x", 3, 0, []],
    "calibration.pools": ["x", 3, 0, []],
}


@pytest.mark.parametrize("name", _WRONG)
def test_each_field_of_a_card_is_checked(name):
    check_values(_TREE)
    for value in _WRONG[name]:
        tree = copy.deepcopy(_TREE)
        *above, last = (int(part) if part.isdigit() else part for part in name.split("."))
        node = tree
        for part in above:
            node = node[part]
        node[last] = value
        with pytest.raises(ModelError, match=re.escape(f"model card: {name}")):
            check_values(tree)


@pytest.mark.parametrize("name", ["classes", "mean", "std", "temperature", "trained_on", "calibration"])
def test_what_a_card_must_have(name):
    with pytest.raises(ModelError, match=f"model card: {name} is missing"):
        check_values({key: value for key, value in _TREE.items() if key != name})


def test_background_stands_in_a_card_only_where_there_is_one():
    plain = _card(_recipe())
    assert "background" not in described(plain)
    named = _card(_recipe(), background="b")
    assert described(named)["background"] == "b"
    assert card_of(json.loads(json.dumps(described(named)))).background == "b"
    assert ensemble_card([named, named], trained_on={}).background == "b"
