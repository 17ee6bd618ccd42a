"""Boxes that people drew in recordings: csv, Raven selection tables, Audacity label tracks and BirdNET's results.

Comes in: a table, or a folder of them, and the folder of the recordings (or one recording). Goes out: `Boxes`, each box
with its recording, begin and end in seconds, label, and the line that it stands in. Only the recordings' headers are
read. What cannot be as it is written (a box past the end, an end before its begin, a sound that is not there) is
refused with its line; with ``skip_bad`` it is left out and counted.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from earsight.data import audio
from earsight.data.clip_tables import PATH_COLUMNS, normal, read_table
from earsight.data.datasets import first
from earsight.data.named_sounds import NamedSounds
from earsight.errors import AudioError, DataError, counted, worded

PATHS = (
    *("path", "begin path", "audio_file", "begin file", "file_name", "filepath", "recording", "sound", "sound_path"),
    *("audio_path", "audio_filepath", "in file", "notated_path", "soundfile", "sound.files", "begin_path"),
    "begin_file",
    *(name for name in PATH_COLUMNS if name not in ("path", "file_name", "filepath")),
)
LABELS = (
    *("label", "annotation", "class", "species", "common name", "common_name", "scientific name", "scientific_name"),
    *("species code", "category", "call type", "call_type", "sound type", "type", "tag", "code", "event_label"),
    *("primary_label", "ebird_code", "labels", "name", "call", "id"),
)
_ANNOTATORS = ("annotator", "annotator_id", "observer", "rater", "reviewer")
_BEGIN = {"begin", "beg", "start", "onset", "from", "tmin", "xmin"}
_END = {"end", "stop", "offset", "to", "tmax", "xmax"}
_LENGTH = {"duration", "dur", "delta"}
_LOW = {"fmin", "low freq", "low f", "freq low", "f low", "low", "min freq", "freq min", "low frequency"}
_HIGH = {"fmax", "high freq", "high f", "freq high", "f high", "high", "max freq", "freq max", "high frequency"}
_UNITS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "milliseconds", "millisecond"), "ms"),
    **dict.fromkeys(("sample", "samples", "frame", "frames"), "samples"),
}
_RAVEN = re.compile(
    r"selection|view|channel|.*\((s|hz|db.*|u|samples?|frames?|j|%|points|bits|ln.*|q)\)|begin .*|end .*|.*freq.*|"
    r"confidence|score|notes?|comments?"
)
"""Raven's own columns, which hold no label."""
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_SCORED = re.compile(r"(.+) [01]\.\d\d")
_TABLES = (".csv", ".tsv", ".txt", ".jsonl")
TOLERANCE = 0.1
"""Seconds past a recording's end that count as rounding: such boxes end with it."""
_FAR = 10  # times a recording's length, beyond which a time is in another unit, rather than wrong
LEFT_OUT = "left out, boxes"
"""How a note on boxes begins that cannot be as they are written."""
_AGREE = 0.5
"""Share of the shorter of two boxes that must lie in both, for their annotators to mean one sound."""


@dataclass(frozen=True, slots=True)
class Box:
    """One sound in a recording.

    ``path`` is the recording's (posix, below the root); ``begin`` and ``end`` are seconds within it; ``fmin`` and
    ``fmax`` Hz, NaN where they are not given; ``group`` names a source that folds never part ("" for none), ``fold`` is
    None where none is given; ``annotator`` who drew it ("" if nobody says); ``line`` stands in ``table``. ``disputed``
    boxes have another label by another annotator.
    """

    path: str
    begin: float
    end: float
    label: str
    fmin: float = math.nan
    fmax: float = math.nan
    group: str = ""
    fold: int | None = None
    annotator: str = ""
    line: int = 0
    table: str = ""
    disputed: bool = False


