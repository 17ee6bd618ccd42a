"""The worst mistakes, each with a spectrogram and a player, within the page's size limit.

Comes in: a `RunRead`, and where its sounds lie. Goes out: `WorstMistakes`, whose media are data URIs: PNG (black on
white, dark where it is loud) and MP3 (FLAC where libsndfile writes no MP3), the same bytes for the same file.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from earsight.data import audio
from earsight.errors import AudioError, EarsightError, RecipeError, RunError
from earsight.evaluation.classes import Mistake, mistakes
from earsight.recipe import Features
from earsight.reports.figures import draw_cells, hz_ticks
from earsight.reports.runs import RunRead
from earsight.training.heldout import held_out

if TYPE_CHECKING:
    from earsight.features.spectrogram import Spectrogram

PLAYER_RATE_HZ = 24_000
"""Sampling rate of the players: frequencies above 12 kHz are left out to keep the page small."""
PLAYER_SECONDS = 60.0
"""Longer clips are cut at this length in their players."""
_EXCHANGED = (
    "Its file is not the sound that was tested: it was changed or exchanged since, or another decoder reads it here."
)


@dataclass(frozen=True)
class ClipMedia:
    """Data URIs of one clip; empty where there is none."""

    spectrogram: str
    sound: str

    @property
    def size(self) -> int:
        """Characters on the page."""
        return len(self.spectrogram) + len(self.sound)


@dataclass(frozen=True)
class ShownMistake:
    """A mistake on the page: its media, and a sentence that says why there are none, or which part they show."""

    mistake: Mistake
    media: ClipMedia | None
    why: str = ""


@dataclass(frozen=True)
class WorstMistakes:
    """A run's worst mistakes, the numbers of wrong and of tested clips, and why media are missing, if they are."""

    shown: tuple[ShownMistake, ...]
    wrong: int
    tested: int
    why: str = ""


def worst_mistakes(run: RunRead, *, data: Path | None, most: int) -> WorstMistakes:
    """At most ``most`` clips whose true class got the least probability, with their media where the sounds are found.

    ``data`` is the sounds' present place, if they were moved or the run does not record it.
    """
    from earsight.features.spectrogram import Spectrogram

    wrong = mistakes(run.trials)
    tested = len({(trial.about["fold"], clip) for trial in run.trials for clip in trial.clips.tolist()})
    chosen = wrong[:most]
    if not chosen:
        return WorstMistakes((), len(wrong), tested)
    try:
        files = _files(run, data)
        if run.recipe is None:
            raise RecipeError(f"{run.folder}: no recipe.yaml and no model file that says how its spectrograms are made")
        front_end = Spectrogram(run.recipe.features)
    except EarsightError as error:
        return WorstMistakes(tuple(ShownMistake(one, None) for one in chosen), len(wrong), tested, str(error))
    shown = []
    for one in chosen:
        try:
            file = files[one.fold, one.clip]
            if _exchanged(run, one, file):
                shown.append(ShownMistake(one, None, _EXCHANGED))
                continue
            shown.append(ShownMistake(one, _clip_media(file, front_end), _part_shown(file, run.recipe.features)))
        except AudioError as error:
            shown.append(ShownMistake(one, None, f"Its sound cannot be read: {error.reason}."))
    return WorstMistakes(tuple(shown), len(wrong), tested)


def _exchanged(run: RunRead, one: Mistake, file: Path) -> bool:
    """Whether a file decodes to another sound than the run tested; not known of runs of earlier versions."""
    features = run.recipe.features if run.recipe else None
    trial = next(found for found in run.trials if found.about["fold"] == one.fold and one.clip in found.clips)
    if trial.sounds is None or features is None:
        return False
    seconds = features.samples / features.rate
    wave = audio.read(file, sample_rate_hz=features.rate, seconds=seconds, channel=features.channel)
    digest = hashlib.blake2b(wave[: features.samples].tobytes(), digest_size=16).digest()
    return bool(digest != trial.sounds[trial.clips.tolist().index(one.clip)].tobytes())


def _part_shown(file: Path, features: Features) -> str:
    """A sentence on the part of a long clip that is shown: a report reads arrays, and runs no network to choose."""
    window, lasts = features.samples / features.rate, audio.info(file).seconds
    return f"Of its {lasts:.1f} s the first {window:g} s are shown." if lasts > audio.LONGER * window else ""


def _files(run: RunRead, data: Path | None) -> dict[tuple[int, str], Path]:
    """The sound file of each held-out clip, by fold and manifest path."""
    if run.ensemble and data is None:
        data = _members_data(run)
    out: dict[tuple[int, str], Path] = {}
    for seed in run.seeds:
        for one in held_out(run.folder, data=data, seed=seed):
            out |= {(one.fold, clip): file for clip, file in zip(one.clips, one.files, strict=True)}
    return out


