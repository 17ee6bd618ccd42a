"""Resumable output: row files, and a journal of how much of each is safely on disk.

Comes in: lines of text, and the position (JSON values) to resume from after them. Goes out: 1. row files, which end
with a whole line even if the disk is full; 2. until the end the journal ``FILE.progress`` (in a folder, ``.progress``):
``settings``, ``place`` (the position), ``files`` (committed size and CRC-32 of each open file); 3. ``.FILE.finished``
(``.finished``), the list of finished files with their sizes and CRC-32s. The journal is written before any row, counts
only rows that are on the disk, and is removed last, after the list's closing line. Resuming checks all files and
truncates the open ones to their committed size; the rest is computed again, to the same bytes. `SoundsDone` is the part
of the position that says of which sounds the rows are.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import filelock

from earsight.errors import EarsightError, remedy_of
from earsight.files import let_go, read_state, say_damage, say_once, write_state

INDEX = "recordings.csv"
"""The first file of an output folder."""
_LIST = ".finished"
_END = "finished"
_Part = tuple[int, int]
"""Size and CRC-32 of a file, or of its beginning."""
COMMIT_SECONDS = 1.0
"""A kill costs at most this many seconds of work, plus one batch."""


class Output:
    """Base class of outputs; methods that only files need do nothing here."""

    name = "the output"
    place: dict[str, Any] | None = None
    whole = False
    checked = True
    """Whether a journal or list says that it is whole; an output that lost both is taken for whole."""

    def open(self, name: str) -> bool:
        """Open or resume a file; returns True if it is new."""
        return True

    def write(self, name: str, text: str) -> None:
        """Add whole lines to an open file."""
        raise NotImplementedError

    def close(self, name: str) -> None:
        """Finish a file."""

    def commit(self, place: Mapping[str, Any], *, now: bool = False) -> None:
        """Record the position after the rows so far; every `COMMIT_SECONDS` at most, unless ``now``."""

    def end(self, place: Mapping[str, Any] | None = None) -> None:
        """Finish: all is written; ``place`` is the position at the end."""

    def drop(self) -> None:
        """Close all files, finished or not."""


class StreamOutput(Output):
    """Rows of all files to one stream; it cannot be resumed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, name: str, text: str) -> None:
        """Write and flush, so that rows appear at once."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            raise  # the reader has gone
        except OSError as error:
            if self._stream is not sys.stdout:
                with suppress(OSError):
                    self._stream.close()  # here, or Python 3.13 tells of the rows that are left when it is collected
            raise EarsightError(
                f"rows cannot be written ({error.strerror or error}); {remedy_of(error)} and give the command again. "
                "Output to --out FILE can be resumed with --resume"
            ) from error


def settings_of(path: Path) -> dict[str, Any] | None:
    """The settings of a begun or finished output file; None if there is none, or it cannot be read."""
    journal, finished = path.with_name(f"{path.name}.progress"), path.with_name(f".{path.name}{_LIST}")
    try:
        if journal.exists():
            found = json.loads(journal.read_text(encoding="utf-8"))["settings"]
        else:
            found = json.loads(finished.read_text(encoding="utf-8").splitlines()[-1])[3]
    except (OSError, ValueError, LookupError, TypeError):  # what is damaged is reported when it is opened
        return None
    return found if isinstance(found, dict) else None


class FileOutput(Output):
    """Rows to one file, or to several in a ``folder``, with a journal.

    ``path`` is the file, whose name in `open` is the empty string; or the folder of the named files. ``settings`` are
    JSON values that must be the same to resume. With ``resume`` it resumes from `place`, the position in the journal
    (None to begin); a complete output is `whole`, its `place` the last one. EarsightError if the output exists and
    ``resume`` is false; if another process writes it; if the journal or a file is damaged or has other settings.
    """

    def __init__(self, path: Path, *, folder: bool, settings: Mapping[str, Any], resume: bool) -> None:
        self.name, self._path, self._settings = str(path), path, json.loads(json.dumps(settings))
        self._journal = path / ".progress" if folder else path.with_name(f"{path.name}.progress")
        self._list = path / _LIST if folder else path.with_name(f".{path.name}{_LIST}")
        self._files: dict[str, int] = {}  # descriptors of the open files
        self._parts: dict[str, _Part] = {}  # size and CRC-32 of their complete lines
        self._committed = -COMMIT_SECONDS
        self._lock = filelock.FileLock(f"{self._journal}.lock")
        ours = (_LIST, ".progress.lock", ".progress.new")  # the last as earlier versions named a journal's first draft
        names = [file.name for file in path.iterdir()] if path.is_dir() else [path.name] * path.exists()
        rows = [name for name in names if name not in ours and not name.endswith(".part")]
        if rows and not resume:
            raise EarsightError(f"{path}: is there already; --resume goes on with it, or name another with --out")
        self._acquire()
        try:
            if resume and self._journal.exists():
                self._read_journal()
            elif rows:
                self._check_finished(folder)
                self.whole = True
                self.drop()
        except EarsightError:
            self.drop()
            raise

    def open(self, name: str) -> bool:
        """Open a file after its last whole line, or a new one."""
        path = self._file(name)
        new = name not in self._parts
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._files[name] = os.open(path, flags | (os.O_TRUNC if new else 0), 0o666)
        except OSError as error:
            raise self._refused(path, error) from error
        if not new:
            os.ftruncate(self._files[name], self._parts[name][0])
            os.lseek(self._files[name], 0, os.SEEK_END)
        self._parts.setdefault(name, (0, 0))
        return new

    def write(self, name: str, text: str) -> None:
        """Add lines; if the disk is full, the file is truncated to the lines before them."""
        data = text.encode("utf-8", "surrogateescape")
        descriptor, done = self._files[name], 0
        try:
            while done < len(data):
                done += os.write(descriptor, data[done:])
        except OSError as error:
            os.ftruncate(descriptor, self._parts[name][0])
            raise self._refused(self._file(name), error) from error
        size, crc = self._parts[name]
        self._parts[name] = size + len(data), zlib.crc32(data, crc)

    def close(self, name: str) -> None:
        """Finish a file: sync it to the disk, and list it."""
        self._sync(name)
        self._add_line([name, *self._parts[name]])
        os.close(self._files.pop(name))
        del self._parts[name]

    def commit(self, place: Mapping[str, Any], *, now: bool = False) -> None:
        """Write the journal anew, at most once in `COMMIT_SECONDS` unless ``now``."""
        if not now and time.monotonic() - self._committed < COMMIT_SECONDS:
            return
        for name in self._files:
            self._sync(name)
        try:
            content = {"settings": self._settings, "place": place, "files": self._parts}
            write_state(self._journal, content, sync=True)
        except OSError as error:
            raise self._refused(self._journal, error) from error
        self._committed = time.monotonic()

    def end(self, place: Mapping[str, Any] | None = None) -> None:
        """Add the list's closing line once all files are on the disk, and remove the journal."""
        for name in [name for name in self._files if name != _LIST]:
            self.close(name)
        self._add_line([_END, *self._parts.get(_LIST, (0, 0)), self._settings, *([place] if place else ())])
        self._sync(_LIST)
        self._journal.unlink(missing_ok=True)
        self.drop()

    def drop(self) -> None:
        """Close the files, finished or not; another process may resume them."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        if self._lock.is_locked:
            let_go(self._lock)

    def _acquire(self) -> None:
        """Lock the output, and remove a killed process's half-written journal."""
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            for part in self._journal.parent.glob(f".{glob.escape(self._journal.name)}.*.part"):
                part.unlink(missing_ok=True)
        except filelock.Timeout as error:
            raise EarsightError(f"{self._path}: another process is writing it; wait for it, or stop it") from error
        except OSError as error:
            raise self._refused(self._path, error) from error

    def _add_line(self, values: list[Any]) -> None:
        if _LIST not in self._files:
            self.open(_LIST)
        self.write(_LIST, json.dumps(values) + "\n")

    def _sync(self, name: str) -> None:
        try:
            os.fsync(self._files[name])
        except OSError as error:
            raise self._refused(self._file(name), error) from error

    def _file(self, name: str) -> Path:
        return self._list if name == _LIST else self._path / name if name else self._path

    def _refused(self, path: Path, error: OSError) -> EarsightError:
        return EarsightError(
            f"{path}: cannot be written ({error.strerror or error}); {remedy_of(error)}. "
            "What was written is whole: the same command with --resume goes on from here"
        )

    def _read_journal(self) -> None:
        """Read the position from the journal, after checking all files that it lists."""
        remedy = f"remove it and {self._path} and begin anew"
        content = read_state(self._journal, {"settings": dict, "place": dict, "files": dict}, remedy=remedy)
        self._check_settings(content["settings"])
        for name, part in content["files"].items():
            if isinstance(part, int):  # of an earlier version, which counted sizes alone
                say_once(f"{self._journal}: was begun by an earlier version; the rows so far cannot be checked")
                part = [part, None]
            self._parts[name] = self._checked(name, *part)
        listed = self._parts.get(_LIST, (0, 0))[0]
        for name, size, crc in self._lines(self._list.read_bytes()[:listed]) if listed else ():
            self._checked(name, size, crc, whole=True)
        self.place = content["place"]

    def _check_finished(self, folder: bool) -> None:
        """Raise if an output without a journal differs from its list."""
        if not self._list.exists():
            # Earlier versions removed the journal at the end and wrote no list; their journals came before the rows.
            index = self._path / INDEX if folder else self._path
            if not index.is_file() or index.read_bytes()[-1:] not in (b"\n", b""):
                raise EarsightError(
                    f"{self._path}: has no journal and is not as a finished output is; remove it, or name another --out"
                )
            self.checked = False
            say_once(
                f"{self._path}: has no journal, as where an earlier version finished it, or where it was removed; "
                "it cannot be checked, and may lack rows: to be sure, remove it and begin anew"
            )
            return
        data = self._list.read_bytes()
        head = data[: data.rfind(b"\n", 0, -1) + 1]
        end = next(self._lines(data[len(head) :]), None)
        if not data.endswith(b"\n") or end is None or end[:3] != [_END, len(head), zlib.crc32(head)] or not end[3:]:
            raise self._damaged_list()
        self._check_settings(end[3])
        self.place = end[4] if len(end) > 4 else None  # earlier versions closed their lists without
        for name, size, crc in self._lines(head):
            self._checked(name, size, crc, whole=True)

    def _lines(self, data: bytes) -> Iterator[list[Any]]:
        for line in data.splitlines():
            try:
                found = json.loads(line)
            except ValueError as error:
                raise self._damaged_list() from error
            if not isinstance(found, list) or not isinstance(found[-1], int | dict):
                raise self._damaged_list()
            yield found

    def _damaged_list(self) -> EarsightError:
        return EarsightError(f"{self._list}: is damaged; remove it and {self._path} and begin anew")

    def _check_settings(self, found: Mapping[str, Any]) -> None:
        other = sorted(key for key in found.keys() | self._settings.keys() if found.get(key) != self._settings.get(key))
        if other:
            raise EarsightError(
                f"{self._path}: was begun with another {', '.join(other)}; give the same, or another --out"
            )

    def _checked(self, name: str, size: int, crc: int | None, *, whole: bool = False) -> _Part:
        """Size and CRC-32 of a file's first bytes; raise if they are not those recorded."""
        path, found, left = self._file(name), 0, size
        if not path.is_file() or path.stat().st_size < size or (whole and path.stat().st_size != size):
            raise EarsightError(f"{path}: is shorter than its journal says; remove it and begin anew")
        with path.open("rb") as file:
            while left and (data := file.read(min(left, 1 << 20))):
                found, left = zlib.crc32(data, found), left - len(data)
        if crc not in (None, found):
            raise EarsightError(
                f"{path}: has changed since it was written; remove it and {self._journal} and begin anew"
            )
        return size, found


def identity(path: str) -> tuple[int, int, int, int]:
    """Size, times and inode of a file, which tell one that another took the place of; zeros if it cannot be reached."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return 0, 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class SoundsDone:
    """Which sounds an output holds rows of: digests of their names, and of the files' sizes and times.

    A resumed command passes over the names that are done. Others are refused; files that have changed are reported.
    """

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
                f"{where}: of the {recorded['done']} {what} whose rows it holds, files have another size, time or "
                "place on the disk: if they were changed, their rows are of what was there before; to be sure, begin "
                "anew in another --out"
            )
