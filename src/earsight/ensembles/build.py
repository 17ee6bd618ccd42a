"""From finished runs to an ensemble: what each way to combine the members is worth and costs, and one model file.

Comes in: run folders, and the data set where weights are to be averaged. Goes out: the folder that
`earsight.ensembles.model` lays out, and its report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earsight.data.datasets import Dataset
from earsight.ensembles.model import REPORT, FoldModel, Part, joined, trained_on, write_ensemble
from earsight.ensembles.selection import (
    Grid,
    Member,
    chosen_weights,
    cross_fitted,
    gather,
    greedy_soup,
    method_row,
    single_row,
)
from earsight.ensembles.soups import Ingredients, Soups, check_data, no_soup
from earsight.errors import RunError
from earsight.evaluation.metrics import softmax
from earsight.evaluation.summary import Predictions, read_run
from earsight.inference.classifier import Classifier
from earsight.inference.scoring import milliseconds_per_clip
from earsight.models.card import ModelCard
from earsight.models.modelfile import load, load_card
from earsight.recipe import Recipe
from earsight.training.preparation import Prepared

METHODS = ("average", "greedy", "soup", "greedy-soup")
EXPLAINED = (
    "std: between members, of the mean over folds; ci95: bootstrap over clips within folds; gain: over the mean of "
    "the members, paired over clips, with a sign-flip test; average: of the members' probabilities, each at its "
    "calibrated temperature, where a run's summary averages them as they are; greedy: members with replacement by log "
    "loss (Caruana et al. 2004), chosen for each fold on the other folds; soup: mean of the weights, batch-norm "
    "statistics re-estimated on the training spectrograms, as those of single-remeasured are, against which a soup is to "
    "be held; greedy-soup: Wortsman et al. 2022, recipe 1, chosen on the other folds; milliseconds: wave to "
    "probabilities, one clip at a time, median"
)


@dataclass(frozen=True)
class Combination:
    """One way to combine the members.

    Attributes
    ----------
    probabilities : mapping of fold to ndarray, shape (clips, classes)
        What it says of each fold's held-out clips.
    backbones : mapping of fold to tuple of str
        Of the networks that a clip goes through.
    build : callable
        The fold's network.
    distances : mapping of fold to ndarray, shape (clips,), or None, optional
        How far each fold's held-out clips are from the training clips, where that was measured.
    """

    probabilities: Mapping[int, NDArray[np.float64]]
    backbones: Mapping[int, tuple[str, ...]]
    build: Callable[[int], Part]
    distances: Mapping[int, NDArray[np.float64] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pantry:
    """The members' files and what is asked of them."""

    runs: Sequence[Path]
    grid: Grid
    files: Mapping[tuple[int, Member], Path]
    cards: Mapping[tuple[int, Member], ModelCard]
    device: torch.device

    def named(self, member: Member) -> dict[str, Any]:
        """A member as the report has it."""
        return {"run": str(self.runs[member.run]), "seed": member.seed}

    def backbones(self, fold: int, weights: NDArray[np.float64] | None = None) -> tuple[str, ...]:
        """Of the members of one fold whose weight is not 0."""
        kept = self.grid.members if weights is None else [self.grid.members[i] for i in np.flatnonzero(weights)]
        return tuple(sorted(self.cards[fold, member].recipe.backbone.name for member in kept))

    def part(self, fold: int, weights: NDArray[np.float64] | None, *, method: str) -> Part:
        """The members of one fold as one network; equal weights for None."""
        members = self.grid.members
        shares = weights.tolist() if weights is not None else [1 / len(members)] * len(members)
        kept = [(member, share) for member, share in zip(members, shares, strict=True) if share]
        about = trained_on(self.grid, [self.cards[fold, kept[0][0]]], folds=[fold], method=method)
        parts = [load(self.files[fold, member]) for member, _ in kept]
        return joined(parts, weights=[share for _, share in kept], trained_on=about)


