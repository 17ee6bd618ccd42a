"""Calibrated model files: what is written where, from whose clips, and that serving says what was fitted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.special import softmax

from earsight.calibration.calibrate import REPORT, _missed, calibrate_run, calibrated_trials, wanted_before
from earsight.calibration.fit import Wanted, fit_calibration
from earsight.data.layouts import open_dataset
from earsight.ensembles.build import make_ensemble
from earsight.errors import ModelError, RunError
from earsight.evaluation.summary import read_predictions, read_run, write_summary
from earsight.execution.schedule import publish_model
from earsight.files import read_state, say_once, write_state
from earsight.inference.classifier import Classifier, load_classifier
from earsight.inference.scoring import evaluate
from earsight.models.modelfile import load, load_card
from earsight.reports.calibration_report import (
    calibration_figure,
    calibration_line,
    calibration_lines,
    confidence_lines,
)
from earsight.training.trial import Trial, run_trial

WANTED = Wanted(false_alarms=0.1, coverage=0.9)


@pytest.fixture(scope="module")
def plain(prepared, cpu, tmp_path_factory):
    """Three folds of two seeds, not calibrated."""
    run = tmp_path_factory.mktemp("runs") / "plain"
    for fold in (1, 2, 3):
        for seed in (0, 1):
            run_trial(prepared, Trial(fold, seed), run=run, device=cpu)
    return run


@pytest.fixture
def run(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "run")


def _file(run, fold, seed=0):
    return run / f"fold-{fold}" / f"seed-{seed}" / "model.safetensors"


def _spoil(run, fold, seed=0):
    """Let a fold's predictions say something else."""
    path = run / f"fold-{fold}" / f"seed-{seed}" / "predictions.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["logits"], arrays["distance"] = -5 * arrays["logits"], 7 * arrays["distance"]
    np.savez(path, **arrays)


def test_trials_keep_what_their_clips_looked_like(plain, prepared):
    stored = read_predictions(_file(plain, 2).with_name("predictions.npz"))
    classifier = load_classifier(_file(plain, 2))
    assert stored.distance.shape == stored.labels.shape
    assert 0.3 < np.median(stored.distance) < 5
    assert classifier.card.calibration == {}
    found = classifier.predict(prepared.dataset.file(0))
    assert (found.unknown, found.novelty, found.plausible, found.answer) == (False, None, (), found.label)


def test_every_file_gets_the_other_folds_calibration_and_keeps_its_weights(run, plain):
    result = calibrate_run(run, WANTED)
    trials = read_run(run)
    for trial in trials:
        path = _file(run, trial.about["fold"], trial.about["seed"])
        others = [
            one
            for one in trials
            if one.about["seed"] == trial.about["seed"] and one.about["fold"] != trial.about["fold"]
        ]
        wanted = fit_calibration(others, WANTED)
        card = load_card(path)
        assert card.temperature == wanted.temperature
        assert card.calibration == json.loads(json.dumps(wanted.for_card(own=False)))
        assert trial.about["fold"] not in card.calibration["folds"]
        before, after = load_file(_file(plain, trial.about["fold"], trial.about["seed"])), load_file(path)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert result == read_state(run / REPORT, {}, remedy="")
    assert result["optimistic"] is False
    assert result["score"] == "distance"
    assert result["figures"]["clips"] == 60
    assert [(model["fold"], model["seed"]) for model in result["models"]] == [
        (fold, seed) for fold in (1, 2, 3) for seed in (0, 1)
    ]


def test_nothing_of_its_own_fold_reaches_a_folds_file(run):
    calibrate_run(run, WANTED)
    before = {fold: load_card(_file(run, fold)) for fold in (1, 2, 3)}
    _spoil(run, 2)
    calibrate_run(run, WANTED)
    assert load_card(_file(run, 2)) == before[2]
    assert load_card(_file(run, 1)) != before[1]
    assert load_card(_file(run, 3)) != before[3]


