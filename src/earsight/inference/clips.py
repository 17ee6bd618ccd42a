"""Many files, a batch at a time: read, heard here or on a cluster, and named in their order.

Comes in: a classifier and names of files, as far as they are needed. Goes out: a `Prediction` for each; that of a file
which cannot be read says why.

Which files to predict, and how their predictions are written.

Comes in: names of files and folders, ``-`` for names on a stream. Goes out: rows as text, CSV or JSON lines, each
written as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray

from earsight.data import audio
from earsight.data.layouts import sounds_below
from earsight.errors import AudioError, DataError
from earsight.inference.classifier import Classifier, Prediction
from earsight.inference.formats import Form, Table
from earsight.parallel import in_order

if TYPE_CHECKING:
    from earsight.inference.ray_inference import Fleet


def find_sounds(names: Sequence[str], *, stdin: TextIO) -> Iterator[str]:
    """Paths of sounds: files as they are named, folders searched for audio, ``-`` for lines of ``stdin``.

    Folders are looked through before the first path is given, so that a mistake shows before there is any output.

    Raises
    ------
    DataError
        If a folder holds no audio file.
    """
    searched = [name for name in names if name != "-" and Path(name).is_dir()]
    # A data set keeps a folder named like a sound, to report it; here it is no sound.
    folders = {name: [str(path) for path in sounds_below(Path(name)) if not path.is_dir()] for name in searched}
    for name, found in folders.items():
        if not found:
            raise DataError(f"{name}: no audio file below this folder; name the files, or another folder")
    return _paths(names, folders, stdin)


def _paths(names: Iterable[str], folders: dict[str, list[str]], stdin: TextIO) -> Iterator[str]:
    for name in names:
        if name == "-":
            yield from (line.rstrip("\r\n") for line in stdin if line.strip())
        elif name in folders:
            yield from folders[name]
        else:
            yield name


def write_rows(
    predictions: Iterable[Prediction], *, form: Form, top: int, stream: TextIO, calibrated: bool = False
) -> int:
    """Write one row a file, as it comes.

    Parameters
    ----------
    predictions : iterable of Prediction
    form : {"text", "csv", "jsonl"}
    top : int
        How many classes.
    stream : TextIO
    calibrated : bool
        Whether the csv has the columns ``unknown``, ``novelty`` and ``plausible``; ``label`` is the nearest class then.

    Returns
    -------
    int
        How many files had an error instead of a class.
    """
    failed = 0
    table = Table(form, "clips", top=top, calibrated=calibrated)
    stream.write(table.header())
    for found in predictions:
        failed += bool(found.error)
        stream.write(table.prediction(found))
        stream.flush()
    return failed


@dataclass(frozen=True)
class Clips:
    """Files that were read.

    Attributes
    ----------
    paths : list of str
    waves : ndarray, optional
        Of those that are sounds, float32 (batch, samples).
    errors : dict of int to str
        Why the others are none, by their place.
    """

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


def predict_clips(
    classifier: Classifier, paths: Iterable[str | Path], *, batch_size: int = 16, fleet: Fleet | None = None
) -> Iterator[Prediction]:
    """See `Classifier.predict_files`; with a ``fleet`` files are read here and heard on its cluster."""
    names = iter(paths)
    batches = iter(lambda: [str(name) for name in islice(names, batch_size)], [])
    if fleet is None:
        # A batch is one thread's from the files to the answers: two such do more than two threads for each step.
        for found in in_order(lambda batch: _heard(classifier, batch), batches, ahead=2):
            yield from found
        return
    jobs = ((clips, clips.waves) for clips in in_order(lambda batch: _read(classifier, batch), batches, ahead=4))
    for clips, said in fleet.map(_heard_there, jobs):
        yield from clips.named(said or ())


def _heard(classifier: Classifier, paths: list[str]) -> list[Prediction]:
    clips = _read(classifier, paths)
    return clips.named(() if clips.waves is None else classifier.predict_waves(clips.waves))


def _heard_there(classifier: Classifier, waves: NDArray[np.float32]) -> list[Prediction]:
    return classifier.predict_waves(waves)


def _read(classifier: Classifier, paths: list[str]) -> Clips:
    waves: list[NDArray[np.float32]] = []
    errors: dict[int, str] = {}
    for place, path in enumerate(paths):
        try:
            waves.append(audio.fit(classifier.heard(path)[0], classifier.samples))
        except AudioError as error:
            errors[place] = error.reason
    return Clips(paths, np.stack(waves) if waves else None, errors)
