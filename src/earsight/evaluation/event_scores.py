"""Event-based scores: events found in recordings against what was annotated, matched one to one.

Comes in: `Span`s of the truth and of what was found, times in seconds. Goes out: a dictionary of scores. An event can
be matched with an annotation of its class in the same recording where their onsets differ by at most the tolerance, or,
without one, where they overlap. Of all matchings the largest is taken, and of these one whose onsets differ least.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import DataError

TOLERANCE = 0.5
"""Seconds by which onsets may differ where no tolerance is given."""
_ROUNDING = 1e-6


class Span(NamedTuple):
    """A class in a recording, from begin to end in seconds."""

    path: str
    begin: float
    end: float
    label: str


def stretches(spans: Iterable[Span]) -> list[Span]:
    """Annotations with those of one class that overlap as one: two people's boxes, or calls that meet."""
    out: list[Span] = []
    for span in sorted(spans, key=lambda one: (one.path, one.label, one.begin, one.end)):
        last = out[-1] if out else None
        if last and (last.path, last.label) == (span.path, span.label) and span.begin < last.end:
            out[-1] = last._replace(end=max(last.end, span.end))
        else:
            out.append(span)
    return sorted(out)


def match_events(
    truth: Sequence[Span], found: Sequence[Span], *, tolerance: float | None = TOLERANCE
) -> list[tuple[int, int]]:
    """Pairs of indices (annotation, event), each used once at most; see the module for which may be pairs."""
    sides: tuple[Sequence[Span], Sequence[Span]] = (truth, found)
    groups: dict[tuple[str, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, spans in enumerate(sides):
        for index, span in enumerate(spans):
            groups[span.path, span.label][side].append(index)
    pairs = []
    for ours, theirs in groups.values():
        for some, others in _clusters(truth, found, ours, theirs, reach=tolerance):
            pairs += _matched(truth, found, some, others, tolerance=tolerance)
    return sorted(pairs)


def _clusters(
    truth: Sequence[Span], found: Sequence[Span], ours: list[int], theirs: list[int], *, reach: float | None
) -> Iterable[tuple[list[int], list[int]]]:
    """Parts of both lists between which nothing can be matched, so that hours of recording need no great matrix."""
    margin = 0.0 if reach is None else reach
    spans = [(truth[index], 0, index) for index in ours] + [(found[index], 1, index) for index in theirs]
    part: tuple[list[int], list[int]] = ([], [])
    until = -np.inf
    for span, side, index in sorted(spans, key=lambda one: one[0].begin):
        if span.begin > until + margin + _ROUNDING:
            yield part
            part = ([], [])
            until = -np.inf
        part[side].append(index)
        until = max(until, span.begin if reach is not None else span.end)
    yield part


def _matched(
    truth: Sequence[Span], found: Sequence[Span], ours: list[int], theirs: list[int], *, tolerance: float | None
) -> list[tuple[int, int]]:
    """The largest matching of a few annotations and events, and of these one with the least error of onsets."""
    if not ours or not theirs:
        return []
    a, b = _times(truth, ours), _times(found, theirs)
    error = np.abs(a[:, None, 0] - b[None, :, 0])
    if tolerance is None:
        fits = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0]) > _ROUNDING
    else:
        fits = error <= tolerance + _ROUNDING
    if fits.all() and len(ours) == len(theirs) == 1:
        return [(ours[0], theirs[0])]
    from scipy.optimize import linear_sum_assignment  # slow to load

    # Each pair that may not be costs more than all errors together, so that as many as possible may.
    dear = 1.0 + error[fits].sum() if fits.any() else 1.0
    rows, columns = linear_sum_assignment(np.where(fits, error, dear))
    return [(ours[row], theirs[column]) for row, column in zip(rows, columns, strict=True) if fits[row, column]]


def _times(spans: Sequence[Span], indices: list[int]) -> NDArray[np.float64]:
    return np.array([[spans[index].begin, spans[index].end] for index in indices], dtype=np.float64)


def score_events(
    truth: Sequence[Span],
    found: Sequence[Span],
    *,
    tolerance: float | None = TOLERANCE,
    hours: float,
    open_to: Sequence[Span] = (),
) -> dict[str, Any]:
    """Scores of events against annotations; ``hours`` is the length of all recordings together.

    ``open_to`` are stretches of which it is not known what sounds there: an event that overlaps one, and matches
    nothing, does not count. DataError if the tolerance, in seconds, is negative, or an event ends before it begins.

    Goes out: ``sounds``, ``events``, ``matched``; ``precision``, ``recall``, ``f1`` over all (None where there is
    nothing to divide by); ``macro_f1``, the mean over the annotated classes; ``false_an_hour`` (events that match
    nothing, by the hour); ``onset_error`` and ``offset_error``, the mean and median absolute error in seconds of what
    was matched (None if nothing was); ``tolerance``; and ``classes``, the same a class.
    """
    if tolerance is not None and not 0 <= tolerance < np.inf:
        raise DataError(f"the tolerance of onsets is {tolerance:g} s; expected 0 or more, as in --tolerance 0.5")
    for span in (*truth, *found):
        if not span.begin <= span.end:
            raise DataError(f"{span.path}: {span.label} from {span.begin:g} to {span.end:g} s ends before it begins")
    pairs = match_events(truth, found, tolerance=tolerance)
    if open_to:
        right = {other for _, other in pairs}
        unsure = [
            any(one.path == event.path and one.begin < event.end and event.begin < one.end for one in open_to)
            for event in found
        ]
        found = [event for place, event in enumerate(found) if place in right or not unsure[place]]
        pairs = match_events(truth, found, tolerance=tolerance)
    names = sorted({span.label for span in (*truth, *found)})
    rows = []
    for name in names:
        mine = [pair for pair in pairs if truth[pair[0]].label == name]
        count = sum(span.label == name for span in truth), sum(span.label == name for span in found)
        rows.append({"name": name, **_figures(truth, found, mine, *count, hours=hours)})
    scored = [row["f1"] for row in rows if row["sounds"]]
    whole = _figures(truth, found, pairs, len(truth), len(found), hours=hours)
    macro = float(np.mean(scored)) if scored else None
    return {**whole, "macro_f1": macro, "tolerance": tolerance, "hours": hours, "classes": rows}


def _figures(
    truth: Sequence[Span],
    found: Sequence[Span],
    pairs: list[tuple[int, int]],
    sounds: int,
    events: int,
    *,
    hours: float,
) -> dict[str, Any]:
    onsets = [abs(truth[one].begin - found[other].begin) for one, other in pairs]
    offsets = [abs(truth[one].end - found[other].end) for one, other in pairs]
    matched = len(pairs)
    return {
        **{"sounds": sounds, "events": events, "matched": matched},
        **{"precision": matched / events if events else None, "recall": matched / sounds if sounds else None},
        "f1": 2 * matched / (sounds + events) if sounds + events else None,
        **{"false_an_hour": (events - matched) / hours if hours > 0 else None, "onset_error": _error(onsets)},
        "offset_error": _error(offsets),
    }


def _error(seconds: list[float]) -> dict[str, float] | None:
    return {"mean": float(np.mean(seconds)), "median": float(np.median(seconds))} if seconds else None
