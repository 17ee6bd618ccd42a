"""Fits a calibration to held-out predictions: temperature, OOD threshold and threshold of the prediction sets.

Comes in: `Predictions` of trials: logits (clips, classes) of the clips that each trial held out. Goes out: a
`Calibration` for a model card, and figures before and after it: log loss, calibration error, coverage of the prediction
sets, and the share of known sounds called unknown. For the figures each fold is measured with a calibration fitted to
the other folds.

The held-out clips of several folds are pooled, though each fold has a network of its own (cross-conformal prediction,
Vovk 2015): the networks are draws of one recipe. The measured coverage shows what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.calibration.conformal import METHODS, conformal_threshold, coverage_band, prediction_sets
from earsight.calibration.ood import SCORES, fit_ood_threshold, is_unknown, ood_scores, share_interval
from earsight.calibration.per_class import ThresholdRule, choose_thresholds, fit_temperatures, threshold_rule
from earsight.calibration.temperature import binary_calibration_error, expected_calibration_error, fit_temperature
from earsight.errors import DataError
from earsight.evaluation.metrics import log_loss, logit, probabilities, softmax
from earsight.evaluation.multilabel import binary_log_loss, f1_at
from earsight.evaluation.statistics import share_limits
from earsight.evaluation.summary import Predictions, clip_groups
from earsight.models.card import DEFAULT_THRESHOLD

ENOUGH = 19
"""Clips from which on a validation part calibrates: fewer leave no threshold at 5 % false alarms."""


@dataclass(frozen=True)
class Wanted:
    """Options of a calibration.

    ``score``: the OOD score, one of `earsight.calibration.ood.SCORES`, or ``auto`` for the best that the trials have.
    ``false_alarms``: the share of known sounds that may be called unknown. ``coverage``: how often the prediction set
    is to hold the true class. ``method``: one of `earsight.calibration.conformal.METHODS`. ``threshold_rule``: how the
    threshold of each class is chosen (`earsight.calibration.per_class.threshold_rule`); "auto" is best-f1 where classes
    may sound together, and none elsewhere. DataError if one is not among those, or a share is not between 0 and 1.
    """

    score: str = "auto"
    false_alarms: float = 0.05
    coverage: float = 0.95
    method: str = "lac"
    threshold_rule: str = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (("score", self.score, ("auto", *SCORES)), ("sets", self.method, METHODS)):
            if value not in known:
                raise DataError(f"--{name} {value}: expected one of {', '.join(known)}")
        for name, share in (("false-alarms", self.false_alarms), ("coverage", self.coverage)):
            if not 0 < share < 1:
                raise DataError(f"--{name} {share:g}: expected a share between 0 and 1, such as 0.05 or 0.95")
        if self.threshold_rule != "auto":
            threshold_rule(self.threshold_rule)

    def rule(self, *, several: bool) -> ThresholdRule | None:
        """The rule of the classes' thresholds; None where there are none."""
        if self.threshold_rule == "auto":
            return threshold_rule("best-f1") if several else None
        return threshold_rule(self.threshold_rule)


@dataclass(frozen=True)
class Calibration:
    """The calibration that goes into a model card.

    ``unknown`` holds ``score``, ``threshold``, ``rate`` (mean false-alarm rate, at most) and ``ci95`` (its interval for
    these clips); ``sets`` holds ``method``, ``threshold``, ``coverage`` and ``ci95``. Either is None if the clips are
    too few for it. ``folds`` are those that the ``clips`` are in. ``pools`` is False if most of these are one window.
    """

    temperature: float
    unknown: dict[str, Any] | None
    sets: dict[str, Any] | None
    clips: int
    folds: tuple[int, ...]
    temperatures: tuple[float, ...] = ()
    thresholds: dict[str, dict[str, Any]] = field(default_factory=dict)
    pools: bool = True

    @property
    def scale(self) -> float | NDArray[np.float64]:
        """What logits are divided by: one number, or one for each class."""
        return self.temperature * np.array(self.temperatures) if self.temperatures else self.temperature

    def limits(self, classes: Sequence[str]) -> NDArray[np.float64]:
        """The thresholds (classes,), with the default where there is none."""
        return np.array([self.thresholds.get(name, {}).get("threshold", DEFAULT_THRESHOLD) for name in classes])

    def for_card(self, *, own: bool) -> dict[str, Any]:
        """JSON values for `ModelCard.calibration`; ``own``: whether these clips include the model's own test clips."""
        parts = {"unknown": self.unknown, "sets": self.sets}
        about = {"clips": self.clips, "folds": list(self.folds), "own_held_out": own}
        about |= {} if self.pools else {"pools": False}
        return {name: part for name, part in parts.items() if part} | about


