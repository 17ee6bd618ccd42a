"""What a model costs a clip.

Comes in: a classifier. Goes out: milliseconds from a wave in memory to its probabilities, one clip at a time.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from earsight.inference.classifier import Classifier

WARM_UP = 2


def milliseconds_per_clip(classifier: Classifier, *, repeats: int = 15) -> float:
    """Median time in milliseconds from a wave to its probabilities, for one clip at a time.

    Parameters
    ----------
    classifier : Classifier
        Timed where it is, with the threads that torch has. Decoding and resampling are not in it.
    repeats : int
        Timed runs, after two that are not.
    """
    wave = np.random.default_rng(0).normal(0, 0.1, (1, classifier.samples)).astype(np.float32)
    times = []
    for turn in range(WARM_UP + repeats):
        started = time.perf_counter()
        classifier.probabilities(wave)  # gives an array in memory, so that a GPU has ended its work
        if turn >= WARM_UP:
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)
