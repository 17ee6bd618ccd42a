"""Dense blocks that write into one map, against timm's own in float64."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.models.densenet import DenseBlock, DenseTransition
from torch import Tensor, nn

from earsight.models.fast import densenet
from earsight.models.fast.densenet import use_fast_dense
from earsight.models.fast.norm_act import use_fast_norms

# A few roundings; in bfloat16 also a unit or two that rounding puts on the other side of an activation's bend.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def _network(*, channels: int = 24, growth: int = 12) -> nn.Sequential:
    """Two dense blocks and what is between them."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    grown = channels + 3 * growth
    network = nn.Sequential(
        DenseBlock(3, channels, 2, growth), DenseTransition(grown, grown // 2), DenseBlock(2, grown // 2, 2, growth)
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean):
                value.data.copy_(torch.randn(value.shape, generator=generator) / 2 + 0.5)
    for layer in network[0].values():
        layer.norm1.momentum, layer.norm2.eps = 0.3, 1e-3  # each norm has settings of its own
    return network


def _fast(network: nn.Module) -> nn.Module:
    out = copy.deepcopy(network)
    use_fast_norms(out)
    assert use_fast_dense(out) == 3
    assert use_fast_dense(out) == 0
    return out


def _step(network: nn.Module, x: Tensor, *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """All that a step leaves: the output, the gradients, the running statistics."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = network(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).cos()
    (out.double() * weights).sum().backward()
    found = {"out": out.detach(), "x": x.grad} | dict(network.named_buffers())
    return found | {f"gradient of {key}": value.grad for key, value in network.named_parameters()}


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / (expected.double().norm() + 1e-30))


@pytest.mark.parametrize("growth", [12, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_gradients_and_statistics_are_those_of_timm(dtype, growth):
    plain = _network(growth=growth)
    fast, twin = _fast(plain), copy.deepcopy(plain)
    assert list(fast.state_dict()) == list(plain.state_dict())
    x = torch.randn(4, 24, 13, 10, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    exact = _step(plain.double(), x.double())
    slow, found = _step(twin, x, dtype=dtype), _step(fast, x, dtype=dtype)
    assert found.keys() == exact.keys()
    for key, value in exact.items():
        assert _distance(found[key], value) < 3 * _distance(slow[key], value) + TOLERANCE[dtype], key


def test_the_bits_are_the_same_again_and_the_values_with_one_thread():
    x = torch.randn(8, 24, 20, 20)
    threads = torch.get_num_threads()
    first, again = (_step(_fast(_network()), x, dtype=torch.bfloat16) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    try:
        torch.set_num_threads(1)
        single = _step(_fast(_network()), x)
    finally:
        torch.set_num_threads(threads)
    assert _distance(single["out"], _step(_fast(_network()), x)["out"]) < 1e-5


def test_parameters_that_are_frozen_get_no_gradient():
    fast = _fast(_network())
    for name, parameter in fast.named_parameters():
        parameter.requires_grad_("conv1" in name)
    fast(torch.randn(2, 24, 6, 6)).sum().backward()
    assert all((value.grad is not None) == ("conv1" in key) for key, value in fast.named_parameters())


@pytest.mark.parametrize("what", ["eval", "frozen norms", "a hook"])
def test_elsewhere_timm_computes(what, monkeypatch):
    plain = _network()
    fast = _fast(plain)
    seen = []
    for network in (plain, fast):
        if what == "eval":
            network.eval()
        elif what == "frozen norms":
            network[0].denselayer1.norm1.eval()
        elif what == "a hook":
            network[0].denselayer2.norm2.register_forward_hook(lambda *_: seen.append(0))
    if what == "eval":  # where not even one of the blocks may

        def refuse(*_):
            raise AssertionError("computed by kernels")

        monkeypatch.setattr(densenet, "run", refuse)
    x = torch.randn(3, 24, 9, 8)
    expected, found = _step(plain, x), _step(fast, x)
    assert all(_distance(found[key], expected[key]) < 1e-4 for key in expected)
    assert len(seen) == (2 if what == "a hook" else 0)


def test_a_whole_network_keeps_its_values():
    torch.manual_seed(0)
    plain = timm.create_model("densenet121", num_classes=5)
    fast = copy.deepcopy(plain)
    use_fast_norms(fast)
    assert use_fast_dense(fast) == 7
    x = torch.randn(4, 3, 48, 70)
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-3, atol=1e-4)
