"""Parts of a report page about clips with several labels: classes, what is named beside what, and confidence.

Comes in: the trials of a run. Goes out: dictionaries of sentences, rows and SVG drawings for the templates, as
`earsight.reports.sections` has them for one label a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from earsight.calibration.fit import Wanted, calibrated_trial, fit_calibration, others_of, validation_of
from earsight.calibration.temperature import binary_calibration_error, binary_reliability
from earsight.evaluation.multilabel import co_occurrence
from earsight.evaluation.summary import Predictions
from earsight.reports.drawings import NUMBERED, Bar, blank, confusion_drawing, intervals_drawing
from earsight.reports.html import inline_svg, shown
from earsight.reports.tables import columns_and_cells, several_rows
from earsight.reports.text_format import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from earsight.reports.runs import RunRead

MOST_PAIRS = 15
MOST_CURVES = 40
"""Classes whose precision-recall curves are drawn; of more, those with the most clips."""
_COLUMNS = 5


def precision_recall(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision (points,) of one class at every threshold, from the highest score on; known clips only."""
    known = ~np.isnan(targets)
    truth, values = targets[known] == 1, scores[known]
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    hits = np.cumsum(truth[order])[ends]
    return hits / max(1, int(truth.sum())), hits / (ends + 1)


def curves_of_classes(trials: Sequence[Predictions], summary: Mapping[str, Any]) -> Figure:
    """Precision by recall of each class, a thin line for each trial; the dashed line is chance."""
    rows = [(place, row) for place, row in enumerate(summary["classes"]) if row["average_precision"] is not None]
    rows = sorted(sorted(rows, key=lambda one: -one[1]["clips"])[:MOST_CURVES])
    height = -(-len(rows) // _COLUMNS)
    figure = blank(1.9 * _COLUMNS, 2.0 * max(1, height))
    axes = figure.subplots(max(1, height), _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    for axis, (place, row) in zip(axes.flat, rows, strict=False):
        for trial in trials:
            if (trial.marks[:, place] == 1).any():
                recall, precision = precision_recall(trial.marks[:, place], trial.logits[:, place])
                axis.plot(recall, precision, color="black", linewidth=1, alpha=0.8 if len(trials) == 1 else 0.45)
        axis.axhline(row["chance"], color="black", linewidth=0.8, linestyle="--")
        name = row["name"] if len(row["name"]) <= 22 else f"{row['name'][:21]}…"
        axis.set_title(f"{name}  {percent(row['average_precision'])}", fontsize=8, parse_math=False)
        axis.set(xlim=(0, 1.02), ylim=(0, 1.02))
        axis.grid(color="black", alpha=0.12)
    for axis in axes[:, 0]:
        axis.set_ylabel("precision", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("recall", fontsize=8)
    return figure


def several_section(run: RunRead, *, key: str) -> dict[str, Any]:
    """Classes: their scores and curves, which sound together, and which are named wrongly beside which.

    Classes are named at thresholds that other folds' clips chose, where there are other folds: as the run is
    calibrated, else by the best F1. Thresholds shown are those of the last model of its ``calibration.json``.
    """
    trials, summary, own = run.trials, run.summary, run.calibrated
    names = [shown(name) for name in trials[0].classes]
    by_default = () if own else [fit_calibration(others_of(one, trials), Wanted()) for one in trials]
    fitted = own.trials if own else [calibrated_trial(*pair) for pair in zip(trials, by_default, strict=True)]
    of_model = own.models[-1] if own and own.models else {}
    limits = of_model.get("thresholds") or {}
    named = [one.named if one.named is not None else one.after >= 0.5 for one in fitted]
    tables = [co_occurrence(trial.marks, one) for trial, one in zip(trials, named, strict=True)]
    together, wrong = (sum(parts) for parts in zip(*tables, strict=True))
    columns, rows = columns_and_cells(several_rows(summary))
    sounding = np.diagonal(together)
    pairs = [
        (int(wrong[a, b]), a, b) for a in range(len(names)) for b in range(len(names)) if a != b and wrong[a, b] > 0
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    score = percent(summary["average_precision"]["mean"])
    shares = {
        "as trained": np.concatenate([one.before for one in fitted]),
        "after a temperature for each class": np.concatenate([one.after for one in fitted]),
    }
    marks = np.concatenate([trial.marks for trial in trials])
    errors = [(name, percent(binary_calibration_error(table, marks))) for name, table in shares.items()]
    return {
        "columns": columns,
        "rows": rows,
        "thresholds": [
            [shown(name), f"{one['threshold']:.2f}", "{:.2f} to {:.2f}".format(*one["ci95"]), f"{one['reached']:.3g}"]
            for name, one in limits.items()
        ],
        "rule": next((one["rule"] for one in limits.values()), "best-f1"),
        "model": str(of_model.get("path", "")),
        "scores": _scores_drawing(summary, key=key),
        "curves": inline_svg(
            curves_of_classes(trials, summary),
            name=f"{key}precision",
            alt=f"Precision by recall of each class; mean average precision {score} %.",
        ),
        "curves_of": min(MOST_CURVES, len(names)),
        "matrix": inline_svg(
            confusion_drawing(together, names),
            name=f"{key}together",
            alt=f"Co-occurrence of {len(names)} classes: clips in which both sound.",
        ),
        "numbered": len(names) > NUMBERED,
        "pairs": [
            [names[b], names[a], count, percent(count / max(1, int(sounding[a])))] for count, a, b in pairs[:MOST_PAIRS]
        ],
        "more": max(0, len(pairs) - MOST_PAIRS),
        "many": len(trials) > len({int(one.about["fold"]) for one in trials}),
        "errors": errors,
        "cross_fitted": len({int(one.about["fold"]) for one in trials}) > 1 or bool(validation_of(trials)),
        "reliability": inline_svg(
            reliability_of_classes(shares, marks),
            name=f"{key}reliability",
            alt="Reliability diagram. " + "; ".join(f"{name}: calibration error {error} %" for name, error in errors),
        ),
    }


def _scores_drawing(summary: Mapping[str, Any], *, key: str) -> Any:
    """Average precision of the classes that have one, best first."""
    rows = [row for row in summary["classes"] if row["average_precision"] is not None and None not in row["ci95"]]
    rows.sort(key=lambda row: -row["average_precision"])
    bars = [
        Bar(shown(row["name"]), 100 * row["average_precision"], *(100 * limit for limit in row["ci95"])) for row in rows
    ]
    alt = f"Average precision of {len(bars)} classes with 95 % intervals."
    return inline_svg(intervals_drawing(bars, label="average precision in %", full=True), name=f"{key}ap", alt=alt)


def reliability_of_classes(shares: Mapping[str, np.ndarray], marks: np.ndarray) -> Figure:
    """Reliability diagrams side by side: how often a class sounds, by the probability that it was given."""
    figure = blank(4.4 * len(shares), 4.2)
    axes = figure.subplots(1, len(shares), sharex=True, sharey=True, squeeze=False)
    for axis, (title, table) in zip(axes[0], shares.items(), strict=True):
        curve = binary_reliability(table, marks)
        left, width, filled = curve.edges[:-1], np.diff(curve.edges), curve.clips > 0
        axis.bar(left, np.nan_to_num(curve.accuracy), width, align="edge", color="black", alpha=0.18)
        axis.plot(curve.confidence[filled], curve.accuracy[filled], "ko", markersize=4)
        axis.plot([0, 1], [0, 1], "k--", linewidth=1)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="probability of a class")
        axis.set_title(title, fontsize=10)
    axes[0, 0].set_ylabel("share of clips in which it sounds")
    return figure
