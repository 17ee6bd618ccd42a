"""Tables of comparisons: what they print, and that no row is marked as a winner inside the noise."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from earsight.reports.comparisons import print_comparison, print_ensemble, print_protocols


def _row(method: str, mean: float, gain: tuple[float, float, float] | None = None, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": method,
        "networks": 1,
        "accuracy": {"mean": mean, "ci95": [mean - 0.02, mean + 0.015]},
        "milliseconds_per_clip": 12.345,
        **more,
    }
    if gain:
        beyond = gain[1] > 0
        row["gain"] = {"difference": gain[0], "ci95": list(gain[1:]), "p_value": 0.01, "beyond_noise": beyond}
    return row


def _ensemble(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    single = _row("single", 0.951)
    single["accuracy"] |= {"std": 0.0036, "fold_std": 0.0213, "seed_std": 0.0071}
    return {
        "dataset": {"name": "esc [bold]"},
        "groups": None,
        "members": [{"run": "r", "seed": seed} for seed in range(5)],
        "folds": [1, 2],
        "protocol": "last",
        "rows": [single, *rows],
        "notes": ["A note."],
        "model": {
            **{"path": "out/[x]/model.safetensors", "method": "average", "networks": 10},
            **{"milliseconds_per_clip": 99.94, "seen": "every clip of the data set"},
        },
        **changes,
    }


def _printed(show: Any, result: dict[str, Any], width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(result, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_an_ensembles_table_fits_a_terminal_and_says_in_words_what_is_more_than_noise():
    rows = [_row("average", 0.96, (0.009, -0.004, 0.02)), _row("greedy-soup", 0.97, (0.019, 0.002, 0.03))]
    text = _printed(print_ensemble, _ensemble(*rows))
    assert max(len(line) for line in text.partition("\n\n")[0].splitlines()) <= 80
    assert "95.1 ± 0.4" in text
    assert "intervals are over clips;" in text
    grouped = _printed(print_ensemble, _ensemble(*rows, groups=12))
    assert "intervals are over 12 groups, whose clips move together;" in grouped
    assert "+0.9" in text
    assert "-0.4 to +2.0" in text
    assert "Beyond the noise, against the single network: greedy soup (+1.9); nothing else is." in text
    assert "between the members of one fold: 0.7 points; between folds: 2.1" in text
    assert "esc [bold]: 5 members" in text
    assert "out/[x]/model.safetensors (average, 10 networks, 99.9 ms a clip)" in text
    assert "A note." in text
    assert "optimistic" not in text


def test_an_older_versions_ensemble_of_weight_soups_is_still_shown():
    rows = [_row(name, 0.96, (0.009, -0.004, 0.02)) for name in ("single-remeasured", "soup", "greedy-soup")]
    found = _ensemble(*rows)
    found["model"]["method"] = "soup"
    text = _printed(print_ensemble, found)
    for words in ("single, new norms", "greedy soup", "out/[x]/model.safetensors (soup, 10 networks"):
        assert words in text


def test_nothing_beyond_the_noise_is_said_so_and_test_is_called_optimistic():
    text = _printed(print_ensemble, _ensemble(_row("average", 0.96, (0.009, -0.004, 0.02)), protocol="test"))
    assert "No difference from the single network is beyond the noise." in text
    assert "Protocol test: optimistic" in text


def test_one_fold_is_said_to_be_testable():
    model = {**_ensemble()["model"], "seen": "every clip outside fold 2", "networks": 1}
    text = _printed(print_ensemble, _ensemble(folds=[2], model=model))
    assert "It saw every clip outside fold 2, and `earsight evaluate` tests it on that fold." in text
    assert "1 network," in text


def _comparison(**changes: Any) -> dict[str, Any]:
    run = {"accuracy": 0.95, "ci95": [0.93, 0.97], "protocol": "last", "seeds": [0, 1], "ensemble": None}
    return {
        "runs": [{**run, "run": "runs/[a]"}, {**run, "run": "runs/b", "accuracy": 0.93, "seeds": [], "ensemble": 5}],
        "clips": 80,
        "groups": None,
        "by_fold": [{"fold": 3, "clips": 80, "a": 0.95, "b": 0.93}],
        "difference": {"mean": 0.02, "ci95": [-0.01, 0.05], "ci95_with_seeds": [-0.03, 0.07], "p_value": 0.123},
        "notes": ["They differ."],
        "verdict": "No difference beyond the noise.",
        **changes,
    }


def test_two_runs():
    text = _printed(print_comparison, _comparison())
    for words in (
        "A: runs/[a], 95.0 % (93.0 to 97.0), protocol last, seed 0, 1",
        "B: runs/b, 93.0 %",
        "an ensemble",
        "A - B: +2.0 points, 95 % interval -1.0 to +5.0 over clips, p = 0.12",
        "With other seeds too: 95 % interval -3.0 to +7.0.",
        "They differ.",
    ):
        assert words in text
    assert text.rstrip().endswith("No difference beyond the noise.")
    text = _printed(print_comparison, _comparison(reversed="The other way round."))
    assert text.rstrip().endswith("The other way round."), "after the verdict"
    grouped = _printed(print_comparison, _comparison(groups=30))
    assert "-1.0 to +5.0 over groups, p = 0.12 (sign flips over groups)" in grouped
    assert "over clips" not in grouped
    one = _comparison(difference={"mean": 0.0, "ci95": [0.0, 0.0], "ci95_with_seeds": None, "p_value": 1.0})
    assert "With other seeds" not in _printed(print_comparison, one)


@pytest.mark.parametrize("names", [("last", "test"), ("last", "inner", "test")])
def test_protocols(names):
    rows = [
        {
            "protocol": name,
            "accuracy": {"mean": 0.9 + 0.01 * place, "ci95": [0.88, 0.94]},
            "optimistic": name == "test",
            **({"over_last": {"difference": 0.01 * place, "ci95": [0.0, 0.02]}} if place else {}),
        }
        for place, name in enumerate(names)
    ]
    text = _printed(
        print_protocols, {"run": "r", "protocol": "last", "protocols": rows, "trials": [1], "notes": ["N."]}
    )
    assert "test (optimistic)" in text
    assert f"+{len(names) - 1}.0" in text
    assert "+0.0 to +2.0" in text
    assert "r: 1 trial, trained under protocol last." in text
    assert text.count("optimistic") == 1
