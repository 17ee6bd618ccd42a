"""Verbs that take a model elsewhere: export (one ONNX file) and push (to the Hugging Face hub)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from earsight.commands.options import DataOptions, Json, Model, SkipBad, Threads, here, verb
from earsight.commands.steps import computer, open_data, show_lines
from earsight.console import bar, say
from earsight.errors import EarsightError, counted


@verb
def export(
    source: Model,
    *,
    to: Annotated[Literal["onnx"], typer.Option(help="The form.")] = "onnx",
    file: Annotated[
        Path | None,
        typer.Option("--out", help="Default: beside the model file, ending in .onnx; of hf://OWNER/NAME ./NAME.onnx."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", hidden=True)] = False,
    data: Annotated[Path | None, typer.Option(help="A labelled data set; some of its clips are compared too.")] = None,
    form: DataOptions,
    skip_bad: SkipBad = False,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Write a model as one file for ONNX Runtime: waves in, probabilities out, nothing else needed.

    The file takes waves (batch, samples), mono float32 at the model's rate, of any batch and length. It is written only
    if ONNX Runtime's probabilities equal torch's within 1e-4, on synthetic sounds, noise, silence, waves too short and
    too long, and real clips (with --data).
    """
    from earsight.onnx.export import export_onnx

    if int8:
        raise EarsightError(
            "--int8 was removed: it was no faster than float32 and moved probabilities by up to 0.44; leave it out"
        )
    computer("cpu", threads)
    model = here(source)
    if file is None and model is not source:  # beside it is the hub's cache, which nobody looks into
        file = Path(f"{source.parts[2].partition('@')[0]}.onnx")
    dataset = open_data(data, form, skip_missing=skip_bad, least=1, testing=True, several=True) if data else None
    with bar("exporting", "steps") as shown:
        result = export_onnx(model, out=file, dataset=dataset, skip_bad=skip_bad, progress=shown)
    parity = result["parity"]
    novelty = "" if parity["novelty"] is None else f", OOD scores within {parity['novelty']:.1e}"
    lines = [
        f"{result['file']}: {result['bytes'] / 1e6:.1f} MB, opset {result['opset']}, "
        f"{counted(result['classes'], 'class')}, waves at {result['sample_rate_hz']} Hz of {result['clip_seconds']:g} "
        "s (others are cut or padded).",
        f"float32 in ONNX Runtime against torch, {parity['waves']} waves: probabilities within "
        f"{parity['probabilities']:.1e} (allowed {parity['allowed']:g}), "
        f"spectrograms within {parity['spectrograms']:.1e}{novelty}.",
    ]
    if result["skipped"]:
        lines.append(f"{counted(len(result['skipped']), 'clip')} could not be read and are left out.")
    show_lines(result, lines, as_json=json_output)


@verb
def push(
    place: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="A model file, or a run folder that has one.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where on the hub; it is made if need be.")],
    licence: Annotated[
        str, typer.Option("--license", help="Of the model, by the hub's names, such as apache-2.0 or cc-by-nc-4.0.")
    ] = "",
    data_licence: Annotated[str, typer.Option("--data-license", help="Of the sounds that it was trained on.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Only print the page that would go there; send nothing.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Put a model on the Hugging Face hub, with a page on its data, its figures and its recipe.

    Log in first: `hf auth login`, or $HF_TOKEN. `earsight.load("hf://OWNER/NAME")`, and every verb that takes a model
    file, fetch it from there.
    """
    from earsight.reports.hub import model_of, model_page
    from earsight.reports.hub import push as send

    licences = {"licence": licence, "data_licence": data_licence}
    if page:
        text = model_page(model_of(place), repository, **licences)
        show_lines({"page": text}, text.splitlines(), as_json=json_output)
        return
    result = send(place, repository, **licences, private=private)
    if not licence:
        say("note: without --license nobody else may use the model; the page says so")
    show_lines(result, [f"{', '.join(result['files'])} written to {result['url']}"], as_json=json_output)
