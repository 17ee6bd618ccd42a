"""The paper's tables as sections of the report: our numbers beside the paper's.

Comes in: a scale, what was asked, and the finished runs below ``OUT/runs``. Goes out: a dictionary a section, of JSON
values: our accuracies between 0 and 1, the paper's in per cent. A cell without numbers has the reason, and the command
that fills it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earsight.evaluation.comparison import compare_runs
from earsight.experiments.cells import Asked, Cell, CellNumbers, cell_name, cell_numbers, section_cells
from earsight.experiments.claims import (
    representations_claims,
    table1_claims,
    table2_claims,
    table3_claims,
    windows_claims,
)
from earsight.experiments.collection import KINDS, Found
from earsight.experiments.plan import cell_trials, filling_command, run_folder
from earsight.experiments.scale import Repeated, Scale, Section
from earsight.training.trial import Trial, is_done

TITLES: dict[Section, str] = {
    "table1": "Table I: from ImageNet weights and from random ones",
    "table2": "Table II: single networks and their ensemble",
    "table3": "Table III: beside what others published",
    "representations": "Representations",
    "windows": "Three windows against one",
    "figures": "Figures 2 and 3: what the network kept, and what it looks at",
}


@dataclass(frozen=True)
class View:
    """Inputs of all sections.

    ``found`` are the data sets that were given, by name; ``left_out`` says why cells cannot be run here.
    """

    scale: Scale
    asked: Asked
    found: Mapping[str, Found]
    out: Path
    left_out: Mapping[str, str]

    def trials(self, cell: Cell) -> list[Trial]:
        """The trials of a cell that were asked for."""
        there = self.found[cell.data].dataset.fold_numbers if cell.data in self.found else None
        return cell_trials(cell, self.asked, folds=there)

    def done(self, cell: Cell) -> list[Trial]:
        """Those of them that are DONE."""
        run = run_folder(self.out, cell.name)
        return [trial for trial in self.trials(cell) if is_done(trial.folder(run))]

    def numbers(self, cell: Cell) -> CellNumbers | None:
        """Results of the cell's finished trials."""
        run = run_folder(self.out, cell.name)
        return cell_numbers(cell.name, run, self.trials(cell), watched=cell.recipe.training.watch)

    def empty(self, cells: Sequence[Cell], section: Section) -> list[dict[str, Any]]:
        """Cells that lack trials: how many are DONE, why, and the command that runs the rest."""
        out = []
        for cell in cells:
            done, trials = len(self.done(cell)), len(self.trials(cell))
            if done < trials:
                entry = {"cell": cell.name, "done": done, "trials": trials, "why": self.why(cell)}
                out.append(entry | {"command": self.command(cell, section, only=[cell.name])})
        return out

    def command(self, cell: Cell, section: Section, *, only: Sequence[str]) -> str:
        """The command that fills cells of a cell's data set; see `earsight.experiments.plan.filling_command`."""
        return filling_command(
            cell,
            section,
            self.asked,
            only=only,
            scale=self.scale.name,
            found=self.found,
            out=self.out,
            weights=cell.name in self.left_out,
        )

    def why(self, cell: Cell) -> str:
        """Why a cell lacks trials."""
        if cell.data not in self.found:
            return f"{KINDS[cell.data].title} was not given"
        return self.left_out.get(cell.name, "not run yet")


def make_section(view: View, section: Section) -> dict[str, Any]:
    """The section of a table: ``title``, ``rows``, ``claims`` (sentences), ``empty`` cells and ``cells`` (numbers)."""
    cells = {cell.name: cell for cell in section_cells(view.scale, section, view.asked)}
    numbers = {name: view.numbers(cell) for name, cell in cells.items()}
    rows, claims = _MAKERS[section](view.scale, numbers)
    return {
        "section": section,
        "title": TITLES[section],
        "scale": view.scale.name,
        "rows": rows,
        "claims": claims,
        "empty": view.empty(list(cells.values()), section),
        "cells": {name: found.to_dict() for name, found in numbers.items() if found},
    }


Numbers = Mapping[str, CellNumbers | None]
Made = tuple[list[dict[str, Any]], list[str]]


def _table1(scale: Scale, numbers: Numbers) -> Made:
    rows = []
    for row in scale.table1.rows if scale.table1 else ():
        names = {start: cell_name(row.data, getattr(row, start)) for start in ("pretrained", "random")}
        same = row.paper_data in (None, row.data)
        figures = row.paper or (None, None)
        rows.append(
            {
                **_whose(row.data, row.model, row.paper_data),
                **{
                    start: _shown(numbers[name], name, "accuracy", paper=paper, same=same)
                    for (start, name), paper in zip(names.items(), figures, strict=True)
                },
                "difference": _compared(numbers[names["pretrained"]], numbers[names["random"]]),
                "paper_difference": row.paper[0] - row.paper[1] if row.paper else None,
            }
        )
    return rows, table1_claims(rows)


