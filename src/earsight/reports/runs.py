"""Load a run folder for a report: predictions, summary, histories, recipe; and sentences on missing parts.

Comes in: a run folder. Goes out: a `RunRead`. Only the predictions are needed; whatever else is missing or cannot be
read is named in ``missing``, and the report is made without it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from earsight.calibration.calibrate import REPORT as CALIBRATION
from earsight.calibration.calibrate import calibrated_trials, wanted_before
from earsight.calibration.fit import CalibratedTrial, figures
from earsight.ensembles.distilled import REPORT as DISTILLATION
from earsight.ensembles.ensemble_run import REPORT
from earsight.errors import EarsightError, ModelError, RecipeError, RunError
from earsight.evaluation.protocols import read_history
from earsight.evaluation.summary import SOURCES_UNKNOWN, Predictions, read_run, summarize
from earsight.files import read_state, seal_fits
from earsight.recipe import Recipe, parse_recipe
from earsight.training.heldout import foreign


class Calibrated(NamedTuple):
    """A run's trials under its calibration, computed from its predictions again, what they reached, and its models."""

    trials: list[CalibratedTrial]
    figures: dict[str, Any]
    models: list[dict[str, Any]]


@dataclass(frozen=True)
class RunRead:
    """Contents of a run folder.

    ``trials``: the finished ones, by fold and seed; ``summary``: computed from them, with the machine from
    ``summary.json``; ``histories``: their epochs; ``recipe``: from ``recipe.yaml`` or a model file (of an ensemble,
    its members'); ``version``: earsight's; ``temperature``: the model file's; ``joint``: whether it is an ensemble;
    ``ensemble``: its ``ensemble.json``, and ``distillation``: the ``distillation.json`` of one that learnt from another
    run, empty where that cannot be used; ``missing``: sentences; ``calibrated``: its
    trials as its calibration has them, if there is one; ``finished``: the day of its last trial (UTC).
    """

    folder: Path
    trials: list[Predictions]
    summary: dict[str, Any]
    histories: list[list[dict[str, Any]]] = field(default_factory=list)
    recipe: Recipe | None = None
    version: str = ""
    temperature: float = 1.0
    joint: bool = False
    ensemble: dict[str, Any] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    calibrated: Calibrated | None = None
    finished: str = ""

    @property
    def seeds(self) -> list[int]:
        """Seeds that have a finished trial."""
        return sorted({int(one.about["seed"]) for one in self.trials})

    @property
    def folds(self) -> list[int]:
        """Folds that a finished trial held out."""
        return sorted({int(one.about["fold"]) for one in self.trials})

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.trials[0].classes


def read_for_report(folder: Path) -> RunRead:
    """Read a run folder; RunError if none of its trials is finished, they do not go together, or one is broken."""
    trials = read_run(folder, several=True)
    missing = [f"Sources: {SOURCES_UNKNOWN}."] if any(trial.sources_unknown for trial in trials) else []
    old = _json(folder / "summary.json", missing, without="the machine is not known")
    machine = found if isinstance(found := old.get("machine"), Mapping) else {}
    joint = (folder / REPORT).exists()
    ensemble = _set_against(folder / REPORT, trials, missing) if joint else {}
    taught = any("teachers" in trial.about for trial in trials)
    distillation = _set_against(folder / DISTILLATION, trials, missing) if taught else {}
    histories = [] if joint else _histories(folder, trials, missing)
    made_by = _recipe(folder, trials, missing, ensemble=joint)
    for path in sorted(folder.glob("fold-*/seed-*")):
        if path.is_dir() and not (path / "DONE").is_file():
            fold, seed = path.parent.name.removeprefix("fold-"), path.name.removeprefix("seed-")
            missing.append(
                f"Fold {fold}, seed {seed} was begun and has not ended: it is left out of every figure here."
            )
    summary = summarize(trials, machine=machine)
    # A version that kept no sources, or did not find them, has summarised without them.
    plain = [one if "held_out" in one.about["dataset"] else replace(one, groups=None) for one in trials]
    lost = bool(old.get("groups")) and any(one.sources_unknown for one in trials)
    shared = {name: value for name, value in old.items() if not lost or name not in _OF_SOURCES}
    if not _fits(summary, shared) and not _fits(summarize(plain, machine=machine), shared):
        missing.append(
            "summary.json does not fit the predictions, so it is damaged or trials have ended since: every figure is "
            f"from the predictions; `earsight summary {folder}` writes it anew."
        )
    calibrated = _calibrated(folder, _of_others(folder, trials, missing), missing)
    return RunRead(
        *(folder, trials, summary, histories),
        *made_by,
        joint=joint,
        ensemble=ensemble,
        distillation=distillation,
        missing=missing,
        calibrated=calibrated,
        finished=_finished(folder, trials),
    )


