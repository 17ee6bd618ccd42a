"""Stratified, group-wise splits: folds and hold-outs that keep classes balanced and sources whole.

Comes in: `labels` int64 (clips,) and `groups` (clips,), the recording that each clip was cut from. Goes out: fold
numbers int64 (clips,) counted from 1, or a mask bool (clips,). All draws come from the seed alone, and a group is never
on both sides. And splits that a data set brings: which of its names means the test part.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from earsight.errors import DataError

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
    is a test part too. Without a test part validation is held out in its place, which is added to ``notes``.

    Raises
    ------
    DataError
        If a name is none of a part, two mean the same, or none trains.
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

    Raises
    ------
    DataError
        If ``folds`` is below 2, or there are fewer groups than folds.
    """
    labels, owner, counts = _tables(labels, groups)
    if folds < 2:
        raise DataError(f"folds is {folds}; at least 2 are needed to train on some and test on the others")
    if len(counts) < folds:
        raise DataError(f"{len(counts)} groups cannot fill {folds} folds; use --splits {max(2, len(counts))}")
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
    _fill_empty(where, dealt, counts, folds=folds)
    return where[owner] + 1


def holdout(labels: npt.NDArray[Any], groups: npt.NDArray[Any], *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Mark the clips to hold out, about ``fraction`` of all, stratified by label, each group whole: bool (clips,).

    At least one clip is held out, and every class keeps a clip on the other side.

    Raises
    ------
    DataError
        If ``fraction`` is out of range or no group can be spared.
    """
    if not 0 < fraction < 1:
        raise DataError(f"a hold-out share of {fraction:g}; it must lie between 0 and 1")
    labels, owner, counts = _tables(labels, groups)
    sizes = counts.sum(axis=0)
    wanted = fraction * sizes
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


def _tables(labels: npt.NDArray[Any], groups: npt.NDArray[Any]) -> tuple[_Ints, _Ints, _Ints]:
    """Labels counted from 0, each clip's group counted from 0, and clips per group and class (groups, classes)."""
    labels, groups = np.asarray(labels), np.asarray(groups)
    if labels.ndim != 1 or labels.shape != groups.shape or len(labels) == 0:
        raise DataError(
            f"labels of shape {labels.shape} and groups of shape {groups.shape}; two equal lists with clips are needed"
        )
    _, compact = np.unique(labels, return_inverse=True)
    _, owner = np.unique(groups, return_inverse=True)
    counts = np.zeros((owner.max() + 1, compact.max() + 1), dtype=np.int64)
    np.add.at(counts, (owner, compact), 1)
    return compact.astype(np.int64), owner.astype(np.int64), counts


def _order(counts: _Ints, *, seed: int) -> list[int]:
    """Groups in dealing order: by rarest class, then large before small, shuffled within equals."""
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    sizes = counts.sum(axis=0)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
    rarest = np.where(counts > 0, rank, len(sizes)).min(axis=1)
    keys = np.lexsort((shuffled, -counts.sum(axis=1), rarest))
    return [int(group) for group in keys]


def _fill_empty(where: _Ints, dealt: _Ints, counts: _Ints, *, folds: int) -> None:
    """Give each fold that got nothing the smallest group of the fold with the most groups."""
    for fold in range(folds):
        if (where == fold).any():
            continue
        donor = np.bincount(where, minlength=folds).argmax()
        candidates = np.flatnonzero(where == donor)
        moved = candidates[counts[candidates].sum(axis=1).argmin()]
        dealt[donor] -= counts[moved]
        dealt[fold] += counts[moved]
        where[moved] = fold
