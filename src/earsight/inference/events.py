"""Sound event detection: windows of a recording become events, by a threshold with hysteresis.

Comes in: `Window`s of one recording, in order. Goes out: `Event`s in the order of their begins, each when no later
window can change it or give one that begins before. Times are in seconds from the recording's start.

A window's prediction does not show where in it the sound is. An overlapping window therefore covers only the hop around
its middle (the first also the time before, the last the time after): the bounds of sounds longer than a window are
right within a hop, and shorter sounds get the length of a window. Windows that do not overlap cover their full length.

Where classes exclude each other (their probabilities add up to 1), a window speaks for one: where the most probable
class reaches the threshold, an event of another that does not is over, and is not joined with a later one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from earsight.errors import AudioError, EarsightError, ModelError
from earsight.inference.predictions import Event, Window

THRESHOLD = 0.5
"""An event begins where a class is more probable than all others together."""
RELEASE_SHARE = 0.7
"""Default release, as a share of the threshold."""
MOST_WAITING = 1000
"""Events that may wait for one that began before them and goes on; then that one is cut, so that memory is bounded."""
_ROUNDING = 1e-6  # seconds by which equal times may differ


@dataclass(frozen=True)
class EventRules:
    """How windows become events; EarsightError if a number is out of its range.

    A class whose probability reaches ``threshold`` begins an event, which goes on while it is at least ``release``
    (default 0.7 times the threshold). Events of a class with at most ``gap_seconds`` between them are one (default one
    hop, or a window where that is shorter: a single window that missed the sound does not part it); events shorter than
    ``shortest_seconds`` are left out, after joining. ``of_class`` holds thresholds of single classes, as a model
    file has them; a release that is given is then at most the class's threshold.
    """

    threshold: float = THRESHOLD
    release: float | None = None
    shortest_seconds: float = 0.0
    gap_seconds: float | None = None
    of_class: Mapping[str, float] = field(default_factory=dict)

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
        state = state or {"heard": {}, "first": True, "end": 0.0}
        self._open = {label: _Open(**fields) for label, fields in state["heard"].items()}
        self._first, self._end = bool(state["first"]), float(state["end"])
        self._waiting = [Event(**fields) for fields in state.get("waiting", [])]

    def state(self) -> dict[str, Any]:
        """The open events, as JSON values for journals, which fix the keys' names."""
        events = {label: asdict(event) for label, event in self._open.items()}
        waiting = [asdict(event) for event in self._waiting]
        return {"heard": events, "first": self._first, "end": self._end, "waiting": waiting}

    def add(self, window: Window) -> list[Event]:
        """Add the next window; returns the events that no later window can change or precede."""
        begin = window.begin_seconds + (0.0 if self._first else self._margin)
        end = min(window.begin_seconds + self._window - self._margin, window.end_seconds)
        self._first, self._end = False, window.end_seconds
        found = window.found
        # A window of no class belongs to no event.
        shares = {} if found.unknown else dict(zip(found.classes, found.probabilities, strict=True))
        alone = self._exclusive and not found.several
        speaks = alone and bool(shares) and shares[found.label] >= self._rules.rises_at(found.label)
        over = [label for label, event in self._open.items() if begin - event.end > self._gap]
        if speaks:
            over += [one for one in self._open if one not in over and shares.get(one, 0.0) < self._rules.rises_at(one)]
        self._finish(over)
        for label, share in shares.items():
            if not speaks or share >= self._rules.rises_at(label):
                self._extend(label, share, begin, end)
        for label, event in self._open.items():
            event.going_on = event.going_on and shares.get(label, 0.0) >= self._rules.falls_at(label)
        return self._ready(end)

    def close(self) -> list[Event]:
        """End the open events at the recording's end, and return them with those that waited for them."""
        for event in self._open.values():
            if event.going_on:
                event.end = max(event.end, self._end)
        self._finish(list(self._open))
        return self._ready(math.inf)

    def _extend(self, label: str, share: float, begin: float, end: float) -> None:
        event = self._open.get(label)
        goes_on = event is not None and event.going_on and begin - event.end <= _ROUNDING
        if share < (self._rules.falls_at(label) if goes_on else self._rules.rises_at(label)):
            return
        if event is None:
            self._open[label] = _Open(begin, end, share, share, 1, going_on=True)
        else:
            event.end, event.going_on = end, True
            event.score, event.total, event.windows = max(event.score, share), event.total + share, event.windows + 1

    def _finish(self, labels: list[str]) -> None:
        events = [self._open.pop(label).event(label) for label in labels]
        shortest = self._rules.shortest_seconds - _ROUNDING
        self._waiting += [e for e in events if e.windows and e.end_seconds - e.begin_seconds >= shortest]

    def _ready(self, next_begin: float) -> list[Event]:
        """The waiting events that begin before all open ones, and before ``next_begin``, where the next one may."""
        if len(self._waiting) > MOST_WAITING:
            label, event = min(self._open.items(), key=lambda item: item[1].begin)
            self._finish([label])
            self._open[label] = _Open(event.end, event.end, 0.0, 0.0, 0, event.going_on)
        first = min([next_begin, *(event.begin for event in self._open.values())])
        key = lambda event: (event.begin_seconds, event.end_seconds, event.label)  # noqa: E731
        ready = sorted((event for event in self._waiting if event.begin_seconds < first), key=key)
        self._waiting = [event for event in self._waiting if event.begin_seconds >= first]
        return ready


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
