"""The sections of a report page: those of one run, and the comparison of several runs.

Comes in: `RunRead`s. Goes out: dictionaries of sentences, rows and SVG drawings for the templates, shares in per cent
with one decimal. The comparison names a difference only if it is significant. Incomparable runs (e.g. different data
sets) are listed with the reason. Nothing here opens a sound file.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from earsight.calibration.fit import validation_of
from earsight.calibration.temperature import cross_fitted_confidence, expected_calibration_error
from earsight.errors import RunError, counted
from earsight.evaluation.classes import ClassScore, class_scores, common_confusions, confusion_counts
from earsight.evaluation.comparison import compare_runs
from earsight.reports.comparisons import distillation_notes, distillation_rows, ensemble_notes, ensemble_rows
from earsight.reports.drawings import (
    NUMBERED,
    Bar,
    confusion_drawing,
    curves_drawing,
    intervals_drawing,
    reliability_drawing,
)
from earsight.reports.html import inline_svg, shown
from earsight.reports.runs import RunRead
from earsight.reports.tables import columns_and_cells, summary_notes, summary_rows
from earsight.reports.text_format import percent, percent_range

MOST_CONFUSIONS = 15
MOST_SKIPPED = 30
ALL_PAIRS = 6
"""Above this many runs, each is compared only with the first."""
_CLASS_COLUMNS = ["class", "clips", "predictions", "right", "predicted"]
_CLASS_COLUMNS += ["recall % (95 %)", "precision % (95 %)", "F1 % (95 %)"]
_PAIR_COLUMNS = ["A", "B", "clips", "A - B, points", "95 % interval", "p"]

Pair = tuple[tuple[int, int], dict[str, Any]]
"""Indices of two runs, and the result of `compare_runs`."""


def score_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The accuracy of a summary, or of several labels a clip its mean average precision."""
    found: dict[str, Any] = summary["average_precision" if summary.get("several") else "accuracy"]
    return found


def result_section(run: RunRead) -> dict[str, Any]:
    """The headline, the table of folds and its notes."""
    accuracy = score_of(run.summary)
    low, high = map(percent, accuracy["ci95"])
    columns, rows = columns_and_cells(summary_rows(run.summary))
    single = len(run.trials) == 1
    return {
        "headline": {"accuracy": percent(accuracy["mean"]), "low": low, "high": high},
        "chance": _guessing(run.summary),
        "optimistic": run.summary["protocol"] == "test",
        "columns": columns,
        "rows": rows[:-1] if single else rows,
        "total": not single,
        "notes": summary_notes(run.summary)[1:],
        "units": "over the sources of the clips" if run.summary["groups"] else "over clips within folds",
    }


def _guessing(summary: dict[str, Any]) -> str:
    """What needs no network: guessing, or always saying the commonest class."""
    if summary.get("several"):
        return f"scores that say nothing would reach {percent(summary['average_precision']['chance'])} %"
    chance, majority = 1 / summary["dataset"]["classes"], summary["majority"]
    if not majority or majority["share"] <= chance + 0.005:
        return f"guessing would reach {percent(chance)} %"
    return f"always saying {shown(majority['label'])} would reach {percent(majority['share'])} %"


def data_section(run: RunRead) -> dict[str, Any]:
    """The data set's description, and the clips left out."""
    dataset = run.summary["dataset"]
    tested = len({clip for trial in run.trials for clip in trial.clips.tolist()})
    groups = run.summary["groups"]
    sources = f"{groups['count']} among the clips tested" if groups else "not known, or each clip is its own"
    skipped = list(dataset.get("skipped") or [])
    facts = [
        ("data set", dataset["name"]),
        ("clips", f"{dataset['clips']} in {counted(dataset['classes'], 'class')}"),
        ("tested here", f"{counted(tested, 'clip')}, each by networks that were not trained on it"),
        ("sources", sources),
        ("folds held out", _held_out(run)),
        ("left out", f"{counted(len(skipped), 'clip')} that could not be read" if skipped else "none"),
        ("digest", dataset["digest"]),
    ]
    return {"facts": facts, "skipped": skipped[:MOST_SKIPPED], "more": max(0, len(skipped) - MOST_SKIPPED)}


