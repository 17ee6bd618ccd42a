"""What last, inner and test claim of one run, by hand, by simulation, and where it cannot be told."""

from __future__ import annotations

import json

import made_runs as made
import numpy as np
import pytest

from earsight.errors import RunError
from earsight.evaluation.protocols import compare_protocols


def _write(run, fold, seed, right, *, protocol="last", epoch=None):
    """A watched trial: ``right`` (epochs, clips) bool."""
    epoch = epoch or len(right)
    labels = np.arange(right.shape[1]) % 3
    history = [
        {"epoch": place + 1, "held_out": {"accuracy": float(row.mean()), "wrong": np.flatnonzero(~row).tolist()}}
        for place, row in enumerate(right)
    ]
    one = made.answered(fold, seed, labels, right[epoch - 1], protocol=protocol, epoch=epoch)
    return made.write(run, one, history=history)


def test_each_protocol_takes_its_epoch(tmp_path):
    generator = np.random.default_rng(0)
    tables = {(fold, seed): generator.random((6, 40 + 10 * fold)) < 0.8 for fold in (1, 2) for seed in (0, 1)}
    for (fold, seed), right in tables.items():
        _write(tmp_path, fold, seed, right, protocol="inner", epoch=2 + seed)
    found = compare_protocols(tmp_path)
    assert [row["protocol"] for row in found["protocols"]] == ["last", "inner", "test"]

    def mean(choose):
        return np.mean([np.mean([choose(tables[fold, seed], seed) for seed in (0, 1)]) for fold in (1, 2)])

    expected = {
        "last": mean(lambda right, seed: right[-1].mean()),
        "inner": mean(lambda right, seed: right[1 + seed].mean()),
        "test": mean(lambda right, seed: right.mean(axis=1).max()),
    }
    rows = {row["protocol"]: row for row in found["protocols"]}
    for name, value in expected.items():
        assert rows[name]["accuracy"]["mean"] == pytest.approx(value)
        assert rows[name]["optimistic"] == (name == "test")
    for name in ("inner", "test"):
        over = rows[name]["over_last"]
        assert over["difference"] == pytest.approx(expected[name] - expected["last"])
        assert over["ci95"][0] < over["difference"] < over["ci95"][1]
    assert "over_last" not in rows["last"]
    first = found["trials"][0]
    assert first["test"]["epoch"] == int(tables[1, 0].mean(axis=1).argmax()) + 1
    assert first["test"]["accuracy"] >= first["last"]["accuracy"]
    assert json.loads(json.dumps(found)) == found


def test_a_run_under_last_has_no_inner_and_says_why(tmp_path):
    _write(tmp_path, 1, 0, np.random.default_rng(1).random((4, 30)) < 0.7)
    found = compare_protocols(tmp_path)
    assert [row["protocol"] for row in found["protocols"]] == ["last", "test"]
    assert "training.protocol=inner" in " ".join(found["notes"])
    assert "test is optimistic" in " ".join(found["notes"])


def test_a_run_that_does_not_change_has_nothing_to_claim(tmp_path):
    _write(tmp_path, 1, 0, np.tile(np.arange(30) % 5 > 0, (4, 1)))
    over = compare_protocols(tmp_path)["protocols"][-1]["over_last"]
    assert over == {"difference": 0.0, "ci95": [0.0, 0.0]}


def test_the_interval_covers_what_test_claims_over_last_on_average(tmp_path):
    """Epochs that are equally good: all that test claims over last is luck, and the interval is about that claim."""
    generator = np.random.default_rng(2)
    claims, inside, limits = [], 0, []
    for repeat in range(60):
        hard = generator.random((1, 120)) * 0.4
        right = generator.random((8, 120)) < 1 - hard
        _write(tmp_path / str(repeat), 1, 0, right)
        over = compare_protocols(tmp_path / str(repeat))["protocols"][-1]["over_last"]
        claims.append(over["difference"])
        limits.append(over["ci95"])
    truth = np.mean(claims)
    assert truth > 0.02, "the best of eight equal epochs looks better than the last"
    inside = sum(low <= truth <= high for low, high in limits)
    assert inside >= 53


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda records: [{"epoch": 1, "loss": 0.5}, *records[1:]], r"epoch 1 was not watched; .*training.watch=true"),
        (lambda records: [], "has no epoch"),
        (lambda records: [{**records[0], "held_out": {"wrong": [999]}}], "not a history of earsight"),
        (lambda records: [{**records[0], "held_out": {}}], "not a history of earsight"),
        (lambda records: [["a", "list"]], "not a history of earsight"),
    ],
)
def test_histories_that_do_not_tell(tmp_path, spoil, words):
    folder = _write(tmp_path, 1, 0, np.ones((3, 20), dtype=bool))
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in spoil(records)))
    with pytest.raises(RunError, match=words) as caught:
        compare_protocols(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_history_and_no_run(tmp_path):
    with pytest.raises(RunError, match="no such run folder"):
        compare_protocols(tmp_path / "absent")
    folder = _write(tmp_path, 1, 0, np.ones((3, 20), dtype=bool))
    (folder / "history.jsonl").write_bytes(b"\xff\xfe no json")
    with pytest.raises(RunError, match="not a history of earsight"):
        compare_protocols(tmp_path)
    (folder / "history.jsonl").unlink()
    with pytest.raises(RunError, match="not a history of earsight"):
        compare_protocols(tmp_path)
