"""Held-out clips are found again: the right files, of the right trials, wherever the sounds are now."""

import dataclasses
import json
import re
import shutil
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earsight.calibration.calibrate import calibrate_run
from earsight.calibration.fit import Wanted
from earsight.data.layouts import open_dataset
from earsight.ensembles.build import make_ensemble
from earsight.errors import RunError
from earsight.files import write_state
from earsight.models.modelfile import load, save
from earsight.training.heldout import HeldOut, held_out
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial


@pytest.fixture(scope="module")
def moving(synthetic_folder, tiny, cpu, tmp_path_factory):
    """A run of folds 1 and 2, fold 2 with two seeds, and the folder of its sounds."""
    home = tmp_path_factory.mktemp("moving")
    sounds = shutil.copytree(synthetic_folder, home / "sounds")
    prepared = prepare(open_dataset(sounds), tiny("training.epochs=1"))
    for trial in (Trial(2, 3), Trial(1, 0), Trial(2, 0)):
        run_trial(prepared, trial, run=home / "run", device=cpu)
    return home


def test_it_lists_the_held_out_files_of_the_lowest_seed_by_fold(moving):
    dataset = open_dataset(moving / "sounds")
    found = held_out(moving / "run")
    assert [(item.fold, item.seed) for item in found] == [(1, 0), (2, 0)]
    for item in found:
        rows = np.flatnonzero(dataset.folds == item.fold)
        assert [file.resolve() for file in item.files] == [dataset.file(row).resolve() for row in rows]
        assert item.clips == tuple(dataset.clips[row].path for row in rows)
        assert [item.classes[label] for label in item.labels] == [dataset.clips[row].label for row in rows]
        assert item.model == moving / "run" / f"fold-{item.fold}" / "seed-0" / "model.safetensors"
    assert [(item.fold, item.seed) for item in held_out(moving / "run", seed=3)] == [(2, 3)]


def test_sounds_that_were_moved(moving, tmp_path):
    run = shutil.copytree(moving / "run", tmp_path / "run")
    trial = run / "fold-1" / "seed-0" / "trial.json"
    content = json.loads(trial.read_text())
    write_state(trial, content | {"root": str(tmp_path / "gone")})
    with pytest.raises(RunError, match=r"gone and .* is not there; add data"):
        held_out(run)
    write_state(trial, {key: value for key, value in content.items() if key != "root"})
    with pytest.raises(RunError, match="does not say where its sounds are; add data"):
        held_out(run)
    found = held_out(run, data=moving / "sounds")
    assert all(file.is_file() for item in found for file in item.files)
    beside = moving / "sounds" / "any.csv"
    assert held_out(run, data=beside)[0].files == found[0].files
    with pytest.raises(RunError, match="holds no "):
        held_out(run, data=tmp_path)


@pytest.mark.parametrize("other", ["fold-1/seed-0", "fold-2/seed-3"])
def test_model_files_that_were_exchanged_are_noticed(moving, cpu, tmp_path, other):
    run = shutil.copytree(moving / "run", tmp_path / "run")
    shutil.copyfile(run / other / "model.safetensors", run / "fold-2" / "seed-0" / "model.safetensors")
    fold, seed = re.findall(r"\d", other)
    for read in (
        held_out,
        partial(calibrate_run, wanted=Wanted()),
        lambda run: make_ensemble([moving / "run", run], out=tmp_path / "joint", device=cpu),
    ):
        with pytest.raises(
            RunError, match=f"seed-0: holds files of fold {fold} seed {seed}, so folders were copied or"
        ):
            read(run)


@pytest.mark.parametrize("what", ["recipe", "data set"])
def test_model_files_that_were_exchanged_with_another_run_are_noticed(moving, cpu, tmp_path, what):
    """Of the same fold and seed, but of another recipe, or by the same recipe on another data set."""
    run = shutil.copytree(moving / "run", tmp_path / "run")
    path = run / "fold-2" / "seed-0" / "model.safetensors"
    card, model = load(path)
    recipe = card.recipe.model_copy(update={"training": card.recipe.training.model_copy(update={"learning_rate": 0.5})})
    change = {"recipe": recipe} if what == "recipe" else {"trained_on": card.trained_on | {"digest": "0123"}}
    save(path, state=model.state_dict(), card=dataclasses.replace(card, **change))
    found = recipe.digest if what == "recipe" else "0123"
    for read in (
        held_out,
        partial(calibrate_run, wanted=Wanted()),
        lambda run: make_ensemble([moving / "run", run], out=tmp_path / "joint", device=cpu),
    ):
        with pytest.raises(RunError, match=f"is of {what} {found} .* files of two runs were exchanged"):
            read(run)


def test_runs_that_cannot_be_looked_at(moving, tmp_path):
    with pytest.raises(RunError, match="no such run folder"):
        held_out(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no finished trial"):
        held_out(tmp_path / "empty")
    with pytest.raises(RunError, match="no finished trial of seed 7; its seeds are 0, 3"):
        held_out(moving / "run", seed=7)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=40), count=st.integers(1, 50), seed=st.integers(0, 9))
def test_a_sample_takes_the_classes_in_turn(labels, count, seed):
    labels = np.array(labels)
    clips = tuple(str(place) for place in range(len(labels)))
    item = HeldOut(1, 0, None, clips, (), labels, tuple("abcde"))
    taken = item.sample(count, seed=seed)
    assert len(taken) == min(count, len(labels)) == len(set(taken.tolist()))
    assert sorted(taken.tolist()) == taken.tolist()
    if count > 1:
        assert set(item.sample(count - 1, seed=seed).tolist()) <= set(taken.tolist())
    sizes = np.bincount(labels, minlength=5)
    got = np.bincount(labels[taken], minlength=5)
    for one in range(5):
        for other in range(5):  # no class is ahead of another that still has clips
            assert got[one] <= got[other] + 1 or got[other] == sizes[other]
