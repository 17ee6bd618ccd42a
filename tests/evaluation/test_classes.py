"""Class by class: the numbers of scikit-learn and SciPy, and what several seeds say counted as it should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_runs import trial
from scipy.stats import binomtest, t
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from earsight.evaluation.classes import (
    class_scores,
    common_confusions,
    confusion_counts,
    mistakes,
    wilson,
)
from earsight.evaluation.metrics import softmax


def random_trials(folds, seeds, *, classes=5, clips=23):
    names = tuple(f"c{number}" for number in range(classes))
    out = []
    for fold in folds:
        labels = np.random.default_rng(fold).integers(classes - 1, size=clips)  # the last class has no clip
        for seed in seeds:
            logits = np.random.default_rng([fold, seed]).normal(size=(clips, classes))
            logits[:, 1] = -9  # never said
            logits[np.arange(clips), labels] += 1
            logits[labels == 1, 1] = -9
            out.append(trial(fold, seed, labels, logits, classes=names))
    return out


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_scores_are_those_of_scikit_learn(seeds):
    trials = random_trials([1, 2, 3], seeds)
    labels = np.concatenate([one.labels for one in trials])
    said = np.concatenate([one.logits.argmax(axis=1) for one in trials])
    np.testing.assert_array_equal(confusion_counts(trials), confusion_matrix(labels, said, labels=range(5)))
    expected = precision_recall_fscore_support(labels, said, labels=range(5), zero_division=0)
    scores = class_scores(trials)
    for place, name in enumerate(("precision", "recall", "f1", "answers")):
        np.testing.assert_allclose([getattr(one, name) for one in scores], expected[place])
    assert [one.clips for one in scores] == (expected[3] / len(seeds)).tolist()
    assert [one.name for one in scores] == list(trials[0].classes)
    never, absent = scores[1], scores[4]
    assert (never.named, never.precision, never.precision_ci95) == (0, 0.0, (0.0, 1.0))
    assert (absent.answers, absent.recall_ci95) == (0, (0.0, 1.0))


@pytest.mark.parametrize(("right", "count"), [(0, 8), (8, 8), (7, 8), (1, 3), (391, 400)])
def test_intervals_are_those_of_scipy(right, count):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_f1_is_that_of_jaccard_in_other_units():
    trials = random_trials([1, 2, 3], [0])
    labels = np.concatenate([one.labels for one in trials])
    said = np.concatenate([one.logits.argmax(axis=1) for one in trials])
    for number, one in enumerate(class_scores(trials)):
        either = int(((labels == number) | (said == number)).sum())
        if not either:
            assert one.f1_ci95 == (0.0, 1.0)
            continue
        found = binomtest(int(((labels == number) & (said == number)).sum()), either).proportion_ci(method="wilson")
        assert one.f1_ci95 == pytest.approx([2 * j / (1 + j) for j in (found.low, found.high)])
        assert one.f1_ci95[0] - 1e-12 <= one.f1 <= one.f1_ci95[1] + 1e-12


def test_more_seeds_do_not_make_the_intervals_narrow():
    one = random_trials([1, 2], [0])
    same = [*one, *(trial(t.about["fold"], 1, t.labels, t.logits, clips=t.clips, classes=t.classes) for t in one)]
    for single, double in zip(class_scores(one), class_scores(same), strict=True):
        assert double.recall_ci95 == pytest.approx(single.recall_ci95)
        assert double.precision_ci95 == pytest.approx(single.precision_ci95)


def test_pairs_are_all_that_is_off_the_diagonal():
    counts = np.array([[5, 1, 0], [3, 9, 1], [0, 0, 2]])
    assert common_confusions(counts) == [(1, 0, 3), (0, 1, 1), (1, 2, 1)]


def test_mistakes_come_worst_first_and_say_how_many_networks_are_wrong():
    labels, sure, unsure = [0, 0, 1], [[0, 9, 0]], [[0, 1, 0]]
    first = trial(1, 0, labels, [*unsure, *sure, [0, 5, 0]])
    second = trial(1, 1, labels, [*unsure, *sure, [2, 1, 0]])
    third = trial(1, 2, labels, [[0.5, 0, 0], *sure, [0, 5, 0]])
    found = mistakes([first, second, third])
    assert [(one.clip, one.label, one.predicted, one.wrong, one.seeds) for one in found] == [
        ("f1/001.wav", 0, 1, 3, 3),
        ("f1/000.wav", 0, 1, 2, 3),
    ]
    expected = np.mean([softmax(np.array(row)) for row in ([0, 1, 0], [0, 1, 0], [0.5, 0, 0])], axis=0)
    assert (found[1].label_probability, found[1].predicted_probability) == pytest.approx(tuple(expected[:2]), abs=1e-6)


def grouped_trials(of_group, *, right, seeds=(0,)):
    """Two classes; a clip's group, and whether its network is right, by number."""
    groups = np.array([f"g{one}" for one in of_group])
    labels = np.arange(len(groups)) % 2
    out = []
    for seed in seeds:
        said = np.where(right, labels, 1 - labels)
        made = trial(1, seed, labels, 5.0 * np.eye(2)[said], classes=("a", "b"))
        out.append(replace(made, groups=groups))
    return out


def test_scores_of_classes_go_by_groups_where_clips_share_them():
    """Two of six speakers are understood: over 120 clips a third is 25 to 46 %, over six speakers nearly anything."""
    of_group = np.arange(240) // 40
    known = grouped_trials(of_group, right=of_group < 2)
    alone = [replace(one, groups=None) for one in known]
    for grouped, single in zip(class_scores(known), class_scores(alone), strict=True):
        assert single.recall_ci95 == pytest.approx(wilson(1 / 3, 120))
        shares = np.array([1.0, 1, 0, 0, 0, 0])
        reach = t.ppf(0.975, 5) * shares.std(ddof=1) / np.sqrt(6)
        assert grouped.recall_ci95 == pytest.approx((0.0, 1 / 3 + reach))
        assert grouped.precision_ci95[1] > single.precision_ci95[1] + 0.2
        assert (grouped.recall, grouped.precision, grouped.f1) == (single.recall, single.precision, single.f1)


def test_of_groups_that_are_all_right_there_are_as_many_cases():
    of_group = np.arange(240) // 40
    for seeds in ((0,), (0, 1, 2)):
        for one in class_scores(grouped_trials(of_group, right=np.ones(240, bool), seeds=seeds)):
            assert one.recall_ci95 == one.precision_ci95 == pytest.approx(wilson(1, 6))
    (one, _) = class_scores(grouped_trials(np.zeros(240), right=of_group < 2))
    assert one.recall_ci95 == (0, 1), "one group says nothing of others"


def test_groups_of_one_clip_change_nothing_however_many_seeds():
    right = np.arange(60) % 7 > 1
    for seeds in ((0,), (0, 1)):
        known = grouped_trials(np.arange(60), right=right, seeds=seeds)
        assert class_scores(known) == class_scores([replace(one, groups=None) for one in known])
