"""The mailbox between a driver and its workers: an actor that holds progress, checkpoints and histories of trials.

Workers put in what they have, the newest wins; the driver takes the news out a few times a second, so that neither
waits for the other. The actor lives on the driver's node of a Ray cluster and outlives every worker. It imports nothing
heavy: its process is small.
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
        """What came since the last call: steps and states by trial, notes, ended trials, and paths that are wanted."""
        news, self._news = self._news, {"steps": {}, "notes": [], "states": {}, "ended": [], "wanted": []}
        return news

    def report(self, number: int, done: int, total: int, loss: float) -> None:
        """Progress of a trial."""
        self._news["steps"][number] = done, total, loss

    def note(self, text: str) -> None:
        """A line for the user; each text is passed on once."""
        if text not in self._notes:
            self._notes.add(text)
            self._news["notes"].append(text)

    def put_state(self, number: int, files: Files, *, fresh: bool = True) -> None:
        """The newest files that a trial goes on from; ``fresh`` ones are news to the driver."""
        self._states.setdefault(number, {}).update(files)
        if fresh:
            self._news["states"].setdefault(number, {}).update(files)

    def state(self, number: int) -> Files:
        """Those files; empty where there are none."""
        return self._states.get(number, {})

    def forget_state(self, number: int) -> None:
        """Drop the files of a trial that goes no further; a checkpoint is large."""
        self._states.pop(number, None)
        self._news["states"].get(number, {}).pop("checkpoint.safetensors", None)

    def put_history(self, number: int, records: list[dict[str, Any]], *, done: bool = False) -> None:
        """All epochs of a trial so far; ``done`` where it ended in an earlier run of the command."""
        self._histories[number] = records
        if done:
            self._ended.add(number)

    def history(self, number: int) -> tuple[list[dict[str, Any]], bool]:
        """Those epochs, and whether the trial has ended."""
        return self._histories.get(number, []), number in self._ended

    def end(self, number: int, outcome: Files | Exception) -> None:
        """A trial has ended, with its files (none if it wrote them itself) or an error."""
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
