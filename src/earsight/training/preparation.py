"""Prepare a data set for trials, and choose whether steps read from disk or device.

Comes in: a `Dataset`, a `Recipe` and the device to train on. Goes out: `Prepared`, what all trials share (the resolved
recipe, the spectrograms or waves on disk, the clips left out), and the source of a trial's spectrograms.

``training.source: auto`` takes the store on a CPU. On a GPU it takes the first of these that fits in `SHARE` of the
GPU's whole memory (not of what is free, which depends on other processes): the store's spectrograms; the waves, which
take less room but whose spectrograms every step computes anew; the store on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earsight.data import audio
from earsight.data.datasets import FIXED_WINDOW, Dataset, first
from earsight.data.duplicates import equal_rows, identical_files, joined, same_sounds
from earsight.data.splits import holdout_sounds
from earsight.errors import AudioError, DataError, RecipeError, RunError
from earsight.features.augment import pitch_steps
from earsight.features.device_cache import DeviceCache, SpectrogramCache, WaveCache
from earsight.features.row_file import Progress, fault_of
from earsight.features.store import VALUES_VERSION, Store, open_store, store_bytes
from earsight.features.waves import Waves, open_waves, waves_bytes
from earsight.features.windows import ClipWindows, clip_windows
from earsight.files import read_state
from earsight.parallel import in_order
from earsight.recipe import Features, Recipe
from earsight.training.batches import Source
from earsight.training.device import memory_bytes
from earsight.training.teachers import Teaching

HELD_OUT_SHARE = 0.2
SHARE = 0.1
"""Share of a GPU's memory for one process's data; the rest is for the steps, and for other processes."""


ONE_CLIP, TOGETHER, APART = "one clip", "together", "apart"
"""How a draw takes the clips of one sound: on one side and as one clip; on one side, each counting; by themselves."""


@dataclass(frozen=True)
class Prepared:
    """A data set, its resolved recipe and its spectrograms: what every trial on it shares.

    ``skipped`` are the clips that are left out because they cannot be read. ``identity`` is sixteen hexadecimal digits
    that name the decoded sounds and the front end, wherever the files lie; ``key`` names the sound files as they lie
    there, by size and time of change, and what is made of them (the store's own name where it is left out).
    ``windows`` says which part of which clip a row of the store is; None where row i is clip i. ``twins_drawn``
    is how the inner split takes the clips of one sound: `ONE_CLIP`, or as the version did that began the run.
    ``teaching`` has the teachers, where there are such.
    """

    dataset: Dataset
    recipe: Recipe
    store: Store | Waves
    skipped: tuple[str, ...]
    identity: str
    key: str = ""
    windows: ClipWindows | None = None
    twins_drawn: str = ONE_CLIP
    teaching: Teaching | None = None

    @property
    def taught(self) -> Prepared | None:
        """The same as the teachers see it, where they take other features than the student; else None."""
        store = self.teaching.store if self.teaching else None
        if self.teaching is None or store is None:
            return None
        return replace(self, recipe=self.teaching.view_of(self.recipe), store=store, key=store.key)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which clips have spectrograms, shape (clips,)."""
        mask = np.ones(len(self.dataset.clips), dtype=bool)
        rows = list(self.store.errors)
        mask[self.windows.clips[rows] if self.windows else rows] = False
        return mask

    @property
    def twins(self) -> list[list[int]]:
        """Clips of the same sound, by the digests of the decoded sounds: each group of two or more."""
        marks = [b""] * len(self.dataset.clips)
        for row, clip in enumerate(self.windows.clips.tolist() if self.windows else range(len(marks))):
            marks[clip] += self.store.sounds[row].tobytes()
        usable = self.usable
        return [rows for rows in equal_rows(marks) if usable[rows[0]]]

    def leaks(self, folds: Iterable[int]) -> list[str]:
        """A line where held-out clips have the same sound as clips that train."""
        dataset, usable, twins = self.dataset, self.usable, self.twins
        held, torn, two_labels = 0, dict[int, int](), 0
        for fold in sorted(set(folds)):
            test, train = (dataset.folds == fold) & usable, dataset.training(fold) & usable
            held += int(test.sum())
            for rows in twins:
                known = [row for row in rows if train[row]]
                for row in rows:
                    if test[row] and known:
                        torn[row] = known[0]
                        two_labels += any(dataset.clips[row].label != dataset.clips[other].label for other in known)
        if not torn:
            return []
        shown = [f"{dataset.clips[row].name} = {dataset.clips[other].name}" for row, other in sorted(torn.items())]
        labels = f", {two_labels} of them under another label" if two_labels else ""
        return [
            f"LEAK: {len(torn)} of {held} held-out clips have the same sound in training{labels} ({first(shown)}): "
            "held-out accuracy will flatter; `earsight check` names all"
        ]


def resolved(dataset: Dataset, recipe: Recipe, *, run: Path | None = None) -> Recipe:
    """A recipe with every ``auto`` filled in from the data set; RecipeError where its labels are not the data set's.

    ``training.windows`` becomes ``all`` where a clip is longer than 1.1 windows; ``first`` elsewhere, in layouts with
    a window of their own, and where the ``run`` folder has trials of a version that knew nothing else.
    """
    hints = dataset.hints
    recipe = recipe.resolve(sample_rate_hz=hints.sample_rate_hz, clip_seconds=hints.clip_seconds, frames=hints.frames)
    wanted, labels = recipe.training.labels, "several" if dataset.several else "single"
    if wanted not in ("auto", labels):
        has = "has several labels a clip" if dataset.several else "was opened with one label a clip"
        raise RecipeError(f"training.labels is {wanted}, and the data set {has}; open it with --labels {wanted}")
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"labels": labels})})
    if recipe.training.windows != "auto":
        return recipe
    first, whole = (
        recipe.model_copy(update={"training": recipe.training.model_copy(update={"windows": kind})})
        for kind in ("first", "all")
    )
    # Trials that were begun before there was a choice do not name their windows.
    if dataset.layout in FIXED_WINDOW or (run is not None and any("windows" not in found for found in _begun(run))):
        return first
    return first if clip_windows(dataset.seconds, whole.features, whole.training).single else whole


