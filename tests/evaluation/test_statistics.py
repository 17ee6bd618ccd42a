import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.errors import DataError
from earsight.evaluation import statistics
from earsight.evaluation.statistics import (
    PairedResult,
    average_seeds,
    bootstrap_accuracy,
    paired_difference,
    variance_parts,
)


def _clips(seed: int, *, rate: float = 0.9, sizes: tuple[int, ...] = (60, 80, 100)) -> tuple[np.ndarray, np.ndarray]:
    folds = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).random(folds.size) < rate, folds


def test_mean_is_the_mean_of_the_folds_and_not_of_the_clips():
    correct = np.array([True] * 8 + [False] * 2 + [True, False])
    folds = np.array(["a"] * 10 + ["b"] * 2)
    assert bootstrap_accuracy(correct, folds=folds).mean == pytest.approx((0.8 + 0.5) / 2)


def test_interval_agrees_with_one_that_draws_clips_one_by_one():
    correct, folds = _clips(0, rate=0.8)
    generator = np.random.default_rng(5)
    means = np.zeros(20_000)
    for fold in range(3):
        own = correct[folds == fold]
        means += own[generator.integers(0, own.size, size=(means.size, own.size))].mean(axis=1) / 3
    found = bootstrap_accuracy(correct, folds=folds, draws=20_000)
    # Standard error of a 2.5 % quantile of 20,000 draws: about 0.004 * 0.026 / 0.15, and a step is 1/300.
    np.testing.assert_allclose([found.low, found.high], np.quantile(means, [0.025, 0.975]), atol=0.004)
    assert found.low < found.mean < found.high


def test_interval_covers_the_truth_in_about_95_of_100_simulated_experiments():
    folds = np.repeat(np.arange(5), 80)
    generator = np.random.default_rng(1)
    rates = np.array([0.85, 0.88, 0.9, 0.92, 0.95])
    covered = 0
    for trial in range(400):
        interval = bootstrap_accuracy(generator.random(400) < rates[folds], folds=folds, draws=1000, seed=trial)
        covered += interval.low <= rates.mean() <= interval.high
    # 95 % of 400 is 380; five standard errors (4.4 clips each) are 22.
    assert 358 <= covered <= 398


def test_clusters_of_seeds_are_no_more_evidence_than_the_clips_themselves():
    correct, folds = _clips(2)
    once = bootstrap_accuracy(correct, folds=folds)
    clips = np.tile(np.arange(correct.size), 3)
    means = average_seeds(np.tile(correct, 3), clips=clips, folds=np.tile(folds, 3))
    assert bootstrap_accuracy(means.correct, folds=means.folds) == once
    naive = bootstrap_accuracy(np.tile(correct, 3), folds=np.tile(folds, 3))
    assert naive.high - naive.low < 0.75 * (once.high - once.low)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_order_of_the_clips_does_not_matter_and_the_seed_does_repeat(seed):
    correct, folds = _clips(seed, rate=0.7, sizes=(11, 17))
    other, _ = _clips(seed + 1, rate=0.6, sizes=(11, 17))
    order = np.random.default_rng(seed).permutation(folds.size)
    first = bootstrap_accuracy(correct, folds=folds, draws=300, seed=seed)
    assert bootstrap_accuracy(correct[order], folds=folds[order], draws=300, seed=seed) == first
    pair = paired_difference(correct, other, folds=folds, draws=300, seed=seed)
    assert paired_difference(correct[order], other[order], folds=folds[order], draws=300, seed=seed) == pair
    swapped = paired_difference(other, correct, folds=folds, draws=300, seed=seed)
    assert swapped.difference == pytest.approx(-pair.difference)
    assert swapped.p_value == pytest.approx(pair.p_value)
    assert 0 < pair.p_value <= 1


def test_draws_in_pieces_are_the_same_draws(monkeypatch):
    correct, folds = _clips(3)
    whole = bootstrap_accuracy(correct, folds=folds, draws=1000)
    monkeypatch.setattr(statistics, "_CELLS", 64)
    assert bootstrap_accuracy(correct, folds=folds, draws=1000) == whole


