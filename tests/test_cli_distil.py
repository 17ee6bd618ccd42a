"""`earsight distil`: from a run to a student, its table, page and files; and what it refuses, in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_model import TINY_MODEL

from earsight.commands.options import DataOptions
from earsight.commands.steps import options_again, options_from
from earsight.evaluation.summary import read_run
from earsight.files import read_state
from earsight.recipe import load_recipe
from test_cli_cluster import invoke, refused

TINY = [part for override in (*TINY_MODEL, "training.epochs=1") for part in ("--set", override)]
ONE = ("--threads", 1)


@pytest.fixture(scope="module")
def run(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers: two seeds on two of the five folds."""
    folder = tmp_path_factory.mktemp("runs") / "many"
    invoke("crossval", synthetic_folder, "--out", folder, "--folds", "1,2", "--seeds", 2, *ONE, *TINY)
    return folder


@pytest.fixture(scope="module")
def made(run: Path) -> tuple[Path, dict]:
    """The students of all folds, and what the verb printed as JSON."""
    result = invoke("distil", run, "--json", *ONE, *TINY)
    return run.with_name("many-distilled"), json.loads(result.stdout)


def test_the_table_is_that_of_the_predictions(run, made):
    folder, result = made
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == ["single", "ensemble", "distilled"]
    assert [row["networks"] for row in rows.values()] == [1, 2, 1]
    teachers, students = read_run(run), read_run(folder)
    assert [(one.about["fold"], one.about["seed"]) for one in students] == [(1, 0), (2, 0)]
    assert rows["single"]["accuracy"]["mean"] == pytest.approx(np.mean([one.correct.mean() for one in teachers]))
    assert rows["distilled"]["accuracy"]["mean"] == pytest.approx(np.mean([one.correct.mean() for one in students]))
    summary = json.loads((run / "summary.json").read_text())
    assert rows["ensemble"]["accuracy"]["mean"] == pytest.approx(summary["ensemble"]["accuracy"])
    assert rows["ensemble"]["gain"]["difference"] == pytest.approx(summary["ensemble"]["gain"]["difference"])
    assert rows["single"]["gain"] is None
    means = {name: row["accuracy"]["mean"] for name, row in rows.items()}
    assert rows["distilled"]["gain"]["difference"] == pytest.approx(means["distilled"] - means["single"])
    assert result["over_ensemble"]["difference"] == pytest.approx(means["distilled"] - means["ensemble"])
    sizes = [(run / f"fold-1/seed-{seed}/model.safetensors").stat().st_size for seed in (0, 1)]
    assert (rows["single"]["bytes"], rows["ensemble"]["bytes"]) == (sizes[0], sum(sizes))
    assert rows["distilled"]["bytes"] == (folder / "fold-1/seed-0/model.safetensors").stat().st_size
    assert all(row["milliseconds_per_clip"] > 0 for row in rows.values())
    assert read_state(folder / "distillation.json", {}, remedy="") == result


def test_the_folder_is_a_run_that_other_verbs_take(run, made, tmp_path):
    folder, _ = made
    assert json.loads(invoke("summary", folder, "--json").stdout)["accuracy"]["mean"] >= 0
    assert "A - B" in invoke("compare", run, folder).stdout
    invoke("report", folder, "--out", tmp_path / "page.html", "--mistakes", 0)
    page = (tmp_path / "page.html").read_text()
    assert "Teachers and student" in page
    assert f"earsight distil {run} --data DATA --recipe recipe.yaml --folds 1,2 --seeds 1 --out again" in page
    recipe = load_recipe(folder / "recipe.yaml")
    assert (recipe.distillation.weight, recipe.distillation.temperature) == (1.0, 2.0)


def test_what_is_done_is_not_trained_again_and_more_seeds_join(made, run):
    folder, _ = made
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("fold-*/seed-0/model.safetensors")}
    again = invoke("distil", run, "--folds", 1, "--seeds", 2, *ONE, *TINY)
    assert again.stderr.count("(done before)") == 1
    assert "fold 1 seed 1:" in again.stderr
    for word in ("single", "ensemble", "distilled", "Distilled less ensemble", "MB"):
        assert word in again.stdout
    # Calibration writes the card anew, with the same weights.
    assert set(stamps) == set(folder.glob("fold-*/seed-0/model.safetensors"))
    shutil.rmtree(folder / "fold-1" / "seed-1")


