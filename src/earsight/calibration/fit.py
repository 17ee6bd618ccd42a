"""A calibration fitted to what trials said of the clips that they held out, and what it reaches on others.

Comes in: `Predictions`, whose clips their networks never saw. Goes out: a `Calibration` for a model card, and figures
before and after: log loss, calibration error, the coverage of the sets, the share of known sounds called unknown. For
those figures each fold is measured with a calibration fitted to the other folds.

All folds' clips serve one calibration, though each fold's network is another (cross-conformal, Vovk 2015): the
networks are draws of one recipe. What that costs in practice is what the measured coverage says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.calibration.conformal import METHODS, conformal_threshold, coverage_band, prediction_sets
from earsight.calibration.ood import energy, fit_ood_threshold, max_softmax_score, share_interval
from earsight.calibration.temperature import expected_calibration_error, fit_temperature
from earsight.errors import DataError
from earsight.evaluation.metrics import log_loss, softmax
from earsight.evaluation.summary import Predictions

SCORES = ("distance", "energy", "doubt")
"""Best first, as measured with classes left out (docs/results.md)."""


@dataclass(frozen=True)
class Wanted:
    """What a calibration is asked for.

    Attributes
    ----------
    score : {"auto", "distance", "energy", "doubt"}
        What tells unknown sounds; ``auto`` takes the best that the trials have.
    false_alarms : float
        The share of known sounds that may be called unknown.
    coverage : float
        How often the set of plausible classes is to hold the true one.
    method : {"lac", "aps"}
        See `earsight.calibration.conformal`.

    Raises
    ------
    DataError
        If one is not among those, or a share is not between 0 and 1.
    """

    score: str = "auto"
    false_alarms: float = 0.05
    coverage: float = 0.95
    method: str = "lac"

    def __post_init__(self) -> None:
        for name, value, known in (("score", self.score, ("auto", *SCORES)), ("sets", self.method, METHODS)):
            if value not in known:
                raise DataError(f"--{name} {value}: expected one of {', '.join(known)}")
        for name, share in (("false-alarms", self.false_alarms), ("coverage", self.coverage)):
            if not 0 < share < 1:
                raise DataError(f"--{name} {share:g}: expected a share between 0 and 1, such as 0.05 or 0.95")


@dataclass(frozen=True)
class Calibration:
    """What a model card takes over.

    Attributes
    ----------
    temperature : float
    unknown : dict, optional
        ``score``, ``threshold``, ``rate`` (of false alarms, at most, on average) and ``ci95`` (where it lies with these
        clips); None where the clips are too few for the rate.
    sets : dict, optional
        ``method``, ``threshold``, ``coverage`` and ``ci95``; None where the clips are too few for the coverage.
    clips : int
    folds : tuple of int
        That held them out.
    """

    temperature: float
    unknown: dict[str, Any] | None
    sets: dict[str, Any] | None
    clips: int
    folds: tuple[int, ...]

    def for_card(self, *, own: bool) -> dict[str, Any]:
        """JSON values for `ModelCard.calibration`.

        ``own`` says that the clips are among those on which this model's accuracy is measured.
        """
        parts = {"unknown": self.unknown, "sets": self.sets}
        about = {"clips": self.clips, "folds": list(self.folds), "own_held_out": own}
        return {name: part for name, part in parts.items() if part} | about


@dataclass(frozen=True)
class CalibratedTrial:
    """What a calibrated network says of clips; all arrays are (clips, ...).

    ``before`` and ``after`` are probabilities at the temperatures 1 and calibrated; ``novelty`` may be None, as
    ``unknown`` and ``plausible`` then are.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    unknown: NDArray[np.bool_] | None
    prediction_sets: NDArray[np.bool_] | None


def score_of(trials: Sequence[Predictions], wanted: str) -> str:
    """The score that ``auto`` stands for with these trials.

    Raises
    ------
    DataError
        If a trial lacks what the wanted score needs.
    """
    has = {
        "distance": all(trial.distance is not None for trial in trials),
        # An ensemble's logits are log probabilities: their energy is 0 for every sound.
        "energy": not any("ensemble" in trial.about for trial in trials),
        "doubt": True,
    }
    if wanted == "auto":
        return next(score for score in SCORES if has[score])
    if not has[wanted]:
        why = {
            "distance": "its trials were trained before distances were kept, or are soups; train again",
            "energy": "an ensemble has none",
        }
        possible = ", ".join(score for score in SCORES if has[score])
        raise DataError(f"--score {wanted}: cannot be had of this run ({why[wanted]}), or take {possible}")
    return wanted


def ood_scores(trial: Predictions, score: str, *, temperature: float) -> NDArray[np.float64]:
    """How unlike any class each of the trial's clips is, shape (clips,)."""
    if score == "distance" and trial.distance is not None:
        return np.asarray(trial.distance, dtype=np.float64)
    return energy(trial.logits) if score == "energy" else max_softmax_score(trial.logits / temperature)


