"""The verb that writes a page about finished runs: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earsight.console import bar, out, say, verb


@verb
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared.")],
    data: Annotated[
        Path | None, typer.Option(help="The data set, if it has been moved: players and pictures need its sounds.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--out", help="The page; default report.html in the first run's folder.")
    ] = None,
    mistakes: Annotated[int, typer.Option(min=0, help="At most so many of each run's worst mistakes.")] = 12,
) -> None:
    """Write one HTML file about runs: accuracy, classes, mistakes to hear, confidence, and how to get them again.

    It holds all it shows, loads nothing from elsewhere, and stays below 7 MB, so that it can be mailed. Of several runs
    it says which differences are more than noise.
    """
    from earsight.reports.html import write_page
    from earsight.reports.report import make_report

    target = file or runs[0] / "report.html"
    with bar("report") as shown:
        made = make_report(runs, data=data, mistakes=mistakes, progress=shown)
    write_page(made.text, target)
    for note in made.notes:
        say(note)
    out.print(f"{target}  {len(made.text.encode()) / 1e6:.2f} MB", markup=False)
