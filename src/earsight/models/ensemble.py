"""Ensembles: several networks as one, whose probabilities are averaged over the members.

Comes in: raw spectrograms (batch, 3, bands, frames) float32, as the front end gives them; each member normalises them
itself. Goes out: the logarithm of the members' weighted mean probability (batch, classes), or, where classes may sound
together, its log odds. Their softmax, or sigmoids, are that mean, so an ensemble can be used like one network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Member(NamedTuple):
    """One network of an ensemble, from normalised spectrograms (batch, 3, bands, frames) to logits (batch, classes).

    ``mean`` and ``std`` are for each channel, in the spectrogram's units; its logits are divided by ``temperature``
    before the softmax (of classes that may sound together one for each); ``weight`` is its share of the mean, and all
    members' add up to 1.
    """

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    temperature: float | Sequence[float]
    weight: float


class Ensemble(nn.Module):
    """At least one member behind one front end.

    Their state keys become ``networks.0.KEY``, ...; the model card has their other settings.
    """

    def __init__(self, members: Sequence[Member], *, several: bool = False) -> None:
        super().__init__()
        self._several = several
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
        """Spectrograms normalised for one member."""
        return (spectrograms - self.get_buffer("mean")[place]) / self.get_buffer("std")[place]

    def combined(self, logits: Sequence[Tensor]) -> Tensor:
        """Log (odds) of the mean probabilities (batch, classes) of each member's logits (batch, classes)."""
        if self._several:
            parts = [
                (one.float() / torch.as_tensor(temperature, dtype=torch.float32, device=one.device), log_weight)
                for one, (temperature, log_weight) in zip(logits, self._scales, strict=True)
            ]
            sounds, silent = (
                torch.logsumexp(torch.stack([F.logsigmoid(sign * one) + share for one, share in parts]), dim=0)
                for sign in (1, -1)
            )
            return sounds - silent
        logs = [
            torch.log_softmax(one.float() / temperature, dim=1) + log_weight  # type: ignore[operator]
            for one, (temperature, log_weight) in zip(logits, self._scales, strict=True)
        ]
        return torch.logsumexp(torch.stack(logs), dim=0)
