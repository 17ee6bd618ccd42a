"""1 x 1 convolutions as matrix products, which train faster on a CPU.

Comes in: feature maps (batch, channels, height, width), bfloat16, and kernels (out, in, 1, 1). Goes out: the values and
gradients of ``torch.nn.functional.conv2d``, to rounding. oneDNN takes longer for the backward pass of such a
convolution than for its two matrix products, and the longer, the smaller the maps (docs/performance.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_LEAST_CHANNELS = 64
"""Below this, and for channels that do not fill the processor's tiles, the library's convolution is as fast."""
_TILE = 32


def rows_of(x: Tensor) -> Tensor:
    """Channels-last maps as a matrix (positions, channels) over the same memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def maps_of(rows: Tensor, like: Tensor) -> Tensor:
    """A matrix (positions, channels) as channels-last maps over the same memory."""
    return rows.view(like.shape[0], *like.shape[2:], rows.shape[1]).permute(0, 3, 1, 2)


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve channels-last maps with a kernel (out, in, 1, 1) of the same dtype."""
    return maps_of(rows_of(x) @ weight.flatten(1).t(), x)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the input, from the output's gradient (channels-last maps)."""
    return maps_of(rows_of(grad) @ weight.flatten(1), grad)


def kernel_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of the kernel (out, in, 1, 1) from channels-last maps."""
    return (rows_of(grad).t() @ rows_of(x))[:, :, None, None]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.shape, ctx.stride = x.shape, stride
        seen = x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)
        rounded = weight.to(x.dtype)
        ctx.save_for_backward(seen, rounded)
        return multiply(seen, rounded)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        seen, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        x_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = input_gradient(grad, weight)
            if ctx.stride > 1:
                spread = torch.empty(ctx.shape, dtype=grad.dtype, memory_format=torch.channels_last).zero_()
                spread[:, :, :: ctx.stride, :: ctx.stride] = x_grad
                x_grad = spread
        if ctx.needs_input_grad[1]:
            weight_grad = kernel_gradient(grad, seen).float()
        return x_grad, weight_grad, None


class PointwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of kernel size 1; state keys are its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Conv2d's name
        """Convolve maps (batch, channels, height, width)."""
        x = input
        if not self._fast(x):
            return super().forward(x)
        out: Tensor = _Product.apply(x, self.weight, self.stride[0])
        return out

    def _fast(self, x: Tensor) -> bool:
        return (
            self.training
            and torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.dtype == torch.bfloat16
            and self.weight.dtype == torch.float32
            and torch.is_autocast_enabled("cpu")
            and x.ndim == 4
            and x.numel() > 0
        )


def _fits(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (1, 1)
        and module.stride in ((1, 1), (2, 2))
        and module.padding == (0, 0)
        and module.groups == 1
        and module.bias is None
        and min(module.in_channels, module.out_channels) >= _LEAST_CHANNELS
        and module.in_channels % _TILE == module.out_channels % _TILE == 0
    )


def use_fast_pointwise(model: nn.Module) -> int:
    """Swap every 1 x 1 convolution that fits for a matrix product; returns their number."""
    found = [module for module in model.modules() if _fits(module)]
    for module in found:
        module.__class__ = PointwiseConv2d
    return len(found)
