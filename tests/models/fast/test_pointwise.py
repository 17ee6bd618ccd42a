"""1 x 1 convolutions as matrix products, against PyTorch's own in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from earsight.models.fast.pointwise import PointwiseConv2d, use_fast_pointwise


def _pair(stride: int = 1) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(64, 96, 1, stride=stride, bias=False))
    fast = copy.deepcopy(plain)
    assert use_fast_pointwise(fast) == 1
    assert use_fast_pointwise(fast) == 0
    assert list(fast.state_dict()) == list(plain.state_dict())
    return plain, fast


def _step(model: nn.Module, x: Tensor, *, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        out = model(x.bfloat16() if half else x)
    (out.double() * torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape)).sum().backward()
    return out.detach(), x.grad, model[0].weight.grad


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(1, 1), (6, 5), (7, 8)])
def test_values_and_gradients_are_those_of_torch(stride, layout, size):
    plain, fast = _pair(stride)
    x = torch.randn(3, 64, *size).bfloat16().float().contiguous(memory_format=layout)
    for found, expected in zip(_step(fast, x, half=True), _step(plain.double(), x.double(), half=False), strict=True):
        assert found.shape == expected.shape
        assert (found.double() - expected).norm() < 8e-3 * expected.norm()


def test_it_is_taken_where_a_step_computes_in_bfloat16_and_nowhere_else(monkeypatch):
    _, fast = _pair()
    taken = []
    monkeypatch.setattr(
        "earsight.models.fast.pointwise.multiply", lambda x, w: taken.append(1) or nn.functional.conv2d(x, w)
    )
    x = torch.randn(2, 64, 4, 4)
    fast(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast(x.bfloat16())
        assert len(taken) == 1
        with torch.no_grad():
            fast(x.bfloat16())
        fast.eval()(x.bfloat16())
    assert len(taken) == 1


def test_a_frozen_kernel_gets_no_gradient():
    _, fast = _pair()
    fast.requires_grad_(False)
    x = torch.randn(2, 64, 4, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast(x.bfloat16()).sum().backward()
    assert fast[0].weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 1),  # a bias
        nn.Conv2d(64, 64, 1, groups=2, bias=False),
        nn.Conv2d(64, 64, 1, padding=1, bias=False),
        nn.Conv2d(32, 64, 1, bias=False),
        nn.Conv2d(64, 80, 1, bias=False),
        PointwiseConv2d(64, 64, 1, bias=False),
    ],
)
def test_what_does_not_fit_is_left_alone(module):
    kind = type(module)
    assert use_fast_pointwise(nn.Sequential(module)) == 0
    assert type(module) is kind
