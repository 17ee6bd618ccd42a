"""Verbs that apply a model file to sounds: predict (rows of clips, of events or of windows) and evaluate."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earsight.commands import options
from earsight.commands.options import (
    Damaged,
    Data,
    DataOptions,
    DeviceOptions,
    First,
    Json,
    RayOptions,
    SkipBad,
    Sounds,
    verb,
)
from earsight.commands.steps import box_rules, cluster, computer, open_data, say_left_out, show
from earsight.console import bar, err, say, stopped
from earsight.errors import DataError, EarsightError, counted
from earsight.inference.formats import FORMATS, Kind

if TYPE_CHECKING:
    from earsight.data.annotations import Boxes
    from earsight.inference.classifier import Classifier
    from earsight.inference.events import EventRules
    from earsight.inference.journal import Output
    from earsight.inference.model import Model
    from earsight.inference.ray_inference import RayInference

CLIPS = 16
"""Clips classified at once, also in a resumed command, so that the same files give the same bits."""
MANY_CLIPS = 100
"""From this many files on, compiled kernels and networks save more time than they take to load."""
MANY_BYTES = 10_000_000
"""The same for recordings: together some two minutes of WAV, or ten of Ogg."""
_KINDS: dict[str, tuple[Kind, ...]] = {"events": ("events",), "windows": ("windows",), "both": ("events", "windows")}
_FOR_ALL = [name for name, form in FORMATS.items() if not form.times]
_OF_TIMES = [name for name, form in FORMATS.items() if form.times]
_WITH_EMPTY = ("text", "jsonl")
"""Formats that have a row for a recording without an event."""


@dataclass(frozen=True)
class Wanted:
    """What `predict` was asked."""

    model: Path
    sounds: list[str]
    form: str
    rows: str
    top: int
    hop_seconds: float | None
    rules: EventRules
    to: Path | None
    resume: bool
    first: bool = False
    damaged: bool = False
    lost: bool = True
    own_thresholds: bool = False
    reduced: bool = False

    @property
    def in_folder(self) -> bool:
        """Whether ``to`` is a folder: an existing one, or a name without ending."""
        return self.to is not None and (self.to.is_dir() or (not self.to.exists() and not self.to.suffix))


def form_of(name: str, *, json_output: bool, csv_output: bool, to: Path | None = None) -> str:
    """The format of the rows from the three options that name one, else from the ending of the file that they go to."""
    chosen = {
        form for form, is_chosen in (("jsonl", json_output), ("csv", csv_output), (name, name != "auto")) if is_chosen
    }
    if len(chosen) > 1:
        raise EarsightError("--json, --csv and --format name different forms: choose one")
    ending = to.suffix.lower() if to else ""
    wanted = next(iter(chosen), {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}.get(ending, "text"))
    if wanted not in FORMATS:
        raise EarsightError(f"--format {wanted}: expected one of {', '.join(FORMATS)}")
    return wanted


def check(wanted: Wanted) -> None:
    """Raise EarsightError if options contradict each other, before anything is loaded."""
    from earsight.inference.events import EventRules

    if wanted.rows not in _KINDS:
        raise EarsightError(f"--rows {wanted.rows}: expected one of {', '.join(_KINDS)}")
    if wanted.resume and wanted.to is None:
        raise EarsightError("--resume needs --out: rows on standard output cannot be gone on with")
    if wanted.first and wanted.hop_seconds is not None:
        raise EarsightError("--first and --hop name different windows: choose one")
    if wanted.damaged and wanted.hop_seconds is not None:
        raise EarsightError("--hop uses what is whole of each file, and says where it ends: leave --allow-damaged out")
    if wanted.hop_seconds is None:
        if wanted.form in _OF_TIMES or wanted.rows != "events" or wanted.rules != EventRules():
            names = ", ".join(_OF_TIMES)
            raise EarsightError(f"{names}, --rows and what makes events are for recordings: give --hop too")
        if wanted.in_folder:
            raise EarsightError(f"--out {wanted.to}: clips are rows of one file; name one, such as labels.csv")
    elif wanted.rows == "both" and not wanted.in_folder:
        raise EarsightError("--rows both makes two files for each recording: name a folder with --out, such as found/")


def run(wanted: Wanted, compute: DeviceOptions, *, on: str) -> tuple[int, str]:
    """Predict and write; how many files could not be read, or not to their end, and what was written where."""
    from earsight.execution.ray_cluster import check_place
    from earsight.inference.clips import find_sounds
    from earsight.inference.model import Model
    from earsight.inference.ray_inference import RayInference
    from earsight.inference.recordings import check_hop

    check_place(on)
    if wanted.reduced and on != "local":
        raise EarsightError("--precision bfloat16 is for sounds that are classified here: leave --on out")
    if wanted.hop_seconds is not None:
        check_hop(wanted.hop_seconds, sample_rate_hz=1_000_000)
    paths: Iterable[str] = find_sounds(wanted.sounds, stdin=sys.stdin, say=lambda note: say(f"earsight: {note}"))
    paths = paths if "-" in wanted.sounds else list(paths)
    total = len(paths) if isinstance(paths, list) else None
    several = wanted.hop_seconds is not None and total != 1 and not wanted.in_folder
    if FORMATS[wanted.form].one_recording and several:
        raise EarsightError(
            f"--format {wanted.form} does not name the recording, and there may be several: "
            "name a folder with --out, such as found/"
        )
    wanted = _rules_of_model(_as_begun(wanted))
    output = _output(wanted)
    if output.whole and not output.checked:
        _check_count(wanted, total)
        return 0, f"{wanted.to} has no journal; it was left as it is, and whether it is whole is not known"
    if output.whole:
        _check_sounds(output, iter(paths), "recordings" if wanted.hop_seconds else "sounds")
        return 0, f"{wanted.to} is whole; nothing to do"
    # On a cluster nothing is computed here: the model is loaded for what its card says.
    model = Model.load(wanted.model, device=computer("cpu" if on != "local" else compute.device, compute.threads))
    many = wanted.hop_seconds is None and total is not None and total >= MANY_CLIPS
    if on == "local":
        if wanted.reduced:
            model.use_compiled_network(reduced=True)
        if many or (wanted.hop_seconds is not None and _much(paths)):
            model.use_kernels()
    with cluster(compute, RayOptions(on), unit="batch") as where:
        remote = None if where is None else RayInference(where, wanted.model, kernels=many)
        predict = _clips if wanted.hop_seconds is None else _recordings
        found = predict(wanted, model, paths, total, output, remote)
    say_left_out(model)
    return found


def _check_sounds(output: Output, names: Iterator[str], what: str) -> None:
    """Raise EarsightError where a finished output holds rows of other sounds, or of fewer, than are asked for."""
    from earsight.inference.journal import SoundsDone

    if output.place:
        SoundsDone().skip(names, output.place, where=output.name, what=what)
        more = sum(1 for _ in names)
        if more:
            raise EarsightError(
                f"{output.name}: is whole, with rows of {output.place['done']} {what}, and {more} more are given now; "
                "give those alone another --out, or begin anew in another --out"
            )


def _check_count(wanted: Wanted, total: int | None) -> None:
    """Raise EarsightError where an output without a journal has fewer rows of clips than files were asked for."""
    if wanted.to is None or wanted.hop_seconds is not None or total is None:
        return
    with wanted.to.open("rb") as file:  # names in csv may hold line breaks: there are no more rows than lines
        rows = sum(1 for _ in file) - (wanted.form == "csv")
    if rows < total:
        raise EarsightError(
            f"{wanted.to}: has {counted(rows, 'row')} for {counted(total, 'file')}, and no journal to go on from; "
            "remove it and begin anew"
        )


def _much(paths: Iterable[str]) -> bool:
    """Whether recordings are so long that compiled code pays; of what standard input names that is not known."""
    files = filter(Path.is_file, map(Path, paths)) if isinstance(paths, list) else ()
    return sum(file.stat().st_size for file in files) >= MANY_BYTES


def _as_begun(wanted: Wanted) -> Wanted:
    """A resumed output of clips goes on as it was begun: with first windows, without the column ``left_out``."""
    from earsight.inference.journal import settings_of

    begun = settings_of(wanted.to) if wanted.resume and wanted.to and wanted.hop_seconds is None else None
    wanted = wanted if begun is None else replace(wanted, lost="left_out" in begun)
    if begun is None or wanted.first or "whole" in begun:
        return wanted
    say(f"earsight: {wanted.to}: was begun with the first window of each file alone, and goes on so")
    return replace(wanted, first=True)


def _rules_of_model(wanted: Wanted) -> Wanted:
    """With the model file's thresholds of its classes, unless one was given for all, and its class of background."""
    from earsight.calibration.apply import own_thresholds
    from earsight.models.modelfile import load_card

    if wanted.hop_seconds is None:
        return wanted
    card = load_card(wanted.model)
    of_class = own_thresholds(card) if wanted.own_thresholds else {}
    return replace(wanted, rules=replace(wanted.rules, of_class=of_class, never=card.background or ""))


