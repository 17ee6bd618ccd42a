"""Several runs side by side: which differences are more than noise, in words and without a winner inside it.

Comes in: runs as `earsight.reports.runs.read_for_report` gives them. Goes out: rows, sentences and drawings for the
template. Runs that cannot be compared, as those of different data sets, stand side by side with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from earsight.errors import RunError
from earsight.evaluation.comparison import compare_runs
from earsight.reports.drawings import Bar, intervals_drawing
from earsight.reports.html import inline_svg
from earsight.reports.runs import RunRead
from earsight.reports.sections import per_cent, recipe_changes

ALL_PAIRS = 6
"""With more runs than this each is compared with the first alone."""


def contest_section(runs: Sequence[RunRead], names: Sequence[str]) -> dict[str, Any]:
    """What the part about several runs shows.

    Parameters
    ----------
    runs : sequence of RunRead
        Two at least.
    names : sequence of str
        Each run's own.
    """
    bars = [_bar(run, name) for run, name in zip(runs, names, strict=True)]
    pairs = list(combinations(range(len(runs)), 2)) if len(runs) <= ALL_PAIRS else [(0, n) for n in range(1, len(runs))]
    found: list[tuple[tuple[int, int], dict[str, Any]]] = []
    refused: list[str] = []
    for a, b in pairs:
        try:
            found.append(((a, b), compare_runs(runs[a].trials, runs[b].trials, names=(names[a], names[b]))))
        except RunError as error:
            refused.append(f"{error}.")
    adjusted = holm([one["difference"]["p_value"] for _, one in found])
    alt = "Accuracies with 95 % intervals: " + "; ".join(f"{bar.name} {bar.value:.1f} %" for bar in bars) + "."
    return {
        "drawing": inline_svg(intervals_drawing(bars, label="accuracy in %"), name="runs", alt=alt),
        "rows": [_run_row(run, bar) for run, bar in zip(runs, bars, strict=True)],
        "columns": ["run", "data set", "accuracy %", "95 % interval", "protocol", "folds", "seeds", "recipe"],
        "pairs": [
            [*_pair_row(one, names), *([f"{p:.2g}"] if len(found) > 1 else [])]
            for one, p in zip(found, adjusted, strict=True)
        ],
        "pair_columns": [*_PAIR_COLUMNS, *(["p, corrected"] if len(found) > 1 else [])],
        "pair_drawing": _pair_drawing(found, names),
        "verdicts": _verdicts(found, adjusted, names),
        "notes": list(dict.fromkeys(note for _, one in found for note in one["notes"])),
        "refused": refused,
        "with_first": len(runs) > ALL_PAIRS,
        "corrected": len(found) > 1,
        "changes": recipe_changes(runs),
        "change_columns": ["choice", *names],
    }


_PAIR_COLUMNS = ["A", "B", "clips", "A - B, points", "95 % interval", "p"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of p-values for how many of them there are, in the order given.

    References
    ----------
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    out, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        out[place] = highest
    return out


def _bar(run: RunRead, name: str) -> Bar:
    accuracy = run.summary["accuracy"]
    low, high = accuracy["ci95"]
    return Bar(name, 100 * accuracy["mean"], 100 * low, 100 * high)


def _run_row(run: RunRead, bar: Bar) -> list[object]:
    protocol = run.summary["protocol"]
    return [
        bar.name,
        run.summary["dataset"]["name"],
        f"{bar.value:.1f}",
        f"{bar.low:.1f} to {bar.high:.1f}",
        f"{protocol} (optimistic)" if protocol == "test" else protocol,
        ", ".join(map(str, run.folds)),
        "ensemble" if run.ensemble else ", ".join(map(str, run.seeds)),
        run.summary["recipe_digest"],
    ]


def _limits(one: dict[str, Any]) -> tuple[float, float]:
    """The wider interval, in points: over clips, and over seeds too where they are known."""
    difference = one["difference"]
    sets = [difference["ci95"], *([difference["ci95_with_seeds"]] if difference["ci95_with_seeds"] else [])]
    return 100 * min(low for low, _ in sets), 100 * max(high for _, high in sets)


def _pair_row(one: tuple[tuple[int, int], dict[str, Any]], names: Sequence[str]) -> list[object]:
    (a, b), found = one
    low, high = _limits(found)
    return [
        names[a],
        names[b],
        found["clips"],
        f"{100 * found['difference']['mean']:+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        f"{found['difference']['p_value']:.2g}",
    ]


def _pair_drawing(found: Sequence[tuple[tuple[int, int], dict[str, Any]]], names: Sequence[str]) -> Any:
    if not found:
        return None
    bars = []
    for (a, b), one in found:
        low, high = _limits(one)
        bars.append(Bar(f"{names[a]} less {names[b]}", 100 * one["difference"]["mean"], low, high))
    alt = "Differences with 95 % intervals: " + "; ".join(
        f"{bar.name} {bar.value:+.1f} ({bar.low:+.1f} to {bar.high:+.1f}) points" for bar in bars
    )
    return inline_svg(intervals_drawing(bars, label="difference in points", zero=True), name="pairs", alt=f"{alt}.")


def _verdicts(
    found: Sequence[tuple[tuple[int, int], dict[str, Any]]], adjusted: Sequence[float], names: Sequence[str]
) -> list[str]:
    """One sentence for each difference that is beyond the noise, all comparisons counted; or that none is."""
    out = []
    for ((a, b), one), p in zip(found, adjusted, strict=True):
        difference = one["difference"]["mean"]
        if one["beyond_noise"] and p < 0.05:
            better, worse = (names[a], names[b]) if difference > 0 else (names[b], names[a])
            out.append(f"{better} is better than {worse} beyond the noise, by {per_cent(abs(difference))} points.")
    if out:
        return [*out, *(["No other difference is."] if len(found) > len(out) else [])]
    return ["No difference between these runs is beyond the noise."] if found else []
