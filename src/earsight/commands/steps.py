"""Steps that several verbs share: open, resolve, prepare, train, report, calibrate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import compress, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earsight.commands.options import (
    BoxOptions,
    DataOptions,
    DeviceOptions,
    LayoutOptions,
    RayOptions,
    RecipeOptions,
    RunOptions,
    StoreOptions,
)
from earsight.console import bar, out, print_json, say
from earsight.errors import DataError, RunError, counted

if TYPE_CHECKING:
    import torch

    from earsight.data.boxes import BoxRules
    from earsight.data.datasets import Dataset
    from earsight.execution.ray_cluster import Cluster
    from earsight.inference.model import Model
    from earsight.recipe import Recipe
    from earsight.training.preparation import Prepared
    from earsight.training.teachers import Teaching
    from earsight.training.trial import Trial


@dataclass(frozen=True)
class Place:
    """Where trials run: on a device here, in one or several processes, or on a cluster."""

    device: torch.device
    cluster: Cluster | None = None
    jobs: int = 1

    @property
    def machine(self) -> dict[str, Any]:
        """The machine's description, for summaries."""
        from earsight.training.device import describe_machine

        return describe_machine(self.device) | (self.cluster.machine if self.cluster else {})


def open_data(
    data: Path,
    options: LayoutOptions,
    *,
    skip_missing: bool = False,
    least: int = 2,
    splits: int | None = None,
    testing: bool = False,
    several: bool = False,
    kept: Callable[[], Collection[str]] = frozenset,
    known: Collection[str] | None = None,
) -> Dataset:
    """Open a data set and print what was recognised; no folds are drawn but for ``splits``.

    Every class must have ``least`` sources, so that some of it can be held out. For ``kept`` and
    ``testing`` see `open_dataset`. ``several``: whether the verb can do with several labels a clip; others refuse them.
    ``known``: classes of a model, which ``--skip-rare`` leaves the boxes of.
    """
    import numpy as np

    from earsight.data.boxes import open_recordings
    from earsight.data.datasets import check_enough
    from earsight.data.layouts import open_dataset

    given = options  # a recipe says again what it says of labels
    if options.labels == "auto" and isinstance(options, RecipeOptions):
        options = replace(options, labels=options.chosen().training.labels)
    skip_missing = skip_missing or (isinstance(options, StoreOptions) and options.skip_bad)
    rules = box_rules(options)
    if options.boxes is not None:
        how: dict[str, Any] = {"label_column": options.label_column, "annotator": options.annotator, "known": known}
        how |= {"skip_bad": skip_missing, "testing": testing or least < 2}
        dataset = open_recordings(data, options.boxes, rules=rules, folds=splits, **how)
    else:
        how = {name: getattr(options, name) for name in ("layout", "subset", "root", "label_from", "labels")}
        how |= {"folds": splits, "kept": kept, "skip_missing": skip_missing, "testing": testing}
        dataset = open_dataset(data, **how)
    if dataset.several and not several:
        raise DataError(
            f"{data}: its clips have several labels each, which this verb cannot do with yet; train, crossval, "
            f"calibrate, evaluate, predict and compare can. Clips with one label alone can be listed in a csv"
        )
    if least > 1 and dataset.fold_numbers == (0,) and not dataset.parts:
        labels = dataset.strata if dataset.several else np.array([clip.label for clip in dataset.clips])
        check_enough(labels, dataset.groups, folds=least, where=str(data))
    dataset = replace(dataset, options=options_again(given, drawn=splits if dataset.folds_drawn else None))
    say(dataset.describe())
    for note in dataset.notes:
        say(f"  note: {note}")
    return dataset


def check_apart(data: Path, run: Path) -> None:
    """RunError where a run would be written among the clips that it learns from."""
    if data.exists() and run.exists() and data.samefile(run):
        raise RunError(f"{run}: is the data set's own folder; name another with --out")


def box_rules(options: LayoutOptions) -> BoxRules:
    """How windows are cut; DataError where options for boxes stand without them, or with those of other data sets."""
    from earsight.data.boxes import BoxRules

    plain, other = BoxOptions(), LayoutOptions()
    names = [field.name for field in fields(BoxOptions)]
    given = [name for name in names if name != "boxes" and getattr(options, name) != getattr(plain, name)]
    if options.boxes is None and given:
        raise DataError(f"--{given[0].replace('_', '-')}: is for recordings with boxes; name their table by --boxes")
    own = ("layout", "subset", "root", "label_from")
    wrong = [name for name in own if getattr(options, name) != getattr(other, name)]
    if options.boxes is not None and wrong:
        raise DataError(f"--{wrong[0].replace('_', '-')}: is not for recordings with boxes; leave it out, or --boxes")
    return BoxRules(
        window_seconds=options.window_seconds,
        hop_seconds=options.hop,
        share=options.box_share,
        complete=options.complete,
        most_windows=options.most_windows,
        labels=options.labels,
        skip_rare=options.skip_rare,
    )