def _held_out(run: RunRead) -> str:
    part = run.summary["dataset"].get("held_out")
    if not part:
        return ", ".join(map(str, run.folds))
    return "the data set's test part" if part["kind"] == "test" else f"a part drawn by seed {part['seed']}"


def classes_section(run: RunRead, *, key: str) -> dict[str, Any]:
    """The confusion matrix, the pairs that are confused, and the scores of each class."""
    counts, scores = confusion_counts(run.trials), class_scores(run.trials)
    names = [shown(name) for name in run.classes]
    pairs = common_confusions(counts)
    total, right = int(counts.sum()), int(np.trace(counts))
    many = len(run.seeds) > 1
    alt = f"Confusion matrix of {len(names)} classes: {right} of {total} predictions lie on its diagonal."
    if pairs:
        first = pairs[0]
        taken = f"{names[first.true]} taken for {names[first.predicted]}"
        alt += f" Most often off it: {taken}, {counted(first.answers, 'time')}."
    return {
        "drawing": inline_svg(confusion_drawing(counts, names), name=f"{key}matrix", alt=alt),
        "f1": _f1_drawing(scores, key=key),
        "numbered": len(names) > NUMBERED,
        "many": many,
        "right": right,
        "total": total,
        "pairs": [
            [names[one.true], names[one.predicted], one.answers, percent(one.answers / counts[one.true].sum())]
            for one in pairs[:MOST_CONFUSIONS]
        ],
        "more": max(0, len(pairs) - MOST_CONFUSIONS),
        "columns": _CLASS_COLUMNS if many else [name for name in _CLASS_COLUMNS if name != "predictions"],
        "rows": [
            _class_row(number if len(names) > NUMBERED else None, one, many=many)
            for number, one in enumerate(scores, start=1)
        ],
        "grouped": bool(run.summary.get("groups")),
        "never": [one.name for one in scores if one.answers and not one.named],
        "absent": [one.name for one in scores if not one.answers],
    }


def _f1_drawing(scores: Sequence[ClassScore], *, key: str) -> Any:
    """F1 of the classes that were tested or predicted, best first."""
    bars = [
        Bar(shown(one.name), 100 * one.f1, *(100 * limit for limit in one.f1_ci95))
        for one in sorted(scores, key=lambda one: -one.f1)
        if one.answers + one.named
    ]
    alt = f"F1 of each class with its 95 % interval, from {bars[0].name}, {bars[0].value:.1f} %, "
    alt += f"to {bars[-1].name}, {bars[-1].value:.1f} %."
    return inline_svg(intervals_drawing(bars, label="F1 in %", full=True), name=f"{key}f1", alt=alt)


def _class_row(number: int | None, one: ClassScore, *, many: bool) -> list[object]:
    recall = _interval(one.recall, one.recall_ci95) if one.answers else "no clip"
    precision = _interval(one.precision, one.precision_ci95) if one.named else "never predicted"
    f1 = _interval(one.f1, one.f1_ci95) if one.answers + one.named else "none"
    counts = [one.clips, *([one.answers] if many else []), one.right, one.named]
    return [f"{number} {one.name}" if number else one.name, *counts, recall, precision, f1]


def _interval(value: float, limits: tuple[float, float]) -> str:
    return f"{percent(value)} ({percent_range(limits)})"


def curves_section(run: RunRead, *, key: str) -> dict[str, Any] | None:
    """Loss, accuracy and rate by epoch; None where no trial has a history."""
    if not run.histories:
        return None
    protocol = run.summary["protocol"]
    scored = "held-out" if protocol == "test" else "inner"
    last = [history[-1]["loss"] for history in run.histories]
    alt = (
        f"Training loss and learning rate over {counted(max(len(history) for history in run.histories), 'epoch')} of "
        f"{counted(len(run.histories), 'training')}; the loss ends at {np.mean(last):.3g} on the mean."
    )
    watched = any({"accuracy", "average_precision"} & row.keys() for history in run.histories for row in history)
    return {
        "drawing": inline_svg(curves_drawing(run.histories, scored=scored), name=f"{key}curves", alt=alt),
        "trainings": len(run.histories),
        "scored": scored if watched else "",
    }


