"""Two runs set side by side: figures by independent computations, and runs that cannot be compared."""

from __future__ import annotations

import dataclasses
import itertools

import made_runs as made
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from several_runs import several_trials
from sklearn.metrics import average_precision_score

from earsight.errors import RunError
from earsight.evaluation.comparison import FoldAnswers, compare_runs, crossed_limits

NAMES = ("runs/a", "runs/b")


def _right(trials):
    return {(t.about["fold"], t.about["seed"]): t.correct for t in trials}


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 10**6), folds=st.integers(1, 3), seeds=st.integers(1, 3))
def test_the_difference_is_paired_over_folds_and_seeds(draw, folds, seeds):
    generator = np.random.default_rng(draw)
    a = made.drawn(range(1, folds + 1), range(seeds), generator=generator)
    b = made.drawn(range(1, folds + 1), range(seeds), generator=generator, rate=0.6)
    found = compare_runs(a, b, names=NAMES, draws=200)
    one, two = _right(a), _right(b)
    by_hand = [
        np.mean([one[fold, seed].mean() - two[fold, seed].mean() for seed in range(seeds)])
        for fold in range(1, folds + 1)
    ]
    assert found["difference"]["mean"] == pytest.approx(np.mean(by_hand))
    assert [row["a"] - row["b"] for row in found["by_fold"]] == pytest.approx(by_hand)
    low, high = found["difference"]["ci95"]
    assert low - 1e-9 <= found["difference"]["mean"] <= high + 1e-9
    assert found["seeds"] == list(range(seeds))
    assert (found["difference"]["ci95_with_seeds"] is None) == (seeds == 1)
    swapped = compare_runs(b, a, names=NAMES[::-1], draws=200)
    assert swapped["difference"]["mean"] == pytest.approx(-found["difference"]["mean"])
    assert swapped["difference"]["p_value"] == pytest.approx(found["difference"]["p_value"])
    if min(abs(low), abs(high)) > 0.08:  # a limit next to 0 may fall on either side of it, for the draws are others
        assert swapped["beyond_noise"] == found["beyond_noise"]


def test_one_seed_and_folds_of_one_size_is_mcnemars_exact_test():
    generator = np.random.default_rng(4)
    labels = generator.integers(3, size=80)
    a = [made.answered(fold, 0, labels, generator.random(80) < 0.9) for fold in (1, 2, 3)]
    b = [made.answered(fold, 0, labels, generator.random(80) < 0.8) for fold in (1, 2, 3)]
    only_a = sum(int((x.correct & ~y.correct).sum()) for x, y in zip(a, b, strict=True))
    only_b = sum(int((y.correct & ~x.correct).sum()) for x, y in zip(a, b, strict=True))
    expected = scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    found = compare_runs(a, b, names=NAMES)
    assert found["difference"]["p_value"] == pytest.approx(expected)
    # The interval by scipy's own bootstrap: folds of one size make the mean over folds the mean over clips; resampling
    # within folds differs from resampling over all only by the folds' own means, which are about equal here.
    change = np.concatenate([x.correct * 1.0 - y.correct for x, y in zip(a, b, strict=True)])
    theirs = scipy.stats.bootstrap((change,), np.mean, n_resamples=9999, method="percentile", rng=1).confidence_interval
    np.testing.assert_allclose(found["difference"]["ci95"], [theirs.low, theirs.high], atol=0.009)


def test_p_value_of_seed_averages_by_a_permutation_test_of_scipy():
    generator = np.random.default_rng(11)
    a = made.drawn([1, 2], [0, 1, 2], generator=generator, clips=30, rate=0.85)
    b = made.drawn([1, 2], [0, 1, 2], generator=generator, clips=30, rate=0.7)
    change, weights = [], []
    for fold in (1, 2):
        ours = np.mean([t.correct for t in a if t.about["fold"] == fold], axis=0)
        change.append(ours - np.mean([t.correct for t in b if t.about["fold"] == fold], axis=0))
        weights.append(np.full(len(ours), 1 / (2 * len(ours))))
    sums = np.concatenate(change) * np.concatenate(weights)
    theirs = scipy.stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    found = compare_runs(a, b, names=NAMES)
    assert found["difference"]["p_value"] == pytest.approx(theirs.pvalue, abs=0.01)
    assert 0.0001 < theirs.pvalue < 0.2


