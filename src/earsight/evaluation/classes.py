"""Scores and confusions of each class, and the clips that were misclassified.

Comes in: a run's trials, as `earsight.evaluation.summary.read_run` gives them. Goes out: the confusion matrix, scores
with 95 % intervals, the pairs of confused classes, and the misclassified clips. Each seed gives one prediction (an
"answer" in names) of each held-out clip.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.evaluation.metrics import confusion, softmax
from earsight.evaluation.statistics import share_limits
from earsight.evaluation.summary import Predictions, clip_groups, labels_and_predictions

_NORMAL = 1.959963984540054  # the 97.5 % quantile of the normal distribution


class ClassScore(NamedTuple):
    """One class: its numbers of clips and predictions, and scores between 0 and 1 with their intervals.

    ``clips`` counts distinct clips; ``answers`` and ``right`` count predictions of clips of the class, ``named`` those
    of any clip that named it. A score without any prediction to count is 0 and its interval is (0, 1).
    """

    name: str
    clips: int
    answers: int
    named: int
    right: int
    precision: float
    precision_ci95: tuple[float, float]
    recall: float
    recall_ci95: tuple[float, float]
    f1: float
    f1_ci95: tuple[float, float]


class Confusion(NamedTuple):
    """Clips of class ``true`` that ``answers`` networks took for class ``predicted``; numbers of classes."""

    true: int
    predicted: int
    answers: int


class Mistake(NamedTuple):
    """A clip that the mean of its networks' probabilities misclassifies.

    ``label`` and ``predicted`` are numbers of classes, the probabilities are the mean over the seeds, and ``wrong`` of
    ``seeds`` networks are wrong about it by themselves.
    """

    clip: str
    fold: int
    label: int
    predicted: int
    label_probability: float
    predicted_probability: float
    wrong: int
    seeds: int


def confusion_counts(trials: Sequence[Predictions]) -> NDArray[np.int64]:
    """Predictions by true class (row) and predicted class (column), added up over the trials."""
    return confusion(*labels_and_predictions(trials), classes=len(trials[0].classes))


def class_scores(trials: Sequence[Predictions]) -> list[ClassScore]:
    """Scores of every class, in the order of the classes.

    The intervals are Wilson's. Each clip counts once, since several seeds' predictions of it are not independent; where
    clips share sources, these are redrawn too, and the wider limits count (`statistics.share_limits`). That of F1 is
    Jaccard's, a share of clips (of those of the class or called so, the ones that are both), by F1 = 2 J / (1 + J).
    """
    counts = confusion_counts(trials)
    true, guess = labels_and_predictions(trials)
    names, groups = np.concatenate([one.clips for one in trials]), clip_groups(trials)

    def limits(of: NDArray[np.bool_], cases: float) -> tuple[float, float]:
        if not of.any():
            return 0.0, 1.0
        own = None if groups is None else groups[of]
        return share_limits((true == guess)[of], wilson, clips=names[of], groups=own, cases=cases)

    labels = {
        clip: label for one in trials for clip, label in zip(one.clips.tolist(), one.labels.tolist(), strict=True)
    }
    clips = np.bincount(list(labels.values()), minlength=len(counts))
    share = len(labels) / counts.sum()  # clips to a prediction
    out = []

    def f1_limits(number: int, either: int) -> tuple[float, float]:
        low, high = limits((true == number) | (guess == number), either * share)
        return 2 * low / (1 + low), 2 * high / (1 + high)

    for number, name in enumerate(trials[0].classes):
        answers, named = int(counts[number].sum()), int(counts[:, number].sum())
        right = int(counts[number, number])
        precision, recall = right / named if named else 0.0, right / answers if answers else 0.0
        out.append(
            ClassScore(
                name=name,
                clips=int(clips[number]),
                answers=answers,
                named=named,
                right=right,
                precision=precision,
                precision_ci95=limits(guess == number, named * share),
                recall=recall,
                recall_ci95=limits(true == number, float(clips[number])),
                f1=2 * right / (answers + named) if answers + named else 0.0,
                f1_ci95=f1_limits(number, answers + named - right),
            )
        )
    return out


def wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % interval (JASA 22, 1927) of a share out of ``count`` independent cases; (0, 1) for none."""
    if count <= 0:
        return 0.0, 1.0
    square = _NORMAL**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    reach = _NORMAL / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def common_confusions(counts: NDArray[np.int64]) -> list[Confusion]:
    """The pairs of a matrix (`confusion_counts`) that are off its diagonal and not empty, most frequent first."""
    wrong = counts - np.diag(np.diagonal(counts))
    pairs = [Confusion(int(row), int(column), int(wrong[row, column])) for row, column in np.argwhere(wrong > 0)]
    return sorted(pairs, key=lambda pair: (-pair.answers, pair.true, pair.predicted))


def mistakes(trials: Sequence[Predictions]) -> list[Mistake]:
    """The misclassified clips, sorted by the probability of the true class, lowest first."""
    predictions: dict[tuple[int, str], list[tuple[int, NDArray[np.float64]]]] = defaultdict(list)
    for one in trials:
        shares = softmax(one.logits)
        for clip, label, row in zip(one.clips.tolist(), one.labels.tolist(), shares, strict=True):
            predictions[one.about["fold"], clip].append((label, row))
    out = []
    for (fold, clip), found in predictions.items():
        label = found[0][0]
        mean = np.mean([row for _, row in found], axis=0)
        top = int(mean.argmax())
        if top != label:
            wrong = sum(int(row.argmax()) != label for _, row in found)
            out.append(Mistake(clip, fold, label, top, float(mean[label]), float(mean[top]), wrong, len(found)))
    return sorted(out, key=lambda one: (one.label_probability, one.clip))
