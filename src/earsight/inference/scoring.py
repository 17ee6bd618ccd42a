"""Evaluate a model file on labelled clips, and time one clip.

Comes in: a classifier and a data set. Goes out: a dictionary with accuracy, its interval and the classes' figures, and
of a calibrated model its calibration error and the coverage of its prediction sets. It also holds whether the model was
trained or calibrated on these clips. The time is that from a wave in memory to its probabilities.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.calibration.apply import threshold_of
from earsight.calibration.ood import share_interval
from earsight.calibration.temperature import binary_calibration_error, expected_calibration_error
from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.data.splits import PARTS
from earsight.errors import DataError
from earsight.evaluation.event_scores import TOLERANCE, Span, score_events
from earsight.evaluation.metrics import accuracy, log_loss, logit, macro_f1, per_class
from earsight.evaluation.multilabel import binary_log_loss, f1_at
from earsight.evaluation.statistics import ClipMeans, bootstrap_accuracy, share_limits
from earsight.evaluation.summary import Predictions, base_rates, summarize_several
from earsight.inference.classifier import Classifier
from earsight.inference.events import EventRules
from earsight.inference.formats import harmless
from earsight.inference.predictions import Prediction
from earsight.models.card import ModelCard
from earsight.recipe import Recipe
from earsight.training.preparation import hold_out

WARM_UP = 2


def milliseconds_per_clip(classifier: Classifier, *, repeats: int = 15) -> float:
    """Median time in milliseconds from a wave to its probabilities, one clip at a time, of ``repeats`` after a warm-up.

    Without decoding and resampling; on the classifier's device, with the threads that torch has.
    """
    wave = np.random.default_rng(0).normal(0, 0.1, (1, classifier.samples)).astype(np.float32)
    times = []
    for turn in range(WARM_UP + repeats):
        started = time.perf_counter()
        classifier.probabilities(wave)  # returns an array on the host, so a GPU has finished
        if turn >= WARM_UP:
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def evaluate(
    classifier: Classifier,
    dataset: Dataset,
    *,
    fold: int | None = None,
    first: bool = False,
    skip_bad: bool = False,
    damaged: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Predict a data set's clips and compare with their labels.

    Clips that are longer than the model's window by more than a tenth are classified whole, or with ``first`` by their
    first window. Without ``fold`` these are the clips that were held out, where the model was trained on this data set;
    else all, as for an ensemble whose members held out other folds, so that together they saw every clip. With
    ``skip_bad`` unreadable clips are left out; with ``damaged`` damaged and cut ones are classified by what is whole of
    them. ``progress`` is called with (clips done, clips in all).

    Returns ``accuracy`` (mean, ci95), ``macro_f1``, what `earsight.evaluation.summary.base_rates` returns, ``clips``,
    ``fold`` (None where the clips are no fold), ``held_out`` (whether they are what training held out),
    ``seen_in_training`` (None where it is not known), ``classes``, ``skipped`` and, of clips that were classified by
    what is whole of them, ``damaged``; where clips were cut into several windows also ``long``: ``clips``, ``windows``,
    ``agreement`` (of all these windows with their clips), ``calibrated``, as in `Prediction`, and, how many are
    ``beyond`` the ``most_seconds`` that training judged of a clip. Of a calibrated model also ``confidence``: ``ece``
    and ``log_loss`` at the model's temperature, ``unknown`` (share of the clips, with ``ci95`` and the ``stated`` rate)
    and ``coverage`` (``stated``, ``reached``, ``ci95``, ``mean_size``) of the sets, either None where it has none, and
    ``calibrated_on_these``: whether some of the clips calibrated the model, so that these figures are optimistic. Where
    the model's classes may sound together it returns what `_several_result` adds in place of accuracy, macro F1 and
    base rates.

    DataError if a label is unknown to the model, the fold is not there, or clips cannot be read.
    """
    check_labels(classifier, dataset)
    trained, fold_held = trained_rows(classifier, dataset)
    wanted = np.ones(len(dataset.clips), dtype=bool)
    if fold is not None:
        wanted = dataset.folds == fold
    elif trained is not None and not trained.all():
        wanted, fold = ~trained, fold_held
    rows = np.flatnonzero(wanted)
    if not len(rows):
        raise DataError(f"fold {fold}: not in this data set; its folds are {list(dataset.fold_numbers)}")
    how = {"first": first, "damaged": damaged}
    good, found, skipped = _predictions(classifier, dataset, rows, how=how, skip_bad=skip_bad, progress=progress)
    about = {
        "clips": len(good),
        "fold": fold,
        "part": PARTS.get(fold) if dataset.split and fold is not None else None,
        "held_out": trained is not None and not trained.all() and bool((wanted == ~trained).all()),
        "seen_in_training": _seen(classifier, dataset, trained, rows),
        "skipped": skipped,
        **_damaged(dataset, good, found),
        **_long(found, classifier.card.recipe),
    }
    if classifier.card.several:
        result = _several_result(classifier, dataset, good, found) | about
        if classifier.card.calibration or classifier.card.temperatures:
            result["confidence"]["calibrated_on_these"] = _calibrated_on(classifier.card, dataset, rows)
        return result
    number = {name: index for index, name in enumerate(classifier.classes)}
    truth = np.array([number[dataset.clips[row].label] for row in good])
    guess = np.array([number[one.label] for one in found])
    groups = dataset.groups[good] if dataset.sources_known else None
    means = ClipMeans(good, (truth == guess).astype(np.float64), np.zeros(len(truth), dtype=np.int64), groups)
    interval = bootstrap_accuracy(means.correct, folds=means.folds, groups=groups)
    result = {
        "accuracy": {"mean": accuracy(truth, guess), "ci95": [interval.low, interval.high]},
        "macro_f1": macro_f1(truth, guess, classes=len(classifier.classes)),
        **base_rates(truth, means, truth, guess, classes=classifier.classes),
        "classes": _by_class(classifier.classes, truth, guess),
        **about,
    }
    if classifier.card.calibration.keys() & {"unknown", "sets"}:
        result["confidence"] = {
            **confidence_figures(classifier.card, truth, found, groups=groups),
            "calibrated_on_these": _calibrated_on(classifier.card, dataset, rows),
        }
    return result


