"""Figures and tables of the analyses: similarity, fusion, freezing and cutting by stage; attributions and boundaries.

Comes in: the dicts of `earsight.analysis.similarity`, `earsight.analysis.sweeps` and `earsight.inference.observation`.
Goes out: PNG or SVG files, rows for tables with accuracies in per cent, and sentences that belong below them. Every
figure reads in grey: lines differ in style and marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from earsight.analysis.boundaries import NAMES
from earsight.errors import counted
from earsight.files import replace_text, write_state
from earsight.inference.observation import KINDS
from earsight.reports.drawings import blank, write_figure
from earsight.reports.tables import csv_text
from earsight.reports.text_format import percent, percent_range, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = (
    {"color": "black", "linestyle": "-", "marker": "o"},
    {"color": "0.45", "linestyle": "--", "marker": "s"},
    {"color": "0.25", "linestyle": ":", "marker": "^"},
)
_REFERENCES = {"fusion": "all pretrained", "freeze": "nothing frozen", "cutoff": "nothing cut"}
_CHANCE = "outputs that are independent"
_TITLES = {
    "gradient": "how fast the spectrogram changes",
    "energy": "how loud it is",
    "gradient_given_energy": "change, at a given loudness",
    "energy_given_gradient": "loudness, at a given change",
}
_PLACES = {"boundary": "on the boundary", "inside": "inside", "outside": "outside"}
_PARTS = ("observed", "shifted", "difference")
_MEASURES = {"svcca": "SVCCA\n(mean canonical correlation)", "cka": "linear CKA"}


def similarity_figure(result: Mapping[str, Any], *, path: Path) -> None:
    """Draw SVCCA and CKA between before and after fine-tuning by stage, one line a run.

    ``result`` is from `earsight.analysis.similarity.similarity_result`; ``path`` ends in .png or .svg.
    """
    points = [point for run in result["runs"] for point in run["points"]]
    stages = list(dict.fromkeys(point["stage"] for point in points))
    figure = blank(max(6.4, 0.62 * len(stages) + 2.4), 6.6)
    axes = figure.subplots(2, 1, sharex=True)
    for axis, (measure, label) in zip(axes, _MEASURES.items(), strict=True):
        for number, run in enumerate(result["runs"]):
            known = [point for point in run["points"] if point[measure]["mean"] is not None]
            places = np.array([stages.index(point["stage"]) for point in known], dtype=float)
            places += 0.08 * (number - (len(result["runs"]) - 1) / 2)  # bars of two runs may not hide each other
            means = [point[measure]["mean"] for point in known]
            limits = [point[measure]["ci95"] or [point[measure]["mean"]] * 2 for point in known]
            style = _STYLES[number % len(_STYLES)]
            _line(axis, places, means, limits, label=f"{run['start']} start ({run['name']})", style=style)
            if measure == "svcca":
                dotted: dict[str, Any] = {"color": style["color"], "linestyle": (0, (1, 2)), "linewidth": 1}
                dotted |= {"label": _CHANCE if number == 0 else None}
                axis.plot(places, [point["chance"] for point in known], **dotted)
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.03)
        axis.grid(axis="y", color="0.88")
    handles, labels = axes[0].get_legend_handles_labels()
    order = np.argsort([name == _CHANCE for name in labels], kind="stable")
    figure.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=3)
    _stage_axis(axes[1], stages, "stage, from input to output")
    bars = " (bars: 95 % interval of the mean)" if any(point["svcca"]["ci95"] for point in points) else ""
    figure.suptitle(f"{result['backbone']}, held-out clips: before against after fine-tuning{bars}", fontsize=11)
    write_figure(figure, path)


def transfer_figure(result: Mapping[str, Any], *, path: Path, title: str, axis_label: str) -> None:
    """Draw accuracy with 95 % intervals by stage, and the reference as a line with its interval.

    ``result`` is from `earsight.analysis.sweeps.sweep_result`; ``path`` ends in .png or .svg; ``axis_label`` says what
    was done up to a stage.
    """
    points = result["points"]
    stages = [point["stage"] for point in points]
    figure = blank(max(6.4, 0.62 * len(stages) + 2.4), 4.2)
    axis = figure.subplots()
    reference = next(point["accuracy"] for point in points if point["difference"] is None)
    low, high = (100 * value for value in reference["ci95"])
    axis.axhspan(low, high, color="0.9", zorder=0, label="its 95 % interval")
    name = _REFERENCES[result["analysis"]]
    axis.axhline(100 * reference["mean"], color="0.4", linestyle="--", linewidth=1, label=name)
    means = [100 * point["accuracy"]["mean"] for point in points]
    limits = [[100 * value for value in point["accuracy"]["ci95"]] for point in points]
    label = "accuracy and 95 % interval"
    _line(axis, np.arange(len(points), dtype=float), means, limits, label=label, style=_STYLES[0])
    above: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "fontsize": 8}
    for place, point in enumerate(points):
        axis.annotate(percent(point["accuracy"]["mean"]), (place, limits[place][1]), **above)
    handles, labels = axis.get_legend_handles_labels()
    order = np.argsort([{label: 0, "its 95 % interval": 2}.get(name, 1) for name in labels])
    axis.legend([handles[i] for i in order], [labels[i] for i in order], fontsize=9, loc="best")
    axis.grid(axis="y", color="0.88")
    axis.set_ylabel("accuracy on held-out clips in %")
    axis.set_ylim(top=min(102, max(value for pair in limits for value in pair) + 4))
    _stage_axis(axis, stages, axis_label)
    dataset = f"{result['dataset']}, {counted(len(result['folds']), 'fold')}, {counted(len(result['seeds']), 'seed')}"
    axis.set_title(f"{title}: {result['backbone']} on {dataset}", fontsize=11, parse_math=False)
    write_figure(figure, path)


def similarity_rows(result: Mapping[str, Any]) -> list[dict[str, object]]:
    """Rows of the similarity table: one a stage, the columns of each run side by side."""
    out: dict[str, dict[str, object]] = {}
    several = len(result["runs"]) > 1
    for run in result["runs"]:
        suffix = f" {run['name']}" if several else ""
        for point in run["points"]:
            row = out.setdefault(point["stage"], {"stage": point["stage"]})
            mark = " ?" if point["uncertain"] and point["svcca"]["mean"] is not None else ""
            row[f"SVCCA{suffix}"] = _value(point["svcca"]) + mark
            row[f"CKA{suffix}"] = _value(point["cka"])
            row[f"independent{suffix}"] = f"{point['chance']:.2f}"
            row["rows"] = point["rows"]
            row[f"kept{suffix}"] = point["kept"]
    return list(out.values())


def transfer_rows(result: Mapping[str, Any]) -> list[dict[str, object]]:
    """Rows of the sweep's table: accuracy and its interval, the paired difference to the reference, what is trained."""
    out: list[dict[str, object]] = []
    for point in result["points"]:
        gap = point["difference"]
        out.append(
            {
                "stage": point["stage"] if gap else f"{point['stage']} (reference)",
                "accuracy %": percent(point["accuracy"]["mean"]),
                "95 % interval": percent_range(point["accuracy"]["ci95"]),
                "difference": signed(gap["mean"]) if gap else None,
                "its 95 % interval": percent_range(gap["ci95"]) if gap else None,
                "p": f"{gap['p_value']:.2g}" if gap else None,
                "trained": f"{point['trained'] / 1e6:.2f} of {point['parameters'] / 1e6:.2f} M",
                "seconds a trial": f"{point['seconds']:.0f}",
            }
        )
    return out


