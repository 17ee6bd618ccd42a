"""Folders of sounds: one for each class, below one for each part (train, test), or with names that hold the labels.

Comes in: a folder. Goes out: a `Listing` of its sounds. No sound is opened: files count by their endings. Pipes and
empty directories named like a sound stay in the list, so that reading them reports them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from earsight.data import audio
from earsight.data.clip_tables import (
    divided_twice,
    fold_column,
    label_and_path,
    normal,
    one_division,
    read_csv,
    read_table,
)
from earsight.data.datasets import Listing, first
from earsight.data.ffmpeg import demuxer_of
from earsight.data.splits import TEST, TRAIN, VALIDATION, is_part, part_folds
from earsight.errors import DataError, counted, were

NOISE_FOLDER = "_background_noise_"
"""What Speech Commands calls its recordings of noise, to be mixed in: no class."""
EXPLAINED = (".used.wav", ".unused.wav")
"""How the names of sounds end that `earsight explain` writes."""
PART_LISTS = {"testing_list.txt": TEST, "validation_list.txt": VALIDATION}
"""Speech Commands' lists of its parts."""
METADATA = ("metadata.csv", "metadata.jsonl")
BY_NAME = "--label-from '{label}_{group}_{n}' takes them from names such as dog_anna_12.wav"
_COMPANIONS = re.compile(
    r"\.(bib|cff|cfg|csv|docx?|gif|html?|ini|ipynb|jpe?g|js|jsonl?|lab|log|md|np[yz]|ods|onnx|pdf|png|pth?|py|rst|"
    r"safetensors|sh|svg|textgrid|toml|tsv|txt|webp|xlsx?|xml|ya?ml)"
)
"""Endings of what lies beside sounds and nobody takes for one: tables, texts, images, programs, models."""
_PART_LIKE = re.compile(
    "(tra?(in(ing)?)?|te?st(ing)?|te|va(l(id(ation)?)?)?|dev(el)?|eval(uation)?|hold?out|held?out|unseen|fold|cv|split|part|"
    "(sub)?set)(set|split|data|part|fold|audio)?s?"
)
"""What parts may be called, without figures and signs, and classes hardly: `trainset`, `te`, `fold1`."""
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def read_folder(root: Path) -> Listing:
    """List a folder per class: the class is the first folder below ``root``, each file is its own group.

    Speech Commands' lists beside the classes are the split; `DataError` where that of the test part names no file.
    """
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
            if entry.name == NOISE_FOLDER:
                out.notes.append(f"sounds in '{NOISE_FOLDER}' are no class and were left out: {len(found)}")
                continue
            if not found:
                out.notes.append(f"folder '{entry.name}' holds no sound and is no class")
            for path in found:
                out.paths.append(path.relative_to(root).as_posix())
                out.labels.append(normal(entry.name))
        elif is_named_as_sound(Path(entry.path)):
            loose += 1
        elif entry.name not in PART_LISTS:
            ignored[Path(entry.name).suffix.lower()] += 1
    if loose and not out.paths:
        raise _no_classes(root, f"{counted(loose, 'sound')} but no class folders")
    out.groups.extend(out.paths)
    if loose:
        out.notes.append(f"{counted(loose, 'sound')} beside the class folders {were(loose)} left out, without a class")
    out.notes.extend(left_out(ignored))
    inside = {path.split("/")[1] for path in out.paths if path.count("/") > 1}
    if len(inside) > 1 and all(map(is_part, inside)):
        way = "--label-from '{label}/{split}/{name}' does"
        out.notes.append(f"folders {', '.join(sorted(inside))} within the classes are not taken as a split; {way}")
    elif shared := _shared_folders(out.paths):
        way = "if those are the classes, --label-from '{group}/{label}/{name}' takes them so"
        out.notes.append(f"folders hold {first(shared)} alike, and are one class each all the same; {way}")
    folds = _listed_parts(root, out.paths, out.notes)
    return out if folds is None else replace(out, folds=folds, split=True)


