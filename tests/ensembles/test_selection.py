"""Averaging members and choosing among them: figures by other computations, and choices blind to what is reported."""

from __future__ import annotations

from dataclasses import replace

import made_runs as made
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from several_runs import several_trials
from sklearn.metrics import accuracy_score, log_loss

from earsight.ensembles.selection import (
    Member,
    chosen_weights,
    cross_fitted,
    gather,
    greedy_weights,
    method_row,
    single_row,
)
from earsight.errors import DataError, RunError
from earsight.evaluation.metrics import sigmoid
from earsight.evaluation.multilabel import mean_average_precision
from earsight.evaluation.statistics import paired_difference

NAMES = ("runs/a", "runs/b")


def _random(folds, seeds, *, draw, clips=15, sharp=2.0, **more):
    """Trials whose logits lean to the label by a different amount for each seed."""
    generator = np.random.default_rng(draw)
    out = []
    for fold in folds:
        labels = np.random.default_rng(fold).integers(3, size=clips + fold)
        for seed in seeds:
            logits = generator.normal(size=(len(labels), 3)) + sharp * (seed + 1) / 3 * np.eye(3)[labels]
            out.append(made.trial(fold, seed, labels, logits, **more))
    return out


def _mixed(trials, fold, weights):
    """The weighted mean of probabilities by scipy."""
    members = [t for t in trials if t.about["fold"] == fold]
    mean = sum(w * softmax(t.logits.astype(np.float64), axis=1) for w, t in zip(weights, members, strict=True))
    return mean, members[0].labels


@settings(max_examples=20, deadline=None)
@given(draw=st.integers(0, 10**6), folds=st.integers(1, 4), seeds=st.integers(2, 4))
def test_single_and_average_as_table_two_has_them(draw, folds, seeds):
    trials = _random(range(1, folds + 1), range(seeds), draw=draw)
    grid = gather([trials], names=["r"])
    table = np.array(
        [
            [accuracy_score(t.labels, t.logits.argmax(1)) for t in trials if t.about["fold"] == fold]
            for fold in range(1, folds + 1)
        ]
    )
    single = single_row(grid)
    assert single["accuracy"]["mean"] == pytest.approx(table.mean())
    assert single["accuracy"]["std"] == pytest.approx(np.std(table.mean(axis=0), ddof=1))
    if folds > 1:
        f_value = scipy.stats.f_oneway(*table).statistic
        parts = single["accuracy"]
        if f_value > 1:
            assert 1 + seeds * parts["fold_std"] ** 2 / parts["seed_std"] ** 2 == pytest.approx(f_value)
        assert parts["seed_std"] ** 2 == pytest.approx(np.mean(np.var(table, axis=1, ddof=1)))
    row = method_row(grid, "average", {fold: grid.mixed(fold) for fold in grid.folds}, networks=seeds)
    shares, right, means, owners = [], [], [], []
    for fold in range(1, folds + 1):
        mixed, labels = _mixed(trials, fold, np.full(seeds, 1 / seeds))
        shares.append(accuracy_score(labels, mixed.argmax(1)))
        right.append(mixed.argmax(1) == labels)
        means.append(np.mean([t.correct for t in trials if t.about["fold"] == fold], axis=0))
        owners.append(np.full(len(labels), fold))
    assert row["accuracy"]["mean"] == pytest.approx(np.mean(shares))
    assert row["gain"]["difference"] == pytest.approx(np.mean(shares) - table.mean())
    by_hand = paired_difference(np.concatenate(right), np.concatenate(means), folds=np.concatenate(owners))
    assert row["gain"]["p_value"] == pytest.approx(by_hand.p_value)
    assert row["gain"]["ci95"] == pytest.approx([by_hand.low, by_hand.high])


def test_a_gain_counts_only_beyond_the_noise():
    # Three members, each wrong on clips of its own: together right on all.
    labels = np.arange(90) % 3
    wrong = [np.arange(90) % 9 == place for place in range(3)]
    grid = gather([[made.answered(1, seed, labels, ~wrong[seed]) for seed in range(3)]], names=["r"])
    row = method_row(grid, "average", {1: grid.mixed(1)}, networks=3)
    assert row["accuracy"]["mean"] == 1.0
    assert row["gain"]["difference"] == pytest.approx(10 / 90)
    assert row["gain"]["beyond_noise"]
    # The same three with one mistake each gain little on few clips.
    few = [np.arange(90) == 30 * place for place in range(3)]
    grid = gather([[made.answered(1, seed, labels, ~few[seed]) for seed in range(3)]], names=["r"])
    row = method_row(grid, "average", {1: grid.mixed(1)}, networks=3)
    assert row["gain"]["difference"] > 0
    assert not row["gain"]["beyond_noise"]


