"""Calibrations fitted to some folds and measured on others: what is chosen where, and what is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_runs import trial
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import t

from earsight.calibration.fit import (
    CalibratedTrial,
    Wanted,
    calibrated_trial,
    figures,
    fit_calibration,
    others_of,
    score_of,
)
from earsight.calibration.ood import ood_scores, share_interval
from earsight.errors import DataError


def _trials(folds=(1, 2, 3, 4), seeds=(0,), *, clips=100, sure=3.0, distance=True, seed=0):
    """Trials whose logits are ``sure`` times those that the labels were drawn from."""
    generator = np.random.default_rng(seed)
    out = []
    for fold in folds:
        for one in seeds:
            logits = generator.normal(size=(clips, 3)) * 1.5
            labels = (softmax(logits, axis=1).cumsum(axis=1) < generator.random((clips, 1))).sum(axis=1).clip(max=2)
            made = trial(fold, one, labels, sure * logits)
            out.append(replace(made, distance=generator.gamma(9.0, size=clips) / 9) if distance else made)
    return out


def test_the_temperature_is_the_most_probable_one_and_undoes_what_was_too_sure():
    trials = _trials(clips=400)
    found = fit_calibration(trials, Wanted()).temperature
    logits = np.concatenate([one.logits for one in trials]).astype(np.float64)
    labels = np.concatenate([one.labels for one in trials])

    def loss(temperature):
        likelihood = log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].sum()
        return (np.log(temperature) / np.log(2)) ** 2 / 2 - likelihood

    assert found == pytest.approx(minimize_scalar(loss, bounds=(0.1, 20), method="bounded").x, rel=1e-3)
    assert found == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("score", ["distance", "energy", "doubt"])
def test_what_is_reached_on_other_folds_is_what_was_stated(score, method):
    trials = _trials(folds=range(1, 9), clips=250)
    wanted = Wanted(score=score, false_alarms=0.1, coverage=0.9, method=method)
    told = [calibrated_trial(one, fit_calibration(others_of(one, trials), wanted)) for one in trials]
    found = figures(told, trials, wanted=wanted)
    assert found["clips"] == 2000
    assert found["false_alarms"]["reached"] == pytest.approx(0.1, abs=0.025)
    low, high = found["false_alarms"]["ci95"]
    assert low < found["false_alarms"]["reached"] < high
    assert found["coverage"]["reached"] >= 0.875
    assert 1 <= found["coverage"]["mean_size"] <= 3
    if method == "lac":
        assert found["coverage"]["reached"] == pytest.approx(0.9, abs=0.025)
    assert found["ece"]["after"] < 0.04 < 0.15 < found["ece"]["before"]
    assert found["log_loss"]["after"] < found["log_loss"]["before"]


def test_a_fold_is_calibrated_by_the_other_folds_of_its_seed_alone():
    trials = _trials(folds=(1, 2, 3), seeds=(0, 1))
    assert [(one.about["fold"], one.about["seed"]) for one in others_of(trials[2], trials)] == [(1, 0), (3, 0)]
    wanted = Wanted()
    before = fit_calibration(others_of(trials[0], trials), wanted)
    # Whatever the fold itself, or another seed, says changes nothing.
    changed = [
        replace(one, logits=-one.logits, distance=9 * one.distance)
        if one.about["fold"] == 1 or one.about["seed"] == 1
        else one
        for one in trials
    ]
    assert fit_calibration(others_of(changed[0], changed), wanted) == before
    other = replace(trials[2], logits=-trials[2].logits)
    moved = [other if one is trials[2] else one for one in trials]
    assert fit_calibration(others_of(trials[0], moved), wanted) != before
    assert before.folds == (2, 3)
    assert before.clips == 200


def test_the_only_fold_calibrates_itself_and_says_so():
    trials = _trials(folds=(4,))
    assert others_of(trials[0], trials) == trials
    found = fit_calibration(trials, Wanted())
    assert found.for_card(own=True)["own_held_out"] is True
    assert found.folds == (4,)


def test_auto_takes_the_best_score_that_there_is():
    assert score_of(_trials(), "auto") == "distance"
    assert score_of(_trials(distance=False), "auto") == "energy"
    ensemble = [replace(one, about={**one.about, "ensemble": 5}) for one in _trials(distance=False)]
    assert score_of(ensemble, "auto") == "doubt"
    with pytest.raises(DataError, match=r"score distance.*train again\); choose one of energy, doubt"):
        score_of([*_trials(), *_trials(distance=False)], "distance")
    with pytest.raises(DataError, match=r"an ensemble has none\); choose one of doubt"):
        score_of(ensemble, "energy")


def test_ood_scores_are_of_the_right_arrays():
    (one, *_) = _trials()
    assert np.array_equal(ood_scores("distance", one.logits, temperature=2.0, distance=one.distance), one.distance)
    shares = softmax(one.logits.astype(np.float64) / 2, axis=1)
    np.testing.assert_allclose(ood_scores("doubt", one.logits, temperature=2.0), 1 - shares.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(
        ood_scores("energy", one.logits, temperature=2.0), -logsumexp(one.logits, axis=1), rtol=1e-5
    )


@pytest.mark.parametrize("score", ["distance", "energy", "doubt"])
def test_the_clip_whose_score_is_the_threshold_is_known(score):
    """The threshold is the score of a calibration clip, which is not among the unknown ones."""
    trials = _trials(folds=(1,), clips=99)
    found = fit_calibration(trials, Wanted(score=score, false_alarms=0.05))
    scores = ood_scores(score, trials[0].logits, temperature=found.temperature, distance=trials[0].distance)
    at = scores == found.unknown["threshold"]
    assert at.sum() == 1
    unknown = calibrated_trial(trials[0], found).unknown
    assert not unknown[at].any()
    assert unknown.sum() == 99 - 95, "ceil(100 * 0.95) of the clips are known"


def test_too_few_clips_leave_out_what_they_cannot_say():
    few = _trials(folds=(1,), clips=18)
    found = fit_calibration(few, Wanted())
    assert (found.unknown, found.sets) == (None, None)
    assert set(found.for_card(own=True)) == {"clips", "folds", "own_held_out"}
    told = calibrated_trial(few[0], found)
    assert (told.unknown, told.prediction_sets) == (None, None)
    measured = figures([told], few, wanted=Wanted())
    assert (measured["coverage"], measured["false_alarms"]) == (None, None)
    enough = fit_calibration(_trials(folds=(1,), clips=19), Wanted())
    assert enough.unknown["rate"] == 0.05
    assert enough.unknown["ci95"][1] > 0.15, "nineteen clips leave much open"
    assert enough.sets["coverage"] == 0.95


def test_seeds_are_not_more_clips():
    trials = _trials(folds=(1, 2), seeds=(0, 1, 2))
    told = [calibrated_trial(one, fit_calibration(others_of(one, trials), Wanted())) for one in trials]
    assert figures(told, trials, wanted=Wanted())["clips"] == 200


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"score": "luck"}, "score luck: expected one of auto, distance"),
        ({"method": "raps"}, "sets raps: expected one of lac, aps"),
        ({"false_alarms": 0.0}, "--false-alarms 0: expected a share"),
        ({"coverage": 95.0}, "coverage 95: expected a share"),
    ],
)
def test_what_cannot_be_wanted(asked, message):
    with pytest.raises(DataError, match=message):
        Wanted(**asked)


def test_what_is_reached_goes_by_sources_where_clips_share_them():
    """Five speakers, one of whom is never in his set: 80 % over 500 clips are 76 to 83, over speakers 24 to 100."""
    owner = np.arange(500) // 100
    labels = np.zeros(500, dtype=int)
    one = trial(1, 0, labels, np.zeros((500, 3)))
    inside = np.zeros((500, 3), dtype=bool)
    inside[owner > 0, 0] = inside[owner == 0, 1] = True
    shares = np.full((500, 3), 1 / 3)
    told = CalibratedTrial(shares, shares, owner == 0, inside)
    alone = figures([told], [one], wanted=Wanted())
    assert alone["coverage"]["ci95"] == pytest.approx(share_interval(0.8, 500))
    known = replace(one, groups=np.array([f"s{number}" for number in owner]))
    found = figures([told], [known], wanted=Wanted())
    reach = t.ppf(0.975, 4) * np.sqrt(0.2 * 0.8 * 5 / 4 / 5)
    assert found["coverage"]["ci95"] == pytest.approx((0.8 - reach, 1.0))
    assert found["false_alarms"]["ci95"] == pytest.approx((0.0, 0.2 + reach))
    assert found["coverage"]["reached"] == alone["coverage"]["reached"] == 0.8
    twice = [known, replace(known, about={**known.about, "seed": 1})]
    assert figures([told, told], twice, wanted=Wanted())["coverage"]["ci95"] == pytest.approx((0.8 - reach, 1.0))
    all_in = replace(told, prediction_sets=np.ones((500, 3), bool))
    assert figures([all_in], [known], wanted=Wanted())["coverage"]["ci95"] == pytest.approx(share_interval(1, 5))


@pytest.mark.parametrize("pooled", [(0, 0), (30, 69), (31, 69), (100, 0)])
def test_a_calibration_is_for_pooled_answers_where_half_of_its_clips_were_pooled(pooled):
    trials = [replace(one, about={**one.about, "pooled": n}) for one, n in zip(_trials((1, 2)), pooled, strict=True)]
    card = fit_calibration(trials, Wanted()).for_card(own=False)
    assert card.get("pools", True) is (sum(pooled) >= 100)
    # Older versions did not count them.
    assert "pools" not in fit_calibration(_trials((1, 2)), Wanted()).for_card(own=False)
