"""Resumable output: files of rows with a journal of committed sizes, so that a killed command can go on.

Comes in: lines of text, and the position (JSON values) from which to go on behind them. Goes out: files that end with a
whole line even where the disk is full, and until all is written the journal ``FILE.progress`` (in a folder,
``.progress``): JSON with ``settings``, ``place`` (the position) and ``files`` (the committed size of each open file).
Rows are on the disk before the journal counts them. Resuming cuts the files back to those sizes; what was behind is
computed again, to the same bytes.
"""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import filelock

from earsight.errors import EarsightError
from earsight.files import replace_text

COMMIT_SECONDS = 1.0
"""At most this much work is done again after a kill, and what one batch takes."""


class Output:
    """Where rows go; what only files need does nothing by default."""

    place: dict[str, Any] | None = None
    whole = False

    def open(self, name: str) -> bool:
        """Begin or go on with a file; whether it is new."""
        return True

    def write(self, name: str, text: str) -> None:
        """Add whole lines to an open file."""
        raise NotImplementedError

    def close(self, name: str) -> None:
        """Finish a file."""

    def commit(self, place: Mapping[str, Any], *, now: bool = False) -> None:
        """Record that all rows so far are whole, and the position behind them; seldom, but for ``now``."""

    def end(self) -> None:
        """Finish: all is written."""

    def drop(self) -> None:
        """Close all files, finished or not."""


class StreamOutput(Output):
    """Rows to a stream, whatever their file; it cannot be resumed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, name: str, text: str) -> None:
        """Write and flush, so that rows are seen as they come."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            raise  # the reader has gone
        except OSError as error:
            raise EarsightError(
                f"rows cannot be written ({error.strerror or error}); make room and give the command again. "
                "With --out FILE and --resume one goes on"
            ) from error


class FileOutput(Output):
    """Rows to one file, or to several in a folder, with a journal.

    Parameters
    ----------
    path : Path
        The file, whose name in `open` is the empty text; or the folder, in which files are named.
    folder : bool
        Which of the two.
    settings : dict
        JSON values that must be the same to go on.
    resume : bool
        Go on from `place`, the position in the journal (None to begin). Where the output is there without a journal
        it is `whole`: the journal goes when all is written.

    Raises
    ------
    EarsightError
        If there is an output already and ``resume`` is false; if another process writes it; if the journal is damaged,
        is of other settings, or does not fit the files.
    """

    def __init__(self, path: Path, *, folder: bool, settings: Mapping[str, Any], resume: bool) -> None:
        self._path, self._settings = path, json.loads(json.dumps(settings))
        self._journal = path / ".progress" if folder else path.with_name(f"{path.name}.progress")
        self._files: dict[str, int] = {}  # descriptors of the open files
        self._sizes: dict[str, int] = {}
        self._committed = -COMMIT_SECONDS
        self._lock = filelock.FileLock(f"{self._journal}.lock")
        files = [file for file in path.iterdir() if file.suffix not in (".lock", ".part")] if path.is_dir() else [path]
        present = any(file.exists() for file in files)
        if present and not resume:
            raise EarsightError(f"{path}: is there already; --resume goes on with it, or name another with --out")
        self._acquire()
        self.whole = present and not self._journal.exists()
        if present and not self.whole:
            self._read_journal()

    def open(self, name: str) -> bool:
        """Open a file behind its last whole line, or a new one."""
        path = self._file(name)
        new = name not in self._sizes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._files[name] = os.open(path, flags | (os.O_TRUNC if new else 0), 0o666)
        except OSError as error:
            raise self._refused(path, error) from error
        if not new:
            os.ftruncate(self._files[name], self._sizes[name])
            os.lseek(self._files[name], 0, os.SEEK_END)
        self._sizes.setdefault(name, 0)
        return new

    def write(self, name: str, text: str) -> None:
        """Add lines; where they do not fit, the file ends with those before them."""
        data = text.encode("utf-8", "surrogateescape")
        descriptor, done = self._files[name], 0
        try:
            while done < len(data):
                done += os.write(descriptor, data[done:])
        except OSError as error:
            os.ftruncate(descriptor, self._sizes[name])
            raise self._refused(self._file(name), error) from error
        self._sizes[name] += len(data)

    def close(self, name: str) -> None:
        """Finish a file: it is on the disk."""
        self._sync(name)
        os.close(self._files.pop(name))
        del self._sizes[name]

    def commit(self, place: Mapping[str, Any], *, now: bool = False) -> None:
        """Write the journal anew, at most once in `COMMIT_SECONDS` but for ``now``."""
        if not now and time.monotonic() - self._committed < COMMIT_SECONDS:
            return
        for name in self._files:
            self._sync(name)
        try:
            content = {"settings": self._settings, "place": place, "files": self._sizes}
            replace_text(self._journal, json.dumps(content), sync=True)
        except OSError as error:
            raise self._refused(self._journal, error) from error
        self._committed = time.monotonic()

    def end(self) -> None:
        """All is written and on the disk: the journal goes."""
        for name in list(self._files):
            self.close(name)
        self._journal.unlink(missing_ok=True)
        self.drop()

    def drop(self) -> None:
        """Close the files, finished or not; another process may go on with them."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def _acquire(self) -> None:
        """Lock the output, and remove what a killed process left of a journal that it was writing."""
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            for part in self._journal.parent.glob(f".{glob.escape(self._journal.name)}.*.part"):
                part.unlink(missing_ok=True)
        except filelock.Timeout as error:
            raise EarsightError(f"{self._path}: another process is writing it; wait for it, or stop it") from error
        except OSError as error:
            raise self._refused(self._path, error) from error

    def _sync(self, name: str) -> None:
        try:
            os.fsync(self._files[name])
        except OSError as error:
            raise self._refused(self._file(name), error) from error

    def _file(self, name: str) -> Path:
        return self._path / name if name else self._path

    def _refused(self, path: Path, error: OSError) -> EarsightError:
        return EarsightError(
            f"{path}: cannot be written ({error.strerror or error}); make room or mend the access. "
            "What was written is whole: the same command with --resume goes on from here"
        )

    def _read_journal(self) -> None:
        try:
            content = json.loads(self._journal.read_text(encoding="utf-8"))
            found, self.place, self._sizes = content["settings"], content["place"], dict(content["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EarsightError(
                f"{self._journal}: cannot be read; remove it and {self._path} and begin anew"
            ) from error
        other = sorted(key for key in found.keys() | self._settings.keys() if found.get(key) != self._settings.get(key))
        if other:
            raise EarsightError(
                f"{self._path}: was begun with another {', '.join(other)}; give the same, or another --out"
            )
        for name, size in self._sizes.items():
            path = self._file(name)
            if not path.is_file() or path.stat().st_size < size:
                raise EarsightError(f"{path}: is shorter than its journal says; remove it and begin anew")
