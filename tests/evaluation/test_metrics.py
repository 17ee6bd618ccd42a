import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from earsight.errors import DataError
from earsight.evaluation import metrics


def _simulated(seed: int, *, clips: int = 200, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size=clips)
    logits = generator.normal(size=(clips, classes)).astype(np.float32)
    logits[np.arange(clips), labels] += 1
    return logits, labels


@pytest.mark.parametrize("seed", range(5))
def test_scores_agree_with_scikit_learn(seed):
    logits, labels = _simulated(seed)
    predictions = logits.argmax(axis=1)
    # Class 7 is neither labelled nor predicted, class 8 only predicted, class 9 only labelled.
    predictions[:3], labels[3:6] = 8, 9
    classes = list(range(10))
    assert metrics.accuracy(labels, predictions) == sklearn.metrics.accuracy_score(labels, predictions)
    expected = sklearn.metrics.confusion_matrix(labels, predictions, labels=classes)
    counts = metrics.confusion(labels, predictions, classes=10)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)
    expected = sklearn.metrics.precision_recall_fscore_support(labels, predictions, labels=classes, zero_division=0)
    for ours, theirs in zip(metrics.per_class(labels, predictions, classes=10), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    expected = sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0)
    assert metrics.macro_f1(labels, predictions, classes=10) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", [1, 2, 5, 7, 9])
def test_log_loss_agrees_with_scikit_learn(seed):
    logits, labels = _simulated(seed)
    expected = sklearn.metrics.log_loss(labels, scipy.special.softmax(logits.astype(float), axis=1), labels=range(7))
    assert metrics.log_loss(logits, labels) == pytest.approx(expected, rel=1e-10)


def test_softmax_holds_where_exp_overflows_and_agrees_with_scipy():
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4], [3.0, 1.0, 0.2]])
    np.testing.assert_allclose(metrics.softmax(logits), scipy.special.softmax(logits, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(metrics.log_softmax(logits), scipy.special.log_softmax(logits, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(metrics.softmax(logits[None]).sum(axis=-1), 1)
    assert metrics.log_loss(np.array([[0.0, 1000.0]]), np.array([0])) == 1000.0
    assert metrics.log_loss(np.zeros((5, 4)), np.arange(5) % 4) == pytest.approx(np.log(4))


def test_f1_by_hand():
    # Class 0: 2 right, 1 taken for 1; class 1: 1 right, 1 taken for 0.
    scores = metrics.per_class(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0]), classes=2)
    np.testing.assert_allclose(scores.precision, [2 / 3, 1 / 2])
    np.testing.assert_allclose(scores.recall, [2 / 3, 1 / 2])
    assert scores.support.tolist() == [3, 2]
    assert metrics.macro_f1(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0]), classes=9) == pytest.approx(7 / 12)


@pytest.mark.parametrize(
    ("labels", "predictions", "words"),
    [
        ([], [], "at least one clip"),
        ([0, 1], [0], "2 labels and 1 predictions"),
        ([0, 5], [0, 1], "class number 5, expected numbers below 3"),
        ([0, 1], [0, 3], "class number 3, expected numbers below 3"),
        ([0, -1], [0, 1], "from -1"),
        ([0.0, 1.0], [0, 1], "float64"),
        ([[0, 1]], [0, 1], r"shape \(1, 2\)"),
    ],
)
def test_arrays_that_are_no_labels_are_refused(labels, predictions, words):
    with pytest.raises(DataError, match=words):
        metrics.confusion(np.array(labels), np.array(predictions), classes=3)


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (np.zeros((3, 2)), [0, 1], r"shape \(3, 2\), expected \(2, classes\)"),
        (np.zeros(2), [0, 1], r"shape \(2,\)"),
        (np.zeros((2, 2)), [0, 2], "label 2, expected labels below 2"),
        (np.array([[0, np.nan], [0, 1]]), [0, 1], "1 of 2 clips have scores that are not finite"),
    ],
)
def test_logits_that_do_not_fit_are_refused(logits, labels, words):
    with pytest.raises(DataError, match=words):
        metrics.log_loss(logits, np.array(labels))
