"""A small model behind HTTP, at a free port of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from at_port import CLASSES, RATE, serving, tone
from playwright.sync_api import Browser, Page, expect, sync_playwright
from visiting import CHROMIUM, EXPECT_MS, FAKE

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


@pytest.fixture(scope="module")  # its event loop must not outlive the modules that use it
def browsers() -> Iterator[Callable[..., Browser]]:
    """Start a Chromium with some arguments, once for a module."""
    with sync_playwright() as play:
        opened = {}

        def start(*arguments: str) -> Browser:
            if arguments not in opened:
                opened[arguments] = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *arguments])
            return opened[arguments]

        yield start
        for browser in opened.values():
            browser.close()


@pytest.fixture
def visit(browsers, client) -> Iterator[Callable[..., Page]]:
    """Open the page; a fault of a script, or a request to another host, fails the test."""
    faults: list[str] = []
    contexts = []

    def open_page(*, arguments: tuple[str, ...] = FAKE, address: httpx.URL | None = None, **how: object) -> Page:
        context = browsers(*arguments).new_context(**how)
        contexts.append(context)
        page = context.new_page()
        home = str(address or client.base_url)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda asked: None if asked.url.startswith((home, "blob:")) else faults.append(asked.url))
        page.set_default_timeout(EXPECT_MS)
        page.goto(home)
        expect(page.locator("html[data-ready]")).to_be_attached(timeout=EXPECT_MS)
        return page

    expect.set_options(timeout=EXPECT_MS)
    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