def reliability_section(run: RunRead, *, key: str) -> dict[str, Any]:
    """Calibration of the probabilities, before and after temperature scaling, and what is called unknown."""
    found, own = cross_fitted_confidence(run.trials), run.calibrated
    given = validation_of(run.trials)
    curves = {"as trained": found.raw}
    if found.scaled is not None:
        curves["after temperature scaling"] = found.scaled
    elif own is not None:  # where no others did, the clips that were tested calibrated the model
        name = "after temperature scaling" if given else "calibrated on these clips"
        curves[name] = np.concatenate([one.after for one in own.trials])
    errors = {name: expected_calibration_error(shares, found.labels) for name, shares in curves.items()}
    alt = "; ".join(f"{name}: expected calibration error {percent(error)} %" for name, error in errors.items())
    last = list(curves.values())[-1]
    sure, accuracy = float(last.max(axis=1).mean()), float((last.argmax(axis=1) == found.labels).mean())
    return {
        "drawing": inline_svg(
            reliability_drawing(curves, found.labels), name=f"{key}reliability", alt=f"Reliability diagram. {alt}."
        ),
        "errors": [(name, percent(error)) for name, error in errors.items()],
        "confidence": percent(sure),
        "how": "" if len(curves) == 1 else list(curves)[-1],
        "accuracy": percent(accuracy),
        "temperatures": [(fold, f"{value:.2f}") for fold, value in found.temperatures.items()],
        "stored": f"{run.temperature:.3g}" if run.temperature != 1 else "",
        "optimistic": found.scaled is None and own is not None and not given,
        "validated": own is not None and bool(given),
        "unknown": unknown_facts(run),
    }


def unknown_facts(run: RunRead) -> list[tuple[str, str]]:
    """What the run's calibration stated of known clips, and what it reached on them; empty without a calibration."""
    if run.calibrated is None:
        return []
    found, facts = run.calibrated.figures, []
    if alarms := found["false_alarms"]:
        reached = f"{percent(alarms['reached'])} % (95 % interval {percent_range(alarms['ci95'])} %)"
        facts.append(
            ("called unknown", f"{reached} of clips whose class is known; stated {percent(alarms['stated'])} %")
        )
    if sets := found["coverage"]:
        reached = f"{percent(sets['reached'])} % (95 % interval {percent_range(sets['ci95'])} %)"
        facts.append(("prediction sets", f"{reached} hold the true class; stated {percent(sets['stated'])} %"))
        facts.append(("size of a set", f"{sets['mean_size']:.2f} classes on average"))
    return facts


def parts_section(run: RunRead) -> dict[str, Any] | None:
    """The parts of an ensemble, or a student beside its teachers; None for other runs, or if its file lacks some."""
    try:
        if run.ensemble:
            title, caption = "Parts of the ensemble", "The members alone and together"
            rows, notes = ensemble_rows(run.ensemble), ensemble_notes(run.ensemble)
            members = [f"seed {one['seed']} of {one['run']}" for one in run.ensemble["members"]]
        elif run.distillation:
            title, caption = "Teachers and student", "A teacher alone, all together, and what they taught"
            rows, notes, members = distillation_rows(run.distillation), distillation_notes(run.distillation), []
        else:
            return None
    except (KeyError, TypeError, IndexError, ValueError) as error:
        name = "ensemble.json" if run.ensemble else "distillation.json"
        run.missing.append(f"{name} lacks what this version of earsight writes ({error}): its parts are left out.")
        return None
    columns, cells = columns_and_cells(rows)
    return {
        **{"title": title, "caption": caption, "notes": notes, "members": members},
        **{"columns": columns, "rows": cells},
    }


