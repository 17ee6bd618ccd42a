"""The ensemble's model (members joined into one network) and the run folder that holds it.

Comes in: the members' model files, and the ensemble's probabilities (clips, classes) for each fold's held-out clips.
Goes out: a run folder, ``fold-k/seed-0/{trial.json, model.safetensors, predictions.npz, DONE}``, which can be read like
any run; and at its top the model to deploy, which joins all of the folds' members.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import nn

from earsight.ensembles.selection import Grid
from earsight.errors import RunError, remedy_of
from earsight.evaluation.metrics import logit
from earsight.evaluation.summary import write_summary
from earsight.files import let_go, link_or_copy, publish_folder, read_state, replace_text, save_arrays, write_state
from earsight.models.card import ModelCard, ensemble_card
from earsight.models.ensemble import Ensemble, Member
from earsight.models.mahalanobis import statistics_of
from earsight.models.modelfile import save, weights_digest
from earsight.version import __version__

REPORT = "ensemble.json"
LOCK_SECONDS = 600.0
"""That a second `ensemble` waits for the first to be written."""
_SMALLEST = 1e-30  # probabilities below have no logarithm in float32

Part = tuple[ModelCard, nn.Module]


@dataclass(frozen=True)
class FoldModel:
    """One fold's network, its probabilities (clips, classes) for the held-out clips, and their distances (clips,).

    ``distance`` is the weighted mean of the members' Mahalanobis distances; None where a member has none.
    """

    card: ModelCard
    network: nn.Module
    probabilities: NDArray[np.float64]
    distance: NDArray[np.float64] | None


def joined(parts: Sequence[Part], *, weights: Sequence[float] | None = None, trained_on: dict[str, Any]) -> Part:
    """Networks as one, with ``trained_on`` for its card; a single network stays what it is.

    Ensembles among the parts are taken apart, each of their members at its share. ``weights`` are shares of the mean
    probability, above 0; default equal ones. ModelError if the parts do not fit each other.
    """
    shares = list(weights) if weights is not None else [1 / len(parts)] * len(parts)
    flat: list[tuple[ModelCard, nn.Module, float]] = []
    for (card, network), share in zip(parts, shares, strict=True):
        if isinstance(network, Ensemble):
            inner = zip(card.members, network.networks, card.weights, strict=True)
            flat += [(one, module, share * part) for one, module, part in inner]
        else:
            flat.append((card, network, share))
    if len(flat) == 1:
        return replace(flat[0][0], trained_on=trained_on, calibration={}, thresholds={}), flat[0][1]
    card = ensemble_card([card for card, _, _ in flat], weights=[share for _, _, share in flat], trained_on=trained_on)
    several = flat[0][0].several
    network = Ensemble(
        [Member(module, one.mean, one.std, one.scale, share) for one, module, share in flat], several=several
    )
    return card, network.eval()


def trained_on(grid: Grid, card: ModelCard, *, folds: Sequence[int], method: str) -> dict[str, Any]:
    """The ``trained_on`` of an ensemble's card, from that of one of its members.

    ``folds`` are those that some member held out; a single fold was seen by no member.
    """
    first = card.trained_on
    seen = f"every clip outside fold {folds[0]}" if len(folds) == 1 else "every clip of the data set"
    return {
        **{name: first.get(name) for name in ("dataset", "digest", "clips_digest")},
        **({"fold": folds[0]} if len(folds) == 1 else {}),
        "folds": list(folds),
        "seeds": sorted({member.seed for member in grid.members}),
        "seed": first.get("seed"),
        "method": method,
        "recipe_digest": digest_of(grid, method),
        "seen": seen,
        "earsight": __version__,
    }


def write_ensemble(
    out: Path,
    *,
    grid: Grid,
    models: Mapping[int, FoldModel],
    published: Part,
    method: str,
    report: Mapping[str, Any],
    finish: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write the folder of an ensemble, whole or not at all; an older ensemble there is replaced.

    ``published`` is the model to deploy, ``report`` the content of ``ensemble.json``, its ``machine`` that of
    ``summary.json`` too; ``finish`` completes the folder before it gets its name. RunError if the folder holds
    something else, or cannot be written.
    """
    partial = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = out.with_name(f".{out.name}.lock")
        with FileLock(lock).acquire(timeout=LOCK_SECONDS) as held, ExitStack() as ending:
            ending.callback(let_go, held)
            check_place(out)
            shutil.rmtree(partial, ignore_errors=True)
            digest = digest_of(grid, method)
            for fold, model in models.items():
                _write_fold(partial / f"fold-{fold}" / "seed-0", grid, model, fold=fold, digest=digest)
            if len(models) == 1:
                fold = next(iter(models))
                link_or_copy(partial / f"fold-{fold}" / "seed-0" / "model.safetensors", partial / "model.safetensors")
            else:
                _save(partial / "model.safetensors", published)
            write_summary(partial, machine=report["machine"])
            write_state(partial / REPORT, report, indent=2)
            finish(partial)
            publish_folder(partial, out)
    except Timeout as error:
        raise RunError(f"{out}: another process is writing it; wait for it, or end it") from error
    except OSError as error:
        raise RunError(
            f"{out}: cannot be written ({error.strerror or error}); {remedy_of(error)} or name "
            "another folder with --out"
        ) from error


