"""Known layouts of data sets, and opening one by its path.

Comes in: the path of a folder or a csv file. Goes out: a `Dataset`. The layout is recognised by the files that define
it; `LAYOUTS` is the whole list, looked through in its order.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from earsight.data import listings, splits
from earsight.data.datasets import (
    DRAWN_FOLDS,
    Clip,
    Dataset,
    Hints,
    check_enough,
    check_rows,
    fold_notes,
    straddling_notes,
)
from earsight.data.listings import Listing
from earsight.errors import DataError

ESC50_HINTS = Hints(sample_rate_hz=44100, clip_seconds=5.0, frames=250)
URBANSOUND8K_HINTS = Hints(sample_rate_hz=22050, clip_seconds=4.0, frames=250)
GTZAN_HINTS = Hints(sample_rate_hz=22050, clip_seconds=30.0, frames=1500)
MARKER = "dataset.json"
_SUBSETS = ("esc10",)
_GTZAN_FILE = re.compile(r"(?P<genre>.+)\.\d{5}\.(wav|au|mp3|flac|ogg)", re.IGNORECASE)


def open_dataset(
    path: Path | str, *, layout: str = "auto", folds: int = 5, seed: int = 0, subset: str | None = None
) -> Dataset:
    """Open a data set by its path.

    Parameters
    ----------
    path : Path or str
        A folder, or a csv file.
    layout : str
        A name of `LAYOUTS`, or ``auto`` to recognise it.
    folds : int
        How many to draw where the data set brings none: stratified by label, groups whole.
    seed : int
        Of that draw.
    subset : str or None
        ``esc10`` for the rows of ESC-50 that are also ESC-10.

    Returns
    -------
    Dataset
        With every clip in a fold.

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
        hints, more = listings.measured_hints(listing.root, listing.paths)
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
    return Dataset(
        name=listing.name,
        layout=name,
        root=listing.root,
        clips=tuple(Clip(path=p, label=label, fold=fold, group=group) for p, label, fold, group in rows),
        classes=_classes(listing.labels),
        hints=hints,
        notes=tuple(notes),
    )


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
            kind = "a folder" if is_folder else "a file"
            raise DataError(
                f"{path}: {kind}, but layout '{layout}' is {'a csv file' if layout == 'csv' else 'a folder'}"
            )
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
    rows = listings.csv_rows(table, needed=("filename", "fold", "category", "src_file"))
    paths = [f"audio/{row['filename']}" for _, row in rows]
    listings.check_files(root, paths, where=str(table))
    name, hints = _marker(root)
    return Listing(
        name=name or root.resolve().name,
        root=root,
        paths=paths,
        labels=[listings.normal(row["category"]) for _, row in rows],
        groups=[row["src_file"] for _, row in rows],
        folds=[listings.integer(row["fold"], column="fold", line=line, where=table) for line, row in rows],
        hints=hints or ESC50_HINTS,
    )


def _subset(listing: Listing, layout: str, root: Path, subset: str) -> Listing:
    if subset not in _SUBSETS or layout != "esc50":
        raise DataError(f"--subset {subset}: only 'esc10', of a data set in ESC-50's layout; this one is '{layout}'")
    rows = listings.csv_rows(root / "meta" / "esc50.csv", needed=("esc10",))
    kept = [place for place, (_, row) in enumerate(rows) if row["esc10"].lower() == "true"]
    folds = listing.folds or []
    return Listing(
        name=subset,
        root=listing.root,
        paths=[listing.paths[place] for place in kept],
        labels=[listing.labels[place] for place in kept],
        groups=[listing.groups[place] for place in kept],
        folds=[folds[place] for place in kept],
        hints=listing.hints,
        notes=listing.notes,
    )


def _marker(root: Path) -> tuple[str | None, Hints | None]:
    """Name and hints of a data set that borrows the layout, from an optional ``dataset.json``."""
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
    rows = listings.csv_rows(table, needed=("slice_file_name", "fsID", "fold", "class"))
    folds = [listings.integer(row["fold"], column="fold", line=line, where=table) for line, row in rows]
    paths = [f"audio/fold{fold}/{row['slice_file_name']}" for fold, (_, row) in zip(folds, rows, strict=True)]
    listings.check_files(root, paths, where=str(table))
    return Listing(
        name=root.resolve().name,
        root=root,
        paths=paths,
        labels=[listings.normal(row["class"]) for _, row in rows],
        groups=[row["fsid"] for _, row in rows],
        folds=folds,
        hints=URBANSOUND8K_HINTS,
    )


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
    found = listings.read_folder(home)
    kept = [place for place, path in enumerate(found.paths) if _of_genre(home / path)]
    paths = [(home / found.paths[place]).relative_to(root).as_posix() for place in kept]
    left = len(found.paths) - len(kept)
    notes = [*found.notes, *([f"{left} sounds not named <genre>.<number> were left out"] if left else [])]
    labels = [found.labels[place] for place in kept]
    name = root.resolve().name
    return Listing(name=name, root=root, paths=paths, labels=labels, groups=paths, hints=GTZAN_HINTS, notes=notes)


def _classes(labels: list[str]) -> tuple[str, ...]:
    """Names sorted; numbers by their value, so that 10 follows 9."""
    names = set(labels)
    return tuple(sorted(names, key=int) if all(n.isascii() and n.isdigit() for n in names) else sorted(names))


LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Listing]]] = {
    "esc50": (lambda path: (path / "meta" / "esc50.csv").is_file(), _read_esc50),
    "urbansound8k": (lambda path: (path / "metadata" / "UrbanSound8K.csv").is_file(), _read_urbansound8k),
    "gtzan": (lambda path: _gtzan_home(path) is not None, _read_gtzan),
    "csv": (lambda path: path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".txt"), listings.read_csv),
    "folder": (Path.is_dir, listings.read_folder),
}
