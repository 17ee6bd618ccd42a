"""Sweeps: which recipes a kind of analysis stands for, and what is read out of their runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from earsight.analysis.sweeps import SWEEPS, Variant, parameters, pending, sweep_result, variants
from earsight.errors import ModelError, RecipeError, RunError
from earsight.evaluation.statistics import paired_difference
from earsight.models.stages import starting_model
from earsight.recipe import Recipe
from earsight.training.trial import Trial


def named(found: list[Variant]) -> list[str]:
    return [item.folder for item in found]


def recipe_of(name: str = "tf_efficientnet_lite0", *more: str) -> Recipe:
    return Recipe().override([f"backbone.name={name}", *more])


@pytest.mark.parametrize(
    ("kind", "name", "folders"),
    [
        ("fusion", "densenet201", ["fuse-none", "fuse-stem", *(f"fuse-block{n}" for n in (1, 2, 3)), "reference"]),
        ("freeze", "densenet201", ["reference", "freeze-stem", *(f"freeze-block{n}" for n in (1, 2, 3, 4))]),
        ("cutoff", "densenet201", [*(f"cut-block{n}" for n in (1, 2, 3)), "reference"]),
        ("cutoff", "tf_efficientnet_lite0", [*(f"cut-block{n}" for n in range(1, 7)), "reference"]),
    ],
)
def test_a_sweep_is_a_list_of_recipes(kind, name, folders):
    base = recipe_of(name)
    found = variants(kind, base)
    assert named(found) == folders
    field = SWEEPS[kind].field
    for item in found:
        assert item.recipe == base.override([f"transfer.{field}={item.stage}"])
        assert item.is_reference == (item.recipe == base)
    assert len({item.recipe.digest for item in found}) == len(found)


def test_the_three_sweeps_share_their_reference():
    references = [next(item for item in variants(kind, recipe_of()) if item.is_reference) for kind in SWEEPS]
    assert {(item.folder, item.recipe.digest) for item in references} == {("reference", recipe_of().digest)}


def test_stages_are_chosen_in_the_order_of_depth():
    found = variants("fusion", recipe_of(), stages=" block3, none,block7")
    assert named(found) == ["fuse-none", "fuse-block3", "fuse-block7", "reference"]
    assert named(variants("freeze", recipe_of(), stages="none,block2")) == ["reference", "freeze-block2"]
    assert named(variants("cutoff", recipe_of(), stages="stem")) == ["cut-stem", "reference"]


@pytest.mark.parametrize(
    ("kind", "more", "stages", "message"),
    [
        ("freeze", [], "block9", r"stages block9: 'block9' is no stage of this sweep; choose from stem, block1"),
        ("fusion", [], "block1,", "'' is no stage of this sweep; choose from none, stem"),
        ("freeze", ["transfer.cut=block2"], None, "fuses, freezes or cuts already"),
        ("fusion", ["backbone.weights=none"], None, "there is nothing to fuse"),
    ],
)
def test_sweeps_that_cannot_be(kind, more, stages, message):
    with pytest.raises(RecipeError, match=message):
        variants(kind, recipe_of("test_resnet", *more), stages=stages)


def test_freezing_with_statistics_that_follow_is_a_sweep_too():
    found = variants("freeze", recipe_of("test_resnet", "transfer.freeze_statistics=false"))
    assert all(not item.recipe.transfer.freeze_statistics for item in found)
    assert len(found) == 6


def test_a_network_with_one_stage(monkeypatch):
    from earsight.analysis import sweeps

    def one_stage(model):
        raise ModelError("Net: has one stage below its head")

    monkeypatch.setattr(sweeps, "stage_names", one_stage)
    with pytest.raises(ModelError, match="has one stage"):
        variants("freeze", recipe_of("test_resnet"))


@pytest.mark.parametrize("change", ["transfer.freeze=block2", "transfer.cut=block3", "transfer.fuse=none"])
def test_parameters_are_those_of_the_network_that_trains(change):
    recipe = recipe_of("test_efficientnet", "backbone.weights=none", change)
    model = starting_model(recipe, classes=7)
    whole, trained = parameters(recipe, classes=7)
    assert whole == sum(parameter.numel() for parameter in model.parameters())
    assert trained == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert (trained < whole) == ("freeze" in change)


# What is read out of the runs


def write_trial(run: Path, trial: Trial, correct: list[int], *, shift: int = 0) -> None:
    """A finished trial of two classes that is right where ``correct`` says."""
    folder = trial.folder(run)
    folder.mkdir(parents=True)
    labels = np.arange(len(correct)) % 2
    guesses = np.where(correct, labels, 1 - labels)
    about = {"fold": trial.fold, "seed": trial.seed, "seconds": 10.0 + trial.fold, "protocol": "last", "epoch": 1}
    about |= {"recipe_digest": "x", "dataset": {"name": "made up", "clips": 0, "classes": 2, "digest": "y"}}
    np.savez(
        folder / "predictions.npz",
        clip=np.array([f"{trial.fold}-{row + shift}.wav" for row in range(len(correct))]),
        label=labels,
        logits=np.eye(2, dtype=np.float32)[guesses],
        classes=np.array(["a", "b"]),
        about=np.array(json.dumps(about)),
    )
    (folder / "DONE").touch()


TRIALS = [Trial(1, 0), Trial(2, 0)]


@pytest.fixture
def sweep(tmp_path) -> tuple[list[Variant], Path]:
    found = variants("freeze", recipe_of("test_resnet", "backbone.weights=none"), stages="block1,block3")
    answers = {"reference": ([1] * 8, [1, 1, 1, 1, 1, 1, 0, 0]), "freeze-block1": ([1] * 8, [1] * 4 + [0] * 4)}
    answers["freeze-block3"] = ([0] * 8, [0] * 8)
    for folder, folds in answers.items():
        for trial, correct in zip(TRIALS, folds, strict=True):
            write_trial(tmp_path / folder, trial, correct)
        write_trial(tmp_path / folder, Trial(3, 0), [0] * 8)  # of another command: not asked for
    return found, tmp_path


def test_points_along_the_depth(sweep):
    found, out = sweep
    result = sweep_result("freeze", found, TRIALS, out=out)
    assert [point["stage"] for point in result["points"]] == ["none", "block1", "block3"]
    assert [point["accuracy"]["mean"] for point in result["points"]] == [0.875, 0.75, 0.0]
    assert [point["clips"] for point in result["points"]] == [16] * 3
    reference, first, last = result["points"]
    assert reference["difference"] is None
    expected = paired_difference(
        np.array([1] * 8 + [1] * 4 + [0] * 4),
        np.array([1] * 8 + [1] * 6 + [0] * 2),
        folds=np.repeat([1, 2], 8),
    )
    assert first["difference"]["mean"] == pytest.approx(-0.125)
    assert first["difference"]["ci95"] == [expected.low, expected.high]
    assert first["difference"]["p_value"] == pytest.approx(0.5)  # two changes, both worse: 2 x 1/4
    assert last["difference"]["mean"] == pytest.approx(-0.875)
    assert last["difference"]["p_value"] == pytest.approx(2 / 2**14)
    assert (result["folds"], result["seeds"], result["dataset"]) == ([1, 2], [0], "made up")
    assert first["seconds"] == 11.5
    assert reference["trained"] > first["trained"] > last["trained"]
    json.dumps(result, allow_nan=False)


def test_what_is_pending(sweep):
    found, out = sweep
    assert pending(found, TRIALS, out=out) == []
    todo = pending(found, [*TRIALS, Trial(4, 0)], out=out)
    assert [(item.folder, trial.fold) for item, trial in todo] == [(item.folder, 4) for item in found]
    with pytest.raises(RunError, match="has not ended; give the same command again"):
        sweep_result("freeze", found, [Trial(4, 0)], out=out)


def test_other_clips_cannot_be_paired(sweep):
    found, out = sweep
    for item in found:
        write_trial(out / item.folder, Trial(5, 0), [1] * 8, shift=0 if item.is_reference else 1)
    with pytest.raises(RunError, match="held out other clips than"):
        sweep_result("freeze", found, [Trial(5, 0)], out=out)
