"""Run analysis.boundaries on a run's held-out clips, resumably.

Comes in: a run folder with its models and sounds. Goes out: what `earsight.analysis.boundaries` measures, for each
clip, and the means over clips with 95 % bootstrap intervals, as observed and with attributions moved in time. Rows of
clips are kept in ``RUN/analysis/boundaries.jsonl``, from which an interrupted call resumes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earsight.analysis.attribution import integrated_gradients
from earsight.analysis.boundaries import NAMES, bootstrap_mean, measure_clip
from earsight.data.audio import file_of
from earsight.errors import AudioError, ModelError, RunError, counted
from earsight.files import content_digest, json_text, replace_text, say_damage, say_once
from earsight.inference.explanation import FromBands, bands_of, strongest_window
from earsight.inference.model import Model
from earsight.training.heldout import HeldOut, held_out

VERSION = 1
MOST_STEPS = 256
KINDS = ("attribution", "sensitivity")


def observe_boundaries(
    run: Path,
    *,
    data: Path | None = None,
    seed: int | None = None,
    clips: int | None = None,
    most_steps: int = MOST_STEPS,
    device: torch.device | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Measure a run's held-out clips, each with the model that was not trained on it, for its predicted class.

    ``data`` is where the data set is now, if the run does not say or it was moved; ``seed`` one of the run's, default
    the lowest; ``clips`` how many of each fold at most, default all; ``most_steps`` bounds the steps of Integrated
    Gradients (a clip that is not complete within 1 % by then is counted as such). ``progress`` is called with (clips
    done, clips in all, a note).

    Returns ``clips`` (measured, left out, not complete), ``means`` (kind, name: observed, shifted, difference, each
    with mean and ci95), ``verdict`` and ``rows``, one for each clip. RunError if the run has no finished trial, its
    sounds are not found, or fewer than two clips can be measured.
    """
    trials = held_out(run, data=data, seed=seed)
    chosen = [(trial, trial.sample(clips) if clips else np.arange(len(trial.clips))) for trial in trials]
    total, done = sum(len(places) for _, places in chosen), 0
    kept = _KeptRows(run / "analysis" / "boundaries.jsonl", {"version": VERSION, "most_steps": most_steps})
    rows = []
    for trial, places in chosen:
        model: Model | None = None
        who, digest = [trial.fold, trial.seed], content_digest(trial.model)
        for place in places.tolist():
            key = [*who, digest, content_digest(file_of(trial.files[place])), trial.clips[place]]
            row = kept.find(key) or kept.find_unchecked([*who, trial.model.stat().st_mtime_ns, trial.clips[place]])
            if row is None:
                model = model or Model.load(trial.model, device=device)
                row = kept.add(key, _measure(model, trial, place, most_steps=most_steps))
            rows.append({"fold": trial.fold, "seed": trial.seed, "clip": trial.clips[place]} | row)
            done += 1
            if progress:
                progress(done, total, trial.clips[place])
    return _summary(rows, run)


def _measure(model: Model, trial: HeldOut, place: int, *, most_steps: int) -> dict[str, Any]:
    """One clip's row: its classes, the completeness of its attributions, and the measures or why there are none."""
    row: dict[str, Any] = {"label": trial.classes[int(trial.labels[place])]}
    try:
        with model.opened(trial.files[place]) as source:
            # A run that was trained on first windows is observed in those.
            first = model.card.recipe.training.windows == "first"
            _, wave, _, top = strongest_window(model, source.windows, None, first=first, name=source.name)
    except AudioError as error:
        return row | {"left_out": error.reason}
    except ModelError:
        return row | {"left_out": "its predictions are not finite"}
    network = FromBands(model)
    spectrogram, silence = bands_of(model, wave)
    with torch.no_grad():
        target = int(network(spectrogram).argmax()) if top is None else top
    found = integrated_gradients(network, spectrogram, silence=silence, target=target, most_steps=most_steps)
    if not np.isfinite(found.values).all():
        return row | {"left_out": "its attributions are not finite"}
    measured = measure_clip(found.values, spectrogram[0].cpu().numpy())
    row |= {"explained": model.classes[target], "steps": found.steps, "error": found.error}
    row["complete"] = found.complete
    if measured is None:
        return row | {"left_out": "too little sound to measure"}
    return row | {kind: measured[kind]._asdict() for kind in KINDS}


