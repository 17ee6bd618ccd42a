"""What Python callers may give for an argument, by its name, which means the same wherever it stands.

Comes in: a public function, or an object of options. Goes out: the function, which refuses what is of another kind in
words that name the argument. numpy's numbers and paths of any kind of `os.PathLike` come through as Python's own.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from earsight.errors import EarsightError, refused, shown

_F = TypeVar("_F", bound=Callable[..., Any])


class Kind(NamedTuple):
    """A kind of value: what is ``expected``, in words, and how one is ``taken``; others raise."""

    expected: str
    taken: Callable[[Any], Any]

    def of(self, name: str, value: Any) -> Any:
        """The value as it is used; EarsightError if it is of another kind."""
        try:
            return self.taken(value)
        except (AttributeError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise EarsightError(f"{name} is {shown(value)}; expected {self.expected}") from error


def _where(expected: str, fits: Callable[[Any], Any], taken: Callable[[Any], Any] = lambda value: value) -> Kind:
    return Kind(expected, lambda value: taken(value) if fits(value) else _no(value))


def _no(value: Any) -> Any:
    raise TypeError


def instance(expected: str, *types: type, more: Callable[[Any], Any] = _no) -> Kind:
    """An object of one of the classes, or what ``more`` takes."""
    return Kind(expected, lambda value: value if isinstance(value, types) else more(value))


def one_of(*texts: str) -> Kind:
    """One of these texts."""
    return _where(" or ".join(map(repr, texts)), lambda value: isinstance(value, str) and value in texts)


def _number(expected: str, fits: Callable[[Any], bool], of: type = Real, taken: type = float) -> Kind:
    return _where(expected, lambda value: isinstance(value, of) and not isinstance(value, bool) and fits(value), taken)


def _whole(least: int) -> Kind:
    return _number(f"a whole number of at least {least}", lambda value: value >= least, Integral, int)


def _path(value: Any) -> str | Path:
    """A text as it is, else a `Path`; what shells and browsers know is refused with the way out."""
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise TypeError
    if text.split("/")[0] == "~":
        raise EarsightError(f"{shown(text)}: only shells know what ~ is; give Path(...).expanduser()")
    if re.match(r"\w{3,}:/", text) and not text.startswith("hf:"):
        raise EarsightError(f"{shown(text)}: is an address; download what is there, and give its path")
    return value if isinstance(value, str) else Path(value)


def _sound(value: Any) -> Any:
    if isinstance(value, str | os.PathLike):
        return _path(value)
    return _no(value) if value is None or isinstance(value, Mapping | Real) else value


def _each(kind: Kind) -> Callable[[Any], tuple[Any, ...]]:
    no_list = (str, bytes, Mapping)
    return _where("", lambda value: not isinstance(value, no_list), lambda value: tuple(map(kind.taken, value))).taken


def _array(value: Any) -> Any:
    import numpy as np

    return np.asarray(value)


PATH = Kind("a path, as in 'sounds/new'", _path)
FLAG = _where("True or False", lambda value: isinstance(value, bool) or str(value.dtype) == "bool", bool)
TEXT = instance("a text", str)
_SHARE = _number("a probability above 0, up to 1", lambda value: 0 < value <= 1)
_LENGTH = _number("a finite number of seconds above 0, as in 1.5", lambda value: 0 < value < math.inf)
_SECONDS = _number("a finite number of seconds, 0 or more", lambda value: 0 <= value < math.inf)
_CHANGES = instance("a mapping, as in {'training.epochs': 10}, or texts", str, Mapping, more=_each(TEXT))
_KINDS = {
    **dict.fromkeys(("data", "out", "path", "folder", "source", "recipe", "boxes", "root", "cache"), PATH),
    **dict.fromkeys(("device", "label", "layout", "subset", "label_from", "labels", "label_column", "annotator"), TEXT),
    **dict.fromkeys(("progress", "first", "damaged", "curves", "events", "complete", "skip_rare", "skip_bad"), FLAG),
    "fold": _whole(0),
    "seed": _number("a whole number from 0 to 2**63 - 1", range(2**63).__contains__, Integral, int),
    **dict.fromkeys(("seeds", "jobs", "threads", "batch_size", "most_windows"), _whole(1)),
    **dict.fromkeys(("most_seconds", "hop_seconds", "window_seconds", "hop"), _LENGTH),
    **dict.fromkeys(("tolerance", "shortest_seconds", "gap_seconds"), _SECONDS),
    **dict.fromkeys(("threshold", "release", "box_share"), _SHARE),
    **{"splits": _whole(2), "most_steps": _whole(16), "never": TEXT, "overrides": _CHANGES, "assignments": _CHANGES},
    "folds": Kind("whole numbers, as in [1, 2]", lambda value: _each(_whole(0))(value) or _no(value)),
    "sound": Kind("a path, the bytes of a sound file, a file opened with 'rb', or an array with its rate", _sound),
    "waves": Kind("an array (batch, samples) of floats at the model's rate", _array),
    "paths": _where(
        "several paths, as in ['new.wav']",
        lambda value: not isinstance(value, str | bytes | os.PathLike),
        # Each is looked at when it is its turn: there may be no end of them.
        lambda value: (PATH.of(f"paths[{place}]", one) for place, one in enumerate(value)),
    ),
    "of_class": _where(
        "a mapping of classes to probabilities, as in {'dog': 0.7}",
        lambda value: all(isinstance(name, str) and 0 <= float(share) <= 1 for name, share in value.items()),
    ),
}
_TYPED = {"shortest_seconds": "--min-duration", "gap_seconds": "--gap"}  # where `earsight predict` checks fields


def _taken(kinds: Mapping[str, Kind], name: str, value: Any, default: Any) -> Any:
    """An argument as it is used; None where that is the default, and whatever has no kind."""
    if name not in kinds or value is default is None:
        return value
    return kinds[name].of(_TYPED.get(name, name), value)


def checked(**own: Kind) -> Callable[[_F], _F]:
    """Decorate a public function: its arguments are looked at, some of them as of kinds of its ``own``.

    What the system refuses it is an `EarsightError` too.
    """

    def decorate(function: _F) -> _F:
        signature, kinds = inspect.signature(function), _KINDS | own

        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            try:
                given = signature.bind(*args, **named)
            except TypeError:
                return function(*args, **named)  # for Python's own words, which have the function's name
            for name, value in given.arguments.items():
                if name in kinds:
                    given.arguments[name] = _taken(kinds, name, value, signature.parameters[name].default)
            try:
                return function(*given.args, **given.kwargs)
            except OSError as error:
                raise EarsightError(refused(error)) from error

        return cast(_F, call)

    return decorate


def check_fields(options: Any) -> None:
    """Look at the fields of an object of options as at the arguments of a function."""
    for field in fields(options):
        _taken(_KINDS, field.name, getattr(options, field.name), field.default)
