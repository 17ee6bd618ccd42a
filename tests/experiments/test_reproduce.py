"""`earsight reproduce`: what it plans, runs, keeps and prints, and that its figures are those of the predictions."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from earsight.cli import app
from earsight.errors import ModelError
from earsight.evaluation.summary import read_predictions
from earsight.execution import schedule
from earsight.experiments import paper_figures
from earsight.files import content_digest, read_state
from earsight.models import weights
from earsight.training import trial as trials

ONE = ["--folds", "1,2", "--threads", "1"]


def invoke(*args: object, code: int = 0) -> Result:
    """Run a verb in this process and check its exit code."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, f"{result.exit_code}: {result.stderr} {result.exception!r}"
    return result


def refused(*args: object) -> str:
    """Run a verb that must refuse in one line, and return it."""
    result = invoke(*args, code=2)
    assert isinstance(result.exception, SystemExit)
    _, found, message = result.stderr.partition("earsight: ")
    assert found
    assert len(message.strip().splitlines()) == 1, message
    return message


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Which trials are trained, but for the timing: run folder, fold, seed."""
    trained = []
    fitted = trials._fitted

    def told(prepared, trial, rows, folder, **more):
        if "earsight-timing-" not in str(folder):
            trained.append((folder.parents[1].name, trial.fold, trial.seed))
        return fitted(prepared, trial, rows, folder, **more)

    monkeypatch.setattr(trials, "_fitted", told)
    return trained


@pytest.fixture(scope="module")
def asked(tiny_esc10: Path, tiny_scale: Path) -> list[object]:
    """Arguments that all calls share, after the section."""
    donor = tiny_scale.with_name("donor.safetensors")
    return [tiny_esc10, "--scale", tiny_scale, "--weights", f"test_resnet={donor}", *ONE]


@pytest.fixture(scope="module")
def done(asked: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Table I, Table II and the representations were run."""
    out = tmp_path_factory.mktemp("done") / "out"
    for section in ("table1", "table2", "representations", "windows", "figures"):
        invoke("reproduce", section, *asked, "--out", out)
    return out


def accuracy(run: Path, *, seeds: tuple[int, ...] = (0,)) -> float:
    """Mean over folds 1 and 2, anew from the saved predictions."""
    found = []
    for fold in (1, 2):
        for seed in seeds:
            one = read_predictions(run / f"fold-{fold}" / f"seed-{seed}" / "predictions.npz")
            found.append((one.logits.argmax(axis=1) == one.labels).mean())
    return float(np.mean(found))


def test_the_plan_tells_the_cost_and_trains_nothing(asked, tmp_path, watched):
    result = invoke("reproduce", "all", *asked, "--out", tmp_path / "out", "--plan")
    assert watched == []
    assert not (tmp_path / "out").exists()
    assert re.search(r"esc10-pretrained +4 +2 +0 +about \d+ s", result.stderr)
    assert re.search(r"gtzan-random +not run: its data set was not given", result.stderr)
    # pretrained with 2 seeds; random, mfcc, and fused, frozen and cut at a stage, with 1 seed each; 2 folds.
    assert re.search(r"6 of 8 cells: 14 trials, 0 done; about \d+ s for the rest", result.stderr)
    plan = json.loads(invoke("reproduce", "all", *asked, "--out", tmp_path / "out", "--plan", "--json").stdout)["plan"]
    assert {row["cell"]: row["trials"] for row in plan}["esc10-pretrained"] == 4
    assert all(row["seconds"] > 0 for row in plan)