class _KeptRows:
    """Rows of measured clips, a JSON line each, under a line with the settings; other settings restart it."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        try:
            head, *lines = path.read_bytes().split(b"\n")[:-1]  # a kill may have cut the last line
        except OSError:
            head, lines = json_text(settings).encode(), []
        except ValueError:  # empty
            head, lines = b"", []
        found = _entry(head)
        if found is None:
            say_damage(f"{path}: its settings cannot be read, so all clips are measured anew")
        elif found == settings:
            entries = [_whole(_entry(line)) for line in lines]
            self._rows = {json.dumps(entry["key"]): entry["row"] for entry in entries if entry}
            if None in entries:
                say_damage(f"{path}: {counted(entries.count(None), 'row')} damaged; those clips are measured anew")
        path.parent.mkdir(parents=True, exist_ok=True)
        body = [_with_crc(json.loads(key), row) for key, row in self._rows.items()]
        replace_text(path, "".join(json_text(entry) + "\n" for entry in [settings, *body]))

    def find(self, key: list[Any]) -> dict[str, Any] | None:
        return self._rows.get(json.dumps(key))

    def find_unchecked(self, key: list[Any]) -> dict[str, Any] | None:
        """A row of an earlier version, which knew models by their times and sounds by their names."""
        if found := self.find(key):
            say_once(f"{self._path}: has rows of an earlier version; what changed since cannot be checked")
        return found

    def add(self, key: list[Any], row: dict[str, Any]) -> dict[str, Any]:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json_text(_with_crc(key, row)) + "\n")
        self._rows[json.dumps(key)] = row
        return row


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line's object; None if it is damaged."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _whole(entry: dict[str, Any] | None) -> dict[str, Any] | None:
    """A row and its key, if they fit their checksum; earlier versions wrote none, and nothing else beside both."""
    if entry is None or not {"key", "row"} <= set(entry) <= {"key", "row", "crc"}:
        return None
    return entry if "crc" not in entry or entry == _with_crc(entry["key"], entry["row"]) else None


def _with_crc(key: list[Any], row: dict[str, Any]) -> dict[str, Any]:
    return {"key": key, "row": row, "crc": zlib.crc32(json.dumps([key, row], sort_keys=True).encode())}


def _summary(rows: list[dict[str, Any]], run: Path) -> dict[str, Any]:
    measured = [row for row in rows if "left_out" not in row]
    if len(measured) < 2:
        why = next((row["left_out"] for row in rows if "left_out" in row), "there is no more")
        raise RunError(f"{run}: {len(measured)} of {len(rows)} clips can be measured ({why}); at least 2 are needed")
    means: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in KINDS:
        means[kind] = {}
        for name in NAMES:
            parts = {part: np.array([row[kind][part][name] for row in measured]) for part in ("observed", "shifted")}
            parts["difference"] = parts["observed"] - parts["shifted"]
            found = {part: bootstrap_mean(values) for part, values in parts.items()}
            means[kind][name] = {part: {"mean": one.mean, "ci95": [one.low, one.high]} for part, one in found.items()}
    return {
        "clips": {
            "measured": len(measured),
            "left_out": [f"{row['clip']}: {row['left_out']}" for row in rows if "left_out" in row],
            "not_complete": sum(not row["complete"] for row in measured),
        },
        "means": means,
        "verdict": verdict(means),
        "rows": rows,
    }


def verdict(means: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Sentences on whether the paper's claim holds: for boundaries at a given loudness, and for their density."""
    partial = means["attribution"]["spearman_gradient_given_energy"]
    low, high = partial["difference"]["ci95"]
    found = f"{partial['observed']['mean']:.3f}, {partial['shifted']['mean']:.3f} when moved in time"
    held = "holds" if low > 0 else "is contradicted" if high < 0 else "is not shown"
    lines = [
        f"At a given loudness, attributions are larger where the spectrogram changes: {held} (partial rank correlation "
        f"{found}; difference {_interval(partial['difference'])})."
    ]
    places = {place: means["attribution"][f"density_{place}"] for place in ("boundary", "inside", "outside")}
    order = sorted(places, key=lambda place: -float(places[place]["observed"]["mean"]))
    density = ", ".join(f"{place} {_interval(places[place]['observed'])}" for place in order)
    lines.append(f"Density of attributions by place, the mean of all cells being 1: {density}; most {order[0]}.")
    return lines


def _interval(entry: dict[str, Any]) -> str:
    low, high = entry["ci95"]
    return f"{entry['mean']:.3f} ({low:.3f} to {high:.3f})"
