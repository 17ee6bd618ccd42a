"""Fast batch norms against PyTorch's own autograd in float64."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNorm2d
from torch import Tensor, nn

from earsight.kernels import runtime
from earsight.kernels.compiling import compile_kernels, is_compiled
from earsight.models.fast.norm_act import LINEAR, RELU, RELU6, NormAct, use_fast_norms

# Norm-wise relative errors: a few roundings of each format (2^-23 and 2^-8).
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 8e-3}


def _distance(found: Tensor, expected: Tensor) -> float:
    expected = expected.detach().double()
    scale = expected.norm().item()
    difference = (found.detach().double() - expected).norm().item()
    return difference / scale if scale else difference


def _norm(channels: int, ends: tuple[float, float], generator: torch.Generator, **settings: float) -> NormAct:
    norm = NormAct(channels, **settings)
    norm.ends = ends
    with torch.no_grad():
        norm.weight.copy_(torch.rand(channels, generator=generator) * 2 - 0.5)
        norm.bias.copy_(torch.randn(channels, generator=generator))
        norm.running_mean.copy_(torch.randn(channels, generator=generator))
    return norm


def _plain(norm: NormAct) -> nn.BatchNorm2d:
    out = nn.BatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    out.load_state_dict(norm.state_dict())
    return out.double()


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 5),
    channels=st.sampled_from([1, 2, 3, 15, 16, 17, 24, 32, 40, 100]),
    height=st.integers(1, 23),
    width=st.integers(1, 23),
    ends=st.sampled_from([LINEAR, RELU, RELU6]),
    with_side=st.booleans(),
    offset=st.sampled_from([0.0, 3.0, -40.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    momentum=st.sampled_from([0.1, None]),
    seed=st.integers(0, 2**31),
)
def test_values_gradients_and_statistics_are_those_of_torch(
    batch, channels, height, width, ends, with_side, offset, dtype, momentum, seed
):
    if batch * height * width < 4:
        width = 4  # of two values the output is a sign, whatever they are: its gradient is all rounding
    generator = torch.Generator().manual_seed(seed)
    shape = batch, channels, height, width
    norm = _norm(channels, ends, generator, eps=1e-3, momentum=momentum)
    plain = _plain(norm)
    x, side, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    x = (x + offset).contiguous(memory_format=torch.channels_last).requires_grad_()
    side = (side if with_side else torch.zeros(shape, dtype=dtype)).requires_grad_()
    exact_x, exact_side = (value.detach().double().requires_grad_() for value in (x, side))
    before = plain(exact_x) + exact_side
    expected = before.clamp(*ends)
    # Where the activation bends, to rounding, either slope is right: no gradient comes from there.
    bends = [end for end in ends if math.isfinite(end)]
    near = torch.zeros(shape, dtype=torch.bool)
    for end in bends:
        near |= (before - end).abs() < (2e-2 if dtype == torch.bfloat16 else 1e-4)
    grad = grad.masked_fill(near, 0.0)

    found = norm(x, side) if with_side else norm(x)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    exactness = TOLERANCE[dtype] * (1 + abs(offset) if dtype == torch.float32 else 1)
    assert (found - expected).abs().max() < 8 * exactness * (1 + expected.abs().max())
    torch.testing.assert_close(norm.running_mean.double(), plain.running_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), plain.running_var, rtol=1e-5, atol=1e-5)
    assert norm.num_batches_tracked == 1

    found.backward(grad)
    expected.backward(grad.double())
    total = grad.double().norm() * norm.weight.detach().abs().max() / plain.running_var.min().sqrt()
    assert (x.grad - exact_x.grad).norm() < 4 * exactness * (exact_x.grad.norm() + total)
    assert _distance(side.grad if with_side else grad, exact_side.grad if with_side else grad) < TOLERANCE[dtype]
    scale = grad.double().norm() * math.sqrt(x.numel() / channels)
    for name in ("weight", "bias"):
        parameter, reference = getattr(norm, name), getattr(plain, name)
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - reference.grad).norm() < 1e-5 * (1 + abs(offset)) * (scale + reference.grad.norm())


# test_resnet has basic blocks, the second size of it bottlenecks; EfficientNet takes ReLU6, DenseNet norms before.
@pytest.mark.parametrize(
    "name", ["test_resnet", "resnet26", "tf_efficientnet_lite0", "test_efficientnet", "densenet121"]
)
def test_a_whole_network_keeps_its_values_gradients_statistics_and_state_keys(name, check_training):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=5).to(memory_format=torch.channels_last).train()
    fast = copy.deepcopy(plain)
    keys, parameters = list(fast.state_dict()), dict(fast.named_parameters())
    assert use_fast_norms(fast) == sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert use_fast_norms(fast) == 0
    assert list(fast.state_dict()) == keys
    assert all(parameters[key] is value for key, value in fast.named_parameters())
    check_training(plain, fast)


def test_the_additions_of_residual_blocks_are_taken_in():
    model = timm.create_model("resnet26", num_classes=5)
    use_fast_norms(model)
    assert sum(type(module) is nn.ReLU for module in model.modules()) == 0
    assert {module.ends for name, module in model.named_modules() if name.endswith("bn3")} == {RELU}
    assert {module.ends for name, module in model.named_modules() if "downsample.1" in name} == {LINEAR}


def test_gradients_of_a_block_s_two_readers_are_added_by_its_kernel():
    model = timm.create_model("resnet26", num_classes=5)
    use_fast_norms(model)
    x = torch.randn(4, 3, 32, 32)
    with torch.profiler.profile() as profile:
        model(x).sum().backward()
    counts = {event.key: event.count for event in profile.key_averages()}
    norms_counted = sum(isinstance(module, NormAct) for module in model.modules())
    assert counts["aten::add_"] == norms_counted + 1  # of maps only those that the pooling gave


def test_the_bits_do_not_depend_on_threads():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 40, 50, 61, generator=generator).to(torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    norm = _norm(40, RELU6, generator)
    threads, out = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            x.grad = None
            found = norm(x)
            norm.zero_grad()
            found.backward(x.detach())
            out.append((found.detach(), x.grad, norm.weight.grad, norm.bias.grad))
    finally:
        torch.set_num_threads(threads)
    for other in out[1:]:
        assert all(torch.equal(a, b) for a, b in zip(out[0], other, strict=True))


def test_python_threads_do_the_same_where_openmp_is_not_found(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 40, 50, 61, generator=generator)
    norm = _norm(40, RELU, generator)
    before = norm(x)
    monkeypatch.setattr(runtime, "_team", lambda: runtime._python_threads)
    assert torch.equal(norm(x), before)


def test_what_is_not_a_number_stays_so():
    norm = _norm(16, RELU6, torch.Generator().manual_seed(0))
    x = torch.randn(2, 16, 4, 4).to(torch.bfloat16)
    x[1, 3, 2, 2] = math.nan
    out = norm(x)
    assert out[:, 3].isnan().all()
    assert out[:, [0, 1, 2, 4]].isfinite().all()


def test_a_channel_that_is_constant_gives_its_bias():
    norm = NormAct(3)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
    x = torch.tensor([1e-3, 7.0, -4.0])[:, None, None].expand(2, 3, 5, 7)
    torch.testing.assert_close(norm(x), norm.bias[:, None, None].expand(2, 3, 5, 7), rtol=0, atol=1e-3)
    torch.testing.assert_close(norm.running_var, torch.full((3,), 0.9))


def test_one_value_a_channel_is_refused_as_torch_does():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        NormAct(4)(torch.zeros(1, 4, 1, 1))


def test_kernels_that_were_compiled_are_found_in_the_cache_folder():
    compile_kernels(torch.float32)
    assert is_compiled(torch.float32)
    NormAct(4)(torch.randn(2, 4, 3, 3))
    assert runtime.folder().parent.name == "kernels"


@pytest.mark.parametrize(
    "module",
    [
        FrozenBatchNorm2d(4),
        nn.BatchNorm1d(4),
        nn.GroupNorm(2, 4),
        nn.SyncBatchNorm(4),
    ],
)
def test_what_does_not_fit_is_left_alone(module):
    model = nn.Sequential(module)
    assert use_fast_norms(model) == 0
    assert model[0] is module


@pytest.mark.parametrize("act", [nn.SiLU, nn.PReLU, nn.Identity])
def test_other_activations_stay_what_they_are(act):
    plain = nn.Sequential(BatchNormAct2d(6, act_layer=act, inplace=False))
    model = copy.deepcopy(plain)
    assert use_fast_norms(model) == 1
    assert list(model.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=1e-5, atol=1e-5)


def test_blocks_with_more_in_them_keep_their_forward():
    model = timm.create_model("seresnet18", num_classes=3) if timm.is_model("seresnet18") else None
    model = model or timm.create_model("resnet18", num_classes=3, block_args={"attn_layer": "se"})
    blocks = [type(module) for module in model.modules()]
    assert use_fast_norms(model) > 0
    assert [type(module) for module in model.modules() if type(module) is not NormAct][:1] == blocks[:1]
    x = torch.randn(2, 3, 40, 40)
    model(x).sum().backward()