def test_a_second_time_nothing_is_written(run):
    calibrate_run(run, WANTED)
    before = {path: path.stat().st_ino for path in run.rglob("model.safetensors")}
    calibrate_run(run, WANTED)
    assert {path: path.stat().st_ino for path in run.rglob("model.safetensors")} == before
    assert wanted_before(run) == WANTED
    calibrate_run(run, Wanted(score="doubt"))
    assert {path: path.stat().st_ino for path in run.rglob("model.safetensors")} != before
    (run / REPORT).write_text("[]")
    assert wanted_before(run) == Wanted()


@pytest.mark.parametrize("changed", ["recipe_digest", "dataset"])
def test_options_of_another_run_that_was_in_the_folder_are_not_taken(run, caplog, changed):
    calibrate_run(run, WANTED)
    for path in run.rglob("predictions.npz"):
        with np.load(path) as file:
            arrays = dict(file)
        about = json.loads(str(arrays["about"]))
        about[changed] = "other" if changed == "recipe_digest" else about[changed] | {"digest": "other"}
        np.savez(path, **arrays | {"about": json.dumps(about)})
        path.with_name("trial.json").unlink()
    assert wanted_before(run) == Wanted()
    (said,) = caplog.messages
    assert f"{run / REPORT}: is of another run (" in said
    assert "the default options are taken" in said


def test_a_calibration_of_an_earlier_version_is_taken_and_said_not_to_be_checked(run, caplog):
    say_once.cache_clear()
    for wanted in (WANTED, Wanted()):
        result = calibrate_run(run, wanted)
        write_state(run / REPORT, {name: value for name, value in result.items() if name != "of"})
        assert wanted_before(run) == wanted_before(run) == wanted
    (said,) = caplog.messages  # once, and not of the defaults
    assert f"{run / REPORT}: is of an earlier version" in said


@pytest.mark.parametrize("score", ["distance", "energy", "doubt"])
def test_serving_says_what_was_fitted(run, prepared, score):
    """The held-out clips again, from their files: the same novelty, verdicts and sets as from the saved arrays."""
    wanted = Wanted(score=score, false_alarms=0.1, coverage=0.9)
    calibrate_run(run, wanted)
    told, trials = calibrated_trials(run, wanted)
    place = next(n for n, one in enumerate(trials) if (one.about["fold"], one.about["seed"]) == (3, 1))
    classifier = load_classifier(_file(run, 3, 1))
    found = list(classifier.predict_files([prepared.dataset.root / clip for clip in trials[place].clips], first=True))
    threshold = classifier.card.calibration["unknown"]["threshold"]
    novelty = np.array([one.novelty for one in found])
    if score == "distance":
        np.testing.assert_allclose(novelty, trials[place].distance, rtol=2e-3)
    clear = np.abs(novelty / threshold - 1) > 2e-3
    assert clear.any()
    assert np.array_equal(np.array([one.unknown for one in found])[clear], told[place].unknown[clear])
    shares = [[dict(zip(p.classes, p.probabilities, strict=True))[c] for c in classifier.classes] for p in found]
    np.testing.assert_allclose(shares, told[place].after, atol=1e-3)
    sets = [[c in p.plausible for c in classifier.classes] for p in found]
    assert (np.array(sets) == told[place].prediction_sets).mean() > 0.99
    assert all(one.plausible == one.classes[: len(one.plausible)] for one in found), "a set is the most probable ones"
    alone = classifier.predict(prepared.dataset.root / trials[place].clips[0], first=True)
    assert alone.novelty == pytest.approx(found[0].novelty, rel=1e-4)


def test_the_published_file_takes_all_folds(run):
    publish_model(run, Trial(2, 0))
    result = calibrate_run(run, WANTED)
    card = load_card(run / "model.safetensors")
    assert card.calibration["folds"] == [1, 2, 3]
    assert card.calibration["own_held_out"] is True
    assert load_card(_file(run, 2)).calibration["folds"] == [1, 3], "the fold's own file stays honest"
    assert result["models"][-1]["path"] == "model.safetensors"
    assert result["models"][-1]["fold"] is None