def _drawn_one_by_one(answers, draws, generator):
    """The pigeonhole bootstrap in plain loops."""
    out = []
    for _ in range(draws):
        parts = []
        for one in answers:
            clips = generator.integers(0, one.a.shape[1], size=one.a.shape[1])
            if one.paired:
                seeds = generator.integers(0, len(one.a), size=len(one.a) - 1)
                parts.append((one.a[seeds] - one.b[seeds])[:, clips].mean())
            else:
                first = generator.integers(0, len(one.a), size=len(one.a) - 1)
                second = generator.integers(0, len(one.b), size=len(one.b) - 1)
                parts.append(one.a[first][:, clips].mean() - one.b[second][:, clips].mean())
        out.append(np.mean(parts))
    return np.quantile(out, [0.025, 0.975])


@pytest.mark.parametrize("paired", [True, False])
def test_limits_with_seeds_agree_with_draws_one_by_one(paired):
    generator = np.random.default_rng(2)
    shapes = [(3, 40), (3, 25)] if paired else [(3, 40), (4, 25)]
    answers = [
        FoldAnswers(
            (generator.random(shape) < 0.85).astype(float),
            (generator.random((shape[0] if paired else 2, shape[1])) < 0.75).astype(float),
            paired,
        )
        for shape in shapes
    ]
    expected = _drawn_one_by_one(answers, 4000, np.random.default_rng(7))
    np.testing.assert_allclose(crossed_limits(answers, draws=4000), expected, atol=0.012)


def test_seeds_that_differ_widen_the_interval_and_take_the_verdict_back():
    """a is better than b on one seed by much and worse on the other: over clips alone that looks sure."""
    labels = np.arange(200) % 3
    a = [made.answered(1, 0, labels, np.ones(200)), made.answered(1, 1, labels, np.arange(200) % 10 > 1)]
    b = [made.answered(1, 0, labels, np.arange(200) % 10 > 2), made.answered(1, 1, labels, np.ones(200))]
    found = compare_runs(a, b, names=NAMES)
    assert found["difference"]["ci95"][0] > 0
    assert found["difference"]["p_value"] < 0.05
    wide = found["difference"]["ci95_with_seeds"]
    assert wide[0] < 0 < wide[1]
    assert not found["beyond_noise"]
    assert found["verdict"] == "No difference beyond the noise."


def test_the_interval_with_seeds_covers_where_the_one_without_does_not():
    """Networks of one recipe differ by luck; without a difference between recipes, 0 lies inside."""
    generator = np.random.default_rng(3)
    inside = {"clips": 0, "seeds": 0}
    for repeat in range(120):
        luck = generator.normal(0, 0.06, size=(2, 3, 1))
        hard = generator.random((1, 150)) * 0.3
        answers = [(generator.random((3, 150)) < 0.92 - hard + one).astype(float) for one in luck]
        low, high = crossed_limits([FoldAnswers(*answers, True)], draws=400, seed=repeat)
        inside["seeds"] += low <= 0 <= high
        change = answers[0].mean(axis=0) - answers[1].mean(axis=0)
        spread = 1.96 * change.std(ddof=1) / 150**0.5
        inside["clips"] += abs(change.mean()) <= spread
    assert inside["seeds"] >= 104  # with three seeds a percentile interval is still somewhat narrow
    assert inside["clips"] <= 85


def test_few_clips_in_one_direction_are_no_proof():
    labels = np.arange(100) % 3
    a = [made.answered(1, 0, labels, np.ones(100))]
    b = [made.answered(1, 0, labels, np.arange(100) > 3)]  # wrong on four clips
    found = compare_runs(a, b, names=NAMES)
    assert found["difference"]["ci95"][0] > 0, "the bootstrap alone would call it sure"
    assert found["difference"]["p_value"] == pytest.approx(2 * 0.5**4)
    assert not found["beyond_noise"]
    sure = compare_runs(a, [made.answered(1, 0, labels, np.arange(100) > 7)], names=NAMES)
    assert sure["beyond_noise"]
    assert sure["verdict"] == "runs/a is better than runs/b beyond the noise, by 8.0 points."
    other = compare_runs([made.answered(1, 0, labels, np.arange(100) > 7)], a, names=NAMES)
    assert other["verdict"] == "runs/b is better than runs/a beyond the noise, by 8.0 points."


