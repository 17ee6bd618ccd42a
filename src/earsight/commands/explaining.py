"""Verbs about attributions: explain (one sound) and analyze boundaries (a run)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from earsight.commands.options import Damaged, Device, First, Json, Model, Sounds, Threads, verb
from earsight.commands.steps import computer, say_left_out, show_table
from earsight.console import bar, print_json, say
from earsight.errors import counted

Steps = Annotated[int, typer.Option("--max-steps", min=16, help="Bound of the steps of Integrated Gradients.")]


@verb
def explain(
    model: Model,
    sounds: Sounds,
    folder: Annotated[Path, typer.Option("--out", help="Where figures, sounds and numbers go.")] = Path("explanations"),
    label: Annotated[str | None, typer.Option(help="The class to explain; default the most probable one.")] = None,
    curves: Annotated[bool, typer.Option(help="Measure how faithful the attributions are.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the random orders that they are compared with.")] = 0,
    steps: Steps = 2048,
    first: First = False,
    damaged: Damaged = False,
    json_output: Json = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Show which parts of a sound decide its class: attributions, masked sounds, and whether to believe them.

    For each sound: a figure, one of its faithfulness, an .npz, a .json, and two .wav files: what the network used, and
    the rest. Of a long sound the window that speaks most for the class is explained. Existing explanations are kept.
    Exit code 1: some sound could not be explained.
    """
    from earsight.analysis.faithfulness import RANDOM_ORDERS
    from earsight.errors import AudioError, EarsightError, ModelError
    from earsight.inference.classifier import load_classifier
    from earsight.inference.clips import find_sounds
    from earsight.inference.explanation import MAPS, known_class
    from earsight.reports.explanations import explanation_lines, file_names, made_from, read_explained, write_explained

    classifier = load_classifier(model, device=computer(device, threads))
    if label is not None:
        known_class(classifier.classes, label)
    # Explanations that have no such setting are of first windows.
    settings = {"label": label, "curves": curves, "seed": seed} | ({} if first else {"first": False})
    settings |= {"damaged": True} if damaged else {}
    origin = made_from(model, **settings)
    named = list(file_names(find_sounds(sounds, stdin=sys.stdin, say=lambda note: say(f"earsight: {note}"))))
    done: list[dict[str, Any]] = []
    failed: list[EarsightError] = []
    each = len(MAPS) + RANDOM_ORDERS if curves else 1  # curves of both kinds in an order of cells; else sounds
    how: dict[str, Any] = {"label": label, "first": first, "damaged": damaged, "curves": curves, "seed": seed}
    with bar("explaining", "curves" if curves else "sounds") as shown:
        for number, (sound, name) in enumerate(named):

            def within(done: int, _: int, *, before: int = each * number, name: str = name) -> None:
                shown(before + done, each * len(named), name)

            within(0, each)
            found = read_explained(folder, name, sound=sound, origin=origin)
            try:
                if found is None:
                    new = classifier.explain(sound, most_steps=steps, progress=within, **how)
                    found = write_explained(new, folder, name, origin=origin)
            except (AudioError, ModelError) as error:
                failed.append(error)
                continue
            done.append(found)
            if not json_output:
                shown.above("\n".join(explanation_lines(found)))
        shown(each * len(named), each * len(named))
    say_left_out(classifier)
    if json_output:
        print_json({"explanations": done, "failed": [str(reason) for reason in failed]})
    for reason in failed:
        say(f"earsight: {reason}")
    if failed:
        raise typer.Exit(1)


@verb
def boundaries(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Annotated[Path | None, typer.Option(help="The data set, if it has been moved since the run.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Which of the run's seeds; default the lowest.")] = None,
    clips: Annotated[
        int | None, typer.Option(min=1, help="At most so many held-out clips a fold; default all.")
    ] = None,
    steps: Steps = 256,
    json_output: Json = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Test whether attributions lie on the boundaries of loud regions, over a run's held-out clips.

    Correlations of their size with the spectrogram's gradient and loudness, compared with the same attributions moved
    in time, with 95 % intervals over clips. Give the command again to resume.
    """
    from earsight.inference.observation import observe_boundaries
    from earsight.reports.analysis_figures import boundary_rows, write_boundaries

    with bar("explaining", "clips") as shown:
        found = observe_boundaries(
            run, data=data, seed=seed, clips=clips, most_steps=steps, device=computer(device, threads), progress=shown
        )
    files = write_boundaries(found, run)
    counts = found["clips"]
    left_out, rough = len(counts["left_out"]), counts["not_complete"]
    summary = f"{counted(counts['measured'], 'clip')}, {left_out} left out, {rough} not complete within 1 %."
    result, notes = {key: value for key, value in found.items() if key != "rows"}, [summary, *found["verdict"]]
    show_table(result, boundary_rows(found), notes, as_json=json_output)
    say("\n".join(str(path) for path in files.values()))
