"""The mailbox between a driver and its workers: an actor that holds progress, checkpoints and histories of trials.

Workers put in their newest values; the driver reads them a few times a second, so that neither waits for the other.
The actor lives on the driver's node of a Ray cluster and outlives every worker. It imports nothing heavy, so that its
process is small.
"""

from __future__ import annotations

from typing import Any

Files = dict[str, bytes]
"""Whole files by name."""


class Mailbox:
    """Progress, notes, newest checkpoints and histories by trial number, and the files that workers lack."""

    def __init__(self) -> None:
        self._notes: set[str] = set()
        self._states: dict[int, Files] = {}
        self._histories: dict[int, list[dict[str, Any]]] = {}
        self._ended: set[int] = set()
        self._artifacts: dict[str, list[Any] | None] = {}
        self._news: dict[str, Any] = {}
        self.take_news()

    def take_news(self) -> dict[str, Any]:
        """Everything since the last call: steps and states by trial, notes, ended trials, and requested paths."""
        news, self._news = self._news, {"steps": {}, "notes": [], "states": {}, "ended": [], "wanted": []}
        return news

    def report(self, number: int, done: int, total: int, loss: float) -> None:
        """Progress of a trial."""
        self._news["steps"][number] = done, total, loss

    def note(self, text: str) -> None:
        """Add a line for the user; equal lines are shown once."""
        if text not in self._notes:
            self._notes.add(text)
            self._news["notes"].append(text)

    def put_state(self, number: int, files: Files, *, fresh: bool = True) -> None:
        """Store a trial's newest checkpoint files; ``fresh`` ones are passed on to the driver."""
        self._states.setdefault(number, {}).update(files)
        if fresh:
            self._news["states"].setdefault(number, {}).update(files)

    def state(self, number: int) -> Files:
        """A trial's newest checkpoint files; empty if there are none."""
        return self._states.get(number, {})

    def forget_state(self, number: int) -> None:
        """Drop an ended trial's checkpoint files, which are large."""
        self._states.pop(number, None)
        self._news["states"].get(number, {}).pop("checkpoint.safetensors", None)

    def put_history(self, number: int, records: list[dict[str, Any]], *, done: bool = False) -> None:
        """Store all epochs of a trial so far; ``done`` if it ended in an earlier run of the command."""
        self._histories[number] = records
        if done:
            self._ended.add(number)

    def history(self, number: int) -> tuple[list[dict[str, Any]], bool]:
        """A trial's epochs so far, and whether it has ended."""
        return self._histories.get(number, []), number in self._ended

    def end(self, number: int, outcome: Files | Exception) -> None:
        """Store an ended trial's files (none if it wrote them itself) or its error."""
        self._ended.add(number)
        self._news["ended"].append((number, outcome))

    def artifact(self, source: str) -> list[Any] | None:
        """References to the parts of a folder's files on the driver; None until the driver has put them."""
        if source not in self._artifacts:
            self._artifacts[source] = None
            self._news["wanted"].append(source)
        return self._artifacts[source]

    def put_artifact(self, source: str, parts: list[Any]) -> None:
        """The driver's reply to ``wanted``."""
        self._artifacts[source] = parts