@dataclass(frozen=True)
class CalibratedTrial:
    """A trial's held-out clips under a calibration; all arrays are (clips, ...).

    ``before`` and ``after`` are probabilities at the temperatures 1 and calibrated; ``unknown`` and ``prediction_sets``
    are None where the calibration has no threshold for them; ``named`` are the classes that reach their thresholds,
    None where classes have none.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    unknown: NDArray[np.bool_] | None
    prediction_sets: NDArray[np.bool_] | None
    named: NDArray[np.bool_] | None = None


def fit_calibration(trials: Sequence[Predictions], wanted: Wanted, *, clip_seconds: float = 0.0) -> Calibration:
    """Fit temperature and thresholds to all clips of some trials of one seed; raises as `score_of` does.

    ``clip_seconds`` is how long a clip is, for thresholds by false alarms an hour.
    """
    several = trials[0].targets is not None
    score = score_of(trials, wanted.score)
    logits = np.concatenate([trial.logits for trial in trials])
    labels = np.concatenate([trial.labels for trial in trials])
    temperatures: tuple[float, ...] = ()
    if several:
        temperature = 1.0
        temperatures = tuple(map(float, fit_temperatures(logits, np.concatenate([one.marks for one in trials]))))
    else:
        temperature = fit_temperature(logits, labels)
    clips = len(labels)
    unknown, sets = None, None
    if score and clips + 1 >= 1 / wanted.false_alarms:
        scores = np.concatenate([_scores_of(trial, score, temperature) for trial in trials])
        threshold, band = fit_ood_threshold(scores, rate=wanted.false_alarms)
        unknown = {"score": score, "threshold": threshold, "rate": wanted.false_alarms, "ci95": list(band)}
    if not several and clips + 1 >= 1 / (1 - wanted.coverage):
        shares = softmax(logits.astype(np.float64) / temperature)
        threshold = conformal_threshold(shares, labels, coverage=wanted.coverage, method=wanted.method)
        band = coverage_band(clips, coverage=wanted.coverage)
        sets = {"method": wanted.method, "threshold": threshold, "coverage": wanted.coverage, "ci95": list(band)}
    folds = tuple(sorted({int(trial.about.get("part", trial.about["fold"])) for trial in trials}))
    pools = 2 * sum(int(trial.about.get("pooled", len(trial.clips))) for trial in trials) >= clips
    fitted = Calibration(temperature, unknown, sets, clips, folds, temperatures, pools=pools)
    rule = wanted.rule(several=several)
    if rule is None:
        return fitted
    chosen = choose_thresholds(
        probabilities(logits / fitted.scale, several=several),
        np.concatenate([marks_of(trial) for trial in trials]),
        trials[0].classes,
        rule,
        clips=np.concatenate([trial.clips for trial in trials]),
        folds=np.concatenate([np.full(len(trial.clips), trial.about["fold"]) for trial in trials]),
        groups=clip_groups(trials),
        clip_seconds=clip_seconds,
    )
    return replace(fitted, thresholds=chosen)


def marks_of(trial: Predictions) -> NDArray[np.float32]:
    """Whether each class sounds in each clip (clips, classes): the targets, or the label's class alone."""
    if trial.targets is not None:
        return trial.targets
    return np.asarray(trial.labels[:, None] == np.arange(len(trial.classes)), dtype=np.float32)


def score_of(trials: Sequence[Predictions], wanted: str) -> str:
    """The OOD score that ``auto`` stands for; any other stands for itself, DataError if a trial lacks what it needs.

    Where classes may sound together ``auto`` may be none, which is "".
    """
    several = trials[0].targets is not None
    has = {
        "distance": all(trial.distance is not None for trial in trials),
        # Logits of an ensemble, or of several windows, are log probabilities: their energy is 0 for every sound.
        "energy": not any("ensemble" in trial.about or trial.about.get("windows") == "all" for trial in trials),
        "doubt": not several,
    }
    if wanted == "auto":
        return next((score for score in SCORES if has[score]), "")
    if not has[wanted]:
        why = {
            "distance": "its trials were trained before distances were kept, or are soups; train again",
            "energy": "clips that are judged by several windows have none, and an ensemble has none",
            "doubt": "where classes may sound together, that none does says nothing",
        }
        possible = ", ".join(score for score in SCORES if has[score])
        raise DataError(f"--score {wanted}: not available for this run ({why[wanted]}); choose one of {possible}")
    return wanted


def calibrated_trial(trial: Predictions, calibration: Calibration) -> CalibratedTrial:
    """Apply a calibration to a trial's held-out predictions."""
    logits, several = trial.logits.astype(np.float64), trial.targets is not None
    after = probabilities(logits / calibration.scale, several=several)
    strange, inside = None, None
    if unknown := calibration.unknown:
        scores = _scores_of(trial, unknown["score"], calibration.temperature)
        strange = is_unknown(scores, unknown["threshold"])
    if sets := calibration.sets:
        inside = prediction_sets(after, threshold=sets["threshold"], method=sets["method"])
    before, named = probabilities(logits, several=several), None
    if several or calibration.thresholds:
        named = after >= calibration.limits(trial.classes)
    return CalibratedTrial(before=before, after=after, unknown=strange, prediction_sets=inside, named=named)