def _output(wanted: Wanted) -> Output:
    from earsight.inference.journal import FileOutput, StreamOutput

    if wanted.to is None:
        return StreamOutput(sys.stdout)
    if wanted.to.exists() and not wanted.to.is_file() and not wanted.to.is_dir():
        return StreamOutput(wanted.to.open("w", errors="surrogateescape"))  # a device or a pipe
    settings = {
        "model": hashlib.sha256(wanted.model.read_bytes()).hexdigest() if wanted.model.is_file() else "",
        "hop": wanted.hop_seconds,
        "format": wanted.form,
        "rows": wanted.rows,
        "top": wanted.top,
        **{name: value for name, value in asdict(wanted.rules).items() if value or name not in ("of_class", "never")},
    }
    if wanted.hop_seconds is None and not wanted.first:
        settings["whole"] = True  # outputs that were begun before there was a choice hold first windows
    if (wanted.hop_seconds is None or wanted.rows != "events") and wanted.form == "csv" and wanted.lost:
        settings["left_out"] = True
    if wanted.damaged:
        settings["damaged"] = True
    if wanted.reduced:
        settings["precision"] = "bfloat16"
    return FileOutput(wanted.to, folder=wanted.in_folder, settings=settings, resume=wanted.resume)


@contextmanager
def _progress(wanted: Wanted, unit: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A bar, unless rows are shown on the same terminal."""
    if wanted.to is None and err.is_terminal and sys.stdout.isatty():
        yield lambda done, total, note: None
        return
    with bar("predicting", unit) as shown:
        yield shown


def _clips(
    wanted: Wanted, model: Model, paths: Iterable[str], total: int | None, output: Output, remote: RayInference | None
) -> tuple[int, str]:
    from earsight.inference.clips import long_note, predict_clips
    from earsight.inference.journal import SoundsDone

    start = output.place or {"done": 0, "failed": 0}
    failed, sounds, names = int(start["failed"]), SoundsDone(), iter(paths)
    sounds.skip(names, start, where=output.name, what="sounds")
    writer = FORMATS[wanted.form].writer("clips", wanted.top, bool(model.card.calibration), first=wanted.first)
    writer.damaged, writer.classes = wanted.damaged, model.classes if model.card.several else ()
    writer.lost = wanted.lost
    long = uncalibrated = damaged = 0
    output.commit(start, now=True)
    if output.open(""):
        output.write("", writer.header())
    with _progress(wanted, "sounds") as shown:
        how: dict[str, Any] = {"first": wanted.first, "damaged": wanted.damaged, "remote": remote}
        for found in predict_clips(model, names, batch_size=CLIPS, **how):
            output.write("", writer.prediction(found))
            sounds.add(found.path)
            failed += bool(found.error)
            long, uncalibrated = long + (found.windows > 1), uncalibrated + (found.calibrated is False)
            damaged += found.read_seconds is not None
            if sounds.done % CLIPS == 0:
                output.commit({**sounds.position, "failed": failed})
            if wanted.to is not None:
                shown(sounds.done, total, "")
    output.end({**sounds.position, "failed": failed})
    if damaged:
        say(f"earsight: {counted(damaged, 'file')} damaged or cut: classified by what is whole, as the rows say")
    if long:
        say(f"earsight: {long_note(long, model.clip_seconds, calibrated=not uncalibrated)}")
    return failed, f"{counted(sounds.done, 'row')}, one for each file, written to {wanted.to} as {wanted.form}"


def _recordings(
    wanted: Wanted, model: Model, paths: Iterable[str], total: int | None, output: Output, remote: RayInference | None
) -> tuple[int, str]:
    from earsight.inference.formats import nothing_words
    from earsight.inference.journal import INDEX
    from earsight.inference.transcribe import Finished, TranscriptOptions, transcribe

    several = total != 1 and not wanted.in_folder
    options = TranscriptOptions(
        wanted.hop_seconds or 0.0, wanted.rules, _KINDS[wanted.rows], wanted.form, wanted.top, several_files=several
    )

    empty = 0
    nearest: Finished | None = None

    def finished(one: Finished) -> None:
        nonlocal empty, nearest
        if one.reason and wanted.form in _OF_TIMES:  # these formats have no row for errors
            say(f"earsight: {one.path}: {one.reason}")
        if "events" in options.kinds and one.transcript.windows and not one.transcript.events:
            empty += 1
            nearest = one if nearest is None or one.transcript.highest > nearest.transcript.highest else nearest

    with _progress(wanted, "s" if total == 1 else "recordings") as shown:

        def progress(seconds: float, promised: float, done: int, speed: str) -> None:
            if total == 1:
                shown(round(seconds), round(promised) or None, speed)
            else:
                shown(done, total, speed)

        name_of, start = _name_of(wanted.sounds) if wanted.in_folder else None, output.place
        how: dict[str, Any] = {"start": start, "name_of": name_of, "remote": remote}
        counts = transcribe(model, paths, options, output, progress=progress, finished=finished, **how)
    if nearest is not None and (wanted.to is not None or wanted.form not in _WITH_EMPTY):
        where = f"{nearest.path}: " if empty == 1 else f"{empty} recordings have none; nearest is {nearest.path}: "
        say(f"earsight: {where}{nothing_words(nearest.transcript.best, nearest.transcript.threshold)}")
    events = counted(counts.events, "event")
    what = {"events": events, "windows": "windows", "both": f"{events}, and windows,"}[wanted.rows]
    each = f", files for each; {INDEX} there lists them" if wanted.in_folder else ""
    recordings = counted(counts.recordings, "recording")
    return counts.failed, f"{what} of {recordings} written to {wanted.to} as {wanted.form}{each}"


def _name_of(sounds: list[str]) -> Callable[[str], str]:
    """A recording's name in the output folder: its path below the only input folder, else its whole path."""
    root = Path(sounds[0]) if len(sounds) == 1 and sounds[0] != "-" and Path(sounds[0]).is_dir() else None
    flat = {Path(name).name for name in sounds}
    by_name = len(flat) == len(sounds) and "-" not in sounds and not any(Path(name).is_dir() for name in sounds)

    def name(path: str) -> str:
        whole = Path(path)
        if root is not None:
            return whole.relative_to(root).as_posix()
        if by_name:
            return whole.name
        return "/".join("_up" if part == ".." else part for part in whole.parts if part != whole.anchor)

    return name


FormName = Annotated[
    str,
    typer.Option(
        "--format",
        help=f"auto (by the ending of --out, else text), {', '.join(_FOR_ALL)}; "
        f"with --hop also {' or '.join(_OF_TIMES)}.",
        autocompletion=options.one_of(lambda: FORMATS),
    ),
]
Rows = Annotated[
    str,
    typer.Option(
        help="With --hop: events, windows (the raw timeline), or both (in a folder).",
        autocompletion=options.one_of(lambda: _KINDS),
    ),
]
Place = Annotated[
    str,
    typer.Option(
        "--on",
        help="Where sounds are classified: local; ray, the cluster of $RAY_ADDRESS or of this machine, else one that "
        "is started here; or ray://HOST:PORT. They are read here in any case.",
        autocompletion=options.one_of(lambda: ("local", "ray")),
    ),
]
Target = Annotated[
    Path | None,
    typer.Option("--out", help="File for the rows; or a folder (its name ends in /), with files for each recording."),
]


@verb
def predict(
    model: options.Model,
    sounds: Sounds,
    *,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 1,
    form: FormName = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="As --format jsonl.")] = False,
    csv_output: Annotated[bool, typer.Option("--csv", help="As --format csv.")] = False,
    hop: Annotated[
        float | None, typer.Option(help="Recordings of any length: seconds from one window to the next.")
    ] = None,
    first: First = False,
    damaged: Damaged = False,
    rows: Rows = "events",
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability at which an event begins; default the model's own of each class, else 0.5."),
    ] = None,
    release: Annotated[
        float | None, typer.Option(help="Probability below which it ends; default 0.7 x threshold.")
    ] = None,
    min_duration: Annotated[float, typer.Option(help="Leave out events shorter than this many seconds.")] = 0.0,
    gap: Annotated[
        float | None, typer.Option(help="Join events of a class at most this many seconds apart; default one hop.")
    ] = None,
    precision: options.Precision = "float32",
    to: Target = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out where it was stopped.")] = False,
    compute: DeviceOptions,
    on: Place = "local",
) -> None:
    """Predict the class of each sound; with --hop, of long recordings, as rows of events or windows.

    A file longer than the model's window by more than a tenth is classified whole, through windows side by side,
    whose probabilities are averaged.

    Exit code 1: some file could not be read to its end; its row says why.
    """
    from earsight.inference.events import THRESHOLD, EventRules

    wanted = Wanted(
        model=model,
        sounds=sounds,
        form=form_of(form, json_output=json_output, csv_output=csv_output, to=to),
        rows=rows,
        top=top,
        hop_seconds=hop,
        first=first,
        damaged=damaged,
        rules=EventRules(THRESHOLD if threshold is None else threshold, release, min_duration, gap),
        own_thresholds=threshold is None,
        reduced=precision == "bfloat16",
        to=to,
        resume=resume,
    )
    check(wanted)
    try:
        failed, written = run(wanted, compute, on=on)
    except KeyboardInterrupt as error:  # unlike with the verbs that train, the same command alone does not go on
        raise stopped(f"with --resume the same command goes on with {to}" if to else "rows are whole", error) from error
    if failed:
        say(f"earsight: {failed} of the files could not be read, or not to their end; their rows say why")
    if to is not None:
        say(f"earsight: {written}")
    if failed:
        raise typer.Exit(1)


