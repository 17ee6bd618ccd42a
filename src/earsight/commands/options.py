"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path, typer.Argument(help="Data set: a folder (one folder a class, ESC-50, UrbanSound8K, GTZAN) or a csv.")
]
Out = Annotated[Path, typer.Option("--out", help="Run folder; a run that was stopped goes on in it.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="Name in the package, or a .yaml file.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a field, as in training.epochs=10; repeatable.")]
Layout = Annotated[str, typer.Option(help="auto, esc50, urbansound8k, gtzan, folder or csv.")]
Subset = Annotated[str | None, typer.Option(help="esc10: only those rows of ESC-50.")]
Splits = Annotated[int, typer.Option(help="Folds to draw where the data set brings none.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable clips out and record them.")]
Cache = Annotated[
    Path | None, typer.Option(help="Folder for spectrograms; default $EARSIGHT_CACHE or the user's cache.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to compute with; default all cores.")]
Jobs = Annotated[
    int,
    typer.Option(min=1, help="Trials at a time, each in a process of its own on the same device."),
]
On = Annotated[
    str,
    typer.Option(
        "--on",
        help="Where trials run: local; ray, the cluster of $RAY_ADDRESS or of this machine, else one that is started "
        "here; or ray://HOST:PORT.",
    ),
]
Cpus = Annotated[
    float | None,
    typer.Option(
        "--cpus-per-trial", min=0.01, help="On Ray: CPUs that a trial reserves; default its --threads, which is 1."
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-trial", min=0, help="On Ray: GPUs a trial, as in 0.2 for five on one card; default 1 if there are."
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]