def kept_by(*runs: Path) -> Callable[[], set[str]]:
    """What gives the splits that run folders have, by their data sets' digests: they keep them."""

    def kept() -> set[str]:
        from earsight.training.preparation import kept_splits

        return kept_splits(*runs)

    return kept


def options_again(options: LayoutOptions, *, drawn: int | None) -> tuple[str, ...]:
    """The options that open a data set as these did, with so many drawn folds."""
    out = [] if options.layout == "auto" else ["--layout", options.layout]
    out += [] if options.labels == "auto" else ["--labels", options.labels]
    for name, value in (("--subset", options.subset), ("--root", options.root), ("--label-from", options.label_from)):
        out += [] if value is None else [name, str(value)]
    plain = BoxOptions()
    for field in fields(BoxOptions):
        if (value := getattr(options, field.name)) != getattr(plain, field.name):
            name = f"--{field.name.replace('_', '-')}"
            out += [name] if value is True else [name, str(value)]
    return (*out, *(() if drawn is None else ("--splits", str(drawn))))


def open_again(run: Path, data: Path | None, options: LayoutOptions, *, splits: int) -> Dataset:
    """Open the data set of a run (of an ensemble, of its first member's run) in the split that its trials had.

    It is ``data``, else where the run says that it was; where ``options`` are none, by those that opened it then.
    RunError if it is not there, or is another one.
    """
    from earsight.ensembles.ensemble_run import runs_of
    from earsight.errors import EarsightError
    from earsight.evaluation.summary import read_run
    from earsight.files import read_state
    from earsight.training.preparation import hold_out

    about = read_run(run, several=True)[0].about
    known = about["dataset"]
    names = [field.name for field in fields(DataOptions)]
    if all(getattr(options, name) == getattr(DataOptions(), name) for name in names):
        given = options_from(known.get("options", ()))
        options, splits = replace(options, **{name: getattr(given, name) for name in names}), given.splits
    if data is None:
        places = [place / f"fold-{about['fold']}" for one in runs_of(run) for place in (one, run.parent / one.name)]
        found = (
            read_state(path, {}, remedy="") for place in places for path in sorted(place.glob("seed-*/trial.json"))
        )
        data = next((Path(one["root"]) for one in found if "root" in one), None)
    remedy = "name the data set that it was trained on with --data, and the options by which it was opened"
    if data is None or not data.exists():
        raise RunError(f"{run}: its data set is not where it was; {remedy}")
    held_out = known.get("held_out")
    try:
        dataset = open_data(data, options, splits=None if held_out else splits, kept=kept_by(run), several=True)
    except EarsightError as error:
        raise RunError(f"{run}: {error}; {remedy}") from error
    if held_out and held_out["kind"] == "drawn":
        dataset = hold_out(dataset, seed=held_out["seed"], kept=kept_by(run))
    if dataset.digest != known["digest"]:
        raise RunError(f"{data}: is not the data set of {run}, or not in its split; {remedy}")
    return dataset


def options_from(words: Sequence[str]) -> DataOptions:
    """The options that `options_again` gave."""
    from typing import get_type_hints

    from pydantic import TypeAdapter

    given = dict(pairwise([*words, ""]))
    kinds = get_type_hints(DataOptions)
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        if (word := f"--{name.replace('_', '-')}") in given:
            found[name] = kind is bool or TypeAdapter(kind).validate_python(given[word])
    return DataOptions(**found)


