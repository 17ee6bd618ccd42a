"""A run folder's predictions, and the summary derived from them alone.

Comes in: a run folder of ``fold-k/seed-s/predictions.npz``. Goes out: `Predictions`, and the dictionary that is kept as
``summary.json``. A summary computed again has the same bytes, except for the machine.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.data.splits import VALIDATION
from earsight.errors import EarsightError, RunError, counted
from earsight.evaluation import multilabel
from earsight.evaluation.metrics import accuracy, balanced_accuracy, logit, macro_f1, never_predicted, sigmoid, softmax
from earsight.evaluation.statistics import (
    FEW_GROUPS,
    ClipMeans,
    against_constant,
    average_seeds,
    bootstrap_accuracy,
    paired_difference,
    shared_groups,
    variance_parts,
)
from earsight.files import read_arrays, read_state, say_once, write_state

_NAMES = ("clip", "label", "target", "logits", "classes", "distance", "group", "sound")
_TABLES = 5
"""At most so many csv files are opened for a run's sources."""


@dataclass(frozen=True)
class Predictions:
    """A trial's predictions for its held-out fold.

    ``clips`` are manifest paths, shape (clips,); ``labels`` have that shape, ``logits`` (clips, classes). ``about`` has
    fold, seed, seconds, protocol, recipe digest, data set, and ``pooled``, how many clips have several windows.
    ``distance``: each clip's Mahalanobis distance from the training clips, if measured. ``groups``: each clip's source,
    where the data set knows them; older runs have none. ``targets``, shape (clips, classes), of clips that may have
    several labels: 1, 0, or NaN where that is not known; ``labels`` are then all -1. ``validation``: what the same
    network predicts for the validation part, where there is one; from `read_run` alone. ``sounds``, shape (clips, 16):
    a digest of each decoded sound, where a clip is a file and one window: it shows whether files were exchanged.
    """

    clips: NDArray[np.str_]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    classes: tuple[str, ...]
    about: Mapping[str, Any]
    distance: NDArray[np.float64] | None = None
    groups: NDArray[np.str_] | None = None
    targets: NDArray[np.float32] | None = None
    validation: Predictions | None = None
    sounds: NDArray[np.uint8] | None = None

    @property
    def marks(self) -> NDArray[np.float32]:
        """The targets of clips that may have several labels."""
        if self.targets is None:
            raise RuntimeError("clips with one label have labels, not targets")
        return self.targets

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the highest logit is the label's, shape (clips,)."""
        if self.targets is not None:
            raise RuntimeError("clips with several labels have no one label that would be right")
        return np.asarray(self.logits.argmax(axis=1) == self.labels)

    @property
    def sources_unknown(self) -> bool:
        """Whether a version wrote this that kept no sources, and they are not known from elsewhere."""
        return self.groups is None and "held_out" not in self.about.get("dataset", {"held_out"})


def read_predictions(path: Path) -> Predictions:
    """Read one ``predictions.npz``; RunError if it is missing, broken, or lacks an array.

    Where a version wrote it that kept no sources, these are the data set's, if it is where ``trial.json`` says.
    """
    if not path.exists():
        raise RunError(f"{path}: not there; the trial has not ended: run the same command again")
    what, remedy = "a predictions file of earsight", "remove its folder and run again"
    about, held = read_arrays(path, _NAMES, what=what, remedy=remedy, error=RunError)
    try:
        targets = held.get("target")
        found = Predictions(
            clips=held["clip"],
            labels=held["label"] if targets is None else np.full(len(held["clip"]), -1),
            logits=held["logits"],
            classes=tuple(str(name) for name in held["classes"]),
            about=about,
            distance=held.get("distance"),
            groups=held.get("group"),
            targets=targets,
            sounds=held.get("sound"),
        )
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: not {what} ({error}); {remedy}") from error
    check_place(path.parent, found.about)
    found = _of_its_trial(path, found)
    known = _sources(path.with_name("trial.json"), found.about) if found.sources_unknown else ()
    return next((named for one in known if not (named := _named(found, one)).sources_unknown), found)


