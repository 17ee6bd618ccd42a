"""``python -m benchmarks.gpu [--json]``: training steps on a GPU, and what the largest of the paper's cells takes.

On sounds in ESC-50's shape (2000 clips of five seconds at 44.1 kHz, 50 classes, 5 folds; noise, since speed does not
depend on the sounds) it measures, for one backbone at batch 32:

- images/s of a plain loop (float32 as torch has it by default, default memory format, no graph) whose spectrograms the
  host makes, by librosa in as many threads as there are cores, or reads from a cache; and of ours from each source;
- the share of a step that goes into its input: a step from each source against the same step on a batch that stands
  still;
- whole trials, alone and several at once, from the command's own functions, and from these the time of 5 folds x 5
  seeds.

``--device cpu --small`` goes through the same code with a tiny network, to show that it works; its figures mean
nothing. Ends with exit code 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks import reference
from earsight.data import audio
from earsight.data.datasets import Clip, Dataset, Hints
from earsight.errors import EarsightError
from earsight.execution.schedule import run_trials
from earsight.features.augment import draw
from earsight.models.backbones import build
from earsight.parallel import in_order
from earsight.recipe import Recipe, load_recipe
from earsight.training.batches import Batches, Data, HostBatches, batches_of
from earsight.training.device import describe_machine, make_recorder, pick_device, set_up, step_kind
from earsight.training.optim import make_optimizer
from earsight.training.preparation import Prepared, prepare, source_of
from earsight.training.step import Step
from earsight.training.trial import Trial

RUNS = 25
"""Trials of a cell of the paper's Table II: five folds, five seeds."""
SOURCES = ("store", "spectrograms", "waves")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    clips: int
    classes: int
    files: int
    backbone: str
    epochs: int
    steps: int
    plain_steps: int


FULL = Size(clips=2000, classes=50, files=40, backbone="densenet201", epochs=70, steps=100, plain_steps=4)
SMALL = Size(clips=50, classes=5, files=5, backbone="test_resnet", epochs=2, steps=2, plain_steps=1)


