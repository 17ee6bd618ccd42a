"""A depthwise convolution whose three passes are compiled kernels (`earsight.models.depthwise_kernels`).

Comes in: feature maps (batch, channels, height, width), channels-last, float32 or bfloat16, on the CPU, and a kernel
(channels, 1, size, size), float32 or bfloat16, of size 3 or 5. Goes out: feature maps like the input, with gradients.
"""

from __future__ import annotations

import math
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


def _taps(weight: Tensor, *, turned: bool = False) -> Tensor:
    """A kernel (channels, 1, size, size) as float32 rows of channels, as long as whole vectors need."""
    rows = weight.detach().float().flatten(1).t()
    return F.pad(rows.flip(0) if turned else rows, (0, -len(weight) % _LANES)).contiguous()


def job_of(x: Tensor, *, stride: int, begin: tuple[int, int], sizes: tuple[int, int]) -> dict[str, float]:
    """What `forward`, `input_gradient` and `weight_gradient` are told of a convolution, in the terms of `convolve`."""
    lanes = x.shape[1] + -x.shape[1] % _LANES
    job = {"parts": x.shape[0], "batch": x.shape[0], "channels": x.shape[1], "lanes": lanes}
    job |= {"stride": stride, "top": begin[0], "left": begin[1], "height": x.shape[2], "width": x.shape[3]}
    return job | {"out_height": sizes[0], "out_width": sizes[1], "low": -math.inf, "high": math.inf}


def with_activation(job: dict[str, float], shift: Tensor, ends: tuple[float, float]) -> dict[str, float]:
    """The same for a convolution of ``clamp(x + shift, *ends)``; a shift (lanes,), float32, must outlive the job."""
    return job | {"shift": shift.data_ptr(), "low": ends[0], "high": ends[1]}


def forward(x: Tensor, weight: Tensor, job: dict[str, float]) -> Tensor:
    """The output (batch, channels, out_height, out_width)."""
    size = weight.shape[-1]
    shape = (*x.shape[:2], int(job["out_height"]), int(job["out_width"]))
    out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    taps = _taps(weight)
    places = {"x": x.data_ptr(), "out": out.data_ptr(), "weight": taps.data_ptr()}
    run(f"convolve{size}", x.dtype, job | places)
    return out


def input_gradient(x: Tensor, grad: Tensor, weight: Tensor, job: dict[str, float]) -> Tensor:
    """Gradient of the input, without activation."""
    out = torch.empty_like(x, memory_format=torch.channels_last)
    _run_backward(grad, weight, job | {"out": out.data_ptr()})
    return out


def gradient_behind_activation(x: Tensor, grad: Tensor, weight: Tensor, job: dict[str, float]) -> Tensor:
    """Write the gradient of ``x + shift`` over x; returns its sum over batch and positions, (channels,)."""
    sums = torch.zeros(len(x), int(job["lanes"]))
    _run_backward(grad, weight, job | {"out": x.data_ptr(), "seen": x.data_ptr(), "sums": sums.data_ptr()})
    return sums.sum(0)[: x.shape[1]]


def _run_backward(grad: Tensor, weight: Tensor, job: dict[str, float]) -> None:
    size = weight.shape[-1]
    if job["stride"] == 2:
        taps = _taps(weight)
        run(f"spread{size}", grad.dtype, job | {"grad": grad.data_ptr(), "weight": taps.data_ptr()})
        return
    # Of stride 1 it is a convolution of the output's gradient with the kernel turned around.
    taps = _taps(weight, turned=True)
    turned = {"top": size - 1 - job["top"], "left": size - 1 - job["left"]}
    turned |= {"height": job["out_height"], "width": job["out_width"]}
    turned |= {"out_height": job["height"], "out_width": job["width"]}
    run(f"convolve{size}", grad.dtype, job | turned | {"x": grad.data_ptr(), "weight": taps.data_ptr()})


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, job: dict[str, float]) -> Tensor:
    """Gradient of the kernel, like it."""
    size, lanes = weight.shape[-1], int(job["lanes"])
    parts = min(_MOST_PARTS, len(x))
    sums = torch.empty(parts, size * size, lanes)
    out = torch.empty(size * size, lanes)
    places = {"x": x.data_ptr(), "grad": grad.data_ptr(), "out": out.data_ptr(), "sums": sums.data_ptr()}
    run(f"gather{size}", x.dtype, job | places | {"parts": parts})
    return out[:, : x.shape[1]].t().reshape(weight.shape).to(weight.dtype)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, begin: tuple[int, int], sizes: tuple[int, int]
    ) -> Tensor:
        ctx.job = job_of(x, stride=stride, begin=begin, sizes=sizes)
        ctx.save_for_backward(x, weight)
        return forward(x, weight, ctx.job)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        grad_x = input_gradient(x, grad, weight, ctx.job) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(x, grad, weight, ctx.job) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None, None, None