def _shared_folders(paths: list[str]) -> list[str]:
    """The folders that several folders hold alike, where these hold no sound themselves."""
    within: dict[str, set[str]] = {}
    for top, *below in (path.split("/") for path in paths):
        within.setdefault(top, set()).add(below[0] if len(below) > 1 else "")
    holders = Counter(name for names in within.values() for name in names)
    shared = sorted(name for name, count in holders.items() if count > 1)
    return shared if len(holders) > 1 and "" not in holders else []


def _listed_parts(root: Path, paths: list[str], notes: list[str]) -> list[int] | None:
    """The part of each path by `PART_LISTS`; None without a test part."""
    part: dict[str, int] = {}
    for name in (name for name in PART_LISTS if (root / name).is_file()):
        rows = (root / name).read_text(encoding="utf-8-sig", errors="replace").replace("\\", "/").splitlines()
        lines = [os.path.normpath(row.strip()) for row in rows if row.strip()]
        if again := sorted(part.keys() & set(lines)):
            what = f"{' and '.join(PART_LISTS)} both name {counted(len(again), 'file')} ({first(again)})"
            raise DataError(f"{root}: {what}; keep each in one of them")
        absent = sorted(set(lines).difference(paths))
        if len(absent) == len(set(lines)) > 0 and PART_LISTS[name] == TEST:
            what = f"none of its {counted(len(lines), 'line')} names a sound here ({first(absent)})"
            raise DataError(f"{root / name}: {what}; write them as {paths[0] if paths else 'class/file'}, or remove it")
        if absent:
            notes.append(f"{name}: {len(absent)} of {len(lines)} files are not there ({first(absent)})")
        part |= dict.fromkeys(lines, PART_LISTS[name])
    return [part.get(path, TRAIN) for path in paths] if TEST in part.values() else None


def sounds_below(folder: Path, ignored: Counter[str] | None = None) -> list[Path]:
    """Sound files below a folder, sorted, by the rules of data sets: links are followed, hidden files left out.

    What is left out is counted in ``ignored``, for `left_out`.
    """
    return _sounds_below(folder, Counter() if ignored is None else ignored, barred=set())


def left_out(ignored: Counter[str], *, companions: bool = True) -> list[str]:
    """Lines on what a search through folders left out, counted by lower-case ending, or as ``hidden`` or ``again``.

    ``companions`` says whether a line counts the tables, texts and images too, which nobody takes for sound.
    """
    beside = Counter({ending: count for ending, count in ignored.items() if _COMPANIONS.fullmatch(ending)})
    links = {"hidden", "again", "explained"}
    endings = Counter({ending: count for ending, count in ignored.items() if ending not in links | beside.keys()})

    def shown(found: Counter[str]) -> str:
        return first([f"{end or 'none'} {n}" for end, n in sorted(found.items(), key=lambda one: (-one[1], one))], 8)

    notes = []
    if endings:
        who = "1 file was left out: its ending is not a sound's" if endings.total() == 1 else ""
        who = who or f"{endings.total()} files were left out: their endings are not those of sounds"
        way = "rename what is sound, as to .wav (its content says what it is), or name it by itself"
        notes.append(f"{who} ({shown(endings)}); {way}")
    if beside and companions:
        notes.append(f"{counted(beside.total(), 'file')} beside the sounds, none by the ending ({shown(beside)})")
    if ignored["hidden"]:
        notes.append(f"{counted(ignored['hidden'], 'hidden name')} left out")
    if ignored["explained"]:
        notes.append(f"{counted(ignored['explained'], 'sound')} that `earsight explain` wrote left out")
    if ignored["again"]:
        notes.append(f"{ignored['again']} links to folders already listed were left out")
    return notes


def is_named_as_sound(path: Path) -> bool:
    """Whether a file's ending is a sound's; of ``.ts``, which programs and translations have too, the bytes say it."""
    ending = path.suffix.lower()
    if ending != ".ts" or not path.is_file():
        return ending in audio.EXTENSIONS
    try:
        with path.open("rb") as file:
            return demuxer_of(file.read(200)) == "mpegts"
    except OSError:
        return False


