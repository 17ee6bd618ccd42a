"""A data set of windows, cut out of recordings by the boxes that people drew in them.

Comes in: `earsight.data.annotations.Boxes`, and `BoxRules`. Goes out: a `Dataset` whose clips are parts of the
recordings, all of one length. Times count in whole milliseconds. Windows lie on a grid from each recording's begin, so
that they are the same whatever is trained; each recording (and each group of them) is one source, which no fold cuts.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from earsight.data.annotations import Box, Boxes, read_boxes
from earsight.data.datasets import BACKGROUND, SEPARATOR, Clip, Dataset, TooFewError, first, fold_notes, is_background
from earsight.data.duplicates import identical_files, joined
from earsight.data.layouts import drawn_note, measured_hints
from earsight.data.splits import group_folds
from earsight.errors import DataError, counted

_SHORTEST, _LONGEST = 0.5, 10.0
_QUANTILE = 0.9
_EXACT = 1e-9
"""Of a share: what float64 loses of a box that lies in a window to the millisecond."""
_T = TypeVar("_T")
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BoxRules:
    """How windows are cut out of recordings.

    Attributes
    ----------
    window_seconds : float or None
        Length of the windows; None takes the one that nine boxes in ten fit in, between 0.5 and 10 s.
    hop_seconds : float or None
        From one window's begin to the next; None is half a window.
    share : float
        What a window must hold of a box for its label: of the box, or of the window where the box is longer.
    little : float
        What it may hold of a box and still be background. Between the two it is neither: it is left out, or, where
        windows have several labels, says nothing about this one.
    complete : bool
        Whether every sound was annotated, so that what lies outside all boxes is background; else it is not used.
    background : float
        Windows of background at most, as a multiple of those with a label; drawn evenly, by no chance.
    most_windows : int
        Windows in all at most; beyond that each class loses of its own, the largest first.
    labels : str
        ``several`` or ``single`` labels a window, or ``auto``: several where some window holds two. With ``single``
        such windows are left out.
    skip_rare : bool
        Whether labels of fewer recordings than folds are left out, with the windows that they lie in, not refused.
    """

    window_seconds: float | None = None
    hop_seconds: float | None = None
    share: float = 0.5
    little: float = 0.05
    complete: bool = False
    background: float = 1.0
    most_windows: int = 20_000
    labels: str = "auto"
    skip_rare: bool = False

    def __post_init__(self) -> None:
        """Refuse, as `DataError`, what no window fits."""
        for name, value, low in (("--window-seconds", self.window_seconds, 0.02), ("--hop", self.hop_seconds, 0.001)):
            if value is not None and not low <= value <= 3600:
                raise DataError(f"{name} {value:g}: expected seconds between {low:g} and 3600")
        if not 0 <= self.little < self.share <= 1:
            raise DataError(
                f"--box-share {self.share:g}: expected more than {self.little:g}, which is little, and at most 1"
            )
        if self.most_windows < 2 or self.background < 0:
            raise DataError(f"--most-windows {self.most_windows}: expected 2 or more")
        if self.labels not in ("auto", "single", "several"):
            raise DataError(f"labels are '{self.labels}'; expected auto, single or several")


@dataclass
class _Cut:
    """Windows of a recording in ms, and for each of its labels which of them hold it and which a part of it."""

    path: str
    begins: _Ints
    length: int
    whole: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    part: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    barred: set[int] = field(default_factory=set)
    empty: _Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    held: Counter[int] = field(default_factory=Counter)
    """How many windows hold each box, by its place in the recording."""


@dataclass(frozen=True)
class _Window:
    path: str
    begin: int
    labels: tuple[str, ...]
    unknown: tuple[str, ...] = ()


def open_recordings(
    recordings: Path | str,
    boxes: Path | str | Boxes,
    *,
    rules: BoxRules | None = None,
    folds: int | None = 5,
    seed: int = 0,
    label_column: str | None = None,
    annotator: str | None = None,
    skip_bad: bool = False,
    testing: bool = False,
    known: Collection[str] | None = None,
) -> Dataset:
    """Open recordings and the boxes in them as a data set of windows.

    Parameters
    ----------
    recordings : str or Path
        The folder of the recordings, or one recording.
    boxes : str or Path or Boxes
        A table, or a folder of tables; see `earsight.data.annotations.read_boxes`, which has ``label_column``,
        ``annotator`` and ``skip_bad``.
    rules : BoxRules, optional
        How windows are cut.
    folds, seed : int
        How many folds to draw where the table has no column ``fold``, whole recordings and groups each, stratified by
        label; and that draw's seed. None draws none: every window is then in fold 0.
    testing : bool
        Whether the windows only test a model: one class will do.
    known : collection of str, optional
        Classes of the model that they test: with ``rules.skip_rare`` other labels are left out.

    Returns
    -------
    Dataset
        Its notes say by which rules the windows were cut, and how many of each kind there are.

    Raises
    ------
    DataError
        If a box cannot be, or there are too few recordings or classes.

    Examples
    --------
    >>> from earsight.data import BoxRules, open_recordings
    >>> dataset = open_recordings("recordings", "boxes.csv", rules=BoxRules(complete=True))  # doctest: +SKIP
    """
    rules = rules or BoxRules()
    if not isinstance(boxes, Boxes):
        boxes = read_boxes(boxes, recordings, label_column=label_column, annotator=annotator, skip_bad=skip_bad)
    if rules.complete and boxes.others:
        # Everything was annotated: a recording that no table speaks of holds nothing.
        boxes = boxes.with_silent()
    where = str(recordings)
    sources = _sources(boxes)
    if testing:
        other = set(boxes.labels) - set(known) if known is not None and rules.skip_rare else set()
        rare = {label: 0 for label in other if not is_background(label)}
    else:
        rare = _rare(boxes, sources, folds=folds, skip=rules.skip_rare, where=where)
    if testing and folds and len(set(sources.values())) < folds:
        raise TooFewError(f"{where}: {counted(len(sources), 'recording')}, fewer than {folds} folds; give --splits")
    window = _window_ms(boxes, rules)
    hop = round(1000 * rules.hop_seconds) if rules.hop_seconds else max(1, window // 2)
    cuts = [_cut(path, list(found), boxes, rules, window, hop, rare) for path, found in _by_recording(boxes)]
    windows, notes, several = _chosen(cuts, boxes, rules, window, hop)
    given = _given_folds(boxes, sources, least=1 if testing else 2)
    labels = {label for one in windows for label in one.labels} - {BACKGROUND}
    outside = not several and any(one.labels == (BACKGROUND,) for one in windows)
    classes = (*sorted(labels), *((BACKGROUND,) if outside else ()))
    if not labels:
        raise DataError(f"{where}: no window holds a box; give a longer --window-seconds or a smaller --box-share")
    if len(classes) < 2 and not (testing or several):
        raise DataError(
            f"{where}: only one class, '{classes[0]}'; at least two are needed to tell sounds apart: add --complete if "
            "every sound of it was annotated, so that the rest is background, or boxes named 'background'"
        )
    used = sorted({one.path for one in windows})
    hints, more = measured_hints(boxes.root, used)
    hints = replace(hints, clip_seconds=window / 1000, frames=max(50, round(window / 20)))

    def clip(one: _Window) -> Clip:
        end = min(one.begin + window, math.floor(1000 * boxes.seconds[one.path]))
        label = SEPARATOR.join(one.labels) if several else one.labels[0]
        label = "" if several and label == BACKGROUND else label
        fold = given.get(one.path, 0)
        return Clip(one.path, label, fold, sources[one.path], one.begin / 1000, end / 1000, unknown=one.unknown)

    dataset = Dataset(
        *(boxes.root.resolve().name, "boxes", boxes.root, tuple(map(clip, windows)), classes, hints),
        notes=(*_counts(boxes), *boxes.notes, *more, *notes),
        several=several,
        background=BACKGROUND if any(one.labels == (BACKGROUND,) for one in windows) else None,
    )
    if not given and folds is not None:
        dataset = _with_folds(dataset, folds=folds, seed=seed)
    if testing or dataset.fold_numbers == (0,):
        return dataset
    pairs = [(label, one.fold) for one in dataset.clips for label in (one.labels if several else (one.label,))]
    more = fold_notes([label for label, _ in pairs], [fold for _, fold in pairs], where=where)
    return replace(dataset, notes=(*dataset.notes, *more))


def _counts(boxes: Boxes) -> list[str]:
    lengths = np.array([box.end - box.begin for box in boxes.boxes])
    hours = sum(boxes.seconds.values()) / 3600
    low, high = (np.array([getattr(box, name) for box in boxes.boxes]) for name in ("fmin", "fmax"))
    both = ~(np.isnan(low) | np.isnan(high))
    band = []
    if both.any():
        band = [
            f"frequencies of {both.sum()} boxes, {low[both].min():.0f} to {high[both].max():.0f} Hz, medians "
            f"{np.median(low[both]):.0f} and {np.median(high[both]):.0f}: not used (features.fmin_hz and fmax_hz "
            "limit what the network gets)"
        ]
    return [
        f"boxes: {len(lengths)} with {counted(len(boxes.labels), 'label')} in "
        f"{counted(len(boxes.seconds), 'recording')} of {hours:.3g} h; {lengths.min():.2g} to {lengths.max():.2g} s "
        f"long, median {np.median(lengths):.2g} s",
        *band,
    ]


def _by_recording(boxes: Boxes) -> Iterable[tuple[str, list[Box]]]:
    found = {path: list(held) for path, held in groupby(boxes.boxes, key=lambda box: box.path)}
    return [(path, found.get(path, [])) for path in sorted(boxes.seconds)]


def _sources(boxes: Boxes) -> dict[str, str]:
    """The source of each recording: itself, joined with those of its groups and those with the same bytes."""
    paths = sorted(boxes.seconds)
    place = {path: row for row, path in enumerate(paths)}
    tied: defaultdict[str, set[int]] = defaultdict(set)
    for box in boxes.boxes:
        if box.group:
            tied[box.group].add(place[box.path])
    same = identical_files([boxes.root / path for path in paths])
    names = joined(np.array(paths), [*map(sorted, tied.values()), *same])
    return dict(zip(paths, names.tolist(), strict=True))


def _rare(boxes: Boxes, sources: dict[str, str], *, folds: int | None, skip: bool, where: str) -> dict[str, int]:
    """Labels that fewer sources hold than folds need, with how many do; refused unless they are to be skipped.

    Raises `DataError` too where there are fewer sources than folds.
    """
    count, least = len(set(sources.values())), max(2, folds or 2)
    recordings = counted(len(sources), "recording")
    tied = "" if count == len(sources) else f" of {counted(count, 'source')} (groups, copies)"
    given = any(box.fold is not None for box in boxes.boxes)
    if count < least and not given:
        what = "nothing can be held out of one source" if count < 2 else f"fewer than {least} folds"
        remedy = "add recordings" if count < 2 else f"give --splits {count}, or add recordings"
        raise DataError(f"{where}: {recordings}{tied}, {what}: folds never cut a recording; {remedy}")
    holders: defaultdict[str, set[str]] = defaultdict(set)
    for box in boxes.boxes:
        if not box.disputed and not is_background(box.label):
            holders[box.label].add(sources[box.path])
    rare = {label: len(found) for label, found in sorted(holders.items()) if len(found) < (2 if given else least)}
    if rare and not skip:
        shown = first([f"'{label}' in {number}" for label, number in rare.items()], 8)
        fewest = min(rare.values())
        other = f"--splits {fewest}, " if fewest > 1 and not given else ""
        raise DataError(
            f"{where}: labels of too few recordings to be learnt and held out in {least} folds: {shown}; give {other}"
            "--skip-rare, which leaves them out, or add recordings with them"
        )
    return rare


def _window_ms(boxes: Boxes, rules: BoxRules) -> int:
    if rules.window_seconds is not None:
        return round(1000 * rules.window_seconds)
    lengths = [box.end - box.begin for box in boxes.boxes if not is_background(box.label)] or [_LONGEST]
    fits = math.ceil(round(10 * float(np.quantile(lengths, _QUANTILE)), 6)) / 10
    return round(1000 * min(_LONGEST, max(_SHORTEST, fits)))


def grid(seconds: float, window_ms: int, hop_ms: int) -> _Ints:
    """Where the windows of a recording begin, in ms, rising; the last one ends with it."""
    length = math.floor(1000 * seconds)
    begins = np.arange(0, max(1, length - window_ms + 1), hop_ms, dtype=np.int64)
    last = max(0, length - window_ms)
    return begins if begins[-1] == last else np.append(begins, last)


def _cut(
    path: str, found: Sequence[Box], boxes: Boxes, rules: BoxRules, window: int, hop: int, rare: dict[str, int]
) -> _Cut:
    """What each window of a recording holds."""
    cut = _Cut(path, grid(boxes.seconds[path], window, hop), min(window, math.floor(1000 * boxes.seconds[path])))
    if not found:
        cut.empty = np.arange(len(cut.begins)) if rules.complete else cut.empty
        return cut
    begin, end = (np.array([1000 * getattr(box, name) for box in found]) for name in ("begin", "end"))
    lowest = np.searchsorted(cut.begins, begin - cut.length, side="right")
    highest = np.searchsorted(cut.begins, end, side="left")
    spans = np.maximum(highest - lowest, 0)
    rows = np.repeat(np.arange(len(found)), spans)
    places = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans) + np.repeat(lowest, spans)
    starts = cut.begins[places]
    held = np.minimum(starts + cut.length, end[rows]) - np.maximum(starts, begin[rows])
    shares = held / np.minimum(end - begin, cut.length)[rows]
    marked = shares > rules.little + _EXACT
    names = [box.label for box in found]
    dim = np.array([box.disputed or box.label in rare for box in found])
    nothing = np.array([is_background(name) for name in names])
    touched = np.zeros(len(cut.begins), dtype=bool)
    for row, place, share in zip(rows[marked].tolist(), places[marked].tolist(), shares[marked].tolist(), strict=True):
        full = share >= rules.share - _EXACT
        if dim[row]:
            cut.barred.add(place)
        elif nothing[row]:
            if full:
                cut.whole[place].add(BACKGROUND)
            continue
        elif full:
            cut.whole[place].add(names[row])
            cut.held[row] += 1
        else:
            cut.part[place].add(names[row])
        touched[place] = True
    for place in [place for place, labels in cut.whole.items() if BACKGROUND in labels]:
        cut.whole[place].discard(BACKGROUND)
        if not touched[place] and not cut.whole[place]:
            cut.whole[place] = {BACKGROUND}
        elif not cut.whole[place]:
            del cut.whole[place]
    outside = ~touched
    outside[[place for place, labels in cut.whole.items() if labels == {BACKGROUND}]] = False
    if rules.complete:
        cut.empty = np.flatnonzero(outside)
    cut.held.update({row: 0 for row in range(len(found)) if not dim[row] and not nothing[row]})
    return cut


def _chosen(
    cuts: Sequence[_Cut], boxes: Boxes, rules: BoxRules, window: int, hop: int
) -> tuple[list[_Window], list[str], bool]:
    """The windows of the data set by recording and begin, notes on them, and whether they have several labels."""
    both = sum(len(labels) > 1 for cut in cuts for labels in cut.whole.values())
    several = rules.labels == "several" or (rules.labels == "auto" and both > 0)
    windows: list[_Window] = []
    lost = Counter[str]()
    for cut in cuts:
        for place in sorted({*cut.whole, *cut.part} | cut.barred):
            labels, edge = cut.whole.get(place, set()), cut.part.get(place, set()) - cut.whole.get(place, set())
            if place in cut.barred:
                lost["barred"] += 1
            elif not labels or (edge and not several):
                lost["edge"] += 1
            elif len(labels) > 1 and not several:
                lost["two"] += 1
            else:
                named, unsaid = tuple(sorted(labels)), tuple(sorted(edge))
                windows.append(_Window(cut.path, int(cut.begins[place]), named, unsaid))
    labelled = [one for one in windows if one.labels != (BACKGROUND,)]
    marked = [one for one in windows if one.labels == (BACKGROUND,)]
    free = [(cut.path, int(cut.begins[place])) for cut in cuts for place in _spread(cut.empty, rules, cuts, labelled)]
    outside = sum(len(cut.empty) for cut in cuts)
    most = math.ceil(rules.background * len(labelled))
    drawn = _evenly(free, max(0, most - len(marked)))
    kept = [*marked, *(_Window(path, begin, (BACKGROUND,)) for path, begin in drawn)]
    every = sum(len(cut.begins) for cut in cuts)
    unused = every - len(windows) - sum(lost.values()) - outside
    chosen, bound = _bounded([*labelled, *kept], rules)
    lost.update(both=both, outside=outside, drawn=len(drawn), unused=unused)
    notes = _notes(boxes, rules, window, hop, several, lost)
    missed = sum(count == 0 for cut in cuts for count in cut.held.values())
    if missed:
        notes.append(
            f"boxes that no window holds {rules.share:g} of: {missed}; a shorter --hop or a longer window finds them"
        )
    sizes = Counter(label for one in chosen for label in one.labels)
    shown = [f"{label} {sizes[label]}" for label in sorted(sizes, key=lambda name: (name == BACKGROUND, name))]
    notes.append(f"windows a class: {first(shown, 30)}")
    return sorted(chosen, key=lambda one: (one.path, one.begin)), notes + bound, several


def _spread(empty: _Ints, rules: BoxRules, cuts: Sequence[_Cut], labelled: Sequence[_Window]) -> list[int]:
    """A recording's empty windows; of very many an even choice, so that hours of them are never all named."""
    most = 4 * max(1000, math.ceil(rules.background * len(labelled))) // max(1, len(cuts)) + 1
    places: list[int] = empty[_evenly(range(len(empty)), most)].tolist()
    return places


