"""The epochs of a run: as a csv, and as event files that TensorBoard's own reader reads."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import time

import pytest
from report_runs import make_run

from earsight.errors import EarsightError
from earsight.reports import epochs
from earsight.reports.epochs import Follower, write_epochs
from test_cli import TINY, invoke

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard (extra) is not installed"
)


def table(run):
    return list(csv.DictReader((run / "epochs.csv").open(newline=""), strict=True))


def add(run, fold, seed, *records):
    folder = run / f"fold-{fold}" / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_row_an_epoch_by_fold_and_seed(tmp_path):
    add(tmp_path, 10, 0, {"epoch": 1, "loss": 1.5, "learning_rate": 0.1, "seconds": 2.0})
    watched = {"accuracy": 0.5, "wrong": [1, 2]}
    add(tmp_path, 2, 1, {"epoch": 1, "loss": 2.5, "accuracy": 0.25, "log_loss": 3, "held_out": watched, "seconds": 1.0})
    assert write_epochs(tmp_path) == []
    assert table(tmp_path) == [
        {
            **{"fold": "2", "seed": "1", "epoch": "1", "loss": "2.5", "learning_rate": "", "accuracy": "0.25"},
            **{"log_loss": "3", "held_out_accuracy": "0.5", "seconds": "1.0"},
        },
        {
            **{"fold": "10", "seed": "0", "epoch": "1", "loss": "1.5", "learning_rate": "0.1", "accuracy": ""},
            **{"log_loss": "", "held_out_accuracy": "", "seconds": "2.0"},
        },
    ]


def test_without_histories_there_is_no_table(tmp_path):
    assert write_epochs(make_run(tmp_path / "run", history=False)) == []
    assert not (tmp_path / "run" / "epochs.csv").exists()


def test_train_writes_what_its_history_says_and_summary_makes_it_anew(synthetic_folder, tmp_path):
    run = tmp_path / "run"
    words = ("--out", run, "--fold", 2, *TINY, "--set", "training.epochs=2", "--set", "training.protocol=inner")
    invoke("train", synthetic_folder, *words, "--threads", 1)
    history = [json.loads(line) for line in (run / "fold-2" / "seed-0" / "history.jsonl").read_text().splitlines()]
    names = ("epoch", "loss", "learning_rate", "accuracy", "log_loss", "seconds")
    assert [[float(row[name]) for name in names] for row in table(run)] == [
        [one[name] for name in names] for one in history
    ]
    assert [(row["fold"], row["seed"]) for row in table(run)] == [("2", "0")] * 2
    before = (run / "epochs.csv").read_bytes()
    (run / "epochs.csv").unlink()
    invoke("summary", run)
    assert (run / "epochs.csv").read_bytes() == before
    # Of a history that is not what the trial wrote nothing is shown.
    path = run / "fold-2" / "seed-0" / "history.jsonl"
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 3'))
    (run / "epochs.csv").unlink()
    done = invoke("summary", run)
    assert "history.jsonl: is damaged" in done.stderr
    assert "not in epochs.csv" in done.stderr
    assert not (run / "epochs.csv").exists()


def test_what_is_under_way_is_looked_at_now_and_then(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    follower = Follower(tmp_path, tensorboard=False)
    add(tmp_path, 1, 0, {"epoch": 1, "loss": 1.0})
    follower.look()
    assert not (tmp_path / "epochs.csv").exists()
    clock[0] += epochs.SECONDS
    follower.look()
    assert len(table(tmp_path)) == 1
    add(tmp_path, 1, 0, {"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5})
    follower.look(now=True)
    assert [row["loss"] for row in table(tmp_path)] == ["1.0", "0.5"]


def test_tensorboard_that_is_absent_is_said_before_anything_is_done(synthetic_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EarsightError, match="earsight\\[tensorboard\\]"):
        epochs.check_tensorboard()
    done = invoke("train", synthetic_folder, "--out", tmp_path / "run", *TINY, "--tensorboard", code=2)
    assert "--tensorboard needs tensorboard" in done.stderr
    assert not (tmp_path / "run").exists()


def scalars(folder):
    """Steps and values by name, as TensorBoard reads them."""
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(one.step, pytest.approx(one.value)) for one in found.Scalars(name)] for name in found.Tags()["scalars"]
    }


@needs_tensorboard
def test_tensorboard_reads_each_epoch_once(tmp_path):
    first, second = ({"epoch": number, "loss": 1 / number, "seconds": 1.0} for number in (1, 2))
    add(tmp_path, 1, 0, first)
    logs = tmp_path / "tensorboard" / "fold-1" / "seed-0"
    follower = Follower(tmp_path, tensorboard=True)
    follower.look(now=True)
    add(tmp_path, 1, 0, first, second)
    follower.look(now=True)
    follower.close()
    assert scalars(logs) == {"loss": [(1, 1.0), (2, 0.5)], "seconds": [(1, 1.0), (2, 1.0)]}
    # As after a kill: the next command begins from the history, which may be shorter, and goes on.
    add(tmp_path, 1, 0, first)
    follower = Follower(tmp_path, tensorboard=True)
    follower.look(now=True)
    add(tmp_path, 1, 0, first, second | {"loss": 0.25})
    follower.look(now=True)
    follower.close()
    assert scalars(logs)["loss"] == [(1, 1.0), (2, 0.25)]
    assert len(list(logs.iterdir())) == 1


@needs_tensorboard
@pytest.mark.parametrize("words", ["train {} --fold 2", "crossval {} --folds 2 --jobs 2"], ids=str.split)
def test_the_verbs_write_events(synthetic_folder, tmp_path, words):
    run = tmp_path / "run"
    words = [*words.format(synthetic_folder).split(), "--out", run, *TINY, "--threads", 1, "--tensorboard"]
    invoke(*words)
    [row] = table(run)
    found = scalars(run / "tensorboard" / "fold-2" / "seed-0")
    assert set(found) == set(row) - {"fold", "seed", "epoch"}
    assert found["loss"] == [(1, float(row["loss"]))]
    invoke(*words)
    assert scalars(run / "tensorboard" / "fold-2" / "seed-0") == found, "DONE: nothing is written twice"
