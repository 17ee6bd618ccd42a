"""Checks of a data set's clips before training, for what would harm it.

Comes in: a `Dataset`. Each clip is decoded once, in threads and block by block; its hash, a few numbers and the
fingerprint of its first 30 s are kept (`earsight.data.duplicates`), so memory does not grow with longer sounds. What
may have a near duplicate is decoded a second time. Goes out: a `Report` of findings, as lines to read or as lists and
dicts for JSON; levels are of full scale 1, lengths in seconds, rates in Hz.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from earsight.data import audio, duplicates, published
from earsight.data.annotations import LEFT_OUT
from earsight.data.datasets import FIXED_WINDOW, Dataset, exploded, first
from earsight.data.decoders import needing_extra
from earsight.data.intake import NEAR, NO_LOSS, Loss, Meter, loss_texts, picked
from earsight.errors import AudioError, counted
from earsight.parallel import pool_size
from earsight.recipe import Features, Recipe

SILENT_LEVEL = 1e-4  # -80 dB: below a bit or two of 16
CONSTANT_SPREAD = 1e-6
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.01
SHORT_SECONDS = 0.1
PADDED_SHARE = 0.5
LONGER_FACTOR = 1.5
IMBALANCE = 5.0
FEW_CLIPS = 10
USUAL_FOLDS = 5
_LINES_OF_A_KIND = 20
_SAMPLED = 40
# Zero-width joiners between letters of scripts that need them are spelling.
_UNSEEN = re.compile(
    r"[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]|(?<=[ -~])[\u200c\u200d]|[\u200c\u200d]$"
)
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]*)?")

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One kind of finding: its severity, its clips, and a line that explains it."""

    kind: str
    severity: Severity
    clips: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Report:
    """All findings, and the number of clips that were checked."""

    clips: int
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Clips concerned, by kind."""
        totals: Counter[str] = Counter()
        for finding in self.findings:
            totals[finding.kind] += len(finding.clips)
        return dict(totals)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that stop training."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def same_sounds(self) -> list[tuple[str, ...]]:
        """Paths of clips that are the same sound, or nearly, a group each; some in several groups."""
        kinds = {kind + name for kind in ("", "near_") for name in ("leak", "label_conflict", "duplicate")}
        return [finding.clips for finding in self.findings if finding.kind in kinds]

    def lines(self) -> list[str]:
        """The report as lines of text: each finding with its first clips, at most 20 of a kind, and a last line."""
        out = []
        shown: Counter[str] = Counter()
        for finding in self.findings:
            shown[finding.kind] += 1
            if shown[finding.kind] <= _LINES_OF_A_KIND:
                where = f" ({first(list(finding.clips))})" if finding.clips else ""
                out.append(f"{finding.severity}: {finding.kind}: {finding.text}{where}")
        for kind, count in shown.items():
            if count > _LINES_OF_A_KIND:
                out.append(f"... and {count - _LINES_OF_A_KIND} more findings of kind {kind}; --json lists them all")
        warnings = len(self.findings) - len(self.errors)
        found = f"{counted(len(self.errors), 'error')}, {counted(warnings, 'warning')}"
        out.append(f"{counted(self.clips, 'clip')} checked: {found}")
        return out

    def to_dict(self) -> dict[str, Any]:
        """The report as plain lists and dicts, for JSON."""
        findings = [{**asdict(finding), "clips": list(finding.clips)} for finding in self.findings]
        return {"clips": self.clips, "errors": len(self.errors), "counts": self.counts, "findings": findings}


def check_dataset(
    dataset: Dataset,
    *,
    recipe: Recipe | None = None,
    workers: int = 0,
    near: bool = True,
    progress: Callable[[int, int], None] | None = None,
    comparing: Callable[[int, int], None] | None = None,
) -> Report:
    """Decode every clip of a data set, in as many threads as processors, and report what would harm training.

    Of windows of recordings the recordings are decoded, each once; classes are judged by the windows.

    Kinds of findings: missing, unreadable, boxes (errors); labels, leak, label_conflict, duplicate, the same three with
    near_ before them, known_fault, group_straddles, silent, constant, clipped, short, padded, rates, long, above,
    below, cancelled, lacking, imbalance, few (warnings). Level, silence and clipping are those of what the network gets
    by ``recipe`` (by default the default one): its seconds, its channel, its rate. ``near`` is whether near duplicates
    are searched for. ``progress`` is called with clips done and clips in all, ``comparing`` with the search's steps.
    """
    hints = dataset.hints
    recipe = (recipe or Recipe()).resolve(
        sample_rate_hz=hints.sample_rate_hz, clip_seconds=hints.clip_seconds, frames=hints.frames
    )
    features, windows = recipe.features, recipe.training.windows
    whole = windows == "all" or (windows == "auto" and dataset.layout not in FIXED_WINDOW)
    used = recipe.training.most_seconds if whole else float(features.clip_seconds)
    windows_of, dataset = dataset, dataset.whole_files
    cut = windows_of is not dataset
    used = math.inf if cut else used
    total = len(dataset.clips)
    looked: list[_Clip] = []
    with ThreadPoolExecutor(max_workers=pool_size(workers)) as pool:
        for clip in pool.map(lambda row: _look(dataset, row, features, used=used, near=near), range(total)):
            looked.append(clip)
            if progress is not None:
                progress(len(looked), total)
    findings = [
        *_missing(dataset),
        *(
            Finding("unreadable", "error", (dataset.clips[row].path,), clip.error)
            for row, clip in enumerate(looked)
            if clip.error
        ),
        *_lacking(dataset),
        *(Finding("boxes", "error", (), note) for note in windows_of.notes if note.startswith(LEFT_OUT)),
        *_labels(windows_of),
        *_same_content(dataset, looked),
        *(_near(dataset, looked, workers=workers, progress=comparing) if near else ()),
        *_known(dataset),
        *_straddling(dataset),
        *_levels(dataset, looked),
        *(() if cut else _lengths(dataset, looked, float(features.clip_seconds), whole=whole)),
        *_rates(dataset, looked, features.rate),
        *_losses(dataset, looked, features),
        *_balance(windows_of),
    ]
    return Report(clips=total, findings=tuple(findings))


def _lacking(dataset: Dataset) -> list[Finding]:
    text = needing_extra(clip.path for clip in dataset.clips)
    return [Finding("formats", "warning", (), text)] if text else []


@dataclass(frozen=True)
class _Clip:
    """What is kept of one clip."""

    digest: str = ""
    rate: int = 0
    seconds: float = 0.0
    peak: float = 0.0
    spread: float = 0.0
    clipped: float = 0.0
    silent_tail: float = 0.0
    loss: Loss = NO_LOSS
    error: str = ""
    print: duplicates.Fingerprint | None = None


def _look(dataset: Dataset, row: int, features: Features, *, used: float, near: bool) -> _Clip:
    """A clip's numbers; level, spread and clipping are those of its first ``used`` seconds as the network gets them."""
    content, file = hashlib.sha256(), dataset.file(row)
    begin: list[audio.Wave] = []  # its first seconds, of all channels
    frames = clipped = sounding = rate = 0
    low, high, resample, meter = np.inf, -np.inf, None, Meter(features)
    try:
        channel = audio.channel_of(file, features.channel)
        for wave, rate in audio.read_blocks(file):
            if frames == 0:
                content.update(f"{rate} {wave.shape[1]} ".encode())
            # Adding 0 makes -0.0 and 0.0, which sound the same, one.
            content.update((wave + 0.0).tobytes())
            if near and frames < duplicates.SECONDS * rate:
                begin.append(wave.mean(axis=1))
            chosen = picked(wave, channel, str(file))
            loud = np.flatnonzero(np.abs(chosen) > SILENT_LEVEL)
            sounding = frames + int(loud[-1]) + 1 if len(loud) else sounding
            part = wave if used == math.inf else wave[: max(0, math.ceil(used * rate) - frames)]
            if len(part):
                meter.add(part, rate)
                # Resampling hides flat tops, so they are counted before it, in every channel that is averaged.
                size = np.abs(part).max(axis=1) if channel == "mix" else np.abs(chosen[: len(part)])
                clipped += int(np.count_nonzero(size >= FULL_SCALE))
                resample = resample or audio.resampler(rate_hz=rate, sample_rate_hz=features.rate)
                low, high = _range(low, high, resample(chosen[: len(part)], last=False))
            frames += len(wave)
        if resample is not None:
            low, high = _range(low, high, resample(np.zeros(0, np.float32), last=True))
    except AudioError as error:
        return _Clip(error=error.reason)
    return _Clip(
        digest=content.hexdigest(),
        rate=rate,
        seconds=frames / rate,
        peak=max(0.0, -low, high),
        spread=max(0.0, high - low),
        clipped=clipped / min(frames, used * rate),
        # All after the last sound is silence, as some sets pad their clips to one length.
        silent_tail=1 - sounding / frames,
        loss=replace(meter.loss, silent=0.0),  # a finding of its own
        print=duplicates.fingerprint(np.concatenate(begin), rate) if begin else None,
    )


