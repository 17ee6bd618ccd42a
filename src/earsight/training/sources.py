"""Where the data of training steps lie: on disk, or on the device as pictures or as waves.

Comes in: a recipe (``training.source``), a data set and a device. Goes out: the source that fits. ``auto`` takes the
store on a CPU. On a GPU it takes what costs a step least and fits in `SHARE` of the GPU's memory: the store's pictures,
which a step only copies; else the waves, which take less room and whose pictures each step computes anew; else the
store. The share is of the memory that the GPU has, not of what is free: nothing else that runs there decides it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from earsight.data.datasets import Dataset
from earsight.features.augment import pitch_steps
from earsight.features.resident import Resident, ResidentPictures, ResidentWaves
from earsight.features.store import Store, store_bytes
from earsight.features.waves import Waves, waves_bytes
from earsight.recipe import Features, Recipe
from earsight.training.cuda import memory_bytes

if TYPE_CHECKING:
    from earsight.training.loop import Source
    from earsight.training.preparation import Prepared

SHARE = 0.1
"""Of a GPU's memory, for the data of one process: room is left for the steps, and for several processes."""


def wanted_source(dataset: Dataset, recipe: Recipe, device: torch.device) -> str:
    """``store``, ``pictures`` or ``waves``, for a resolved recipe."""
    if recipe.augment.backend != "picture":
        return "store"
    if recipe.training.source != "auto":
        return recipe.training.source
    room = SHARE * memory_bytes(device)
    if store_bytes(dataset, recipe.features, pitch_steps(recipe.augment)) <= room:
        return "pictures"
    return "waves" if waves_bytes(dataset, recipe.features) <= room else "store"


def source_of(prepared: Prepared, device: torch.device) -> Source:
    """The source of a trial's pictures; what lies on a device is kept there for the process's next trial."""
    dataset, recipe, store = prepared.dataset, prepared.recipe, prepared.store
    if recipe.augment.backend == "waveform":
        from earsight.features.waveform import WaveformSource

        return WaveformSource(dataset, recipe.features)
    if isinstance(store, Waves):
        return _on_device(store, device)
    if wanted_source(dataset, recipe, device) == "pictures":
        return _on_device(store, device)
    return store


_LAST: dict[tuple[Path, Features, tuple[int, ...], torch.device], Resident] = {}


def _on_device(store: Store | Waves, device: torch.device) -> Resident:
    key = (store.folder, store.features, store.semitones, device)
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = ResidentWaves(store, device) if isinstance(store, Waves) else ResidentPictures(store, device)
    return _LAST[key]