@pytest.mark.parametrize("clips", [1, 10, 80])
def test_all_right_or_all_wrong_gives_the_exact_binomial_limit(clips):
    folds = np.arange(clips) % 5
    exact = scipy.stats.binomtest(clips, clips).proportion_ci(0.95, method="exact")
    found = bootstrap_accuracy(np.ones(clips, dtype=bool), folds=folds)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(exact.low)
    exact = scipy.stats.binomtest(0, clips).proportion_ci(0.95, method="exact")
    found = bootstrap_accuracy(np.zeros(clips, dtype=bool), folds=folds)
    assert (found.mean, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(exact.high)


def test_average_seeds_matches_clips_by_name():
    clips = np.array(["b", "a", "c", "a", "c", "b"])
    correct = np.array([True, False, True, True, True, False])
    folds = np.array([2, 1, 2, 1, 2, 2])
    found = average_seeds(correct, clips=clips, folds=folds)
    assert found.clips.tolist() == ["a", "b", "c"]
    assert found.correct.tolist() == [0.5, 0.5, 1.0]
    assert found.folds.tolist() == [1, 2, 2]
    with pytest.raises(DataError, match="clip a is in more than one fold"):
        average_seeds(correct, clips=clips, folds=np.array([2, 1, 2, 2, 2, 2]))
    with pytest.raises(DataError, match="one name per prediction"):
        average_seeds(correct, clips=clips[1:], folds=folds)


@pytest.mark.parametrize("seed", range(6))
def test_one_answer_per_clip_and_equal_folds_is_mcnemar(seed):
    folds = np.repeat(np.arange(5), 80)
    generator = np.random.default_rng(seed)
    a, b = generator.random(400) < 0.93, generator.random(400) < 0.9
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    expected = scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    found = paired_difference(a, b, folds=folds, draws=200)
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert found.difference == pytest.approx((only_a - only_b) / 400)


def test_thousands_of_disagreements_are_still_exact():
    folds = np.zeros(8000, dtype=int)
    a = np.arange(8000) % 100 < 51
    expected = scipy.stats.binomtest(4080, 8000, 0.5).pvalue
    assert paired_difference(a, ~a, folds=folds, draws=100).p_value == pytest.approx(expected, rel=1e-6)


def _flipped_by_force(change: np.ndarray, folds: np.ndarray) -> float:
    """Two-sided p-value by writing out every sign."""
    weights = np.array([1 / (folds == fold).sum() for fold in folds])
    signs = np.array(list(itertools.product([-1, 1], repeat=change.size)))
    sums = np.abs(signs @ (change * weights))
    return float(np.mean(sums >= abs((change * weights).sum()) - 1e-9))


@pytest.mark.parametrize("seed", range(4))
def test_seed_averages_and_unequal_folds_agree_with_every_sign_written_out(seed):
    folds = np.repeat([0, 1, 2], [3, 4, 5])
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 4, size=12) / 3, generator.integers(0, 3, size=12) / 2
    found = paired_difference(a, b, folds=folds, draws=100)
    assert found.p_value == pytest.approx(_flipped_by_force(a - b, folds), rel=1e-9)


def test_drawn_signs_agree_with_counted_ones(monkeypatch):
    folds = np.repeat([0, 1, 2], [30, 40, 50])
    generator = np.random.default_rng(8)
    a, b = generator.random(120) < 0.75, generator.random(120) < 0.75
    exact = paired_difference(a, b, folds=folds, draws=100).p_value
    monkeypatch.setattr(statistics, "_CELLS", 2)
    drawn = paired_difference(a, b, folds=folds, draws=40_000).p_value
    assert 0.01 < exact < 0.5
    assert drawn == pytest.approx(exact, abs=5 * (exact / 40_000) ** 0.5)


def test_no_difference_is_seldom_called_one():
    folds = np.repeat(np.arange(5), 40)
    generator = np.random.default_rng(4)
    pairs = [(generator.random(200) < 0.9, generator.random(200) < 0.9) for _ in range(300)]
    low = sum(paired_difference(a, b, folds=folds, draws=50).p_value <= 0.05 for a, b in pairs)
    # The test is conservative: at most 5 % of 300, and four standard errors (3.8 each).
    assert low <= 15 + 15


def test_paired_interval_is_narrower_than_an_unpaired_one_and_covers():
    folds = np.repeat(np.arange(5), 80)
    generator = np.random.default_rng(6)
    covered = 0
    for trial in range(200):
        a = generator.random(400) < 0.9
        b = np.where(generator.random(400) < 0.1, False, a)  # loses 9 points
        found = paired_difference(a, b, folds=folds, draws=500, seed=trial)
        covered += found.low <= 0.09 <= found.high
    assert 175 <= covered <= 200
    alone = bootstrap_accuracy(a, folds=folds)
    assert found.high - found.low < 1.4 * (alone.high - alone.low)


def test_identical_answers_have_no_difference():
    correct, folds = _clips(7)
    found = paired_difference(correct, correct, folds=folds, draws=100)
    assert found == (0.0, 0.0, 0.0, 1.0)