def left_out(clips: Sequence[tuple[str, Path]], features: Features, *, seconds: float) -> list[str]:
    """What channel and band of resolved features lose of a seeded sample of clips, named with their files, in lines.

    Only clips that have several channels or are limited by the band are decoded, up to ``seconds``; those that cannot
    be read are passed over.
    """
    losses = []
    for row in sorted(np.random.default_rng(0).permutation(len(clips))[:_SAMPLED].tolist()):
        (name, file), meter = clips[row], Meter(features)
        try:
            found = audio.info(file)
            if found.channels > 1 or features.fmin_hz or found.sample_rate_hz / 2 > features.band_hz[1] * NEAR:
                most = round(seconds * found.sample_rate_hz)
                for block, rate in audio.read_blocks(file):
                    meter.add(block[: most - meter.frames], rate)
                    if meter.frames >= most:
                        break
            losses.append((name, replace(meter.loss, silent=0.0)))
        except AudioError:
            continue
    found_in = loss_texts(losses, features).values()
    return [f"of {counted(len(losses), 'clip')} listened to, {text} ({first(names)})" for names, text in found_in]


def _range(low: float, high: float, wave: audio.Wave) -> tuple[float, float]:
    """The least and the greatest sample so far."""
    return (min(low, float(wave.min())), max(high, float(wave.max()))) if len(wave) else (low, high)