def figures(
    calibrated: Sequence[CalibratedTrial], trials: Sequence[Predictions], *, wanted: Wanted, clip_seconds: float = 0.0
) -> dict[str, Any]:
    """Measured results of calibrations on the trials' clips, as JSON values.

    ``clips``; ``log_loss`` and ``ece``, each with ``before`` and ``after`` (where classes may sound together of all
    their yes and no); ``named``: ``micro_f1``, ``macro_f1``, ``precision`` of all that is named and, of clips of
    ``clip_seconds``, ``false_alarms_per_hour`` and class, at the thresholds, where there are such; ``coverage``
    (``stated``, ``reached``, ``ci95``, ``mean_size``: classes in a set, ``single``: the share of sets of one class) and
    ``false_alarms`` (``stated``, ``reached``, ``ci95``), each None if some calibration has no threshold for it.
    Intervals are Clopper and Pearson's over different clips; several seeds' predictions of one clip count as one clip.
    Where clips share sources, these are redrawn too, and the wider limits count (`statistics.share_limits`).
    """
    labels = np.concatenate([trial.labels for trial in trials])
    names, groups = np.concatenate([trial.clips for trial in trials]), clip_groups(trials)
    clips = len(np.unique(names))

    def reached(stated: float, hits: NDArray[np.bool_]) -> dict[str, Any]:
        limits = share_limits(hits, share_interval, clips=names, groups=groups)
        return {"stated": stated, "reached": float(hits.mean()), "ci95": list(limits)}

    shares = {name: np.concatenate([getattr(one, name) for one in calibrated]) for name in ("before", "after")}
    if trials[0].targets is not None:
        marks = np.concatenate([trial.marks for trial in trials])
        loss = {name: binary_log_loss(marks, logit(table)) for name, table in shares.items()}
        error = {name: binary_calibration_error(table, marks) for name, table in shares.items()}
    else:
        loss = {name: log_loss(np.log(np.maximum(table, 1e-300)), labels) for name, table in shares.items()}
        error = {name: expected_calibration_error(table, labels) for name, table in shares.items()}
    out: dict[str, Any] = {"clips": clips, "log_loss": loss, "ece": error, "coverage": None, "false_alarms": None}
    named = [one.named for one in calibrated if one.named is not None]
    if len(named) == len(calibrated):
        marks = np.concatenate([marks_of(trial) for trial in trials])
        chosen = np.concatenate(named)
        f1 = f1_at(marks, chosen.astype(float), 0.5)
        right, wrong = (int((chosen & (marks == sounds)).sum()) for sounds in (1, 0))
        out["named"] = {"micro_f1": f1.micro, "macro_f1": f1.macro, "precision": right / max(1, right + wrong)}
        hours = float((marks == 0).sum()) * clip_seconds / 3600
        out["named"]["false_alarms_per_hour"] = wrong / hours if hours else 0.0
    sets = [one.prediction_sets for one in calibrated if one.prediction_sets is not None]
    if len(sets) == len(calibrated):
        table = np.concatenate(sets)
        sizes = table.sum(axis=1)
        size = {"mean_size": float(sizes.mean()), "single": float((sizes == 1).mean())}
        out["coverage"] = reached(wanted.coverage, table[np.arange(len(labels)), labels]) | size
    alarms = [one.unknown for one in calibrated if one.unknown is not None]
    if len(alarms) == len(calibrated):
        out["false_alarms"] = reached(wanted.false_alarms, np.concatenate(alarms))
    return out


def validation_of(trials: Sequence[Predictions]) -> list[Predictions]:
    """What trials predict for the data set's validation part; nothing where that has fewer than `ENOUGH` clips."""
    return [one.validation for one in trials if one.validation is not None and len(one.validation.clips) >= ENOUGH]


def others_of(trial: Predictions, trials: Sequence[Predictions]) -> list[Predictions]:
    """What calibrates a trial's model: its validation part, else its seed's trials of other folds, else the trial."""
    if given := validation_of([trial]):
        return given
    fold, seed = trial.about["fold"], trial.about["seed"]
    others = [one for one in trials if one.about["seed"] == seed and one.about["fold"] != fold]
    return sorted(others, key=lambda one: int(one.about["fold"])) or [trial]


def _scores_of(trial: Predictions, score: str, temperature: float) -> NDArray[np.float64]:
    several = trial.targets is not None
    return ood_scores(score, trial.logits, temperature=temperature, distance=trial.distance, several=several)
