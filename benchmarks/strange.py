"""Sounds of no class, synthesised: noises, tones, hum, sweeps and silence, at levels of -40 to -3 dB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Waves = NDArray[np.float32]


def strange_sounds(*, rate_hz: int, samples: int, count: int = 10, seed: int = 0) -> dict[str, Waves]:
    """Kind -> waves (count, samples) float32; the same for the same seed."""
    chance = np.random.default_rng(seed)
    seconds = np.arange(samples) / rate_hz

    def noise(slope: float) -> NDArray[np.float64]:
        spectrum = np.fft.rfft(chance.normal(size=samples))
        return np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 1.0) ** (-slope / 2), samples)

    def tone(hz: float) -> NDArray[np.float64]:
        return np.sin(2 * np.pi * hz * seconds)

    makers = {
        "white noise": lambda: noise(0),
        "pink noise": lambda: noise(1),
        "brown noise": lambda: noise(2),
        "tone": lambda: tone(100 * 80 ** chance.random()),
        "mains hum": lambda: np.sum([tone(50 * n) / n for n in range(1, 9)], axis=0),
        "sweep": lambda: np.sin(2 * np.pi * (100 * seconds + chance.uniform(500, 4000) * seconds**2 / seconds[-1])),
    }
    out = {}
    for kind, make in makers.items():
        waves = []
        for _ in range(count):
            wave = make()
            waves.append(10 ** (chance.uniform(-40, -3) / 20) * wave / np.abs(wave).max())
        out[kind] = np.array(waves, dtype=np.float32)
    quiet = [10 ** (chance.uniform(-110, -70) / 20) * chance.normal(size=samples) for _ in range(count - 1)]
    out["silence"] = np.array([np.zeros(samples), *quiet], dtype=np.float32)
    return out
