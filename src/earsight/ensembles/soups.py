"""Soups of a run's members, made on the training spectrograms and tested on the held-out ones.

Comes in: the members' model files and the data set's spectrograms. Goes out: logits of soups on a fold, and their networks.

A soup: the weights of several fine-tuned networks averaged into one, which costs no more than one of them.

Comes in: state dicts of networks of one architecture and one recipe, fine-tuned from the same weights. Goes out: their
mean, and batch-norm statistics re-estimated for it. An average of statistics would not do: the mean weights give other
activations than any member's, so their mean and variance are measured anew on the training spectrograms.

M. Wortsman et al., "Model soups", ICML 2022; for the statistics, P. Izmailov et al., "Averaging weights leads to wider
optima and better generalization", UAI 2018, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from earsight.data.datasets import Dataset
from earsight.ensembles.selection import Grid, Member
from earsight.errors import ModelError, RunError
from earsight.models.card import ModelCard
from earsight.models.mahalanobis import attach
from earsight.models.modelfile import load
from earsight.training.loop import Data, predict
from earsight.training.preparation import Prepared


def average_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts, computed in float64; what is not floating point is the first's.

    Raises
    ------
    ModelError
        If there is none, or their names, shapes or types differ.
    """
    if not states:
        raise ModelError("soup: no members; expected at least one")
    for place, state in enumerate(states[1:], start=2):
        odd = next((key for key in sorted(states[0].keys() | state.keys()) if not _alike(states[0], state, key)), None)
        if odd is not None:
            raise ModelError(f"soup: member {place} differs from the first in {odd}; mix members of one architecture")
    out = {}
    for key, first in states[0].items():
        if first.is_floating_point():
            total = sum((state[key].double() for state in states[1:]), start=first.double())
            out[key] = (total / len(states)).to(first.dtype)
        else:
            out[key] = first.clone()
    return out


