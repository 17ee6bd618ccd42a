"""Evaluating a model file: which clips, what was seen in training, and figures by another computation."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from earsight.data.layouts import open_dataset
from earsight.errors import DataError
from earsight.evaluation.summary import read_predictions
from earsight.inference.classifier import load_classifier
from earsight.inference.scoring import evaluate
from earsight.training.preparation import hold_out, prepare
from earsight.training.trial import Trial, run_trial


@pytest.fixture(scope="module")
def classifier(trained):
    return load_classifier(trained / "model.safetensors")


def test_the_held_out_fold_is_the_default(classifier, trained, synthetic):
    seen = []
    found = evaluate(classifier, synthetic, progress=lambda done, total: seen.append((done, total)))
    stored = read_predictions(trained / "predictions.npz")
    assert (found["fold"], found["clips"], found["seen_in_training"], found["held_out"]) == (2, 20, False, True)
    assert found["accuracy"]["mean"] == pytest.approx(stored.correct.mean())
    precision, recall, f1, support = precision_recall_fscore_support(
        stored.labels, stored.logits.argmax(1), labels=range(10), zero_division=0
    )
    assert [row["name"] for row in found["classes"]] == list(synthetic.classes)
    np.testing.assert_allclose([row["recall"] for row in found["classes"]], recall)
    np.testing.assert_allclose([row["precision"] for row in found["classes"]], precision)
    assert [row["clips"] for row in found["classes"]] == support.tolist()
    assert found["macro_f1"] == pytest.approx(f1.mean())
    assert seen[-1] == (20, 20)


def test_another_fold_was_seen_in_training(classifier, synthetic):
    found = evaluate(classifier, synthetic, fold=3)
    assert (found["fold"], found["clips"], found["seen_in_training"], found["held_out"]) == (3, 20, True, False)


def test_the_same_clips_in_other_folds_are_reported_too(classifier, synthetic):
    """The folds do not tell which clips were held out, so that nobody may take the figure for a held-out one."""
    clips = tuple(replace(clip, fold=1 + row % 2) for row, clip in enumerate(synthetic.clips))
    found = evaluate(classifier, replace(synthetic, clips=clips))
    assert (found["fold"], found["clips"], found["seen_in_training"], found["held_out"]) == (None, 100, True, False)


def test_clips_that_a_model_held_out_by_its_seed_are_found_again(synthetic, tiny_recipe, tmp_path):
    split = hold_out(synthetic, seed=3)
    ready = prepare(split, tiny_recipe, workers=1)
    folder = run_trial(ready, Trial(fold=1, seed=3), run=tmp_path / "run", device=torch.device("cpu"))
    stored = read_predictions(folder / "predictions.npz")
    classifier = load_classifier(folder / "model.safetensors")
    found = evaluate(classifier, synthetic)
    assert (found["fold"], found["clips"], found["seen_in_training"], found["held_out"]) == (None, 20, False, True)
    assert found["accuracy"]["mean"] == pytest.approx(stored.correct.mean())
    whole = evaluate(classifier, synthetic, fold=1)
    trained_on = {clip.path for clip in split.clips if clip.fold == 2}
    assert whole["seen_in_training"] == any(c.path in trained_on for c in synthetic.clips if c.fold == 1)


def test_another_data_set_is_taken_whole(classifier, synthetic, synthetic_folder, tmp_path):
    lines = ["path,label,fold", *(f"{synthetic.file(r)},{synthetic.clips[r].label},{r % 2}" for r in range(30))]
    (tmp_path / "other.csv").write_text("\n".join(lines))
    found = evaluate(classifier, open_dataset(tmp_path / "other.csv"))
    assert (found["fold"], found["clips"], found["seen_in_training"], found["held_out"]) == (None, 30, None, False)


def test_sources_of_the_clips_are_redrawn_and_figures_are_set_against_the_commonest_class(classifier, synthetic):
    found = evaluate(classifier, synthetic)
    assert found["groups"]["count"] == len(set(synthetic.groups[synthetic.folds == 2].tolist())) < 20
    blind = replace(synthetic, clips=tuple(replace(clip, group=clip.path) for clip in synthetic.clips))
    alone = evaluate(classifier, blind, fold=2)
    assert alone["groups"] is None
    assert alone["accuracy"]["mean"] == found["accuracy"]["mean"]
    (low, high), (below, above) = alone["accuracy"]["ci95"], found["accuracy"]["ci95"]
    assert below <= low < high <= above
    assert above - below > high - low
    stored = {row["name"]: row["recall"] for row in found["classes"]}
    assert found["balanced_accuracy"] == pytest.approx(np.mean(list(stored.values())))
    assert found["majority"]["share"] == pytest.approx(0.1)


@pytest.mark.parametrize("column", ["", ",fold"])
@pytest.mark.parametrize("label", ["chirp_down", None])
def test_ordinary_test_sets_need_no_folds(classifier, synthetic, tmp_path, column, label):
    """One clip a class, one class, one fold: as they come."""
    rows = [row for row, clip in enumerate(synthetic.clips) if clip.label == label or label is None]
    rows = (
        rows[:3] if label else [next(r for r in rows if synthetic.clips[r].label == name) for name in synthetic.classes]
    )
    lines = [f"path,label{column}"]
    lines += [f"{synthetic.file(row)},{synthetic.clips[row].label}{',1' if column else ''}" for row in rows]
    (tmp_path / "test.csv").write_text("\n".join(lines))
    found = evaluate(classifier, open_dataset(tmp_path / "test.csv", folds=None, testing=True))
    assert found["clips"] == len(rows)
    assert (found["majority"] is None) == bool(label)


def test_labels_that_the_model_does_not_know(classifier, synthetic, tmp_path):
    lines = ["path,label,fold", *(f"{synthetic.file(r)},{'cat' if r % 4 else 'owl'},{r % 3}" for r in range(24))]
    (tmp_path / "cats.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"does not know cat, owl; its classes are chirp_down"):
        evaluate(classifier, open_dataset(tmp_path / "cats.csv"))


def test_a_fold_that_is_not_there(classifier, synthetic):
    with pytest.raises(DataError, match=r"fold 9: not in this data set; its folds are \[1, 2, 3, 4, 5\]"):
        evaluate(classifier, synthetic, fold=9)


def test_bad_clips_stop_it_or_are_left_out(classifier, synthetic_folder, tmp_path):
    copy = shutil.copytree(synthetic_folder, tmp_path / "copy")
    dataset = open_dataset(copy)
    bad = next(row for row, clip in enumerate(dataset.clips) if clip.fold == 2)
    dataset.file(bad).write_text("hello")
    with pytest.raises(DataError, match=r"1 of 20 clips cannot be read: .*a text file") as caught:
        evaluate(classifier, dataset)
    assert "skip_bad" in str(caught.value)
    found = evaluate(classifier, dataset, skip_bad=True)
    assert found["clips"] == 19
    assert len(found["skipped"]) == 1
    assert found["skipped"][0].startswith(dataset.clips[bad].path)
    for row in np.flatnonzero(dataset.folds == 2):
        dataset.file(int(row)).write_text("hello")
    with pytest.raises(DataError, match="20 of 20 clips cannot be read"):
        evaluate(classifier, dataset, skip_bad=True)


def test_events_of_recordings_against_annotations(tmp_path):
    """A stand-in finds what it is asked to; each recording counts, also the one without an annotation."""
    from earsight.evaluation.event_scores import Span
    from earsight.inference.predictions import Event
    from earsight.inference.scoring import evaluate_events

    class Finder:
        classes = ("dog", "cat")

        def events(self, path, *, hop_seconds, rules):
            assert hop_seconds == 0.5
            found = {"a.wav": [Event("dog", 1.2, 2.0, 0.9, 0.9, 3)], "b.wav": [Event("cat", 5.0, 6.0, 0.9, 0.9, 1)]}
            return iter(found[path.relative_to(tmp_path).as_posix()])

    truth = [Span("a.wav", 1.0, 2.0, "dog"), Span("a.wav", 8.0, 9.0, "cat")]
    steps = []
    found = evaluate_events(
        Finder(),
        tmp_path,
        truth,
        {"a.wav": 1800.0, "b.wav": 1800.0},
        hop_seconds=0.5,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert (found["matched"], found["sounds"], found["events"], found["false_an_hour"]) == (1, 2, 2, 1.0)
    assert found["onset_error"]["mean"] == pytest.approx(0.2)
    assert (found["recordings"], found["hop_seconds"], steps) == (2, 0.5, [(1, 2), (2, 2)])
    with pytest.raises(DataError, match="does not know frog"):
        evaluate_events(Finder(), tmp_path, [Span("a.wav", 0.0, 1.0, "frog")], {"a.wav": 10.0})