@dataclass(frozen=True)
class Boxes:
    """Boxes by recording and begin, and the recordings that were annotated.

    ``seconds`` has the length of each recording that some table speaks of, also of one without a box; ``others`` are
    sounds below the root that none does; ``notes`` are lines that a user should know.
    """

    root: Path
    boxes: tuple[Box, ...]
    seconds: dict[str, float]
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The labels, sorted."""
        return sorted({box.label for box in self.boxes})

    def with_silent(self) -> Boxes:
        """The same where all sounds were annotated: those that no table speaks of hold nothing."""
        with ThreadPoolExecutor() as pool:
            lengths = zip(self.others, pool.map(_seconds, map(self.root.__truediv__, self.others)), strict=True)
            known = {path: length for path, length in lengths if length}
        seconds = dict(sorted({**self.seconds, **known}.items()))
        return replace(self, seconds=seconds, others=tuple(path for path in self.others if path not in known))


def _seconds(path: Path) -> float:
    try:
        return audio.info(path).seconds
    except AudioError:
        return 0.0


@dataclass
class _Reading:
    """What is read, how often something was settled, and places by what is wrong there.

    ``alone`` says that one table is read, which a single recording needs no name in.
    """

    recordings: NamedSounds
    label_column: str | None
    alone: bool
    boxes: list[Box] = field(default_factory=list)
    annotated: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


class _NoBoxesError(DataError):
    """A table that is none of boxes."""


def read_boxes(
    table: Path | str,
    recordings: Path | str,
    *,
    label_column: str | None = None,
    annotator: str | None = None,
    skip_bad: bool = False,
) -> Boxes:
    """Read the boxes of a table, or of a folder of tables.

    ``table``: a csv, tsv or JSON lines file with the columns path, begin, end and label, or with other names of theirs
    (``begin_s``, ``Start (s)``, ``onset_s`` ...) and by choice fmin, fmax, group, fold and annotator; a Raven selection
    table; an Audacity label track; a result of BirdNET-Analyzer; or a folder of such files. A table that names no sound
    is that of the recording of its own name, as ``x.Table.1.selections.txt`` is of ``x.wav``. ``recordings``: the
    folder that these lie in, or one. ``label_column`` holds the labels, where its name does not say so; ``annotator``:
    take this one's boxes alone; ``skip_bad``: boxes that cannot be as they are written are left out, and counted.

    DataError, with file and line, if a table cannot be read, has no begin, end or label, or no box is left.
    """
    table, recordings = Path(table), Path(recordings)
    reading = _Reading(NamedSounds(recordings), label_column, table.is_file())
    tables, strange = _tables(table), []
    for path in tables:
        try:
            _read_table(path, reading)
        except _NoBoxesError:
            if reading.alone:
                raise
            strange.append(path.name)
    if annotator is not None:
        reading.boxes = _of_annotator(reading.boxes, annotator, table)
    _refuse(reading, skip_bad=skip_bad)
    if not reading.boxes:
        raise DataError(f"{table}: no box in {counted(len(tables), 'table')}; draw some, or name the right table")
    boxes, notes = _settled(reading.boxes)
    notes = [f"{text}: {count}" for text, count in reading.counts.items() if count] + notes
    if strange:
        notes.append(f"files that are no tables of boxes: {len(strange)} ({first(strange)})")
    seconds = {path: reading.recordings.seconds(path) for path in sorted(reading.annotated)}
    seconds = {path: length for path, length in seconds.items() if not math.isnan(length)}
    others = tuple(path for path in reading.recordings.paths if path not in seconds)
    return Boxes(reading.recordings.root, tuple(boxes), seconds, others, tuple(map(worded, notes)))


def _tables(place: Path) -> list[Path]:
    """A table, or those of a folder."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{place}: no such table or folder of tables; name the file that the boxes stand in")
    found = sorted(
        path for path in place.rglob("*") if path.is_file() and path.suffix.lower() in _TABLES and path.name[0] != "."
    )
    if not found:
        raise DataError(f"{place}: holds no table ({', '.join(_TABLES)}); name the file that the boxes stand in")
    return found


