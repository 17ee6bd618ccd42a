"""Cells of the paper's tables, each a recipe on a data set with folds and seeds, and their results.

Comes in: a `Scale` and what was asked of it; later a run folder. Goes out: `Cell`s in the order of the tables, and
`CellNumbers` (accuracy with interval, seeds, ensemble, protocols) from the saved predictions alone. A cell is a run
folder; tables that need the same recipe share it, and the sweeps of the figures take the unchanged cell as reference.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from earsight.analysis.sweeps import SWEEPS, Variant, variants
from earsight.errors import RecipeError
from earsight.evaluation.protocols import compare_protocols
from earsight.evaluation.summary import Predictions, read_predictions, summarize
from earsight.experiments.scale import Scale, Section
from earsight.recipe import Recipe, load_recipe
from earsight.training.trial import Trial, is_done


@dataclass(frozen=True)
class Asked:
    """The user's options.

    ``folds`` is as in ``1,2`` and ``seeds`` a number, both by default the scale's; ``only`` are names of cells, or
    patterns such as ``esc50-*``; ``assignments`` override every recipe; ``weights`` maps a backbone to the file of its
    ImageNet weights; ``skip_bad`` leaves unreadable clips out.
    """

    sections: tuple[Section, ...]
    folds: str | None = None
    seeds: int | None = None
    only: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    weights: Mapping[str, str] | None = None
    skip_bad: bool = False


@dataclass(frozen=True)
class Cell:
    """A recipe (not resolved yet) on one of the paper's data sets, with folds (None: all) and a number of seeds.

    ``name`` is that of its run folder.
    """

    name: str
    data: str
    recipe: Recipe
    folds: tuple[int, ...] | None
    seeds: int

    @property
    def backbone(self) -> str:
        """Architecture, without the tag of its weights."""
        return self.recipe.backbone.name.partition(".")[0]


@dataclass(frozen=True)
class CellNumbers:
    """Results of a cell of which at least one trial is DONE.

    ``trials`` are those that are DONE, ``asked`` is how many were asked for with further seeds; ``summary`` is from
    `summarize`, ``protocols`` from `compare_protocols` (None where epochs were not evaluated).
    """

    name: str
    run: Path
    trials: tuple[Predictions, ...]
    asked: int
    summary: dict[str, Any]
    protocols: dict[str, Any] | None

    @property
    def complete(self) -> bool:
        """Whether every trial that was asked for is DONE."""
        return len(self.trials) >= self.asked

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        return {
            "cell": self.name,
            "run": str(self.run),
            "trials": len(self.trials),
            "asked": self.asked,
            "folds": sorted({trial.about["fold"] for trial in self.trials}),
            "seeds": sorted({trial.about["seed"] for trial in self.trials}),
            "seconds": sum(float(trial.about["seconds"]) for trial in self.trials),
            **{key: value for key, value in self.summary.items() if key not in ("machine", "folds")},
            "by_fold": self.summary["folds"],
            "protocols": self.protocols["protocols"] if self.protocols else None,
        }


def cell_name(data: str, source: str) -> str:
    """The name of a recipe's cell: the recipe's, after the data set's unless it starts with that."""
    base = source.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")
    return base if base.startswith(f"{data}-") else f"{data}-{base}"


def section_cells(scale: Scale, section: Section, asked: Asked) -> list[Cell]:
    """The cells that a section needs.

    RecipeError if a recipe is unknown, extends itself, does not take an override, or two of one name differ.
    """
    seeds = asked.seeds or getattr(scale, section).seeds
    cells = [_cell(scale, data, source, asked, seeds=seeds) for data, source in _sources(scale, section)]
    if section == "figures" and scale.figures is not None:
        folds = scale.figures.folds
        cells = [replace(cell, folds=folds or cell.folds) for cell in cells]
        base = cells[0]
        for kind in SWEEPS:
            sweep = sweep_variants(kind, scale, asked)
            cells += [replace(base, name=item.folder, recipe=item.recipe) for item in sweep]
    return merged(cells)


def sweep_variants(kind: str, scale: Scale, asked: Asked) -> list[Variant]:
    """A figure's sweep along the stages; ``folder`` is the name of the cell."""
    figures = scale.figures
    if figures is None:
        raise RecipeError(f"--scale {scale.name} has no figures")
    base = _cell(scale, figures.data, figures.pretrained, asked, seeds=1)
    return [
        replace(item, folder=base.name if item.is_reference else f"{base.name}-{item.folder}")
        for item in _variants(kind, base.recipe, figures.stages)
    ]


