"""Fast depthwise convolutions against PyTorch's own autograd in float64."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from earsight.models.fast.depthwise import DepthwiseConv2d, use_fast_depthwise

# Norm-wise relative errors: a few roundings of each format (2^-23 and 2^-8).
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


def _distance(found: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    scale = expected.norm().item()
    difference = (found.double() - expected).norm().item()
    return difference / scale if scale else difference


def _same_padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME padding, written from its definition."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        outputs = (size + stride - 1) // stride
        total = max(0, (outputs - 1) * stride + kernel - size)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def _module(channels: int, kernel: int, stride: int, padding: int | str, *, bias: bool) -> DepthwiseConv2d:
    pad = 0 if padding == "same" else padding
    module = DepthwiseConv2d(channels, channels, kernel, stride=stride, padding=pad, groups=channels, bias=bias)
    module.same = padding == "same"
    return module


@settings(max_examples=100, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([2, 3, 8, 16, 17, 48]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kernel=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2]),
    padding=st.sampled_from(["same", 0, 1, 2]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_values_and_gradients_are_conv2ds(batch, channels, height, width, kernel, stride, padding, dtype, bias, seed):
    if padding != "same":  # as conv2d, at least one window must fit
        height, width = (max(size, kernel - 2 * padding) for size in (height, width))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=generator).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    module = _module(channels, kernel, stride, padding, bias=bias).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    exact_x = x.detach().double().requires_grad_()
    exact = [parameter.detach().double().requires_grad_() for parameter in module.parameters()]
    padded = _same_padded(exact_x, kernel, stride) if padding == "same" else exact_x
    pad = 0 if padding == "same" else padding
    expected = F.conv2d(padded, *exact, stride=stride, padding=pad, groups=channels)

    found = module(x)
    assert bias or "_Convolution" in type(found.grad_fn).__name__
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert _distance(found, expected) < TOLERANCE[dtype]

    grad = torch.randn(expected.shape, generator=generator).to(dtype)
    found.backward(grad)
    expected.backward(grad.double())
    assert x.grad is not None
    assert _distance(x.grad, exact_x.grad) < TOLERANCE[dtype]
    for parameter, reference in zip(module.parameters(), exact, strict=True):
        assert parameter.grad.dtype == dtype
        assert _distance(parameter.grad, reference.grad) < TOLERANCE[dtype]


@pytest.mark.parametrize("padding", ["same", 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_gradcheck(kernel, stride, padding):
    torch.manual_seed(0)
    module = _module(2, kernel, stride, padding, bias=False).double()
    x = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(run, (x, module.weight))


@pytest.mark.parametrize("wanted", ["input", "weight"])
def test_only_the_wanted_gradient_is_made(wanted):
    module = _module(4, 5, 2, "same", bias=False)
    module.weight.requires_grad_(wanted == "weight")
    x = torch.randn(2, 4, 9, 9, requires_grad=wanted == "input")
    module(x).sum().backward()
    assert (x.grad is not None) == (wanted == "input")
    assert (module.weight.grad is not None) == (wanted == "weight")


def test_autocast_computes_in_bfloat16_and_leaves_float32_gradients():
    torch.manual_seed(0)
    module = _module(8, 5, 2, "same", bias=True)
    x = torch.randn(2, 8, 12, 10, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad.dtype == module.weight.grad.dtype == module.bias.grad.dtype == torch.float32


def test_a_whole_network_keeps_its_values_gradients_and_state_keys():
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=7).to(memory_format=torch.channels_last).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # untrained running statistics would let the activations vanish
            module.train()
    x = torch.randn(2, 3, 64, 90).contiguous(memory_format=torch.channels_last)

    def step() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        return out.detach(), {key: value.grad.clone() for key, value in model.named_parameters()}

    keys = list(model.state_dict())
    parameters = dict(model.named_parameters())
    values, gradients = step()
    swapped = use_fast_depthwise(model)
    assert swapped == 16  # one in each block of the network
    assert use_fast_depthwise(model) == 0
    assert list(model.state_dict()) == keys
    assert all(parameters[key] is value for key, value in model.named_parameters())
    after, fast = step()
    assert _distance(after, values) < 1e-6  # measured: 0
    assert fast.keys() == gradients.keys()
    assert max(_distance(fast[key], gradients[key]) for key in gradients) < 1e-5  # measured: 2e-7


@pytest.mark.parametrize("stride", [1, 2])
def test_the_bits_do_not_depend_on_threads(stride):
    torch.manual_seed(0)
    module = _module(40, 5, stride, "same", bias=False)
    x = torch.randn(5, 40, 33, 21).to(torch.bfloat16).requires_grad_()
    threads, out = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            x.grad = module.weight.grad = None
            found = module(x)
            found.backward(found.detach())
            out.append((found.detach(), x.grad, module.weight.grad))
    finally:
        torch.set_num_threads(threads)
    for other in out[1:]:
        assert all(torch.equal(a, b) for a, b in zip(out[0], other, strict=True))


def test_predictions_take_the_library():
    module = _module(4, 3, 2, "same", bias=False)
    x = torch.randn(1, 4, 9, 8)
    with torch.no_grad():
        assert torch.equal(module(x), F.conv2d(_same_padded(x, 3, 2), module.weight, stride=2, groups=4))
    assert "_Convolution" not in type(module.eval()(x).grad_fn).__name__


def test_the_swap_keeps_training_mode_frozen_weights_and_bias():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), nn.ReLU()).eval()
    model[0].weight.requires_grad_(False)
    x = torch.randn(1, 4, 9, 7)
    before = model(x)
    assert use_fast_depthwise(model) == 1
    assert isinstance(model[0], DepthwiseConv2d)
    assert not model[0].training
    assert not model[0].weight.requires_grad
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 7, groups=4),
        nn.Conv2d(4, 4, (3, 5), groups=4),
        nn.Conv2d(4, 4, 3, stride=3, groups=4),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=(0, 1), groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4),
        timm.layers.ScaledStdConv2d(4, 4, 3, groups=4),
    ],
)
def test_what_does_not_fit_is_left_alone(module):
    model = nn.Sequential(module)
    assert use_fast_depthwise(model) == 0
    assert model[0] is module
