"""Batch norm with the addition and the activation after it, fast on a CPU.

Comes in: feature maps (batch, channels, height, width), float32 or bfloat16. Goes out: the values, gradients and
running statistics of ``torch.nn.BatchNorm2d`` and what follows it, to rounding.

Why: in a training step of EfficientNet-Lite0 batch norms and activations took 43 % of the time, nearly all of it
reading and writing feature maps. The kernels (`earsight.kernels.batch_norm`) pass over them eight times where PyTorch
passes twelve times (docs/performance.md). In eval mode and on other devices the modules compute as PyTorch's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from earsight.kernels.runtime import DTYPES, run

LINEAR, RELU, RELU6 = (-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0)
"""Activations, as the limits at which they clamp."""

_PART_BYTES = 1 << 16
_MOST_PARTS = 64


def sizes(x: Tensor, *, channels: int | None = None) -> dict[str, float]:
    """Sizes of a job on some of the channels of a map; its parts depend on nothing else."""
    rows = x.numel() // x.shape[1]
    channels = channels or x.shape[1]
    parts = max(1, min(_MOST_PARTS, rows // 16, rows * channels * x.element_size() // _PART_BYTES))
    return {"parts": parts, "rows": rows, "channels": channels, "stride": channels}


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


Running = tuple[Tensor | None, Tensor | None, float]
"""Running mean and variance, and the momentum of their update."""


def normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    side: Tensor | None,
    *,
    running: Running,
    ends: tuple[float, float],
    eps: float,
) -> tuple[Tensor, Tensor]:
    """``activation(norm(x) + side)``, and the statistics (4, channels) that the backward pass needs."""
    job = sizes(x)
    out = torch.empty_like(x)
    state = torch.empty(4, x.shape[1])
    sums = torch.empty(int(job["parts"]), 2, x.shape[1])
    job |= {"x": x.data_ptr(), "side": _address(side), "out": out.data_ptr()}
    job |= {"weight": _address(weight), "bias": _address(bias)}
    job |= {"running_mean": _address(running[0]), "running_var": _address(running[1]), "momentum": running[2]}
    job |= {"state": state.data_ptr(), "sums": sums.data_ptr(), "low": ends[0], "high": ends[1], "eps": eps}
    run("moments", x.dtype, job)
    run("apply", x.dtype, job)
    return out, state


def normalise_backward(
    x: Tensor,
    state: Tensor,
    out: Tensor | None,
    grad: Tensor,
    more: Tensor | None = None,
    *,
    ends: tuple[float, float],
    wanted: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients of x where wanted, of weight and bias as the first rows of (4, channels), and of a side.

    ``out`` is what `normalise` gave, if there was a side; then its gradient is ``grad + more``.
    """
    job = sizes(x)
    slopes = torch.empty(4, x.shape[1])
    sums = torch.empty(int(job["parts"]), 2, x.shape[1])
    grad_side = None if out is None else torch.empty_like(x)
    job |= {"x": x.data_ptr(), "y": _address(out), "grad": grad.data_ptr(), "more": _address(more)}
    job |= {"side_out": _address(grad_side), "state": state.data_ptr(), "sums": sums.data_ptr()}
    job |= {"slopes": slopes.data_ptr(), "low": ends[0], "high": ends[1]}
    run("affine_gradients", x.dtype, job)
    grad_x = None
    if wanted:
        grad_x = torch.empty_like(x)
        job["out"] = grad_x.data_ptr()
        if grad_side is not None:  # the output's gradient, masked by the activation
            job |= {"grad": grad_side.data_ptr(), "low": LINEAR[0], "high": LINEAR[1]}
        run("input_gradient", x.dtype, job)
    return grad_x, slopes, grad_side


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        side: Tensor | None,
        running: Running,
        ends: tuple[float, float],
        eps: float,
    ) -> Tensor | tuple[Tensor, Tensor]:
        out, state = normalise(x, weight, bias, side, running=running, ends=ends, eps=eps)
        # With a side, the activation's mask is read from its output, which the next layer keeps too.
        ctx.save_for_backward(x, state, out if side is not None else None)
        ctx.ends, ctx.affine = ends, (weight is not None, bias is not None)
        ctx.set_materialize_grads(False)
        return out if side is None else (out, out.detach())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, state, out = ctx.saved_tensors
        found = [grad.contiguous(memory_format=torch.channels_last) for grad in grads if grad is not None]
        if not found:
            return (None,) * 7
        grad_x, slopes, grad_side = normalise_backward(
            x, state, out, *found, ends=ctx.ends, wanted=ctx.needs_input_grad[0]
        )
        weighted, biased = ctx.affine
        return grad_x, slopes[0] if weighted else None, slopes[1] if biased else None, grad_side, None, None, None


