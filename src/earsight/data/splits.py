"""Stratified, group-wise splits: folds and hold-outs that keep classes balanced and sources whole.

Comes in: `labels` int64 (clips,), or of several labels a 0 or 1 for each class (clips, classes); and `groups` (clips,),
the recording that each clip was cut from. Goes out: fold numbers int64 (clips,) counted from 1, or a mask bool
(clips,). All draws come from the seed alone, and a group is never on both sides. And splits that a data set brings:
which of its names means the test part.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from earsight.errors import DataError, counted

_Ints = npt.NDArray[np.int64]
TEST, TRAIN, VALIDATION = 1, 2, 3
PARTS = {TEST: "test", TRAIN: "train", VALIDATION: "validation"}
_DEVELOPMENT, _EVALUATION = 4, 5
_NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("val", "valid", "validation"), VALIDATION),
    **dict.fromkeys(("dev", "devel", "development"), _DEVELOPMENT),
    **dict.fromkeys(("eval", "evaluate", "evaluation"), _EVALUATION),
}


def is_part(name: str) -> bool:
    """Whether a name is one of those that data sets give their parts, as train or eval."""
    return name.strip().casefold() in _NAMES


def part_folds(names: Collection[str], *, where: str, notes: list[str]) -> dict[str, int]:
    """`TEST`, `TRAIN` or `VALIDATION` for each name of a data set's parts.

    ``dev`` is validation beside ``train`` and training without it; ``eval`` is the test part, or validation where there
    is a test part too. Without a test part validation is held out in its place, which is added to ``notes``. DataError
    if a name is none of a part, two mean the same, or none trains.
    """
    kinds = {name: _NAMES.get(name.strip().casefold(), 0) for name in names}
    there = set(kinds.values())
    meaning = {
        _DEVELOPMENT: VALIDATION if TRAIN in there else TRAIN,
        _EVALUATION: VALIDATION if TEST in there else TEST,
    }
    out = {name: meaning.get(kind, kind) for name, kind in kinds.items()}
    shown = ", ".join(f"'{name}'" for name in list(names)[:5])
    if 0 in there or len({name.strip().casefold() for name in names}) > len(set(out.values())):
        raise DataError(f"{where}: {shown} are not certain as parts; expected train and test, and validation by choice")
    if TRAIN not in out.values():
        raise DataError(f"{where}: {shown}: no part of them is for training; expected train and test")
    if TEST not in out.values():
        held = [name for name, kind in out.items() if kind == VALIDATION]
        notes += [f"there is no test part: '{name}' is held out in its place" for name in held]
        out |= dict.fromkeys(held, TEST)
    return out


def group_folds(labels: npt.NDArray[Any], groups: npt.NDArray[Any], *, folds: int, seed: int) -> _Ints:
    """Deal clips into folds, stratified by label, each group whole: int64 (clips,), 1 to ``folds``, each of them used.

    Classes are dealt from the rarest to the commonest, their groups from the largest to the smallest and shuffled
    within a size; each goes to the fold that has the fewest clips of the class, then the fewest clips. Where every clip
    is its own group this is an exact stratified split: no two folds differ by more than one clip of a class.

    Clips with several labels are dealt by iterative stratification (K. Sechidis et al., ECML PKDD 2011, section 4), in
    which whole groups take the place of clips: always next are the groups of the class with the fewest clips left.
    DataError if ``folds`` is below 2, or there are fewer groups than folds.
    """
    owner, counts = _tables(labels, groups)
    if folds < 2:
        raise DataError(f"folds is {folds}; at least 2 are needed to train on some and test on the others")
    if len(counts) < folds:
        raise DataError(
            f"{len(counts)} groups cannot fill {counted(folds, 'fold')}; use --splits {max(2, len(counts))}"
        )
    if np.ndim(labels) == 2:
        return _iterative(counts, np.bincount(owner), shares=[1 / folds] * folds, seed=seed)[owner] + 1
    where = np.full(len(counts), -1, dtype=np.int64)
    dealt = np.zeros((folds, counts.shape[1]), dtype=np.int64)
    used = np.zeros(folds, dtype=np.int64)
    for group in _order(counts, seed=seed):
        mass = counts[group]
        # The fold whose new load of this group's classes, relative to the class sizes, is lightest.
        cost = ((dealt + mass)[:, mass > 0] / counts.sum(axis=0)[mass > 0]).max(axis=1)
        best = np.lexsort((np.arange(folds), used, dealt.sum(axis=1), np.round(cost, 12)))[0]
        where[group] = best
        dealt[best] += mass
        used[best] += 1
    return where[owner] + 1  # an empty fold is always the lightest, so that none is left


def holdout(labels: npt.NDArray[Any], groups: npt.NDArray[Any], *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Mark the clips to hold out, about ``fraction`` of all, stratified by label, each group whole: bool (clips,).

    At least one clip is held out, and every class keeps a clip on the other side. DataError if ``fraction`` is out of
    range or no group can be spared.
    """
    if not 0 < fraction < 1:
        raise DataError(f"a hold-out share of {fraction:g}; it must lie between 0 and 1")
    owner, counts = _tables(labels, groups)
    sizes = counts.sum(axis=0)
    wanted = fraction * sizes
    if np.ndim(labels) == 2:
        return np.asarray(_several_held(counts, np.bincount(owner), fraction=fraction, seed=seed)[owner])
    held = np.zeros(len(counts), dtype=bool)
    taken = np.zeros(counts.shape[1], dtype=np.int64)
    order = _order(counts, seed=seed)
    spared: int | None = None
    for group in order:
        mass = counts[group]
        if np.any((sizes - taken - mass <= 0) & (mass > 0)):
            continue  # the last clips of a class stay for training
        spared = group if spared is None or mass.sum() < counts[spared].sum() else spared
        gain = np.abs(taken - wanted).sum() - np.abs(taken + mass - wanted).sum()
        if gain > 0 or (gain == 0 and taken.sum() + mass.sum() / 2 < wanted.sum()):
            held[group] = True
            taken += mass
    if not held.any():
        if spared is None:
            raise DataError("no clip can be held out: every class has a single source; add clips from other recordings")
        held[spared] = True
    return held[owner]


