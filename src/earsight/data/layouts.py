"""Opening a data set by its path: the known layouts, and users' own folders and csv files.

Comes in: the path of a folder or a csv file. Goes out: a `Dataset`. The layout is recognised by its defining files, in
the order of `LAYOUTS`; its title, and whether its folds are official, stand in ``datasets.py``. Sounds are decoded only
for the hints. Directories and pipes named like a sound stay in the list, so that reading them reports them.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np

from earsight.data import audio, contents, splits
from earsight.data.datasets import (
    DRAWN_FOLDS,
    Clip,
    Dataset,
    Hints,
    check_enough,
    check_rows,
    first,
    fold_notes,
    straddling_notes,
)
from earsight.errors import AudioError, DataError

_LOOKED_AT = 200


ESC50_HINTS = Hints(sample_rate_hz=44100, clip_seconds=5.0, frames=250)
URBANSOUND8K_HINTS = Hints(sample_rate_hz=22050, clip_seconds=4.0, frames=250)
GTZAN_HINTS = Hints(sample_rate_hz=22050, clip_seconds=30.0, frames=1500)
MARKER = "dataset.json"
_SUBSETS = ("esc10",)
_GTZAN_FILE = re.compile(r"(?P<genre>.+)\.\d{5}\.(wav|au|mp3|flac|ogg)", re.IGNORECASE)


@dataclass(frozen=True)
class Listing:
    """Rows of a data set before its folds are fixed; `folds` is None if they are to be drawn."""

    name: str
    root: Path
    paths: list[str]
    labels: list[str]
    groups: list[str]
    folds: list[int] | None = None
    hints: Hints | None = None
    notes: list[str] = field(default_factory=list)


def open_dataset(
    path: Path | str, *, layout: str = "auto", folds: int = 5, seed: int = 0, subset: str | None = None
) -> Dataset:
    """Open a data set by its path.

    Parameters
    ----------
    layout : str
        A name of `LAYOUTS`, or ``auto`` to recognise it.
    folds, seed : int
        How many folds to draw where the data set brings none (stratified by label, groups whole), and that draw's seed.
    subset : str or None
        ``esc10`` for the rows of ESC-50 that are also ESC-10.

    Raises
    ------
    DataError
        If the path is missing, nothing is recognised, or the clips cannot be trained on; the message says why.
    """
    path = Path(path)
    name = _recognise(path, layout)
    listing = LAYOUTS[name][1](path)
    if subset is not None:
        listing = _subset(listing, name, path, subset)
    check_rows(listing.paths, listing.labels, where=str(path))
    notes = list(listing.notes)
    hints = listing.hints
    if hints is None:
        hints, more = measured_hints(listing.root, listing.paths)
        notes += more
    labels, groups = np.array(listing.labels), np.array(listing.groups)
    numbers = listing.folds
    if numbers is None:
        check_enough(labels, groups, folds=folds, where=str(path))
        numbers = [int(number) for number in splits.group_folds(labels, groups, folds=folds, seed=seed)]
        notes.append(f"{DRAWN_FOLDS} {folds}, stratified, groups whole, seed {seed}")
    else:
        notes += straddling_notes(listing.groups, numbers)
    notes += fold_notes(listing.labels, numbers, where=str(path))
    rows = zip(listing.paths, listing.labels, numbers, listing.groups, strict=True)
    clips = tuple(Clip(*row) for row in rows)
    return Dataset(listing.name, name, listing.root, clips, _classes(listing.labels), hints, tuple(notes))


def read_folder(root: Path) -> Listing:
    """List a folder per class: the class is the first folder below ``root``, each file is its own group."""
    out = Listing(name=root.resolve().name, root=root, paths=[], labels=[], groups=[])
    ignored: Counter[str] = Counter()
    loose = 0
    # A link back to the root or above it would put every class into the one that holds the link.
    barred = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
    for entry in _entries(root):
        if entry.name.startswith("."):
            ignored["hidden"] += 1
        elif _is_folder(entry):
            found = _sounds_below(Path(entry.path), ignored, barred=barred)
            if not found:
                out.notes.append(f"folder '{entry.name}' holds no sound and is no class")
            for path in found:
                out.paths.append(path.relative_to(root).as_posix())
                out.labels.append(normal(entry.name))
        elif Path(entry.name).suffix.lower() in audio.EXTENSIONS:
            loose += 1
        else:
            ignored["other"] += 1
    if loose and not out.paths:
        remedy = "put each class in a folder of its own, or list the clips in a csv with the columns path,label"
        raise DataError(f"{root}: {loose} sounds but no class folders; {remedy}")
    out.groups.extend(out.paths)
    if loose:
        out.notes.append(f"{loose} sounds beside the class folders were left out: they have no class")
    if total := ignored["hidden"] + ignored["other"]:
        out.notes.append(f"{total} files that are no sound by their name were left out ({ignored['hidden']} hidden)")
    if ignored["again"]:
        out.notes.append(f"{ignored['again']} links to folders already listed were left out")
    return out


def sounds_below(folder: Path) -> list[Path]:
    """Sound files below a folder, sorted, by the rules of data sets: links are followed, hidden files left out."""
    return _sounds_below(folder, Counter(), barred=set())


def read_csv(path: Path) -> Listing:
    """List the clips of a csv with the columns path,label and, by choice, fold and group.

    Paths are absolute or relative to the csv. Without a group column each file is its own group.
    """
    rows = csv_rows(path, needed=("path", "label"))
    root = path.parent
    empty = [str(number) for number, row in rows if not row["path"] or not row["label"]]
    if empty:
        raise DataError(f"{path}: empty path or label in {len(empty)} rows (line {first(empty)}); fill or remove them")
    paths = [_clip_path(root, row["path"]) for _, row in rows]
    check_files(root, paths, where=str(path))
    groups = [row.get("group") or clip for clip, (_, row) in zip(paths, rows, strict=True)]
    folds = _folds(rows, where=path) if "fold" in rows[0][1] else None
    labels = [normal(row["label"]) for _, row in rows]
    return Listing(name=path.stem, root=root, paths=paths, labels=labels, groups=groups, folds=folds)


def csv_rows(path: Path, *, needed: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a csv as (line number, {column: value}); columns in lower case, values without outer blanks.

    The delimiter is the one of comma, semicolon and tab that splits the first line most.
    """
    try:
        head = path.read_bytes()
        text = head.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        found = contents.name_content(head[: contents.HEAD_BYTES]) or "not UTF-8 text"
        raise DataError(f"{path}: expected a csv saved as UTF-8, found {found}") from error
    delimiter = max((",", ";", "\t"), key=text.split("\n", 1)[0].count)
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip().lower() for name in next(table, [])]
        missing = [name for name in needed if name.lower() not in columns]
        if missing:
            shown = ", ".join(columns)[:200] or "nothing"
            raise DataError(f"{path}: no column '{missing[0]}'; found {shown}; expected {', '.join(needed)}")
        rows = []
        for values in table:
            if any(value.strip() for value in values[len(columns) :]):
                raise DataError(
                    f"{path}: line {table.line_num}: {len(values)} values for {len(columns)} columns; "
                    f"put values that hold a '{delimiter}' in double quotes"
                )
            if any(value.strip() for value in values):
                padded = [*values, *[""] * (len(columns) - len(values))]
                rows.append((table.line_num, {c: v.strip() for c, v in zip(columns, padded, strict=False)}))
    except csv.Error as error:
        raise DataError(f"{path}: not a csv that can be read ({error}); save it again as UTF-8 csv") from error
    if not rows:
        raise DataError(f"{path}: a csv without rows; expected one row for each clip")
    return rows


