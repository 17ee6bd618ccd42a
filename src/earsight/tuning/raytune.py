"""A search as Ray Tune runs it: each of Tune's trials is a point, and ASHA stops those that fall behind.

Comes in: for each point its trials' data and orders. Goes out: what each trial leaves, by the mailbox; and why a point
could not be done. Tune keeps its own state in a folder that is thrown away: what a search goes on from is the trials'
folders. There a trial's epochs are told to Tune again, so that it knows as much as before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from earsight.execution.ray_worker import Order, work

REDUCTION = 3
"""ASHA lets one in so many go on, at 1/9 and 1/3 of all epochs."""
FAILURES = 5
"""How often a point is started again when its worker dies."""

Part = tuple[Any, Order]
"""A trial of a point: a reference to its data, and its order."""


@dataclass(frozen=True)
class Terms:
    """How a search is run.

    Attributes
    ----------
    cpus, gpus : float
        For each point.
    asha : bool
    metric : str
        ``accuracy`` or ``log_loss``.
    best_epoch : bool
        Whether a trial counts as its best epoch, as it does for protocol inner, or as its last.
    epochs : int
        Of all trials of a point.
    """

    cpus: float
    gpus: float
    asha: bool
    metric: str
    best_epoch: bool
    epochs: int


class Course:
    """What Tune is told of a point, epoch by epoch over all of its trials: their mean score so far.

    All points train the same folds in the same order, so that equal times can be compared.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._ended: list[float] = []
        self._scores: list[float] = []
        self._time = 0

    def tell(self, records: Sequence[dict[str, Any]]) -> None:
        """Report those epochs of the present trial that are new."""
        from ray import tune

        sign = -1 if self._terms.metric == "log_loss" else 1
        for record in records[len(self._scores) :]:
            score = sign * record[self._terms.metric]
            kept = max([score, *self._scores[-1:]]) if self._terms.best_epoch else score
            self._scores.append(kept)
            self._time += 1
            if self._time < self._terms.epochs:  # after the last epoch there is nothing left to stop
                tune.report({"time": self._time, "score": (sum(self._ended) + kept) / (len(self._ended) + 1)})

    def next(self) -> None:
        """The present trial has ended."""
        self._ended.append(self._scores[-1])
        self._scores = []


def run_point(parts: Sequence[Part], terms: Terms, mailbox: Any, *, stopped: bool) -> None:
    """Run the trials of a point, one after the other; of a point that was stopped before only tell what is known."""
    import ray

    course = Course(terms)
    for reference, order in parts:
        known, ended = ray.get([mailbox.records.remote(order.number), mailbox.ended.remote(order.number)])
        if ended or stopped:
            course.tell(known)
            if not ended:
                return
        else:

            def note(records: list[dict[str, Any]], number: int = order.number) -> None:
                mailbox.record.remote(number, list(records))
                course.tell(records)

            prepared: Any = ray.get(reference)
            problem = work(prepared, order, mailbox, on_epoch=note)
            if problem is None:
                course.tell(ray.get(mailbox.records.remote(order.number)))
            ray.get(mailbox.end.remote(order.number, problem))
            if problem is not None:
                return
        course.next()


def conduct(points: Sequence[Sequence[Part]], stopped: Sequence[bool], terms: Terms, mailbox: Any) -> list[str]:
    """Run a search to its end; returns why each point that could not be run was given up, or "" where it was."""
    # No files of Tune's own, and an end at once when this is cancelled.
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    def trainable(config: dict[str, Any]) -> None:
        number = config["point"]
        run_point(points[number], terms, mailbox, stopped=stopped[number])

    class Abandon(tune.Callback):
        """Lets go of what is kept of points that are stopped."""

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            for _, order in points[trial.config["point"]]:
                mailbox.abandon.remote(order.number)

    scheduler = None
    if terms.asha:
        grace = max(1, terms.epochs // REDUCTION**2)
        scheduler = ASHAScheduler(
            time_attr="time",
            metric="score",
            mode="max",
            max_t=terms.epochs,
            grace_period=grace,
            reduction_factor=REDUCTION,
        )
    with TemporaryDirectory(prefix="earsight-tune-") as folder:
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": terms.cpus, "gpu": terms.gpus}),
            param_space={"point": tune.grid_search(list(range(len(points))))},
            tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=FAILURES),
                callbacks=[Abandon()],
            ),
        ).fit()
    problems = [""] * len(points)
    for result in (results[number] for number in range(len(results))):
        if result.error is not None and result.config is not None:
            problems[result.config["point"]] = str(result.error).strip().splitlines()[-1]
    return problems
