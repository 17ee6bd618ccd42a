"""Verbs about finished runs: calibrate, report, ensemble, distil and compare."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from earsight.commands.options import Folds, Jobs, Json, RayOptions, RunOptions, Seeds, Threads, WorkOptions, verb
from earsight.commands.steps import (
    calibrate_members,
    computer,
    kept_by,
    more_members,
    open_data,
    place,
    show,
    show_lines,
)
from earsight.console import bar, say
from earsight.errors import EarsightError


@verb
def calibrate(
    folder: Annotated[Path, typer.Argument(help="A run folder, of crossval, train or ensemble.")],
    score: Annotated[
        Literal["auto", "distance", "energy", "doubt"],
        typer.Option(help="OOD score that marks unknown sounds; auto takes the first of these that the run has."),
    ] = "auto",
    false_alarms: Annotated[
        float, typer.Option("--false-alarms", help="Share of known sounds that may be called unknown.")
    ] = 0.05,
    coverage: Annotated[float, typer.Option(help="How often a prediction set is to hold the true class.")] = 0.95,
    sets: Annotated[
        Literal["lac", "aps"], typer.Option(help="lac: the smallest sets; aps: larger ones for harder sounds.")
    ] = "lac",
    rule: Annotated[
        str,
        typer.Option(
            "--threshold-rule",
            help="How each class's threshold is chosen on held-out clips: best-f1, precision=0.9 or "
            "false-alarms-per-hour=1; auto: best-f1 for several labels a clip, none for one (it begins events).",
        ),
    ] = "auto",
    figure: Annotated[
        Path | None, typer.Option(help="Where the reliability diagram goes; default RUN/calibration.png.")
    ] = None,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Calibrate a run's model files: temperature, unknown sounds and prediction sets.

    From each fold's predictions of its held-out clips come a temperature for the probabilities, a threshold above which
    a sound is unknown, and one for prediction sets. A fold's model gets those of the other folds, the
    model at the top of the run those of all. crossval, train and ensemble do so by themselves, with the defaults.
    """
    import numpy as np

    from earsight.calibration.calibrate import calibrate_run, calibrated_trials, wanted_before
    from earsight.calibration.fit import Wanted
    from earsight.reports.calibration_report import calibration_figure, calibration_lines

    wanted = Wanted(score=score, false_alarms=false_alarms, coverage=coverage, method=sets, threshold_rule=rule)
    before, plain = asdict(wanted_before(folder)), asdict(Wanted())
    dropped = [name for name, value in asdict(wanted).items() if value == plain[name] != before[name]]
    for name in dropped:
        option = {"method": "sets"}.get(name, name.replace("_", "-"))
        say(f"note: the last calibration had --{option} {before[name]}, this one has {plain[name]}: give it again")
    with bar("calibrating", "model files") as shown:
        result = calibrate_run(folder, wanted, progress=shown)
    path = figure or folder / "calibration.png"
    calibrated, trials = calibrated_trials(folder, wanted)  # the reliability diagram is of all seeds' held-out clips
    panels = {name: np.concatenate([getattr(one, name) for one in calibrated]) for name in ("before", "after")}
    several = trials[0].targets is not None
    truth = np.concatenate([trial.marks if several else trial.labels for trial in trials])
    calibration_figure(panels, truth, path=path)
    result |= {"figure": str(path)}
    show_lines(result, [*calibration_lines(result), f"figure: {path}"], as_json=json_output)