def read_names(root: Path, pattern: str) -> Listing:
    """List a folder whose files hold their labels in their names, as the pattern says.

    That is as ``{label}_{group}_{n}``, for names without their endings; one with a slash is for the path below
    ``root``. ``{label}`` is needed; ``{group}``, ``{fold}`` and ``{split}`` by choice; ``{n}`` is a number and
    ``{anything}`` else any text, neither of which is used. No text that ``{...}`` stands for holds a slash. DataError
    if the pattern has no ``{label}`` or a name twice, or a file does not fit it, or fits it in several ways.
    """
    names = _PLACEHOLDER.findall(pattern)
    if "label" not in names or len(set(names)) < len(names):
        example = "{label}_{group}_{n}"
        raise DataError(f"--label-from {pattern}: expected {{label}}, and each name once, as in {example}")
    pieces, kinds = list(enumerate(_PLACEHOLDER.split(pattern))), {"n": r"(\d+%s)"}
    fits = [
        re.compile("".join(re.escape(one) if at % 2 == 0 else kinds.get(one, "([^/]+%s)") % lazy for at, one in pieces))
        for lazy in ("?", "")
    ]
    found, strange, ignored = [], [], Counter[str]()
    paths = [path.relative_to(root).as_posix() for path in sounds_below(root, ignored)]
    for path in paths:
        text = str(Path(path).with_suffix("")) if "/" in pattern else Path(path).stem
        short, long = (fit.fullmatch(text) for fit in fits)
        if short is None or long is None:
            strange.append(path)
        elif short.groups() != long.groups():
            # The shortest and the longest first pieces differ, so that there are several ways.
            ways = " or ".join(f"'{match.groups()[names.index('label')]}'" for match in (short, long))
            what = f"'{text}' fits in several ways (label {ways})"
            raise DataError(f"--label-from {pattern}: {what}; write more of what the names have in common")
        else:
            found.append(dict(zip(names, short.groups(), strict=True)))
    if strange:
        what = f"{len(strange)} of {len(paths)} names do not fit ({first(strange)})"
        raise DataError(f"{root}: --label-from {pattern}: {what}; change the pattern, or move these files away")
    labels = [normal(row["label"]) for row in found]
    groups = [row.get("group", path) for row, path in zip(found, paths, strict=True)]
    notes = left_out(ignored)
    folds, split = None, "split" in names and "fold" not in names
    if "fold" in names:
        folds = fold_column([(0, row) for row in found], where=root)
    elif split:
        parts = part_folds({row["split"]: 0 for row in found}, where=f"{root}: --label-from {pattern}", notes=notes)
        folds = [parts[row["split"]] for row in found]
    return Listing(root.resolve().name, root, paths, labels, groups, folds, notes=notes, split=split)


def is_audiofolder(root: Path) -> bool:
    """Whether a folder has a ``metadata.csv`` with ``file_name``, or folders for train and test.

    `DataError` where its folders look like parts but are not certain.
    """
    return root.is_dir() and (_metadata(root) is not None or bool(_part_folders(root)))


