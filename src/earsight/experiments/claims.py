"""What the numbers say of the paper's claims, in words.

Comes in: the rows of a section. Goes out: sentences. A difference is called one only beyond the noise: its 95 %
interval leaves 0 out and its p-value is below 0.05. What was not run is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def table1_claims(rows: Sequence[Row]) -> list[str]:
    """Whether pretrained networks are better than random ones, row by row, and how ours stand to the paper's."""
    pairs = [
        {
            "name": f"{row['model']} on {row['title']}",
            "difference": row["difference"]["difference"],
            "beyond_noise": row["difference"]["beyond_noise"],
            "paper": row["paper_difference"],
            "of": row["paper_title"],
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
            "difference": {"mean": row["gain"]["difference"], **_only(row["gain"], "ci95", "p_value")},
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
    """Which published figures lie outside our intervals; no rank is given, for they have no intervals of their own."""
    out = []
    for row in ours:
        found = row["ensemble"]["accuracy"] or row["single"]["accuracy"]
        if not found:
            continue
        what = "ensemble" if row["ensemble"]["accuracy"] else "single network"
        low, high = (100 * limit for limit in found["ci95"])
        known = [(other["who"], other["figures"][row["data"]]) for other in others if row["data"] in other["figures"]]
        within = [f"{who} ({value:.2f})" for who, value in known if low <= value <= high]
        above = [f"{who} ({value:.2f})" for who, value in known if value > high]
        below = [f"{who} ({value:.2f})" for who, value in known if value < low]
        parts = [
            f"{title} {', '.join(names)}"
            for title, names in (("within it:", within), ("above it:", above), ("below it:", below))
            if names
        ]
        out.append(
            f"{row['title']}: our {what} ({row['model']}) is at {100 * found['mean']:.1f} %, 95 % interval "
            f"{low:.1f} to {high:.1f}; {'; '.join(parts) or 'nothing was published on it here'}."
        )
    if not out:
        return ["Not compared yet: no row of ours was run."]
    return [*out, "Published figures have no intervals, and some chose their epoch on the test fold: no rank is given."]


def representations_claims(rows: Sequence[Row], best: str) -> list[str]:
    """Whether the representation that won in the paper wins here, against each other one."""
    pairs = [
        {
            "name": f"Against {row['name']}",
            "difference": row["difference"]["difference"],
            "beyond_noise": row["difference"]["beyond_noise"],
            "paper": None,
            "of": None,
        }
        for row in rows
        if row["difference"]
    ]
    return [_judged(f"Of the representations, {best} is the best", pairs, of=len(rows) - 1, noun="comparison")]


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
    low, high = (100 * limit for limit in limits)
    noise = "" if pair["beyond_noise"] else ", within the noise"
    paper = ""
    if pair["paper"] is not None:
        paper = f"; in the paper {pair['paper']:+.2f}" + (f" on {pair['of']}" if pair["of"] else "")
    return (
        f"{pair['name']}: {100 * found['mean']:+.1f} points (95 % {low:+.1f} to {high:+.1f}, "
        f"p = {found['p_value']:.2g}{noise}{paper})."
    )


def _gaps(cells: Sequence[tuple[Row, Row]]) -> list[str]:
    """How our intervals stand to the paper's figures on the same data set."""
    known = [(row, cell) for row, cell in cells if cell["gap"]]
    if not known:
        return []
    parts = {"holds": 0, "lies above": 0, "lies below": 0}
    for _, cell in known:
        low, high = cell["gap"]["ci95"]
        parts["holds" if low <= 0 <= high else "lies above" if low > 0 else "lies below"] += 1
    said = ", ".join(f"{verb} it for {count}" for verb, count in parts.items() if count)
    return [f"Against the paper's figures on the same data set: our 95 % interval {said} of {len(known)} cells."]


def _only(found: Row, *names: str) -> dict[str, Any]:
    return {name: found[name] for name in names}
