"""Tables of clips: csv, tsv and JSON lines, and what their columns mean.

Comes in: a file of text with a row for each clip, or for each of its labels. Goes out: its rows, or a `Listing` of the
clips. Columns that nothing is done with are named in its notes; columns that would change what a clip is are refused,
with the way out.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from earsight.data import audio, contents
from earsight.data.datasets import Listing, first
from earsight.data.labels import class_columns, joined, labels_note, merged, read_cells, unknown_classes
from earsight.data.splits import PARTS, TEST, is_part, part_folds
from earsight.errors import DataError

Row = tuple[int, dict[str, str]]
PATH_COLUMNS = ("path", "file_name", "filename", "file", "filepath", "file_path", "fname", "slice_file_name")
LABEL_COLUMNS = ("label", "class", "category", "scene_label", "primary_label", "genre", "species", "labels")
SECONDARY = "secondary_labels"
"""What BirdCLEF's tables call other species in a recording."""
_GROUP = re.compile(
    r"(speaker|source|src|recording|recordist|session|subject|patient|individual|site|location|station|author|uploader|"
    r"artist|user|singer|actor|participant|animal|identifier|fs|freesound)(_?(id|name|file|label|no|number))?"
)
_SPLIT = re.compile(
    r"(data_?)?(sub_?set|set|partition|part|usage|phase|folds?|split)(_?(id|name|no|number|type))?|cv(_?fold)?"
)
_FLAG = re.compile(r"(is|in|for)?_?(test|train|val|valid)(ing|idation)?(_?(set|flag))?")
"""Columns that say yes or no of one part."""
_BEGIN = {"begin", "begins", "start", "starts", "onset", "xmin", "tmin", "from", "tstart", "tbegin", "t0", "t1"}
_END = {"end", "ends", "stop", "offset", "duration", "xmax", "tmax", "to", "tend", "tstop", "t1", "t2"}
_BESIDE = {"s", "ms", "sec", "secs", "second", "seconds", "time", "times", "sample", "samples", "frame", "frames"} | {
    *("segment", "clip", "event", "call", "box", "chunk", "window", "t", "timestamp", "hms", "interval", "selection")
}
"""Words that stand beside those of begin and end in the names of columns."""
_SEVERAL = re.compile(r"[;|,]")


@dataclass(frozen=True)
class Table:
    """A table as it stands: its columns in lower case, one for each value, and rows as (line number, values)."""

    path: Path
    columns: list[str]
    rows: list[tuple[int, list[str]]]
    names: Sequence[str] = ()
    """The columns as they are spelt."""
    spaced: Collection[tuple[str, str]] = ()  #: columns and values, once for each row that has blanks around it

    def dicts(self) -> list[Row]:
        """Rows as (line number, {column: value}), `DataError` without any; of a column that stands twice the last."""
        if not self.rows:
            raise DataError(f"{self.path}: a csv without rows; expected one row for each clip")
        return [(line, dict(zip(self.columns, values, strict=True))) for line, values in self.rows]


