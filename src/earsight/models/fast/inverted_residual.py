"""Inverted residual blocks that compute the first batch norm's statistics from their input, which saves memory passes.

Comes in: feature maps (batch, channels, height, width), float32 or bfloat16, on the CPU. Goes out: the values,
gradients and running statistics of a 1 x 1 convolution that widens them, a batch norm, an activation and a depthwise
convolution, to rounding.

Why: the widened maps are the largest of a network, and a batch norm passes over them eight times in a training step.
None is needed, because the widened maps are linear in the few channels of x. With W the kernel, C the covariance of x
and m its mean over all positions, the widened maps W x have mean W m and variance diag(W C W'), so the norm is folded
into the kernel; the depthwise convolution applies the activation as it reads them. Backward, it masks the gradient g
by the activation as it writes it. The terms that a norm subtracts from a gradient (its mean and its projection on the
normalised maps) are linear in x too: they follow from the sums of g and of g x', which the kernel's gradient needs
anyway. All products use x less its mean, since most of x itself would cancel, and the mean's rounding error is kept
separately. For small maps the products cost more than the passes, and the layers are not used.

Float32 does not resolve a widened channel's variance below a millionth of the sum of its kernel entries' own variances.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from earsight.kernels.runtime import run
from earsight.kernels.widths import padded
from earsight.models.fast import depthwise as depthwise_conv
from earsight.models.fast.depthwise import DepthwiseConv2d
from earsight.models.fast.norm_act import NormAct, Running
from earsight.models.fast.pointwise import PointwiseConv2d, maps_of, rows_of

_POSITIONS_PER_CHANNEL = 16
"""Positions in a batch per widened channel from which this is faster."""
_MOST_CHANNELS = 512
"""Most channels of the narrow maps that the kernel has room for."""
_PARTS = 8
"""Parts of a map's positions, whose sums are added as float32; fewer for small maps (64 positions each)."""
_TALL = 16384
"""Rows from which a product of columns is computed in parts, which is faster and rounds less."""


