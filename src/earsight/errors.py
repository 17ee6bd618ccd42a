"""Errors that a user can correct.

Every message names the value that was found, what was expected, and the remedy. The command line prints the message
alone, on standard error, and ends with exit code 2. Sources write options as the command line has them
(``--skip-bad``); outside verbs they are read as Python's (``skip_bad``).
"""

from __future__ import annotations

import errno
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OPTION = re.compile(r"`[^-`][^`]*`|(?<![\w/-])--([a-z][a-z-]*)(?![\w-]|\.\w)")
"""An option; or a whole command between backticks, which is one in Python's world too."""
_SAME = """annotator box-share boxes cache complete data device first fold folds hop jobs label label-column label-from
labels layout most-windows out recipe root seed seeds skip-bad skip-rare splits subset threads tolerance
window-seconds"""
_OTHER = {"set": "overrides", "max-steps": "most_steps", "min-duration": "shortest_seconds", "gap": "gap_seconds"}
_IN_PYTHON = {name: name.replace("-", "_") for name in _SAME.split()} | _OTHER
"""The options that Python callers have, by their parameters; another word after two hyphens is of a file's name."""
_verbs_at_work = 0


@contextmanager
def options_as_typed() -> Iterator[None]:
    """Errors have the command line's words for as long as the block runs, as for whoever typed a verb."""
    global _verbs_at_work  # of the process, for a verb's threads raise errors too
    _verbs_at_work += 1
    try:
        yield
    finally:
        _verbs_at_work -= 1


def worded(text: str) -> str:
    """A text whose options are those of whoever asked: ``--skip-bad`` of a verb, ``skip_bad`` of Python."""
    if _verbs_at_work:
        return text
    return _OPTION.sub(lambda found: _IN_PYTHON.get(found[1], found[0]), text)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an OSError where a disk, a quota or a file has no room left."""
_REMEDIES = {
    **dict.fromkeys(NO_ROOM, "make room"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "mend the access"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    errno.ENOENT: "put it back",
    errno.EISDIR: "a folder is where a file belongs: move it away",
    errno.ENAMETOOLONG: "take a shorter name",
}


class EarsightError(Exception):
    """A mistake that the user can correct; its text is one or two lines and says how."""

    def __str__(self) -> str:
        return worded(super().__str__())

    def __format__(self, form: str) -> str:
        """In another message as it was written: whoever shows that words it, if in another process."""
        return format(super().__str__(), form)


class RecipeError(EarsightError):
    """A recipe or an override that does not parse or does not fit."""


class DataError(EarsightError):
    """A data set that is missing, unreadable, or unfit for what was asked."""


class AudioError(DataError):
    """One audio file that cannot be read as sound: its ``path``, as the user named it, and the ``reason``.

    The reason says, without the path, what was found and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        """Pickle by both arguments, so that the error passes unchanged between processes."""
        return type(self), (self.path, self.reason)


class ModelError(EarsightError):
    """A model file, a backbone or pretrained weights that cannot be used."""


class RunError(EarsightError):
    """A run folder that does not fit what was asked of it."""


class ServiceError(EarsightError):
    """A service that cannot start as it was asked to."""


def remedy_of(error: OSError) -> str:
    """What helps where the system refuses a file or a socket, for a message: only a full disk wants room."""
    if "AF_UNIX path" in str(error):  # Python's and Ray's, without a number
        return "the path of the folder for temporary files is too long: set TMPDIR to a short one, such as /tmp"
    return _REMEDIES.get(error.errno or 0, "check the path and the disk")


def refused(error: OSError, remedy: str = "") -> str:
    """What the system refused, of which file, and what helps."""
    name = str(error.filename or "")
    where = f"{name if len(name) <= 300 else name[:77] + '...'}: " if name else ""
    return f"{where}{error.strerror or error}; {remedy or remedy_of(error)}"


class SoundWarning(UserWarning):
    """A sound of which the network gets only a part, or whose scale is unsure; the command line says it by itself."""


def warn_of_sound(text: str) -> None:
    """Warn whoever called earsight, at their own line."""
    ours = "earsight", "contextlib"  # whose frames lie between ours
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(worded(text), SoundWarning, stacklevel=depth)


def shown(value: Any) -> str:
    """A value for a message: on one line, short, and nothing in it that a terminal would obey."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # whole numbers of more than 4300 digits have no text
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 80 else text[:77] + "..."


def unless_address(way: str, path: object) -> str:
    """What to do about a path that is not there; of an address, as http://..., to download what is there."""
    return "download what is there, and give its path" if re.match(r"\w{2,}:/", str(path)) else way


def were(number: int) -> str:
    """The verb of a counted noun: "1 clip was", "2 clips were"."""
    return "was" if number == 1 else "were"


def counted(number: int, noun: str) -> str:
    """A number with its noun, which takes an s, or es after one, where it is not one: "1 epoch", "2 classes"."""
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"
