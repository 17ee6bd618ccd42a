"""Verbs about data sets: check and download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earsight.commands.options import Data, Json, Layout, Subset
from earsight.commands.steps import open_data
from earsight.console import bar, out, print_json, verb


@verb
def check(data: Data, layout: Layout = "auto", subset: Subset = None, json_output: Json = False) -> None:
    """Look for what is wrong with a data set: unreadable, silent, clipped, duplicate or leaking clips."""
    from earsight.data.checks import check_dataset

    dataset = open_data(data, layout=layout, subset=subset, splits=2)
    with bar("listening") as shown:
        report = check_dataset(dataset, progress=shown)
    if json_output:
        print_json(report.to_dict())
    else:
        for line in report.lines():
            out.print(line, markup=False)
    if report.errors:
        raise typer.Exit(2)


@verb
def download(
    name: Annotated[str, typer.Argument(help="Which data set: esc50.")],
    folder: Annotated[Path, typer.Argument(help="Where to put it.")],
) -> None:
    """Download a data set by its public address (ESC-50: 600 MB, CC BY-NC); a part is taken up again."""
    from earsight.data.download import download_esc50
    from earsight.errors import DataError

    if name != "esc50":
        raise DataError(f"{name}: cannot be downloaded; known: esc50")
    with bar("downloading") as shown:
        place = download_esc50(folder, progress=lambda done, total: shown(done, total or 0))
    out.print(f"{place}\nnext: earsight crossval {place} --out runs/esc50", markup=False)
