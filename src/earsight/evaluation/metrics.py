"""Metrics of predictions: accuracy, confusion matrix, precision, recall, F1, softmax and log loss.

Comes in: ``labels`` (clips,) int, and either ``predictions`` (clips,) int or ``logits`` (clips, classes) float. Goes
out: plain floats, or arrays with one entry per class. Pure functions of numpy arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import DataError


class PerClass(NamedTuple):
    """Scores of each class; all arrays are (classes,).

    A ratio whose denominator is zero is 0: the precision of a class that is never predicted, the recall of a class that
    has no clip.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of the clips whose predicted class is the labelled one, from 0 to 1.

    Class numbers are int, (clips,); DataError if there is no clip, the lengths differ, or an entry is no class number.
    """
    labels, predictions = _paired(labels, predictions)
    return float(np.mean(labels == predictions))


def confusion(labels: np.ndarray, predictions: np.ndarray, *, classes: int) -> NDArray[np.int64]:
    """The confusion matrix, shape (classes, classes): clips by true class (row) and predicted class (column).

    Class numbers are int, (clips,), below ``classes``; DataError if there is no clip, the lengths differ, or a number
    is out of range.
    """
    labels, predictions = _paired(labels, predictions)
    highest = int(max(labels.max(), predictions.max()))
    if highest >= classes:
        raise DataError(f"found class number {highest}, expected numbers below {classes}: check the list of classes")
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def per_class(labels: np.ndarray, predictions: np.ndarray, *, classes: int) -> PerClass:
    """Precision, recall, F1 and number of clips of each class; arguments as in `confusion`."""
    counts = confusion(labels, predictions, classes=classes)
    hits = np.diagonal(counts).astype(np.float64)
    predicted, support = counts.sum(axis=0), counts.sum(axis=1)
    return PerClass(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, predicted + support),
        support=support,
    )


def macro_f1(labels: np.ndarray, predictions: np.ndarray, *, classes: int) -> float:
    """Mean of the classes' F1, each class weighing the same; arguments as in `confusion`.

    A class that is neither labelled nor predicted is left out: a fold without clips of it says nothing about it.
    """
    counts = confusion(labels, predictions, classes=classes)
    seen = counts.sum(axis=0) + counts.sum(axis=1) > 0
    return float(per_class(labels, predictions, classes=classes).f1[seen].mean())


def balanced_accuracy(labels: np.ndarray, predictions: np.ndarray, *, classes: int) -> float:
    """Mean recall of the classes that have a clip, each weighing the same; arguments as in `confusion`."""
    found = per_class(labels, predictions, classes=classes)
    return float(found.recall[found.support > 0].mean())


def never_predicted(labels: np.ndarray, predictions: np.ndarray, *, classes: int) -> list[int]:
    """Numbers of the classes that have a clip and that no prediction names; arguments as in `confusion`."""
    counts = confusion(labels, predictions, classes=classes)
    return [int(n) for n in np.flatnonzero((counts.sum(axis=1) > 0) & (counts.sum(axis=0) == 0))]


def softmax(logits: np.ndarray) -> NDArray[np.float64]:
    """Probabilities (..., classes) float64 of logits (..., classes), without overflow."""
    return np.exp(log_softmax(logits))


def sigmoid(logits: np.ndarray) -> NDArray[np.float64]:
    """Probabilities float64 of logits of any shape, each by itself, without overflow."""
    scores = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1 / (1 + small), small / (1 + small))


def logit(probabilities: np.ndarray) -> NDArray[np.float64]:
    """Logits float64 of probabilities; of 0 and 1 those of the numbers next to them that float32 can tell apart."""
    least = float(np.finfo(np.float32).tiny)
    shares = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(np.log(np.maximum(shares, least)) - np.log(np.maximum(1 - shares, least)))


def probabilities(logits: np.ndarray, *, several: bool) -> NDArray[np.float64]:
    """Probabilities (..., classes) of logits: of one class in each row (softmax), or of each class by itself."""
    return sigmoid(logits) if several else softmax(logits)


def log_softmax(logits: np.ndarray) -> NDArray[np.float64]:
    """Logarithms of `softmax`, exact also where a probability is too small to be represented."""
    scores = np.asarray(logits, dtype=np.float64)
    scores = scores - scores.max(axis=-1, keepdims=True)
    out: NDArray[np.float64] = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return out


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log probability of the labels, in nats; ``log(classes)`` is that of a uniform guess.

    Takes logits float (clips, classes) and labels int (clips,), as `checked_logits` checks them.
    """
    scores, labels = checked_logits(logits, labels)
    return float(-np.take_along_axis(log_softmax(scores), labels[:, None], axis=1).mean())


def checked_logits(logits: np.ndarray, labels: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits as float64 (clips, classes) and labels as int64 (clips,), once they fit each other.

    DataError if there is no clip, a shape is wrong, a label is out of range, or a value is not finite.
    """
    scores = np.asarray(logits, dtype=np.float64)
    numbers = _class_numbers(labels, "labels")
    if scores.ndim != 2 or scores.shape[0] != numbers.size or scores.shape[1] < 1:
        raise DataError(f"found scores of shape {scores.shape}, expected ({numbers.size}, classes): one row per label")
    if numbers.max() >= scores.shape[1]:
        raise DataError(
            f"found label {numbers.max()}, expected labels below {scores.shape[1]}: labels and scores are from "
            "different sets of classes"
        )
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).any(axis=1).sum())
        raise DataError(f"{bad} of {numbers.size} clips have scores that are not finite: train with a lower rate")
    return scores, numbers


def _paired(labels: np.ndarray, predictions: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = _class_numbers(labels, "labels"), _class_numbers(predictions, "predictions")
    if first.size != second.size:
        raise DataError(f"found {first.size} labels and {second.size} predictions, expected one of each per clip")
    return first, second


def _class_numbers(values: np.ndarray, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} have shape {array.shape}, expected (clips,) with at least one clip")
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise DataError(f"{name} are {array.dtype} from {array.min()}, expected integer class numbers from 0")
    return array.astype(np.int64)


def _ratio(above: np.ndarray, below: np.ndarray) -> NDArray[np.float64]:
    out = np.zeros(above.shape, dtype=np.float64)
    np.divide(above, below, out=out, where=below > 0)
    return out
