"""Temperature scaling held to SciPy, calibration errors by hand, and temperatures fitted to the other folds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import drawn, trial

from earsight.calibration.temperature import (
    cross_fitted_confidence,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from earsight.errors import DataError
from earsight.evaluation.metrics import log_loss, softmax


def _calibrated(
    seed: int, *, clips: int = 4000, classes: int = 6, spread: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from the very probabilities that they stand for."""
    generator = np.random.default_rng(seed)
    logits = spread * generator.normal(size=(clips, classes))
    below = softmax(logits).cumsum(axis=1)
    labels = (generator.random((clips, 1)) > below).sum(axis=1)
    return logits, np.minimum(labels, classes - 1)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0, 20.0])
def test_known_temperature_is_recovered(temperature):
    logits, labels = _calibrated(0)
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.06)


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3.0))
@settings(max_examples=30, deadline=None)
def test_temperature_is_the_minimum_that_scipy_finds(seed, scale):
    logits, labels = _calibrated(seed, clips=60, classes=3, spread=1.0)
    logits = scale * logits

    def loss(log_temperature):
        prior = scipy.stats.norm(scale=np.log(2)).logpdf(log_temperature)
        return 60 * log_loss(logits / np.exp(log_temperature), labels) - prior

    options = {"xatol": 1e-9}
    expected = scipy.optimize.minimize_scalar(loss, bounds=np.log((0.01, 100)), method="bounded", options=options)
    found = np.log(fit_temperature(logits, labels))
    assert loss(found) <= expected.fun + 1e-7
    assert found == pytest.approx(expected.x, abs=1e-4)


def test_temperature_does_not_see_constants_nor_order_and_scales_with_the_logits():
    logits, labels = _calibrated(1, clips=3000)
    found = fit_temperature(logits, labels)
    order = np.random.default_rng(0).permutation(3000)
    shifts = np.linspace(-1000, 1000, 3000)[:, None]
    assert fit_temperature(logits + shifts, labels) == pytest.approx(found, rel=1e-8)
    assert fit_temperature(logits[order], labels[order]) == pytest.approx(found, rel=1e-8)
    assert fit_temperature(7 * logits, labels) == pytest.approx(7 * found, rel=5e-3)


def test_temperature_where_the_likelihood_has_no_minimum():
    right = np.array([[3.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(right, np.array([0, 1])) == 1.0
    assert fit_temperature(np.zeros((4, 3)), np.array([0, 1, 2, 0])) == 1.0
    # All wrong, the likelihood wants logits of nothing; so much only as two clips can say against the prior.
    assert 2 < fit_temperature(right, np.array([1, 0])) < 4
    assert fit_temperature(np.tile(1e6 * right, (500, 1)), np.array([1, 0] * 500)) == 100.0
    # Four clips, one of them wrong by a hair: the likelihood wants a T below 0.01, and a loss of nothing.
    nearly = np.array([[3.0, 0.0]] * 3 + [[1e-9, 0.0]])
    assert 0.7 < fit_temperature(nearly, np.array([0, 0, 0, 1])) < 1
    assert fit_temperature(0.02 * np.tile(nearly, (10_000, 1)), np.array([0, 0, 0, 1] * 10_000)) == 0.01


def test_calibration_error_by_hand():
    # Ten bins; 0.95 and 0.91 in the last (one right), 0.6 in the sixth (its upper edge), wrong.
    probabilities = np.array([[0.95, 0.05], [0.09, 0.91], [0.6, 0.4]])
    labels = np.array([0, 0, 1])
    curve = reliability(probabilities, labels, bins=10)
    assert curve.clips.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert curve.confidence[9] == pytest.approx(0.93)
    assert curve.accuracy[[5, 9]].tolist() == [0.0, 0.5]
    assert np.isnan(curve.accuracy[0])
    expected = (2 * 0.43 + 1 * 0.6) / 3
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(expected)
    assert expected_calibration_error(probabilities, labels, bins=1) == pytest.approx(abs(2.46 / 3 - 1 / 3))


def test_a_bin_holds_its_upper_edge():
    assert reliability(np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]), np.array([0, 0]), bins=4).clips.tolist() == [
        0,
        1,
        0,
        1,
    ]


def test_calibration_error_of_sure_and_right_is_zero_and_of_sure_and_wrong_one():
    sure = np.eye(3)
    assert expected_calibration_error(sure, np.arange(3)) == 0.0
    assert expected_calibration_error(sure, np.array([1, 2, 0])) == 1.0


def test_calibrated_data_have_a_small_error_and_overconfident_ones_a_large_one_until_mended():
    logits, labels = _calibrated(3, clips=20_000)
    assert expected_calibration_error(softmax(logits), labels) < 0.015
    sure = 3 * logits
    assert expected_calibration_error(softmax(sure), labels) > 0.1
    mended = sure / fit_temperature(sure[:10_000], labels[:10_000])
    assert expected_calibration_error(softmax(mended[10_000:]), labels[10_000:]) < 0.02


def test_float32_rows_are_probabilities_and_logits_are_not():
    logits, labels = _calibrated(4, clips=50)
    expected_calibration_error(softmax(logits).astype(np.float32), labels)
    with pytest.raises(DataError, match="apply softmax"):
        reliability(logits, labels)
    with pytest.raises(DataError, match="apply softmax"):
        reliability(np.array([[1.5, -0.5]]), np.array([0]))
    with pytest.raises(DataError, match="bins is 0"):
        reliability(softmax(logits), labels, bins=0)
    with pytest.raises(DataError, match="at least one clip"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int))


def test_a_folds_temperature_is_that_of_the_others():
    trials = drawn([1, 2, 3], [0, 1], generator=np.random.default_rng(1), clips=23)
    found = cross_fitted_confidence(trials)
    others = [one for one in trials if one.about["fold"] != 2]
    expected = fit_temperature(
        np.concatenate([one.logits for one in others]), np.concatenate([one.labels for one in others])
    )
    assert found.temperatures[2] == expected
    np.testing.assert_array_equal(found.raw.argmax(axis=1), found.scaled.argmax(axis=1))
    start = sum(len(one.labels) for one in trials if one.about["fold"] < 2)
    own = found.scaled[start : start + len(trials[2].labels)]
    np.testing.assert_allclose(own, softmax(trials[2].logits / expected))


def test_one_fold_has_no_temperature():
    found = cross_fitted_confidence(drawn([4], [0, 1], generator=np.random.default_rng(0)))
    assert found.scaled is None
    assert found.temperatures == {}


def test_logits_of_a_trial_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="fold 3: has logits that are not finite"):
        cross_fitted_confidence([trial(3, 0, [0], [[np.nan, 0, 0]])])
