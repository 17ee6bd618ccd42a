"""Timelines to events: where they begin and end, what joins them, and that a state goes on as if nothing had been."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.errors import EarsightError
from earsight.inference import events as rules_of_events
from earsight.inference.activity import frames_of
from earsight.inference.events import EventRules, EventTracker, events_of
from earsight.inference.predictions import Event, Prediction, Window


def _timeline(shares, *, hop=1.0, size=5.0, length=None, unknown=()):
    """Windows of two classes; ``shares`` are the first class's probabilities."""
    length = length or (len(shares) - 1) * hop + size
    return [
        Window(
            number * hop,
            min(number * hop + size, length),
            Prediction("x.wav", ("dog", "cat"), (share, 1 - share), unknown=number in unknown),
        )
        for number, share in enumerate(shares)
    ]


def _found(shares, *, hop=1.0, size=5.0, label="dog", rules=None, **kwargs):
    windows = _timeline(shares, hop=hop, size=size, **kwargs)
    events = events_of(windows, rules or EventRules(0.6, 0.4, gap_seconds=0), hop_seconds=hop, window_seconds=size)
    return [event for event in events if event.label == label]


def _spans(events):
    return [(event.begin_seconds, event.end_seconds) for event in events]


def test_an_event_begins_at_the_threshold_and_lasts_to_the_release():
    found = _found([0.0, 0.5, 0.6, 0.5, 0.4, 0.39, 0.5, 0.0])
    # Windows 2, 3 and 4; each stands for the second around its middle.
    assert found == [Event("dog", 4.0, 7.0, 0.6, pytest.approx(0.5), 3)]


def test_background_is_no_event_and_ends_those_of_others():
    rules = EventRules(0.6, 0.4, gap_seconds=0, never="cat")
    shares = [0.9, 0.9, 0.1, 0.9]
    assert _found(shares, label="cat", hop=5.0) != []
    assert _found(shares, label="cat", hop=5.0, rules=rules) == []
    assert _spans(_found(shares, hop=5.0, rules=rules)) == [(0.0, 10.0), (15.0, 20.0)]


def test_the_first_and_the_last_window_stand_for_the_ends():
    assert _spans(_found([0.9, 0.9, 0.0, 0.0])) == [(0.0, 4.0)]
    assert _spans(_found([0.0, 0.0, 0.0, 0.9])) == [(5.0, 8.0)]
    assert _spans(_found([0.9], length=3.2)) == [(0.0, 3.2)]
    assert _spans(_found([0.9, 0.9], length=5.4)) == [(0.0, 5.4)]


@pytest.mark.parametrize("hop", [5.0, 60.0])
def test_windows_that_do_not_overlap_stand_for_themselves(hop):
    spans = _spans(_found([0.9, 0.9, 0.0, 0.9], hop=hop))
    last = (3 * hop, 3 * hop + 5)
    # What lies between windows was not classified, and is in no event.
    assert spans == ([(0.0, 10.0), last] if hop == 5 else [(0.0, 5.0), (60.0, 65.0), last])
    joined = EventRules(0.6, 0.4, gap_seconds=hop - 5)
    assert _spans(_found([0.9, 0.9, 0.0, 0.9], hop=hop, rules=joined))[0] == (0.0, hop + 5)


def test_behind_a_gap_the_release_does_not_do():
    assert _spans(_found([0.9, 0.5, 0.5], hop=60.0)) == [(0.0, 5.0)]