def _evenly(items: Sequence[_T], most: int) -> list[_T]:
    """At most so many of the items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[int((2 * place + 1) * len(items) / (2 * most))] for place in range(most)]


def _bounded(windows: list[_Window], rules: BoxRules) -> tuple[list[_Window], list[str]]:
    """At most so many windows as the rules allow: the largest classes lose of theirs, evenly, until all fit.

    A window of several labels counts as one of the rarest of them.
    """
    if len(windows) <= rules.most_windows:
        return windows, []
    sizes = Counter(label for one in windows for label in one.labels)
    kinds: defaultdict[str, list[_Window]] = defaultdict(list)
    for one in windows:
        kinds[min(one.labels, key=lambda label: (sizes[label], label))].append(one)
    left, room = rules.most_windows, dict[str, int]()
    for number, kind in enumerate(sorted(kinds, key=lambda kind: (len(kinds[kind]), kind))):
        room[kind] = min(len(kinds[kind]), left // (len(kinds) - number))
        left -= room[kind]
    out = [one for kind in kinds for one in _evenly(kinds[kind], room[kind])]
    note = (
        f"of {len(windows)} windows {len(out)} are used, so that spectrograms stay within bounds: the largest classes "
    )
    return out, [note + f"lose of theirs, evenly; --most-windows {len(windows)} takes all, a longer --hop makes fewer"]


def _notes(boxes: Boxes, rules: BoxRules, window: int, hop: int, several: bool, lost: Counter[str]) -> list[str]:
    """The rules and what came of them, as lines."""
    why = (
        "" if rules.window_seconds else ", which nine boxes in ten fit in" if window < 1000 * _LONGEST else ", at most"
    )
    lines = [f"windows of {window / 1000:g} s{why}, one every {hop / 1000:g} s (--window-seconds, --hop)"]
    part = f"more than {rules.little:g} of it"
    lines.append(
        f"a window has a label if it holds {rules.share:g} of a box, or {rules.share:g} of it is box (--box-share); "
        + (
            f"of a label that it holds less of, but {part}, it says nothing"
            if several
            else f"one with less, but {part}, is left out: {counted(lost['edge'], 'window')} at edges"
        )
    )
    if several:
        lines.append(f"windows that hold only a part of a box, and are left out: {lost['edge']}")
        lines.append(f"windows with several labels: {lost['both']}, so that each label is answered for itself")
    elif lost["two"]:
        lines.append(f"windows with several labels, left out: {lost['two']}")
    if lost["barred"]:
        lines.append(f"windows on boxes that are disputed or of labels left out, not used: {lost['barred']}")
    if rules.complete:
        lines.append(
            f"outside all boxes: {counted(lost['outside'], 'window')}, background by --complete, {lost['drawn']} of "
            f"them used, evenly spaced (at most {rules.background:g} for each with a label)"
        )
    elif lost["unused"]:
        lines.append(
            f"outside all boxes: {counted(lost['unused'], 'window')}, not used, for nothing says that every sound was "
            "annotated (--complete does)"
        )
    if boxes.others:
        lines.append(f"recordings that no table names, not used: {len(boxes.others)} ({first(list(boxes.others))})")
    return lines


def _given_folds(boxes: Boxes, sources: dict[str, str], *, least: int) -> dict[str, int]:
    """The fold of each recording by the column ``fold``; empty where there is none."""
    marked = [box for box in boxes.boxes if box.fold is not None]
    if not marked:
        return {}
    if len(marked) < len(boxes.boxes):
        box = next(box for box in boxes.boxes if box.fold is None)
        raise DataError(f"{box.table}: line {box.line}: no fold, which other lines have; fill it, or remove the column")
    of_source: dict[str, Box] = {}
    for box in marked:
        other = of_source.setdefault(sources[box.path], box)
        if other.fold != box.fold:
            what = f"recording {box.path}" if other.path == box.path else f"{other.path} and {box.path}, of one group,"
            raise DataError(
                f"{box.table}: line {box.line}: {what} in fold {box.fold}, and in fold {other.fold} by line "
                f"{other.line}; folds never cut a recording or a group: give it one"
            )
    folds = {source: int(box.fold or 0) for source, box in of_source.items()}
    if len(set(folds.values())) < least:
        raise DataError(f"{boxes.root}: every box is in fold {marked[0].fold}; at least two folds are needed")
    # Recordings without a box are dealt to the folds in turn.
    numbers = sorted(set(folds.values()))
    rest = sorted(set(sources.values()) - set(folds))
    folds |= {source: numbers[place % len(numbers)] for place, source in enumerate(rest)}
    return {path: folds[source] for path, source in sources.items()}


def _with_folds(dataset: Dataset, *, folds: int, seed: int) -> Dataset:
    """The windows in drawn folds."""
    numbers = group_folds(dataset.strata, dataset.groups, folds=folds, seed=seed)
    clips = tuple(replace(clip, fold=int(number)) for clip, number in zip(dataset.clips, numbers, strict=True))
    return replace(dataset, clips=clips, notes=(*dataset.notes, drawn_note(folds, seed)))