def _read_table(path: Path, reading: _Reading) -> None:
    """Add a table's boxes."""
    if path.suffix.lower() in (".csv", ".jsonl"):
        table = read_table(path)
        _read_rows(path, table.columns, table.rows, reading)
        return
    lines = _text(path, reading).splitlines()
    head = next((line for line in lines if line.strip()), "")
    if not head:
        _annotated(path, reading)
    elif _NUMBER.fullmatch(head.split("\t")[0].strip()):
        _read_audacity(path, lines, reading)
    elif "\t" in head:
        # Raven quotes nothing: a quotation mark is one of the text.
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        columns = [name.strip().strip('"').lower() for name in next(row for row in rows if any(map(str.strip, row)))]
        _read_rows(path, columns, _padded(path, rows, len(columns)), reading)
    else:
        table = read_table(path)
        _read_rows(path, table.columns, table.rows, reading)


def _padded(path: Path, rows: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[str]]]:
    for values in rows:
        if any(map(str.strip, values)):
            if any(value.strip() for value in values[width:]):
                raise DataError(
                    f"{path}: line {rows.line_num}: {len(values)} values for {width} columns; remove the tabs within "  # type: ignore[attr-defined]
                    "a value"
                )
            yield rows.line_num, [_plain(value.strip()) for value in [*values, *[""] * width][:width]]  # type: ignore[attr-defined]


def _plain(text: str) -> str:
    """A value without the quotes that pandas puts around one with quotes in it; Raven and Audacity write none."""
    inner = text[1:-1]
    quoted = text[:1] == text[-1:] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else text


def _text(path: Path, reading: _Reading) -> str:
    """The text of a table, in UTF-8, UTF-16 with its mark, or else as Windows writes western languages."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", errors="replace")
    if b"\0" in raw[:4096]:
        raise DataError(f"{path}: no text; expected a table of boxes (csv, Raven, Audacity or BirdNET)")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        reading.counts["tables that are no UTF-8, read as Windows-1252"] += 1
        return raw.decode("cp1252", errors="replace")


def _annotated(path: Path, reading: _Reading) -> str | None:
    """Note that the recording of a table's name was annotated, even if no box is in it."""
    found = reading.recordings.of_table(path, alone=reading.alone)
    if found is not None:
        reading.annotated.add(found)
    return found


def _read_audacity(path: Path, lines: Sequence[str], reading: _Reading) -> None:
    """Add the boxes of a label track: begin, end, label; a line that begins with a backslash has the last's band."""
    found = _annotated(path, reading)
    if found is None:
        reading.faults["of no known recording"].append(f"{path}{reading.recordings.nearest_name(path.stem)}")
        return
    begun = len(reading.boxes)
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if cells[0] == "\\":
            if len(reading.boxes) > begun and len(cells) > 2:
                low, high = _hertz(cells[1]), _hertz(cells[2])
                reading.boxes[-1] = replace(reading.boxes[-1], fmin=low, fmax=high)
            continue
        if line.strip():
            begin, end = (_number(cell) for cell in [*cells, "", ""][:2])
            _add(reading, Box(found, begin, end, normal(_plain([*cells, "", ""][2])), line=number, table=str(path)))
    scored = [_SCORED.fullmatch(box.label) for box in reading.boxes[begun:]]
    if scored and all(scored):
        reading.counts["labels without the score behind them, as earsight's own label tracks have it"] += len(scored)
        names = [match[1] for match in scored if match]
        reading.boxes[begun:] = [replace(b, label=n) for b, n in zip(reading.boxes[begun:], names, strict=True)]


@dataclass(frozen=True)
class _Columns:
    """The places of a table's columns by their meaning, -1 for those that are not there; times with their unit."""

    begin: tuple[int, str]
    end: tuple[int, str]
    length: tuple[int, str]
    offset: int
    path: tuple[int, ...]
    label: int
    low: int
    high: int
    group: int
    fold: int
    annotator: int
    selection: int
    view: int