def test_gaps_are_joined_and_short_events_left_out():
    shares = [0.0, 0.9, 0.0, 0.9, 0.0, 0.0, 0.9, 0.0]
    assert _spans(_found(shares)) == [(3.0, 4.0), (5.0, 6.0), (8.0, 9.0)]
    joined = EventRules(0.6, 0.4, gap_seconds=1.0)
    assert _spans(_found(shares, rules=joined)) == [(3.0, 6.0), (8.0, 9.0)]
    event = _found(shares, rules=joined)[0]
    assert (event.windows, event.score, event.mean) == (2, 0.9, 0.9)
    assert _spans(_found(shares, rules=EventRules(0.6, 0.4, 1.5, 1.0))) == [(3.0, 6.0)]
    assert _spans(_found(shares, rules=EventRules(0.6, 0.4, 3.0, 1.0))) == [(3.0, 6.0)]
    assert _spans(_found(shares, rules=EventRules(0.6, 0.4, 3.01, 1.0))) == []
    # The default joins what one window missed.
    assert _spans(_found(shares, rules=EventRules(0.6))) == [(3.0, 6.0), (8.0, 9.0)]


def test_classes_are_detected_side_by_side():
    shares = [0.9, 0.9, 0.5, 0.1, 0.1]
    assert _spans(_found(shares)) == [(0.0, 5.0)]
    assert _spans(_found(shares, label="cat")) == [(5.0, 9.0)]


def test_an_unknown_window_belongs_to_no_event():
    assert _spans(_found([0.9] * 5, unknown={2})) == [(0.0, 4.0), (5.0, 9.0)]
    assert _found([0.9] * 3, unknown={0, 1, 2}) == []


def test_events_come_as_soon_as_they_are_over():
    tracker = EventTracker(EventRules(0.6, 0.4), hop_seconds=1.0, window_seconds=5.0)
    when = [len(tracker.add(window)) for window in _timeline([0.9, 0.9, 0.5, 0.0, 0.5, 0.5, 0.0, 0.0])]
    assert when == [0, 0, 0, 0, 0, 1, 0, 0]
    assert [event.label for event in tracker.close()] == ["cat"]


def _rows(rows, *, hop=5.0, size=5.0, rules=None, exclusive=True):
    """Events of windows whose probabilities of named classes are given."""
    windows = []
    for number, shares in enumerate(rows):
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        names, values = zip(*ranked, strict=True)
        windows.append(Window(number * hop, number * hop + size, Prediction("x.wav", names, values)))
    kwargs = {"hop_seconds": hop, "window_seconds": size, "exclusive": exclusive}
    return list(events_of(windows, rules or EventRules(), **kwargs))


SNEEZE, ROOSTER = {"sneezing": 0.9, "rooster": 0.1}, {"sneezing": 0.1, "rooster": 0.9}


@pytest.mark.parametrize("hop", [1.0, 5.0])
def test_a_class_is_not_joined_across_another(hop):
    times = round(5 / hop)
    found = _rows([row for row in (SNEEZE, ROOSTER, SNEEZE, ROOSTER) for _ in range(times)], hop=hop)
    assert [event.label for event in found] == ["sneezing", "rooster", "sneezing", "rooster"]
    assert all(a.end_seconds <= b.begin_seconds for a, b in pairwise(found))
    # Where nothing is said in between, the gap is closed as before.
    quiet = {"sneezing": 0.2, "rooster": 0.2}
    assert [event.label for event in _rows([SNEEZE, quiet, SNEEZE], hop=hop)] == ["sneezing"]
    assert _spans(_rows([SNEEZE, ROOSTER, SNEEZE])) == [(0.0, 5.0), (5.0, 10.0), (10.0, 15.0)]


def test_a_fading_class_ends_where_another_speaks():
    rows = [{"dog": 0.8, "cat": 0.1}, {"dog": 0.4, "cat": 0.55}, {"dog": 0.4, "cat": 0.45}]
    assert _spans(_rows(rows)) == [(0.0, 5.0), (5.0, 15.0)]
    # Classes that do not exclude each other overlap, and are joined across each other.
    both = [(event.label, event.begin_seconds, event.end_seconds) for event in _rows(rows, exclusive=False)]
    assert both == [("dog", 0.0, 15.0), ("cat", 5.0, 15.0)]
    assert len(_rows([SNEEZE, ROOSTER, SNEEZE], exclusive=False)) == 2
    low = EventRules(0.3, 0.3)
    assert [event.label for event in _rows(rows, rules=low)] == ["dog", "cat"], "at the threshold both are there"


