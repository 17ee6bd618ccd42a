"""What `earsight.inference.observation` found, as a figure, a table, and the numbers behind them.

Comes in: its dictionary and a run folder. Goes out, in ``RUN/analysis/``: ``boundaries.png``, ``boundaries.csv`` (a row
a clip) and ``boundaries.json``; and rows for a table on a terminal.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earsight.analysis.boundaries import NAMES
from earsight.inference.observation import KINDS
from earsight.reports.canvas import blank, write_figure
from earsight.training.outcome import replace_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "gradient": "how fast the picture changes",
    "energy": "how loud it is",
    "gradient_given_energy": "change, at a given loudness",
    "energy_given_gradient": "loudness, at a given change",
}
_PLACES = {"boundary": "on the boundary", "inside": "inside", "outside": "outside"}


def boundaries_figure(found: dict[str, Any], *, path: Path) -> None:
    """Draw the correlations, and the densities by place, each with its interval, beside what comes of chance.

    Parameters
    ----------
    found : dict
        From `earsight.inference.observation.observe_boundaries`.
    path : Path
        A ``.png`` or ``.svg`` file; its folder is made.

    Raises
    ------
    EarsightError
        If the suffix is another.
    """
    figure = blank(10.0, 7.0)
    axes = figure.subplots(2, 2, width_ratios=[1.25, 1], sharex="col")
    for (left, right), kind in zip(axes, KINDS, strict=True):
        means = found["means"][kind]
        left.axvline(0, color="0.7", linewidth=1)
        _rows(left, [(title, means[f"spearman_{pair}"]) for pair, title in TITLES.items()])
        right.axvline(1, color="0.7", linewidth=1)
        _rows(right, [(title, means[f"density_{place}"]) for place, title in _PLACES.items()])
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
    """Write figure, table and numbers into ``RUN/analysis`` and tell where they are."""
    files = {kind: run / "analysis" / f"boundaries.{kind}" for kind in ("png", "csv", "json")}
    boundaries_figure(found, path=files["png"])
    text = io.StringIO()
    columns = ["fold", "seed", "clip", "label", "explained", "steps", "error", "left_out"]
    columns += [f"{kind}.{part}.{name}" for kind in KINDS for part in ("observed", "shifted") for name in NAMES]
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(_flat(row, columns) for row in found["rows"])
    replace_text(files["csv"], text.getvalue())
    content = {key: value for key, value in found.items() if key != "rows"}
    replace_text(files["json"], json.dumps(content, indent=1) + "\n")
    return files


def boundary_rows(found: dict[str, Any]) -> list[dict[str, object]]:
    """Rows of the table for people: what is compared, as it is, moved in time, and the difference."""
    names = {f"{kind}_{pair}": f"{kind}: {title}" for kind in ("spearman", "pearson") for pair, title in TITLES.items()}
    names |= {f"density_{place}": f"density {title}" for place, title in _PLACES.items()}
    rows: list[dict[str, object]] = []
    for kind in KINDS:
        for name, title in names.items():
            means = found["means"][kind][name]
            rows.append({"of": kind, "with": title, **{part: _interval(means[part]) for part in _PARTS}})
    return rows


_PARTS = ("observed", "shifted", "difference")


def _rows(axis: Axes, rows: list[tuple[str, dict[str, Any]]]) -> None:
    for number, (_, entry) in enumerate(rows):
        for part, offset, marker, fill, label in (
            ("observed", 0.12, "o", "black", "as they are"),
            ("shifted", -0.16, "s", "white", "moved in time (chance)"),
        ):
            mean, (low, high) = entry[part]["mean"], entry[part]["ci95"]
            axis.errorbar(
                mean,
                len(rows) - 1 - number + offset,
                xerr=[[mean - low], [high - mean]],
                fmt=marker,
                color="black",
                markerfacecolor=fill,
                markersize=6,
                capsize=3,
                label=label if number == 0 else None,
            )
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
