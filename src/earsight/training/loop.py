"""The training loop: epochs of steps over rows of a data set, with checkpoints.

Comes in: a model, `Data` (labelled spectrograms), and the clips to train on, score and watch. Goes out: the fitted
model and one record an epoch. The loop knows nothing of folds or folders. Of a clip of several windows an epoch draws
one, and a prediction is the mean over those that lie side by side.

All random numbers of an epoch depend only on (seed, epoch), so a run resumed from a checkpoint ends with the same bits.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.errors import RunError
from earsight.evaluation.metrics import accuracy, log_loss
from earsight.evaluation.multilabel import binary_log_loss, mean_average_precision
from earsight.features.augment import draw
from earsight.models.stages import training_mode
from earsight.recipe import Recipe, Training
from earsight.training.batches import Batch, Batches, Data, batches_of
from earsight.training.checkpoint import State, load_checkpoint, save_checkpoint
from earsight.training.device import make_recorder, progress_seconds, step_kind
from earsight.training.optim import class_weights, copy_state, ema_decay, learning_rate, make_optimizer
from earsight.training.step import Step
from earsight.training.teachers import TaughtBatches, Teacher

OnStep = Callable[[int, int, float], None]
CHECKPOINT_SECONDS = 5.0
"""Least seconds between checkpoints: a kill costs at most this much work, or one epoch if that is longer."""
CHECKPOINT_COST = 0.25
"""Seconds that one checkpoint may take; slower ones (a large network on a fast GPU) are written less often."""


@dataclass(frozen=True)
class Fitted:
    """Result of `fit`: the reported epoch, its state, and one record an epoch."""

    epoch: int
    state: State
    history: list[dict[str, Any]]


def fit(
    model: nn.Module,
    data: Data,
    clips: NDArray[np.int64],
    *,
    recipe: Recipe,
    seed: int,
    score_rows: NDArray[np.int64] | None = None,
    pick_epoch: bool = True,
    watch_rows: NDArray[np.int64] | None = None,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    teacher: Teacher | None = None,
) -> Fitted:
    """Fit a model, on the data's device, to some clips: changed in place, it ends with the state that is returned.

    ``seed`` is of the batch order and the augmentation, unless ``training.seed`` says; the caller initialises the
    model. Each epoch's record has the accuracy on ``score_rows``, which picks the epoch if ``pick_epoch``; else the
    last one is taken. ``watch_rows`` decide nothing: a record's ``held_out`` has their ``accuracy`` and the positions
    of ``wrong`` ones. ``teacher`` is what the model learns from beside the labels, in the shares of
    ``recipe.distillation``.

    ``checkpoint`` is the file to go on from, and to write to. ``on_step`` is called with (steps done, steps in all,
    loss) as work goes on, ``on_epoch`` with all records so far after each epoch. RunError if an epoch's mean loss, or a
    score row's logit, is not finite.
    """
    training = recipe.training
    seed = seed if training.seed == "auto" else training.seed
    kind = step_kind(training.compile, data.device)
    optimizer = make_optimizer(model, training, recordable=kind != "eager")
    course = _Course(ema=copy_state(model) if training.ema else None)
    # The checkpoint of another fold would have seen what this one holds out.
    of = f"seed {seed}, clips {zlib.crc32(clips.tobytes()):08x}"
    resumed = load_checkpoint(checkpoint, model=model, optimizer=optimizer, of=of) if checkpoint else None
    if resumed:
        course = _Course.from_checkpoint(*resumed)
    batches: Batches = batches_of(data, smoothing=training.label_smoothing)
    if teacher is not None:
        batches = TaughtBatches(batches, teacher)
    weights = class_weights(data.labels[clips], classes=data.classes, kind=training.class_weights)
    step = Step(
        model,
        optimizer,
        assemble=batches.assemble,
        training=training,
        device=data.device,
        weights=None if weights is None else weights.to(data.device),
        ema=course.ema,
        recorder=make_recorder(kind, data.device),
        fuse=kind == "fused",
        several=data.several,
        distillation=recipe.distillation,
    )
    saved, wait = time.monotonic(), CHECKPOINT_SECONDS
    for epoch in range(len(course.history), training.epochs):
        started = time.monotonic()
        record: dict[str, Any] = {"epoch": epoch + 1}
        training_mode(model)
        rows = data.cut.drawn(seed=seed, epoch=epoch)
        pool = None if data.background is None else rows[clips[data.background[clips]]]
        record |= _train_epoch(step, batches, clips, rows, recipe, seed, epoch, on_step, pool)
        if score_rows is not None:
            record |= _score(model, data, score_rows, recipe=recipe, course=course, epoch=epoch + 1, pick=pick_epoch)
        if watch_rows is not None:
            record["held_out"] = _watch(model, data, watch_rows, course=course)
        record["seconds"] = round(time.monotonic() - started, 3)
        course.history.append(record)
        if on_epoch:
            on_epoch(course.history)
        if checkpoint and (time.monotonic() - saved > wait or epoch + 1 == training.epochs):
            extra, about = course.to_checkpoint()
            began = time.monotonic()
            save_checkpoint(checkpoint, model=model, optimizer=optimizer, extra=extra, record=about, of=of)
            saved = time.monotonic()
            wait = CHECKPOINT_SECONDS * max(1.0, (saved - began) / CHECKPOINT_COST)
    chosen = course.best or course.ema
    if chosen is not None:
        model.load_state_dict(chosen)
    return Fitted(course.best_epoch if course.best else training.epochs, copy_state(model), course.history)


@dataclass
class _Course:
    """State of the training besides the model and its optimiser."""

    ema: State | None = None
    best: State | None = None
    best_epoch: int = -1
    best_score: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_checkpoint(self) -> tuple[dict[str, State | None], dict[str, Any]]:
        record = {"history": self.history, "best_epoch": self.best_epoch, "best_score": self.best_score}
        return {"mean": self.ema, "best": self.best}, record

    @classmethod
    def from_checkpoint(cls, extra: dict[str, State], record: dict[str, Any]) -> _Course:
        return cls(ema=extra.get("mean"), best=extra.get("best"), **record)


def _train_epoch(
    step: Step,
    batches: Batches,
    clips: NDArray[np.int64],
    row_of: NDArray[np.int64],
    recipe: Recipe,
    seed: int,
    epoch: int,
    on_step: OnStep | None,
    pool: NDArray[np.int64] | None,
) -> dict[str, Any]:
    """One pass over the clips (``augment.copies`` of each), by their drawn rows: its mean loss and its last rate.

    ``pool`` are the rows of background that may be added.
    """
    training, copies = recipe.training, recipe.augment.copies
    count = max(1, round(len(clips) * copies / training.batch_size))
    generator = np.random.default_rng([seed, epoch])
    torch.manual_seed(int(generator.integers(2**62)))  # dropout draws from torch's global generator
    order = np.array_split(generator.permutation(len(clips) * copies), count)

    def drawn() -> Iterator[Batch]:
        for places in order:
            kept = places < len(clips) if copies > 1 else None  # the first of several copies stays as it is
            draws = draw(recipe.augment, batch=len(places), generator=generator, kept=kept, backgrounds=pool)
            yield row_of[clips[places % len(clips)]], draws

    losses: list[Tensor] = []
    rate, reported = 0.0, time.monotonic()
    for batch in batches.epoch(drawn()):
        done = epoch * count + len(losses)
        rate = learning_rate(training, step=done, steps_per_epoch=count)
        loss = step(*batch, rate=rate, ema_decay=ema_decay(training.ema, step=done))
        losses.append(loss.clone())
        if on_step and (len(losses) == count or time.monotonic() - reported >= progress_seconds(loss.device)):
            on_step(done + 1, count * training.epochs, losses[-1].item())
            reported = time.monotonic()
    mean_loss = float(np.mean(torch.stack(losses).tolist()))
    if not np.isfinite(mean_loss):
        raise _diverged(epoch + 1, "the loss is no longer finite", training)
    return {"loss": mean_loss, "learning_rate": rate}


def _score(
    model: nn.Module, data: Data, rows: NDArray[np.int64], *, recipe: Recipe, course: _Course, epoch: int, pick: bool
) -> dict[str, float]:
    """Accuracy and log loss of the epoch on the score rows; the best state is kept if they pick the epoch.

    Of several labels these are mean average precision and binary log loss.
    """
    with _reported_weights(model, course):
        logits = predict(model, data, rows)
        if not np.isfinite(logits).all():
            raise _diverged(epoch, "a logit is not finite", recipe.training)
        labels = data.labels[rows]
        score = mean_average_precision(labels, logits) if data.several else accuracy(labels, logits.argmax(axis=1))
        if pick and score > course.best_score:
            course.best_epoch, course.best_score, course.best = epoch, score, copy_state(model)
    if data.several:
        return {"average_precision": score, "log_loss": binary_log_loss(labels, logits)}
    return {"accuracy": score, "log_loss": log_loss(logits, labels)}


def _watch(model: nn.Module, data: Data, rows: NDArray[np.int64], *, course: _Course) -> dict[str, Any]:
    """Accuracy of the epoch's weights on the watched rows, and the positions of the wrong ones.

    Of several labels it is the mean average precision alone.
    """
    with _reported_weights(model, course):
        if data.several:
            return {"average_precision": mean_average_precision(data.labels[rows], predict(model, data, rows))}
        wrong = np.flatnonzero(predict(model, data, rows).argmax(axis=1) != data.labels[rows])
    return {"accuracy": 1 - len(wrong) / len(rows), "wrong": wrong.tolist()}


@contextmanager
def _reported_weights(model: nn.Module, course: _Course) -> Iterator[None]:
    """The model with the weights that the epoch would report: the EMA if there is one."""
    if course.ema is None:
        yield
        return
    kept = copy_state(model)
    model.load_state_dict(course.ema)
    yield
    model.load_state_dict(kept)


def _diverged(epoch: int, found: str, training: Training) -> RunError:
    return RunError(
        f"epoch {epoch}: {found}, so the training diverged at learning rate {training.learning_rate:g}; "
        f"lower it with --set training.learning_rate={training.learning_rate / 10:g}"
    )


def predict(model: nn.Module, data: Data, clips: NDArray[np.int64], *, batch_size: int = 32) -> NDArray[np.float32]:
    """Logits (clips, classes) float32 of spectrograms without augmentation, computed as serving does.

    Those of a clip of several windows are the log of the mean of their probabilities.
    """
    model.eval()
    rows, out = data.cut.rows_of(clips), []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            out.append(model(data.spectrograms(rows[start : start + batch_size])).float().cpu())
    logits = torch.cat(out).numpy() if out else np.zeros((0, data.classes), dtype=np.float32)
    return data.cut.log_means(clips, logits, several=data.several)
