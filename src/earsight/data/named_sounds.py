"""The recordings of a folder, found by the names that tables give them.

Comes in: a folder of sounds, or one sound. Goes out: paths below it (posix), for names that may be whole paths of
another machine, paths below some folder, or bare names with or without their ending; and the sounds' headers.
"""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

from earsight.data import audio
from earsight.data.folders import sounds_below
from earsight.errors import AudioError, DataError


class NamedSounds:
    """The sounds of a folder, or one, found by the names that tables give them."""

    def __init__(self, place: Path) -> None:
        if not place.exists():
            raise DataError(f"{place}: no such folder or recording; name the folder that the recordings lie in")
        self.root = place if place.is_dir() else place.parent
        found = sounds_below(place) if place.is_dir() else [place]
        if not found:
            raise DataError(f"{place}: no sound in it; name the folder that the recordings lie in")
        self.paths = [path.relative_to(self.root).as_posix() for path in found]
        self._known = set(self.paths)
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            name = Path(path).name.casefold()
            for key in dict.fromkeys((name, Path(name).stem)):
                self._by_name[key].append(path)
        self._headers: dict[str, audio.AudioInfo | AudioError] = {}
        self._found: dict[str, str | None] = {}

    def header(self, path: str) -> audio.AudioInfo | AudioError:
        """A recording's header, read once, or what is wrong with it."""
        if path not in self._headers:
            try:
                self._headers[path] = audio.info(self.root / path)
            except AudioError as error:
                self._headers[path] = error
        return self._headers[path]

    def seconds(self, path: str) -> float:
        """A recording's length; NaN if it cannot be read."""
        return math.nan if isinstance(found := self.header(path), AudioError) else found.seconds

    def rate_hz(self, path: str) -> float:
        """A recording's rate; NaN if it cannot be read."""
        return math.nan if isinstance(found := self.header(path), AudioError) else found.sample_rate_hz

    def look(self, paths: Iterable[str]) -> None:
        """Read the headers of some recordings, in threads."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.header, sorted(set(paths) - set(self._headers))))

    def find(self, name: str, *, beside: Path) -> str | None:
        """The recording that a table calls so, by as much of the path as is needed; None if there is none."""
        if name not in self._found:
            self._found[name] = self._find(name, beside)
        return self._found[name]

    def _find(self, name: str, beside: Path) -> str | None:
        parts = PureWindowsPath(name).parts if "\\" in name else Path(name).parts
        if not parts:
            return None
        for path in (self.root / name, beside / name):
            if path.is_file() and path.resolve().is_relative_to(self.root.resolve()):
                below = path.resolve().relative_to(self.root.resolve()).as_posix()
                if below in self._known:
                    return below
        return self._nearest(self._by_name.get(parts[-1].casefold(), []), parts[:-1], name)

    def _nearest(self, found: Sequence[str], folders: Sequence[str], name: str) -> str | None:
        """Of several recordings of one name the one whose folders are most alike."""
        if len(found) < 2:
            return found[0] if found else None

        def alike(path: str) -> tuple[int, bool]:
            """How many folders are the same from the last on, and whether all of the recording's are."""
            mine = Path(path).parts[:-1][::-1]
            same = [one.casefold() == two.casefold() for one, two in zip(mine, folders[::-1], strict=False)]
            count = (*same, False).index(False)
            return count, count == len(mine)

        best = sorted(found, key=alike, reverse=True)
        if alike(best[0]) == alike(best[1]):
            raise DataError(f"'{name}' may be {best[0]} or {best[1]}; give its path below {self.root}")
        return best[0]

    def of_table(self, table: Path, *, alone: bool) -> str | None:
        """The recording that a table's own name names, as x.Table.1.selections.txt does x.wav; or the only one."""
        name = table.name
        while "." in name:
            name = name.rpartition(".")[0]
            if found := self._by_name.get(name.casefold()):
                folder = table.resolve().parent
                here = [path for path in found if (self.root / path).resolve().parent == folder]
                return here[0] if len(here) == 1 else self._nearest(found, folder.parts, name)
        return self.paths[0] if alone and len(self.paths) == 1 else None

    def nearest_name(self, name: str) -> str:
        """A hint at a recording that is called much the same."""
        near = difflib.get_close_matches(PureWindowsPath(name).name, [Path(path).name for path in self.paths], n=1)
        return f"; did you mean '{near[0]}'?" if near else ""
