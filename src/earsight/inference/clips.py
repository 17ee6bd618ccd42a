"""Predict many sound files in batches; expand folder names to files.

Comes in: names of files and folders, then a model. Goes out: a `Prediction` for each file, in order; that of an
unreadable file holds the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from earsight.data import audio
from earsight.data.folders import sounds_below
from earsight.errors import AudioError, DataError
from earsight.inference.model import Model
from earsight.inference.predictions import Prediction
from earsight.inference.ray_inference import RayInference
from earsight.parallel import in_order


def find_sounds(names: Sequence[str], *, stdin: TextIO) -> Iterator[str]:
    """Paths of sounds: files as they are named, folders searched for audio, ``-`` for lines of ``stdin``.

    Folders are searched before the first path is given, so that a mistake (DataError: a folder holds no audio file)
    shows before there is any output.
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        if name != "-" and Path(name).is_dir():
            # Data sets list folders named like a sound, to report them; here they are left out.
            folders[name] = [str(path) for path in sounds_below(Path(name)) if not path.is_dir()]
            if not folders[name] and Path(name).suffix.lower() in audio.EXTENSIONS:
                folders[name] = [name]  # named like a sound: reported as the others are
            if not folders[name]:
                raise DataError(f"{name}: no audio file below this folder; name the files, or another folder")
    # A list that Windows programs wrote begins with a byte order mark.
    marked = (line if number else line.removeprefix("\ufeff") for number, line in enumerate(stdin))
    lines = (line.rstrip("\r\n") for line in marked if line.strip())
    return chain.from_iterable(lines if name == "-" else folders.get(name, (name,)) for name in names)


def predict_clips(
    model: Model, paths: Iterable[str | Path], *, batch_size: int = 16, remote: RayInference | None = None
) -> Iterator[Prediction]:
    """See `Classifier.predict_files`; with ``remote`` files are decoded here and classified on its cluster."""
    names = iter(paths)
    batches = iter(lambda: [str(name) for name in islice(names, batch_size)], [])
    if remote is None:
        # Each thread takes a batch from files to predictions, which is faster than a thread for each step.
        for found in in_order(lambda batch: _predict(model, batch), batches, ahead=2):
            yield from found
        return
    jobs = ((clips, clips.waves) for clips in in_order(lambda batch: _decode(model, batch), batches, ahead=4))
    for clips, predictions in remote.map(Model.predict_waves, jobs):
        yield from clips.named(predictions or ())


class _Clips(NamedTuple):
    """A batch of decoded files: waves of the readable ones, and errors of the others by their index."""

    paths: list[str]
    waves: NDArray[np.float32] | None
    errors: dict[int, str]

    def named(self, found: Sequence[Prediction]) -> list[Prediction]:
        """A prediction for each file, given those of the waves."""
        good = iter(found)
        return [
            Prediction(path, (), (), self.errors[place]) if place in self.errors else replace(next(good), path=path)
            for place, path in enumerate(self.paths)
        ]


def _predict(model: Model, paths: list[str]) -> list[Prediction]:
    clips = _decode(model, paths)
    return clips.named(() if clips.waves is None else model.predict_waves(clips.waves))


def _decode(model: Model, paths: list[str]) -> _Clips:
    waves: list[NDArray[np.float32]] = []
    errors: dict[int, str] = {}
    for place, path in enumerate(paths):
        try:
            waves.append(audio.fit(model.waveform(path)[0], model.samples))
        except AudioError as error:
            errors[place] = error.reason
    return _Clips(paths, np.stack(waves) if waves else None, errors)
