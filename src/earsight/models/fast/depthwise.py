"""Depthwise convolutions that train fast on a CPU, by the kernels of `earsight.kernels.depthwise_conv`.

Comes in: feature maps (batch, channels, height, width), channels-last, float32 or bfloat16, and weights
(channels, 1, size, size) of size 3 or 5. Goes out: the same values as ``torch.nn.functional.conv2d(groups=channels)``
and the same gradients, to rounding.

Why: in a training step of EfficientNet-Lite0 two thirds of the time went into the backward pass of a dozen depthwise
convolutions, for which oneDNN has no fast kernel, and a tenth into padding (docs/performance.md has the figures).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earsight.kernels.runtime import DTYPES, run
from earsight.kernels.widths import padded

_MOST_PARTS = 16


def convolve(x: Tensor, weight: Tensor, *, stride: int, begin: tuple[int, int], sizes: tuple[int, int]) -> Tensor:
    """Convolve each channel of x (batch, channels, height, width) with its own weights, used as float32.

    ``begin`` are the rows of zeros above the input and the columns at its left, ``sizes`` the output's height and
    width; what they need below the input and at its right is zeros too.
    """
    out: Tensor = _Convolution.apply(x, weight, stride, begin, sizes)
    return out


def _taps(weight: Tensor, *, turned: bool = False) -> Tensor:
    """Weights as float32 (taps, padded channels), where ``turned`` in reverse order."""
    rows = weight.detach().float().flatten(1).t()
    return F.pad(rows.flip(0) if turned else rows, (0, padded(len(weight)) - len(weight))).contiguous()


def job_of(x: Tensor, *, stride: int, begin: tuple[int, int], sizes: tuple[int, int]) -> dict[str, float]:
    """The job that `forward`, `input_gradient` and `weight_gradient` take, in the terms of `convolve`."""
    job = {"parts": x.shape[0], "batch": x.shape[0], "channels": x.shape[1], "padded": padded(x.shape[1])}
    job |= {"stride": stride, "top": begin[0], "left": begin[1], "height": x.shape[2], "width": x.shape[3]}
    return job | {"out_height": sizes[0], "out_width": sizes[1], "low": -math.inf, "high": math.inf}


def with_activation(job: dict[str, float], shift: Tensor, ends: tuple[float, float]) -> dict[str, float]:
    """The same for ``clamp(x + shift, *ends)``; the shift (padded channels,), float32, must outlive the job."""
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
    sums = torch.zeros(len(x), int(job["padded"]))
    _run_backward(grad, weight, job | {"out": x.data_ptr(), "seen": x.data_ptr(), "sums": sums.data_ptr()})
    return sums.sum(0)[: x.shape[1]]


def _run_backward(grad: Tensor, weight: Tensor, job: dict[str, float]) -> None:
    size = weight.shape[-1]
    if job["stride"] == 2:
        taps = _taps(weight)
        run(f"strided_gradient{size}", grad.dtype, job | {"grad": grad.data_ptr(), "weight": taps.data_ptr()})
        return
    # Of stride 1 it is a convolution of the output's gradient with the kernel turned around.
    taps = _taps(weight, turned=True)
    turned = {"top": size - 1 - job["top"], "left": size - 1 - job["left"]}
    turned |= {"height": job["out_height"], "width": job["out_width"]}
    turned |= {"out_height": job["height"], "out_width": job["width"]}
    run(f"convolve{size}", grad.dtype, job | turned | {"x": grad.data_ptr(), "weight": taps.data_ptr()})


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, job: dict[str, float]) -> Tensor:
    """Gradient of the kernel, like it."""
    size, channels = weight.shape[-1], int(job["padded"])
    parts = min(_MOST_PARTS, len(x))
    sums = torch.empty(parts, size * size, channels)
    out = torch.empty(size * size, channels)
    places = {"x": x.data_ptr(), "grad": grad.data_ptr(), "out": out.data_ptr(), "sums": sums.data_ptr()}
    run(f"weight_gradient{size}", x.dtype, job | places | {"parts": parts})
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


class DepthwiseConv2d(nn.Conv2d):
    """A square depthwise convolution by kernels while it trains; parameters and state keys are nn.Conv2d's own.

    ``same`` says that the input is padded as TensorFlow pads ("SAME": more at the end where the padding is odd).
    """

    same: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same with strided height and width; autocast is obeyed."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if self.compiled(x):
            x = x.contiguous(memory_format=torch.channels_last)
            out = convolve(x, self.weight, stride=self.stride[0], begin=self.begin(x), sizes=self.sizes(x))
        else:
            (top, bottom), (left, right) = (self._pads(size) for size in x.shape[2:])
            if self.same and top + bottom + left + right:
                x = F.pad(x, (left, right, top, bottom))
            padding = 0 if self.same else top
            out = F.conv2d(x, self.weight, stride=self.stride, padding=padding, groups=self.groups)
        return out if self.bias is None else out + self.bias[:, None, None].to(out.dtype)

    def _pads(self, size: int) -> tuple[int, int]:
        """Zeros before and after the input along an axis of a size."""
        if not self.same:
            return int(self.padding[0]), int(self.padding[0])
        stride, kernel = self.stride[0], self.kernel_size[0]
        both = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return both // 2, both - both // 2

    def sizes(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = (
            (size + sum(self._pads(size)) - self.kernel_size[0]) // self.stride[0] + 1 for size in x.shape[2:]
        )
        return height, width

    def begin(self, x: Tensor) -> tuple[int, int]:
        """Zeros above the input and at its left."""
        return self._pads(x.shape[2])[0], self._pads(x.shape[3])[0]

    def compiled(self, x: Tensor) -> bool:
        """Whether the kernels can compute it."""
        return (
            self.training
            and torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.dtype in DTYPES
            and self.weight.dtype in DTYPES
            and x.ndim == 4
            and len(x) > 0
            and min(self.sizes(x)) > 0
        )


def _fits(module: nn.Module) -> bool:
    # By exact type: other subclasses do more in their forward than convolve (weight standardisation, for one).
    plain = type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame"
    return (
        plain
        and isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels == module.out_channels > 1
        and module.kernel_size in ((3, 3), (5, 5))
        and module.stride in ((1, 1), (2, 2))
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
        and module.padding[0] == module.padding[1]
    )


def use_fast_depthwise(model: nn.Module) -> int:
    """Swap every depthwise convolution that fits for a `DepthwiseConv2d` over the same parameters; returns how many."""
    swaps = [(name, module) for name, module in model.named_modules() if _fits(module)]
    for name, module in swaps:
        if not isinstance(module, nn.Conv2d):
            continue
        fast = DepthwiseConv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # type: ignore[arg-type]
            stride=module.stride,  # type: ignore[arg-type]
            padding=module.padding,  # type: ignore[arg-type]
            groups=module.groups,
            bias=module.bias is not None,
            device="meta",
        )
        fast.weight, fast.bias = module.weight, module.bias
        # timm's Conv2dSame pads in its forward; so does TensorFlow.
        fast.same = type(module).__name__ == "Conv2dSame"
        model.set_submodule(name, fast.train(module.training))
    return len(swaps)
