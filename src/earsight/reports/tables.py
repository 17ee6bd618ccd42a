"""Tables as text: Markdown, csv and terminal; and the tables of a run's summary and of an evaluation.

Comes in: rows as dicts, or the dict of a ``summary.json`` (accuracies between 0 and 1, times in seconds). Goes out:
text with accuracies in per cent. Nothing here reads files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earsight.errors import RunError, counted
from earsight.reports.calibration_report import confidence_lines
from earsight.reports.text_format import percent, percent_range, signed, signed_range

if TYPE_CHECKING:
    from rich.console import Console

MOST_NAMED = 10
_WIDEST = 100_000  # columns of a table that goes to a file
_RARE = 10  # positive clips below which an average precision says little
_PROTOCOLS = {
    "last": "Protocol last: the last epoch is reported; the held-out fold chose nothing.",
    "inner": "Protocol inner: a part of the training folds chose the epoch; the held-out fold chose nothing.",
    "test": "Protocol test: optimistic, because the held-out fold chose the epoch that is reported.",
}


def markdown(rows: list[dict[str, object]]) -> str:
    """Rows as a Markdown table; columns of numbers are aligned to the right; "" for no rows.

    The columns are all keys, in order of first appearance. A missing entry or None is left blank, a float has at most
    six digits. Every cell stays on one line and inside its column.
    """
    columns = _columns(rows)
    if not columns:
        return ""
    table = [[_cell(name) for name in columns]]
    table += [[_cell(row.get(name)) for name in columns] for row in rows]
    right = [_is_numeric(rows, name) for name in columns]
    widths = [max(3, *(len(line[index]) for line in table)) for index in range(len(columns))]

    table.insert(1, ["-" * (width - 1) + (":" if flush else "-") for width, flush in zip(widths, right, strict=True)])
    layout = [f"{'>' if flush else '<'}{width}" for width, flush in zip(widths, right, strict=True)]
    lines = (" | ".join(map(format, line, layout)) for line in table)
    return "".join(f"| {line} |\n" for line in lines)


def csv_text(rows: Sequence[Mapping[str, object]], *, columns: Sequence[str] = ()) -> str:
    """Rows as comma-separated values with a header; the columns are by default all their keys, None is left blank."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def columns_and_cells(rows: Sequence[Mapping[str, object]]) -> tuple[list[str], list[list[object]]]:
    """Column names, and each row's cells in that order; all rows have the keys of the first."""
    columns = list(rows[0])
    return columns, [[row[name] for name in columns] for row in rows]


