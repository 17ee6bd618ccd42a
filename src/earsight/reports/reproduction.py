"""The report of `earsight reproduce`: our numbers beside the paper's, as Markdown and HTML.

Comes in: the sections that `earsight.experiments.paper_tables` and `earsight.experiments.paper_figures` make (our
accuracies between 0 and 1, the paper's in per cent). Goes out: Markdown text, and one HTML file that holds its figures
and loads nothing. A number in brackets names the command that fills an incomplete cell. No row is marked as the best.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earsight.errors import counted
from earsight.reports.html import render
from earsight.reports.tables import columns_and_cells, markdown, print_rows
from earsight.reports.text_format import percent, percent_range, signed, signed_range

if TYPE_CHECKING:
    from rich.console import Console

Section = Mapping[str, Any]
Rows = list[dict[str, object]]

_TEXT_COLUMNS = frozenset(
    {
        *("data set", "model", "weights", "who", "source", "representation"),
        *("cell", "trained under", "stage", "of", "with"),
    }
)
"""Columns of words; all others are figures, aligned to the right."""
_PROTOCOLS = (
    "What the protocols claim of the same runs. last reports the last epoch, test the epoch that the tested fold "
    "itself liked best, as the paper's released code does: optimistic, and shown for that alone."
)


def section_rows(section: Section) -> Rows:
    """Rows of a section's table, as text; [] for a section that has only figures."""
    make = _ROWS.get(section["section"])
    return make(section) if make else []


def protocol_rows(section: Section) -> Rows:
    """Accuracy by protocol of each cell whose epochs were evaluated, as text; none for the section of figures."""
    rows: Rows = []
    if section.get("figures"):
        return rows
    for name, cell in section["cells"].items():
        by_name = {row["protocol"]: row for row in cell["protocols"] or ()}
        if not by_name:
            continue
        row: dict[str, object] = {"cell": name, "trained under": cell["protocol"]}
        for protocol in ("last", "inner", "test"):
            found = by_name.get(protocol)
            title = f"{protocol} %" if protocol != "test" else "test % (optimistic)"
            row[title] = percent(found["accuracy"]["mean"]) if found else None
        over = by_name["test"]["over_last"]
        row["test - last"] = f"{signed(over['difference'])} ({signed_range(over['ci95'])})"
        rows.append(row)
    return rows if any(row["inner %"] is not None for row in rows) else [_without(row, "inner %") for row in rows]


def section_parts(section: Section, *, level: int = 2) -> Iterator[str | Rows]:
    """A section's paragraphs, in Markdown, and the rows of its tables."""
    yield f"{'#' * level} {section['title']}\n"
    yield from (f"{claim}\n" for claim in section["claims"])
    yield section_rows(section)
    for figure in section.get("figures", ()):
        yield f"### {figure['title']}\n"
        yield from (f"{claim}\n" for claim in figure["claims"])
        yield f"![{figure['title']}]({figure['path']})\n\n{figure['caption']}\n"
        yield figure.get("rows") or []
    if rows := protocol_rows(section):
        yield f"{_PROTOCOLS}\n"
        yield rows
    if section["empty"]:
        yield "Not run, or not whole:\n"
        yield "".join(f"- [{n}] {_empty(item)}: `{item['command']}`\n" for n, item in _numbered(section))
    yield from (f"{note}\n" for note in _notes(section))


def section_markdown(section: Section, *, level: int = 2) -> str:
    """One section as Markdown."""
    parts = (part if isinstance(part, str) else markdown(part) for part in section_parts(section, level=level) if part)
    return "\n".join(parts)


def print_section(section: Section, *, console: Console) -> None:
    """Print one section, its tables as every verb prints them."""
    for part in section_parts(section):
        if isinstance(part, str):
            console.print(part, markup=False)
        else:
            print_rows(part, console=console)


def report_markdown(sections: Sequence[Section], *, about: Sequence[str]) -> str:
    """All sections as one text."""
    head = "# earsight reproduce\n\n" + "".join(f"{line}\n" for line in about)
    return "\n".join([head, *(section_markdown(section) for section in sections)])


