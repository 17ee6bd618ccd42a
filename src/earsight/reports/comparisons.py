"""Tables of comparisons on a terminal: the methods of an ensemble, what distillation kept, two runs, the protocols.

Comes in: the dicts that `earsight.ensembles.build` and `distilled`, `earsight.evaluation.comparison` and
`earsight.evaluation.protocols` return (accuracies between 0 and 1). Goes out: text with accuracies in per cent. No row
is marked as the best: sentences name the differences that are more than noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from earsight.errors import counted
from earsight.reports.tables import print_rows
from earsight.reports.text_format import percent, percent_range, signed, signed_range

if TYPE_CHECKING:
    from rich.console import Console

_NAMES = {
    "single": "single",
    # of older versions
    "single-remeasured": "single, new norms",
    "average": "average",
    "greedy": "greedy",
    "soup": "soup",
    "greedy-soup": "greedy soup",
    "ensemble": "ensemble",
    "distilled": "distilled",
}


def ensemble_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of an ensemble's table, as text, from what `earsight.ensembles.build.make_ensemble` returns."""
    rows = []
    several = "average_precision" in result["rows"][0]
    for row in result["rows"]:
        accuracy, gain = row["average_precision" if several else "accuracy"], row.get("gain")
        spread = f" ± {percent(accuracy['std'])}" if "std" in accuracy else ""
        rows.append(
            {
                "how": _NAMES[row["method"]],
                "nets": f"{row['networks']:.3g}",
                "mAP %" if several else "accuracy %": percent(accuracy["mean"]) + spread,
                "95 % interval": percent_range(accuracy["ci95"]),
                "gain": signed(gain["difference"]) if gain else "",
                "95 % of gain": signed_range(gain["ci95"]) if gain else "",
                "ms": f"{row['milliseconds_per_clip']:.1f}",
            }
        )
    return rows


def ensemble_notes(result: dict[str, Any]) -> list[str]:
    """Sentences that belong under an ensemble's table."""
    single = result["rows"][0].get("accuracy", {})
    members, folds = len(result["members"]), len(result["folds"])
    units = f"{counted(result['groups'], 'group')}, whose clips move together" if result.get("groups") else "clips"
    notes = [
        f"{result['dataset']['name']}: {counted(members, 'member')} on fold {', '.join(map(str, result['folds']))}, "
        f"each tested on clips that it never saw; ± is between members, intervals are over {units}; ms are for one "
        "clip.",
        "Averages are of calibrated probabilities; a run's own summary averages them as they are.",
        _beyond(result["rows"]),
    ]
    if "seed_std" in single:
        notes.append(
            f"Standard deviation between the members of one fold: {percent(single['seed_std'])} points; "
            f"between folds: {percent(single['fold_std'])}."
        )
    if result["protocol"] == "test":
        notes.append("Protocol test: optimistic, because the held-out fold chose each member's epoch.")
    notes += result["notes"]
    model = result["model"]
    networks = counted(model["networks"], "network")
    notes.append(
        f"model: {model['path']} ({_NAMES[model['method']]}, {networks}, "
        f"{model['milliseconds_per_clip']:.1f} ms a clip)"
    )
    if folds > 1:
        notes.append(
            f"Its members held out different folds: together they saw {model['seen']}, so no clip of it tests them. "
            "The table's figures are of each fold's own members; their models are beside it in fold-K/seed-0."
        )
    else:
        notes.append(f"It saw {model['seen']}, and `earsight evaluate` tests it on that fold.")
    return notes


def _beyond(rows: Sequence[dict[str, Any]]) -> str:
    """Which gains and losses are more than noise."""
    sure = [
        (_NAMES[row["method"]], row["gain"]["difference"])
        for row in rows
        if (row.get("gain") or {}).get("beyond_noise")
    ]
    if not sure:
        return "No difference from the single network is beyond the noise."
    named = ", ".join(f"{name} ({signed(value)})" for name, value in sure)
    return f"Beyond the noise, against the single network: {named}; nothing else is."


def print_ensemble(result: dict[str, Any], *, console: Console) -> None:
    """Print an ensemble's table and its notes."""
    print_rows(ensemble_rows(result), console=console, notes=ensemble_notes(result))


