import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from earsight.data import splits
from earsight.errors import DataError


@st.composite
def clips(draw, smallest=5):
    """Labels and groups in which each group has one class and each class at least ``smallest`` groups."""
    labels, groups, group = [], [], 0
    for label in range(draw(st.integers(2, 5))):
        for size in draw(st.lists(st.integers(1, 4), min_size=smallest, max_size=25)):
            labels += [label] * size
            groups += [f"g{group}"] * size
            group += 1
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return np.array(labels)[order], np.array(groups)[order]


def shares(labels, folds):
    return np.array([[np.sum((folds == fold) & (labels == name)) for fold in np.unique(folds)] for name in set(labels)])


@settings(max_examples=60, deadline=None)
@given(clips(), st.integers(2, 5), st.integers(0, 5))
def test_folds_keep_groups_whole_and_classes_even(data, folds, seed):
    labels, groups = data
    found = splits.group_folds(labels, groups, folds=folds, seed=seed)
    assert found.dtype == np.int64
    assert set(found) == set(range(1, folds + 1))
    for group in np.unique(groups):
        assert len(set(found[groups == group])) == 1
    largest = max(np.sum(groups == group) for group in np.unique(groups))
    # A greedy deal into the emptiest fold is never more than one group out of balance.
    assert np.ptp(shares(labels, found), axis=1).max() <= largest
    np.testing.assert_array_equal(found, splits.group_folds(labels, groups, folds=folds, seed=seed))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(5, 40), min_size=2, max_size=6), st.integers(2, 5), st.integers(0, 9))
def test_folds_are_exact_when_every_clip_is_its_own_group(sizes, folds, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    found = splits.group_folds(labels, np.arange(len(labels)), folds=folds, seed=seed)
    assert np.ptp(shares(labels, found), axis=1).max() <= 1
    assert np.ptp(np.bincount(found)[1:]) <= 1


def test_gtzan_folds_hold_twenty_of_each_genre():
    labels = np.repeat(np.arange(10), 100)
    found = splits.group_folds(labels, np.arange(1000), folds=5, seed=3)
    np.testing.assert_array_equal(shares(labels, found), np.full((10, 5), 20))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mixed", [False, True])
def test_folds_are_no_worse_balanced_than_scikit_learn(seed, mixed):
    draw = np.random.default_rng(seed)
    groups = draw.integers(0, 120, size=400)
    labels = draw.integers(0, 5, size=400) if mixed else groups * 7919 % 5
    theirs = np.zeros(400, dtype=int)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(labels, labels, groups), start=1):
        theirs[rows] = fold
    ours = splits.group_folds(labels, groups, folds=5, seed=seed)
    assert np.std(shares(labels, ours), axis=1).mean() <= np.std(shares(labels, theirs), axis=1).mean() + 0.25


def test_the_seed_changes_the_folds():
    labels, groups = np.repeat([0, 1], 50), np.arange(100)
    one, other = (splits.group_folds(labels, groups, folds=5, seed=seed) for seed in (0, 1))
    assert (one != other).mean() > 0.5


@settings(max_examples=60, deadline=None)
@given(clips(smallest=2), st.floats(0.05, 0.6), st.integers(0, 5))
def test_holdout_keeps_groups_whole_and_every_class_trainable(data, fraction, seed):
    labels, groups = data
    held = splits.holdout(labels, groups, fraction=fraction, seed=seed)
    assert held.dtype == bool
    assert held.any()
    assert set(labels[~held]) == set(labels)
    assert not set(groups[held]) & set(groups[~held])
    for label in set(labels):
        rows = labels == label
        # No class is further from its share than its largest group, or than what keeping one group in training costs.
        largest = max(np.sum(groups == group) for group in groups[rows])
        assert abs(held[rows].sum() - fraction * rows.sum()) <= largest + 1e-9
    np.testing.assert_array_equal(held, splits.holdout(labels, groups, fraction=fraction, seed=seed))


def test_holdout_is_exact_where_it_can_be():
    labels = np.repeat(np.arange(10), 40)
    held = splits.holdout(labels, np.arange(400), fraction=0.2, seed=1)
    np.testing.assert_array_equal(np.bincount(labels[held]), np.full(10, 8))
    other = splits.holdout(labels, np.arange(400), fraction=0.2, seed=2)
    assert (held != other).any()


def test_a_group_of_many_classes_stays_whole():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    groups = np.array(["a", "a", "b", "b", "c", "c", "d", "d"])
    found = splits.group_folds(labels, groups, folds=4, seed=0)
    assert [len(set(found[groups == group])) for group in "abcd"] == [1, 1, 1, 1]
    assert sorted(set(found)) == [1, 2, 3, 4]


def test_of_folds_alike_the_one_with_fewer_groups_is_next():
    """Of class 0 fold 1 gets groups of 5, 1 and 1, fold 2 of 4 and 3: the first group of class 1 goes to fold 2."""
    sizes = [5, 4, 3, 1, 1, 8, 7]
    groups = np.repeat(np.arange(7), sizes)
    found = splits.group_folds(np.where(groups < 5, 0, 1), groups, folds=2, seed=0)
    assert [int(found[groups == group][0]) for group in range(7)] == [1, 2, 2, 1, 1, 2, 1]


