"""Optimisers and schedules against torch's own, closed forms and bounds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from earsight.recipe import Training
from earsight.training.optim import (
    ONE_CYCLE_START,
    class_weights,
    copy_state,
    ema_decay,
    learning_rate,
    make_optimizer,
    update_ema,
)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def rates(training, *, per_epoch):
    return [
        learning_rate(training, step=step, steps_per_epoch=per_epoch) for step in range(training.epochs * per_epoch)
    ]


def torch_rates(make, *, rate, steps, every=1):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    schedule, found = make(optimizer), []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            schedule.step()
    return found


def test_steps_are_torchs():
    training = Training(schedule="step", epochs=70, learning_rate=1e-4, step_epochs=(30, 60), step_factor=0.1)
    by_step = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 30, 0.1), rate=1e-4, steps=140, every=2)
    np.testing.assert_allclose(rates(training, per_epoch=2), by_step, rtol=1e-12)
    uneven = training.model_copy(update={"step_epochs": (3, 5, 20), "step_factor": 0.5})
    milestones = torch_rates(
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 5, 20], 0.5), rate=1e-4, steps=140, every=2
    )
    np.testing.assert_allclose(rates(uneven, per_epoch=2), milestones, rtol=1e-12)


def test_cosine_without_warmup_is_torchs():
    training = Training(schedule="cosine", warmup=0.0, epochs=5, learning_rate=0.3)
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 35), rate=0.3, steps=35)
    np.testing.assert_allclose(rates(training, per_epoch=7), theirs, atol=1e-12)


def test_cosine_rises_linearly():
    training = Training(schedule="cosine", warmup=0.5, epochs=2, learning_rate=1.0)
    np.testing.assert_allclose(rates(training, per_epoch=4)[:5], [0.25, 0.5, 0.75, 1.0, 1.0])


def test_onecycle_falls_and_rises_as_torchs():
    training = Training(schedule="onecycle", warmup=0.25, epochs=10, learning_rate=0.01)
    ours = rates(training, per_epoch=10)
    # torch's stands at its start for the first step and at its end for the last; ours is a step ahead while it rises.
    theirs = torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 0.01, total_steps=101, pct_start=26 / 101, div_factor=1 / ONE_CYCLE_START, final_div_factor=1e12
        ),
        rate=0.01,
        steps=101,
    )
    np.testing.assert_allclose(ours[:25], theirs[1:26], rtol=1e-9)
    np.testing.assert_allclose(ours[25:], theirs[25:100], rtol=1e-9)


def test_constant_stays():
    assert set(rates(Training(schedule="constant", epochs=3, learning_rate=0.2), per_epoch=5)) == {0.2}


@settings(deadline=None)
@given(
    schedule=st.sampled_from(["onecycle", "cosine"]),
    warmup=st.floats(0, 0.9),
    epochs=st.integers(1, 30),
    per_epoch=st.integers(1, 20),
)
def test_warmups_rise_to_the_rate_and_fall_to_nothing(schedule, warmup, epochs, per_epoch):
    training = Training(schedule=schedule, warmup=warmup, epochs=epochs, learning_rate=0.5)
    found = np.array(rates(training, per_epoch=per_epoch))
    rising = round(warmup * len(found))
    assert (found > 0).all()
    assert found.max() <= 0.5 + 1e-12
    assert found[max(0, rising - 1)] == pytest.approx(0.5) or rising == len(found)
    assert (np.diff(found[:rising]) > 0).all()
    assert (np.diff(found[rising:]) < 0).all()
    left = len(found) - rising
    if left:
        assert found[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * (left - 1) / left)) / 2)


def test_adamw_leaves_biases_and_scales_undecayed():
    model = small()
    before = copy_state(model)
    optimizer = make_optimizer(model, Training(optimizer="adamw", learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
    assert {p.ndim for p in model.parameters()} >= {1, 2, 4}


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_adam_and_sgd_decay_all(name, kind):
    model = small()
    optimizer = make_optimizer(model, Training(optimizer=name, learning_rate=0.1, weight_decay=0.5, momentum=0.8))
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.5
    assert len(group["params"]) == len(list(model.parameters()))
    assert group.get("momentum", 0.8) == 0.8


def test_frozen_parameters_stay_out():
    model = small()
    model[0].weight.requires_grad_(False)
    held = {id(p) for group in make_optimizer(model, Training()).param_groups for p in group["params"]}
    assert id(model[0].weight) not in held
    assert len(held) == len(list(model.parameters())) - 1


@given(decay=st.floats(0.05, 0.999), steps=st.integers(1, 12))
@settings(deadline=None, max_examples=20)
def test_running_mean_has_its_closed_form(decay, steps):
    model = small()
    start = copy_state(model)
    mean = copy_state(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    model[1].num_batches_tracked += 7
    left = 1.0
    for step in range(steps):
        update_ema(mean, model, weight=torch.tensor(1 - ema_decay(decay, step=step)))
        left *= min(decay, (1 + step) / (10 + step))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(mean[name], left * start[name] + (1 - left) * parameter.detach(), atol=1e-5, rtol=0)
    assert mean["1.num_batches_tracked"] == 7
    assert mean["0.weight"].data_ptr() != model[0].weight.data_ptr()


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6))
@settings(deadline=None, max_examples=30)
def test_class_weights_are_balanced_and_of_mean_one(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    weights = class_weights(labels, classes=len(counts), kind="balanced").numpy()
    assert weights[labels].mean() == pytest.approx(1.0, rel=1e-5)
    theirs = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    np.testing.assert_allclose(weights, theirs, rtol=1e-6)
    assert class_weights(labels, classes=len(counts), kind="none") is None