def test_figures_of_the_tables_are_those_of_the_predictions(done):
    one = json.loads((done / "sections" / "table1.json").read_text())
    row = one["rows"][0]
    pretrained, random = (accuracy(done / "runs" / f"esc10-{start}") for start in ("pretrained", "random"))
    assert row["pretrained"]["accuracy"]["mean"] == pytest.approx(pretrained)
    assert row["random"]["accuracy"]["mean"] == pytest.approx(random)
    assert row["difference"]["difference"]["mean"] == pytest.approx(pretrained - random)
    assert row["pretrained"]["gap"]["points"] == pytest.approx(100 * pretrained - 91.16)
    assert "Three windows against one" in (done / "report.md").read_text()
    two = json.loads((done / "sections" / "table2.json").read_text())["rows"][0]
    both = accuracy(done / "runs" / "esc10-pretrained", seeds=(0, 1))
    assert two["single"]["accuracy"]["mean"] == pytest.approx(both)
    pair = json.loads((done / "sections" / "windows.json").read_text())["rows"][0]
    other = accuracy(done / "runs" / "esc10-mfcc")
    assert (pair["three"]["accuracy"]["mean"], pair["one"]["accuracy"]["mean"]) == pytest.approx((both, other))
    assert pair["difference"]["difference"]["mean"] == pytest.approx(pretrained - other), "seed 0, which both have"
    assert two["single"]["gap"] is None, "the paper's figure is of another data set"
    folds = []
    for fold in (1, 2):
        found = [
            read_predictions(done / "runs" / "esc10-pretrained" / f"fold-{fold}" / f"seed-{seed}" / "predictions.npz")
            for seed in (0, 1)
        ]
        power = [np.exp(trial.logits.astype(float)) for trial in found]
        mean = np.mean([part / part.sum(axis=1, keepdims=True) for part in power], axis=0)
        folds.append((mean.argmax(axis=1) == found[0].labels).mean())
    assert two["ensemble"]["accuracy"]["mean"] == pytest.approx(np.mean(folds))
    assert two["gain"]["difference"] == pytest.approx(np.mean(folds) - two["single"]["accuracy"]["mean"])
    text = (done / "report.md").read_text()
    assert f"| {100 * pretrained:.1f} (" in text
    assert f"{100 * two['single']['accuracy']['mean']:.1f} ± " in text
    for words in ("91.16", "91.39", "92.89 (ESC-50)", "MFCC", "the noise", "test % (optimistic)", "Synthetic sounds."):
        assert words in text


def test_what_is_done_is_not_run_again(done, asked, watched):
    result = invoke("reproduce", "table1", *asked, "--out", done)
    assert watched == []
    assert "2 of 4 cells: 4 trials, 4 done" in result.stderr
    assert "Table I" in result.stdout
    assert "Table II" not in result.stdout
    # The seed that Table II added counts in Table I too.
    found = json.loads(invoke("reproduce", "table1", *asked, "--out", done, "--json").stdout)["sections"][0]
    assert found["cells"]["esc10-pretrained"]["seeds"] == [0, 1]
    assert found["cells"]["esc10-random"]["seeds"] == [0]
    assert found["rows"][0]["difference"]["seeds"] == [0], "compared over the seed that both have"


def test_a_killed_run_goes_on(asked, tmp_path, monkeypatch, watched):
    run_trial = schedule.run_trial

    def killed(prepared, trial, *, run, **more):
        if trial.fold == 2:
            raise KeyboardInterrupt
        return run_trial(prepared, trial, run=run, **more)

    monkeypatch.setattr(schedule, "run_trial", killed)
    only = ["--only", "esc10-random", "--out", tmp_path]
    stopped = invoke("reproduce", "table1", *asked, *only, code=130)
    assert "The same command goes on from here" in stopped.stderr
    monkeypatch.setattr(schedule, "run_trial", run_trial)
    result = invoke("reproduce", "table1", *asked, *only)
    assert "2 trials, 1 done" in result.stderr
    assert watched == [("esc10-random", 1, 0), ("esc10-random", 2, 0)]


def test_empty_cells_have_commands_that_run(asked, tmp_path, watched):
    out = tmp_path / "out put"
    invoke("reproduce", "table1", *asked, "--out", out, "--only", "esc10-random", "--set", "training.epochs=1")
    section = json.loads((out / "sections" / "table1.json").read_text())
    empty = {item["cell"]: item for item in section["empty"]}
    assert set(empty) == {"esc10-pretrained", "gtzan-pretrained", "gtzan-random"}
    assert empty["gtzan-random"]["why"] == "GTZAN was not given"
    command = typer.main.get_command(app).commands["reproduce"]
    for item in empty.values():
        program, verb, *words = shlex.split(item["command"])
        assert (program, verb) == ("earsight", "reproduce")
        command.make_context(verb, list(words))
        assert f"`{item['command']}`" in (out / "report.md").read_text()
    watched.clear()
    words = shlex.split(empty["esc10-pretrained"]["command"])[1:]
    filled = invoke(*words, "--threads", "1")
    assert watched == [("esc10-pretrained", 1, 0), ("esc10-pretrained", 2, 0)]
    assert "earsight reproduce table1 path/to/GTZAN" in filled.stdout
    rows = json.loads((out / "sections" / "table1.json").read_text())["rows"]
    assert rows[0]["pretrained"]["accuracy"]
    assert rows[0]["random"]["accuracy"]