def test_a_limit_that_is_zero_is_zero_and_not_what_rounding_left():
    # Shares of three seeds: thirds that do not add up to 0 in floating point.
    a = np.array([1 / 3, 2 / 3, 1.0, 0.0] * 30)
    b = np.array([2 / 3, 1.0, 1 / 3, 0.0] * 30)
    found = paired_difference(a, b, folds=np.arange(120) % 7, draws=200)
    swapped = paired_difference(b, a, folds=np.arange(120) % 7, draws=200)
    assert abs(found.difference) < 0.01
    same = paired_difference(a, np.roll(a, 4), folds=np.zeros(120, dtype=int), draws=200)
    assert [str(value) for value in same[:3]] == ["0.0"] * 3
    assert found.difference == -swapped.difference


@pytest.mark.parametrize(
    ("found", "beyond"),
    [
        ((0.05, 0.01, 0.09, 0.01), True),
        ((-0.05, -0.09, -0.01, 0.01), True),
        ((0.05, 0.0, 0.09, 0.01), False),
        ((0.05, 0.01, 0.09, 0.06), False),
        ((0.05, -0.01, 0.11, 0.01), False),
    ],
)
def test_beyond_noise_takes_interval_and_p_value(found, beyond):
    assert PairedResult(*found).beyond_noise is beyond


def test_variance_parts_agree_with_the_analysis_of_variance():
    table = np.random.default_rng(0).normal(size=(5, 3)) * 0.01 + np.array([[0.9], [0.95], [0.92], [0.97], [0.88]])
    found = variance_parts(table)
    f_value = scipy.stats.f_oneway(*table).statistic
    assert 1 + 3 * found.fold_variance / found.seed_variance == pytest.approx(f_value)


def test_variance_parts_recover_what_was_simulated():
    generator = np.random.default_rng(0)
    table = 0.9 + generator.normal(0, 0.03, size=(400, 1)) + generator.normal(0, 0.01, size=(400, 4))
    found = variance_parts(table)
    assert found.fold_variance == pytest.approx(0.03**2, rel=0.2)
    assert found.seed_variance == pytest.approx(0.01**2, rel=0.2)
    same = variance_parts(np.array([[0.8, 0.9], [0.9, 0.8]]))
    assert same.fold_variance == 0.0


@pytest.mark.parametrize("table", [[0.9, 0.8], [[0.9], [0.8]], [[0.9, 0.8]], [[0.9, np.nan], [0.8, 0.7]]])
def test_variance_parts_need_two_of_each(table):
    with pytest.raises(DataError, match="two or more of each"):
        variance_parts(np.array(table))


@pytest.mark.parametrize(
    ("correct", "folds", "words"),
    [
        ([], [], "at least one clip"),
        ([1, 0], [0], r"folds of shape \(1,\)"),
        ([1, 2], [0, 0], "from 1 to 2"),
        ([1, np.nan], [0, 0], "values from nan"),
        ([[1, 0]], [[0, 0]], r"shape \(1, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(correct, folds, words):
    with pytest.raises(DataError, match=words):
        bootstrap_accuracy(np.array(correct), folds=np.array(folds))
    with pytest.raises(DataError, match=words):
        paired_difference(np.array(correct), np.array(correct), folds=np.array(folds))


def test_pairs_and_draws_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="expected"):
        paired_difference(np.ones(3), np.ones(2), folds=np.zeros(3))
    with pytest.raises(DataError, match="draws is 0"):
        bootstrap_accuracy(np.array([1, 0, 1]), folds=np.zeros(3), draws=0)


def _speakers(rates, *, clips=40, seed=0):
    """Whether each clip of some speakers is right, and whose it is."""
    groups = np.repeat([f"speaker {n}" for n in range(len(rates))], clips)
    return np.random.default_rng(seed).random(groups.size) < np.repeat(rates, clips), groups


def _t_interval(correct, groups):
    means = [correct[groups == name].mean() for name in np.unique(groups)]
    return scipy.stats.t.interval(0.95, len(means) - 1, loc=np.mean(means), scale=scipy.stats.sem(means))


def test_six_unseen_speakers_give_the_t_interval_over_them():
    """38 to 87 % by speaker: over clips the interval would have said 66 to 73 %."""
    correct, groups = _speakers([0.38, 0.6, 0.72, 0.78, 0.83, 0.87], clips=100)
    folds = np.zeros(correct.size)
    over_clips = bootstrap_accuracy(correct, folds=folds)
    found = bootstrap_accuracy(correct, folds=folds, groups=groups)
    low, high = _t_interval(correct, groups)
    assert found.mean == over_clips.mean
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.03))
    assert found.high - found.low > 3 * (over_clips.high - over_clips.low)
    # Each speaker's own fold: there the clips of a fold have one source, and nothing within it could be redrawn.
    by_fold = bootstrap_accuracy(correct, folds=groups, groups=groups)
    assert by_fold == pytest.approx(found)


