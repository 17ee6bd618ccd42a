"""The held-out clips of each trial, with the model that was not trained on them.

Comes in: a run folder. Goes out: one `HeldOut` for each finished trial, its clips in the order of its predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.data.audio import file_of
from earsight.errors import EarsightError, RunError
from earsight.evaluation.summary import check_place, read_predictions, refuse_several
from earsight.files import read_state
from earsight.models.card import ModelCard
from earsight.models.modelfile import load_card, weights_digest


@dataclass(frozen=True)
class HeldOut:
    """One finished trial and the clips that it held out.

    ``model`` is its model file; ``clips`` are paths as in the data set and ``files`` where the sounds lie; ``labels``
    int64 (clips,) are indices into ``classes``.
    """

    fold: int
    seed: int
    model: Path
    clips: tuple[str, ...]
    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def sample(self, count: int, *, seed: int = 0) -> NDArray[np.int64]:
        """Ascending positions of at most ``count`` clips, drawn from the classes in turn.

        They are drawn by seed and fold; a larger count keeps the clips of a smaller one.
        """
        order = np.random.default_rng([seed, self.fold]).permutation(len(self.labels))
        turn = np.empty(len(order), dtype=np.int64)
        for label in np.unique(self.labels):
            mine = order[self.labels[order] == label]
            turn[mine] = np.arange(len(mine))
        first = sorted(order.tolist(), key=lambda place: int(turn[place]))  # stable: classes in drawn order
        return np.array(sorted(first[:count]), dtype=np.int64)


def held_out(run: Path, *, data: Path | None = None, seed: int | None = None) -> list[HeldOut]:
    """The finished trials of one seed, by default the run's lowest, with their held-out clips' files; by fold.

    ``data`` is the data set's folder or csv, where it has been moved since or the run does not say where it was.
    RunError if no trial (of that seed) is finished, or the sounds are not found where the run or ``data`` says.
    """
    if not run.is_dir():
        raise RunError(f"{run}: no such run folder; `earsight crossval DATA --out {run}` makes one")
    done = sorted(run.glob("fold-*/seed-*/DONE"))
    folders = {path.parent: read_predictions(path.with_name("predictions.npz")) for path in done}
    if not folders:
        raise RunError(f"{run}: no finished trial in it (fold-K/seed-S/DONE); run the command that made it again")
    refuse_several(list(folders.values()), where=str(run))
    seeds = sorted({int(found.about["seed"]) for found in folders.values()})
    if seed is not None and seed not in seeds:
        known = ", ".join(str(number) for number in seeds)
        raise RunError(f"{run}: no finished trial of seed {seed}; its seeds are {known}")
    chosen = seeds[0] if seed is None else seed
    out = []
    for folder, found in folders.items():
        if found.about["seed"] != chosen:
            continue
        clips = tuple(str(clip) for clip in found.clips)
        root = _root(folder, data, clips[0])
        files = tuple(root / clip for clip in clips)
        out.append(
            HeldOut(int(found.about["fold"]), chosen, model_of(folder), clips, files, found.labels, found.classes)
        )
    return sorted(out, key=lambda item: item.fold)


def model_of(folder: Path) -> Path:
    """The model file of a finished trial's folder; RunError if it is another trial's, ModelError if it is damaged."""
    path = folder / "model.safetensors"
    if path.is_file():
        card = load_card(path)
        about = card.trained_on
        # An ensemble is of several seeds.
        check_place(folder, {name: about.get(name) for name in ("fold", "seed")[: 1 if "method" in about else 2]})
        if wrong := foreign(path, card, [read_predictions(folder / "predictions.npz").about]):
            raise RunError(
                f"{path}: {wrong}, so files of two runs were exchanged; put them back, or remove the folder and run "
                "again"
            )
    return path


def foreign(path: Path, card: ModelCard, trials: Sequence[Mapping[str, Any]], *, top: bool = False) -> str:
    """How a model file differs from what the trial beside it says of itself; empty if it fits, as far as is known.

    ``top``: it is the one at the top of the run of these ``trials``. An ensemble's card names the digest of its members
    and method in place of a recipe's; older versions kept none, and did not say which weights a trial's predictions
    are of.
    """
    origin, about = card.trained_on, trials[0]
    joint = "method" in origin
    folds = sorted({one["fold"] for one in trials}) if top else None
    pairs = {
        "kind": tuple("ensemble" if one else "single network" for one in (joint, about.get("ensemble"))),
        "recipe": (origin.get("recipe_digest") if joint else card.recipe.digest, about["recipe_digest"]),
        "data set": (origin.get("digest"), about["dataset"]["digest"]),
        "folds": (origin.get("folds"), folds if joint else None),
        "fold": (origin.get("fold"), None if folds else about.get("fold")),
        "seed": (None if joint else origin.get("seed"), None if folds else about.get("seed")),
    }
    differ = [
        f"is of {name} {a} and its trial of {b}" for name, (a, b) in pairs.items() if None not in (a, b) and a != b
    ]
    known = {one.get("weights") for one in trials}
    if not differ and not (top and joint) and None not in known and weights_digest(path) not in known:
        differ = ["holds the weights of another training than its trial's predictions are of"]
    return differ[0] if differ else ""


def _root(folder: Path, data: Path | None, clip: str) -> Path:
    """The folder below which a trial's clips lie; ``clip`` is one of them."""
    if data is not None:
        root = data if data.is_dir() else data.parent
        if not file_of(root / clip).exists():
            raise RunError(f"--data {data}: holds no {clip}, which {folder} held out; name the data set it was run on")
        return root
    try:
        root = Path(read_state(folder / "trial.json", {"root": str}, remedy="")["root"])
    except EarsightError as error:
        raise RunError(f"{folder}: does not say where its sounds are; add --data and the data set's path") from error
    if not file_of(root / clip).exists():
        raise RunError(f"{folder}: its sounds were in {root} and {clip} is not there; add --data and their new place")
    return root
