"""Conformal sets reach their coverage on exchangeable data, whatever the classifier, and are what the papers define."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from earsight.calibration.conformal import (
    METHODS,
    conformal_threshold,
    coverage_band,
    nonconformity_scores,
    prediction_sets,
    rank,
)
from earsight.errors import DataError


def _shares(generator, clips, classes=6, *, scale=2.0):
    """Probabilities of a classifier that is often wrong and badly calibrated, and labels drawn from others."""
    logits = generator.normal(size=(clips, classes)) * scale
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < generator.random((clips, 1))).sum(axis=1).clip(max=classes - 1)
    wild = np.exp(2.5 * logits)  # too sure
    return wild / wild.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("clips", "coverage"), [(19, 0.9), (80, 0.9), (80, 0.95), (400, 0.99), (50, 0.5)])
def test_coverage_on_exchangeable_draws_is_at_least_what_is_stated(method, clips, coverage):
    """Brute force: many draws of calibration clips, and of one clip for each that was not among them."""
    generator = np.random.default_rng(clips)
    draws = 1500 if clips < 100 else 400
    held = 0
    for _ in range(draws):
        shares, labels = _shares(generator, clips + 1)
        threshold = conformal_threshold(shares[:-1], labels[:-1], coverage=coverage, method=method)
        held += bool(prediction_sets(shares[-1:], threshold=threshold, method=method)[0, labels[-1]])
    assert held >= binom.ppf(1e-4, draws, coverage)
    if method == "lac" and coverage >= 0.9:  # below, the class that is always in adds to it
        # Without ties it is also at most 1 / (clips + 1) above.
        assert held <= binom.ppf(1 - 1e-4, draws, min(1.0, coverage + 1 / (clips + 1)))


def test_lac_and_aps_are_what_they_are_defined_as():
    shares = np.array([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(nonconformity_scores(shares), 1 - shares)
    np.testing.assert_allclose(nonconformity_scores(shares, method="aps"), [[0.5, 1.0, 0.8], [0.9, 1.0, 0.8]])
    labels = np.array([1, 0])
    assert conformal_threshold(shares, labels, coverage=0.5) == pytest.approx(0.9)  # the 2nd smallest of 0.8 and 0.9
    assert conformal_threshold(shares, labels, coverage=0.3) == pytest.approx(0.8)
    assert conformal_threshold(shares, labels, coverage=0.9) == 1.0, "two clips cannot say where 90 % lie"
    assert prediction_sets(shares, threshold=0.75).tolist() == [[True, False, True], [False, False, True]]
    assert prediction_sets(shares, threshold=0.0).sum(axis=1).tolist() == [1, 1], "never empty"


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), clips=st.integers(5, 60), coverage=st.floats(0.05, 0.99))
def test_sets_follow_classes_and_grow_with_coverage(method, seed, clips, coverage):
    generator = np.random.default_rng(seed)
    shares, labels = _shares(generator, clips)
    new, _ = _shares(generator, 20)
    threshold = conformal_threshold(shares, labels, coverage=coverage, method=method)
    own = prediction_sets(new, threshold=threshold, method=method)
    # Other names for the classes, and the clips in another order, change nothing.
    names, order = generator.permutation(6), generator.permutation(clips)
    place = np.argsort(names)
    renamed = conformal_threshold(shares[order][:, names], place[labels][order], coverage=coverage, method=method)
    assert renamed == pytest.approx(threshold, abs=1e-12)
    assert np.array_equal(prediction_sets(new[:, names], threshold=threshold, method=method), own[:, names])
    wider = conformal_threshold(shares, labels, coverage=(1 + coverage) / 2, method=method)
    assert not (own & ~prediction_sets(new, threshold=wider, method=method)).any()
    assert own.any(axis=1).all()
    # A class that is more probable than a plausible one is plausible.
    ranked = np.take_along_axis(own, np.argsort(-new, axis=1), axis=1)
    assert not (ranked[:, 1:] & ~ranked[:, :-1]).any()


def test_the_rank_is_exact_where_floats_are_not():
    assert [rank(19, share=0.95), rank(18, share=0.95), rank(99, share=0.99), rank(320, share=0.95)] == [
        *(19, 19, 99, 305),
    ]
    assert rank(18, share=0.95) == 18 + 1, "18 clips cannot say"


def test_the_band_of_coverages_is_that_of_draws():
    generator = np.random.default_rng(0)
    clips = 100
    # The coverage of a threshold is its place among uniform scores.
    reached = np.sort(generator.random((20000, clips)), axis=1)[:, rank(clips, share=0.9) - 1]
    np.testing.assert_allclose(coverage_band(clips, coverage=0.9), np.quantile(reached, [0.025, 0.975]), atol=0.005)
    assert coverage_band(5, coverage=0.95) == (1.0, 1.0)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, float("nan")])
def test_no_coverage(coverage):
    with pytest.raises(DataError, match="expected one between 0 and 1"):
        conformal_threshold(np.full((3, 2), 0.5), np.zeros(3, dtype=int), coverage=coverage)


def test_no_such_score():
    with pytest.raises(DataError, match="expected one of lac, aps"):
        nonconformity_scores(np.full((3, 2), 0.5), method="raps")