class NormAct(nn.BatchNorm2d):
    """Batch normalisation, an addition where one is given, and an activation; state keys are nn.BatchNorm2d's own."""

    ends: tuple[float, float] = LINEAR

    def forward(self, input: Tensor, side: Tensor | None = None) -> Tensor:  # noqa: A002  # nn.BatchNorm2d's name
        """``activation(norm(input) + side)``, all (batch, channels, height, width)."""
        x = input
        if not self.fast(x, side):
            x = super().forward(x)
            x = x if side is None else x + side
            return self._rest({LINEAR: nn.Identity(), RELU: nn.ReLU(), RELU6: nn.ReLU6()}[self.ends](x))
        x = x.contiguous(memory_format=torch.channels_last)
        side = None if side is None else side.contiguous(memory_format=torch.channels_last)
        out = _Norm.apply(x, self.weight, self.bias, side, self.running(), self.ends, self.eps)
        if side is None:
            return self._rest(out)
        out, twin = out
        out.twin = twin
        return self._rest(out)

    def running(self) -> Running:
        """What a batch updates; it is counted."""
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        return self.running_mean, self.running_var, momentum

    def _rest(self, x: Tensor) -> Tensor:
        for module in self.children():  # dropout and an activation that are not ours
            x = module(x)
        return x

    def fast(self, x: Tensor, side: Tensor | None = None) -> bool:
        """Whether the kernels can compute it."""
        kept = [value for value in (self.weight, self.bias, self.running_mean) if value is not None]
        return (
            self.training
            and x.device.type == "cpu"
            and x.ndim == 4
            and x.dtype in DTYPES
            and x.numel() > x.shape[1]
            and (side is None or (side.dtype == x.dtype and side.shape == x.shape))
            and all(value.dtype == torch.float32 and value.is_contiguous() for value in kept)
        )


def _ends(module: nn.Module) -> tuple[float, float] | None:
    """The limits at which an activation clamps; None if it does more than clamp."""
    return {nn.Identity: LINEAR, nn.ReLU: RELU, nn.ReLU6: RELU6}.get(type(module))


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    """A block's shortcut. If x comes from a block, its second output is read, whose kernel adds the two gradients."""
    twin: Tensor = getattr(x, "twin", x)
    return twin if block.downsample is None else block.downsample(twin)


class _BasicBlock(BasicBlock):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = _shortcut(self, x)
        out: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x))), shortcut)
        return out


class _Bottleneck(Bottleneck):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = _shortcut(self, x)
        x = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        out: Tensor = self.bn3(self.conv3(x), shortcut)
        return out


_PAIRS = {
    BasicBlock: (("bn1", "act1"), ("bn2", "act2")),
    Bottleneck: (("bn1", "act1"), ("bn2", "act2"), ("bn3", "act3")),
    ResNet: (("bn1", "act1"),),
}
"""Which activation of a timm module follows which of its norms; in a block, the last one after the addition."""
_FAST_BLOCKS = {BasicBlock: _BasicBlock, Bottleneck: _Bottleneck}


def _norm_of(module: nn.Module) -> NormAct | None:
    """A `NormAct` over the same parameters and buffers, where a module is a batch norm, with or without activation."""
    if type(module) not in (nn.BatchNorm2d, BatchNormAct2d) or not isinstance(module, nn.BatchNorm2d):
        return None
    out = NormAct(
        module.num_features,
        eps=module.eps,
        momentum=module.momentum,
        affine=module.affine,
        track_running_stats=module.track_running_stats,
        device="meta",
    )
    out.weight, out.bias = module.weight, module.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(out, name, getattr(module, name))
    if isinstance(module, BatchNormAct2d):
        ends = _ends(module.act) if type(module.drop) is nn.Identity else None
        if ends is None:  # what is not ours stays what it is
            out.drop, out.act = module.drop, module.act
        else:
            out.ends = ends
    return out.train(module.training)


def _join_activations(module: nn.Module) -> None:
    """Let the norms of a timm ResNet or of its blocks apply the activations after them."""
    pairs = _PAIRS.get(type(module), ())
    norms = [getattr(module, norm) for norm, _ in pairs]
    ends = [_ends(getattr(module, act)) for _, act in pairs]
    free = all(type(norm) is NormAct and norm.ends == LINEAR and not list(norm.children()) for norm in norms)
    if not pairs or None in ends or not free:
        return
    block = _FAST_BLOCKS.get(type(module))
    if block is not None:
        between = [getattr(module, name, None) for name in ("drop_block", "aa", "se", "drop_path")]
        if any(part is not None and type(part) is not nn.Identity for part in between):
            return
        module.__class__ = block
    for norm, end, (_, act) in zip(norms, ends, pairs, strict=True):
        norm.ends = end
        setattr(module, act, nn.Identity())


def use_fast_norms(model: nn.Module) -> int:
    """Swap the batch norms, with the activations and additions after them, for `NormAct`; returns how many norms."""
    found = ((name, _norm_of(module)) for name, module in model.named_modules() if name)
    swaps = {name: norm for name, norm in found if norm is not None}
    for name, norm in swaps.items():
        model.set_submodule(name, norm)
    for module in list(model.modules()):
        _join_activations(module)
    return len(swaps)
