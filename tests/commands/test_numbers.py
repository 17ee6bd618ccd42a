"""What verbs print beside an accuracy: the commonest class, sources, the drawn part, and how to repeat it."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from earsight.cli import app
from earsight.data.layouts import open_dataset
from earsight.training.preparation import hold_out

TINY = [
    *("--set", "backbone.name=test_resnet", "--set", "backbone.weights=none", "--set", "training.epochs=1"),
    *("--set", "features.bands=32", "--set", "features.frames=32", "--set", "augment.pitch_semitones=0"),
    *("--threads", "1"),
]
SPEAKERS = ("ann", "bob", "eve", "joe", "kim", "lou")
SIZES = {"burping": 6, "hungry": 60, "tired": 6}


def invoke(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, f"{result.exit_code}: {result.stderr} {result.exception!r}"
    return result


@pytest.fixture(scope="module")
def cries(tmp_path_factory) -> Path:
    """72 sounds of three classes, 83.3 % of one of them, by six speakers that the names alone tell."""
    home, generator = tmp_path_factory.mktemp("cries") / "sounds", np.random.default_rng(0)
    for place, (label, size) in enumerate(SIZES.items()):
        (home / label).mkdir(parents=True)
        for n in range(size):
            wave = 0.3 * np.sin(np.arange(4000) * 0.05 * (1 + place)) + generator.normal(0, 0.05, 4000)
            soundfile.write(home / label / f"{place}_{SPEAKERS[n % 6]}_{n}.wav", wave, 8000)
    return home


@pytest.fixture(scope="module")
def listed(cries) -> Path:
    """The same as a csv with the speakers, as `check` writes it."""
    found = json.loads(invoke("check", cries, "--sources", cries.parent / "cries.csv", "--json").stdout)
    assert (found["sources"]["count"], found["sources"]["file"]) == (6, str(cries.parent / "cries.csv"))
    return cries.parent / "cries.csv"


@pytest.fixture(scope="module")
def run(listed) -> Path:
    """A run of `train` on the csv, and what it printed."""
    folder = listed.parent / "run"
    done = invoke("train", listed, "--out", folder, *TINY)
    (folder / "printed.txt").write_text(done.stderr + done.stdout)
    return folder


def test_check_offers_sources_and_refuses_where_there_are_none_to_guess(cries, listed, tmp_path):
    assert "sources are not known; by a word in their names" in invoke("check", cries).stdout
    failed = invoke("check", listed, "--sources", tmp_path / "again.csv", code=2)
    assert "no sources to write, for they are known" in failed.stderr
    assert "clips checked: 0 errors" in failed.stdout, "what was found is not lost"
    assert not (tmp_path / "again.csv").exists()


@pytest.mark.skipif(os.name != "posix", reason="the disk is a limit on the size of files")
def test_a_full_disk_costs_the_csv_and_nothing_that_was_found(cries, tmp_path):
    from full_disk import full_disk

    (tmp_path / "cries.csv").write_text("mine")
    with full_disk(100):
        failed = invoke("check", cries, "--no-near", "--sources", tmp_path / "cries.csv", code=2)
    assert "clips checked: 0 errors" in failed.stdout
    assert "the clips would be from 6: --sources FILE writes them" in " ".join(failed.stdout.split())
    said = " ".join(failed.stderr.split())
    assert f"--sources {tmp_path / 'cries.csv'}: cannot be written (File too large); make room or name" in said
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("cries.csv", "mine")]


def test_near_duplicates_are_kept_together_by_the_csv_that_check_writes(tmp_path):
    home, draws = tmp_path / "sounds", np.random.default_rng(5)
    for n in range(24):
        (home / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        gate = np.repeat(draws.uniform(0, 1, 16) > 0.4, 1000)
        wave = (0.05 + 0.4 * gate) * np.sin(np.cumsum(draws.uniform(0.2, 2, 16).repeat(1000)))
        soundfile.write(home / "ab"[n % 2] / f"{chr(97 + n) * 3}.wav", wave, 8000)
        if n in (4, 7):
            soundfile.write(home / "ab"[n % 2] / f"{chr(97 + n) * 3}x.flac", 0.25 * wave[900:], 8000)
    failed = invoke("check", home, "--no-near", "--sources", tmp_path / "none.csv", code=2)
    assert "suggest none, and no sound is there twice" in failed.stderr
    found = json.loads(invoke("check", home, "--sources", tmp_path / "near.csv", "--json").stdout)
    assert found["counts"]["near_duplicate"] == 4
    assert (found["sources"]["rule"], found["sources"]["count"], found["sources"]["joined"]) == (None, 24, 2)
    invoke("train", tmp_path / "near.csv", "--out", tmp_path / "run", *TINY)
    held = np.load(tmp_path / "run" / "fold-1" / "seed-0" / "predictions.npz")["clip"].tolist()
    listed = open_dataset(tmp_path / "near.csv", folds=None)
    draws = [hold_out(listed, seed=seed) for seed in range(8)]
    assert {clip.path for clip in draws[0].clips if clip.fold == 1} == set(held)
    for drawn in draws:
        fold = {Path(clip.path).name: clip.fold for clip in drawn.clips}
        assert (fold["eee.wav"], fold["hhh.wav"]) == (fold["eeex.flac"], fold["hhhx.flac"])


def test_train_on_a_folder_says_what_its_split_may_tear_apart(cries, tmp_path):
    done = invoke("train", cries, "--out", tmp_path / "run", *TINY)
    assert "by label alone (no sources are known), seed 0" in done.stderr
    assert re.search(r"note: sources are not known, but by .* from 6, and \d+ of \d+ held-out clips share", done.stderr)
    assert "note: unbalanced: always saying 'hungry' would be right in 83.3 % of the clips" in done.stderr
    assert done.stderr.index("unbalanced") < done.stderr.index("seed 0: "), "before training"
    assert "group" not in np.load(tmp_path / "run" / "fold-1" / "seed-0" / "predictions.npz").files
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["groups"] is None


def test_train_names_the_sources_that_it_holds_out_and_its_part_is_no_fold(run):
    text = (run / "printed.txt").read_text()
    named = re.search(r"held out: \d+ of 72 clips, (\d) of 6 groups \(([a-z, ]+)\), by label and source, seed 0", text)
    arrays = np.load(run / "fold-1" / "seed-0" / "predictions.npz")
    assert named[2].split(", ") == sorted(set(arrays["group"].tolist()))
    assert "fold 1" not in text
    assert "drawn part seed 0: " in text
    assert "of fold" not in text
    summary = json.loads((run / "summary.json").read_text())
    assert summary["groups"] == {"count": int(named[1]), "few": True}
    assert "always saying 'hungry' gives" in text
    assert ("NOT shown to be better than always saying 'hungry'" in text) == (not summary["majority"]["beaten"])
    labels = [arrays["classes"][n] for n in arrays["label"]]
    assert summary["majority"]["share"] == pytest.approx(labels.count("hungry") / len(labels))
    said = set(arrays["classes"][arrays["logits"].argmax(axis=1)].tolist())
    assert summary["never_predicted"] == sorted(set(labels) - said)
    for name in summary["never_predicted"]:
        assert name in re.search("It never says ([^.]*)", text)[1]


def _command(run: Path) -> list[str]:
    """The command on a run's report page, and the recipe beside it."""
    invoke("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    return shlex.split(html.unescape(re.search(r"<code>(earsight [^<]*)</code>", page)[1]))


def test_the_report_has_the_command_that_makes_the_drawn_part_again(run, listed, tmp_path):
    words = _command(run)
    assert words == ["earsight", "train", "DATA", "--recipe", "recipe.yaml", "--seed", "0", "--out", "again"]
    given = {"DATA": listed, "recipe.yaml": run / "recipe.yaml", "again": tmp_path / "again"}
    invoke(*(given.get(word, word) for word in words[1:]), "--threads", 1)
    again, first = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "again", run))
    for name in ("accuracy", "dataset", "recipe_digest", "groups", "majority"):
        assert again[name] == first[name]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "a part drawn by seed 0" in page
    assert "always saying hungry would reach" in page
    assert "Each class weighing the same: balanced accuracy" in page
    assert ("NOT shown to be better than always saying" in page) == (not first["majority"]["beaten"])
    assert ("It never says" in page) == bool(first["never_predicted"])
    assert ", fold 1" not in page


