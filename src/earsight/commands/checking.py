"""The verb that checks a data set: its sounds, its folds and, by a run's held-out predictions, its labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earsight.commands import steps
from earsight.commands.options import Data, Json, LayoutOptions, RecipeOptions, Threads, verb
from earsight.console import bar, say
from earsight.errors import DataError, RunError, counted, remedy_of

if TYPE_CHECKING:
    from earsight.data.checks import Finding, Report
    from earsight.data.datasets import Dataset
    from earsight.evaluation.label_errors import Suspect


@verb
def check(
    data: Data,
    *,
    near: Annotated[
        bool, typer.Option("--near/--no-near", help="Search for near duplicates: other level, rate, codec or length.")
    ] = True,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="A run on this data set: its held-out predictions say which labels may be wrong."),
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option(
            help="Write the sources that the clips' names suggest, and sounds that are the same or nearly so as one "
            "source, as a csv to look at."
        ),
    ] = None,
    form: LayoutOptions,
    recipe: RecipeOptions,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Check a data set for unreadable, silent, clipped, duplicate or leaking clips, and for wrong labels."""
    from earsight.data.checks import check_dataset
    from earsight.recipe import load_recipe

    dataset = steps.open_data(data, form, skip_missing=True, least=1, several=True)
    chosen = load_recipe(recipe.recipe, overrides=recipe.assignments or (), say=say)
    # A run of other clips is refused before hours go into the sounds.
    suspects, about = (None, "") if run is None else _suspects(dataset, run)
    with bar("checking", "files") as shown:
        found = check_dataset(
            dataset, recipe=chosen, near=near, progress=shown, comparing=shown.then("near duplicates", "comparisons")
        )
    more: dict[str, Any] = {}
    lines: list[str] = []
    failed = ""
    if suspects is not None:
        found = replace(found, findings=(*found.findings, *map(_finding, suspects)))
        more = {"suspected_labels": [suspect._asdict() for suspect in suspects]}
        lines = [f"{counted(len(suspects), 'label')} suspected, {about}"]
    if guess := _guess(dataset, data, found, to=sources):
        lines.append(guess.pop("line"))
        failed = guess.pop("failed")
        more["sources"] = guess
    steps.show_lines(found.to_dict() | more, [*found.lines(), *lines], as_json=json_output)
    if sources is not None and not guess:  # only now: what was found must not be lost with it
        why = "they are known" if dataset.sources_known else "the clips' names suggest none"
        raise DataError(
            f"--sources {sources}: no sources to write, for {why}, and no sound is there twice; leave it out"
        )
    if failed:
        raise DataError(f"--sources {sources}: cannot be written {failed} or name another file")
    if found.errors:
        raise typer.Exit(2)


def _guess(dataset: Dataset, data: Path, found: Report, *, to: Path | None) -> dict[str, Any]:
    """What names and equal sounds say of the sources, written ``to`` a csv if asked; empty where that is nothing."""
    from earsight.data.sources import guess_sources, with_same_sounds, write_sources

    guess = guess_sources(dataset)
    groups, sounds = with_same_sounds(dataset, guess, found.same_sounds)
    if guess is None and not sounds:
        return {}
    where, failed = "--sources FILE writes them as a csv to look at and train on", ""
    if to is not None:
        bad = {name for one in found.findings if one.kind in ("unreadable", "missing") for name in one.clips}
        without = f" without {counted(len(bad), 'clip')} that cannot be read" if bad else ""
        try:
            write_sources(dataset, groups, to, without=bad)
            where = f"written to {to}{without}: look at it, mend it, and give it in place of {data}"
        except OSError as error:
            to, failed = None, f"({error.strerror or error}); {remedy_of(error)}"
    known = "sources are known" if dataset.sources_known else "sources are not known"
    count = len(set(groups))
    parts = [f"by {guess.rule}"] if guess else []
    parts += [f"with sounds that are there twice or nearly so ({sounds}) as one source each"] if sounds else []
    line = f"{known}; {' and '.join(parts)} the clips would be from {count}: {where}"
    rule = guess.rule if guess else None
    file = None if to is None else str(to)
    return {"rule": rule, "count": count, "joined": sounds, "file": file, "line": line, "failed": failed}


def _suspects(dataset: Dataset, run: Path) -> tuple[list[Suspect], str]:
    """The suspected labels, the surest first, and from what they are; `RunError` for a run of other clips."""
    from earsight.calibration.temperature import fit_temperature
    from earsight.evaluation.label_errors import suspected_labels
    from earsight.evaluation.summary import read_run

    trials = read_run(run)
    label_of = {clip.name: clip.label for clip in dataset.clips}
    for trial in trials:
        for clip, label in zip(trial.clips.tolist(), trial.labels.tolist(), strict=True):
            if label_of.get(clip) != trial.classes[label]:
                here = f"labelled {label_of[clip]} here" if clip in label_of else "not in this data set"
                raise RunError(
                    f"{run}: predicts {clip} as a clip of {trial.classes[label]}, which is {here}; name a run on "
                    "this data set as it is now, or the data set of that run"
                )
    held = {clip for trial in trials for clip in trial.clips.tolist()}
    seeds = len({trial.about["seed"] for trial in trials})
    about = f"from held-out predictions of {len(held)} of {counted(len(label_of), 'clip')} by {counted(seeds, 'seed')}"
    return suspected_labels(trials, temperature=fit_temperature), about + (
        "; more seeds make them surer (crossval --seeds 3)" if seeds < 3 else ""
    )


def _finding(suspect: Suspect) -> Finding:
    from earsight.data.checks import Finding

    text = f"labelled {suspect.label}, but held out it has {suspect.probability:.0%} for {suspect.likelier} "
    text += f"and {suspect.probability_of_label:.0%} for {suspect.label}: listen, and correct the label if it is wrong"
    return Finding("suspected_label", "warning", (suspect.clip,), text)