def _covariance(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the columns of a matrix, as float32."""
    count, channels = rows.shape
    width = padded(channels)
    parts = max(1, min(_PARTS, count // 64))
    mean, covariance = torch.empty(channels), torch.empty(channels, channels)
    sums = torch.empty(parts, width + 1, width)
    job = {"parts": parts, "rows": count, "channels": channels, "padded": width}
    places = {"x": rows, "sums": sums, "mean": mean, "covariance": covariance}
    run("covariance", rows.dtype, job | {name: tensor.data_ptr() for name, tensor in places.items()})
    return mean, covariance


def _centred(rows: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less their mean, where products lose little to rounding, and the rounding error of that mean."""
    centre = mean.to(rows.dtype)
    return rows - centre, mean - centre.float()


def _product_of_columns(a: Tensor, b: Tensor) -> Tensor:
    """``a.t() @ b`` of two matrices of many rows, as float32."""
    if len(a) < _TALL or len(a) % _PARTS:
        return (a.t() @ b).float()
    a, b = (matrix.view(_PARTS, -1, matrix.shape[1]) for matrix in (a, b))
    return torch.bmm(a.transpose(1, 2), b).sum(0, dtype=torch.float32)


class _FirstHalf(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Tensor,
        weight: Tensor,
        bias: Tensor,
        depthwise: Tensor,
        norm: tuple[Running, tuple[float, float], float],
        geometry: dict[str, Any],
    ) -> Tensor:
        (running_mean, running_var, momentum), ends, eps = norm
        rows, wide = rows_of(x), kernel.flatten(1)
        mean, covariance = _covariance(rows)
        along = wide @ covariance
        variance = (along * wide).sum(1).clamp_(min=0)
        inverse = (variance + eps).rsqrt_()
        scaled = (wide * (weight * inverse)[:, None]).to(x.dtype)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(wide @ mean, momentum)
            running_var.lerp_(variance * (len(rows) / (len(rows) - 1)), momentum)
        rows, rest = _centred(rows, mean)
        expanded = maps_of(rows @ scaled.t(), x)
        job = depthwise_conv.job_of(expanded, **geometry)
        shift = torch.zeros(int(job["padded"]))
        torch.sub(bias, scaled.float() @ rest, out=shift[: len(bias)])
        ctx.save_for_backward(rows, wide, weight, depthwise, expanded, shift, scaled, rest, inverse, along)
        ctx.job, ctx.ends, ctx.is_spent = job, ends, False
        return depthwise_conv.forward(expanded, depthwise, depthwise_conv.with_activation(job, shift, ends))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.is_spent:
            raise RuntimeError("a second backward pass: the first one has overwritten its inputs")
        ctx.is_spent = True
        with torch.autocast("cpu", enabled=False):
            return *_gradients(ctx, grads[0].contiguous(memory_format=torch.channels_last)), None, None


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the narrow maps, the kernel, weight and bias of the norm, and the depthwise kernel."""
    rows, wide, weight, depthwise, expanded, shift, scaled, rest, inverse, along = ctx.saved_tensors
    job = depthwise_conv.with_activation(ctx.job, shift, ctx.ends)
    grad_depthwise = depthwise_conv.weight_gradient(expanded, grad, depthwise, job)
    # Nothing else reads the widened maps again, so the largest gradient takes no memory of its own.
    bias_grad = depthwise_conv.gradient_behind_activation(expanded, grad, depthwise, job)
    cut, count = rows_of(expanded), len(rows)
    # Sums of the gradient's products with x around its mean, (channels, narrow channels).
    products = _product_of_columns(rows, cut).t().contiguous().addr_(bias_grad, rest, alpha=-1)
    weight_grad = (wide * products).sum(1) * inverse
    scale = weight * inverse
    kernel_grad = products.sub_((weight_grad * inverse)[:, None] * along).mul_(scale[:, None])
    # What the norm subtracts, as a matrix over x around its mean and a row, of matrices as they are rounded. The row is
    # added as float32: if it were rounded, the sum of the gradient over positions, which is 0, would not be.
    matrix = ((wide.t() * (scale * inverse * weight_grad / -count)) @ wide).to(rows.dtype)
    row = (bias_grad / -count) @ scaled.float() - rest @ matrix.float()
    grad_x = (cut @ scaled).addmm_(rows, matrix).add_(row)
    return maps_of(grad_x, expanded), kernel_grad[:, :, None, None], weight_grad, bias_grad, grad_depthwise


class _InvertedResidual(InvertedResidual):
    def forward(self, x: Tensor) -> Tensor:
        parts: Any = self
        out: Tensor = parts.bn3(parts.conv_pwl(parts.se(parts.aa(parts.bn2(self._first_half(x))))))
        return parts.drop_path(out) + x if self.has_skip else out

    def _first_half(self, x: Tensor) -> Tensor:
        norm: Any = self.bn1
        depthwise: Any = self.conv_dw
        autocast = torch.is_autocast_enabled("cpu")
        seen = x.to(torch.get_autocast_dtype("cpu")) if autocast and self._pays(x) else x
        one_type = autocast or x.dtype == torch.float32
        if not (self._pays(x) and one_type and norm.fast(seen) and depthwise.compiled(seen)):
            out: Tensor = depthwise(norm(self.conv_pw(x)))
            return out
        seen = seen.contiguous(memory_format=torch.channels_last)
        geometry = {"stride": depthwise.stride[0], "begin": depthwise.begin(seen), "sizes": depthwise.sizes(seen)}
        parameters = self.conv_pw.weight, norm.weight, norm.bias, depthwise.weight
        with torch.autocast("cpu", enabled=False):  # statistics stay float32
            found: Tensor = _FirstHalf.apply(seen, *parameters, (norm.running(), norm.ends, norm.eps), geometry)
        return found

    def _pays(self, x: Tensor) -> bool:
        """Whether passes over the widened maps cost more than the products in their place (docs/performance.md)."""
        kernel: Tensor = self.conv_pw.weight
        enough = x.numel() >= _POSITIONS_PER_CHANNEL * x.shape[1] * len(kernel)
        return enough and kernel.dtype == torch.float32 and x.device.type == "cpu"


def _fits(module: nn.Module) -> bool:
    if type(module) is not InvertedResidual or module.conv_s2d is not None:
        return False
    pointwise, norm, depthwise = module.conv_pw, module.bn1, module.conv_dw
    return (
        type(pointwise) in (nn.Conv2d, PointwiseConv2d)
        and pointwise.in_channels <= _MOST_CHANNELS
        and pointwise.kernel_size == pointwise.stride == (1, 1)
        and pointwise.padding == (0, 0)
        and pointwise.groups == 1
        and pointwise.bias is None
        and type(norm) is NormAct
        and norm.weight is not None
        and norm.bias is not None
        and not list(norm.children())
        and type(depthwise) is DepthwiseConv2d
        and depthwise.bias is None
    )


def use_fast_inverted_residuals(model: nn.Module) -> int:
    """Let every inverted residual that fits compute its first four layers as one; returns how many.

    Comes after `use_fast_depthwise` and `use_fast_norms`. A second backward pass through the same graph is refused, and
    while it trains the four layers are not called, so hooks on them see nothing.
    """
    found = [module for module in model.modules() if _fits(module)]
    for module in found:
        module.__class__ = _InvertedResidual
    return len(found)
