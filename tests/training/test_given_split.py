"""Training on a data set that brings its own parts: test is held out, validation chooses and trains nothing."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from earsight.calibration.temperature import fit_temperature
from earsight.cli import app
from earsight.data import open_dataset
from earsight.errors import DataError
from earsight.evaluation.summary import read_predictions, read_run
from earsight.training import trial as trial_module
from earsight.training.preparation import hold_out, prepare
from earsight.training.trial import Trial, check_rows, inner_split, run_inner, run_trial

RATE = 8000
TINY = [
    *("--set", "backbone.name=test_resnet", "--set", "backbone.weights=none", "--set", "training.epochs=1"),
    *("--set", "features.bands=32", "--set", "features.frames=32", "--set", "augment.pitch_semitones=0"),
    *("--threads", "1"),
]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Two classes in three parts of different sizes: tones beside noise."""
    root = tmp_path_factory.mktemp("given") / "set"
    for part, count in (("train", 6), ("validation", 3), ("test", 4)):
        for label in ("noise", "tone"):
            (root / part / label).mkdir(parents=True)
            for n in range(count):
                draws = np.random.default_rng(sum(map(ord, part + label)) + n)
                wave = draws.normal(size=RATE) if label == "noise" else np.sin(np.arange(RATE) * draws.uniform(0.2, 1))
                soundfile.write(root / part / label / f"{n}.wav", 0.1 * wave, RATE)
    return root


@pytest.fixture
def asked(monkeypatch):
    """The rows that `fit` is given: to train on, and to score each epoch."""
    seen = {}
    original = trial_module.fit

    def spy(model, data, rows, **kwargs):
        seen.update(train=rows, score=kwargs["score_rows"])
        return original(model, data, rows, **kwargs)

    monkeypatch.setattr(trial_module, "fit", spy)
    return seen


def parts(dataset, rows):
    return {dataset.clips[row].path.split("/")[0] for row in rows}


@pytest.mark.parametrize("protocol", ["last", "inner", "test"])
def test_each_part_has_its_use(sounds, tiny, cpu, tmp_path, asked, protocol):
    prepared = prepare(open_dataset(sounds), tiny("training.epochs=1", f"training.protocol={protocol}"))
    folder = run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu)
    dataset = prepared.dataset
    assert parts(dataset, asked["train"]) == {"train"}
    assert len(asked["train"]) == 12
    found = read_predictions(folder / "predictions.npz")
    assert {path.split("/")[0] for path in found.clips} == {"test"}
    assert len(found.clips) == 8
    if protocol == "last":
        assert asked["score"] is None
    else:
        assert parts(dataset, asked["score"]) == {"validation" if protocol == "inner" else "test"}


def test_a_search_judges_by_validation(sounds, tiny, cpu, tmp_path, asked):
    prepared = prepare(open_dataset(sounds), tiny("training.epochs=1"))
    run_inner(prepared, Trial(1, 0), run=tmp_path, device=cpu)
    assert (parts(prepared.dataset, asked["train"]), parts(prepared.dataset, asked["score"])) == (
        {"train"},
        {"validation"},
    )
    train, inner = inner_split(prepared, 1)
    assert (len(train), len(inner)) == (12, 6)


def test_only_the_test_part_is_held_out(sounds):
    dataset = open_dataset(sounds)
    assert hold_out(dataset, seed=3) is dataset
    for fold in (2, 3):
        with pytest.raises(DataError, match=r"the folds are \[1\]"):
            check_rows(dataset, fold, np.flatnonzero(dataset.training(fold)), np.flatnonzero(dataset.folds == fold))


def invoke(*args, code=0):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, f"{result.exit_code}: {result.stderr} {result.exception!r}"
    return result