def test_one_fold_calibrates_itself_and_every_figure_says_so(run, prepared):
    for fold in (1, 3):
        shutil.rmtree(run / f"fold-{fold}")
    result = calibrate_run(run, WANTED)
    assert result["optimistic"] is True
    assert "its clips calibrated" in result["notes"][0]
    assert "measured on the clips that calibrated" in calibration_lines(result)[0]
    scored = evaluate(load_classifier(_file(run, 2)), prepared.dataset)
    assert scored["confidence"]["calibrated_on_these"] is True
    assert "optimistic" in confidence_lines(scored["confidence"])[-1]


def test_evaluate_tells_of_the_held_out_fold_what_the_arrays_do(run, prepared):
    calibrate_run(run, WANTED)
    told, trials = calibrated_trials(run, WANTED)
    place = next(n for n, one in enumerate(trials) if (one.about["fold"], one.about["seed"]) == (1, 0))
    found = evaluate(load_classifier(_file(run, 1)), prepared.dataset, first=True)["confidence"]
    labels = trials[place].labels
    assert found["calibrated_on_these"] is False
    assert found["unknown"]["share"] == pytest.approx(told[place].unknown.mean(), abs=0.051)
    inside = told[place].prediction_sets[np.arange(len(labels)), labels].mean()
    assert found["coverage"]["reached"] == pytest.approx(inside, abs=0.051)
    right = told[place].after[np.arange(len(labels)), labels]
    assert found["log_loss"] == pytest.approx(-np.log(right).mean(), abs=1e-3)
    assert evaluate(load_classifier(_file(run, 1)), prepared.dataset, fold=2)["confidence"]["calibrated_on_these"]


def test_an_ensembles_novelty_is_the_mean_of_its_members(run, prepared, tmp_path, cpu):
    out = tmp_path / "ensemble"
    make_ensemble([run], out=out, device=cpu)
    result = calibrate_run(out, WANTED)
    assert result["score"] == "distance"
    sounds = [prepared.dataset.file(row) for row in range(0, 30, 7)]
    ours = load_classifier(out / "fold-2" / "seed-0" / "model.safetensors")
    calibrate_run(run, WANTED)
    members = [load_classifier(_file(run, 2, seed)) for seed in (0, 1)]
    mean = np.mean([[one.novelty for one in member.predict_files(sounds)] for member in members], axis=0)
    np.testing.assert_allclose([one.novelty for one in ours.predict_files(sounds)], mean, rtol=1e-4)
    assert load_card(out / "model.safetensors").calibration["folds"] == [1, 2, 3]
    stored = read_predictions(out / "fold-2" / "seed-0" / "predictions.npz")
    shares = softmax(stored.logits.astype(np.float64) / ours.card.temperature, axis=1)
    heard = list(ours.predict_files([prepared.dataset.root / clip for clip in stored.clips], first=True))
    np.testing.assert_allclose([one.probabilities[0] for one in heard], shares.max(axis=1), atol=1e-3)


def test_the_figure_and_the_lines(run, tmp_path):
    result = calibrate_run(run, WANTED)
    told, trials = calibrated_trials(run, WANTED)
    panels = {name: np.concatenate([getattr(one, name) for one in told]) for name in ("before", "after")}
    labels = np.concatenate([one.labels for one in trials])
    calibration_figure(panels, labels, path=tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    for name in ("before", "after"):
        assert f"{name}: calibration error {100 * result['figures']['ece'][name]:.1f} %" in text
    assert "stated coverage 90.0 %" in "\n".join(calibration_lines(result))
    assert calibration_line(result).startswith("calibrated: calibration error")


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"unknown": {"score": "luck", "threshold": 1.0}}, "calibration.unknown.score: found 'luck'"),
        ({"unknown": {"score": "energy", "threshold": float("inf")}}, "calibration.unknown.threshold: found inf"),
        ({"unknown": {"score": "energy"}}, "calibration.unknown.threshold is missing"),
        ({"unknown": "yes"}, "calibration.unknown: found 'yes'"),
        ({"sets": {"method": "lac", "threshold": "high"}}, "calibration.sets.threshold: found 'high'"),
        ({"unknown": {"score": "distance", "threshold": 1.0, "rate": 0.05}}, "asks for distances"),
    ],
)
def test_a_card_that_cannot_be_carried_out_is_refused(run, calibration, message):
    from dataclasses import replace

    from earsight.models.mahalanobis import attach_statistics

    card, network = load(_file(run, 1))
    attach_statistics(network, None)
    with pytest.raises(ModelError, match=message):
        Classifier(replace(card, calibration=calibration), network)


