"""The table, the notes and the figure of a hyperparameter search.

Comes in: the dict of `earsight.tuning.result`. Goes out: rows and sentences, and a PNG or SVG. The figure reads in
grey: points differ in marker, and the number of coinciding points is beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from earsight.errors import counted
from earsight.reports.drawings import blank, write_figure
from earsight.reports.text_format import percent, percent_range
from earsight.tuning.space import short, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PER_ROW = 3


def search_rows(result: Mapping[str, Any]) -> list[dict[str, object]]:
    """Rows of the table, best first; stopped points have the values of their last epoch."""
    rows: list[dict[str, object]] = []
    for point in result["points"]:
        accuracy, gap = point["accuracy"], point["behind"]
        rows.append(
            {
                **{short(field): shown(value) for field, value in point["values"].items()},
                "accuracy %": None if accuracy["mean"] is None else percent(accuracy["mean"]),
                "95 % interval": None if accuracy["ci95"] is None else percent_range(accuracy["ci95"]),
                "log loss": None if point["log_loss"] is None else f"{point['log_loss']:.3f}",
                "behind": percent(gap["mean"]) if gap else None,
                "its 95 % interval": percent_range(gap["ci95"]) if gap else None,
                "p": f"{gap['p_value']:.2g}" if gap else None,
                "epoch": f"{point['epoch']:g}" if point["done"] else f"stopped at {point['epoch']}",
                "seconds": f"{point['seconds']:.0f}",
            }
        )
    return rows


def search_notes(result: Mapping[str, Any]) -> list[str]:
    """Sentences that belong under the table."""
    points = result["points"]
    done = sum(point["done"] for point in points)
    folds = ", ".join(map(str, result["folds"]))
    seeds = counted(len(result["seeds"]), "seed")
    notes = [
        f"Inner validation, {seeds}: {counted(result['clips'], 'clip')} set aside from those that train for fold "
        f"{folds}; the held-out clips are not looked at. Behind: the best point's accuracy less this one's.",
    ]
    if done > 1:
        notes.append(
            f"These clips cannot tell {result['unclear']} of the other {counted(done - 1, 'point')} from the best. "
            f"The best of {counted(done, 'point')} looks better than it is; `earsight crossval` measures it, or "
            "`earsight train` where the test part is given."
        )
    if done < len(points):
        notes.append(
            f"ASHA stopped {counted(len(points) - done, 'point')}; their values are those of their last epoch."
        )
    return notes


def search_figure(result: Mapping[str, Any], *, path: Path) -> None:
    """Draw accuracy against each field's values, and by epoch.

    ``result`` is from `earsight.tuning.result.search_result`, with ``dataset`` and ``backbone``; ``path`` ends in .png
    or .svg.
    """
    fields = result["fields"]
    panels = len(fields) + 1
    columns = 2 if panels == 4 else min(_PER_ROW, panels)
    lines = -(-panels // columns)
    figure = blank(3.6 * columns + 0.8, 3.3 * lines + 0.8)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, field in zip(axes, fields, strict=False):
        _field_panel(axis, result, field)
    _epoch_panel(axes[len(fields)], result)
    for axis in axes[panels:]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    seeds = counted(len(result["seeds"]), "seed")
    title = f"Search on {result['dataset']['name']}, {result['backbone']}: {result['clips']} inner clips, {seeds}"
    figure.suptitle(title, fontsize=11)
    write_figure(figure, path)


def _field_panel(axis: Axes, result: Mapping[str, Any], field: str) -> None:
    """Accuracy of all points against one field's values: a scale of numbers, or names side by side."""
    points = [point for point in result["points"] if point["accuracy"]["mean"] is not None]
    places, roomy = _places(axis, [point["values"][field] for point in points])
    heights = [round(100 * point["accuracy"]["mean"], 6) for point in points]
    done = [number for number, point in enumerate(points) if point["done"]]
    stopped = [number for number, point in enumerate(points) if not point["done"]]
    groups = {place: [heights[n] for n in done if places[n] == place] for place in sorted({places[n] for n in done})}
    if len(groups) > 1 and min(map(len, groups.values())) > 1:
        means = [np.mean(group) for group in groups.values()]
        axis.plot(list(groups), means, color="0.55", linewidth=1.2, label="mean of the points at a value")
    ring: dict[str, Any] = {"marker": "o", "markersize": 6, "color": "black", "fillstyle": "none", "linestyle": "none"}
    axis.plot([places[n] for n in done], [heights[n] for n in done], **ring, label="a point")
    if stopped:
        cross: dict[str, Any] = {"marker": "x", "color": "0.4", "s": 30, "label": "stopped: its last epoch"}
        axis.scatter([places[n] for n in stopped], [heights[n] for n in stopped], **cross)
    axis.scatter(places[:1], heights[:1], marker="o", color="black", s=46, label="the best", zorder=3)
    for (place, height), count in Counter(zip(places, heights, strict=True)).items():
        if count > 1 and roomy:
            axis.annotate(f"{count}x", (place, height), xytext=(6, -3), textcoords="offset points", fontsize=8)
    axis.margins(x=0.12)
    axis.set_xlabel(short(field))
    axis.set_ylabel("accuracy on inner clips in %")
    axis.grid(axis="y", color="0.88")


def _places(axis: Axes, values: Sequence[Any]) -> tuple[list[float], bool]:
    """Set the axis's scale and ticks; return the values' positions, and whether they are far enough apart.

    Names stand side by side; numbers on a scale that is logarithmic if they span a decade.
    """
    distinct = list(dict.fromkeys(map(str, values)))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numbers or min(values) == max(values):
        axis.set_xticks(range(len(distinct)), distinct)
        axis.set_xlim(-0.5, len(distinct) - 0.5)
        return [float(distinct.index(str(value))) for value in values], True
    ticks = sorted(set(values))
    gaps = np.diff(ticks)
    if ticks[0] > 0 and ticks[-1] / ticks[0] >= 10:
        axis.set_xscale("log")
        gaps = np.diff(np.log(ticks))
    roomy = bool(gaps.min() > 0.12 * gaps.sum())
    if roomy:
        axis.set_xticks(ticks, [shown(value) for value in ticks])
        axis.minorticks_off()
    return [float(value) for value in values], roomy


def _epoch_panel(axis: Axes, result: Mapping[str, Any]) -> None:
    """Accuracy by epoch: the best in black, the others in grey, a cross where one was stopped."""
    from matplotlib.ticker import MaxNLocator

    for point in reversed(result["points"]):
        curve = 100 * np.array(point["curves"]["accuracy"])
        if not len(curve):
            continue
        best = point is result["points"][0]
        epochs = np.arange(1, len(curve) + 1)
        axis.plot(epochs, curve, color="black" if best else "0.65", linewidth=2 if best else 0.9)
        if not point["done"]:
            axis.plot(epochs[-1:], curve[-1:], marker="x", color="0.4", linestyle="none")
    axis.set_xlabel("epoch (the best in black)")
    axis.set_ylabel("accuracy on inner clips in %")
    axis.grid(axis="y", color="0.88")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
