"""Calibrates the model files of a run: temperature, OOD threshold and threshold of the prediction sets.

Comes in: a run folder, of trials or of an ensemble. Goes out: the same model files with their cards' ``calibration``
filled in, and ``calibration.json``. A fold's model is calibrated by the other folds' held-out predictions, so that its
own held-out clips still test it; the file at the top of the run, which is for new sounds, by those of all folds. If
only one fold was held out, its clips calibrate, and every figure is marked optimistic, unless a validation part does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from earsight.calibration import fit
from earsight.calibration.fit import CalibratedTrial, Calibration, Wanted
from earsight.errors import EarsightError, RunError
from earsight.evaluation.statistics import shared_groups
from earsight.evaluation.summary import Predictions, clip_groups, read_run
from earsight.files import read_state, say_damage, say_once, write_state
from earsight.models.card import DEFAULT_THRESHOLD
from earsight.models.mahalanobis import statistics_of
from earsight.models.modelfile import load, load_card, save
from earsight.training.heldout import foreign, model_of

REPORT = "calibration.json"


def calibrate_run(
    run: Path, wanted: Wanted, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Calibrate the model files of a run, and return what ``calibration.json`` holds.

    That is ``of`` (the run's recipe and data set), ``figures`` (see `earsight.calibration.fit.figures`), ``optimistic``
    (whether the clips that were measured also calibrated, or chose the epoch), ``score``, ``models`` (path, fold, seed,
    temperature, unknown, sets, clips, folds) and ``notes``. Files that are so calibrated already are left alone.
    ``progress`` is called with (files done, files in all).

    RunError if the folder holds no finished trial, or another run's files; DataError if the score is not available;
    ModelError if a model file is damaged or cannot be written.
    """
    trials = read_run(run, several=True)
    fitted = _fitted(run, trials, wanted)
    jobs = [(_file(run, trial), trial, calibration) for trial, calibration in fitted]
    top = run / "model.safetensors"
    if top.is_file():
        # Those of the published model's seed; an ensemble's folder has one seed.
        card = load_card(top)
        if wrong := foreign(top, card, [trial.about for trial in trials], top=True):
            raise RunError(f"{top}: {wrong}, so files of two runs were exchanged; put it back, or remove it")
        seed = int(card.trained_on.get("seed") or 0)
        seeds = {trial.about["seed"] for trial in trials}
        same = [trial for trial in trials if trial.about["seed"] == (seed if seed in seeds else min(seeds))]
        given = fit.validation_of(same[:1]) or same
        jobs.append((top, same[0], fit.fit_calibration(given, wanted, clip_seconds=_clip_seconds(run, trials))))
    models = []
    for done, (path, trial, calibration) in enumerate(jobs, start=1):
        held = {one.about["fold"] for one in (trials if path == top else [trial])}
        own = not held.isdisjoint(calibration.folds)
        _write(path, trial, calibration, own=own)
        where = {"path": path.relative_to(run).as_posix(), "fold": None if path == top else trial.about["fold"]}
        about: dict[str, Any] = {"seed": trial.about["seed"], "temperature": calibration.temperature}
        if calibration.temperatures:
            about["temperatures"] = dict(zip(trial.classes, calibration.temperatures, strict=True))
        if calibration.thresholds:
            about["thresholds"] = calibration.thresholds
        if part := trial.about["dataset"].get("held_out"):
            about["held_out"] = part
        models.append(where | about | calibration.for_card(own=own))
        progress(done, len(jobs))
    calibrated = [fit.calibrated_trial(trial, calibration) for trial, calibration in fitted]
    alone = any(trial.about["fold"] in calibration.folds for trial, calibration in fitted)
    chosen = any(trial.about["protocol"] == "test" for trial in trials)
    result = {
        "score": fit.score_of(trials, wanted.score),
        "wanted": asdict(wanted),
        "of": _of(trials),
        "figures": fit.figures(calibrated, trials, wanted=wanted, clip_seconds=_clip_seconds(run, trials)),
        "optimistic": alone or chosen,
        "models": models,
        "notes": _notes(fitted, wanted, alone=alone, chosen=chosen) + _missed(models, wanted),
    }
    write_state(run / REPORT, result, indent=2)
    return result


def _missed(models: Sequence[Mapping[str, Any]], wanted: Wanted) -> list[str]:
    """A note on the classes whose thresholds do not reach the precision that was asked for."""
    rule = wanted.rule(several=True)
    least: dict[str, float] = {}
    for name, found in (pair for model in models for pair in model.get("thresholds", {}).items()):
        if rule and rule.name == "precision" and found["reached"] < rule.value:
            least[name] = min(found["reached"], least.get(name, 1.0))
    shown = ", ".join(f"{name} ({reached:.2f})" for name, reached in list(least.items())[:5])
    more = ", ..." if len(least) > 5 else ""
    return [f"No threshold reaches {rule.text} for {shown}{more}: theirs come nearest."] if rule and least else []


