"""Verbs that use a trained model: predict and evaluate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from earsight.commands.options import Data, Device, Json, Layout, SkipBad, Splits, Subset, Threads
from earsight.commands.steps import computer, open_data
from earsight.console import bar, out, print_json, say, verb
from earsight.errors import EarsightError


@verb
def predict(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    sounds: Annotated[list[str], typer.Argument(help="Files or folders; - reads names from standard input.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 1,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    csv_output: Annotated[bool, typer.Option("--csv", help="Comma-separated values.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Name the class of each sound. Exit code 1 says that some file could not be read; its row says why."""
    from earsight.inference.classifier import load_classifier
    from earsight.inference.files import find_sounds, write_rows

    if json_output and csv_output:
        raise EarsightError("--json and --csv both given: choose one form")
    classifier = load_classifier(model, device=computer(device, threads))
    form = "json" if json_output else "csv" if csv_output else "text"
    failed = write_rows(
        classifier.predict_files(find_sounds(sounds, stdin=sys.stdin)),
        form=form,
        top=top,
        stream=sys.stdout,
        calibrated=bool(classifier.card.calibration),
    )
    if failed:
        say(f"earsight: {failed} of the files could not be read; their rows say why")
        raise typer.Exit(1)


@verb
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    data: Data,
    fold: Annotated[int | None, typer.Option(help="Only this fold; default the one held out in training.")] = None,
    layout: Layout = "auto",
    subset: Subset = None,
    splits: Splits = 5,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Measure a model file on labelled clips, from their audio files."""
    from earsight.inference.classifier import load_classifier
    from earsight.inference.scoring import evaluate as score
    from earsight.reports.tables import print_evaluation

    classifier = load_classifier(model, device=computer(device, threads))
    dataset = open_data(data, layout=layout, subset=subset, splits=splits)
    with bar("listening") as shown:
        result = score(classifier, dataset, fold=fold, skip_bad=skip_bad, progress=shown)
    if json_output:
        print_json(result)
    else:
        print_evaluation(result, console=out)
