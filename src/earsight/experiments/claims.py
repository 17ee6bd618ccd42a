"""The paper's claims against our numbers, in sentences: Tables I to III, representations, Figures 2a to 2c, the cutoff.

Comes in: the rows of a section, or the dictionaries of `earsight.analysis.similarity` and `earsight.analysis.sweeps`.
Goes out: sentences. A difference counts only if it is significant: its 95 % interval excludes 0 and its p-value is
below 0.05. Claims on cells that were not run are not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from earsight.analysis.similarity import mean_interval
from earsight.errors import counted
from earsight.evaluation.statistics import TAIL
from earsight.reports.text_format import percent, percent_range, signed, signed_range

Row = Mapping[str, Any]


def table1_claims(rows: Sequence[Row]) -> list[str]:
    """Whether pretrained networks are better than random ones, row by row, and how ours compare with the paper's."""
    pairs = [
        {
            **_pair(row["difference"], f"{row['model']} on {row['title']}"),
            **{"paper": row["paper_difference"], "of": row["paper_title"]},
        }
        for row in rows
        if row["difference"]
    ]
    claim = "A network from ImageNet weights is better than the same network from random ones"
    cells = [(row, row[start]) for row in rows for start in ("pretrained", "random")]
    return [_judged(claim, pairs, of=len(rows), noun="pair"), *_gaps(cells)]


def table2_claims(rows: Sequence[Row]) -> list[str]:
    """Whether the ensemble is better than a single network."""
    pairs = [
        {
            "name": f"{row['model']} on {row['title']}",
            "difference": row["gain"] | {"mean": row["gain"]["difference"]},
            "beyond_noise": row["gain"]["beyond_noise"],
            "paper": row["paper_gain"],
            "of": row["paper_title"],
        }
        for row in rows
        if row["gain"]
    ]
    claim = "The ensemble of the seeds is better than a single network"
    return [
        _judged(claim, pairs, of=len(rows), noun="row"),
        *_gaps([(row, row["single"]) for row in rows] + [(row, row["ensemble"]) for row in rows]),
    ]


def table3_claims(ours: Sequence[Row], others: Sequence[Row]) -> list[str]:
    """Which published figures lie outside our intervals; they have no intervals of their own, so no rank is given."""
    out = []
    for row in ours:
        found = row["ensemble"]["accuracy"] or row["single"]["accuracy"]
        if not found:
            continue
        what = "ensemble" if row["ensemble"]["accuracy"] else "single network"
        low, high = (100 * limit for limit in found["ci95"])
        known = [(other["who"], other["figures"][row["data"]]) for other in others if row["data"] in other["figures"]]
        names: dict[str, list[str]] = {"within": [], "above": [], "below": []}
        for who, value in known:
            names["above" if value > high else "below" if value < low else "within"].append(f"{who} ({value:.2f})")
        parts = [f"{place} it: {', '.join(listed)}" for place, listed in names.items() if listed]
        out.append(
            f"{row['title']}: our {what} ({row['model']}) is at {percent(found['mean'])} %, 95 % interval "
            f"{percent_range(found['ci95'])}; {'; '.join(parts) or 'nothing was published on it here'}."
        )
    if not out:
        return ["Not compared yet: no row of ours was run."]
    return [*out, "Published figures have no intervals, and some chose their epoch on the test fold: no rank is given."]


def representations_claims(rows: Sequence[Row], best: str) -> list[str]:
    """Whether the paper's best representation is better here than each other one."""
    pairs = [
        {**_pair(row["difference"], f"Against {row['name']}"), "paper": None, "of": None}
        for row in rows
        if row["difference"]
    ]
    return [_judged(f"Of the representations, {best} is the best", pairs, of=len(rows) - 1, noun="comparison")]


def windows_claims(rows: Sequence[Row]) -> list[str]:
    """Whether three windows, one a channel, are better than one copied to three channels."""
    pairs = [
        {**_pair(row["difference"], f"{row['model']} on {row['title']}"), "paper": None, "of": None}
        for row in rows
        if row["difference"]
    ]
    return [_judged("Three windows are better than one", pairs, of=len(rows), noun="pair")]


def similarity_claims(result: Row) -> list[str]:
    """Figure 2a: whether pretrained stages stay more like their start than random ones, and change more with depth."""
    by_trial = [_similarity_by_trial(run) for run in result["runs"]]
    ours, theirs = by_trial[0], by_trial[1]
    common = sorted(set(ours) & set(theirs))
    differences = mean_interval(
        [
            (fold, float(np.mean([*ours[fold, seed].values()]) - np.mean([*theirs[fold, seed].values()])))
            for fold, seed in common
        ],
        within=(-1, 1),
    )
    means = [float(np.mean([np.mean([*one[trial].values()]) for trial in common])) for one in (ours, theirs)]
    falls = mean_interval([(fold, _trend(list(ours[fold, seed].values()))) for fold, seed in common], within=(-1, 1))
    held = _sign(differences["ci95"], up="holds", down="is contradicted")
    fall = _sign(falls["ci95"], up="is contradicted", down="holds")
    return [
        f"Pretrained stages stay more like their start than random ones: {held}. Mean SVCCA over the stages "
        f"{means[0]:.2f} against {means[1]:.2f}, difference {_with_interval(differences)} over "
        f"{counted(len(common), 'trial')}.",
        f"When pretrained, likeness falls with depth: {fall}. Rank correlation with depth {_with_interval(falls)}.",
    ]


