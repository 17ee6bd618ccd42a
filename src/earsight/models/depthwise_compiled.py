"""A depthwise convolution whose three passes are compiled kernels (`earsight.models.depthwise_kernels`).

Comes in: feature maps (batch, channels, height, width), channels-last, float32 or bfloat16, on the CPU, and a kernel
(channels, 1, size, size), float32 or bfloat16, of size 3 or 5. Goes out: feature maps like the input, with gradients.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from earsight.models.compiled import run

_LANES = 16
_MOST_PARTS = 16


def convolve(x: Tensor, weight: Tensor, *, stride: int, begin: tuple[int, int], sizes: tuple[int, int]) -> Tensor:
    """Convolve each channel with its own kernel.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)
    weight : Tensor, shape (channels, 1, size, size)
        Used as float32, whatever the input is.
    stride : int
        1 or 2.
    begin : (int, int)
        Rows of zeros above the input, and columns of them at its left.
    sizes : (int, int)
        Height and width of the output. What they need below the input and at its right is zeros too.
    """
    out: Tensor = _Convolution.apply(x, weight, stride, begin, sizes)
    return out


def _taps(weight: Tensor, order: Tensor) -> Tensor:
    """Some taps of a kernel (channels, 1, size, size) as float32 rows of channels, as long as whole vectors need.

    Tap ``size * size`` is one of zeros.
    """
    channels = weight.shape[0]
    flat = F.pad(weight.float().view(channels, -1), (0, 1, 0, -channels % _LANES))
    return flat.t().index_select(0, order)


@cache
def _order(kind: str, size: int) -> Tensor:
    """Which taps a kernel of `earsight.models.depthwise_kernels` reads: forward, backward, or for each parity."""
    count = size * size
    if kind != "parities":
        return torch.arange(count) if kind == "forward" else torch.arange(count - 1, -1, -1)
    # Position p of the padded input gets tap p - 2q from output q: of its parity, the last taps first.
    ends = [[parity + 2 * back for back in reversed(range((size + 1) // 2))] for parity in (0, 1)]
    pairs = [(down, right) for downs in ends for rights in ends for down in downs for right in rights]
    return torch.tensor([a * size + b if max(a, b) < size else count for a, b in pairs])


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, begin: tuple[int, int], sizes: tuple[int, int]
    ) -> Tensor:
        size, channels = weight.shape[-1], x.shape[1]
        out = torch.empty((x.shape[0], channels, *sizes), dtype=x.dtype, memory_format=torch.channels_last)
        taps = _taps(weight, _order("forward", size))
        job = {"parts": x.shape[0], "batch": x.shape[0], "channels": channels, "lanes": taps.shape[1]}
        job |= {"stride": stride, "top": begin[0], "left": begin[1], "height": x.shape[2], "width": x.shape[3]}
        job |= {"out_height": sizes[0], "out_width": sizes[1]}
        places = {"x": x.data_ptr(), "out": out.data_ptr(), "weight": taps.data_ptr()}
        run(f"convolve{size}", x.dtype, job | places)
        ctx.save_for_backward(x, weight)
        ctx.job = job
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        grad_x = _input_gradient(x, grad, weight, ctx.job) if ctx.needs_input_grad[0] else None
        grad_weight = _weight_gradient(x, grad, weight, ctx.job) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None, None, None


def _input_gradient(x: Tensor, grad: Tensor, weight: Tensor, job: dict[str, int]) -> Tensor:
    size = weight.shape[-1]
    out = torch.empty_like(x, memory_format=torch.channels_last)
    if job["stride"] == 2:
        taps = _taps(weight, _order("parities", size))
        places = {"grad": grad.data_ptr(), "out": out.data_ptr(), "weight": taps.data_ptr()}
        run(f"spread{size}", x.dtype, job | places)
        return out
    # Of stride 1 it is a convolution of the output's gradient with the kernel turned around.
    taps = _taps(weight, _order("backward", size))
    turned = {"top": size - 1 - job["top"], "left": size - 1 - job["left"]}
    turned |= {"height": job["out_height"], "width": job["out_width"]}
    turned |= {"out_height": job["height"], "out_width": job["width"]}
    run(
        f"convolve{size}",
        x.dtype,
        job | turned | {"x": grad.data_ptr(), "out": out.data_ptr(), "weight": taps.data_ptr()},
    )
    return out


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, job: dict[str, int]) -> Tensor:
    size = weight.shape[-1]
    parts = min(_MOST_PARTS, job["batch"])
    sums = torch.empty(parts, size * size, job["lanes"])
    out = torch.empty(size * size, job["lanes"])
    places = {"x": x.data_ptr(), "grad": grad.data_ptr(), "out": out.data_ptr(), "sums": sums.data_ptr()}
    run(f"gather{size}", x.dtype, job | places | {"parts": parts})
    return out[:, : job["channels"]].t().reshape(weight.shape).to(weight.dtype)