def holdout_sounds(
    labels: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    rows: _Ints,
    copies: Sequence[Sequence[int]],
    *,
    fraction: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Which of some ``rows`` (numbers of clips) are held out, (rows,): by `holdout`, where copies of a sound are one.

    ``labels`` and ``groups`` are all clips'. ``groups`` hold the clips of each of ``copies`` together already; without
    ``copies`` each counts.
    """
    inside = set(rows.tolist())
    known = [mine for one in copies if (mine := [row for row in one if row in inside])]
    chosen = np.array(_one_of_each(labels, rows, known)) if known else rows
    mask = holdout(labels[chosen], groups[chosen], fraction=fraction, seed=seed)
    return np.isin(groups[rows], groups[chosen][mask])


def _one_of_each(labels: npt.NDArray[Any], rows: _Ints, copies: Sequence[Sequence[int]]) -> list[int]:
    """Rows of one clip of each sound; where a class would lose its last one, of each sound under each of its labels."""
    several = np.ndim(labels) == 2
    own = {row: set(np.flatnonzero(labels[row]) if several else labels[[row]].tolist()) for row in rows.tolist()}
    lone = set(own) - {row for group in copies for row in group}
    found = lone | {group[0] for group in copies}
    if set().union(*(own[row] for row in found)) < set().union(*own.values()):
        found = lone | {next(one for one in group if own[one] == own[row]) for group in copies for row in group}
    return sorted(found)


def _tables(labels: npt.NDArray[Any], groups: npt.NDArray[Any]) -> tuple[_Ints, _Ints]:
    """Each clip's group counted from 0, and clips per group and class (groups, classes).

    Of several labels the last column counts the clips of none of the classes, if there are such; classes without a clip
    have no column.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    if labels.ndim not in (1, 2) or labels.shape[:1] != groups.shape or len(labels) == 0:
        raise DataError(
            f"labels of shape {labels.shape} and groups of shape {groups.shape}; two equal lists with clips are needed"
        )
    _, owner = np.unique(groups, return_inverse=True)
    if labels.ndim == 1:
        row, (_, column) = np.arange(len(labels)), np.unique(labels, return_inverse=True)
    else:
        marks = np.column_stack([labels > 0, ~(labels > 0).any(axis=1)])
        row, column = np.nonzero(marks[:, marks.any(axis=0)])
    counts = np.zeros((owner.max() + 1, column.max() + 1), dtype=np.int64)
    np.add.at(counts, (owner[row], column), 1)
    return owner.astype(np.int64), counts


def _iterative(counts: _Ints, clips: _Ints, *, shares: list[float], seed: int) -> _Ints:
    """The fold of each group, from 0, by iterative stratification of `_tables`'s counts, and of clips (groups,).

    ``shares`` of all are what the folds want.

    Of the class with the fewest clips left the groups with most of them go first, shuffled within equals, each to the
    fold that still wants most clips of that class; of equal ones to that which wants most of the group's other classes,
    by their shares (which a paper of single clips need not ask, and evens groups out), then most clips.
    """
    where = np.full(len(counts), -1, dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    folds, sizes = len(shares), counts.sum(axis=0)
    wanted, room = np.outer(shares, sizes), np.array(shares) * clips.sum()
    left = sizes.copy()
    while left.any():
        rarest = int(np.where(left > 0, left, left.max() + 1).argmin())
        waiting = np.flatnonzero((where < 0) & (counts[:, rarest] > 0))
        for group in waiting[np.lexsort((shuffled[waiting], -counts[waiting, rarest]))]:
            others = (wanted / sizes) @ counts[group]
            keys = [np.round(values, 9) for values in (-room, -others, -wanted[:, rarest])]
            best = np.lexsort((np.arange(folds), *keys))[0]
            where[group] = best
            wanted[best] -= counts[group]
            room[best] -= clips[group]
            left = left - counts[group]
    _fill_empty(where, counts, folds=folds)
    return where


def _several_held(counts: _Ints, clips: _Ints, *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """The groups to hold out by iterative stratification; of each class one stays."""
    held = np.asarray(_iterative(counts, clips, shares=[1 - fraction, fraction], seed=seed) == 1)
    for kind in range(counts.shape[1]):
        if not counts[~held, kind].any():
            mine = np.flatnonzero(counts[:, kind])
            held[mine[clips[mine].argmin()]] = False
    if not held.any():
        raise DataError(
            "no clip can be held out: some class has a single source in each; add clips from other recordings"
        )
    return held


def _order(counts: _Ints, *, seed: int) -> list[int]:
    """Groups in dealing order: by rarest class, then large before small, shuffled within equals."""
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    sizes = counts.sum(axis=0)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
    rarest = np.where(counts > 0, rank, len(sizes)).min(axis=1)
    keys = np.lexsort((shuffled, -counts.sum(axis=1), rarest))
    return [int(group) for group in keys]


def _fill_empty(where: _Ints, counts: _Ints, *, folds: int) -> None:
    """Give each fold that got nothing the smallest group of the fold with the most groups."""
    for fold in range(folds):
        if (where == fold).any():
            continue
        donor = np.bincount(where, minlength=folds).argmax()
        candidates = np.flatnonzero(where == donor)
        moved = candidates[counts[candidates].sum(axis=1).argmin()]
        where[moved] = fold
