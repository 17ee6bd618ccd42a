"""Event-based scores: counted by hand, and against an assignment problem solved over everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from earsight.errors import DataError
from earsight.evaluation.event_scores import Span, match_events, score_events, stretches

TRUTH = [Span("a", 1.0, 2.0, "dog"), Span("a", 5.0, 6.0, "cat"), Span("a", 9.0, 9.5, "dog"), Span("b", 1.0, 2.0, "dog")]


def test_scores_by_hand():
    found = [
        Span("a", 1.2, 2.0, "dog"),  # 0.2 s late
        Span("a", 5.1, 6.0, "dog"),  # of another class
        Span("a", 8.4, 9.5, "dog"),  # 0.6 s early
        Span("b", 0.9, 2.5, "dog"),  # 0.1 s early
        Span("c", 1.0, 2.0, "dog"),  # of another recording
    ]
    assert match_events(TRUTH, found) == [(0, 0), (3, 3)]
    scores = score_events(TRUTH, found, hours=0.5)
    assert (scores["sounds"], scores["events"], scores["matched"]) == (4, 5, 2)
    assert scores["precision"] == pytest.approx(2 / 5)
    assert scores["recall"] == pytest.approx(2 / 4)
    assert scores["f1"] == pytest.approx(4 / 9)
    assert scores["false_an_hour"] == pytest.approx(6)
    assert scores["onset_error"] == pytest.approx({"mean": 0.15, "median": 0.15})
    assert scores["offset_error"] == pytest.approx({"mean": 0.25, "median": 0.25})
    cat, dog = scores["classes"]
    assert (cat["name"], cat["f1"], cat["precision"]) == ("cat", 0.0, None)
    assert (dog["name"], dog["sounds"], dog["f1"]) == ("dog", 3, pytest.approx(4 / 8))
    assert scores["macro_f1"] == pytest.approx(0.25)
    wider = score_events(TRUTH, found, tolerance=0.6, hours=0.5)
    assert wider["matched"] == 3, "the tolerance itself counts"
    overlap = score_events(TRUTH, [Span("a", 1.9, 9.2, "dog")], tolerance=None, hours=0.5)
    assert overlap["matched"] == 1
    assert overlap["onset_error"]["mean"] == pytest.approx(0.9), "of two that overlap the nearer onset"


def test_what_is_not_known_counts_neither_way():
    found = [
        Span("a", 1.2, 2.0, "dog"),
        Span("a", 3.0, 4.0, "cat"),
        Span("b", 3.0, 4.0, "cat"),
        Span("a", 7.9, 8, "cat"),
    ]
    open_to = [Span("a", 0.5, 3.5, "owl"), Span("a", 8.0, 9.0, "owl")]
    scores = score_events(TRUTH, found, hours=1, open_to=open_to)
    # The first is right all the same; the second lies there; the third is in another recording, the last ends before.
    assert (scores["matched"], scores["events"], scores["false_an_hour"]) == (1, 3, 2)
    assert [row["events"] for row in scores["classes"]] == [2, 1]


def test_boxes_of_a_class_that_overlap_are_one_stretch():
    boxes = [*TRUTH, Span("a", 1.9, 3.0, "dog"), Span("a", 1.2, 1.5, "dog"), Span("a", 3.0, 4.0, "dog")]
    assert stretches(boxes) == sorted([Span("a", 1.0, 3.0, "dog"), Span("a", 3.0, 4.0, "dog"), *TRUTH[1:]])
    assert stretches([Span("a", 1, 2, "dog"), Span("b", 1.5, 3, "dog"), Span("a", 1.5, 3, "cat")]) == [
        *(Span("a", 1, 2, "dog"), Span("a", 1.5, 3, "cat"), Span("b", 1.5, 3, "dog"))
    ]


def test_nothing_found_and_nothing_there():
    nothing = score_events([], [], hours=1.0)
    assert (nothing["f1"], nothing["macro_f1"], nothing["onset_error"], nothing["false_an_hour"]) == (
        None,
        None,
        None,
        0,
    )
    assert score_events(TRUTH, [], hours=1.0)["f1"] == 0
    assert score_events([], TRUTH, hours=2.0)["false_an_hour"] == 2


def test_as_many_as_possible_are_matched():
    """The nearest first would leave one without a partner."""
    truth = [Span("a", 1.0, 2.0, "x"), Span("a", 1.4, 2.0, "x")]
    found = [Span("a", 1.3, 2.0, "x"), Span("a", 1.7, 2.0, "x")]
    assert match_events(truth, found, tolerance=0.3) == [(0, 0), (1, 1)]


def test_mistakes_are_named():
    with pytest.raises(DataError, match="tolerance of onsets is -1"):
        score_events([], [], tolerance=-1.0, hours=1.0)
    with pytest.raises(DataError, match="ends before it begins"):
        score_events([Span("a", 2.0, 1.0, "x")], [], hours=1.0)


_SPANS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.integers(1, 12), st.sampled_from("xy")), max_size=14
)


@settings(deadline=None, max_examples=150)
@given(truth=_SPANS, found=_SPANS, tolerance=st.sampled_from([None, 0.0, 0.25, 1.0]))
def test_matchings_are_the_largest_with_the_least_error(truth, found, tolerance):
    """scipy's assignment over all pairs at once, without the parts that matching is done in."""
    ours, theirs = (
        [Span(path, begin / 4, (begin + length) / 4, label) for path, begin, length, label in side]
        for side in (truth, found)
    )

    def fits(a, b):
        near = (
            abs(a.begin - b.begin) <= tolerance if tolerance is not None else min(a.end, b.end) > max(a.begin, b.begin)
        )
        return a.path == b.path and a.label == b.label and near

    pairs = match_events(ours, theirs, tolerance=tolerance)
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert all(fits(ours[a], theirs[b]) for a, b in pairs)
    cost = np.array([[abs(a.begin - b.begin) if fits(a, b) else 1e4 for b in theirs] for a in ours]).reshape(
        len(ours), len(theirs)
    )
    best = cost[linear_sum_assignment(cost)]
    assert len(pairs) == (best < 1e4).sum()
    assert sum(abs(ours[a].begin - theirs[b].begin) for a, b in pairs) == pytest.approx(best[best < 1e4].sum())


def test_hours_of_events_take_no_great_matrix():
    truth = [Span("a", 2.0 * n, 2.0 * n + 1, "x") for n in range(50_000)]
    found = [Span("a", 2.0 * n + 0.1, 2.0 * n + 1, "x") for n in range(50_000)]
    assert score_events(truth, found, hours=30.0)["f1"] == 1
