"""The verb that searches for a better recipe: tune."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from earsight.commands import steps
from earsight.commands.options import (
    Data,
    Json,
    On,
    RayOptions,
    Seeds,
    Set,
    StoreOptions,
    WorkOptions,
    one_of,
    recipe_names,
    verb,
)
from earsight.console import bar, say
from earsight.errors import counted

if TYPE_CHECKING:
    import torch

    from earsight.data.datasets import Dataset
    from earsight.training.trial import Trial
    from earsight.tuning.search import Candidate
    from earsight.tuning.space import Point


@dataclass(frozen=True)
class SearchOptions(RayOptions):
    """As `RayOptions`, with Ray as the default."""

    on: On = "ray"


@verb
def tune(
    recipe: Annotated[
        str,
        typer.Argument(
            help="What to start from: a name in the package, or a .yaml file.", autocompletion=one_of(recipe_names)
        ),
    ],
    data: Data,
    *,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the search; one that was stopped goes on in it.")] = (
        Path("search")
    ),
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", help="A field and its values, as in training.learning_rate=1e-3,1e-4; repeatable."),
    ] = None,
    random: Annotated[
        list[str] | None,
        typer.Option(
            "--random",
            help="A field to draw, as in 'training.learning_rate=loguniform(1e-5,1e-2)'; also uniform(low,high), "
            "integer(low,high), choice(value,value); repeatable.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Draws of the --random fields.")] = 10,
    draw_seed: Annotated[int, typer.Option(min=0, help="Of those draws.")] = 0,
    asha: Annotated[
        bool, typer.Option("--asha", help="Stop what is behind after 1/9 and 1/3 of the epochs: two thirds each time.")
    ] = False,
    metric: Annotated[
        Literal["accuracy", "log_loss"], typer.Option(help="What decides, on the inner clips.")
    ] = "accuracy",
    folds: Annotated[
        str | None,
        typer.Option(help="Held-out folds whose training folds are split for it, as in 1,2; default the first alone."),
    ] = None,
    seeds: Seeds = 1,
    assignments: Set = None,
    options: WorkOptions,
    ray: SearchOptions,
    json_output: Json = False,
) -> None:
    """Search for a better recipe by inner validation, with Ray Tune; the held-out folds are never used.

    Each point is trained on a part of the training folds and judged on the rest (training.inner_fraction). The best is
    written as best.yaml. --on local does without Ray and runs one point after the other.
    """
    from earsight.recipe import load_recipe
    from earsight.tuning.search import check_search, search
    from earsight.tuning.space import make_points

    base = load_recipe(recipe, overrides=assignments or (), say=say)
    points = make_points(base, grid=grid or (), random=random or (), samples=samples, seed=draw_seed)
    check_search(asha=asha, on=ray.on)
    dataset, trials = steps.open_trials(data, options, folds=folds, seeds=seeds, run=folder)
    if not folds:
        trials = [trial for trial in trials if trial.fold == dataset.fold_numbers[0]]
    epochs = counted(base.training.epochs, "epoch")
    say(f"{counted(len(points), 'point')} x {counted(len(trials), 'trial')} of {epochs}")
    with steps.place(options, ray) as on:
        candidates = _candidates(points, dataset, trials, folder, store=options, device=on.device)
        where = partial(search, candidates, out=folder, device=on.device, cluster=on.cluster)
        with bar("search", "steps") as shown:
            where(asha=asha, metric=metric, progress=shown, say=say)
        machine = on.machine
    _publish(candidates, dataset, trials, folder, metric=metric, data=data, machine=machine, as_json=json_output)


def _candidates(
    points: list[Point],
    dataset: Dataset,
    trials: list[Trial],
    folder: Path,
    *,
    store: StoreOptions,
    device: torch.device,
) -> list[Candidate]:
    """Each point with its spectrograms, which most points share; all points are checked before any starts."""
    from earsight.execution.schedule import check_start
    from earsight.features.augment import pitch_steps
    from earsight.training.preparation import Prepared, resolved
    from earsight.tuning.search import candidate

    recipes = [resolved(dataset, point.recipe, run=folder) for point in points]
    for recipe in recipes:
        check_start(dataset, recipe, trials, run=folder / "points" / recipe.digest)
    ready: dict[Any, Prepared] = {}
    made = []
    for point, recipe in zip(points, recipes, strict=True):
        training = recipe.training
        sound = (recipe.features, training.windows, training.most_seconds)
        key = (*sound, pitch_steps(recipe.augment), recipe.augment.backend, training.source)
        if key not in ready:
            ready[key] = steps.prepare_spectrograms(dataset, recipe, store, device=device, run=folder)
        made.append(candidate(point, replace(ready[key], recipe=recipe), out=folder, trials=trials))
    return made


def _publish(
    candidates: list[Candidate],
    dataset: Dataset,
    trials: list[Trial],
    folder: Path,
    *,
    metric: str,
    data: Path,
    machine: dict[str, Any],
    as_json: bool,
) -> None:
    """Write the table, the figure, the numbers and the best recipe, and print them."""
    from earsight.files import replace_text, sealed
    from earsight.reports.searches import search_figure, search_notes, search_rows
    from earsight.tuning.result import search_result

    found = search_result(
        [(one.point.values, [unit.folder for unit in one.units]) for one in candidates], metric=metric
    )
    result = {
        "command": shlex.join(["earsight", *sys.argv[1:]]),
        "dataset": {"name": dataset.name, "clips": len(dataset.clips), "digest": dataset.digest},
        "backbone": candidates[0].prepared.recipe.backbone.name,
        "folds": sorted({trial.fold for trial in trials}),
        "seeds": sorted({trial.seed for trial in trials}),
        **found,
        "recipe": str(folder / "best.yaml"),
        "machine": machine,
    }
    best = next(one for one in candidates if one.point.values == result["best"])
    replace_text(folder / "best.yaml", sealed(_best_recipe(best.point, result, data=data, folder=folder)))
    rows, notes = search_rows(result), search_notes(result)
    steps.publish_table(
        result, rows, notes, lambda path: search_figure(result, path=path), path=folder / "search", as_json=as_json
    )
    say(f"best recipe: {folder / 'best.yaml'}; figure: {folder / 'search.png'}; numbers: .json, .csv, .md beside it")


def _best_recipe(point: Point, result: dict[str, Any], *, data: Path, folder: Path) -> str:
    """The best recipe as YAML, under comments with its command, its inner accuracy and the machine."""
    first, machine = result["points"][0], result["machine"]
    low, high = (f"{100 * limit:.1f}" for limit in first["accuracy"]["ci95"])
    run = ["earsight", "crossval", str(data), "--recipe", str(folder / "best.yaml"), "--out", str(folder / "best")]
    lines = [
        shlex.join(run),
        f"The best of {counted(len(result['points']), 'point')}: {point.name}.",
        f"Inner accuracy {100 * first['accuracy']['mean']:.1f} % (95 % interval {low} to {high}), log loss "
        f"{first['log_loss']:.3f}, on {counted(result['clips'], 'clip')} of {result['dataset']['name']}",
        "that were set aside from the training folds; the held-out fold was not looked at. It was chosen for that",
        "figure, which flatters it therefore: the command above measures it.",
        f"Measured on {machine['device']}, {machine.get('cluster', 'this machine')}; torch {machine['torch']}; by",
        result["command"],
    ]
    return "".join(f"# {line}\n" for line in lines) + point.recipe.to_yaml()