def similarity_notes(result: Mapping[str, Any]) -> list[str]:
    """Sentences that belong under the similarity table."""
    points = [point for run in result["runs"] for point in run["points"]]
    unit = "clips, averaged over their positions" if result["rows"] == "clips" else "positions of held-out clips"
    notes = [
        f"Rows are {unit}; kept are the directions that explain 99 % of the variance; independent is the SVCCA that as "
        "many unrelated directions would show on as many independent rows (neighbouring positions are not: it is more)."
    ]
    if any(point["svcca"]["ci95"] for point in points):
        notes.append("Intervals are 95 % of the mean over folds (over seeds where there is one fold).")
    if any(point["uncertain"] and point["svcca"]["mean"] is not None for point in points):
        notes.append("?: fewer than ten rows a kept direction, so that SVCCA comes out too high; hold out more clips.")
    if any(point["svcca"]["mean"] is None for point in points):
        notes.append("Too few rows: fewer than kept directions, so that any two networks would agree.")
    return notes


def transfer_notes(result: Mapping[str, Any]) -> list[str]:
    """Sentences that belong under a sweep's table."""
    points = result["points"]
    tested = [point for point in points if point["difference"]]
    clear = [point for point in tested if not point["difference"]["ci95"][0] <= 0 <= point["difference"]["ci95"][1]]
    named = ", ".join(f"{point['stage']} ({signed(point['difference']['mean'])})" for point in clear)
    one_seed = " One seed: how far another would move each value is not in the intervals."
    one_seed = one_seed if len(result["seeds"]) == 1 else ""
    return [
        f"Intervals are 95 % over the {points[0]['clips']} held-out clips; differences are paired over them. "
        f"Chance is {100 / result['classes']:.1f} %.",
        f"Outside the noise of the clips: {named or 'none'}.{one_seed}",
    ]