def _members_data(run: RunRead) -> Path | None:
    """Folder of the sounds of an ensemble's first member, if that run still exists."""
    for name in run.ensemble.get("runs", ()):
        for folder in (Path(name), run.folder.parent):
            try:
                one = held_out(folder)[0]
            except RunError:
                continue
            return Path(str(one.files[0]).removesuffix(one.clips[0]))
    return None


def without_media(part: WorstMistakes) -> WorstMistakes:
    """The same with one character for each medium, to measure the page without them."""
    shown = [replace(one, media=ClipMedia("-", "-")) if one.media else one for one in part.shown]
    return replace(part, shown=tuple(shown))


def limit_media(parts: Sequence[WorstMistakes], *, room: int) -> tuple[list[WorstMistakes], int, int]:
    """Keep as many players and spectrograms as fit into ``room`` bytes, the worst mistakes of every run first.

    Where a player is too large, its spectrogram may stay. Returns the parts, one a run as given, and how many players
    and spectrograms were left out.
    """
    kept = [list(part.shown) for part in parts]
    players = spectrograms = 0
    order = sorted((rank, run) for run, part in enumerate(parts) for rank in range(len(part.shown)))
    for rank, run in order:
        media = kept[run][rank].media
        if media is None:
            continue
        fits = media if media.size <= room else replace(media, sound="")
        if fits.size > room:
            fits = ClipMedia("", "")
        players += bool(media.sound) and not fits.sound
        spectrograms += bool(media.spectrogram) and not fits.spectrogram
        room -= fits.size
        kept[run][rank] = replace(kept[run][rank], media=fits)
    return [replace(part, shown=tuple(shown)) for part, shown in zip(parts, kept, strict=True)], players, spectrograms


def _clip_media(path: Path, front_end: Spectrogram) -> ClipMedia:
    """Spectrogram and sound of one clip; `AudioError` if the file cannot be read."""
    features = front_end.features
    seconds = features.samples / features.rate
    wave = audio.read(path, sample_rate_hz=features.rate, seconds=seconds, channel=features.channel)
    spectrogram = _png(audio.fit(wave, features.samples), front_end)
    sound = audio.read(
        path, sample_rate_hz=PLAYER_RATE_HZ, seconds=min(seconds, PLAYER_SECONDS), channel=features.channel
    )
    return ClipMedia(spectrogram, _player(sound))


def _png(wave: NDArray[np.float32], front_end: Spectrogram) -> str:
    """The spectrogram's channels side by side, one a window, with axes."""
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from earsight.analysis.time_axis import band_hz

    features = front_end.features
    with torch.inference_mode():
        channels = front_end.spectrograms(torch.from_numpy(wave)[None])[0, 0].numpy().astype(np.float64)
    low, high = np.percentile(channels, [2, 99.8])
    # Places by hand: a page has dozens of these, and laying each out takes longer than drawing it.
    width, height = 1.55 * len(channels) + 0.65, 1.75
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.55 / width, right=1 - 0.1 / width, bottom=0.4 / height, top=1 - 0.22 / height, wspace=0.08
    )
    axes = figure.subplots(1, len(channels), sharey=True, squeeze=False)[0]
    seconds = features.samples / features.rate
    for axis, channel, window in zip(axes, channels, features.windows_ms, strict=True):
        draw_cells(axis, channel, cmap="Greys", low=low, high=max(high, low + 1e-6), left=0, right=seconds)
        axis.set_title(f"{window:g} ms window", fontsize=8)
        axis.set_xlabel("seconds", fontsize=8)
        axis.tick_params(labelsize=8)
    if features.representation == "mfcc":
        axes[0].set_ylabel("coefficient", fontsize=8)
    else:
        axes[0].set_yticks(*hz_ticks(band_hz(front_end)), fontsize=8)
        axes[0].set_ylabel("kHz", fontsize=8)
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return _uri("image/png", _sixteen_greys(out.getvalue()))


def _sixteen_greys(png: bytes) -> bytes:
    """The same spectrogram in sixteen shades of grey, a quarter of the size."""
    from PIL import Image

    small = Image.open(io.BytesIO(png)).convert("L").quantize(16, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _player(wave: NDArray[np.float32]) -> str:
    import soundfile

    loudest = float(np.abs(wave).max())
    wave = wave / loudest if loudest > 1 else wave
    out = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(out, wave, PLAYER_RATE_HZ, format="MP3", bitrate_mode="VARIABLE", compression_level=0.6)
        return _uri("audio/mpeg", out.getvalue())
    soundfile.write(out, wave, PLAYER_RATE_HZ, format="FLAC", subtype="PCM_16")
    return _uri("audio/flac", out.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