def make_ensemble(
    runs: Sequence[Path],
    *,
    out: Path,
    device: torch.device,
    fold: int | None = None,
    method: str = "average",
    dataset: Dataset | None = None,
    prepare: Callable[[Dataset, Recipe], Prepared] | None = None,
    machine: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Combine the members of runs, measure each way to do so, and write the folder of one of them.

    Parameters
    ----------
    runs : sequence of Path
        Run folders of one data set; every seed in them is a member.
    out : Path
        The ensemble's folder.
    device : torch.device
    fold : int, optional
        Only this fold's members.
    method : {"average", "greedy", "soup", "greedy-soup"}
        What the model files hold.
    dataset : Dataset, optional
        What the members were trained on; without it there are no soups.
    prepare : callable, optional
        Makes the spectrograms of (data set, recipe); must be given with ``dataset``.
    machine : mapping, optional
        Goes into the report.
    progress : callable, optional
        Called with (soups tried, soups to try).

    Returns
    -------
    dict
        ``runs``, ``folds``, ``members``, ``left_out``, ``protocol``, ``dataset``, ``rows`` (one for the single network
        and one for each way), ``chosen`` (of the greedy ways, by fold), ``model`` (path, method, networks,
        milliseconds_per_clip, seen), ``models`` (path and fold), ``notes``, ``method``, ``machine``.

    Raises
    ------
    RunError
        If the runs do not go together, or the method asks for what is not there.
    """
    pantry, left_out = _open(runs, fold=fold, device=device)
    grid = pantry.grid
    found = _combinations(pantry, device=device, dataset=dataset, prepare=prepare, progress=progress)
    notes = found.notes
    if method not in found.ways:
        raise RunError(f"--method {method}: cannot be made here; {' '.join(notes)}")
    rows = _rows(pantry, found.ways, control=found.control)
    accuracy = next(row["accuracy"]["mean"] for row in rows if row["method"] == method)
    models = _models(pantry, found.ways[method])
    published = _published(pantry, models, method=method, accuracy=accuracy)
    if left_out:
        names = (f"seed {member.seed} of {runs[member.run]}" for member in left_out)
        notes.append(f"Left out, for they lack a fold: {', '.join(names)}.")
    result: dict[str, Any] = {
        "runs": [str(run) for run in runs],
        "folds": list(grid.folds),
        "members": [pantry.named(member) for member in grid.members],
        "left_out": [pantry.named(member) for member in left_out],
        "protocol": grid.trials[grid.folds[0], grid.members[0]].about["protocol"],
        "dataset": grid.trials[grid.folds[0], grid.members[0]].about["dataset"],
        "rows": rows,
        "chosen": found.chosen,
        "model": {
            "path": str(out / "model.safetensors"),
            "method": method,
            "networks": len(published[0].members) or 1,
            "milliseconds_per_clip": _milliseconds(published, device),
            "seen": published[0].trained_on["seen"],
        },
        "models": [
            {"fold": one, "path": str(out / f"fold-{one}" / "seed-0" / "model.safetensors")} for one in grid.folds
        ],
        "notes": notes,
        "method": EXPLAINED,
        "machine": dict(machine or {}),
    }
    write_ensemble(out, grid=grid, models=models, published=published, method=method, report=result)
    return result


@dataclass
class _Combinations:
    """The ways to combine that can be had, what the greedy ones chose, the control of soups, and why others cannot."""

    ways: dict[str, Combination]
    chosen: dict[str, Any]
    control: dict[int, NDArray[np.float64]] | None
    notes: list[str]


def _combinations(
    pantry: _Pantry,
    *,
    device: torch.device,
    dataset: Dataset | None,
    prepare: Callable[[Dataset, Recipe], Prepared] | None,
    progress: Callable[[int, int], None],
) -> _Combinations:
    grid = pantry.grid
    average = Combination(
        {one: grid.mixed(one) for one in grid.folds},
        {one: pantry.backbones(one) for one in grid.folds},
        lambda one: pantry.part(one, None, method="average"),
        {one: grid.mixed_distance(one) for one in grid.folds},
    )
    found = _Combinations({"average": average}, {}, None, [])
    if len(grid.folds) > 1:
        found.ways["greedy"], found.chosen["greedy"] = _greedy(pantry)
    else:
        found.notes.append("One fold: members can be chosen only on other folds, so there is no greedy row.")
    refusal = no_soup(pantry.cards) if dataset else "soups need the spectrograms: add --data and the runs' data set"
    if dataset is None or prepare is None or refusal:
        found.notes.append(f"No soup: {refusal}.")
        return found
    check_data(grid, dataset)
    soups = Soups(grid, pantry.files, prepare(dataset, next(iter(pantry.cards.values())).recipe), device)
    ways, chosen = _soups(soups, pantry, progress=progress)
    found.ways |= ways
    found.chosen |= chosen
    found.control = {one: soups.remeasured(one) for one in grid.folds}
    return found


def _open(runs: Sequence[Path], *, fold: int | None, device: torch.device) -> tuple[_Pantry, tuple[Member, ...]]:
    """Line up the members and read their cards."""
    if len({run.resolve() for run in runs}) < len(runs):
        raise RunError(f"{' '.join(map(str, runs))}: a run is given twice; name each once")
    for run in runs:
        if (run / REPORT).is_file():
            raise RunError(f"{run}: is an ensemble itself; name the runs of its members")

    def file(place: int, trial: Predictions) -> Path:
        return runs[place] / f"fold-{trial.about['fold']}" / f"seed-{trial.about['seed']}" / "model.safetensors"

    grid = gather(
        [read_run(run) for run in runs],
        names=[str(run) for run in runs],
        fold=fold,
        temperature=lambda place, trial: load_card(file(place, trial)).temperature,
    )
    wanted = {(one, member): grid.trials[one, member] for one in grid.folds for member in grid.members}
    files = {key: file(key[1].run, trial) for key, trial in wanted.items()}
    return _Pantry(runs, grid, files, {key: load_card(path) for key, path in files.items()}, device), grid.left_out


def _greedy(pantry: _Pantry) -> tuple[Combination, dict[str, Any]]:
    """Members chosen for each fold on the others."""
    grid = pantry.grid
    weights = cross_fitted(grid)
    way = Combination(
        {fold: grid.mixed(fold, weights[fold]) for fold in grid.folds},
        {fold: pantry.backbones(fold, weights[fold]) for fold in grid.folds},
        lambda fold: pantry.part(fold, weights[fold], method="greedy"),
        {fold: grid.mixed_distance(fold, weights[fold]) for fold in grid.folds},
    )
    listed = {
        str(fold): [
            pantry.named(member) | {"weight": float(share)}
            for member, share in zip(grid.members, weights[fold], strict=True)
            if share
        ]
        for fold in grid.folds
    }
    return way, listed


def _soups(
    soups: Soups, pantry: _Pantry, *, progress: Callable[[int, int], None]
) -> tuple[dict[str, Combination], dict[str, Any]]:
    """The uniform soup of each fold, and the greedy one where there are other folds to choose on."""
    grid = pantry.grid
    every = tuple(grid.members)
    total = len(grid.folds) * (len(every) if len(grid.folds) > 1 else 1)
    done = 0

    def way(recipe: Mapping[int, Ingredients], name: str) -> Combination:
        def build(fold: int) -> Part:
            about = trained_on(grid, [pantry.cards[fold, recipe[fold][0]]], folds=[fold], method=name)
            return joined([soups.cook(fold, recipe[fold])], trained_on=about)

        said = {fold: softmax(soups.logits(fold, recipe[fold])) for fold in grid.folds}
        return Combination(said, {fold: pantry.backbones(fold)[:1] for fold in grid.folds}, build)

    for fold in grid.folds:
        soups.logits(fold, every)
        done += 1
        progress(done, total)
    ways = {"soup": way(dict.fromkeys(grid.folds, every), "soup")}
    if len(grid.folds) < 2:
        return ways, {}
    recipe = {}
    for fold in grid.folds:
        others = [other for other in grid.folds if other != fold]
        recipe[fold] = greedy_soup(every, accuracy=partial(soups.mean_accuracy, others))
        done += len(every) - 1
        progress(done, total)
    ways["greedy-soup"] = way(recipe, "greedy-soup")
    listed = {str(fold): [pantry.named(member) for member in some] for fold, some in recipe.items()}
    return ways, {"greedy-soup": listed}


def _rows(
    pantry: _Pantry, ways: Mapping[str, Combination], *, control: Mapping[int, NDArray[np.float64]] | None
) -> list[dict[str, Any]]:
    """The table: the single network, then each way, with what a clip costs; before soups what their norms alone do."""
    grid, first = pantry.grid, pantry.grid.folds[0]
    single = load(pantry.files[first, grid.members[0]])
    rows = [single_row(grid) | {"milliseconds_per_clip": _milliseconds(single, pantry.device)}]
    for name, way in ways.items():
        if name == "soup" and control is not None:
            row = method_row(grid, "single-remeasured", control, networks=1)
            rows.append(row | {"milliseconds_per_clip": rows[0]["milliseconds_per_clip"]})
        costs: dict[tuple[str, ...], float] = {}
        for fold, kind in way.backbones.items():
            if kind not in costs:  # the same networks cost the same on each fold
                costs[kind] = _milliseconds(way.build(fold), pantry.device)
        row = method_row(
            grid, name, _right(grid, way), networks=float(np.mean([len(kind) for kind in way.backbones.values()]))
        )
        spent = float(np.mean([costs[kind] for kind in way.backbones.values()]))
        rows.append(row | {"milliseconds_per_clip": round(spent, 2)})
    return rows


def _right(grid: Grid, way: Combination) -> dict[int, NDArray[np.bool_]]:
    return {fold: np.asarray(said.argmax(axis=1) == grid.labels[fold]) for fold, said in way.probabilities.items()}


def _models(pantry: _Pantry, way: Combination) -> dict[int, FoldModel]:
    right, out = _right(pantry.grid, way), {}
    for fold in pantry.grid.folds:
        card, network = way.build(fold)
        card.trained_on["held_out_accuracy"] = float(right[fold].mean())
        out[fold] = FoldModel(card, network, way.probabilities[fold], way.distances.get(fold))
    return out


def _published(pantry: _Pantry, models: Mapping[int, FoldModel], *, method: str, accuracy: float) -> Part:
    """The model to deploy: the fold's own where there is one fold, else the mean of all folds' members."""
    grid = pantry.grid
    if len(models) == 1:
        model = models[grid.folds[0]]
        return model.card, model.network
    about = trained_on(grid, list(pantry.cards.values())[:1], folds=grid.folds, method=method)
    about["held_out_accuracy"] = accuracy
    if method == "greedy":
        # For new clips nothing needs to be held back: all folds choose.
        weights = chosen_weights(grid, on=grid.folds)
        parts = [pantry.part(fold, weights, method=method) for fold in grid.folds]
    else:
        parts = [(model.card, model.network) for model in models.values()]
    return joined(parts, trained_on=about)


def _milliseconds(part: Part, device: torch.device) -> float:
    card, network = part
    return round(milliseconds_per_clip(Classifier(card, network, device=device)), 2)