def say_sources(dataset: Dataset, folds: Sequence[int], *, data: Path, held_out: str = "") -> None:
    """Print what is held out, by which sources, and what is odd about classes; ``held_out`` says how, for one part."""
    from earsight.data.checks import label_texts
    from earsight.data.datasets import exploded
    from earsight.data.sources import HeldOutFolds, balance_line

    part = HeldOutFolds(dataset, folds)
    line = part.clips_line(how=held_out) if held_out else part.group_line()
    labels = [clip.label for clip in dataset.clips]
    labels = exploded(labels, labels)[0] if dataset.several else labels
    odd = label_texts(labels)
    odd[5:] = [f"and {len(odd) - 5} more such labels, which `earsight check` names"] if len(odd) > 6 else odd[5:]
    notes = (*odd, balance_line(labels, several=dataset.several), part.guess_line(data=data))
    for text in [line, *(f"note: {note}" for note in notes if note)]:
        if text:
            say(f"  {text}")


def open_trials(
    data: Path,
    options: DataOptions,
    *,
    folds: str | None,
    seeds: int,
    run: Path,
    several: bool = False,
    late: bool = False,
) -> tuple[Dataset, list[Trial]]:
    """A data set, and the trials of so many seeds on all its folds or the named ones; ``several`` as in `open_data`.

    ``late``: whether the caller says what is held out, once it is known which clips can be used.
    """
    from earsight.execution.schedule import chosen_folds
    from earsight.training.trial import Trial

    check_apart(data, run)
    dataset = open_data(data, options, splits=options.splits, kept=kept_by(run), several=several)
    numbers = chosen_folds(folds, dataset.fold_numbers)
    if not late:
        say_sources(dataset, numbers, data=data)
    return dataset, [Trial(fold, seed) for seed in range(seeds) for fold in numbers]


def load_recipe_for(dataset: Dataset, options: RecipeOptions, *, run: Path | None = None) -> Recipe:
    """The recipe with its overrides, resolved for the data set and what a run folder holds already."""
    from earsight.training.preparation import resolved

    return resolved(dataset, options.chosen(say), run=run)


def prepare_spectrograms(
    dataset: Dataset,
    recipe: Recipe,
    store: StoreOptions,
    *,
    device: torch.device | None = None,
    run: Path | None = None,
    teaching: Teaching | None = None,
) -> Prepared:
    """Print what of the clips is used, and compute what is missing of the spectrograms, or of what replaces them."""
    from earsight.data.checks import left_out
    from earsight.features.windows import sound_lines
    from earsight.training.preparation import prepare

    # With several labels no length is that of one class.
    labels = ["" if dataset.several else clip.label for clip in dataset.clips]
    for line in sound_lines(dataset.seconds, labels, recipe.features, recipe.training):
        say(f"  {line}")
    files = [(clip.name, dataset.file(row)) for row, clip in enumerate(dataset.clips)]
    first = recipe.training.windows == "first"
    seconds = float(recipe.features.clip_seconds) if first else recipe.training.most_seconds
    for line in left_out(files, recipe.features, seconds=seconds):
        say(f"  note: {line}")
    how: dict[str, Any] = {"skip_bad": store.skip_bad, "cache": store.cache_folder, "run": run, "teaching": teaching}
    with bar("spectrograms", "clips") as shown:
        ready = prepare(dataset, recipe, progress=shown, device=device, **how)
    if ready.skipped:
        out, total = len(ready.skipped), len(dataset.clips)
        say(f"  left out: {out} of {counted(total, 'clip')} that cannot be read; {total - out} are used")
    return ready


def say_left_out(model: Model) -> None:
    """Print once, for each kind, what of the sounds decoded so far did not reach the network."""
    from earsight.data.datasets import first
    from earsight.data.intake import loss_texts

    for names, text in loss_texts(model.left_out, model.card.recipe.features, what="sound").values():
        say(f"  note: {text} ({first(names)})")


def computer(name: str, threads: int | None, jobs: int = 1) -> torch.device:
    """The device to compute on, with its threads set; several jobs share the cores."""
    import os

    import torch

    from earsight.parallel import bound_threads
    from earsight.training.device import pick_device

    bound_threads(threads)
    if threads is None and jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
    if threads:
        torch.set_num_threads(threads)
    return pick_device(name)


@contextmanager
def place(compute: DeviceOptions, ray: RayOptions, *, jobs: int = 1) -> Iterator[Place]:
    """Where the options say that trials run, connected; beside a cluster this machine computes on its CPU."""
    with cluster(compute, ray, jobs=jobs) as found:
        yield Place(computer("cpu" if found else compute.device, compute.threads, jobs), found, jobs)


