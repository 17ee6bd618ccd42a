"""Which sounds an output holds rows of: digests of their names, and of the files' sizes and times.

Comes in: names of sounds in order, and the position that an output recorded (`earsight.inference.journal`). A resumed
command passes over the names that are done. Others in their place are refused; files that have another size or time
since are reported, for their rows are of what was there before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from earsight.errors import EarsightError
from earsight.files import say_damage


def identity(path: str) -> tuple[int, int]:
    """Size and modification time of a file, by which it is recognised; zeros if it cannot be reached."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns


class SoundsDone:
    """The sounds whose rows are written, in order; `position` goes into the output's journal and its list."""

    def __init__(self) -> None:
        self.done = 0
        self._names, self._files = hashlib.sha256(), hashlib.sha256()

    def add(self, name: str) -> None:
        """One more sound has its rows."""
        self.done += 1
        self._names.update(os.fsencode(name) + b"\0")
        self._files.update(repr(identity(name)).encode())

    @property
    def position(self) -> dict[str, Any]:
        """How many sounds, and both digests, as JSON values."""
        return {"done": self.done, "names": self._names.hexdigest(), "files": self._files.hexdigest()}

    def skip(self, names: Iterator[str], recorded: Mapping[str, Any], *, where: object, what: str) -> None:
        """Take the names that were done from ``names``; EarsightError if they are others than those ``recorded``."""
        for name in islice(names, int(recorded.get("done", 0))):
            self.add(name)
        # Earlier versions recorded no digest of clips' names, and none of files.
        differs = {key for key in self.position if recorded.get(key) not in (None, "", self.position[key])}
        if differs & {"done", "names"}:
            raise EarsightError(
                f"{where}: the {recorded['done']} {what} whose rows it holds are not the first of those given now; "
                "give the same in the same order, or another --out"
            )
        if differs:
            say_damage(
                f"{where}: of the {recorded['done']} {what} whose rows it holds, files have another size or time "
                "since: their rows are of what was there before; to be sure, begin anew in another --out"
            )