def _losses(dataset: Dataset, looked: list[_Clip], features: Features) -> list[Finding]:
    losses = ((dataset.clips[row].path, clip.loss) for row, clip in enumerate(looked) if not clip.error)
    found = loss_texts(losses, features).items()
    return [Finding(kind, "warning", tuple(paths), text) for kind, (paths, text) in found]


def _finding(dataset: Dataset, kind: str, rows: Iterable[int], text: str) -> list[Finding]:
    """One warning, or none without rows; ``{n}`` in the text becomes how many clips there are."""
    paths = tuple(dataset.clips[row].path for row in rows)
    return [Finding(kind, "warning", paths, text.format(n=counted(len(paths), "clip")))] if paths else []


def _missing(dataset: Dataset) -> list[Finding]:
    text = f"{counted(len(dataset.missing), 'file')} of the table not there: fetch them, or train with --skip-bad"
    return [Finding("missing", "error", dataset.missing, text)] if dataset.missing else []


def _labels(dataset: Dataset) -> list[Finding]:
    texts = label_texts(_names(dataset))
    return [Finding("labels", "warning", (), text) for text in texts]


def _names(dataset: Dataset) -> list[str]:
    """The labels of all clips, those of a clip with several one by one."""
    labels = [clip.label for clip in dataset.clips]
    return exploded(labels, labels)[0] if dataset.several else labels


_MISSING = {"nan", "<na>", "na", "n/a", "none", "null", "nat", "undefined", "?", "-"}
"""What programs write where there is no value."""


def label_texts(labels: Sequence[str]) -> list[str]:
    """Lines on classes that look alike, names with marks that nobody sees, and names that are lists of names."""
    sizes = Counter(labels)
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(sizes):
        alike[_seen(name)].append(name)
    texts = []
    for names in (names for names in alike.values() if len(names) > 1):
        shown = " and ".join(f"{name!r} ({sizes[name]})" for name in names)
        how = "differ only in case, blanks or marks that are not seen"
        if all(map(_NUMBER.fullmatch, names)):
            how = "are one number, written in several ways"
        texts.append(f"classes {shown} {how}: give them one name")
    for name in sorted(sizes):
        if name != _UNSEEN.sub("", name).strip():
            texts.append(f"class {name!r} has outer blanks or marks that are not seen: rename it")
        if name.casefold() in _MISSING and len(sizes) > 1:
            texts.append(f"class {name!r} ({sizes[name]}) looks like a missing label: leave its rows out, or rename it")
        parts = [part for part in re.split(r"[;|]", name) if part.strip()]
        listed = name.split(",")
        if len(parts) > 1 or (len(listed) > 1 and all(part.strip() in sizes for part in listed)):
            texts.append(
                f"class {name!r} ({sizes[name]}) looks like several labels: --labels several learns them as such"
            )
    return texts


