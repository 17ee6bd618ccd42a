"""Verbs that train: prepare, train, crossval; and summary, which reads what they left.

The first verb of a new user.
Verbs about data sets: check and download.
Verbs that show recipes: list and show.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from earsight.commands.options import (
    Cache,
    Cpus,
    Data,
    Device,
    Gpus,
    Jobs,
    Json,
    Layout,
    On,
    Out,
    RecipeName,
    Set,
    SkipBad,
    Splits,
    Subset,
    Threads,
)
from earsight.commands.steps import (
    calibrate_members,
    cluster,
    computer,
    load_recipe_for,
    open_data,
    prepare_spectrograms,
    report,
    run,
)
from earsight.console import bar, out, print_json, say, verb


@verb
def quickstart(
    folder: Annotated[Path, typer.Option("--out", help="Where the sounds, the run and the spectrogram go.")] = Path(
        "earsight-quickstart"
    ),
    epochs: Annotated[int, typer.Option(min=1)] = 4,
) -> None:
    """Run the main job on synthetic sounds: no network and no data set needed, under two minutes."""
    from earsight.quickstart import run_quickstart

    run_quickstart(folder, epochs=epochs)


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


@verb
def recipe_list(json_output: Json = False) -> None:
    """List the recipes in the package, each with a line on what it is."""
    from earsight.recipe import list_recipes, recipe_notes

    about = {name: recipe_notes(name)[name][1] for name in list_recipes()}
    if json_output:
        print_json([{"name": name, "about": line} for name, line in about.items()])
        return
    width = max(map(len, about))
    for name, line in about.items():
        out.print(f"{name:{width}}  {line}", markup=False)


@verb
def recipe_show(
    name: Annotated[str, typer.Argument(help="Name in the package, or a .yaml file.")] = "default",
    assignments: Set = None,
) -> None:
    """Print a recipe, every field with its value, under its notes and those of what it extends."""
    from earsight.recipe import load_recipe, recipe_notes

    text = load_recipe(name, overrides=assignments or (), say=say).to_yaml()
    for number, (source, lines) in enumerate(recipe_notes(name).items()):
        for line in [f"-- {source}", *lines] if number and lines else lines:
            sys.stdout.write(f"# {line}".rstrip() + "\n")
    sys.stdout.write(text)


@verb
def prepare(
    data: Data,
    recipe: RecipeName = "default",
    assignments: Set = None,
    layout: Layout = "auto",
    subset: Subset = None,
    splits: Splits = 5,
    skip_bad: SkipBad = False,
    cache: Cache = None,
    json_output: Json = False,
) -> None:
    """Compute a data set's spectrograms ahead of training; a second time does nothing."""
    dataset = open_data(data, layout=layout, subset=subset, splits=splits)
    ready = prepare_spectrograms(dataset, load_recipe_for(dataset, recipe, assignments), cache=cache, skip_bad=skip_bad)
    size = ready.store.bytes_on_disk
    if json_output:
        print_json(
            {"folder": str(ready.store.folder), "bytes": size, "shape": ready.store.shape, "skipped": ready.skipped}
        )
    else:
        out.print(f"{ready.store.shape[0]} clips, {size / 1e9:.2f} GB in {ready.store.folder}", markup=False)


@verb
def train(
    data: Data,
    folder: Out,
    fold: Annotated[int | None, typer.Option(help="Hold this fold out; default a stratified, group-wise 20 %.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    recipe: RecipeName = "default",
    assignments: Set = None,
    layout: Layout = "auto",
    subset: Subset = None,
    splits: Splits = 5,
    skip_bad: SkipBad = False,
    cache: Cache = None,
    device: Device = "auto",
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Train one model and tell its accuracy on clips that it never saw."""
    from earsight.execution.schedule import publish_model
    from earsight.training.preparation import hold_out
    from earsight.training.trial import Trial

    dataset = open_data(data, layout=layout, subset=subset, splits=splits, drawn=fold is not None)
    if fold is None:
        dataset, fold = hold_out(dataset, seed=seed), 1
        held = int((dataset.folds == 1).sum())
        say(f"  held out: {held} of {len(dataset.clips)} clips, by label and source, seed {seed}")
    loaded = load_recipe_for(dataset, recipe, assignments)
    on = computer(device, threads)
    run(dataset, loaded, [Trial(fold, seed)], folder, on, cache=cache, skip_bad=skip_bad, as_json=json_output)
    calibrate_members(folder)
    model = publish_model(folder, Trial(fold, seed))
    say(f"model: {model}\nnext:  earsight predict {shlex.quote(str(model))} FILES...")


@verb
def crossval(
    data: Data,
    folder: Out,
    folds: Annotated[str | None, typer.Option(help="Which folds, as in 1,2; default all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 1,
    recipe: RecipeName = "default",
    assignments: Set = None,
    layout: Layout = "auto",
    subset: Subset = None,
    splits: Splits = 5,
    skip_bad: SkipBad = False,
    cache: Cache = None,
    device: Device = "auto",
    threads: Threads = None,
    jobs: Jobs = 1,
    on: On = "local",
    cpus: Cpus = None,
    gpus: Gpus = None,
    json_output: Json = False,
) -> None:
    """Hold out every fold in turn and aggregate; what is DONE is not run again."""
    from earsight.execution.schedule import chosen_folds
    from earsight.training.trial import Trial

    dataset = open_data(data, layout=layout, subset=subset, splits=splits)
    numbers = chosen_folds(folds, dataset.fold_numbers)
    trials = [Trial(fold, seed) for seed in range(seeds) for fold in numbers]
    loaded = load_recipe_for(dataset, recipe, assignments)
    with cluster(on, cpus=cpus, gpus=gpus, threads=threads, device=device, jobs=jobs) as where:
        computes = computer("cpu" if where else device, threads, jobs)
        run(
            *(dataset, loaded, trials, folder, computes),
            cache=cache,
            skip_bad=skip_bad,
            as_json=json_output,
            jobs=jobs,
            cluster=where,
        )
    calibrate_members(folder)


@verb
def summary(folder: Annotated[Path, typer.Argument(help="A run folder.")], json_output: Json = False) -> None:
    """Make a run's summary anew from its saved predictions, and print it."""
    report(folder, computer("auto", None), as_json=json_output)
