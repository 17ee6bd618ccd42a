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
        self._records: dict[int, list[dict[str, Any]]] = {}
        self._kept: dict[int, Files] = {}
        self._fresh: set[int] = set()
        self._wanted: dict[str, None] = {}
        self._supplies: dict[str, list[Any]] = {}
        self._unsaid = 0

    def tell(self, number: int, done: int, total: int, loss: float) -> None:
        """How far a trial is."""
        self._steps[number] = done, total, loss

    def note(self, text: str) -> None:
        """A line for the user; a second time it is not said again."""
        self._notes[text] = None

    def keep(self, number: int, files: Files, *, fresh: bool = True) -> None:
        """The newest state of a trial; fresh is what the driver does not know yet."""
        self._kept[number] = files
        if fresh:
            self._fresh.add(number)

    def kept(self, number: int) -> Files:
        """That state; empty where there is none."""
        return self._kept.get(number, {})

    def drop(self, number: int) -> None:
        """Forget a trial that has ended."""
        self._kept.pop(number, None)
        self._steps.pop(number, None)
        self._fresh.discard(number)

    def want(self, name: str) -> list[Any] | None:
        """The parts of something large; None until the driver has supplied it, which this asks it to do."""
        if name not in self._supplies:
            self._wanted[name] = None
            return None
        return self._supplies[name]

    def supply(self, name: str, parts: list[Any]) -> None:
        """Give what was asked for: (file name, reference to bytes), a file's parts in order."""
        self._supplies[name] = parts
        self._wanted.pop(name, None)

    def news(self) -> dict[str, Any]:
        """What has come since the last time: ``steps``, ``notes``, ``kept`` (numbers) and ``wanted`` (names)."""
        steps, self._steps = self._steps, {}
        fresh, self._fresh = self._fresh, set()
        notes = list(self._notes)[self._unsaid :]
        self._unsaid = len(self._notes)
        return {"steps": steps, "notes": notes, "kept": sorted(fresh), "wanted": list(self._wanted)}
