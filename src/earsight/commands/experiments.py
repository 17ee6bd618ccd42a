"""Verbs about finished runs: ensemble and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from earsight.commands.options import (
    Cache,
    Cpus,
    Device,
    Gpus,
    Jobs,
    Json,
    Layout,
    On,
    SkipBad,
    Splits,
    Subset,
    Threads,
)
from earsight.commands.steps import calibrate, cluster, computer, more_members, open_data, prepare_pictures
from earsight.console import bar, out, print_json, verb
from earsight.errors import EarsightError


@verb
def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; every seed in them is a member.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where the ensemble goes; default RUN/ensemble of the first run.")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Only this fold's members; default all folds.")] = None,
    method: Annotated[
        Literal["average", "greedy", "soup", "greedy-soup"], typer.Option(help="Which of them the model files hold.")
    ] = "average",
    data: Annotated[Path | None, typer.Option(help="The runs' data set: for soups, and to train members.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="First train what the runs lack of this many seeds; needs --data.")
    ] = None,
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
    """Average the members of runs, tell whether that is worth it, and write one model file.

    Members are the seeds of the runs. The table has the single network (mean and deviation over the members), the
    average of their probabilities, a greedy choice of members made on the other folds, and with --data the average of
    their weights; each with its interval, its gain and its time for a clip.
    """
    from earsight.inference.ensembling import make_ensemble
    from earsight.reports.comparisons import print_ensemble
    from earsight.training.ensembles import check_place
    from earsight.training.machine import describe_machine

    target = folder or runs[0] / "ensemble"
    check_place(target)
    dataset = open_data(data, layout=layout, subset=subset, splits=splits) if data else None
    if seeds is None and (on != "local" or jobs > 1):
        raise EarsightError("--on and --jobs say where members are trained: give --seeds, how many, and --data")
    if seeds is not None:
        if dataset is None:
            raise EarsightError(f"--seeds {seeds}: members are trained on the runs' data set; name it with --data")
        with cluster(on, cpus=cpus, gpus=gpus, threads=threads, device=device, jobs=jobs) as where:
            trains = computer("cpu" if where else device, threads, jobs)
            for run in runs:
                more_members(
                    *(run, dataset, trains),
                    fold=fold,
                    seeds=seeds,
                    cache=cache,
                    skip_bad=skip_bad,
                    jobs=jobs,
                    cluster=where,
                )
    computes = computer(device, threads)
    with bar("soups") as shown:
        result = make_ensemble(
            runs,
            out=target,
            fold=fold,
            method=method,
            dataset=dataset,
            prepare=lambda found, recipe: prepare_pictures(found, recipe, cache=cache, skip_bad=skip_bad),
            device=computes,
            machine=describe_machine(computes),
            progress=shown,
        )
    calibrate(target)
    if json_output:
        print_json(result)
    else:
        print_ensemble(result, console=out)


@verb
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two run folders; with --protocols one.")],
    protocols: Annotated[
        bool, typer.Option("--protocols", help="What last, inner and test claim of one run with training.watch=true.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Tell whether two runs differ by more than noise, paired over clips, folds and seeds."""
    from earsight.evaluation.comparison import compare_runs
    from earsight.evaluation.protocols import compare_protocols
    from earsight.evaluation.summary import read_run
    from earsight.reports.comparisons import print_comparison, print_protocols

    if len(runs) != (1 if protocols else 2):
        wanted = "--protocols takes one run folder" if protocols else "compare takes two run folders"
        raise EarsightError(f"{wanted}, found {len(runs)}; see `earsight compare --help`")
    if protocols:
        result = compare_protocols(runs[0])
        shown = print_protocols
    else:
        result = compare_runs(read_run(runs[0]), read_run(runs[1]), names=(str(runs[0]), str(runs[1])))
        shown = print_comparison
    if json_output:
        print_json(result)
    else:
        shown(result, console=out)
