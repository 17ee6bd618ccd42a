"""``python -m benchmarks.released_code DATA``: where our log-mels and the paper's released code's differ at 22.05 kHz.

DATA is a folder of ESC-10 or ESC-50; its first clips are resampled to 22.05 kHz, and joined where 30 s are needed. Both
differences are of log-mels, before any network:

- bins: the code takes torchaudio's mel bank, whose bins are spread evenly from 0 Hz to half the rate. The FFT of 100 ms
  has 2205 points, an odd number, whose last bin lies below that; ours stand at their frequencies.
- length: a GTZAN clip mostly has 661,794 samples, a little more than 30 s. The code resizes all of it to 1500 columns,
  here its first 30.00 s are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from earsight.data.audio import fit, read
from earsight.data.layouts import open_dataset
from earsight.features.filterbanks import LOG_OFFSET, mel_filterbank, mel_to_hz
from earsight.features.spectrogram import Spectrogram, resize_matrix
from earsight.recipe import Features

RATE, POINTS, BANDS, HOPS = 22050, 2205, 128, {25: 10, 50: 25, 100: 50}
GTZAN = 661_794


def evenly_spread() -> np.ndarray:
    """The mel bank (128, 1103) over bins that are spread evenly from 0 Hz to half the rate."""
    bins = np.linspace(0, RATE / 2, POINTS // 2 + 1)
    edges = mel_to_hz(np.linspace(0.0, 2595.0 * np.log10(1 + RATE / 2 / 700), BANDS + 2))
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0.0, np.minimum(rising, falling))


def power(wave: np.ndarray, window_ms: int) -> np.ndarray:
    """Power (1103, columns) of a wave's centred frames under a periodic Hann window, in float64."""
    length = round(RATE * window_ms / 1000)
    window = np.zeros(POINTS)
    start = (POINTS - length) // 2
    window[start : start + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    padded = np.pad(wave.astype(np.float64), POINTS // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, POINTS)[:: round(RATE * HOPS[window_ms] / 1000)]
    return np.abs(np.fft.rfft(frames * window, axis=1).T) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a folder of ESC-10 or ESC-50")
    parser.add_argument("--clips", type=int, default=48)
    asked = parser.parse_args()
    dataset = open_dataset(asked.data)
    waves = [read(dataset.root / clip.path, sample_rate_hz=RATE) for clip in dataset.clips[: asked.clips]]
    ours = mel_filterbank(sample_rate_hz=RATE, fft_points=POINTS, bands=BANDS).astype(np.float64)
    theirs = evenly_spread()
    for window_ms in HOPS:
        found = []
        for wave in waves:
            energy = power(wave, window_ms)
            found.append(np.abs(np.log(ours @ energy + LOG_OFFSET) - np.log(theirs @ energy + LOG_OFFSET)))
        print(
            f"bins, window of {window_ms} ms: {np.mean([one.mean() for one in found]):.4f} on average over "
            f"{len(found)} clips, at most {max(one.max() for one in found):.2f}"
        )
    features = Features(sample_rate_hz=RATE, clip_seconds=30, frames=1500)
    joined = [np.concatenate(waves[n : n + 7]) for n in range(0, len(waves) - 6, 7)]
    cut = Spectrogram(features)
    found = []
    for wave in joined:
        whole = torch.from_numpy(fit(wave, GTZAN))
        for window, window_ms in enumerate(HOPS):
            logs = torch.from_numpy(np.log(ours @ power(whole.numpy(), window_ms) + LOG_OFFSET)).float()
            resized = logs @ resize_matrix(logs.shape[1], 1500)
            found.append((cut(whole[None, : features.samples])[0, window] - resized).abs())
    print(f"length: {torch.stack(found).mean():.3f} on average over {len(joined)} sounds of {GTZAN} samples")


if __name__ == "__main__":
    main()