def _seen(name: str) -> str:
    """What of a class's name is seen at a glance: no case, no blanks and marks; of a number its value."""
    if _NUMBER.fullmatch(name):
        return f"{float(name.replace(',', '.')):.12g}"
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(char for char in plain if unicodedata.category(char) != "Cf" and char not in "_-").replace(" ", "")


def _same_content(dataset: Dataset, looked: list[_Clip]) -> list[Finding]:
    """Clips whose samples are equal."""
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, clip in enumerate(looked):
        if not clip.error and clip.peak > SILENT_LEVEL:  # silence is reported as silence
            rows_of[clip.digest].append(row)
    return _same_sound(dataset, [rows for rows in rows_of.values() if len(rows) > 1], what="the same sound")


def _near(
    dataset: Dataset, looked: list[_Clip], *, workers: int, progress: Callable[[int, int], None] | None
) -> list[Finding]:
    """Clips that are nearly the same sound; not those of one source and label, which stay together anyway."""
    prints = [None if clip.error or clip.peak <= SILENT_LEVEL else clip.print for clip in looked]

    def read(row: int) -> audio.Wave:
        return audio.read(dataset.file(row), sample_rate_hz=duplicates.RATE, seconds=duplicates.SECONDS)

    pairs = duplicates.near_duplicates(prints, read, workers=workers, progress=progress)
    clips = dataset.clips
    kept = [
        (one, other)
        for one, other, _ in pairs
        if looked[one].digest != looked[other].digest
        and (clips[one].group, clips[one].label) != (clips[other].group, clips[other].label)
    ]
    what = "nearly the same sound (but for level, rate, codec or length)"
    return _same_sound(dataset, duplicates.connected(kept), what=what, kind="near_")


def _same_sound(dataset: Dataset, groups: list[list[int]], *, what: str, kind: str = "") -> list[Finding]:
    """Groups of one sound: across folds a leak, across labels a conflict, else a duplicate."""
    # Folds drawn here are one of many draws: in another, two copies may be on both sides.
    drawn = dataset.folds_drawn
    findings = []
    for rows in groups:
        clips = [dataset.clips[row] for row in rows]
        folds = sorted({clip.fold for clip in clips})
        labels = sorted({clip.label for clip in clips})
        if len(labels) > 1:
            text = f"{what} is labelled {' and '.join(labels)}: correct the label or remove all but one"
            findings += _finding(dataset, f"{kind}label_conflict", rows, text.replace("{", "{{").replace("}", "}}"))
        if len(folds) > 1 and not drawn:
            where = f"{'' if dataset.split else 'folds '}{' and '.join(map(dataset.fold_name, folds))}"
            text = f"{what} is in {where}: it is trained on and tested on, which flatters the accuracy"
            findings += _finding(dataset, f"{kind}leak", rows, text)
        elif len(labels) == 1:
            text = f"{what} {len(rows)} times, so it may be trained on and tested on: keep one"
            if kind:
                text += ", or give them one group in a csv (--sources FILE)"
            findings += _finding(dataset, f"{kind}duplicate", rows, text)
    return findings


def _known(dataset: Dataset) -> list[Finding]:
    """What is published about the data set's faults, of the files that are there."""
    row_of = {clip.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]: row for row, clip in enumerate(dataset.clips)}
    findings = []
    for names, text in published.KNOWN_FAULTS.get(dataset.layout, ()):
        rows = [row_of[name] for name in names if name in row_of]
        if len(rows) == len(names):
            findings += _finding(dataset, "known_fault", rows, text)
    return findings


def _straddling(dataset: Dataset) -> list[Finding]:
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, clip in enumerate(dataset.clips):
        rows_of[clip.group].append(row)
    folds_of = {group: sorted({dataset.clips[row].fold for row in rows}) for group, rows in rows_of.items()}
    torn = {group: folds for group, folds in folds_of.items() if len(folds) > 1}
    shown = [f"{group} in {' and '.join(map(dataset.fold_name, folds))}" for group, folds in sorted(torn.items())]
    names = first(shown, 20).replace("{", "{{").replace("}", "}}")
    text = f"{{n}} share their source with clips of another fold ({names}), which flatters the accuracy: "
    text += "put each source in one fold"
    return _finding(dataset, "group_straddles", [row for group in torn for row in rows_of[group]], text)