def test_a_better_accuracy_of_worse_balanced_accuracy_is_named():
    labels = np.repeat([0, 1, 2], [80, 10, 10])
    one_class = [made.trial(1, 0, labels, 5.0 * np.eye(3)[np.zeros(100, dtype=int)])]
    alike = [made.answered(1, 0, labels, np.arange(100) % 2 < 1)]
    found = compare_runs(one_class, alike, names=NAMES)
    assert [run["balanced_accuracy"] for run in found["runs"]] == [pytest.approx(1 / 3), pytest.approx(0.5)]
    assert found["reversed"] == (
        "Each class weighing the same it is the other way round: balanced accuracy 33.3 % of runs/a, 50.0 % of runs/b."
    )
    assert found["verdict"] == "runs/a is better than runs/b beyond the noise, by 30.0 points."
    assert compare_runs(alike, one_class, names=NAMES)["reversed"].endswith("50.0 % of runs/a, 33.3 % of runs/b.")
    even = [made.answered(1, 0, labels, np.ones(100))]
    assert compare_runs(even, alike, names=NAMES)["reversed"] is None


def test_the_order_of_the_clips_in_a_file_does_not_matter():
    generator = np.random.default_rng(5)
    a, b = (made.drawn([1, 2], [0], generator=generator) for _ in range(2))
    order = generator.permutation(len(b[0].labels))
    shuffled = made.trial(1, 0, b[0].labels[order], b[0].logits[order], clips=b[0].clips[order])
    assert compare_runs(a, [shuffled, b[1]], names=NAMES, draws=100) == compare_runs(a, b, names=NAMES, draws=100)


def test_only_what_both_have_is_compared_and_the_rest_is_named():
    generator = np.random.default_rng(6)
    a = made.drawn([1, 2, 3], [0, 1, 2], generator=generator)
    b = made.drawn([2, 3, 4], [1, 2, 5], generator=generator)
    found = compare_runs(a, b, names=NAMES, draws=100)
    assert (found["folds"], found["seeds"]) == ([2, 3], [1, 2])
    kept = [t for t in a if t.about["fold"] in (2, 3) and t.about["seed"] in (1, 2)]
    by_fold = [np.mean([t.correct.mean() for t in kept if t.about["fold"] == fold]) for fold in (2, 3)]
    assert found["runs"][0]["accuracy"] == pytest.approx(np.mean(by_fold))
    said = " ".join(found["notes"])
    for words in ("fold 1 of runs/a", "fold 4 of runs/b", "seed 0 of runs/a", "seed 5 of runs/b"):
        assert f"Left out: {words}, which the other run lacks." in said


def test_without_a_seed_in_common_all_are_averaged():
    generator = np.random.default_rng(7)
    a = made.drawn([1, 2], [0, 1], generator=generator)
    b = made.drawn([1, 2], [7], generator=generator)
    found = compare_runs(a, b, names=NAMES, draws=100)
    assert found["seeds"] is None
    assert found["runs"][0]["seeds"] == [0, 1]
    assert "No seed is in both runs" in " ".join(found["notes"])
    assert "The noise between seeds is not in the interval" in " ".join(found["notes"])
    expected = np.mean([t.correct.mean() for t in a]) - np.mean([t.correct.mean() for t in b])
    assert found["difference"]["mean"] == pytest.approx(expected)


@pytest.mark.parametrize("protocols", list(itertools.product(("last", "inner", "test"), repeat=2)))
def test_protocols_that_differ_are_told_and_test_is_called_optimistic(protocols):
    generator = np.random.default_rng(8)
    a, b = (made.drawn([1], [0], generator=generator, protocol=name) for name in protocols)
    said = " ".join(compare_runs(a, b, names=NAMES, draws=50)["notes"])
    assert ("The protocols differ" in said) == (protocols[0] != protocols[1])
    assert said.count("optimistic") == protocols.count("test")


def test_runs_that_cannot_be_compared():
    generator = np.random.default_rng(9)
    a = made.drawn([1, 2], [0], generator=generator)

    def refused(b, message):
        for first, second in ((a, b), (b, a)):
            with pytest.raises(RunError, match=message) as caught:
                compare_runs(first, second, names=NAMES)
            assert "\n" not in str(caught.value)

    refused(made.drawn([3], [0], generator=generator), "none in common.*train the same folds")
    cats = ("cat", "dog", "cow")
    refused(made.drawn([1, 2], [0], generator=generator, classes=cats), r"other classes \(2 of them, such as cow")
    refused(made.drawn([1, 2], [0], generator=generator, classes=("dog", "cat", "owl")), "other classes.*another order")
    fewer = [made.answered(1, 0, a[0].labels[:-1], a[0].correct[:-1]), a[1]]
    refused(fewer, r"fold 1 has other clips \(1 are in one only, such as f1/012.wav\)")
    other = [made.trial(1, 0, (a[0].labels + 1) % 3, a[0].logits), a[1]]
    refused(other, r"fold 1 has other labels \(of f1/000.wav, for one\)")


