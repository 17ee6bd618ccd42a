"""`earsight analyze`: what its verbs train, write and print, and how they go on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import safetensors.torch
from typer.testing import CliRunner, Result

from earsight.cli import app
from earsight.execution import schedule, timing
from earsight.models.backbones import build
from earsight.models.modelfile import load_card

TINY = [
    *("--set", "backbone.name=test_resnet", "--set", "training.epochs=1", "--set", "augment.pitch_semitones=0"),
    *("--set", "features.bands=32", "--set", "features.frames=32", "--threads", "1"),
]


def invoke(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, f"{result.exit_code}: {result.stderr} {result.exception!r}"
    return result


@pytest.fixture(scope="module")
def donor(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "donor.safetensors"
    safetensors.torch.save_file(build("test_resnet", classes=3, weights="none", seed=9).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def out(synthetic_folder, donor, tmp_path_factory) -> Path:
    """A folder in which the freeze sweep has run."""
    folder = tmp_path_factory.mktemp("sweeps") / "out"
    sweep = ("freeze", synthetic_folder, "--out", folder, "--stages", "block2,block4", "--folds", "1,2")
    measured = timing.seconds_per_trial
    with pytest.MonkeyPatch.context() as patch:  # how long a trial takes depends on what else the machine does
        patch.setattr(timing, "seconds_per_trial", lambda *given, **named: min(9.0, measured(*given, **named)))
        result = invoke("analyze", *sweep, "--set", f"backbone.weights={donor}", *TINY)
    assert "3 recipes x 2 trials of 1 epoch: 6 trials, 0 done; about a minute for the rest" in result.stderr
    assert "block2" in result.stdout
    return folder


def test_a_sweep_leaves_runs_and_a_figure(out):
    assert {path.name for path in out.iterdir()} == {"reference", "freeze-block2", "freeze-block4", "analysis"}
    names = {path.name for path in (out / "analysis").iterdir()}
    assert names == {f"freeze.{suffix}" for suffix in ("json", "csv", "md", "png", "svg")}
    result = json.loads((out / "analysis" / "freeze.json").read_text())
    assert [point["stage"] for point in result["points"]] == ["none", "block2", "block4"]
    with (out / "analysis" / "freeze.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["none (reference)", "block2", "block4"]
    for folder in ("reference", "freeze-block2"):
        summary = json.loads((out / folder / "summary.json").read_text())
        assert len(summary["folds"]) == 2
    assert (
        load_card(out / "freeze-block2" / "fold-2" / "seed-0" / "model.safetensors").recipe.transfer.freeze == "block2"
    )


def test_another_sweep_takes_the_reference_over(out, synthetic_folder, donor, monkeypatch):
    trained = []
    run_trial = schedule.run_trial

    def watched(prepared, trial, *, run, **more):
        trained.append((run.name, trial.fold))
        return run_trial(prepared, trial, run=run, **more)

    monkeypatch.setattr(schedule, "run_trial", watched)
    weights = ("--set", f"backbone.weights={donor}")
    for _ in range(2):
        result = invoke(
            *("analyze", "cutoff", synthetic_folder, "--out", out, "--stages", "block1"),
            *("--folds", "2", "--json", *weights, *TINY),
        )
    assert trained == [("cut-block1", 2)]
    found = json.loads(result.stdout)
    assert [point["stage"] for point in found["points"]] == ["block1", "none"]
    assert found["points"][0]["parameters"] < found["points"][1]["parameters"]
    assert "2 trials, 2 done" in result.stderr


def test_fusion_with_no_weights_is_one_line(synthetic_folder, tmp_path):
    result = invoke(
        *("analyze", "fusion", synthetic_folder, "--out", tmp_path / "out"),
        *("--set", "backbone.weights=none", *TINY),
        code=2,
    )
    assert "earsight: backbone.weights is none, so there is nothing to fuse" in result.stderr
    assert not (tmp_path / "out").exists()


def test_similarity_of_two_runs(out):
    first, second = out / "reference", out / "freeze-block2"
    result = invoke("analyze", "similarity", first, second, "--threads", "1")
    assert "SVCCA reference" in result.stdout
    names = {path.name for path in (first / "analysis").iterdir()}
    assert names == {f"similarity.{suffix}" for suffix in ("json", "csv", "md", "png", "svg")}
    found = json.loads((first / "analysis" / "similarity.json").read_text())
    frozen = {point["stage"]: point for point in found["runs"][1]["points"]}
    assert frozen["block2"]["cka"]["mean"] == pytest.approx(1)
    assert frozen["block3"]["cka"]["mean"] < 0.9999
    assert found["runs"][0]["points"][0]["stage"] == "stem"


def test_pooled_similarity_of_few_clips_is_doubted(out):
    result = invoke("analyze", "similarity", out / "reference", "--pooled", "--threads", "1")
    assert "Rows are clips, averaged over their positions" in result.stdout
    assert "?: fewer than ten rows a kept direction" in result.stdout
    assert (out / "reference" / "analysis" / "similarity-pooled.csv").is_file()


def test_a_run_without_its_weights_is_one_line(out, donor):
    hidden = donor.with_name("hidden")
    donor.rename(hidden)
    try:
        result = invoke("analyze", "similarity", out / "reference", "--threads", "1", code=2)
    finally:
        hidden.rename(donor)
    assert "its starting weights cannot be made again" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
