"""Opening a data set by its path: the known layouts, and users' own folders and csv files.

Comes in: the path of a folder or a csv file. Goes out: a `Dataset`. The layout is recognised by its defining files, in
the order of `LAYOUTS`; its title, and whether its folds are official, stand in ``datasets.py``. Sounds are decoded only
for the hints. Directories and pipes named like a sound stay in the list, so that reading them reports them.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earsight.data import audio, duplicates, published, splits
from earsight.data.clip_tables import read_csv
from earsight.data.datasets import (
    BACKGROUND,
    DRAWN_FOLDS,
    SEPARATOR,
    Clip,
    Dataset,
    Hints,
    Listing,
    check_enough,
    check_rows,
    exploded,
    first,
    fold_notes,
    is_background,
    split_notes,
    straddling_notes,
)
from earsight.data.folders import is_audiofolder, only_class_remedy, read_audiofolder, read_folder, read_names
from earsight.data.intake import NOTED_SHARE, rate_for, shares_above
from earsight.data.labels import MODES, LabelsMode, labels_note
from earsight.errors import AudioError, DataError, counted, unless_address

_LOOKED_AT = 200
_LISTENED_TO = 40
_ORDINARY_RATE_HZ = 48000
_MOST_SECONDS = 600.0  # of a clip, as training takes windows from by default
_TABLES = (".csv", ".tsv", ".txt", ".jsonl")


def open_dataset(
    path: Path | str,
    *,
    layout: str = "auto",
    folds: int | None = 5,
    seed: int = 0,
    subset: str | None = None,
    root: Path | str | None = None,
    label_from: str | None = None,
    labels: LabelsMode = "auto",
    skip_missing: bool = False,
    kept: Callable[[], Collection[str]] = frozenset,
    testing: bool = False,
) -> Dataset:
    """Open a data set by its path.

    Parameters
    ----------
    layout : str
        A name of `LAYOUTS`, or ``auto`` to recognise it.
    folds, seed : int
        How many folds to draw where the data set brings none (stratified by label, groups whole), and that draw's seed.
        None draws none: every clip is then in fold 0.
    subset : str or None
        ``esc10`` for the rows of ESC-50 that are also ESC-10, ``single`` for the clips of FSD50K with one label.
    root : str or Path or None
        Where a table's paths are looked up; default the table's folder.
    label_from : str or None
        A pattern for a folder whose files hold their labels in their names; see `earsight.data.folders.read_names`.
    labels : str
        ``single`` or ``several`` labels a clip, or ``auto`` for what the data say; see `earsight.data.labels`.
    skip_missing : bool
        Whether files that a table names and that are not there are left out, rather than refused.
    kept : callable
        Gives digests of data sets. Files of the same sound come into one fold; earlier versions did not see to that, or
        to the same bytes alone, and where their draw is one of these, as a run folder holds it, it is made again.
    testing : bool
        Whether the clips only test a model: one class, one fold, or a part without training clips will do.

    Raises
    ------
    DataError
        If the path is missing, nothing is recognised, or the clips cannot be trained on; the message says why.
    """
    path = Path(path)
    name = _recognise(path, "folder" if label_from else layout)
    try:
        listing = _listing(path, name, subset, root, label_from, labels)
        listing, missing = _present(listing, skip_missing=skip_missing)
        several, remedy = listing.several, only_class_remedy(listing)
        check_rows(listing.paths, listing.labels, where=str(path), remedy=remedy, one_class=testing, several=several)
    except DataError as error:
        if above := _published_above(path, name):
            raise DataError(f"{path.name} is a part of a data set: give {above}; by itself: {error}") from error
        raise
    listing, background = _without_background(listing)
    notes = list(listing.notes)
    if listing.split and not testing and set(listing.folds or ()) == {splits.TRAIN, splits.VALIDATION}:
        notes.append("there is no test part: validation is held out in its place")
        held = [splits.TRAIN if fold == splits.TRAIN else splits.TEST for fold in listing.folds or ()]
        listing = replace(listing, folds=held)
    hints = listing.hints
    if hints is None:
        hints, more = measured_hints(listing.root, listing.paths)
        notes += more
    groups = np.array(listing.groups)
    named = exploded(listing.labels, listing.paths)[0] if several else listing.labels
    classes = _classes(named)
    empty = Dataset(listing.name, name, listing.root, (), classes, hints, (), listing.split, missing, several=several)
    empty = replace(empty, background=background)
    # A class that no clip of those left is of cannot be learnt, and is then not unknown either.
    masks = [tuple(one for one in found if one in classes) for found in listing.unknown or [()] * len(listing.paths)]

    def built(numbers: list[int], more: list[str]) -> Dataset:
        rows = zip(listing.paths, listing.labels, numbers, listing.groups, masks, strict=True)
        clips = tuple(Clip(path, label, fold, group, unknown=mask) for path, label, fold, group, mask in rows)
        return replace(empty, clips=clips, notes=(*notes, *more))

    def drawn(groups: npt.NDArray[np.str_], *more: str) -> Dataset:
        numbers = [int(number) for number in splits.group_folds(strata, groups, folds=folds or 0, seed=seed)]
        noted = fold_notes(listing.labels, numbers, where=str(path), several=several)
        return built(numbers, [drawn_note(folds or 0, seed), *more, *noted])

    if listing.folds is not None:
        check = split_notes if listing.split else fold_notes
        more = [] if testing else check(listing.labels, listing.folds, where=str(path), several=several)
        return built(listing.folds, [*straddling_notes(listing.groups, listing.folds), *more])
    if folds is None:
        return built([0] * len(groups), [])
    strata = built([0] * len(groups), []).strata if several else np.array(listing.labels)
    check_enough(strata, groups, folds=folds, where=str(path))
    files = [listing.root / clip for clip in listing.paths]
    copies = duplicates.same_sounds(files)
    if not copies:
        return drawn(groups)
    found = duplicates.copies_note(listing.paths, listing.labels, copies)
    if known := kept():
        for parted in (groups, duplicates.joined(groups, duplicates.identical_files(files))):
            before = drawn(parted, f"LEAK: {found}: the run keeps its draw, which may part them")
            if before.digest in known:
                return before
    together = duplicates.joined(groups, copies)
    check_enough(strata, together, folds=folds, where=f"{path}, where {found}")
    return drawn(together, f"{found}: those of a sound are in one fold")


def _without_background(listing: Listing) -> tuple[Listing, str | None]:
    """The class of clips that hold none of the others, if one is named so; of several labels it is taken away."""
    labels = [label.split(SEPARATOR) if listing.several else [label] for label in listing.labels]
    named = sorted({label for found in labels for label in found if is_background(label)})
    if not named or (len(named) > 1 and not listing.several):
        return listing, (BACKGROUND if listing.several and "" in listing.labels else None)
    note = f"'{named[0]}' is none of the classes: trained as that, never an event; another name makes it a class"
    listing = replace(listing, notes=[*listing.notes, note])
    if not listing.several:
        return listing, named[0]
    kept = [SEPARATOR.join(label for label in found if label not in named) for found in labels]
    return replace(listing, labels=kept), BACKGROUND


def drawn_note(folds: int, seed: int) -> str:
    """The line on folds that were drawn."""
    return f"{DRAWN_FOLDS} {folds}, stratified, groups whole, seed {seed}"


def measured_hints(root: Path, paths: list[str]) -> tuple[Hints, list[str]]:
    """Rate, length and columns that fit the clips, from the headers of up to 200 of them, evenly spaced.

    The rate is the commonest, between 8000 and 44100 Hz; where some are above 48000 Hz, the lowest at which a seeded
    sample of the clips loses nothing of note (`earsight.data.intake.rate_for`), if more. The length is the 95th
    percentile, rounded up to 0.1 s, between 0.5 and 30 s; there are 50 columns to a second. Clips that cannot be read
    are passed over here: preparing or checking the data set lists them.
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
    seconds = round(float(min(30.0, max(0.5, np.ceil(round(longest * 10, 6)) / 10))), 1)
    notes: list[str] = []
    common, rate = rate, min(44100, max(8000, rate))
    if max(rates) > _ORDINARY_RATE_HZ:
        found_hz, more = _rate_by_energy([root / path for path in paths], max(rates))
        if common > _ORDINARY_RATE_HZ or found_hz > 44100:
            rate, notes = found_hz, more
    return Hints(rate, seconds, max(50, round(50 * seconds))), notes