def _columns(path: Path, names: Sequence[str], label_column: str | None, *, empty: bool) -> _Columns:
    """What a table's columns mean, by their names; `DataError` where begin, end or, if it has rows, label lacks."""

    def time(words: set[str]) -> tuple[int, str]:
        """The column and its unit; seconds, which a column without a unit has, before milliseconds and samples."""
        found = []
        for place, name in enumerate(names):
            parts = [part for part in re.split(r"[^a-z]+", name) if part not in ("", "time", "times")]
            unit = next((_UNITS[part] for part in parts if part in _UNITS), "s")
            if len(core := [part for part in parts if part not in _UNITS]) == 1 and core[0] in words:
                found.append((("s", "ms", "samples").index(unit), place, unit))
        return min(found)[1:] if found else (-1, "s")

    def named(wanted: Iterable[str]) -> int:
        return next((names.index(name) for name in wanted if name in names), -1)

    def band(words: set[str]) -> int:
        plain = [" ".join(re.sub(r"[^a-z]+", " ", name).replace(" hz", "").split()) for name in names]
        return next((place for place, name in enumerate(plain) if name in words), -1)

    begin, end, length = time(_BEGIN), time(_END), time(_LENGTH)
    offset = named(("file offset (s)", "begin file offset (s)"))
    if begin[0] < 0 and end[0] >= 0 and names[end[0]].startswith("offset") and length[0] >= 0:
        begin, end = end, (-1, "s")  # Kaleidoscope: OFFSET and DURATION
    shown = ", ".join(names)[:200] or "nothing"
    if begin[0] < 0 or (end[0] < 0 and length[0] < 0):
        what = "begin" if begin[0] < 0 else "end"
        raise _NoBoxesError(f"{path}: no column '{what}'; found {shown}; expected path, begin, end, label")
    return _Columns(
        *(begin, end, length, offset),
        path=tuple(names.index(name) for name in PATHS if name in names),
        label=-1 if empty else _label_column(path, names, label_column),
        low=band(_LOW),
        high=band(_HIGH),
        group=named(("group",)),
        fold=named(("fold",)),
        annotator=named(_ANNOTATORS),
        selection=named(("selection",)),
        view=named(("view",)),
    )


def _label_column(path: Path, names: Sequence[str], asked: str | None) -> int:
    shown = ", ".join(names)[:200]
    if asked is not None:
        if asked.strip().lower() not in names:
            raise DataError(f"{path}: no column '{asked}', which --label-column names; found {shown}")
        return names.index(asked.strip().lower())
    place = next((names.index(name) for name in LABELS if name in names), -1)
    if place < 0 and "selection" in names:
        own = [name for name in names if name and not _RAVEN.fullmatch(name) and name not in PATHS]
        place = names.index(own[0]) if len(own) == 1 else -1
    if place < 0:
        raise DataError(
            f"{path}: no column 'label' or 'annotation'; found {shown}; say which one holds the labels with "
            "--label-column, or add one"
        )
    return place


def _read_rows(path: Path, heads: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]], reading: _Reading) -> None:
    """Add the boxes of a table with a line of column names."""
    rows, sounds = list(rows), reading.recordings
    columns = _columns(path, heads, reading.label_column, empty=not rows)
    if not rows:
        _annotated(path, reading)
        return
    own = None if columns.path else _annotated(path, reading)
    if own is None and not columns.path:
        reading.faults["of no known recording"].append(f"{path}{sounds.nearest_name(path.stem)}")
        return

    def cell(values: Sequence[str], place: int) -> str:
        return values[place] if place >= 0 else ""

    names = [next((values[place] for place in columns.path if values[place]), "") for _, values in rows]
    other = own or sounds.of_table(path, alone=reading.alone)
    found = [sounds.find(name, beside=path.parent) if name else other for name in names]
    sounds.look(sound for sound in found if sound is not None)
    views: dict[tuple[str, ...], Box] = {}
    for (line, values), named, sound in zip(rows, names, found, strict=True):
        where = f"{path}: line {line}"
        if sound is None:
            text = f"'{named}'{sounds.nearest_name(named)}" if named else "the cell is empty"
            reading.faults["of no known recording"].append(f"{where} ({text})")
            continue
        reading.annotated.add(sound)
        begin, end = _times(values, columns, partial(sounds.rate_hz, sound))
        label = normal(cell(values, columns.label))
        fold = _fold(cell(values, columns.fold), where)
        low, high = _hertz(cell(values, columns.low)), _hertz(cell(values, columns.high))
        more = cell(values, columns.group), fold, cell(values, columns.annotator), line, str(path)
        box = Box(sound, begin, end, label, low, high, *more)
        if columns.view < 0 or columns.selection < 0:
            _add(reading, box)
            continue
        # A selection stands once for each view, waveform and spectrogram, with the same times.
        before = views.get(key := (values[columns.selection], sound, f"{begin}", f"{end}"))
        reading.counts["further views of a selection, which counts once"] += before is not None
        views[key] = box if before is None or not before.label else before
    for box in views.values():
        _add(reading, box)


