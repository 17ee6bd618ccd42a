"""A data set: its clips with their labels, folds and source groups, and the checks of such a list.

Comes in: a folder or a table, through the readers of `earsight.data.layouts`. Goes out: a `Dataset` of clips in an
order that never changes, so that row i means the same clip in every store, fold and prediction. No sound is decoded
here.

A data set that brings a test part of its own has a *split*: its folds are then `TEST`, `TRAIN` and `VALIDATION`, and
only `TEST` is ever held out. One whose clips may have several labels says so (``several``), and has `Dataset.targets`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from earsight.data import audio
from earsight.data.splits import PARTS, TEST, TRAIN, VALIDATION
from earsight.errors import AudioError, DataError, counted, worded

_A = TypeVar("_A", bound=npt.NDArray[Any])
_T = TypeVar("_T")
SEPARATOR = ";"
"""Between the labels of a clip that has several."""


@dataclass(frozen=True)
class Clip:
    """One sound: its path (posix, below the root, or absolute if it lies elsewhere), label, fold and source group.

    The fold is 0 where none were asked for, and one of `TEST`, `TRAIN` and `VALIDATION` where the data set has a split.
    ``begin`` and ``end`` are seconds within the file, in whole milliseconds, where the clip is a part of it. Of several
    labels ``label`` has all, sorted, with `SEPARATOR` between them, and is empty for none of the classes; ``unknown``
    are classes of which it is not known whether they sound.
    """

    path: str
    label: str
    fold: int
    group: str
    begin: float = 0.0
    end: float | None = None
    unknown: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a clip that may have several."""
        return tuple(self.label.split(SEPARATOR)) if self.label else ()

    @property
    def part(self) -> tuple[float, ...]:
        """Begin and end, where the clip is a part of its file; nothing, also in digests, where it is the file."""
        return () if self.end is None else (self.begin, self.end)

    @property
    def name(self) -> str:
        """What names the clip among all: its path, and ``@begin-end`` in seconds where it is a part of that file."""
        return self.path if self.end is None else f"{self.path}@{self.begin:.3f}-{self.end:.3f}"


@dataclass(frozen=True)
class Hints:
    """What `earsight.recipe.Recipe.resolve` fills in: rate in Hz, clip length in seconds, spectrogram columns."""

    sample_rate_hz: int
    clip_seconds: float
    frames: int


