"""Sources on the device: the same pictures as the store reads, for the same draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from earsight.features import resident
from earsight.features.augment import draw, pitch_steps
from earsight.features.resident import ResidentPictures
from earsight.features.store import open_store
from earsight.recipe import Augment, Features

CPU = torch.device("cpu")
SMALL = Features(sample_rate_hz=8000, clip_seconds=0.5, frames=32, bands=32)
AUGMENT = Augment(probability=1.0)


@pytest.fixture(scope="module")
def store(synthetic, tmp_path_factory):
    few = replace(synthetic, clips=synthetic.clips[:23])
    return open_store(few, SMALL, semitones=pitch_steps(AUGMENT), cache=tmp_path_factory.mktemp("cache"))


def some(store, count=11):
    generator = np.random.default_rng(3)
    rows = generator.integers(0, store.shape[0], count)
    return rows, draw(AUGMENT, batch=count, generator=generator)


def test_pictures_on_the_device_are_the_stores(store, monkeypatch):
    monkeypatch.setattr(resident, "_CHUNK_ROWS", 10)  # 115 pictures: the last part is short
    source = ResidentPictures(store, CPU)
    rows, draws = some(store)
    assert len(set(draws.semitones)) > 2
    assert torch.equal(source.read(rows, draws=draws), store.read(rows, draws=draws))
    assert torch.equal(source.read(rows), store.read(rows))
    assert not torch.equal(source.read(rows), source.read(rows, draws=draws))
    assert (source.stretches, source.semitones) == (store.stretches, store.semitones)
