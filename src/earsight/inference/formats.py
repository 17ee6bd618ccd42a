"""Output formats of `earsight predict`: text, csv, JSON lines, Audacity label tracks and Raven selection tables.

Comes in: predictions of clips or windows, and events. Goes out: lines of text, each whole. A new format is a subclass
of `Writer` and its line in `FORMATS`: the option ``--format``, its help, its checks and the files' endings follow.
"""

from __future__ import annotations

import csv
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from earsight.files import TURNING, json_text
from earsight.inference.predictions import NONE, Event, Prediction, share_words

Kind: TypeAlias = Literal["clips", "windows", "events"]
_TIMES = ("begin_s", "end_s")
_COMMANDS = re.compile(f"[\x00-\x1f\x7f-\x9f{TURNING}]")
_SPACES = "\t\n\r"


@dataclass
class Writer(ABC):
    """Rows of one kind in one format.

    ``top``: how many classes a clip's or a window's row shows; ``calibrated``: whether the csv has the columns
    ``unknown``, ``novelty`` and ``plausible``; ``number``: rows so far, where the format numbers them; ``high_hz``
    and ``low_hz``: the highest and the lowest frequency that the model gets of the recording; ``first``: whether of
    long clips only the first window was used, so that the csv has no columns ``windows``, ``agreement`` and
    ``calibrated``; ``damaged``: whether damaged clips are used, so that it has the columns ``damage`` and
    ``read_seconds``; ``lost``: whether it has ``left_out``. ``classes``: those of a model whose classes may sound
    together, of which rows have all; ``several_files``: whether rows are of several recordings, which
    ``before_seconds`` of others came before, so that a Raven table names them.
    """

    kind: Kind
    top: int = 1
    calibrated: bool = False
    number: int = 0
    high_hz: float = 0.0
    low_hz: float = 0.0
    first: bool = False
    damaged: bool = False
    lost: bool = False
    classes: tuple[str, ...] = ()
    several_files: bool = False
    before_seconds: float = 0.0

    def header(self) -> str:
        """The line before the first row; empty if the format has none."""
        return ""

    @abstractmethod
    def prediction(self, found: Prediction, times: Sequence[float] = ()) -> str:
        """A clip's row, or a window's with its begin and end in seconds."""

    @abstractmethod
    def event(self, path: str, event: Event) -> str:
        """An event's row."""

    @abstractmethod
    def problem(self, path: str, reason: str) -> str:
        """The row of a recording that could not be read to its end; empty if the format has no such row."""

    def nothing(self, path: str, best: Event | None, threshold: float) -> str:
        """The row of a recording without an event, as `nothing_words` says it; empty if the format has no such row."""
        return ""

    def _pairs(self, found: Prediction) -> list[tuple[str, float]]:
        return list(zip(found.classes, found.probabilities, strict=True))[: self.top]


class _Text(Writer):
    """Text for reading, separated by tabs."""

    def prediction(self, found: Prediction, times: Sequence[float] = ()) -> str:
        words = self._several(found) if found.several else []
        words = words or [f"{_words(name)} {share_words(share)}" for name, share in self._pairs(found)]
        words[:1] = [f"{found.words} (nearest: {words[0]})"] if found.unknown else words[:1]
        words += [agreement(found)] if found.windows > 1 else []
        words += found.lost
        if found.read_seconds is not None:
            words.append(f"from the {found.read_seconds:.2f} s that are whole: {_words(found.damage)}")
        return self._row(found.path, *_seconds(times), *([f"error: {_words(found.error)}"] if found.error else words))

    def _several(self, found: Prediction) -> list[str]:
        """The named classes, and in brackets the next, up to so many as are to be shown; or that none is named."""
        if found.unknown or found.error:
            return []
        pairs = list(zip(found.classes, found.probabilities, strict=True))
        words = [f"{_words(name)} {share_words(share)}" for name, share in pairs if name in found.named]
        rest = [f"{_words(name)} {share_words(share)}" for name, share in pairs if name not in found.named]
        if not words:
            return [f"{NONE} (nearest: {rest[0]})", *(f"({one})" for one in rest[1 : self.top])]
        return words + [f"({one})" for one in rest[: max(0, self.top - len(words))]]

    def event(self, path: str, event: Event) -> str:
        return self._row(path, *_seconds(_span(event)), f"{_words(event.label)} {share_words(event.score)}")

    def problem(self, path: str, reason: str) -> str:
        return self._row(path, f"error: {_words(reason)}")

    def nothing(self, path: str, best: Event | None, threshold: float) -> str:
        return self._row(path, nothing_words(best, threshold))

    def _row(self, path: str, *cells: str) -> str:
        return _line([harmless(path, keep="\t"), *cells])


