"""Teachers of a student (knowledge distillation): which networks may teach a fold, and what they say of a batch.

Comes in: the run folder of the teachers, or an ensemble's. Goes out: a `Teaching`, which names for each fold the model
files that held it out, and so never saw its clips; and `TaughtBatches`, a student's batches with the teachers' softened
probabilities (batch, classes) of the very same clips under the very same changes, mixtures with others included.

Teachers know the training clips by heart. Asked for those as they are, they would say little more than the labels do;
asked for every changed and mixed view that the student sees, they say what they make of it (L. Beyer et al., "Knowledge
distillation: A good teacher is patient and consistent", CVPR 2022, arXiv 2106.05237). All draws are shares of a clip or
of its bands, so that teachers with spectrograms of their own, finer or larger, get the same view in theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from earsight.data.datasets import Dataset, first
from earsight.errors import RecipeError, RunError
from earsight.evaluation.summary import Predictions, read_run
from earsight.features.store import Store
from earsight.features.waves import Waves
from earsight.models.card import ModelCard
from earsight.models.ensemble import Ensemble, Member
from earsight.models.fast.folding import folded
from earsight.models.modelfile import load, load_card, weights_digest
from earsight.recipe import Features, Recipe
from earsight.training.batches import Batch, Batches, Data, batches_of
from earsight.training.device import training_dtype
from earsight.training.heldout import model_of


@dataclass(frozen=True)
class Teaching:
    """The teachers of each fold: model files whose networks were not trained on its clips.

    ``digests`` name their weights, by fold; ``features`` are what all of them take, and ``store`` the spectrograms or
    waves of it, where the student takes others.
    """

    run: Path
    files: Mapping[int, tuple[Path, ...]]
    digests: Mapping[int, str]
    features: Features
    store: Store | Waves | None = None

    def view_of(self, recipe: Recipe) -> Recipe:
        """A student's recipe with the teachers' features: what they see of its clips."""
        return recipe.model_copy(update={"features": self.features})

    def network(self, fold: int, *, temperature: float) -> Ensemble:
        """The teachers of a fold as one, softened: log mean probabilities, on the CPU, of raw spectrograms.

        The seeds of a run weigh the same and are taken as they are; an ensemble is taken as it was made, each member at
        its share and calibrated temperature.
        """
        shape = (1, 3, self.features.bands, self.features.columns)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        members = []
        for path in self.files[fold]:
            card, network = load(path)
            share = 1 / len(self.files[fold])
            parts: list[tuple[ModelCard, nn.Module, float]] = [(card, network, 1.0)]
            if joint := isinstance(network, Ensemble):
                parts = list(zip(card.members, network.networks, card.weights, strict=True))
            for one, module, weight in parts:
                softened = temperature * np.array(one.scale if joint else 1.0)
                fast = folded(module, spectrogram=noise)
                members.append(Member(fast, one.mean, one.std, softened.tolist(), share * weight))
        return Ensemble(members, several=card.several).eval().requires_grad_(False)


def open_teaching(run: Path, dataset: Dataset, *, folds: Sequence[int] = ()) -> Teaching:
    """The teachers that a run folder has for the folds of a data set, of which it must have held out ``folds``.

    RunError if a fold has no teacher; if one saw clips of the fold that it is to teach, by training or by choosing its
    epoch; or if one is of other classes, another data set or another split of it.
    """
    trials = read_run(run, several=True)
    known = sorted({int(trial.about["fold"]) for trial in trials})
    if absent := sorted(set(folds) - set(known)):
        raise RunError(
            f"{run}: no finished trial held out fold {', '.join(map(str, absent))}, so nothing can teach it; it has "
            f"fold {', '.join(map(str, known))}: train the rest with `earsight crossval`, or name those with --folds"
        )
    files: dict[int, tuple[Path, ...]] = {}
    cards: list[ModelCard] = []
    for trial in trials:
        fold = int(trial.about["fold"])
        path = model_of(run / f"fold-{fold}" / f"seed-{trial.about['seed']}")
        cards.append(load_card(path))
        _check_unseen(path, cards[-1], trial, dataset)
        files[fold] = (*files.get(fold, ()), path)
    if any(card.recipe.features != cards[0].recipe.features for card in cards):
        raise RunError(f"{run}: its model files take different features; teachers must share them")
    digests = {fold: _digest(paths) for fold, paths in files.items()}
    return Teaching(run, files, digests, cards[0].recipe.features)


def _check_unseen(path: Path, card: ModelCard, trial: Predictions, dataset: Dataset) -> None:
    """Raise `RunError` unless a model file was trained on this data set without any clip of its trial's fold."""
    fold, origin = int(trial.about["fold"]), card.trained_on
    if card.classes != dataset.classes or card.several != dataset.several:
        raise RunError(
            f"{path}: has other classes than the data set ({first(list(card.classes))}; {first(list(dataset.classes))})"
            ", so it cannot teach them; name the data set that it was trained on with --data"
        )
    if origin.get("digest") != dataset.digest:
        raise RunError(
            f"{path}: was trained on another data set, or another split of it, so it may have seen what is held out "
            "here; name the data set of the run with --data, and the options by which it was opened"
        )
    held = {dataset.clips[row].name for row in np.flatnonzero(dataset.folds == fold)}
    seen = sorted(held - set(trial.clips.tolist()) - set(trial.about["dataset"].get("skipped", ())))
    if origin.get("fold") != fold or seen:
        what = f"clips of fold {fold}, such as {seen[0]}" if seen else f"fold {fold}"
        raise RunError(f"{path}: does not say that it held out {what}; a teacher must never have seen what is held out")
    if trial.about["protocol"] == "test":
        raise RunError(
            f"{path}: follows protocol test, so the held-out clips chose its epoch; teachers must not have seen them: "
            "train the run anew with protocol last"
        )


