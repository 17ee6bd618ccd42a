"""Tables of comparisons on a terminal: an ensemble's ways, two runs, the protocols.

Comes in: the dicts that `earsight.ensembles.build`, `earsight.evaluation.comparison` and
`earsight.evaluation.protocols` give (accuracies between 0 and 1). Goes out: text with accuracies in per cent. No row is
marked as the best: what is more than noise is said in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

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
}


def ensemble_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of an ensemble's table, as text.

    Parameters
    ----------
    result : dict
        What `earsight.ensembles.build.make_ensemble` returns.

    Returns
    -------
    list of dict
        Columns ``how``, ``nets``, ``accuracy %``, ``95 % interval``, ``gain``, ``95 % of gain`` and ``ms``.
    """
    rows = []
    for row in result["rows"]:
        accuracy, gain = row["accuracy"], row.get("gain")
        spread = f" ± {100 * accuracy['std']:.1f}" if "std" in accuracy else ""
        rows.append(
            {
                "how": _NAMES[row["method"]],
                "nets": f"{row['networks']:.3g}",
                "accuracy %": f"{100 * accuracy['mean']:.1f}{spread}",
                "95 % interval": _interval(accuracy["ci95"]),
                "gain": f"{100 * gain['difference']:+.1f}" if gain else "",
                "95 % of gain": _signed(gain["ci95"]) if gain else "",
                "ms": f"{row['milliseconds_per_clip']:.1f}",
            }
        )
    return rows


def ensemble_notes(result: dict[str, Any]) -> list[str]:
    """Sentences that belong under an ensemble's table."""
    single = result["rows"][0]["accuracy"]
    members, folds = len(result["members"]), len(result["folds"])
    notes = [
        f"{result['dataset']['name']}: {members} members on fold {', '.join(map(str, result['folds']))}, each tested "
        "on clips that it never saw; ± is between members, intervals are over clips; ms are for one clip.",
        "Averages are of calibrated probabilities; a run's own summary averages them as they are.",
        _beyond(result["rows"]),
    ]
    if "seed_std" in single:
        notes.append(
            f"Standard deviation between the members of one fold: {100 * single['seed_std']:.1f} points; "
            f"between folds: {100 * single['fold_std']:.1f}."
        )
    if result["protocol"] == "test":
        notes.append("Protocol test: optimistic, because the held-out fold chose each member's epoch.")
    notes += result["notes"]
    model = result["model"]
    networks = f"{model['networks']} network{'s' if model['networks'] > 1 else ''}"
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
    """Which gains are more than noise, in words; losses too."""
    sure = [
        (_NAMES[row["method"]], row["gain"]["difference"]) for row in rows if row.get("gain", {}).get("beyond_noise")
    ]
    if not sure:
        return "No difference from the single network is beyond the noise."
    said = ", ".join(f"{name} ({100 * value:+.1f})" for name, value in sure)
    return f"Beyond the noise, against the single network: {said}; nothing else is."


def print_ensemble(result: dict[str, Any], *, console: Console) -> None:
    """Print an ensemble's table and what belongs to it."""
    _print(ensemble_rows(result), ensemble_notes(result), console=console)


def comparison_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of two runs: one a fold, then all folds.

    Parameters
    ----------
    result : dict
        What `earsight.evaluation.comparison.compare_runs` returns.
    """
    rows = [
        {
            "fold": str(row["fold"]),
            "clips": str(row["clips"]),
            "A %": f"{100 * row['a']:.1f}",
            "B %": f"{100 * row['b']:.1f}",
            "A - B": f"{100 * (row['a'] - row['b']):+.1f}",
        }
        for row in result["by_fold"]
    ]
    a, b = (run["accuracy"] for run in result["runs"])
    rows.append(
        {
            "fold": "mean",
            "clips": str(result["clips"]),
            "A %": f"{100 * a:.1f}",
            "B %": f"{100 * b:.1f}",
            "A - B": f"{100 * result['difference']['mean']:+.1f}",
        }
    )
    return rows


def comparison_notes(result: dict[str, Any]) -> list[str]:
    """Sentences that belong under the table of two runs: who is who, the interval, the verdict."""
    difference = result["difference"]
    notes = [
        f"{letter}: {run['run']}, {100 * run['accuracy']:.1f} % ({_interval(run['ci95'])}), protocol "
        f"{run['protocol']}, {_who(run)}"
        for letter, run in zip("AB", result["runs"], strict=True)
    ]
    notes.append(
        f"A - B: {100 * difference['mean']:+.1f} points, 95 % interval {_signed(difference['ci95'])} over clips, "
        f"p = {difference['p_value']:.2g} (sign flips over clips)."
    )
    if difference["ci95_with_seeds"]:
        notes.append(f"With other seeds too: 95 % interval {_signed(difference['ci95_with_seeds'])}.")
    return [*notes, *result["notes"], result["verdict"]]


def _who(run: dict[str, Any]) -> str:
    if run["ensemble"]:
        return "an ensemble" if run["ensemble"] > 1 else "one network made of several"
    return f"seed {', '.join(map(str, run['seeds']))}"


def print_comparison(result: dict[str, Any], *, console: Console) -> None:
    """Print two runs side by side and what belongs to them."""
    _print(comparison_rows(result), comparison_notes(result), console=console)


def protocol_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of the protocols.

    Parameters
    ----------
    result : dict
        What `earsight.evaluation.protocols.compare_protocols` returns.
    """
    rows = []
    for row in result["protocols"]:
        above = row.get("over_last")
        rows.append(
            {
                "protocol": row["protocol"] + (" (optimistic)" if row["optimistic"] else ""),
                "accuracy %": f"{100 * row['accuracy']['mean']:.1f}",
                "95 % interval": _interval(row["accuracy"]["ci95"]),
                "over last": f"{100 * above['difference']:+.1f}" if above else "",
                "95 % of it": _signed(above["ci95"]) if above else "",
            }
        )
    return rows


def print_protocols(result: dict[str, Any], *, console: Console) -> None:
    """Print the protocols side by side and what belongs to them."""
    trials = len(result["trials"])
    run = f"{result['run']}: {trials} trial{'s' if trials > 1 else ''}, trained under protocol {result['protocol']}."
    _print(protocol_rows(result), [run, *result["notes"]], console=console)


def _print(rows: Sequence[dict[str, str]], notes: Iterable[str], *, console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for place, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    for note in notes:
        # Names of folders are the user's: no markup in them is meant.
        console.print(note, markup=False, highlight=False)


def _interval(limits: Sequence[float]) -> str:
    return f"{100 * limits[0]:.1f} to {100 * limits[1]:.1f}"


def _signed(limits: Sequence[float]) -> str:
    return f"{100 * limits[0]:+.1f} to {100 * limits[1]:+.1f}"