def read_audiofolder(root: Path, *, mode: str = "auto") -> Listing:
    """List a folder as Hugging Face's audiofolder: ``metadata.csv`` (``file_name``, ``label``), or parts, or both.

    Folders ``train`` and ``test`` (also ``validation``, ``dev``, ``eval``) are the parts; below each are class folders
    or a ``metadata.csv`` of its own. With a ``metadata.csv`` at the top its paths may begin with the parts' names.
    """
    table = _metadata(root)
    if table is not None:
        return _from_metadata(table, mode=mode)
    homes = _part_folders(root)
    notes: list[str] = []
    folds: list[int] = []
    masked: list[tuple[str, ...]] = []
    out = Listing(root.resolve().name, root, [], [], [], folds, notes=notes, split=True)
    parts = {homes[0]: TRAIN} if len(homes) == 1 else part_folds(homes, where=str(root), notes=notes)
    for home, part in parts.items():
        table = _metadata(root / home)
        one = read_csv(table, name=home, mode=mode) if table else read_folder(root / home)
        if one.folds is not None and len(homes) > 1:
            what = f"divides the clips of the folder '{home}', which is one part of the data set"
            raise DataError(f"{table}: its column {'split' if one.split else 'fold'} {what}; remove it")
        out = replace(out, table=out.table or table, several=out.several or one.several)
        masked += one.unknown or [()] * len(one.paths)
        place = {path: f"{home}/{path}" for path in one.paths}
        out.paths.extend(place.values())
        out.labels.extend(one.labels)
        out.groups.extend(place.get(group, group) for group in one.groups)
        folds.extend([part] * len(one.paths))
        notes += [f"{home}: {note}" for note in (*one.notes, *(_unnamed(one, table) if table else ()))]
    out = replace(out, unknown=masked if any(masked) else None)
    if len(homes) == 1:
        notes.append(f"'{homes[0]}' is the only part{': folds are drawn' if one.folds is None else ''}")
        return replace(out, folds=one.folds, split=one.split)
    return out


def only_class_remedy(listing: Listing) -> str:
    """What can be done where all sounds of a folder lie in one."""
    if not listing.paths or listing.table:
        return ""
    # Archives often unpack into a folder within a folder.
    home = os.path.commonpath([Path(path).parent for path in listing.paths])
    below = {Path(path).relative_to(home).parts[0] for path in listing.paths if Path(path).parent != Path(home)}
    middle = Path(max(listing.paths, key=lambda path: path.count("/"))).parts[1:-2]
    if listing.split and not home and middle and len({Path(path).parent.name for path in listing.paths}) > 1:
        way = "/".join(["{split}", *middle, "{label}", "{name}"])
        return f"; if the folders below are the classes, --label-from '{way}' takes them so"
    if len(below) > 1 and all(Path(path).parent != Path(home) for path in listing.paths):
        return f"; if the folders in it are the classes ({first(sorted(below))}), give {listing.root / home}"
    return f"; if the names of its files hold the labels, {BY_NAME}; else list them in a csv with path,label"


def _metadata(home: Path) -> Path | None:
    """The folder's metadata file of audiofolder, if it has one with ``file_name``."""
    for path in (home / name for name in METADATA):
        if path.is_file():
            with path.open("rb") as file:
                # Without what UTF-16 has between the letters.
                if b"file_name" in file.read(1 << 16).split(b"\n")[0].replace(b"\0", b"").lower():
                    return path
    return None


def _no_classes(home: Path, what: str) -> DataError:
    """The refusal of sounds without class folders."""
    parquet = next(iter(sorted(home.glob("*.parquet"))), None)
    listed = f"write the rows of {parquet.name}, which is not read, as" if parquet else "list the clips in"
    remedy = f"put each class in a folder of its own, or {listed} a csv with the columns path,label; or {BY_NAME}"
    return DataError(f"{home}: {what}; {remedy}")


def _from_metadata(table: Path, *, mode: str) -> Listing:
    """The clips of a metadata file at the top of a data set; folders of parts in all its paths make the split."""
    out = read_csv(table, name=table.parent.resolve().name, mode=mode)
    tops = [Path(path).parts[0] for path in out.paths]
    if len(set(tops)) > 1 and all(map(is_part, tops)):
        parts = part_folds(dict.fromkeys(tops), where=str(table.parent), notes=out.notes)
        folds = [parts[top] for top in tops]
        if out.folds is None:
            out = replace(out, folds=folds, split=True)
        elif out.split and out.folds != folds:
            raise divided_twice(f"{table}: the column split and the folders {first(list(parts))}")
        elif not out.split:
            both = f"{table}: the column fold and the folders {first(list(parts))}"
            one_division(out.folds, folds, where=both, notes=out.notes)
    out.notes.extend(_unnamed(out, table))
    return out