def check_files(root: Path, paths: list[str], *, where: str) -> None:
    """Refuse, as `DataError`, rows whose file is not there: their count and the first three."""
    missing = [path for path in paths if not os.path.lexists(root / path)]
    if missing:
        what = f"{len(missing)} of {len(paths)} files do not exist ({first(missing)})"
        raise DataError(f"{where}: {what}; paths are looked up below {root}")


def normal(label: str) -> str:
    """A label in one Unicode form: folders made on a Mac spell ü in two characters, others in one."""
    return unicodedata.normalize("NFC", label)


def measured_hints(root: Path, paths: list[str]) -> tuple[Hints, list[str]]:
    """Rate, length and columns that fit the clips, from the headers of up to 200 of them, evenly spaced.

    The rate is the commonest, between 8000 and 44100 Hz; the length is the 95th percentile, rounded up to 0.1 s,
    between 0.5 and 30 s; there are 50 columns to a second. Clips that cannot be read are passed over here: preparing
    or checking the data set lists them.
    """
    rows = np.unique(np.linspace(0, len(paths) - 1, min(_LOOKED_AT, len(paths))).round().astype(int))
    found = []
    for row in rows:
        try:
            found.append(audio.info(root / paths[row]))
        except AudioError:
            continue
    if not found:
        note = f"none of {len(rows)} clips looked at can be read; 5 s at 22050 Hz are assumed"
        return Hints(sample_rate_hz=22050, clip_seconds=5.0, frames=250), [note]
    rates = Counter(item.sample_rate_hz for item in found)
    rate = max(rates, key=lambda value: (rates[value], value))
    longest = float(np.percentile([item.seconds for item in found], 95))
    seconds = min(30.0, max(0.5, np.ceil(round(longest * 10, 6)) / 10))
    hints = Hints(min(44100, max(8000, rate)), round(float(seconds), 1), max(50, round(50 * float(seconds))))
    return hints, []