def test_other_clips_outside_the_folds_are_told():
    generator = np.random.default_rng(10)
    a = made.drawn([1], [0], generator=generator)
    b = made.drawn([1], [0], generator=generator, dataset={**made.DATASET, "digest": "e" * 12})
    assert "trained on other clips" in " ".join(compare_runs(a, b, names=NAMES, draws=50)["notes"])


def _by_speaker(fold, seed, rates, generator, *, clips=60):
    """A trial whose speakers are right at these rates; the speakers of a fold are its own."""
    groups = np.repeat([f"fold {fold}, speaker {n}" for n in range(len(rates))], clips)
    right = generator.random(len(groups)) < np.repeat(rates, clips)
    return dataclasses.replace(made.answered(fold, seed, np.arange(len(groups)) % 3, right), groups=groups)


def test_speakers_are_redrawn_in_place_of_their_clips():
    """One run is much better on two speakers of six: of other speakers that says little."""
    generator = np.random.default_rng(0)
    gains = {1: [0.5, 0.0, -0.1], 2: [0.4, -0.05, 0.0]}
    a = [_by_speaker(fold, 0, np.add(0.5, gain), generator) for fold, gain in gains.items()]
    b = [_by_speaker(fold, 0, np.full(3, 0.5), generator) for fold in gains]
    found = compare_runs(a, b, names=NAMES)
    blind = compare_runs(*([dataclasses.replace(one, groups=None) for one in run] for run in (a, b)), names=NAMES)
    assert (found["groups"], blind["groups"]) == (6, None)
    assert blind["beyond_noise"]
    assert not found["beyond_noise"]
    assert found["difference"]["mean"] == blind["difference"]["mean"]
    changes = [(x.correct * 1.0 - y.correct).reshape(3, 60).mean(axis=1) for x, y in zip(a, b, strict=True)]
    means = np.concatenate(changes)
    low, high = scipy.stats.t.interval(0.95, 5, loc=means.mean(), scale=scipy.stats.sem(means))
    assert found["difference"]["ci95"] == [pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02)]
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    flipped = np.abs(signs @ means)
    assert found["difference"]["p_value"] == pytest.approx(np.mean(flipped >= abs(means.sum()) - 1e-9))
    assert any("6 groups" in note for note in found["notes"])
    # One run of an older version does not know its groups: the other's are those of the same clips.
    older = [dataclasses.replace(one, groups=None) for one in b]
    assert compare_runs(a, older, names=NAMES)["difference"] == found["difference"]


@pytest.mark.parametrize("paired", [True, False])
def test_limits_with_seeds_and_groups_agree_with_draws_one_by_one(paired):
    generator = np.random.default_rng(5)
    groups = [np.repeat(np.arange(20), 3), np.repeat(np.arange(18, 50), 2)]  # two groups lie in both folds
    answers = []
    for own in groups:
        skill = generator.random(60)[own]
        tables = [(generator.random((3, len(own))) < 0.4 + 0.5 * skill - less) * 1.0 for less in (0.0, 0.1)]
        answers.append(FoldAnswers(*tables, paired, own))
    masses = sum(np.bincount(own, minlength=50) / len(own) / 2 for own in groups)
    means = []
    for _ in range(4000):
        drawn, total = generator.integers(0, 50, size=49), np.zeros(50)
        for one, own in zip(answers, groups, strict=True):
            first, second = generator.integers(0, 3, size=2), generator.integers(0, 3, size=2)
            second = first if paired else second
            change = one.a[first].mean(axis=0) - one.b[second].mean(axis=0)
            total += np.bincount(own, change, 50) / len(own) / 2
        means.append(total[drawn].sum() / masses[drawn].sum())
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(crossed_limits(answers, draws=4000), expected, atol=0.015)
    blind = crossed_limits([one._replace(groups=None) for one in answers], draws=4000)
    lone = [one._replace(groups=np.arange(one.a.shape[1]) + 100 * place) for place, one in enumerate(answers)]
    assert crossed_limits(lone, draws=4000) == blind


