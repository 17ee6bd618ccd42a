"""The verb report: where the page goes, and what a mistake ends in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from earsight.cli import app


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with one finished trial and no more than it must have."""
    folder = tmp_path / "run" / "fold-1" / "seed-0"
    folder.mkdir(parents=True)
    dataset = {"name": "mine", "clips": 9, "classes": 3, "digest": "d", "skipped": []}
    about = {
        "fold": 1,
        "seed": 0,
        "seconds": 1,
        "epoch": 1,
        "protocol": "last",
        "recipe_digest": "r",
        "dataset": dataset,
    }
    labels = np.arange(9) % 3
    np.savez(
        folder / "predictions.npz",
        clip=np.array([f"{n}.wav" for n in range(9)]),
        label=labels,
        logits=np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32),
        classes=np.array(["a", "b", "c"]),
        about=np.array(json.dumps(about)),
    )
    (folder / "DONE").touch()
    return tmp_path / "run"


def told(*arguments):
    found = CliRunner().invoke(app, ["report", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr


def test_the_page_lies_in_the_run_or_where_it_is_told(run, tmp_path):
    code, out, _ = told(run)
    assert code == 0
    assert out.startswith(f"{run / 'report.html'}  0.")
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    code, _, _ = told(run, "--out", tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_bytes() == (run / "report.html").read_bytes()
    assert sorted(path.name for path in run.iterdir()) == ["fold-1", "report.html"]


def test_mistakes_end_in_one_line(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for arguments, expected in (
        ((tmp_path / "none",), "no such run folder"),
        ((tmp_path / "empty",), "no finished trial in it"),
        ((tmp_path / "file",), "no such run folder"),
        ((run, run), "given twice"),
        ((run, "--out", tmp_path), "cannot be written"),
        ((run, "--out", tmp_path / "file" / "page.html"), "cannot be written"),
        ((run, "--mistakes", "-1"), "--mistakes"),
        ((), "Missing argument"),
    ):
        code, out, err = told(*arguments)
        assert code == 2
        assert out == ""
        assert expected in err
        lines = [line for line in err.splitlines() if not line.startswith("report:")]
        assert len(lines) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(run):
    code, out, err = told(run, "--out", "/dev/full")
    assert (code, out) == (2, "")
    assert "/dev/full: cannot be written (No space left on device)" in err


def test_a_data_set_that_is_not_there_is_named(run, tmp_path):
    done = CliRunner().invoke(app, ["report", str(run), "--data", "absent", "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 2
    assert "absent: no such folder or csv file" in " ".join(done.stderr.split())
    assert not (tmp_path / "r.html").exists()
