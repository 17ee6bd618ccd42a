"""The store of a data set's spectrograms, computed once at every pitch step and kept on disk.

Comes in: a `Dataset` and resolved `Features`. Goes out: a `Store`, whose rows are read as spectrograms
(batch, windows, bands, frames) float32, each at one of its pitch steps. Row i is clip i, or the i-th of the clips'
windows (`earsight.features.windows`).

On disk a store is a folder (`earsight.features.row_file`) named by its key: a hash of format version, feature settings,
pitch steps and the content of the sound files. It keeps log band energies, before the basis of the
representations that have one (MFCCs), as int16 in steps of 1/1024 from -16 to 48: 8 times finer than float16 between 8
and 16. `earsight.features.filterbanks.REPRESENTATIONS` has the figures of each representation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earsight.cache import default_cache, made_cache
from earsight.data.datasets import Dataset
from earsight.features.augment import Draws, step_indices
from earsight.features.content_key import content_key, earlier_folder
from earsight.features.filterbanks import REPRESENTATIONS
from earsight.features.row_file import Progress, Row, RowFile, RowLayout, open_rows
from earsight.features.spectrogram import Spectrogram, basis
from earsight.features.stft import WORTH_IT
from earsight.features.windows import ClipWindows, single_windows
from earsight.recipe import Features

FORMAT_VERSION = 4
VALUES_VERSION = 3
"""Version of the values, in trials' identities; folders without digests have it as their format's version."""
_CODES, _MOMENTS = "pictures.i16", "moments.f64"


class Store(RowFile):
    """Open spectrograms of a data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, pitch steps, windows, bands, frames)."""
        return _shape(len(self.sounds), self.features, self.semitones)

    @property
    def moments(self) -> NDArray[np.float64]:
        """Mean, and mean of squares, of each row's unshifted spectrogram, shape (rows, windows, 2)."""
        return self.tables[_MOMENTS]

    @cached_property
    def _basis(self) -> Tensor | None:
        return basis(self.features)

    @property
    def bytes_on_disk(self) -> int:
        """Size of the spectrograms."""
        return 2 * int(np.prod(self.shape, dtype=np.int64))

    def read(self, rows: NDArray[np.int64], *, draws: Draws | None = None) -> Tensor:
        """Spectrograms (batch, windows, bands, frames), float32, of some rows (batch,), each at its own pitch step.

        ``draws`` give the pitch of each; unshifted when left out.
        """
        codes = self.read_codes(rows, step_indices(self.semitones, len(rows), draws))
        logs = decode(torch.from_numpy(codes), representation=self.features.representation)
        return logs if self._basis is None else torch.matmul(self._basis, logs)

    def read_codes(self, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int16]:
        """The int16 codes (batch, windows, bands, frames) of some rows, each at the pitch step of that index."""
        shape = self.shape
        codes = np.empty((len(rows), *shape[2:]), dtype=np.int16)
        self.read_values(codes, rows.tolist(), steps.tolist())
        return codes

    def computed(self, wave: NDArray[np.float32]) -> Iterator[Row]:
        """See `RowFile.computed`; kernels differ by their rounding."""
        for kernels in (False, True):
            yield _computer(self.features, self.semitones, kernels=kernels)(wave)

    def statistics(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation, each (windows,), over the unshifted spectrograms of some rows."""
        return statistics(self.moments[rows])


def moments(spectrograms: Tensor) -> NDArray[np.float64]:
    """Mean, and mean of squares, of each channel of each spectrogram: (batch, windows, 2)."""
    exact = spectrograms.double()
    both = torch.stack([exact.mean(dim=(2, 3)), exact.square().mean(dim=(2, 3))], dim=2)
    found: NDArray[np.float64] = both.cpu().numpy()
    return found


def statistics(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation, each (windows,), over rows of `moments`."""
    mean, square = np.moveaxis(rows.mean(axis=0), -1, 0)
    return mean, np.sqrt(np.maximum(square - mean**2, 1e-12))


def encode(logs: Tensor, *, representation: str = "log_mel") -> NDArray[np.int16]:
    """Log band energies as int16 codes; values out of range are clipped."""
    kept = REPRESENTATIONS[representation]
    codes = torch.round((logs - kept.zero_at) * kept.steps_per_unit)
    return codes.clamp_(-32768, 32767).to(torch.int16).numpy()


def decode(codes: Tensor, *, representation: str = "log_mel") -> Tensor:
    """Log band energies float32 of int16 codes, on their device."""
    kept = REPRESENTATIONS[representation]
    return codes.float().div_(kept.steps_per_unit).add_(kept.zero_at)


def _computer(features: Features, semitones: Sequence[int], *, kernels: bool) -> Callable[[NDArray[np.float32]], Row]:
    front_end = Spectrogram(features, semitones=tuple(float(step) for step in semitones))
    centre = list(semitones).index(0)
    if kernels:
        front_end.use_kernels()

    def compute(wave: NDArray[np.float32]) -> Row:
        with torch.inference_mode():
            logs = front_end.band_energies(torch.from_numpy(wave)[None])[0]
            codes = encode(logs, representation=features.representation)
            return codes, {_MOMENTS: moments(front_end.finish(logs[centre])[None])[0]}

    return compute


def store_key(
    dataset: Dataset,
    features: Features,
    semitones: Sequence[int],
    *,
    cache: Path | None = None,
    windows: ClipWindows | None = None,
) -> str:
    """Hash (16 hex digits) of a store's content; ``cache`` is the folder that keeps the files' digests."""
    cut = windows.key if windows else []
    settings = FORMAT_VERSION, features.settings(), list(semitones), *cut
    return content_key(dataset, *settings, cache=cache or default_cache())


def open_store(
    dataset: Dataset,
    features: Features,
    *,
    semitones: Sequence[int] = (0,),
    cache: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    windows: ClipWindows | None = None,
    look: Callable[[], None] | None = None,
) -> Store:
    """Open a data set's store, computing missing rows; the reasons of unreadable clips are in its ``errors``.

    ``features`` are resolved; ``semitones`` the pitch steps to hold, rising, 0 among them; ``workers`` are decoding
    threads, 0 one a core; ``windows`` says which part of which clip each row is, else row i is the begin of clip i.
    ``look`` is called before rows are computed, if there are any; ``progress`` with (rows done, rows in all). DataError
    if the disk has too little room, or the folder cannot be made.
    """
    cache = cache or made_cache()
    windows = windows or single_windows(len(dataset.clips))
    key = store_key(dataset, features, semitones, cache=cache, windows=windows)
    folder = cache / key
    settings = VALUES_VERSION, features.settings(), list(semitones)
    known = folder.is_dir() or not windows.single
    earlier = None if known else earlier_folder(dataset, *settings, key=key, cache=cache)
    computers: list[Callable[[NDArray[np.float32]], Row]] = []
    lock = Lock()

    def compute(wave: NDArray[np.float32]) -> Row:
        with lock:
            if not computers:  # kernels are loaded where there is work for them
                computers.append(_computer(features, semitones, kernels=len(windows.clips) >= WORTH_IT))
        return computers[0](wave)

    shape = _shape(len(windows.clips), features, semitones)
    layout = RowLayout(
        what="spectrograms",
        file=_CODES,
        row_bytes=2 * int(np.prod(shape[1:], dtype=np.int64)),
        tables={_MOMENTS: ("float64", (shape[2], 2))},
        parts=len(semitones),
        remedy="keep fewer pitch steps with --set augment.pitch_semitones=0, "
        + ("or " if windows.single else "use less of long clips with --set training.most_seconds=60, or "),
    )
    about = {
        "format_version": FORMAT_VERSION,
        "shape": shape,
        "semitones": list(semitones),
        "features": features.settings(),
    }
    return open_rows(
        Store,
        folder,
        layout,
        dataset=dataset,
        features=features,
        semitones=semitones,
        compute=compute,
        about=about,
        workers=workers,
        progress=progress,
        earlier=earlier,
        windows=windows,
        look=look,
    )


def _shape(rows: int, features: Features, semitones: Sequence[int]) -> tuple[int, ...]:
    return rows, len(semitones), len(features.windows_ms), features.bands, features.columns


def store_bytes(rows: int, features: Features, semitones: Sequence[int]) -> int:
    """Size of a store on disk, in bytes."""
    return 2 * int(np.prod(_shape(rows, features, semitones), dtype=np.int64))