def test_where_every_source_is_too_large_the_smallest_is_held_out():
    groups = np.repeat([0, 1, 2], [10, 3, 7])
    held = splits.holdout(np.zeros(20, dtype=int), groups, fraction=0.05, seed=0)
    assert held.tolist() == (groups == 1).tolist()


def test_a_source_that_is_as_near_as_none_is_held_out_while_clips_are_wanted():
    labels, groups = np.repeat([0, 1], [4, 8]), np.array([0, 0, 1, 1, *range(2, 10)])
    held = splits.holdout(labels, groups, fraction=0.25, seed=0)
    assert [int(held[labels == label].sum()) for label in (0, 1)] == [2, 2]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_holdout_share_must_be_a_share(fraction):
    with pytest.raises(DataError, match="between 0 and 1"):
        splits.holdout(np.array([0, 1]), np.array([0, 1]), fraction=fraction, seed=0)


def test_what_cannot_be_split_is_refused():
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match="at least 2"):
        splits.group_folds(labels, np.arange(4), folds=1, seed=0)
    with pytest.raises(DataError, match="splits 2"):
        splits.group_folds(labels, np.array([0, 0, 1, 1]), folds=3, seed=0)
    with pytest.raises(DataError, match="single source"):
        splits.holdout(labels, np.array([0, 0, 1, 1]), fraction=0.5, seed=0)
    with pytest.raises(DataError, match="equal lists"):
        splits.holdout(labels, np.array([0, 0]), fraction=0.5, seed=0)
    with pytest.raises(DataError, match="equal lists"):
        splits.group_folds(np.array([]), np.array([]), folds=2, seed=0)


# --- Several labels -------------------------------------------------------------------------------------------------


def overlapping(seed, *, clips=300, classes=6, groups=90):
    """Labels (clips, classes), some clips with none, rare and common classes; and the clips' groups."""
    generator = np.random.default_rng(seed)
    owner = generator.integers(0, groups, clips)
    likely = np.geomspace(0.5, 0.04, classes) * generator.uniform(0.2, 1.8, (groups, classes))[owner]
    return (generator.random((clips, classes)) < likely).astype(int), owner


@pytest.mark.parametrize("seed", range(4))
def test_several_labels_are_dealt_evenly_with_whole_groups(seed):
    labels, groups = overlapping(seed)
    found = splits.group_folds(labels, groups, folds=5, seed=seed)
    assert set(found) == {1, 2, 3, 4, 5}
    assert all(len(set(found[groups == group])) == 1 for group in np.unique(groups))
    np.testing.assert_array_equal(found, splits.group_folds(labels, groups, folds=5, seed=seed))
    none = np.column_stack([labels, ~labels.any(axis=1)])
    counts = np.array([none[found == fold].sum(axis=0) for fold in range(1, 6)])
    random = np.random.default_rng(seed).integers(1, 6, groups.max() + 1)[groups]
    drawn = np.array([none[random == fold].sum(axis=0) for fold in range(1, 6)])
    even = none.sum(axis=0) / 5
    # Sechidis et al.'s measure: how far the folds' clips of a class are from an even share, on average.
    assert np.abs(counts - even).mean() < 0.6 * np.abs(drawn - even).mean()
    # No fold misses a class that has groups enough.
    assert (counts > 0).all()


def test_several_labels_without_groups_differ_by_little():
    labels, _ = overlapping(1)
    found = splits.group_folds(labels, np.arange(len(labels)), folds=5, seed=0)
    counts = np.array([labels[found == fold].sum(axis=0) for fold in range(1, 6)])
    assert np.ptp(counts, axis=0).max() <= 3
    assert np.ptp(np.bincount(found)[1:]) <= 6


def test_one_label_in_each_row_is_dealt_as_stratified():
    labels = np.repeat(np.arange(4), [10, 20, 15, 30])
    found = splits.group_folds(np.eye(4, dtype=int)[labels], np.arange(len(labels)), folds=5, seed=2)
    assert np.ptp(shares(labels, found), axis=1).max() == 0


def test_a_hold_out_of_several_labels_leaves_every_class_a_clip():
    labels, groups = overlapping(3)
    held = splits.holdout(labels, groups, fraction=0.2, seed=0)
    assert 0.15 < held.mean() < 0.25
    assert not set(groups[held]) & set(groups[~held])
    assert (labels[~held].sum(axis=0) > 0).all()
    np.testing.assert_allclose(labels[held].sum(axis=0) / labels.sum(axis=0), 0.2, atol=0.08)
    # Large shares are held out too, and a class of one source stays.
    labels[:, 5] = groups == 7
    held = splits.holdout(labels, groups, fraction=0.7, seed=0)
    assert 0.6 < held.mean() < 0.8
    assert not held[groups == 7].any()
    assert (labels[~held].sum(axis=0) > 0).all()
