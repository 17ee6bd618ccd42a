"""Metrics of several labels a clip, with scikit-learn as the oracle; and the summary of runs with such clips."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import drawn
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score, roc_auc_score

from earsight.errors import DataError, RunError
from earsight.evaluation import multilabel
from earsight.evaluation.metrics import logit, probabilities, sigmoid, softmax
from earsight.evaluation.summary import (
    Predictions,
    bootstrap_p,
    read_predictions,
    read_run,
    seed_means,
    summarize,
    write_summary,
)


def made(seed, *, clips=60, classes=4, ties=True, masked=0.0):
    generator = np.random.default_rng(seed)
    targets = (generator.random((clips, classes)) < generator.uniform(0.1, 0.7, classes)).astype(np.float32)
    scores = targets + generator.normal(0, 1.2, (clips, classes))
    if ties:
        scores = np.round(scores, 1)
    targets[generator.random(targets.shape) < masked] = np.nan
    return targets, scores


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 0.2]), st.integers(2, 60))
def test_average_precision_and_auroc_are_scikit_learns(seed, ties, masked, clips):
    targets, scores = made(seed, clips=clips, ties=ties, masked=masked)
    precision, area = multilabel.average_precisions(targets, scores), multilabel.aurocs(targets, scores)
    for kind in range(targets.shape[1]):
        known = ~np.isnan(targets[:, kind])
        truth, score = targets[known, kind], scores[known, kind]
        if len(set(truth.tolist())) < 2:
            assert np.isnan([precision[kind], area[kind]]).all()
            continue
        assert precision[kind] == pytest.approx(average_precision_score(truth, score), abs=1e-12)
        assert area[kind] == pytest.approx(roc_auc_score(truth, score), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_as_many_copies_of_a_clip(seed):
    targets, scores = made(seed)
    weights = np.random.default_rng(seed).integers(0, 3, (5, len(targets)))
    found = multilabel.resampled(targets, scores, weights.astype(float), multilabel.Ranking.average_precision)
    areas = multilabel.resampled(targets, scores, weights.astype(float), multilabel.Ranking.auroc)
    for draw, counts in enumerate(weights):
        rows = np.repeat(np.arange(len(targets)), counts)
        np.testing.assert_allclose(found[draw], multilabel.average_precisions(targets[rows], scores[rows]), atol=1e-12)
        np.testing.assert_allclose(areas[draw], multilabel.aurocs(targets[rows], scores[rows]), atol=1e-12)


def test_means_leave_out_what_says_nothing():
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]], dtype=np.float32)
    scores = np.array([[2.0, 1, 1], [1, 2, 3], [0, 1, 2]])
    found = multilabel.average_precisions(targets, scores)
    assert found[0] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(found[1:]).all()
    assert multilabel.mean_average_precision(targets, scores) == found[0]
    assert multilabel.mean_average_precision(targets[:, 1:], scores[:, 1:]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_scikit_learns(seed):
    targets, scores = made(seed)
    shares = sigmoid(scores)
    limits = np.array([0.3, 0.5, 0.6, 0.9])
    found, named = multilabel.f1_at(targets, shares, limits), shares >= limits
    assert found.micro == pytest.approx(f1_score(targets, named, average="micro"))
    assert found.macro == pytest.approx(f1_score(targets, named, average="macro", zero_division=0))
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        np.testing.assert_allclose(getattr(found, name), score(targets, named, average=None, zero_division=0))
    masked = targets.copy()
    masked[:20, 0] = np.nan
    alone = multilabel.f1_at(targets[20:, :1], shares[20:, :1], 0.5)
    assert multilabel.f1_at(masked[:, :1], shares[:, :1], 0.5).f1 == pytest.approx(alone.f1)


def test_binary_log_loss_is_scikit_learns_and_needs_no_overflow():
    targets, scores = made(1)
    wanted = np.mean([log_loss(targets[:, kind], sigmoid(scores[:, kind])) for kind in range(4)])
    assert multilabel.binary_log_loss(targets, scores) == pytest.approx(wanted)
    assert multilabel.binary_log_loss(np.array([[1.0, np.nan]]), np.array([[-1000.0, 5]])) == 1000


def test_probabilities_of_both_kinds():
    logits = np.array([[-800.0, 0, 800], [1, 2, 3]])
    np.testing.assert_allclose(probabilities(logits, several=True), sigmoid(logits))
    np.testing.assert_allclose(probabilities(logits, several=False), softmax(logits))
    np.testing.assert_allclose(sigmoid(logits[0]), [0, 0.5, 1])
    np.testing.assert_allclose(logit(sigmoid(np.array([-30.0, -2, 0, 2, 20]))), [-30, -2, 0, 2, 20], rtol=1e-6)
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()


def test_co_occurrence():
    targets = np.array([[1, 1, 0], [1, 0, np.nan], [0, 1, 0]], dtype=np.float32)
    named = np.array([[True, False, True], [True, True, True], [True, True, False]])
    together, wrong = multilabel.co_occurrence(targets, named)
    assert together.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    # Named though absent: class 2 beside 0 and 1 in the first clip, 1 beside 0 in the second, 0 beside 1 in the third.
    assert wrong.tolist() == [[0, 1, 1], [1, 0, 1], [0, 0, 0]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="not finite"):
        multilabel.average_precisions(np.ones((1, 1)), np.array([[np.nan]]))
    with pytest.raises(DataError, match=r"expected \(clips, classes\)"):
        multilabel.average_precisions(np.ones((2, 1)), np.ones((1, 1)))


# --- Runs -----------------------------------------------------------------------------------------------------------


def trial(fold, seed, *, skill=2.0, clips=40, classes=("a", "b", "c"), groups=None, truth=None):
    generator = np.random.default_rng([fold, 7])
    targets = truth if truth is not None else (generator.random((clips, len(classes))) < 0.4).astype(np.float32)
    noise = np.random.default_rng([fold, seed, 9]).normal(0, 1, targets.shape)
    logits = skill * (np.nan_to_num(targets) - 0.5) + noise
    return Predictions(
        clips=np.array([f"f{fold}/{n:03}.wav" for n in range(len(targets))]),
        labels=np.full(len(targets), -1),
        logits=logits.astype(np.float32),
        classes=classes,
        about={
            **{"fold": fold, "seed": seed, "seconds": 1.5, "epoch": 3, "protocol": "last", "recipe_digest": "r"},
            "dataset": {"name": "mine", "clips": 80, "classes": 3, "digest": "d" * 12, "skipped": []},
        },
        groups=groups,
        targets=targets,
    )


def write_several(run, one):
    folder = run / f"fold-{one.about['fold']}" / f"seed-{one.about['seed']}"
    folder.mkdir(parents=True)
    arrays = {"clip": one.clips, "target": one.marks, "logits": one.logits, "classes": np.array(one.classes)}
    np.savez(folder / "predictions.npz", **arrays, about=np.array(json.dumps(one.about)))
    (folder / "DONE").touch()


def test_a_summary_of_several_labels():
    trials = [trial(fold, seed) for fold in (1, 2) for seed in (0, 1)]
    found = summarize(trials, machine={"cpu": "x"})
    each = {(one.about["fold"], one.about["seed"]): one for one in trials}
    scores = {
        key: np.mean([average_precision_score(one.marks[:, k], one.logits[:, k]) for k in range(3)])
        for key, one in each.items()
    }
    assert [row["average_precision"] for row in found["folds"]] == pytest.approx(list(scores.values()))
    assert found["average_precision"]["mean"] == pytest.approx(np.mean(list(scores.values())))
    low, high = found["average_precision"]["ci95"]
    assert low < found["average_precision"]["mean"] < high
    areas = [roc_auc_score(one.marks, one.logits) for one in trials]
    assert found["auroc"]["mean"] == pytest.approx(np.mean(areas))
    marks, logits = np.concatenate([one.marks for one in trials]), np.concatenate([one.logits for one in trials])
    assert found["f1"]["micro"] == pytest.approx(f1_score(marks, logits >= 0, average="micro"))
    assert found["classes"][1]["average_precision"] == pytest.approx(
        np.mean([average_precision_score(one.marks[:, 1], one.logits[:, 1]) for one in trials])
    )
    assert found["classes"][1]["clips"] == int(each[1, 0].marks[:, 1].sum() + each[2, 0].marks[:, 1].sum())
    assert (found["several"], found["without_positives"], found["groups"]) == (True, [], None)
    assert found["ensemble"]["members"] == 2
    assert found["ensemble"]["average_precision"] > found["average_precision"]["mean"]
    assert found["ensemble"]["gain"]["difference"] == pytest.approx(
        found["ensemble"]["average_precision"] - found["average_precision"]["mean"]
    )
    means = seed_means(trials)
    np.testing.assert_allclose(
        sigmoid(means[0].logits), (sigmoid(each[1, 0].logits) + sigmoid(each[1, 1].logits)) / 2, rtol=1e-5
    )
    json.dumps(found, allow_nan=False)


def test_the_interval_covers_the_spread_of_other_clips():
    """95 % intervals of many sets of clips, of which the expected average precision is known from a large one."""
    large = trial(
        1, 0, truth=(np.random.default_rng(0).random((40000, 2)) < 0.3).astype(np.float32), classes=("a", "b")
    )
    wanted = multilabel.mean_average_precision(large.marks, large.logits)
    inside = 0
    for n in range(100):
        rows = slice(100 * n, 100 * n + 100)
        one = Predictions(
            large.clips[rows],
            large.labels[rows],
            large.logits[rows],
            large.classes,
            large.about,
            targets=large.marks[rows],
        )
        low, high = summarize([one], machine={})["average_precision"]["ci95"]
        inside += low <= wanted <= high
    assert 85 <= inside <= 99


def test_groups_are_redrawn_whole():
    """Ten copies of a clip are one clip as to how sure one can be."""
    alone = trial(1, 0)
    ten = np.repeat(np.arange(40), 10)
    copies = Predictions(
        np.array([f"{n:04}.wav" for n in range(400)]),
        np.full(400, -1),
        alone.logits[ten],
        alone.classes,
        alone.about,
        groups=np.array([f"g{n}" for n in ten]),
        targets=alone.marks[ten],
    )
    widths = []
    for one in (alone, copies, Predictions(**{**vars(copies), "groups": None})):
        low, high = summarize([one], machine={})["average_precision"]["ci95"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
    assert widths[2] < 0.5 * widths[0]
    assert summarize([copies], machine={})["groups"] == {"count": 40, "few": False}


def test_a_class_of_one_source_has_no_interval():
    """Redrawing sources would leave its clips as they are: the limits would meet, and say the opposite."""
    alone = trial(1, 0)
    truth = alone.marks.copy()
    truth[:, 1] = 0
    truth[:6, 1] = 1
    groups = np.array([f"g{n // 8}" for n in range(len(truth))])
    other = Predictions(**{**vars(alone), "targets": truth, "groups": groups})
    rows = summarize([other], machine={})["classes"]
    assert rows[1]["ci95"] == [0.0, 1.0]
    assert 0 < rows[0]["ci95"][0] < rows[0]["ci95"][1] <= 1


def test_classes_without_positives_are_named_and_left_out():
    truth = trial(1, 0).marks.copy()
    truth[:, 2] = 0
    found = summarize([trial(1, 0, truth=truth), trial(2, 0)], machine={})
    assert found["without_positives"] == [{"fold": 1, "classes": ["c"]}]
    whole = summarize([trial(2, 0)], machine={})
    assert found["classes"][2]["average_precision"] == whole["classes"][2]["average_precision"]
    truth[:, 2] = np.nan
    found = summarize([trial(1, 0, truth=truth)], machine={})
    assert found["classes"][2]["average_precision"] is None
    json.dumps(found, allow_nan=False)


def test_the_order_of_clips_changes_nothing():
    one = trial(1, 0)
    order = np.random.default_rng(0).permutation(40)
    other = Predictions(
        one.clips[order], one.labels, one.logits[order], one.classes, one.about, targets=one.marks[order]
    )
    assert summarize([one], machine={})["average_precision"]["ci95"] == pytest.approx(
        summarize([other], machine={})["average_precision"]["ci95"]
    )


def test_saved_runs_are_read_and_summarised_or_refused(tmp_path):
    for one in (trial(1, 0), trial(2, 0)):
        write_several(tmp_path, one)
    back = read_predictions(tmp_path / "fold-1" / "seed-0" / "predictions.npz")
    np.testing.assert_array_equal(back.marks, trial(1, 0).marks)
    assert back.labels.tolist() == [-1] * 40
    with pytest.raises(RuntimeError, match="no one label"):
        back.correct  # noqa: B018
    with pytest.raises(RunError, match="several labels each, and this is for runs of one label"):
        read_run(tmp_path)
    assert len(read_run(tmp_path, several=True)) == 2
    assert write_summary(tmp_path, machine={})["several"]
    single = drawn((1,), (0,), generator=np.random.default_rng(0))[0]
    with pytest.raises(RuntimeError, match="not targets"):
        single.marks  # noqa: B018


def test_p_values_of_draws():
    assert bootstrap_p(np.array([-1.0] * 999)) == pytest.approx(2 / 1000)
    assert bootstrap_p(np.array([0.0] * 10)) == 1
    assert bootstrap_p(np.r_[np.full(95, 1.0), np.full(5, -1.0)]) == pytest.approx(2 * 6 / 101)


def test_limits_stand_around_the_score():
    draws = np.linspace(0.6, 0.9, 101)
    low, high = multilabel.limits(draws)
    assert (low, high) == pytest.approx((0.6075, 0.8925))
    # Redrawn clips score too high: the interval is moved to the score, within 0 and 1.
    assert multilabel.limits(draws, around=0.65) == pytest.approx([low - 0.1, high - 0.1])
    assert multilabel.limits(draws, around=0.95)[1] == 1
    assert multilabel.limits(np.full(3, np.nan), around=0.5) == [0, 1]
