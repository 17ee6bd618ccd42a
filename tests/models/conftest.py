"""What several tests of networks in fast forms ask."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn


def _distance(found: Tensor, expected: Tensor) -> float:
    expected = expected.detach().double()
    scale = expected.norm().item()
    difference = (found.detach().double() - expected).norm().item()
    return difference / scale if scale else difference


def _step(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return out.detach(), {key: value.grad.clone() for key, value in model.named_parameters()}


def _check(plain: nn.Module, fast: nn.Module) -> None:
    reference, twin = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    near = False
    for _ in range(4):
        x = torch.randn(6, 3, 48, 52).contiguous(memory_format=torch.channels_last)
        expected, exact = _step(reference, x.double())
        values, slow = _step(twin, x)
        found, gradients = _step(fast, x)
        assert _distance(found, expected) < 4 * _distance(values, expected) + 1e-5
        # As near to float64 as PyTorch's own float32, within a small factor, where no unit lies so near to an
        # activation's bend that rounding decides its side. That happens in some batches.
        near = all(_distance(gradients[k], exact[k]) < 4 * _distance(slow[k], exact[k]) + 1e-4 for k in exact)
        if near:
            break
    assert near
    for key, value in fast.named_buffers():
        torch.testing.assert_close(value, reference.get_buffer(key).to(value.dtype), rtol=1e-4, atol=1e-5)
    # In eval mode nothing but PyTorch's own kernels computes.
    plain.load_state_dict(fast.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fast.eval()(x), plain.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.fixture
def check_training():
    """A check that ``(plain, fast)``, equal networks in training mode, train to the same values to rounding."""
    return _check