def _times(values: Sequence[str], columns: _Columns, rate: Callable[[], float]) -> tuple[float, float]:
    """Begin and end in seconds within the file; NaN where they are no numbers."""

    def seconds(column: tuple[int, str]) -> float:
        value = _number(values[column[0]])
        return value / {"s": 1, "ms": 1000, "samples": rate() if column[1] == "samples" else 1}[column[1]]

    begin = seconds(columns.begin)
    end = seconds(columns.end) if columns.end[0] >= 0 else begin + seconds(columns.length)
    if columns.offset >= 0 and values[columns.offset]:
        # Begin Time counts through all the sounds of a Raven window; File Offset within the one that it begins in.
        offset = _number(values[columns.offset])
        begin, end = offset, offset + (end - begin)
    return begin, end


def _number(text: str) -> float:
    """A number with a point or a comma; NaN where it is none."""
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else math.nan


def _hertz(text: str) -> float:
    value = _number(text)
    return value if value >= 0 else math.nan


def _fold(text: str, where: str) -> int | None:
    if not text:
        return None
    value = _number(text)
    if not value.is_integer():
        raise DataError(f"{where}: fold is '{text}'; expected an integer such as 1")
    return int(value)


def _add(reading: _Reading, box: Box) -> None:
    """Add a box, one for each of its labels; what only its recording's length shows is seen to later."""
    where = f"{box.table}: line {box.line}"
    if math.isnan(reading.recordings.seconds(box.path)):
        reading.faults[_UNREADABLE].append(f"{where}, {reading.recordings.header(box.path)}")
    elif math.isnan(box.begin) or math.isnan(box.end):
        reading.faults["without begin and end as numbers"].append(where)
    elif box.end < box.begin:
        reading.faults["whose end is before its begin"].append(f"{where} ({box.begin:g} to {box.end:g} s)")
    elif box.end == box.begin:
        reading.faults["without length"].append(f"{where} ({box.begin:g} s)")
    elif box.begin < 0:
        reading.faults["that begin before the recording"].append(f"{where} ({box.begin:g} s)")
    elif not (labels := [label.strip() for label in box.label.split(";") if label.strip()]):
        reading.faults["without a label"].append(where)
    else:
        reading.boxes += [box] if labels == [box.label] else [replace(box, label=label) for label in labels]


_UNREADABLE, _PAST = "of a recording that cannot be read", "past the end of their recording"
_REMEDIES = {
    "of no known recording": "correct the name, or name the folder that the recordings lie in",
    _UNREADABLE: "mend the recording", "without begin and end as numbers": "write seconds, as in 12.5",
    "whose end is before its begin": "exchange the two, or draw the box again",
    "without length": "a point has no length: draw it as a region",
    "that begin before the recording": "times count from the begin of the file",
    "without a label": "name what sounds there, or give --label-column if another column has it",
    _PAST: "times count from the begin of the file, in seconds",
}  # fmt: skip


def _refuse(reading: _Reading, *, skip_bad: bool) -> None:
    """Find boxes past the end; raise `DataError` with all that is wrong, or count it."""
    kept, unit = [], _unit_guess(reading)
    for box in reading.boxes:
        seconds = reading.recordings.seconds(box.path)
        if box.end > seconds + TOLERANCE or box.begin >= seconds:
            reading.faults[_PAST].append(f"{box.table}: line {box.line} ({box.end:g} of {seconds:.2f} s)")
        elif box.end > seconds:
            reading.counts[f"boxes that end up to {TOLERANCE} s past their recording, and end with it"] += 1
            kept.append(replace(box, end=seconds))
        else:
            kept.append(box)
    reading.boxes = kept
    texts = []
    for what, places in reading.faults.items():
        remedy = _REMEDIES[what]
        if what == _PAST and unit:
            remedy = f"these look like {unit}: name the columns so, as in begin_{unit}"
        boxes = f"{len(places)} box{'es' if len(places) > 1 else ''} {what}"
        texts.append(f"{boxes} ({first(places)}): {remedy}")
        reading.counts[f"{LEFT_OUT} {what} ({first(places)})"] = len(places)
    if texts and not (skip_bad and kept):
        left = "No box is left." if skip_bad else "Mend them, or leave these boxes out with --skip-bad."
        raise DataError("\n".join([*texts, left]))


