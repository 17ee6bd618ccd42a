"""Large files that a node of a cluster lacks: given out by the driver, kept in the node's own cache.

Comes in: a folder or a file on the driver. Goes out: the same bytes on the node, fetched once for all of its workers.
They travel as parts in Ray's object store, which moves to disk what does not fit in memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from earsight.cache import default_cache
from earsight.errors import DataError

PART_BYTES = 32 * 2**20
UNSHARED = "EARSIGHT_UNSHARED"
"""Environment variable of a node that shall use nothing of the driver's file system, even where it sees it."""

Parts = Sequence[tuple[str, int, Any]]
"""(file name, bytes, reference), a file's parts in order."""


def alone() -> bool:
    """Whether this node was told to share no files with the driver."""
    return bool(os.environ.get(UNSHARED))


def parts_of(place: Path, put: Callable[[bytes], Any]) -> list[tuple[str, int, Any]]:
    """The files of a folder, or one file, as parts; on the driver.

    Parameters
    ----------
    place : Path
    put : callable
        Takes bytes into the object store and gives a reference.
    """
    files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
    parts = []
    for path in files:
        with path.open("rb") as file:
            content = file.read(PART_BYTES)
            while True:
                parts.append((path.name, len(content), put(content)))
                if not (content := file.read(PART_BYTES)):
                    break
    return parts


def fetched(source: Path, name: str, mailbox: Any, *, marker: str) -> Path:
    """The folder of that name in this node's cache, with the files of the driver's ``source`` in it.

    Parameters
    ----------
    source : Path
        A folder or a file on the driver.
    name : str
        Names the content.
    mailbox : actor handle
    marker : str
        A file without which the folder is not whole.

    Raises
    ------
    DataError
        If this node's disk has too little room.
    """
    import ray

    target = default_cache() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{name}.lock")):
        if (target / marker).is_file():
            return target
        mailbox.note.remote(f"{node_name()}: lacks {source}, and gets it into {target}")
        parts: Parts | None = None
        while parts is None:
            parts = ray.get(mailbox.want.remote(str(source)))
            time.sleep(0.1 if parts is None else 0)
        building = target.with_name(f"{name}.fetching")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        _check_room(parts, building, source=source)
        for file_name, _, reference in parts:
            with (building / Path(file_name).name).open("ab") as file:
                content: Any = ray.get(reference)
                file.write(content)
        building.replace(target)
    return target


def _check_room(parts: Parts, folder: Path, *, source: Path) -> None:
    needed, free = sum(size for _, size, _ in parts), shutil.disk_usage(folder).free
    if needed > 0.98 * free:
        raise DataError(
            f"{node_name()}: sees no {source} of the driver; its {needed / 1e9:.1f} GB do not fit here either, where "
            f"{folder.parent} has {free / 1e9:.1f} GB free; make room, or put it on storage that the nodes share"
        )


@cache
def sha256(path: Path) -> str:
    """Of a file, once in a process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def node_name() -> str:
    """The node's name for messages: that of the machine, and Ray's own, of which a machine can have several."""
    import ray

    return f"node {socket.gethostname()} ({ray.get_runtime_context().get_node_id()[:6]})"
