"""The first half of inverted residual blocks against PyTorch's own autograd in float64."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn

from earsight.models.fast import depthwise, inverted_residual
from earsight.models.fast.inverted_residual import use_fast_inverted_residuals
from earsight.models.fast.swap import use_fast_layers


@pytest.fixture(autouse=True)
def _whatever_the_size(monkeypatch):
    monkeypatch.setattr(inverted_residual, "_POSITIONS_PER_CHANNEL", 0)


def _distance(found: Tensor, expected: Tensor) -> float:
    expected = expected.detach().double()
    scale = expected.norm().item()
    difference = (found.detach().double() - expected).norm().item()
    return difference / scale if scale else difference


def _block(
    narrow: int, ratio: float, *, kernel: int = 3, stride: int = 1, pad: str = "same", act=nn.ReLU6
) -> nn.Module:
    block = InvertedResidual(
        narrow, narrow, dw_kernel_size=kernel, stride=stride, exp_ratio=ratio, act_layer=act, pad_type=pad
    )
    with torch.no_grad():
        block.bn1.weight.copy_(torch.rand(block.bn1.num_features) * 2 - 0.5)
        block.bn1.bias.copy_(torch.randn(block.bn1.num_features) + 1)
    return nn.Sequential(block).train()


def _half(block: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = block.conv_dw(block.bn1(block.conv_pw(x)))
    return out


def _fused(block: nn.Module):
    """The half block in the form under test, which must not fall back to another."""

    def half(x: Tensor) -> Tensor:
        out: Tensor = block._first_half(x)
        assert "_FirstHalf" in type(out.grad_fn).__name__
        return out

    return half


def _step(block: nn.Module, x: Tensor, grad: Tensor, half) -> dict[str, Tensor]:
    """Values and gradients of the half block."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = half(x)
    with torch.autocast("cpu", enabled=False):  # where training calls it
        out.backward(grad.to(out.dtype))
    found = {"out": out, "x": x.grad, "kernel": block.conv_pw.weight.grad, "depthwise": block.conv_dw.weight.grad}
    found |= {"weight": block.bn1.weight.grad, "bias": block.bn1.bias.grad}
    return found | {name: getattr(block.bn1, name).clone() for name in ("running_mean", "running_var")}


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 9),
    narrow=st.sampled_from([1, 3, 8, 16, 17, 24, 40]),
    ratio=st.sampled_from([1.0, 2.5, 6.0]),
    height=st.integers(2, 19),
    width=st.integers(2, 19),
    kernel=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2]),
    pad=st.sampled_from(["same", ""]),
    act=st.sampled_from([nn.Identity, nn.ReLU, nn.ReLU6]),
    offset=st.sampled_from([0.0, 3.0, -40.0]),
    shared=st.sampled_from([0.0, 5.0]),
    momentum=st.sampled_from([0.1, None]),
    seed=st.integers(0, 2**31),
)
def test_values_gradients_and_statistics_are_those_of_torch(
    batch, narrow, ratio, height, width, kernel, stride, pad, act, offset, shared, momentum, seed
):
    torch.manual_seed(seed)
    plain = _block(narrow, ratio, kernel=kernel, stride=stride, pad=pad, act=act)
    plain[0].bn1.momentum = momentum
    with torch.no_grad():
        plain[0].bn1.weight[0] = 0.0  # what no division by a weight would survive
    fast = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    use_fast_layers(fast)
    x = torch.randn(batch, narrow, height, width) + shared * torch.randn(batch, 1, height, width)
    x = (x + offset * torch.randn(1, narrow, 1, 1)).contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(plain).double()[0]
    wide = exact.conv_pw(x.double()).detach()
    before = nn.functional.batch_norm(wide, None, None, training=True, eps=exact.bn1.eps)
    before = before * exact.bn1.weight.detach()[:, None, None] + exact.bn1.bias.detach()[:, None, None]
    # What a small variance does to rounding, and it is small where channels share much and kernels take differences.
    scale = (1 + shared) * float(1 + 1 / (wide.var((0, 2, 3), correction=0).min() + 1e-3).sqrt())
    grad = torch.randn(_half(copy.deepcopy(exact), x.double()).shape) + 1
    expected = _step(exact, x.double(), grad, lambda x: _half(exact, x))
    found = _step(fast[0], x, grad, _fused(fast[0]))
    slow = copy.deepcopy(plain)[0]
    usual = _step(slow, x, grad, lambda x: _half(slow, x))
    assert fast[0].bn1.num_batches_tracked == 1
    # Where the activation bends, to rounding, either slope is right: as much of a gradient is not known.
    bends = {nn.Identity: (), nn.ReLU: (0.0,), nn.ReLU6: (0.0, 6.0)}[act]
    near = sum(int(((before - end).abs() < 1e-5 * scale).sum()) for end in bends)
    unknown = min(0.05, 10 * (near / before.numel()) ** 0.5)
    for name, value in expected.items():
        # As near as PyTorch's own float32, within a small factor.
        allowed = 8 * _distance(usual[name], value) + 2e-5 * scale
        allowed += 0.0 if name in ("out", "running_mean", "running_var") else unknown
        assert _distance(found[name], value) < allowed, name