def distillation_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of teachers and students, from what `earsight.ensembles.distilled.measure_distillation` returns."""
    rows = []
    for row in result["rows"]:
        kind, gain = "average_precision" if "average_precision" in row else "accuracy", row["gain"]
        rows.append(
            {
                "how": _NAMES[row["method"]],
                "nets": str(row["networks"]),
                "accuracy %" if kind == "accuracy" else "mAP %": percent(row[kind]["mean"]),
                "95 % interval": percent_range(row[kind]["ci95"]),
                "gain": signed(gain["difference"]) if gain else "",
                "95 % of gain": signed_range(gain["ci95"]) if gain else "",
                "ms": f"{row['milliseconds_per_clip']:.1f}",
                "MB": f"{row['bytes'] / 1e6:.1f}",
            }
        )
    return rows


def distillation_notes(result: dict[str, Any]) -> list[str]:
    """Sentences that belong under that table."""
    over, folds, seeds = (result[name] for name in ("over_ensemble", "folds", "seeds"))
    notes = [
        f"{result['dataset']['name']}: fold {', '.join(map(str, folds))}, which neither the teachers ({result['run']}) "
        f"nor the students (seed {', '.join(map(str, seeds))}) saw; single: the mean of the teachers one by one, over "
        "which the gains are; ms are for one clip, MB of the model files."
    ]
    if over:
        verdict = "beyond the noise" if over["beyond_noise"] else "which is within the noise"
        notes.append(
            f"Distilled less ensemble: {signed(over['difference'])} points, 95 % interval "
            f"{signed_range(over['ci95'])}, {verdict}."
        )
    return [*notes, _beyond(result["rows"]), *result["notes"]]


def print_distillation(result: dict[str, Any], *, console: Console) -> None:
    """Print the table of teachers and students, and its notes."""
    print_rows(distillation_rows(result), console=console, notes=distillation_notes(result))


def comparison_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of two runs, one a fold, then all folds, from what `earsight.evaluation.comparison.compare_runs` returns."""
    by_fold = [(row["fold"], row["clips"], row["a"], row["b"], row["a"] - row["b"]) for row in result["by_fold"]]
    a, b = (run["average_precision" if result.get("several") else "accuracy"] for run in result["runs"])
    return [
        {"fold": str(fold), "clips": str(clips), "A %": percent(a), "B %": percent(b), "A - B": signed(difference)}
        for fold, clips, a, b, difference in [*by_fold, ("mean", result["clips"], a, b, result["difference"]["mean"])]
    ]


def comparison_notes(result: dict[str, Any]) -> list[str]:
    """Sentences that belong under the table of two runs: which run is A, which is B, the interval, the verdict."""
    difference, units = result["difference"], "groups" if result.get("groups") else "clips"
    key, score = ("average_precision", "mean average precision ") if result.get("several") else ("accuracy", "")
    notes = [
        f"{letter}: {run['run']}, {score}{percent(run[key])} % ({percent_range(run['ci95'])}), protocol "
        f"{run['protocol']}, {_networks(run)}"
        for letter, run in zip("AB", result["runs"], strict=True)
    ]
    notes.append(
        f"A - B: {signed(difference['mean'])} points, 95 % interval {signed_range(difference['ci95'])} over {units}, "
        f"p = {difference['p_value']:.2g} ({'by bootstrap' if result.get('several') else f'sign flips over {units}'})."
    )
    if difference["ci95_with_seeds"]:
        notes.append(f"With other seeds too: 95 % interval {signed_range(difference['ci95_with_seeds'])}.")
    turned = [result["reversed"]] if result.get("reversed") else []
    return [*notes, *result["notes"], result["verdict"], *turned]


def _networks(run: dict[str, Any]) -> str:
    if run["ensemble"]:
        return "an ensemble" if run["ensemble"] > 1 else "one network made of several"
    return f"seed {', '.join(map(str, run['seeds']))}"


def print_comparison(result: dict[str, Any], *, console: Console) -> None:
    """Print the table of two runs and its notes."""
    print_rows(comparison_rows(result), console=console, notes=comparison_notes(result))


def protocol_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of the protocols, from what `earsight.evaluation.protocols.compare_protocols` returns."""
    rows = []
    for row in result["protocols"]:
        above = row.get("over_last")
        rows.append(
            {
                "protocol": row["protocol"] + (" (optimistic)" if row["optimistic"] else ""),
                "accuracy %": percent(row["accuracy"]["mean"]),
                "95 % interval": percent_range(row["accuracy"]["ci95"]),
                "over last": signed(above["difference"]) if above else "",
                "95 % of it": signed_range(above["ci95"]) if above else "",
            }
        )
    return rows


def print_protocols(result: dict[str, Any], *, console: Console) -> None:
    """Print the table of protocols and its notes."""
    trials = counted(len(result["trials"]), "trial")
    run = f"{result['run']}: {trials}, trained under protocol {result['protocol']}."
    print_rows(protocol_rows(result), console=console, notes=[run, *result["notes"]])
