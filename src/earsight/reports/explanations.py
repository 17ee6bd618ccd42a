"""The files of an explanation: figures, arrays, numbers, and the used and unused parts of the sound.

Comes in: an `Explanation` and a folder. Goes out: ``NAME.png`` (spectrogram beside attributions),
``NAME.faithfulness.png`` (deletion and insertion curves, where there are any), ``NAME.npz``, ``NAME.used.wav``,
``NAME.unused.wav`` and, last of all, ``NAME.json``, each written whole or not at all. The sounds are mono 32-bit floats
at the model's rate, unclipped, and add up to the network's input. Figures print in grey: dark is for the class.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from earsight.analysis.masking import smoothed
from earsight.data.audio import file_of
from earsight.errors import EarsightError, counted
from earsight.files import content_digest, read_state, replacing, say_once, write_state
from earsight.inference.explanation import ATTRIBUTION, GRAD_CAM, LOUDEST, POSITIVE, Explanation
from earsight.inference.formats import harmless
from earsight.inference.predictions import share_words
from earsight.reports.drawings import blank, write_figure
from earsight.reports.figures import draw_cells, hz_ticks
from earsight.reports.text_format import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From light (against the class) through middle grey (no influence) to dark (for it).
_FOR_AND_AGAINST = "cividis_r"
_UNIT = "thousandths of\nthe score per cell"
_LINES = {
    ATTRIBUTION: ("-", 2.2, "black"), POSITIVE: ("-", 1.2, "0.45"), GRAD_CAM: ("-.", 1.5, "0.25"),
    LOUDEST: ("--", 1.5, "0.25"),
}  # fmt: skip
_LONGEST = 32  # characters of a class's name


def explanation_drawing(explanation: Explanation) -> Figure:
    """Spectrogram and attributions side by side, a row a window and one for all together."""
    rows = len(explanation.spectrogram)
    figure = blank(11.5, 1.75 * (rows + 1) + 1.3)
    grid = figure.add_gridspec(rows + 1, 4, width_ratios=[1, 0.022, 1, 0.022])
    axes = np.array([[figure.add_subplot(grid[row, column]) for column in (0, 2)] for row in range(rows + 1)])
    low, high = np.percentile(explanation.spectrogram, [1, 100])
    channels = [smoothed(channel, seconds=explanation.clip_seconds) for channel in explanation.attribution.values]
    whole = smoothed(explanation.merged, seconds=explanation.clip_seconds)
    reach, top = _reach(np.stack(channels)), _reach(whole)
    for row, (left, right) in enumerate(axes[:-1]):
        edges = explanation.edges[row]
        ends = {"left": edges[0], "right": edges[-1]}
        shown = explanation.spectrogram[row]
        power = draw_cells(left, shown, cmap="magma", low=low, high=max(high, low + 1e-6), **ends)
        cells = draw_cells(right, 1000 * channels[row], cmap=_FOR_AND_AGAINST, low=-reach, high=reach, **ends)
        left.set_ylabel(f"{explanation.windows_ms[row]:g} ms window\nfrequency in kHz")
    clip, cam_top = {"left": 0.0, "right": explanation.clip_seconds}, explanation.grad_cam.max() or 1.0
    cam = draw_cells(axes[-1, 0], explanation.grad_cam, cmap="Greys", low=0, high=cam_top, **clip)
    merged = draw_cells(axes[-1, 1], 1000 * whole, cmap=_FOR_AND_AGAINST, low=-top, high=top, **clip)
    axes[-1, 0].set_ylabel("all windows\nfrequency in kHz")
    axes[0, 0].set_title("input of the network: band energies", fontsize=10)
    axes[0, 1].set_title("Integrated Gradients: what speaks for the class (dark) or against it (light)", fontsize=10)
    axes[-1, 0].set_title("Grad-CAM: where the last layer looks, coarsely", fontsize=10)
    axes[-1, 1].set_title("Integrated Gradients, the windows added up", fontsize=10)
    _finish_axes(axes, explanation)
    figure.colorbar(power, cax=figure.add_subplot(grid[:-1, 1]), label="log power", extend="min")
    figure.colorbar(cam, cax=figure.add_subplot(grid[-1, 1]), label="weight", ticks=[0])
    for image, place in ((cells, grid[:-1, 3]), (merged, grid[-1, 3])):
        figure.colorbar(image, cax=figure.add_subplot(place), label=_UNIT, extend="both")
    figure.suptitle(_headline(explanation, 120), fontsize=11, parse_math=False)
    figure.supxlabel(_below(explanation), fontsize=9, x=0.01, ha="left", parse_math=False)
    return figure


def faithfulness_drawing(explanation: Explanation) -> Figure:
    """The deletion and insertion curves; EarsightError if there are none."""
    curves = explanation.curves
    if curves is None:
        raise EarsightError(f"{explanation.path}: explained without curves; ask for them")
    figure = blank(11.0, 4.4)
    axes = figure.subplots(1, 2, sharey=True)
    share = 100 * curves.shares
    kinds = (
        ("deletion", curves.deletion, curves.random_deletion, "silenced", "low"),
        ("insertion", curves.insertion, curves.random_insertion, "put into silence", "high"),
    )
    for axis, (kind, ranked, random, verb, better) in zip(axes, kinds, strict=True):
        axis.fill_between(share, random.min(axis=0), random.max(axis=0), color="0.85", linewidth=0)
        axis.plot(share, random.mean(axis=0), ":", color="0.4")
        for name, (style, width, shade) in _LINES.items():
            axis.plot(share, ranked[name], style, color=shade, linewidth=width)
        axis.set(xlim=(0, 100), ylim=(0, 1.02), xlabel=f"share of the spectrogram {verb} in %, highest first")
        axis.set_title(f"{kind}: {better} is good", fontsize=11)
        axis.grid(color="0.92")
    lines = axes[0].get_lines()  # random orders first
    found = {kind: curves.areas(kind) for kind in ("deletion", "insertion")}
    words = [" / ".join(f"{areas.random.mean():.2f}" for areas in found.values())]
    words += [" / ".join(f"{areas.ranked[name]:.2f}" for areas in found.values()) for name in _LINES]
    labels = [f"{name}\n{areas}" for name, areas in zip(("random orders", *_LINES), words, strict=True)]
    title = "order, and the area below\nin deletion / insertion"
    figure.legend(lines, labels, loc="outside right center", fontsize=9, title=title, title_fontsize=9, frameon=False)
    axes[0].set_ylabel(f"probability of {_short(explanation.label, _LONGEST)}", parse_math=False)
    figure.suptitle(_headline(explanation, 120), fontsize=11, parse_math=False)
    figure.supxlabel(
        "\n".join(textwrap.wrap(explanation.verdict, 130)), fontsize=9, x=0.01, ha="left", parse_math=False
    )
    return figure


def _reach(values: NDArray[np.floating]) -> float:
    """Limit of the colour scale, in thousandths; 0.3 % of the cells may lie beyond."""
    return 1000 * float(np.percentile(np.abs(values), 99.7)) or 1e-12


def _finish_axes(axes: Any, explanation: Explanation) -> None:
    lasts = len(explanation.wave) / explanation.sample_rate_hz
    for axis in axes.ravel():
        axis.set_yticks(*hz_ticks(explanation.band_hz), fontsize=9)
        axis.set(xlim=(0, explanation.clip_seconds), ylim=(-0.5, len(explanation.band_hz) - 0.5))
        if lasts < 0.995 * explanation.clip_seconds:
            axis.axvline(lasts, color="0.6", linestyle="--", linewidth=1)
    begin = f" from {explanation.begin_seconds:.1f} s on" if explanation.windows > 1 else ""
    for axis in axes[-1]:
        end = " (dashed: the sound ends)" if lasts < 0.995 * explanation.clip_seconds else ""
        axis.set_xlabel(f"time in seconds{begin}{end}")


def _headline(explanation: Explanation, most: int) -> str:
    """The file, the class and its probability, in one line of so many characters."""
    label, other = (_short(name, _LONGEST) for name in (explanation.label, explanation.top_label))
    top = "" if explanation.label == explanation.top_label else f" (the model predicts {other})"
    rest = f": {label}, probability {share_words(explanation.probability)}{top}"
    return _short(Path(explanation.path).name or "a sound", max(most - len(rest), 16)) + rest


def _short(text: str, most: int) -> str:
    """A text without its middle, where it is longer than that."""
    end = most // 3
    return text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"


def _below(explanation: Explanation) -> str:
    """Which window, how complete, and whether to believe it, to stand below the plots."""
    found = explanation.attribution
    where = f"Explained is the part{_where(explanation.to_dict())}. " if explanation.windows > 1 else ""
    words = (
        f"{where}The attributions add up to {found.total:.3g}: score {found.score:.3g} less that of silence "
        f"{found.silence_score:.3g}, to {100 * found.error:.2f} % in {counted(found.steps, 'step')}."
    )
    return "\n".join([*textwrap.wrap(words, 165), *textwrap.wrap(explanation.verdict, 165)])


def _where(content: dict[str, Any]) -> str:
    """Which seconds of a sound of several windows are explained."""
    if content.get("windows", 1) == 1:
        return ""
    begin, end = (f"{content[name]:.1f}" for name in ("begin_seconds", "end_seconds"))
    return f" from {begin} s to {end} s, of {content['windows']} windows the one that speaks most for it"


def file_names(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each path with a name for its files: its stem (a part's whole name), and a number if it is an earlier one's."""
    used: set[str] = set()
    for path in paths:
        named = Path(path)
        stem = (named.name if file_of(path) != named else named.stem) or "sound"
        name, number = stem, 1
        while name in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name)
        yield path, name