class _Csv(Writer):
    """csv with a header."""

    def header(self) -> str:
        return csv_line(self._columns())

    def prediction(self, found: Prediction, times: Sequence[float] = ()) -> str:
        cells = [cell for name, share in self._pairs(found) for cell in (_quoted(name), f"{share:.6f}")]
        cells += [""] * (2 * self.top - len(cells))
        windows = self._windows(found)
        row = [found.path, *_seconds(times), *cells, *self._confidence(found), found.error, *windows]
        if self.damaged:
            row += [found.damage, "" if found.read_seconds is None else f"{found.read_seconds:.6f}"]
        if self.classes:
            share = dict(zip(found.classes, found.probabilities, strict=True))
            row += [_quoted(";".join(found.named)), *(f"{share[n]:.6f}" if share else "" for n in self.classes)]
        if self.lost:
            row.append(";".join(kind for kind in found.left_out if kind != "above_hz"))
        return csv_line(row)

    def event(self, path: str, event: Event) -> str:
        figures = [f"{event.score:.6f}", f"{event.mean:.6f}", str(event.windows)]
        return csv_line([path, *_seconds(_span(event)), _quoted(event.label), *figures, ""])

    def problem(self, path: str, reason: str) -> str:
        columns = self._columns()
        return csv_line([path, *(reason if name == "error" else "" for name in columns[1:])])

    def _columns(self) -> list[str]:
        if self.kind == "events":
            return ["path", *_TIMES, "label", "score", "mean", "windows", "error"]
        ranks = [f"{name}_{rank + 1}" for rank in range(1, self.top) for name in ("label", "probability")]
        extra = ["unknown", "novelty", "plausible"] if self.calibrated else []
        times = _TIMES if self.kind == "windows" else ()
        damage = ["damage", "read_seconds"] if self.damaged else []
        several = ["labels", *(_quoted(f"p_{name}") for name in self.classes)] if self.classes else []
        first = ["path", *times, "label", "probability", *ranks, *extra, "error"]
        return [*first, *self._window_columns(), *damage, *several, *(["left_out"] if self.lost else [])]

    def _window_columns(self) -> list[str]:
        if self.kind != "clips" or self.first:
            return []
        return ["windows", "agreement", "calibrated"] if self.calibrated else ["windows", "agreement"]

    def _windows(self, found: Prediction) -> list[str]:
        """How many windows a clip was cut into, and what becomes of that."""
        columns = self._window_columns()
        if found.error:
            return [""] * len(columns)
        sure = "" if found.calibrated is None else str(found.calibrated).lower()
        return [str(found.windows), f"{found.agreement:.6f}", sure][: len(columns)]

    def _confidence(self, found: Prediction) -> list[str]:
        if not self.calibrated:
            return []
        scored = not found.error and found.novelty is not None
        return [
            str(found.unknown).lower() if scored else "",
            f"{found.novelty:.6g}" if scored else "",
            _quoted(";".join(found.plausible)),
        ]


class _JsonLines(Writer):
    """A JSON object a row."""

    def prediction(self, found: Prediction, times: Sequence[float] = ()) -> str:
        pairs = zip(found.classes, found.probabilities, strict=True) if found.several else self._pairs(found)
        row = {"path": found.path, **_rounded(times), "classes": dict(pairs)}
        if found.several:
            row["labels"] = list(found.named)
        if found.error:
            row["error"] = found.error
        if found.novelty is not None:
            row |= {"unknown": found.unknown, "novelty": found.novelty}
        if found.plausible:
            row["plausible"] = list(found.plausible)
        if found.windows > 1:
            row |= {"windows": found.windows, "agreement": found.agreement}
        if found.calibrated is False:
            row["calibrated"] = False
        if found.read_seconds is not None:
            row |= {"damage": found.damage, "read_seconds": round(found.read_seconds, 6)}
        if found.left_out:
            row["left_out"] = found.left_out
        return json_text(row) + "\n"

    def event(self, path: str, event: Event) -> str:
        figures = {"score": round(event.score, 6), "mean": round(event.mean, 6), "windows": event.windows}
        return json_text({"path": path, **_rounded(_span(event)), "label": event.label, **figures}) + "\n"

    def problem(self, path: str, reason: str) -> str:
        return json_text({"path": path, "error": reason}) + "\n"

    def nothing(self, path: str, best: Event | None, threshold: float) -> str:
        highest = None
        if best is not None:
            figures = {"score": round(best.score, 6), "threshold": round(threshold, 6)}
            highest = {"label": best.label, **_rounded(_span(best)), **figures}
        return json_text({"path": path, "events": 0, "highest": highest}) + "\n"