def _table2(scale: Scale, numbers: Numbers) -> Made:
    rows = [_repeated(row, numbers) for row in (scale.table2.rows if scale.table2 else ())]
    return rows, table2_claims(rows)


def _table3(scale: Scale, numbers: Numbers) -> Made:
    part = scale.table3
    ours = [_repeated(row, numbers) for row in (part.ours if part else ())]
    others = [other.model_dump() for other in (part.others if part else ())]
    rows = [{"ours": row} for row in ours] + [{"other": other} for other in others]
    return rows, table3_claims(ours, others)


def _representations(scale: Scale, numbers: Numbers) -> Made:
    part = scale.representations
    rows: list[dict[str, Any]] = []
    if part is None:
        return rows, representations_claims(rows, "the first")
    best = cell_name(part.data, part.best)
    for row in part.rows:
        name = cell_name(part.data, row.recipe)
        rows.append(
            {
                "name": row.name,
                **_whose(part.data, row.name, None),
                "accuracy": _shown(numbers[name], name, "accuracy", paper=None, same=True),
                "difference": None if name == best else _compared(numbers[best], numbers[name]),
                "best": name == best,
            }
        )
    winner = next((row["name"] for row in rows if row["best"]), "the first")
    return rows, representations_claims(rows, winner)


def _windows(scale: Scale, numbers: Numbers) -> Made:
    rows = []
    for row in scale.windows.rows if scale.windows else ():
        names = {count: cell_name(row.data, getattr(row, count)) for count in ("three", "one")}
        shown = {count: _shown(numbers[name], name, "accuracy", paper=None, same=True) for count, name in names.items()}
        difference = _compared(numbers[names["three"]], numbers[names["one"]])
        rows.append({**_whose(row.data, row.model, None), **shown, "difference": difference})
    return rows, windows_claims(rows)


_MAKERS = {
    "table1": _table1, "table2": _table2, "table3": _table3, "representations": _representations,
    "windows": _windows,
}  # fmt: skip


def _repeated(row: Repeated, numbers: Numbers) -> dict[str, Any]:
    name = cell_name(row.data, row.recipe)
    found, same = numbers[name], row.paper_data in (None, row.data)
    single, spread, ensemble = row.paper or (None, None, None)
    joined = found.summary.get("ensemble") if found else None
    return {
        **_whose(row.data, row.model, row.paper_data),
        "single": _shown(found, name, "accuracy", paper=single, same=same) | {"paper_std": spread},
        "ensemble": _shown(found, name, "ensemble", paper=ensemble, same=same),
        "gain": joined["gain"] if joined else None,
        "paper_gain": ensemble - single if row.paper and ensemble is not None and single is not None else None,
    }


def _whose(data: str, model: str, paper_data: str | None) -> dict[str, Any]:
    elsewhere = KINDS[paper_data].title if paper_data and paper_data != data else None
    return {"data": data, "title": KINDS[data].title, "model": model, "paper_title": elsewhere}


def _shown(found: CellNumbers | None, name: str, key: str, *, paper: float | None, same: bool) -> dict[str, Any]:
    """One number of a cell: its accuracy with interval and spread, the paper's figure, and the gap between them."""
    out: dict[str, Any] = {"cell": name, "accuracy": None, "paper": paper, "gap": None}
    summary = found.summary if found else {}
    if found is None or key not in summary:
        return out
    part = summary[key] if key == "accuracy" else {"mean": summary[key]["accuracy"], "ci95": summary[key]["ci95"]}
    out |= {
        "accuracy": {name: value for name, value in part.items() if name != "std_parts"},
        "trials": len(found.trials),
        "complete": found.complete,
        "protocol": summary["protocol"],
    }
    if paper is not None and same:
        low, high = part["ci95"]
        out["gap"] = {"points": 100 * part["mean"] - paper, "ci95": [100 * low - paper, 100 * high - paper]}
    return out


def _compared(a: CellNumbers | None, b: CellNumbers | None) -> dict[str, Any] | None:
    """Two cells paired over their clips; None if they share no fold."""
    if a is None or b is None or not _folds(a) & _folds(b):
        return None
    return compare_runs(a.trials, b.trials, names=(a.name, b.name))


def _folds(found: CellNumbers) -> set[int]:
    return {trial.about["fold"] for trial in found.trials}