@contextmanager
def cluster(compute: DeviceOptions, ray: RayOptions, *, jobs: int = 1, unit: str = "trial") -> Iterator[Cluster | None]:
    """The Ray cluster that ``--on`` names, connected, with a line that describes it; None for this machine."""
    from earsight.execution.ray_cluster import check_place, connected

    check_place(ray.on)
    if ray.on == "local":
        if ray.cpus is not None or ray.gpus is not None:
            raise RunError("--cpus-per-trial and --gpus-per-trial are for --on ray; here, give --threads and --jobs")
        yield None
        return
    if jobs > 1:
        raise RunError(f"--jobs {jobs}: is for --on local; on Ray, --cpus-per-trial says how many trials fit a node")
    asked = {"cpus": ray.cpus, "gpus": ray.gpus, "threads": compute.threads, "device": compute.device}
    with connected(ray.on, **asked, unit=unit) as found:  # type: ignore[arg-type]
        say(found.description)
        yield found


def train_all(
    dataset: Dataset,
    recipe: Recipe,
    trials: Sequence[Trial],
    folder: Path,
    *,
    store: StoreOptions,
    on: Place,
    name: str = "training",
    tell: Callable[[Dataset], None] | None = None,
    tensorboard: bool = False,
    teaching: Teaching | None = None,
) -> None:
    """Run the trials that are not DONE, under a bar of that name, and write their epochs as they come.

    ``tell`` gets the clips that are used; ``teaching`` has what teaches the trials, if anything.
    """
    from earsight.execution.schedule import check_start, run_trials
    from earsight.reports.epochs import Follower, check_tensorboard

    if tensorboard:
        check_tensorboard()
    start = check_start(dataset, recipe, trials, run=folder, teaching=teaching)
    ready = prepare_spectrograms(dataset, recipe, store, device=on.device, run=folder, teaching=teaching)
    if tell is not None:
        tell(replace(dataset, clips=tuple(compress(dataset.clips, ready.usable))))
    for line in ready.leaks(trial.fold for trial in trials):
        say(f"  note: {line}")
    run = partial(run_trials, ready, trials, run=folder, device=on.device, jobs=on.jobs, cluster=on.cluster)
    follower = Follower(folder, tensorboard=tensorboard)
    with bar(name, "steps") as shown, closing(follower):

        def progress(done: int, total: int, note: str) -> None:
            shown(done, total, note)
            follower.look()

        run(progress=progress, say=say, start=start)
        for line in follower.look(now=True):
            say(f"  note: {line}")


def train_one(
    data: Path,
    folder: Path,
    *,
    fold: int | None,
    seed: int,
    options: RunOptions,
    as_json: bool | None,
    tensorboard: bool = False,
) -> Path:
    """Train one model, report it as `report` does, calibrate it, and put its file at the top of the run folder."""
    from earsight.execution.schedule import publish_model
    from earsight.training.preparation import hold_out
    from earsight.training.trial import Trial

    check_apart(data, folder)
    dataset = open_data(
        data, options, splits=None if fold is None else options.splits, kept=kept_by(folder), several=True
    )
    if fold is None:
        dataset, fold = hold_out(dataset, seed=seed, kept=kept_by(folder)), 1
        by = "by label and source" if dataset.sources_known else "by label alone (no sources are known)"
        how = "the data set's own test part" if dataset.split else f"{by}, seed {seed}"
    else:
        how = dataset.part_name(fold)
    tell = partial(say_sources, folds=[fold], data=data, held_out=how)
    if not options.skip_bad:
        tell(dataset)
    recipe, trial = load_recipe_for(dataset, options, run=folder), Trial(fold, seed)
    on = Place(computer(options.device, options.threads))
    late = tell if options.skip_bad else None
    train_all(dataset, recipe, [trial], folder, store=options, on=on, tell=late, tensorboard=tensorboard)
    report(folder, on, as_json=as_json)
    calibrate_members(folder)
    return publish_model(folder, trial)


def cross_validate(
    data: Path,
    folder: Path,
    *,
    folds: str | None,
    seeds: int,
    options: RunOptions,
    jobs: int,
    ray: RayOptions,
    as_json: bool | None,
    tensorboard: bool = False,
) -> None:
    """Hold out every fold in turn, report the run as `report` does, and calibrate its model files."""
    late = options.skip_bad
    dataset, trials = open_trials(data, options, folds=folds, seeds=seeds, run=folder, several=True, late=late)
    if dataset.split:
        raise DataError(
            f"{data}: brings its own test part, so that no folds can be held out in turn; use `earsight train`. To "
            "draw folds over all clips, take the split away: the column split of a table, or, where paths are "
            "train/dog/1.wav, --label-from '{part}/{label}/{name}'"
        )
    recipe = load_recipe_for(dataset, options, run=folder)
    tell = partial(say_sources, folds=sorted({trial.fold for trial in trials}), data=data) if late else None
    with place(options, ray, jobs=jobs) as on:
        train_all(dataset, recipe, trials, folder, store=options, on=on, tell=tell, tensorboard=tensorboard)
        report(folder, on, as_json=as_json)
    calibrate_members(folder)