def _unit_guess(reading: _Reading) -> str:
    """The unit in which all boxes lie within their recordings, where in seconds half of them are far from it."""
    found = [(box, reading.recordings.seconds(box.path), reading.recordings.rate_hz(box.path)) for box in reading.boxes]
    whole = all(box.begin.is_integer() and box.end.is_integer() for box, _, _ in found)
    if not whole or 2 * sum(box.end > _FAR * seconds for box, seconds, _ in found) < len(found):
        return ""
    if all(box.end <= 1000 * seconds for box, seconds, _ in found):
        return "ms"
    return "samples" if all(box.end <= rate * seconds for box, seconds, rate in found) else ""


def _of_annotator(boxes: Sequence[Box], annotator: str, table: Path) -> list[Box]:
    found = [box for box in boxes if box.annotator == annotator]
    if not found:
        known = first(sorted({box.annotator for box in boxes if box.annotator}), 10) or "nobody"
        raise DataError(f"{table}: no box by --annotator {annotator}; boxes are by {known}")
    return found


def _settled(boxes: Sequence[Box]) -> tuple[list[Box], list[str]]:
    """Boxes by recording and begin, each once, with disputed ones marked; and lines on what was found."""

    def identity(box: Box) -> tuple[object, ...]:
        return box.path, box.begin, box.end, box.label, box.annotator, f"{box.fmin}", f"{box.fmax}"

    ordered = [box for _, box in sorted({identity(box): box for box in boxes}.items())]
    notes = [f"boxes that stand twice, and count once: {n}"] if (n := len(boxes) - len(ordered)) else []
    ends: dict[tuple[str, str, str], float] = {}
    over = 0
    for box in ordered:
        before = ends.get(key := (box.path, box.label, box.annotator), 0.0)
        over += before > box.begin
        ends[key] = max(before, box.end)
    if over:
        notes.append(f"boxes that overlap another of their own label, together one stretch of it: {over}")
    disputed, agreed = set[int](), set[int]()
    for _, rows in groupby(range(len(ordered)), key=lambda row: ordered[row].path):
        pairs = list(_alike(ordered, list(rows)))
        sure = {row for one, two in pairs if ordered[one].label == ordered[two].label for row in (one, two)}
        agreed |= sure
        for one, two in pairs:
            if ordered[one].label != ordered[two].label and not {one, two} & sure:
                disputed |= {one, two}
    if agreed:
        notes.append(f"boxes that two annotators drew alike: {len(agreed)}")
    if disputed:
        shown = [f"{ordered[row].table}: line {ordered[row].line}, {ordered[row].label}" for row in sorted(disputed)]
        notes.append(
            f"boxes to which two annotators gave different labels: {len(disputed)} ({first(shown)}); where they lie "
            "nothing is trained or tested; --annotator NAME takes one's boxes alone"
        )
    return [replace(box, disputed=True) if row in disputed else box for row, box in enumerate(ordered)], notes


def _alike(boxes: Sequence[Box], rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of one recording's boxes, by begin, that two annotators drew over the same sound."""
    if len({boxes[row].annotator for row in rows} - {""}) < 2:
        return
    running: list[int] = []
    for row in rows:
        box = boxes[row]
        running = [other for other in running if boxes[other].end > box.begin]
        for other in running:
            before = boxes[other]
            shared = min(box.end, before.end) - box.begin
            by_two = "" != before.annotator != box.annotator != ""
            if by_two and shared >= _AGREE * min(box.end - box.begin, before.end - before.begin):
                yield other, row
        running.append(row)
