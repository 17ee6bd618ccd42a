"""Transcription of recordings: rows of their windows or events, written one by one, in constant memory.

Comes in: a model, names of recordings, and `TranscriptOptions`. Goes out: rows in an `Output`, which can be resumed. A
recording that cannot be read becomes a row with its error; a truncated or damaged one has it after its other rows. In
a folder every recording has its own files, such as ``NAME.events.csv``, and ``recordings.csv`` has a row for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from earsight.data.audio import info
from earsight.errors import AudioError, EarsightError, counted
from earsight.files import say_damage
from earsight.inference.events import EventRules, EventTracker
from earsight.inference.formats import FORMATS, Kind, Writer, csv_line
from earsight.inference.journal import INDEX, Output, SoundsDone, identity
from earsight.inference.model import NOT_FINITE, Model
from earsight.inference.predictions import Event, Window
from earsight.inference.ray_inference import RayInference
from earsight.inference.recordings import Batch, Recording, classify
from earsight.parallel import in_order

Rows = list[tuple[Kind, str]]


@dataclass(frozen=True)
class TranscriptOptions:
    """How recordings become rows."""

    hop_seconds: float = 1.0
    rules: EventRules = field(default_factory=EventRules)
    kinds: tuple[Kind, ...] = ("events",)  # windows, events or both
    form: str = "text"  # a name in `earsight.inference.formats.FORMATS`
    top: int = 1  # how many classes a window's row shows
    several_files: bool = False  # whether the rows of several recordings go to one file

    def writer(self, kind: Kind, model: Model) -> Writer:
        """A writer of rows of this kind."""
        calibrated = bool(model.card.calibration)
        writer = FORMATS[self.form].writer(kind, self.top, calibrated, several_files=self.several_files, lost=True)
        writer.classes = model.classes if model.card.several else ()
        return writer


class Transcript:
    """Turns one recording's windows into rows; ``state``, from `state`, resumes.

    ``before``: seconds of the recordings, and rows, that stand before it in the same file.
    """

    def __init__(
        self,
        model: Model,
        path: str,
        options: TranscriptOptions,
        *,
        state: dict[str, Any] | None = None,
        before: tuple[float, int] = (0.0, 0),
    ) -> None:
        self.path = path
        state = state or {"numbers": {}, "tracker": None, "seconds": 0.0, "windows": 0, "events": 0, "high_hz": 0.0}
        self.writers = {kind: options.writer(kind, model) for kind in options.kinds}
        for kind, writer in self.writers.items():
            writer.before_seconds, number = before
            writer.number, writer.high_hz = state["numbers"].get(kind, number), float(state["high_hz"])
            writer.low_hz = model.card.recipe.features.fmin_hz
        self.seconds, self.windows, self.events = float(state["seconds"]), int(state["windows"]), int(state["events"])
        self._without = int(state.get("without", 0))
        self._rules = options.rules
        self.best = Event(**state["best"]) if state.get("best") else None
        self._most_hz, self._high_hz = model.card.recipe.features.band_hz[1], float(state["high_hz"])
        hop, window = options.hop_seconds, model.clip_seconds
        self._tracker = EventTracker(options.rules, hop_seconds=hop, window_seconds=window, state=state["tracker"])

    def state(self) -> dict[str, Any]:
        """Counts and open events, as JSON values."""
        numbers = {kind: writer.number for kind, writer in self.writers.items()}
        counts = {"seconds": self.seconds, "windows": self.windows, "events": self.events, "high_hz": self._high_hz}
        best = {"best": asdict(self.best) if self.best else None}
        return {"numbers": numbers, "tracker": self._tracker.state(), "without": self._without, **best, **counts}

    def add(self, windows: list[Window], *, rate_hz: int) -> Rows:
        """Add the next windows of a recording at this rate; returns the finished rows."""
        rows: Rows = []
        self._high_hz = min(rate_hz / 2, self._most_hz)
        for writer in self.writers.values():
            writer.high_hz = self._high_hz
        for window in windows:
            self._without += bool(window.found.error)
            self.windows, self.seconds = self.windows + 1, max(self.seconds, window.end_seconds)
            if "windows" in self.writers:
                times = window.begin_seconds, window.end_seconds
                rows.append(("windows", self.writers["windows"].prediction(window.found, times)))
            rows += self._events(self._tracker.add(window))
            self._compare(window)
        return rows

    def _compare(self, window: Window) -> None:
        """Keep the window that speaks most for a class, as an event of its own."""
        found = window.found
        no_class = found.unknown or "silent" in found.left_out
        pairs = [] if no_class else zip(found.classes, found.probabilities, strict=True)
        label, score = next((pair for pair in pairs if pair[0] != self._rules.never), ("", 0.0))
        if label and (self.best is None or score > self.best.score):
            self.best = Event(label, window.begin_seconds, window.end_seconds, score, score, 1)

    @property
    def highest(self) -> float:
        """The score of `best`; 0 where there is none."""
        return self.best.score if self.best else 0.0

    @property
    def threshold(self) -> float:
        """The probability at which events of the class begin that `best` speaks for."""
        return self._rules.rises_at(self.best.label) if self.best else self._rules.threshold

    @property
    def problem(self) -> str:
        """Why windows have no prediction, if some have none."""
        return f"{counted(self._without, 'window')} without a prediction: {NOT_FINITE}" if self._without else ""

    def finish(self, reason: str) -> Rows:
        """The last rows; ``reason`` says why the recording could not be read, or not to its end."""
        rows = self._events(self._tracker.close())
        writer = self.writers.get("events")
        if writer and self.windows and not self.events and (self.best or not reason):
            rows.append(("events", writer.nothing(self.path, self.best, self.threshold)))
        if reason:
            rows += [(kind, writer.problem(self.path, reason)) for kind, writer in self.writers.items()]
        return rows

    def _events(self, events: Iterable[Event]) -> Rows:
        found = list(events)
        self.events += len(found)
        writer = self.writers.get("events")
        return [("events", writer.event(self.path, event)) for event in found] if writer else []


class _Item(NamedTuple):
    """A batch of a recording; None marks the recording's end."""

    recording: Recording
    place: int
    batch: Batch | None


