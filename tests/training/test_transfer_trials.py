"""Trials with stages fused, frozen or cut: what training leaves alone, by the weights in the model file."""

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from earsight.errors import RecipeError
from earsight.execution.schedule import check_start
from earsight.models.backbones import belongs, build, stages
from earsight.models.modelfile import load
from earsight.models.stages import starting_model
from earsight.recipe import Augment, Recipe
from earsight.training.batches import Data
from earsight.training.loop import fit, predict
from earsight.training.trial import Trial, run_trial

TRIAL = Trial(1, 3)
HARD = ("training.weight_decay=1", "training.learning_rate=0.01", "training.epochs=2")

STILL = Augment(probability=0.0, mixup=0.0, pitch_semitones=0, time_masks=0, band_masks=0, shift=False)
"""No augmentation at all."""


def stage_of(model: nn.Module) -> dict[str, str]:
    found = stages(model)
    return {key: stage for key in model.state_dict() for stage, names in found.items() if belongs(key, names)}


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    """State entries that differ."""
    new = after.state_dict()
    return {key for key, value in before.state_dict().items() if not torch.equal(value, new[key])}


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "donor.safetensors"
    safetensors.torch.save_file(build("test_resnet", classes=9, weights="none", seed=77).state_dict(), path)
    return path


@pytest.mark.parametrize(
    "more", [("training.ema=0.9",), ("training.optimizer=sgd", "training.protocol=inner"), ("training.optimizer=adam",)]
)
def test_frozen_stages_equal_their_start_bit_for_bit(prepare_as, cpu, tmp_path, donor, more):
    prepared = prepare_as("transfer.freeze=block2", f"backbone.weights={donor}", *HARD, *more)
    run_trial(prepared, TRIAL, run=tmp_path, device=cpu)
    _, after = load(TRIAL.folder(tmp_path) / "model.safetensors")
    before = starting_model(prepared.recipe, classes=10, seed=3)
    frozen = {key for key, stage in stage_of(before).items() if stage in ("stem", "block1", "block2")}
    changed = moved(before, after)
    assert not changed & frozen
    assert {key for key in before.state_dict() if "num_batches" not in key} - changed <= frozen
    file = safetensors.torch.load_file(donor)
    assert all(torch.equal(after.state_dict()[key], file[key]) for key in frozen)


def test_statistics_of_frozen_stages_may_follow(prepare_as, cpu, tmp_path):
    prepared = prepare_as("transfer.freeze=block2", "transfer.freeze_statistics=false", *HARD)
    run_trial(prepared, TRIAL, run=tmp_path, device=cpu)
    _, after = load(TRIAL.folder(tmp_path) / "model.safetensors")
    before = starting_model(prepared.recipe, classes=10, seed=3)
    frozen = {key for key, stage in stage_of(before).items() if stage in ("stem", "block1", "block2")}
    found = moved(before, after) & frozen
    assert found == {key for key in frozen if "running" in key or "tracked" in key}
    assert found


def test_fused_stages_equal_the_file_before_training_and_move_in_it(prepare_as, cpu, tmp_path, donor):
    prepared = prepare_as("transfer.fuse=block1", f"backbone.weights={donor}", *HARD)
    run_trial(prepared, TRIAL, run=tmp_path, device=cpu)
    _, after = load(TRIAL.folder(tmp_path) / "model.safetensors")
    before = starting_model(prepared.recipe, classes=10, seed=3)
    file = safetensors.torch.load_file(donor)
    for key, stage in stage_of(before).items():
        if stage in ("stem", "block1"):
            assert torch.equal(before.state_dict()[key], file[key]), key
        elif "conv" in key:
            assert not torch.equal(before.state_dict()[key], file[key]), key
    assert moved(before, after) == set(before.state_dict())


def test_a_cut_trial_predicts_from_its_file_as_it_did(prepare_as, cpu, tmp_path):
    prepared = prepare_as("transfer.cut=block2", *HARD)
    folder = run_trial(prepared, TRIAL, run=tmp_path, device=cpu)
    card, model = load(folder / "model.safetensors")
    assert list(stages(model)) == ["stem", "block1", "block2", "head"]
    assert not any(key.startswith(("layer3", "layer4", "fc")) for key in model.state_dict())
    mean, std = torch.tensor(card.mean), torch.tensor(card.std)
    data = Data(source=prepared.store, labels=prepared.dataset.labels, classes=10, mean=mean, std=std, device=cpu)
    with np.load(folder / "predictions.npz") as saved:
        again = predict(model, data, np.flatnonzero(prepared.dataset.folds == 1))
        np.testing.assert_allclose(again, saved["logits"], atol=1e-4)


class _Noise:
    stretches, silence = False, torch.full((3, 1), -13.8)

    def read(self, rows, *, draws=None):
        return torch.from_numpy(np.random.default_rng(0).normal(size=(len(rows), 3, 32, 48)).astype(np.float32))


def test_frozen_packaged_weights_stay_through_training(cpu):
    """The default backbone, with its depthwise convolutions swapped as a trial swaps them."""
    from earsight.models.fast.depthwise import use_fast_depthwise

    recipe = Recipe().override(["transfer.freeze=block5", "training.epochs=1", "training.batch_size=4", *HARD[:2]])
    recipe = recipe.model_copy(update={"augment": STILL})
    model = starting_model(recipe, classes=3).to(memory_format=torch.channels_last)
    before = starting_model(recipe, classes=3)
    use_fast_depthwise(model)
    labels = np.arange(8) % 3
    ones = torch.ones(3)
    data = Data(source=_Noise(), labels=labels, classes=3, mean=ones, std=ones, device=cpu)
    fit(model, data, np.arange(8), recipe=recipe, seed=0)
    frozen = {key for key, stage in stage_of(before).items() if stage not in ("block6", "block7", "head")}
    assert len(frozen) > 150
    assert moved(before, model) == set(before.state_dict()) - frozen


def test_freezing_all_but_the_head_trains_the_head(prepare_as, cpu, tmp_path):
    prepared = prepare_as("transfer.freeze=block4", *HARD)
    run_trial(prepared, TRIAL, run=tmp_path, device=cpu)
    _, after = load(TRIAL.folder(tmp_path) / "model.safetensors")
    assert moved(starting_model(prepared.recipe, classes=10, seed=3), after) == {"fc.weight", "fc.bias"}


def test_a_stage_that_is_not_there_is_found_before_the_spectrograms(synthetic, prepare_as, tmp_path):
    recipe = prepare_as().recipe.override(["transfer.cut=block9"])
    with pytest.raises(RecipeError, match=r"transfer.cut is 'block9', .*; choose none, stem, block1"):
        check_start(synthetic, recipe, [TRIAL], run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
