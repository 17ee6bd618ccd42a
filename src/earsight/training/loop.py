"""The only training loop.

Comes in: a model and `Data`, the labelled pictures by row. Goes out: the fitted model and one record an epoch. The loop
knows nothing of folds or folders: which rows train and which rows score an epoch is said by its caller.

All randomness of an epoch comes from (seed, epoch) alone, so an interrupted run goes on from its last checkpoint to the
same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.errors import RunError
from earsight.evaluation.metrics import accuracy, log_loss
from earsight.features.augment import Draws, apply, draw, mix_targets, one_hot
from earsight.models.transfer import training_mode
from earsight.recipe import Augment, Recipe, Training
from earsight.training.checkpoint import State, load_checkpoint, save_checkpoint
from earsight.training.machine import training_dtype
from earsight.training.optimization import (
    class_weights,
    learning_rate,
    make_optimizer,
    make_running_mean,
    update_running_mean,
)

CHECKPOINT_SECONDS = 5.0
"""Epochs shorter than this share a checkpoint; a kill costs at most this much work, or one epoch."""


class Source(Protocol):
    """Where pictures come from: the store, or the waveform backend."""

    stretches: bool
    """Whether `read` has stretched and rolled the sound by the draws already."""

    @property
    def silence(self) -> Tensor:
        """What each row of its pictures reads in digital silence, shape (bands,)."""

    def read(self, rows: NDArray[np.int64], *, draws: Draws | None) -> Tensor:
        """Pictures (batch, windows, bands, frames) of some rows, at the pitch that the draws say."""


@dataclass(frozen=True)
class Data:
    """Labelled, normalised pictures.

    Attributes
    ----------
    source : Source
    labels : ndarray of int64, shape (rows,)
        Of every row of the source, used or not.
    classes : int
    mean, std : Tensor, shape (windows,)
        Normalisation of each channel.
    device : torch.device
        Where pictures go before they are changed.
    """

    source: Source
    labels: NDArray[np.int64]
    classes: int
    mean: Tensor
    std: Tensor
    device: torch.device

    def pictures(self, rows: NDArray[np.int64], *, draws: Draws | None = None) -> Tensor:
        """Network input (batch, 3, bands, frames), channels-last, changed by the draws where there are any."""
        raw = self.source.read(rows, draws=draws).to(self.device, non_blocking=True)
        mean, std = self.mean.to(self.device)[:, None], self.std.to(self.device)[:, None]
        out = raw.sub_(mean[..., None]).div_(std[..., None])
        if draws is not None:
            silence = (self.source.silence.to(self.device) - mean) / std
            out = apply(out, draws, silence=silence, stretch=not self.source.stretches)
        return out.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Fitted:
    """What `fit` leaves: the epoch reported, its state, and one record an epoch."""

    epoch: int
    state: State
    history: list[dict[str, Any]]


def fit(
    model: nn.Module,
    data: Data,
    rows: NDArray[np.int64],
    *,
    recipe: Recipe,
    seed: int,
    score_rows: NDArray[np.int64] | None = None,
    pick_epoch: bool = True,
    watch_rows: NDArray[np.int64] | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Fitted:
    """Fit a model to some rows.

    Parameters
    ----------
    model : nn.Module
        On the data's device; changed in place.
    data : Data
    rows : ndarray of int64
        The training rows.
    recipe : Recipe
    seed : int
        Of the batch order and the augmentation; the model's own start is the caller's.
    score_rows : ndarray of int64, optional
        Rows whose accuracy picks the epoch; without them the last epoch is taken.
    pick_epoch : bool
        False takes the last epoch all the same: the score rows are only told of.
    watch_rows : ndarray of int64, optional
        Rows whose accuracy each epoch's record tells, and which decide nothing: ``held_out`` holds their ``accuracy``
        and the positions of those that are ``wrong``.
    checkpoint : Path, optional
        File to go on from, and to write to.
    on_step : callable, optional
        Called with (steps done, steps in all, loss) as work goes on.
    on_epoch : callable, optional
        Called with all records so far after each epoch.

    Returns
    -------
    Fitted
        Its state is also loaded into ``model``.

    Raises
    ------
    RunError
        If an epoch's mean loss, or a score row's logit, is not finite.
    """
    training = recipe.training
    optimizer = make_optimizer(model, training)
    course = _Course(mean=make_running_mean(model) if training.ema else None)
    resumed = load_checkpoint(checkpoint, model=model, optimizer=optimizer) if checkpoint else None
    if resumed:
        course = _Course.from_checkpoint(*resumed)
    saved = time.monotonic()
    for epoch in range(len(course.history), training.epochs):
        started = time.monotonic()
        record: dict[str, Any] = {"epoch": epoch + 1}
        record |= _train_epoch(
            model,
            data,
            rows,
            recipe=recipe,
            seed=seed,
            epoch=epoch,
            optimizer=optimizer,
            course=course,
            on_step=on_step,
        )
        if score_rows is not None:
            record |= _score(model, data, score_rows, recipe=recipe, course=course, epoch=epoch + 1, pick=pick_epoch)
        if watch_rows is not None:
            record["held_out"] = _watch(model, data, watch_rows, course=course)
        record["seconds"] = round(time.monotonic() - started, 3)
        course.history.append(record)
        if on_epoch:
            on_epoch(course.history)
        if checkpoint and (time.monotonic() - saved > CHECKPOINT_SECONDS or epoch + 1 == training.epochs):
            extra, about = course.to_checkpoint()
            save_checkpoint(checkpoint, model=model, optimizer=optimizer, extra=extra, record=about)
            saved = time.monotonic()
    chosen = course.best or course.mean
    if chosen is not None:
        model.load_state_dict(chosen)
    return Fitted(
        epoch=course.best_epoch if course.best else training.epochs,
        state=make_running_mean(model),
        history=course.history,
    )


@dataclass
class _Course:
    """What grows from epoch to epoch besides the model and its optimiser."""

    mean: State | None = None
    best: State | None = None
    best_epoch: int = -1
    best_score: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_checkpoint(self) -> tuple[dict[str, State | None], dict[str, Any]]:
        record = {"history": self.history, "best_epoch": self.best_epoch, "best_score": self.best_score}
        return {"mean": self.mean, "best": self.best}, record

    @classmethod
    def from_checkpoint(cls, extra: dict[str, State], record: dict[str, Any]) -> _Course:
        return cls(mean=extra.get("mean"), best=extra.get("best"), **record)


def _train_epoch(
    model: nn.Module,
    data: Data,
    rows: NDArray[np.int64],
    *,
    recipe: Recipe,
    seed: int,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    course: _Course,
    on_step: Callable[[int, int, float], None] | None,
) -> dict[str, Any]:
    """One pass over the rows: its mean loss, and the learning rate of its last step."""
    training, device = recipe.training, data.device
    dtype = training_dtype(training.precision, device)
    weights = class_weights(data.labels[rows], classes=data.classes, kind=training.class_weights)
    weights = None if weights is None else weights.to(device)
    batches = max(1, round(len(rows) / training.batch_size))
    generator = np.random.default_rng([seed, epoch])
    torch.manual_seed(int(generator.integers(2**62)))  # dropout has no generator of its own
    training_mode(model)
    losses: list[float] = []
    rate = 0.0
    for batch in np.array_split(generator.permutation(rows), batches):
        step = epoch * batches + len(losses)
        rate = learning_rate(training, step=step, steps_per_epoch=batches)
        for group in optimizer.param_groups:
            group["lr"] = rate
        draws = draw(recipe.augment, batch=len(batch), generator=generator)
        targets = one_hot(data.labels[batch], classes=data.classes, smoothing=training.label_smoothing).to(device)
        pictures = data.pictures(batch, draws=draws)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(pictures)
        loss = nn.functional.cross_entropy(logits.float(), mix_targets(targets, draws), weight=weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if course.mean is not None:
            update_running_mean(course.mean, model, decay=training.ema, step=step)
        losses.append(loss.item())
        if on_step:
            on_step(step + 1, batches * training.epochs, losses[-1])
    mean_loss = float(np.mean(losses))
    if not np.isfinite(mean_loss):
        raise _diverged(epoch + 1, "the loss is no longer finite", training)
    return {"loss": mean_loss, "learning_rate": rate}


def _score(
    model: nn.Module,
    data: Data,
    rows: NDArray[np.int64],
    *,
    recipe: Recipe,
    course: _Course,
    epoch: int,
    pick: bool,
) -> dict[str, float]:
    """Accuracy and log loss of the epoch on rows that did not train it; to pick from, the best state is kept."""
    with _reported_weights(model, course):
        logits = predict(model, data, rows)
        if not np.isfinite(logits).all():
            raise _diverged(epoch, "a logit is not finite", recipe.training)
        score = accuracy(data.labels[rows], logits.argmax(axis=1))
        if pick and score > course.best_score:
            course.best_epoch, course.best_score, course.best = epoch, score, make_running_mean(model)
    return {"accuracy": score, "log_loss": log_loss(logits, data.labels[rows])}


def _watch(model: nn.Module, data: Data, rows: NDArray[np.int64], *, course: _Course) -> dict[str, Any]:
    """What the epoch's weights get wrong on rows that decide nothing."""
    with _reported_weights(model, course):
        wrong = np.flatnonzero(predict(model, data, rows).argmax(axis=1) != data.labels[rows])
    return {"accuracy": 1 - len(wrong) / len(rows), "wrong": wrong.tolist()}


@contextmanager
def _reported_weights(model: nn.Module, course: _Course) -> Iterator[None]:
    """The model with the weights that the epoch would report: the running mean, where there is one."""
    if course.mean is None:
        yield
        return
    kept = make_running_mean(model)
    model.load_state_dict(course.mean)
    yield
    model.load_state_dict(kept)


def _diverged(epoch: int, found: str, training: Training) -> RunError:
    return RunError(
        f"epoch {epoch}: {found}, so the training diverged at learning rate {training.learning_rate:g}; "
        f"lower it with --set training.learning_rate={training.learning_rate / 10:g}"
    )


def predict(model: nn.Module, data: Data, rows: NDArray[np.int64], *, batch_size: int = 32) -> NDArray[np.float32]:
    """Logits (rows, classes) float32 of unchanged pictures, in float32: the same numbers that serving computes."""
    model.eval()
    out = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            out.append(model(data.pictures(rows[start : start + batch_size])).float().cpu())
    return torch.cat(out).numpy() if out else np.zeros((0, data.classes), dtype=np.float32)


def no_augmentation() -> Augment:
    """An `Augment` section that changes nothing."""
    return Augment(probability=0.0, mixup=0.0, pitch_semitones=0, time_masks=0, band_masks=0, shift=False)