class _Audacity(Writer):
    """A label track: begin, end and label, separated by tabs."""

    def prediction(self, found: Prediction, times: Sequence[float] = ()) -> str:
        if found.error:
            return ""
        if found.several and not found.unknown:
            pairs = zip(found.classes, found.probabilities, strict=True)
            return "".join(
                self._selection(found.path, name, share, *times) for name, share in pairs if name in found.named
            )
        score = found.novelty if found.unknown else found.probabilities[0]
        return self._selection(found.path, found.answer, score, *times, strange=found.unknown)

    def event(self, path: str, event: Event) -> str:
        return self._selection(path, event.label, event.score, *_span(event))

    def problem(self, path: str, reason: str) -> str:
        return ""

    def _selection(
        self, path: str, label: str, score: float | None, begin: float, end: float, *, strange: bool = False
    ) -> str:
        """A row with the label's probability, or beside `unknown` the OOD score."""
        shown = "" if score is None else f", OOD score {score:.4g}" if strange else f" {score:.2f}"
        return _line([f"{begin:.6f}", f"{end:.6f}", f"{_words(label)}{shown}"])


class _Raven(_Audacity):
    """A selection table; of several recordings its times count through all of them, and it says where each begins.

    So Raven shows them in one window. opensoundscape 0.13.2 and crowsetta 5.1.2 read ``Begin Time (s)`` as a time
    within the file, whatever ``Begin Path`` says: they need a table for each recording.
    """

    def header(self) -> str:
        bounds = ("Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
        files = ("Begin File", "Begin Path", "File Offset (s)") if self.several_files else ()
        return _line(["Selection", "View", "Channel", *bounds, "Class", "Score", *files])

    def _selection(
        self, path: str, label: str, score: float | None, begin: float, end: float, *, strange: bool = False
    ) -> str:
        self.number += 1
        bounds = [f"{self.before_seconds + time:.6f}" for time in (begin, end)]
        bounds += [f"{self.low_hz:.1f}", f"{self.high_hz:.1f}"]
        names = Path(path).name, str(Path(path).absolute())
        bounds += [_words(label), "" if score is None else f"{score:.4f}"]
        files = [*(harmless(name) for name in names), f"{begin:.6f}"] if self.several_files else []
        return _line([str(self.number), "Spectrogram 1", "1", *bounds, *files])


class Format(NamedTuple):
    """A format of rows.

    ``suffix``: ending of its files; ``times``: its rows have times, so that it takes recordings alone;
    ``one_recording``: they have no path, so that each recording is in a file of its own.
    """

    writer: type[Writer]
    suffix: str
    times: bool = False
    one_recording: bool = False


FORMATS: dict[str, Format] = {
    "text": Format(_Text, ".txt"),
    "csv": Format(_Csv, ".csv"),
    "jsonl": Format(_JsonLines, ".jsonl"),
    "audacity": Format(_Audacity, ".txt", times=True, one_recording=True),
    "raven": Format(_Raven, ".txt", times=True),
}
"""By the name that ``--format`` takes."""


def agreement(found: Prediction) -> str:
    """How many windows a sound was cut into, how many of them agree, and whether the model is calibrated so."""
    alone = f"{round(found.agreement * found.windows)} of {found.windows} windows agree"
    return f"{alone}, not calibrated" if found.calibrated is False else alone


def nothing_words(best: Event | None, threshold: float) -> str:
    """That a recording has no event, with the window that came nearest, if any spoke for a class that can be one."""
    if best is None:
        return "no event: no window speaks for a class"
    label, reached = _words(best.label), best.score >= threshold
    why = "too short, or steady noise" if reached else f"events of {label} begin at {share_words(threshold)}"
    return f"no event: the highest score is {label} {share_words(best.score)} at {best.begin_seconds:.3f} s; {why}"


def _span(event: Event) -> tuple[float, float]:
    return event.begin_seconds, event.end_seconds


def harmless(text: str, *, keep: str = "") -> str:
    """A text whose control characters no terminal, table or reader obeys: spaces are one of a kind, others spelt out.

    ``keep``: those of tab and line breaks that stay.
    """
    return _COMMANDS.sub(lambda found: found[0] if found[0] in keep else _spelt(found[0]), text)


def _spelt(sign: str) -> str:
    return " " if sign in _SPACES else f"\\x{ord(sign):02x}" if ord(sign) < 256 else f"\\u{ord(sign):04x}"


def _words(text: str) -> str:
    return harmless(" ".join(text.split()))


def _quoted(text: str) -> str:
    """A cell of csv, whose quotes hold line breaks."""
    return harmless(text, keep=_SPACES)


def _line(cells: Sequence[str]) -> str:
    return "\t".join(cells) + "\n"


def csv_line(cells: Sequence[str]) -> str:
    """One line of csv."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _seconds(times: Iterable[float]) -> list[str]:
    return [f"{seconds:.3f}" for seconds in times]


def _rounded(times: Sequence[float]) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in zip(_TIMES, times, strict=False)}