def test_many_groups_agree_with_groups_drawn_one_by_one():
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 12, size=60)
    groups = np.repeat(np.arange(60), sizes)
    correct = generator.random(groups.size) < np.repeat(generator.beta(4, 1.5, size=60), sizes)
    means = []
    for _ in range(10_000):
        drawn = generator.integers(0, 60, size=59)
        means.append(np.bincount(groups, correct)[drawn].sum() / sizes[drawn].sum())
    found = bootstrap_accuracy(correct, folds=np.zeros(groups.size), groups=groups)
    np.testing.assert_allclose([found.low, found.high], np.quantile(means, [0.025, 0.975]), atol=0.006)


@pytest.mark.parametrize("count", [5, 12, 40])
def test_intervals_over_groups_cover_the_truth_where_those_over_clips_do_not(count):
    generator = np.random.default_rng(7)
    inside = {"groups": 0, "clips": 0}
    for trial in range(200):
        correct, groups = _speakers(generator.beta(6, 2, size=count), clips=30, seed=trial)
        folds = np.arange(correct.size) // 30 % 4
        for name, known in (("groups", groups), ("clips", None)):
            found = bootstrap_accuracy(correct, folds=folds, groups=known, draws=1000, seed=trial)
            truth = np.mean([0.75])
            inside[name] += found.low <= truth <= found.high
    # 95 % of 200 is 190; four standard errors (3.1 each) are 12.
    assert inside["groups"] >= 178
    assert inside["clips"] < 150


def test_an_interval_over_groups_is_never_narrower_than_over_clips():
    correct = np.tile([True, False], 20)  # every pair of clips is half right: groups alone would show no noise at all
    groups = np.repeat(np.arange(20), 2)
    assert bootstrap_accuracy(correct, folds=groups % 2, groups=groups) == bootstrap_accuracy(correct, folds=groups % 2)


def test_one_group_says_nothing_about_others():
    correct, folds = _clips(1)
    found = bootstrap_accuracy(correct, folds=folds, groups=np.full(correct.size, "ann"))
    assert (found.low, found.high) == (0.0, 1.0)
    assert bootstrap_accuracy(np.ones(9), folds=np.ones(9), groups=np.full(9, "ann")).low == pytest.approx(0.025)
    assert bootstrap_accuracy(np.ones(9), folds=np.ones(9), groups=np.arange(9) // 3).low == pytest.approx(
        0.025 ** (1 / 3)
    )
    pair = paired_difference(correct, ~correct, folds=folds, groups=np.full(correct.size, "ann"))
    assert (pair.low, pair.high, pair.beyond_noise) == (-1.0, 1.0, False)


def test_a_group_for_each_clip_changes_no_bit():
    correct, folds = _clips(4)
    other, _ = _clips(5)
    names = np.arange(correct.size)
    assert bootstrap_accuracy(correct, folds=folds, groups=names) == bootstrap_accuracy(correct, folds=folds)
    assert paired_difference(correct, other, folds=folds, groups=names) == paired_difference(
        correct, other, folds=folds
    )


@pytest.mark.parametrize("seed", range(3))
def test_groups_flip_their_signs_together(seed):
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(8), [1, 2, 3, 4, 4, 3, 2, 1])
    folds = np.arange(20) // 10  # groups 3 and 4 lie across
    a, b = generator.random(20) < 0.9, generator.random(20) < 0.5
    change = (a.astype(float) - b) / 10 / 2
    sums = np.array([change[groups == one].sum() for one in range(8)])
    flipped = np.abs(np.array(list(itertools.product([-1, 1], repeat=8))) @ sums)
    found = paired_difference(a, b, folds=folds, groups=groups)
    assert found.p_value == pytest.approx(np.mean(flipped >= abs(sums.sum()) - 1e-9))


def test_five_groups_are_too_few_for_a_verdict():
    """The smallest p-value of five signs is 2 / 32, however many clips there are."""
    groups = np.repeat(np.arange(5), 50)
    found = paired_difference(np.ones(250), np.zeros(250), folds=groups, groups=groups)
    assert found.p_value == pytest.approx(2 / 32)
    assert not found.beyond_noise


