"""Optimisers, learning-rate schedules, class weights and the EMA of weights, as a recipe names them.

Comes in: a `Training` section. Goes out: a torch optimiser, the learning rate of each step, and class weights. A step
is one batch; steps count from 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.recipe import Training

ONE_CYCLE_START = 1 / 25
"""Share of the learning rate at which warm-up begins (Smith and Topin 2018, arXiv 1708.07120; fastai's value)."""


def make_optimizer(model: nn.Module, training: Training, *, recordable: bool = False) -> torch.optim.Optimizer:
    """The optimiser over all parameters that take a gradient.

    AdamW does not decay biases and normalisation scales. Adam and SGD decay every parameter, through the gradient, as
    in the paper. On a CPU, and if ``recordable``, torch's fused kernels are used, which pass over memory once. A
    recordable optimiser's learning rates are tensors on the parameters' device, changed in place.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
    fused = recordable or all(parameter.device.type == "cpu" for parameter in parameters)
    kind = {"fused": fused, "foreach": not fused}
    if training.optimizer == "sgd":
        sgd = torch.optim.SGD(parameters, lr=rate, momentum=training.momentum, weight_decay=decay, **kind)
        return _with_rate_tensors(sgd) if recordable else sgd
    decayed = [p for p in parameters if p.ndim > 1 or training.optimizer != "adamw"]
    groups = [{"params": decayed, "weight_decay": decay}]
    if training.optimizer == "adamw":
        groups.append({"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0})
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
    optimizer = make(groups, lr=rate, capturable=recordable, **kind)
    return _with_rate_tensors(optimizer) if recordable else optimizer


def _with_rate_tensors(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
    return optimizer


def learning_rate(training: Training, *, step: int, steps_per_epoch: int) -> float:
    """Learning rate of one step.

    ``step`` multiplies by ``step_factor`` at each of ``step_epochs``; ``cosine`` rises linearly over ``warmup`` and
    falls along a half cosine to 0; ``onecycle`` rises along a half cosine from 1/25 and falls along one to 0.
    """
    if training.schedule == "constant":
        return training.learning_rate
    epoch = step // steps_per_epoch
    if training.schedule == "step":
        passed = sum(epoch >= boundary for boundary in training.step_epochs)
        return training.learning_rate * training.step_factor**passed
    total = training.epochs * steps_per_epoch
    rising = round(training.warmup * total)
    if step < rising:
        share = (step + 1) / rising
        if training.schedule == "onecycle":
            share = ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - math.cos(math.pi * share)) / 2
        return training.learning_rate * share
    share = (step - rising) / max(1, total - rising)
    return training.learning_rate * (1 + math.cos(math.pi * share)) / 2


MOST_WEIGHT = 100.0
"""Of the positives of a class of several labels: rarer ones would be learnt from single clips."""


def class_weights(labels: NDArray[Any], *, classes: int, kind: str) -> Tensor | None:
    """Weights (classes,) of mean 1 over the examples: inverse class frequency for ``balanced``, None for ``none``.

    Of several labels, as `earsight.training.batches.Data` has them, they are the negatives to a positive, from 1/100 to
    100, by which the positives' loss is multiplied.
    """
    if kind == "none":
        return None
    if labels.ndim == 2:
        positive, negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
        ratio = np.maximum(negative, 1) / np.maximum(positive, 1)
        return torch.from_numpy(np.clip(ratio, 1 / MOST_WEIGHT, MOST_WEIGHT)).float()
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * np.maximum(counts, 1))).float()


def start_at_prior(model: nn.Module, labels: NDArray[Any]) -> None:
    """Set the head's bias so that each class begins with the share of clips that it sounds in, in place.

    From 1/2 for all the first steps would teach rare classes' absence alone (T.-Y. Lin et al., "Focal Loss for Dense
    Object Detection", ICCV 2017, section 3.3). ``labels`` are those of the training clips: (clips, classes) of several
    labels. A head without a bias stays as it is.
    """
    find: Any = getattr(model, "get_classifier", None)
    head = find() if find else None
    if not isinstance(head, nn.Linear) or head.bias is None:
        return
    positive, known = (labels == 1).sum(axis=0), (~np.isnan(labels)).sum(axis=0)
    share = torch.from_numpy((positive + 0.5) / (known + 1)).float()
    with torch.no_grad():
        head.bias.copy_(torch.logit(share))


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights and statistics, with which `update_ema` starts."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def ema_decay(decay: float, *, step: int) -> float:
    """Decay of the EMA (exponential moving average) at a step: it grows to ``decay`` over the first steps."""
    return min(decay, (1 + step) / (10 + step))


def update_ema(ema: dict[str, Tensor], model: nn.Module, *, weight: Tensor) -> None:
    """Move the EMA of weights towards the model's by ``weight`` (), float32, in place."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            ema[name].lerp_(value.detach(), weight)
        else:
            ema[name].copy_(value)
