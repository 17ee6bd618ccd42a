"""Sound event detection: windows of a recording become events, by a threshold with hysteresis.

Comes in: `Window`s of one recording, in order. Goes out: `Event`s in the order of their begins, each when no later
window can change it or give one that begins before. Times are in seconds from the recording's start.

A window's prediction does not show where in it the sound is. An overlapping window therefore stands for the hop around
its middle (the first also for the time before, the last for the time after), windows that do not overlap for their full
length. Where windows come with levels (`earsight.inference.activity`), begins and ends are then those of what rises
above the recording's background there (`EventTracker._edges`); where nothing does, or sound goes on through the whole
of it, they stay. A window of steady noise in which nothing rises above the background belongs to no event, as soon as
ten seconds have shown the background; a silent or constant window speaks for no class.

Where classes exclude each other (their probabilities add up to 1), a window speaks for one: where the most probable
class reaches the threshold, an event of another that does not is over, and is not joined with a later one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from typing import Any

from earsight.arguments import check_fields
from earsight.errors import AudioError, EarsightError, ModelError
from earsight.inference.activity import FRAME_SECONDS, KEPT_SECONDS, Activity
from earsight.inference.predictions import Event, Frames, Window

THRESHOLD = 0.5
"""An event begins where a class is more probable than all others together."""
RELEASE_SHARE = 0.7
"""Default release, as a share of the threshold."""
MOST_WAITING = 1000
"""Events that may wait for one that began before them and goes on; then that one is cut, so that memory is bounded."""
_LATE = 0.25  # seconds by which noise may hide the begin of a sound, or its end, from the levels
_ROUNDING = 1e-6  # seconds by which equal times may differ


@dataclass(frozen=True)
class EventRules:
    """How windows become events; EarsightError if a number is out of its range.

    A class whose probability reaches ``threshold`` begins an event, which goes on while it is at least ``release``
    (default 0.7 times the threshold). Events of a class with at most ``gap_seconds`` between them are one (default one
    hop, or a window where that is shorter: a single window that missed the sound does not part it); events shorter than
    ``shortest_seconds`` are left out, after joining. ``of_class`` holds thresholds of single classes, as a model
    file has them; a release that is given is then at most the class's threshold. ``never`` is the class that is no
    event, as a model's background; its windows end other classes' events.
    """

    threshold: float = THRESHOLD
    release: float | None = None
    shortest_seconds: float = 0.0
    gap_seconds: float | None = None
    of_class: Mapping[str, float] = field(default_factory=dict)
    never: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.falls_below <= self.threshold:
            raise EarsightError(
                f"release is {self.falls_below:g}; expected a probability above 0, "
                f"up to the threshold {self.threshold:g}"
            )

    def rises_at(self, label: str) -> float:
        """The probability at which an event of a class begins."""
        return self.of_class.get(label, self.threshold)

    def falls_at(self, label: str) -> float:
        """The probability below which an event of a class ends."""
        rise = self.rises_at(label)
        return RELEASE_SHARE * rise if self.release is None else min(self.release, rise)

    @property
    def falls_below(self) -> float:
        """The probability below which an event ends."""
        return RELEASE_SHARE * self.threshold if self.release is None else self.release


@dataclass
class _Open:
    """An event that has not ended, or may still be joined with the next."""

    begin: float
    end: float
    score: float
    total: float
    windows: int
    going_on: bool
    first: float = 0.0  # where its first window begins, and its last
    last: float = 0.0
    noise: bool = False  # whether all its windows were steady noise
    onset: float | None = None  # once the levels around it are about to be forgotten

    def event(self, label: str) -> Event:
        return Event(label, self.begin, self.end, self.score, self.total / max(self.windows, 1), self.windows)


class EventTracker:
    """Turns one recording's windows into events, one window at a time; ``state``, from `state`, resumes.

    ``exclusive``: at most one class is there at a time, as softmax has it; predictions of several classes say so.
    """

    def __init__(
        self,
        rules: EventRules,
        *,
        hop_seconds: float,
        window_seconds: float,
        exclusive: bool = True,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._rules, self._exclusive = rules, exclusive
        gap = min(hop_seconds, window_seconds) if rules.gap_seconds is None else rules.gap_seconds
        self._gap, self._window = gap + _ROUNDING, window_seconds
        self._margin = max(0.0, (window_seconds - hop_seconds) / 2)
        self._reach = min(hop_seconds, window_seconds / 2)
        state = state or {"heard": {}, "first": True, "end": 0.0}
        # Journals of earlier versions have no first and last windows.
        opened = {label: {"first": one["begin"], "last": one["begin"]} | one for label, one in state["heard"].items()}
        self._open = {label: _Open(**fields) for label, fields in opened.items()}
        self._first, self._end = bool(state["first"]), float(state["end"])
        self._waiting = [Event(**fields) for fields in state.get("waiting", [])]
        self._activity = Activity(state.get("activity"))
        self._sharp, self._alone = bool(state.get("activity")), bool(state.get("alone", exclusive))

    def state(self) -> dict[str, Any]:
        """The open events, as JSON values for journals, which fix the keys' names."""
        events = {label: asdict(event) for label, event in self._open.items()}
        waiting = [asdict(event) for event in self._waiting]
        activity = self._activity.state() if self._sharp else None
        kept = {"waiting": waiting, "activity": activity, "alone": self._alone}
        return {"heard": events, "first": self._first, "end": self._end, **kept}

    def add(self, window: Window) -> list[Event]:
        """Add the next window; returns the events that no later window can change or precede."""
        begin = window.begin_seconds + (0.0 if self._first else self._margin)
        end = min(window.begin_seconds + self._window - self._margin, window.end_seconds)
        self._first, self._end = False, window.end_seconds
        found = window.found
        noise = window.frames is not None and self._is_noise(window, window.frames)
        # A window of no class belongs to no event.
        silent = found.unknown or "silent" in found.left_out or (noise and self._activity.known)
        shares = {} if silent else dict(zip(found.classes, found.probabilities, strict=True))
        self._alone = self._exclusive and not found.several
        speaks = self._alone and bool(shares) and shares[found.label] >= self._rules.rises_at(found.label)
        over = [label for label, event in self._open.items() if begin - event.end > self._gap]
        if speaks:
            over += [one for one in self._open if one not in over and shares.get(one, 0.0) < self._rules.rises_at(one)]
        self._finish(over)
        for label, share in shares.items():
            if label != self._rules.never and (not speaks or share >= self._rules.rises_at(label)):
                self._extend(label, share, (begin, end), at=window.begin_seconds, noise=noise)
        for label, event in self._open.items():
            event.going_on = event.going_on and shares.get(label, 0.0) >= self._rules.falls_at(label)
            if self._sharp and event.onset is None and window.begin_seconds - event.first > KEPT_SECONDS / 2:
                event.onset, _ = self._edges(event)
        return self._ready(window.begin_seconds if self._sharp else end)

    def close(self) -> list[Event]:
        """End the open events at the recording's end, and return them with those that waited for them."""
        for event in self._open.values():
            if event.going_on:
                event.end = max(event.end, self._end)
        self._finish(list(self._open))
        return self._ready(math.inf)

    def _is_noise(self, window: Window, frames: Frames) -> bool:
        """Take a window's levels; returns whether it is noise as the background is."""
        self._sharp = True
        self._activity.add(frames)
        span = window.begin_seconds, window.end_seconds
        return self._activity.noise(*span) and not self._activity.active(*span)

    def _extend(self, label: str, share: float, span: tuple[float, float], *, at: float, noise: bool) -> None:
        event, (begin, end) = self._open.get(label), span
        goes_on = event is not None and event.going_on and begin - event.end <= _ROUNDING
        if share < (self._rules.falls_at(label) if goes_on else self._rules.rises_at(label)):
            return
        if event is None:
            self._open[label] = _Open(begin, end, share, share, 1, going_on=True, first=at, last=at, noise=noise)
        else:
            event.end, event.going_on, event.last, event.noise = end, True, at, event.noise and noise
            event.score, event.total, event.windows = max(event.score, share), event.total + share, event.windows + 1

    def _finish(self, labels: list[str]) -> None:
        shortest = self._rules.shortest_seconds - _ROUNDING
        for label, raw in sorted(((one, self._open.pop(one)) for one in labels), key=lambda pair: pair[1].begin):
            event = raw.event(label)
            if not event.windows or (raw.noise and self._activity.known and not self._runs(raw)):
                continue
            if self._sharp:
                begin, end = self._edges(raw)
                event = replace(event, begin_seconds=begin, end_seconds=end)
            # What ended before its class was recognised, or began after that, is another sound's end or begin.
            if event.end_seconds - event.begin_seconds >= max(shortest, 0.0):
                self._settle(event)

    def _runs(self, event: _Open) -> list[tuple[float, float]]:
        """From when to when something is active where an event may lie."""
        return self._activity.active(
            max(0.0, event.first - self._reach), min(event.last + self._window + self._reach, self._end)
        )

    def _edges(self, event: _Open) -> tuple[float, float]:
        """Begin and end of an event: those of what is active.

        A sound that a window is the first to know is the last one that begins before that window's end. It is the first
        one that ends after the begin of the last window that knows it.
        """
        runs = self._runs(event)
        low, high = max(0.0, event.first - self._reach), event.first + self._window + _LATE
        far = min(event.last + self._window + self._reach, self._end)
        first = max((place for place, run in enumerate(runs) if run[0] < high), default=None)
        last = min((place for place, run in enumerate(runs) if run[1] > event.last - _LATE), default=None)
        if event.onset is None and first is not None and last is not None and first > last:
            middle = (event.begin + event.end) / 2
            first = last = min(
                (last, first), key=lambda place: max(runs[place][0] - middle, middle - runs[place][1], 0.0)
            )
        begin = event.begin if first is None or runs[first][0] <= low + FRAME_SECONDS else runs[first][0]
        end = event.end if last is None or runs[last][1] >= far - FRAME_SECONDS else runs[last][1]
        begin = begin if event.onset is None else event.onset
        return begin, end

    def _settle(self, event: Event) -> None:
        """Let an event wait, joined with those of its class in one sound; of two classes the likelier stays."""
        for other in list(self._waiting) if self._sharp else ():
            both = min(event.end_seconds, other.end_seconds) - max(event.begin_seconds, other.begin_seconds)
            shorter = min(one.end_seconds - one.begin_seconds for one in (event, other))
            if both > 0 and event.label == other.label:
                event = _joined(other, event)
            elif not self._alone or both <= shorter / 2 or both <= 0:
                continue
            elif event.mean * event.windows <= other.mean * other.windows:
                return
            self._waiting.remove(other)
        self._waiting.append(event)

    def _ready(self, next_begin: float) -> list[Event]:
        """The waiting events that begin before all open ones, and before ``next_begin``, where the next one may."""
        if len(self._waiting) > MOST_WAITING and self._open:
            label, long = min(self._open.items(), key=lambda item: item[1].begin)
            self._finish([label])
            rest = _Open(long.end, long.end, 0.0, 0.0, 0, long.going_on, long.last, long.last, onset=long.end)
            self._open[label] = rest
        begins = [event.first - self._reach if self._sharp else event.begin for event in self._open.values()]
        first = min([next_begin, *begins])
        self._waiting.sort(key=lambda event: (event.begin_seconds, event.end_seconds, event.label))

        def over(event: Event) -> bool:
            return event.begin_seconds < first and not (self._sharp and event.end_seconds > first)

        ready = list(takewhile(over, self._waiting))
        self._waiting = self._waiting[len(ready) :]
        return ready


def _joined(one: Event, other: Event) -> Event:
    """Two events of a class as one."""
    windows = one.windows + other.windows
    mean = (one.mean * one.windows + other.mean * other.windows) / windows
    begin, end = min(one.begin_seconds, other.begin_seconds), max(one.end_seconds, other.end_seconds)
    return Event(one.label, begin, end, max(one.score, other.score), mean, windows)


def events_of(
    windows: Iterable[Window], rules: EventRules, *, hop_seconds: float, window_seconds: float, exclusive: bool = True
) -> Iterator[Event]:
    """Events of a recording's windows, in order; if reading or a prediction fails, the error comes last."""
    tracker = EventTracker(rules, hop_seconds=hop_seconds, window_seconds=window_seconds, exclusive=exclusive)
    failure: EarsightError | None = None
    try:
        for window in windows:
            yield from tracker.add(window)
            if window.found.error:
                failure = ModelError(f"{window.found.path} at {window.begin_seconds:.2f} s: {window.found.error}")
    except AudioError as error:
        failure = error
    yield from tracker.close()
    if failure is not None:
        raise failure
