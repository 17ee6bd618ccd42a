"""One recording written down: its rows, as its windows come.

Comes in: windows of one recording. Goes out: rows of its timeline, its events, or both, as they are ready.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from earsight.inference.events import Event, EventRules, EventTracker
from earsight.inference.recordings import Recording, Window
from earsight.inference.rows import Form, Table, What

if TYPE_CHECKING:
    from earsight.inference.classifier import Classifier

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
