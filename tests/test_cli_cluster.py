"""`--on` and `earsight tune`: mistakes in a line, nothing of Ray without need, and what a search leaves."""

from __future__ import annotations

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from earsight.cli import app
from earsight.execution import ray_cluster
from earsight.files import SEAL, seal_fits
from earsight.recipe import Recipe, load_recipe, recipe_notes
from earsight.tuning import search

TINY = [
    *("--set", "backbone.name=test_resnet", "--set", "backbone.weights=none", "--set", "training.epochs=1"),
    *("--set", "features.bands=32", "--set", "features.frames=32", "--set", "augment.pitch_semitones=0"),
]
GRID = ["--grid", "training.learning_rate=1e-2,1e-3", "--grid", "augment.mixup=0,0.3"]


def invoke(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, f"{result.exit_code}: {result.stderr} {result.exception!r}"
    return result


def refused(*args: object) -> str:
    """The one line in which a verb refuses."""
    result = invoke(*args, code=2)
    assert result.stdout == ""
    _, found, message = result.stderr.partition("earsight: ")
    assert found
    assert len(message.strip().splitlines()) == 1, message
    return message


@pytest.fixture(scope="module")
def found(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search without Ray."""
    out = tmp_path_factory.mktemp("search") / "out"
    invoke("tune", "default", synthetic_folder, "--out", out, "--on", "local", "--threads", 1, *GRID, *TINY)
    return out


def test_a_search_leaves_a_table_a_figure_and_the_best_recipe(found):
    names = {path.name for path in found.iterdir()}
    assert names == {"points", "best.yaml", *(f"search.{suffix}" for suffix in ("json", "csv", "md", "png", "svg"))}
    result = json.loads((found / "search.json").read_text())
    assert len(result["points"]) == 4
    scores = [(point["accuracy"]["mean"], -point["log_loss"]) for point in result["points"]]
    assert scores == sorted(scores, reverse=True)
    assert result["best"] == result["points"][0]["values"]
    assert result["folds"] == [1]
    assert result["clips"] == 20, "a fifth of the 80 clips outside fold 1, by label"
    with (found / "search.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    # The best recipe opens with its command, its figure and where that was measured, and is the point's.
    lines = recipe_notes(found / "best.yaml")[str(found / "best.yaml")]
    assert lines[0].startswith("earsight crossval ")
    assert str(found / "best.yaml") in lines[0]
    assert any(f"{100 * scores[0][0]:.1f} %" in line for line in lines)
    assert any("Measured on" in line for line in lines)
    best = load_recipe(found / "best.yaml")
    assert best.training.learning_rate == result["best"]["training.learning_rate"]
    assert best.augment.mixup == result["best"]["augment.mixup"]
    assert best.features.sample_rate_hz == "auto", "as the recipe that it came from, for any data set"
    assert seal_fits((found / "best.yaml").read_text())
    assert (found / "best.yaml").read_text().startswith(SEAL), "a changed byte of it is noticed where it is used"


def test_a_search_again_trains_nothing_and_says_the_same(found, synthetic_folder, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in found.rglob("inner.npz")}
    common = ("--out", found, "--on", "local", "--threads", 1, *TINY)
    result = invoke("tune", "default", synthetic_folder, *common, *GRID, "--json")
    assert json.loads(result.stdout)["points"] == json.loads((found / "search.json").read_text())["points"]
    # Another value is another two points; the four are kept.
    grid = ["--grid", "training.learning_rate=1e-2,1e-3,3e-3", "--grid", "augment.mixup=0,0.3"]
    result = invoke("tune", "default", synthetic_folder, *common, *grid, "--json")
    assert len(json.loads(result.stdout)["points"]) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_here_nothing_of_ray_is_imported(synthetic_folder, tmp_path):
    """In a process of its own: other tests import it."""
    code = (
        "import sys; from typer.testing import CliRunner; from earsight.cli import app;"
        f"run = CliRunner().invoke(app, {[str(word) for word in ('tune', 'default', synthetic_folder)]!r} + "
        f"['--out', {str(tmp_path)!r}, '--on', 'local', '--threads', '1', '--grid', 'augment.mixup=0'] + {TINY!r});"
        "print(run.exit_code, [name for name in sys.modules if name.partition('.')[0] == 'ray'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []", done.stderr


def test_mistakes_of_a_search_are_told_before_it_starts(synthetic_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "run_inner", lambda *_, **__: pytest.fail("it started"))
    start = ("tune", "default", synthetic_folder, "--out", tmp_path, "--on", "local")
    assert "did you mean 'learning_rate'?" in refused(*start, "--grid", "training.learnin_rate=1")
    assert "training.epochs: Input should be greater than or equal to 1" in refused(
        *start, "--grid", "training.epochs=0,3"
    )
    assert "nothing to search" in refused(*start)
    assert "--asha: is Ray Tune's, so it needs --on ray" in refused(*start, *GRID, "--asha")
    assert "'9' is no fold of this data set" in refused(*start, *GRID, "--folds", "9")
    assert "did you mean 'default'?" in refused("tune", "defalt", synthetic_folder, *GRID)
    assert "no such" in refused("tune", "default", tmp_path / "none", *GRID, "--on", "local")
    message = refused(*start, "--grid", "backbone.name=test_resnet,no_such_net", "--set", "backbone.weights=none")
    assert "no_such_net" in message


@pytest.mark.parametrize(
    "words", [("crossval", "--out", "x"), ("analyze", "freeze", "--out", "x"), ("tune", "default")]
)
def test_where_trials_cannot_run_is_told_in_a_line(words, synthetic_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb = (*words, synthetic_folder, *TINY, *(GRID if words[0] == "tune" else ()))
    assert "--on moon: unknown; expected local, ray, or ray://HOST:PORT" in refused(*verb, "--on", "moon")
    assert "--on ray://host: unknown" in refused(*verb, "--on", "ray://host")
    assert "are for --on ray" in refused(*verb, "--on", "local", "--gpus-per-trial", "0.2")
    assert "--device cuda:1: on a cluster Ray chooses the card" in refused(*verb, "--on", "ray", "--device", "cuda:1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        port = taken.getsockname()[1]
        message = refused(*verb, "--on", f"ray://127.0.0.1:{port}")
        assert f"ray://127.0.0.1:{port}: no Ray cluster can be reached there" in message
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        assert f"127.0.0.1:{port}: no Ray cluster can be reached there" in refused(*verb, "--on", "ray")
        # What listens and does not speak as Ray does is given up in bounded time.
        taken.listen()
        monkeypatch.setattr(ray_cluster, "REACH_SECONDS", 0.3)
        assert "what answers is not Ray" in refused(*verb, "--on", "ray")


def test_without_ray_the_command_that_installs_it_is_told(synthetic_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = refused("crossval", synthetic_folder, "--out", tmp_path, "--on", "ray")
    assert "Ray is not installed" in message
    assert "python -m pip install 'earsight[ray]'" in message
    assert "--on local" in refused("tune", "default", synthetic_folder, *GRID)


def test_predict_tells_of_its_cluster_before_it_writes(tmp_path):
    verb = ("predict", tmp_path / "m.safetensors", tmp_path / "x.wav", "--out", tmp_path / "rows.csv")
    assert "--on moon: unknown; expected local, ray, or ray://HOST:PORT" in refused(*verb, "--on", "moon")
    assert list(tmp_path.iterdir()) == []


def test_jobs_are_not_for_clusters(synthetic_folder, tmp_path):
    verb = ("crossval", synthetic_folder, "--out", tmp_path, *TINY)
    assert "--jobs 2: is for --on local" in refused(*verb, "--on", "ray", "--jobs", "2")


def test_the_recipe_of_a_search_is_what_it_started_from(found):
    best = load_recipe(found / "best.yaml")
    overrides = [word for word in TINY if word != "--set"]
    base = Recipe().override(overrides)
    assert (
        best.override([f"training.learning_rate={base.training.learning_rate}", "augment.mixup=0.3"]).digest
        == base.digest
    )
