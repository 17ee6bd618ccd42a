import io
from typing import Any

import pytest
from rich.console import Console

from earsight.errors import RunError
from earsight.reports.tables import markdown, print_summary, summary_notes, summary_rows


def _summary(**changes: Any) -> dict[str, Any]:
    summary = {
        "accuracy": {"mean": 0.96, "std": 0.0242, "ci95": [0.9375, 0.9776]},
        "folds": [
            {"fold": 1, "seed": 0, "accuracy": 0.95, "clips": 80, "seconds": 221.6},
            {"fold": 2, "seed": 0, "accuracy": 0.9875, "clips": 80, "seconds": 219.2},
        ],
        "protocol": "last",
        "recipe_digest": "abc",
        "dataset": {"name": "esc10 [bold]", "clips": 400, "classes": 10, "digest": "d", "skipped": []},
    }
    return {**summary, **changes}


def _printed(summary: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_summary(summary, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_markdown_aligns_numbers_right_and_keeps_cells_whole():
    rows: list[dict[str, object]] = [
        {"name": "a|b", "value": 1.5, "note": "two\nlines"},
        {"name": "c", "value": 12345678.0, "more": None},
        {"name": "d", "value": 3},
    ]
    assert markdown(rows).splitlines() == [
        "| name |       value | note      | more |",
        "| ---- | ----------: | --------- | ---- |",
        "| a\\|b |         1.5 | two lines |      |",
        "| c    | 1.23457e+07 |           |      |",
        "| d    |           3 |           |      |",
    ]


def test_markdown_of_nothing_is_nothing():
    assert markdown([]) == ""
    assert markdown([{}]) == ""


def test_rows_are_the_folds_then_the_mean():
    rows = summary_rows(_summary())
    assert [row["fold"] for row in rows] == [1, 2, "mean"]
    assert [row["accuracy %"] for row in rows] == ["95.0", "98.8", "96.0 ± 2.4"]
    assert [row["seconds"] for row in rows] == ["222", "219", None]
    last = markdown(rows).splitlines()[-1]
    assert last.split("|")[4].strip() == "96.0 ± 2.4"


def test_one_fold_has_no_spread():
    one = _summary(accuracy={"mean": 0.95, "std": None, "ci95": None}, folds=_summary()["folds"][:1])
    assert summary_rows(one)[-1]["accuracy %"] == "95.0"
    assert "interval" not in summary_notes(one)[0]
    entry = _summary()["folds"][0]
    seeds = _summary(accuracy={"mean": 0.95, "std": 0.0, "std_over_seeds": 0.0125}, folds=[entry, {**entry, "seed": 1}])
    assert summary_rows(seeds)[-1]["accuracy %"] == "95.0"
    assert "Standard deviation of the mean from seed to seed: 1.2 points." in summary_notes(seeds)


def test_print_gives_interval_and_chance_and_reads_no_markup_in_names():
    text = _printed(_summary())
    assert "esc10 [bold]: accuracy 96.0 %, 95 % interval 93.8 to 97.8 %; chance is 10.0 % (10 classes)." in text
    assert "96.0 ± 2.4" in text
    assert "98.8" in text
    assert "optimistic" not in text
    assert "left out" not in text
    assert "Ensemble" not in text


def test_print_says_optimistic_for_the_test_protocol_alone():
    text = _printed(_summary(protocol="test"))
    assert "optimistic, because the held-out fold chose the epoch" in text
    assert "optimistic" not in _printed(_summary(protocol="inner"))


def test_print_counts_skipped_clips_and_gives_the_ensemble():
    dataset = {**_summary()["dataset"], "classes": ["x", "y", "z"], "skipped": ["one.wav", "two.wav"]}
    text = _printed(_summary(dataset=dataset, ensemble={"accuracy": 0.9725}))
    assert "2 unusable clips were left out" in text
    assert "Ensemble of the seeds: 97.2 %" in text
    assert "chance is 33.3 % (3 classes)" in text
    text = _printed(_summary(dataset={**dataset, "skipped": ["one.wav"]}))
    assert "1 unusable clip was left out" in text


@pytest.mark.parametrize("key", ["accuracy", "folds", "protocol", "dataset"])
def test_summary_without_an_entry_is_refused(key):
    summary = _summary()
    del summary[key]
    with pytest.raises(RunError, match=f"summary has no '{key}'"):
        _printed(summary)


def test_unknown_protocol_is_refused():
    with pytest.raises(RunError, match="protocol 'best', expected last, inner, test"):
        summary_notes(_summary(protocol="best"))


RATES: dict[str, Any] = {
    "balanced_accuracy": 0.3333,
    "macro_f1": 0.3034,
    "majority": {"label": "hungry", "share": 0.835, "difference": -0.011, "ci95": [-0.04, 0.02], "beaten": False},
    "never_predicted": ["burping", "tired"],
    "groups": {"count": 6, "few": True},
}


def test_what_an_accuracy_hides_is_said_in_words():
    text = _printed(_summary(**RATES))
    assert "interval 93.8 to 97.8 %; always saying 'hungry' gives 83.5 %, chance is 10.0 % (10 classes)." in text
    assert "balanced accuracy 33.3 %, macro F1 30.3 %" in text
    assert "NOT shown to be better than always saying 'hungry': -1.1 points (95 % interval -4.0 to +2.0)." in text
    assert "It never says 'burping', 'tired' (2 classes)." in text
    assert "over 6 groups, whose clips move together. They are few" in text


def test_a_run_that_is_worse_is_called_so():
    worse = {"label": "rain", "share": 0.7, "difference": -0.179, "ci95": [-0.342, -0.013], "beaten": False}
    text = _printed(_summary(**{**RATES, "majority": worse}))
    assert "WORSE than always saying 'rain': -17.9 points (95 % interval -34.2 to -1.3)." in text
    assert "NOT shown" not in text


def test_few_clips_whose_interval_leaves_0_out_have_the_p_value_that_does_not():
    few = {"label": "dog", "share": 0.2, "difference": 0.6, "ci95": [0.2, 1.0], "p_value": 0.25, "beaten": False}
    text = _printed(_summary(**{**RATES, "majority": few}))
    assert "saying 'dog': +60.0 points (95 % interval +20.0 to +100.0, but p = 0.25: too few clips)." in text


def test_nothing_more_is_said_of_a_good_run_on_even_classes():
    even = {"label": "cat", "share": 0.1, "difference": 0.8, "ci95": [0.7, 0.9], "beaten": True}
    text = _printed(_summary(**{**RATES, "majority": even, "never_predicted": [], "groups": None}))
    assert "; chance is 10.0 % (10 classes)." in text
    for word in ("NOT", "never", "always saying", "groups"):
        assert word not in text
    assert "All clips are of one class" in _printed(_summary(**{**RATES, "majority": None}))
