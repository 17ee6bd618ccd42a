"""The paper's data sets among the folders that a user gives.

Comes in: paths. Goes out: an opened `Dataset` for each of the paper's data sets that they hold. An ESC-50 also holds
ESC-10; a folder of ESC-10 alone comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from earsight.data.datasets import Dataset
from earsight.data.layouts import open_dataset
from earsight.errors import DataError


@dataclass(frozen=True)
class Kind:
    """One of the paper's data sets.

    ``layout`` is one of `earsight.data.layouts`, ``place`` the path shown in commands if none was given. ``broken``
    says that one of its files is known to be unreadable, so that --skip-bad is needed.
    """

    title: str
    layout: str
    classes: int
    place: str
    folds: tuple[int, ...]
    broken: bool = False


_FIVE = (1, 2, 3, 4, 5)
KINDS = {
    "esc50": Kind("ESC-50", "esc50", 50, "path/to/ESC-50", _FIVE),
    "esc10": Kind("ESC-10", "esc50", 10, "path/to/ESC-50", _FIVE),
    "urbansound8k": Kind("UrbanSound8K", "urbansound8k", 10, "path/to/UrbanSound8K", tuple(range(1, 11))),
    "gtzan": Kind("GTZAN", "gtzan", 10, "path/to/GTZAN", _FIVE, broken=True),
}
_SUBSETS = {"esc10": "esc50"}
"""Subset -> the data set that contains it."""


@dataclass(frozen=True)
class Found:
    """A data set of the paper, and its path on the command line."""

    path: Path
    dataset: Dataset


def recognise(paths: Sequence[Path]) -> dict[str, Found]:
    """Open what the paths hold, by the names of `KINDS`.

    DataError if a path is missing, holds none of the paper's data sets, or two hold the same.
    """
    whole: dict[str, Found] = {}
    parts: dict[str, Found] = {}
    for path in paths:
        given = open_dataset(path)
        names = _names(path, given)
        for place, name in enumerate(names):
            dataset = open_dataset(path, subset=name) if name in _SUBSETS else given
            target = parts if place else whole
            if name in target and not place:
                raise DataError(f"{path}: is {KINDS[name].title}, and so is {target[name].path}; give one of them")
            target.setdefault(name, Found(path, dataset))
    return parts | whole


def _names(path: Path, dataset: Dataset) -> list[str]:
    """The paper's data set in a folder, and those that it contains."""
    names = [name for name, kind in KINDS.items() if kind.layout == dataset.layout and name not in _SUBSETS]
    held = [name for name, whole in _SUBSETS.items() if whole in names and _has_part(path, name)]
    whole = [name for name in names if KINDS[name].classes == len(dataset.classes)]
    if not whole and not held:
        known = ", ".join(kind.title for kind in KINDS.values())
        raise DataError(
            f"{path}: {dataset.describe()}; expected one of the paper's data sets ({known}) in its own layout; "
            "`earsight crossval` takes any other"
        )
    return whole + held


def _has_part(path: Path, name: str) -> bool:
    try:
        open_dataset(path, subset=name)
    except DataError:
        return False
    return True
