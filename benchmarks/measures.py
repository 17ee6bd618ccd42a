"""One function a measurement: both sides do the same work in turn, round by round.

Each takes a `Setting` and yields a `Pair` a round: the seconds of the reference and of earsight for the same amount of
work.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks import reference
from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.evaluation.metrics import accuracy
from earsight.evaluation.summary import read_predictions
from earsight.features.augment import apply, draw
from earsight.features.spectrogram import Spectrogram
from earsight.features.store import open_store
from earsight.inference.classifier import load_classifier
from earsight.models.backbones import build
from earsight.models.fast.swap import use_fast_layers
from earsight.parallel import in_order
from earsight.recipe import Recipe, load_recipe
from earsight.training.device import keep_freed_memory, training_dtype
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial


@dataclass(frozen=True)
class Setting:
    """What all measurements share: the data set, how many rounds, how many clips or steps a round."""

    dataset: Dataset
    rounds: int
    amount: int

    @property
    def recipe(self) -> Recipe:
        hints = self.dataset.hints
        return load_recipe().resolve(
            sample_rate_hz=hints.sample_rate_hz, clip_seconds=hints.clip_seconds, frames=hints.frames
        )

    @property
    def files(self) -> list[Path]:
        """``amount`` files spread over the data set."""
        rows = np.linspace(0, len(self.dataset.clips) - 1, self.amount).round().astype(int)
        return [self.dataset.file(int(row)) for row in rows]


@dataclass(frozen=True)
class Pair:
    """One round: seconds of each side for the same work, how much work, and what was noted on the way."""

    reference: float
    ours: float
    items: int
    note: str = ""


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spectrograms(setting: Setting, *, wav: bool = False) -> Iterator[Pair]:
    """Files to spectrograms; with ``wav`` of the same clips as 16-bit WAV, as ESC-50 comes, which decodes fast."""
    with tempfile.TemporaryDirectory() as folder:
        files = [_as_wav(path, Path(folder)) for path in setting.files] if wav else setting.files
        yield from _spectrograms(setting, files)


def _as_wav(path: Path, folder: Path) -> Path:
    wave, rate = soundfile.read(path, dtype="int16")
    soundfile.write(folder / f"{path.stem}.wav", wave, rate)
    return folder / f"{path.stem}.wav"


def _spectrograms(setting: Setting, files: list[Path]) -> Iterator[Pair]:
    features = setting.recipe.features
    front_end = Spectrogram(features).use_kernels()

    def ours(path: Path) -> torch.Tensor:
        wave = audio.fit(audio.read(path, sample_rate_hz=features.rate, seconds=5.0), features.samples)
        with torch.inference_mode():
            return front_end.spectrograms(torch.from_numpy(wave)[None])[0, 0]

    difference = max(
        float((ours(path) - reference.spectrogram(reference.load(path))).abs().max())
        for path in files[:: len(files) // 8]
    )
    for _ in range(setting.rounds):
        theirs = seconds(lambda: [reference.spectrogram(reference.load(path)) for path in files])
        mine = seconds(lambda: list(in_order(ours, files)))
        yield Pair(theirs, mine, len(files), f"largest difference of a spectrogram {difference:.1e}")


def augmentation(setting: Setting) -> Iterator[Pair]:
    """One augmented training example from what each side has cached: the wave there, the store here."""
    recipe = setting.recipe
    store = open_store(setting.dataset, recipe.features, semitones=(-2, -1, 0, 1, 2))
    generator = np.random.default_rng(0)
    waves = [reference.load(path) for path in setting.files]
    keep_freed_memory()

    def ours() -> None:
        for _ in range(10):
            draws = draw(recipe.augment, batch=32, generator=generator)
            rows = generator.integers(0, store.shape[0], 32)
            apply(store.read(rows, draws=draws), draws, silence=store.silence.expand(3, -1))

    ours()
    for _ in range(setting.rounds):
        theirs = seconds(lambda: [reference.spectrogram(reference.changed(wave, generator)) for wave in waves])
        yield Pair(theirs / len(waves), seconds(ours) / 320, 1)


def training(setting: Setting, *, backbone: str) -> Iterator[Pair]:
    """Training steps of batch 32 on spectrograms (3, 128, 250)."""
    keep_freed_memory()
    inputs, labels = torch.randn(32, 3, 128, 250), torch.randint(0, 10, (32,))
    plain = reference.network(backbone, classes=10)
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4)
    fast = build(backbone, classes=10, weights="none").to(memory_format=torch.channels_last)
    use_fast_layers(fast)
    optimizer = torch.optim.AdamW(fast.parameters(), lr=1e-4, fused=True)
    last = inputs.contiguous(memory_format=torch.channels_last)
    dtype = training_dtype("auto", torch.device("cpu"))

    def step() -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = fast(last)
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    def theirs() -> None:
        for _ in range(setting.amount):
            reference.train_step(plain, plain_optimizer, inputs, labels)

    def ours() -> None:
        for _ in range(setting.amount):
            step()

    reference.train_step(plain, plain_optimizer, inputs, labels)
    for _ in range(3):
        step()
    for _ in range(setting.rounds):
        yield Pair(seconds(theirs), seconds(ours), 32 * setting.amount, f"{dtype}".removeprefix("torch."))


def fold(setting: Setting) -> Iterator[Pair]:
    """A whole fold with augmentation, from audio files to its accuracy, the pretrained default backbone."""
    dataset, recipe = setting.dataset, setting.recipe
    if setting.amount:
        recipe = recipe.override([f"training.epochs={setting.amount}"])
    held_out = dataset.folds == 1
    clips = [(dataset.file(row), int(dataset.labels[row])) for row in range(len(dataset.clips))]
    train = [clip for clip, out in zip(clips, held_out, strict=True) if not out]
    test = [clip for clip, out in zip(clips, held_out, strict=True) if out]
    scores = [0.0, 0.0]
    for seed in range(setting.rounds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)

            def theirs(seed: int = seed) -> None:
                model = build(recipe.backbone.name, classes=len(dataset.classes), seed=seed)
                rate = recipe.training.learning_rate
                scores[0] = reference.train_fold(
                    model, train, test, epochs=recipe.training.epochs, learning_rate=rate, seed=seed
                )

            def ours(seed: int = seed, place: Path = place) -> None:
                # One fold's worth: the store of all clips is shared by all folds, and is paid for here by one of them.
                ready = prepare(replace(dataset), recipe, cache=place)
                done = run_trial(ready, Trial(1, seed), run=place / "run", device=torch.device("cpu"))
                found = read_predictions(done / "predictions.npz")
                scores[1] = accuracy(found.labels, found.logits.argmax(axis=1))

            mine = seconds(ours)
            slow = seconds(theirs)
        yield Pair(slow, mine, 1, f"accuracy {100 * scores[0]:.1f} against {100 * scores[1]:.1f} %")


def prediction(setting: Setting) -> Iterator[Pair]:
    """Files to labels with a loaded model."""
    recipe = setting.recipe.override(["training.epochs=1", "backbone.weights=none"])
    with tempfile.TemporaryDirectory() as folder:
        ready = prepare(setting.dataset, recipe)
        done = run_trial(ready, Trial(1, 0), run=Path(folder), device=torch.device("cpu"))
        classifier = load_classifier(done / "model.safetensors").use_kernels()  # as the command does for so many
        plain = reference.network(recipe.backbone.name, classes=len(classifier.classes))
        files = setting.files
        for _ in range(setting.rounds):
            theirs = seconds(lambda: reference.predict(plain, files))
            mine = seconds(lambda: list(classifier.predict_files(files)))
            yield Pair(theirs, mine, len(files))
