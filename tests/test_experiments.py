"""The verbs about finished runs, as a user runs them: ensemble and compare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from earsight.cli import app
from earsight.evaluation.summary import read_run
from earsight.files import read_state
from earsight.models.backbones import build

TINY = [
    *("--set", "backbone.name=test_resnet", "--set", "training.epochs=2", "--set", "training.watch=true"),
    *("--set", "features.bands=32", "--set", "features.frames=32", "--set", "augment.pitch_semitones=0"),
]
THREAD = ["--threads", "1"]


def invoke(*args: object, code: int = 0) -> Result:
    """Run a verb in this process and check its exit code."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, f"{result.exit_code}: {result.stderr} {result.exception!r}"
    return result


def refused(*args: object) -> str:
    """Run a verb that must refuse in one line, and return it."""
    result = invoke(*args, code=2)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    _, found, message = result.stderr.partition("earsight: ")
    assert found
    assert len(message.strip().splitlines()) == 1, message
    return message


@pytest.fixture(scope="module")
def desk(synthetic_folder, tmp_path_factory) -> Path:
    """Two runs of two folds: ``a`` with two seeds, ``b`` under another protocol with one."""
    folder = tmp_path_factory.mktemp("desk")
    save_file(build("test_resnet", classes=1000, weights="none", seed=9).state_dict(), folder / "w.safetensors")
    common = ["crossval", synthetic_folder, *TINY, "--set", f"backbone.weights={folder / 'w.safetensors'}", *THREAD]
    invoke(*common, "--out", folder / "a", "--folds", "1,2", "--seeds", 2)
    invoke(*common, "--out", folder / "b", "--folds", "2,3", "--set", "training.protocol=inner")
    return folder


def test_ensemble_prints_the_table_and_writes_a_model_that_the_other_verbs_take(desk, synthetic_folder):
    done = invoke("ensemble", desk / "a", "--data", synthetic_folder, *THREAD)
    assert "without --seeds it is not used" in done.stderr
    for words in ("single", "average", "greedy", "±", "never saw", "the noise"):
        assert words in done.stdout
    model = desk / "a" / "ensemble" / "model.safetensors"
    assert f"model: {model} (average, 4 networks" in done.stdout
    assert "together they saw every clip of the data set" in done.stdout
    sound = next(synthetic_folder.rglob("*.wav"))
    assert "%" in invoke("predict", model, sound, *THREAD).stdout
    said = invoke("evaluate", model, synthetic_folder, *THREAD).stdout
    assert "was trained on some of these clips: this figure says nothing about new ones" in said
    fold = desk / "a" / "ensemble" / "fold-2" / "seed-0" / "model.safetensors"
    scored = json.loads(invoke("evaluate", fold, synthetic_folder, *THREAD, "--json").stdout)
    assert (scored["fold"], scored["held_out"], scored["clips"]) == (2, True, 20)


def test_ensemble_trains_the_members_that_are_lacking(desk, synthetic_folder, tmp_path):
    run = shutil.copytree(desk / "b", tmp_path / "run")
    before = {path: path.read_bytes() for path in run.glob("fold-*/seed-0/*")}
    options = ["--data", synthetic_folder, "--seeds", 2, "--out", tmp_path / "e", *THREAD]
    invoke("ensemble", run, *options, "--fold", 3)
    assert {path.parent.name for path in run.glob("fold-*/seed-1")} == {"fold-3"}
    found = json.loads(invoke("ensemble", run, *options, "--json").stdout)
    assert [(member["seed"]) for member in found["members"]] == [0, 1]
    assert found["folds"] == [2, 3]
    assert before.items() <= {path: path.read_bytes() for path in run.glob("fold-*/seed-*/*")}.items()
    assert len(json.loads((run / "summary.json").read_text())["folds"]) == 4
    assert [(one["fold"], one["seed"]) for one in json.loads((run / "calibration.json").read_text())["models"]] == [
        *((fold, seed) for fold in (2, 3) for seed in (0, 1))
    ]
    assert "fold 7: not in" in refused("ensemble", run, *options, "--fold", 7)
    assert "name it with --data" in refused("ensemble", run, "--seeds", 3, "--out", tmp_path / "e")
    assert "give --seeds" in refused("ensemble", run, "--on", "ray", "--out", tmp_path / "e")
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text() + "# longer\n")
    assert "so it is damaged; give the run's crossval command again" in refused("ensemble", run, *options)
    (run / "recipe.yaml").unlink()
    assert "no recipe.yaml" in refused("ensemble", run, *options)


def test_ensemble_as_json_is_json_alone_and_what_is_kept(desk, tmp_path):
    done = invoke("ensemble", desk / "a", "--out", tmp_path / "e", "--fold", 1, "--json", *THREAD)
    found = json.loads(done.stdout)
    assert found == read_state(tmp_path / "e" / "ensemble.json", {}, remedy="")
    assert [row["method"] for row in found["rows"]] == ["single", "average"]
    again = json.loads(invoke("summary", tmp_path / "e", "--json").stdout)
    assert again["accuracy"]["mean"] == pytest.approx(found["rows"][1]["accuracy"]["mean"])


