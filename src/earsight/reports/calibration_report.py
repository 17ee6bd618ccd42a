"""The report of `earsight calibrate`: a reliability diagram before and after, and sentences.

Comes in: probabilities (clips, classes) before and after, labels, and what `earsight calibrate` returned. Goes out: one
figure, PNG or SVG by its suffix, that reads in grey; and text with shares in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from earsight.calibration.temperature import (
    binary_calibration_error,
    binary_reliability,
    expected_calibration_error,
    reliability,
)
from earsight.errors import counted
from earsight.reports.drawings import blank, write_figure
from earsight.reports.text_format import percent, percent_range

_SCORES = {
    "distance": "distance from the training clips",
    "energy": "energy of the logits",
    "doubt": "1 less the highest probability",
}


def calibration_figure(probabilities: Mapping[str, np.ndarray], labels: np.ndarray, *, path: Path) -> None:
    """Draw reliability diagrams side by side: accuracy by confidence, with the number of clips below.

    ``probabilities`` maps the title of a panel to rows (clips, classes) that sum to 1; ``labels`` are int (clips,).
    Where classes may sound together they are targets (clips, classes), and the diagram is of each class's probability.
    ``path`` ends in .png or .svg. EarsightError if the arrays do not fit each other, or the suffix is another.
    """
    figure = blank(4.6 * len(probabilities), 5.6)
    axes = figure.subplots(2, len(probabilities), sharex=True, sharey="row", height_ratios=[3, 1], squeeze=False)
    for (title, shares), upper, lower in zip(probabilities.items(), axes[0], axes[1], strict=True):
        several = labels.ndim == 2
        curve = binary_reliability(shares, labels, bins=10) if several else reliability(shares, labels, bins=10)
        left, width = curve.edges[:-1], np.diff(curve.edges)
        bars = np.nan_to_num(curve.accuracy)
        upper.bar(left, bars, width, align="edge", color="0.78", edgecolor="0.3", label="accuracy")
        upper.plot([0, 1], [0, 1], "k--", linewidth=1, label="accuracy = confidence")
        upper.plot(curve.confidence, curve.accuracy, "ko", markersize=4, label="at the bin's mean confidence")
        upper.set(xlim=(0, 1), ylim=(0, 1.02))
        error = (binary_calibration_error if several else expected_calibration_error)(shares, labels)
        upper.set_title(f"{title}: calibration error {100 * error:.1f} %", fontsize=11)
        lower.bar(left, curve.clips, width, align="edge", color="0.45", edgecolor="0.2")
        lower.set_xlabel("probability of a class" if several else "probability of the predicted class")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("clips")
    axes[0, 0].legend(loc="upper left")
    write_figure(figure, path)


def calibration_lines(result: Mapping[str, Any]) -> list[str]:
    """The result of `earsight.calibration.calibrate.calibrate_run`, as sentences."""
    found = result["figures"]
    how = "measured on the clips that calibrated" if result["optimistic"] else "each fold measured by the others"
    lines = [f"{found['clips']} held-out clips, {how}:"]
    for name, title in (("ece", "calibration error"), ("log_loss", "log loss")):
        scale, unit = (100, " %") if name == "ece" else (1, "")
        before, after = (scale * found[name][key] for key in ("before", "after"))
        lines.append(f"  {title}: {before:.{1 if unit else 3}f}{unit} before, {after:.{1 if unit else 3}f}{unit} after")
    if named := found.get("named"):
        f1 = " %, macro F1 ".join(percent(named[key]) for key in ("micro_f1", "macro_f1"))
        reached = (
            f"precision {percent(named['precision'])} %; {named['false_alarms_per_hour']:.3g} false alarms an hour"
        )
        rule = result["wanted"]["threshold_rule"]
        lines.append(f"  classes named at their thresholds ({rule}): micro F1 {f1} %, {reached} and class")
    if sets := found["coverage"]:
        lines.append(
            f"  sets of classes: stated coverage {percent(sets['stated'])} %, reached {percent(sets['reached'])} % "
            f"({_interval(sets)}); {sets['mean_size']:.2f} classes a set, {percent(sets['single'])} % of one"
        )
    if alarms := found["false_alarms"]:
        lines.append(
            f"  unknown by {_SCORES[result['score']]}: stated false alarms {percent(alarms['stated'])} %, reached "
            f"{percent(alarms['reached'])} % ({_interval(alarms)})"
        )
    for model in result["models"]:
        lines.append(f"{model['path']}: {_model_words(model)}")
    return [*lines, *result["notes"]]


def calibration_line(result: Mapping[str, Any]) -> str:
    """The same in one line."""
    found = result["figures"]
    words = [f"calibration error {percent(found['ece']['before'])} % before, {percent(found['ece']['after'])} after"]
    if alarms := found["false_alarms"]:
        words.append(f"{percent(alarms['reached'])} % of the known clips called unknown")
    if named := found.get("named"):
        words.append(f"micro F1 at the classes' thresholds {percent(named['micro_f1'])} %")
    if sets := found["coverage"]:
        words.append(f"{percent(sets['reached'])} % of the sets hold the class")
    return f"calibrated: {'; '.join(words)}"


def confidence_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Sentences on a calibrated model's confidence, measured on the clips; none without calibration."""
    if not found:
        return []
    lines = [f"calibration error {percent(found['ece'])} %, log loss {found['log_loss']:.3f}."]
    if unknown := found["unknown"]:
        lines.append(
            f"called unknown: {percent(unknown['share'])} % of the clips, {_interval(unknown)}; stated "
            f"{percent(unknown['stated'])} %."
        )
    if sets := found["coverage"]:
        lines.append(
            f"prediction sets: {percent(sets['reached'])} % hold the true class, {_interval(sets)}; stated "
            f"{percent(sets['stated'])} %; {sets['mean_size']:.2f} classes a set."
        )
    if found["calibrated_on_these"]:
        lines.append("Some of these clips calibrated the model: its figures of confidence are optimistic.")
    return lines


def _model_words(model: Mapping[str, Any]) -> str:
    words = [f"temperature {model['temperature']:.2f}"]
    if own_ones := model.get("temperatures"):
        words = [f"temperatures {min(own_ones.values()):.2f} to {max(own_ones.values()):.2f}"]
    if limits := model.get("thresholds"):
        shown = [
            f"{name} {one['threshold']:.2f} ({one['ci95'][0]:.2f} to {one['ci95'][1]:.2f})"
            for name, one in list(limits.items())[:5]
        ]
        words.append(f"thresholds {', '.join(shown)}{', ...' if len(limits) > 5 else ''}")
    if unknown := model.get("unknown"):
        words.append(
            f"unknown above {unknown['threshold']:.3g} (false alarms {percent(unknown['rate'])} %: with these clips "
            f"{percent_range(unknown['ci95'])} %)"
        )
    own = ", its own held-out clips among them" if model["own_held_out"] else ""
    part = (model.get("held_out") or {}).get("kind")
    where = f"the {part} part" if part else f"fold {', '.join(str(fold) for fold in model['folds'])}"
    return "; ".join(words) + f"; from {counted(model['clips'], 'clip')} of {where}{own}"


def _interval(part: Mapping[str, Any]) -> str:
    return f"95 % interval {percent_range(part['ci95'])} %"
