"""Estimate how long a trial takes, from its first steps.

Comes in: prepared data, a trial and a device. Goes out: seconds. The real training code is timed, in a temporary
folder.
"""

from __future__ import annotations

import contextlib
import time

import torch

from earsight.files import scratch_folder
from earsight.training.preparation import Prepared
from earsight.training.trial import Trial, run_trial

WARM_UP_STEPS = 2
TIMED_STEPS = 3


class _EnoughError(Exception):
    """Ends the trial."""


def seconds_per_trial(prepared: Prepared, trial: Trial, *, device: torch.device) -> float:
    """Seconds that a trial's training steps take here, without the scoring of epochs and the writing of files."""
    seconds, steps = timed_steps(prepared, trial, device=device)
    return seconds * steps


def timed_steps(prepared: Prepared, trial: Trial, *, device: torch.device) -> tuple[float, int]:
    """Seconds that one training step of a trial takes on this machine, and how many steps it has."""
    marks: list[tuple[int, float]] = []
    total = 0

    def watch(done: int, steps: int, loss: float) -> None:
        nonlocal total
        total = steps
        if done >= WARM_UP_STEPS:
            # A GPU is not asked after every step: steps are counted, not calls.
            marks.append((done, time.perf_counter()))
        if marks and done - marks[0][0] >= TIMED_STEPS:
            raise _EnoughError

    with scratch_folder("earsight-timing-") as folder:
        started = time.perf_counter()
        with contextlib.suppress(_EnoughError):
            run_trial(prepared, trial, run=folder, device=device, on_step=watch)
    if len(marks) < 2:  # a trial of a step or two: it is done already
        return (time.perf_counter() - started) / max(1, total), max(1, total)
    (first, begun), (last, ended) = marks[0], marks[-1]
    return (ended - begun) / (last - first), total
