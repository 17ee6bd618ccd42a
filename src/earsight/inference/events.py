"""A timeline becomes events: from when to when a class is heard, by threshold and hysteresis.

Comes in: `Window`s of one recording, in their order. Goes out: `Event`s, each as soon as nothing can change it any
more, which is the order in which they end. Times are in seconds from the recording's start.

A window says that a class is somewhere within it, not where. Where windows overlap, each therefore stands for the hop
around its middle alone, the first one also for all before, the last one for all behind: the bounds of a sound that is
longer than a window then come out where they are, give or take a hop, and a shorter one comes out as long as a
window. Windows that do not overlap stand for all of themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from earsight.errors import AudioError, EarsightError
from earsight.inference.recordings import Window

THRESHOLD = 0.5
"""An event begins where a class is more probable than all others together."""
RELEASE_SHARE = 0.7
"""Of the threshold: where an event ends, unless something else is asked for."""
_ROUNDING = 1e-6  # seconds by which two times that mean the same may differ


@dataclass(frozen=True)
class Event:
    """One class, heard for some time.

    Attributes
    ----------
    label : str
    begin_seconds, end_seconds : float
    score : float
        The highest probability of the class in its windows.
    mean : float
        The mean probability of the class over its windows.
    windows : int
        How many windows it was heard in.
    """

    label: str
    begin_seconds: float
    end_seconds: float
    score: float
    mean: float
    windows: int


@dataclass(frozen=True)
class EventRules:
    """How windows become events.

    Parameters
    ----------
    threshold : float
        A class whose probability reaches this begins an event.
    release : float, optional
        The event goes on while the probability is at least this; default 0.7 times the threshold.
    shortest_seconds : float
        Shorter events are left out, after joining.
    gap_seconds : float, optional
        Events of a class with at most this much between them are one; default one hop, or a window where that is
        shorter: a single window that missed the sound does not part it.

    Raises
    ------
    EarsightError
        If a number is out of its range.
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
class _Heard:
    """An event that is not over, or may yet be joined with the next."""

    begin: float
    end: float
    score: float
    total: float
    windows: int
    going_on: bool

    def event(self, label: str) -> Event:
        return Event(label, self.begin, self.end, self.score, self.total / self.windows, self.windows)


class EventTracker:
    """Events of one recording, fed with its windows one at a time.

    Parameters
    ----------
    rules : EventRules
    hop_seconds, window_seconds : float
    state : dict, optional
        What `state` gave, to go on from there.
    """

    def __init__(
        self, rules: EventRules, *, hop_seconds: float, window_seconds: float, state: dict[str, Any] | None = None
    ) -> None:
        self._rules = rules
        gap = min(hop_seconds, window_seconds) if rules.gap_seconds is None else rules.gap_seconds
        self._gap, self._window = gap + _ROUNDING, window_seconds
        self._margin = max(0.0, (window_seconds - hop_seconds) / 2)
        state = state or {"heard": {}, "first": True, "end": 0.0}
        self._heard = {label: _Heard(**fields) for label, fields in state["heard"].items()}
        self._first, self._end = bool(state["first"]), float(state["end"])

    def state(self) -> dict[str, Any]:
        """All that is not given out yet, as JSON values."""
        heard = {label: asdict(heard) for label, heard in self._heard.items()}
        return {"heard": heard, "first": self._first, "end": self._end}

    def add(self, window: Window) -> list[Event]:
        """Take the next window; the events that are over."""
        begin = window.begin_seconds + (0.0 if self._first else self._margin)
        end = min(window.begin_seconds + self._window - self._margin, window.end_seconds)
        self._first, self._end = False, window.end_seconds
        over = self._finished([name for name, heard in self._heard.items() if begin - heard.end > self._gap])
        # A window of no class belongs to no event.
        shares = (
            {} if window.found.unknown else dict(zip(window.found.classes, window.found.probabilities, strict=True))
        )
        for label, share in shares.items():
            self._hear(label, share, begin, end)
        for label, heard in self._heard.items():
            heard.going_on = heard.going_on and shares.get(label, 0.0) >= self._rules.falls_below
        return over

    def close(self) -> list[Event]:
        """The events that the recording's end ends; they reach to it."""
        for heard in self._heard.values():
            if heard.going_on:
                heard.end = max(heard.end, self._end)
        return self._finished(list(self._heard))

    def _hear(self, label: str, share: float, begin: float, end: float) -> None:
        heard = self._heard.get(label)
        goes_on = heard is not None and heard.going_on and begin - heard.end <= _ROUNDING
        if share < (self._rules.falls_below if goes_on else self._rules.threshold):
            return
        if heard is None:
            self._heard[label] = _Heard(begin, end, share, share, 1, going_on=True)
        else:
            heard.end, heard.going_on = end, True
            heard.score, heard.total, heard.windows = max(heard.score, share), heard.total + share, heard.windows + 1

    def _finished(self, labels: list[str]) -> list[Event]:
        events = [self._heard.pop(label).event(label) for label in labels]
        long = [e for e in events if e.end_seconds - e.begin_seconds >= self._rules.shortest_seconds - _ROUNDING]
        return sorted(long, key=lambda event: (event.end_seconds, event.begin_seconds, event.label))


def events_of(
    windows: Iterable[Window], rules: EventRules, *, hop_seconds: float, window_seconds: float
) -> Iterator[Event]:
    """Events of a recording's windows, as they end; an error of the windows comes after the events before it."""
    tracker = EventTracker(rules, hop_seconds=hop_seconds, window_seconds=window_seconds)
    failure = None
    try:
        for window in windows:
            yield from tracker.add(window)
    except AudioError as error:
        failure = error
    yield from tracker.close()
    if failure is not None:
        raise failure
