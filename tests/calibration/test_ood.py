"""OOD scores against scipy, and thresholds that known sounds exceed at the stated rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from scipy.stats import binom, binomtest
from sklearn.metrics import roc_auc_score

from earsight.calibration.ood import energy, fit_ood_threshold, is_unknown, max_softmax_score, share_interval
from earsight.errors import DataError


def test_energy_and_max_softmax_are_scipys():
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 30
    np.testing.assert_allclose(energy(logits), -logsumexp(logits, axis=1), rtol=1e-12)
    np.testing.assert_allclose(max_softmax_score(logits), 1 - softmax(logits, axis=1).max(axis=1), atol=1e-12)
    assert np.isfinite(energy(np.array([[5000.0, -5000.0], [-5000.0, -5000.0]]))).all()


def test_max_softmax_forgets_the_level_and_energy_is_it():
    logits = np.random.default_rng(1).normal(size=(20, 4))
    np.testing.assert_allclose(max_softmax_score(logits + 3), max_softmax_score(logits), atol=1e-12)
    np.testing.assert_allclose(energy(logits + 3), energy(logits) - 3, atol=1e-12)


def test_quiet_logits_are_farther_out_than_loud_ones():
    generator = np.random.default_rng(2)
    known = generator.normal(size=(200, 5)) + 8 * np.eye(5)[generator.integers(5, size=200)]
    strange = generator.normal(size=(200, 5))
    truth = np.repeat([0, 1], 200)
    for score in (energy, max_softmax_score):
        assert roc_auc_score(truth, np.concatenate([score(known), score(strange)])) > 0.95


@pytest.mark.parametrize(("clips", "rate"), [(19, 0.05), (80, 0.05), (320, 0.05), (100, 0.2)])
def test_known_sounds_pass_at_the_stated_rate(clips, rate):
    generator = np.random.default_rng(clips)
    draws = 3000
    scores = generator.gamma(2.0, size=(draws, clips + 1))
    alarms = sum(row[-1] > fit_ood_threshold(row[:-1], rate=rate)[0] for row in scores)
    assert binom.ppf(1e-4, draws, rate - 1 / (clips + 1)) <= alarms <= binom.ppf(1 - 1e-4, draws, rate)


def test_the_interval_of_the_rate_is_that_of_draws():
    generator = np.random.default_rng(3)
    scores = generator.random((20000, 80))  # uniform: the share above a threshold is 1 less it
    reached = [1 - fit_ood_threshold(row, rate=0.05)[0] for row in scores[:4000]]
    _, (low, high) = fit_ood_threshold(scores[0], rate=0.05)
    np.testing.assert_allclose([low, high], np.quantile(reached, [0.025, 0.975]), atol=0.006)
    assert low < 0.05 < high


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), clips=st.integers(20, 200), rate=st.sampled_from([0.05, 0.1, 0.3]))
def test_the_threshold_is_a_score_that_few_pass_and_a_rising_map_keeps_the_verdicts(seed, clips, rate):
    scores = np.random.default_rng(seed).normal(size=clips)
    threshold, _ = fit_ood_threshold(scores, rate=rate)
    assert threshold in scores
    assert (scores > threshold).mean() <= rate
    assert fit_ood_threshold(np.exp(scores), rate=rate)[0] == pytest.approx(np.exp(threshold))


def test_a_score_that_equals_the_threshold_is_a_known_sounds():
    scores = np.array([1.0, np.nextafter(1.0, 2.0), np.nextafter(1.0, 0.0)])
    assert is_unknown(scores, 1.0).tolist() == [False, True, False]
    assert is_unknown(torch.from_numpy(scores), 1.0).tolist() == [False, True, False]


def test_too_few_clips_say_how_many_do():
    with pytest.raises(DataError, match="at least 19 can"):
        fit_ood_threshold(np.arange(18.0), rate=0.05)
    fit_ood_threshold(np.arange(19.0), rate=0.05)
    with pytest.raises(DataError, match="not finite"):
        fit_ood_threshold(np.array([*range(30), np.nan]), rate=0.05)


@pytest.mark.parametrize(("hits", "clips"), [(0, 80), (3, 80), (80, 80), (20, 400)])
def test_intervals_are_clopper_and_pearsons(hits, clips):
    wanted = binomtest(hits, clips).proportion_ci(method="exact")
    np.testing.assert_allclose(share_interval(hits / clips, clips=clips), [wanted.low, wanted.high], atol=1e-9)
