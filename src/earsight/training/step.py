"""One training step, written so that a GPU can record it once and replay it.

Comes in: a model, its optimiser and, at each call, a batch as tensors. Goes out: weights changed in place, and the loss
as a tensor on the device. Whatever changes from step to step is a tensor at a fixed address, and Python reads no value,
so that the same function runs directly on a CPU and as a recorded CUDA graph on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from earsight.recipe import Distillation, Training
from earsight.training.checkpoint import State
from earsight.training.device import training_dtype
from earsight.training.optim import update_ema

WARM_UP_STEPS = 3
"""Steps before a recording, in which libraries choose kernels and allocate workspaces; they are undone afterwards."""

Assemble = Callable[..., tuple[Tensor, ...]]
"""From a batch's tensors to network input (batch, 3, bands, frames) and label distributions (batch, classes); where
there are teachers also what they say (batch, classes), as `distillation_loss` takes it."""


class Recorder(Protocol):
    """Records a function so that it can be replayed, as a CUDA graph (`earsight.training.device`)."""

    def warm_up(self, body: Callable[[], None], *, times: int) -> None:
        """Run the body ``times`` times where it will be recorded; the random generators end unchanged."""

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Record the body without running it; the returned function replays it on the same tensors."""


def binary_loss(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of logits (batch, classes) where the targets are known (not NaN).

    ``weights`` (classes,) multiply the loss of positives.
    """
    known = ~targets.isnan()
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, targets.nan_to_num(), pos_weight=weights, reduction="none"
    )
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)


def distillation_loss(logits: Tensor, taught: Tensor, *, temperature: float, several: bool = False) -> Tensor:
    """Kullback-Leibler divergence of a student from its teachers, softened by a temperature, times its square.

    G. Hinton, O. Vinyals and J. Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531): the
    square keeps the size of the gradients, whatever the temperature. ``logits`` (batch, classes) are the student's, not
    yet softened; ``taught`` (batch, classes) the logarithms of the teachers' softened probabilities, or, where classes
    may sound together (``several``), their log odds. The mean over clips; of several labels over clips and classes.
    """
    student = logits / temperature
    if several:
        cross_entropy = nn.functional.binary_cross_entropy_with_logits
        divergence = cross_entropy(student, taught.sigmoid()) - cross_entropy(taught, taught.sigmoid())
    else:
        logs = (student.log_softmax(dim=1), taught.log_softmax(dim=1))
        divergence = nn.functional.kl_div(*logs, log_target=True, reduction="batchmean")
    return temperature**2 * divergence


class Step:
    """Forward, backward, optimiser and EMA of weights for one batch.

    Model and batches are on ``device``; ``weights`` (classes,) are those of the classes; ``ema`` is moved in place.
    With a ``recorder``, and an optimiser that is recordable (`make_optimizer`), steps are recorded and replayed; with
    ``fuse`` torch first compiles the forward and backward pass into fewer kernels. With ``several`` labels the loss is
    the binary cross-entropy of each class by itself, the mean over what is known, and ``weights`` are of the positives.
    Where ``assemble`` gives what teachers say, ``distillation`` is their share in the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        assemble: Assemble,
        training: Training,
        device: torch.device,
        weights: Tensor | None = None,
        ema: State | None = None,
        recorder: Recorder | None = None,
        fuse: bool = False,
        several: bool = False,
        distillation: Distillation | None = None,
    ) -> None:
        self._several, self._distillation = several, distillation or Distillation()
        self._model, self._optimizer, self._assemble = model, optimizer, assemble
        self._device, self._weights, self._ema, self._recorder = device, weights, ema, recorder
        self._dtype = training_dtype(training.precision, device)
        self._loss = torch.zeros((), device=device)
        self._ema_weight = torch.zeros((), device=device)
        self._recorded: dict[tuple[torch.Size, ...], tuple[tuple[Tensor, ...], Callable[[], None]]] = {}
        self._forward = torch.compile(self._losses, dynamic=False) if fuse else self._losses

    def __call__(self, *batch: Tensor, rate: float, ema_decay: float = 1.0) -> Tensor:
        """Take one step at a learning rate, ``ema_decay`` of the EMA staying; returns the batch's loss ().

        The batch is what ``assemble`` takes, on the device; the next step writes over the loss.
        """
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._ema_weight.fill_(1 - ema_decay)
        if self._recorder is None:
            self._run(*batch)
        else:
            self._replay(self._recorder, batch)
        return self._loss

    def _run(self, *batch: Tensor) -> None:
        loss = self._forward(*self._assemble(*batch))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._ema is not None:
            update_ema(self._ema, self._model, weight=self._ema_weight)
        self._loss.copy_(loss.detach())

    def _losses(self, spectrograms: Tensor, targets: Tensor, taught: Tensor | None = None) -> Tensor:
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            logits = self._model(spectrograms)
        logits, several = logits.float(), self._several
        if several:
            loss = binary_loss(logits, targets, weights=self._weights)
        else:
            loss = nn.functional.cross_entropy(logits, targets, weight=self._weights)
        if taught is None:
            return loss
        temperature, weight = self._distillation.temperature, self._distillation.weight
        soft = distillation_loss(logits, taught, temperature=temperature, several=several)
        return torch.lerp(loss, soft, weight)

    def _replay(self, recorder: Recorder, batch: tuple[Tensor, ...]) -> None:
        shapes = tuple(part.shape for part in batch)
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(recorder, batch)
        slots, replay = self._recorded[shapes]
        for slot, part in zip(slots, batch, strict=True):
            slot.copy_(part, non_blocking=True)
        replay()

    def _record(self, recorder: Recorder, batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
        """Record the step for batches of these shapes; weights and optimiser end unchanged."""
        slots = tuple(part.clone() for part in batch)
        state = [*self._model.state_dict().values(), *(self._ema or {}).values()]
        before = self._optimizer_state()
        kept = [value.clone() for value in [*state, *before]]
        recorder.warm_up(lambda: self._run(*slots), times=WARM_UP_STEPS)
        with torch.no_grad():
            # The optimiser's state tensors stay, since the recording holds their addresses; their values are reset.
            known = {id(value) for value in before}
            for value in self._optimizer_state():
                if id(value) not in known:
                    value.zero_()
            for value, first in zip([*state, *before], kept, strict=True):
                value.copy_(first)
        return slots, recorder.record(lambda: self._run(*slots))

    def _optimizer_state(self) -> list[Tensor]:
        states = self._optimizer.state.values()
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]