def test_rows_are_in_the_order_of_their_begins():
    rows = [{"dog": 0.9, "cat": 0.1}, {"dog": 0.6, "cat": 0.7}, {"dog": 0.6, "cat": 0.1}, {"dog": 0.1, "cat": 0.6}]
    found = _rows(rows, rules=EventRules(gap_seconds=0), exclusive=False)
    assert [(event.label, event.begin_seconds) for event in found] == [("dog", 0.0), ("cat", 5.0), ("cat", 15.0)]


def test_events_that_wait_are_bounded(monkeypatch):
    monkeypatch.setattr(rules_of_events, "MOST_WAITING", 3)
    tracker = EventTracker(EventRules(gap_seconds=0), hop_seconds=1.0, window_seconds=1.0, exclusive=False)
    found = []
    for number in range(100):
        shares = (0.9, 0.8 * (number % 2))
        window = Window(float(number), number + 1.0, Prediction("x.wav", ("rain", "frog"), shares))
        found += tracker.add(window)
        assert len(tracker.state()["waiting"]) <= 4
    found += tracker.close()
    rain = [event for event in found if event.label == "rain"]
    assert len(rain) > 5
    assert (rain[0].begin_seconds, rain[-1].end_seconds) == (0.0, 100.0)
    assert all(a.end_seconds == b.begin_seconds for a, b in pairwise(rain)), "what is cut goes on where it was cut"
    assert sum(event.windows for event in rain) == 100
    assert sum(event.label == "frog" for event in found) == 50
    begins = [event.begin_seconds for event in found]
    assert begins == sorted(begins)


@settings(deadline=None, max_examples=60)
@given(
    shares=st.lists(st.sampled_from([0.0, 0.3, 0.45, 0.5, 0.55, 0.7, 1.0]), min_size=1, max_size=30),
    cut=st.integers(0, 30),
    hop=st.sampled_from([0.3, 1.0, 5.0, 7.0]),
    gap=st.sampled_from([None, 0.0, 2.5]),
    shortest=st.sampled_from([0.0, 1.5]),
    exclusive=st.booleans(),
)
def test_a_state_goes_on_as_if_nothing_had_been(shares, cut, hop, gap, shortest, exclusive):
    rules = EventRules(0.5, 0.4, shortest, gap)
    windows = _timeline(shares, hop=hop)
    kwargs = {"hop_seconds": hop, "window_seconds": 5.0, "exclusive": exclusive}
    whole = list(events_of(windows, rules, **kwargs))
    first = EventTracker(rules, **kwargs)
    found = [event for window in windows[:cut] for event in first.add(window)]
    second = EventTracker(rules, **kwargs, state=json.loads(json.dumps(first.state())))
    found += [event for window in windows[cut:] for event in second.add(window)]
    assert [*found, *second.close()] == whole
    assert whole == sorted(whole, key=lambda event: event.begin_seconds)
    for label in ("dog", "cat"):
        spans = _spans(event for event in whole if event.label == label)
        assert all(begin < end for begin, end in spans)
        assert all(a[1] < b[0] for a, b in pairwise(spans)), "events of a class overlap"
        assert all(end <= windows[-1].end_seconds for _, end in spans)


# With levels: begin and end are those of the sound

RATE = 8000
SIZE = 5.0


