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
STORE = next((HERE / "store").iterdir())
ANSWERS = json.loads((HERE / "answers.json").read_text())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the sounds and copies of what base wrote about them, in which the tests work."""
    sys.path.insert(0, str(HERE))
    try:
        import make
    finally:
        sys.path.remove(str(HERE))
    folder = tmp_path_factory.mktemp("base")
    make.sounds(folder)
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


def test_summary_and_report_of_a_run(base, tmp_path):
    old = json.loads((HERE / "run" / "summary.json").read_text())
    new = json.loads(invoke("summary", "run", "--json").stdout)
    assert {key: new[key] for key in old} == old
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
    assert again["accuracy"] == json.loads((HERE / "run" / "summary.json").read_text())["accuracy"]


def test_a_killed_run_goes_on_from_its_checkpoint(base, cache):
    shown = invoke(
        *("train", "sounds", "--out", "killed", "--recipe", "killed/recipe.yaml", "--threads", 1, "--cache", cache)
    )
    assert "training: 1 of" not in shown.stderr, "it began anew"
    trial = base / "killed" / "fold-1" / "seed-0"
    assert (trial / "DONE").is_file()
    first = json.loads((HERE / "killed" / "fold-1" / "seed-0" / "history.jsonl").read_text().splitlines()[0])
    assert json.loads((trial / "history.jsonl").read_text().splitlines()[0]) == first


@pytest.mark.parametrize(
    "args",
    [
        ("evaluate", "run/fold-1/seed-0/model.safetensors", "sounds", "--json"),
        ("explain", "run/fold-1/seed-0/model.safetensors", "sounds/audio/1-1000-A-0.wav", "--out", "why", "--json"),
        ("calibrate", "run", "--json"),
        ("ensemble", "run", "--out", "anew", "--json"),
        ("analyze", "similarity", "run", "--data", "sounds", "--json"),
    ],
    ids=lambda args: args[0],
)
def test_other_verbs_read_what_base_wrote(base, args):
    assert json.loads(invoke(*args).stdout)


def test_recipes_keep_their_digests(base):
    old = json.loads((HERE / "run" / "fold-1" / "seed-0" / "trial.json").read_text())["recipe"]
    assert parse_recipe((HERE / "run" / "recipe.yaml").read_text()).digest == old
    assert load_recipe(str(HERE / "run" / "recipe.yaml")).digest == old