def _sounds_below(folder: Path, ignored: Counter[str], *, barred: set[tuple[int, int]]) -> list[Path]:
    """Sound files of one class, sorted; links are followed, and no folder is read twice, so that loops end."""
    found: list[Path] = []
    seen = set(barred)
    stack = [folder]
    while stack:
        here = stack.pop()
        if _identity(here) in seen:
            ignored["again"] += 1
            continue
        seen.add(_identity(here))
        for entry in _entries(here):
            if entry.name.startswith("."):
                ignored["hidden"] += 1
            elif Path(entry.name).suffix.lower() in audio.EXTENSIONS:
                found.append(Path(entry.path))
            elif _is_folder(entry):
                stack.append(Path(entry.path))
            else:
                ignored["other"] += 1
    return sorted(found, key=lambda path: path.as_posix())


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself is a name like any other, and not a folder
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror}); change its permissions") from error


def _folds(rows: list[tuple[int, dict[str, str]]], *, where: Path) -> list[int]:
    """The column ``fold`` as integers, also where a spreadsheet wrote 1.0."""
    out = []
    for line, row in rows:
        try:
            value = float(row["fold"])
        except ValueError:
            value = math.nan
        if not value.is_integer():
            raise DataError(f"{where}: line {line}: fold is '{row['fold']}'; expected an integer such as 1")
        out.append(int(value))
    return out


def _clip_path(root: Path, text: str) -> str:
    if "\\" in text and not os.path.lexists(root / text):
        text = text.replace("\\", "/")  # written on Windows
    below = Path(os.path.relpath(root / text, root))
    if below.parts[:1] != ("..",):
        return below.as_posix()
    # By name alone: resolving links would name another file than the user did.
    return Path(os.path.normpath(Path.cwd() / root / text)).as_posix()


