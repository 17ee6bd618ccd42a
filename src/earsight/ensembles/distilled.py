"""What distillation kept: accuracy, time and size of the teachers one by one, of all together, and of the student.

Comes in: the run folder of the teachers (or of their ensemble) and that of the students that learnt from them. Goes
out: the dict that is kept as ``distillation.json`` (accuracies between 0 and 1, milliseconds a clip, bytes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earsight.ensembles.ensemble_run import joined, logits_of, runs_of
from earsight.errors import RunError
from earsight.evaluation.comparison import METHOD, compare_runs
from earsight.evaluation.metrics import probabilities
from earsight.evaluation.summary import Predictions, read_run
from earsight.files import write_state
from earsight.inference.classifier import Classifier
from earsight.inference.scoring import milliseconds_per_clip
from earsight.models.modelfile import load
from earsight.training.heldout import model_of

REPORT = "distillation.json"
_APART = 1_000_000  # added to the teachers' seeds, which have nothing in common with the students' of that number


def measure_distillation(
    run: Path, students: Path, *, device: torch.device, machine: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare students with their teachers on the clips that neither saw, and write the result to the students' folder.

    Comes in: the run folders of the teachers (``run``) and ``students``; the ``device`` on which the time of a clip is
    measured, with the threads that torch has; and a description of the ``machine``, for the report. RunError if a run
    cannot be read, or they have no fold in common.

    Goes out: ``run``, ``folds``, ``seeds`` (the students'), ``rows`` (``method`` single, ensemble or distilled;
    ``networks``; ``accuracy``, or of several labels ``average_precision``, with ``mean`` and ``ci95``; ``gain`` over
    the single teacher; ``milliseconds_per_clip``; ``bytes`` of the model files), ``over_ensemble`` (the gain of the
    students over the ensemble), ``protocol``, ``dataset``, ``notes``, ``method`` and ``machine``. There is no ensemble
    where one network taught, and no single one where the runs of an ensemble's members are gone.
    """
    learnt = read_run(students, several=True)
    folds = sorted({int(trial.about["fold"]) for trial in learnt})
    notes: list[str] = []
    runs = runs_of(run)
    together: list[Predictions] = []
    alone: list[Predictions] = []
    try:
        for one in runs:
            found = [trial for trial in read_run(one, several=True) if trial.about["fold"] in folds]
            # Under seeds that no student has.
            alone += [replace(trial, about={**trial.about, "seed": trial.about["seed"] + _APART}) for trial in found]
    except RunError as error:
        alone = []
        notes.append(f"The members of the ensemble are not there, so there is no single row ({error}).")
    files = _files(run, folds[0])
    if runs != [run]:
        together = [trial for trial in read_run(run, several=True) if trial.about["fold"] in folds]
    elif len(files) > 1:
        together = [_mean([trial for trial in alone if trial.about["fold"] == fold]) for fold in folds]
    kinds = {"single": alone, "ensemble": together, "distilled": learnt}
    paths = {
        "single": files[:1] if runs == [run] else _files(runs[0], folds[0])[:1] if alone else [],
        "ensemble": files,
        "distilled": _files(students, folds[0])[:1],
    }
    first = learnt[0]
    result: dict[str, Any] = {
        "run": str(run),
        "folds": folds,
        "seeds": sorted({int(trial.about["seed"]) for trial in learnt}),
        "rows": [
            _row(name, trials, against=alone, files=paths[name], device=device)
            for name, trials in kinds.items()
            if trials
        ],
        "over_ensemble": _gain(learnt, together) if together else None,
        "protocol": first.about["protocol"],
        "dataset": first.about["dataset"],
        "recipe_digest": first.about["recipe_digest"],
        "notes": notes,
        "method": METHOD,
        "machine": dict(machine),
    }
    write_state(students / REPORT, result, indent=2)
    return result


def _files(run: Path, fold: int) -> list[Path]:
    """The model files of one fold, by seed."""
    folders = [path.parent for path in run.glob(f"fold-{fold}/seed-*/DONE")]
    return [model_of(folder) for folder in sorted(folders, key=lambda one: int(one.name.removeprefix("seed-")))]


def _mean(trials: Sequence[Predictions]) -> Predictions:
    """The trials of one fold as one: the mean of their probabilities."""
    several = trials[0].targets is not None
    shares = np.mean([probabilities(trial.logits, several=several) for trial in trials], axis=0)
    about = {**trials[0].about, "ensemble": len(trials)}
    return replace(trials[0], logits=logits_of(shares, several=several), about=about)


def _row(
    name: str, trials: Sequence[Predictions], *, against: Sequence[Predictions], files: Sequence[Path], device: Any
) -> dict[str, Any]:
    """One line of the table; its gain is over the trials that it is set against, if these are others."""
    found = compare_runs(trials, trials, names=(name, name))["runs"][0]
    kind = "average_precision" if "average_precision" in found else "accuracy"
    parts = [load(path) for path in files]
    card, network = parts[0] if len(parts) == 1 else joined(parts, trained_on={})
    classifier = Classifier(card, network, device=device)
    return {
        "method": name,
        "networks": len(card.members) or 1,
        kind: {"mean": found[kind], "ci95": found["ci95"]},
        "gain": _gain(trials, against) if against and trials is not against else None,
        "milliseconds_per_clip": round(milliseconds_per_clip(classifier), 2),
        "bytes": sum(path.stat().st_size for path in files),
    }


def _gain(trials: Sequence[Predictions], against: Sequence[Predictions]) -> dict[str, Any]:
    """How much better some trials are than others on the same clips; with both seeds redrawn where that can be."""
    found = compare_runs(trials, against, names=("a", "b"))
    difference = found["difference"]
    return {
        "difference": difference["mean"],
        "ci95": difference["ci95_with_seeds"] or difference["ci95"],
        "p_value": difference["p_value"],
        "beyond_noise": found["beyond_noise"],
    }