def test_the_verbs(sounds, tmp_path):
    run = tmp_path / "run"
    done = invoke("train", sounds, "--out", run, *TINY, "--json")
    told = " ".join(done.stderr.split())
    assert "26 clips, 2 classes, 12 train, 6 validation, 8 test" in told
    assert "held out: 8 of 26 clips, the data set's own test part" in told
    assert "stratified" not in told
    assert (
        "note: The part that was held out calibrated, for there is no validation part beside it of 19 clips or more"
        in told
    )
    assert "crossval" not in told
    evaluated = json.loads(invoke("evaluate", run / "model.safetensors", sounds, "--json", "--threads", 1).stdout)
    assert (evaluated["clips"], evaluated["held_out"], evaluated["fold"]) == (8, True, 1)
    assert evaluated["part"] == "test"
    text = invoke("evaluate", run / "model.safetensors", sounds, "--threads", 1).stdout
    assert "8 clips of the test part, held out in training" in " ".join(text.split())
    summary = json.loads(done.stdout)
    assert evaluated["accuracy"]["mean"] == summary["accuracy"]["mean"]
    refused = " ".join(invoke("crossval", sounds, "--out", tmp_path / "cv", *TINY, code=2).stderr.split())
    assert "brings its own test part, so that no folds can be held out in turn; use `earsight train`" in refused
    assert not (tmp_path / "cv").exists()
    # The way out that it names.
    pattern = "{part}/{label}/{name}"
    pooled = invoke("crossval", sounds, "--out", tmp_path / "cv", *TINY, "--label-from", pattern, "--splits", 2)
    assert "2 stratified folds" in " ".join(pooled.stderr.split())
    assert "the folds are [1]" in invoke("train", sounds, "--out", tmp_path / "r2", "--fold", 2, *TINY, code=2).stderr


def test_files_that_a_table_names_in_vain(sounds, tmp_path):
    rows = [f"test/{label}/{n}.wav,{label}" for label in ("noise", "tone") for n in range(5)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    listed = [tmp_path / "list.csv", "--root", sounds]
    assert "2 of 10 files do not exist" in invoke("train", *listed, "--out", tmp_path / "run", *TINY, code=2).stderr
    left = invoke("train", *listed, "--out", tmp_path / "run", *TINY, "--skip-bad")
    assert "2 of 10 files do not exist (test/noise/4.wav, test/tone/4.wav): left out" in " ".join(left.stderr.split())
    assert "2 unusable clips were left out" in " ".join(left.stdout.split())
    checked = invoke("check", *listed, code=2)
    assert "error: missing: 2 files of the table not there" in checked.stdout
    assert "1 error" in checked.stdout


def test_a_validation_part_of_enough_clips_calibrates(tmp_path):
    """Its temperature is that of the validation clips alone, and the test clips test it."""
    root = tmp_path / "set"
    for part, count in (("train", 4), ("validation", 10), ("test", 4)):
        for label, low in (("noise", 0.1), ("tone", 0.9)):
            (root / part / label).mkdir(parents=True)
            for n in range(count):
                draws = np.random.default_rng(sum(map(ord, part + label)) + n)
                tone = np.sin(np.arange(RATE) * draws.uniform(0.2, 1))
                mixed = low * tone + (1 - low) * draws.normal(size=RATE)
                soundfile.write(root / part / label / f"{n}.wav", 0.1 * mixed, RATE)
    run, inner = tmp_path / "run", ["--set", "training.protocol=inner"]
    told = " ".join(invoke("train", root, "--out", run, *TINY, *inner).stderr.split())
    assert "validation part calibrated, so that the test part tests that too. It chose the epoch as well" in told
    assert "optimistic" not in told
    folder = run / "fold-1" / "seed-0"
    (trial,), validation = read_run(run), read_predictions(folder / "validation.npz")
    assert {path.split("/")[0] for path in validation.clips} == {"validation"}
    assert len(validation.distance) == len(validation.clips) == 20
    np.testing.assert_array_equal(trial.validation.logits, validation.logits)
    report = json.loads((run / "calibration.json").read_text())
    assert report["optimistic"] is False
    assert [(one["clips"], one["folds"], one["own_held_out"]) for one in report["models"]] == [(20, [3], False)]
    wanted = fit_temperature(validation.logits, validation.labels)
    assert [one["temperature"] for one in report["models"]] == [pytest.approx(wanted)]
    model = run / "model.safetensors"
    tested = invoke("evaluate", model, root, "--json", "--threads", 1)
    assert json.loads(tested.stdout)["confidence"]["calibrated_on_these"] is False
    shown = " ".join(invoke("evaluate", model, root, "--fold", 3, "--threads", 1).stdout.split())
    assert "20 clips of the validation part" in shown
    assert "Some of these clips calibrated the model" in shown
    assert "trained on" not in shown
    invoke("report", run, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "after temperature scaling" in page
    assert "The temperature was fitted to the data set's validation part." in page
    assert "fitted to these very clips" not in page
    (folder / "validation.npz").write_bytes((folder / "predictions.npz").read_bytes())
    assert "is of another trial than predictions.npz beside it" in invoke("calibrate", run, code=2).stderr