def made_from(model: Path, **settings: Any) -> str:
    """Hash (12 hex digits) of the model file's bytes and the settings of an explanation."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with model.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()[:12]


def read_explained(folder: Path, name: str, *, sound: str, origin: str) -> dict[str, Any] | None:
    """The numbers of an earlier explanation if sound, model, settings and its own files are unchanged; else None.

    ``name`` is from `file_names`, ``sound`` the path of the sound, ``origin`` from `made_from`.
    """
    try:
        found = read_state(folder / f"{name}.json", {"files": dict}, remedy="")
        made, files = dict(found["made_from"]), found["files"]
        content = made.pop("content", None)
        same = made == {"origin": origin, "sound": _state(sound)}
        if same and content is None and all(Path(file).is_file() for file in files.values()):
            say_once(f"{folder}: explanations of an earlier version; what changed since cannot be checked")
            return found
        return found if same and content == _digests(sound, files) else None
    except (EarsightError, OSError, KeyError, TypeError, ValueError):
        return None


def write_explained(explanation: Explanation, folder: Path, name: str, *, origin: str) -> dict[str, Any]:
    """Write an explanation's files and return its numbers, with the files' paths under ``files``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"figure": folder / f"{name}.png"}
    write_figure(explanation_drawing(explanation), files["figure"])
    if explanation.curves:
        files["faithfulness"] = folder / f"{name}.faithfulness.png"
        write_figure(faithfulness_drawing(explanation), files["faithfulness"])
    files["arrays"] = folder / f"{name}.npz"
    with replacing(files["arrays"]) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **explanation.arrays())
    for key, wave in (("used", explanation.used), ("unused", explanation.unused)):
        files[key] = folder / f"{name}.{key}.wav"
        with replacing(files[key]) as part:
            soundfile.write(part, wave, explanation.sample_rate_hz, format="WAV", subtype="FLOAT")
    names = {key: str(path) for key, path in files.items()}
    made = {"origin": origin, "sound": _state(explanation.path), "content": _digests(explanation.path, names)}
    content = explanation.to_dict() | {"files": names, "made_from": made}
    write_state(folder / f"{name}.json", content, indent=1)
    return content