def recipe_section(run: RunRead) -> dict[str, Any]:
    """The recipe, and the command that reproduces the figures."""
    dataset, machine = run.summary["dataset"], run.summary["machine"]
    digest = run.summary["recipe_digest"]
    seconds = sum(row["seconds"] for row in run.summary["folds"])
    facts = [
        ("earsight", run.version or "not known"),
        ("recipe digest", digest),
        ("data set digest", dataset["digest"]),
        ("protocol", run.summary["protocol"]),
        ("finished", run.finished or "not known"),
        ("seeds", ", ".join(map(str, run.seeds)) if not run.joint else "those of the members"),
        ("training", f"{counted(len(run.trials), 'trial')}, {_duration(seconds)} in all"),
        ("machine", "; ".join(f"{name} {value}" for name, value in machine.items()) or "not known"),
    ]
    recipe = run.recipe
    if recipe is not None and recipe.digest != digest and not run.joint:
        run.missing.append(f"recipe.yaml has digest {recipe.digest}, the predictions {digest}: it is not shown.")
        recipe = None
    return {
        "facts": facts,
        "yaml": recipe.to_yaml() if recipe is not None else "",
        "changes": recipe_changes([run]) if recipe is not None else [],
        "command": _command(run),
        "exact": "options" in dataset,
        "trained": (run.folder / "model.safetensors").is_file() and not run.joint,
        "ensemble": run.joint,
    }


def recipe_changes(runs: Sequence[RunRead]) -> list[list[str]]:
    """Rows of fields in which recipes differ: of one run from the default, of several from each other."""
    from earsight.recipe import load_recipe

    known = [run.recipe for run in runs if run.recipe is not None]
    if len(known) < len(runs):
        return []
    trees = [_flat(recipe.model_dump(mode="json")) for recipe in known]
    if len(trees) == 1:
        first = _flat(load_recipe("default").model_dump(mode="json"))
        # A field that the data set fills in is not a choice.
        trees.insert(0, {name: trees[0].get(name) if value == "auto" else value for name, value in first.items()})
    names = [name for name in trees[0] if name != "name" and len({str(tree.get(name)) for tree in trees}) > 1]
    return [[name, *(str(tree.get(name)) for tree in trees)] for name in names]


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return out


