"""Figures of a run: confusion matrix, training curves, reliability diagram, intervals; and saving them.

Comes in: arrays and rows that a run saved. Goes out: a `matplotlib.figure.Figure`, for `write_figure` (PNG or SVG) or
`earsight.reports.html.inline_svg`. Drawings use black, transparency and no background, so that they print in grey and
can take a dark page's text colour.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from earsight.calibration.temperature import expected_calibration_error, reliability
from earsight.errors import EarsightError, counted
from earsight.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NUMBERED = 20
"""Above this many classes a matrix numbers its columns; its rows have number and name."""
COUNTED = 60
"""Above this many classes the cells of a matrix have no numbers."""
_LONGEST = 32


class Bar(NamedTuple):
    """A value with its interval, as a row of `intervals_drawing`; all in per cent."""

    name: str
    value: float
    low: float
    high: float


def blank(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, laid out by matplotlib's constrained layout."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the path's suffix, whole or not at all; the same figure gives the same bytes.

    Its folder is made. EarsightError if the suffix is another.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise EarsightError(f"{path}: found suffix '{suffix}', expected .png or .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    # SVG keeps text as text, and neither format carries a date: the same data gives the same bytes.
    metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
    with (
        replacing(path) as part,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "earsight"}),
        warnings.catch_warnings(),
    ):
        # A class name in a script that the font lacks shows as boxes; the figure is still right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(part, format=suffix[1:], dpi=150, metadata=metadata, bbox_inches="tight")


def _shortened(name: str, most: int = _LONGEST) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def confusion_drawing(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """A confusion matrix: the shade is the share of the true class, the number counts predictions.

    ``counts`` is int (classes, classes), a row for each true class and a column for each predicted one. EarsightError
    if it does not fit the names of the classes.
    """
    counts, number = np.asarray(counts), len(classes)
    if counts.shape != (number, number) or number == 0:
        raise EarsightError(f"found a matrix of shape {counts.shape} for {number} classes, expected one row per class")
    names = [_shortened(name) for name in classes]
    font = 9.0 if number <= NUMBERED else 7.5 if number <= 35 else 6.5
    cell = float(np.clip(0.5 - 0.012 * (number - 10), 0.145, 0.5)) if number <= COUNTED else 9 / number
    side = max(3.0, cell * number) + 0.9 + max(len(name) for name in names) * font / 130
    figure = blank(side, side - (0.9 if number > NUMBERED else 0))
    axis = figure.add_subplot()
    _cells(axis, counts, font=font)
    step = max(1, -(-number // 80))
    columns = [str(place + 1) for place in range(number)] if number > NUMBERED else names
    rows = [f"{name}  {place + 1}" for place, name in enumerate(names)] if number > NUMBERED else names
    axis.xaxis.set_ticks_position("top")
    axis.xaxis.set_label_position("top")
    axis.set_xticks(range(0, number, step), columns[::step], rotation=90, fontsize=font)
    axis.set_yticks(range(0, number, step), rows[::step], fontsize=font)
    _plain_ticks(axis)
    if number <= COUNTED:
        axis.set_xticks(np.arange(number + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(number + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="black", alpha=0.15, linewidth=0.5)
    axis.tick_params(which="both", length=0)
    axis.set(xlim=(-0.5, number - 0.5), ylim=(number - 0.5, -0.5), aspect="equal")
    axis.set_xlabel("predicted class", fontsize=10)
    axis.set_ylabel("true class", fontsize=10)
    return figure


def _plain_ticks(axis: Axes) -> None:
    for tick in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        tick.set_parse_math(False)


def _cells(axis: Axes, counts: np.ndarray, *, font: float) -> None:
    """Shades and, where they are large enough to read, numbers."""
    from matplotlib.patches import Rectangle

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(counts) > COUNTED:
        axis.imshow(shares, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
        return
    small = font if counts.max() < 100 else font * 0.8
    for row, column in np.argwhere(counts > 0):
        share = float(shares[row, column])
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="black", alpha=0.06 + 0.8 * share, linewidth=0)
        axis.add_patch(box)
        ink = "white" if share > 0.45 else "black"
        number = str(counts[row, column])
        axis.text(column, row, number, ha="center", va="center_baseline", color=ink, fontsize=small)


def curves_drawing(histories: Sequence[Sequence[Mapping[str, Any]]], *, scored: str = "held-out") -> Figure:
    """Training loss, accuracy (if recorded) and learning rate by epoch: a thin line a trial, a thick mean.

    A history is a trial's rows, one per epoch: ``epoch``, ``loss``, ``learning_rate`` and, where known, ``accuracy`` (0
    to 1); ``scored`` says which clips the accuracy is of. EarsightError if there is no row, or a key is missing.
    """
    needed = ("epoch", "loss", "learning_rate")
    rows = [row for history in histories for row in history]
    missing = [key for key in needed if any(row.get(key) is None for row in rows)]
    if missing or not rows:
        raise EarsightError(
            f"history has {counted(len(rows), 'epoch')} and lacks {', '.join(missing) or 'all rows'}, "
            f"expected one row per epoch with {', '.join(needed)}"
        )
    drawn = [("loss", "training loss", 1.0, "-"), ("learning_rate", "learning rate", 1.0, "--")]
    for key, words in (("accuracy", "accuracy"), ("average_precision", "mAP")):
        if any(row.get(key) is not None for row in rows):
            drawn.insert(1, (key, f"{scored} {words} in %", 100.0, "-"))
    figure = blank(7.0, 2.1 * len(drawn))
    axes = figure.subplots(len(drawn), 1, sharex=True, height_ratios=[1.0] * (len(drawn) - 1) + [0.6])
    for axis, (key, label, scale, style) in zip(axes, drawn, strict=True):
        _lines(axis, histories, key=key, scale=scale, style=style)
        axis.set_ylabel(label)
        axis.grid(color="black", alpha=0.12)
    if len(histories) > 1:
        axes[0].legend(loc="upper right", frameon=False)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    return figure


def _lines(axis: Axes, histories: Sequence[Sequence[Mapping[str, Any]]], *, key: str, scale: float, style: str) -> None:
    values: dict[int, list[float]] = {}
    alone = len(histories) == 1
    for number, history in enumerate(histories):
        known = [row for row in history if row.get(key) is not None]
        for row in known:
            values.setdefault(row["epoch"], []).append(scale * row[key])
        look: dict[str, Any] = {"alpha": 1, "linewidth": 1.5} if alone else {"alpha": 0.3, "linewidth": 0.8}
        look |= {"marker": "o" if alone and len(known) <= 40 else None, "markersize": 3}
        label = f"each of {len(histories)} trainings" if number == 0 else None
        epochs, shown = [row["epoch"] for row in known], [scale * row[key] for row in known]
        axis.plot(epochs, shown, style, color="black", label=label, **look)
    if not alone:
        means = {epoch: float(np.mean(values[epoch])) for epoch in sorted(values)}
        axis.plot(list(means), list(means.values()), style, color="black", linewidth=2, label="their mean")


def reliability_drawing(curves: Mapping[str, np.ndarray], labels: np.ndarray) -> Figure:
    """Reliability diagrams side by side: accuracy by confidence in 15 bins, the number of clips below.

    ``curves`` maps a title to rows (clips, classes) that sum to 1; ``labels`` are int (clips,). EarsightError if they
    do not fit each other.
    """
    figure = blank(4.4 * len(curves), 5.5)
    axes = figure.subplots(2, len(curves), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for (upper, lower), (title, probabilities) in zip(axes.T, curves.items(), strict=True):
        curve = reliability(probabilities, labels)
        error = expected_calibration_error(probabilities, labels)
        left, width, filled = curve.edges[:-1], np.diff(curve.edges), curve.clips > 0
        height = np.nan_to_num(curve.accuracy)
        upper.bar(left, height, width, align="edge", color="black", alpha=0.18, label="share that is right")
        upper.bar(left, height, width, align="edge", facecolor="none", edgecolor="black", linewidth=0.8)
        places = curve.confidence[filled], curve.accuracy[filled]
        upper.plot(*places, "ko", markersize=4, label="at the mean confidence")
        upper.plot([0, 1], [0, 1], "k--", linewidth=1, label="what it should be")
        upper.set(xlim=(0, 1), ylim=(0, 1.02))
        upper.set_title(f"{title}: expected calibration error {100 * error:.1f} %", fontsize=10)
        lower.bar(left, curve.clips, width, align="edge", color="black", alpha=0.5, edgecolor="black", linewidth=0.8)
        lower.set(xlabel="confidence: probability of the predicted class", yscale="log", ylim=(0.7, 2 * len(labels)))
        lower.minorticks_off()
    axes[0, 0].set_ylabel("share of predictions that are right")
    axes[1, 0].set_ylabel("predictions\n(log scale)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=9)
    return figure


def intervals_drawing(bars: Sequence[Bar], *, label: str, zero: bool = False, full: bool = False) -> Figure:
    """Values with their 95 % intervals, a row each; ``zero`` marks no difference; ``full``: from 0 to 100."""
    figure = blank(7.0, 0.9 + (0.36 if len(bars) <= NUMBERED else 0.24) * len(bars))
    axis = figure.add_subplot()
    for place, bar in enumerate(bars):
        axis.plot([bar.low, bar.high], [place, place], color="black", linewidth=2, alpha=0.45, solid_capstyle="butt")
        axis.plot(bar.value, place, "ko", markersize=6)
    if full:
        axis.set_xlim(0, 102)
    if zero:
        axis.axvline(0, color="black", linewidth=1, linestyle="--")
    axis.set_yticks(range(len(bars)), [_shortened(bar.name, 40) for bar in bars])
    _plain_ticks(axis)
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.set_xlabel(label)
    axis.grid(axis="x", color="black", alpha=0.12)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    return figure
