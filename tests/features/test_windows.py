"""Which part of which clip a row is, and what is printed about it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earsight.features.windows import clip_windows, single_windows, sound_lines
from earsight.recipe import Features, Training

FEATURES = Features(sample_rate_hz=2000, clip_seconds=10, frames=32)
ALL = Training(windows="all")


def rows(seconds, training=ALL):
    found = clip_windows(np.array(seconds, dtype=np.float64), FEATURES, training)
    return list(zip(found.clips.tolist(), (found.begins / 2000).tolist(), found.judged.tolist(), strict=True))


def test_a_clip_is_cut_if_it_is_longer_than_a_window_by_more_than_a_tenth():
    assert rows([3, 10, 11, np.nan]) == [(0, 0, True), (1, 0, True), (2, 0, True), (3, 0, True)]
    # Side by side, the last moved back to the clip's end; halfway only between begins over half a window apart.
    assert rows([2, 11.2, 25, 30]) == [
        *[(0, 0, True), (1, 0, True), (1, 1.2, True)],
        *[(2, 0, True), (2, 5, False), (2, 10, True), (2, 15, True)],
        *[(3, 0, True), (3, 5, False), (3, 10, True), (3, 15, False), (3, 20, True)],
    ]
    assert rows([25, 30], Training(windows="first")) == [(0, 0, True), (1, 0, True)]
    assert rows([25, 30], Training(windows="all", most_seconds=20)) == rows([20, 20])
    assert rows([10800.0])[-1] == (0, 590, True)


@given(st.lists(st.floats(0.1, 700), min_size=1, max_size=5))
def test_windows_lie_within_their_clip_and_leave_nothing_out(seconds):
    found = clip_windows(np.array(seconds), FEATURES, ALL)
    for clip, lasts in enumerate(np.minimum(seconds, 600).tolist()):
        mine = found.clips == clip
        begins, judged = found.begins[mine] / 2000, found.begins[mine & found.judged] / 2000
        assert begins[0] == judged[0] == 0
        assert np.diff(begins).max(initial=0) <= 10
        assert np.diff(judged).max(initial=0) <= 10
        assert (np.diff(begins) > 0).all()
        if len(judged) > 1:
            assert judged[-1] + 10 == pytest.approx(lasts, abs=1 / 2000)
        else:
            assert lasts <= 11 + 1 / 2000


def test_draws_depend_on_seed_and_epoch_alone_and_reach_every_window():
    found = clip_windows(np.array([30.0, 4, 50, np.nan]), FEATURES, ALL)
    drawn = np.array([found.drawn(seed=1, epoch=epoch) for epoch in range(200)])
    assert drawn.shape == (200, 4)
    assert (found.clips[drawn] == np.arange(4)).all()
    assert sorted(set(drawn.ravel().tolist())) == list(range(len(found.clips)))
    assert np.array_equal(found.drawn(seed=1, epoch=7), drawn[7])
    assert not np.array_equal(found.drawn(seed=2, epoch=7), drawn[7])
    assert not np.array_equal(drawn[7], drawn[8])
    counts = np.bincount(drawn[:, 2] - drawn[:, 2].min())
    assert counts.min() > 0.5 * 200 / len(counts)  # evenly
    single = single_windows(3)
    assert single.drawn(seed=1, epoch=1).tolist() == [0, 1, 2]


def test_a_clip_is_judged_by_the_mean_of_its_windows_side_by_side():
    found = clip_windows(np.array([4.0, 25, 30]), FEATURES, ALL)
    order = np.array([2, 0, 1])
    assert found.rows_of(order).tolist() == [5, 7, 9, 0, 1, 3, 4]
    assert found.counts(order).tolist() == [3, 1, 3]
    values = np.arange(7.0)
    assert found.means(order, values).tolist() == [1, 3, 5]
    logits = np.array([[5, 0], [-4, 0], [0, 0], [700, 900], [0, 1], [800, 0], [0, -800]], dtype=np.float32)
    out = found.log_means(order, logits)
    share = 1 / (1 + np.exp([-5, 4, 0]))
    np.testing.assert_allclose(np.exp(out[0]), [share.mean(), 1 - share.mean()], rtol=1e-6)
    assert out[1].tolist() == [700, 900]  # of one window: its own, to the bit
    share = np.array([1 / (1 + np.e), 1, 1])
    np.testing.assert_allclose(np.exp(out[2]), [share.mean(), 1 - share.mean()], rtol=1e-6)
    assert (out.dtype, np.isfinite(out).all()) == (np.float32, True)
    extreme = found.log_means(np.array([1]), np.array([[0, 2000], [0, 2000], [0, 2000]], dtype=np.float32))
    assert np.isfinite(extreme).all()


def test_single_windows_change_nothing():
    single, clips, logits = single_windows(5), np.array([3, 1]), np.ones((2, 2), dtype=np.float32)
    assert (single.single, single.key) == (True, [])
    assert single.rows_of(clips) is clips
    assert single.log_means(clips, logits) is logits
    several = clip_windows(np.array([4.0, 25]), FEATURES, ALL)
    assert not several.single
    assert several.key == [["windows", [0, 1, 1, 1, 1], [0, 0, 10000, 20000, 30000]]]


def test_what_is_cut_and_padded_is_printed():
    labels = ["a", "a", "b", "b", "b"]
    lines = sound_lines(np.array([10.0, 10, 10, 10, 10]), labels, FEATURES, ALL)
    assert lines == ["sound: 2000 Hz, windows of 10 s; of 5 clips 0 are cut and 0 padded with silence"]
    first, windows = sound_lines(np.array([9.0, 10, 25, 30, np.nan]), labels, FEATURES, ALL)
    assert first == "sound: 2000 Hz, windows of 10 s; of 4 clips 2 are cut and 1 padded with silence"
    assert "those cut have 6 windows" in windows
    assert "training.windows=first" in windows
    _, only = sound_lines(np.array([9.0, 10, 25, 30, 10]), labels, FEATURES, Training(windows="first"))
    assert only.startswith("of those cut only the first 10 s are used (--set training.windows=all")
    _, _, beyond = sound_lines(np.array([9.0, 10, 25, 700, 3600.2]), labels, FEATURES, ALL)
    assert beyond == (
        "of 2 clips only the first 600 s are used (--set training.most_seconds=3601: all); `predict` and `evaluate` "
        "hear all"
    )
    _, over = sound_lines(np.array([10.0, 10, 10.3, 11, 10]), labels, FEATURES, ALL)
    end = "which is not used; --set features.clip_seconds=11 uses all"
    assert over == f"2 clips longer than a window by at most 1 s, {end}"
    _, over = sound_lines(np.array([10.0, 10, 10.14, 10.004, 10]), labels, FEATURES, ALL)
    assert over == "2 clips longer than a window by at most 0.14 s, which is not used"


def test_milliseconds_are_no_padding():
    """ESC-10's oggs as a folder: most are 5.004 s, for which `auto` takes 5.1 s."""
    features = FEATURES.model_copy(update={"clip_seconds": 5.1})
    lines = sound_lines(np.array([5.004] * 8 + [5.1, 4.0]), ["a"] * 10, features, ALL)
    assert lines == [
        "sound: 2000 Hz, windows of 5.1 s; of 10 clips 0 are cut and 1 padded with silence",
        "8 clips shorter than a window by at most 0.096 s, which is filled with silence",
    ]


def test_classes_that_differ_much_in_length_are_named():
    labels = ["cough", "cough", "rain", "rain", "talk"]
    _, note = sound_lines(np.array([0.4, 0.6, 10, 10, 4]), labels, FEATURES, ALL)
    assert note.startswith("note: clips of 'cough' last 0.5 s, those of 'rain' 10 s (medians): the padding")
    assert len(sound_lines(np.array([6.0, 6, 10, 10, 8]), labels, FEATURES, ALL)) == 1
    # What lies beyond a window is cut, not padded: it tells nothing.
    assert not any("medians" in line for line in sound_lines(np.array([10.0, 10, 50, 60, 10]), labels, FEATURES, ALL))
    assert len(sound_lines(np.full(5, np.nan), labels, FEATURES, ALL)) == 1
