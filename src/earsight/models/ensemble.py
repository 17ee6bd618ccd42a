"""Several networks as one: probabilities averaged over the members.

Comes in: spectrograms (batch, 3, bands, frames) of log-mels as the front end gives them, without normalisation, for each
member brings its own. Goes out: the logarithm of the members' weighted mean probability (batch, classes), so that a
softmax of it is that mean and an ensemble serves wherever one network does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Member(NamedTuple):
    """One network of an ensemble.

    Attributes
    ----------
    network : nn.Module
        Normalised spectrograms (batch, 3, bands, frames) to logits (batch, classes).
    mean, std : sequence of float
        For each window, in units of log-mel.
    temperature : float
        Its logits are divided by it before the softmax.
    weight : float
        Its share of the mean; all members' add up to 1.
    """

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    temperature: float
    weight: float


class Ensemble(nn.Module):
    """Members behind one front end.

    Parameters
    ----------
    members : sequence of Member
        At least one. Their state keys become ``networks.0.KEY``, ...; all else of them is the model card's.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.networks = nn.ModuleList([member.network for member in members])
        self._scales = [(member.temperature, math.log(member.weight)) for member in members]
        for name in ("mean", "std"):
            rows = torch.tensor([list(getattr(member, name)) for member in members], dtype=torch.float32)
            self.register_buffer(name, rows[:, :, None, None], persistent=False)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Log of the mean probabilities (batch, classes) of spectrograms (batch, 3, bands, frames)."""
        return self.combined(
            [network(self.normalised(spectrograms, place)) for place, network in enumerate(self.networks)]
        )

    def normalised(self, spectrograms: Tensor, place: int) -> Tensor:
        """Spectrograms as one member sees them."""
        return (spectrograms - self.get_buffer("mean")[place]) / self.get_buffer("std")[place]

    def combined(self, logits: Sequence[Tensor]) -> Tensor:
        """Log of the mean probabilities (batch, classes) of each member's logits (batch, classes)."""
        logs = [
            torch.log_softmax(one.float() / temperature, dim=1) + log_weight
            for one, (temperature, log_weight) in zip(logits, self._scales, strict=True)
        ]
        return torch.logsumexp(torch.stack(logs), dim=0)


def ensemble_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state dict of the `Ensemble` whose members have these state dicts, in their order."""
    return {f"networks.{place}.{key}": value for place, state in enumerate(states) for key, value in state.items()}