def sounds(folder: Path, size: Size) -> Dataset:
    """A data set of a few files of noise, each named many times."""
    generator = np.random.default_rng(0)
    for number in range(size.files):
        soundfile.write(folder / f"{number}.wav", generator.normal(0, 0.1, 220500).clip(-1, 1), 44100)
    clips = tuple(
        Clip(f"{row % size.files}.wav", f"{row % size.classes:02d}", 1 + row // size.classes % 5, str(row))
        for row in range(size.clips)
    )
    classes = tuple(f"{label:02d}" for label in range(size.classes))
    return Dataset("noise", "csv", folder, clips, classes, Hints(44100, 5.0, 250))


def recipe_of(size: Size, *, source: str, compiled: str) -> Recipe:
    chosen = [f"backbone.name={size.backbone}", "backbone.weights=none", f"training.epochs={size.epochs}"]
    return load_recipe(overrides=[*chosen, f"training.source={source}", f"training.compile={compiled}"])


def data_of(prepared: Prepared, device: torch.device) -> Data:
    ones = torch.ones(len(prepared.recipe.features.windows_ms))
    return Data(
        source=source_of(prepared, device),
        labels=prepared.dataset.labels,
        classes=len(prepared.dataset.classes),
        mean=-6 * ones,
        std=3 * ones,
        device=device,
    )


class StillBatches:
    """One batch, over and over: a step without input work."""

    def __init__(self, data: Data) -> None:
        self._host = HostBatches(data, smoothing=0.0)

    def epoch(self, batches: Any) -> Iterator[tuple[torch.Tensor, ...]]:
        drawn = list(batches)
        (first,) = self._host.epoch(drawn[:1])
        for _ in drawn:
            yield first

    def assemble(self, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spectrograms, targets = batch
        return spectrograms, targets


def images_per_second(prepared: Prepared, data: Data, feed: Batches, *, steps: int) -> float:
    """Of epochs of so many steps, each with its draws made and sent up, after one that is not counted."""
    recipe, device = prepared.recipe, data.device
    training, size = recipe.training, recipe.training.batch_size
    kind = step_kind(training.compile, device)
    model = build(recipe.backbone.name, classes=data.classes, weights="none").to(device)
    model = model.to(memory_format=torch.channels_last).train()
    step = Step(
        model,
        make_optimizer(model, training, recordable=kind != "eager"),
        assemble=feed.assemble,
        training=training,
        device=device,
        recorder=make_recorder(kind, device),
        fuse=kind == "fused",
    )
    generator = np.random.default_rng(0)

    def epoch() -> None:
        rows = generator.integers(0, len(data.labels), (steps, size))
        for batch in feed.epoch((part, draw(recipe.augment, batch=size, generator=generator)) for part in rows):
            step(*batch, rate=1e-4)

    epoch()
    return steps * size / statistics.median(seconds(epoch, device) for _ in range(3))


def plain_images_per_second(
    prepared: Prepared, data: Data, spectrograms: Callable[[Any], torch.Tensor], *, steps: int
) -> float:
    """Of the plain loop, whose host makes each batch and whose device then takes a step."""
    size, device = prepared.recipe.training.batch_size, data.device
    model = reference.network(prepared.recipe.backbone.name, classes=data.classes).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    generator = np.random.default_rng(0)

    def epoch() -> None:
        for rows in generator.integers(0, len(data.labels), (steps, size)):
            labels = torch.from_numpy(data.labels[rows]).to(device)
            reference.train_step(model, optimizer, spectrograms(rows).to(device), labels)

    torch.use_deterministic_algorithms(False)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True):
            epoch()
            return steps * size / statistics.median(seconds(epoch, device) for _ in range(3))
    finally:
        set_up(device)


def seconds(work: Callable[[], None], device: torch.device) -> float:
    def ended() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    ended()
    started = time.perf_counter()
    work()
    ended()
    return time.perf_counter() - started


def steps_table(dataset: Dataset, size: Size, *, cache: Path, device: torch.device, compiled: str) -> dict[str, float]:
    """Images/s of every kind of loop."""
    found: dict[str, float] = {}
    for source in SOURCES:
        started = time.perf_counter()
        ready = prepare(dataset, recipe_of(size, source=source, compiled=compiled), cache=cache, device=device)
        data = data_of(ready, device)
        say(f"{source}: ready after {time.perf_counter() - started:.1f} s")
        feed = batches_of(data, smoothing=0.0)
        found[source] = images_per_second(ready, data, feed, steps=size.steps)
        say(f"{source}: {found[source]:.0f} images/s")
        if source == "store":
            found["still"] = images_per_second(ready, data, StillBatches(data), steps=size.steps)
            cached = partial(data.source.read, draws=None)
            found["plain, cached"] = plain_images_per_second(ready, data, cached, steps=size.steps)
    waves = [audio.read(dataset.root / f"{number}.wav", sample_rate_hz=44100) for number in range(size.files)]

    def by_librosa(rows: Any) -> torch.Tensor:
        return torch.stack(list(in_order(lambda row: reference.spectrogram(waves[row % size.files]), rows)))

    found["plain, librosa"] = plain_images_per_second(ready, data, by_librosa, steps=size.plain_steps)
    return found


def trials(
    dataset: Dataset, size: Size, *, cache: Path, device: torch.device, compiled: str, source: str, jobs: int
) -> float:
    """Wall seconds of ``jobs`` trials at once, from prepared data to their files."""
    ready = prepare(dataset, recipe_of(size, source=source, compiled=compiled), cache=cache, device=device)
    chosen = [Trial(1 + number % 5, number // 5) for number in range(jobs)]
    with tempfile.TemporaryDirectory() as folder:

        def work() -> None:
            run_trials(ready, chosen, run=Path(folder), device=device, progress=lambda *_: None, say=say, jobs=jobs)

        return seconds(work, device)


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def report(arguments: argparse.Namespace, device: torch.device, size: Size) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        dataset = sounds(place, size)
        common = {"cache": place / "cache", "device": device, "compiled": arguments.compile}
        speeds = steps_table(dataset, size, **common)
        whole = {
            jobs: trials(dataset, size, source=arguments.source, jobs=jobs, **common) for jobs in (1, arguments.jobs)
        }
    return {
        "machine": describe_machine(device),
        "backbone": size.backbone,
        "images_per_s": {name: round(value, 1) for name, value in speeds.items()},
        "ratio_to_plain": {
            plain: {source: round(speeds[source] / speeds[plain], 2) for source in SOURCES}
            for plain in ("plain, cached", "plain, librosa")
        },
        "input_share": {source: round(1 - speeds[source] / speeds["still"], 4) for source in SOURCES},
        "trials": [
            {
                "at_once": jobs,
                "epochs": size.epochs,
                "seconds": round(taken, 1),
                f"minutes_of_{RUNS}_runs_of_70_epochs": round(taken / jobs * RUNS * 70 / size.epochs / 60, 1),
            }
            for jobs, taken in whole.items()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny network on few clips, to show that it works")
    parser.add_argument("--backbone")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--jobs", type=int, default=5, help="trials at once in the second measurement of whole trials")
    parser.add_argument("--source", default="auto", choices=("auto", *SOURCES), help="of the whole trials")
    parser.add_argument("--compile", default="auto", choices=("auto", "none", "graph", "fused"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    size = SMALL if arguments.small else FULL
    changes = {"backbone": arguments.backbone, "epochs": arguments.epochs}
    size = Size(**{**vars(size), **{name: value for name, value in changes.items() if value}})
    try:
        device = pick_device(arguments.device)
    except EarsightError as error:
        say(
            f"benchmarks.gpu: {error}" if torch.cuda.is_available() else "benchmarks.gpu: no GPU here, nothing measured"
        )
        raise SystemExit(2) from error
    set_up(device)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    found = report(arguments, device, size)
    if arguments.json:
        json.dump(found, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
