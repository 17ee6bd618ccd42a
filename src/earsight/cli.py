"""The verbs of the command line; each imports what it needs inside itself, so that ``--help`` answers at once."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earsight.console import Verbs, bar, out, print_json, say, verb
from earsight.errors import EarsightError

if TYPE_CHECKING:
    import torch

    from earsight.data.datasets import Dataset
    from earsight.recipe import Recipe
    from earsight.training.preparation import Prepared
    from earsight.training.trial import Trial

app = typer.Typer(
    cls=Verbs,
    help="Fine-tune ImageNet-pretrained CNNs on pictures of sound.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(help="Show the recipes in the package.", no_args_is_help=True)
app.add_typer(recipes, name="recipe")

Data = Annotated[
    Path, typer.Argument(help="Data set: a folder (one folder a class, ESC-50, UrbanSound8K, GTZAN) or a csv.")
]
Out = Annotated[Path, typer.Option("--out", help="Run folder; a run that was stopped goes on in it.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="Name in the package, or a .yaml file.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a field, as in training.epochs=10; repeatable.")]
Layout = Annotated[str, typer.Option(help="auto, esc50, urbansound8k, gtzan, folder or csv.")]
Subset = Annotated[str | None, typer.Option(help="esc10: only those rows of ESC-50.")]
Splits = Annotated[int, typer.Option(help="Folds to draw where the data set brings none.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable clips out and record them.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for pictures; default $EARSIGHT_CACHE or the user's cache.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to compute with; default all cores.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Fine-tune ImageNet-pretrained CNNs on pictures of sound."""
    if version:
        from earsight import __version__

        out.print(__version__)
        raise typer.Exit


@app.command()
@verb
def quickstart(
    folder: Annotated[Path, typer.Option("--out", help="Where the sounds, the run and the picture go.")] = Path(
        "earsight-quickstart"
    ),
    epochs: Annotated[int, typer.Option(min=1)] = 4,
) -> None:
    """Run the main job on synthetic sounds: no network and no data set needed, under two minutes."""
    from earsight.quickstart import run_quickstart

    run_quickstart(folder, epochs=epochs)


@app.command()
@verb
def check(data: Data, layout: Layout = "auto", subset: Subset = None, json_output: Json = False) -> None:
    """Look for what is wrong with a data set: unreadable, silent, clipped, duplicate or leaking clips."""
    from earsight.data.checks import check_dataset

    dataset = _open(data, layout=layout, subset=subset, splits=2)
    with bar("listening") as shown:
        report = check_dataset(dataset, progress=shown)
    if json_output:
        print_json(report.to_dict())
    else:
        for line in report.lines():
            out.print(line, markup=False)
    if report.errors:
        raise typer.Exit(2)


@app.command()
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
    dataset = _open(data, layout=layout, subset=subset, splits=splits)
    ready = _prepare(dataset, _recipe(dataset, recipe, assignments), cache=cache, skip_bad=skip_bad)
    size = (ready.store.folder / "pictures.i16").stat().st_size
    if json_output:
        print_json(
            {"folder": str(ready.store.folder), "bytes": size, "shape": ready.store.shape, "skipped": ready.skipped}
        )
    else:
        out.print(f"{ready.store.shape[0]} clips, {size / 1e9:.2f} GB in {ready.store.folder}", markup=False)


@app.command()
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

    dataset = _open(data, layout=layout, subset=subset, splits=splits, drawn=fold is not None)
    if fold is None:
        dataset, fold = hold_out(dataset, seed=seed), 1
        held = int((dataset.folds == 1).sum())
        say(f"  held out: {held} of {len(dataset.clips)} clips, by label and source, seed {seed}")
    loaded = _recipe(dataset, recipe, assignments)
    computer = _device(device, threads)
    _run(dataset, loaded, [Trial(fold, seed)], folder, computer, cache=cache, skip_bad=skip_bad, as_json=json_output)
    model = publish_model(folder, Trial(fold, seed))
    say(f"model: {model}\nnext:  earsight predict {shlex.quote(str(model))} FILES...")


@app.command()
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
    json_output: Json = False,
) -> None:
    """Hold out every fold in turn and aggregate; what is DONE is not run again."""
    from earsight.training.schedule import chosen_folds
    from earsight.training.trial import Trial

    dataset = _open(data, layout=layout, subset=subset, splits=splits)
    numbers = chosen_folds(folds, dataset.fold_numbers)
    trials = [Trial(fold, seed) for seed in range(seeds) for fold in numbers]
    loaded = _recipe(dataset, recipe, assignments)
    computer = _device(device, threads)
    _run(dataset, loaded, trials, folder, computer, cache=cache, skip_bad=skip_bad, as_json=json_output)


