"""Many recordings in one go: rows as they come, in memory that grows neither with their number nor with their length.

Comes in: a classifier, names of recordings, and how they are to be written down. Goes out: rows in an `Output`. A
recording that cannot be read becomes a row with its error, one that is cut or damaged has it behind its other rows;
none stops the rest.

In a folder every recording has files of its own, ``NAME.events.csv`` or the like, and ``recordings.csv`` has a row
for each.

One recording written down: its rows, as its windows come.

Comes in: windows of one recording. Goes out: rows of its timeline, its events, or both, as they are ready.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from earsight.errors import EarsightError
from earsight.inference.events import Event, EventRules, EventTracker
from earsight.inference.formats import SUFFIXES, Form, Table, What
from earsight.inference.journal import Output
from earsight.inference.recordings import Batch, Recording, Window, hear
from earsight.parallel import in_order

if TYPE_CHECKING:
    from earsight.inference.classifier import Classifier
    from earsight.inference.ray_inference import Fleet

Rows = list[tuple[What, str]]


@dataclass(frozen=True)
class Listening:
    """How recordings become rows.

    Parameters
    ----------
    hop_seconds : float
    rules : EventRules
    whats : tuple of str
        ``windows``, ``events`` or both.
    form : str
    top : int
        How many classes a window's row shows.
    """

    hop_seconds: float = 1.0
    rules: EventRules = field(default_factory=EventRules)
    whats: tuple[What, ...] = ("events",)
    form: Form = "text"
    top: int = 1


class Transcript:
    """The rows of one recording, fed with its windows.

    Parameters
    ----------
    classifier : Classifier
    path : str
    listening : Listening
    state : dict, optional
        What `state` gave, to go on from there.
    """

    def __init__(
        self, classifier: Classifier, path: str, listening: Listening, *, state: dict[str, Any] | None = None
    ) -> None:
        self.path = path
        state = state or {"numbers": {}, "tracker": None, "seconds": 0.0, "windows": 0, "events": 0, "high_hz": 0.0}
        calibrated = bool(classifier.card.calibration)
        self.tables = {
            what: Table(listening.form, what, listening.top, calibrated, state["numbers"].get(what, 0))
            for what in listening.whats
        }
        self.seconds, self.windows, self.events = float(state["seconds"]), int(state["windows"]), int(state["events"])
        self._rate_hz, self._high_hz = classifier.sample_rate_hz, float(state["high_hz"])
        self._tracker = EventTracker(
            listening.rules,
            hop_seconds=listening.hop_seconds,
            window_seconds=classifier.samples / classifier.sample_rate_hz,
            state=state["tracker"],
        )

    def state(self) -> dict[str, Any]:
        """What has been counted and is not written yet, as JSON values."""
        numbers = {what: table.number for what, table in self.tables.items()}
        counts = {"seconds": self.seconds, "windows": self.windows, "events": self.events, "high_hz": self._high_hz}
        return {"numbers": numbers, "tracker": self._tracker.state(), **counts}

    def take(self, windows: list[Window], *, rate_hz: int) -> Rows:
        """Rows that are ready once these windows were heard, of a recording with this rate."""
        rows: Rows = []
        self._high_hz = min(rate_hz, self._rate_hz) / 2
        for window in windows:
            self.windows, self.seconds = self.windows + 1, max(self.seconds, window.end_seconds)
            if "windows" in self.tables:
                span = window.begin_seconds, window.end_seconds
                rows.append(("windows", self.tables["windows"].prediction(window.found, span, high_hz=self._high_hz)))
            rows += self._events(self._tracker.add(window))
        return rows

    def finish(self, reason: str) -> Rows:
        """The last rows; ``reason`` says why the recording could not be read, or not to its end."""
        rows = self._events(self._tracker.close())
        if reason:
            rows += [(what, table.problem(self.path, reason)) for what, table in self.tables.items()]
        return rows

    def _events(self, events: Iterable[Event]) -> Rows:
        rows: Rows = []
        for event in events:
            self.events += 1
            if "events" in self.tables:
                rows.append(("events", self.tables["events"].event(self.path, event, high_hz=self._high_hz)))
        return rows


def trouble(recording: Recording, heard_seconds: float) -> str:
    """Why a recording could not be read, and how far it could be; empty where it was read to its end."""
    if recording.failure is None:
        return ""
    reason = recording.failure.reason
    return f"heard up to {heard_seconds:.2f} s; {reason}" if heard_seconds else reason


INDEX = "recordings.csv"


class _Item(NamedTuple):
    """A batch of a recording, or with none the recording's end."""

    number: int
    recording: Recording
    place: int
    batch: Batch | None


