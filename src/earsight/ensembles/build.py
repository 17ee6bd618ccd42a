"""Build an ensemble: compare the ways to combine members, and write a run folder for the chosen one.

Comes in: run folders; every seed in them is a member. Goes out: the folder that `earsight.ensembles.ensemble_run` lays
out, and its report (accuracies between 0 and 1, milliseconds per clip).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earsight.ensembles.ensemble_run import REPORT, FoldModel, Part, digest_of, joined, trained_on, write_ensemble
from earsight.ensembles.selection import Grid, Member, chosen_weights, cross_fitted, gather, method_row, single_row
from earsight.errors import RunError
from earsight.evaluation.statistics import shared_groups
from earsight.evaluation.summary import Predictions, read_run
from earsight.inference.classifier import Classifier
from earsight.inference.scoring import milliseconds_per_clip
from earsight.models.card import ModelCard
from earsight.models.modelfile import load, load_card
from earsight.training.heldout import model_of

METHODS = ("average", "greedy")
EXPLAINED = (
    "std: between members, of the mean over folds; ci95: bootstrap over clips within folds; gain: over the mean of "
    "the members, paired over clips, with a sign-flip test (of several labels a bootstrap); average: of the members' "
    "probabilities, each at its calibrated temperature, where a run's summary averages them as they are; greedy: "
    "members with replacement by log loss (Caruana et al. 2004), chosen for each fold on the others; milliseconds: "
    "wave to probabilities, one clip at a time, median"
)

Weights = NDArray[np.float64] | None  # shape (members,), adding up to 1; None: all members weigh the same


@dataclass(frozen=True)
class _Members:
    """The members' model files and cards, by fold and member."""

    runs: Sequence[Path]
    grid: Grid
    files: Mapping[tuple[int, Member], Path]
    cards: Mapping[tuple[int, Member], ModelCard]
    device: torch.device

    def named(self, member: Member) -> dict[str, Any]:
        """A member, for the report."""
        return {"run": str(self.runs[member.run]), "seed": member.seed}

    def chosen(self, weights: Weights) -> list[tuple[Member, float]]:
        """The members whose weight is not 0, and their weights."""
        members = self.grid.members
        shares = [1 / len(members)] * len(members) if weights is None else weights.tolist()
        return [(member, share) for member, share in zip(members, shares, strict=True) if share]

    def backbones(self, fold: int, weights: Weights) -> tuple[str, ...]:
        """Names of the backbones that process a clip."""
        return tuple(sorted(self.cards[fold, member].recipe.backbone.name for member, _ in self.chosen(weights)))

    def part(self, fold: int, weights: Weights, *, method: str) -> Part:
        """The chosen members of one fold as one network."""
        chosen = self.chosen(weights)
        return joined(
            [load(self.files[fold, member]) for member, _ in chosen],
            weights=[share for _, share in chosen],
            trained_on=trained_on(self.grid, self.cards[fold, chosen[0][0]], folds=[fold], method=method),
        )

    def milliseconds(self, part: Part) -> float:
        """Time of one clip through a network."""
        card, network = part
        return round(milliseconds_per_clip(Classifier(card, network, device=self.device)), 2)


def make_ensemble(
    runs: Sequence[Path],
    *,
    out: Path,
    device: torch.device,
    fold: int | None = None,
    method: str = "average",
    machine: Mapping[str, Any] | None = None,
    finish: Callable[[Path], None] = lambda folder: None,
) -> dict[str, Any]:
    """Combine the members of runs of one data set, measure each way, and write a run folder for the chosen one.

    Every seed in the runs is a member, or those of one ``fold`` only; ``method`` (average or greedy) says what the
    model files in ``out`` hold; ``machine`` goes into the report; ``finish`` is called with the folder before it gets
    its name. Returns ``runs``, ``folds``, ``members``, ``left_out``, ``protocol``, ``dataset``, ``recipe_digest`` (a
    digest of the members and the method), ``groups`` (how many, where clips share some), ``rows`` (one for the single
    network and one for each way), ``chosen`` (of the greedy way, by fold), ``model`` (path, method, networks,
    milliseconds_per_clip, seen), ``models`` (path and fold), ``notes``, ``method`` and ``machine``. RunError if the
    runs do not go together, or the method is unknown or not available.
    """
    check_method(method)
    members, left_out = _open(runs, fold=fold, device=device)
    grid = members.grid
    ways: dict[str, dict[int, Weights]] = {"average": dict.fromkeys(grid.folds)}
    chosen, notes = {}, []
    if len(grid.folds) > 1:
        ways["greedy"] = {**cross_fitted(grid)}
        chosen["greedy"] = {
            str(one): [members.named(member) | {"weight": share} for member, share in members.chosen(weights)]
            for one, weights in ways["greedy"].items()
        }
    else:
        notes.append("One fold: members can be chosen only on other folds, so there is no greedy row.")
    if method not in ways:
        raise RunError(f"--method {method}: cannot be made here; {' '.join(notes)}")
    rows = _rows(members, ways)
    kind = "average_precision" if grid.several else "accuracy"
    score = next(row[kind]["mean"] for row in rows if row["method"] == method)
    models = {}
    for one, weights in ways[method].items():
        card, network = members.part(one, weights, method=method)
        card.trained_on[f"held_out_{kind}"] = grid.score(one, grid.mixed(one, weights))
        models[one] = FoldModel(card, network, grid.mixed(one, weights), grid.mixed_distance(one, weights))
    published = _published(members, models, method=method, score={f"held_out_{kind}": score})
    if left_out:
        names = (f"seed {member.seed} of {runs[member.run]}" for member in left_out)
        notes.append(f"Left out, for they lack a fold: {', '.join(names)}.")
    first = grid.trials[grid.folds[0], grid.members[0]].about
    result: dict[str, Any] = {
        "runs": [str(run) for run in runs],
        "folds": list(grid.folds),
        "members": [members.named(member) for member in grid.members],
        "left_out": [members.named(member) for member in left_out],
        "protocol": first["protocol"],
        "dataset": first["dataset"],
        "recipe_digest": digest_of(grid, method),
        "groups": shared_groups(grid.groups) or None,
        "rows": rows,
        "chosen": chosen,
        "model": {
            "path": str(out / "model.safetensors"),
            "method": method,
            "networks": len(published[0].members) or 1,
            "milliseconds_per_clip": members.milliseconds(published),
            "seen": published[0].trained_on["seen"],
        },
        "models": [
            {"fold": one, "path": str(out / f"fold-{one}" / "seed-0" / "model.safetensors")} for one in grid.folds
        ],
        "notes": notes,
        "method": EXPLAINED
        + ("; groups in place of clips, over all folds at once" if shared_groups(grid.groups) else ""),
        "machine": dict(machine or {}),
    }
    write_ensemble(out, grid=grid, models=models, published=published, method=method, report=result, finish=finish)
    return result