@app.command()
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
    classifier = load_classifier(model, device=_device(device, threads))
    form = "json" if json_output else "csv" if csv_output else "text"
    failed = write_rows(
        classifier.predict_files(find_sounds(sounds, stdin=sys.stdin)), form=form, top=top, stream=sys.stdout
    )
    if failed:
        say(f"earsight: {failed} of the files could not be read; their rows say why")
        raise typer.Exit(1)


@app.command()
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

    classifier = load_classifier(model, device=_device(device, threads))
    dataset = _open(data, layout=layout, subset=subset, splits=splits)
    with bar("listening") as shown:
        result = score(classifier, dataset, fold=fold, skip_bad=skip_bad, progress=shown)
    if json_output:
        print_json(result)
    else:
        print_evaluation(result, console=out)


@app.command()
@verb
def summary(folder: Annotated[Path, typer.Argument(help="A run folder.")], json_output: Json = False) -> None:
    """Make a run's summary anew from its saved predictions, and print it."""
    _report(folder, _device("auto", None), as_json=json_output)


@app.command()
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


@recipes.command("list")
@verb
def recipe_list() -> None:
    """List the names of the recipes in the package."""
    from earsight.recipe import list_recipes

    for name in list_recipes():
        out.print(name, markup=False)


@recipes.command("show")
@verb
def recipe_show(
    name: Annotated[str, typer.Argument(help="Name in the package, or a .yaml file.")] = "default",
    assignments: Set = None,
) -> None:
    """Print a recipe, every field with its value."""
    from earsight.recipe import load_recipe

    sys.stdout.write(load_recipe(name, overrides=assignments or ()).to_yaml())


def _open(data: Path, *, layout: str, subset: str | None, splits: int = 5, drawn: bool = True) -> Dataset:
    from earsight.data.datasets import DRAWN_FOLDS
    from earsight.data.layouts import open_dataset

    dataset = open_dataset(data, layout=layout, subset=subset, folds=splits)
    say(dataset.describe())
    for note in dataset.notes:
        if drawn or not note.startswith(DRAWN_FOLDS):
            say(f"  note: {note}")
    return dataset


def _recipe(dataset: Dataset, name: str, assignments: list[str] | None) -> Recipe:
    from earsight.recipe import load_recipe
    from earsight.training.preparation import resolved

    return resolved(dataset, load_recipe(name, overrides=assignments or ()))


def _prepare(dataset: Dataset, recipe: Recipe, *, cache: Path | None, skip_bad: bool) -> Prepared:
    from earsight.training.preparation import prepare as prepare_pictures

    with bar("pictures") as shown:
        ready = prepare_pictures(dataset, recipe, cache=cache, skip_bad=skip_bad, progress=shown)
    if ready.skipped:
        say(f"  left out: {len(ready.skipped)} clips that cannot be read")
    return ready


def _device(name: str, threads: int | None) -> torch.device:
    import torch

    from earsight.training.machine import pick_device

    if threads:
        torch.set_num_threads(threads)
    return pick_device(name)


def _run(
    dataset: Dataset,
    recipe: Recipe,
    trials: list[Trial],
    folder: Path,
    device: torch.device,
    *,
    cache: Path | None,
    skip_bad: bool,
    as_json: bool,
) -> None:
    from earsight.training.schedule import check_start, run_trials

    check_start(dataset, recipe, trials, run=folder)
    ready = _prepare(dataset, recipe, cache=cache, skip_bad=skip_bad)
    with bar("training") as shown:
        run_trials(ready, trials, run=folder, device=device, progress=shown, say=say)
    _report(folder, device, as_json=as_json)


def _report(folder: Path, device: torch.device, *, as_json: bool) -> None:
    from earsight.evaluation.summary import write_summary
    from earsight.reports.tables import print_summary
    from earsight.training.machine import describe_machine

    result = write_summary(folder, machine=describe_machine(device))
    if as_json:
        print_json(result)
    else:
        print_summary(result, console=out)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            # File names are bytes: those that are not UTF-8 pass through as they came.
            stream.reconfigure(errors="surrogateescape")
    app()