def wanted_before(run: Path) -> Wanted:
    """Options of the run's last calibration; the defaults if there was none, and, reported, if it is unusable.

    That is, if the file is damaged, or of another run that was in this folder.
    """
    if not (run / REPORT).exists():
        return Wanted()
    anew = "the default options are taken"
    try:
        asked = read_state(run / REPORT, {"figures": dict}, remedy=anew)
        wanted = Wanted(**asked.get("wanted", {}))
    except (EarsightError, TypeError) as error:
        say_damage(str(error))
        return Wanted()
    if asked.get("of", own := _of(read_run(run, several=True))) != own:
        say_damage(f"{run / REPORT}: is of another run ({asked['of']}, this one {own}); {anew}")
        return Wanted()
    if "of" not in asked and wanted != Wanted():
        say_once(f"{run / REPORT}: is of an earlier version: that its options are this run's cannot be checked")
    return wanted


def _of(trials: list[Predictions]) -> dict[str, Any]:
    """Whose calibration it is: digests of recipe and data set."""
    about = trials[0].about
    return {"recipe": about["recipe_digest"], "dataset": about["dataset"]["digest"]}


def calibrated_trials(run: Path, wanted: Wanted) -> tuple[list[CalibratedTrial], list[Predictions]]:
    """Each trial's held-out predictions, calibrated as `calibrate_run` does, and the trials; for figures."""
    trials = read_run(run, several=True)
    return [fit.calibrated_trial(trial, calibration) for trial, calibration in _fitted(run, trials, wanted)], trials


def _fitted(run: Path, trials: list[Predictions], wanted: Wanted) -> list[tuple[Predictions, Calibration]]:
    """Each trial with the calibration of the other folds."""
    seconds = _clip_seconds(run, trials)
    return [
        (trial, fit.fit_calibration(fit.others_of(trial, trials), wanted, clip_seconds=seconds)) for trial in trials
    ]


def _clip_seconds(run: Path, trials: list[Predictions]) -> float:
    """How long a clip of the run's models is, in seconds."""
    return float(load_card(_file(run, trials[0])).recipe.features.clip_seconds)


def _file(run: Path, trial: Predictions) -> Path:
    return model_of(run / f"fold-{trial.about['fold']}" / f"seed-{trial.about['seed']}")


def _write(path: Path, trial: Predictions, calibration: Calibration, *, own: bool) -> None:
    """Replace a model file by the same with this calibration.

    The predictions of an ensemble's only member (or, of older versions, a weight soup) are at a temperature of their
    own, which ``about`` holds: the fitted one is on top of it.
    """
    card = load_card(path)
    before = 1.0 if card.members else float(trial.about.get("temperature", 1.0))
    temperature = before * calibration.temperature
    each = trial.about.get("temperatures") or [1.0] * len(calibration.temperatures)
    each = [1.0] * len(calibration.temperatures) if card.members else each
    wanted = replace(
        card,
        temperature=temperature,
        calibration=calibration.for_card(own=own),
        temperatures=tuple(one * own for one, own in zip(calibration.temperatures, each, strict=True)),
        thresholds=calibration.thresholds,
    )
    if wanted != card:
        _, network = load(path)
        save(path, state=network.state_dict(), card=wanted, statistics=statistics_of(network))


def _notes(
    fitted: Sequence[tuple[Predictions, Calibration]], wanted: Wanted, *, alone: bool, chosen: bool
) -> list[str]:
    found = [calibration for _, calibration in fitted]
    several = fitted[0][0].targets is not None
    few = f"{min(one.clips for one in found)} clips are too few for"
    one_fold = "One fold was held out, and its clips calibrated: the figures after are optimistic. "
    one_fold += "`earsight crossval` gives honest ones."
    part = fitted[0][0].about["dataset"].get("held_out") or {}
    if part.get("kind") == "test":
        one_fold = "The part that was held out calibrated, for there is no validation part beside it of "
        one_fold += f"{fit.ENOUGH} clips or more: temperature and thresholds are for new sounds, the figures of "
        one_fold += "confidence after are optimistic, accuracy stays as it is."
    given = "The data set's validation part calibrated, so that the test part tests that too."
    if fitted[0][0].about["protocol"] == "inner":
        given += " It chose the epoch as well: the temperature may be a little low."
    notes = {
        one_fold: alone,
        given: bool(fit.validation_of([trial for trial, _ in fitted])),
        "The held-out clips chose the epoch (protocol test): all figures are optimistic.": chosen,
        f"{few} {100 * wanted.false_alarms:g} % false alarms: no unknown.": any(one.unknown is None for one in found)
        and bool(fit.score_of([trial for trial, _ in fitted], wanted.score)),
        f"{few} a coverage of {100 * wanted.coverage:g} %: no sets.": not several
        and any(one.sets is None for one in found),
        "Most clips that calibrated are one window: answers for longer files are not.": not all(o.pools for o in found),
        "Classes may sound together: a set of which one holds is not defined, and thresholds name classes.": several,
        "Clips share sources: the intervals of false alarms and of coverage that thresholds stand for count clips, and "
        "are narrower than they should be; those of what was reached go by sources.": bool(
            shared_groups(clip_groups([trial for trial, _ in fitted]))
        ),
    }
    rule = wanted.rule(several=several)
    if rule is not None:
        lacking = sorted({name for trial, one in fitted for name in trial.classes if name not in one.thresholds})
        shown = ", ".join(lacking[:10]) + (", ..." if len(lacking) > 10 else "")
        notes[f"Too few clips for a threshold of {shown}: {DEFAULT_THRESHOLD:g}."] = bool(lacking)
    return [note for note, holds in notes.items() if holds]