@dataclass(frozen=True)
class Listing:
    """Rows of a data set before its folds are fixed; `folds` is None if they are to be drawn.

    ``table`` is the file that names the paths, if one does: they may then be missing. ``split`` says that the folds are
    `TEST`, `TRAIN` and `VALIDATION`; ``several`` that labels are joined by `SEPARATOR`, and ``unknown`` are then each
    row's classes of which nothing is known, where there are such.
    """

    name: str
    root: Path
    paths: list[str]
    labels: list[str]
    groups: list[str]
    folds: list[int] | None = None
    hints: Hints | None = None
    notes: list[str] = field(default_factory=list)
    table: Path | None = None
    split: bool = False
    several: bool = False
    unknown: list[tuple[str, ...]] | None = None

    def kept(self, mask: Sequence[bool]) -> Listing:
        """The rows that the mask marks."""
        by_choice = [name for name in ("folds", "unknown") if getattr(self, name) is not None]
        names = ("paths", "labels", "groups", *by_choice)
        columns = {name: list(compress(getattr(self, name), mask)) for name in names}
        return replace(self, **columns)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Dataset:
    """Clips in data set order with their folds, read by the reader of `earsight.data.layouts` that ``layout`` names.

    The clips' paths are relative to ``root``; ``classes`` are the labels, sorted, and a label's index is its place
    there; ``notes`` are lines that a user should know; ``missing`` are files that a table names and that are not there;
    ``options`` are those of the command line that open it so again; ``drawn_seed`` is that of a drawn split in two
    folds, of which 1 is held out. ``several``: clips may have several labels, or none, and have `targets` alone.
    ``background`` is the label, and of a data set with one label a clip the class, of clips that hold none of
    the others; None where there is none.
    """

    name: str
    layout: str
    root: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    hints: Hints
    notes: tuple[str, ...] = ()
    split: bool = False
    missing: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    drawn_seed: int | None = None
    several: bool = False
    background: str | None = None

    def __post_init__(self) -> None:
        """Notes name options as whoever opens it has them."""
        object.__setattr__(self, "notes", tuple(map(worded, self.notes)))

    def file(self, row: int) -> Path:
        """The file of one clip, or what names its part of one to `earsight.data.audio`."""
        return self.root / self.clips[row].name

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Index of each clip's class, shape (clips,); where clips may have several labels there is none."""
        if self.several:
            raise RuntimeError("clips with several labels have no one label; use targets")
        place = {name: index for index, name in enumerate(self.classes)}
        return _kept(np.array([place[clip.label] for clip in self.clips], dtype=np.int64))

    @cached_property
    def targets(self) -> npt.NDArray[np.float32]:
        """Whether each class sounds in each clip, shape (clips, classes): 1, 0, or NaN where that is not known."""
        place = {name: index for index, name in enumerate(self.classes)}
        out = np.zeros((len(self.clips), len(self.classes)), dtype=np.float32)
        for row, clip in enumerate(self.clips):
            out[row, [place[name] for name in clip.unknown]] = np.nan
            out[row, [place[name] for name in (clip.labels if self.several else (clip.label,))]] = 1
        return _kept(out)

    @cached_property
    def strata(self) -> npt.NDArray[np.int64]:
        """What splits are stratified by: `labels`, or of several labels a 0 or 1 for each class, (clips, classes)."""
        return _kept((self.targets == 1).astype(np.int64)) if self.several else self.labels

    def sizes(self, rows: npt.NDArray[Any] | None = None) -> npt.NDArray[np.int64]:
        """How many of all clips, or of some rows (numbers or a mask), each class sounds in, shape (classes,)."""
        every = slice(None) if rows is None else rows
        if not self.several:
            return np.bincount(self.labels[every], minlength=len(self.classes))
        found: npt.NDArray[np.int64] = (self.targets[every] == 1).sum(axis=0)
        return found

    @cached_property
    def folds(self) -> npt.NDArray[np.int64]:
        """Fold number of each clip, shape (clips,)."""
        return _kept(np.array([clip.fold for clip in self.clips], dtype=np.int64))

    @cached_property
    def groups(self) -> npt.NDArray[np.str_]:
        """Source of each clip, shape (clips,)."""
        return _kept(np.array([clip.group for clip in self.clips], dtype=np.str_))

    @cached_property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Length of each clip, shape (clips,), as its file says where it is no part; NaN where that cannot be read."""
        whole = list(dict.fromkeys(clip.path for clip in self.clips if clip.end is None))
        with ThreadPoolExecutor() as pool:
            lengths = dict(zip(whole, pool.map(_seconds, (self.root / path for path in whole)), strict=True))
        return _kept(np.array([lengths[c.path] if c.end is None else c.end - c.begin for c in self.clips]))

    @cached_property
    def parts(self) -> bool:
        """Whether clips are parts of files, as windows of recordings are."""
        return any(clip.end is not None for clip in self.clips)

    @cached_property
    def whole_files(self) -> Dataset:
        """The same with each file once and whole, all of one label, where clips are parts of files."""
        if not self.parts:
            return self
        first = {clip.path: clip for clip in reversed(self.clips)}
        clips = [replace(first[path], label=self.layout, begin=0.0, end=None, unknown=()) for path in sorted(first)]
        return replace(self, clips=tuple(clips), classes=(self.layout,), several=False)

    @cached_property
    def sources_known(self) -> bool:
        """Whether some clip has another source than itself: a layout or a csv that names none makes each its own."""
        return any(clip.group != clip.name for clip in self.clips)

    @cached_property
    def fold_numbers(self) -> tuple[int, ...]:
        """The folds that can be held out, rising: of a data set with a split its test part alone."""
        return (TEST,) if self.split else tuple(sorted({clip.fold for clip in self.clips}))

    def training(self, fold: int) -> npt.NDArray[np.bool_]:
        """The clips to train on while a fold is held out, shape (clips,)."""
        mask: npt.NDArray[np.bool_] = (self.folds != fold) & ~self.validation
        return mask

    @cached_property
    def validation(self) -> npt.NDArray[np.bool_]:
        """The clips of the data set's own validation part, shape (clips,): they train nothing."""
        return _kept((self.folds == VALIDATION) & self.split)

    def fold_name(self, fold: int) -> str:
        """A fold in words: its part, where the data set has a split."""
        return PARTS[fold] if self.split else str(fold)

    def part_name(self, fold: int) -> str:
        """The same with its noun; a drawn split in two has no fold of the data set's."""
        if self.drawn_seed is not None:
            return "drawn part"
        return f"{PARTS[fold]} part" if self.split else f"fold {fold}"

    @property
    def folds_drawn(self) -> bool:
        """Whether the folds were drawn when the data set was opened."""
        return any(note.startswith(DRAWN_FOLDS) for note in self.notes)

    @property
    def held_out(self) -> dict[str, Any] | None:
        """Where the held-out part is no fold: its ``kind`` (drawn or test), and the draw's ``seed``."""
        if self.drawn_seed is not None:
            return {"kind": "drawn", "seed": self.drawn_seed}
        return {"kind": "test"} if self.split else None

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the rows: path, part, label, fold and group, in order; not the root."""
        # JSON, in ASCII: no two different rows give the same bytes, and any file name passes.
        rows = (json.dumps([c.path, c.label, c.fold, c.group, *c.part, *_masked(c)]) + "\n" for c in self.clips)
        return hashlib.sha256("".join(rows).encode()).hexdigest()[:12]

    @cached_property
    def clips_digest(self) -> str:
        """Hash (12 hex digits) of the clips and their labels, whatever their folds and order."""
        rows = sorted(json.dumps([clip.path, clip.label, *clip.part, *_masked(clip)]) for clip in self.clips)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:12]

    def describe(self) -> str:
        """One line that describes the data set."""
        title = TITLES.get(self.layout, self.layout)
        line = f"{title} ({self.name}): {counted(len(self.clips), 'clip')}, {counted(len(self.classes), 'class')}"
        line += ", several labels a clip" if self.several else ""
        if self.split:
            sizes = Counter(clip.fold for clip in self.clips)
            return line + "".join(f", {sizes[part]} {PARTS[part]}" for part in (TRAIN, VALIDATION, TEST) if sizes[part])
        kind = "stratified" if self.folds_drawn else "official" if self.layout in OFFICIAL_FOLDS else "given"
        return line + ("" if self.fold_numbers == (0,) else f", {counted(len(self.fold_numbers), f'{kind} fold')}")


TITLES = {
    "esc50": "ESC-50 layout", "urbansound8k": "UrbanSound8K layout", "gtzan": "GTZAN layout",
    "folder": "a folder per class", "csv": "a csv of clips", "speechcommands": "Speech Commands layout",
    "fsdd": "Free Spoken Digit Dataset layout", "fsd50k": "FSD50K layout", "dcase": "DCASE layout",
    "audiofolder": "audiofolder layout", "boxes": "windows of recordings",
}  # fmt: skip
OFFICIAL_FOLDS = frozenset({"esc50", "urbansound8k", "dcase"})
FIXED_WINDOW = frozenset({"esc50", "urbansound8k", "gtzan"})
"""Layouts whose clips are one window, as published results have it."""
DRAWN_FOLDS = "folds drawn:"
BACKGROUND = "background"
"""The class of clips that hold none of the others."""
_BACKGROUND_NAMES = frozenset(
    {"background", "none of these", "none", "nothing", "nocall", "no call", "background noise"}
)


def is_background(label: str) -> bool:
    """Whether a label, or a folder, is named as one of clips that hold none of the classes."""
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split()) in _BACKGROUND_NAMES


def check_rows(
    paths: list[str], labels: list[str], *, where: str, remedy: str = "", one_class: bool = False, several: bool = False
) -> None:
    """Raise `DataError` if there are no clips, a clip is named twice, or (with the remedy) there is only one class.

    ``one_class`` lets the last pass, for clips that only test. With ``several`` labels a clip may have none, and one
    class will do where some clips are not of it.
    """
    if not paths:
        raise DataError(f"{where}: no clips found; expected sound files such as .wav, .flac, .ogg or .mp3")
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise DataError(f"{where}: {len(twice)} files are named more than once ({first(twice)}); keep one row for each")
    names = sorted(set(labels))
    if several:
        if names == [""]:
            raise DataError(f"{where}: no clip has a label; name the classes that sound in each, as in dog;cat")
        if len(names) == 1 and not one_class:
            raise DataError(f"{where}: all clips have the same labels, '{names[0]}'; add clips without one of them")
        return
    if "" in names:
        raise DataError(f"{where}: {labels.count('')} clips have an empty label; name their class or remove them")
    if len(names) == 1 and not one_class:
        raise DataError(f"{where}: only one class, '{names[0]}'; at least two are needed to tell sounds apart{remedy}")


class TooFewError(DataError):
    """A class with too few clips or sources for as many folds."""


def check_enough(labels: npt.NDArray[Any], groups: npt.NDArray[Any], *, folds: int, where: str) -> None:
    """Raise `TooFewError`, with a number that works, if the smallest class cannot fill so many folds.

    Of several labels, a 0 or 1 for each class (clips, classes), rare classes pass: they are learnt where they can be.
    """
    if folds < 2:
        raise DataError(f"--splits {folds}: at least 2 are needed to train on some and test on the others")
    if labels.ndim == 2:
        sources = len(np.unique(groups))
        if sources < folds:
            have = f"{counted(len(groups), 'clip')} from {counted(sources, 'group')}"
            remedy = f"use --splits {sources}" if sources > 1 else "at least 2 sources are needed: add some"
            raise TooFewError(f"{where}: {have}, fewer than {counted(folds, 'fold')}; {remedy}")
        return
    for label in np.unique(labels):
        rows = labels == label
        sources = len(np.unique(groups[rows]))
        if sources >= folds:
            continue
        of = "" if sources == rows.sum() else f" from {counted(sources, 'group')}"
        have = f"{where}: class '{label}' has {counted(int(rows.sum()), 'clip')}{of}"
        if sources < 2:
            raise TooFewError(f"{have}; at least 2 sources are needed: add some or remove it")
        raise TooFewError(f"{have}, fewer than {counted(folds, 'fold')}; use --splits {sources}")


def fold_notes(labels: list[str], folds: list[int], *, where: str, several: bool = False) -> list[str]:
    """Notes on classes that a fold does not test; `DataError` where one fold has all clips of a class, or of all.

    With ``several`` labels, of which rare ones are common, a class that one fold has all clips of is a note too.
    """
    numbers = sorted(set(folds))
    if len(numbers) < 2:
        way = "add clips of another, or list these in a csv (path,label,group) without a fold, to have folds drawn"
        raise DataError(f"{where}: every clip is in fold {numbers[0]}; at least two folds are needed: {way}")
    notes = []
    if several:
        used_by = sorted(_folds_of(*exploded(labels, folds)).items())
        alone = [f"{label} (fold {min(used)})" for label, used in used_by if len(used) == 1]
        for number in numbers:
            lacking = [label for label, used in used_by if number not in used and len(used) > 1]
            if lacking:
                notes.append(f"{counted_classes(lacking)} without a clip in fold {number}: not tested there")
        if alone:
            notes.append(
                f"{counted_classes(alone)} with clips in one fold alone: not learnt while that is held out, and tested "
                "there all the same; more sources would mend it"
            )
        return notes
    for label, used in sorted(_folds_of(labels, folds).items()):
        if len(used) == 1:
            why = "nothing is left to train it when that fold is held out"
            way = "move some to another fold or remove the class"
            raise DataError(f"{where}: all clips of class '{label}' are in fold {min(used)}, so {why}; {way}")
        missing = [str(number) for number in numbers if number not in used]
        if missing:
            notes.append(f"class '{label}' has no clip in fold {', '.join(missing)}: it is not tested there")
    return notes


def exploded(labels: Sequence[str], values: Sequence[_T]) -> tuple[list[str], list[_T]]:
    """Labels of clips that may have several, one by one, and the clips' values beside them."""
    pairs = [
        (name, value) for label, value in zip(labels, values, strict=True) if label for name in label.split(SEPARATOR)
    ]
    return [name for name, _ in pairs], [value for _, value in pairs]


