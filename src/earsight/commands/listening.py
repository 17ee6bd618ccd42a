"""Verbs that use a trained model: predict and evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earsight.commands.options import Data, Device, Json, Layout, SkipBad, Splits, Subset, Threads
from earsight.commands.steps import computer, open_data
from earsight.console import bar, out, print_json, say, verb

FormName = Annotated[str, typer.Option("--format", help="text, csv, jsonl; with --hop also audacity or raven.")]
Rows = Annotated[str, typer.Option(help="With --hop: events, windows (the raw timeline), or both (in a folder).")]
Place = Annotated[
    str,
    typer.Option(
        "--on",
        help="Where sounds are heard: local; ray, the cluster of $RAY_ADDRESS or of this machine, else one that is "
        "started here; or ray://HOST:PORT. They are read here in any case.",
    ),
]
Target = Annotated[
    Path | None,
    typer.Option("--out", help="File for the rows; or a folder (its name ends in /), with files for each recording."),
]


@verb
def predict(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    sounds: Annotated[list[str], typer.Argument(help="Files or folders; - reads names from standard input.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 1,
    form: FormName = "text",
    json_output: Annotated[bool, typer.Option("--json", help="As --format jsonl.")] = False,
    csv_output: Annotated[bool, typer.Option("--csv", help="As --format csv.")] = False,
    hop: Annotated[
        float | None, typer.Option(help="Recordings of any length: seconds from one window to the next.")
    ] = None,
    rows: Rows = "events",
    threshold: Annotated[float, typer.Option(help="Probability at which an event begins.")] = 0.5,
    release: Annotated[
        float | None, typer.Option(help="Probability below which it ends; default 0.7 x threshold.")
    ] = None,
    min_duration: Annotated[float, typer.Option(help="Leave out events shorter than this many seconds.")] = 0.0,
    gap: Annotated[
        float | None, typer.Option(help="Join events of a class at most this many seconds apart; default one hop.")
    ] = None,
    to: Target = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out where it was stopped.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    on: Place = "local",
) -> None:
    """Name the class of each sound; with --hop, of each window of long recordings, as events or as a timeline.

    Exit code 1 says that some file could not be read, or not to its end; its row says why.
    """
    from earsight.commands import predicting
    from earsight.inference.events import EventRules

    wanted = predicting.Wanted(
        form=predicting.form_of(form, json_output=json_output, csv_output=csv_output),
        rows=rows,
        top=top,
        hop_seconds=hop,
        rules=EventRules(threshold, release, min_duration, gap),
        to=to,
        resume=resume,
    )
    predicting.check(wanted)
    try:
        failed = predicting.run(wanted, model, sounds, device=device, threads=threads, on=on)
    except KeyboardInterrupt as error:  # unlike with the verbs that train, the same command alone does not go on
        say(f"earsight: stopped; {f'with --resume the same command goes on with {to}' if to else 'rows are whole'}")
        raise typer.Exit(130) from error
    if failed:
        say(f"earsight: {failed} of the files could not be read, or not to their end; their rows say why")
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
