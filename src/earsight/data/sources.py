"""Sources of clips: what is known, what is held out, and what names suggest where nothing is known.

Comes in: a `Dataset`. Goes out: lines on its groups and its balance, for before training; and a `Guess` of each clip's
source from its name, as a csv that a user looks at and trains on. No guess ever enters a split by itself.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from earsight.data.datasets import SEPARATOR, Dataset
from earsight.data.duplicates import connected, joined
from earsight.data.splits import PARTS, is_part
from earsight.errors import counted
from earsight.files import replace_text

IMBALANCE = 5.0
"""Times the clips of the smallest class that the largest has, above which a data set counts as unbalanced."""
MAJORITY = 1.5
"""Times its fair share that the largest class has, above which this is so too."""
MOST_NAMED = 12
"""Up to this many groups are named."""
_SHARED = 0.05
"""Share of the clips that a guess must put together with others, or it says nothing."""
_MOST = 0.9
"""Share of the names that must follow a rule."""
_IDS = (
    re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE),  # of an app or a device
    re.compile(r"^[\w-]{11}(?=(_\d+){1,2}$)"),  # a video, and where in it the clip lies
)
_FIELD = re.compile(r"[\s._()\[\]+-]+")
_ID_FIELD = re.compile(r"(?=.*\d)[0-9a-f]{8,}|\d{4,}", re.IGNORECASE)
_PART = r"(?:part|pt|segment|seg|chunk|clip|slice|piece|snippet|excerpt|cut|crop|window|win|take)s?"
_PART_FIELD = re.compile(rf"{_PART}\d+", re.IGNORECASE)
_PART_END = re.compile(rf"[\s._()\[\]+-]+{_PART}[\s._-]*\d+$", re.IGNORECASE)
_COUNTERS = re.compile(r"([\s._-]+[(\[]?\d+[)\]]?|\s*[(\[]\d+[)\]])+$")
_HIGHEST_COUNTER = 100_000


class Guess(NamedTuple):
    """What names suggest: the rule in words, and each clip's group, in the data set's order."""

    rule: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class HeldOutFolds:
    """A data set, and the folds of it that are held out in turn."""

    dataset: Dataset
    folds: Sequence[int]

    def group_line(self) -> str:
        """How many groups there are, and which each fold holds out; for drawn folds without groups, that; else ""."""
        if not self.dataset.sources_known:
            drawn = self.dataset.folds_drawn
            return "groups: no sources are known, folds are drawn by label alone" if drawn else ""
        held = {fold: self._groups(fold) for fold in self.folds}
        total = len(np.unique(self.dataset.groups))
        if total <= MOST_NAMED:
            parts = [f"{self.dataset.part_name(fold)} holds out {', '.join(names)}" for fold, names in held.items()]
            return f"groups: {total}; {'; '.join(parts)}"
        sizes = sorted(map(len, held.values()))
        span = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        return f"groups: {total}, of which {'each fold' if len(held) > 1 else 'the fold'} holds out {span}"

    def clips_line(self, *, how: str) -> str:
        """How many clips and groups the first fold holds out, and which; ``how`` says by whom or by what."""
        rows = self.dataset.folds == self.folds[0]
        line = f"held out: {int(rows.sum())} of {len(rows)} clips"
        if self.dataset.sources_known:
            held, total = self._groups(self.folds[0]), len(np.unique(self.dataset.groups))
            line += f", {len(held)} of {total} groups" + (f" ({', '.join(held)})" if total <= MOST_NAMED else "")
        return f"{line}, {how}"

    def shared(self, guess: Guess) -> tuple[int, int]:
        """How many held-out clips share a guessed group with a training clip, and how many there are."""
        groups, out, total = np.array(guess.groups), 0, 0
        for fold in self.folds:
            held = groups[self.dataset.folds == fold]
            out += int(np.isin(held, groups[self.dataset.training(fold)]).sum())
            total += len(held)
        return out, total

    def guess_line(self, *, data: Path) -> str:
        """A line on sources that names suggest and that the folds tear apart; "" for none, or where they are known."""
        guess = guess_sources(self.dataset)
        shared, total = self.shared(guess) if guess else (0, 0)
        if guess is None or not shared:
            return ""
        return (
            f"sources are not known, but by {guess.rule} the clips would be from {len(set(guess.groups))}, and "
            f"{shared} of {counted(total, 'held-out clip')} share theirs with training clips, which may flatter the "
            f"accuracy. `earsight check {data} --sources sources.csv` writes them as a csv: look at it, and train on it"
        )

    def _groups(self, fold: int) -> list[str]:
        found: list[str] = np.unique(self.dataset.groups[self.dataset.folds == fold]).tolist()
        return found


def balance_line(labels: Sequence[str], *, several: bool = False) -> str:
    """A line that names an imbalance of the classes; "" where there is none to speak of.

    ``labels`` are the clips'; with ``several`` those of all clips, one by one.
    """
    sizes = Counter(labels)
    most, least = max(sizes, key=lambda name: sizes[name]), min(sizes, key=lambda name: sizes[name])
    if several:
        if sizes[most] <= IMBALANCE * sizes[least]:
            return ""
        weigh = "--set training.class_weights=balanced weighs rare classes more"
        return f"unbalanced: '{most}' sounds in {counted(sizes[most], 'clip')}, '{least}' in {sizes[least]}: {weigh}"
    share = sizes[most] / len(labels)
    if sizes[most] <= IMBALANCE * sizes[least] and share < MAJORITY / len(sizes):
        return ""
    return (
        f"unbalanced: always saying '{most}' would be right in {100 * share:.1f} % of the clips ({sizes[most]}; "
        f"'{least}' has {sizes[least]}): go by balanced accuracy and macro F1; --set training.class_weights=balanced "
        "weighs the classes alike"
    )


def guess_sources(dataset: Dataset) -> Guess | None:
    """Guess each clip's source from its path; None where sources are known, or names tell nothing.

    Tried in this order: a folder below that of the class; an id of an app, a device or a video; a field of the names
    that is a long number or a word; the name without the part's number (as in part2), or without its sequence number.
    A rule counts if it puts at least 5 % of the clips together with others, and gives half of the classes two sources
    or more: a field that only repeats the class is no source.
    """
    if dataset.sources_known:
        return None
    labels = [clip.label for clip in dataset.clips]
    paths = [PurePosixPath(clip.path) for clip in dataset.clips]
    stems = [path.stem for path in paths]
    # Such as train/, which is no source.
    parts = {name for path in paths for name in path.parts[:1] if dataset.split and is_part(name)}
    folders = [
        "/".join(name for name in path.parts[:-1] if name not in {label, *parts})
        for path, label in zip(paths, labels, strict=True)
    ]
    rules: list[tuple[str, list[str]]] = [("the folder below that of the class", folders)]
    for pattern in _IDS:
        found = [pattern.search(stem) for stem in stems]
        if sum(map(bool, found)) >= _MOST * len(stems):
            ids = [hit[0].lower() if hit else stem for hit, stem in zip(found, stems, strict=True)]
            rules.append(("an id in their names", ids))
    rules += [
        *_fields(stems),
        ("their names without the part's number at the end", [_PART_END.sub("", stem) for stem in stems]),
        ("their names without the number at the end", [_COUNTERS.sub("", stem) for stem in stems]),
    ]
    for rule, groups in rules:
        if _tells(groups, labels):
            return Guess(f"{rule} (such as '{Counter(groups).most_common(1)[0][0]}')", tuple(groups))
    return None


def _fields(stems: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Fields of names that have equally many: ids first, then words; those that gather most clips first."""
    table = [[part for part in _FIELD.split(stem) if part] for stem in stems]
    if len({len(row) for row in table}) != 1:
        return []
    ids, words = [], []
    for column in map(list, zip(*table, strict=True)):
        if _is_counter(column):
            continue
        if sum(bool(_ID_FIELD.fullmatch(value)) for value in column) >= _MOST * len(column):
            ids.append(column)
        elif min(map(len, column)) > 1 and any(char.isalpha() for char in column[0]):
            words.append(column)
    named = [("a number in their names", column) for column in sorted(ids, key=lambda one: len(set(one)))]
    return named + [("a word in their names", column) for column in sorted(words, key=lambda one: len(set(one)))]