@pytest.mark.parametrize(
    ("narrow", "ratio", "height", "width", "kernel", "stride"), [(16, 6.0, 32, 62, 3, 2), (40, 6.0, 16, 31, 5, 1)]
)
@pytest.mark.parametrize("tall", [1, 10**9])
def test_bfloat16_is_as_near_to_float64_as_with_the_norm_apart(
    monkeypatch, narrow, ratio, height, width, kernel, stride, tall
):
    monkeypatch.setattr(inverted_residual, "_TALL", tall)  # sums over positions at once, and in parts
    torch.manual_seed(0)
    plain = _block(narrow, ratio, kernel=kernel, stride=stride)
    fast = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    use_fast_layers(fast)
    apart = copy.deepcopy(fast)
    x = torch.randn(8, narrow, height, width) + 5 * torch.randn(1, narrow, 1, 1)
    x = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    exact = plain.double()[0]
    grad = torch.randn(_half(copy.deepcopy(exact), x.double()).shape) + 1
    expected = _step(exact, x.double(), grad, lambda x: _half(exact, x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _step(fast[0], x, grad, _fused(fast[0]))
        monkeypatch.setattr(inverted_residual, "_POSITIONS_PER_CHANNEL", 10**9)
        usual = _step(apart[0], x, grad, apart[0]._first_half)
    assert found["out"].dtype == torch.bfloat16
    assert found["kernel"].dtype == found["weight"].dtype == torch.float32
    for name, value in expected.items():
        assert _distance(found[name], value) < 1.6 * _distance(usual[name], value), name
    # Statistics come from float32, not from maps that are rounded.
    assert _distance(found["running_var"], expected["running_var"]) < 1e-6


def test_what_the_rounded_mean_lacks_is_made_up_for(monkeypatch):
    # In float32 nothing is lacking, so a centre is taken that lies far off.
    monkeypatch.setattr(
        inverted_residual, "_centred", lambda rows, mean: (rows - mean - 3, torch.full_like(mean, -3.0))
    )
    torch.manual_seed(0)
    plain = _block(8, 4.0, act=nn.Identity)
    fast = copy.deepcopy(plain)
    use_fast_layers(fast)
    x = torch.randn(3, 8, 11, 9) + torch.randn(1, 8, 1, 1)
    exact = plain.double()[0]
    grad = torch.randn(_half(copy.deepcopy(exact), x.double()).shape) + 1
    expected = _step(exact, x.double(), grad, lambda x: _half(exact, x))
    found = _step(fast[0], x, grad, _fused(fast[0]))
    for name, value in expected.items():
        assert _distance(found[name], value) < 1e-4, name


def test_covariance_is_that_of_the_columns():
    torch.manual_seed(0)
    for count, channels in (
        (256, 16),
        (777, 13),
        (2, 40),
        (4096, 112),
        (2000, 500),
        (900, inverted_residual._MOST_CHANNELS),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            rows = (torch.randn(count, channels) @ torch.randn(channels, channels) + 9).to(dtype)
            rows[: len(rows) // 10] = 100  # the first spectrograms' first rows may be like no others
            mean, covariance = inverted_residual._covariance(rows)
            exact = torch.cov(rows.double().t(), correction=0)
            torch.testing.assert_close(mean.double(), rows.double().mean(0), rtol=1e-6, atol=1e-6)
            assert _distance(covariance, exact) < 3e-6
            assert torch.equal(covariance, covariance.t())


@pytest.mark.parametrize("frozen", ["conv_pw.weight", "bn1.weight", "bn1.bias", "conv_dw.weight"])
def test_what_is_frozen_gets_no_gradient(frozen):
    model = _block(8, 4.0)
    use_fast_layers(model)
    model[0].get_parameter(frozen).requires_grad_(False)
    model(torch.randn(2, 8, 9, 9)).square().sum().backward()
    found = {name: parameter.grad is not None for name, parameter in model[0].named_parameters()}
    assert found == {name: name != frozen for name in found}


def test_a_second_backward_pass_is_refused():
    model = _block(8, 4.0)
    use_fast_layers(model)
    loss = model(torch.randn(2, 8, 9, 9)).square().sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second backward pass"):
        loss.backward()


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2)])
def test_the_bits_do_not_depend_on_threads(kernel, stride):
    torch.manual_seed(0)
    x = torch.randn(16, 40, 33, 21).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    sizes = -(-33 // stride), -(-21 // stride)
    grad = torch.randn(16, 40, *sizes).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    weight, shift = torch.randn(40, 1, kernel, kernel), torch.randn(48)
    pad = (kernel - stride) // 2
    job = depthwise.job_of(x, stride=stride, begin=(pad, pad), sizes=sizes)
    before = torch.get_num_threads()
    seen = []
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            out = x.clone(memory_format=torch.preserve_format)
            active = depthwise.with_activation(job, shift, (0.0, 6.0))
            sums = depthwise.gradient_behind_activation(out, grad, weight, active)
            seen.append((out, sums, *inverted_residual._covariance(x.permute(0, 2, 3, 1).reshape(-1, 40))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("case", ["no gradients", "norm in eval mode", "float64", "no running statistics"])
def test_what_kernels_cannot_do_is_as_before(case):
    torch.manual_seed(0)
    plain = _block(8, 4.0)
    if case == "no running statistics":
        norm = plain[0].bn1
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
        norm.num_batches_tracked = None
    if case == "float64":
        plain = plain.double()
    fast = copy.deepcopy(plain)
    use_fast_layers(fast)
    if case == "norm in eval mode":
        plain[0].bn1.eval()
        fast[0].bn1.eval()
    x = torch.randn(3, 8, 9, 7, dtype=torch.float64 if case == "float64" else torch.float32)
    with torch.set_grad_enabled(case != "no gradients"):
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-4, atol=1e-5)
    for key, value in plain.named_buffers():
        torch.testing.assert_close(fast.get_buffer(key), value, rtol=1e-4, atol=1e-5)


def test_second_derivatives_are_refused():
    block = _block(8, 4.0)[0]
    use_fast_layers(nn.Sequential(block))
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    (found,) = torch.autograd.grad(_fused(block)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        found.square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_a_norms_input_sums_to_zero_over_positions(dtype):
    torch.manual_seed(0)
    block = _block(16, 6.0, act=nn.Identity)[0]
    use_fast_layers(nn.Sequential(block))
    x = (torch.randn(8, 16, 32, 40) + 5 * torch.randn(1, 16, 1, 1)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = _fused(block)(x)
    out.backward(torch.randn(out.shape).to(dtype) + 1)
    total, size = x.grad.double().sum((0, 2, 3)), x.grad.double().square().sum((0, 2, 3)).sqrt()
    # In bfloat16 the gradient that is cut is rounded too, position by position.
    assert float((total / size).abs().max()) < (1e-3 if dtype == torch.float32 else 0.12)


def test_a_whole_network_keeps_its_values_gradients_statistics_and_state_keys(check_training):
    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=5).to(memory_format=torch.channels_last).train()
    fast = copy.deepcopy(plain)
    keys, parameters = list(fast.state_dict()), dict(fast.named_parameters())
    use_fast_layers(fast)
    assert sum(isinstance(module, inverted_residual._InvertedResidual) for module in fast.modules()) == 15
    assert use_fast_inverted_residuals(fast) == 0
    assert list(fast.state_dict()) == keys
    assert all(parameters[key] is value for key, value in fast.named_parameters())
    check_training(plain, fast)


@pytest.mark.parametrize("act", [nn.SiLU, nn.PReLU])
def test_other_activations_keep_their_forward(act):
    model = _block(8, 2.0, act=act)
    twin = copy.deepcopy(model)
    use_fast_layers(model)
    x = torch.randn(2, 8, 9, 7)
    torch.testing.assert_close(model(x), twin(x), rtol=1e-5, atol=1e-5)


def test_more_channels_than_the_kernel_has_room_for_keep_their_forward():
    models = [_block(inverted_residual._MOST_CHANNELS + more, 1.0) for more in (0, 1)]
    assert [use_fast_layers(model)[0]._get_name() for model in models] == ["_InvertedResidual", "InvertedResidual"]


def test_one_position_is_what_torch_makes_of_it():
    model = _block(4, 2.0).eval()
    use_fast_layers(model)
    assert model(torch.randn(1, 4, 1, 1)).shape == (1, 4, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model.train()(torch.randn(1, 4, 1, 1))