@dataclass
class _Position:
    """Position in a journal: number of finished recordings, and of finished batches in the next one.

    ``before``: seconds and rows of the finished ones, where all rows go to one file.
    """

    done: int = 0
    names: str = ""
    files: str = ""
    failed: int = 0
    path: str = ""
    file: tuple[int, ...] = (0, 0)
    batch: int = 0
    state: dict[str, Any] | None = None
    before: tuple[float, int] = (0.0, 0)
    events: int = 0


class Finished(NamedTuple):
    """A recording whose rows are written; ``reason`` says why it could not be read to its end."""

    path: str
    transcript: Transcript
    reason: str


class Counts(NamedTuple):
    """What an output holds: recordings, their events, and how many of them could not be read to their end."""

    recordings: int
    events: int
    failed: int


def transcribe(
    model: Model,
    names: Iterable[str],
    options: TranscriptOptions,
    output: Output,
    *,
    start: dict[str, Any] | None = None,
    name_of: Callable[[str], str] | None = None,
    progress: Callable[[float, float, int, str], None] = lambda *_: None,
    finished: Callable[[Finished], None] = lambda _: None,
    remote: RayInference | None = None,
) -> Counts:
    """Classify the windows of recordings and write their rows.

    ``names`` are read as far as is needed; ``start`` is the output's place, to resume from; ``name_of`` gives the
    name in a folder of a recording's files, without their ending, and is None where all rows go to one file; ``remote``
    classifies what is decoded here. ``progress`` is called with (seconds done of this recording, its seconds by its
    header, recordings done, speed), ``finished`` with each recording whose rows are written.

    EarsightError if the output cannot be written, or ``names`` or the recording to resume have changed.
    """
    begin = _Position(**start) if start else _Position()
    files = _Files(model, options, output, name_of=name_of, start=begin)
    clock, seconds = time.monotonic(), 0.0
    items = _items(model, files.skip(iter(names)), options, begin)
    for item, windows in _classified(model, items, remote):
        transcript = files.transcript(item.recording)
        before = transcript.seconds
        if item.batch is None:
            finished(Finished(item.recording.path, transcript, files.finish(item.recording)))
        else:
            files.add(item, windows)
        seconds += transcript.seconds - before
        speed = f"{seconds / max(time.monotonic() - clock, 1e-9):.0f} x real time"
        progress(transcript.seconds, item.recording.promised_seconds, files.position.done, speed)
    output.end(vars(files.position))
    return Counts(files.position.done, files.position.events, files.position.failed)


def _items(model: Model, paths: Iterator[str], options: TranscriptOptions, start: _Position) -> Iterator[_Item]:
    first = start.batch
    for path in paths:
        recording = Recording(model, path, hop_seconds=options.hop_seconds)
        for place, batch in enumerate(recording.batches(first=first), start=first):
            yield _Item(recording, place, batch)
        yield _Item(recording, 0, None)
        first = 0


