"""Runs, stores and model files that commit 6cdc006 wrote go on being read, with the same answers.

`tests/written_by_base/make.py` made them with that commit's code.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import earsight
from earsight.data import audio
from earsight.data.layouts import open_dataset
from earsight.recipe import load_recipe, parse_recipe
from earsight.training.preparation import prepare
from test_cli import invoke

HERE = Path(__file__).parent / "written_by_base"
sys.path.insert(0, str(HERE))
from make import VERBS, sounds  # noqa: E402

sys.path.remove(str(HERE))
STORE = next((HERE / "store").iterdir())
ANSWERS = json.loads((HERE / "answers.json").read_text())


@pytest.fixture(scope="module")
def sounds_of_base(tmp_path_factory):
    """The data set, whose bytes and times are those that base had."""
    return sounds(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def base(sounds_of_base, tmp_path_factory):
    """A folder with the sounds and copies of what base wrote about them, in which the tests work."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "sounds").symlink_to(sounds_of_base)
    for name in ("run", "ensemble", "killed"):
        shutil.copytree(HERE / name, folder / name)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture
def cache(base, tmp_path):
    """A cache folder that holds base's store and no other."""
    shutil.copytree(STORE, tmp_path / "cache" / STORE.name)
    return tmp_path / "cache"


def folded(name: str) -> Path:
    return Path(name) / "fold-1" / "seed-0" / "model.safetensors" if name == "run" else Path(name) / "model.safetensors"


@pytest.mark.parametrize("name", ["run", "ensemble"])
def test_model_files_answer_as_they_did(base, name):
    paths = [row["path"] for row in ANSWERS[name]]
    shown = invoke("predict", folded(name), *paths, "--json", "--threads", 1).stdout
    rows = [json.loads(line) for line in shown.splitlines()]
    assert len(rows) == len(ANSWERS[name]) == 10
    for row, old in zip(rows, ANSWERS[name], strict=True):
        assert row.keys() == old.keys()
        assert row["classes"] == pytest.approx(old["classes"], abs=1e-5)
        assert row["novelty"] == pytest.approx(old["novelty"], abs=1e-4)
        assert {key: row[key] for key in ("path", "unknown", "plausible")} == {
            key: old[key] for key in ("path", "unknown", "plausible")
        }


def test_model_files_give_the_held_out_fold_again(base):
    """What the trial saved of its held-out clips is what its model file says of them now."""
    saved = np.load(HERE / "run" / "fold-1" / "seed-0" / "predictions.npz")
    classifier = earsight.load(folded("run"))
    found = classifier.predict_files([Path("sounds") / clip for clip in saved["clip"]])
    expected = np.exp(saved["logits"]) / np.exp(saved["logits"]).sum(axis=1, keepdims=True)
    temperature = classifier.card.temperature
    cooled = expected ** (1 / temperature)
    cooled /= cooled.sum(axis=1, keepdims=True)
    for one, row in zip(found, cooled, strict=True):
        assert dict(zip(one.classes, one.probabilities, strict=True)) == pytest.approx(
            dict(zip(saved["classes"].tolist(), row.tolist(), strict=True)), abs=1e-3
        )