def read_table(path: Path) -> Table:
    """Read a csv, tsv or JSON lines file; values lose outer blanks.

    Text is UTF-8, or UTF-16 that begins with its mark. The delimiter is that of a first line ``sep=;``, as spreadsheets
    write it, else the one of comma, semicolon, tab and bar that splits the first line most. Lists in JSON become values
    with semicolons. `DataError` if it cannot be read.
    """
    try:
        text = _text(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return _json_lines(path, text) if path.suffix.lower() == ".jsonl" else _csv(path, text)


def csv_rows(path: Path, *, needed: Iterable[str]) -> list[Row]:
    """Rows of a table as (line number, {column: value}); `DataError` if one of the needed columns is not there."""
    table = read_table(path)
    missing = [name for name in needed if name.lower() not in table.columns]
    if missing:
        shown = ", ".join(table.columns)[:200] or "nothing"
        raise DataError(f"{path}: no column '{missing[0]}'; found {shown}; expected {', '.join(needed)}")
    return table.dicts()


def read_csv(path: Path, *, root: Path | None = None, name: str = "", mode: str = "auto") -> Listing:
    """List the clips of a table with the columns path,label and, by choice, fold or split, and group.

    Paths are absolute or relative to ``root``, else to the table. Other names of the two columns that data sets use are
    taken where they are certain, which a note says. Without a group column each file is its own group. For several
    labels a clip, and what ``mode`` decides, see `earsight.data.labels`.
    """
    root = path.parent if root is None else root
    table = read_table(path)
    _refuse_boxes(table)
    place = _role(table, "path", PATH_COLUMNS)
    rows = table.dicts()
    paths = [_with_ending(root, _clip_path(root, row[place])) for _, row in rows]
    used = [place, *(column for column in ("group", "fold") if column in table.columns)]
    notes: list[str] = []
    found = _labels(table, root, place, paths, mode=mode, used=used, notes=notes)
    empty = [
        str(line)
        for (line, row), mine in zip(rows, found.labels, strict=True)
        if not row[place] or not (found.several or mine)
    ]
    if empty:
        what = f"empty {place} or {found.kind} in {len(empty)} rows (line {first(empty)})"
        more = "" if mode == "single" else ", or give --labels several: an empty label is then none of the classes"
        raise DataError(f"{path}: {what}; fill or remove them{more}")
    folds, split = None, False
    if "fold" in table.columns:
        folds = fold_column(rows, where=path)
    if "split" in table.columns:
        used.append("split")
        parts = _split_column(rows, where=path, notes=notes)
        split = folds is None and parts is not None
        both = f"{path}: the columns fold and split"
        folds = parts if folds is None else one_division(folds, parts, where=both, notes=notes)
    elif folds is None and len(named := {one for path in paths for one in Path(path).parts[:2] if is_part(one)}) > 1:
        notes.append(f"paths lie in {first(sorted(named))}: name the part in a column split, and test is held out")
    twice = sorted(column for column in used if table.columns.count(column) > 1)
    if twice:
        raise DataError(f"{path}: column '{twice[0]}' stands {table.columns.count(twice[0])} times; keep one of them")
    cells, blanks = Counter(row.get(found.kind) for _, row in rows), Counter(table.spaced)
    if odd := [f"'{name}'" for (where, name), count in blanks.items() if where == found.kind and count < cells[name]]:
        notes.append(f"{found.kind} {first(odd)} stands with blanks around it and without, and is read as one class")
    notes += _unused(table, used)
    groups = [row.get("group") or clip for clip, (_, row) in zip(paths, rows, strict=True)]
    if not found.several:
        labels = [normal(mine[0]) for mine in found.labels]
        return Listing(name or path.stem, root, paths, labels, groups, folds, notes=notes, table=path, split=split)
    lines = [line for line, _ in rows]
    agreeing: dict[str, Sequence[str]] = {"group": groups}
    if folds is not None:
        agreeing["split" if split else "fold"] = [PARTS[fold] if split else str(fold) for fold in folds]
    kept, labels_of, unknown = merged(paths, lines, found.labels, found.unknown, agreeing, where=str(path))
    notes.append(labels_note(labels_of, unknown))
    columns = [paths[row] for row in kept], [joined(map(normal, mine)) for mine in labels_of]
    parts = None if folds is None else [folds[row] for row in kept]
    masks = None if unknown is None else [tuple(map(normal, mine)) for mine in unknown]
    listing = Listing(name or path.stem, root, *columns, [groups[row] for row in kept], parts, notes=notes, table=path)
    return replace(listing, split=split, several=True, unknown=masks)


@dataclass(frozen=True)
class _Labels:
    """Each row's labels and unknown classes, whether clips may have several, and the column they are from."""

    labels: list[tuple[str, ...]]
    unknown: list[tuple[str, ...]] | None
    several: bool
    kind: str


def _labels(
    table: Table, root: Path, place: str, paths: Sequence[str], *, mode: str, used: list[str], notes: list[str]
) -> _Labels:
    """The labels of a table's rows by its columns, which are added to ``used``, and to ``notes`` what was found."""
    where, rows = str(table.path), table.dicts()
    lines = [line for line, _ in rows]
    if not any(name in table.columns for name in LABEL_COLUMNS):
        taken = {place, "group", "fold", "split", "unknown"}
        names = [
            "" if low in taken or _GROUP.fullmatch(low.replace(" ", "_")) else name
            for low, name in zip(table.columns, table.names, strict=True)
        ]
        classes, labels, masked = class_columns(names, table.rows, where=where)
        if classes:
            used += [name.lower() for name in classes]
            shown = first(classes, 20)
            notes.append(f"labels are taken from the columns {shown}: 1 where a class sounds, empty where unknown")
            one_hot = all(len(mine) == 1 for mine in labels) and not any(masked)
            several = mode == "several" or not one_hot
            if several and mode == "single":
                raise DataError(
                    f"{where}: --labels single: rows have several classes, none, or unknown ones; leave it out"
                )
            return _Labels(labels, masked if any(masked) else None, several, "labels")
    kind = _role(table, "label", LABEL_COLUMNS, way=_by_folders(root, paths))
    used.append(kind)
    if (place, kind) != ("path", "label"):
        notes.append(f"paths are taken from column '{place}', labels from '{kind}'")
    cells = [row[kind] for _, row in rows]
    again = len(set(paths)) < len(paths)
    certain = kind == "labels" or table.path.suffix.lower() == ".jsonl"
    if mode == "single":
        if certain:
            several_labels(cells, where=table.path, remedy="keep those rows alone, or leave --labels single out")
        return _Labels([(cell,) if cell else () for cell in cells], None, False, kind)
    read = read_cells(cells, where=f"{where}: column '{kind}'", certain=certain, mode=mode, rows_again=again)
    labels, by, more = read.labels, read.by, None
    if kind == "primary_label" and SECONDARY in table.columns:
        more = read_cells([row[SECONDARY] for _, row in rows], where=f"{where}: column '{SECONDARY}'", certain=True)
        if not any(more.labels):
            more = None
    if more:
        used.append(SECONDARY)
        labels = [tuple(dict.fromkeys((*one, *two))) for one, two in zip(labels, more.labels, strict=True)]
        notes.append(f"labels are those of '{kind}' and of '{SECONDARY}'")
    unknown = None
    if "unknown" in table.columns:
        unknown = unknown_classes([row["unknown"] for _, row in rows], labels, lines=lines, where=where)
        used += [] if unknown is None else ["unknown"]
    of_clip: dict[str, set[str]] = {}
    for path, mine in zip(paths, labels, strict=True):
        of_clip.setdefault(path, set()).update(mine)
    several = mode == "several" or any(len(mine) > 1 for mine in of_clip.values()) or any(unknown or ())
    if not several:
        return _Labels([(cell,) if cell else () for cell in cells] if by != "lists" else labels, None, False, kind)
    if by:
        notes.append("labels are lists" if by == "lists" else f"labels stand between '{by}' in a cell")
    if again:
        notes.append(f"{len(paths)} rows are of {len(of_clip)} clips: a clip has the labels of all its rows")
    return _Labels(labels, unknown, True, kind)


def label_and_path(columns: Sequence[str]) -> bool:
    """Whether a table's columns name clips and labels."""
    return any(name in columns for name in PATH_COLUMNS) and any(name in columns for name in LABEL_COLUMNS)


def one_division(folds: list[int], parts: list[int] | None, *, where: str, notes: list[str]) -> list[int]:
    """The folds, which a split may stand beside only if each of its parts is a fold; `DataError` otherwise."""
    if parts is None:
        return folds
    pairs = set(zip(folds, parts, strict=True))
    if len(pairs) > len({fold for fold, _ in pairs}) or len(pairs) > len({part for _, part in pairs}):
        raise divided_twice(where)
    test = next(fold for fold, part in pairs if part == TEST)
    notes.append(f"{where} agree: fold {test} is the test part, and `train --fold {test}` holds it out")
    return folds


def divided_twice(where: str) -> DataError:
    """The refusal of two columns, or a column and folders, that divide the clips in two ways."""
    return DataError(
        f"{where} divide the clips in two ways; remove one, or name the column otherwise (as 'old_split'). By folds "
        "each is held out in turn, by a split its test part alone"
    )


def fold_column(rows: list[Row], *, where: Path) -> list[int]:
    """The column ``fold`` as integers, also where a spreadsheet wrote 1.0 or 1,0."""
    out = []
    for line, row in rows:
        try:
            value = float(row["fold"].replace(",", "."))
        except ValueError:
            value = math.nan
        if not value.is_integer() or value < 0:
            raise DataError(f"{where}: line {line}: fold is '{row['fold']}'; expected a whole number such as 1")
        out.append(int(value))
    return out


def several_labels(values: Iterable[str], *, where: Path, remedy: str) -> None:
    """Refuse, as `DataError`, clips with several labels where one was asked for, and say how many have one."""
    values = list(values)
    several = [value for value in values if len([part for part in _SEVERAL.split(value) if part.strip()]) > 1]
    if several:
        raise DataError(
            f"{where}: --labels single: {len(several)} of {len(values)} clips have several labels "
            f"('{several[0][:80]}'); {len(values) - len(several)} have one: {remedy}"
        )


def normal(label: str) -> str:
    """A label in one Unicode form: folders made on a Mac spell ü in two characters, others in one."""
    return unicodedata.normalize("NFC", label)


def _text(content: bytes, path: Path) -> str:
    """The text of a table, by the mark at its head or as UTF-8; `DataError`, with its coding, for what is neither."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
        if "\0" not in text:
            return text
    except UnicodeDecodeError:
        text = ""
    zeros = content[: contents.HEAD_BYTES].count(b"\0")
    found = contents.name_content(content[: contents.HEAD_BYTES])
    if text or zeros > len(content[: contents.HEAD_BYTES]) // 3:
        found = found or "UTF-16 without its mark, or no text"
    elif not zeros:
        found = found or "text in Latin-1, Windows-1252 or another coding of one byte a letter"
        found += f"; `iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8.csv` converts the first two"
    raise DataError(f"{path}: expected a csv saved as UTF-8, found {found or 'not UTF-8 text'}")


def _csv(path: Path, text: str) -> Table:
    opening = text.lstrip("\r\n").split("\n", 1)[0].strip("\r").strip('"')
    declared = re.fullmatch(r"sep=(.)", opening, re.IGNORECASE)
    delimiter = declared[1] if declared else max((",", ";", "\t", "|"), key=opening.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        filled = (values for values in reader if any(value.strip() for value in values))
        if declared:
            next(filled)
        names = [name.strip() for name in next(filled, [])]
        if names and names[0].startswith("#"):
            what = f"line {reader.line_num} begins with '#', and the first line names the columns"
            raise DataError(f"{path}: {what}; remove comments, or the '#' if it stands before the columns' names")
        columns = [name.lower() for name in names]
        rows, spaced = [], list[tuple[str, str]]()
        for values in filled:
            if any(value.strip() for value in values[len(columns) :]):
                raise DataError(
                    f"{path}: line {reader.line_num}: {len(values)} values for {len(columns)} columns; "
                    f"put values that hold a '{delimiter}' in double quotes"
                )
            padded = [*values, *[""] * (len(columns) - len(values))][: len(columns)]
            rows.append((reader.line_num, bare := [value.strip() for value in padded]))
            spaced += [(name, new) for name, new, old in zip(columns, bare, padded, strict=True) if new != old]
    except csv.Error as error:
        raise DataError(f"{path}: not a csv that can be read ({error}); save it again as UTF-8 csv") from error
    return Table(path, columns, rows, names, spaced)


def _json_lines(path: Path, text: str) -> Table:
    found, spelt = [], dict[str, str]()
    for line, row in enumerate(text.splitlines(), start=1):
        if not row.strip():
            continue
        try:
            values = json.loads(row, object_pairs_hook=_named_once)
        except ValueError as error:
            raise DataError(f"{path}: line {line} is not JSON ({error}); expected one object in each line") from error
        if not isinstance(values, dict):
            raise DataError(f"{path}: line {line} is no JSON object; expected one object in each line")
        lower = [key.strip().lower() for key in values]
        if again := [key for key in lower if lower.count(key) > 1]:
            raise DataError(f"{path}: line {line}: '{again[0]}' stands {lower.count(again[0])} times; keep one of them")
        for key, value in values.items():
            if isinstance(value, dict) and key.strip().lower() in (*PATH_COLUMNS, *LABEL_COLUMNS, "fold", "group"):
                raise DataError(f"{path}: line {line}: '{key}' is an object; expected its name as text")
        spelt |= {str(key).strip().lower(): str(key).strip() for key in values}
        found.append((line, {str(key).strip().lower(): _json_text(value) for key, value in values.items()}))
    columns = list(dict.fromkeys(key for _, row in found for key in row))
    rows = [(line, [row.get(name, "") for name in columns]) for line, row in found]
    return Table(path, columns, rows, [spelt[name] for name in columns])


def _named_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON; ValueError if it names a key twice."""
    names = [key for key, _ in pairs]
    if again := [key for key in names if names.count(key) > 1]:
        raise ValueError(f"'{again[0]}' stands {names.count(again[0])} times in one object")
    return dict(pairs)


def _json_text(value: object) -> str:
    if isinstance(value, list):
        return ";".join(map(_json_text, value))
    return "" if value is None else str(value).strip()


def _by_folders(root: Path, paths: Sequence[str]) -> str:
    """What to give where a table has no label, as audiofolder's of captions: the folders that the sounds lie in."""
    folders = [Path(path).parts[:-1] for path in paths]
    inside = is_part(root.name) or all(map(is_part, {one[0] for one in folders if one}))
    home = root.parent if is_part(root.name) else root
    if min(map(len, folders), default=0) < (2 if inside and home == root else 1):
        return ": name the column of the classes so"
    how = "--label-from '{split}/{label}/{name}'" if inside else "--layout folder"
    return f": name the column of the classes so, or give {home} with {how}, which takes them from the folders"


def _role(table: Table, wanted: str, names: Sequence[str], *, way: str = "") -> str:
    """The column with that meaning: by its own name, else one that has another name of it; ``way`` is out of none."""
    found = list(dict.fromkeys(name for name in names if name in table.columns))
    preferred = [name for name in (wanted, "file_name") if name in found]
    if preferred or len(found) == 1:
        return (preferred or found)[0]
    shown = ", ".join(table.columns)[:200] or "nothing"
    if found:
        these = " or ".join(f"'{name}'" for name in found)
        raise DataError(f"{table.path}: {these} may be the {wanted}; name the right column '{wanted}'")
    bare = any(Path(column).suffix in audio.EXTENSIONS for column in table.columns)
    way = "; its first line looks like a clip: write the names of the columns above it" if bare else way
    columns = zip(table.columns, *(values for _, values in table.rows), strict=True)
    sounds = [
        name for name, *cells in columns if cells and not {Path(one).suffix.lower() for one in cells} - audio.EXTENSIONS
    ]
    if wanted == "path" and len(sounds) == 1 and not bare:
        way = f": name '{sounds[0]}' so, which names sounds"
    raise DataError(f"{table.path}: no column '{wanted}'; found {shown}; expected path, label{way}")


def _refuse_boxes(table: Table) -> None:
    """Refuse rows that mark a part of a sound: to take the whole file in its place would teach something else."""
    named = {column: _words(name) for column, name in zip(table.columns, table.names, strict=True)}
    begin = [column for column, words in named.items() if len(words) == 1 and words <= _BEGIN]
    # As librosa and Kaleidoscope have it: offset and duration.
    begin = begin or [column for column, words in named.items() if words == {"offset"}]
    end = [column for column, words in named.items() if len(words) == 1 and words <= _END and column not in begin[:1]]
    if not begin:
        return
    place = table.columns.index(begin[0])
    values = [values[place] for _, values in table.rows]
    # A begin alone may also be the time of day when a recorder was started; all of them within an hour are none.
    within = [re.fullmatch(r"0?0:(\d\d:\d\d)([.,]\d+)?", value) for value in values if value]
    clock = all(within) and any(match[1] != "00:00" for match in within if match)
    alone = named[begin[0]].isdisjoint({"t0", "t1"}) and (clock or any(map(_number, values)))
    if any(values) if end else alone:
        what = f"columns '{begin[0]}' and '{end[0]}' mark" if end else f"column '{begin[0]}' marks"
        those = "these columns" if end else "this column"
        raise DataError(
            f"{table.path}: {what} parts of sounds: give the folder of the sounds as the data set, and this table with "
            f"--boxes {table.path.name} (columns begin and end, in seconds); or remove {those} to take each file whole"
        )


def _words(name: str) -> set[str]:
    """The words of a column's name that say whether it is a begin or an end."""
    words = set(re.findall(r"t\d|[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()))
    return ({f"t{word}" if word in ("min", "max") and words & {"t", "time"} else word for word in words}) - _BESIDE


def _number(text: str) -> float:
    """A number of seconds; 0 where it is none."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return 0.0


def _split_column(rows: list[Row], *, where: Path, notes: list[str]) -> list[int] | None:
    """The column ``split`` as folds; None, with a note, where it holds one part alone."""
    values = [row["split"] for _, row in rows]
    names = list(dict.fromkeys(values))
    strange = [name for name in names if not is_part(name)]
    if strange:
        line = next(line for line, row in rows if row["split"] == strange[0])
        hint = "; did you mean a column 'fold'?" if all(name.isdigit() for name in names) else ""
        raise DataError(
            f"{where}: line {line}: split is '{strange[0]}'; expected train, test or validation{hint}; "
            "to do without, name the column otherwise"
        )
    if len({name.casefold() for name in names}) == 1:
        notes.append(f"column 'split' says '{names[0]}' alone, which divides nothing")
        return None
    parts = part_folds(names, where=f"{where}: column 'split'", notes=notes)
    return [parts[value] for value in values]


def _unused(table: Table, used: Sequence[str]) -> list[str]:
    """One line with the columns that nothing is done with, and one on each that looks like a group or a split."""
    left = list(dict.fromkeys(column for column in table.columns if column not in used))
    notes = []
    for column in list(left):
        place, spelt = table.columns.index(column), column.replace(" ", "_")
        values = {values[place] for _, values in table.rows}
        what = f"column '{column}' is not used; "
        if "group" not in used and _GROUP.fullmatch(spelt) and 1 < len(values) < len(table.rows):
            what += f"it has {len(values)} values for {len(table.rows)} clips: did you mean group? Clips of a 'group' "
            notes.append(what + "are never torn apart")
        elif not {"fold", "split"} & set(used) and _FLAG.fullmatch(spelt) and len(values) == 2:
            notes.append(f"{what}did you mean split? Name it so, with train and test in it, and test is held out")
        elif not {"fold", "split"} & set(used) and _SPLIT.fullmatch(spelt) and 1 < len(values) < 21:
            if not all(is_part(value) or value.isdecimal() for value in values):
                continue
            named = "fold" if all(map(str.isdecimal, values)) else "split"
            notes.append(f"{what}did you mean {named}? Rename it so, and it says what is held out")
        else:
            continue
        left.remove(column)
    if left:
        shown = ", ".join(column or "(without a name)" for column in left[:20]) + (", ..." if len(left) > 20 else "")
        notes.insert(0, f"columns that are not used: {shown}")
    return notes


def _clip_path(root: Path, text: str) -> str:
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if "\\" in text and not os.path.lexists(root / text):
        text = text.replace("\\", "/")  # written on Windows
    below = Path(os.path.relpath(root / text, root))
    if below.parts[:1] != ("..",):
        return below.as_posix()
    # By name alone: resolving links would name another file than the user did.
    return Path(os.path.normpath(Path.cwd() / root / text)).as_posix()


def _with_ending(root: Path, path: str) -> str:
    """The path; with the ending of the one sound of that name, where the table leaves endings out."""
    if Path(path).suffix.lower() in audio.EXTENSIONS or os.path.lexists(root / path):
        return path
    found = [path + ending for ending in sorted(audio.EXTENSIONS) if (root / (path + ending)).is_file()]
    return found[0] if len(found) == 1 else path
