"""The first verb of a new user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earsight.console import verb


@verb
def quickstart(
    folder: Annotated[Path, typer.Option("--out", help="Where the sounds, the run and the picture go.")] = Path(
        "earsight-quickstart"
    ),
    epochs: Annotated[int, typer.Option(min=1)] = 4,
) -> None:
    """Run the main job on synthetic sounds: no network and no data set needed, under two minutes."""
    from earsight.quickstart import run_quickstart

    run_quickstart(folder, epochs=epochs)
