"""Statistical comparison of two runs on the same clips.

Comes in: the predictions of two runs on the same clips. Goes out: the difference of their accuracies, its 95 % interval
and p-value, paired over clips and folds, and over seeds where both runs have the same ones.

Two sources of noise are kept apart. ``ci95`` is about the choice of clips: another set of clips, the same networks.
Where both runs have two seeds or more, ``ci95_with_seeds`` is about clips and seeds: another set of clips, and networks
trained anew. The wider of them decides the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from earsight.errors import RunError, counted
from earsight.evaluation import multilabel
from earsight.evaluation.metrics import balanced_accuracy
from earsight.evaluation.statistics import (
    FEW_GROUPS,
    TAIL,
    PairedResult,
    bootstrap_accuracy,
    paired_difference,
    settled,
    shared_groups,
    t_quantile,
)
from earsight.evaluation.summary import Predictions, bootstrap_p, clip_draws, over_folds, refuse_several

DRAWS = 10_000
METHOD = (
    "accuracy is the mean over folds; ci95: percentile bootstrap of the paired difference, clips redrawn within folds "
    "(10,000 draws); p_value: sign-flip permutation test over clips, two-sided, exact where it can be counted out "
    "(McNemar's exact test for one seed and folds of one size); ci95_with_seeds: clips and, within each fold, seeds "
    "redrawn together"
)
_CELLS = 1 << 22  # array entries held at once: 32 MiB of float64


class FoldAnswers(NamedTuple):
    """Whether each seed of a and of b is right on each clip of one fold, (seeds, clips) float; paired: seed by seed.

    ``groups`` (clips,) are the clips' sources; None where neither run knows them.
    """

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    paired: bool
    groups: np.ndarray | None = None


def compare_runs(
    a: Sequence[Predictions], b: Sequence[Predictions], *, names: tuple[str, str], draws: int = DRAWS
) -> dict[str, Any]:
    """Compare two runs, of these names and trials (`earsight.evaluation.summary.read_run`), on their common folds.

    Returns ``runs`` (run, accuracy, ci95, balanced_accuracy, protocol, seeds, ensemble, recipe_digest of each),
    ``reversed`` (a sentence where the other run has the better balanced accuracy, or None), ``folds``, ``seeds`` (those
    compared pair by pair, or None), ``clips``, ``groups`` (how many, where clips share some), ``difference``
    (mean of the first less the second, ci95, ci95_with_seeds, p_value), ``by_fold``, ``beyond_noise``, ``verdict``,
    ``notes`` and ``method``. RunError if the runs have other classes, no fold in common, or other clips or labels in a
    fold. Of clips with several labels see `_compare_several`.
    """
    if {one.targets is not None for one in (*a, *b)} == {True}:
        return _compare_several(a, b, names=names)
    refuse_several((*a, *b), where=f"{names[0]} and {names[1]}: one of them")
    folds = _common_folds(a, b, names)
    seeds = _common_seeds(a, b, folds)
    answers = {fold: _fold_answers(a, b, fold=fold, seeds=seeds, names=names) for fold in folds}
    owners = np.concatenate([np.full(one.a.shape[1], fold) for fold, one in answers.items()])
    right_a = np.concatenate([one.a.mean(axis=0) for one in answers.values()])
    right_b = np.concatenate([one.b.mean(axis=0) for one in answers.values()])
    groups = None
    if all(one.groups is not None for one in answers.values()):
        groups = np.concatenate([one.groups for one in answers.values() if one.groups is not None])
    found = paired_difference(right_a, right_b, folds=owners, groups=groups, draws=draws)
    limits = crossed_limits(list(answers.values()), draws=draws)
    wide, with_seeds = found, None if np.isnan(limits[0]) else list(limits)
    if with_seeds is not None:
        wide = found._replace(low=min(found.low, limits[0]), high=max(found.high, limits[1]))
        if shared_groups(groups):  # without seeds the wider limits of clips and groups count, so they do with them
            with_seeds = [wide.low, wide.high]
    runs = [
        _about(run, right, owners, groups, name=name, folds=folds, seeds=seeds)
        for run, right, name in ((a, right_a, names[0]), (b, right_b, names[1]))
    ]
    return {
        "runs": runs,
        "reversed": _reversed(runs, wide),
        "folds": folds,
        "seeds": seeds or None,
        "clips": len(owners),
        "groups": shared_groups(groups) or None,
        "difference": {
            "mean": found.difference,
            "ci95": [found.low, found.high],
            "ci95_with_seeds": with_seeds,
            "p_value": found.p_value,
        },
        "by_fold": [
            {"fold": fold, "a": float(one.a.mean()), "b": float(one.b.mean()), "clips": one.a.shape[1]}
            for fold, one in answers.items()
        ],
        "beyond_noise": wide.beyond_noise,
        "verdict": _verdict(wide, names),
        "notes": _notes(
            *(a, b),
            folds=folds,
            seeds=seeds,
            groups=shared_groups(groups),
            with_seeds=with_seeds is not None,
            names=names,
        ),
        "method": METHOD + ("; groups in place of clips, over all folds at once" if shared_groups(groups) else ""),
    }


def _compare_several(a: Sequence[Predictions], b: Sequence[Predictions], *, names: tuple[str, str]) -> dict[str, Any]:
    """The same for clips with several labels: of mean average precision in place of accuracy, by one bootstrap of both.

    The same groups, or clips, are redrawn for both runs at once; ``p_value`` is that of the bootstrap, and
    ``ci95_with_seeds`` is None: networks are not redrawn.
    """
    folds = _common_folds(a, b, names)
    seeds = _common_seeds(a, b, folds)
    used = [[t for t in run if t.about["fold"] in folds and (not seeds or t.about["seed"] in seeds)] for run in (a, b)]
    _check_marks(used[0], used[1], names=names)
    knowing = next((run for run in used if any(trial.groups is not None for trial in run)), used[0])
    drawn, rows_of, groups = clip_draws(knowing)
    measure = multilabel.Ranking.average_precision
    found, draws = [], []
    for run in used:
        owners = np.array([trial.about["fold"] for trial in run])
        scores = np.array([multilabel.mean_average_precision(trial.marks, trial.logits) for trial in run])
        found.append(over_folds(scores, owners, each=True))
        tables = [multilabel.resampled(one.marks, one.logits, drawn[:, rows_of(one)], measure) for one in run]
        draws.append(over_folds(np.stack([multilabel.means_of(table, 1) for table in tables]), owners))
    change = draws[0] - draws[1]
    mean, (low, high) = float(found[0].mean() - found[1].mean()), multilabel.limits(change)
    result = PairedResult(settled(mean), settled(low), settled(high), bootstrap_p(change))
    clips = {trial.about["fold"]: len(trial.clips) for trial in used[0]}
    return {
        "several": True,
        "runs": [
            {
                "run": name,
                "average_precision": float(score.mean()),
                "ci95": multilabel.limits(spread, around=float(score.mean())),
                "protocol": run[0].about["protocol"],
                "seeds": [] if "ensemble" in run[0].about else sorted({trial.about["seed"] for trial in run}),
                "ensemble": run[0].about.get("ensemble"),
                "recipe_digest": run[0].about["recipe_digest"],
            }
            for run, name, score, spread in zip(used, names, found, draws, strict=True)
        ],
        "folds": folds,
        "seeds": seeds or None,
        "clips": drawn.shape[1],
        "groups": groups or None,
        "difference": {
            "mean": result.difference,
            "ci95": [result.low, result.high],
            "ci95_with_seeds": None,
            "p_value": result.p_value,
        },
        "by_fold": [
            {"fold": fold, "a": float(one), "b": float(other), "clips": clips[fold]}
            for fold, one, other in zip(folds, *found, strict=True)
        ],
        "beyond_noise": result.beyond_noise,
        "verdict": _verdict(result, names),
        "notes": _notes(a, b, folds=folds, seeds=seeds, groups=groups, with_seeds=False, names=names),
        "method": (
            "mean average precision over classes, then over folds; ci95 and p_value: percentile bootstrap of the "
            f"paired difference, {'groups redrawn' if groups else 'clips redrawn within folds'} ({len(drawn)} draws)"
        ),
    }


def _check_marks(a: Sequence[Predictions], b: Sequence[Predictions], *, names: tuple[str, str]) -> None:
    """Raise RunError unless both runs tested the same clips, with the same targets, on each fold."""
    for trial in (*a, *b):
        first = next(one for one in a if one.about["fold"] == trial.about["fold"])
        order, other = np.argsort(first.clips, kind="stable"), np.argsort(trial.clips, kind="stable")
        if not np.array_equal(first.clips[order], trial.clips[other]):
            what = "other clips"
        elif not np.array_equal(first.marks[order], trial.marks[other], equal_nan=True):
            what = "other labels"
        else:
            continue
        fold = trial.about["fold"]
        raise RunError(f"{names[0]} and {names[1]}: fold {fold} has {what}, so that they cannot be compared")


def crossed_limits(answers: Sequence[FoldAnswers], *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Limits of a 95 % interval of the difference that holds for other clips and other seeds.

    Clips and seeds are redrawn with replacement at once within each fold (the pigeonhole bootstrap; A. Owen, Annals of
    Applied Statistics 1 (2), 2007), so that a network's luck on all of its clips counts as one draw. Of S seeds S - 1
    are redrawn, which makes the variance of the mean right for few of them (J. Rao and C. Wu, JASA 83, 1988). Where a
    and b are paired, a seed is drawn for both. NaN where a run has one seed only on some fold.
    """
    if any(min(len(one.a), len(one.b)) < 2 for one in answers):
        return float("nan"), float("nan")
    if all(one.groups is not None for one in answers):
        groups = np.concatenate([one.groups for one in answers if one.groups is not None])
        if shared_groups(groups):
            return _crossed_groups(answers, np.unique(groups, return_inverse=True)[1], draws=draws, seed=seed)
    generator = np.random.default_rng([seed, 2])
    means = np.zeros(draws)
    for one in answers:
        clips = one.a.shape[1]
        step = max(1, _CELLS // clips)
        for start in range(0, draws, step):
            rows = min(step, draws - start)
            redrawn = generator.multinomial(clips, np.full(clips, 1 / clips), size=rows) / clips
            if one.paired:
                change = _redrawn_seeds(one.a - one.b, rows, generator)
            else:
                change = _redrawn_seeds(one.a, rows, generator) - _redrawn_seeds(one.b, rows, generator)
            means[start : start + rows] += (redrawn * change).sum(axis=1) / len(answers)
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    return settled(low), settled(high)


def _crossed_groups(
    answers: Sequence[FoldAnswers], owner: NDArray[np.int64], *, draws: int, seed: int
) -> tuple[float, float]:
    """As `crossed_limits`, with groups redrawn over all folds in place of clips; ``owner`` (clips,) numbers them.

    Of few groups those of Student's t count where they are wider, with the deviation of the draws.
    """
    count = int(owner.max()) + 1
    if count < 2:
        return -1.0, 1.0
    ends = np.cumsum([one.a.shape[1] for one in answers])
    masses, tables = np.zeros(count), []
    for one, mine in zip(answers, np.split(owner, ends[:-1]), strict=True):
        weight = 1 / (len(mine) * len(answers))
        masses += weight * np.bincount(mine, minlength=count)
        sums = [[weight * np.bincount(mine, row, count) for row in table] for table in (one.a, one.b)]
        tables.append((np.array(sums[0]), np.array(sums[1])))
    generator = np.random.default_rng([seed, 4])
    means, step = np.empty(draws), max(1, _CELLS // count)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        change = np.zeros((rows, count))
        for one, (a, b) in zip(answers, tables, strict=True):
            if one.paired:
                change += _redrawn_seeds(a - b, rows, generator)
            else:
                change += _redrawn_seeds(a, rows, generator) - _redrawn_seeds(b, rows, generator)
        redrawn = generator.multinomial(count - 1, np.full(count, 1 / count), size=rows)
        means[start : start + rows] = (redrawn * change).sum(axis=1) / (redrawn @ masses)
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    if count < FEW_GROUPS:  # redrawing is too sure of itself, as it is without seeds
        middle = float(np.mean([one.a.mean() - one.b.mean() for one in answers]))
        reach = t_quantile(count - 1) * float(means.std())
        low, high = max(-1.0, min(low, middle - reach)), min(1.0, max(high, middle + reach))
    return settled(low), settled(high)


def _redrawn_seeds(table: NDArray[np.float64], rows: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Mean over redrawn seeds, (rows, clips), of a table (seeds, clips)."""
    count = len(table)
    out: NDArray[np.float64] = generator.multinomial(count - 1, np.full(count, 1 / count), size=rows) @ table
    return out / (count - 1)


def _common_folds(a: Sequence[Predictions], b: Sequence[Predictions], names: tuple[str, str]) -> list[int]:
    if a[0].classes != b[0].classes:
        other = sorted(set(a[0].classes) ^ set(b[0].classes))
        what = f"{len(other)} of them, such as {other[0]}, are in one only" if other else "they stand in another order"
        raise RunError(f"{names[0]} and {names[1]}: other classes ({what}), so that they cannot be compared")
    of_a, of_b = (sorted({trial.about["fold"] for trial in run}) for run in (a, b))
    folds = [fold for fold in of_a if fold in of_b]
    if not folds:
        raise RunError(
            f"{names[0]} has fold {', '.join(map(str, of_a))} and {names[1]} fold {', '.join(map(str, of_b))}: none in "
            "common, so that they cannot be compared; train the same folds"
        )
    return folds


def _common_seeds(a: Sequence[Predictions], b: Sequence[Predictions], folds: Sequence[int]) -> list[int]:
    """Seeds that both runs have on every one of the folds; an ensemble has none of its own."""
    if any("ensemble" in trial.about for trial in (*a, *b)):
        return []
    sets = [{trial.about["seed"] for trial in run if trial.about["fold"] == fold} for run in (a, b) for fold in folds]
    return sorted(set.intersection(*sets))


def _fold_answers(
    a: Sequence[Predictions], b: Sequence[Predictions], *, fold: int, seeds: list[int], names: tuple[str, str]
) -> FoldAnswers:
    """Both runs' predictions on one fold, their clips in one order."""
    tables: list[NDArray[np.float64]] = []
    first: dict[str, int] = {}
    groups: dict[str, str] = {}
    for run, name in ((a, names[0]), (b, names[1])):
        trials = [t for t in run if t.about["fold"] == fold and (not seeds or t.about["seed"] in seeds)]
        rows = []
        for trial in sorted(trials, key=lambda trial: trial.about["seed"]):
            order = np.argsort(trial.clips, kind="stable")
            clips = dict(zip(trial.clips[order].tolist(), trial.labels[order].tolist(), strict=True))
            first = first or clips
            if clips != first:
                raise _other_clips(first, clips, fold=fold, names=(names[0], name))
            rows.append(trial.correct[order].astype(np.float64))
            if trial.groups is not None:
                groups |= zip(trial.clips.tolist(), trial.groups.tolist(), strict=True)
        tables.append(np.stack(rows))
    knows = any(trial.groups is not None for trial in (*a, *b))
    known = np.array([groups.get(clip, clip) for clip in first]) if knows else None
    return FoldAnswers(tables[0], tables[1], bool(seeds), known)


def _other_clips(first: dict[str, int], clips: dict[str, int], *, fold: int, names: tuple[str, str]) -> RunError:
    lone = sorted(first.keys() ^ clips.keys())
    if lone:
        what = f"other clips ({len(lone)} are in one only, such as {lone[0]})"
    else:
        what = f"other labels (of {next(name for name in first if first[name] != clips[name])}, for one)"
    return RunError(f"{names[0]} and {names[1]}: fold {fold} has {what}, so that they cannot be compared")


def _about(
    run: Sequence[Predictions],
    right: NDArray[np.float64],
    owners: np.ndarray,
    groups: np.ndarray | None,
    *,
    name: str,
    folds: list[int],
    seeds: list[int],
) -> dict[str, Any]:
    used = [t for t in run if t.about["fold"] in folds and (not seeds or t.about["seed"] in seeds)]
    interval = bootstrap_accuracy(right, folds=owners, groups=groups)
    return {
        "run": name,
        "accuracy": interval.mean,
        "ci95": [interval.low, interval.high],
        "balanced_accuracy": balanced_accuracy(
            np.concatenate([trial.labels for trial in used]),
            np.concatenate([trial.logits.argmax(axis=1) for trial in used]),
            classes=len(used[0].classes),
        ),
        "protocol": used[0].about["protocol"],
        "seeds": [] if "ensemble" in used[0].about else sorted({trial.about["seed"] for trial in used}),
        "ensemble": used[0].about.get("ensemble"),
        "recipe_digest": used[0].about["recipe_digest"],
    }


def _reversed(runs: Sequence[dict[str, Any]], found: PairedResult) -> str | None:
    """A sentence where a difference beyond the noise is the other way round in balanced accuracy; else None."""
    a, b = (run["balanced_accuracy"] for run in runs)
    if not found.beyond_noise or (a - b) * found.difference >= 0:
        return None
    both = ", ".join(f"{100 * run['balanced_accuracy']:.1f} % of {run['run']}" for run in runs)
    return f"Each class weighing the same it is the other way round: balanced accuracy {both}."


def _verdict(found: PairedResult, names: tuple[str, str]) -> str:
    if not found.beyond_noise:
        return "No difference beyond the noise."
    better, worse = names if found.difference > 0 else names[::-1]
    return f"{better} is better than {worse} beyond the noise, by {100 * abs(found.difference):.1f} points."


def _notes(
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    *,
    folds: list[int],
    seeds: list[int],
    groups: int,
    with_seeds: bool,
    names: tuple[str, str],
) -> list[str]:
    """Notes on the comparison's limits."""
    notes = []
    protocols = [run[0].about["protocol"] for run in (a, b)]
    if protocols[0] != protocols[1]:
        notes.append(f"The protocols differ: {names[0]} follows {protocols[0]}, {names[1]} {protocols[1]}.")
    for protocol, name in zip(protocols, names, strict=True):
        if protocol == "test":
            notes.append(f"{name} follows protocol test: optimistic, because the held-out fold chose the epoch.")
    if a[0].about["dataset"]["digest"] != b[0].about["dataset"]["digest"]:
        notes.append("The data sets differ outside the folds compared, so the runs were trained on other clips.")
    if a[0].about["recipe_digest"] == b[0].about["recipe_digest"]:
        notes.append("Both runs are of one recipe.")
    for run, name in zip((a, b), names, strict=True):
        left = sorted({trial.about["fold"] for trial in run} - set(folds))
        if left:
            notes.append(f"Left out: fold {', '.join(map(str, left))} of {name}, which the other run lacks.")
        dropped = sorted({trial.about["seed"] for trial in run} - set(seeds)) if seeds else []
        if dropped:
            notes.append(f"Left out: seed {', '.join(map(str, dropped))} of {name}, which the other run lacks.")
    joined = [name for run, name in zip((a, b), names, strict=True) if "ensemble" in run[0].about]
    if len(joined) == 1:
        notes.append(f"{joined[0]} is an ensemble, one answer a clip; the other's answers are its seeds' mean.")
    elif not seeds and not joined:
        notes.append("No seed is in both runs on every fold: each run's answers are averaged over its own seeds.")
    if groups:
        few = "" if groups >= FEW_GROUPS else ", few, so that a t interval over groups counts too"
        notes.append(f"Clips share sources: intervals and p-value are over {counted(groups, 'group')}{few}.")
    if not with_seeds and not joined:
        notes.append(
            "The noise between seeds is not in the interval, for a run has one seed on some fold: the figures are "
            "about these networks, not their recipes; `earsight crossval --seeds 3` tells more."
        )
    return notes