def explanation_lines(content: dict[str, Any]) -> Iterator[str]:
    """What `write_explained` returned, as lines of text."""
    complete, audible, faithful = (content[key] for key in ("completeness", "audible", "faithfulness"))
    other = "" if content["label"] == content["top_label"] else f" (the model predicts {content['top_label']})"
    yield harmless(
        f"{content['path']}: {content['label']}, probability {share_words(content['probability'])}"
        f"{_where(content)}{other}"
    )
    if content.get("damage"):
        yield f"  of {content['read_seconds']:.2f} s that are whole: {content['damage']}"
    yield (
        f"  complete: the attributions add up to {complete['sum_of_attributions']:.4g}, the scores differ by "
        f"{complete['difference']:.4g}; {100 * complete['error']:.2f} % off in {counted(complete['steps'], 'step')}"
    )
    yield (
        f"  audible: with only what was used {share_words(audible['used_probability'])}, without it "
        f"{share_words(audible['unused_probability'])}; it is {percent(audible['used_energy'])} % of the sound's energy"
    )
    for kind, better in (("deletion", "lower"), ("insertion", "higher")) if faithful else ():
        areas, random = faithful[kind]["area"], faithful[kind]["random_area"]
        others = ", ".join(f"{name} {area:.2f}" for name, area in areas.items())
        by_chance = "{:.2f} ({:.2f} to {:.2f})".format(random["mean"], *random["interval95"])
        yield f"  area under {kind} ({better} is better): {others}, random {by_chance}"
    if faithful:
        yield f"  {faithful['verdict']}"
    yield f"  {content['files']['figure']}"


def _state(sound: str) -> list[Any]:
    """Path, size and time of change of a sound file, which it may be a part of."""
    status = file_of(sound).stat()
    return [str(Path(sound).absolute()), status.st_size, status.st_mtime_ns]


def _digests(sound: str, files: Mapping[str, str]) -> dict[str, str | None]:
    """The digests of a sound and of the files that explain it."""
    return {key: content_digest(Path(path)) for key, path in {"sound": str(file_of(sound)), **files}.items()}