def check_place(out: Path) -> None:
    """Raise `RunError` if a folder holds something other than an ensemble."""
    if out.exists() and not (out / REPORT).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is there and is no ensemble of earsight; name another folder with --out")


def runs_of(folder: Path) -> list[Path]:
    """The runs of an ensemble's members, as they were named when it was made; of another run folder itself."""
    if not (folder / REPORT).is_file():
        return [folder]
    found = read_state(folder / REPORT, {"runs": list}, remedy="make the ensemble anew", error=RunError)
    return [Path(str(run)) for run in found["runs"]]


def _write_fold(folder: Path, grid: Grid, model: FoldModel, *, fold: int, digest: str) -> None:
    folder.mkdir(parents=True)
    trials = [grid.trials[fold, member] for member in grid.members]
    first = trials[0].about
    identity = {"recipe": digest, "dataset": first["dataset"]["digest"], "fold": fold, "seed": 0, "ensemble": True}
    write_state(folder / "trial.json", identity)
    _save(folder / "model.safetensors", (model.card, model.network))
    about = {
        **{name: value for name, value in first.items() if name != "history"},
        "seed": 0,
        "seconds": round(sum(trial.about["seconds"] for trial in trials), 1),
        "epoch": max(trial.about["epoch"] for trial in trials),
        "recipe_digest": digest,
        "ensemble": len(model.card.members) or 1,
        "temperature": model.card.temperature,
        "weights": weights_digest(folder / "model.safetensors"),
    }
    if model.card.temperatures:
        about["temperatures"] = list(model.card.temperatures)
    measured: dict[str, NDArray[Any]] = {} if model.distance is None else {"distance": model.distance}
    if trials[0].groups is not None:
        measured["group"] = trials[0].groups
    measured["target" if grid.several else "label"] = grid.labels[fold]
    measured |= {"clip": trials[0].clips, "classes": np.array(trials[0].classes)}
    measured["logits"] = logits_of(model.probabilities, several=grid.several)
    save_arrays(folder / "predictions.npz", about, measured)
    replace_text(folder / "DONE", "ensemble\n")


def logits_of(shares: NDArray[np.float64], *, several: bool) -> NDArray[np.float32]:
    """What gives these probabilities (clips, classes): logarithms, or of each class by itself log odds."""
    return (logit(shares) if several else np.log(np.maximum(shares, _SMALLEST))).astype(np.float32)


def _save(path: Path, part: Part) -> None:
    card, network = part
    save(path, state=network.state_dict(), card=card, statistics=statistics_of(network))


def digest_of(grid: Grid, method: str) -> str:
    """A digest of the members and how they are combined, in place of a recipe's digest."""
    members = [(grid.trials[fold, m].about["recipe_digest"], m.seed) for fold in grid.folds for m in grid.members]
    return hashlib.sha256(json.dumps([method, sorted(members)]).encode()).hexdigest()[:12]