_OF_SOURCES = ("accuracy", "majority", "ensemble", "groups")
"""Parts of a summary that hold intervals: they are not those of before where the sources are not there any more."""


def _calibrated(folder: Path, strange: Collection[str], missing: list[str]) -> Calibrated | None:
    """The trials calibrated as the run's models are, but for ``strange`` ones; None, and why, where they cannot be."""
    if not (folder / CALIBRATION).is_file():
        if (folder / "model.safetensors").is_file():
            missing.append(
                f"It is not calibrated, or {CALIBRATION} was removed: `earsight calibrate {folder}` does it."
            )
        return None
    try:
        wanted = wanted_before(folder)
        found, trials = calibrated_trials(folder, wanted)
        kept = _json(folder / CALIBRATION, missing, without="its thresholds are not shown")
        models = kept.get("models", [])
        differ = [one["path"] for one in models if _differs(folder / one["path"], one)]
        if other := [path for path in differ if path not in strange]:
            what = f"{other[0]} holds another calibration than {CALIBRATION} says" + (
                f", and {len(other) - 1} more do" if len(other) > 1 else ""
            )
            missing.append(f"{what}: `earsight calibrate` makes them agree.")
        return Calibrated(found, figures(found, trials, wanted=wanted), models)
    except EarsightError as error:
        missing.append(f"Its calibration cannot be shown: {error}.")
        return None


def _of_others(folder: Path, trials: Sequence[Predictions], missing: list[str]) -> set[str]:
    """Model files of other trainings than the predictions beside them, by their paths in the run; each is reported."""
    from earsight.models.modelfile import load_card

    others, top = set(), (folder / "model.safetensors").is_file()
    for place, trial in enumerate(trials):
        path = _trial_folder(folder, trial) / "model.safetensors"
        try:
            wrong = foreign(path, load_card(path), [trial.about]) if path.is_file() else ""
        except ModelError as error:
            wrong = f"cannot be read ({error})"
        if wrong:
            others.add(name := path.relative_to(folder).as_posix())
        if wrong and (place or top):  # else `_recipe` has reported it
            missing.append(f"{name} {wrong}: put it back, or remove its folder and run again.")
    return others


def _differs(path: Path, kept: Mapping[str, Any]) -> bool:
    """Whether a model file's calibration is another than a report says, as after a kill between the two."""
    from earsight.models.modelfile import load_card

    try:
        card = load_card(path)
    except ModelError:  # what is wrong with it is reported where it is read
        return False
    pairs = [(card.temperature, kept.get("temperature")), (card.thresholds or None, kept.get("thresholds"))]
    pairs += [(card.calibration.get(name), kept.get(name)) for name in ("unknown", "sets")]
    return any(a != b for a, b in pairs)


def _finished(folder: Path, trials: Sequence[Predictions]) -> str:
    """The day on which the last trial ended, by its `DONE`."""
    times = [(_trial_folder(folder, trial) / "DONE").stat().st_mtime for trial in trials]
    return datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d")