def test_a_cell_without_its_weights_stays_empty_and_says_so(tiny_esc10, tiny_scale, tmp_path, monkeypatch, watched):
    def offline(model, name):
        raise ModelError(f"{name}: its ImageNet weights are not on this machine: connect once, or do something else")

    monkeypatch.setattr(weights, "_hub_file", offline)
    call = ["reproduce", "table1", tiny_esc10, "--scale", tiny_scale, "--out", tmp_path, "--folds", "1", "--threads", 1]
    result = invoke(*call)
    assert watched == [("esc10-random", 1, 0)]
    assert "--weights test_resnet=test_resnet.pth" in result.stdout
    why = "its ImageNet weights are not on this machine; --weights test_resnet=FILE"
    assert f"esc10-pretrained, 0 of 1 trial ({why})" in result.stdout
    assert "not on this machine" in refused(*call, "--only", "esc10-pretrained")


def test_similarity_is_known_by_the_content_of_its_models(tmp_path, caplog):
    """Models of one size and time that were exchanged; a result of an earlier version, which knew their times alone."""
    chosen = [trials.Trial(1, 0), trials.Trial(2, 0)]
    models = [trial.folder(tmp_path) / "model.safetensors" for trial in chosen]
    for model, content in zip(models, (b"one", b"two"), strict=True):
        model.parent.mkdir(parents=True)
        model.write_bytes(content)
        os.utime(model, ns=(1, 1))

    def states():
        ways = (content_digest, lambda path: path.stat().st_mtime_ns)
        return [paper_figures._state(tmp_path, chosen, by) for by in ways]

    saved, (state, times) = tmp_path / "similarity.json", states()
    assert paper_figures._read_result(saved, state, times) is None
    paper_figures._write_result(saved, state, {"a": 1})
    for model in models:
        os.utime(model, ns=(2, 2))  # a copy
    assert paper_figures._read_result(saved, *states()) == {"a": 1}
    for model, content in zip(models, (b"two", b"one"), strict=True):
        model.write_bytes(content)
        os.utime(model, ns=(1, 1))
    assert paper_figures._read_result(saved, *states()) is None
    assert not caplog.text
    paper_figures._write_result(saved, times, {"a": 2})
    assert paper_figures._read_result(saved, *states()) == {"a": 2}
    assert "cannot be checked" in caplog.text