def test_always_saying_one_class_is_what_a_network_has_to_beat():
    labels = np.repeat([2, 0, 1], [835, 100, 65])
    folds = np.arange(1000) % 4
    wrong = np.arange(1000) % 100 < 18  # 82 %, and not better than always saying 2
    found = statistics.against_constant(labels, ~wrong, folds=folds)
    assert (found.label, found.beaten) == (2, False)
    assert found.share == pytest.approx(np.mean([np.mean(labels[folds == fold] == 2) for fold in range(4)]))
    assert found.gain.difference == pytest.approx(0.82 - 0.835, abs=0.002)
    assert statistics.against_constant(labels, np.arange(1000) % 100 < 95, folds=folds).beaten
    worse = statistics.against_constant(labels, np.arange(1000) % 2 == 0, folds=folds)
    assert (worse.gain.beyond_noise, worse.beaten) == (True, False)
    even = statistics.against_constant(np.array([1, 0, 1, 0]), np.ones(4), folds=np.ones(4))
    assert (even.label, even.share) == (0, 0.5)


def test_t_limits_of_unequal_groups_are_the_ratio_estimators():
    """Against scipy's jackknife-free formula written out: residuals of the ratio, by Student's t."""
    sums, masses = np.array([3.0, 8.0, 1.0, 6.0]), np.array([4.0, 9.0, 5.0, 6.0])
    ratio = 18 / 24
    spread = np.sqrt(4 / 3 * (((sums - ratio * masses) / 24) ** 2).sum())
    low, high = scipy.stats.t.interval(0.95, 3, loc=ratio, scale=spread)
    assert statistics.t_limits(sums, masses) == (pytest.approx(low), pytest.approx(high))


def test_of_six_groups_five_are_redrawn(monkeypatch):
    """Against every way of drawing five, written out: six would make the interval a tenth narrower."""
    monkeypatch.setattr(statistics, "FEW_GROUPS", 0)
    sums, masses = np.array([3.1, 8.2, 1.7, 6.4, 2.9, 4.6]), np.array([4.0, 9.0, 5.0, 7.0, 3.0, 5.5])
    drawn = np.array(list(itertools.product(range(6), repeat=5)))
    expected = np.quantile(sums[drawn].sum(axis=1) / masses[drawn].sum(axis=1), [0.025, 0.975])
    found = statistics.ratio_limits(sums, masses, draws=100_000)
    np.testing.assert_allclose(found, expected, atol=0.004)
    six = np.array(list(itertools.product(range(6), repeat=6)))
    other = np.quantile(sums[six].sum(axis=1) / masses[six].sum(axis=1), [0.025, 0.975])
    assert abs(other[0] - expected[0]) > 0.02, "the two can be told apart"


def test_a_p_value_of_drawn_signs_is_never_zero(monkeypatch):
    monkeypatch.setattr(statistics, "_CELLS", 2)
    found = paired_difference(np.ones(200), np.zeros(200), folds=np.zeros(200), draws=999)
    assert found.p_value == 1 / 1000


def test_limits_of_two_groups_stay_within_what_an_accuracy_can_be():
    """Student's t with one degree of freedom reaches to 12.7 standard errors."""
    groups = np.repeat([0, 1], 20)
    found = paired_difference(groups == 0, np.zeros(40), folds=np.zeros(40), groups=groups)
    assert (found.difference, found.low, found.high) == (0.5, -1.0, 1.0)
    alone = bootstrap_accuracy(groups == 0, folds=np.zeros(40), groups=groups)
    assert alone == (0.5, 0.0, 1.0)


def test_a_share_over_groups_without_spread_keeps_the_limits_over_clips():
    right, groups = np.tile([True, False], 20), np.repeat(np.arange(20), 2)
    found = statistics.share_limits(right, lambda share, cases: (share - 0.1, share + 0.1), clips=groups, groups=groups)
    assert found == (0.4, 0.6)
    clips = np.arange(40)
    found = statistics.share_limits(right, lambda share, cases: (share - 0.1, share + 0.1), clips=clips, groups=groups)
    assert found == (0.4, 0.6)


def test_equal_differences_are_one_value_whatever_shares_they_come_from():
    """1 less 2/3 is another float than 1/3; as two values they would be redrawn apart."""
    zeros = np.zeros(60)
    folds = np.zeros(120)
    ones, others = np.r_[np.ones(30), np.full(30, 1 / 3), zeros], np.r_[np.full(30, 2 / 3), zeros[:30], zeros]
    mixed = paired_difference(ones, others, folds=folds, draws=50)  # so few that other draws have other limits
    plain = paired_difference(np.r_[np.full(60, 1 / 3), zeros], np.zeros(120), folds=folds, draws=50)
    assert (mixed.low, mixed.high, mixed.p_value) == (plain.low, plain.high, plain.p_value)
