"""The report of one or several runs as one HTML page: accuracy, data set, classes, mistakes, confidence, recipe.

Comes in: run folders. Goes out: the text of a page, bounded in size. Everything comes from saved arrays; only players
and spectrograms need the sounds, and without them the page says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from earsight.errors import DataError, RunError, counted
from earsight.inference.predictions import share_words
from earsight.reports.html import render, shown
from earsight.reports.mistakes import ClipMedia, WorstMistakes, limit_media, without_media, worst_mistakes
from earsight.reports.multilabel_report import several_section
from earsight.reports.runs import RunRead, read_for_report
from earsight.reports.sections import (
    classes_section,
    comparison_section,
    curves_section,
    data_section,
    parts_section,
    recipe_section,
    reliability_section,
    result_section,
    unknown_facts,
)

MOST_BYTES = 7_000_000
"""Size of a page. Mail encodes three bytes as four, so that this stays below 10 MB there."""
MISTAKES = 12


class Report(NamedTuple):
    """A page's text, and sentences on what was left out for its size."""

    text: str
    notes: list[str]


def make_report(
    folders: Sequence[Path],
    *,
    data: Path | None = None,
    mistakes: int = MISTAKES,
    most_bytes: int = MOST_BYTES,
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Report:
    """Make the page of some runs.

    ``data`` is the data set's place, if it was moved or the runs do not record it; ``mistakes`` is the most to show of
    each run; players are left out first, then spectrograms, to keep the page below ``most_bytes``; ``progress`` is
    called with (steps done, steps in all, name of the step). RunError if a folder is no run, has no finished trial, or
    is named twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RunError(f"{' '.join(map(str, folders))}: a run is given twice; name each once")
    if data is not None and not data.exists():
        raise DataError(f"{data}: no such folder or csv file; give the data set's path")
    runs = [read_for_report(folder) for folder in folders]
    names = _names(folders)
    worst: list[WorstMistakes] = []
    for number, run in enumerate(runs):
        progress(number, len(runs) + 1, names[number])
        # Of several labels there is no one class that a clip would be taken for.
        worst.append(
            WorstMistakes((), 0, 0) if run.summary.get("several") else worst_mistakes(run, data=data, most=mistakes)
        )
    progress(len(runs), len(runs) + 1, "page")
    context: dict[str, Any] = {
        "runs": [_run(run, name, key=f"r{number}") for number, (run, name) in enumerate(zip(runs, names, strict=True))],
        "comparison": comparison_section(runs, names) if len(runs) > 1 else None,
    }
    context["contents"] = {run["key"]: _contents(run) for run in context["runs"]}
    about = runs[0].summary["dataset"]["name"]
    title = f"{names[0]}: a run on {about}" if len(runs) == 1 else f"{counted(len(runs), 'run')} side by side"

    def page(parts: Sequence[WorstMistakes], left_out: str) -> str:
        for run, part in zip(context["runs"], parts, strict=True):
            if run["several"]:
                continue
            run["worst"] = _worst(part, run["classes"], by_fold=run["by_fold"])
        return render("report.html", title=title, context=context | {"left_out": left_out})

    bare = len(page([without_media(part) for part in worst], " " * 200).encode())
    parts, players, spectrograms = limit_media(worst, room=most_bytes - bare)
    notes = []
    if players:
        lost = counted(players, "player") + (f" and {counted(spectrograms, 'spectrogram')}" if spectrograms else "")
        notes.append(f"{lost} left out to keep the page below {most_bytes / 1e6:.3g} MB.")
    text = page(parts, " ".join(notes))
    if bare > most_bytes:
        notes.append(f"The page has {len(text.encode()) / 1e6:.1f} MB without any player; report fewer runs at a time.")
    progress(len(runs) + 1, len(runs) + 1, "page")
    return Report(text, notes)


def _names(folders: Sequence[Path]) -> list[str]:
    """A different name for each run: its folder's, with as many parent folders as needed."""
    paths = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100 - links keep the name they were given
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = [str(Path(*path.parts[-depth:])) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _run(run: RunRead, name: str, *, key: str) -> dict[str, Any]:
    several = bool(run.summary.get("several"))
    of_classes: dict[str, Any] = {"several": several_section(run, key=key) if several else None}
    if not several:
        of_classes |= {"matrix": classes_section(run, key=key), "reliability": reliability_section(run, key=key)}
    return {
        "name": name,
        "key": key,
        "classes": run.classes,
        "by_fold": not run.summary["dataset"].get("held_out"),
        "missing": run.missing,
        "result": result_section(run),
        "data": data_section(run),
        "curves": curves_section(run, key=key),
        **of_classes,
        "unknown": unknown_facts(run),
        "parts": parts_section(run),
        "recipe": recipe_section(run),
    }


def _contents(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Anchors and headings of a run's sections."""
    return [
        ("result", "Average precision" if run["several"] else "Accuracy"),
        ("data", "Data set"),
        ("classes", "Classes"),
        *([] if run["several"] else [("mistakes", "Worst mistakes")]),
        ("confidence", "Confidence"),
        *([("training", "Training")] if run["curves"] else []),
        *([("parts", run["parts"]["title"])] if run["parts"] else []),
        ("again", "Recipe, and how to get the same again"),
    ]


def _worst(part: WorstMistakes, classes: Sequence[str], *, by_fold: bool) -> dict[str, Any]:
    clips = []
    for one in part.shown:
        found, media = one.mistake, one.media or ClipMedia("", "")
        clips.append(
            {
                "clip": found.clip,
                "fold": found.fold if by_fold else None,
                "label": classes[found.label],
                "predicted": classes[found.predicted],
                "predicted_share": share_words(found.predicted_probability),
                "label_share": share_words(found.label_probability),
                "wrong": f"{found.wrong} of {found.seeds} networks" if found.seeds > 1 else "",
                "spectrogram": media.spectrogram,
                "sound": media.sound,
                "why": one.why,
                "alt": f"Spectrogram of {shown(Path(found.clip).name)}, as the network saw it",
            }
        )
    return {"clips": clips, "wrong": part.wrong, "tested": part.tested, "why": part.why}