def more_members(run: Path, dataset: Dataset, *, fold: int | None, seeds: int, store: StoreOptions, on: Place) -> None:
    """Train a run's missing trials of so many seeds, on its folds or one of them, by its own recipe."""
    from earsight.evaluation.summary import write_summary
    from earsight.files import seal_fits
    from earsight.training.trial import Trial

    path = run / "recipe.yaml"
    if not path.is_file():
        raise RunError(f"{run}: no recipe.yaml, so no member can be added; name a folder that crossval wrote")
    if not seal_fits(path.read_text(encoding="utf-8", errors="replace")):
        raise RunError(f"{path}: does not fit its digest, so it is damaged; give the run's crossval command again")
    folds = sorted({int(path.parent.name.removeprefix("fold-")) for path in run.glob("fold-*/seed-*")})
    trials = [Trial(one, seed) for seed in range(seeds) for one in folds if fold in (None, one)]
    if not trials:
        return  # the fold is none of the run's, as the ensemble's own check says
    recipe = load_recipe_for(dataset, RecipeOptions(str(path)), run=run)
    train_all(dataset, recipe, trials, run, store=store, on=on)
    write_summary(run, machine=on.machine)
    calibrate_members(run)


def report(folder: Path, on: Place, *, as_json: bool | None) -> None:
    """Write the run's summary and print it; not where ``as_json`` is None."""
    from earsight.evaluation.summary import SOURCES_UNKNOWN, read_run, write_summary
    from earsight.reports.tables import print_summary

    if any(trial.sources_unknown for trial in read_run(folder, several=True)):
        say(f"note: {folder}: {SOURCES_UNKNOWN}")
    summary = write_summary(folder, machine=on.machine)
    if as_json is not None:
        show(summary, print_summary, as_json=as_json)


def show(result: Any, print_it: Callable[..., None], *, as_json: bool) -> None:
    """Print a result as JSON, or by a function that takes it and the ``console``."""
    if as_json:
        print_json(result)
    else:
        print_it(result, console=out)


def show_lines(result: Any, lines: Sequence[str], *, as_json: bool) -> None:
    """Print a result as JSON, or as lines."""
    show(result, lambda _, console: console.print("\n".join(lines), markup=False), as_json=as_json)


def show_table(result: Any, rows: Sequence[Mapping[str, object]], notes: Iterable[str], *, as_json: bool) -> None:
    """Print a result as JSON, or as a table with sentences below."""
    from earsight.reports.tables import print_rows

    show(result, lambda _, console: print_rows(rows, console=console, notes=notes), as_json=as_json)


def publish_table(
    result: dict[str, Any],
    rows: list[dict[str, object]],
    notes: list[str],
    draw: Callable[[Path], None],
    *,
    path: Path,
    as_json: bool,
) -> None:
    """Write a result as ``path`` .json, its table as .csv and .md and its figure as .png and .svg; print the table."""
    from earsight.files import replace_text, write_state
    from earsight.reports.tables import csv_text, markdown

    path.parent.mkdir(parents=True, exist_ok=True)
    write_state(path.with_name(f"{path.name}.json"), result, indent=2)
    replace_text(path.with_name(f"{path.name}.csv"), csv_text(rows))
    replace_text(path.with_name(f"{path.name}.md"), markdown(rows) + "\n" + "".join(f"{note}\n" for note in notes))
    for suffix in (".png", ".svg"):
        draw(path.with_name(path.name + suffix))
    show_table(result, rows, notes, as_json=as_json)


def calibrate_members(folder: Path, *, before: Path | None = None) -> None:
    """Calibrate a run's model files as it, or the one in ``before``, last was, else by default; print a line or two."""
    from earsight.calibration.calibrate import calibrate_run, wanted_before
    from earsight.reports.calibration_report import calibration_line

    result = calibrate_run(folder, wanted_before(before or folder))
    say(calibration_line(result))
    for note in result["notes"]:
        say(f"  note: {note}")