def kept_splits(*runs: Path) -> set[str]:
    """The digests of the data sets, with their folds, that run folders hold trials of."""
    return {str(found["dataset"]) for run in runs for found in _begun(run) if "dataset" in found}


def _begun(run: Path) -> list[dict[str, Any]]:
    """What the trials of a run folder, or of those of a sweep or a search below it, are of; not those of ensembles."""
    remedy = f"remove it, or name another folder than {run}"
    places = [path for below in ("", "*/", "points/*/") for path in run.glob(f"{below}fold-*/seed-*/trial.json")]
    found = [read_state(path, {}, remedy=remedy, error=RunError) for path in sorted(places)]
    return [one for one in found if not one.get("ensemble")]


def prepare(
    dataset: Dataset,
    recipe: Recipe,
    *,
    cache: Path | None = None,
    skip_bad: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
    device: torch.device | None = None,
    run: Path | None = None,
    teaching: Teaching | None = None,
) -> Prepared:
    """Resolve a recipe for a data set and open (or build) what its training reads.

    That is the store of spectrograms; or, where a ``device`` to train on is named and `wanted_source` says so, the
    cache of waves. What the ``run`` folder has begun goes on as it was begun. Where ``teaching`` has teachers of other
    features, theirs are opened too. DataError if clips cannot be read and ``skip_bad`` is not set, or if a class is
    left with no clip at all.
    """
    recipe = resolved(dataset, recipe)
    windows = clip_windows(dataset.seconds, recipe.features, recipe.training)
    count, semitones = len(windows.clips), pitch_steps(recipe.augment)
    open_it = open_waves if device is not None and wanted_source(count, recipe, device) == "waves" else open_store
    rows_of: dict[str, list[int]] = {}
    for row, clip in enumerate(dataset.clips):
        rows_of.setdefault(clip.path, []).append(row)

    def fault(path: str) -> str:
        return fault_of(dataset, rows_of[path], recipe.features, windows)

    look = None if skip_bad else partial(_look, {path: dataset.root / path for path in rows_of}, fault)
    store: Store | Waves = open_it(
        dataset,
        recipe.features,
        semitones=semitones,
        cache=cache,
        workers=workers,
        progress=progress,
        windows=windows,
        look=look,
    )
    reasons = {int(windows.clips[row]): reason for row, reason in sorted(store.errors.items())}
    if not skip_bad:
        _refuse([f"{dataset.clips[clip].name}: {reason}" for clip, reason in reasons.items()], len(dataset.clips))
    skipped = tuple(dataset.clips[clip].name for clip in reasons)
    front_end = [VALUES_VERSION, store.features.settings(), list(semitones), *windows.key]
    content = json.dumps([front_end, [clip.name for clip in dataset.clips], store.sounds.tobytes().hex(), skipped])
    identity = hashlib.sha256(content.encode()).hexdigest()[:16]
    cut = None if windows.single else windows
    begun = {found.get("twins", APART) for found in _begun(run)} if run is not None else set()
    drawn = next((way for way in (APART, TOGETHER) if way in begun), ONE_CLIP)
    if teaching is not None and teaching.features != recipe.features:
        options: dict[str, Any] = {"cache": cache, "skip_bad": skip_bad, "workers": workers, "progress": progress}
        theirs = prepare(dataset, teaching.view_of(recipe), device=device, **options)
        teaching = replace(teaching, store=theirs.store)
        if theirs.skipped != skipped or not np.array_equal(_cuts(theirs.windows), _cuts(cut)):
            raise RunError(f"{teaching.run}: its features cut clips into other windows than the student's; take those")
    prepared = Prepared(dataset, recipe, store, skipped, identity, store.key, cut, drawn, teaching)
    left = dataset.sizes(prepared.usable)
    if (left == 0).any():
        raise DataError(
            f"class {dataset.classes[int(left.argmin())]}: not one of its clips can be read; see `earsight check`"
        )
    return prepared