def test_the_page_loads_nothing(done):
    page = (done / "report.html").read_text()
    assert page.lstrip().startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    named = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>]*)""", page)
    assert named
    assert all(address.startswith(("data:", "#")) for address in named)
    assert not re.search(r"://|url\(|@import|<script|<link", page)
    for title in ("Table I:", "Table II:", "Representations", "Figure 2a", "Figure 2b", "Figure 2c", "Model cutoff"):
        assert title in page
    assert "Table III" not in page, "was not asked for in this folder"


def test_the_figures_are_made_of_the_same_runs(done, asked, watched):
    section = read_state(done / "sections" / "figures.json", {}, remedy="")
    titles = [figure["title"].partition(":")[0] for figure in section["figures"]]
    assert titles == [
        *("Figure 2a", "Figure 2b", "Figure 2c", "Model cutoff", "Figure 3", "Attributions and boundaries"),
    ]
    for figure in section["figures"]:
        assert (done / figure["path"]).read_bytes().startswith(b"\x89PNG")
    page = (done / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(titles)
    fusion = section["analyses"]["fusion"]
    reference = next(point for point in fusion["points"] if point["difference"] is None)
    assert reference["run"] == "esc10-pretrained", "the cell of Table I, not trained twice"
    fused = accuracy(done / "runs" / "esc10-pretrained-fuse-block2")
    assert fusion["points"][0]["accuracy"]["mean"] == pytest.approx(fused)
    found = section["analyses"]["similarity"]
    assert [(run["name"], run["start"]) for run in found["runs"]] == [
        ("esc10-pretrained", "pretrained"),
        ("esc10-random", "random"),
    ]
    assert {(row["fold"], row["seed"]) for row in found["runs"][0]["trials"]} == {(1, 0), (2, 0)}
    assert section["empty"] == []
    assert section["figures"][2]["claims"][0].startswith("Freezing costs the more the deeper")
    # A second call makes the same of what it kept.
    again = invoke("reproduce", "figures", *asked, "--out", done, "--json")
    assert watched == []
    assert json.loads(again.stdout)["sections"][0] == section


def test_a_figure_that_lacks_trials_has_its_command(done, asked, tmp_path):
    (tmp_path / "runs").mkdir()
    for name in ("esc10-pretrained", "esc10-pretrained-fuse-block2", "esc10-pretrained-freeze-block2"):
        shutil.copytree(done / "runs" / name, tmp_path / "runs" / name)
    shutil.rmtree(tmp_path / "runs" / "esc10-pretrained-freeze-block2" / "fold-2")
    kept = [item for item in asked if item != asked[0]]
    invoke("reproduce", "figures", *kept, "--out", tmp_path)
    section = json.loads((tmp_path / "sections" / "figures.json").read_text())
    assert [figure["title"].partition(":")[0] for figure in section["figures"]] == ["Figure 2b"]
    empty = {item["cell"]: item for item in section["empty"]}
    assert set(empty) == {"Figure 2a", "Figure 2c", "Model cutoff", "Figure 3", "Boundaries"}
    assert (empty["Figure 2c"]["done"], empty["Figure 2c"]["trials"]) == (1, 2)
    words = shlex.split(empty["Figure 2c"]["command"])
    assert words[:3] == ["earsight", "reproduce", "figures"]
    assert words.count("--only") == 2
    assert "esc10-pretrained-freeze-*" in words
    assert words[3] == "path/to/ESC-50"
    plan = invoke(*words[1:3], *words[4:], "--plan", "--threads", "1").stderr
    assert plan.count("not run: its data set was not given") == 2


def test_what_the_verb_refuses(tiny_esc10, tiny_scale, synthetic_folder, tmp_path, asked):
    scale = ["--scale", tiny_scale]
    out = ["--out", tmp_path / "out"]
    assert "no such folder" in refused("reproduce", "table1", tmp_path / "absent", *scale, *out)
    assert "expected one of the paper's data sets" in refused("reproduce", "table1", synthetic_folder, *scale, *out)
    assert "and so is" in refused("reproduce", "table1", tiny_esc10, tiny_esc10, *scale, *out)
    assert "did you mean 'esc10-random'?" in refused("reproduce", "table1", *scale, *out, "--only", "esc10-randon")
    assert "choose from paper, small" in refused("reproduce", "table1", "--scale", "big", *out)
    assert "test_resnet" in refused("reproduce", "table1", *scale, *out, "--weights", "resnet50=a.pth")
    assert "table4" in refused("reproduce", "table4", *scale, *out)
    assert "no fold" in refused("reproduce", "table1", tiny_esc10, *scale, *out, "--folds", "9")
    assert "no such field" in refused("reproduce", "table1", *scale, *out, "--set", "training.epoch=1")
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_name_the_first_three(tiny_esc10, tiny_scale, tmp_path):
    from safetensors.torch import save_file

    from earsight.models.backbones import build

    save_file(build("resnet18", classes=3, weights="none", seed=0).state_dict(), tmp_path / "other.safetensors")
    message = refused(
        *("reproduce", "table1", tiny_esc10, "--scale", tiny_scale, "--out", tmp_path / "out"),
        *("--weights", f"test_resnet={tmp_path / 'other.safetensors'}"),
    )
    assert "does not fit test_resnet" in message
    assert len(re.findall(r"expected \(|is not in the file|in the file alone", message)) == 3
    assert re.search(r"and \d+ more", message)


def test_a_recipe_that_extends_itself_is_one_line(tiny_scale, tmp_path):
    (tmp_path / "random.yaml").write_text("extends: random.yaml\n")
    (tmp_path / "tiny.yaml").write_text(tiny_scale.read_text().replace(str(tiny_scale.parent), str(tmp_path)))
    (tmp_path / "pretrained.yaml").write_text("name: fine\n")
    message = refused("reproduce", "table1", "--scale", tmp_path / "tiny.yaml", "--out", tmp_path / "out")
    assert "extends itself" in message


def test_a_run_folder_of_another_recipe_is_refused_before_anything_starts(done, asked, watched):
    message = refused("reproduce", "table1", *asked, "--out", done, "--set", "training.epochs=1")
    assert "another recipe" in message
    assert watched == []