@dataclass
class _Start:
    """Where to go on: behind so many recordings, and in the next behind so many batches."""

    done: int = 0
    names: str = ""
    failed: int = 0
    path: str = ""
    file: tuple[int, int] = (0, 0)
    batch: int = 0
    state: dict[str, Any] | None = None


def transcribe(
    classifier: Classifier,
    names: Iterable[str],
    listening: Listening,
    output: Output,
    *,
    start: dict[str, Any] | None = None,
    name_of: Callable[[str], str] | None = None,
    progress: Callable[[float, float, int, str], None] = lambda *_: None,
    report: Callable[[str, str], None] = lambda *_: None,
    fleet: Fleet | None = None,
) -> int:
    """Hear recordings and write their rows.

    Parameters
    ----------
    classifier : Classifier
    names : iterable of str
        Read as far as is needed.
    listening : Listening
    output : Output
    start : dict, optional
        The output's place, to go on from there.
    name_of : callable, optional
        The name in a folder of a recording's files, without their ending; None where all rows go to one file.
    progress : callable
        Called with (seconds heard of this recording, seconds it promises, recordings done, speed).
    report : callable
        Called with (path, reason) for every recording that could not be read to its end.
    fleet : Fleet, optional
        A cluster that hears what is decoded here.

    Returns
    -------
    int
        How many could not.

    Raises
    ------
    EarsightError
        If the output cannot be written, or ``names`` or the recording to go on with are not what they were.
    """
    begin = _Start(**start) if start else _Start()
    desk = _Desk(classifier, listening, output, name_of=name_of, start=begin)
    clock, heard_before = time.monotonic(), 0.0
    feed = _feed(classifier, desk.skip(iter(names)), listening, begin)
    for item, windows in _spread(classifier, feed, fleet):
        transcript = desk.at(item)
        before = transcript.seconds
        if item.batch is None:
            reason = desk.finish(item.recording)
            if reason:
                report(item.recording.path, reason)
        else:
            desk.take(item, windows)
        heard_before += transcript.seconds - before
        speed = f"{heard_before / max(time.monotonic() - clock, 1e-9):.0f} x real time"
        progress(transcript.seconds, item.recording.promised_seconds, desk.place.done, speed)
    output.end()
    return desk.place.failed


def _feed(classifier: Classifier, paths: Iterator[str], listening: Listening, start: _Start) -> Iterator[_Item]:
    for number, path in enumerate(paths, start=start.done):
        recording = Recording(classifier, path, hop_seconds=listening.hop_seconds)
        place = start.batch if number == start.done else 0
        for batch in recording.batches(first=place):
            yield _Item(number, recording, place, batch)
            place += 1
        yield _Item(number, recording, place, None)


def _spread(classifier: Classifier, feed: Iterator[_Item], fleet: Fleet | None) -> Iterator[tuple[_Item, list[Window]]]:
    """Each item with its windows, in order, heard in threads here or on a cluster."""
    if fleet is None:
        yield from in_order(lambda item: (item, _heard(classifier, item)), feed, ahead=3)
        return
    jobs = ((item, None if item.batch is None else (item.recording.path, item.batch)) for item in feed)
    for item, windows in fleet.map(_heard_there, jobs):
        yield item, windows or []


def _heard(classifier: Classifier, item: _Item) -> list[Window]:
    return [] if item.batch is None else hear(classifier, item.recording.path, item.batch)