def test_students_side_by_side_have_the_same_bits(run, made, tmp_path):
    invoke("distil", run, "--out", tmp_path / "two", "--jobs", 2, *ONE, *TINY)
    for one, other in zip(read_run(made[0]), read_run(tmp_path / "two"), strict=True):
        assert np.array_equal(one.logits, other.logits)


def test_an_ensemble_teaches_and_its_members_stand_beside_it(run, tmp_path):
    invoke("ensemble", run, "--out", tmp_path / "e", "--threads", 1)
    result = json.loads(invoke("distil", tmp_path / "e", "--folds", 2, "--json", *ONE, *TINY).stdout)
    assert [(row["method"], row["networks"]) for row in result["rows"]] == [
        ("single", 1), ("ensemble", 2), ("distilled", 1)
    ]  # fmt: skip
    assert result["rows"][1]["bytes"] == (tmp_path / "e/fold-2/seed-0/model.safetensors").stat().st_size
    student = tmp_path / "e-distilled"
    assert (student / "model.safetensors").read_bytes() == (student / "fold-2/seed-0/model.safetensors").read_bytes()


def test_a_split_that_train_drew_is_drawn_again(synthetic_folder, tmp_path):
    run = tmp_path / "run"
    invoke("train", synthetic_folder, "--out", run, "--seed", 3, *ONE, *TINY)
    result = json.loads(invoke("distil", run, "--json", *ONE, *TINY).stdout)
    assert [row["method"] for row in result["rows"]] == ["single", "distilled"], "one teacher is no ensemble"
    teacher, student = read_run(run)[0], read_run(tmp_path / "run-distilled")[0]
    assert set(teacher.clips) == set(student.clips)
    assert result["over_ensemble"] is None


def test_refusals(run, made, synthetic_folder, tmp_path):
    folder, _ = made
    base = ("distil", run, "--out", tmp_path / "out", *ONE, *TINY)
    assert "--folds 3" not in (message := refused(*base, "--folds", "1,3"))
    assert "no finished trial held out fold 3" in message
    assert "distillation.weight is 0, so nothing is learnt" in refused(*base, "--set", "distillation.weight=0")
    assert "no such run folder" in refused("distil", tmp_path / "absent")
    again = ("crossval", synthetic_folder, "--recipe", folder / "recipe.yaml", "--out", tmp_path / "out")
    assert "there are no teachers; `earsight distil RUN`" in refused(*again)
    assert "holds a trial of another recipe" in refused("distil", run, "--out", run, *ONE, *TINY)
    other = tmp_path / "other"
    shutil.copytree(synthetic_folder, other)
    next(other.glob("**/*.wav")).unlink()
    assert "with --data, and the options" in refused(*base, "--data", other, "--splits", 3)
    assert not (tmp_path / "out").exists()


def test_a_data_set_that_was_moved_is_named(run, synthetic_folder, tmp_path):
    copy, moved = tmp_path / "copy", tmp_path / "moved"
    shutil.copytree(run, copy)
    shutil.copytree(synthetic_folder, moved)
    for path in copy.glob("fold-*/seed-*/trial.json"):
        tree = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in tree.items() if name not in ("root", "digest")}))
    assert "its data set is not where it was; name the data set" in refused("distil", copy, *ONE, *TINY)
    invoke("distil", copy, "--data", moved, "--folds", 1, *ONE, *TINY)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"layout": "csv", "root": Path("/a b"), "labels": "several"},
        {"boxes": Path("t.csv"), "complete": True, "window_seconds": 2.0, "hop": 0.5, "most_windows": 30},
        {"subset": "esc10", "label_from": "{label}_{n}", "skip_rare": True, "annotator": "me", "box_share": 0.25},
    ],
)
def test_recorded_options_open_a_data_set_again(given):
    options = DataOptions(**given)
    assert options_from(options_again(options, drawn=None)) == options
    assert options_from(options_again(options, drawn=7)) == DataOptions(**given, splits=7)


def test_a_recipe_that_says_a_weight_keeps_it(run, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("extends: default\ndistillation: {weight: 0.5, temperature: 4}\n")
    invoke("distil", run, "--out", tmp_path / "out", "--folds", 1, "--recipe", recipe, *ONE, *TINY)
    found = load_recipe(tmp_path / "out" / "recipe.yaml").distillation
    assert (found.weight, found.temperature) == (0.5, 4.0)