def _digest(paths: Iterable[Path]) -> str:
    """Twelve hexadecimal digits that name some model files by their weights, and ensembles' by how they are joined."""
    parts = []
    for path in paths:
        card = load_card(path)
        parts.append([weights_digest(path), card.weights, [member.scale for member in card.members]])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def check_taught(dataset: Dataset, recipe: Recipe, teaching: Teaching | None) -> None:
    """Raise `RecipeError` where a recipe and its teachers do not fit."""
    weight, training = recipe.distillation.weight, recipe.training
    if teaching is None:
        if weight:
            raise RecipeError(
                f"distillation.weight is {weight:g}, and there are no teachers; `earsight distil RUN` takes those of a "
                "run, or set it to 0"
            )
        return
    if not weight:
        raise RecipeError("distillation.weight is 0, so nothing is learnt from the teachers; leave it out, or raise it")
    if weight == 1 and (training.class_weights != "none" or training.label_smoothing):
        raise RecipeError(
            "training.class_weights and training.label_smoothing are about labels, which distillation.weight=1 does "
            "not use; lower it, or leave them out"
        )
    if training.protocol == "inner" and not dataset.validation.any():
        raise RecipeError(
            "training.protocol is inner, and the teachers were trained on the inner clips, which therefore cannot "
            "choose an epoch; set it to last"
        )
    ours, theirs = recipe.features.clip_seconds, teaching.features.clip_seconds
    if ours != theirs:
        raise RecipeError(
            f"features.clip_seconds is {ours:g} and the teachers' {theirs:g}: they would hear other windows than the "
            f"student; set features.clip_seconds={theirs:g}"
        )


class Teacher:
    """The teachers of a fold and what they see: `Data` of the student's clips with the teachers' features.

    ``apart``: whether these are other features than the student's, so that they have batches of their own.
    """

    def __init__(self, network: Ensemble, view: Data, *, apart: bool, precision: str = "auto") -> None:
        self._network = network.to(view.device).to(memory_format=torch.channels_last)
        self._view, self._dtype = view, training_dtype(precision, view.device)
        self.batches = batches_of(view, smoothing=0.0) if apart else None

    def __call__(self, spectrograms: Tensor) -> Tensor:
        """Logarithms of the softened mean probabilities (batch, classes) of network input (batch, 3, bands, frames)."""
        device = spectrograms.device.type
        with torch.no_grad(), torch.autocast(device, dtype=self._dtype, enabled=self._dtype != torch.float32):
            out: Tensor = self._network(self._view.raw(spectrograms))
            return out


class TaughtBatches:
    """A student's batches, and what its teacher says of the same clips under the same draws."""

    def __init__(self, own: Batches, teacher: Teacher) -> None:
        self._own, self._teacher, self._count = own, teacher, 0

    def epoch(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """The tensors of each of the student's batches; behind them those of the teacher's, if it has its own."""
        if self._teacher.batches is None:
            yield from self._own.epoch(batches)
            return
        ours, theirs = tee(batches)
        for mine, seen in zip(self._own.epoch(ours), self._teacher.batches.epoch(theirs), strict=True):
            self._count = len(mine)
            yield *mine, *seen

    def assemble(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """The student's input and label distributions, and what the teacher says (batch, classes)."""
        if self._teacher.batches is None:
            spectrograms, targets = self._own.assemble(*batch)
            return spectrograms, targets, self._teacher(spectrograms)
        spectrograms, targets = self._own.assemble(*batch[: self._count])
        view = self._teacher.batches.assemble(*batch[self._count :])[0]
        return spectrograms, targets, self._teacher(view)
