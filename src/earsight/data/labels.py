"""Several labels a clip, as tables write them: lists in a cell, columns a class, and rows that name one clip again.

Comes in: cells of text. Goes out: the labels of each row, and whether clips have several. What is certain is taken (a
column called labels, lists, ``;`` and ``|``; commas where each part is a label of its own elsewhere), and the other is
a class's name; ``single`` and ``several`` decide it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from earsight.data.datasets import SEPARATOR
from earsight.errors import DataError, counted

LabelsMode = Literal["auto", "single", "several"]
MODES: tuple[str, ...] = get_args(LabelsMode)
SINGLE = "--labels single takes each clip as one of a single class"
_SIGNS = (";", "|", ",")
_YES, _NO, _OPEN = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}, {"", "nan", "na", "none", "null", "?"}
_UNCOMMAED = re.compile(r"""(['"])\s+\1""")
ALL_OTHERS = "*"
"""In a column ``unknown``: every class that is not a label of the clip."""


@dataclass(frozen=True)
class Cells:
    """The labels of each row, and what stood between them: ``lists``, a sign, or "" where each cell is one label."""

    labels: list[tuple[str, ...]]
    by: str = ""

    @property
    def several(self) -> bool:
        """Whether some row has more than one."""
        return any(len(found) > 1 for found in self.labels)


def read_cells(
    cells: Sequence[str], *, where: str, certain: bool, mode: str = "auto", rows_again: bool = False
) -> Cells:
    """Labels of the cells of a column, by one of `MODES`.

    ``certain`` says that the column's name, or JSON, has lists as values; ``rows_again`` that rows name clips again:
    with ``several``, commas are then not taken as signs. DataError if a list cannot be read, or a label holds the sign
    that earsight joins labels with.
    """
    filled = [cell for cell in cells if cell]
    lists = [cell for cell in filled if cell.startswith("[") and cell.endswith("]")]
    if lists and len(lists) == len(filled):
        return Cells([_checked(_listed(cell, where), where) for cell in cells], "lists")
    sign = _sign(cells, certain=certain or (mode == "several" and not rows_again))
    if not sign:
        return Cells([(cell,) if cell else () for cell in cells])
    return Cells([_checked(cell.split(sign), where) for cell in cells], sign)


def class_columns(
    names: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]], *, where: str
) -> tuple[list[str], list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Classes, and each row's labels and unknown classes, of a table with a column a class: 1, 0, or empty.

    ``names`` are its columns, "" for those that are something else; others whose values are not of that kind are passed
    over, and classes without a 1. No classes: the table is none of these.
    """
    found: dict[str, list[str]] = {}
    shares: dict[str, tuple[int, str]] = {}
    for place, name in enumerate(names):
        values = [values[place].casefold() for _, values in rows]
        strange = [(line, v) for (line, _), v in zip(rows, values, strict=True) if v not in _YES | _NO | _OPEN]
        if name and not strange and set(values) & _YES:
            found[name] = values
        elif name and strange and all(_is_share(value) for value in values if value not in _OPEN):
            shares[name] = strange[0]
    if found and shares:
        name, (line, value) = next(iter(shares.items()))
        raise DataError(
            f"{where}: line {line}: column '{name}' is {value}; expected 1, 0, or empty for not known, as in the "
            "columns of the other classes; round it, or remove the column"
        )
    for name in found:
        _checked((name,), where)
    labels, unknown = (
        [tuple(name for name in found if found[name][row] in words) for row in range(len(rows))]
        for words in (_YES, _OPEN)
    )
    return list(found), labels, unknown


def unknown_classes(
    cells: Sequence[str], labels: Sequence[Sequence[str]], *, lines: Sequence[int], where: str
) -> list[tuple[str, ...]] | None:
    """Classes of which nothing is known, of the cells of a column ``unknown``; None where it is about something else.

    ``*`` stands for all classes that are not labels of the row. `DataError` if a cell names no class, or a label of its
    own row.
    """
    classes = {name for found in labels for name in found}
    read = read_cells(cells, where=f"{where}: column 'unknown'", certain=True).labels
    named = {name for found in read for name in found}
    if named and not named & (classes | {ALL_OTHERS}):
        return None
    out = []
    for line, mine, found in zip(lines, labels, read, strict=True):
        strange = [name for name in found if name not in classes | {ALL_OTHERS}]
        if strange:
            raise DataError(f"{where}: line {line}: unknown names '{strange[0]}', which is the label of no clip")
        both = sorted(set(found) & set(mine))
        if both:
            raise DataError(f"{where}: line {line}: '{both[0]}' is a label and unknown too; take one of them away")
        every = classes - set(mine) if ALL_OTHERS in found else set(found)
        out.append(tuple(sorted(every)))
    return out


def joined(labels: Iterable[str]) -> str:
    """The label of a clip with these labels."""
    return SEPARATOR.join(sorted(set(labels)))


def merged(
    paths: Sequence[str],
    lines: Sequence[int],
    labels: Sequence[tuple[str, ...]],
    unknown: Sequence[tuple[str, ...]] | None,
    others: dict[str, Sequence[str]],
    *,
    where: str,
) -> tuple[list[int], list[tuple[str, ...]], list[tuple[str, ...]] | None]:
    """Rows that name one clip as one: the first row of each clip, all its labels, and what is unknown of it.

    ``others`` are columns in which the rows of a clip must agree; `DataError` where they do not.
    """
    rows_of: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        rows_of.setdefault(path, []).append(row)
    for path, rows in rows_of.items():
        for name, values in others.items():
            if differing := [row for row in rows if values[row] != values[rows[0]]]:
                one, other = rows[0], differing[0]
                raise DataError(
                    f"{where}: lines {lines[one]} and {lines[other]}: {path} has {name} '{values[one]}' and "
                    f"'{values[other]}'; the rows of a clip must agree"
                )
    found = [tuple(sorted({name for row in rows for name in labels[row]})) for rows in rows_of.values()]
    masked = None
    if unknown is not None:
        masked = [
            tuple(sorted({name for row in rows for name in unknown[row]} - set(mine)))
            for rows, mine in zip(rows_of.values(), found, strict=True)
        ]
    return [rows[0] for rows in rows_of.values()], found, masked


def labels_note(labels: Sequence[Sequence[str]], unknown: Sequence[Sequence[str]] | None) -> str:
    """A line on how many labels clips have, and that they are learnt one by one."""
    sizes = [len(found) for found in labels]
    most = sum(size > 1 for size in sizes)
    none, masked = sizes.count(0), sum(bool(found) for found in unknown or ())
    parts = [f"{most} of {counted(len(sizes), 'clip')} have several labels ({sum(sizes) / len(sizes):.2f} a clip)"]
    parts += [f"{none} have none and train as clips of no class"] if none else []
    parts += [f"in {masked} some classes are unknown and left out of training and scores"] if masked else []
    return f"labels: {'; '.join(parts)}. Each class is learnt by itself, by a sigmoid; {SINGLE}"


def _sign(cells: Sequence[str], *, certain: bool) -> str:
    """The sign between labels; "" for none."""
    whole = set(cells)
    for sign in _SIGNS:
        lists = [parts for cell in cells if len(parts := [p.strip() for p in cell.split(sign) if p.strip()]) > 1]
        if lists and (certain or sign != "," or any(whole.issuperset(parts) for parts in lists)):
            return sign
    return ""


def _listed(cell: str, where: str) -> list[str]:
    """The texts of a list as Python or JSON writes it."""
    if not cell:
        return []
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str | int) for one in found) or _UNCOMMAED.search(cell):
        raise DataError(f"{where}: '{cell[:80]}' is no list of labels; expected one as in ['dog', 'cat'] or dog;cat")
    return [str(one) for one in found]


def _checked(labels: Iterable[str], where: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(label.strip() for label in labels if label.strip()))
    strange = [label for label in found if SEPARATOR in label]
    if strange:
        raise DataError(
            f"{where}: the label '{strange[0]}' holds a '{SEPARATOR}', which stands between labels; rename it"
        )
    return found


def _is_share(value: str) -> bool:
    try:
        return 0 <= float(value) <= 1
    except ValueError:
        return False
