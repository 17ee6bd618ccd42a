"""Verbs that train (quickstart, prepare, train, crossval, summary), and those about data sets and recipes."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from earsight.commands.options import (
    Data,
    DataOptions,
    DeviceOptions,
    Folds,
    Jobs,
    Json,
    Layout,
    Out,
    RayOptions,
    RecipeOptions,
    Seeds,
    Set,
    StoreOptions,
    Subset,
    grouped,
)
from earsight.commands.steps import (
    Place,
    calibrate_members,
    computer,
    load_recipe_for,
    open_data,
    open_trials,
    place,
    prepare_spectrograms,
    report,
    show_lines,
    train_all,
)
from earsight.console import bar, out, say, verb


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
    """Check a data set for unreadable, silent, clipped, duplicate or leaking clips."""
    from earsight.data.checks import check_dataset

    dataset = open_data(data, layout=layout, subset=subset, splits=2)
    with bar("checking") as shown:
        found = check_dataset(dataset, progress=shown)
    show_lines(found.to_dict(), found.lines(), as_json=json_output)
    if found.errors:
        raise typer.Exit(2)


@verb
def download(
    name: Annotated[str, typer.Argument(help="Which data set: esc50.")],
    folder: Annotated[Path, typer.Argument(help="Where to put it.")],
) -> None:
    """Download a data set from its public address (ESC-50: 600 MB, CC BY-NC); an interrupted download resumes."""
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
    width = max(map(len, about))
    rows = [{"name": name, "about": line} for name, line in about.items()]
    show_lines(rows, [f"{name:{width}}  {line}" for name, line in about.items()], as_json=json_output)


@verb
def recipe_show(
    name: Annotated[str, typer.Argument(help="Name in the package, or a .yaml file.")] = "default",
    assignments: Set = None,
) -> None:
    """Print a recipe: its notes, those of the recipes that it extends, and every field with its value."""
    from earsight.recipe import load_recipe, recipe_notes

    text = load_recipe(name, overrides=assignments or (), say=say).to_yaml()
    for number, (source, lines) in enumerate(recipe_notes(name).items()):
        for line in [f"-- {source}", *lines] if number and lines else lines:
            sys.stdout.write(f"# {line}".rstrip() + "\n")
    sys.stdout.write(text)


@verb
@grouped
def prepare(
    data: Data, *, recipe: RecipeOptions, form: DataOptions, store: StoreOptions, json_output: Json = False
) -> None:
    """Compute a data set's spectrograms ahead of training; a second time does nothing."""
    dataset = open_data(data, **asdict(form))
    made = prepare_spectrograms(dataset, load_recipe_for(dataset, recipe), store)
    size, shape, folder = made.store.bytes_on_disk, made.store.shape, made.store.folder
    show_lines(
        {"folder": str(folder), "bytes": size, "shape": shape, "skipped": made.skipped},
        [f"{shape[0]} clips, {size / 1e9:.2f} GB in {folder}"],
        as_json=json_output,
    )


@verb
@grouped
def train(
    data: Data,
    folder: Out,
    *,
    fold: Annotated[int | None, typer.Option(help="Hold this fold out; default a stratified, group-wise 20 %.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    recipe: RecipeOptions,
    form: DataOptions,
    store: StoreOptions,
    compute: DeviceOptions,
    json_output: Json = False,
) -> None:
    """Train one model and print its accuracy on clips that it never saw."""
    from earsight.execution.schedule import publish_model
    from earsight.training.preparation import hold_out
    from earsight.training.trial import Trial

    dataset = open_data(data, **asdict(form), drawn=fold is not None)
    if fold is None:
        dataset, fold = hold_out(dataset, seed=seed), 1
        held = int((dataset.folds == 1).sum())
        say(f"  held out: {held} of {len(dataset.clips)} clips, by label and source, seed {seed}")
    loaded, trial = load_recipe_for(dataset, recipe), Trial(fold, seed)
    on = Place(computer(compute.device, compute.threads))
    train_all(dataset, loaded, [trial], folder, store=store, on=on)
    report(folder, on, as_json=json_output)
    calibrate_members(folder)
    model = publish_model(folder, trial)
    say(f"model: {model}\nnext:  earsight predict {shlex.quote(str(model))} FILES...")


@verb
@grouped
def crossval(
    data: Data,
    folder: Out,
    *,
    folds: Folds = None,
    seeds: Seeds = 1,
    recipe: RecipeOptions,
    form: DataOptions,
    store: StoreOptions,
    compute: DeviceOptions,
    jobs: Jobs = 1,
    ray: RayOptions,
    json_output: Json = False,
) -> None:
    """Hold out every fold in turn and aggregate; what is DONE is not run again."""
    dataset, trials = open_trials(data, form, folds=folds, seeds=seeds)
    loaded = load_recipe_for(dataset, recipe)
    with place(compute, ray, jobs=jobs) as on:
        train_all(dataset, loaded, trials, folder, store=store, on=on)
        report(folder, on, as_json=json_output)
    calibrate_members(folder)


@verb
def summary(folder: Annotated[Path, typer.Argument(help="A run folder.")], json_output: Json = False) -> None:
    """Compute a run's summary again from its saved predictions, and print it."""
    report(folder, Place(computer("auto", None)), as_json=json_output)