@verb
def evaluate(
    model: options.Model,
    data: Data,
    *,
    fold: Annotated[int | None, typer.Option(help="Only this fold; default the one held out in training.")] = None,
    first: First = False,
    damaged: Damaged = False,
    form: DataOptions,
    skip_bad: SkipBad = False,
    events: Annotated[
        bool, typer.Option("--events", help="With --boxes: score the events that are found in whole recordings.")
    ] = False,
    tolerance: Annotated[float | None, typer.Option(help="Seconds by which onsets of events may differ.")] = None,
    compute: DeviceOptions,
    json_output: Json = False,
) -> None:
    """Measure a model file on labelled clips, from their audio files; with --events, on annotated recordings."""
    from earsight.inference.classifier import load_classifier
    from earsight.reports.tables import print_evaluation, print_event_scores

    how: dict[str, Any] = {"fold": fold, "first": first, "damaged": damaged, "events": events, "tolerance": tolerance}
    load = partial(load_classifier, model, device=computer(compute.device, compute.threads))
    result = evaluated(load, data, form=form, skip_bad=skip_bad, **how)
    show(result, print_event_scores if events else print_evaluation, as_json=json_output)


def evaluated(
    load: Callable[[], Classifier],
    data: Path,
    *,
    fold: int | None,
    first: bool,
    damaged: bool,
    form: DataOptions,
    skip_bad: bool,
    events: bool,
    tolerance: float | None,
) -> dict[str, Any]:
    """What `earsight evaluate` prints, as `earsight.inference.scoring` returns it."""
    from earsight.data.datasets import TooFewError
    from earsight.inference.scoring import evaluate as score

    if not events and tolerance is not None:
        raise DataError(f"--tolerance {tolerance:g}: is for the onsets of events, and needs --events")
    if events and form.boxes is None:
        raise DataError("--events: needs what was annotated; name the table of that by --boxes")
    classifier = load()
    if events and form.boxes is not None:
        if first or damaged:
            raise DataError(f"--events finds them in all windows: leave --{'first' if first else 'allow-damaged'} out")
        return _events_scored(classifier, data, form, fold=fold, tolerance=tolerance, skip_bad=skip_bad)
    cards = classifier.card.members or (classifier.card,)
    drawn = {str(card.trained_on.get("digest")) for card in cards}
    how: dict[str, Any] = {"skip_missing": skip_bad, "testing": True, "several": True, "known": classifier.classes}
    try:
        dataset = open_data(data, form, splits=form.splits, kept=lambda: drawn, **how)
    except TooFewError:  # for the folds, which only a model of cross-validation needs
        dataset = open_data(data, form, least=1, **how)
    with bar("predicting", "clips") as shown:
        result = score(classifier, dataset, fold=fold, first=first, skip_bad=skip_bad, damaged=damaged, progress=shown)
    say_left_out(classifier)
    return result


