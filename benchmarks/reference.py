"""The paper's way, written with the paper's tools: librosa, one clip at a time, float32, default memory format.

It is slow on purpose only where the paper's tools are: nothing is left out that they would do, and nothing is added.
"""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

RATE = 44100
SAMPLES = 5 * RATE
WINDOWS_AND_HOPS_MS = ((25, 10), (50, 25), (100, 50))


def load(path: Path) -> NDArray[np.float32]:
    """A clip at 44.1 kHz, cropped or padded to five seconds."""
    wave, _ = librosa.load(path, sr=RATE, mono=True)
    return librosa.util.fix_length(wave, size=SAMPLES)


def spectrogram(wave: NDArray[np.float32]) -> Tensor:
    """Three log-mels resized in time to (3, 128, 250)."""
    channels = []
    for window_ms, hop_ms in WINDOWS_AND_HOPS_MS:
        mel = librosa.feature.melspectrogram(
            y=wave,
            sr=RATE,
            n_fft=4410,
            win_length=round(window_ms * RATE / 1000),
            hop_length=round(hop_ms * RATE / 1000),
            n_mels=128,
            htk=True,
            norm=None,
            pad_mode="reflect",
        )
        log_mel = torch.from_numpy(np.log(mel + 1e-6).astype(np.float32))
        channels.append(vision.resize(log_mel[None], [128, 250], antialias=True)[0])
    return torch.stack(channels)


def changed(wave: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """The paper's augmentation: shifted by -2 to 2 semitones and stretched by 0.9 to 1.2, with phase vocoders."""
    shifted = librosa.effects.pitch_shift(wave, sr=RATE, n_steps=int(generator.integers(-2, 3)))
    stretched = librosa.effects.time_stretch(shifted, rate=float(generator.uniform(0.9, 1.2)))
    return librosa.util.fix_length(stretched, size=SAMPLES)


def network(name: str, *, classes: int) -> nn.Module:
    """A timm model as it comes."""
    return timm.create_model(name, num_classes=classes)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, spectrograms: Tensor, labels: Tensor) -> float:
    """One plain step in float32."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(spectrograms), labels)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def train_fold(
    model: nn.Module,
    train: list[tuple[Path, int]],
    test: list[tuple[Path, int]],
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> float:
    """A fold in the released code's order: spectrograms of the originals once, those of changed copies whenever drawn.

    Every epoch takes as many examples as there are clips, half of them originals and half changed, so that the number
    of training examples is that of the other side. (The released code takes twice as many, and evaluates the held-out
    fold after each epoch; both are left out.) Returns the held-out accuracy of the last epoch.
    """
    generator = np.random.default_rng(seed)
    waves = [load(path) for path, _ in train]
    originals = [spectrogram(wave) for wave in waves]
    labels = torch.tensor([label for _, label in train])
    count, batch = len(train), 32
    steps = epochs * (count // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = np.concatenate(
            [generator.permutation(count)[: count // 2], generator.permutation(count)[: count // 2] + count]
        )
        for drawn in np.split(generator.permutation(order), count // batch):
            rows = drawn % count
            spectrograms = [
                originals[row] if place < count else spectrogram(changed(waves[row], generator))
                for place, row in zip(drawn, rows, strict=True)
            ]
            train_step(model, optimizer, torch.stack(spectrograms), labels[torch.from_numpy(rows)])
            schedule.step()
    return float((predict(model, [path for path, _ in test]) == np.array([label for _, label in test])).mean())


def predict(model: nn.Module, paths: list[Path]) -> NDArray[np.int64]:
    """Classes of files, one clip at a time."""
    model.eval()
    with torch.no_grad():
        return np.array([int(model(spectrogram(load(path))[None]).argmax()) for path in paths])
