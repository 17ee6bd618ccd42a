"""Verbs that train (quickstart, prepare, train, crossval, summary), and those about data sets and recipes."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from earsight.commands import steps
from earsight.commands.options import (
    Data,
    Folds,
    Jobs,
    Json,
    Out,
    RayOptions,
    RecipeArgument,
    RecipeOptions,
    RunOptions,
    Seeds,
    Set,
    SpectrogramOptions,
    TensorBoard,
    Threads,
    one_of,
    verb,
)
from earsight.console import Bar, bar, print_json, say
from earsight.errors import DataError, counted


@verb
def quickstart(
    folder: Annotated[Path, typer.Option("--out", help="Where the sounds, the run and the spectrogram go.")] = Path(
        "earsight-quickstart"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="How often each sound is trained on.")] = 4,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Run the main job on synthetic sounds: no network and no data set needed, under two minutes."""
    from earsight.quickstart import print_quickstart, run_quickstart

    result = run_quickstart(folder, epochs=epochs, device=steps.computer("cpu", threads))
    steps.show(result, print_quickstart, as_json=json_output)


@verb
def download(
    what: Annotated[
        str, typer.Argument(help="esc50, or weights.", autocompletion=one_of(lambda: ("esc50", "weights")))
    ],
    name: Annotated[str, typer.Argument(metavar="FOLDER|BACKBONE", help="Where to put ESC-50, or whose weights.")],
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for weights, for another machine; default the cache.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Download ESC-50 (600 MB, CC BY-NC) or a backbone's ImageNet weights; an interrupted download resumes."""
    if what == "weights":
        from earsight.models.weights import download_weights

        with bar("downloading", "MB") as shown:
            path = download_weights(name, out_folder, progress=partial(_in_megabytes, shown))
        use = f"--set backbone.name={name}" + (f" --set backbone.weights={path}" if out_folder else "")
        following = f"earsight train DATA --out RUN {use}"
        steps.show_lines({"file": str(path)}, [str(path), f"next: {following}"], as_json=json_output)
        return
    from earsight.data.download import download_esc50

    if what != "esc50":
        raise DataError(f"{what}: cannot be downloaded; known: esc50, weights")
    if out_folder is not None:
        raise DataError(f"--out {out_folder}: is for weights; ESC-50's folder is {name}")
    folder = Path(name)
    with bar("downloading", "MB") as shown:
        place = download_esc50(folder, progress=partial(_in_megabytes, shown))
    lines = [str(place), f"next: earsight crossval {place} --out runs/esc50"]
    steps.show_lines({"folder": str(place)}, lines, as_json=json_output)


def _in_megabytes(shown: Bar, done: int, total: int | None) -> None:
    shown(done // 10**6, None if total is None else -(-total // 10**6))


@verb
def recipe_list(json_output: Json = False) -> None:
    """List the recipes in the package, each with a line on what it is."""
    from earsight.recipe import list_recipes, recipe_notes

    about = {name: recipe_notes(name)[name][1] for name in list_recipes()}
    rows = [{"name": name, "about": line} for name, line in about.items()]
    steps.show_table(rows, rows, [], as_json=json_output)


@verb
def recipe_show(name: RecipeArgument = "default", assignments: Set = None, json_output: Json = False) -> None:
    """Print a recipe: its notes, those of the recipes that it extends, and every field with its value."""
    from earsight.recipe import load_recipe, recipe_notes

    recipe = load_recipe(name, overrides=assignments or (), say=say)
    if json_output:
        print_json({"recipe": recipe.model_dump(mode="json"), "notes": recipe_notes(name)})
        return
    for number, (source, lines) in enumerate(recipe_notes(name).items()):
        for line in [f"-- {source}", *lines] if number and lines else lines:
            sys.stdout.write(f"# {line}".rstrip() + "\n")
    sys.stdout.write(recipe.to_yaml())


@verb
def prepare(
    data: Data,
    *,
    recipe: RecipeOptions,
    options: SpectrogramOptions,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Compute a data set's spectrograms ahead of training; a second time does nothing."""
    dataset = steps.open_data(data, options, least=1, several=True)
    made = steps.prepare_spectrograms(dataset, steps.load_recipe_for(dataset, recipe), options)
    size, shape, folder = made.store.bytes_on_disk, made.store.shape, made.store.folder
    cut = f" in {counted(shape[0], 'window')}" if made.windows else ""
    steps.show_lines(
        {"folder": str(folder), "bytes": size, "shape": shape, "clips": len(dataset.clips), "skipped": made.skipped},
        [f"{counted(len(dataset.clips), 'clip')}{cut}, {size / 1e9:.2f} GB in {folder}"],
        as_json=json_output,
    )


@verb
def train(
    data: Data,
    folder: Out,
    *,
    fold: Annotated[int | None, typer.Option(help="Hold this fold out; default a stratified, group-wise 20 %.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    options: RunOptions,
    tensorboard: TensorBoard = False,
    json_output: Json = False,
) -> None:
    """Train one model and print its accuracy on clips that it never saw."""
    model = steps.train_one(
        *(data, folder), fold=fold, seed=seed, options=options, as_json=json_output, tensorboard=tensorboard
    )
    say(f"model: {model}\nnext:  earsight predict {shlex.quote(str(model))} FILES...")


@verb
def crossval(
    data: Data,
    folder: Out,
    *,
    folds: Folds = None,
    seeds: Seeds = 1,
    options: RunOptions,
    jobs: Jobs = 1,
    ray: RayOptions,
    tensorboard: TensorBoard = False,
    json_output: Json = False,
) -> None:
    """Hold out every fold in turn and aggregate; what is DONE is not run again."""
    how = {"folds": folds, "seeds": seeds, "options": options, "jobs": jobs, "ray": ray, "tensorboard": tensorboard}
    steps.cross_validate(data, folder, as_json=json_output, **how)  # type: ignore[arg-type]
    say(f"next:  earsight report {shlex.quote(str(folder))}")


@verb
def summary(
    folder: Annotated[Path, typer.Argument(help="A run folder.")], threads: Threads = None, json_output: Json = False
) -> None:
    """Make a run's summary anew from its saved predictions, and print it."""
    from earsight.reports.epochs import write_epochs

    steps.report(folder, steps.Place(steps.computer("auto", threads)), as_json=json_output)
    for line in write_epochs(folder):
        say(f"note: {line}")
