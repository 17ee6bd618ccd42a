"""Which files to predict, and how their predictions are written.

Comes in: names of files and folders, ``-`` for names on a stream. Goes out: rows as text, CSV or JSON lines, each
written as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from earsight.data.listings import sounds_below
from earsight.errors import DataError
from earsight.inference.classifier import Prediction
from earsight.inference.rows import Form, Table


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