def test_the_command_of_a_cross_validation_has_its_options(listed, cries, tmp_path):
    done = invoke("crossval", listed, "--splits", 3, "--out", tmp_path / "cv", *TINY)
    held = re.search(r"groups: 6; fold 1 holds out (.*); fold 2 holds out (.*); fold 3 holds out (.*)", done.stderr)
    assert sorted(", ".join(held.groups()).split(", ")) == sorted(SPEAKERS)
    assert "over 6 groups, whose clips move together. They are few" in done.stdout
    words = _command(tmp_path / "cv")
    assert words[2:6] == ["DATA", "--splits", "3", "--recipe"]
    assert words[words.index("--folds") + 1] == "1,2,3"
    one = tmp_path / "one"
    invoke("train", cries, "--fold", 2, "--splits", 3, "--layout", "folder", "--out", one, *TINY)
    words = _command(one)
    assert words[2:9] == ["DATA", "--layout", "folder", "--splits", "3", "--recipe", "recipe.yaml"]
    assert words[9:11] == ["--fold", "2"]


def test_evaluate_takes_what_is_only_a_test_set(run, cries, tmp_path):
    """One class in a folder, one fold in a csv, one clip a class: no folds are needed."""
    model = run / "model.safetensors"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "hungry").symlink_to(cries / "hungry")
    found = json.loads(invoke("evaluate", model, tmp_path / "one", "--json", "--threads", 1).stdout)
    assert (found["clips"], found["majority"]) == (60, None)
    assert "All clips are of one class" in invoke("evaluate", model, tmp_path / "one", "--threads", 1).stdout
    rows = [f"{next((cries / label).iterdir())},{label},1" for label in SIZES]
    (tmp_path / "fold.csv").write_text("\n".join(["path,label,fold", *rows]))
    found = json.loads(invoke("evaluate", model, tmp_path / "fold.csv", "--json", "--threads", 1).stdout)
    assert (found["clips"], len(found["classes"])) == (3, 3)
    assert found["balanced_accuracy"] == pytest.approx(found["accuracy"]["mean"])