def _classified(
    model: Model, items: Iterator[_Item], remote: RayInference | None
) -> Iterator[tuple[_Item, list[Window]]]:
    """Each item with its windows, in order, classified in threads here or on a cluster."""
    if remote is None:
        yield from in_order(lambda item: (item, classify(model, item.batch) if item.batch else []), items, ahead=3)
        return
    for item, windows in remote.map(classify, ((item, item.batch) for item in items)):
        yield item, windows or []


class _Files:
    """The output files of the rows, one recording after the other, and the journal's position."""

    def __init__(
        self,
        model: Model,
        options: TranscriptOptions,
        output: Output,
        *,
        name_of: Callable[[str], str] | None,
        start: _Position,
    ) -> None:
        self.position = replace(start)
        self._model, self._options, self._output, self._name_of = model, options, output, name_of
        self._sounds = SoundsDone()
        self._transcript: Transcript | None = None
        output.commit(vars(start), now=True)
        if name_of is None:
            self._open("", options.writer(options.kinds[0], model).header())
        else:
            self._open(INDEX, "path,seconds,windows,events,error\n")

    def skip(self, names: Iterator[str]) -> Iterator[str]:
        """The names after the finished ones, which must not have changed."""
        position = self.position
        self._sounds.skip(names, vars(position), where=self._output.name, what="recordings")
        begun = (position.path, tuple(position.file)) if position.batch else None  # of earlier versions two numbers
        for number, name in enumerate(names):
            if not number and begun:
                now = identity(name)
                if (name, now[:2]) != (begun[0], begun[1][:2]):
                    raise EarsightError(
                        f"{begun[0]}: was begun, and has changed since or is not the next; begin anew in another --out"
                    )
                if begun[1][2:] not in ((), now[2:]):
                    say_damage(f"{name}: may have been changed since its rows were begun; to be sure, begin anew")
            yield name

    def transcript(self, recording: Recording) -> Transcript:
        """Open the current recording's files, and return its transcript."""
        if self._transcript is None:
            path = recording.path
            state, before = self.position.state, self.position.before
            self._transcript = Transcript(self._model, path, self._options, state=state, before=before)
            if self._name_of is not None:
                for kind, writer in self._transcript.writers.items():
                    self._open(self._file(path, kind), writer.header())
            self.position.path, self.position.file = path, identity(path)
        return self._transcript

    def add(self, item: _Item, windows: list[Window]) -> None:
        """Write the rows that a batch of windows finished."""
        transcript = self.transcript(item.recording)
        self._write(transcript.path, transcript.add(windows, rate_hz=item.recording.rate_hz))
        self.position.batch, self.position.state = item.place + 1, transcript.state()
        self._output.commit(vars(self.position))

    def finish(self, recording: Recording) -> str:
        """Write a recording's last rows; returns why it could not be read to its end, or an empty string."""
        transcript = self.transcript(recording)
        reason = recording.failure.reason if recording.failure else ""
        if reason and transcript.seconds:
            reason = f"heard up to {transcript.seconds:.2f} s; {reason}"
        reason = "; ".join(filter(None, (transcript.problem, reason)))
        self._write(recording.path, transcript.finish(reason))
        if self._name_of is not None:
            counts = [f"{transcript.seconds:.3f}", str(transcript.windows), str(transcript.events)]
            self._output.write(INDEX, csv_line([recording.path, *counts, reason]))
            for kind in transcript.writers:
                self._output.close(self._file(recording.path, kind))
        self._transcript = None
        self._sounds.add(recording.path)
        failed = self.position.failed + bool(reason)
        before = (0.0, 0)
        if self._options.several_files:
            length = _length(recording.path, read=transcript.seconds)
            before = self.position.before[0] + length, next(iter(transcript.writers.values())).number
        events = self.position.events + transcript.events
        self.position = _Position(**self._sounds.position, failed=failed, before=before, events=events)
        self._output.commit(vars(self.position))
        return reason

    def _open(self, name: str, header: str) -> None:
        if self._output.open(name):
            self._output.write(name, header)

    def _write(self, path: str, rows: Rows) -> None:
        for kind in dict.fromkeys(kind for kind, _ in rows):
            self._output.write(self._file(path, kind), "".join(line for other, line in rows if other == kind))

    def _file(self, path: str, kind: Kind) -> str:
        return "" if self._name_of is None else f"{self._name_of(path)}.{kind}{FORMATS[self._options.form].suffix}"


def _length(path: str, *, read: float) -> float:
    """Seconds of a recording, by its header, so that a resumed command counts as one that was left alone."""
    try:
        return info(path).seconds
    except AudioError:
        return read