def _unnamed(listing: Listing, table: Path) -> list[str]:
    """A line on the sounds beside a metadata file that it does not name, if there are some."""
    listed = set(listing.paths)
    left = [path for path in sounds_below(listing.root) if path.relative_to(listing.root).as_posix() not in listed]
    return [f"{counted(len(left), 'sound')} that {table.name} does not name {were(len(left))} left out"] if left else []


def _part_folders(root: Path) -> list[str]:
    """Names of the folders below that are parts (one may be the only part); none where they are classes."""
    folders = _folders(root)
    like = [name for name in folders if _PART_LIKE.fullmatch(re.sub(r"[\W\d_]", "", name.casefold()))]
    if len(like) > 1 and not all(map(is_part, like)):
        within = sorted(set.intersection(*(set(_folders(root / name)) for name in like)))
        if len(within) > 1:
            what = f"folders {first(like)} look like parts of a data set, for each holds the folders {first(within)}"
            way = "--label-from 'fold{fold}/{label}/{name}'" if like[0].startswith("fold") else "folders train and test"
            raise _unclear(root, f"{what}; {way} would make them parts")
    if not any(map(_part_words, folders)):
        return []
    # A part whose table names files that are not there is one all the same.
    full = [name for name in folders if _holds_sound(root / name) or (is_part(name) and _metadata(root / name))]
    parts = [name for name in full if is_part(name)]
    others = [name for name in full if name not in parts]
    if len(parts) < 2 and others:
        # Classes may be called train, or train_horn; but hardly all of them after different parts.
        words = [_part_words(name) for name in full]
        inside = [one for name, found in zip(full, words, strict=True) if found for one in _folders(root / name)]
        if (all(words) and len(set.union(*words)) > 1) or (len(inside) > 1 and _table_of_clips(root)):
            raise _unclear(root, f"folders {first(full)} look like parts of a data set, not like classes")
        return []
    if others:
        what = f"folders {first(parts)} look like parts of a data set, but {first(others)} hold sounds too"
        raise _unclear(root, what)
    for name in parts:
        home = root / name
        if not _metadata(home) and not any(_holds_sound(home / one) for one in _folders(home)):
            if len(parts) == 1:
                return []
            raise _no_classes(home, "looks like a part of a data set, but has no class folders")
    return parts


def _folders(home: Path) -> list[str]:
    """Names of the folders in a folder, but hidden ones."""
    return [entry.name for entry in _entries(home) if not entry.name.startswith(".") and _is_folder(entry)]


def _part_words(name: str) -> set[str]:
    """The words of a name that parts are called by, as of ``FSD50K.dev_audio``."""
    return {word for word in re.split(r"[^a-z]+", name.casefold()) if is_part(word)}


def _unclear(root: Path, what: str) -> DataError:
    """The refusal of folders that may be parts or classes; with the table that may settle it."""
    way = "list the clips in a csv (path,label,split)"
    if table := _table_of_clips(root):
        way = f"give {table}, with --root and the folder that its files are in"
    return DataError(f"{root}: {what}; {way}; or --layout folder takes each folder as a class")


def _table_of_clips(root: Path) -> Path | None:
    """The first table in a folder that has columns of paths and labels."""
    for table in sorted(path for path in root.iterdir() if path.suffix.lower() in (".csv", ".tsv")):
        with suppress(DataError):
            if label_and_path(read_table(table).columns):
                return table
    return None


def _holds_sound(folder: Path) -> bool:
    """Whether there is a sound in a folder or below; links are not followed."""
    for home, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(is_named_as_sound(Path(home, name)) for name in files if not name.startswith(".")):
            return True
    return False


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
            elif _is_folder(entry) and (_entries(Path(entry.path)) or not is_named_as_sound(Path(entry.path))):
                stack.append(Path(entry.path))
            elif entry.name.endswith(EXPLAINED):
                ignored["explained"] += 1
            elif is_named_as_sound(Path(entry.path)):
                found.append(Path(entry.path))
            else:
                ignored[Path(entry.name).suffix.lower()] += 1
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