def test_a_run_that_is_none(tmp_path, run):
    with pytest.raises(RunError, match="no such run folder"):
        calibrate_run(tmp_path / "absent", WANTED)
    _file(run, 1).write_bytes(b"damaged")
    with pytest.raises(ModelError, match="fold-1"):
        calibrate_run(run, WANTED)


def test_a_model_of_before_is_calibrated_without_distances(run):
    """Model files and predictions that have none: energies tell, and the files stay as they were but for the card."""
    for path in run.rglob("predictions.npz"):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "distance"}
        about = json.loads(str(arrays.pop("about")))
        del about["arrays"]  # which there are was not written either
        np.savez(path, **arrays, about=np.array(json.dumps(about)))
    assert calibrate_run(run, WANTED)["score"] == "energy"
    assert load_card(_file(run, 1)).calibration["unknown"]["score"] == "energy"


def test_listening_loads_no_training_code_and_none_of_the_heavy_tools(run, synthetic_folder):
    """`earsight.load` and a calibrated prediction, in a process of its own."""
    calibrate_run(run, WANTED)
    sound = open_dataset(synthetic_folder).file(0)
    code = (
        "import sys, earsight\n"
        f"found = earsight.load({str(_file(run, 1))!r}).predict({str(sound)!r})\n"
        "assert found.novelty is not None and found.plausible\n"
        "heavy = ('earsight.training', 'earsight.analysis', 'earsight.experiments', 'ray', 'captum', 'matplotlib',"
        " 'scipy', 'sklearn', 'fastapi', 'onnx')\n"
        "print(sorted(name for name in sys.modules if name in heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_holds_what_it_says_and_no_more(run):
    calibrate_run(run, WANTED)
    with safe_open(_file(run, 1), framework="pt") as file:
        ours = [name for name in file.keys() if not name.startswith("model.")]  # noqa: SIM118
        tree = json.loads(file.metadata()["earsight"])["card"]
    assert sorted(ours) == ["reference.0.directions", "reference.0.means", "reference.0.variances"]
    assert set(tree["calibration"]) == {"unknown", "sets", "clips", "folds", "own_held_out"}


def test_classes_that_do_not_reach_the_precision_are_named():
    models = [{"thresholds": {"dog": {"reached": reached}, "rain": {"reached": 0.95}}} for reached in (0.8, 0.5)]
    wanted = Wanted(threshold_rule="precision=0.9")
    assert _missed(models, wanted) == ["No threshold reaches precision=0.9 for dog (0.50): theirs come nearest."]
    assert _missed(models, Wanted(threshold_rule="best-f1")) == []
    assert _missed([{}], wanted) == []


def test_a_trial_without_done_is_named(run, caplog):
    (run / "fold-2" / "seed-1" / "DONE").unlink()
    assert len(read_run(run)) == 5
    assert "1 trial without DONE left out (fold-2/seed-1)" in caplog.text


def test_a_trial_whose_folder_is_gone_is_named(run, caplog):
    """By every verb that reads a run: its summary knows which trials there were."""
    write_summary(run, machine={})
    assert len(read_run(run)) == 6
    assert not caplog.text
    shutil.rmtree(run / "fold-2" / "seed-1")
    assert len(read_run(run)) == 5
    assert f"{run}: fold-2/seed-1, of which summary.json tells, is not there" in caplog.text
