"""The files of a reproduction: each section's numbers as JSON, and the report as Markdown, HTML and JSON.

Comes in: sections, and the folder that a user named. Goes out, in it: ``sections/NAME.json``, and ``report.md``,
``report.html`` and ``report.json`` of every section that was ever made there, in the paper's order; each written whole
or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earsight.errors import RunError, counted, remedy_of
from earsight.experiments.scale import SECTIONS, Scale
from earsight.files import read_state, replace_text, write_state
from earsight.reports.reproduction import report_html, report_markdown
from earsight.version import __version__

_OLD_NAMES = {"pictures": "figures"}
"""Old keys of a section's file -> their present names."""


def write_report(
    sections: Sequence[Mapping[str, Any]], *, out: Path, scale: Scale, machine: Mapping[str, Any]
) -> dict[str, Path]:
    """Write new sections, and the report of all sections in the folder; return the report's paths by suffix.

    ``machine`` is from `earsight.training.device.describe_machine`. RunError if the folder cannot be written, or a
    section's file in it is broken.
    """
    try:
        (out / "sections").mkdir(parents=True, exist_ok=True)
        for section in sections:
            write_state(out / "sections" / f"{section['section']}.json", section, indent=1)
        every = [_read(path) for name in SECTIONS if (path := out / "sections" / f"{name}.json").is_file()]
        about = [
            f"{scale.title} (--scale {scale.name}), earsight {__version__}; {machine['device']}, "
            f"{counted(machine['threads'], 'thread')}, torch {machine['torch']}.",
            "Ours beside the figures of Palanisamy, Singhania and Yao, “Rethinking CNN Models for Audio "
            "Classification”, 2020 (arXiv 2007.11154). Accuracies in per cent; a difference counts only if its 95 % "
            "interval leaves 0 out and its p-value is below 0.05.",
            *scale.notes,
        ]
        files = {kind: out / f"report.{kind}" for kind in ("md", "html", "json")}
        replace_text(files["md"], report_markdown(every, about=about))
        replace_text(files["html"], report_html(every, about=about, folder=out))
        write_state(files["json"], {"scale": scale.name, "machine": machine, "sections": every}, indent=1)
    except OSError as error:
        raise RunError(
            f"{out}: cannot be written ({error.strerror or error}); {remedy_of(error)} or name "
            "another folder with --out"
        ) from error
    return files


def _read(path: Path) -> dict[str, Any]:
    found = read_state(path, {"section": str}, remedy="remove it and run again", error=RunError)
    return {_OLD_NAMES.get(key, key): value for key, value in found.items()}