def counted_classes(names: list[str]) -> str:
    """How many classes, and the first of them."""
    return f"{len(names)} class{'' if len(names) == 1 else 'es'} ({first(names, 5)})"


def split_notes(labels: list[str], folds: list[int], *, where: str, several: bool = False) -> list[str]:
    """Notes on a given split: classes that are not tested, and what validation clips do.

    `DataError` if there is nothing to test, or a class has no training clip; a note, where there are ``several``
    labels.
    """
    sizes = Counter(folds)
    if not sizes[TEST] or not sizes[TRAIN]:
        empty = PARTS[TRAIN if sizes[TEST] else TEST]
        raise DataError(f"{where}: its {empty} part has no clip; add some, or take the split away to have folds drawn")
    used = _folds_of(*exploded(labels, folds)) if several else _folds_of(labels, folds)
    untaught = sorted(label for label, parts in used.items() if TRAIN not in parts)
    if untaught and not several:
        way = "move some of their clips to the training part, or remove the classes"
        raise DataError(f"{where}: no training clip of {first(untaught)}, which cannot be learnt so; {way}")
    untested = sorted(label for label, parts in used.items() if TEST not in parts)
    notes = [f"no test clip of {first(untested)}: not tested"] if untested else []
    notes += [f"no training clip of {first(untaught)}: not learnt"] if untaught else []
    if sizes[VALIDATION]:
        what = "train nothing; with training.protocol=inner they choose the epoch"
        notes.append(f"{sizes[VALIDATION]} validation clips {what}")
    return notes


def straddling_notes(groups: list[str], folds: list[int]) -> list[str]:
    """A note where clips of one source are in several folds, so that a network is tested on sources that it knows."""
    torn = sorted(group for group, used in _folds_of(groups, folds).items() if len(used) > 1)
    if not torn:
        return []
    named = first(torn, 10)
    return [f"LEAK: {len(torn)} sources have clips in several folds ({named}): held-out accuracy will flatter"]


def _folds_of(names: list[str], folds: list[int]) -> dict[str, set[int]]:
    """The folds that each label or group is in."""
    out: dict[str, set[int]] = {}
    for name, fold in zip(names, folds, strict=True):
        out.setdefault(name, set()).add(fold)
    return out


def _masked(clip: Clip) -> list[list[str]]:
    """What is not known of a clip, for digests; nothing where all is."""
    return [list(clip.unknown)] if clip.unknown else []


def _seconds(path: Path) -> float:
    try:
        return audio.info(path).seconds
    except AudioError:
        return float("nan")


def first(names: list[str], count: int = 3) -> str:
    """The first few of a list, for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _kept(array: _A) -> _A:
    array.flags.writeable = False
    return array
