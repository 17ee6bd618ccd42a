"""The verb that runs the paper's experiments: reproduce."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from earsight.commands.options import DeviceOptions, Jobs, Json, RayOptions, Set, StoreOptions, verb
from earsight.commands.steps import Place, place, prepare_spectrograms, train_all
from earsight.console import bar, err, out, print_json, say

if TYPE_CHECKING:
    from earsight.experiments.cells import Cell
    from earsight.experiments.paper_tables import View
    from earsight.experiments.plan import Job


@verb
def reproduce(
    what: Annotated[
        Literal["table1", "table2", "table3", "representations", "windows", "figures", "all"],
        typer.Argument(help="Which of the paper's tables and figures."),
    ],
    data: Annotated[
        list[Path] | None, typer.Argument(help="Folders of ESC-50 or ESC-10, UrbanSound8K, GTZAN; those you have.")
    ] = None,
    *,
    folder: Annotated[Path, typer.Option("--out", help="Where runs and report go; what is DONE there is kept.")] = Path(
        "reproduction"
    ),
    scale: Annotated[
        str, typer.Option(help="paper: its recipes as they are; small: on ESC-10, for two cores; or a .yaml file.")
    ] = "small",
    plan: Annotated[bool, typer.Option("--plan", help="Only print the estimated time.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="These cells, by name or pattern; repeatable.")
    ] = None,
    folds: Annotated[str | None, typer.Option(help="Which folds, as in 1,2; default the scale's.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds, from 0; default the scale's.")] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="BACKBONE=FILE: ImageNet weights from a local file; repeatable.")
    ] = None,
    assignments: Set = None,
    store: StoreOptions,
    compute: DeviceOptions,
    jobs: Jobs = 1,
    ray: RayOptions,
    json_output: Json = False,
) -> None:
    """Run the paper's experiments and compare the results with the paper's.

    Prints the cost first, runs unfinished trials, and writes report.md and report.html into --out: each cell with its
    95 % interval and the gap, and whether the paper's claims hold. Beside an empty cell is the command that fills it.
    """
    from earsight.experiments.cells import Asked, chosen, merged, section_cells, weight_files
    from earsight.experiments.collection import recognise
    from earsight.experiments.paper_tables import View
    from earsight.experiments.plan import check_jobs, make_jobs, without_weights
    from earsight.experiments.scale import load_scale

    size = load_scale(scale)
    sections = size.sections if what == "all" else (what,)
    asked = Asked(sections, folds, seeds, tuple(only or ()), tuple(assignments or ()), None, store.skip_bad)
    every = merged(cell for section in sections for cell in section_cells(size, section, asked))
    asked = replace(asked, weights=weight_files(weights or (), every))
    cells = chosen(merged(cell for section in sections for cell in section_cells(size, section, asked)), asked.only)
    found = recognise(data or [])
    for one in found.values():
        say(f"{one.path}: {one.dataset.describe()}")
    work = make_jobs(cells, found, asked, out=folder)
    left_out = without_weights(work, named=asked.only)
    work = [job for job in work if job.cell.name not in left_out]
    check_jobs(work)
    with place(compute, ray, jobs=jobs) as on:
        costs = _tell_cost(cells, work, left_out, on=on, cache=store.cache_folder)
        if plan:
            if json_output:
                print_json({"plan": costs})
            return
        _train(work, store=store, on=on)
    _publish(View(size, asked, found, folder, left_out), on=on, as_json=json_output)


def _train(work: list[Job], *, store: StoreOptions, on: Place) -> None:
    """Train unfinished trials: cell after cell here, on a cluster the trials of all cells side by side."""
    from earsight.execution.schedule import Group, run_groups

    pending = [job for job in work if job.pending]
    if on.cluster:
        groups = []
        for job in pending:
            ready = prepare_spectrograms(job.dataset, job.recipe, store, device=on.device, run=job.run)
            groups.append(Group(ready, job.trials, job.run, job.cell.name))
        with bar("training", "steps") as shown:
            run_groups(on.cluster, groups, progress=shown, say=say)
        return
    for job in pending:
        say(f"{job.cell.name} (cell {work.index(job) + 1} of {len(work)}):")
        train_all(job.dataset, job.recipe, job.trials, job.run, store=store, on=on, name=job.cell.name)


def _tell_cost(
    cells: list[Cell], work: list[Job], left_out: dict[str, str], *, on: Place, cache: Path | None
) -> list[dict[str, Any]]:
    """Print what each cell costs, and all of them together, on standard error."""
    from earsight.experiments.cost import job_costs
    from earsight.reports.reproduction import print_plan

    with bar("timing", "cells") as shown:
        costs = job_costs(work, device=on.device, cache=cache, progress=shown)
    print_plan(costs, not_run={cell.name: left_out.get(cell.name, "") for cell in cells}, console=err)
    return costs


def _publish(view: View, *, on: Place, as_json: bool) -> None:
    """Write the report and print the sections that were asked for."""
    from earsight.experiments.output import write_report
    from earsight.experiments.paper_figures import make_figures
    from earsight.experiments.paper_tables import make_section
    from earsight.reports.reproduction import print_section
    from earsight.training.device import describe_machine

    sections = [
        make_figures(view, device=on.device, bars=bar) if name == "figures" else make_section(view, name)
        for name in view.asked.sections
    ]
    files = write_report(sections, out=view.out, scale=view.scale, machine=describe_machine(on.device))
    if as_json:
        print_json({"sections": sections})
    else:
        for section in sections:
            print_section(section, console=out)
        out.print("\n".join(view.scale.notes), markup=False)
    say(f"report: {files['html']} (and .md, .json beside it)")