def test_intervals_go_by_sources_where_clips_share_them():
    """Each of three members is wrong about one source of six: 45 clips that gain are three sources that do."""
    labels, source = np.arange(90) % 3, np.arange(90) // 15
    alone = [made.answered(1, seed, labels, source != seed) for seed in range(3)]
    known = [replace(one, groups=np.array([f"s{number}" for number in source])) for one in alone]
    rows = []
    for trials in (alone, known):
        grid = gather([trials], names=["r"])
        rows.append((single_row(grid), method_row(grid, "average", {1: grid.mixed(1)}, networks=3)))
    (_, apart), (single, average) = rows
    low, _ = scipy.stats.t.interval(0.95, 5, loc=5 / 6, scale=scipy.stats.sem([2 / 3] * 3 + [1] * 3))
    assert single["accuracy"]["ci95"] == [pytest.approx(low), 1.0]
    assert average["accuracy"]["ci95"] == [pytest.approx(0.025 ** (1 / 6)), 1.0]
    assert average["gain"]["difference"] == pytest.approx(apart["gain"]["difference"]) == pytest.approx(1 / 6)
    assert (average["gain"]["p_value"], average["gain"]["beyond_noise"]) == (pytest.approx(2 / 8), False)
    assert apart["gain"]["beyond_noise"]


# Greedy choice


def _greedy_by_loops(probabilities, labels, rounds):
    """Caruana's procedure with scikit-learn's log loss, one fold."""
    taken, best, best_set = [], np.inf, []
    for _ in range(rounds):
        scores = [
            log_loss(labels, np.mean([probabilities[m] for m in [*taken, new]], axis=0), labels=[0, 1, 2])
            for new in range(len(probabilities))
        ]
        taken.append(int(np.argmin(scores)))
        if min(scores) < best - 1e-12:
            best, best_set = min(scores), list(taken)
    return np.bincount(best_set, minlength=len(probabilities)) / len(best_set), best


@settings(max_examples=20, deadline=None)
@given(draw=st.integers(0, 10**6), members=st.integers(2, 5))
def test_greedy_choice_is_caruanas(draw, members):
    trials = _random([1], range(members), draw=draw)
    grid = gather([trials], names=["r"])
    expected, best = _greedy_by_loops(grid.probabilities[1], grid.labels[1], 12)
    own = np.take_along_axis(grid.probabilities[1], grid.labels[1][None, :, None], axis=2)[:, :, 0]
    found = greedy_weights(own, shares=np.full(own.shape[1], 1 / own.shape[1]), rounds=12)
    mixed = np.average(grid.probabilities[1], axis=0, weights=found)
    assert log_loss(grid.labels[1], mixed, labels=[0, 1, 2]) == pytest.approx(best)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found.sum() == pytest.approx(1)
    singles = [log_loss(grid.labels[1], p, labels=[0, 1, 2]) for p in grid.probabilities[1]]
    assert best <= min(singles) + 1e-12


def test_a_poor_member_is_left_out_and_a_good_one_taken_more_than_once():
    trials = _random([1, 2], range(3), draw=3, clips=60, sharp=6.0)
    broken = [replace(t, logits=-t.logits) if t.about["seed"] == 0 else t for t in trials]
    grid = gather([broken], names=["r"])
    weights = chosen_weights(grid, on=[1, 2])
    assert weights[0] == 0
    assert weights[2] > 1 / 3


def test_folds_of_another_size_weigh_the_same():
    """A choice on a large and a small fold lies between those on each alone, nearer to neither for its size."""
    own = np.array([[0.9] * 100 + [0.2] * 4, [0.3] * 100 + [0.8] * 4])
    by_fold = np.concatenate([np.full(100, 0.5 / 100), np.full(4, 0.5 / 4)])
    even = greedy_weights(own, shares=by_fold)
    # By hand: minimise -0.5 log(0.9 w + 0.3 (1 - w)) - 0.5 log(0.2 w + 0.8 (1 - w)); the derivative is zero at
    # 0.6 / (0.3 + 0.6 w) = 0.6 / (0.8 - 0.6 w), w = 0.4166...
    assert even[0] == pytest.approx(0.4167, abs=0.03)
    assert greedy_weights(own, shares=np.full(104, 1 / 104))[0] > 0.9


@settings(max_examples=15, deadline=None)
@given(draw=st.integers(0, 10**6), reported=st.integers(1, 3), other=st.integers(1, 3))
def test_the_reported_fold_never_chooses(draw, reported, other):
    trials = _random([1, 2, 3], range(3), draw=draw)
    before = cross_fitted(gather([trials], names=["r"]))
    # The reported fold says anything else: its own choice stays, others' may move.
    changed = [replace(t, logits=-9 * t.logits) if t.about["fold"] == reported else t for t in trials]
    after = cross_fitted(gather([changed], names=["r"]))
    np.testing.assert_array_equal(after[reported], before[reported])
    # And each choice is the one made on the other folds alone.
    folds = [fold for fold in (1, 2, 3) if fold != other]
    alone = gather([[t for t in trials if t.about["fold"] in folds]], names=["r"])
    np.testing.assert_array_equal(before[other], chosen_weights(alone, on=folds))


def test_other_folds_do_choose():
    trials = _random([1, 2], range(3), draw=0, clips=40, sharp=6.0)
    broken = [replace(t, logits=-t.logits) if t.about["seed"] == 2 and t.about["fold"] == 1 else t for t in trials]
    grid = gather([broken], names=["r"])
    weights = cross_fitted(grid)
    assert weights[2][2] == 0, "poor on fold 1, so not taken for fold 2"
    assert weights[1][2] > 0
    with pytest.raises(DataError, match="two folds or more"):
        cross_fitted(gather([broken], names=["r"], fold=1))


