"""Similarity of a run's networks to their starts: the right outputs, of the right clips, from the right weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from earsight.analysis.similarity import RunSimilarity, compare, run_similarity, similarity_result, spectrograms
from earsight.analysis.subspaces import Likeness
from earsight.errors import DataError, RunError
from earsight.models.backbones import build
from earsight.models.modelfile import load
from earsight.recipe import Recipe
from earsight.training.heldout import held_out
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial

TINY = [
    *("features.sample_rate_hz=8000", "features.clip_seconds=0.5", "features.frames=64", "features.bands=64"),
    *("backbone.name=test_resnet", "augment.pitch_semitones=0", "training.epochs=2", "training.learning_rate=0.01"),
]
CPU = torch.device("cpu")
STAGES = ("stem", "block1", "block2", "block3", "block4")


@pytest.fixture(scope="module")
def home(synthetic, tmp_path_factory) -> Path:
    """A run from a weights file with its first stages frozen, folds 1 and 2; and one from random weights, two seeds."""
    home = tmp_path_factory.mktemp("similarity")
    state = build("test_resnet", classes=3, weights="none", seed=77).state_dict()
    safetensors.torch.save_file(state, home / "donor.safetensors")
    recipe = Recipe().override([*TINY, f"backbone.weights={home / 'donor.safetensors'}", "transfer.freeze=block1"])
    prepared = prepare(synthetic, recipe)
    for fold in (1, 2):
        run_trial(prepared, Trial(fold, 0), run=home / "run", device=CPU)
    prepared = replace(prepared, recipe=prepared.recipe.override(["backbone.weights=none"]))
    for seed in (0, 4):
        run_trial(prepared, Trial(1, seed), run=home / "random", device=CPU)
    return home


@pytest.fixture(scope="module")
def found(home) -> RunSimilarity:
    return run_similarity(home / "run", device=CPU)


def test_frozen_stages_are_one_and_the_others_less(found):
    assert found.stages == STAGES
    assert (found.name, found.backbone, found.start) == ("run", "test_resnet", "pretrained")
    assert [(fold, seed) for fold, seed, _ in found.trials] == [(1, 0), (2, 0)]
    for _, _, here in found.trials:
        assert list(here) == list(STAGES)
        for stage in ("stem", "block1"):
            assert here[stage].svcca == pytest.approx(1, abs=1e-9)
            assert here[stage].cka == pytest.approx(1, abs=1e-9)
        for stage in ("block2", "block3"):
            assert here[stage].svcca < 0.999
            assert here[stage].cka < 0.999
    assert found.trials[0][2]["block3"] != found.trials[1][2]["block3"]


def test_each_trial_is_held_to_the_start_of_its_own_seed(home):
    random = run_similarity(home / "random", device=CPU)
    assert random.start == "random"
    assert [(fold, seed) for fold, seed, _ in random.trials] == [(1, 0), (1, 4)]
    for _, _, here in random.trials:  # frozen stages of random weights: equal only where the seed is the trial's
        assert here["stem"].svcca == pytest.approx(1, abs=1e-9)
        assert here["block1"].svcca == pytest.approx(1, abs=1e-9)


def test_rows_are_positions_or_clips(home, found):
    pooled = run_similarity(home / "run", pooled=True, device=CPU).trials[0][2]
    assert {stage: item.rows for stage, item in pooled.items()} == dict.fromkeys(STAGES, 20)
    # The stem halves each side, its pooling and three of the blocks again.
    sides = [found.trials[0][2][stage].rows / 20 for stage in STAGES]
    assert sides == [16 * 16, 16 * 16, 8 * 8, 4 * 4, 2 * 2]


def test_the_spectrograms_are_those_that_the_run_held_out(home, synthetic):
    item = held_out(home / "run")[1]
    card, _ = load(item.model)
    store = prepare(synthetic, card.recipe).store
    rows = np.flatnonzero(synthetic.folds == 2)
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    batches = list(spectrograms(card, item.files, device=CPU))
    assert [len(batch) for batch in batches] == [16, 4]
    torch.testing.assert_close(torch.cat(batches), (store.read(rows) - mean) / std, rtol=0, atol=2e-3)


def test_outputs_are_compared_as_written_out():
    first, second = (build("test_resnet", classes=3, weights="none", seed=seed).eval() for seed in (0, 1))
    batches = [torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    found = compare(first, second, batches)

    def block2(model: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            x = model.maxpool(model.act1(model.bn1(model.conv1(x))))
            maps = model.layer2(model.layer1(x))
        return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).double().numpy()

    bases = []
    for model in (first, second):
        rows = np.vstack([block2(model, batch) for batch in batches])
        u, s, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
        bases.append(u[:, : int(np.argmax(np.cumsum(s**2) / np.sum(s**2) >= 0.99)) + 1])
    expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()
    assert found["block2"].svcca == pytest.approx(expected, abs=1e-6)
    assert found["block2"].kept == tuple(basis.shape[1] for basis in bases)
    same = compare(first, first, batches)
    assert all(item.cka == pytest.approx(1) for item in same.values())
    assert not any(module._forward_hooks for module in first.modules())


def test_a_stage_without_life_is_named():
    model = build("test_resnet", classes=3, weights="none").eval()
    torch.nn.init.zeros_(model.layer3[-1].bn2.weight)
    dead = build("test_resnet", classes=3, weights="none").eval()
    for parameter in dead.layer3.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(DataError, match="block3: an output of the network is the same for every clip"):
        compare(model, dead, [torch.randn(4, 3, 64, 64)])


def likeness_of(svcca: float | None, *, rows: int = 500) -> Likeness:
    return Likeness(svcca=svcca, cka=0.5, rows=rows, kept=(20, 30), chance=0.25)


def test_intervals_are_over_folds_after_seeds():
    values = {(1, 0): 0.9, (1, 1): 0.7, (2, 0): 0.6, (2, 1): 0.6, (3, 0): 0.5, (3, 1): 0.5}
    trials = tuple((fold, seed, {"stem": likeness_of(value)}) for (fold, seed), value in values.items())
    result = similarity_result([RunSimilarity("a", "net", "random", ("stem",), trials)], pooled=False)
    (point,) = result["runs"][0]["points"]
    # Means of folds 0.8, 0.6, 0.5: mean 19/30, deviation 0.152753, Student's t of 2 degrees 4.302653.
    assert point["svcca"]["mean"] == pytest.approx(19 / 30)
    half = 4.302653 * 0.1527525 / np.sqrt(3)
    assert point["svcca"]["ci95"] == [pytest.approx(19 / 30 - half, abs=1e-6), pytest.approx(1.0)]
    assert point["svcca"]["trials"] == 6
    assert not point["uncertain"]
    assert len(result["runs"][0]["trials"]) == 6
    json.dumps(result, allow_nan=False)


def test_one_trial_has_no_interval_and_missing_values_are_left_out():
    trials = ((1, 0, {"stem": likeness_of(0.5), "block1": likeness_of(None, rows=40)}),)
    result = similarity_result([RunSimilarity("a", "net", "random", ("stem", "block1"), trials)], pooled=True)
    stem, block = result["runs"][0]["points"]
    assert stem["svcca"] == {"mean": 0.5, "ci95": None, "trials": 1}
    assert block["svcca"] == {"mean": None, "ci95": None, "trials": 0}
    assert block["uncertain"]


# What cannot be compared


def test_starting_weights_that_are_gone(home, tmp_path):
    run = shutil.copytree(home / "run", tmp_path / "run")
    (home / "donor.safetensors").rename(home / "elsewhere.safetensors")
    try:
        with pytest.raises(RunError, match=r"its starting weights cannot be made again: .*no such file") as caught:
            run_similarity(run, device=CPU)
    finally:
        (home / "elsewhere.safetensors").rename(home / "donor.safetensors")
    assert "\n" not in str(caught.value)


def test_fewer_clips_than_dimensions(home, monkeypatch):
    from earsight.analysis import similarity

    monkeypatch.setattr(similarity, "held_out", lambda *a, **k: [_first(item, 5) for item in held_out(*a, **k)])
    with pytest.raises(DataError, match=r"5 held-out clips are fewer than the \d+ dimensions .*; leave --pooled out"):
        run_similarity(home / "run", pooled=True, device=CPU)


def _first(item, count):
    return replace(item, clips=item.clips[:count], files=item.files[:count], labels=item.labels[:count])


def test_runs_of_two_networks():
    runs = [RunSimilarity(name, name, "random", ("stem",), ()) for name in ("resnet50", "densenet201")]
    with pytest.raises(RunError, match=r"densenet201 is of densenet201 .* compare runs of one network"):
        similarity_result(runs, pooled=False)


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match="no such run folder"):
        run_similarity(tmp_path / "absent", device=CPU)
