"""`check --run`: which labels a run's held-out predictions contradict."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from earsight.data.layouts import open_dataset
from earsight.evaluation import summary
from earsight.evaluation.summary import Predictions
from test_cli import invoke

WRONG = 7


@pytest.fixture
def run(synthetic, tmp_path, monkeypatch):
    """A run of two seeds that is right about every clip; the csv has another label for one."""
    rows = [(str(synthetic.file(row)), clip.label, clip.fold, clip.group) for row, clip in enumerate(synthetic.clips)]
    others = [label for label in synthetic.classes if label != rows[WRONG][1]]
    path, label, *rest = rows[WRONG]
    rows[WRONG] = (path, others[0], *rest)
    data = tmp_path / "clips.csv"
    data.write_text("\n".join(["path,label,fold,group", *(",".join(map(str, row)) for row in rows)]))
    dataset = open_dataset(data)
    trials = []
    for seed in range(2):
        for fold in dataset.fold_numbers:
            held = np.flatnonzero(dataset.folds == fold)
            logits = np.random.default_rng([seed, fold]).normal(size=(len(held), len(dataset.classes)))
            logits += (
                7 * np.eye(len(dataset.classes))[[dataset.classes.index(synthetic.clips[row].label) for row in held]]
            )
            names = np.array([dataset.clips[row].path for row in held])
            about = {"fold": fold, "seed": seed}
            labels = dataset.labels[held]
            trials.append(Predictions(names, labels, logits.astype(np.float32), dataset.classes, about))
    monkeypatch.setattr(summary, "read_run", lambda folder: trials)
    return SimpleNamespace(data=data, trials=trials, dataset=dataset, true=label, given=others[0])


def test_a_wrong_label_is_named_with_the_likelier_one(run, tmp_path):
    shown = invoke("check", run.data, "--run", tmp_path / "run", "--no-near")
    (line,) = [line for line in shown.stdout.splitlines() if "suspected_label" in line]
    assert re.search(rf"labelled {run.given}, but held out it has \d+% for {run.true} and \d+% for {run.given}: ", line)
    assert run.dataset.clips[WRONG].path in line
    assert "1 label suspected, from held-out predictions of 100 of 100 clips by 2 seeds; more seeds" in shown.stdout


def test_json_has_the_numbers(run, tmp_path):
    found = json.loads(invoke("check", run.data, "--run", tmp_path / "run", "--no-near", "--json").stdout)
    (suspect,) = found["suspected_labels"]
    assert suspect["clip"] == run.dataset.clips[WRONG].path
    assert (suspect["label"], suspect["likelier"], suspect["trials"]) == (run.given, run.true, 2)
    assert suspect["probability"] > 0.9 > 0.1 > suspect["probability_of_label"]
    assert found["counts"]["suspected_label"] == 1
    assert "suspected_labels" not in json.loads(invoke("check", run.data, "--no-near", "--json").stdout)


@pytest.mark.parametrize(("change", "words"), [("name", "not in this data set"), ("label", "labelled")])
def test_a_run_on_other_clips_is_refused(run, tmp_path, change, words):
    one = run.trials[0]
    if change == "name":
        one.clips[0] = "other.wav"
    else:
        one.labels[0] = (one.labels[0] + 1) % len(one.classes)
    shown = invoke("check", run.data, "--run", tmp_path / "run", code=2)
    assert words in shown.stderr
    assert "name a run on this data set as it is now" in " ".join(shown.stderr.split())
    assert "checking:" not in shown.stderr, "the sounds were read first"


def test_a_real_run(trained, synthetic_folder):
    shown = invoke("check", synthetic_folder, "--run", trained.parents[1], "--no-near")
    assert "from held-out predictions of 20 of 100 clips by 1 seed; more seeds" in shown.stdout