@pytest.mark.parametrize("paired", [True, False])
def test_limits_with_seeds_of_few_groups_are_no_narrower_than_without(paired):
    generator = np.random.default_rng(1)
    shape = (3, 6, 20)  # seeds, groups, clips of each
    skill = generator.random((1, 6, 1))
    luck = generator.normal(0, 0.1, (3, 1, 1))
    tables = [(generator.random(shape) < skill + more).reshape(3, 120) * 1.0 for more in (0.2 + luck, 0.0)]
    answers = FoldAnswers(*tables, paired, np.repeat(np.arange(6), 20))
    means = []
    for _ in range(20_000):
        seeds = generator.integers(0, 3, 2), generator.integers(0, 3, 2)
        change = tables[0][seeds[0]].mean(axis=0) - tables[1][seeds[not paired]].mean(axis=0)
        means.append(change.reshape(6, 20)[generator.integers(0, 6, 5)].mean())
    reach = scipy.stats.t.ppf(0.975, 5) * np.std(means)
    middle = tables[0].mean() - tables[1].mean()
    expected = [min(np.quantile(means, 0.025), middle - reach), max(np.quantile(means, 0.975), middle + reach)]
    np.testing.assert_allclose(crossed_limits([answers]), expected, atol=0.01)
    # Networks that do not differ: what is left is the noise of the groups, which is that without seeds.
    same = [made.answered(1, seed, np.arange(120) % 3, tables[0][0] > 0) for seed in (0, 1)]
    other = [made.answered(1, seed, np.arange(120) % 3, tables[1][0] > 0) for seed in (0, 1)]
    runs = [[dataclasses.replace(one, groups=np.repeat(list("abcdef"), 20)) for one in run] for run in (same, other)]
    found = compare_runs(*runs, names=NAMES)["difference"]
    assert found["ci95_with_seeds"][0] <= found["ci95"][0]
    assert found["ci95_with_seeds"][1] >= found["ci95"][1]


# --- Several labels -------------------------------------------------------------------------------------------------


def test_runs_of_several_labels_are_compared_by_average_precision():
    a = several_trials(seeds=(0, 1), clips=80, skill=2.0)
    b = several_trials(seeds=(0, 1), clips=80, skill=0.3, recipe="s")
    result = compare_runs(a, b, names=NAMES)
    scores = {
        (name, fold): np.mean(
            [
                np.mean([average_precision_score(t.marks[:, k], t.logits[:, k]) for k in range(3)])
                for t in run
                if t.about["fold"] == fold
            ]
        )
        for name, run in (("a", a), ("b", b))
        for fold in (1, 2)
    }
    for row in result["by_fold"]:
        assert row["a"] == pytest.approx(scores["a", row["fold"]])
        assert row["b"] == pytest.approx(scores["b", row["fold"]])
        assert row["clips"] == 80
    wanted = np.mean([scores["a", fold] - scores["b", fold] for fold in (1, 2)])
    assert result["difference"]["mean"] == pytest.approx(wanted)
    low, high = result["difference"]["ci95"]
    assert 0 < low < wanted < high
    assert (result["beyond_noise"], result["seeds"], result["several"]) == (True, [0, 1], True)
    assert result["difference"]["p_value"] < 0.01
    assert "runs/a is better than runs/b" in result["verdict"]
    # The other way around, the same with another sign; with itself, nothing.
    back = compare_runs(b, a, names=NAMES)["difference"]
    assert back["mean"] == pytest.approx(-wanted)
    assert back["ci95"] == pytest.approx([-high, -low])
    same = compare_runs(a, a, names=NAMES)
    assert (same["difference"]["mean"], same["difference"]["p_value"], same["beyond_noise"]) == (0, 1, False)


def test_the_interval_of_a_difference_is_paired():
    """Two runs that rank alike differ less surely than their own intervals overlap."""
    a = several_trials(clips=60, skill=1.0)
    b = [dataclasses.replace(t, logits=t.logits + np.float32(0.05) * (t.marks * 2 - 1)) for t in a]
    result = compare_runs(b, a, names=NAMES)
    own = [np.ptp(run["ci95"]) for run in result["runs"]]
    assert np.ptp(result["difference"]["ci95"]) < 0.3 * min(own)
    assert result["difference"]["mean"] > 0


def test_runs_of_several_labels_that_cannot_be_compared():
    a, b = several_trials(clips=20), several_trials(clips=20)
    other = [dataclasses.replace(t, targets=1 - t.targets) for t in b]
    with pytest.raises(RunError, match="fold 1 has other labels"):
        compare_runs(a, other, names=NAMES)
    other = [dataclasses.replace(t, clips=np.char.add(t.clips, "x")) for t in b]
    with pytest.raises(RunError, match="fold 1 has other clips"):
        compare_runs(a, other, names=NAMES)
    single = made.drawn((1, 2), (0,), generator=np.random.default_rng(0))
    with pytest.raises(RunError, match="several labels each"):
        compare_runs(a, single, names=NAMES)