def print_rows(
    rows: Sequence[Mapping[str, object]], *, console: Console, total: bool = False, notes: Iterable[str] = ()
) -> None:
    """Print a table as every verb prints it, a blank line, and sentences; no rows are no table.

    Columns and cells are those of `markdown`. ``total`` sets the last row apart. On a terminal long cells are broken
    into lines; elsewhere a row is a line, however long. Names and sentences are not read as rich's markup.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in _columns(rows):
        table.add_column(Text(name), justify="right" if _is_numeric(rows, name) else "left", overflow="fold")
    for place, row in enumerate(rows):
        if total and place == len(rows) - 1:
            table.add_section()
        table.add_row(*(Text(_words(row.get(name))) for name in _columns(rows)))
    if rows:
        if not console.is_terminal:
            table.width = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
        console.print(table, crop=False)
        console.print()
    for note in notes:
        console.print(note, markup=False, highlight=False)


def summary_rows(summary: dict[str, Any]) -> list[dict[str, object]]:
    """Rows of the fold table of a ``summary.json``: one for each fold and seed, then the mean with its deviation.

    RunError if the summary lacks an entry.
    """
    score = "average_precision" if summary.get("several") else "accuracy"
    title = f"{'mAP' if summary.get('several') else 'accuracy'} %"
    try:
        part = (summary["dataset"].get("held_out") or {}).get("kind")  # a part that is no fold
        rows: list[dict[str, object]] = [
            {
                "fold": part or entry["fold"],
                "seed": entry["seed"],
                "clips": entry["clips"],
                title: percent(entry[score]),
                "seconds": f"{entry['seconds']:.0f}",
            }
            for entry in summary["folds"]
        ]
        mean, std = summary[score]["mean"], summary[score].get("std")
    except KeyError as error:
        raise RunError(f"summary has no {error}: delete summary.json and rebuild it") from None
    # Seeds of a single fold have no spread over folds; 0.0 would look like certainty.
    spread = "" if std is None or len({row["fold"] for row in rows}) < 2 else f" ± {percent(std)}"
    rows.append({"fold": "mean", "seed": None, "clips": None, title: percent(mean) + spread, "seconds": None})
    return rows


def summary_notes(summary: dict[str, Any]) -> list[str]:
    """Sentences that belong under the fold table: interval, chance, ensemble, protocol, clips left out.

    With protocol ``test`` one of them says that the accuracy is optimistic. RunError if the summary lacks an entry, or
    its protocol is unknown.
    """
    several = bool(summary.get("several"))
    try:
        accuracy = summary["average_precision" if several else "accuracy"]
        dataset, protocol = summary["dataset"], summary["protocol"]
        classes = dataset["classes"] if isinstance(dataset["classes"], int) else len(dataset["classes"])
        name = "mean average precision" if several else "accuracy"
        headline = f"{dataset['name']}: {name} {percent(accuracy['mean'])} %"
    except KeyError as error:
        raise RunError(f"summary has no {error}: delete summary.json and rebuild it") from None
    if protocol not in _PROTOCOLS:
        raise RunError(f"summary has protocol {protocol!r}, expected {', '.join(_PROTOCOLS)}: delete and rebuild it")
    if accuracy.get("ci95"):
        headline += f", 95 % interval {percent_range(accuracy['ci95'])} %"
    if several:
        chance = f"scores that say nothing reach {percent(accuracy['chance'])} %"
        notes = [f"{headline}; {chance}.", *_several_notes(summary)]
    else:
        notes = [f"{headline}; {chance_words(summary, classes=classes)}.", *base_rate_notes(summary)]
    if summary.get("ensemble"):
        notes.append(_ensemble_note(summary["ensemble"]))
    if accuracy.get("std_over_seeds") is not None:
        spread = f"Standard deviation of the mean from seed to seed: {percent(accuracy['std_over_seeds'])} points"
        if parts := accuracy.get("std_parts"):
            spread += (
                f"; between the seeds of one fold {percent(parts['seeds'])}, between folds {percent(parts['folds'])}"
            )
        notes.append(f"{spread}.")
    notes.append(_PROTOCOLS[protocol])
    skipped = len(dataset.get("skipped") or [])
    if skipped:
        noun = "clip was" if skipped == 1 else "clips were"
        notes.append(f"{skipped} unusable {noun} left out; summary.json lists {'it' if skipped == 1 else 'them'}.")
    return notes


def chance_words(found: Mapping[str, Any], *, classes: int) -> str:
    """What guessing, and always saying one class, would reach, from a summary or an evaluation."""
    chance, majority = f"chance is {percent(1 / classes)} % ({counted(classes, 'class')})", found.get("majority")
    if not majority or majority["share"] <= 1 / classes + 0.005:
        return chance
    return f"always saying {majority['label']!r} gives {percent(majority['share'])} %, {chance}"


def base_rate_notes(found: Mapping[str, Any]) -> list[str]:
    """Sentences on what an accuracy hides, from a summary or an evaluation; none of older ones."""
    if "balanced_accuracy" not in found:
        return []
    shares = [percent(found[name]) for name in ("balanced_accuracy", "macro_f1")]
    notes = [f"Each class weighing the same: balanced accuracy {shares[0]} %, macro F1 {shares[1]} %."]
    majority, groups, never = found["majority"], found["groups"], found["never_predicted"]
    if majority is None:
        notes.append("All clips are of one class: the accuracy is its recall, and says nothing about the others.")
    elif not majority["beaten"]:
        # The interval of few clips may leave 0 out where an exact test does not.
        p_value = f", but p = {majority['p_value']:.2g}: too few clips" if majority["ci95"][0] > 0 else ""
        verdict = "WORSE than" if majority["ci95"][1] < 0 else "NOT shown to be better than"
        notes.append(
            f"{verdict} always saying {majority['label']!r}: {signed(majority['difference'])} points "
            f"(95 % interval {signed_range(majority['ci95'])}{p_value})."
        )
    if never:
        shown = ", ".join(map(repr, never[:MOST_NAMED])) + (", ..." if len(never) > MOST_NAMED else "")
        notes.append(f"It never says {shown}" + (f" ({counted(len(never), 'class')})." if len(never) > 1 else "."))
    few = " They are few, so that it is wide, and rough: a t interval over them counts too."
    return [*notes, *_groups_notes(groups, few=few)]


def _groups_notes(groups: Mapping[str, Any] | None, *, few: str) -> list[str]:
    """A sentence on the groups that an interval is over; ``few`` is added where they are."""
    if groups and groups["count"] == 1:
        return ["All clips tested are of one source: how it would do on others, they cannot say."]
    if groups:
        more = few if groups["few"] else ""
        return [f"The interval is over {counted(groups['count'], 'group')}, whose clips move together.{more}"]
    return []


def _several_notes(found: Mapping[str, Any]) -> list[str]:
    """Sentences on clips with several labels, from a summary or an evaluation."""
    area, f1 = found["auroc"], found["f1"]
    notes = [
        f"AUROC {percent(area['mean'])} % ({percent_range(area['ci95'])} %); F1 at {f1['threshold']}: micro "
        f"{percent(f1['micro'])} %, macro {percent(f1['macro'])} %."
    ]
    for row in found["without_positives"]:
        names = row["classes"]
        shown = ", ".join(map(repr, names[:MOST_NAMED])) + (", ..." if len(names) > MOST_NAMED else "")
        where = "" if row.get("fold") is None else f" in fold {row['fold']}"
        notes.append(f"Without a positive clip, or without a negative one,{where}: {shown}, left out of the mean.")
    rare = [row["name"] for row in found["classes"] if 0 < row["clips"] < _RARE]
    if rare:
        shown = ", ".join(map(repr, rare[:MOST_NAMED])) + (", ..." if len(rare) > MOST_NAMED else "")
        notes.append(f"Fewer than {_RARE} clips of {shown}: average precisions and intervals are rough, and flatter.")
    return [*notes, *_groups_notes(found["groups"], few=" They are few, so that it is rough.")]


def several_rows(found: Mapping[str, Any], *, whole: bool = True) -> list[dict[str, object]]:
    """A row for each class of clips with several labels, from a summary or an evaluation; ``whole``: all scores."""
    return [
        {
            "class": row["name"],
            "clips": row["clips"],
            "average precision % (95 % interval)": ""
            if row["average_precision"] is None
            else f"{percent(row['average_precision'])} ({percent_range(row['ci95'])})",
            "AUROC %": "" if row["auroc"] is None else percent(row["auroc"]),
            **{f"{name} %": percent(row[name]) for name in ("precision", "recall") if whole},
            "F1 %": percent(row["f1"]),
        }
        for row in found["classes"]
    ]


def print_summary(summary: dict[str, Any], *, console: Console) -> None:
    """Print `summary_rows` and `summary_notes`; raises what they raise."""
    rows, notes = summary_rows(summary), summary_notes(summary)
    if summary.get("several"):
        print_rows(several_rows(summary, whole=False), console=console)
    print_rows(rows, console=console, total=True, notes=notes)


def print_evaluation(result: dict[str, Any], *, console: Console) -> None:
    """Print what `earsight.inference.scoring.evaluate` returned."""
    part = f"the {result['part']} part" if result.get("part") else f"fold {result['fold']}"
    where = "" if result["fold"] is None else f" of {part}"
    where += ", held out in training" if result.get("held_out") else ""
    if result.get("several"):
        rows = several_rows(result, whole=False)
        for row, one in zip(rows, result["classes"], strict=True):
            row["threshold"] = f"{one['threshold']:.2f}"
        print_rows(rows, console=console)
        found = result["average_precision"]
        line = f"mean average precision {percent(found['mean'])} % on {counted(result['clips'], 'clip')}{where}, "
        line += f"95 % interval {percent_range(found['ci95'])} %; "
        line += f"scores that say nothing reach {percent(found['chance'])} %."
        for note in [line, *_several_notes(result)]:
            console.print(note, markup=False)
        _print_rest(result, console=console)
        return
    rows = [
        {"class": row["name"], "clips": row["clips"]}
        | {f"{score} %": percent(row[score]) if row["clips"] else "-" for score in ("precision", "recall")}
        for row in result["classes"]
    ]
    print_rows(rows, console=console)
    line = f"accuracy {percent(result['accuracy']['mean'])} % on {counted(result['clips'], 'clip')}{where}, "
    line += f"95 % interval {percent_range(result['accuracy']['ci95'])} %"
    if result["majority"]:
        line += f"; {chance_words(result, classes=len(result['classes']))}"
    for note in [f"{line}.", *base_rate_notes(result)]:
        console.print(note, markup=False)
    _print_rest(result, console=console)


def print_event_scores(result: dict[str, Any], *, console: Console) -> None:
    """Print what `earsight.inference.scoring.evaluate_events` returned."""

    def figures(found: dict[str, Any]) -> dict[str, str]:
        scores = {"precision": "precision", "recall": "recall", "f1": "F1"}
        shares = {f"{words} %": _or_dash(found[score], percent) for score, words in scores.items()}
        onset = found["onset_error"]
        return {
            "sounds annotated": str(found["sounds"]),
            "events found": str(found["events"]),
            **shares,
            "false events per hour": _or_dash(found["false_an_hour"], "{:.3g}".format),
            "mean onset error, s": "-" if onset is None else f"{onset['mean']:.3f}",
        }

    rows = [{"class": row["name"]} | figures(row) for row in result["classes"]]
    print_rows([*rows, {"class": "all"} | figures(result)], console=console, total=True)
    where = "" if result["fold"] is None else f" of fold {result['fold']}"
    where += ", held out in training" if result["held_out"] else ""
    console.print(
        f"{counted(result['recordings'], 'recording')}{where}, {result['hours']:.3g} h, a window every "
        f"{result['hop_seconds']:g} s. An event is right where its class is, and its onset within "
        f"{result['tolerance']:g} s (--tolerance); macro F1 {_or_dash(result['macro_f1'], percent)} %.",
        markup=False,
    )
    _print_seen(result["seen_in_training"], "recordings", console=console)


def _or_dash(value: float | None, words: Callable[[float], str]) -> str:
    return "-" if value is None else words(value)


def _print_seen(seen: bool | None, what: str, *, console: Console) -> None:
    if seen is None:
        other = "Other windows" if what == "recordings" else "Another data set"
        console.print(
            f"{other} trained the model: whether it saw some of these {what} cannot be told. The data set that trained "
            f"it, named as it was then (table, splits and all), has the {what} that it held out."
        )
    if seen:
        console.print(f"The model was trained on some of these {what}: this figure says nothing about new ones.")


def _print_rest(result: dict[str, Any], *, console: Console) -> None:
    """Print what an evaluation has beside its scores: long clips, what trained the model, confidence, bad clips."""
    if long := result.get("long"):
        note = (
            "" if long["calibrated"] is not False else "; the model was calibrated on one window a clip, not for these"
        )
        console.print(
            f"{counted(long['clips'], 'clip')} longer than the model's window cut into "
            f"{counted(long['windows'], 'window')}, of which {percent(long['agreement'])} % agree with their clip's "
            f"prediction (--first: the first alone){note}.",
            markup=False,
        )
        if beyond := long.get("beyond"):
            used = f"{counted(beyond, 'clip')} longer than the {long['most_seconds']:g} s that training used of a clip"
            console.print(f"{used} and judged whole here: these figures may differ from the run's.", markup=False)
    _print_seen(result["seen_in_training"], "clips", console=console)
    for line in confidence_lines(result.get("confidence")):
        console.print(line, markup=False)
    if result.get("damaged"):
        console.print(f"Classified by what is whole: {counted(len(result['damaged']), 'damaged clip')}.")
    if result["skipped"]:
        console.print(f"Left out: {counted(len(result['skipped']), 'clip')} that could not be read.")


def _ensemble_note(ensemble: dict[str, Any]) -> str:
    score = ensemble["average_precision"] if "average_precision" in ensemble else ensemble["accuracy"]
    note = f"Ensemble of the seeds: {percent(score)} %"
    gain = ensemble.get("gain")
    if gain is None:
        return f"{note}."
    clears = "beyond" if gain["beyond_noise"] else "not beyond"
    return (
        f"{note}, {signed(gain['difference'])} points over a single network "
        f"(95 % interval {signed_range(gain['ci95'])}): {clears} the noise."
    )


def _columns(rows: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _words(value: object) -> str:
    """A cell on one line."""
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())


def _cell(value: object) -> str:
    return _words(value).replace("\\", "\\\\").replace("|", "\\|")


def _is_numeric(rows: Sequence[Mapping[str, object]], name: str) -> bool:
    """Whether each entry of a column is a number or starts as one (``95.0 ± 1.2``) or is none (-), and there is one."""
    entries = [str(row[name]).split() for row in rows if row.get(name) not in (None, "", "-")]
    for entry in entries:
        try:
            float(entry[0] if entry else "")
        except ValueError:
            return False
    return bool(entries)