def _levels(dataset: Dataset, looked: list[_Clip]) -> list[Finding]:
    good = [(row, clip) for row, clip in enumerate(looked) if not clip.error]
    silent = [row for row, clip in good if clip.peak <= SILENT_LEVEL]
    constant = [row for row, clip in good if clip.peak > SILENT_LEVEL and clip.spread <= CONSTANT_SPREAD]
    sounding = [(row, clip) for row, clip in good if clip.peak > SILENT_LEVEL and clip.spread > CONSTANT_SPREAD]
    clipped = [row for row, clip in sounding if clip.clipped > CLIPPED_SHARE]
    silent_text = "{n} silent (below -80 dB of full scale): nothing can be learnt from them"
    return [
        *_finding(dataset, "silent", silent, silent_text),
        *_finding(dataset, "constant", constant, "{n} constant (a level, no sound): record or export them again"),
        *_finding(dataset, "clipped", clipped, "{n} clipped (over 1 % of the samples at full scale): distorted"),
    ]


def _lengths(dataset: Dataset, looked: list[_Clip], wanted: float, *, whole: bool) -> list[Finding]:
    good = [(row, clip) for row, clip in enumerate(looked) if not clip.error]
    short = [row for row, clip in good if clip.seconds < SHORT_SECONDS]
    padded = [row for row, clip in good if clip.peak > SILENT_LEVEL and clip.silent_tail > PADDED_SHARE]
    longer = [row for row, clip in good if clip.seconds > LONGER_FACTOR * wanted]
    used = "cut into windows, of which training draws one an epoch: the label must hold for each"
    if not whole:
        used = f"only their first {wanted:g} s are used (--set training.windows=all: all of them)"
    long_text = f"{{n}} longer than {LONGER_FACTOR:g} times {wanted:g} s: {used}"
    return [
        *_finding(dataset, "short", short, f"{{n}} shorter than {SHORT_SECONDS:g} s: mostly padding will be learnt"),
        *_finding(dataset, "padded", padded, "{n} with silence in more than their last half"),
        *_finding(dataset, "long", longer, long_text),
    ]


def _rates(dataset: Dataset, looked: list[_Clip], wanted: int) -> list[Finding]:
    rows = [row for row, clip in enumerate(looked) if not clip.error and clip.rate < wanted]
    found = ", ".join(str(rate) for rate in sorted({looked[row].rate for row in rows}))
    text = f"{{n}} at {found} Hz, below {wanted} Hz: their upper bands are empty, which may give a class away"
    return _finding(dataset, "rates", rows, text)


def _balance(dataset: Dataset) -> list[Finding]:
    sizes = Counter(_names(dataset))
    most, least = max(sizes, key=lambda name: sizes[name]), min(sizes, key=lambda name: sizes[name])
    findings = []
    if sizes[most] > IMBALANCE * sizes[least]:
        text = f"class '{most}' has {counted(sizes[most], 'clip')}, '{least}' has {sizes[least]}: "
        text += "try --set training.class_weights=balanced"
        findings.append(Finding("imbalance", "warning", (), text))
    few = sorted(name for name, size in sizes.items() if size < FEW_CLIPS)
    if few:
        names = ", ".join(f"'{name}' ({sizes[name]})" for name in few[:5]) + (", ..." if len(few) > 5 else "")
        text = f"fewer than {FEW_CLIPS} clips in {names}: expect wide intervals"
        fewest = min(len({clip.group for clip in dataset.clips if clip.label == label}) for label in few)
        # Rare ones of several labels are learnt where they can be, whatever the folds.
        severity: Severity = "warning"
        if dataset.fold_numbers == (0,) and fewest < USUAL_FOLDS and not dataset.several:
            text += f", and give crossval --splits {fewest}" if fewest > 1 else "; 1 source is too few to hold one out"
            severity = "warning" if fewest > 1 else "error"  # `train` refuses it
        findings.append(Finding("few", severity, (), text))
    return findings