@verb
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared.")],
    data: Annotated[
        Path | None, typer.Option(help="The data set, if it has been moved: players and spectrograms need its sounds.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--out", help="The page; default report.html in the first run's folder.")
    ] = None,
    mistakes: Annotated[int, typer.Option(min=0, help="At most so many of each run's worst mistakes.")] = 12,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Write one HTML file about runs: accuracy, classes, mistakes to hear, confidence, and how to reproduce them.

    It is self-contained and below 7 MB, so that it can be mailed. For several runs it says which differences are
    significant.
    """
    from earsight.reports.html import write_page
    from earsight.reports.report import make_report

    target = file or runs[0] / "report.html"
    with bar("report", "parts") as shown:
        made = make_report(runs, data=data, mistakes=mistakes, progress=shown)
    write_page(made.text, target)
    for note in made.notes:
        say(note)
    size = len(made.text.encode())
    result = {"file": str(target), "bytes": size, "notes": made.notes}
    show_lines(result, [f"{target}  {size / 1e6:.2f} MB"], as_json=json_output)


@verb
def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; every seed in them is a member.")],
    *,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where the ensemble goes; default RUN/ensemble of the first run.")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Only this fold's members; default all folds.")] = None,
    method: Annotated[
        str, typer.Option(metavar="[average|greedy]", help="How the model files combine the members.")
    ] = "average",
    data: Annotated[Path | None, typer.Option(help="The runs' data set, to train members.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="First train the members missing from this many seeds; needs --data.")
    ] = None,
    options: WorkOptions,
    jobs: Jobs = 1,
    ray: RayOptions,
    json_output: Json = False,
) -> None:
    """Average the members of runs, measure the gain, and write one model file.

    Members are the seeds of the runs. The table has the single network (mean and deviation over the members), the
    average of their probabilities, and a greedy choice of members made on the other folds; each with its interval, its
    gain and its time for a clip.
    """
    from earsight.ensembles.build import check_method, make_ensemble
    from earsight.ensembles.ensemble_run import check_place
    from earsight.reports.comparisons import print_ensemble
    from earsight.training.device import describe_machine

    check_method(method)
    target = folder or runs[0] / "ensemble"
    check_place(target)
    dataset = open_data(data, options, splits=options.splits, kept=kept_by(*runs)) if data else None
    if seeds is None and (ray.on != "local" or jobs > 1):
        raise EarsightError("--on and --jobs say where members are trained: give --seeds, how many, and --data")
    if seeds is None and dataset is not None:
        say("--data serves only to train members: without --seeds it is not used")
    if seeds is not None:
        if dataset is None:
            raise EarsightError(f"--seeds {seeds}: members are trained on the runs' data set; name it with --data")
        with place(options, ray, jobs=jobs) as on:
            for run in runs:
                more_members(run, dataset, fold=fold, seeds=seeds, store=options, on=on)
    device = computer(options.device, options.threads)
    how: dict[str, Any] = {"device": device, "machine": describe_machine(device)}
    how["finish"] = partial(calibrate_members, before=target)
    result = make_ensemble(runs, out=target, fold=fold, method=method, **how)
    show(result, print_ensemble, as_json=json_output)


@verb
def distil(
    run: Annotated[
        Path, typer.Argument(help="The teachers: a run folder, whose seeds teach together, or an ensemble.")
    ],
    *,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder of the students; default RUN-distilled.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The run's data set, if it has been moved.")] = None,
    folds: Folds = None,
    seeds: Seeds = 1,
    options: RunOptions,
    jobs: Jobs = 1,
    ray: RayOptions,
    json_output: Json = False,
) -> None:
    """Train one network that learns from several what they know together, at the cost of one (distillation).

    For each fold its teachers are the networks of RUN that held it out, so that none has seen the clips that test the
    student. They answer the very clips that it is trained on, as these are changed and mixed in each step. The table
    has the single teacher, all together and the student: accuracy, time for a clip, and size.
    """
    from dataclasses import replace

    from earsight.commands.steps import load_recipe_for, open_again, report, say_sources, train_all
    from earsight.ensembles.distilled import measure_distillation
    from earsight.execution.schedule import chosen_folds, publish_model
    from earsight.recipe import load_recipe
    from earsight.reports.comparisons import print_distillation
    from earsight.training.teachers import open_teaching
    from earsight.training.trial import Trial

    target = folder or run.parent / f"{run.absolute().name}-distilled"
    dataset = open_again(run, data, options, splits=options.splits)
    wanted = chosen_folds(folds, dataset.fold_numbers) if folds else []
    teaching = open_teaching(run, dataset, folds=wanted)
    numbers = wanted or sorted(teaching.files)
    held_out = "as for the teachers" if dataset.split or dataset.drawn_seed is not None else ""
    say_sources(dataset, numbers, data=dataset.root, held_out=held_out)
    weight = load_recipe(options.recipe).distillation.weight or 1.0
    options = replace(options, assignments=[f"distillation.weight={weight:g}", *(options.assignments or ())])
    recipe = load_recipe_for(dataset, options, run=target)
    trials = [Trial(fold, seed) for seed in range(seeds) for fold in numbers]
    with place(options, ray, jobs=jobs) as on:
        train_all(dataset, recipe, trials, target, store=options, on=on, teaching=teaching)
        report(target, on, as_json=None)
    calibrate_members(target)
    if len(trials) == 1:
        publish_model(target, trials[0])
    result = measure_distillation(run, target, device=on.device, machine=on.machine)
    show(result, print_distillation, as_json=json_output)


@verb
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two run folders; with --protocols one.")],
    protocols: Annotated[
        bool, typer.Option("--protocols", help="Compare last, inner and test on one run with training.watch=true.")
    ] = False,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Test whether two runs differ significantly, paired over clips, folds and seeds."""
    from earsight.evaluation.comparison import compare_runs
    from earsight.evaluation.protocols import compare_protocols
    from earsight.evaluation.summary import SOURCES_UNKNOWN, read_run
    from earsight.reports.comparisons import print_comparison, print_protocols

    if len(runs) != (1 if protocols else 2):
        wanted = "--protocols takes one run folder" if protocols else "compare takes two run folders"
        raise EarsightError(f"{wanted}, found {len(runs)}; see `earsight compare --help`")
    if protocols:
        show(compare_protocols(runs[0]), print_protocols, as_json=json_output)
        return
    first, second = (read_run(run, several=True) for run in runs)
    if all(trial.groups is None for trial in (*first, *second)) and any(trial.sources_unknown for trial in first):
        say(f"note: {runs[0]}: {SOURCES_UNKNOWN}")
    result = compare_runs(first, second, names=(str(runs[0]), str(runs[1])))
    show(result, print_comparison, as_json=json_output)
