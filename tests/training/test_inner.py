"""Trials for searches: trained and scored on the training folds alone, and the held-out fold not even read."""

import json
from dataclasses import replace

import numpy as np
import pytest

from earsight.evaluation.metrics import log_loss
from earsight.evaluation.summary import read_predictions
from earsight.training import loop
from earsight.training.trial import Trial, inner_split, is_done, run_inner, run_trial

FILES = ["DONE", "history.jsonl", "inner.npz", "trial.json"]


class Spy:
    """A store that remembers every row that anything was asked of."""

    stretches = False

    def __init__(self, store):
        self.store, self.errors, self.folder, self.silence = store, store.errors, store.folder, store.silence
        self.sounds = store.sounds
        self.trained, self.scored, self.measured = set(), set(), set()

    def read(self, rows, *, draws=None):
        (self.scored if draws is None else self.trained).update(rows.tolist())
        return self.store.read(rows, draws=draws)

    def statistics(self, rows):
        self.measured.update(rows.tolist())
        return self.store.statistics(rows)


class StoppedError(Exception):
    pass


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("protocol", ["last", "inner", "test"])
def test_the_held_out_fold_is_not_even_read(prepare_as, cpu, tmp_path, protocol):
    """Whatever the protocol would do with it, and also when the recipe watches it."""
    prepared = prepare_as(
        *("training.epochs=2", "training.inner_fraction=0.3", "training.watch=true"), f"training.protocol={protocol}"
    )
    spy = Spy(prepared.store)
    run_inner(replace(prepared, store=spy), Trial(2, 0), run=tmp_path, device=cpu)
    held_out = set(np.flatnonzero(prepared.dataset.folds == 2).tolist())
    assert spy.trained | spy.scored == set(range(100)) - held_out
    assert not spy.trained & spy.scored
    assert spy.measured == spy.trained
    # The split is the one that protocol inner uses, so that a search and a run speak of the same clips.
    train, inner = inner_split(prepared, 2)
    assert (spy.trained, spy.scored) == (set(train.tolist()), set(inner.tolist()))


def test_what_it_leaves(prepare_as, cpu, tmp_path):
    prepared = prepare_as()
    told = []
    folder = run_inner(
        prepared, Trial(1, 0), run=tmp_path, device=cpu, on_epoch=lambda records: told.append(len(records))
    )
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert is_done(folder)
    assert told == [1, 2, 3]
    found = read_predictions(folder / "inner.npz")
    _, inner = inner_split(prepared, 1)
    assert found.clips.tolist() == [prepared.dataset.clips[row].path for row in inner]
    assert np.array_equal(found.labels, prepared.dataset.labels[inner])
    assert found.about["inner"] is True
    assert found.about["epochs"] == 3
    run_inner(prepared, Trial(1, 0), run=tmp_path, device=cpu, on_step=lambda *_: pytest.fail("trained again"))


@pytest.mark.parametrize("protocol", ["last", "inner", "test"])
def test_the_epoch_is_the_one_that_the_protocol_reports(prepare_as, cpu, tmp_path, protocol):
    prepared = prepare_as(
        f"training.protocol={protocol}", "training.learning_rate=0.3", "training.schedule=constant", "training.epochs=6"
    )
    for seed in range(20):  # rounding differs from processor to processor, and with it the course of a seed
        folder = run_inner(prepared, Trial(1, seed), run=tmp_path, device=cpu)
        records = history(folder)
        scores = [record["accuracy"] for record in records]
        if int(np.argmax(scores)) != 5:
            break
    else:
        pytest.fail("the last epoch is the best one of every seed: the test shows nothing")
    found = read_predictions(folder / "inner.npz")
    assert found.about["epoch"] == (6 if protocol == "last" else 1 + int(np.argmax(scores)))
    assert log_loss(found.logits, found.labels) == pytest.approx(records[found.about["epoch"] - 1]["log_loss"])


def test_it_trains_as_a_run_with_protocol_inner_does(prepare_as, cpu, tmp_path):
    prepared = prepare_as("training.protocol=inner")
    searched = run_inner(prepared, Trial(1, 0), run=tmp_path / "search", device=cpu)
    ran = run_trial(prepared, Trial(1, 0), run=tmp_path / "run", device=cpu)
    for one, other in zip(history(searched), history(ran), strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_stopped_it_ends_with_the_same_bits(prepare_as, cpu, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    prepared, trial = prepare_as("training.protocol=inner"), Trial(1, 0)

    def stop(done, *_):
        if done > 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_inner(prepared, trial, run=tmp_path / "stopped", device=cpu, on_step=stop)
    assert (trial.folder(tmp_path / "stopped") / "checkpoint.safetensors").is_file()
    found = [
        read_predictions(run_inner(prepared, trial, run=tmp_path / name, device=cpu) / "inner.npz").logits
        for name in ("stopped", "whole")
    ]
    assert np.array_equal(*found)