def _rate_by_energy(files: Sequence[Path], rate: int) -> tuple[int, list[str]]:
    """The lowest rate that keeps the energy of a seeded sample of files of at most ``rate``, and a note on it."""
    rows = np.random.default_rng(0).permutation(len(files))[:_LISTENED_TO]
    shares = []
    for row in sorted(rows.tolist()):
        try:
            shares.append(shares_above(audio.read_blocks(files[row]), seconds=_MOST_SECONDS))
        except AudioError:
            continue
    found = rate_for(shares, most_hz=min(rate, 384000))
    lose = sum(share[44100] >= NOTED_SHARE for share in shares)
    note = (
        f"{lose} of {counted(len(shares), 'clip')} listened to have sound above 22050 Hz, in moments at least a tenth"
    )
    return found, [
        f"{note} of their energy: features.sample_rate_hz=auto takes {found} Hz for files at up to {rate} Hz"
    ]


def _recognise(path: Path, layout: str) -> str:
    if layout != "auto" and layout not in LAYOUTS:
        near = difflib.get_close_matches(layout.lower(), LAYOUTS, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known: auto, {', '.join(LAYOUTS)}"
        raise DataError(f"--layout {layout}: unknown; {hint}")
    is_folder, is_file = path.is_dir(), path.is_file()
    if not is_folder and not is_file:
        way = "give the data set's path"
        raise DataError(f"{path}: no such folder or csv file; {unless_address(way, path)}")
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


def _listing(
    path: Path, name: str, subset: str | None, root: Path | str | None, label_from: str | None, labels: LabelsMode
) -> Listing:
    """The rows that the layout's reader finds, by the options that it has; with ``labels`` several as such."""
    if labels not in MODES:
        raise DataError(f"--labels {labels}: expected one of {', '.join(MODES)}")
    listing = _read(path, name, subset, root, label_from, labels)
    if labels != "several" or listing.several:
        return listing
    strange = next((label for label in listing.labels if SEPARATOR in label), None)
    if strange:
        raise DataError(f"{path}: the class '{strange}' holds a '{SEPARATOR}', which stands between labels; rename it")
    return replace(listing, several=True, notes=[*listing.notes, labels_note([[one] for one in listing.labels], None)])


def _read(
    path: Path, name: str, subset: str | None, root: Path | str | None, label_from: str | None, labels: LabelsMode
) -> Listing:
    if root is not None and name != "csv":
        raise DataError(f"--root {root}: is for the paths of a table; {path} is a folder")
    if label_from is not None:
        return read_names(path, label_from)
    if subset is not None and published.SUBSETS.get(subset) != name:
        known = " and ".join(f"'{one}' of layout '{layout}'" for one, layout in published.SUBSETS.items())
        raise DataError(f"--subset {subset}: only {known}; this one is '{name}'")
    if name == "csv":
        return read_csv(path, root=None if root is None else Path(root), mode=labels)
    if name == "audiofolder":
        return read_audiofolder(path, mode=labels)
    if name == "fsd50k":
        return published.read_fsd50k(path, single=subset is not None, mode=labels)
    listing = LAYOUTS[name][1](path)
    if subset is None:
        return listing
    return replace(listing.kept(published.esc10_rows(path)), name=subset)


def _present(listing: Listing, *, skip_missing: bool) -> tuple[Listing, tuple[str, ...]]:
    """The rows whose file is there, and the other paths; refused, as `DataError`, unless they are to be left out."""
    if listing.table is None:
        return listing, ()
    there = [os.path.lexists(listing.root / path) for path in listing.paths]
    missing = [path for path, one in zip(listing.paths, there, strict=True) if not one]
    if not missing:
        return listing, ()
    folders = dict.fromkeys(Path(path).parent for path in missing)
    whole = [folder.as_posix() for folder in folders if not (listing.root / folder).is_dir()]
    what = f"{len(missing)} of {len(there)} files do not exist ({first(missing)})"
    what += f"; folder{'s' if len(whole) > 1 else ''} {first(whole, 10)} not there at all" if whole else ""
    if skip_missing and any(there):
        note = f"{what}: left out, so that figures do not compare with those of the whole set"
        return replace(listing.kept(there), notes=[*listing.notes, note]), tuple(missing)
    remedy = "fetch them, or leave them out with --skip-bad" if any(there) else _where(listing.root, missing)
    raise DataError(f"{listing.table}: {what}; paths are looked up below {listing.root}{remedy and '; '}{remedy}")


def _where(root: Path, paths: list[str]) -> str:
    """Where below a folder a table's files are (the first, the last and the middle one), as the option that says it."""
    looked = {paths[0], paths[len(paths) // 2], paths[-1]}
    for folder in (*sorted(root.glob("*/"))[:_LOOKED_AT], *sorted(root.glob("*/*/"))[:_LOOKED_AT], root.parent):
        if all(any((folder / (path + ending)).is_file() for ending in ("", *audio.EXTENSIONS)) for path in looked):
            return f"they are below {folder}: give --root {folder}"
    return "name the folder that they are in with --root"


def _published_above(path: Path, name: str) -> Path | None:
    """The published data set that a path lies in, for messages."""
    if name in _PUBLISHED:
        return None
    # To look for genres is to list all folders of a folder, which need not be a data set's.
    asked = [one for one in _PUBLISHED if one != "gtzan" or path.is_file() or path.name in published.GENRES]
    try:
        # The outer one: the sounds of UrbanSound8K are known by their names, too, but its table lies above them.
        homes = reversed(path.absolute().parents[:2])
        return next((home for home in homes if any(LAYOUTS[one][0](home) for one in asked)), None)
    except OSError:  # a folder above that may not be read: the first error says what matters
        return None


def _classes(labels: list[str]) -> tuple[str, ...]:
    """Names sorted; numbers by their value, so that 10 follows 9."""
    names = set(labels)
    return tuple(sorted(names, key=int) if all(n.isascii() and n.isdigit() for n in names) else sorted(names))


LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Listing]]] = {
    "esc50": (lambda path: (path / "meta" / "esc50.csv").is_file(), published.read_esc50),
    "urbansound8k": (published.is_urbansound8k, published.read_urbansound8k),
    "speechcommands": (published.is_speech_commands, published.read_speech_commands),
    "fsdd": (published.is_fsdd, published.read_fsdd),
    "fsd50k": (published.is_fsd50k, published.read_fsd50k),
    "dcase": (lambda path: (path / "evaluation_setup").is_dir(), published.read_dcase),
    "gtzan": (lambda path: published.gtzan_home(path) is not None, published.read_gtzan),
    "csv": (lambda path: path.is_file() and path.suffix.lower() in _TABLES, read_csv),
    "audiofolder": (is_audiofolder, read_audiofolder),
    "folder": (Path.is_dir, read_folder),
}
_PUBLISHED = ("esc50", "urbansound8k", "speechcommands", "fsdd", "fsd50k", "dcase", "gtzan")
