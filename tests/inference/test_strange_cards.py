"""A model file whose card holds any values: refused in words, or it serves with figures that are JSON."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from earsight.errors import EarsightError, ModelError
from earsight.files import json_text
from earsight.inference.classifier import load_classifier
from earsight.inference.scoring import evaluate
from earsight.models.card import card_of

UNKNOWN = {"score": "doubt", "threshold": 0.5, "rate": 0.05, "ci95": [0.01, 0.1]}
SETS = {"method": "aps", "threshold": 0.9, "coverage": 0.9, "ci95": [0.8, 0.95]}
CALIBRATION = {"unknown": UNKNOWN, "sets": SETS, "clips": 80, "folds": [1, 3], "own_held_out": False}


@pytest.fixture(scope="module")
def parts(trained) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors of a trained model, and what its metadata hold, with a calibration."""
    with safetensors.safe_open(trained / "model.safetensors", "pt") as file:
        content = json.loads(file.metadata()["earsight"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    content["card"]["calibration"] = copy.deepcopy(CALIBRATION)
    return tensors, content


@pytest.fixture(scope="module")
def few(synthetic):
    """A few clips that the model held out."""
    return replace(synthetic, clips=tuple(clip for clip in synthetic.clips if clip.fold == 2)[:3])


def _written(path: Path, parts: tuple[dict[str, Any], dict[str, Any]], card: Any) -> Path:
    """A model file by hand, whose digests fit the card."""
    tensors, content = parts
    text = json.dumps(card, sort_keys=True, separators=(",", ":"))
    metadata = content | {"card": card, "card_sha256": hashlib.sha256(text.encode()).hexdigest()}
    safetensors.torch.save_file(tensors, path, metadata={"earsight": json.dumps(metadata)})
    return path


def _of(few, card: dict[str, Any]) -> dict[str, Any]:
    """The card, of a model that was trained on these clips."""
    return card | {"trained_on": card["trained_on"] | {"digest": few.digest, "clips_digest": few.clips_digest}}


def _places(tree: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [one for key, value in items for one in [(*place, key), *_places(value, (*place, key))]]


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else {}


_VALUES = [None, True, "", "x", "1", "\x1b[2J", "\udcff", -1, 0, 1, 2, 0.5, -0.5, 10**9, 10**30, 10**400, 1e308, 1e-320]
_VALUES += [math.nan, math.inf, [], [1], ["a", "a"], {}, {"a": 1}, {"score": []}, _nested(60)]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_values_are_refused_in_words_or_serve(tmp_path, parts, few, data):
    card = _of(few, copy.deepcopy(parts[1]["card"]))
    sections = ["trained_on", "calibration", "recipe", ""]
    for _ in range(data.draw(st.integers(1, 2))):
        section = data.draw(st.sampled_from(sections))
        place = data.draw(st.sampled_from([one for one in _places(card) if not section or one[0] == section] or [()]))
        if not place:
            continue
        node = card
        for key in place[:-1]:
            node = node[key]
        if data.draw(st.booleans()):
            node[place[-1]] = copy.deepcopy(data.draw(st.sampled_from(_VALUES)))
        else:
            del node[place[-1]]
    refused, found = "", None
    try:
        classifier = load_classifier(_written(tmp_path / "m.safetensors", parts, card))
        found = evaluate(classifier, few, skip_bad=True)
    except EarsightError as error:
        refused = str(error)
    event("refused" if refused else "serves")
    assert len(refused.splitlines()) <= 2
    assert "\x1b" not in refused
    json.loads(json_text(found), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["trained_on"].pop("fold"), None),
        (
            lambda card: card["trained_on"].update(fold="two"),
            r"trained_on\.fold: found 'two'; expected a valid integer",
        ),
        (lambda card: card["trained_on"].update(fold=-1), r"trained_on\.fold: found -1; expected greater than"),
        (lambda card: card["trained_on"].update(seed=[]), r"trained_on\.seed: found \[\]; expected a valid integer"),
        (lambda card: card["trained_on"].update(dataset=3), r"trained_on\.dataset: found 3; expected text"),
        (lambda card: card["calibration"]["unknown"].pop("rate"), r"calibration\.unknown\.rate is missing"),
        (lambda card: card["calibration"]["unknown"].update(rate=math.nan), "its card|its metadata"),
        (lambda card: card["calibration"]["unknown"].update(rate=7), r"unknown\.rate: found 7; expected less than"),
        (lambda card: card["calibration"]["unknown"].update(threshold=10**400), r"calibration\.unknown\.threshold"),
        (lambda card: card["calibration"]["sets"].pop("coverage"), r"calibration\.sets\.coverage is missing"),
        (
            lambda card: card["calibration"]["sets"].update(method="all"),
            r"sets\.method: found 'all'; expected 'lac' or",
        ),
        (
            lambda card: card["calibration"].update(folds="all"),
            r"calibration\.folds: found 'all'; expected a valid list",
        ),
        (lambda card: card.update(classes="abcdefghij"), "classes: found 'abcdefghij'; expected a valid list"),
        (lambda card: card["classes"].__setitem__(0, 7), r"classes\.0: found 7; expected text"),
        (lambda card: card.update(mean=["0", "0", "0"]), r"mean\.0: found '0'; expected a valid number"),
        (lambda card: card.update(temperature=True), "temperature: found True; expected a valid number"),
        (lambda card: card.pop("calibration"), "calibration is missing"),
        (lambda card: card.update(members=[3]), r"members\.0: found 3; expected a valid dictionary"),
        (lambda card: card.update(recipe=[]), "it has no recipe"),
        (lambda card: card["recipe"]["features"].update(sample_rate_hz=10**400), "sample_rate_hz"),
    ],
)
def test_what_evaluate_reads_is_checked_when_it_is_loaded(tmp_path, parts, few, change, message):
    card = _of(few, copy.deepcopy(parts[1]["card"]))
    change(card)
    path = _written(tmp_path / "m.safetensors", parts, card)
    if message is None:
        found = evaluate(load_classifier(path), few)
        assert (found["fold"], found["seen_in_training"]) == (None, True)
        return
    with pytest.raises(ModelError, match=message) as caught:
        load_classifier(path)
    assert str(caught.value).startswith(f"{path}: is truncated or damaged")


@pytest.mark.parametrize("tree", [None, 3, [], "card", {}, {"members": [[]]}])
def test_what_is_no_card(tree):
    with pytest.raises(ModelError, match="model card"):
        card_of(tree)