def report_html(sections: Sequence[Section], *, about: Sequence[str], folder: Path) -> str:
    """All sections as one page that loads nothing; the figures' paths are relative to ``folder``."""
    shown = [
        {
            "title": section["title"],
            "anchor": section["section"],
            "claims": section["claims"],
            "rows": _laid_out(section_rows(section)),
            "protocols": _laid_out(protocol_rows(section)),
            "figures": [_inline(figure, folder) for figure in section.get("figures", ())],
            "empty": [{"number": n, "text": _empty(item), **item} for n, item in _numbered(section)],
            "notes": _notes(section),
        }
        for section in sections
    ]
    context = {"sections": shown, "about": about, "protocols": _PROTOCOLS}
    return render("reproduction.html", title="The paper's experiments, reproduced", context=context)


def _table1(section: Section) -> Rows:
    number = _numbers_of(section)
    rows: Rows = []
    for row in section["rows"]:
        for start, title in (("pretrained", "ImageNet"), ("random", "random")):
            cell = row[start]
            rows.append(
                {
                    "data set": row["title"],
                    "model": row["model"],
                    "weights": title,
                    **_beside(cell, row, number),
                    "ImageNet - random": _difference(row["difference"]) if start == "pretrained" else None,
                }
            )
    return _without_blanks(rows, "gap")


def _table2(section: Section) -> Rows:
    number = _numbers_of(section)
    rows: Rows = []
    for row in section["rows"]:
        for what, title in (("single", "single ± std over seeds"), ("ensemble", "ensemble")):
            gain = row["gain"] if what == "ensemble" else None
            rows.append(
                {
                    "data set": row["title"],
                    "model": row["model"],
                    "of": title,
                    **_beside(row[what], row, number),
                    "gain": f"{signed(gain['difference'])} ({signed_range(gain['ci95'])})" if gain else None,
                    "beyond the noise": ("yes" if gain["beyond_noise"] else "no") if gain else None,
                }
            )
    return _without_blanks(rows, "paper %", "gap")


def _table3(section: Section) -> Rows:
    number = _numbers_of(section)
    titles = dict.fromkeys(row["ours"]["data"] for row in section["rows"] if "ours" in row)
    names = {row["ours"]["data"]: row["ours"]["title"] for row in section["rows"] if "ours" in row}
    rows: Rows = []
    for row in section["rows"]:
        if "other" in row:
            other = row["other"]
            figures = {names[data]: other["figures"].get(data) for data in titles}
            if any(value is not None for value in figures.values()):
                text = {name: f"{value:.2f}" if value is not None else None for name, value in figures.items()}
                rows.append({"who": other["who"], "source": other["source"], **text})
            continue
        ours = row["ours"]
        for what, title in (("single", "single network"), ("ensemble", "ensemble of the seeds")):
            blank = dict.fromkeys(names.values())
            value = {ours["title"]: _value(ours[what], number)}
            rows.append({"who": f"{ours['model']}, {title}", "source": "ours", **blank, **value})
    return rows


def _representations(section: Section) -> Rows:
    number = _numbers_of(section)
    best = next((row["name"] for row in section["rows"] if row["best"]), "")
    return [
        {
            "data set": row["title"],
            "representation": row["name"],
            "ours %": _value(row["accuracy"], number),
            f"{best} - it": _difference(row["difference"]),
        }
        for row in section["rows"]
    ]


def _windows(section: Section) -> Rows:
    number = _numbers_of(section)
    return [
        {
            "data set": row["title"],
            "model": row["model"],
            "three windows, ours %": _value(row["three"], number),
            "one window, ours %": _value(row["one"], number),
            "three - one": _difference(row["difference"]),
        }
        for row in section["rows"]
    ]


_ROWS: dict[str, Callable[[Section], Rows]] = {
    "table1": _table1, "table2": _table2, "table3": _table3, "representations": _representations,
    "windows": _windows,
}  # fmt: skip


def _beside(cell: Mapping[str, Any], row: Mapping[str, Any], number: Mapping[str, int]) -> dict[str, object]:
    """Our accuracy, the paper's, and the gap."""
    spread = f" ± {cell['paper_std']:.2f}" if cell.get("paper_std") is not None else ""
    where = f" ({row['paper_title']})" if row["paper_title"] else ""
    paper = None if cell["paper"] is None else f"{cell['paper']:.2f}{spread}{where}"
    return {"ours %": _value(cell, number), "paper %": paper, "gap": _gap(cell)}