def test_a_store_is_opened_and_not_built(base, cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("a sound is decoded, so the store is built anew")

    monkeypatch.setattr(audio, "read", refuse)
    recipe = parse_recipe((HERE / "run" / "recipe.yaml").read_text())
    ready = prepare(open_dataset("sounds"), recipe, cache=cache)
    assert ready.store.folder.name == STORE.name
    old = np.fromfile(STORE / "pictures.i16", dtype="<i2").reshape(100, 3, 3, 8, 16)
    # Steps of 1/1024 with 0 at 16, as base's documents say; the middle pitch step is the unshifted one.
    expected = old[:, 1].astype(np.float32) / 1024 + 16
    assert np.array_equal(ready.store.read(np.arange(100)).numpy(), expected)


def test_the_summary_of_a_run_whose_data_set_is_elsewhere_is_bases(base, tmp_path, monkeypatch):
    shutil.copytree("run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    old = json.loads((tmp_path / "run" / "summary.json").read_text())
    shown = invoke("summary", "run", "--json")
    new = json.loads(shown.stdout)
    assert {key: new[key] for key in old if key != "machine"} == {key: old[key] for key in old if key != "machine"}
    assert "kept no sources, and its data set is not where it was" in shown.stderr


def _without_intervals(summary):
    """A summary without what rests on whether sources are redrawn, and the machine that it was made on."""
    drop = ("ci95", "p_value", "beyond_noise", "machine")
    if isinstance(summary, dict):
        return {key: _without_intervals(value) for key, value in summary.items() if key not in drop}
    return [_without_intervals(one) for one in summary] if isinstance(summary, list) else summary


def test_summary_and_report_of_a_run(base, tmp_path):
    old = json.loads((HERE / "run" / "summary.json").read_text())
    new = json.loads(invoke("summary", "run", "--json").stdout)
    # Base's intervals were over clips; its data set is there, so that these are over its sources, and no narrower.
    for part, before in ((new["accuracy"], old["accuracy"]), (new["ensemble"], old["ensemble"])):
        assert part["ci95"][0] <= before["ci95"][0] < before["ci95"][1] <= part["ci95"][1]
    assert _without_intervals({key: new[key] for key in old}) == _without_intervals(old)
    invoke("report", "run", "ensemble", "--out", tmp_path / "r.html", "--data", "sounds")
    assert "plucked_string" in (tmp_path / "r.html").read_text()
    assert json.loads(invoke("compare", "run", "ensemble", "--json").stdout)


def test_a_finished_run_is_not_run_again(base, cache):
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("model.safetensors") if "fold" in str(path)}
    shown = invoke(
        *("crossval", "sounds", "--out", "run", "--folds", "1,2", "--seeds", 2, "--threads", 1, "--cache", cache),
        *("--recipe", "run/recipe.yaml"),
    )
    assert shown.stderr.count("done before") == 4
    assert "calibrated" in shown.stderr
    assert len(before) == 4
    again = json.loads((base / "run" / "summary.json").read_text())
    old = json.loads((HERE / "run" / "summary.json").read_text())
    assert _without_intervals(again["accuracy"]) == _without_intervals(old["accuracy"])


def test_a_killed_run_goes_on_from_its_checkpoint(base, cache):
    shown = invoke(
        *("train", "sounds", "--out", "killed", "--recipe", "killed/recipe.yaml", "--threads", 1, "--cache", cache)
    )
    assert "training: 1 of" not in shown.stderr, "it began anew"
    trial = base / "killed" / "fold-1" / "seed-0"
    assert (trial / "DONE").is_file()
    first = json.loads((HERE / "killed" / "fold-1" / "seed-0" / "history.jsonl").read_text().splitlines()[0])
    assert json.loads((trial / "history.jsonl").read_text().splitlines()[0]) == first


# What depends on the machine, on the clock, or on words that CHANGELOG lists.
ELSE = {
    "machine",
    "seconds",
    "milliseconds",
    "ms",
    "ms_per_clip",
    "milliseconds_per_clip",
    "notes",
    "verdict",
    "files",
    "made_from",
}


def same(found, old, where=""):
    """That two JSON values agree: numbers within a thousandth, all else exactly; the old one has no member more."""
    if isinstance(old, dict):
        for name in old.keys() - ELSE:
            same(found[name], old[name], f"{where}.{name}")
    elif isinstance(old, list):
        assert len(found) == len(old), where
        for number, (one, other) in enumerate(zip(found, old, strict=True)):
            same(one, other, f"{where}[{number}]")
    elif isinstance(old, float):
        assert found == pytest.approx(old, abs=1e-3, rel=1e-3), where
    else:
        assert found == old, where


@pytest.mark.parametrize("name", list(VERBS))
def test_other_verbs_print_what_they_printed(sounds_of_base, tmp_path, monkeypatch, name):
    for folder in ("run", "ensemble"):
        shutil.copytree(HERE / folder, tmp_path / folder)
    if "sounds" in " ".join(VERBS[name]):  # where the data set is not at hand, intervals are over clips as base's were
        (tmp_path / "sounds").symlink_to(sounds_of_base)
    monkeypatch.chdir(tmp_path)
    old = json.loads((HERE / "verbs.json").read_text())[name]
    if name == "ensemble":
        assert "soup" in old.pop("method")  # the sentence on methods, of which two are gone
    if name == "calibrate":  # temperatures have a prior since, which a handful of clips shows
        monkeypatch.setattr("earsight.calibration.temperature.PRIOR", 1e6)
    found = json.loads(invoke(*VERBS[name]).stdout)
    if name == "evaluate":  # its clips share sources, which are now redrawn whole: the interval is wider
        (low, high), wide = old["accuracy"].pop("ci95"), found["accuracy"]["ci95"]
        assert wide[0] <= low <= high < wide[1]
        found, old = _without_intervals(found), _without_intervals(old)
    same(found, old)


def test_recipes_keep_their_digests(base):
    old = json.loads((HERE / "run" / "fold-1" / "seed-0" / "trial.json").read_text())["recipe"]
    assert parse_recipe((HERE / "run" / "recipe.yaml").read_text()).digest == old
    assert load_recipe(str(HERE / "run" / "recipe.yaml")).digest == old
