"""Depthwise convolutions that train fast on a CPU.

Comes in: feature maps (batch, channels, height, width), channels-last, float32 or bfloat16. Goes out: the same values
as ``torch.nn.functional.conv2d(groups=channels)`` and the same gradients, to rounding.

Why this exists: in a training step of EfficientNet-Lite0 two thirds of the time went into the backward pass of a dozen
depthwise convolutions, for which oneDNN has no fast kernel, and a tenth into padding. Compiled kernels
(`earsight.models.fast.depthwise`) do all three passes. Where those cannot be had, the backward pass is written as a
few calls of oneDNN kernels that are fast (docs/performance.md has the figures):

- the weight gradient of a 5 x 5 kernel is that of four 3 x 3 kernels over shifted crops of the input;
- the input gradient of a stride-2 convolution is, for each of the four parities of the output position, a stride-1
  convolution of the output's gradient with every second tap of the kernel.

A depthwise convolution whose three passes are compiled kernels (`earsight.kernels.depthwise_conv`).

Comes in: feature maps (batch, channels, height, width), channels-last, float32 or bfloat16, on the CPU, and a kernel
(channels, 1, size, size), float32 or bfloat16, of size 3 or 5. Goes out: feature maps like the input, with gradients.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earsight.kernels.runtime import DTYPES, run, why_none

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


_CHANNELS_LAST = torch.channels_last


def _aten_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, stride: int, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The library's own backward pass: (input gradient, weight gradient), each only where wanted."""
    out = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], x.shape[1], [*wanted, False]
    )
    return out[0], out[1]


def weight_gradient_depthwise(x: Tensor, grad: Tensor, *, kernel: int, stride: int, padding: int) -> Tensor:
    """Gradient of a depthwise kernel (channels, 1, kernel, kernel) from its input and its output's gradient."""
    channels = x.shape[1]
    if kernel != 5:
        like = x.new_empty(channels, 1, kernel, kernel)
        return _aten_backward(grad, x, like, stride=stride, padding=padding, wanted=(False, True))[1]
    if padding:
        x = F.pad(x, (padding,) * 4)
    height, width = ((size - 1) * stride + 3 for size in grad.shape[2:])
    small = x.new_empty(channels, 1, 3, 3)
    out = x.new_empty(channels, 1, 5, 5)
    for top in (0, 2):
        for left in (0, 2):
            crop = x[:, :, top : top + height, left : left + width].contiguous(memory_format=_CHANNELS_LAST)
            part = _aten_backward(grad, crop, small, stride=stride, padding=0, wanted=(False, True))[1]
            out[:, :, top : top + 3, left : left + 3] = part
    return out


def strided_input_gradient(grad: Tensor, weight: Tensor, *, shape: torch.Size) -> Tensor:
    """Gradient of the input (of ``shape``) of a stride-2, unpadded depthwise convolution, kernel 3 or 5.

    Raises
    ------
    ValueError
        If the kernel has another size.
    """
    kernel = weight.shape[-1]
    if kernel not in (3, 5):
        raise ValueError(f"kernel size {kernel}: only 3 and 5 are handled here")
    out = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=_CHANNELS_LAST)
    for row in (0, 1):
        for column in (0, 1):
            taps = weight[:, :, row::2, column::2].flip(2, 3)
            # Zeros in front make every parity's kernel 3 x 3, which is the size that has a fast kernel.
            taps = F.pad(taps, (3 - taps.shape[3], 0, 3 - taps.shape[2], 0))
            part = F.conv2d(grad, taps, padding=2, groups=shape[1])
            target = out[:, :, row::2, column::2]
            height, width = min(target.shape[2], part.shape[2]), min(target.shape[3], part.shape[3])
            target[:, :, :height, :width] = part[:, :, :height, :width]
            # Input that no window reaches (an odd remainder at the lower or right edge) has no gradient.
            target[:, :, height:] = 0
            target[:, :, :, width:] = 0
    return out


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        grad = grads[0].contiguous(memory_format=_CHANNELS_LAST)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            if stride == 2 and padding == 0 and x.dtype == torch.bfloat16:
                grad_x = strided_input_gradient(grad, weight, shape=x.shape)
            else:
                grad_x, _ = _aten_backward(grad, x, weight, stride=stride, padding=padding, wanted=(True, False))
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient_depthwise(x, grad, kernel=weight.shape[-1], stride=stride, padding=padding)
        return grad_x, grad_weight, None, None


class DepthwiseConv2d(nn.Conv2d):
    """A square depthwise convolution with the fast backward pass; parameters and state keys are nn.Conv2d's own.

    ``same`` says that the input is padded as TensorFlow pads ("SAME": more at the end where the padding is odd).
    """

    same: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same with strided height and width; autocast is obeyed."""
        weight = self.weight
        autocast = torch.is_autocast_enabled(x.device.type)
        if autocast:
            x = x.to(torch.get_autocast_dtype(x.device.type))
        stride = self.stride[0]
        (top, bottom), (left, right) = (self._pads(size) for size in x.shape[2:])
        if self.compiled(x):
            x = x.contiguous(memory_format=_CHANNELS_LAST)
            out = convolve(x, weight, stride=stride, begin=self.begin(x), sizes=self.sizes(x))
        else:
            if self.same and top + bottom + left + right:
                x = F.pad(x, (left, right, top, bottom))
            weight = weight.to(x.dtype) if autocast else weight
            out = _Depthwise.apply(x, weight, stride, 0 if self.same else top)
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
        """Whether compiled kernels can do it."""
        return (
            self.training
            and torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.dtype in DTYPES
            and self.weight.dtype in DTYPES
            and x.ndim == 4
            and len(x) > 0
            and min(self.sizes(x)) > 0
            and why_none() is None
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
    """Swap every depthwise convolution of ``model`` that fits for a `DepthwiseConv2d` over the same parameters.

    Returns the number of convolutions swapped. State keys, values and gradients stay what they were.
    """
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
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, fast.train(module.training))
    return len(swaps)