def _heard_there(classifier: Classifier, job: tuple[str, Batch]) -> list[Window]:
    return hear(classifier, *job)


class _Desk:
    """Where rows are put down, one recording after the other, and where to go on is noted."""

    def __init__(
        self,
        classifier: Classifier,
        listening: Listening,
        output: Output,
        *,
        name_of: Callable[[str], str] | None,
        start: _Start,
    ) -> None:
        self.place = replace(start)
        self._classifier, self._listening, self._output, self._name_of = classifier, listening, output, name_of
        self._names = hashlib.sha256()
        self._transcript: Transcript | None = None
        output.commit(vars(start), now=True)
        if name_of is None:
            self._open("", Table(listening.form, listening.whats[0], listening.top, bool(classifier.card.calibration)))
        elif output.open(INDEX):
            output.write(INDEX, "path,seconds,windows,events,error\n")

    def skip(self, names: Iterator[str]) -> Iterator[str]:
        """The names behind those that are done, which must be the same as they were."""
        for _ in range(self.place.done):
            self._add_name(next(names, ""))
        if self.place.done and self._names.hexdigest() != self.place.names:
            raise EarsightError(
                f"the first {self.place.done} recordings are others than those that are done; "
                "give the same names in the same order, or another --out"
            )
        for number, name in enumerate(names):
            if not number and self.place.batch and (name, _file_of(name)) != (self.place.path, tuple(self.place.file)):
                raise EarsightError(
                    f"{self.place.path}: was begun, and has changed since or is not the next; "
                    "begin anew in another --out"
                )
            yield name

    def at(self, item: _Item) -> Transcript:
        """The transcript of an item's recording, its files open."""
        if self._transcript is None:
            path = item.recording.path
            self._transcript = Transcript(self._classifier, path, self._listening, state=self.place.state)
            if self._name_of is not None:
                for what, table in self._transcript.tables.items():
                    self._open(self._file(path, what), table)
            self.place.path, self.place.file = path, _file_of(path)
        return self._transcript

    def take(self, item: _Item, windows: list[Window]) -> None:
        """Write what a batch of windows made ready."""
        transcript = self.at(item)
        self._write(transcript.path, transcript.take(windows, rate_hz=item.recording.rate_hz))
        self.place.batch, self.place.state = item.place + 1, transcript.state()
        self._output.commit(vars(self.place))

    def finish(self, recording: Recording) -> str:
        """Write a recording's last rows; why it could not be read to its end."""
        transcript = self._transcript or Transcript(self._classifier, recording.path, self._listening)
        reason = trouble(recording, transcript.seconds)
        self._write(recording.path, transcript.finish(reason))
        if self._name_of is not None:
            line = io.StringIO(newline="")
            counts = [f"{transcript.seconds:.3f}", transcript.windows, transcript.events]
            csv.writer(line, lineterminator="\n").writerow([recording.path, *counts, reason])
            self._output.write(INDEX, line.getvalue())
            for what in transcript.tables:
                self._output.close(self._file(recording.path, what))
        self._transcript = None
        self._add_name(recording.path)
        done, failed = self.place.done + 1, self.place.failed + bool(reason)
        self.place = _Start(done=done, names=self._names.hexdigest(), failed=failed)
        self._output.commit(vars(self.place))
        return reason

    def _add_name(self, name: str) -> None:
        self._names.update(os.fsencode(name) + b"\0")

    def _open(self, name: str, table: Table) -> None:
        if self._output.open(name):
            self._output.write(name, table.header())

    def _write(self, path: str, rows: Rows) -> None:
        for what in dict.fromkeys(what for what, _ in rows):
            text = "".join(line for kind, line in rows if kind == what)
            self._output.write(self._file(path, what), text)

    def _file(self, path: str, what: What) -> str:
        return "" if self._name_of is None else f"{self._name_of(path)}.{what}{SUFFIXES[self._listening.form]}"


def _file_of(path: str) -> tuple[int, int]:
    """Size and time of a file, zeros where it cannot be reached: another file has others."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns
