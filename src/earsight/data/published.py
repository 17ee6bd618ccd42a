"""Data sets that are published, each recognised by its defining files.

Comes in: a data set's folder. Goes out: a `Listing` with its own folds or split, its sources as groups, and notes on
what is missing of it. ESC-50, UrbanSound8K, GTZAN, Speech Commands, FSDD, FSD50K, and DCASE's acoustic scenes.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from earsight.data import audio
from earsight.data.clip_tables import Row, csv_rows, fold_column, normal, several_labels
from earsight.data.datasets import Hints, Listing, first
from earsight.data.folders import NOISE_FOLDER, PART_LISTS, read_folder
from earsight.data.labels import joined, labels_note
from earsight.data.splits import TEST, TRAIN, VALIDATION
from earsight.errors import DataError, counted, were

ESC50_HINTS = Hints(sample_rate_hz=44100, clip_seconds=5.0, frames=250)
URBANSOUND8K_HINTS = Hints(sample_rate_hz=22050, clip_seconds=4.0, frames=250)
GTZAN_HINTS = Hints(sample_rate_hz=22050, clip_seconds=30.0, frames=1500)
SPEECH_HINTS = Hints(sample_rate_hz=16000, clip_seconds=1.0, frames=50)
MARKER = "dataset.json"
SUBSETS = {"esc10": "esc50", "single": "fsd50k"}
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
_URBAN = (
    *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
    *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
)
_URBAN_FILE = re.compile(r"(?P<source>\d+)-(?P<kind>\d)-\d+-\d+\.\w+")
_GTZAN_FILE = re.compile(r"(?P<genre>.+)\.\d{5}\.(wav|au|mp3|flac|ogg)", re.IGNORECASE)
_SPEAKER = re.compile(r"([0-9a-f]+)_nohash_\d+", re.IGNORECASE)
_FSDD_FILE = re.compile(r"(\d)_([a-z]+)_(\d+)\.\w+", re.IGNORECASE)
_FSDD_TEST_TAKES = 5


def read_esc50(root: Path) -> Listing:
    """List ESC-50, or another data set in its layout."""
    table = root / "meta" / "esc50.csv"
    if not table.is_file():
        raise DataError(f"{root}: no meta/esc50.csv; expected ESC-50's folders meta/ and audio/")
    rows = csv_rows(table, needed=("filename", "fold", "category", "src_file"))
    paths = [f"audio/{row['filename']}" for _, row in rows]
    name, hints = _marker(root)
    labels, groups = [normal(row["category"]) for _, row in rows], [row["src_file"] for _, row in rows]
    return Listing(
        *(name or root.resolve().name, root, paths, labels, groups),
        folds=fold_column(rows, where=table),
        hints=hints or ESC50_HINTS,
        table=table,
    )


def esc10_rows(root: Path) -> list[bool]:
    """Which rows of ESC-50 are also ESC-10."""
    return [row["esc10"].lower() == "true" for _, row in csv_rows(root / "meta" / "esc50.csv", needed=("esc10",))]


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


def is_urbansound8k(root: Path) -> bool:
    """Whether a folder has UrbanSound8K's table, or its folders ``fold1`` to ``fold10`` with files named as there."""
    return (root / "metadata" / "UrbanSound8K.csv").is_file() or bool(_urban_files(root))


def read_urbansound8k(root: Path) -> Listing:
    """List UrbanSound8K by its table; without it by its files' names, which hold class, source and fold."""
    table = root / "metadata" / "UrbanSound8K.csv"
    if table.is_file():
        rows = csv_rows(table, needed=("slice_file_name", "fsID", "fold", "class"))
        folds = fold_column(rows, where=table)
        paths = [f"audio/fold{fold}/{row['slice_file_name']}" for fold, (_, row) in zip(folds, rows, strict=True)]
        labels, groups = [normal(row["class"]) for _, row in rows], [row["fsid"] for _, row in rows]
        return Listing(root.resolve().name, root, paths, labels, groups, folds, URBANSOUND8K_HINTS, table=table)
    files = _urban_files(root)
    if not files:
        raise DataError(f"{root}: no metadata/UrbanSound8K.csv; expected UrbanSound8K's folders metadata/ and audio/")
    above = root.absolute().parent
    if (above / "metadata" / "UrbanSound8K.csv").is_file():
        raise DataError(f"{root}: the sounds of UrbanSound8K without their table; give {above}")
    matches = [(file, _URBAN_FILE.fullmatch(file.name)) for file in files]
    named = [(file, match) for file, match in matches if match]
    paths = [file.relative_to(root).as_posix() for file, _ in named]
    labels, groups = [_URBAN[int(match["kind"])] for _, match in named], [match["source"] for _, match in named]
    folds = [int(file.parent.name.removeprefix("fold")) for file, _ in named]
    notes = ["UrbanSound8K without metadata/UrbanSound8K.csv: class, source and fold are taken from the files' names"]
    if absent := sorted({*range(1, 11)} - set(folds)):
        numbers = f"fold{'s' if len(absent) > 1 else ''} {', '.join(map(str, absent))}"
        notes.append(f"UrbanSound8K without {numbers}: figures do not compare with those of all ten")
    if len(named) < len(files):
        notes.append(_left_out(len(files) - len(named), "not named as UrbanSound8K's"))
    return Listing(root.resolve().name, root, paths, labels, groups, folds, URBANSOUND8K_HINTS, notes)


def _urban_files(root: Path) -> list[Path]:
    """The sounds in folders ``fold1`` to ``fold10`` here or below ``audio``, where the first of each folder fit."""
    for home in (root / "audio", root):
        folds = [home / f"fold{number}" for number in range(1, 11) if (home / f"fold{number}").is_dir()]
        files = [file for fold in folds for file in sorted(fold.iterdir()) if not file.name.startswith(".")]
        files = [file for file in files if file.suffix.lower() in audio.EXTENSIONS]
        # Most of them: one file of another name does not make another data set.
        if files and 2 * sum(_URBAN_FILE.fullmatch(file.name) is not None for file in files) > len(files):
            return files
    return []


def gtzan_home(root: Path) -> Path | None:
    """The folder that holds the genres: the path itself, or a ``genres*`` below it or below its ``Data`` (Kaggle)."""
    if not root.is_dir():
        return None
    for home in (root, *sorted(root.glob("genres*")), *sorted(root.glob("Data/genres*"))):
        genres = [folder for folder in sorted(home.iterdir()) if folder.is_dir()] if home.is_dir() else []
        found = [folder for folder in genres if any(_of_genre(file) for file in folder.iterdir())]
        if len(found) >= 2 or (found == genres and [folder.name for folder in found if folder.name in GENRES]):
            return home
    return None


def _of_genre(file: Path) -> bool:
    match = _GTZAN_FILE.fullmatch(file.name)
    return match is not None and match["genre"].lower() == file.parent.name.lower()


def read_gtzan(root: Path) -> Listing:
    """List GTZAN: the sounds named as their genre's, which Kaggle's copy has below ``genres_original``."""
    home = gtzan_home(root)
    if home is None:
        raise DataError(f"{root}: no genres; expected GTZAN's genres/<genre>/<genre>.00000.wav")
    found = read_folder(home)
    kept = [place for place, path in enumerate(found.paths) if _of_genre(home / path)]
    paths = [(home / found.paths[place]).relative_to(root).as_posix() for place in kept]
    left = len(found.paths) - len(kept)
    notes = [*found.notes, *([_left_out(left, "not named <genre>.<number>")] if left else [])]
    labels = [found.labels[place] for place in kept]
    genres = sorted(set(labels))
    if len(genres) == 1:
        raise DataError(f"{root}: GTZAN with the genre '{genres[0]}' alone; add others, to tell them apart")
    if set(genres) < set(GENRES):
        absent = first([genre for genre in GENRES if genre not in genres], 10)
        notes.append(f"GTZAN without {absent}: figures do not compare with those of its ten genres")
    return Listing(root.resolve().name, root, paths, labels, groups=paths, hints=GTZAN_HINTS, notes=notes)


def is_speech_commands(root: Path) -> bool:
    """Whether a folder has Speech Commands' lists, or its folder of noise beside words by its speakers."""
    if not (root / NOISE_FOLDER).is_dir() and not any((root / name).is_file() for name in PART_LISTS):
        return False
    words = (folder for folder in root.iterdir() if folder.is_dir() and folder.name != NOISE_FOLDER)
    return any(_SPEAKER.match(file.name) for word in words for file in word.iterdir())


def read_speech_commands(root: Path) -> Listing:
    """List Speech Commands: its words, its lists as the split, its speakers as groups."""
    found = read_folder(root)
    speakers = [_SPEAKER.match(Path(path).name) for path in found.paths]
    groups = [match[1] if match else path for match, path in zip(speakers, found.paths, strict=True)]
    if not found.split:
        found.notes.append("Speech Commands without its testing_list.txt: no test part, speakers are kept whole")
    return replace(found, groups=groups, hints=SPEECH_HINTS)


def is_fsdd(root: Path) -> bool:
    """Whether a folder has the Free Spoken Digit Dataset's recordings of all ten digits."""
    return len({match[1] for _, match in _fsdd_files(root) if match}) == 10


def read_fsdd(root: Path) -> Listing:
    """List the Free Spoken Digit Dataset: digits, speakers as groups, and its test part, the takes 0 to 4."""
    files = _fsdd_files(root)
    named = [(file, match) for file, match in files if match]
    paths = [file.relative_to(root).as_posix() for file, _ in named]
    labels, groups = [match[1] for _, match in named], [match[2].lower() for _, match in named]
    folds = [TEST if int(match[3]) < _FSDD_TEST_TAKES else TRAIN for _, match in named]
    left = len(files) - len(named)
    notes = [_left_out(left, "not named DIGIT_SPEAKER_TAKE")] if left else []
    if len(set(folds)) < 2:
        notes.append("FSDD without its test takes (0 to 4), or with these alone: no test part, speakers are kept whole")
        return Listing(root.resolve().name, root, paths, labels, groups, notes=notes)
    way = "--label-from '{label}_{group}_{n}' tests on speakers that were not trained on"
    notes.append(f"the official test part (takes 0 to 4) is of the speakers that train; {way}")
    return Listing(root.resolve().name, root, paths, labels, groups, folds, notes=notes, split=True)


def _fsdd_files(root: Path) -> list[tuple[Path, re.Match[str] | None]]:
    home = root / "recordings" if (root / "recordings").is_dir() else root
    if home.name != "recordings" or not home.is_dir():
        return []
    files = [file for file in sorted(home.iterdir()) if file.suffix.lower() in audio.EXTENSIONS]
    return [(file, _FSDD_FILE.fullmatch(file.name)) for file in files if not file.name.startswith(".")]


def is_fsd50k(root: Path) -> bool:
    """Whether a folder has FSD50K's ground truth."""
    return (root / "FSD50K.ground_truth" / "dev.csv").is_file()


def read_fsd50k(root: Path, *, single: bool = False, mode: str = "auto") -> Listing:
    """List FSD50K's clips with all their labels, or with ``single`` those with one, which ``mode`` single asks for."""
    truth = root / "FSD50K.ground_truth"
    rows: list[tuple[str, str, int]] = []
    for part, name in (("dev", "dev.csv"), ("eval", "eval.csv")):
        needed = ("fname", "labels", *(("split",) if part == "dev" else ()))
        found = csv_rows(truth / name, needed=needed) if (truth / name).is_file() else []
        for _, row in found:
            fold = TEST if part == "eval" else VALIDATION if row["split"] == "val" else TRAIN
            rows.append((f"FSD50K.{part}_audio/{row['fname']}.wav", row["labels"], fold))
    if not single:
        if mode == "single":
            several_labels((row[1] for row in rows), where=root, remedy="--subset single takes those alone")
        paths, folds = [row[0] for row in rows], [row[2] for row in rows]
        found_labels = [[normal(name.strip()) for name in row[1].split(",") if name.strip()] for row in rows]
        notes = [labels_note(found_labels, None)]
        labels = list(map(joined, found_labels))
        listing = Listing(root.resolve().name, root, paths, labels, paths, folds, notes=notes, table=truth / "dev.csv")
        return replace(listing, split=True, several=True)
    one = [row for row in rows if "," not in row[1]]
    taught = {labels for _, labels, fold in one if fold == TRAIN}
    kept = [row for row in one if row[1] in taught]
    notes = [f"{len(rows) - len(one)} of {len(rows)} clips have several labels and were left out"]
    if len(kept) < len(one):
        notes.append(_left_out(len(one) - len(kept), "of classes without a training clip", noun="clip"))
    paths, labels, folds = [row[0] for row in kept], [normal(row[1]) for row in kept], [row[2] for row in kept]
    return Listing("single", root, paths, labels, paths, folds, notes=notes, table=truth / "dev.csv", split=True)


