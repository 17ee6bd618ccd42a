"""``python -m benchmarks.check_cost DATA``: what the digests of state on disk cost.

Parts: ``build`` (a store built from the sounds of DATA), ``step`` (a batch of 32 rows read with one part each, and a
training step on them), ``checkpoint`` (one written). In each round a part runs with its checks and without, in turn,
and who goes first changes. What is printed is the share of time that the checks add: the median over rounds of the
ratios less 1, and the least and the most. The step is float32 and has no autocast, so that the share of a step of the
default, bfloat16, may be larger. Aimed at: at most 3 % of a build and of a step.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

from earsight import files
from earsight.data.layouts import open_dataset
from earsight.features import row_file
from earsight.features.store import open_store
from earsight.models.backbones import build
from earsight.models.fast.swap import use_fast_layers
from earsight.recipe import load_recipe
from earsight.training import checkpoint
from earsight.training.preparation import resolved

SEMITONES = (-2, -1, 0, 1, 2)


@contextmanager
def unchecked() -> Iterator[None]:
    """The same code with digests that cost nothing; what is written so is read so."""
    zlib = SimpleNamespace(__name__="unchecked", crc32=lambda *_: 0)
    named = SimpleNamespace(
        blake2b=hashlib.blake2b,
        file_digest=lambda file, _: hashlib.blake2b(str(file.name).encode(), digest_size=16),
    )
    with (
        mock.patch.object(row_file, "zlib", zlib),
        mock.patch.object(checkpoint, "zlib", zlib),
        mock.patch.object(files, "hashlib", named),
    ):
        yield


def shares(part: Callable[[], None], rounds: int) -> list[float]:
    """What the checks add to a part's time, of each round."""
    out = []
    for number in range(rounds):
        seconds = {}
        for checked in (True, False) if number % 2 else (False, True):
            began = time.perf_counter()
            if checked:
                part()
            else:
                with unchecked():
                    part()
            seconds[checked] = time.perf_counter() - began
        out.append(seconds[True] / seconds[False] - 1)
    return out


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check_cost", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--steps", type=int, default=10, help="in a round")
    asked = parser.parse_args()
    dataset = open_dataset(asked.data)
    features = resolved(dataset, load_recipe()).features
    network = build(asked.backbone, classes=len(dataset.classes), weights="none").to(memory_format=torch.channels_last)
    use_fast_layers(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:

        def built() -> None:
            with tempfile.TemporaryDirectory(dir=place) as cache:
                open_store(dataset, features, semitones=SEMITONES, cache=Path(cache))

        store = open_store(dataset, features, semitones=SEMITONES, cache=Path(place))
        plain = open_store(dataset, features, semitones=SEMITONES, cache=Path(place))
        del plain.tables["checks.u32"]  # as in stores of earlier versions, whose rows are read unchecked

        def steps() -> None:
            source = store if row_file.zlib.__name__ == "zlib" else plain
            for _ in range(asked.steps):
                rows = chance.integers(0, len(dataset.clips), 32)
                codes = source.read_codes(rows, chance.integers(0, len(SEMITONES), 32))
                inputs = torch.from_numpy(codes).float().div_(1024).contiguous(memory_format=torch.channels_last)
                optimizer.zero_grad(set_to_none=True)
                network(inputs.expand(-1, 3, -1, -1)).square().mean().backward()
                optimizer.step()

        def saved() -> None:
            path = Path(place) / "checkpoint.safetensors"
            checkpoint.save_checkpoint(path, model=network, optimizer=optimizer, extra={}, record={})

        for name, part in (("build", built), ("step", steps), ("checkpoint", saved)):
            part()
            found = shares(part, asked.rounds)
            middle, least, most = statistics.median(found), min(found), max(found)
            print(f"{name:12}{100 * middle:+7.2f} %   ({100 * least:+.2f} ... {100 * most:+.2f} %)", flush=True)


if __name__ == "__main__":
    main()