def _damaged(dataset: Dataset, rows: NDArray[np.int64], found: Sequence[Prediction]) -> dict[str, Any]:
    """What is wrong with clips that were classified all the same; nothing without such."""
    hurt = [f"{dataset.clips[row].path}: {one.damage}" for row, one in zip(rows, found, strict=True) if one.damage]
    return {"damaged": hurt} if hurt else {}


def _long(found: Sequence[Prediction], recipe: Recipe) -> dict[str, Any]:
    """Figures of clips that were cut into several windows; nothing without such."""
    long = [one for one in found if one.windows > 1]
    if not long:
        return {}
    agreement = float(np.average([one.agreement for one in long], weights=[one.windows for one in long]))
    windows, features = sum(one.windows for one in long), recipe.features
    most = recipe.training.most_seconds if recipe.training.windows == "all" else float(features.clip_seconds)
    judged = len(audio.windows(round(most * features.rate), features.samples))
    out = {"clips": len(long), "windows": windows, "agreement": agreement, "calibrated": long[0].calibrated}
    beyond = sum(one.windows > judged for one in long)
    return {"long": out | ({"beyond": beyond, "most_seconds": most} if beyond else {})}


def _several_result(
    classifier: Classifier, dataset: Dataset, rows: NDArray[np.int64], found: Sequence[Prediction]
) -> dict[str, Any]:
    """Scores of clips with several labels, as `earsight.evaluation.summary.summarize_several` has them.

    F1, precision and recall are those at the model's thresholds, of which ``classes`` have one each. ``confidence`` is
    the calibration error of all yes and no, the binary log loss, and the share called unknown. A data set of one label
    a clip tests such a model too: all other classes are then absent.
    """
    card = classifier.card
    place = {name: index for index, name in enumerate(card.classes)}
    marks = np.zeros((len(rows), len(place)), dtype=np.float32)
    columns = [place[name] for name in dataset.classes]
    marks[:, columns] = dataset.targets[rows]
    shares = np.zeros(marks.shape)
    for row, one in enumerate(found):
        shares[row, [place[name] for name in one.classes]] = one.probabilities
    thresholds = np.array([threshold_of(card, name) for name in card.classes])
    trial = Predictions(
        clips=np.array([dataset.clips[row].name for row in rows]),
        labels=np.full(len(rows), -1),
        # Ranks are all that counts of them here, and these are exact.
        logits=logit(shares).astype(np.float64),
        classes=card.classes,
        about={"fold": 0, "seed": 0, "epoch": 0, "seconds": 0.0, "protocol": "", "recipe_digest": "", "dataset": {}},
        groups=dataset.groups[rows] if dataset.sources_known else None,
        targets=marks,
    )
    summary = summarize_several([trial], machine={})
    f1 = f1_at(marks, shares, thresholds)
    out = {name: summary[name] for name in ("several", "average_precision", "auroc", "classes", "groups")}
    out["average_precision"].pop("std")
    out["f1"] = {"threshold": "the model's thresholds", "micro": f1.micro, "macro": f1.macro}
    for number, row in enumerate(out["classes"]):
        row |= {name: float(getattr(f1, name)[number]) for name in ("precision", "recall", "f1")}
        row["threshold"] = float(thresholds[number])
    out["without_positives"] = [{"classes": one["classes"]} for one in summary["without_positives"]]
    unknown = card.calibration.get("unknown")
    strange = np.array([one.unknown for one in found])
    limits = share_limits(strange, share_interval, clips=trial.clips, groups=trial.groups)
    out["confidence"] = {
        "ece": binary_calibration_error(shares, marks),
        "log_loss": binary_log_loss(marks, logit(shares)),
        "unknown": {"stated": unknown["rate"], "share": float(strange.mean()), "ci95": list(limits)}
        if unknown
        else None,
        "coverage": None,
        "calibrated_on_these": None,
    }
    return out


