"""Keys of folders of rows: a hash of settings and of the sound files' content.

Comes in: a data set, settings as JSON, the cache folder. Goes out: sixteen hexadecimal digits. Files are hashed once:
``sounds-*.json`` in the cache folder holds each one's digest with size, times and inode, which decide whether to hash
again. If that file is lost or damaged, all sounds are hashed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from earsight.data.datasets import Dataset
from earsight.errors import EarsightError
from earsight.files import content_digest, read_state, write_state
from earsight.parallel import in_order

_RECENT_NS = 2_000_000_000
"""Digests of files that changed so shortly before are not kept: a second change might not alter the times."""


def content_key(dataset: Dataset, *settings: Any, cache: Path) -> str:
    """Hash (16 hex digits) of settings (as JSON) and of each clip's path, content and, if it is a part, which."""
    digests = _digests(dataset, cache)
    return _named(settings, [[clip.path, digests[clip.path], *clip.part] for clip in dataset.clips])


def earlier_folder(dataset: Dataset, *settings: Any, key: str, cache: Path) -> Path | None:
    """The folder that earlier versions named by a hash of the sounds' paths, sizes and modification times, if any.

    Such a name does not show whether sounds were exchanged, so the folder is tied to the first content asked for.
    """
    files: list[list[Any]] = []
    for row, clip in enumerate(dataset.clips):
        try:
            found = dataset.file(row).stat()
            files.append([clip.name, found.st_size, found.st_mtime_ns])
        except OSError:
            files.append([clip.name, None, None])
    name = _named(settings, files)
    if not (cache / name).is_dir():
        return None
    place = _place(dataset, cache)
    content = _read(place)
    if content["earlier"].setdefault(name, key) != key:
        return None
    _write(place, content)
    return cache / name


def _named(settings: Any, files: list[list[Any]]) -> str:
    return hashlib.sha256(json.dumps([*settings, files]).encode()).hexdigest()[:16]


def _digests(dataset: Dataset, cache: Path) -> dict[str, str | None]:
    """The digest of each file, by its clips' path; None if the file cannot be read."""
    place = _place(dataset, cache)
    content = _read(place)
    held, kept = content["files"], dict(content["files"])

    def digest(name: str) -> str | None:
        path = dataset.root / name
        identity = _status(path)
        if identity is None:
            return None
        if isinstance(known := held.get(name), list) and known[:-1] == identity:
            return str(known[-1])
        began = time.time_ns()
        found = content_digest(path)
        if found and _status(path) == identity and began - max(identity[1], identity[3]) > _RECENT_NS:
            kept[name] = [*identity, found]
        return found

    names = list(dict.fromkeys(clip.path for clip in dataset.clips))
    digests = dict(zip(names, in_order(digest, names, ahead=16), strict=True))
    if kept != held:
        _write(place, content | {"files": {name: kept[name] for name in sorted(kept)}})
    return digests


def _status(path: Path) -> list[int] | None:
    """Size, time of change, inode and time of the inode's change; None where there is no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    known = [found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]
    return known if stat.S_ISREG(found.st_mode) else None


def _place(dataset: Dataset, cache: Path) -> Path:
    root = hashlib.sha256(os.fsencode(dataset.root.absolute())).hexdigest()[:16]
    return cache / f"sounds-{root}.json"


def _read(place: Path) -> dict[str, dict[str, Any]]:
    try:
        return read_state(place, {"files": dict, "earlier": dict}, remedy="")
    except EarsightError:
        return {"files": {}, "earlier": {}}


def _write(place: Path, content: dict[str, dict[str, Any]]) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_state(place, content)
    except OSError:  # an unwritable cache folder is reported when rows are written
        pass