def test_compare_says_what_differs_and_whether_it_is_noise(desk):
    done = invoke("compare", desk / "a", desk / "b")
    for words in ("A - B", "95 % interval", "p = ", "The protocols differ", "fold 1 of", "fold 3 of", "seed 1 of"):
        assert words in done.stdout
    found = json.loads(invoke("compare", desk / "a", desk / "b", "--json").stdout)
    assert (found["folds"], found["seeds"]) == ([2], [0])
    trials = {(name, t.about["seed"]): t for name in "ab" for t in read_run(desk / name) if t.about["fold"] == 2}
    expected = trials["a", 0].correct.mean() - trials["b", 0].correct.mean()
    assert found["difference"]["mean"] == pytest.approx(expected)
    assert found["verdict"] in done.stdout
    same = invoke("compare", desk / "a", desk / "a").stdout
    assert "No difference beyond the noise." in same
    assert "Both runs are of one recipe." in same


def test_compare_takes_an_ensemble_as_one_answer_a_clip(desk, tmp_path):
    invoke("ensemble", desk / "a", "--out", tmp_path / "e", *THREAD)
    found = json.loads(invoke("compare", tmp_path / "e", desk / "a", "--json").stdout)
    report = json.loads((tmp_path / "e" / "ensemble.json").read_text())
    gain = next(row["gain"] for row in report["rows"] if row["method"] == "average")
    assert found["difference"]["mean"] == pytest.approx(gain["difference"])
    assert found["difference"]["ci95"] == pytest.approx(gain["ci95"])
    assert found["difference"]["p_value"] == pytest.approx(gain["p_value"])
    assert [run["seeds"] for run in found["runs"]] == [[], [0, 1]]
    assert "is an ensemble, one answer a clip" in " ".join(found["notes"])


def test_compare_protocols_of_one_run(desk):
    done = invoke("compare", desk / "b", "--protocols")
    for words in ("last", "inner", "test (optimistic)", "over last"):
        assert words in done.stdout
    found = json.loads(invoke("compare", desk / "b", "--protocols", "--json").stdout)
    rows = {row["protocol"]: row for row in found["protocols"]}
    inner = np.mean([t.correct.mean() for t in read_run(desk / "b")])
    assert rows["inner"]["accuracy"]["mean"] == pytest.approx(inner)
    assert rows["test"]["accuracy"]["mean"] >= max(rows[name]["accuracy"]["mean"] for name in ("last", "inner"))
    short = json.loads(invoke("compare", desk / "a", "--protocols", "--json").stdout)
    last = np.mean([t.correct.mean() for t in read_run(desk / "a")])
    assert short["protocols"][0]["accuracy"]["mean"] == pytest.approx(last)


def test_what_the_verbs_refuse(desk, synthetic_folder, tmp_path):
    a, b = desk / "a", desk / "b"
    assert "compare takes two run folders, found 1" in refused("compare", a)
    assert "compare takes two run folders, found 3" in refused("compare", a, b, a)
    assert "--protocols takes one run folder, found 2" in refused("compare", a, b, "--protocols")
    assert "no such run folder" in refused("compare", a, tmp_path / "absent")
    assert "no finished trial" in refused("compare", a, tmp_path)
    assert "1 seed on every fold of 2, 3" in refused("ensemble", b, "--out", tmp_path / "e")
    assert "another protocol" in refused("ensemble", a, b, "--out", tmp_path / "e")
    assert "fold 7: not in" in refused("ensemble", a, "--fold", 7, "--out", tmp_path / "e")
    for method in ("soup", "greedy-soup"):
        message = refused("ensemble", a, "--method", method, "--out", tmp_path / "e")
        assert f"--method {method}: weight soups were removed" in message
    assert "--method" in refused("ensemble", a, "--method", "best", "--out", tmp_path / "e")
    assert "is no ensemble of earsight" in refused("ensemble", a, "--out", synthetic_folder)
    assert "no such folder or csv file" in refused("ensemble", a, "--out", tmp_path / "e", "--data", tmp_path / "no")
    other = invoke("ensemble", a, "--out", tmp_path / "e", "--data", synthetic_folder, "--subset", "esc10", code=2)
    assert "Traceback" not in other.stderr
    assert not (tmp_path / "e").exists()


def test_a_run_that_was_not_watched_says_how_to_watch(desk, tmp_path):
    run = tmp_path / "a"
    shutil.copytree(desk / "a", run)
    for folder in run.glob("fold-*/seed-*"):
        with np.load(folder / "predictions.npz") as file:
            arrays = dict(file)
        about = json.loads(str(arrays["about"]))
        del about["history"]  # the CRC of the history that is replaced here
        np.savez(folder / "predictions.npz", **(arrays | {"about": np.array(json.dumps(about))}))
        lines = (json.dumps({"epoch": number + 1, "loss": 1.0}) + "\n" for number in range(2))
        (folder / "history.jsonl").write_text("".join(lines))
    assert "--set training.watch=true" in refused("compare", run, "--protocols")