def _fits(summary: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether all that an earlier summary says is the same, as JSON holds it."""
    return all(json.loads(json.dumps(summary.get(key))) == value for key, value in old.items())


def _json(path: Path, missing: list[str], *, without: str) -> dict[str, Any]:
    try:
        return read_state(path, {}, remedy=without)
    except EarsightError as error:
        reason = str(error).partition(": ")[2].partition(";")[0] if path.exists() else "is not there"
    missing.append(f"{path.name} {reason}: {without}.")
    return {}


def _set_against(path: Path, trials: Sequence[Predictions], missing: list[str]) -> dict[str, Any]:
    """The table of an ensemble and its parts, or of a student and its teachers, if it is of these predictions.

    Where an earlier version kept no digest, a line says so.
    """
    found = _json(path, missing, without="what it is set against is not known")
    about, folds = trials[0].about, sorted({trial.about["fold"] for trial in trials})
    wanted = {"recipe_digest": about["recipe_digest"], "folds": folds, "dataset": about["dataset"]}
    differ = [name for name, value in wanted.items() if found.get(name, value) != value]
    if differ:
        missing.append(f"{path.name} is of another {path.stem} ({', '.join(differ)} differ): nothing of it is shown.")
        return {}
    if found and "recipe_digest" not in found:
        missing.append(f"{path.name} is of an earlier version: that it is of these predictions cannot be checked.")
    return found


def _histories(folder: Path, trials: Sequence[Predictions], missing: list[str]) -> list[list[dict[str, Any]]]:
    out = []
    for trial in trials:
        path = _trial_folder(folder, trial) / "history.jsonl"
        try:
            rows = read_history(path.parent, trial)
            numbers = [[float(row[key]) for key in ("epoch", "loss", "learning_rate")] for row in rows]
        except (RunError, ValueError, KeyError, TypeError) as error:
            missing.append(f"{path.relative_to(folder)} cannot be read ({error}): the curves are drawn without it.")
            continue
        if numbers:
            out.append(rows)
    return out


def _recipe(
    folder: Path, trials: Sequence[Predictions], missing: list[str], *, ensemble: bool
) -> tuple[Recipe | None, str, float]:
    """Recipe, version and temperature; the recipe's file first, then a model file's card."""
    from earsight.models.modelfile import load_card

    folders = [folder, _trial_folder(folder, trials[0])]
    path = next((model for place in folders if (model := place / "model.safetensors").is_file()), None)
    card = None
    try:
        card = load_card(path) if path else None
    except ModelError as error:
        missing.append(f"A model file cannot be read: {error}.")
    top = path is not None and path.parent == folder
    abouts = [trial.about for trial in (trials if top else trials[:1])]
    if card and path and (wrong := foreign(path, card, abouts, top=top)):
        missing.append(f"The model file {wrong}: nothing of it is shown.")
        card = None
    if not card and not path:
        missing.append("There is no model file: which version of earsight trained it is not known.")
    recipe = None
    try:
        text = (folder / "recipe.yaml").read_text(encoding="utf-8")
        if not seal_fits(text):
            missing.append("recipe.yaml does not fit its digest: it was changed by hand, or it is damaged.")
        recipe = parse_recipe(text, where=str(folder / "recipe.yaml"))
    except FileNotFoundError:
        if card:
            recipe = card.recipe if not card.members else card.members[0].recipe
        if not ensemble:
            missing.append("recipe.yaml is not there" + (": the recipe is the model file's." if recipe else "."))
    except (OSError, ValueError, RecipeError) as error:
        missing.append(f"recipe.yaml cannot be read ({error}).")
    version = str(card.trained_on.get("earsight", "")) if card else ""
    return recipe, version, card.temperature if card else 1.0


def _trial_folder(folder: Path, trial: Predictions) -> Path:
    return folder / f"fold-{trial.about['fold']}" / f"seed-{trial.about['seed']}"
