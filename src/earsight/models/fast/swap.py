"""Swap a network's layers for forms that train fast on a CPU.

Comes in: a backbone. Goes out: the same backbone with layers swapped for those of `depthwise`, `norm_act`, `densenet`,
`pointwise` and `inverted_residual`; its state keys and parameters are unchanged, its values and gradients too, to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from earsight.kernels.compiling import compile_kernels, is_compiled
from earsight.kernels.runtime import why_none
from earsight.models.fast.densenet import use_fast_dense
from earsight.models.fast.depthwise import use_fast_depthwise
from earsight.models.fast.inverted_residual import use_fast_inverted_residuals
from earsight.models.fast.norm_act import use_fast_norms
from earsight.models.fast.pointwise import use_fast_pointwise


def use_fast_layers(model: nn.Module) -> nn.Module:
    """Swap all layers that have a fast form, in place, and return the model; without numba it is unchanged."""
    if why_none() is not None:
        return model
    use_fast_depthwise(model)
    use_fast_norms(model)
    use_fast_dense(model)
    use_fast_pointwise(model)
    use_fast_inverted_residuals(model)
    return model


def make_kernels_ready(dtype: torch.dtype, *, say: Callable[[str], None]) -> None:
    """Compile the kernels for a dtype unless they are cached; `say` it first, since it takes seconds."""
    if why_none() is None and not is_compiled(dtype):
        say("compiling kernels for this processor, once (some 10 to 20 seconds)")
        compile_kernels(dtype)
    if why_none() is not None:
        say(f"note: {why_none()}, so training takes PyTorch's own layers, which are slower")