def _command(run: RunRead) -> str:
    if run.joint:
        return "earsight ensemble RUN... --out again"
    dataset = run.summary["dataset"]
    words = ["earsight", "crossval", "DATA", *dataset.get("options", []), "--recipe", "recipe.yaml"]
    taught = "teachers" in run.trials[0].about
    if taught:
        words[1:3] = ["distil", run.distillation.get("run", "TEACHERS"), "--data", "DATA"]
    if (run.folder / "model.safetensors").is_file() and not taught:
        words[1] = "train"
        words += ["--fold", str(run.folds[0])] if "held_out" in dataset and not dataset["held_out"] else []
        words += ["--seed", str(run.seeds[0])]
    else:
        words += ["--folds", ",".join(map(str, run.folds)), "--seeds", str(max(run.seeds) + 1)]
    return shlex.join([*words, *(["--skip-bad"] if dataset.get("skipped") else []), "--out", "again"])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def comparison_section(runs: Sequence[RunRead], names: Sequence[str]) -> dict[str, Any]:
    """The comparison of two or more runs, whose ``names`` all differ."""
    bars = [_bar(run, name) for run, name in zip(runs, names, strict=True)]
    pairs = list(combinations(range(len(runs)), 2)) if len(runs) <= ALL_PAIRS else [(0, n) for n in range(1, len(runs))]
    found: list[Pair] = []
    refused: list[str] = []
    for a, b in pairs:
        try:
            found.append(((a, b), compare_runs(runs[a].trials, runs[b].trials, names=(names[a], names[b]))))
        except RunError as error:
            refused.append(f"{error}.")
    several = len(found) > 1
    adjusted = holm([one["difference"]["p_value"] for _, one in found])
    differences = [_difference(pair, names) for pair in found]
    rows = [_pair_row(pair, bar, names) for pair, bar in zip(found, differences, strict=True)]
    kinds = {bool(run.summary.get("several")) for run in runs}
    score = "mean average precision" if kinds == {True} else "accuracy" if kinds == {False} else "score"
    title = "Accuracies" if score == "accuracy" else f"{score.capitalize()}s"
    alt = f"{title} with 95 % intervals: " + "; ".join(f"{bar.name} {bar.value:.1f} %" for bar in bars) + "."
    return {
        "drawing": inline_svg(intervals_drawing(bars, label=f"{score} in %"), name="runs", alt=alt),
        "rows": [_run_row(run, bar) for run, bar in zip(runs, bars, strict=True)],
        "columns": ["run", "data set", f"{score} %", "95 % interval", "protocol", "folds", "seeds", "recipe"],
        "pairs": [[*row, *([f"{p:.2g}"] if several else [])] for row, p in zip(rows, adjusted, strict=True)],
        "pair_columns": [*_PAIR_COLUMNS, *(["p, corrected"] if several else [])],
        "pair_drawing": _pair_drawing(differences),
        "verdicts": _verdicts(found, adjusted, names),
        "notes": list(dict.fromkeys(note for _, one in found for note in one["notes"])),
        "refused": refused,
        "with_first": len(runs) > ALL_PAIRS,
        "corrected": several,
        "p_words": "by bootstrap" if kinds == {True} else "of a sign-flip test over the same",
        "changes": recipe_changes(runs),
        "change_columns": ["choice", *names],
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of p-values for their number, in the order given.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    out, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        out[place] = highest
    return out


def _bar(run: RunRead, name: str) -> Bar:
    accuracy = score_of(run.summary)
    low, high = accuracy["ci95"]
    return Bar(name, 100 * accuracy["mean"], 100 * low, 100 * high)


def _run_row(run: RunRead, bar: Bar) -> list[object]:
    protocol = run.summary["protocol"]
    return [
        bar.name,
        run.summary["dataset"]["name"],
        f"{bar.value:.1f}",
        f"{bar.low:.1f} to {bar.high:.1f}",
        f"{protocol} (optimistic)" if protocol == "test" else protocol,
        (run.summary["dataset"].get("held_out") or {}).get("kind") or ", ".join(map(str, run.folds)),
        "ensemble" if run.joint else ", ".join(map(str, run.seeds)),
        run.summary["recipe_digest"],
    ]


def _difference(pair: Pair, names: Sequence[str]) -> Bar:
    """A pair's difference in points, with the wider interval: over clips, and over seeds too if there are several."""
    (a, b), found = pair
    difference = found["difference"]
    limits = np.array([difference["ci95"], difference["ci95_with_seeds"] or difference["ci95"]])
    low, high = 100 * float(limits[:, 0].min()), 100 * float(limits[:, 1].max())
    return Bar(f"{names[a]} less {names[b]}", 100 * difference["mean"], low, high)


def _pair_row(pair: Pair, bar: Bar, names: Sequence[str]) -> list[object]:
    (a, b), found = pair
    interval = f"{bar.low:+.1f} to {bar.high:+.1f}"
    return [names[a], names[b], found["clips"], f"{bar.value:+.1f}", interval, f"{found['difference']['p_value']:.2g}"]


def _pair_drawing(bars: Sequence[Bar]) -> Any:
    if not bars:
        return None
    alt = "Differences with 95 % intervals: " + "; ".join(
        f"{bar.name} {bar.value:+.1f} ({bar.low:+.1f} to {bar.high:+.1f}) points" for bar in bars
    )
    return inline_svg(intervals_drawing(bars, label="difference in points", zero=True), name="pairs", alt=f"{alt}.")


def _verdicts(found: Sequence[Pair], adjusted: Sequence[float], names: Sequence[str]) -> list[str]:
    """A sentence for each difference beyond the noise, corrected for the number of pairs; or one that there is none."""
    out, beyond = [], 0
    for ((a, b), one), p in zip(found, adjusted, strict=True):
        difference = one["difference"]["mean"]
        if one["beyond_noise"] and p < 0.05:
            better, worse = (names[a], names[b]) if difference > 0 else (names[b], names[a])
            out.append(f"{better} is better than {worse} beyond the noise, by {percent(abs(difference))} points.")
            out += [one["reversed"]] if one.get("reversed") else []
            beyond += 1
    if out:
        return [*out, *(["No other difference is."] if len(found) > beyond else [])]
    return ["No difference between these runs is beyond the noise."] if found else []