def evaluate_events(
    classifier: Classifier,
    root: Path,
    truth: Sequence[Span],
    seconds: Mapping[str, float],
    *,
    hop_seconds: float = 1.0,
    rules: EventRules | None = None,
    tolerance: float = TOLERANCE,
    open_to: Sequence[Span] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Find the events of annotated recordings, and compare them with what was annotated.

    ``seconds`` has the length of each recording, by its path below ``root``; those without an annotation count too.
    ``hop_seconds`` and ``rules`` are those of `Classifier.events`; ``tolerance`` and ``open_to`` of `score_events`.

    Returns what `earsight.evaluation.event_scores.score_events` does, with ``recordings`` and ``hop_seconds``.

    DataError if a label is unknown to the model; AudioError if a recording cannot be read to its end.
    """
    check_known(classifier, {span.label for span in truth})
    found = []
    for done, path in enumerate(sorted(seconds), start=1):
        for event in classifier.events(root / path, hop_seconds=hop_seconds, rules=rules):
            found.append(Span(path, event.begin_seconds, event.end_seconds, event.label))
        if progress:
            progress(done, len(seconds))
    scores = score_events(truth, found, tolerance=tolerance, hours=sum(seconds.values()) / 3600, open_to=open_to)
    return {**scores, "recordings": len(seconds), "hop_seconds": hop_seconds}


def recordings_that_test(
    classifier: Classifier, dataset: Dataset, paths: Iterable[str], *, fold: int | None = None
) -> tuple[set[str], dict[str, Any]]:
    """The recordings that test a model's events, of ``paths``, and what `evaluate` says of clips: fold, held out, seen.

    ``dataset`` are their windows. Without ``fold`` they are those of which no window trained the model, where it was
    trained on these windows; else all. DataError if no recording is in the fold.
    """
    trained, held = trained_rows(classifier, dataset)
    owners = np.array([clip.path for clip in dataset.clips])
    chosen, out = set(paths), False
    if fold is not None:
        chosen &= set(owners[dataset.folds == fold])
    elif trained is not None and not trained.all():
        chosen, fold, out = chosen - set(owners[trained]), held, True
    if not chosen:
        raise DataError(f"fold {fold}: not in this data set; its folds are {list(dataset.fold_numbers)}")
    seen = _seen(classifier, dataset, trained, np.flatnonzero(np.isin(owners, sorted(chosen))))
    return chosen, {"fold": fold, "held_out": out, "seen_in_training": seen}


def confidence_figures(
    card: ModelCard, truth: NDArray[np.int64], found: Sequence[Prediction], *, groups: NDArray[np.str_] | None = None
) -> dict[str, Any]:
    """Calibration error, OOD rate and coverage of a calibrated model on clips of known classes; see `evaluate`."""

    def limits(hits: NDArray[np.bool_]) -> list[float]:
        return list(share_limits(hits, share_interval, clips=np.arange(len(hits)), groups=groups))

    number = {name: index for index, name in enumerate(card.classes)}
    shares = np.zeros((len(found), len(number)))
    inside = np.zeros(shares.shape, dtype=bool)
    for row, one in enumerate(found):
        shares[row, [number[name] for name in one.classes]] = one.probabilities
        inside[row, [number[name] for name in one.plausible]] = True
    unknown, sets = card.calibration.get("unknown"), card.calibration.get("sets")
    out: dict[str, Any] = {
        "ece": expected_calibration_error(shares, truth),
        "log_loss": log_loss(np.log(np.maximum(shares, 1e-30)), truth),
        "unknown": None,
        "coverage": None,
    }
    if unknown:
        strange = np.array([one.unknown for one in found])
        out["unknown"] = {"stated": unknown["rate"], "share": float(strange.mean()), "ci95": limits(strange)}
    if sets:
        hits, size = inside[np.arange(len(truth)), truth], float(inside.sum(axis=1).mean())
        reached = {"reached": float(hits.mean()), "mean_size": size, "ci95": limits(hits)}
        out["coverage"] = {"stated": sets["coverage"], **reached}
    return out


def check_labels(classifier: Classifier, dataset: Dataset) -> None:
    """Raise DataError where labels are no classes of the model, or clips have several and the model names one."""
    if dataset.several and not classifier.card.several:
        raise DataError(
            "clips have several labels, and this model was trained to name one; train it on such clips, or take those "
            "with one label"
        )
    check_known(classifier, dataset.classes)


def check_known(classifier: Classifier, labels: Iterable[str]) -> None:
    """The same for labels of any source."""
    unknown = sorted(set(labels) - set(classifier.classes))
    if unknown:
        raise DataError(
            f"the model does not know {', '.join(unknown[:3])}; "
            f"its classes are {harmless(', '.join(classifier.classes[:12]))}; leave others out (boxes: --skip-rare)"
        )


def _predictions(
    classifier: Classifier,
    dataset: Dataset,
    rows: NDArray[np.int64],
    *,
    how: dict[str, bool],
    skip_bad: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.int64], list[Prediction], list[str]]:
    """The readable rows, their predictions, and errors of the others."""
    good: dict[int, Prediction] = {}
    skipped = []
    predictions = classifier.predict_files((dataset.file(int(row)) for row in rows), **how)
    for done, (row, found) in enumerate(zip(rows.tolist(), predictions, strict=True), start=1):
        if found.error:
            skipped.append(f"{dataset.clips[row].name}: {found.error}")
        else:
            good[row] = found
        if progress:
            progress(done, len(rows))
    if skipped and (not skip_bad or not good):
        raise DataError(
            f"{len(skipped)} of {len(rows)} clips cannot be read: {'; '.join(skipped[:3])}\n"
            "Mend or remove them, or leave them out with --skip-bad."
        )
    return np.array(list(good), dtype=np.int64), list(good.values()), skipped


def _calibrated_on(card: ModelCard, dataset: Dataset, rows: NDArray[np.int64]) -> bool | None:
    """Whether some of the rows calibrated the model; None where the model file does not show it."""
    about = card.trained_on
    if about.get("digest") == dataset.digest:
        return bool(np.isin(dataset.folds[rows], card.calibration.get("folds", [])).any())
    if about.get("clips_digest") != dataset.clips_digest:
        return None
    # The same clips in other folds: those that were held out from training are those that calibrated.
    return True if card.calibration.get("own_held_out") else None


def _by_class(classes: tuple[str, ...], truth: NDArray[np.int64], guess: NDArray[np.int64]) -> list[dict[str, Any]]:
    table = per_class(truth, guess, classes=len(classes))
    columns = zip(classes, table.support.tolist(), table.precision.tolist(), table.recall.tolist(), strict=True)
    return [dict(zip(("name", "clips", "precision", "recall"), row, strict=True)) for row in columns]


def trained_rows(classifier: Classifier, dataset: Dataset) -> tuple[NDArray[np.bool_] | None, int | None]:
    """Rows that some member was trained on, and the fold of the other rows; None if the model file does not show it."""
    found = [_trained_by(card, dataset) for card in classifier.card.members or (classifier.card,)]
    rows = [mask for mask, _ in found if mask is not None]
    if len(rows) < len(found):
        return None, None
    folds = {fold for _, fold in found}
    return np.logical_or.reduce(rows), folds.pop() if len(folds) == 1 else None


def _trained_by(card: ModelCard, dataset: Dataset) -> tuple[NDArray[np.bool_] | None, int | None]:
    """The same for one network; clips held out by a seed are found by repeating the draw."""
    about = card.trained_on
    fold, seed = about.get("fold"), about.get("seed")
    if fold is None:
        return None, None
    if about.get("digest") == dataset.digest:
        return dataset.folds != fold, fold
    if about.get("clips_digest") != dataset.clips_digest or seed is None:
        return None, None
    split = hold_out(dataset, seed=seed, kept=lambda: {about["digest"]})
    return (split.folds != fold, None) if split.digest == about["digest"] else (None, None)


def _seen(
    classifier: Classifier, dataset: Dataset, trained: NDArray[np.bool_] | None, rows: NDArray[np.int64]
) -> bool | None:
    """Whether any of the rows trained the model; None if the model file does not show it."""
    if trained is not None:  # validation clips train nothing
        return bool((trained & ~dataset.validation)[rows].any())
    cards = classifier.card.members or (classifier.card,)
    return True if any(card.trained_on.get("clips_digest") == dataset.clips_digest for card in cards) else None
