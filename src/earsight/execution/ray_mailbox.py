"""What trials on other machines tell, and what they ask for: kept in one place that outlives them.

A `Mailbox` lives as an actor on the driver's node of a Ray cluster. Nodes put in what they know, the newest wins; the
driver takes it out a few times a second. So neither waits for the other, and what is kept here survives a node. Nothing
heavy is imported: the actor's process is small.
"""

from __future__ import annotations

from typing import Any

Files = dict[str, bytes]
"""Whole files by name."""


class Mailbox:
    """Progress, notes, the newest checkpoints, and large things that nodes want and the driver supplies."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[int, int, float]] = {}
        self._notes: dict[str, None] = {}
        self._unsaid = 0
        self._kept: dict[int, Files] = {}
        self._fresh: dict[int, list[str]] = {}
        self._records: dict[int, list[dict[str, Any]]] = {}
        self._ended: dict[int, Exception | None] = {}
        self._untold: list[int] = []
        self._wanted: dict[str, None] = {}
        self._supplies: dict[str, list[Any]] = {}

    def tell(self, number: int, done: int, total: int, loss: float) -> None:
        """How far a trial is."""
        self._steps[number] = done, total, loss

    def note(self, text: str) -> None:
        """A line for the user; a second time it is not said again."""
        self._notes[text] = None

    def keep(self, number: int, files: Files, *, fresh: bool = True) -> None:
        """The newest files of a trial; fresh are those that the driver does not know yet."""
        self._kept.setdefault(number, {}).update(files)
        if fresh:
            self._fresh.setdefault(number, []).extend(files)

    def kept(self, number: int) -> Files:
        """Those files; empty where there are none."""
        return self._kept.get(number, {})

    def drop(self, number: int) -> None:
        """Forget the files of a trial that the driver has."""
        self._kept.pop(number, None)
        self._fresh.pop(number, None)

    def record(self, number: int, records: list[dict[str, Any]]) -> None:
        """All epochs of a trial so far."""
        self._records[number] = records

    def records(self, number: int) -> list[dict[str, Any]]:
        """Those epochs."""
        return self._records.get(number, [])

    def end(self, number: int, problem: Exception | None = None, *, fresh: bool = True) -> None:
        """A trial is done, or cannot be."""
        self._ended[number] = problem
        if fresh:
            self._untold.append(number)

    def ended(self, number: int) -> bool:
        """Whether a trial is done."""
        return number in self._ended

    def abandon(self, number: int) -> None:
        """Forget the checkpoint, which is large, of a trial that goes no further."""
        self._kept.get(number, {}).pop("checkpoint.safetensors", None)

    def want(self, name: str) -> list[Any] | None:
        """The parts of something large; None until the driver has supplied it, which this asks it to do."""
        if name not in self._supplies:
            self._wanted[name] = None
            return None
        return self._supplies[name]

    def supply(self, name: str, parts: list[Any]) -> None:
        """Give what was asked for, in parts."""
        self._supplies[name] = parts
        self._wanted.pop(name, None)

    def news(self) -> dict[str, Any]:
        """What is new since the last time: ``steps``, ``notes``, ``kept`` (names), ``ended`` (problems), ``wanted``."""
        out = {
            "steps": self._steps,
            "notes": list(self._notes)[self._unsaid :],
            "kept": self._fresh,
            "ended": [(number, self._ended[number]) for number in self._untold],
            "wanted": list(self._wanted),
        }
        self._steps, self._fresh, self._untold, self._unsaid = {}, {}, [], len(self._notes)
        return out
