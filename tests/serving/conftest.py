"""A small model behind HTTP, at a free port of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from at_port import CLASSES, RATE, serving, tone

from earsight.inference.classifier import Classifier, load_classifier
from earsight.models.backbones import build
from earsight.models.card import ModelCard
from earsight.models.modelfile import save
from earsight.recipe import load_recipe
from earsight.serving.server import Server


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt nothing, of three classes, for sounds of one second."""
    recipe = load_recipe(
        overrides=[
            *("backbone.name=test_resnet", "backbone.weights=none", "features.bands=32", "features.frames=32"),
            *("features.sample_rate_hz=8000", "features.clip_seconds=1.0"),
        ]
    )
    card = ModelCard(
        classes=CLASSES,
        recipe=recipe.resolve(sample_rate_hz=RATE, clip_seconds=1.0, frames=32),
        mean=(-6.0, -6.0, -6.0),
        std=(3.0, 3.0, 3.0),
        trained_on={"dataset": "nothing"},
    )
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    save(path, state=build("test_resnet", classes=3, weights="none", seed=1).state_dict(), card=card)
    return path


@pytest.fixture(scope="session")
def classifier(model_file: Path) -> Classifier:
    """The same, loaded."""
    return load_classifier(model_file)


@pytest.fixture(scope="session")
def served(classifier: Classifier) -> Iterator[tuple[httpx.Client, Server]]:
    """One server for the tests that do not change it."""
    with serving(classifier) as found:
        yield found


@pytest.fixture
def client(served: tuple[httpx.Client, Server]) -> httpx.Client:
    """A client of that server."""
    return served[0]


@pytest.fixture
def sound(tmp_path: Path) -> Callable[..., Path]:
    """Write a sound file: `sound("a.wav", seconds=2)`."""

    def write(name: str, *, seconds: float = 1.0, rate: int = RATE, wave: np.ndarray | None = None, **how: str) -> Path:
        path = tmp_path / name
        soundfile.write(path, tone(seconds) if wave is None else wave, rate, **how)
        return path

    return write
