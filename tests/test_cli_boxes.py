"""Training from boxes on the command line: the tutorial's commands as they stand there, with a tiny network."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from earsight.cli import app
from earsight.data.synthetic import write_synthetic_recordings
from test_readme import TINY

PAGE = Path(__file__).parents[1] / "docs" / "recordings.md"
TRAINS = ("train", "crossval")


def run(words):
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    return found


def words_without(words, *others):
    return [word for word in words if word not in others]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_synthetic_recordings(tmp_path_factory.mktemp("made"), recordings=4, seconds=20.0)


def test_the_tutorial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    done = []
    for line in [line for kind, block in blocks if not kind for line in block.splitlines()]:
        name, *words = shlex.split(line)
        if name == "python":
            subprocess.run([sys.executable, *words], check=True)
            continue
        run([*words, *(TINY if words[0] in TRAINS else [])])
        done.append(words[0])
    assert done == ["check", "crossval", "predict"]
    assert (tmp_path / "made" / "boxes.csv").read_text().split("\n")[:2] == (text.split("```text\n")[1].split("\n")[:2])
    for block in [block for kind, block in blocks if kind == "python"]:
        subprocess.run([sys.executable, "-c", block], check=True)


def test_every_rule_is_printed_and_the_run_says_how_to_open_the_data_again(made, tmp_path):
    words = [str(made / "recordings"), "--boxes", str(made / "boxes.csv"), "--complete", "--window-seconds", "1"]
    found = run(["train", *words, "--hop", "0.5", "--out", str(tmp_path / "run"), *TINY])
    said = " ".join(found.output.split())
    for part in (
        "boxes: 32 with 3 labels in 4 recordings of 0.0222 h",
        "windows of 1 s, one every 0.5 s (--window-seconds, --hop)",
        "a window has a label if it holds 0.5 of a box",
        "background by --complete",
        "windows a class: chirp_up",
        "held out:",
    ):
        assert part in said
    (trial,) = (tmp_path / "run").glob("fold-*/seed-*")
    with np.load(trial / "predictions.npz", allow_pickle=False) as file:
        names, classes = file["clip"].tolist(), file["classes"].tolist()
        about = json.loads(str(file["about"]))
    assert all(re.fullmatch(r"\d\.wav@\d+\.\d{3}-\d+\.\d{3}", name) for name in names)
    assert len({name.partition("@")[0] for name in names}) == 1
    assert classes == ["chirp_up", "click_train", "siren", "background"]
    assert about["dataset"]["options"] == [
        *("--boxes", str(made / "boxes.csv"), "--complete", "--window-seconds", "1.0", "--hop", "0.5")
    ]
    model = tmp_path / "run" / "model.safetensors"
    found = run(["evaluate", str(model), *words, "--hop", "0.5", "--json"])
    # A network that knows nothing says everything, but background is no event.
    rows = run(["predict", str(model), str(made / "recordings"), "--hop", "1", "--threshold", "0.01", "--json"]).stdout
    heard = {row["label"] for row in map(json.loads, rows.splitlines()) if "label" in row}
    assert heard
    assert heard <= {"chirp_up", "click_train", "siren"}
    events = ["evaluate", str(model), *words, "--events"]
    scored = run([*events, "--hop", "0.5", "--tolerance", "0.3", "--json"]).stdout
    scores = json.loads(scored)
    # The recording that was held out tests it, though the windows of events have another hop than those of training.
    assert (scores["sounds"], scores["recordings"], scores["hop_seconds"]) == (8, 1, 0.5)
    assert (scores["held_out"], scores["seen_in_training"]) == (True, False)
    assert scores["tolerance"] == 0.3
    assert scores["hours"] == pytest.approx(20 / 3600)
    assert {row["name"] for row in scores["classes"]} == {"chirp_up", "click_train", "siren"}
    shown = " ".join(run([*words_without(events, "--complete"), "--hop", "0.25"]).output.split())
    assert "its onset within 0.5 s (--tolerance)" in shown
    assert "1 recording, held out in training, 0.00556 h, a window every 0.25 s" in shown
    shown = " ".join(run([*events, "--hop", "1", "--window-seconds", "2"]).output.split())
    assert "4 recordings, 0.0222 h" in shown
    assert "Other windows trained the model: whether it saw some of these recordings cannot be told." in shown
    for option, message in (("--first", "leave --first out"), ("--fold=9", "fold 9: not in this data set")):
        refused = CliRunner().invoke(app, [*events, option])
        assert refused.exit_code == 2
        assert message in " ".join(refused.output.split())


def test_rare_labels_that_are_left_out_in_training_are_left_out_in_tests(made, tmp_path):
    rows = (made / "boxes.csv").read_text()
    (tmp_path / "boxes.csv").write_text(rows + "0.wav,16.9,18,frog\n")
    words = [str(made / "recordings"), "--boxes", str(tmp_path / "boxes.csv")]
    run(["train", *words, "--skip-rare", "--out", str(tmp_path / "run"), *TINY])
    model = str(tmp_path / "run" / "model.safetensors")
    for events in ([], ["--events", "--hop", "2"]):
        refused = CliRunner().invoke(app, ["evaluate", model, *words, *events])
        assert refused.exit_code == 2
        assert "the model does not know frog" in " ".join(refused.output.split())
        found = json.loads(run(["evaluate", model, *words, "--skip-rare", *events, "--json"]).stdout)
        assert found["held_out"]
        assert "frog" not in {row["name"] for row in found["classes"]}


def test_options_for_boxes_without_boxes_and_those_of_other_data_sets_with_them(made):
    for words, message in (
        (["--complete"], "--complete: is for recordings with boxes; name their table by --boxes"),
        (["--window-seconds", "2"], "--window-seconds: is for recordings with boxes"),
        (["--boxes", str(made / "boxes.csv"), "--layout", "folder"], "--layout: is not for recordings with boxes"),
    ):
        found = CliRunner().invoke(app, ["prepare", str(made / "recordings"), *words])
        assert found.exit_code == 2
        assert message in " ".join(found.output.split())


def test_events_are_scored_against_boxes_alone(made, tmp_path):
    for words, wanted in (
        (["--events"], "name the table of that by --boxes"),
        (["--boxes", str(made / "boxes.csv"), "--tolerance", "1"], "needs --events"),
    ):
        found = CliRunner().invoke(app, ["evaluate", "no.safetensors", str(made / "recordings"), *words])
        assert found.exit_code == 2
        assert wanted in " ".join(found.output.split())


def test_background_is_added_in_training(made, tmp_path):
    words = [str(made / "recordings"), "--boxes", str(made / "boxes.csv"), "--out", str(tmp_path / "run"), *TINY]
    mixed = ["--set", "augment.background=0.5"]
    run(["train", *words, "--complete", *mixed])
    found = CliRunner().invoke(app, ["train", *words, *mixed])
    assert found.exit_code == 2
    assert "no clip is background: name a folder, a label or boxes 'background'" in " ".join(found.output.split())


def exchange(one: Path, two: Path, *, in_place: bool) -> None:
    """Two files of one size change their names, or their content with the times kept."""
    assert one.stat().st_size == two.stat().st_size
    if in_place:
        for path, data, times in [(one, two.read_bytes(), one.stat()), (two, one.read_bytes(), two.stat())]:
            path.write_bytes(data)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        one.rename(one.with_name("x"))
        two.rename(one)
        one.with_name("x").rename(two)


def noticed(words: list[str], home: Path, changes) -> None:
    """After each change the old run is refused, and a new one then has the bits of one with an empty cache."""
    words = ["train", *words, *TINY, "--threads", "1", "--set", "augment.background=0.5"]
    held = "fold-1/seed-0/predictions.npz"
    for path in (path for path in Path(words[1]).rglob("*") if path.is_file()):
        os.utime(path, ns=(1, 1_700_000_000_000_000_000))
    run([*words, "--cache", str(home / "cache"), "--out", str(home / "old")])
    for change in changes:
        change()
        refused = CliRunner().invoke(app, [*words, "--cache", str(home / "cache"), "--out", str(home / "old")])
        assert refused.exit_code == 2
        assert "holds a trial of another" in " ".join(refused.output.split())
    found = []
    for cache in ("cache", "empty"):
        run([*words, "--cache", str(home / cache), "--out", str(home / f"of-{cache}")])
        found.append(np.load(home / f"of-{cache}" / held)["logits"])
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], np.load(home / "old" / held)["logits"])


def test_recordings_and_boxes_that_changed_with_size_and_time_kept_are_noticed(made, tmp_path, monkeypatch):
    monkeypatch.setattr("earsight.features.content_key._RECENT_NS", -1)
    home = Path(shutil.copytree(made, tmp_path / "made"))
    table, (one, two, three, *_) = home / "boxes.csv", sorted((home / "recordings").iterdir())

    def relabel() -> None:
        times, lines = table.stat(), table.read_text().splitlines()
        rows = [line.split(",") for line in lines]
        other = next(n for n in range(2, len(rows)) if rows[n][-1] != rows[1][-1])
        rows[1][-1], rows[other][-1] = rows[other][-1], rows[1][-1]
        table.write_text("\n".join(map(",".join, rows)) + "\n")
        os.utime(table, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert table.stat().st_size == times.st_size

    changes = [relabel, lambda: exchange(one, two, in_place=False), lambda: exchange(two, three, in_place=True)]
    noticed([str(home / "recordings"), "--boxes", str(table), "--complete"], tmp_path, changes)


def test_background_that_was_exchanged_is_noticed(tmp_path, monkeypatch):
    """Within one folder no label changes: only what is added to other clips does."""
    monkeypatch.setattr("earsight.features.content_key._RECENT_NS", -1)
    chance = np.random.default_rng(0)
    for label, tone in (("background", 0.0), ("high", 0.9), ("low", 0.2)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for n in range(12):
            wave = 0.3 * np.sin(tone * np.arange(4000)) + chance.normal(0, 0.02 * (1 + n), 4000)
            soundfile.write(tmp_path / "data" / label / f"{n:02}.wav", np.clip(wave, -1, 1), 8000)
    one, two, three = (tmp_path / "data" / "background" / name for name in ("03.wav", "11.wav", "07.wav"))
    changes = [lambda: exchange(one, two, in_place=False), lambda: exchange(two, three, in_place=True)]
    noticed([str(tmp_path / "data")], tmp_path, changes)
