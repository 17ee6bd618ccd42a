"""The epochs of a run's trials as a table, ``epochs.csv``, and as TensorBoard's event files.

Comes in: ``history.jsonl`` of trials, finished or under way. Goes out: RUN/epochs.csv with a row an epoch, and below
RUN/tensorboard/fold-K/seed-S/ a scalar for each of its figures. Both are derived from the histories: after a kill, or
where they are lost, the next command makes them anew.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from earsight.errors import EarsightError, RunError
from earsight.evaluation.protocols import read_history
from earsight.evaluation.summary import read_predictions
from earsight.files import read_lines, replace_text
from earsight.reports.tables import csv_text

EPOCHS = "epochs.csv"
FIGURES = (
    *("loss", "learning_rate", "accuracy", "average_precision", "log_loss"),
    *("held_out_accuracy", "held_out_average_precision", "seconds"),
)
"""Of an epoch's record. Of the inner clips, or with protocol ``test`` of the held-out ones, are those without a prefix;
those of ``held_out`` were watched and chose nothing."""
SECONDS = 5.0
"""Between two looks at the histories of trials that are under way."""


def check_tensorboard() -> None:
    """Raise `EarsightError` where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise EarsightError("--tensorboard needs tensorboard: python -m pip install 'earsight[tensorboard]'")


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one epoch, by the names in `FIGURES`."""
    watched = {f"held_out_{name}": value for name, value in (record.get("held_out") or {}).items()}
    return {name: value for name, value in {**record, **watched}.items() if name in FIGURES}


def histories(run: Path) -> tuple[dict[Path, list[dict[str, Any]]], list[str]]:
    """The records of each trial's epochs, by its folder, and a line on each history that is damaged."""
    found, problems = {}, []
    for path in run.glob("fold-*/seed-*/history.jsonl"):
        try:
            if (path.parent / "DONE").is_file():
                found[path.parent] = read_history(path.parent, read_predictions(path.with_name("predictions.npz")))
            else:
                found[path.parent] = read_lines(path, what="a history of earsight", remedy="", error=RunError)
        except RunError as error:
            problems.append(f"{error}; its epochs are not in {EPOCHS}")
    return dict(sorted(found.items(), key=lambda item: _place(item[0]))), problems


def _place(folder: Path) -> tuple[int, int]:
    """Fold and seed of a trial's folder, whose names only earsight gives."""
    numbers = (name.partition("-")[2] for name in (folder.parent.name, folder.name))
    fold, seed = (int(number) if number.isdecimal() else -1 for number in numbers)
    return fold, seed


def write_epochs(run: Path) -> list[str]:
    """Write a run's ``epochs.csv``, if its trials have histories; a line on each that is damaged."""
    found, problems = histories(run)
    rows = [
        {"fold": _place(folder)[0], "seed": _place(folder)[1], "epoch": record.get("epoch"), **figures(record)}
        for folder, records in found.items()
        for record in records
    ]
    if rows:
        used = [name for name in FIGURES if any(name in row for row in rows)]
        replace_text(run / EPOCHS, csv_text(rows, columns=("fold", "seed", "epoch", *used)))
    return problems


class Follower:
    """Keeps a run's ``epochs.csv``, and if asked its event files, up to date while trials run.

    Event files of an earlier command are replaced: they are logs, in which epochs that were run again after a kill
    would stand twice.
    """

    def __init__(self, run: Path, *, tensorboard: bool) -> None:
        self._run, self._tensorboard = run, tensorboard
        self._looked = time.monotonic()
        self._seen: dict[Path, int] = {}
        self._writers: dict[Path, Any] = {}
        self._written: dict[Path, int] = {}

    def look(self, *, now: bool = False) -> list[str]:
        """Take what is new, every `SECONDS` at most unless ``now``; lines on damaged histories."""
        if not now and time.monotonic() - self._looked < SECONDS:
            return []
        self._looked = time.monotonic()
        seen = {path: path.stat().st_mtime_ns for path in self._run.glob("fold-*/seed-*/history.jsonl")}
        if seen == self._seen and not now:
            return []
        self._seen = seen
        if self._tensorboard:
            for folder, records in histories(self._run)[0].items():
                self._write(folder, records)
        return write_epochs(self._run)

    def _write(self, folder: Path, records: list[dict[str, Any]]) -> None:
        """Write the epochs of a trial that its event file does not have."""
        from torch.utils.tensorboard import SummaryWriter

        if len(records) < self._written.get(folder, 0) or folder not in self._writers:
            if folder in self._writers:
                self._writers.pop(folder).close()
            logs = self._run / "tensorboard" / folder.relative_to(self._run)
            for old in logs.glob("events.out.tfevents.*"):
                old.unlink()
            self._writers[folder] = SummaryWriter(str(logs))
            self._written[folder] = 0
        writer = self._writers[folder]
        for record in records[self._written[folder] :]:
            for name, value in figures(record).items():
                writer.add_scalar(name, value, record["epoch"])
        writer.flush()
        self._written[folder] = len(records)

    def close(self) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
