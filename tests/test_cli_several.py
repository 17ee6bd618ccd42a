"""Several labels a clip as a user has them: train, calibrate, predict in every form, evaluate, compare; refusals."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from several_clips import RATE, wave, write_several

from earsight.inference.classifier import load_classifier
from earsight.models.mahalanobis import statistics_of
from earsight.models.modelfile import load, load_card, save
from test_cli import invoke

THREAD = ["--threads", "1"]
SMALL = ("features.sample_rate_hz=8000", "features.clip_seconds=0.5", "features.frames=32", "features.bands=32")
SMALL += ("backbone.name=test_resnet", "backbone.weights=none", "augment.pitch_semitones=0", "augment.mixup=0.2")
SETS = [part for one in (*SMALL, "training.epochs=12", "training.learning_rate=0.005") for part in ("--set", one)]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_several(tmp_path_factory.mktemp("several") / "clips", clips=60)


@pytest.fixture(scope="module")
def run(table) -> tuple[Path, str]:
    """A run of three folds and what it printed."""
    folder = table.parents[1] / "run"
    result = invoke("crossval", table, "--out", folder, *SETS, *THREAD)
    return folder, result.output


def test_crossval_says_what_it_learns_and_how_well(run):
    folder, said = run
    assert "several labels a clip" in said
    assert "Each class is learnt by itself, by a sigmoid; --labels single" in said
    assert "mean average precision" in said
    assert "AUROC" in said
    assert "micro F1 at the classes' thresholds" in said
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["average_precision"]["mean"] > 0.8
    low, high = summary["average_precision"]["ci95"]
    assert low <= summary["average_precision"]["mean"] <= high
    assert summary["groups"] == {"count": 30, "few": False}
    assert [row["name"] for row in summary["classes"]] == ["high", "low", "middle"]
    assert "accuracy" not in summary
    # Again changes nothing.
    before = (folder / "summary.json").read_bytes()
    invoke("summary", folder)
    assert (
        json.loads(before)["average_precision"]
        == json.loads((folder / "summary.json").read_text())["average_precision"]
    )


@pytest.fixture(scope="module")
def model(run) -> Path:
    return run[0] / "fold-1" / "seed-0" / "model.safetensors"


def test_calibration_is_kept_in_the_model_file(run, model):
    card = load_card(model)
    assert card.several
    assert len(card.temperatures) == 3
    assert set(card.thresholds) == {"high", "low", "middle"}
    assert card.thresholds["low"]["rule"] == "best-f1"
    assert 0 <= card.thresholds["low"]["ci95"][0] <= card.thresholds["low"]["ci95"][1] <= 1
    assert card.calibration["unknown"]["score"] == "distance"
    assert "sets" not in card.calibration
    notes = json.loads((run[0] / "calibration.json").read_text())["notes"]
    assert any("a set of which one holds is not defined" in note for note in notes)
    said = invoke("calibrate", run[0], "--threshold-rule", "precision=0.8").stdout
    assert "classes named at their thresholds (precision=0.8)" in said
    assert load_card(model).thresholds["low"]["rule"] == "precision=0.8"
    assert (run[0] / "calibration.png").stat().st_size > 1000
    assert "expected best-f1, precision=P" in invoke("calibrate", run[0], "--threshold-rule", "x", code=2).output
    dropped = "note: the last calibration had --threshold-rule precision=0.8, this one has auto"
    assert dropped in invoke("calibrate", run[0]).stderr
    assert "note: the last" not in invoke("calibrate", run[0]).stderr
    assert load_card(model) == card


@pytest.fixture(scope="module")
def without(run, model) -> Path:
    """The same model without its OOD threshold: a network as small as this calls most sounds unknown."""
    card, network = load(model)
    path = run[0].parent / "without.safetensors"
    save(path, state=network.state_dict(), card=dataclasses.replace(card, calibration={}))
    return path


def known(model, names):
    """A sound of these classes in which the model names just them."""
    classifier = load_classifier(model)
    for seed in range(900, 960):
        made = wave(names, seed=seed)
        if set(classifier.predict(made, rate=RATE).named) == set(names):
            return made
    raise AssertionError(f"no sound of {names} is known as such")


@pytest.fixture
def sound(without, tmp_path) -> Path:
    path = tmp_path / "both.wav"
    soundfile.write(path, known(without, ("low", "high")), RATE, subtype="FLOAT")
    return path


def test_predict_names_what_sounds_in_every_form(without, sound, tmp_path):
    model = without
    found = load_classifier(model).predict(sound)
    assert set(found.named) == {"low", "high"}
    text = invoke("predict", model, sound, *THREAD).stdout.strip().split("\t")
    assert [word.split()[0] for word in text[1:]] == list(found.named)
    shown = invoke("predict", model, sound, "--top", "3", *THREAD).stdout
    assert "(middle " in shown
    (row,) = csv.DictReader(invoke("predict", model, sound, "--csv", *THREAD).stdout.splitlines(), strict=True)
    assert row["labels"] == ";".join(found.named)
    assert row["label"] == found.label
    shares = dict(zip(found.classes, found.probabilities, strict=True))
    assert {name: float(row[f"p_{name}"]) for name in shares} == pytest.approx(shares, abs=1e-5)
    line = json.loads(invoke("predict", model, sound, "--json", *THREAD).stdout)
    assert line["labels"] == list(found.named)
    assert line["classes"] == pytest.approx(shares, abs=1e-5)
    assert sum(shares.values()) > 1.2
    quiet = tmp_path / "none.wav"
    soundfile.write(quiet, known(model, ()), RATE, subtype="FLOAT")
    silent = load_classifier(model).predict(quiet)
    assert (silent.named, silent.answer) == ((), "none")
    assert "none (nearest: " in invoke("predict", model, quiet, *THREAD).stdout


def test_recordings_have_windows_and_events_of_each_class(without, tmp_path):
    model = without
    path = tmp_path / "long.wav"
    names = [(), ("low",), ("low", "high"), ("high",), ()]
    soundfile.write(path, np.concatenate([known(model, one) for one in names]), RATE, subtype="FLOAT")
    out = invoke("predict", model, path, "--hop", "0.5", "--format", "raven", "--rows", "windows", *THREAD).stdout
    rows = list(csv.DictReader(out.splitlines(), delimiter="\t"))
    both = {row["Class"] for row in rows if row["Begin Time (s)"] == "1.000000"}
    assert both == {"low", "high"}
    out = invoke("predict", model, path, "--hop", "0.5", "--format", "audacity", "--rows", "windows", *THREAD).stdout
    assert [line.split("\t")[2].split()[0] for line in out.splitlines() if line.startswith("0.500000")] == ["low"]
    rows = list(csv.DictReader(invoke("predict", model, path, "--hop", "0.5", "--csv", *THREAD).stdout.splitlines()))
    spans = {row["label"]: (float(row["begin_s"]), float(row["end_s"])) for row in rows}
    assert spans["low"] == pytest.approx((0.5, 1.5))
    assert spans["high"] == pytest.approx((1.0, 2.0))
    # A threshold for all in place of the classes' own.
    strict = invoke("predict", model, path, "--hop", "0.5", "--csv", "--threshold", "1", *THREAD).stdout
    assert len(strict.splitlines()) == 1


@pytest.mark.parametrize(("limit", "strange"), [(-1.0, True), (1e9, False)])
def test_unknown_sounds_of_several_labels(model, sound, tmp_path, limit, strange):
    """Beyond the OOD threshold people read unknown, and windows are of no event; JSON has a flag beside labels."""
    card, network = load(model)
    unknown = {**card.calibration["unknown"], "threshold": limit}
    card = dataclasses.replace(card, calibration={**card.calibration, "unknown": unknown})
    path = tmp_path / "model.safetensors"
    save(path, state=network.state_dict(), card=card, statistics=statistics_of(network))
    row = json.loads(invoke("predict", path, sound, "--json", *THREAD).stdout)
    assert row["unknown"] is strange
    assert row["labels"] == list(load_classifier(path).predict(sound).named)
    assert invoke("predict", path, sound, *THREAD).stdout.split("\t")[1].startswith("unknown") is strange
    windows = invoke("predict", path, sound, "--hop", "0.5", "--rows", "windows", "--json", *THREAD).stdout
    assert [one["unknown"] for one in map(json.loads, windows.splitlines())] == [strange]
    assert ("no event" in invoke("predict", path, sound, "--hop", "0.5", *THREAD).stdout) is strange
    assert "plausible" not in row


def test_long_clips_are_averaged(model, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([wave(("low",), seed=1), wave(("low", "high"), seed=2)]), RATE)
    classifier = load_classifier(model)
    found = classifier.predict(path)
    halves = [classifier.predict(wave(names, seed=s), rate=RATE) for names, s in ((("low",), 1), (("low", "high"), 2))]
    for name in classifier.classes:
        share, *parts = (dict(zip(one.classes, one.probabilities, strict=True))[name] for one in (found, *halves))
        assert share == pytest.approx(np.mean(parts), abs=0.01)


def test_evaluate_and_compare(run, model, table, tmp_path):
    out = json.loads(invoke("evaluate", model, table, "--json", *THREAD).stdout)
    assert (out["fold"], out["held_out"], out["clips"]) == (1, True, 20)
    trial = json.loads((run[0] / "summary.json").read_text())["folds"][0]
    assert out["average_precision"]["mean"] == pytest.approx(trial["average_precision"], abs=1e-6)
    assert {row["name"]: row["threshold"] for row in out["classes"]} == pytest.approx(
        {name: found["threshold"] for name, found in load_card(model).thresholds.items()}
    )
    said = invoke("evaluate", model, table, *THREAD).stdout
    assert "mean average precision" in said
    assert "F1 at the model's thresholds" in said
    other = tmp_path / "other"
    invoke("crossval", table, "--out", other, *SETS, "--set", "training.epochs=1", *THREAD)
    result = json.loads(invoke("compare", run[0], other, "--json").stdout)
    assert result["difference"]["mean"] > 0
    assert result["difference"]["mean"] == pytest.approx(
        result["runs"][0]["average_precision"] - result["runs"][1]["average_precision"]
    )
    assert "mean average precision" in invoke("compare", run[0], other).stdout


def test_train_and_protocols(table, tmp_path):
    said = invoke("train", table, "--out", tmp_path / "one", *SETS, "--set", "training.protocol=inner", *THREAD).output
    assert "held out: " in said
    assert load_card(tmp_path / "one" / "model.safetensors").several


def test_what_cannot_do_with_several_labels_says_so(run, table, model):
    says = "its clips have several labels each"
    assert says in invoke("compare", "--protocols", run[0], code=2).output
    folder = ("--out", run[0].parent / "no")
    grid = ("--grid", "training.learning_rate=1e-2,1e-3")
    for verb in (("tune", "default", table, *folder, *grid), ("analyze", "fusion", table, *folder)):
        assert says in invoke(*verb, code=2).output, verb
    assert says in invoke("check", table, "--run", run[0], code=2).output
    assert "training.labels is single, and the data set has several" in (
        invoke("crossval", table, *folder, "--labels", "several", "--set", "training.labels=single", code=2).output
    )
    assert "--labels single: " not in invoke("check", table).output


def test_a_report_of_several_labels(run):
    invoke("report", run[0])
    text = (run[0] / "report.html").read_text()
    for said in ("mean average precision, of networks on clips", "Precision by recall", "Co-occurrence", "AUROC %"):
        assert said in text
    limits = load_card(run[0] / "fold-3" / "seed-0" / "model.safetensors").thresholds
    assert "Thresholds of fold-3/seed-0/model.safetensors: the probability from which on a class is named" in text
    cells = f"{limits['low']['threshold']:.2f}", "{:.2f} to {:.2f}".format(*limits["low"]["ci95"])
    assert all(f"<bdi>{cell}</bdi></td>" in text for cell in cells)
    assert "classes are named (best-f1)" in text
    said = invoke("calibrate", run[0], "--threshold-rule", "false-alarms-per-hour=100").stdout
    assert re.search(
        r"\(false-alarms-per-hour=100\): micro F1 .* %, precision .* %; \S+ false alarms an hour and class", said
    )
    assert re.search(r"thresholds high 0\.\d\d \(0\.\d\d to [01]\.\d\d\), ", said)
    invoke("report", run[0])
    assert "classes are named (false-alarms-per-hour=100)" in (run[0] / "report.html").read_text()
    invoke("calibrate", run[0])
    assert "Worst mistakes" not in text
    assert "Accuracy on the clips" not in text


def test_an_ensemble_of_several_labels(table, tmp_path):
    members = tmp_path / "members"
    invoke("crossval", table, "--out", members, *SETS, "--set", "training.epochs=6", "--seeds", "2", *THREAD)
    summary = json.loads((members / "summary.json").read_text())
    assert summary["ensemble"]["members"] == 2
    invoke("ensemble", members, "--out", tmp_path / "both", *THREAD)
    card = load_card(tmp_path / "both" / "fold-1" / "seed-0" / "model.safetensors")
    assert (card.several, len(card.members), len(card.temperatures)) == (True, 2, 3)
    found = json.loads(invoke("evaluate", tmp_path / "both/fold-1/seed-0/model.safetensors", table, "--json").stdout)
    wanted = json.loads((tmp_path / "both" / "summary.json").read_text())["folds"][0]["average_precision"]
    assert found["average_precision"]["mean"] == pytest.approx(wanted, abs=1e-6)
    one = load_classifier(members / "fold-1/seed-0/model.safetensors")
    other = load_classifier(members / "fold-1/seed-1/model.safetensors")
    both = load_classifier(tmp_path / "both" / "fold-1" / "seed-0" / "model.safetensors")
    sound = wave(("low",), seed=77)[None]
    fitted = np.pad(sound, ((0, 0), (0, max(0, both.samples - sound.shape[1]))))[:, : both.samples]
    raw = (one.probabilities(fitted) + other.probabilities(fitted)) / 2
    np.testing.assert_allclose(1 / (1 + np.exp(-both.logits(fitted))), raw, rtol=1e-4)


def test_explanations_are_of_one_label_at_a_time(model, sound, tmp_path):
    for label in ("low", "high"):
        invoke("explain", model, sound, "--label", label, "--out", tmp_path / label, "--no-curves", *THREAD)
        (found,) = (tmp_path / label).glob("*.json")
        about = json.loads(found.read_text())
        shares = load_classifier(model).predict(sound)
        wanted = dict(zip(shares.classes, shares.probabilities, strict=True))[label]
        assert about["probability"] == pytest.approx(wanted, abs=1e-4)