def _heard(wave, shares, *, hop=0.25, rules=None, cut=None):
    """Events of a wave, where ``shares(begin, end)`` gives each window's classes and their probabilities."""
    windows, heard, number = [], 0, 0
    while number == 0 or round((number - 1) * hop * RATE) + SIZE * RATE < len(wave):
        begin = round(number * hop * RATE)
        part = wave[begin : begin + round(SIZE * RATE)].astype(np.float32)
        frames = frames_of(part, begin=begin, covered=heard, rate_hz=RATE, band_hz=(0.0, 4000.0))
        heard, number = begin + len(part), number + 1
        found = sorted(shares(begin / RATE, heard / RATE).items(), key=lambda item: -item[1])
        names, values = zip(*found, strict=True)
        windows.append(Window(begin / RATE, heard / RATE, Prediction("x.wav", names, values), frames))
    kwargs = {"hop_seconds": hop, "window_seconds": SIZE}
    if cut is None:
        return list(events_of(windows, rules or EventRules(), **kwargs))
    first = EventTracker(rules or EventRules(), **kwargs)
    found = [event for window in windows[:cut] for event in first.add(window)]
    second = EventTracker(rules or EventRules(), **kwargs, state=json.loads(json.dumps(first.state())))
    found += [event for window in windows[cut:] for event in second.add(window)]
    return [*found, *second.close()]


def _scene(sounds, *, seconds=60.0, noise=0.0):
    """Tones at these times, in silence or in noise."""
    wave = noise * np.random.default_rng(0).standard_normal(round(seconds * RATE))
    for begin, end in sounds:
        times = np.arange(round(begin * RATE), round(end * RATE))
        wave[times] += 0.2 * np.sin(2 * np.pi * 700 * times / RATE)
    return wave


def _knows(sounds, *, share=0.4, other="rain", least=0.3):
    """A model that knows a sound once it has heard ``least`` seconds of it; else it says ``other``."""

    def shares(begin, end):
        held, best = max((min(end, b) - max(begin, a), label) for label, a, b in sounds)
        if held >= least:
            return {best: 0.95, other: 0.05}
        return {best: 1 - share - 0.1, other: share + 0.1}

    return shares


@pytest.mark.parametrize("noise", [0.0, 0.002])
@pytest.mark.parametrize("hop", [0.25, 1.0, 2.5, 5.0])
def test_events_begin_and_end_with_the_sound(noise, hop):
    sounds = [(14.3, 16.3), (25.1, 25.5), (33.0, 45.7), (52.4, 54.0)]
    named = [("dog", *sounds[0]), ("cat", *sounds[1]), ("dog", *sounds[2]), ("cat", *sounds[3])]
    found = _heard(_scene(sounds, noise=noise), _knows(named, share=0.6), hop=hop)
    assert [event.label for event in found] == [label for label, _, _ in named], "noise is no rain"
    for event, (_, begin, end) in zip(found, named, strict=True):
        assert (event.begin_seconds, event.end_seconds) == (
            pytest.approx(begin, abs=0.05),
            pytest.approx(end, abs=0.05),
        )


def test_noise_alone_is_no_event_and_a_short_recording_of_it_is():
    rain = lambda begin, end: {"rain": 0.9, "dog": 0.1}  # noqa: E731
    assert _heard(_scene([], noise=0.01), rain) == []
    assert _heard(np.zeros(60 * RATE), rain) == []
    # In less than ten seconds nobody can tell the background.
    assert _spans(_heard(_scene([], seconds=8.0, noise=0.01), rain)) == [(0.0, 8.0)]
    # What is no noise is not taken for it, however long it lasts.
    assert _spans(_heard(_scene([(0.0, 60.0)]), rain)) == [(0.0, 60.0)]


def test_the_first_and_last_bit_of_a_sound_are_no_events_of_another_class():
    sounds = [(20.0, 24.0)]

    def shares(begin, end):
        held = max(0.0, min(end, 24.0) - max(begin, 20.0))
        return {"dog": 0.9, "cat": 0.1} if held > 1 else {"cat": 0.8, "dog": 0.2} if held else {"cat": 0.4, "dog": 0.4}

    (event,) = _heard(_scene(sounds), shares)
    assert event.label == "dog"
    assert _spans([event]) == [(pytest.approx(20.0, abs=0.05), pytest.approx(24.0, abs=0.05))]