def check_method(method: str) -> None:
    """Raise `RunError` for an unknown or removed method."""
    if method in ("soup", "greedy-soup"):
        raise RunError(
            f"--method {method}: weight soups were removed, for no measured run gained from one; "
            "take average or greedy (an ensemble made before goes on being read)"
        )
    if method not in METHODS:
        raise RunError(f"--method {method}: no such way to combine members; expected {' or '.join(METHODS)}")


def _open(runs: Sequence[Path], *, fold: int | None, device: torch.device) -> tuple[_Members, tuple[Member, ...]]:
    """Line up the members and read their cards; also the members that lack a fold."""
    if len({run.resolve() for run in runs}) < len(runs):
        raise RunError(f"{' '.join(map(str, runs))}: a run is given twice; name each once")
    for run in runs:
        if (run / REPORT).is_file():
            raise RunError(f"{run}: is an ensemble itself; name the runs of its members")

    def file(place: int, trial: Predictions) -> Path:
        return model_of(runs[place] / f"fold-{trial.about['fold']}" / f"seed-{trial.about['seed']}")

    grid = gather(
        [read_run(run, several=True) for run in runs],
        names=[str(run) for run in runs],
        fold=fold,
        temperature=lambda place, trial: load_card(file(place, trial)).scale,
    )
    files = {(one, member): file(member.run, grid.trials[one, member]) for one in grid.folds for member in grid.members}
    return _Members(runs, grid, files, {key: load_card(path) for key, path in files.items()}, device), grid.left_out


def _rows(members: _Members, ways: Mapping[str, Mapping[int, Weights]]) -> list[dict[str, Any]]:
    """The table: the single network, then each way, with the time of a clip."""
    grid = members.grid
    single = load(members.files[grid.folds[0], grid.members[0]])
    rows = [single_row(grid) | {"milliseconds_per_clip": members.milliseconds(single)}]
    for name, way in ways.items():
        used = {fold: members.backbones(fold, weights) for fold, weights in way.items()}
        costs: dict[tuple[str, ...], float] = {}
        for fold, backbones in used.items():
            if backbones not in costs:  # the same networks cost the same on each fold
                costs[backbones] = members.milliseconds(members.part(fold, way[fold], method=name))
        mixed = {fold: grid.mixed(fold, weights) for fold, weights in way.items()}
        networks = float(np.mean([len(backbones) for backbones in used.values()]))
        spent = float(np.mean([costs[backbones] for backbones in used.values()]))
        row = method_row(grid, name, mixed, networks=networks)
        rows.append(row | {"milliseconds_per_clip": round(spent, 2)})
    return rows


def _published(members: _Members, models: Mapping[int, FoldModel], *, method: str, score: Mapping[str, float]) -> Part:
    """The model to deploy: the fold's own where there is one fold, else the mean of all folds' members."""
    grid = members.grid
    if len(models) == 1:
        model = models[grid.folds[0]]
        return model.card, model.network
    about = trained_on(grid, next(iter(members.cards.values())), folds=grid.folds, method=method)
    about |= score
    if method == "greedy":
        # The model for new clips needs no held-out fold: all folds choose.
        weights = chosen_weights(grid, on=grid.folds)
        parts = [members.part(fold, weights, method=method) for fold in grid.folds]
    else:
        parts = [(model.card, model.network) for model in models.values()]
    return joined(parts, trained_on=about)