@pytest.mark.parametrize(
    ("own", "shares", "words"),
    [
        (np.zeros((0, 3)), np.ones(3), r"\(0, 3\)"),
        (np.ones((2, 3)), np.ones(2), r"shares \(2,\)"),
        (np.full((2, 3), 1.5), np.ones(3), "from 1.5"),
        (np.full((2, 3), np.nan), np.ones(3), "from nan"),
    ],
)
def test_arrays_that_are_no_probabilities(own, shares, words):
    with pytest.raises(DataError, match=words):
        greedy_weights(own, shares=shares)


# Lining members up


def test_members_of_several_runs_and_what_they_lack():
    a = _random([1, 2, 3], [0, 1], draw=0)
    b = _random([1, 2], [0, 5], draw=1, recipe_digest="other")[:-1]
    grid = gather([a, b], names=NAMES)
    assert grid.folds == (1, 2)
    assert grid.members == (Member(0, 0), Member(0, 1), Member(1, 0))
    assert grid.left_out == (Member(1, 5),)
    np.testing.assert_allclose(grid.probabilities[2][2], softmax(b[2].logits.astype(np.float64), axis=1))
    assert gather([a, b], names=NAMES, fold=1).members == (*grid.members, Member(1, 5))
    warm = gather([a, b], names=NAMES, temperature=lambda run, trial: 2.0 if run else 1.0)
    np.testing.assert_allclose(warm.probabilities[2][2], softmax(b[2].logits.astype(np.float64) / 2, axis=1))
    np.testing.assert_allclose(warm.probabilities[2][0], grid.probabilities[2][0])


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (_random([1], [1], draw=1, dataset={**made.DATASET, "digest": "e"}), "runs/b: .*another data set or split"),
        (_random([1], [1], draw=1, classes=("cat", "dog", "cow")), "runs/b: seed 1 is of another classes"),
        (_random([1], [1], draw=1, protocol="test"), "runs/b: seed 1 is of another protocol"),
        (_random([2], [1], draw=1), r"no fold in common in runs/a \(1\), runs/b \(2\)"),
        (_random([1], [1], draw=1, clips=20), "runs/b: fold 1 of seed 1 has other clips than that of runs/a"),
    ],
)
def test_runs_that_do_not_go_together(second, words):
    with pytest.raises(RunError, match=words) as caught:
        gather([_random([1], [0], draw=0), second], names=NAMES)
    assert "\n" not in str(caught.value)


def test_too_few_members_or_no_such_fold():
    with pytest.raises(RunError, match=r"1 seed on every fold of 1, 2; .*seeds 5"):
        gather([_random([1, 2], [0], draw=0)], names=["runs/a"])
    with pytest.raises(RunError, match=r"fold 9: not in runs/a \(1, 2\)"):
        gather([_random([1, 2], [0, 1], draw=0)], names=["runs/a"], fold=9)


def test_members_of_several_labels_are_scored_by_average_precision():
    trials = several_trials(folds=(1, 2), seeds=(0, 1, 2), clips=50)
    grid = gather([trials], names=["r"])
    assert grid.several
    table = np.array(
        [[mean_average_precision(t.marks, t.logits) for t in trials if t.about["fold"] == fold] for fold in grid.folds]
    )
    single = single_row(grid)
    assert single["average_precision"]["mean"] == pytest.approx(table.mean())
    assert single["average_precision"]["std"] == pytest.approx(np.std(table.mean(axis=0), ddof=1))
    low, high = single["average_precision"]["ci95"]
    assert low < table.mean() < high
    row = method_row(grid, "average", {fold: grid.mixed(fold) for fold in grid.folds}, networks=3)
    mixed = [
        mean_average_precision(
            grid.labels[fold], np.mean([sigmoid(t.logits) for t in trials if t.about["fold"] == fold], axis=0)
        )
        for fold in grid.folds
    ]
    assert row["average_precision"]["mean"] == pytest.approx(np.mean(mixed))
    assert row["gain"]["difference"] == pytest.approx(np.mean(mixed) - table.mean())
    assert row["gain"]["beyond_noise"]
    # The greedy choice takes the truth of each class in each clip; a member that knows nothing gets no weight.
    blind = [replace(t, logits=np.zeros_like(t.logits)) if t.about["seed"] == 2 else t for t in trials]
    weights = chosen_weights(gather([blind], names=["r"]), on=(1, 2))
    assert weights[2] < 0.1
    assert weights.sum() == pytest.approx(1)


def test_members_of_one_and_of_several_labels_do_not_mix():
    several = several_trials(folds=(1,), seeds=(0,), clips=10)[0]
    single = replace(several, targets=None, labels=np.zeros(10, dtype=np.int64), about={**several.about, "seed": 1})
    with pytest.raises(RunError, match="of another labels a clip"):
        gather([[several, single]], names=["r"])
