"""Ensembles of trained members: the files hold what the table has, by computations of their own."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from earsight.ensembles.build import make_ensemble
from earsight.errors import RunError
from earsight.evaluation.summary import read_predictions, read_run, write_summary
from earsight.inference import scoring
from earsight.inference.classifier import load_classifier
from earsight.inference.scoring import WARM_UP, evaluate, milliseconds_per_clip
from earsight.models.modelfile import load_card
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial

CPU = torch.device("cpu")
FOLDS, SEEDS = (1, 2), (0, 1, 2)


def _rows(result):
    return {row["method"]: row for row in result["rows"]}


def _member(run, fold, seed):
    return run / f"fold-{fold}" / f"seed-{seed}" / "model.safetensors"


def _waves(classifier, count=6):
    return np.random.default_rng(0).normal(0, 0.1, (count, classifier.samples)).astype(np.float32)


def test_the_table_has_a_row_for_every_way_and_agrees_with_the_summary(made, run):
    rows = _rows(made[1])
    assert list(rows) == ["single", "average", "greedy"]
    summary = write_summary(run, machine={})
    assert rows["single"]["accuracy"]["mean"] == pytest.approx(summary["accuracy"]["mean"])
    assert rows["single"]["accuracy"]["std"] == pytest.approx(summary["accuracy"]["std_over_seeds"])
    assert rows["average"]["accuracy"]["mean"] == pytest.approx(summary["ensemble"]["accuracy"])
    assert rows["average"]["gain"] == summary["ensemble"]["gain"]
    assert rows["average"]["networks"] == 3
    assert 1 <= rows["greedy"]["networks"] <= 3
    assert all(row["milliseconds_per_clip"] > 0 for row in rows.values())


def test_a_folds_file_is_the_mean_of_that_folds_members_and_never_saw_the_fold(made, run, synthetic):
    out, _ = made
    for fold in FOLDS:
        path = out / f"fold-{fold}" / "seed-0" / "model.safetensors"
        ours = load_classifier(path)
        waves = _waves(ours)
        members = [load_classifier(_member(run, fold, seed)).probabilities(waves) for seed in SEEDS]
        np.testing.assert_allclose(ours.probabilities(waves), np.mean(members, axis=0), atol=1e-5)
        stored = read_predictions(path.with_name("predictions.npz"))
        trials = [t for t in read_run(run) if t.about["fold"] == fold]
        expected = np.mean([softmax(t.logits.astype(np.float64), axis=1) for t in trials], axis=0)
        np.testing.assert_allclose(softmax(stored.logits.astype(np.float64), axis=1), expected, atol=1e-6)
        scored = evaluate(ours, synthetic)
        assert (scored["fold"], scored["held_out"], scored["seen_in_training"]) == (fold, True, False)
        assert scored["accuracy"]["mean"] == pytest.approx(stored.correct.mean())
        assert ours.card.trained_on["held_out_accuracy"] == pytest.approx(stored.correct.mean())
        assert ours.card.trained_on["seen"] == f"every clip outside fold {fold}"


def test_the_deployed_file_is_the_mean_of_all_members_and_saw_every_clip(made, run, synthetic):
    out, result = made
    ours = load_classifier(out / "model.safetensors")
    assert (len(ours.card.members), result["model"]["networks"]) == (6, 6)
    waves = _waves(ours)
    members = [load_classifier(_member(run, fold, seed)).probabilities(waves) for fold in FOLDS for seed in SEEDS]
    np.testing.assert_allclose(ours.probabilities(waves), np.mean(members, axis=0), atol=1e-5)
    scored = evaluate(ours, synthetic)
    assert (scored["fold"], scored["held_out"], scored["seen_in_training"]) == (None, False, True)
    assert scored["clips"] == len(synthetic.clips)
    assert ours.card.trained_on["seen"] == result["model"]["seen"] == "every clip of the data set"
    assert ours.predict(synthetic.file(0)).label in ours.classes


def test_the_greedy_choice_is_written_too(run, synthetic, tmp_path):
    result = make_ensemble([run], out=tmp_path / "e", device=CPU, method="greedy")
    scores = []
    for fold in FOLDS:
        classifier = load_classifier(tmp_path / "e" / f"fold-{fold}" / "seed-0" / "model.safetensors")
        chosen = result["chosen"]["greedy"][str(fold)]
        assert len(classifier.card.members or (1,)) == len(chosen)
        assert sum(member["weight"] for member in chosen) == pytest.approx(1)
        scores.append(evaluate(classifier, synthetic)["accuracy"]["mean"])
    assert np.mean(scores) == pytest.approx(_rows(result)["greedy"]["accuracy"]["mean"])
    assert load_classifier(tmp_path / "e" / "model.safetensors").predict(synthetic.file(0)).label


def test_one_fold_has_no_greedy_way_and_its_file_is_the_folds(run, tmp_path):
    result = make_ensemble([run], out=tmp_path / "e", device=CPU, fold=2)
    assert list(_rows(result)) == ["single", "average"]
    assert "no greedy row" in " ".join(result["notes"])
    ours = (tmp_path / "e" / "model.safetensors").read_bytes()
    assert ours == (tmp_path / "e" / "fold-2" / "seed-0" / "model.safetensors").read_bytes()
    assert result["model"]["seen"] == "every clip outside fold 2"
    with pytest.raises(RunError, match="method greedy: cannot be made here; One fold"):
        make_ensemble([run], out=tmp_path / "f", device=CPU, fold=2, method="greedy")
    for method, words in (("soup", "were removed.*average or greedy"), ("best", "expected average or greedy")):
        with pytest.raises(RunError, match=f"method {method}: .*{words}"):
            make_ensemble([run], out=tmp_path / "f", device=CPU, method=method)
    assert not (tmp_path / "f").exists()


def test_members_of_another_architecture_join_the_ensemble(run, synthetic, recipe, tmp_path):
    other = prepare(synthetic, recipe.override(["backbone.name=test_efficientnet", "backbone.weights=none"]), workers=1)
    run_trial(other, Trial(1, 0), run=tmp_path / "other", device=CPU)
    result = make_ensemble([run, tmp_path / "other"], out=tmp_path / "e", device=CPU)
    assert list(_rows(result)) == ["single", "average"]
    assert result["folds"] == [1]
    names = [card.recipe.backbone.name for card in load_card(tmp_path / "e" / "model.safetensors").members]
    assert names == ["test_resnet"] * 3 + ["test_efficientnet"]


def test_what_cannot_be_combined(run, made, tmp_path):
    def refused(message, runs, **more):
        with pytest.raises(RunError, match=message) as caught:
            make_ensemble(runs, **{"out": tmp_path / "e", "device": CPU, **more})
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "e").exists()

    refused("a run is given twice", [run, run.parent / "." / "mine"])
    refused("is an ensemble itself; name the runs of its members", [made[0]])
    refused("no such run folder", [tmp_path / "absent"])
    (tmp_path / "notes.txt").write_text("mine")
    refused("is no ensemble of earsight; name another folder", [run], out=tmp_path)
    refused("is no ensemble of earsight", [run], out=tmp_path / "notes.txt")
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "fold-1" / "seed-1" / "model.safetensors").write_bytes(b"")
    with pytest.raises(Exception, match=r"seed-1/model\.safetensors: is empty"):
        make_ensemble([copy], out=tmp_path / "e", device=CPU)


def test_time_for_a_clip_is_the_median_of_single_clips_after_a_warm_up(made, monkeypatch):
    classifier = load_classifier(made[0] / "model.safetensors")
    shapes, ticks = [], iter([*[0.0] * WARM_UP, 0.0, 0.010, 1.0, 1.030, 2.0, 2.020])
    monkeypatch.setattr(classifier, "probabilities", lambda waves: shapes.append(waves.shape))
    monkeypatch.setattr(scoring, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert milliseconds_per_clip(classifier, repeats=3) == pytest.approx(20.0)
    assert shapes == [(1, classifier.samples)] * (WARM_UP + 3)
