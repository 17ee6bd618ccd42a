"""Labels that are suspected to be wrong, from predictions of clips that were held out.

Comes in: `Predictions` of any folds and seeds. Goes out: `Suspect` labels, the surest first. This is confident learning
(C. Northcutt et al., "Confident Learning", JAIR 70, 2021): a label is suspected where another class reaches the
probability that this class usually has for the clips that bear its name, and is likelier than the label. Each trial's
probabilities are calibrated by one temperature on its own held-out clips, and averaged over the trials that held a clip
out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import RunError
from earsight.evaluation.metrics import softmax
from earsight.evaluation.summary import Predictions

ENOUGH = 0.9
"""A probability that is enough whatever a class usually has: of networks that are always sure, half lie below that."""


class Suspect(NamedTuple):
    """A clip, its label and the class that is likelier, the probabilities of both, and by how many trials."""

    clip: str
    label: str
    likelier: str
    probability: float
    probability_of_label: float
    trials: int


def suspected_labels(
    trials: Sequence[Predictions], *, temperature: Callable[[NDArray[np.float32], NDArray[np.int64]], float]
) -> list[Suspect]:
    """The labels that held-out predictions contradict, by how far, the surest first.

    ``trials`` are of one recipe on one data set; ``temperature`` fits logits (clips, classes) and labels. RunError if
    the trials differ in their classes or labels, or none is given.
    """
    if not trials or len({trial.classes for trial in trials}) > 1:
        raise RunError("the trials do not have the same classes: keep one run to a folder")
    classes = trials[0].classes
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}
    labels: dict[str, int] = {}
    for trial in trials:
        probabilities = softmax(trial.logits / temperature(trial.logits, trial.labels))
        for clip, label, row in zip(trial.clips.tolist(), trial.labels.tolist(), probabilities, strict=True):
            if labels.setdefault(clip, label) != label:
                raise RunError(f"{clip}: has two labels in one run; keep one run to a folder")
            sums[clip] = sums.get(clip, np.zeros(len(classes))) + row
            counts[clip] = counts.get(clip, 0) + 1
    clips = sorted(sums)
    mean = np.array([sums[clip] / counts[clip] for clip in clips])
    given = np.array([labels[clip] for clip in clips])
    own = mean[np.arange(len(clips)), given]
    # What a class usually has where it is the label, or ENOUGH; a class that no clip bears is never likelier.
    usual = np.array(
        [own[given == label].mean() if (given == label).any() else np.inf for label in range(len(classes))]
    )
    reached = np.where(mean >= np.where(np.isinf(usual), usual, np.minimum(usual, ENOUGH)), mean, -1.0)
    likelier = reached.argmax(axis=1)
    # Where networks are unsure, another class may reach what it usually has and still be less likely than the label.
    wrong = np.flatnonzero((reached.max(axis=1) >= 0) & (mean[np.arange(len(clips)), likelier] > own))
    order = wrong[np.argsort(own[wrong] - mean[wrong, likelier[wrong]], kind="stable")]
    return [
        Suspect(
            *(clips[row], classes[given[row]], classes[likelier[row]]),
            *(float(mean[row, likelier[row]]), float(own[row]), counts[clips[row]]),
        )
        for row in order
    ]