def _is_counter(column: Sequence[str]) -> bool:
    """Whether a field counts on: numbers without large gaps, single letters, or parts as in part1 and part2."""
    if all(len(value) == 1 or _PART_FIELD.fullmatch(value) for value in column):
        return True
    if not all(value.isascii() and value.isdigit() for value in column):
        return False
    numbers = {int(value) for value in column}
    return max(numbers) < _HIGHEST_COUNTER and 2 * len(numbers) >= max(numbers) - min(numbers) + 1


def _tells(groups: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether a rule puts clips together, into three sources or more, and does not only repeat the class."""
    sizes = Counter(groups)
    together = sum(size for size in sizes.values() if size > 1)
    of_class: defaultdict[str, set[str]] = defaultdict(set)
    for group, label in zip(groups, labels, strict=True):
        of_class[label].add(group)
    several = sum(len(found) > 1 for found in of_class.values())
    return len(sizes) > 2 and together >= max(2.0, _SHARED * len(groups)) and 2 * several >= len(of_class)


def with_same_sounds(
    dataset: Dataset, guess: Guess | None, sounds: Iterable[Sequence[str]]
) -> tuple[tuple[str, ...], int]:
    """Each clip's source, known or guessed, where clips of one sound (paths) have one; and how many sounds joined some.

    A source that is joined with others has the first of their names.
    """
    row_of = {clip.path: row for row, clip in enumerate(dataset.clips)}
    groups = np.array(guess.groups) if guess else dataset.groups
    rows = [[row_of[path] for path in paths] for paths in sounds]
    torn = connected((a, b) for part in rows for a, b in itertools.pairwise(part))
    torn = [part for part in torn if len(set(groups[part].tolist())) > 1]
    return tuple(joined(groups, torn).tolist()), len(torn)


def write_sources(dataset: Dataset, groups: Sequence[str], path: Path, *, without: Container[str] = ()) -> None:
    """Write a csv of path, label, group (and the given folds or split): the data set with these sources.

    ``without`` are the paths of clips that are left out.
    """
    text, home = io.StringIO(), path.absolute().parent
    given = "split" if dataset.split else "" if dataset.folds_drawn or dataset.fold_numbers == (0,) else "fold"
    masked = any(clip.unknown for clip in dataset.clips)
    columns = ("path", "label", "group", *((given,) if given else ()), *(("unknown",) if masked else ()))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row, (clip, group) in enumerate(zip(dataset.clips, groups, strict=True)):
        if clip.path in without:
            continue
        file = dataset.file(row).absolute()
        below = os.path.relpath(file, home)
        place = file.as_posix() if below.startswith("..") else Path(below).as_posix()
        part = (PARTS[clip.fold],) if dataset.split else (clip.fold,) if given else ()
        more = (*part, *((SEPARATOR.join(clip.unknown),) if masked else ()))
        writer.writerow((place, clip.label, group, *more))
    replace_text(path, text.getvalue())
