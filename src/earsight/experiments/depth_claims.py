"""What the analyses along the depth say of the paper's statements, in words: Figures 2a, 2b, 2c and the cutoff.

Comes in: the dictionaries of `earsight.analysis.similarity` and `earsight.analysis.transfer`. Goes out: sentences. As
in `earsight.experiments.claims`, a difference is called one only beyond the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from earsight.analysis.similarity import spread
from earsight.evaluation.statistics import TAIL

Row = Mapping[str, Any]


def similarity_claims(result: Row) -> list[str]:
    """Whether pretrained stages stay more like their start than random ones, and change more with depth (Fig. 2a)."""
    by_trial = [_similarity_by_trial(run) for run in result["runs"]]
    ours, theirs = by_trial[0], by_trial[1]
    common = sorted(set(ours) & set(theirs))
    differences = spread(
        [
            (fold, float(np.mean([*ours[fold, seed].values()]) - np.mean([*theirs[fold, seed].values()])))
            for fold, seed in common
        ],
        within=(-1, 1),
    )
    means = [float(np.mean([np.mean([*one[trial].values()]) for trial in common])) for one in (ours, theirs)]
    falls = spread([(fold, _trend(list(ours[fold, seed].values()))) for fold, seed in common], within=(-1, 1))
    held = _sign(differences["ci95"], up="holds", down="is contradicted")
    fall = _sign(falls["ci95"], up="is contradicted", down="holds")
    return [
        f"Pretrained stages stay more like their start than random ones: {held}. Mean SVCCA over the stages "
        f"{means[0]:.2f} against {means[1]:.2f}, difference {_with_interval(differences)} over "
        f"{len(common)} trials.",
        f"When pretrained, likeness falls with depth: {fall}. Rank correlation with depth {_with_interval(falls)}.",
    ]


def sweep_claims(result: Row) -> list[str]:
    """What the paper says of fusion, freezing or cutting, against a sweep's differences to its reference."""
    points = [point for point in result["points"] if point["difference"]]
    lost = [point for point in points if _beyond(point) and point["difference"]["mean"] < 0]
    listed = ", ".join(_point(point) for point in points)
    claim, verdict = _SWEEP_VERDICTS[result["analysis"]](points, lost)
    seeds = " One seed: the noise between seeds is not in the intervals." if len(result["seeds"]) == 1 else ""
    return [f"{claim}: {verdict}. Differences to the reference in points: {listed}.{seeds}"]


def _fusion(points: Sequence[Row], lost: Sequence[Row]) -> tuple[str, str]:
    claim = (
        "The last stage need not be pretrained, the stages before it must be (paper: 90 % with Block3, Block4 adds "
        "nothing)"
    )
    last = points[-1]
    first, second = last not in lost, bool(lost)
    if first and second:
        deepest = max(points.index(point) for point in lost)
        return claim, (
            f"holds: pretraining up to {last['stage']} is not worse than all of it beyond the noise, and up to "
            f"{points[deepest]['stage']} it is"
        )
    if first:
        return claim, "the first half is not contradicted, the second not shown: no fusion is worse beyond the noise"
    return (
        claim,
        f"is contradicted: pretraining up to {last['stage']} is worse beyond the noise than all of it",
    )


def _freeze(points: Sequence[Row], lost: Sequence[Row]) -> tuple[str, str]:
    claim = "Freezing costs the more the deeper (paper: 2 to 3 points for Block1-2, nearly 10 for Block3)"
    if not lost:
        return claim, "not shown: freezing no stage costs anything beyond the noise"
    first = points.index(lost[0])
    worse = points[-1]["difference"]["mean"] < points[0]["difference"]["mean"]
    free = f"up to {points[first - 1]['stage']} it costs nothing beyond the noise, " if first else ""
    return claim, f"{'holds' if worse else 'not so'}: {free}from {lost[0]['stage']} on it does"


def _cutoff(points: Sequence[Row], lost: Sequence[Row]) -> tuple[str, str]:
    claim = "The last stage can be cut off at little cost (paper: about 1 point without Block4, 6 without Block3 and 4)"
    last = points[-1]
    if last in lost:
        return claim, f"ending after {last['stage']} already costs more than the noise"
    if not lost:
        return claim, "no cut costs anything beyond the noise"
    deepest = max(points.index(point) for point in lost)
    return claim, (
        f"ending after {last['stage']} costs nothing beyond the noise; ending after {points[deepest]['stage']} does"
    )


_SWEEP_VERDICTS: dict[str, Callable[[Sequence[Row], Sequence[Row]], tuple[str, str]]] = {
    "fusion": _fusion,
    "freeze": _freeze,
    "cutoff": _cutoff,
}


def _point(point: Row) -> str:
    low, high = (100 * limit for limit in point["difference"]["ci95"])
    noise = "" if _beyond(point) else ", noise"
    return f"{point['stage']} {100 * point['difference']['mean']:+.1f} ({low:+.1f} to {high:+.1f}{noise})"


def _beyond(point: Row) -> bool:
    low, high = point["difference"]["ci95"]
    return bool((low > 0 or high < 0) and point["difference"]["p_value"] < 2 * TAIL)


def _similarity_by_trial(run: Row) -> dict[tuple[int, int], dict[str, float]]:
    """SVCCA by stage, for each trial (fold, seed); stages with too few rows are left out."""
    out: dict[tuple[int, int], dict[str, float]] = {}
    for row in run["trials"]:
        if row["svcca"] is not None:
            out.setdefault((row["fold"], row["seed"]), {})[row["stage"]] = row["svcca"]
    return out


def _trend(values: Sequence[float]) -> float | None:
    """Rank correlation of values with their place; None for fewer than three, or where all are the same."""
    from scipy.stats import spearmanr

    if len(values) < 3 or len(set(values)) < 2:
        return None
    return float(spearmanr(range(len(values)), values).statistic)


def _sign(limits: Sequence[float] | None, *, up: str, down: str) -> str:
    if limits is None:
        return "not judged, for there is no interval of one trial"
    if limits[0] == limits[1]:
        return "not judged, for trials that all agree tell nothing of their spread"
    return up if limits[0] > 0 else down if limits[1] < 0 else "not shown"


def _with_interval(found: Row) -> str:
    if found["mean"] is None:
        return "unknown"
    if found["ci95"] and found["ci95"][0] == found["ci95"][1]:
        return f"{found['mean']:+.2f} in every trial"
    limits = f" (95 % {found['ci95'][0]:+.2f} to {found['ci95'][1]:+.2f})" if found["ci95"] else ""
    return f"{found['mean']:+.2f}{limits}"