def measured_norms(model: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """Names of the norms whose statistics must be measured anew: those on which the members do not agree.

    Statistics that all members share were frozen in training and are right as they are.
    """
    out = []
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            key = f"{name}.running_mean"
            if any(not torch.equal(states[0][key], state[key]) for state in states[1:]):
                out.append(name)
    return out


def measure_norms(model: nn.Module, batches: Iterable[Tensor], *, names: Sequence[str]) -> None:
    """Measure the statistics of some norms anew, in place: the mean over batches of their means and variances.

    Parameters
    ----------
    model : nn.Module
        Left in eval mode.
    batches : iterable of Tensor, shape (batch, 3, bands, frames)
        Training spectrograms, unchanged, in batches of about one size.
    names : sequence of str
        As `measured_norms` gives them; all else stays in eval mode, without dropout.
    """
    model.eval()
    norms = [module for name, module in model.named_modules() if name in set(names) and isinstance(module, _NormBase)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    try:
        with torch.inference_mode():
            for batch in batches:
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()


def _alike(first: Mapping[str, Tensor], second: Mapping[str, Tensor], key: str) -> bool:
    if key not in first or key not in second:
        return False
    return first[key].shape == second[key].shape and first[key].dtype == second[key].dtype


BATCH = 32  # spectrograms in a batch, for statistics and predictions

Ingredients = tuple[Member, ...]


def no_soup(cards: Mapping[tuple[int, Member], ModelCard]) -> str | None:
    """Why the weights of these members cannot be averaged; None where they can."""
    recipes = {card.recipe.digest for card in cards.values()}
    first = next(iter(cards.values())).recipe
    if len(recipes) > 1:
        return "the members are of different recipes"
    if first.backbone.weights == "none" or first.transfer.fuse != "all":
        return "the members began from random weights of their own, so that their mean is no network of the same kind"
    return None


@dataclass
class Soups:
    """Makes soups and remembers what they said.

    Attributes
    ----------
    grid : Grid
    files : mapping of (fold, member) to Path
        Model files.
    prepared : Prepared
        The data set that the members were trained on.
    device : torch.device
    """

    grid: Grid
    files: Mapping[tuple[int, Member], Path]
    prepared: Prepared
    device: torch.device
    _said: dict[tuple[int, Ingredients], NDArray[np.float32]] = field(default_factory=dict)

    def logits(self, fold: int, members: Ingredients) -> NDArray[np.float32]:
        """What a soup says of the fold's held-out clips, (clips, classes)."""
        if len(members) == 1:
            return self.grid.trials[fold, members[0]].logits
        if (fold, members) not in self._said:
            card, model = self.cook(fold, members)
            self._said[fold, members] = predict(model, self._data(card), self._held_out(fold), batch_size=BATCH)
        return self._said[fold, members]

    def remeasured(self, fold: int) -> NDArray[np.float64]:
        """Share (clips,) of the fold's members that are right once their own norms are measured anew.

        What a soup is to be held against: its norms are measured anew too, which by itself can help or harm.
        """
        right = []
        for member in self.grid.members:
            card, model = load(self.files[fold, member])
            names = measured_norms(model, [self._state(fold, other) for other in self.grid.members])
            self._measure(card, model.to(self.device), fold, names)
            said = predict(model, self._data(card), self._held_out(fold), batch_size=BATCH)
            right.append(said.argmax(axis=1) == self.grid.labels[fold])
        out: NDArray[np.float64] = np.mean(right, axis=0)
        return out

    def accuracy(self, fold: int, members: Ingredients) -> float:
        """Of a soup on the fold's held-out clips."""
        return float((self.logits(fold, members).argmax(axis=1) == self.grid.labels[fold]).mean())

    def mean_accuracy(self, folds: Sequence[int], members: Ingredients) -> float:
        """Mean over some folds of the accuracy of the soup of the same seeds on each."""
        return float(np.mean([self.accuracy(fold, members) for fold in folds]))

    def cook(self, fold: int, members: Ingredients) -> tuple[ModelCard, nn.Module]:
        """The card and the network, on the device, of a soup of one fold's members."""
        card, model = load(self.files[fold, members[0]])
        # The soup's own answers are what is measured; what calibrated the first member is not its.
        card = replace(card, temperature=1.0, calibration={})
        if len(members) == 1:
            return card, model
        attach(model, None)  # it is the first member's
        states = [self._state(fold, member) for member in members]
        model.load_state_dict(average_states(states))
        model = model.to(self.device).to(memory_format=torch.channels_last)
        self._measure(card, model, fold, measured_norms(model, states))
        return card, model

    def _measure(self, card: ModelCard, model: nn.Module, fold: int, names: Sequence[str]) -> None:
        """Measure norms anew on every clip outside the fold: under protocol inner also those that chose the epoch."""
        if not names:
            return
        rows = np.flatnonzero((self.prepared.dataset.folds != fold) & self.prepared.usable)
        data = self._data(card)
        batches = np.array_split(rows, max(1, round(len(rows) / BATCH)))
        measure_norms(model, (data.spectrograms(batch) for batch in batches), names=names)

    def _state(self, fold: int, member: Member) -> dict[str, Tensor]:
        return dict(load(self.files[fold, member])[1].state_dict())

    def _data(self, card: ModelCard) -> Data:
        return Data(
            source=self.prepared.store,
            labels=self.prepared.dataset.labels,
            classes=len(card.classes),
            mean=torch.tensor(card.mean, dtype=torch.float32),
            std=torch.tensor(card.std, dtype=torch.float32),
            device=self.device,
        )

    def _held_out(self, fold: int) -> NDArray[np.int64]:
        dataset = self.prepared.dataset
        rows = np.flatnonzero((dataset.folds == fold) & self.prepared.usable)
        if [dataset.clips[row].path for row in rows] != self.grid.clips[fold].tolist():
            raise RunError(
                f"fold {fold}: the run held out other clips than the data set now gives; were clips left out or mended "
                "since? Give the data set as it was"
            )
        return rows


def check_data(grid: Grid, dataset: Dataset) -> None:
    """Refuse a data set that is not the one the members were trained on.

    Raises
    ------
    RunError
    """
    trial = next(iter(grid.trials.values()))
    if dataset.digest != trial.about["dataset"]["digest"]:
        raise RunError(
            f"{dataset.name}: is not the data set, or not the split of it, that the members were trained on "
            f"({trial.about['dataset']['name']}); give that one with --data, and its --subset and --splits"
        )
