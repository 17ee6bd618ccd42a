"""Verbs that look into trained networks: analyze similarity, fusion, freeze and cutoff."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earsight.commands import steps
from earsight.commands.options import Data, Device, Folds, Json, RayOptions, RunOptions, Seeds, Threads, verb
from earsight.console import bar, say
from earsight.errors import counted

if TYPE_CHECKING:
    from earsight.analysis.sweeps import Variant
    from earsight.training.preparation import Prepared
    from earsight.training.trial import Trial


_FILES = "figure: {path}.png (and .svg); numbers: .json, .csv, .md beside it"


@verb
def similarity(
    run: Annotated[Path, typer.Argument(help="A run folder, as of crossval.")],
    other: Annotated[Path | None, typer.Argument(help="A second one, such as from random weights.")] = None,
    pooled: Annotated[bool, typer.Option("--pooled", help="Average each clip over its positions first.")] = False,
    data: Annotated[Path | None, typer.Option(help="The data set, if it has been moved since.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Compare each stage's outputs before and after fine-tuning, on held-out clips: SVCCA and CKA."""
    from earsight.analysis.similarity import run_similarity, similarity_result
    from earsight.reports.analysis_figures import similarity_figure, similarity_notes, similarity_rows

    on = steps.computer(device, threads)
    found = []
    for folder in (run, *((other,) if other else ())):
        with bar(f"features, {folder.name}", "clips") as shown:
            found.append(run_similarity(folder, data=data, pooled=pooled, device=on, progress=shown))
    result = similarity_result(found, pooled=pooled)
    path = run / "analysis" / ("similarity-pooled" if pooled else "similarity")
    rows, notes = similarity_rows(result), similarity_notes(result)
    steps.publish_table(
        result, rows, notes, lambda path: similarity_figure(result, path=path), path=path, as_json=json_output
    )
    say(_FILES.format(path=path))


def _sweep_verb(kind: str, description: str) -> Callable[..., None]:
    """Make one of the three verbs that train a list of recipes."""

    def sweep(
        data: Data,
        *,
        folder: Annotated[Path, typer.Option("--out", help="Folder of the runs; the three analyses may share it.")],
        stages: Annotated[str | None, typer.Option(help="Which stages, as in block2,block3; default all.")] = None,
        folds: Folds = None,
        seeds: Seeds = 1,
        options: RunOptions,
        ray: RayOptions,
        json_output: Json = False,
    ) -> None:
        from earsight.analysis.sweeps import SWEEPS, sweep_result, variants
        from earsight.execution.schedule import check_start
        from earsight.reports.analysis_figures import transfer_figure, transfer_notes, transfer_rows

        dataset, trials = steps.open_trials(data, options, folds=folds, seeds=seeds, run=folder)
        found = variants(kind, steps.load_recipe_for(dataset, options, run=folder), stages=stages)
        for item in found:
            check_start(dataset, item.recipe, trials, run=folder / item.folder)
        with steps.place(options, ray) as on:
            ready = steps.prepare_spectrograms(dataset, found[0].recipe, options, run=folder)
            run_sweep(ready, found, trials, folder=folder, on=on)
        result = sweep_result(kind, found, trials, out=folder)
        draw = partial(transfer_figure, result, title=SWEEPS[kind].title, axis_label=SWEEPS[kind].axis)
        rows, notes, path = transfer_rows(result), transfer_notes(result), folder / "analysis" / kind
        steps.publish_table(result, rows, notes, lambda path: draw(path=path), path=path, as_json=json_output)
        say(_FILES.format(path=path))

    sweep.__name__, sweep.__doc__ = kind, description
    return verb(sweep)


fusion = _sweep_verb("fusion", "Give only the stages up to each one the pretrained weights, and fine-tune all.")
freeze = _sweep_verb("freeze", "Freeze the stages up to each one, and fine-tune the rest.")
cutoff = _sweep_verb("cutoff", "Cut the network after each stage, and fine-tune what is left under a new head.")


def run_sweep(ready: Prepared, found: list[Variant], trials: list[Trial], *, folder: Path, on: steps.Place) -> None:
    """Print what a sweep costs, and train what of it is not DONE; on a cluster all recipes side by side."""
    from earsight.analysis.sweeps import pending
    from earsight.evaluation.summary import write_summary
    from earsight.execution.schedule import Group, run_groups, run_trials
    from earsight.training.trial import check_run

    for item in found:
        check_run(ready.dataset, item.recipe, folder / item.folder, spectrograms=ready.identity)
    todo = pending(found, trials, out=folder)
    if on.cluster:
        done = len(found) * len(trials) - len(todo)
        say(f"{counted(len(found), 'recipe')} x {counted(len(trials), 'trial')}, {done} done")
        groups = [
            Group(replace(ready, recipe=item.recipe), trials, folder / item.folder, item.folder) for item in found
        ]
        with bar("training", "steps") as shown:
            run_groups(on.cluster, groups, progress=shown, say=say)
        for item in found:
            write_summary(folder / item.folder, machine=on.machine)
        return
    say(_cost(ready, found, trials, todo, on))
    done = 0
    with bar("training", "steps") as shown:
        for item in found:
            mine = [trial for variant, trial in todo if variant is item]

            def over_all(
                step: int, total: int, note: str, *, name: str = item.folder, before: int = done, count: int = len(mine)
            ) -> None:
                a_trial = total // count
                shown(before * a_trial + step, len(todo) * a_trial, f"{name}, {note}")

            if mine:
                say(f"{item.folder}:")
                run_trials(
                    *(replace(ready, recipe=item.recipe), mine),
                    run=folder / item.folder,
                    device=on.device,
                    progress=over_all,
                    say=lambda text: say(f"  {text}"),
                )
            done += len(mine)
            write_summary(folder / item.folder, machine=on.machine)


def _cost(
    ready: Prepared, found: list[Variant], trials: list[Trial], todo: list[tuple[Variant, Trial]], on: steps.Place
) -> str:
    """Number of trials to train, and their estimated time on this machine."""
    from earsight.execution.timing import seconds_per_trial

    every = len(found) * len(trials)
    epochs = ready.recipe.training.epochs
    text = f"{counted(len(found), 'recipe')} x {counted(len(trials), 'trial')} of {counted(epochs, 'epoch')}: "
    text += f"{counted(every, 'trial')}, {every - len(todo)} done"
    if not todo:
        return text
    longest = max(todo, key=lambda pair: pair[0].is_reference)
    seconds = seconds_per_trial(replace(ready, recipe=longest[0].recipe), longest[1], device=on.device)
    minutes = seconds * len(todo) / 60
    return f"{text}; about {f'{minutes:.0f} min' if minutes >= 1 else 'a minute'} for the rest"
