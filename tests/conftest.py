"""What all tests share: a small synthetic data set, a cache of spectrograms, and the real clips where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from tiny_model import TINY_MODEL

from earsight.data.datasets import Dataset
from earsight.data.layouts import open_dataset
from earsight.data.synthetic import write_synthetic
from earsight.recipe import Recipe, load_recipe
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial

_PLACES = (os.environ.get("EARSIGHT_ESC10", ""), str(Path(__file__).parents[2] / "shared" / "data" / "esc10"))
ESC10 = next((Path(place) for place in _PLACES if place and (Path(place) / "meta" / "esc50.csv").is_file()), None)

LONGEST = ("ray_driver", "damage", "code_cache", "depthwise")
"""Files that take longest, by their names: several processes begin with them, so that they end at about one time."""

# A busy machine must fail no test: an example may take as long as it takes.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """In `pytest -n 2` what tests start takes one thread too: threads beside other processes wait for each other."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`pytest -n 2`: a file stays in one process, for its fixtures' sake, and so do all files that start Ray."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if "/test_ray_" in nodeid else str(super()._split_scope(nodeid))

    config.option.loadscopereorder = False  # the order is that of the items
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say where the real clips are missing, rather than leaving their tests out unseen; of several processes, order."""
    if hasattr(config, "workerinput"):
        first = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: first.get(item.path.stem.removeprefix("test_"), len(first)))
    if ESC10 is None:
        absent = pytest.mark.skip(reason="the ESC-10 clips are not here: set EARSIGHT_ESC10 to their folder")
        for item in items:
            if item.get_closest_marker("real_audio"):
                item.add_marker(absent)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests' spectrograms out of the user's cache; all processes of `pytest -n 2` share what is compiled."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(mode=0o700, exist_ok=True)
    os.environ["EARSIGHT_CACHE"] = str(cache)
    # Torch makes this folder when an optimiser is made; in $TMPDIR it would look like what a test's process has left.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "torch")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One thread for the tiny networks here, for shared fixtures too: bits depend on how many there are."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """Give the next test the threads that this one found."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def esc10() -> Path:
    """Folder of the real clips; tests that take it carry the marker real_audio."""
    assert ESC10 is not None
    return ESC10


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set: ten classes of ten clips of one second."""
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "sounds", clips_per_class=10, seconds=1.0)


@pytest.fixture(scope="session")
def synthetic(synthetic_folder: Path) -> Dataset:
    """The same, opened."""
    return open_dataset(synthetic_folder)


TINY = [
    "features.sample_rate_hz=8000",
    "features.clip_seconds=0.5",
    "features.frames=32",
    "features.bands=32",
    "backbone.name=test_resnet",
    "backbone.weights=none",
    "backbone.dropout=0.1",
    "augment.pitch_semitones=1",
    "training.epochs=3",
    "training.batch_size=32",
]


@pytest.fixture(scope="session")
def tiny():
    """A recipe made of the tiny one and overrides."""
    return lambda *overrides: Recipe().override([*TINY, *overrides])


@pytest.fixture(scope="session")
def prepared(synthetic, tiny):
    return prepare(synthetic, tiny())


@pytest.fixture(scope="session")
def prepare_as(synthetic, tiny):
    """The synthetic set prepared for the tiny recipe with overrides."""
    return lambda *overrides: prepare(synthetic, tiny(*overrides))


@pytest.fixture(scope="session")
def cpu():
    return torch.device("cpu")


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """A recipe that trains in a moment."""
    return load_recipe(overrides=TINY_MODEL)


@pytest.fixture(scope="session")
def trained(synthetic: Dataset, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a trial with fold 2 of the synthetic set held out."""
    ready = prepare(synthetic, tiny_recipe, workers=1)
    run = tmp_path_factory.mktemp("run")
    return run_trial(ready, Trial(fold=2, seed=0), run=run, device=torch.device("cpu"))
