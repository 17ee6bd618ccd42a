"""Rows of results: one line for each clip, window or event, in the form that was asked for.

Comes in: predictions, windows and events. Goes out: lines of text, each whole. Forms: ``text`` for people, ``csv`` and
``jsonl`` for programs, ``audacity`` a label track, ``raven`` a selection table. The last two are of one recording each.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from earsight.inference.classifier import Prediction
from earsight.inference.events import Event

Form: TypeAlias = Literal["text", "csv", "jsonl", "audacity", "raven"]
What: TypeAlias = Literal["clips", "windows", "events"]

SUFFIXES: dict[Form, str] = {"text": ".txt", "csv": ".csv", "jsonl": ".jsonl", "audacity": ".txt", "raven": ".txt"}
ONE_RECORDING: tuple[Form, ...] = ("audacity", "raven")
"""Forms whose rows do not name the recording."""
_TIMES = ("begin_s", "end_s")
_RAVEN = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Class", "Score"),
)


@dataclass
class Table:
    """Rows of one kind in one form.

    Parameters
    ----------
    form : str
    what : str
        What a row is: a clip, a window or an event.
    top : int
        How many classes a clip's or a window's row shows.
    calibrated : bool
        Whether the csv has the columns ``unknown``, ``novelty`` and ``plausible``; ``label`` is the nearest class then.
    number : int
        Rows so far; Raven counts its selections.
    """

    form: Form
    what: What
    top: int = 1
    calibrated: bool = False
    number: int = 0

    def header(self) -> str:
        """The line before the first row; empty where the form has none."""
        if self.form == "raven":
            return _line(_RAVEN)
        if self.form != "csv":
            return ""
        if self.what == "events":
            return _cells(["path", *_TIMES, "label", "score", "mean", "windows", "error"])
        ranks = [f"{name}_{rank + 1}" for rank in range(1, self.top) for name in ("label", "probability")]
        extra = ["unknown", "novelty", "plausible"] if self.calibrated else []
        times = _TIMES if self.what == "windows" else ()
        return _cells(["path", *times, "label", "probability", *ranks, *extra, "error"])

    def prediction(self, found: Prediction, span: tuple[float, float] | None = None, *, high_hz: float = 0.0) -> str:
        """A clip's row, or with its ``span`` in seconds a window's; ``high_hz`` is the highest frequency heard."""
        self.number += 1
        pairs = list(zip(found.classes, found.probabilities, strict=True))[: self.top]
        times = dict(zip(_TIMES, span, strict=True)) if span else {}
        if self.form == "jsonl":
            return _json({"path": found.path, **_rounded(times), "classes": dict(pairs), **_confidence(found)})
        if self.form == "csv":
            cells = [cell for name, share in pairs for cell in (name, f"{share:.6f}")]
            extra = _confidence_cells(found) if self.calibrated else []
            blank = [""] * (2 * self.top - len(cells))
            return _cells([found.path, *_seconds(times.values()), *cells, *blank, *extra, found.error])
        if found.error:
            return self.problem(found.path, found.error)
        if span and self.form in ONE_RECORDING:
            return self._selection(found.answer, found.probabilities[0], span, high_hz)
        words = [f"{name} {100 * share:.1f} %" for name, share in pairs]
        words[:1] = [f"unknown (nearest: {words[0]})"] if found.unknown else words[:1]
        return _line([found.path, *_seconds(times.values()), *words])

    def event(self, path: str, event: Event, *, high_hz: float = 0.0) -> str:
        """An event's row."""
        self.number += 1
        span = event.begin_seconds, event.end_seconds
        if self.form in ONE_RECORDING:
            return self._selection(event.label, event.score, span, high_hz)
        if self.form == "jsonl":
            times = _rounded(dict(zip(_TIMES, span, strict=True)))
            figures = {"score": round(event.score, 6), "mean": round(event.mean, 6), "windows": event.windows}
            return _json({"path": path, **times, "label": event.label, **figures})
        if self.form == "csv":
            figures_text = [f"{event.score:.6f}", f"{event.mean:.6f}", str(event.windows)]
            return _cells([path, *_seconds(span), event.label, *figures_text, ""])
        return _line([path, *_seconds(span), f"{event.label} {100 * event.score:.1f} %"])

    def problem(self, path: str, reason: str) -> str:
        """The row of a recording that could not be read to its end; empty where the form has no place for it."""
        if self.form == "jsonl":
            return _json({"path": path, "error": reason})
        if self.form == "csv":
            return _cells([path, *[""] * (self.header().count(",") - 1), reason])
        return "" if self.form in ONE_RECORDING else f"{path}\terror: {reason}\n"

    def _selection(self, label: str, score: float, span: tuple[float, float], high_hz: float) -> str:
        name = " ".join(label.split())
        begin, end = (f"{seconds:.6f}" for seconds in span)
        if self.form == "audacity":
            return _line([begin, end, f"{name} {score:.2f}"])
        return _line(
            [str(self.number), "Spectrogram 1", "1", begin, end, "0.0", f"{high_hz:.1f}", name, f"{score:.4f}"]
        )


def _line(cells: Sequence[str]) -> str:
    return "\t".join(cells) + "\n"


def _cells(cells: Sequence[str]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _seconds(times: Iterable[float]) -> list[str]:
    return [f"{seconds:.3f}" for seconds in times]


def _rounded(times: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in times.items()}


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
        text = json.dumps(row)
    return text + "\n"
