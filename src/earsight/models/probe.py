"""The probe: one sound that every model file has an answer to, by which a machine shows that it answers the same.

Comes in: a card and its network. Goes out: the probe's wave (samples,) float32 at the model's rate, made by arithmetic
alone, and the network's logits (classes,) float32 of it. `earsight.models.modelfile.save` stores them beside the card;
whoever serves the file computes them again through its own path and compares.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from earsight.features.spectrogram import Spectrogram
from earsight.models.card import ModelCard
from earsight.recipe import Features

TOLERANCE = 0.01
"""How far a logit may be off, as a share of the distance between the highest and the lowest."""


def probe_wave(features: Features) -> NDArray[np.float32]:
    """A rising chirp over noise, with a beat of clicks; the same samples on every machine, (samples,) float32.

    Parameters
    ----------
    features : Features
        Resolved.
    """
    rate, samples = features.rate, features.samples
    seconds = np.arange(samples) / rate
    low, high = 0.005 * rate, 0.45 * rate
    share = seconds * rate / samples
    # The phase is the integral of a frequency that rises evenly in octaves.
    phase = 2 * np.pi * low * (samples / rate) * ((high / low) ** share - 1) / np.log(high / low)
    wave: NDArray[np.float64] = 0.3 * np.sin(phase) * np.sin(np.pi * share) ** 2 + 0.02 * _noise(samples)
    wave[:: max(1, rate // 4)] += 0.5
    return wave.astype(np.float32)


def _noise(samples: int) -> NDArray[np.float64]:
    """White noise from -1 to 1 by the mixing steps of MurmurHash3: numpy's own streams may change with its version."""
    state = np.arange(1, samples + 1, dtype=np.uint64)
    keep = np.uint64((1 << 32) - 1)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor) & keep
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(16))
    return mixed.astype(np.float64) / float(1 << 31) - 1.0


def probe_logits(card: ModelCard, model: nn.Module) -> NDArray[np.float32]:
    """What a network on the CPU answers to the probe, (classes,) float32; it is left in eval mode."""
    front_end = Spectrogram(card.recipe.features)
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (card.mean, card.std))
    with torch.inference_mode():
        pictures = front_end.views(torch.from_numpy(probe_wave(card.recipe.features))[None])[:, 0]
        scores = model.eval()(((pictures - mean) / std).expand(-1, 3, -1, -1))
    return np.asarray(scores[0].float().numpy())


def distance(found: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    """The largest difference of two answers, as a share of the second's spread; infinite where one is not finite."""
    if not (np.isfinite(found).all() and np.isfinite(stored).all()):
        return float("inf")
    spread = max(float(stored.max() - stored.min()), 1e-3)
    return float(np.abs(found - stored).max()) / spread
