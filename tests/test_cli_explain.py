"""`explain` and `analyze boundaries`, as a user runs them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earsight.files import read_state
from test_cli import THREAD, TINY, invoke


@pytest.fixture(scope="module")
def run(synthetic_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    invoke("crossval", synthetic_folder, "--out", folder, "--folds", "1,2", *TINY, *THREAD)
    return folder


@pytest.fixture(scope="module")
def model(run) -> Path:
    return run / "fold-1" / "seed-0" / "model.safetensors"


def refused(*args: object, code: int = 2) -> str:
    done = invoke(*args, code=code)
    said = [line for line in done.stderr.splitlines() if line.startswith("earsight: ")]
    assert len(said) == 1
    assert done.stdout == ""
    return said[0]


def test_explain_writes_shows_and_does_nothing_twice(model, synthetic, tmp_path):
    files = [synthetic.file(0), synthetic.file(11)]
    out = tmp_path / "out"
    done = invoke("explain", model, *files, "--out", out, *THREAD)
    for file in files:
        for ending in (".png", ".faithfulness.png", ".npz", ".json", ".used.wav", ".unused.wav"):
            assert (out / f"{file.stem}{ending}").stat().st_size > 100
        parts = [soundfile.read(out / f"{file.stem}.{part}.wav", dtype="float32") for part in ("used", "unused")]
        whole, rate = soundfile.read(file, dtype="float32")
        assert [one[1] for one in parts] == [rate, rate]
        np.testing.assert_allclose(parts[0][0] + parts[1][0], whole, atol=1e-6)
    for words in ("complete: the attributions add up to", "audible: with only what was used", "area under deletion"):
        assert done.stdout.count(words) == 2
    counts = re.findall(r"^explaining: (\d+) of (\d+) curves ", done.stderr, re.MULTILINE)
    assert {total for _, total in counts} == {"28"}  # of two sounds four maps and ten random orders
    assert len(counts) == 10
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    as_json = json.loads(invoke("explain", model, *files, "--out", out, "--json", *THREAD).stdout)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert [entry["path"] for entry in as_json["explanations"]] == [str(file) for file in files]
    assert all(entry["completeness"]["error"] <= 0.01 for entry in as_json["explanations"])
    assert as_json["failed"] == []


def test_explain_another_label_without_curves(model, synthetic, tmp_path):
    label = synthetic.classes[4]
    invoke("explain", model, synthetic.file(0), "--label", label, "--no-curves", "--out", tmp_path, *THREAD)
    content = json.loads((tmp_path / f"{synthetic.file(0).stem}.json").read_text())
    assert content["label"] == label
    assert content["faithfulness"] is None
    assert not list(tmp_path.glob("*.faithfulness.png"))


def test_explain_goes_on_after_a_bad_file_and_says_so(model, synthetic, tmp_path):
    (tmp_path / "bad.wav").write_text("hello")
    shutil.copy(synthetic.file(0), tmp_path / "good.wav")
    files = [tmp_path / "bad.wav", tmp_path / "good.wav"]
    done = invoke("explain", model, *files, "--no-curves", "--out", tmp_path / "out", "--json", *THREAD, code=1)
    content = json.loads(done.stdout)
    assert [entry["path"] for entry in content["explanations"]] == [str(files[1])]
    assert "bad.wav: " in content["failed"][0]
    assert "bad.wav: " in done.stderr
    assert "Traceback" not in done.stderr


def test_explain_of_a_single_bad_file_is_json_too(model, tmp_path):
    (tmp_path / "bad.wav").write_text("hello")
    done = invoke("explain", model, tmp_path / "bad.wav", "--out", tmp_path / "out", "--json", *THREAD, code=1)
    content = json.loads(done.stdout)
    assert content["explanations"] == []
    assert ["bad.wav: " in reason for reason in content["failed"]] == [True]


def test_explain_refuses_in_one_line(model, synthetic, tmp_path):
    out = ("--out", tmp_path / "out", *THREAD)
    label = synthetic.classes[0]
    message = refused("explain", model, synthetic.file(0), "--label", label[:-1], *out)
    assert f"did you mean '{label}'?" in message
    assert "no such file" in refused("explain", model, tmp_path / "absent.wav", *out, code=1)
    soundfile.write(tmp_path / "short.wav", np.ones(100), 22050)
    assert "less than one window of 100 ms" in refused("explain", model, tmp_path / "short.wav", *out, code=1)
    soundfile.write(tmp_path / "silent.wav", np.zeros(22050), 22050)
    assert "silent" in refused("explain", model, tmp_path / "silent.wav", *out, code=1)
    assert "no such file" in refused("explain", tmp_path / "absent.safetensors", synthetic.file(0), *out)
    assert not (tmp_path / "out").exists()


def test_analyze_boundaries_ends_in_figure_table_and_numbers(run, synthetic_folder, tmp_path):
    arguments = ("analyze", "boundaries", run, "--clips", 2, "--max-steps", 16, *THREAD)
    done = invoke(*arguments)
    header, _, first, *_ = done.stdout.splitlines()
    assert (header.split()[:3], first.split()[0]) == (["of", "with", "observed"], "attribution")
    assert "At a given loudness, attributions are larger where the spectrogram changes" in done.stdout
    assert sorted(path.name for path in (run / "analysis").iterdir()) == [
        *("boundaries.csv", "boundaries.json", "boundaries.jsonl", "boundaries.png")
    ]
    content = json.loads(invoke(*arguments, "--json").stdout)
    assert content == read_state(run / "analysis" / "boundaries.json", {}, remedy="")
    assert content["clips"]["measured"] == 4
    # The run is still one: nothing of this stands in the way of its summary.
    invoke("summary", run)
    gone = shutil.copytree(run, tmp_path / "run")
    for path in gone.glob("fold-*/seed-*/trial.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"root": str(tmp_path / "gone")}))
    assert "add --data" in refused("analyze", "boundaries", gone, *THREAD)
    invoke("analyze", "boundaries", gone, "--data", synthetic_folder, "--clips", 2, "--max-steps", 16, *THREAD)


def test_analyze_boundaries_of_what_is_no_run(tmp_path):
    assert "no such run folder" in refused("analyze", "boundaries", tmp_path / "absent")