def _of_its_trial(path: Path, found: Predictions) -> Predictions:
    """Predictions that say of which state of the sound files they are, as trial.json does beside older ones.

    RunError if they are of another trial than that file says.
    """
    try:
        stated = read_state(path.with_name("trial.json"), {}, remedy="")
    except EarsightError:  # predictions that lie alone; `crossval` names what is damaged
        return found
    state = stated.get("pictures")
    about = {"identity": state, **found.about}
    pairs = {
        "recipe": (stated.get("recipe"), about.get("recipe_digest")),
        "data set": (stated.get("dataset"), about.get("dataset", {}).get("digest")),
        "state of the sound files": (state, about["identity"]),
    }
    if differ := [name for name, (a, b) in pairs.items() if None not in (a, b) and a != b]:
        raise RunError(
            f"{path}: is of another {differ[0]} than trial.json beside it, so files were exchanged; put them back, or "
            "remove the folder and run again"
        )
    return replace(found, about=about)


def check_place(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise `RunError` where a trial's folder, ``fold-K/seed-S``, holds a file ``about`` another fold or seed.

    Copied or exchanged within a run, it would count twice, or be tested on clips that it was trained on.
    """
    names = [f"{name}-{about[name]}" if about.get(name) is not None else None for name in ("fold", "seed")]
    found = [folder.parent.name, folder.name]
    if found[0].startswith("fold-") and any(name not in (None, one) for name, one in zip(names, found, strict=True)):
        named = " ".join(name.replace("-", " ") for name in names if name)
        raise RunError(
            f"{folder}: holds files of {named}, so folders were copied or exchanged; put them back, or move what is "
            "too many out of the run folder"
        )


def read_run(run: Path, *, several: bool = False) -> list[Predictions]:
    """The predictions of every finished trial of a run folder, by fold and seed; RunError if there is none.

    So it is where they are of different recipes, protocols or data sets, as after folders of two runs were exchanged.
    ``several``: whether the caller can do with clips of several labels; else they are refused, by RunError.
    Where a version wrote some that kept no sources, these are from the other trials too.
    """
    if not run.is_dir():
        raise RunError(f"{run}: no such run folder; `earsight crossval DATA --out {run}` or earsight.crossval make it")
    found = [read_predictions(path.with_name("predictions.npz")) for path in run.glob("fold-*/seed-*/DONE")]
    open_ones = sorted({path.parent for path in run.glob("fold-*/seed-*/*") if not (path.parent / "DONE").is_file()})
    if found and open_ones:
        names = ", ".join(path.relative_to(run).as_posix() for path in open_ones[:3])
        what = f"{counted(len(open_ones), 'trial')} without DONE left out ({names})"
        say_once(f"{run}: {what}; the command that made the run goes on with what is not finished")
    if found and (gone := _summarised(run) - {path.relative_to(run).as_posix() for path in run.glob("fold-*/seed-*")}):
        say_once(
            f"{run}: {', '.join(sorted(gone))}, of which summary.json tells, {'is' if len(gone) == 1 else 'are'} not "
            "there: every figure is of the trials that are; the command that made the run makes the others again"
        )
    if not found:
        raise RunError(f"{run}: no finished trial in it (fold-K/seed-S/DONE); run the command that made it again")
    _check_one_run(found)
    if not several:
        refuse_several(found, where=str(run))
    found = sorted(found, key=lambda item: (item.about["fold"], item.about["seed"]))
    found = [replace(trial, validation=_validation(run, trial)) for trial in found]
    if not any(trial.sources_unknown for trial in found):
        return found
    known = {
        clip: group
        for trial in found
        if trial.groups is not None
        for clip, group in zip(_labelled(trial), trial.groups.tolist(), strict=True)
    }
    return [_named(trial, known) if trial.sources_unknown else trial for trial in found]


def _summarised(run: Path) -> set[str]:
    """The trials that a run's summary has a row of, as fold-K/seed-S; none if it cannot be read."""
    try:
        rows = read_state(run / "summary.json", {"folds": list}, remedy="")["folds"]
        return {f"fold-{row['fold']}/seed-{row['seed']}" for row in rows}
    except (EarsightError, OSError, LookupError, TypeError):  # `earsight report` names what is damaged
        return set()


def _validation(run: Path, trial: Predictions) -> Predictions | None:
    """What the trial's network predicts for the validation part; RunError if it is another's."""
    path = run / f"fold-{trial.about['fold']}" / f"seed-{trial.about['seed']}" / "validation.npz"
    if not path.is_file():
        return None
    found = read_predictions(path)
    alike = {"part": VALIDATION, "pooled": 0, "weights": ""}
    if {**found.about, **alike} != {**trial.about, **alike} or found.about.get("part") != VALIDATION:
        raise RunError(f"{path}: is of another trial than predictions.npz beside it; remove its folder and run again")
    return found


SOURCES_UNKNOWN = (
    "its predictions are of a version that kept no sources, and its data set is not where it was: where clips share "
    "sources, the intervals are too narrow"
)


def _sources(trial: Path, about: Mapping[str, Any]) -> Sequence[dict[tuple[str, str], str]]:
    """The source of each (clip, label) of the data sets where a ``trial.json`` says that its own was; none if moved."""
    try:
        root = Path(read_state(trial, {"root": str}, remedy="")["root"])
        tables = sorted(root.glob("*.csv"))[:_TABLES]
        stamp = tuple(place.stat().st_mtime_ns for place in (root, *tables))
    except (EarsightError, OSError):  # moved, or an ensemble's, which names none
        return ()
    return _sources_of((root, *tables), stamp, about["dataset"]["name"])


@functools.lru_cache(maxsize=8)
def _sources_of(places: tuple[Path, ...], stamp: tuple[int, ...], name: str) -> tuple[dict[tuple[str, str], str], ...]:
    """The sources that the data sets in some places know, which have not changed since ``stamp``."""
    from earsight.data.layouts import open_dataset
    from earsight.data.published import SUBSETS

    out = []
    for place in places:
        try:
            found = open_dataset(place, folds=None, subset=name if name in SUBSETS else None, skip_missing=True)
        except EarsightError:
            continue
        if found.sources_known:
            out.append({(clip.path, clip.label): clip.group for clip in found.clips})
    return tuple(out)


def _named(trial: Predictions, known: Mapping[tuple[str, str], str]) -> Predictions:
    """A trial with the sources of its clips, if all are known by clip and label."""
    clips = _labelled(trial)
    return replace(trial, groups=np.array([known[clip] for clip in clips])) if known.keys() >= set(clips) else trial


def _labelled(trial: Predictions) -> list[tuple[str, str]]:
    return [
        (clip, trial.classes[label]) for clip, label in zip(trial.clips.tolist(), trial.labels.tolist(), strict=True)
    ]


def _check_one_run(trials: Sequence[Predictions]) -> None:
    """Raise RunError if trials are of different recipes, protocols, data sets or states of the sound files."""
    for name in ("recipe_digest", "protocol", "dataset", "identity"):
        found = [trial.about["dataset"]["digest"] if name == "dataset" else trial.about.get(name) for trial in trials]
        values = sorted({str(value) for value in found if value is not None})
        if len(values) > 1:
            what = "the state of the sound files" if name == "identity" else f"{name} ({', '.join(values)})"
            raise RunError(f"the trials differ in {what}: keep one run to a folder")


def refuse_several(trials: Sequence[Predictions], *, where: str) -> None:
    """Raise RunError if clips may have several labels, for callers that can only do with one."""
    if any(trial.targets is not None for trial in trials):
        raise RunError(
            f"{where}: its clips have several labels each, and this is for runs of one label a clip; `earsight "
            "summary`, `compare` and `calibrate` do for both"
        )


def summarize(trials: list[Predictions], *, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of some trials, of one recipe on one data set; ``machine`` is copied into it.

    It has what `base_rates` returns, ``accuracy`` (mean and standard deviation over folds, 95 % interval by bootstrap
    over clips within folds, or over groups where clips share them), ``macro_f1``, ``folds``, ``protocol``,
    ``recipe_digest``, ``dataset`` and ``machine``. With several seeds, each on each fold: ``accuracy.std_over_seeds``
    (of the mean over folds), ``accuracy.std_parts`` (the deviation between folds without the seeds' share, and that
    between the seeds of a fold), and ``ensemble`` (accuracy with its interval, members, and the gain over a single
    network, paired over clips). RunError if the trials are of different recipes, protocols or data sets.
    """
    _check_one_run(trials)
    if trials[0].targets is not None:
        return summarize_several(trials, machine=machine)
    first, means = trials[0].about, clip_means(trials)
    interval = bootstrap_accuracy(means.correct, folds=means.folds, groups=means.groups)
    rows = [
        {
            "fold": trial.about["fold"],
            "seed": trial.about["seed"],
            "accuracy": accuracy(trial.labels, trial.logits.argmax(axis=1)),
            "clips": len(trial.labels),
            "epoch": trial.about["epoch"],
            "seconds": trial.about["seconds"],
        }
        for trial in trials
    ]
    by_fold, by_seed = defaultdict(list), defaultdict(list)
    for row in rows:
        by_fold[row["fold"]].append(row["accuracy"])
        by_seed[row["seed"]].append(row["accuracy"])
    labels, predictions = labels_and_predictions(trials)
    fold_means = [float(np.mean(values)) for values in by_fold.values()]
    seed_means = [float(np.mean(values)) for values in by_seed.values()]
    out: dict[str, Any] = {
        "accuracy": {
            "mean": float(np.mean(fold_means)),
            "std": _deviation(fold_means),
            "ci95": [interval.low, interval.high],
        },
        "macro_f1": macro_f1(labels, predictions, classes=len(trials[0].classes)),
        "folds": rows,
    }
    known = dict(zip(np.concatenate([trial.clips for trial in trials]).tolist(), labels.tolist(), strict=True))
    truth = np.array([known[clip] for clip in means.clips.tolist()])
    out |= base_rates(truth, means, labels, predictions, classes=trials[0].classes)
    if len(by_seed) > 1 and len(rows) == len(by_seed) * len(by_fold):  # each seed on each fold, or they do not compare
        out["accuracy"]["std_over_seeds"] = _deviation(seed_means)
        if len(by_fold) > 1:
            parts = variance_parts(np.array(list(by_fold.values())))
            out["accuracy"]["std_parts"] = {"folds": parts.fold_variance**0.5, "seeds": parts.seed_variance**0.5}
        out["ensemble"] = {**_ensemble(trials, means), "members": len(by_seed)}
    return out | {name: first[name] for name in ("protocol", "recipe_digest", "dataset")} | {"machine": dict(machine)}


def base_rates(
    truth: NDArray[np.int64],
    means: ClipMeans,
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    *,
    classes: Sequence[str],
) -> dict[str, Any]:
    """What an accuracy has to be set against, as JSON values.

    ``truth`` (clips,) are the labels of ``means``, ``labels`` and ``predictions`` those of every seed's predictions.

    Returns ``balanced_accuracy``; ``majority``: always saying the commonest ``label``, its accuracy ``share``, the
    network's ``difference`` over it with ``ci95`` and ``p_value``, and whether that is ``beaten`` beyond the noise
    (None where all clips are of one class); ``never_predicted``, classes that have clips; and ``groups``: the
    ``count`` of sources that the intervals are over, and whether these are ``few`` (None where they are over clips).
    """
    always = against_constant(truth, means.correct, folds=means.folds, groups=means.groups)
    groups = shared_groups(means.groups)
    majority = {"label": classes[always.label], "share": always.share, "difference": always.gain.difference}
    majority |= {"ci95": [always.gain.low, always.gain.high], "p_value": always.gain.p_value, "beaten": always.beaten}
    missed = never_predicted(labels, predictions, classes=len(classes))
    return {
        "balanced_accuracy": balanced_accuracy(labels, predictions, classes=len(classes)),
        "majority": majority if len(np.unique(truth)) > 1 else None,
        "never_predicted": [classes[number] for number in missed],
        "groups": {"count": groups, "few": groups < FEW_GROUPS} if groups else None,
    }


def write_summary(run: Path, *, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Summarise a run folder into its ``summary.json`` and return the same."""
    summary = summarize(read_run(run, several=True), machine=machine)
    write_state(run / "summary.json", summary, indent=2)
    return summary


def summarize_several(trials: list[Predictions], *, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of trials whose clips may have several labels.

    It has ``several``; ``average_precision``: the mean over folds of the mean over classes (macro), its ``std`` and
    ``ci95``, and ``chance``, what scores that say nothing would reach; ``auroc`` (mean, ci95); ``f1`` (micro and macro
    at a ``threshold`` of 1/2); ``classes``: name, clips, average precision with its interval, chance, AUROC and F1;
    ``without_positives``: classes by fold that have no positive clip there, or no negative one, and are left out of its
    mean; ``groups``, ``folds``, ``protocol``, ``recipe_digest``, ``dataset`` and ``machine``; with several seeds also
    ``average_precision.std_over_seeds`` and ``ensemble``. Intervals: bootstrap over groups, else clips within folds; of
    a class that sounds in one group alone, from 0 to 1.
    """
    first, classes = trials[0].about, trials[0].classes
    drawn, rows_of, groups = clip_draws(trials)
    tables: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    rows = []
    for trial in trials:
        weights = drawn[:, rows_of(trial)]
        for name, measure, exact in _MEASURES:
            tables[name].append(exact(trial.marks, trial.logits))
            tables[f"{name}_draws"].append(multilabel.resampled(trial.marks, trial.logits, weights, measure))
        rows.append(
            {
                "fold": trial.about["fold"],
                "seed": trial.about["seed"],
                "average_precision": multilabel.mean_of(tables["average_precision"][-1]),
                "clips": len(trial.clips),
                "epoch": trial.about["epoch"],
                "seconds": trial.about["seconds"],
            }
        )
    folds = np.array([row["fold"] for row in rows])
    stacked = {name: np.stack(values) for name, values in tables.items()}
    by_seed: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        by_seed[row["seed"]].append(row["average_precision"])
    per_fold = over_folds(np.array([row["average_precision"] for row in rows]), folds, each=True)
    marks, logits = np.concatenate([one.marks for one in trials]), np.concatenate([one.logits for one in trials])
    f1 = multilabel.f1_at(marks, sigmoid(logits), 0.5)
    area = float(np.nan_to_num(over_folds(multilabel.means_of(stacked["auroc"], 1), folds)))
    out: dict[str, Any] = {
        "several": True,
        "average_precision": {
            "mean": float(per_fold.mean()),
            "std": _deviation(per_fold.tolist()),
            "ci95": macro_limits(stacked["average_precision_draws"], folds, around=float(per_fold.mean())),
            "chance": float(np.mean([multilabel.mean_of(_chance(one)) for one in trials])),
        },
        "auroc": {"mean": area, "ci95": macro_limits(stacked["auroc_draws"], folds, around=area)},
        "f1": {"threshold": 0.5, "micro": f1.micro, "macro": f1.macro},
        "classes": [],
        "without_positives": [
            {"fold": int(fold), "classes": [name for name, bare in zip(classes, lacking, strict=True) if bare]}
            for fold in np.unique(folds)
            if (lacking := np.isnan(stacked["average_precision"][folds == fold][0])).any()
        ],
        "groups": {"count": groups, "few": groups < FEW_GROUPS} if groups else None,
        "folds": rows,
    }
    clips, sole = distinct_positives(trials), _of_one_source(trials)
    for number, name in enumerate(classes):
        own = {key: table[..., number] for key, table in stacked.items()}
        found = over_folds(own["average_precision"], folds)
        out["classes"].append(
            {
                "name": name,
                "clips": clips[number],
                "average_precision": _number(found),
                "ci95": [0.0, 1.0]
                if sole[number]
                else multilabel.limits(over_folds(own["average_precision_draws"], folds), around=float(found)),
                "chance": _number(over_folds(np.stack([_chance(one)[number] for one in trials]), folds)),
                "auroc": _number(over_folds(own["auroc"], folds)),
                "precision": float(f1.precision[number]),
                "recall": float(f1.recall[number]),
                "f1": float(f1.f1[number]),
            }
        )
    if len(by_seed) > 1 and len(rows) == len(by_seed) * len(np.unique(folds)):
        out["average_precision"]["std_over_seeds"] = _deviation([float(np.mean(found)) for found in by_seed.values()])
        out["ensemble"] = _several_ensemble(trials, drawn, rows_of, stacked["average_precision_draws"], per_fold)
    return out | {name: first[name] for name in ("protocol", "recipe_digest", "dataset")} | {"machine": dict(machine)}


_MEASURES = (
    ("average_precision", multilabel.Ranking.average_precision, multilabel.average_precisions),
    ("auroc", multilabel.Ranking.auroc, multilabel.aurocs),
)


def clip_draws(
    trials: Sequence[Predictions],
) -> tuple[NDArray[np.float64], Callable[[Predictions], NDArray[np.int64]], int]:
    """Bootstrap weights of the trials' distinct clips (draws, clips), a trial's places in them, and how many groups.

    Clips are sorted by name, so that two runs on the same clips are redrawn alike. 0 groups: clips were redrawn.
    """
    folds = np.concatenate([np.full(len(one.clips), one.about["fold"]) for one in trials])
    names, first = np.unique(np.concatenate([one.clips for one in trials]), return_index=True)
    groups = clip_groups(trials)
    own = None if groups is None else groups[first]
    count = multilabel.draws_for(len(names), len(trials[0].classes))
    drawn = multilabel.resamples(names, folds[first], own, draws=count)
    return drawn.weights, lambda one: np.searchsorted(names, one.clips), shared_groups(own)


def over_folds(values: NDArray[np.float64], folds: NDArray[Any], *, each: bool = False) -> NDArray[np.float64]:
    """Mean over folds of the mean over their seeds of values (trials, ...), without NaN; ``each`` fold by itself."""
    means = np.stack([multilabel.means_of(values[folds == fold], 0) for fold in np.unique(folds)])
    return means if each else multilabel.means_of(means, 0)


def macro_limits(draws: NDArray[np.float64], folds: NDArray[Any], *, around: float) -> list[float]:
    """The 95 % interval of a mean over folds and classes, of draws (trials, draws, classes)."""
    return multilabel.limits(over_folds(multilabel.means_of(draws, 2), folds), around=around)


def distinct_positives(trials: Sequence[Predictions]) -> list[int]:
    """How many clips each class sounds in; a clip that several seeds predicted counts once."""
    first = np.unique(np.concatenate([one.clips for one in trials]), return_index=True)[1]
    return [int(count) for count in (np.concatenate([one.marks for one in trials])[first] == 1).sum(axis=0)]


def _of_one_source(trials: Sequence[Predictions]) -> list[bool]:
    """Whether a class sounds in clips of one source alone, which redrawing sources cannot vary."""
    groups, marks = clip_groups(trials), np.concatenate([one.marks for one in trials])
    return [groups is not None and len(np.unique(groups[column == 1])) == 1 for column in marks.T]


def _chance(trial: Predictions) -> NDArray[np.float64]:
    """The share of a class's known clips that it sounds in: its average precision for scores that say nothing."""
    found = multilabel.means_of(trial.marks.astype(np.float64), 0)
    return np.where((found > 0) & (found < 1), found, np.nan)


def _number(value: NDArray[np.float64]) -> float | None:
    """A value for JSON; None for NaN."""
    return None if np.isnan(value) else float(value)


def seed_means(trials: Sequence[Predictions]) -> list[Predictions]:
    """For each fold the mean of its seeds' probabilities, as a trial of its first seed."""
    by_fold: dict[int, list[Predictions]] = defaultdict(list)
    for trial in trials:
        by_fold[trial.about["fold"]].append(trial)
    return [
        replace(found[0], logits=logit(np.mean([sigmoid(one.logits) for one in found], axis=0)).astype(np.float32))
        for found in by_fold.values()
    ]


def _several_ensemble(
    trials: Sequence[Predictions],
    drawn: NDArray[np.float64],
    rows_of: Callable[[Predictions], NDArray[np.int64]],
    single: NDArray[np.float64],
    per_fold: NDArray[np.float64],
) -> dict[str, Any]:
    """Average precision of the probabilities averaged over seeds, and its gain over a single network, paired."""
    members = seed_means(trials)
    measure = multilabel.Ranking.average_precision
    draws = np.stack([multilabel.resampled(one.marks, one.logits, drawn[:, rows_of(one)], measure) for one in members])
    folds = np.array([one.about["fold"] for one in members])
    found = float(np.mean([multilabel.mean_average_precision(one.marks, one.logits) for one in members]))
    owners = np.array([one.about["fold"] for one in trials])
    change = over_folds(multilabel.means_of(draws, 2), folds) - over_folds(multilabel.means_of(single, 2), owners)
    low, high = multilabel.limits(change)
    gain = {"difference": found - float(per_fold.mean()), "ci95": [low, high], "p_value": bootstrap_p(change)}
    return {
        "average_precision": found,
        "ci95": macro_limits(draws, folds, around=found),
        "gain": gain | {"beyond_noise": low > 0 or high < 0},
        "members": len(trials) // len(members),
    }


def bootstrap_p(change: NDArray[np.float64]) -> float:
    """Two-sided p-value of draws (draws,) of a difference: twice the share that lies beyond 0, at least 2 / draws."""
    found = change[~np.isnan(change)]
    tail = min(np.count_nonzero(found <= 0), np.count_nonzero(found >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(found) + 1)))


def labels_and_predictions(trials: Sequence[Predictions]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and predicted class numbers of all trials, one after the other, (predictions,) each."""
    predicted = [trial.logits.argmax(axis=1) for trial in trials]
    return np.concatenate([trial.labels for trial in trials]), np.concatenate(predicted)


def clip_means(trials: Sequence[Predictions], right: Sequence[NDArray[np.bool_]] | None = None) -> ClipMeans:
    """For each clip of some trials, the share of its predictions that is right.

    ``right`` are a trial's predictions each, (clips,) bool; default those it saved.
    """
    return average_seeds(
        np.concatenate([trial.correct for trial in trials] if right is None else right),
        clips=np.concatenate([trial.clips for trial in trials]),
        folds=np.concatenate([np.full(len(trial.labels), trial.about["fold"]) for trial in trials]),
        groups=clip_groups(trials),
    )


def clip_groups(trials: Sequence[Predictions]) -> NDArray[np.str_] | None:
    """Source of each prediction of some trials, one after the other, (predictions,); None if no trial knows any.

    In a trial of an older version, which does not know them, each clip is its own.
    """
    if all(trial.groups is None for trial in trials):
        return None
    return np.concatenate([trial.clips if trial.groups is None else trial.groups for trial in trials])


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _ensemble(trials: list[Predictions], single: ClipMeans) -> dict[str, Any]:
    """Accuracy of the probabilities averaged over seeds, mean over folds, as in the paper's Table II; and its gain."""
    by_fold: dict[int, list[Predictions]] = defaultdict(list)
    for trial in trials:
        by_fold[trial.about["fold"]].append(trial)
    right: dict[str, bool] = {}
    for members in by_fold.values():
        averaged = np.mean([softmax(member.logits) for member in members], axis=0)
        right |= zip(members[0].clips.tolist(), averaged.argmax(axis=1) == members[0].labels, strict=True)
    own = np.array([right[clip] for clip in single.clips.tolist()])
    interval = bootstrap_accuracy(own, folds=single.folds, groups=single.groups)
    gain = paired_difference(own, single.correct, folds=single.folds, groups=single.groups)
    return {"accuracy": interval.mean, "ci95": [interval.low, interval.high], "gain": gain.to_dict()}
