"""The folder of an ensemble: laid out as a run is, and written whole or not at all."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from earsight.calibration.calibrate import calibrate_run
from earsight.calibration.fit import Wanted
from earsight.ensembles import ensemble_run
from earsight.ensembles.build import make_ensemble
from earsight.errors import RunError
from earsight.files import read_state, write_state
from earsight.models.modelfile import load_card
from earsight.reports.runs import read_for_report
from earsight.training.heldout import model_of
from earsight.training.trial import Trial, run_trial

CPU = torch.device("cpu")


def test_the_folder_is_a_run_folder(made, prepared):
    out, result = made
    summary = json.loads((out / "summary.json").read_text())
    rows = {row["method"]: row for row in result["rows"]}
    assert summary["accuracy"]["mean"] == pytest.approx(rows["average"]["accuracy"]["mean"])
    assert summary["accuracy"]["ci95"] == pytest.approx(rows["average"]["accuracy"]["ci95"])
    assert [row["fold"] for row in summary["folds"]] == [1, 2]
    written = json.loads((out / "ensemble.json").read_text())
    assert len(written.pop("digest")) == 16  # of the file
    assert written == result
    assert not list(out.parent.glob(".*"))
    with pytest.raises(RunError, match="another recipe"):
        run_trial(prepared, Trial(1, 0), run=out, device=CPU)


def test_an_older_ensemble_stays_until_the_new_one_is_whole(run, tmp_path, monkeypatch):
    out = tmp_path / "e"
    make_ensemble([run], out=out, device=CPU, fold=1)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ensemble_run, "write_summary", fail)
    with pytest.raises(RunError, match=r"No space left on device\); make room or name another folder"):
        make_ensemble([run], out=out, device=CPU)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    make_ensemble([run], out=out, device=CPU)
    assert (out / "fold-2").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_a_second_one_at_once_waits_and_then_says_so(tmp_path, monkeypatch):
    """Two `ensemble` commands would write one hidden folder: the second waits for the first's lock."""
    from filelock import FileLock

    monkeypatch.setattr(ensemble_run, "LOCK_SECONDS", 0.1)
    with (
        FileLock(tmp_path / ".e.lock"),
        pytest.raises(RunError, match="another process is writing it; wait for it, or end it"),
    ):
        ensemble_run.write_ensemble(
            tmp_path / "e", grid=None, models={}, published=None, method="average", report={"machine": {}}
        )
    assert not (tmp_path / "e").exists()


@pytest.fixture(scope="module")
def chosen(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("ensembles") / "greedy"
    make_ensemble([run], out=out, device=CPU, method="greedy")
    return out


@pytest.fixture
def two(made, chosen, tmp_path):
    """Copies of the ensemble, and of another one of the same run, whose members were chosen."""
    return shutil.copytree(made[0], tmp_path / "mine"), shutil.copytree(chosen, tmp_path / "other")


def test_a_whole_ensemble_misses_nothing(two):
    for folder in two:
        read = read_for_report(folder)
        assert read.joint
        left = [line for line in read.missing if not line.startswith("Sources")]
        assert [line.partition(",")[0] for line in left] == ["It is not calibrated"]
        assert read.ensemble["recipe_digest"] == read.trials[0].about["recipe_digest"]
        assert calibrate_run(folder, Wanted())["models"][-1]["path"] == "model.safetensors"
        assert [line for line in read_for_report(folder).missing if not line.startswith("Sources")] == []


def test_an_ensemble_gets_its_name_when_it_is_calibrated(run, made, tmp_path):
    """A kill between the two would leave one whose probabilities are others, and nothing that says so."""
    out = shutil.copytree(made[0], tmp_path / "out")
    before = (out / "model.safetensors").read_bytes()

    def killed(folder):
        assert calibrate_run(folder, Wanted())["models"]
        assert (out / "model.safetensors").read_bytes() == before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_ensemble([run], out=out, device=CPU, finish=killed)
    assert (out / "model.safetensors").read_bytes() == before
    make_ensemble([run], out=out, device=CPU, finish=lambda folder: calibrate_run(folder, Wanted()))
    assert (out / "calibration.json").is_file()
    assert load_card(out / "model.safetensors").calibration


@pytest.mark.parametrize("change", ["recipe_digest", "folds", "dataset"])
def test_a_report_of_another_ensemble_is_not_shown(two, change):
    """Exchanged by mv; or it says that it is of other folds, or of another data set."""
    mine, other = two
    if change == "recipe_digest":
        (other / "ensemble.json").rename(mine / "ensemble.json")
    else:
        old = read_state(mine / "ensemble.json", {}, remedy="")
        write_state(mine / "ensemble.json", old | {change: [1] if change == "folds" else {"digest": "0"}})
    read = read_for_report(mine)
    assert f"ensemble.json is of another ensemble ({change} differ): nothing of it is shown." in read.missing
    assert read.ensemble == {}
    assert read.joint
    assert read.recipe is not None


def test_a_report_of_an_earlier_version_is_shown_and_said_not_to_be_checked(two):
    path = two[0] / "ensemble.json"
    old = read_state(path, {}, remedy="")
    del old["recipe_digest"]
    write_state(path, old)
    read = read_for_report(two[0])
    assert read.ensemble == old
    words = "ensemble.json is of an earlier version: that it is of these predictions cannot be checked."
    assert words in read.missing


@pytest.mark.parametrize("of", ["ensemble", "trial", "other fold"])
def test_a_top_model_that_was_exchanged_is_noticed(run, two, of):
    mine, other = two
    source = {
        "ensemble": other / "model.safetensors",
        "trial": run / "fold-1" / "seed-0" / "model.safetensors",
        "other fold": mine / "fold-1" / "seed-0" / "model.safetensors",
    }[of]
    shutil.copyfile(source, mine / "model.safetensors")
    wrong = {
        "ensemble": "is of recipe [0-9a-f]{12} and its trial of [0-9a-f]{12}",
        "trial": "is of kind single network and its trial of ensemble",
        "other fold": r"is of folds \[1\] and its trial of \[1, 2\]",
    }[of]
    before = (mine / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match=f"{wrong}, so files of two runs were exchanged"):
        calibrate_run(mine, Wanted())
    assert (mine / "model.safetensors").read_bytes() == before
    read = read_for_report(mine)
    assert re.search(f"The model file {wrong}: nothing of it is shown", " ".join(read.missing))
    assert (read.version, read.temperature, read.recipe) == ("", 1.0, None)


@pytest.mark.parametrize("of", ["ensemble", "trial"])
def test_a_folds_model_that_was_exchanged_is_noticed(run, two, of):
    """With the same fold's of another ensemble, or of a run; and a run's with an ensemble's."""
    mine, other = two
    name = "fold-1/seed-0/model.safetensors"
    shutil.copyfile((other if of == "ensemble" else run) / name, mine / name)
    for read in (lambda: model_of((mine / name).parent), lambda: calibrate_run(mine, Wanted())):
        with pytest.raises(RunError, match=r"and its trial of \w+, so files of two runs were exchanged"):
            read()
    plain = shutil.copytree(run, mine.parent / "plain")
    shutil.copyfile(other / name, plain / name)
    with pytest.raises(RunError, match="is of kind ensemble and its trial of single network"):
        model_of((plain / name).parent)
