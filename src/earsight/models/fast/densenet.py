"""Dense blocks without concatenations, fast on a CPU.

Comes in: feature maps (batch, channels, height, width), float32 or bfloat16. Goes out: the values, gradients and
running statistics of timm's ``DenseBlock`` and ``DenseTransition``, to rounding.

Every layer of a dense block normalises the outputs of all layers before it. Here each writes its channels into one map,
and three things are done once, not in each layer: the statistics of a channel; the concatenation; and, backward, the
gradient's two terms through a channel's mean and deviation, which are the same function of that channel in all layers
and so are summed as coefficients. In eval mode, on other devices, and if a hook is set inside the block, timm's own
forward is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.densenet import DenseBlock, DenseLayer, DenseTransition
from torch import Tensor, nn

from earsight.kernels.runtime import run
from earsight.models.fast.norm_act import RELU, NormAct, normalise, normalise_backward, sizes
from earsight.models.fast.pointwise import input_gradient, kernel_gradient, multiply

_PARAMETERS = ("norm1.weight", "norm1.bias", "conv1.weight", "norm2.weight", "norm2.bias", "conv2.weight")


def _maps(like: Tensor, channels: int) -> Tensor:
    shape = (like.shape[0], channels, *like.shape[2:])
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _part(maps: Tensor, begin: int, channels: int) -> dict[str, float]:
    """The sizes of a job over some channels of maps, with the rows' stride."""
    return sizes(maps, channels=channels) | {"x": maps[:, begin:].data_ptr(), "stride": maps.shape[1]}


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: list[Any], *parameters: Tensor) -> Tensor:
        begin, growth = x.shape[1], layers[0].conv2.out_channels
        maps = _maps(x, begin + growth * len(layers))
        moments = torch.empty(2, maps.shape[1])
        maps[:, :begin] = x
        _measure(maps, moments, 0, begin)
        kept = []
        for number, layer in enumerate(layers):
            convs = [weight.to(x.dtype) for weight in parameters[6 * number + 2 : 6 * number + 6 : 3]]
            state = _statistics(layer.norm1, moments[:, :begin], len(x) * x.shape[2] * x.shape[3])
            first = _maps(x, begin)
            job = {"out": first.data_ptr(), "state": state.data_ptr(), "low": RELU[0], "high": RELU[1]}
            run("apply", x.dtype, _part(maps, 0, begin) | job)
            middle = multiply(first, convs[0])
            norm = layer.norm2
            second, middle_state = normalise(
                middle, norm.weight, norm.bias, None, running=norm.running(), ends=RELU, eps=norm.eps
            )
            maps[:, begin : begin + growth] = F.conv2d(second, convs[1], padding=1)
            _measure(maps, moments, begin, growth)
            kept += [state, first, middle, middle_state, second, *convs]
            begin += growth
        ctx.save_for_backward(maps, moments, *kept)
        ctx.growth = growth
        return maps

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        maps, moments, *kept = ctx.saved_tensors
        grad = grads[0].clone(memory_format=torch.channels_last)
        terms = torch.zeros(2, maps.shape[1])
        begin = maps.shape[1]
        found: list[Tensor] = []
        out: Any
        for number in reversed(range(len(kept) // 7)):
            state, first, middle, middle_state, second, conv1, conv2 = kept[7 * number : 7 * number + 7]
            begin -= ctx.growth
            grown = _finished(maps, grad, moments, terms, begin, ctx.growth)
            out, conv2_grad, _ = torch.ops.aten.convolution_backward(
                grown, second, conv2, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
            )
            out = out.contiguous(memory_format=torch.channels_last)
            out, norm2, _ = normalise_backward(middle, middle_state, None, out, ends=RELU)
            conv1_grad = kernel_gradient(out, first)
            out = input_gradient(out, conv1)
            norm1 = _add_gradient(maps, grad, out, state)
            terms[:, :begin] += norm1[2:]
            found[:0] = [norm1[0], norm1[1], conv1_grad.float(), norm2[0], norm2[1], conv2_grad.float()]
        wanted = ctx.needs_input_grad
        x = _finished(maps, grad, moments, terms, 0, begin) if wanted[0] else None
        return x, None, *(value if want else None for value, want in zip(found, wanted[2:], strict=True))


def _measure(maps: Tensor, moments: Tensor, begin: int, channels: int) -> None:
    """Mean and variance of some channels."""
    job = _part(maps, begin, channels)
    state = torch.empty(4, channels)
    sums = torch.empty(int(job["parts"]), 2, channels)
    run("moments", maps.dtype, job | {"state": state.data_ptr(), "sums": sums.data_ptr()})
    moments[0, begin : begin + channels] = state[0]
    moments[1, begin : begin + channels] = state[1] ** -2  # with eps 0 it is the inverse deviation


def _statistics(norm: NormAct, moments: Tensor, rows: int) -> Tensor:
    """Mean, inverse deviation, scale and shift (4, channels) from the moments; updates the running statistics."""
    mean, variance = moments
    inverse = (variance + norm.eps).rsqrt()
    scale = inverse * norm.weight
    running_mean, running_var, momentum = norm.running()
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (rows / (rows - 1)), momentum)
    return torch.stack([mean, inverse, scale, norm.bias - mean * scale])


def _finished(maps: Tensor, grad: Tensor, moments: Tensor, terms: Tensor, begin: int, channels: int) -> Tensor:
    """The complete gradient of some channels, as separate maps."""
    out = _maps(maps, channels)
    slopes, mean = terms[:, begin : begin + channels].contiguous(), moments[0, begin:]
    job = {"grad": grad[:, begin:].data_ptr(), "out": out.data_ptr()}
    job |= {"state": mean.data_ptr(), "slopes": slopes.data_ptr()}
    run("finish_gradient", maps.dtype, _part(maps, begin, channels) | job)
    return out


def _add_gradient(maps: Tensor, grad: Tensor, out: Tensor, state: Tensor) -> Tensor:
    """Add the gradient that comes through a norm to that of the maps; returns its slopes (4, channels)."""
    channels = out.shape[1]
    job = _part(maps, 0, channels)
    slopes = torch.empty(4, channels)
    sums = torch.empty(int(job["parts"]), 2, channels)
    job |= {"grad": out.data_ptr(), "out": grad.data_ptr(), "state": state.data_ptr()}
    job |= {"slopes": slopes.data_ptr(), "sums": sums.data_ptr(), "low": RELU[0], "high": RELU[1]}
    run("add_gradient", maps.dtype, job)
    return slopes


class _DenseBlock(DenseBlock):
    def forward(self, init_features: Tensor) -> Tensor:
        layers: list[Any] = list(self.values())
        x = init_features
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if not self._fast(x, layers):
            return super().forward(init_features)
        x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = _Block.apply(x, layers, *(layer.get_parameter(n) for layer in layers for n in _PARAMETERS))
        return out

    def _fast(self, x: Tensor, layers: list[Any]) -> bool:
        norms = [norm for layer in layers for norm in (layer.norm1, layer.norm2)]
        inside = [module for module in self.modules() if module is not self]
        return (
            all(norm.fast(x) for norm in norms)
            and torch.is_grad_enabled()
            and not any(layer.grad_checkpointing or (layer.drop_rate and layer.training) for layer in layers)
            and not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in inside)
        )


class _DenseTransition(DenseTransition):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            slow: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return slow
        norm, conv, pool = self.children()
        # Pooling and convolution are linear and can be swapped: pooled first, a quarter is left to convolve.
        out: Tensor = conv(pool(norm(x)))
        return out


def _plain(conv: Any, *, size: int) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == (size, size)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (size // 2, size // 2)
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and conv.bias is None
    )


def _fits(norm: Any) -> bool:
    return type(norm) is NormAct and norm.ends == RELU and norm.affine and not list(norm.children())


def use_fast_dense(model: nn.Module) -> int:
    """Swap a timm DenseNet's blocks and transitions, after its norms; returns their number."""
    done = 0
    modules: list[Any] = list(model.modules())
    for module in modules:
        if type(module) is DenseBlock and all(
            type(layer) is DenseLayer
            and _fits(layer.norm1)
            and _fits(layer.norm2)
            and _plain(layer.conv1, size=1)
            and _plain(layer.conv2, size=3)
            for layer in module.values()
        ):
            module.__class__ = _DenseBlock
        elif type(module) is DenseTransition and type(module.pool) is nn.AvgPool2d and _plain(module.conv, size=1):
            module.__class__ = _DenseTransition
        else:
            continue
        done += 1
    return done
