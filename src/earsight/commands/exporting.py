"""The verb that makes other files of a model: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from earsight.commands.options import Json, Layout, SkipBad, Splits, Subset, Threads
from earsight.commands.steps import computer, open_data
from earsight.console import bar, out, print_json, verb


@verb
def export(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    to: Annotated[Literal["onnx"], typer.Option(help="The form.")] = "onnx",
    file: Annotated[
        Path | None, typer.Option("--out", help="Default: beside the model file, ending in .onnx or .int8.onnx.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="The network in int8; the front end stays exact.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Labelled clips: the held-out ones are measured, the others calibrate int8."),
    ] = None,
    layout: Layout = "auto",
    subset: Subset = None,
    splits: Splits = 5,
    skip_bad: SkipBad = False,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Write a model as one file for ONNX Runtime: waves in, probabilities out, nothing else needed.

    The file takes waves (batch, samples), mono float32 at the model's rate, of any batch and length. It is written only
    if ONNX Runtime gives torch's probabilities within 1e-4, on real clips if there are (--data), on synthetic sounds,
    noise, silence, and waves too short and too long.
    """
    from earsight.onnx.export import export_onnx

    computer("cpu", threads)
    dataset = open_data(data, layout=layout, subset=subset, splits=splits) if data else None
    with bar("exporting") as shown:
        result = export_onnx(model, out=file, int8=int8, dataset=dataset, skip_bad=skip_bad, progress=shown)
    if json_output:
        print_json(result)
    else:
        for line in export_lines(result):
            out.print(line, markup=False)


def export_lines(result: dict[str, Any]) -> list[str]:
    """What `earsight.onnx.export.export_onnx` found, in words."""
    parity = result["parity"]
    lines = [
        f"{result['file']}: {result['bytes'] / 1e6:.1f} MB, opset {result['opset']}, {result['classes']} classes, "
        f"waves at {result['sample_rate_hz']} Hz of {result['clip_seconds']:g} s (others are cut or padded).",
        f"float32 in ONNX Runtime against torch, {parity['waves']} waves: probabilities within "
        f"{parity['probabilities']:.1e} (allowed {parity['allowed']:g}), spectrograms within {parity['spectrograms']:.1e}"
        + ("." if parity["novelty"] is None else f", novelty within {parity['novelty']:.1e}."),
    ]
    if "int8" in result:
        changed = result["int8"]
        lines.append(
            f"int8, calibrated on {changed['calibrated_on']}: probabilities move by up to "
            f"{changed['probabilities']:.2f} (of {changed['worst']})"
            + ("." if changed["novelty"] is None else f", the novelty by up to {changed['novelty']:.2g}.")
        )
    measured = result.get("measured")
    if measured:
        what = {True: "held out in training", False: "", None: "unknown to the model file"}[measured["held_out"]]
        lines.append(f"{measured['clips']} clips, {what}; from waves, {measured['batch']} at a time:")
        for name, row in measured["sides"].items():
            low, high = row["ci95"]
            lines.append(
                f"  {name:5}  accuracy {100 * row['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f}), "
                f"{row['clips_per_second']:.1f} clips/s, {row['other_labels']} other labels than torch"
            )
    elif parity["clips_of_the_data_set"]:
        lines.append("Every clip of the data set trained the model: nothing is measured.")
    if result["skipped"]:
        lines.append(f"{len(result['skipped'])} clips could not be read and are left out.")
    return lines
