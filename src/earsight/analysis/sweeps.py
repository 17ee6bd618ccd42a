"""Sweeps over stages: fewer pretrained, fewer trained, or fewer kept.

Comes in: a recipe and a kind of sweep. Goes out: a `Variant`, a recipe with its folder, for each stage; and, once their
trials are done, accuracies along the depth with differences to the reference, paired over clips. The sweeps are the
paper's: ``fusion`` (Fig. 2b), ``freeze`` (Fig. 2c) and ``cutoff``. They share one reference, the unchanged recipe,
which sweeps in one folder train once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from earsight.errors import RecipeError, RunError
from earsight.evaluation.statistics import bootstrap_accuracy, paired_difference
from earsight.evaluation.summary import Predictions, clip_means, read_predictions
from earsight.models.backbones import build_empty
from earsight.models.stages import empty_model, freeze, stage_names
from earsight.recipe import Recipe, Transfer
from earsight.training.trial import Trial, is_done

REFERENCE = "reference"


@dataclass(frozen=True)
class Sweep:
    """One of the paper's analyses: a field of the recipe's ``transfer`` section over its stages.

    ``neutral`` is the reference's value, which changes nothing; ``lowest`` the value below the first stage, if that
    is not the reference's; ``title`` and ``axis`` label the figure.
    """

    field: str
    neutral: str
    lowest: str
    title: str
    axis: str


SWEEPS = {
    "fusion": Sweep("fuse", "all", "none", "Weight fusion", "pretrained up to and with this stage, random above"),
    "freeze": Sweep("freeze", "none", "", "Weight freeze", "frozen up to and with this stage, fine-tuned above"),
    "cutoff": Sweep("cut", "none", "", "Model cutoff", "network ends after this stage"),
}


@dataclass(frozen=True)
class Variant:
    """One recipe of a sweep: the value of its field, and the folder of its run below the sweep's folder."""

    stage: str
    folder: str
    recipe: Recipe

    @property
    def is_reference(self) -> bool:
        """Whether it changes nothing."""
        return self.recipe.transfer.model_copy(update={"freeze_statistics": True}) == Transfer()


def variants(kind: str, recipe: Recipe, *, stages: str | None = None) -> list[Variant]:
    """The recipes of a sweep (``fusion``, ``freeze`` or ``cutoff``) from input to output, the reference among them.

    ``recipe`` is the common part; its ``transfer`` section must be neutral. ``stages`` chooses some, as in
    ``none,block2``; default all that differ from the reference, which is always included. RecipeError if a stage is
    unknown, the recipe fuses, freezes or cuts already, or it has no weights to fuse; ModelError if the backbone has
    only one stage.
    """
    sweep = SWEEPS[kind]
    if recipe.transfer.model_copy(update={"freeze_statistics": True}) != Transfer():
        raise RecipeError("the recipe's transfer section fuses, freezes or cuts already; leave that to the analysis")
    if kind == "fusion" and recipe.backbone.weights == "none":
        raise RecipeError("backbone.weights is none, so there is nothing to fuse; give weights, such as imagenet")
    names = stage_names(build_empty(recipe.backbone.name, classes=2))
    known = [name for name in (sweep.lowest, *names) if name]
    chosen = _chosen(stages, known, sweep) if stages is not None else _worth_a_run(sweep, known)
    made = [
        Variant(
            name,
            f"{sweep.field}-{name}",
            recipe.model_copy(update={"transfer": recipe.transfer.model_copy(update={sweep.field: name})}),
        )
        for name in known
        if name in chosen
    ]
    reference = Variant(sweep.neutral, REFERENCE, recipe)
    # The reference (nothing frozen) begins the freeze sweep; it (all pretrained, nothing cut) ends the other two.
    return [reference, *made] if sweep.field == "freeze" else [*made, reference]