def _recognise(path: Path, layout: str) -> str:
    if layout != "auto" and layout not in LAYOUTS:
        near = difflib.get_close_matches(layout.lower(), LAYOUTS, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known: auto, {', '.join(LAYOUTS)}"
        raise DataError(f"--layout {layout}: unknown; {hint}")
    is_folder, is_file = path.is_dir(), path.is_file()
    if not is_folder and not is_file:
        raise DataError(f"{path}: no such folder or csv file; give the data set's path")
    if layout != "auto":
        if is_folder == (layout == "csv"):
            found, wanted = ("a folder", "a csv file") if is_folder else ("a file", "a folder")
            raise DataError(f"{path}: {found}, but layout '{layout}' is {wanted}")
        return layout
    if is_file and not LAYOUTS["csv"][0](path):
        raise DataError(f"{path}: a single file; a data set is a folder, or a .csv with the columns path,label")
    try:
        return next(name for name, (recognise, _) in LAYOUTS.items() if recognise(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); change its permissions") from error


def _read_esc50(root: Path) -> Listing:
    table = root / "meta" / "esc50.csv"
    if not table.is_file():
        raise DataError(f"{root}: no meta/esc50.csv; expected ESC-50's folders meta/ and audio/")
    rows = csv_rows(table, needed=("filename", "fold", "category", "src_file"))
    paths = [f"audio/{row['filename']}" for _, row in rows]
    check_files(root, paths, where=str(table))
    name, hints = _marker(root)
    labels, groups = [normal(row["category"]) for _, row in rows], [row["src_file"] for _, row in rows]
    return Listing(
        *(name or root.resolve().name, root, paths, labels, groups),
        folds=_folds(rows, where=table),
        hints=hints or ESC50_HINTS,
    )


def _subset(listing: Listing, layout: str, root: Path, subset: str) -> Listing:
    if subset not in _SUBSETS or layout != "esc50":
        raise DataError(f"--subset {subset}: only 'esc10', of a data set in ESC-50's layout; this one is '{layout}'")
    rows = csv_rows(root / "meta" / "esc50.csv", needed=("esc10",))
    kept = [row["esc10"].lower() == "true" for _, row in rows]
    columns = {name: list(compress(getattr(listing, name), kept)) for name in ("paths", "labels", "groups", "folds")}
    return replace(listing, name=subset, **columns)  # type: ignore[arg-type]


def _marker(root: Path) -> tuple[str | None, Hints | None]:
    """Name and hints of another data set in this layout, from an optional ``dataset.json``."""
    path = root / MARKER
    if not path.is_file():
        return None, None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        hints = Hints(int(tree["sample_rate_hz"]), float(tree["clip_seconds"]), int(tree["frames"]))
        return str(tree["name"]), hints
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected name, sample_rate_hz, clip_seconds and frames ({error!r})") from error


def _read_urbansound8k(root: Path) -> Listing:
    table = root / "metadata" / "UrbanSound8K.csv"
    if not table.is_file():
        raise DataError(f"{root}: no metadata/UrbanSound8K.csv; expected UrbanSound8K's folders metadata/ and audio/")
    rows = csv_rows(table, needed=("slice_file_name", "fsID", "fold", "class"))
    folds = _folds(rows, where=table)
    paths = [f"audio/fold{fold}/{row['slice_file_name']}" for fold, (_, row) in zip(folds, rows, strict=True)]
    check_files(root, paths, where=str(table))
    labels, groups = [normal(row["class"]) for _, row in rows], [row["fsid"] for _, row in rows]
    return Listing(root.resolve().name, root, paths, labels, groups, folds, URBANSOUND8K_HINTS)


def _gtzan_home(root: Path) -> Path | None:
    """The folder that holds the genres: the path itself or a ``genres*`` below it."""
    if not root.is_dir():
        return None
    for home in (root, *sorted(root.glob("genres*"))):
        genres = [folder for folder in sorted(home.iterdir()) if folder.is_dir()] if home.is_dir() else []
        if sum(any(_of_genre(file) for file in folder.iterdir()) for folder in genres) >= 2:
            return home
    return None


def _of_genre(file: Path) -> bool:
    match = _GTZAN_FILE.fullmatch(file.name)
    return match is not None and match["genre"].lower() == file.parent.name.lower()


def _read_gtzan(root: Path) -> Listing:
    home = _gtzan_home(root)
    if home is None:
        raise DataError(f"{root}: no genres; expected GTZAN's genres/<genre>/<genre>.00000.wav")
    found = read_folder(home)
    kept = [place for place, path in enumerate(found.paths) if _of_genre(home / path)]
    paths = [(home / found.paths[place]).relative_to(root).as_posix() for place in kept]
    left = len(found.paths) - len(kept)
    notes = [*found.notes, *([f"{left} sounds not named <genre>.<number> were left out"] if left else [])]
    labels = [found.labels[place] for place in kept]
    return Listing(root.resolve().name, root, paths, labels, groups=paths, hints=GTZAN_HINTS, notes=notes)


def _classes(labels: list[str]) -> tuple[str, ...]:
    """Names sorted; numbers by their value, so that 10 follows 9."""
    names = set(labels)
    return tuple(sorted(names, key=int) if all(n.isascii() and n.isdigit() for n in names) else sorted(names))


LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Listing]]] = {
    "esc50": (lambda path: (path / "meta" / "esc50.csv").is_file(), _read_esc50),
    "urbansound8k": (lambda path: (path / "metadata" / "UrbanSound8K.csv").is_file(), _read_urbansound8k),
    "gtzan": (lambda path: _gtzan_home(path) is not None, _read_gtzan),
    "csv": (lambda path: path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".txt"), read_csv),
    "folder": (Path.is_dir, read_folder),
}
