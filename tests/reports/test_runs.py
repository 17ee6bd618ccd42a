"""A run folder as a report reads it: what is derived must fit what it derives from."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from earsight.calibration.calibrate import calibrate_run
from earsight.calibration.fit import Wanted
from earsight.errors import RunError
from earsight.evaluation.summary import _NAMES, write_summary
from earsight.files import read_arrays, read_state, save_arrays, sealed, write_state
from earsight.models.mahalanobis import statistics_of
from earsight.models.modelfile import load, load_card, save
from earsight.reports.runs import read_for_report


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run, with its summary."""
    shutil.copytree(trained.parents[1], tmp_path / "run")
    card = load_card(trained / "model.safetensors")
    (tmp_path / "run" / "recipe.yaml").write_text(sealed(card.recipe.to_yaml()))
    write_summary(tmp_path / "run", machine={"cores": 2})
    return tmp_path / "run"


def spoilt(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_whole_run_misses_nothing(run):
    read = read_for_report(run)
    assert read.missing == []
    assert read.summary["machine"] == {"cores": 2}


def test_a_summary_that_does_not_fit_the_predictions(run):
    before = read_for_report(run).summary
    old = read_state(run / "summary.json", {}, remedy="")
    write_state(run / "summary.json", old | {"accuracy": old["accuracy"] | {"mean": 0.125}})
    read = read_for_report(run)
    assert read.summary == before
    assert "summary.json does not fit the predictions" in " ".join(read.missing)


@pytest.mark.parametrize(("old", "new"), [('"cores": 2', '"cores": 3'), ('"mean"', '"meam"')])
def test_a_summary_whose_bytes_have_changed(run, old, new):
    """The machine derives from nothing: its digest alone shows that it has changed."""
    spoilt(run / "summary.json", old, new)
    read = read_for_report(run)
    assert read.summary["machine"] == {}
    assert read.missing == [
        "summary.json cannot be read (it does not fit its digest, so it is damaged): the machine is not known."
    ]


@pytest.mark.parametrize(("old", "new"), [("name: default", "name: defauld"), ("Digest of", "Digest_of")])
def test_a_recipe_whose_name_has_changed(run, old, new):
    spoilt(run / "recipe.yaml", old, new)
    assert "recipe.yaml does not fit its digest" in " ".join(read_for_report(run).missing)


def test_a_history_that_the_trial_did_not_write(run):
    path = next(run.glob("fold-*/seed-*/history.jsonl"))
    first = json.loads(path.read_text().splitlines()[0])
    spoilt(path, f'"loss": {first["loss"]}', f'"loss": {first["loss"] + 1}')
    read = read_for_report(run)
    assert read.histories == []
    assert "history.jsonl cannot be read" in read.missing[0]
    assert "is damaged" in read.missing[0]


def test_a_model_file_of_another_run(run):
    path = next(run.glob("fold-*/seed-*/model.safetensors"))
    card, model = load(path)
    training = card.recipe.training.model_copy(update={"learning_rate": 0.5})
    other = dataclasses.replace(card, recipe=card.recipe.model_copy(update={"training": training}), temperature=3.0)
    save(path, state=model.state_dict(), card=other)
    read = read_for_report(run)
    differ = f"{other.recipe.digest} and its trial of {card.recipe.digest}"
    assert read.missing == [f"The model file is of recipe {differ}: nothing of it is shown."]
    assert read.temperature == 1.0


@pytest.mark.parametrize("name", ["fold", "seed"])
def test_a_model_file_of_another_fold_or_seed(run, name):
    path = next(run.glob("fold-*/seed-*/model.safetensors"))
    card, model = load(path)
    other = dataclasses.replace(card, trained_on=card.trained_on | {name: 7}, temperature=3.0)
    save(path, state=model.state_dict(), card=other)
    read = read_for_report(run)
    differ = f"is of {name} 7 and its trial of {card.trained_on[name]}"
    assert read.missing == [f"The model file {differ}: nothing of it is shown."]
    assert read.temperature == 1.0


def test_model_files_that_hold_another_calibration_than_the_report_are_named(run):
    """As where `calibrate` was killed between the files of the models and its report."""
    calibrate_run(run, Wanted())
    assert not any("another calibration" in line for line in read_for_report(run).missing)
    kept = json.loads((run / "calibration.json").read_text())["models"]
    path = run / kept[0]["path"]
    card, model = load(path)
    other = dataclasses.replace(card, temperature=card.temperature + 0.5)
    save(path, state=model.state_dict(), card=other, statistics=statistics_of(model))
    words = f"{kept[0]['path']} holds another calibration than calibration.json says"
    assert f"{words}: `earsight calibrate` makes them agree." in read_for_report(run).missing


def test_a_model_file_of_another_training_is_named(run):
    """Of the same recipe, fold and seed, as of a run on the sounds before they were changed."""
    path = next(run.glob("fold-*/seed-*/model.safetensors"))
    card, model = load(path)
    state = {name: value + 0.125 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    save(path, state=state, card=card, statistics=statistics_of(model))
    words = "holds the weights of another training than its trial's predictions are of"
    assert read_for_report(run).missing == [f"The model file {words}: nothing of it is shown."]
    with pytest.raises(RunError, match=words):
        calibrate_run(run, Wanted())


def test_trials_of_two_states_of_the_sounds_are_no_run(run):
    """A fold of a run of the same recipe, seed and data set, but of other sounds."""
    folder = next(run.glob("fold-*/seed-*"))
    other = folder.parents[1] / "fold-7" / folder.name
    shutil.copytree(folder, other)
    about, arrays = read_arrays(folder / "predictions.npz", _NAMES, what="", remedy="", error=RunError)
    stated = read_state(folder / "trial.json", {}, remedy="")
    save_arrays(other / "predictions.npz", about | {"fold": 7, "identity": "other"}, arrays)
    with pytest.raises(RunError, match=r"another state of the sound files than trial\.json beside it"):
        read_for_report(run)
    write_state(other / "trial.json", stated | {"fold": 7, "pictures": "other"})
    with pytest.raises(RunError, match="the trials differ in the state of the sound files"):
        read_for_report(run)