def read_dcase(root: Path) -> Listing:
    """List DCASE's acoustic scenes: ``meta.csv`` and the lists of ``evaluation_setup``, tab-separated.

    Several folds that test each clip once are folds; one fold is a split, whose ``train`` and ``evaluate`` lists count.
    Groups are the column ``identifier``: the place where a recording was made.
    """
    meta, setup = root / "meta.csv", root / "evaluation_setup"
    rows = dict(_scenes(meta)) if meta.is_file() else {}
    lists = {
        (int(match[1]), match[2]): dict(_scenes(file))
        for file in sorted(setup.glob("fold*.csv"))
        if (match := re.fullmatch(r"fold(\d+)_(train|evaluate)\.csv", file.name))
    }
    numbers = sorted({number for number, part in lists if part == "evaluate" and (number, "train") in lists})
    if not numbers:
        remedy = "list the clips in a csv (path,label,split)"
        raise DataError(f"{setup}: no foldN_train.csv with foldN_evaluate.csv; {remedy}")
    held = [path for number in numbers for path in lists[number, "evaluate"]]
    split = len(numbers) == 1
    if not split and (len(set(held)) < len(held) or any(set(lists[n, "train"]) - set(held) for n in numbers)):
        remedy = "list the clips in a csv (path,label,fold)"
        raise DataError(f"{setup}: its {len(numbers)} folds do not test each clip once; {remedy}")
    folds = {path: TEST if split else number for number in numbers for path in lists[number, "evaluate"]}
    folds = {path: TRAIN for number in numbers for path in lists[number, "train"]} | folds
    every = {path: row for table in lists.values() for path, row in table.items()}
    left = len(set(rows) - set(folds))
    notes = [_left_out(left, "of meta.csv in none of the lists", noun="clip")] if left else []
    labels = [normal(every[path]["scene_label"]) for path in folds]
    groups = [rows.get(path, {}).get("identifier") or path for path in folds]
    listing = Listing(root.resolve().name, root, list(folds), labels, groups, list(folds.values()), None, notes, setup)
    return replace(listing, split=split)


def _scenes(table: Path) -> list[tuple[str, dict[str, str]]]:
    """Rows of one of DCASE's tables by their path."""
    rows: list[Row] = csv_rows(table, needed=("filename", "scene_label"))
    return [(row["filename"], row) for _, row in rows]


_REPEATED = {
    "disco": ((50, 51, 70), (55, 60, 89), (71, 74), (98, 99)),
    "hiphop": ((39, 45), (76, 78)),
    "jazz": (
        *((33, 51), (34, 53), (35, 55), (36, 58), (37, 60), (38, 62), (39, 65)),
        *((40, 67), (42, 68), (43, 69), (44, 70), (45, 71), (46, 72)),
    ),
    "metal": ((4, 13), (34, 94), (40, 61), (41, 62), (42, 63), (43, 64), (44, 65), (45, 66)),
    "pop": ((15, 22), (30, 31), (45, 46), (47, 80), (52, 57), (54, 60), (56, 59), (67, 71), (87, 90)),
    "reggae": ((3, 54), (5, 56), (8, 57), (10, 60), (13, 58), (41, 69), (73, 74), (80, 81, 82), (75, 91, 92)),
}
_LEFT_OUT = {
    **{"classical": (42,), "country": (8, 52), "disco": (38,), "hiphop": (1, 46, 47, 48, 49, 50), "metal": (58,)},
    **{"pop": (21, 37, 48, 51, 68), "reggae": (7, 33)},
}
_STURM = "B. L. Sturm, arXiv:1306.1461"
_FILTERED = "C. Kereliuk, B. L. Sturm and J. Larsen, arXiv:1507.04761"
KNOWN_FAULTS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "gtzan": (
        *(
            (
                tuple(f"{genre}.{number:05}" for number in numbers),
                f"known to be one excerpt ({_STURM}): keep one, or give them one group in a csv",
            )
            for genre, groups in _REPEATED.items()
            for numbers in groups
        ),
        *(
            (
                (f"{genre}.{number:05}",),
                f"left out of the fault-filtered split ({_FILTERED}), which has no repetitions: listen, or remove it",
            )
            for genre, numbers in _LEFT_OUT.items()
            for number in numbers
        ),
        (("reggae.00086",), f"known to be distorted after its first seconds ({_STURM}): remove it"),
        (("jazz.00054",), "known to be broken in the copy on Kaggle, where it is no sound: leave it out (--skip-bad)"),
    )
}
"""Of a layout, files (their names without suffix) and what is published about them. Of GTZAN the excerpts that Sturm
found repeated exactly, and the others that are in no part of the fault-filtered split of 930; his mislabelled ones, and
artists that come again, are not listed here."""


def _left_out(count: int, which: str, *, noun: str = "sound") -> str:
    """A note on files that are no part of the data set."""
    return f"{counted(count, noun)} {which} {were(count)} left out"