@functools.cache
def _variants(kind: str, recipe: Recipe, stages: str | None) -> list[Variant]:
    """The sweep's recipes, cached: finding the stages of a large network takes a second."""
    return variants(kind, recipe, stages=stages)


def merged(cells: Iterable[Cell]) -> list[Cell]:
    """Cells of one name as one, with the folds and seeds of all of them; RecipeError if their recipes differ."""
    out: dict[str, Cell] = {}
    for cell in cells:
        known = out.setdefault(cell.name, cell)
        if known.recipe.digest != cell.recipe.digest or known.data != cell.data:
            raise RecipeError(f"cell {cell.name} has two recipes; give the recipe files other names")
        folds = None if None in (known.folds, cell.folds) else tuple(sorted({*known.folds, *cell.folds}))  # type: ignore[misc]
        out[cell.name] = replace(known, folds=folds, seeds=max(known.seeds, cell.seeds))
    return list(out.values())


def chosen(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that were named; RecipeError, which suggests the near name, if a name or pattern fits none."""
    if not only:
        return list(cells)
    names = [cell.name for cell in cells]
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "add --plan for their names"
            raise RecipeError(f"--only {pattern}: no such cell among the {len(names)} asked for; {hint}")
    return [cell for cell in cells if any(fnmatchcase(cell.name, pattern) for pattern in only)]


def weight_files(texts: Sequence[str], cells: Sequence[Cell]) -> dict[str, str]:
    """Files of weights by backbone, out of ``NAME=FILE``.

    RecipeError if a text has no name or no file, or no cell starts from ImageNet weights of that backbone.
    """
    known = sorted({cell.backbone for cell in cells if cell.recipe.backbone.weights == "imagenet"})
    out = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not file or name.partition(".")[0] not in known:
            raise RecipeError(
                f"--weights {text}: expected BACKBONE=FILE for a backbone that starts from ImageNet weights here: "
                f"{', '.join(known) or 'there is none'}"
            )
        out[name.partition(".")[0]] = file
    return out


def _sources(scale: Scale, section: Section) -> list[tuple[str, str]]:
    """Data set and recipe name of each cell of a section, without the sweeps of the figures."""
    part = getattr(scale, section)
    if part is None:
        raise RecipeError(f"--scale {scale.name} has no {section}; it has {', '.join(scale.sections)}")
    if section == "table1":
        return [(row.data, source) for row in part.rows for source in (row.pretrained, row.random)]
    if section == "figures":
        return [(part.data, part.pretrained), (part.data, part.random)]
    if section == "windows":
        return [(row.data, source) for row in part.rows for source in (row.three, row.one)]
    if section == "representations":
        return [(part.data, row.recipe) for row in part.rows]
    return [(row.data, row.recipe) for row in (part.ours if section == "table3" else part.rows)]


def _cell(scale: Scale, data: str, source: str, asked: Asked, *, seeds: int) -> Cell:
    recipe = load_recipe(source, overrides=asked.assignments)
    file = (asked.weights or {}).get(recipe.backbone.name.partition(".")[0])
    if file and recipe.backbone.weights == "imagenet":
        backbone = recipe.backbone.model_copy(update={"weights": file})
        recipe = recipe.model_copy(update={"backbone": backbone})
    return Cell(cell_name(data, source), data, recipe, scale.folds.get(data), seeds)


def cell_numbers(name: str, run: Path, trials: Sequence[Trial], *, watched: bool) -> CellNumbers | None:
    """Results of a cell's finished trials; None where none is DONE.

    Besides the requested ``trials``, further seeds that are DONE on all of their folds count too (another table may
    have run them). ``watched``: whether each epoch was evaluated on the held-out fold. RunError if predictions cannot
    be read.
    """
    asked = [trial for trial in trials if is_done(trial.folder(run))]
    folds = sorted({trial.fold for trial in trials})
    more = []
    for seed in sorted(_seeds(run) - {trial.seed for trial in trials}):
        others = [Trial(fold, seed) for fold in folds]
        more += others if all(is_done(trial.folder(run)) for trial in others) else []
    if not asked and not more:
        return None
    found = tuple(read_predictions(trial.folder(run) / "predictions.npz") for trial in (*asked, *more))
    protocols = compare_protocols(run, trials=found) if watched else None
    return CellNumbers(name, run, found, len(trials) + len(more), summarize(list(found), machine={}), protocols)


def _seeds(run: Path) -> set[int]:
    names = [path.parent.name.removeprefix("seed-") for path in run.glob("fold-*/seed-*/DONE")]
    return {int(name) for name in names if name.isdecimal()}
