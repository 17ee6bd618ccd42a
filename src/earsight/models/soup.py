"""A soup: the weights of several fine-tuned networks averaged into one, which costs no more than one of them.

Comes in: state dicts of networks of one architecture and one recipe, fine-tuned from the same weights. Goes out: their
mean, and batch-norm statistics re-estimated for it. An average of statistics would not do: the mean weights give other
activations than any member's, so their mean and variance are measured anew on the training pictures.

M. Wortsman et al., "Model soups", ICML 2022; for the statistics, P. Izmailov et al., "Averaging weights leads to wider
optima and better generalization", UAI 2018, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from earsight.errors import ModelError


def average_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts, computed in float64; what is not floating point is the first's.

    Raises
    ------
    ModelError
        If there is none, or their names, shapes or types differ.
    """
    if not states:
        raise ModelError("soup: no members; expected at least one")
    for place, state in enumerate(states[1:], start=2):
        odd = next((key for key in sorted(states[0].keys() | state.keys()) if not _alike(states[0], state, key)), None)
        if odd is not None:
            raise ModelError(f"soup: member {place} differs from the first in {odd}; mix members of one architecture")
    out = {}
    for key, first in states[0].items():
        if first.is_floating_point():
            total = sum((state[key].double() for state in states[1:]), start=first.double())
            out[key] = (total / len(states)).to(first.dtype)
        else:
            out[key] = first.clone()
    return out


def measured_norms(model: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """Names of the norms whose statistics must be measured anew: those on which the members do not agree.

    Statistics that all members share were frozen in training and are right as they are.
    """
    out = []
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            key = f"{name}.running_mean"
            if any(not torch.equal(states[0][key], state[key]) for state in states[1:]):
                out.append(name)
    return out


def measure_norms(model: nn.Module, batches: Iterable[Tensor], *, names: Sequence[str]) -> None:
    """Measure the statistics of some norms anew, in place: the mean over batches of their means and variances.

    Parameters
    ----------
    model : nn.Module
        Left in eval mode.
    batches : iterable of Tensor, shape (batch, 3, bands, frames)
        Training pictures, unchanged, in batches of about one size.
    names : sequence of str
        As `measured_norms` gives them; all else stays in eval mode, without dropout.
    """
    model.eval()
    norms = [module for name, module in model.named_modules() if name in set(names) and isinstance(module, _NormBase)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    try:
        with torch.inference_mode():
            for batch in batches:
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()


def _alike(first: Mapping[str, Tensor], second: Mapping[str, Tensor], key: str) -> bool:
    if key not in first or key not in second:
        return False
    return first[key].shape == second[key].shape and first[key].dtype == second[key].dtype
