"""Verbs that train: prepare, train, crossval; and summary, which reads what they left."""

from __future__ import annotations

import shlex
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
    calibrate,
    cluster,
    computer,
    load_recipe_for,
    open_data,
    prepare_pictures,
    report,
    run,
)
from earsight.console import out, print_json, say, verb


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
    """Compute a data set's pictures ahead of training; a second time does nothing."""
    dataset = open_data(data, layout=layout, subset=subset, splits=splits)
    ready = prepare_pictures(dataset, load_recipe_for(dataset, recipe, assignments), cache=cache, skip_bad=skip_bad)
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
    from earsight.training.preparation import hold_out
    from earsight.training.schedule import publish_model
    from earsight.training.trial import Trial

    dataset = open_data(data, layout=layout, subset=subset, splits=splits, drawn=fold is not None)
    if fold is None:
        dataset, fold = hold_out(dataset, seed=seed), 1
        held = int((dataset.folds == 1).sum())
        say(f"  held out: {held} of {len(dataset.clips)} clips, by label and source, seed {seed}")
    loaded = load_recipe_for(dataset, recipe, assignments)
    on = computer(device, threads)
    run(dataset, loaded, [Trial(fold, seed)], folder, on, cache=cache, skip_bad=skip_bad, as_json=json_output)
    calibrate(folder)
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
    from earsight.training.schedule import chosen_folds
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
    calibrate(folder)


@verb
def summary(folder: Annotated[Path, typer.Argument(help="A run folder.")], json_output: Json = False) -> None:
    """Make a run's summary anew from its saved predictions, and print it."""
    report(folder, computer("auto", None), as_json=json_output)
