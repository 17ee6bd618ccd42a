"""What the finished trials of a cell say: its accuracy with an interval, its seeds, its ensemble, its protocols.

Comes in: a run folder and the trials that were asked for. Goes out: `CellNumbers`, from the saved predictions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earsight.evaluation.protocols import compare_protocols
from earsight.evaluation.summary import Predictions, read_predictions, summarize
from earsight.training.trial import Trial, is_done


@dataclass(frozen=True)
class CellNumbers:
    """A cell of which at least one trial is DONE.

    Attributes
    ----------
    name : str
    run : Path
    trials : tuple of Predictions
        Those that are DONE.
    asked : int
        How many were asked for, and further seeds.
    summary : dict
        As `earsight.evaluation.summary.summarize` gives it.
    protocols : dict or None
        As `earsight.evaluation.protocols.compare_protocols` gives it; None where epochs were not watched.
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
        folds = {trial.about["fold"] for trial in self.trials}
        seeds = {trial.about["seed"] for trial in self.trials}
        return {
            "cell": self.name,
            "run": str(self.run),
            "trials": len(self.trials),
            "asked": self.asked,
            "folds": sorted(folds),
            "seeds": sorted(seeds),
            "seconds": sum(float(trial.about["seconds"]) for trial in self.trials),
            **{key: value for key, value in self.summary.items() if key not in ("machine", "folds")},
            "by_fold": self.summary["folds"],
            "protocols": self.protocols["protocols"] if self.protocols else None,
        }


def cell_numbers(name: str, run: Path, trials: Sequence[Trial], *, watched: bool) -> CellNumbers | None:
    """What a cell's finished trials say; None where none is DONE.

    Parameters
    ----------
    name : str
    run : Path
    trials : sequence of Trial
        Those that were asked for.
    watched : bool
        Whether its recipe watches the held-out fold, so that the protocols can be told apart.

    Beside the trials that were asked for, any further seed counts that is DONE on all of their folds, as when another
    table has run more seeds of the same cell.

    Raises
    ------
    RunError
        If predictions cannot be read.
    """
    asked = [trial for trial in trials if is_done(trial.folder(run))]
    folds = sorted({trial.fold for trial in trials})
    known = {trial.seed for trial in trials}
    more = []
    for seed in sorted(_seeds(run) - known):
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
