"""A search run by Ray Tune, on the cluster: each of Tune's trials is a point, and ASHA stops points that fall behind.

Comes in: for each point its trials as (reference to data, `Job`). Goes out: each trial's files, through the mailbox,
and why a point could not be run. Tune's own state is in a temporary folder: a search resumes from the trials' folders,
whose epochs are reported to Tune again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from earsight.execution.ray_cluster import SCRATCH
from earsight.execution.ray_worker import Job, cancel_by_sigint, work
from earsight.files import scratch_folder

REDUCTION = 3  # ASHA keeps one point in so many, at 1/9 and 1/3 of all epochs
FAILURES = 5  # how often a point is started again when its worker dies

PointTrial = tuple[Any, Job]
"""A trial of a point: a reference to its prepared data, and its job."""


@dataclass(frozen=True)
class TuneSettings:
    """How a search is run: what a point reserves, and what Tune compares.

    ``metric`` is ``accuracy`` or ``log_loss``; with ``best_epoch`` a trial counts as its best epoch (protocol inner)
    and else as its last; ``epochs`` is the sum over a point's trials.
    """

    cpus: float
    gpus: float
    asha: bool
    metric: str
    best_epoch: bool
    epochs: int


class ScoreReporter:
    """Reports a point's score to Tune after each epoch: the mean over its trials so far.

    All points train the same folds in the same order, so that scores at equal times can be compared.
    """

    def __init__(self, settings: TuneSettings) -> None:
        self._settings = settings
        self._ended: list[float] = []
        self._scores: list[float] = []
        self._time = 0

    def report(self, records: Sequence[dict[str, Any]]) -> None:
        """Report the new epochs of the present trial."""
        from ray import tune

        sign = -1 if self._settings.metric == "log_loss" else 1
        for record in records[len(self._scores) :]:
            score = sign * record[self._settings.metric]
            kept = max([score, *self._scores[-1:]]) if self._settings.best_epoch else score
            self._scores.append(kept)
            self._time += 1
            if self._time < self._settings.epochs:  # after the last epoch there is nothing left to stop
                tune.report({"time": self._time, "score": (sum(self._ended) + kept) / (len(self._ended) + 1)})

    def next_trial(self) -> None:
        """The present trial has ended."""
        self._ended.append(self._scores[-1])
        self._scores = []


def run_point(trials: Sequence[PointTrial], settings: TuneSettings, mailbox: Any, *, stopped: bool) -> None:
    """Run a point's trials one after the other; if ASHA has stopped the point before, only report its epochs."""
    import ray

    reporter = ScoreReporter(settings)
    for reference, job in trials:
        records, ended = ray.get(mailbox.history.remote(job.number))
        if not (ended or stopped):

            def keep(new: list[dict[str, Any]], number: int = job.number) -> None:
                mailbox.put_history.remote(number, list(new))
                reporter.report(new)

            prepared: Any = ray.get(reference)
            outcome = work(prepared, job, mailbox, on_epoch=keep)
            records, _ = ray.get(mailbox.history.remote(job.number))
            ray.get(mailbox.end.remote(job.number, outcome))
            if isinstance(outcome, Exception):
                return
        reporter.report(records)
        if stopped and not ended:
            return
        reporter.next_trial()


def run_tune(
    points: Sequence[Sequence[PointTrial]], stopped: Sequence[bool], settings: TuneSettings, mailbox: Any
) -> list[str]:
    """Run a search to its end, beside the driver; returns for each point why it could not be run, or ""."""
    cancel_by_sigint()
    # No files of Tune's own, and an end at once when this is cancelled.
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    def trainable(config: dict[str, Any]) -> None:
        number = config["point"]
        run_point(points[number], settings, mailbox, stopped=stopped[number])

    class ForgetStates(tune.Callback):
        """Drops the checkpoints of points that ASHA stops."""

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            for _, job in points[trial.config["point"]]:
                mailbox.forget_state.remote(job.number)

    scheduler = ASHAScheduler(
        time_attr="time",
        metric="score",
        mode="max",
        max_t=settings.epochs,
        grace_period=max(1, settings.epochs // REDUCTION**2),
        reduction_factor=REDUCTION,
    )
    with scratch_folder(SCRATCH) as folder:
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": settings.cpus, "gpu": settings.gpus}),
            param_space={"point": tune.grid_search(list(range(len(points))))},
            tune_config=tune.TuneConfig(scheduler=scheduler if settings.asha else None, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=str(folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=FAILURES),
                callbacks=[ForgetStates()],
            ),
        ).fit()
    problems = [""] * len(points)
    for result in (results[number] for number in range(len(results))):
        if result.error is not None and result.config is not None:
            problems[result.config["point"]] = str(result.error).strip().splitlines()[-1]
    return problems