def test_classes_that_follow_without_a_pause_meet():
    named = [("dog", 20.0, 30.0), ("cat", 30.0, 40.0)]
    dog, cat = _heard(_scene([(20.0, 40.0)]), _knows(named))
    assert (dog.label, cat.label) == ("dog", "cat")
    assert dog.begin_seconds == pytest.approx(20.0, abs=0.05)
    assert cat.end_seconds == pytest.approx(40.0, abs=0.05)
    assert dog.end_seconds == pytest.approx(30.0, abs=0.5)
    assert cat.begin_seconds == pytest.approx(30.0, abs=0.5)


def test_two_sounds_of_a_window():
    named = [("dog", 20.0, 20.5), ("cat", 23.0, 23.5)]
    found = _heard(_scene([(20.0, 20.5), (23.0, 23.5)]), _knows(named))
    assert [event.label for event in found] == ["dog", "cat"]
    for event, (_, begin, end) in zip(found, named, strict=True):
        assert (event.begin_seconds, event.end_seconds) == (
            pytest.approx(begin, abs=0.05),
            pytest.approx(end, abs=0.05),
        )


@pytest.mark.parametrize("cut", [1, 40, 62, 80, 110, 180])
def test_a_state_with_levels_goes_on(cut):
    sounds = [(14.3, 16.3), (25.1, 25.5), (33.0, 45.7)]
    wave, shares = _scene(sounds, noise=0.002), _knows([("dog", *one) for one in sounds], share=0.6)
    whole = _heard(wave, shares)
    assert _heard(wave, shares, cut=cut) == whole
    assert len(whole) == 3


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"threshold": 0.0}, "threshold is 0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"release": 0.6}, "release is 0.6; expected a probability above 0, up to the threshold 0.5"),
        ({"release": 0.0}, "release is 0"),
        ({"shortest_seconds": -1.0}, "shortest_seconds is -1"),
        ({"gap_seconds": float("inf")}, "gap_seconds is inf"),
    ],
)
def test_rules_that_make_no_sense(kwargs, words):
    with pytest.raises(EarsightError, match=words):
        EventRules(**kwargs)


def test_each_class_has_its_own_threshold():
    rules = EventRules(0.6, gap_seconds=0, of_class={"cat": 0.3})
    assert (rules.rises_at("dog"), rules.rises_at("cat")) == (0.6, 0.3)
    assert (rules.falls_at("dog"), rules.falls_at("cat")) == (pytest.approx(0.42), pytest.approx(0.21))
    assert EventRules(0.6, 0.5, of_class={"cat": 0.3}).falls_at("cat") == 0.3
    windows = [
        Window(float(n), n + 1.0, Prediction("x", ("dog", "cat"), shares, several=True))
        for n, shares in enumerate([(0.5, 0.31), (0.7, 0.22), (0.5, 0.1), (0.1, 0.29)])
    ]
    found = list(events_of(windows, rules, hop_seconds=1.0, window_seconds=1.0))
    assert [(event.label, event.begin_seconds, event.end_seconds) for event in found] == [
        ("cat", 0.0, 2.0),
        ("dog", 1.0, 3.0),
    ]


def test_classes_that_sound_together_do_not_end_each_other():
    """With softmax a class that takes over ends the others; of several, both go on."""
    shares = [(0.9, 0.1), (0.9, 0.5), (0.55, 0.9), (0.5, 0.9)]
    for several, ends in ((False, 2.0), (True, 4.0)):
        windows = [
            Window(float(n), n + 1.0, Prediction("x", names, tuple(sorted(pair, reverse=True)), several=several))
            for n, pair in enumerate(shares)
            for names in [("dog", "cat") if pair[0] > pair[1] else ("cat", "dog")]
        ]
        rules = EventRules(0.6, 0.4, gap_seconds=0)
        found = {event.label: event for event in events_of(windows, rules, hop_seconds=1.0, window_seconds=1.0)}
        assert found["dog"].end_seconds == ends