def _cuts(windows: ClipWindows | None) -> NDArray[np.int64]:
    """The clip of each row; nothing where row i is clip i."""
    return np.zeros(0, dtype=np.int64) if windows is None else windows.clips


def _look(files: Mapping[str, Path], fault: Callable[[str], str]) -> None:
    """Probe every file, by its name, before hours go into the spectrograms; DataError if some cannot be read.

    ``fault`` says of a damaged one why what is used of it cannot be read: "" where the damage lies behind that.
    """

    def look(name: str) -> str:
        try:
            audio.probe(files[name])
            return ""
        except AudioError:
            return f"{name}: {reason}" if (reason := fault(name)) else ""

    _refuse([found for found in in_order(look, list(files), ahead=64) if found], len(files))


def _refuse(bad: Sequence[str], total: int) -> None:
    """Raise DataError if there are clips that cannot be read."""
    if bad:
        more = f" ... and {len(bad) - 3} more (`earsight check` lists all)" if len(bad) > 3 else ""
        raise DataError(
            f"{len(bad)} of {total} clips cannot be read: {'; '.join(bad[:3])}{more}\n"
            "Mend or remove them, or leave them out with --skip-bad."
        )


def hold_out(
    dataset: Dataset, *, fraction: float = HELD_OUT_SHARE, seed: int, kept: Callable[[], Collection[str]] = frozenset
) -> Dataset:
    """The same clips in two folds: 1 is held out, stratified and group-wise, and 2 is the rest.

    Files of the same sound stay on one side, and count as one clip: as larger groups they would be held out first, with
    every seed. Earlier versions did not see to that, or to the same bytes alone, or counted each: where their draw is
    one of ``kept``, digests of data sets, it is made again. A data set that brings a split is returned as it is: its
    fold 1 is its test part.
    """
    if dataset.split:
        return dataset

    every = np.arange(len(dataset.clips))

    def drawn(groups: NDArray[np.str_], *, copies: Sequence[Sequence[int]] = ()) -> Dataset:
        held = holdout_sounds(dataset.strata, groups, every, copies, fraction=fraction, seed=seed)
        clips = tuple(replace(clip, fold=1 if out else 2) for clip, out in zip(dataset.clips, held, strict=True))
        return replace(dataset, clips=clips, drawn_seed=seed)

    files = [dataset.file(row) for row in range(len(dataset.clips))]
    # Parts of recordings have sources that copies are joined in already.
    copies = [] if dataset.parts else same_sounds(files)
    together = joined(dataset.groups, copies)
    if copies and (known := kept()):
        for groups in (dataset.groups, joined(dataset.groups, identical_files(files)), together):
            if (before := drawn(groups)).digest in known:
                return before
    return drawn(together, copies=copies)


def wanted_source(rows: int, recipe: Recipe, device: torch.device) -> str:
    """``store``, ``spectrograms`` or ``waves``, for so many rows and a resolved recipe."""
    if recipe.augment.backend != "spectrogram":
        return "store"
    if recipe.training.source != "auto":
        return recipe.training.source
    room = SHARE * memory_bytes(device)
    if not room:
        return "store"
    if store_bytes(rows, recipe.features, pitch_steps(recipe.augment)) <= room:
        return "spectrograms"
    return "waves" if waves_bytes(rows, recipe.features) <= room else "store"


def source_of(prepared: Prepared, device: torch.device) -> Source:
    """The source of a trial's spectrograms; data on a device stays there for the process's next trial."""
    dataset, recipe, store = prepared.dataset, prepared.recipe, prepared.store
    if recipe.augment.backend == "waveform":
        from earsight.features.augment_waveform import WaveformSource

        return WaveformSource(dataset, recipe.features, windows=prepared.windows)
    rows = len(prepared.windows.clips) if prepared.windows else len(dataset.clips)
    if isinstance(store, Waves) or wanted_source(rows, recipe, device) == "spectrograms":
        return _on_device(store, device)
    return store


_LAST: dict[tuple[Path, Features, tuple[int, ...], torch.device], DeviceCache] = {}


def _on_device(store: Store | Waves, device: torch.device) -> DeviceCache:
    key = (store.folder, store.features, store.semitones, device)
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = WaveCache(store, device) if isinstance(store, Waves) else SpectrogramCache(store, device)
    return _LAST[key]