def _value(cell: Mapping[str, Any], number: Mapping[str, int]) -> str:
    """As ``95.2 ± 0.4 (93.2 to 97.2) [1]``; [1] is the command for missing trials, alone if all are missing."""
    mark = f"[{number[cell['cell']]}]" if cell["cell"] in number else ""
    found = cell["accuracy"]
    if not found:
        return mark
    spread = f" ± {percent(found['std_over_seeds'])}" if "std_over_seeds" in found else ""
    optimistic = ", optimistic" if cell["protocol"] == "test" else ""
    text = f"{percent(found['mean'])}{spread} ({percent_range(found['ci95'])}{optimistic})"
    return f"{text} {mark}".strip()


def _gap(cell: Mapping[str, Any]) -> str | None:
    gap = cell["gap"]
    if not gap:
        return None
    low, high = gap["ci95"]
    return f"{gap['points']:+.1f} ({low:+.1f} to {high:+.1f})"


def _difference(found: Mapping[str, Any] | None) -> str | None:
    if not found:
        return None
    difference = found["difference"]
    noise = "" if found["beyond_noise"] else ", noise"
    limits = difference["ci95_with_seeds"] or difference["ci95"]
    return f"{signed(difference['mean'])} ({signed_range(limits)}{noise})"


def _numbered(section: Section) -> list[tuple[int, Mapping[str, Any]]]:
    return list(enumerate(section["empty"], start=1))


def _numbers_of(section: Section) -> dict[str, int]:
    return {item["cell"]: number for number, item in _numbered(section)}


def _empty(item: Mapping[str, Any]) -> str:
    return f"{item['cell']}, {item['done']} of {counted(item['trials'], 'trial')} ({item['why']})"


def _notes(section: Section) -> list[str]:
    protocols = sorted({cell["protocol"] for cell in section["cells"].values()})
    notes = []
    if protocols:
        optimistic = "; test is optimistic, because the held-out fold chose the epoch" if "test" in protocols else ""
        notes.append(
            "In brackets: 95 % intervals over clips, or over their sources where they share them. Protocol of our "
            f"runs: {', '.join(protocols)}{optimistic}."
        )
    compared = [row["difference"]["difference"] for row in section["rows"] if row.get("difference")]
    if any(found["ci95_with_seeds"] is None for found in compared):
        notes.append("One seed: how far another would move a network is not in the intervals of differences.")
    if any("gap" in row for row in section_rows(section)):
        notes.append("A gap is ours less the paper's, with our interval; the paper's figure has none of its own.")
    return notes


def _inline(figure: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    data = base64.b64encode((folder / figure["path"]).read_bytes()).decode()
    return {**figure, "rows": _laid_out(figure.get("rows") or []), "source": f"data:image/png;base64,{data}"}


def _laid_out(rows: Rows) -> dict[str, Any] | None:
    """A table for the page's macro; None for no rows."""
    if not rows:
        return None
    columns, cells = columns_and_cells(rows)
    return {"columns": columns, "cells": cells, "right": [name for name in columns if name not in _TEXT_COLUMNS]}


def _without_blanks(rows: Rows, *names: str) -> Rows:
    """Leave out those columns of the named ones that are blank in every row."""
    blank = [name for name in names if all(row[name] is None for row in rows)]
    return [_without(row, *blank) for row in rows]


def _without(row: dict[str, object], *names: str) -> dict[str, object]:
    return {key: value for key, value in row.items() if key not in names}


def print_plan(costs: Sequence[Mapping[str, Any]], *, not_run: Mapping[str, str], console: Console) -> None:
    """Print estimated costs of the cells, and of all of them.

    ``costs`` are from `earsight.experiments.cost.job_costs`; ``not_run`` maps every cell that was asked for to the
    reason why it is not run, if it is known.
    """
    known = {row["cell"] for row in costs}
    rows: Rows = [
        {
            "cell": row["cell"],
            **{name: row[name] for name in ("trials", "epochs", "done")},
            "time left": f"about {_minutes(row['seconds'])}" if row["trials"] > row["done"] else "none",
        }
        for row in costs
    ]
    rows += [
        {"cell": name, "time left": f"not run: {why or 'its data set was not given'}"}
        for name, why in not_run.items()
        if name not in known
    ]
    trials, done = sum(row["trials"] for row in costs), sum(row["done"] for row in costs)
    total = sum(row["seconds"] for row in costs)
    rest = f"; about {_minutes(total)} for the rest, one at a time" if trials > done else ""
    total_line = f"{len(costs)} of {counted(len(not_run), 'cell')}: {counted(trials, 'trial')}, {done} done{rest}"
    print_rows(rows, console=console, notes=[total_line])


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
