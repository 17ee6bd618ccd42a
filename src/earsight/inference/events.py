"""Sound event detection: windows of a recording become events, by a threshold with hysteresis.

Comes in: `Window`s of one recording, in order. Goes out: `Event`s in the order of their ends, each when no later window
can change it. Times are in seconds from the recording's start.

A window's prediction does not show where in it the sound is. An overlapping window therefore covers only the hop around
its middle (the first also the time before, the last the time after): the bounds of sounds longer than a window are
right within a hop, and shorter sounds get the length of a window. Windows that do not overlap cover their full length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from earsight.errors import AudioError, EarsightError, ModelError
from earsight.inference.predictions import Event, Window

THRESHOLD = 0.5
"""An event begins where a class is more probable than all others together."""
RELEASE_SHARE = 0.7
"""Default release, as a share of the threshold."""
_ROUNDING = 1e-6  # seconds by which equal times may differ


@dataclass(frozen=True)
class EventRules:
    """How windows become events; EarsightError if a number is out of its range.

    A class whose probability reaches ``threshold`` begins an event, which goes on while it is at least ``release``
    (default 0.7 times the threshold). Events of a class with at most ``gap_seconds`` between them are one (default one
    hop, or a window where that is shorter: a single window that missed the sound does not part it); events shorter than
    ``shortest_seconds`` are left out, after joining.
    """

    threshold: float = THRESHOLD
    release: float | None = None
    shortest_seconds: float = 0.0
    gap_seconds: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise EarsightError(f"threshold is {self.threshold:g}; expected a probability above 0, up to 1")
        if not 0 < self.falls_below <= self.threshold:
            raise EarsightError(
                f"release is {self.falls_below:g}; expected a probability above 0, "
                f"up to the threshold {self.threshold:g}"
            )
        for name, seconds in (("minimum duration", self.shortest_seconds), ("gap", self.gap_seconds or 0.0)):
            if not 0 <= seconds < math.inf:
                raise EarsightError(f"{name} is {seconds:g} s; expected 0 or more")

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

    def event(self, label: str) -> Event:
        return Event(label, self.begin, self.end, self.score, self.total / self.windows, self.windows)


class EventTracker:
    """Turns one recording's windows into events, one window at a time; ``state``, from `state`, resumes."""

    def __init__(
        self, rules: EventRules, *, hop_seconds: float, window_seconds: float, state: dict[str, Any] | None = None
    ) -> None:
        self._rules = rules
        gap = min(hop_seconds, window_seconds) if rules.gap_seconds is None else rules.gap_seconds
        self._gap, self._window = gap + _ROUNDING, window_seconds
        self._margin = max(0.0, (window_seconds - hop_seconds) / 2)
        state = state or {"heard": {}, "first": True, "end": 0.0}
        self._open = {label: _Open(**fields) for label, fields in state["heard"].items()}
        self._first, self._end = bool(state["first"]), float(state["end"])

    def state(self) -> dict[str, Any]:
        """The open events, as JSON values for journals, which fix the keys' names."""
        events = {label: asdict(event) for label, event in self._open.items()}
        return {"heard": events, "first": self._first, "end": self._end}

    def add(self, window: Window) -> list[Event]:
        """Add the next window; returns the events that have ended."""
        begin = window.begin_seconds + (0.0 if self._first else self._margin)
        end = min(window.begin_seconds + self._window - self._margin, window.end_seconds)
        self._first, self._end = False, window.end_seconds
        over = self._finished([label for label, event in self._open.items() if begin - event.end > self._gap])
        found = window.found
        # A window of no class belongs to no event.
        shares = {} if found.unknown else dict(zip(found.classes, found.probabilities, strict=True))
        for label, share in shares.items():
            self._extend(label, share, begin, end)
        for label, event in self._open.items():
            event.going_on = event.going_on and shares.get(label, 0.0) >= self._rules.falls_below
        return over

    def close(self) -> list[Event]:
        """End the open events at the recording's end, and return them."""
        for event in self._open.values():
            if event.going_on:
                event.end = max(event.end, self._end)
        return self._finished(list(self._open))

    def _extend(self, label: str, share: float, begin: float, end: float) -> None:
        event = self._open.get(label)
        goes_on = event is not None and event.going_on and begin - event.end <= _ROUNDING
        if share < (self._rules.falls_below if goes_on else self._rules.threshold):
            return
        if event is None:
            self._open[label] = _Open(begin, end, share, share, 1, going_on=True)
        else:
            event.end, event.going_on = end, True
            event.score, event.total, event.windows = max(event.score, share), event.total + share, event.windows + 1

    def _finished(self, labels: list[str]) -> list[Event]:
        events = [self._open.pop(label).event(label) for label in labels]
        long = [e for e in events if e.end_seconds - e.begin_seconds >= self._rules.shortest_seconds - _ROUNDING]
        return sorted(long, key=lambda event: (event.end_seconds, event.begin_seconds, event.label))


def events_of(
    windows: Iterable[Window], rules: EventRules, *, hop_seconds: float, window_seconds: float
) -> Iterator[Event]:
    """Events of a recording's windows, as they end; if reading or a prediction fails, the error comes last."""
    tracker = EventTracker(rules, hop_seconds=hop_seconds, window_seconds=window_seconds)
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