def fit_calibration(trials: Sequence[Predictions], wanted: Wanted) -> Calibration:
    """Fit temperature and thresholds to all clips of some trials of one seed.

    Raises
    ------
    DataError
        If the score cannot be had.
    """
    score = score_of(trials, wanted.score)
    logits = np.concatenate([trial.logits for trial in trials])
    labels = np.concatenate([trial.labels for trial in trials])
    temperature = fit_temperature(logits, labels)
    shares = softmax(logits.astype(np.float64) / temperature)
    clips = len(labels)
    unknown, sets = None, None
    if clips + 1 >= 1 / wanted.false_alarms:
        scores = [ood_scores(trial, score, temperature=temperature) for trial in trials]
        found = fit_ood_threshold(np.concatenate(scores), rate=wanted.false_alarms)
        unknown = {
            "score": score,
            "threshold": found.threshold,
            "rate": found.rate,
            "ci95": [found.low, found.high],
        }
    if clips + 1 >= 1 / (1 - wanted.coverage):
        threshold = conformal_threshold(shares, labels, coverage=wanted.coverage, method=wanted.method)
        sets = {
            "method": wanted.method,
            "threshold": threshold,
            "coverage": wanted.coverage,
            "ci95": list(coverage_band(clips, coverage=wanted.coverage)),
        }
    folds = tuple(sorted({int(trial.about["fold"]) for trial in trials}))
    return Calibration(temperature, unknown, sets, clips, folds)


def calibrated_trial(trial: Predictions, calibration: Calibration) -> CalibratedTrial:
    """What a trial's network, so calibrated, says of its held-out clips."""
    logits = trial.logits.astype(np.float64)
    after = softmax(logits / calibration.temperature)
    unknown, sets = calibration.unknown, calibration.sets
    strange, inside = None, None
    if unknown is not None:
        novelty = ood_scores(trial, unknown["score"], temperature=calibration.temperature)
        strange = np.asarray(novelty > unknown["threshold"])
    if sets is not None:
        inside = prediction_sets(after, threshold=sets["threshold"], method=sets["method"])
    return CalibratedTrial(before=softmax(logits), after=after, unknown=strange, prediction_sets=inside)


def figures(told: Sequence[CalibratedTrial], trials: Sequence[Predictions], *, wanted: Wanted) -> dict[str, Any]:
    """What calibrations reach on the clips of some trials.

    Returns
    -------
    dict
        ``clips``; ``log_loss`` and ``ece``, each with ``before`` and ``after``; ``coverage`` (``stated``, ``reached``,
        ``ci95``, ``mean_size``: classes in a set, ``single``: the share of sets of one class) and ``false_alarms``
        (``stated``, ``reached``, ``ci95``), each None where some calibration has no threshold for it. Intervals are
        Clopper and Pearson's over different clips; several seeds' answers to one clip count as one clip.
    """
    labels = np.concatenate([trial.labels for trial in trials])
    clips = len(set(np.concatenate([trial.clips for trial in trials]).tolist()))
    out: dict[str, Any] = {"clips": clips}
    shares = {name: np.concatenate([getattr(one, name) for one in told]) for name in ("before", "after")}
    out["log_loss"] = {name: _log_loss(table, labels) for name, table in shares.items()}
    out["ece"] = {name: expected_calibration_error(table, labels) for name, table in shares.items()}
    out["coverage"], out["false_alarms"] = None, None
    sets = [one.prediction_sets for one in told if one.prediction_sets is not None]
    if len(sets) == len(told):
        table = np.concatenate(sets)
        sizes = table.sum(axis=1)
        reached = float(table[np.arange(len(labels)), labels].mean())
        out["coverage"] = {
            **{"stated": wanted.coverage, "reached": reached, "ci95": list(share_interval(reached, clips=clips))},
            **{"mean_size": float(sizes.mean()), "single": float((sizes == 1).mean())},
        }
    alarms = [one.unknown for one in told if one.unknown is not None]
    if len(alarms) == len(told):
        reached = float(np.concatenate(alarms).mean())
        out["false_alarms"] = {
            **{"stated": wanted.false_alarms, "reached": reached},
            "ci95": list(share_interval(reached, clips=clips)),
        }
    return out


def by_seed(trials: Sequence[Predictions]) -> Mapping[int, list[Predictions]]:
    """The trials of each seed, by fold."""
    out: dict[int, list[Predictions]] = {}
    for trial in sorted(trials, key=lambda one: (one.about["seed"], one.about["fold"])):
        out.setdefault(int(trial.about["seed"]), []).append(trial)
    return out


def others_of(trial: Predictions, trials: Sequence[Predictions]) -> list[Predictions]:
    """The trials of the same seed that held out other folds; the trial itself where there are none."""
    same = by_seed(trials)[int(trial.about["seed"])]
    return [one for one in same if one.about["fold"] != trial.about["fold"]] or [trial]


def _log_loss(shares: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return log_loss(np.log(np.maximum(shares, 1e-300)), labels)