def _worth_a_run(sweep: Sweep, known: list[str]) -> list[str]:
    """Drop the last stage from fuse and cut sweeps: that network is the reference, but for some CNNs' final norm."""
    if sweep.field == "freeze":
        return known
    # A network cut after its stem is a linear model of edges: only on request.
    return [name for name in known[:-1] if sweep.field == "fuse" or name != "stem"]


def _chosen(text: str, known: list[str], sweep: Sweep) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    strange = next((name for name in names if name not in (*known, sweep.neutral)), None)
    if strange is not None:
        raise RecipeError(f"--stages {text}: '{strange}' is no stage of this sweep; choose from {', '.join(known)}")
    return names


def pending(found: Sequence[Variant], trials: Sequence[Trial], *, out: Path) -> list[tuple[Variant, Trial]]:
    """Variants and trials that are not DONE."""
    return [(item, trial) for item in found for trial in trials if not is_done(trial.folder(out / item.folder))]


def sweep_result(kind: str, found: Sequence[Variant], trials: Sequence[Trial], *, out: Path) -> dict[str, Any]:
    """Accuracies of a sweep's variants, the reference among them, from their trials (all DONE) below ``out``.

    Returns ``analysis``, ``backbone``, ``weights``, ``reference``, ``folds``, ``seeds``, ``protocol``, ``dataset`` and
    ``points``: for each variant ``stage``, ``run``, ``accuracy`` (mean, ci95), ``difference`` to the reference (mean,
    ci95, p_value; None for the reference itself), ``parameters``, ``trained`` (those of them with a gradient),
    ``clips`` and ``seconds`` (mean over trials). Intervals are about the choice of clips. RunError if a trial is not
    DONE, or one held out other clips than the reference did.
    """
    read = {item.folder: [_read(out / item.folder, trial) for trial in trials] for item in found}
    means = {folder: clip_means(items) for folder, items in read.items()}
    reference = next(item for item in found if item.is_reference)
    first = read[reference.folder][0]
    points = []
    for item in found:
        here = means[item.folder]
        if not np.array_equal(here.clips, means[reference.folder].clips):
            raise RunError(
                f"{out / item.folder}: held out other clips than {out / reference.folder}; name another --out"
            )
        interval = bootstrap_accuracy(here.correct, folds=here.folds, groups=here.groups)
        difference = None
        if not item.is_reference:
            beside = means[reference.folder].correct
            paired = paired_difference(here.correct, beside, folds=here.folds, groups=here.groups)
            difference = {"mean": paired.difference, "ci95": [paired.low, paired.high], "p_value": paired.p_value}
        whole, trained = parameters(item.recipe, classes=len(first.classes))
        points.append(
            {
                "stage": item.stage,
                "run": item.folder,
                "accuracy": interval.to_dict(),
                "difference": difference,
                "parameters": whole,
                "trained": trained,
                "clips": len(here.clips),
                "seconds": float(np.mean([trial.about["seconds"] for trial in read[item.folder]])),
            }
        )
    recipe = reference.recipe
    return {
        "analysis": kind,
        "backbone": recipe.backbone.name,
        "weights": recipe.backbone.weights,
        "epochs": recipe.training.epochs,
        "reference": SWEEPS[kind].neutral,
        "folds": sorted({trial.fold for trial in trials}),
        "seeds": sorted({trial.seed for trial in trials}),
        "protocol": first.about["protocol"],
        "dataset": first.about["dataset"]["name"],
        "classes": len(first.classes),
        "points": points,
    }


def parameters(recipe: Recipe, *, classes: int) -> tuple[int, int]:
    """How many parameters a recipe's network has, and how many of them training changes."""
    model = empty_model(recipe, classes=classes)
    if recipe.transfer.freeze != "none":
        freeze(model, upto=recipe.transfer.freeze)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _read(run: Path, trial: Trial) -> Predictions:
    folder = trial.folder(run)
    if not is_done(folder):
        raise RunError(f"{folder}: has not ended; give the same command again")
    return read_predictions(folder / "predictions.npz")