def sweep_claims(result: Row) -> list[str]:
    """The paper's claim on fusion, freezing or cutting, checked by a sweep's differences to its reference."""
    points = [point for point in result["points"] if point["difference"]]
    lost = [point for point in points if _beyond(point) and point["difference"]["mean"] < 0]
    listed = ", ".join(_point(point) for point in points)
    claim, verdict = _SWEEP_VERDICTS[result["analysis"]](points, lost)
    seeds = " One seed: the noise between seeds is not in the intervals." if len(result["seeds"]) == 1 else ""
    return [f"{claim}: {verdict}. Differences to the reference in points: {listed}.{seeds}"]


def _pair(compared: Row, name: str) -> dict[str, Any]:
    """The result of `compare_runs` for two cells, by name."""
    return {"name": name, "difference": compared["difference"], "beyond_noise": compared["beyond_noise"]}


def _judged(claim: str, pairs: Sequence[Row], *, of: int, noun: str) -> str:
    """A claim that a difference is above 0, and each difference."""
    if not pairs:
        return f"{claim}: not tested yet, for no {noun} was run on both sides."
    sure = [pair for pair in pairs if pair["beyond_noise"]]
    good = [pair for pair in sure if pair["difference"]["mean"] > 0]
    bad = [pair for pair in sure if pair["difference"]["mean"] < 0]
    there = f"the {len(pairs)} {noun}s" if len(pairs) > 1 else f"the one {noun}"
    there += f" run of {of}" if len(pairs) < of else ""
    if bad:
        verdict = f"contradicted beyond the noise in {len(bad)} and held beyond it in {len(good)} of {there}"
    elif len(good) == len(pairs):
        verdict = f"holds, beyond the noise, in {there}"
    elif good:
        verdict = f"holds beyond the noise in {len(good)} of {there}; in the others no difference is shown"
    else:
        verdict = f"not shown: no difference beyond the noise in {there}"
    return f"{claim}: {verdict}. {' '.join(map(_one, pairs))}"


def _one(pair: Row) -> str:
    found = pair["difference"]
    limits = found.get("ci95_with_seeds") or found["ci95"]
    noise = "" if pair["beyond_noise"] else ", within the noise"
    paper = ""
    if pair["paper"] is not None:
        paper = f"; in the paper {pair['paper']:+.2f}" + (f" on {pair['of']}" if pair["of"] else "")
    return (
        f"{pair['name']}: {signed(found['mean'])} points (95 % {signed_range(limits)}, "
        f"p = {found['p_value']:.2g}{noise}{paper})."
    )


def _gaps(cells: Sequence[tuple[Row, Row]]) -> list[str]:
    """Our intervals compared with the paper's figures on the same data set."""
    known = [(row, cell) for row, cell in cells if cell["gap"]]
    if not known:
        return []
    parts = {"holds": 0, "lies above": 0, "lies below": 0}
    for _, cell in known:
        low, high = cell["gap"]["ci95"]
        parts["holds" if low <= 0 <= high else "lies above" if low > 0 else "lies below"] += 1
    counts = ", ".join(f"{verb} it for {count}" for verb, count in parts.items() if count)
    every = counted(len(known), "cell")
    return [f"Against the paper's figures on the same data set: our 95 % interval {counts} of {every}."]


def _fusion(points: Sequence[Row], lost: Sequence[Row]) -> tuple[str, str]:
    claim = (
        "The last stage need not be pretrained, the stages before it must be (paper: 90 % with Block3, Block4 adds "
        "nothing)"
    )
    last = points[-1]
    if last in lost:
        return claim, f"is contradicted: pretraining up to {last['stage']} is worse beyond the noise than all of it"
    if not lost:
        return claim, "the first half is not contradicted, the second not shown: no fusion is worse beyond the noise"
    return claim, (
        f"holds: pretraining up to {last['stage']} is not worse than all of it beyond the noise, and up to "
        f"{lost[-1]['stage']} it is"
    )


def _freeze(points: Sequence[Row], lost: Sequence[Row]) -> tuple[str, str]:
    claim = "Freezing costs the more the deeper (paper: 2 to 3 points for Block1-2, nearly 10 for Block3)"
    if not lost:
        return claim, "not shown: freezing no stage costs anything beyond the noise"
    first = points.index(lost[0])
    if len(lost) == 1 and lost[0] is points[-1]:
        return claim, (
            f"not shown: freezing up to {lost[0]['stage']}, the deepest, costs more than the noise, and nothing before "
            "it does, so that no growth with depth is seen"
        )
    worse = points[-1]["difference"]["mean"] < lost[0]["difference"]["mean"]
    free = f"up to {points[first - 1]['stage']} nothing is lost beyond the noise, " if first else ""
    return claim, f"{'holds' if worse else 'not so'}: {free}from {lost[0]['stage']} on accuracy is lost"


def _cutoff(points: Sequence[Row], lost: Sequence[Row]) -> tuple[str, str]:
    claim = "The last stage can be cut off at little cost (paper: about 1 point without Block4, 6 without Block3 and 4)"
    last = points[-1]
    if last in lost:
        return claim, f"ending after {last['stage']} already costs more than the noise"
    if not lost:
        return claim, "no cut costs anything beyond the noise"
    return claim, f"ending after {last['stage']} costs nothing beyond the noise; ending after {lost[-1]['stage']} does"


_SWEEP_VERDICTS: dict[str, Callable[[Sequence[Row], Sequence[Row]], tuple[str, str]]] = {
    "fusion": _fusion,
    "freeze": _freeze,
    "cutoff": _cutoff,
}


def _point(point: Row) -> str:
    difference, noise = point["difference"], "" if _beyond(point) else ", noise"
    return f"{point['stage']} {signed(difference['mean'])} ({signed_range(difference['ci95'])}{noise})"


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
    """Rank correlation of values with their index; None for fewer than three, or if all are equal."""
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
