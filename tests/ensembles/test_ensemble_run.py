"""The folder of an ensemble: laid out as a run is, and written whole or not at all."""

from __future__ import annotations

import json

import pytest
import torch

from earsight.ensembles import ensemble_run
from earsight.ensembles.build import make_ensemble
from earsight.errors import RunError
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
    with pytest.raises(RunError, match=r"No space left on device\); name another folder"):
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