def boundaries_figure(found: dict[str, Any], *, path: Path) -> None:
    """Draw correlations of attributions with loudness and change, and their densities, each beside chance.

    ``found`` is from `earsight.inference.observation.observe_boundaries`; ``path`` ends in .png or .svg.
    """
    figure = blank(10.0, 7.0)
    axes = figure.subplots(2, 2, width_ratios=[1.25, 1], sharex="col")
    for (left, right), kind in zip(axes, KINDS, strict=True):
        means = found["means"][kind]
        left.axvline(0, color="0.7", linewidth=1)
        _boundary_panel(left, [(title, means[f"spearman_{pair}"]) for pair, title in _TITLES.items()])
        right.axvline(1, color="0.7", linewidth=1)
        _boundary_panel(right, [(title, means[f"density_{place}"]) for place, title in _PLACES.items()])
        what = "attribution" if kind == "attribution" else "sensitivity (attribution / height above silence)"
        left.set_title(f"{what}:\nrank correlation of its size with", fontsize=10, loc="left")
        right.set_title("its density and the loudest quarter", fontsize=10, loc="left")
    axes[-1, 0].set_xlabel("Spearman correlation over the cells of a clip")
    axes[-1, 1].set_xlabel("mean size, that of all cells being 1")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2, fontsize=10)
    count = found["clips"]["measured"]
    figure.suptitle(f"Where attributions lie: mean of {count} held-out clips, with 95 % intervals", fontsize=11)
    write_figure(figure, path)


def write_boundaries(found: dict[str, Any], run: Path) -> dict[str, Path]:
    """Write ``boundaries.png``, ``.csv`` (a row a clip) and ``.json`` into ``RUN/analysis``; their paths by suffix."""
    files = {kind: run / "analysis" / f"boundaries.{kind}" for kind in ("png", "csv", "json")}
    boundaries_figure(found, path=files["png"])
    columns = ["fold", "seed", "clip", "label", "explained", "steps", "error", "left_out"]
    columns += [f"{kind}.{part}.{name}" for kind in KINDS for part in ("observed", "shifted") for name in NAMES]
    replace_text(files["csv"], csv_text([_flat(row, columns) for row in found["rows"]], columns=columns))
    content = {key: value for key, value in found.items() if key != "rows"}
    write_state(files["json"], content, indent=1)
    return files


def boundary_rows(found: dict[str, Any]) -> list[dict[str, object]]:
    """Rows of the table: each measure as observed, with attributions shifted in time, and the difference."""
    names = {
        f"{kind}_{pair}": f"{kind}: {title}" for kind in ("spearman", "pearson") for pair, title in _TITLES.items()
    }
    names |= {f"density_{place}": f"density {title}" for place, title in _PLACES.items()}
    rows: list[dict[str, object]] = []
    for kind in KINDS:
        for name, title in names.items():
            means = found["means"][kind][name]
            rows.append({"of": kind, "with": title, **{part: _interval(means[part]) for part in _PARTS}})
    return rows


def _line(
    axis: Axes,
    places: np.ndarray,
    means: Sequence[float],
    limits: Sequence[Sequence[float]],
    *,
    label: str,
    style: Mapping[str, Any],
) -> None:
    """A line with error bars; no bar is drawn for a limit that equals the mean."""
    bars = np.abs(np.array(limits, dtype=float).T.reshape(2, -1) - np.array(means, dtype=float))
    axis.errorbar(places, means, yerr=bars, label=label, markersize=5, capsize=3, linewidth=1.4, **style)


def _stage_axis(axis: Axes, stages: Sequence[str], label: str) -> None:
    axis.set_xticks(range(len(stages)), stages, rotation=45 if len(stages) > 9 else 0, fontsize=9)
    axis.set_xlim(-0.5, len(stages) - 0.5)
    axis.set_xlabel(label)


def _value(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "too few rows"
    spread = f" ({found['ci95'][0]:.2f} to {found['ci95'][1]:.2f})" if found["ci95"] else ""
    return f"{found['mean']:.2f}{spread}"


def _boundary_panel(axis: Axes, rows: list[tuple[str, dict[str, Any]]]) -> None:
    for number, (_, entry) in enumerate(rows):
        for part, offset, marker, fill, label in (
            ("observed", 0.12, "o", "black", "as they are"),
            ("shifted", -0.16, "s", "white", "moved in time (chance)"),
        ):
            mean, (low, high) = entry[part]["mean"], entry[part]["ci95"]
            reach = [[mean - low], [high - mean]]
            look: dict[str, Any] = {"fmt": marker, "color": "black", "markerfacecolor": fill, "markersize": 6}
            look |= {"capsize": 3, "label": label if number == 0 else None}
            axis.errorbar(mean, len(rows) - 1 - number + offset, xerr=reach, **look)
    axis.set_yticks(range(len(rows)), [title for title, _ in reversed(rows)])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.grid(axis="x", color="0.92")


def _flat(row: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    out = {}
    for column in columns:
        value: Any = row
        for key in column.split("."):
            value = value.get(key, "") if isinstance(value, dict) else ""
        out[column] = value
    return out


def _interval(entry: dict[str, Any]) -> str:
    low, high = entry["ci95"]
    return f"{entry['mean']:.3f} ({low:.3f} to {high:.3f})"