def _events_scored(
    classifier: Classifier, data: Path, form: DataOptions, *, fold: int | None, tolerance: float | None, skip_bad: bool
) -> dict[str, Any]:
    """The scores of the events found in recordings, against their boxes; boxes of background are no events."""
    from earsight.data.annotations import read_boxes
    from earsight.data.datasets import is_background
    from earsight.evaluation.event_scores import TOLERANCE, Span, stretches
    from earsight.inference.scoring import evaluate_events

    words = {"label_column": form.label_column, "annotator": form.annotator}
    read = read_boxes(form.boxes or data, data, **words, skip_bad=skip_bad)
    read = read.with_silent() if form.complete else read
    for note in read.notes:
        say(f"  note: {note}")
    if read.others:
        what = f"{counted(len(read.others), 'recording')} without a box"
        say(f"  note: {what} left out (--complete: they hold nothing, and what is found in them is false)")
    chosen, about = _tested(classifier, read, form, fold=fold)
    boxes = [box for box in read.boxes if box.path in chosen and not is_background(box.label)]
    spans = [Span(box.path, box.begin, box.end, box.label) for box in boxes]
    unsaid = [box.disputed or (form.skip_rare and box.label not in classifier.classes) for box in boxes]
    if any(unsaid):
        say(f"  note: boxes that are disputed or of labels left out: {sum(unsaid)}; what is found there is not counted")
    hop = form.hop or min(1.0, classifier.clip_seconds / 4)
    with bar("finding events", "recordings") as shown:
        found = evaluate_events(
            *(classifier, read.root),
            stretches(span for span, out in zip(spans, unsaid, strict=True) if not out),
            {path: seconds for path, seconds in read.seconds.items() if path in chosen},
            hop_seconds=hop,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            open_to=[span for span, out in zip(spans, unsaid, strict=True) if out],
            progress=shown,
        )
    return found | about


def _tested(model: Classifier, read: Boxes, form: DataOptions, *, fold: int | None) -> tuple[set[str], dict[str, Any]]:
    """The recordings that test a model, as windows of them do, and what is known of them; see `recordings_that_test`.

    The windows that trained it may have had another hop than those in which events are looked for, and background.
    """
    from earsight.data.boxes import open_recordings
    from earsight.data.datasets import TooFewError
    from earsight.inference.scoring import recordings_that_test, trained_rows

    for hop, complete in dict.fromkeys(product((form.hop, None), (form.complete, not form.complete))):
        rules = box_rules(replace(form, hop=hop, complete=complete))
        how: dict[str, Any] = {"rules": rules, "testing": True, "known": model.classes}
        try:
            windows = open_recordings(read.root, read, folds=form.splits, **how)
        except TooFewError:
            windows = open_recordings(read.root, read, folds=None, **how)
        if trained_rows(model, windows)[0] is not None:
            break
    return recordings_that_test(model, windows, read.seconds, fold=fold)
