"""Steps that several verbs share: open, resolve, prepare, run, report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from earsight.console import bar, out, print_json, say
from earsight.errors import counted

if TYPE_CHECKING:
    import torch

    from earsight.data.datasets import Dataset
    from earsight.execution.ray_cluster import Cluster
    from earsight.recipe import Recipe
    from earsight.training.preparation import Prepared
    from earsight.training.trial import Trial


def open_data(data: Path, *, layout: str, subset: str | None, splits: int = 5, drawn: bool = True) -> Dataset:
    """Open a data set and say aloud what was recognised."""
    from earsight.data.datasets import DRAWN_FOLDS
    from earsight.data.layouts import open_dataset

    dataset = open_dataset(data, layout=layout, subset=subset, folds=splits)
    say(dataset.describe(drawn=drawn))
    for note in dataset.notes:
        if drawn or not note.startswith(DRAWN_FOLDS):
            say(f"  note: {note}")
    return dataset


def load_recipe_for(dataset: Dataset, name: str, assignments: list[str] | None) -> Recipe:
    """The recipe with its overrides, resolved for the data set."""
    from earsight.recipe import load_recipe
    from earsight.training.preparation import resolved

    return resolved(dataset, load_recipe(name, overrides=assignments or (), say=say))


def prepare_spectrograms(
    dataset: Dataset, recipe: Recipe, *, cache: Path | None, skip_bad: bool, device: torch.device | None = None
) -> Prepared:
    """Compute what is missing of what training on the device reads, with a progress bar."""
    from earsight.training.preparation import prepare

    with bar("spectrograms") as shown:
        ready = prepare(dataset, recipe, cache=cache, skip_bad=skip_bad, progress=shown, device=device)
    if ready.skipped:
        say(f"  left out: {counted(len(ready.skipped), 'clip')} that cannot be read")
    return ready


def computer(name: str, threads: int | None, jobs: int = 1) -> torch.device:
    """The device to compute on, with its threads set; several jobs share the cores."""
    import os

    import torch

    from earsight.training.device import pick_device

    if threads is None and jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
    if threads:
        torch.set_num_threads(threads)
    return pick_device(name)


@contextmanager
def cluster(
    on: str,
    *,
    cpus: float | None = None,
    gpus: float | None = None,
    threads: int | None = None,
    device: str = "auto",
    jobs: int = 1,
    unit: str = "trial",
) -> Iterator[Cluster | None]:
    """The cluster that ``--on`` names, connected and told of; None for this machine."""
    from earsight.errors import RunError
    from earsight.execution.ray_cluster import check_place, connected

    check_place(on)
    if on == "local":
        if cpus is not None or gpus is not None:
            raise RunError("--cpus-per-trial and --gpus-per-trial are for --on ray; here, give --threads and --jobs")
        yield None
        return
    if jobs > 1:
        raise RunError(f"--jobs {jobs}: is for --on local; on Ray, --cpus-per-trial says how many trials fit a node")
    with connected(on, cpus=cpus, gpus=gpus, threads=threads, device=device, unit=unit) as found:
        say(found.description)
        yield found


def run(
    dataset: Dataset,
    recipe: Recipe,
    trials: list[Trial],
    folder: Path,
    device: torch.device,
    *,
    cache: Path | None,
    skip_bad: bool,
    as_json: bool,
    jobs: int = 1,
    cluster: Cluster | None = None,
) -> None:
    """Run the trials that are not DONE and print what came of them."""
    train_all(dataset, recipe, trials, folder, device, cache=cache, skip_bad=skip_bad, jobs=jobs, cluster=cluster)
    report(folder, device, as_json=as_json, cluster=cluster)


def train_all(
    dataset: Dataset,
    recipe: Recipe,
    trials: Sequence[Trial],
    folder: Path,
    device: torch.device,
    *,
    cache: Path | None,
    skip_bad: bool,
    jobs: int = 1,
    cluster: Cluster | None = None,
    name: str = "training",
) -> None:
    """Run the trials that are not DONE, under a bar of that name."""
    from earsight.execution.schedule import check_start, run_trials

    start = check_start(dataset, recipe, trials, run=folder)
    ready = prepare_spectrograms(dataset, recipe, cache=cache, skip_bad=skip_bad, device=device)
    with bar(name) as shown:
        run_trials(
            *(ready, trials),
            run=folder,
            device=device,
            progress=shown,
            say=say,
            jobs=jobs,
            cluster=cluster,
            start=start,
        )


def more_members(
    run: Path,
    dataset: Dataset,
    device: torch.device,
    *,
    fold: int | None,
    seeds: int,
    cache: Path | None,
    skip_bad: bool,
    jobs: int,
    cluster: Cluster | None,
) -> None:
    """Train what a run lacks of so many seeds, on its folds or one of them, by the recipe that it holds."""
    from earsight.errors import RunError
    from earsight.evaluation.summary import write_summary
    from earsight.training.device import describe_machine
    from earsight.training.trial import Trial

    if not (run / "recipe.yaml").is_file():
        raise RunError(f"{run}: no recipe.yaml, so no member can be added; name a folder that crossval wrote")
    folds = sorted({int(path.parent.name.removeprefix("fold-")) for path in run.glob("fold-*/seed-*")})
    trials = [Trial(one, seed) for seed in range(seeds) for one in folds if fold in (None, one)]
    if not trials:
        return  # the fold is none of the run's, which whoever combines its members says
    recipe = load_recipe_for(dataset, str(run / "recipe.yaml"), None)
    train_all(dataset, recipe, trials, run, device, cache=cache, skip_bad=skip_bad, jobs=jobs, cluster=cluster)
    write_summary(run, machine=describe_machine(device) | (cluster.machine if cluster else {}))
    calibrate_members(run)


def report(folder: Path, device: torch.device, *, as_json: bool, cluster: Cluster | None = None) -> None:
    """Write the run's summary and print it."""
    from earsight.evaluation.summary import write_summary
    from earsight.reports.tables import print_summary
    from earsight.training.device import describe_machine

    result = write_summary(folder, machine=describe_machine(device) | (cluster.machine if cluster else {}))
    if as_json:
        print_json(result)
    else:
        print_summary(result, console=out)


def calibrate_members(folder: Path) -> None:
    """Calibrate a run's model files with the defaults, and say so in a line or two.

    A run whose calibration somebody asked for otherwise keeps what was asked for.
    """
    from earsight.calibration.calibrate import calibrate_run, wanted_before
    from earsight.reports.calibration_report import calibration_line

    result = calibrate_run(folder, wanted_before(folder))
    say(calibration_line(result))
    for note in result["notes"]:
        say(f"  note: {note}")
