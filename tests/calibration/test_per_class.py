"""Temperatures and thresholds a class: right values, stated rules, intervals, and the cards that hold them."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from several_runs import several_trials
from sklearn.metrics import f1_score, log_loss, precision_score

from earsight.calibration.fit import Wanted, calibrated_trial, figures, fit_calibration, score_of
from earsight.calibration.ood import joint_energy, ood_scores
from earsight.calibration.per_class import choose_thresholds, fit_temperatures, threshold_rule
from earsight.calibration.temperature import binary_calibration_error
from earsight.errors import DataError
from earsight.evaluation.metrics import sigmoid


def scored(seed, *, clips=300, classes=3, hot=2.0):
    """Logits that are too sure by a factor, and targets drawn from the true probabilities."""
    generator = np.random.default_rng(seed)
    true = generator.normal(-0.5, 1.5, (clips, classes))
    targets = (generator.random(true.shape) < sigmoid(true)).astype(np.float32)
    return hot * true, targets


def about(clips, *, folds=2, groups=None):
    return {
        "clips": np.array([f"{n:04}" for n in range(clips)]),
        "folds": 1 + np.arange(clips) % folds,
        "groups": groups,
    }


def test_temperatures_are_those_of_the_highest_likelihood():
    logits, targets = scored(0)
    targets[:30, 1] = np.nan
    found = fit_temperatures(logits, targets)
    for kind in range(3):
        known = ~np.isnan(targets[:, kind])

        def loss(t, kind=kind, known=known):
            likelihood = known.sum() * log_loss(targets[known, kind], sigmoid(logits[known, kind] / t))
            return likelihood + (np.log(t) / np.log(2)) ** 2 / 2

        wanted = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8}).x
        assert found[kind] == pytest.approx(wanted, rel=1e-4)
        assert found[kind] == pytest.approx(2, rel=0.35)
    before, after = (binary_calibration_error(sigmoid(logits / t), targets) for t in (1, found))
    assert after < 0.6 * before


def test_rare_classes_get_the_temperature_of_all():
    logits, targets = scored(1)
    targets[:, 2] = 0
    targets[:5, 2] = 1
    whole = fit_temperatures(logits.reshape(-1, 1), targets.reshape(-1, 1))[0]
    found = fit_temperatures(logits, targets)
    assert found[2] == pytest.approx(whole)
    assert found[0] != found[2]
    # Scores without an error do not say how sure they may be.
    perfect = np.where(targets == 1, 3.0, -3.0)
    assert fit_temperatures(perfect, targets).tolist() == [1, 1, 1]


@pytest.mark.parametrize("text", ["best-f1", "precision=0.9", "false-alarms-per-hour=1", "false-alarms-per-hour=0"])
def test_rules_are_read_and_written_alike(text):
    assert threshold_rule(text).text == text


@pytest.mark.parametrize(
    "text", ["f1", "best-f1=1", "precision", "precision=1", "precision=x", "false-alarms-per-hour=-1"]
)
def test_rules_that_are_none(text):
    with pytest.raises(DataError, match="expected best-f1, precision=P"):
        threshold_rule(text)


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_of_the_best_f1_is_found(seed):
    logits, targets = scored(seed)
    shares = sigmoid(logits)
    found = choose_thresholds(shares, targets, "abc", threshold_rule("best-f1"), **about(300))
    for kind, name in enumerate("abc"):
        tried = [f1_score(targets[:, kind], shares[:, kind] >= limit) for limit in np.unique(shares[:, kind])]
        limit = found[name]["threshold"]
        assert f1_score(targets[:, kind], shares[:, kind] >= limit) == pytest.approx(max(tried))
        assert found[name]["reached"] == pytest.approx(max(tried))
        # Halfway between two clips: no clip lies on it.
        assert np.abs(shares[:, kind] - limit).min() > 0
        low, high = found[name]["ci95"]
        assert 0 <= low <= limit <= high <= 1 or low <= high
        assert found[name]["rule"] == "best-f1"


def test_the_threshold_of_a_precision_is_the_lowest():
    logits, targets = scored(5)
    shares = sigmoid(logits)
    found = choose_thresholds(shares, targets, "abc", threshold_rule("precision=0.9"), **about(300))
    for kind, name in enumerate("abc"):
        limit = found[name]["threshold"]
        assert precision_score(targets[:, kind], shares[:, kind] >= limit) >= 0.9
        lower = [value for value in np.unique(shares[:, kind]) if value < limit]
        assert all(precision_score(targets[:, kind], shares[:, kind] >= value) < 0.9 for value in lower)
    # Out of reach, the nearest is taken, and what it reaches is said.
    truth = np.zeros((40, 1), dtype=np.float32)
    truth[20:] = 1
    scores = np.linspace(1, 0.1, 40)[:, None]
    found = choose_thresholds(scores, truth, "a", threshold_rule("precision=0.9"), **about(40))["a"]
    assert found["reached"] == pytest.approx(0.5)


def test_the_threshold_of_false_alarms_an_hour():
    logits, targets = scored(2, clips=400)
    shares = sigmoid(logits)
    rule = threshold_rule("false-alarms-per-hour=20")
    found = choose_thresholds(shares, targets, "abc", rule, **about(400), clip_seconds=5.0)
    for kind, name in enumerate("abc"):
        hours = (targets[:, kind] == 0).sum() * 5 / 3600

        def rate(limit, kind=kind, hours=hours):
            return ((shares[:, kind] >= limit) & (targets[:, kind] == 0)).sum() / hours

        limit = found[name]["threshold"]
        assert rate(limit) <= 20
        assert found[name]["reached"] == pytest.approx(rate(limit))
        below = shares[:, kind][shares[:, kind] < limit].max()
        assert rate(below) > 20 or targets[shares[:, kind] == below, kind] == 1
    # None at all: above the highest clip without the class.
    strict = choose_thresholds(
        shares, targets, "abc", threshold_rule("false-alarms-per-hour=0"), **about(400), clip_seconds=5
    )
    assert strict["a"]["threshold"] > shares[targets[:, 0] == 0, 0].max()


def test_thresholds_need_clips_and_leave_masks_out():
    logits, targets = scored(3)
    targets[:, 1] = 0
    targets[0, 1] = 1
    targets[:, 2] = 1
    found = choose_thresholds(sigmoid(logits), targets, "abc", threshold_rule("best-f1"), **about(300))
    assert set(found) == {"a"}
    masked = targets.copy()
    masked[100:, 0] = np.nan
    part = choose_thresholds(sigmoid(logits[:100]), targets[:100], "abc", threshold_rule("best-f1"), **about(100))
    whole = choose_thresholds(sigmoid(logits), masked, "abc", threshold_rule("best-f1"), **about(300))
    assert whole["a"]["threshold"] == part["a"]["threshold"]


def test_intervals_of_thresholds_are_wide_where_clips_are_few():
    logits, targets = scored(4, clips=2000, classes=1)
    shares, rule = sigmoid(logits), threshold_rule("best-f1")
    copies = np.repeat(np.arange(60), 20)
    many, few, grouped = (
        choose_thresholds(shares[rows], targets[rows], "a", rule, **about(len(rows), groups=groups))["a"]["ci95"]
        for rows, groups in ((np.arange(2000), None), (np.arange(60), None), (copies, copies.astype(str)))
    )
    assert np.ptp(many) < np.ptp(few)
    assert np.ptp(grouped) == pytest.approx(np.ptp(few), rel=0.4)


# --- Calibrations of runs -------------------------------------------------------------------------------------------


def test_a_calibration_of_several_labels():
    trials = several_trials(clips=120)
    found = fit_calibration(trials[:1], Wanted())
    assert (found.temperature, len(found.temperatures), found.sets) == (1.0, 3, None)
    assert found.unknown["score"] == "distance"
    assert set(found.thresholds) == {"a", "b", "c"}
    assert "sets" not in found.for_card(own=True)
    held = calibrated_trial(trials[1], found)
    np.testing.assert_allclose(held.after, sigmoid(trials[1].logits / np.array(found.temperatures)))
    limits = np.array([found.thresholds[name]["threshold"] for name in "abc"])
    np.testing.assert_array_equal(held.named, held.after >= limits)
    out = figures([held], trials[1:2], wanted=Wanted())
    assert out["named"]["micro_f1"] == pytest.approx(f1_score(trials[1].marks, held.named, average="micro"))
    assert out["log_loss"]["after"] == pytest.approx(
        np.mean([log_loss(trials[1].marks[:, k], held.after[:, k]) for k in range(3)])
    )
    assert out["coverage"] is None
    assert out["false_alarms"]["stated"] == 0.05
    json.dumps(out, allow_nan=False)


def test_doubt_is_not_defined_for_several_labels():
    trials = several_trials(clips=60, distance=False)
    assert score_of(trials, "auto") == "energy"
    with pytest.raises(DataError, match="that none does says nothing"):
        score_of(trials, "doubt")
    logits = trials[0].logits
    np.testing.assert_allclose(joint_energy(logits), -np.log1p(np.exp(logits.astype(float))).sum(axis=1))
    np.testing.assert_allclose(ood_scores("energy", logits, temperature=1.0, several=True), joint_energy(logits))
    with pytest.raises(DataError, match="max-softmax"):
        ood_scores("doubt", logits, temperature=1.0, several=True)
    for trial in trials:
        trial.about["windows"] = "all"
    assert score_of(trials, "auto") == ""
    assert fit_calibration(trials, Wanted()).unknown is None


def test_thresholds_of_one_label_a_clip_are_by_choice():
    from made_runs import drawn

    trials = drawn((1, 2), (0,), generator=np.random.default_rng(0), clips=60)
    assert fit_calibration(trials, Wanted()).thresholds == {}
    found = fit_calibration(trials, Wanted(threshold_rule="best-f1"))
    assert set(found.thresholds) == set(trials[0].classes)
    assert (found.temperatures, found.sets is None) == ((), False)
