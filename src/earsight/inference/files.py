"""Which files to predict, and how their predictions are written.

Comes in: names of files and folders, ``-`` for names on a stream. Goes out: rows as text, CSV or JSON lines, each
written as it comes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from earsight.data.listings import sounds_below
from earsight.errors import DataError
from earsight.inference.classifier import Prediction


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
    predictions: Iterable[Prediction], *, form: str, top: int, stream: TextIO, calibrated: bool = False
) -> int:
    """Write one row a file, as it comes.

    Parameters
    ----------
    predictions : iterable of Prediction
    form : {"text", "csv", "json"}
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
    table = csv.writer(stream, lineterminator="\n")
    if form == "csv":
        ranks = [f"{name}_{rank + 1}" for rank in range(1, top) for name in ("label", "probability")]
        extra = ["unknown", "novelty", "plausible"] if calibrated else []
        table.writerow(["path", "label", "probability", *ranks, *extra, "error"])
    for found in predictions:
        failed += bool(found.error)
        pairs = list(zip(found.classes, found.probabilities, strict=True))[:top]
        if form == "json":
            stream.write(_json({"path": found.path, "classes": dict(pairs), **_confidence(found)}) + "\n")
        elif form == "csv":
            cells = [cell for name, share in pairs for cell in (name, f"{share:.6f}")]
            extra = _confidence_cells(found) if calibrated else []
            table.writerow([found.path, *cells, *[""] * (2 * top - len(cells)), *extra, found.error])
        elif found.error:
            stream.write(f"{found.path}\terror: {found.error}\n")
        else:
            words = [f"{name} {100 * share:.1f} %" for name, share in pairs]
            words[:1] = [f"unknown (nearest: {words[0]})"] if found.unknown else words[:1]
            stream.write("\t".join([found.path, *words]) + "\n")
        stream.flush()
    return failed


def _confidence(found: Prediction) -> dict[str, object]:
    """What a row of JSON says beside its classes; of a model without calibration, nothing."""
    out: dict[str, object] = {"error": found.error} if found.error else {}
    if found.novelty is not None:
        out |= {"unknown": found.unknown, "novelty": found.novelty}
    if found.plausible:
        out["plausible"] = list(found.plausible)
    return out


def _confidence_cells(found: Prediction) -> list[str]:
    if found.error:
        return ["", "", ""]
    return [
        "" if found.novelty is None else str(found.unknown).lower(),
        "" if found.novelty is None else f"{found.novelty:.6g}",
        ";".join(found.plausible),
    ]


def _json(row: Mapping[str, object]) -> str:
    """One line of JSON; a file name that is not UTF-8 is written with escapes, for JSON must be UTF-8."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return text
