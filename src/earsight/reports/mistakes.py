"""A run's worst mistakes, with the picture and the sound of each as far as a page has room.

Comes in: a `RunRead`, and where its sounds lie. Goes out: `Shown` clips, and a page's share of their media.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from earsight.errors import AudioError, EarsightError, RecipeError, RunError
from earsight.evaluation.classes import Mistake, mistakes
from earsight.reports.clips import ClipMedia, clip_media
from earsight.reports.runs import RunRead
from earsight.training.heldout import held_out

if TYPE_CHECKING:
    from earsight.features.spectrogram import Spectrogram


@dataclass(frozen=True)
class Shown:
    """A mistake as the page has it: its media, or a sentence that says why there are none."""

    mistake: Mistake
    media: ClipMedia | None
    why: str = ""


@dataclass(frozen=True)
class WorstOnes:
    """The worst mistakes of a run, how many there are in all, and why none has its sound, if none has."""

    shown: tuple[Shown, ...]
    wrong: int
    tested: int
    why: str = ""


def worst_ones(run: RunRead, *, data: Path | None, most: int) -> WorstOnes:
    """The clips whose own class got the least probability, with their media where the sounds are found.

    Parameters
    ----------
    run : RunRead
    data : Path, optional
        Where the sounds lie now, if they were moved or the run does not say.
    most : int
        How many.
    """
    wrong = mistakes(run.trials)
    tested = len({(trial.about["fold"], clip) for trial in run.trials for clip in trial.clips.tolist()})
    chosen = wrong[:most]
    if not chosen:
        return WorstOnes((), len(wrong), tested)
    try:
        files = _files(run, data)
        front_end = _front_end(run)
    except EarsightError as error:
        return WorstOnes(tuple(Shown(one, None) for one in chosen), len(wrong), tested, str(error))
    shown = []
    for one in chosen:
        try:
            shown.append(Shown(one, clip_media(files[one.fold, one.clip], front_end)))
        except AudioError as error:
            shown.append(Shown(one, None, f"Its sound cannot be read: {error.reason}."))
    return WorstOnes(tuple(shown), len(wrong), tested)


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
    """Where the sounds of an ensemble's first member lay, if that run is still there."""
    for name in run.ensemble.get("runs", ()):
        for folder in (Path(name), run.folder.parent):
            try:
                one = held_out(folder)[0]
            except RunError:
                continue
            return Path(str(one.files[0]).removesuffix(one.clips[0]))
    return None


def _front_end(run: RunRead) -> Spectrogram:
    from earsight.features.spectrogram import Spectrogram

    if run.recipe is None:
        raise RecipeError(f"{run.folder}: no recipe.yaml and no model file that says how its pictures are made")
    return Spectrogram(run.recipe.features)


def bared(part: WorstOnes) -> WorstOnes:
    """The same with media of one sign each: what a page weighs besides them."""
    shown = [replace(one, media=ClipMedia("-", "-")) if one.media else one for one in part.shown]
    return replace(part, shown=tuple(shown))


def within(parts: Sequence[WorstOnes], *, room: int) -> tuple[list[WorstOnes], int, int]:
    """As many players and pictures as have room, the worst mistakes of every run first.

    Parameters
    ----------
    parts : sequence of WorstOnes
        One a run.
    room : int
        Bytes.

    Returns
    -------
    parts : list of WorstOnes
        Those that had no room have none; pictures alone stay where a player is too large.
    players, pictures : int
        How many were left out.
    """
    kept = [list(part.shown) for part in parts]
    players = pictures = 0
    order = sorted((rank, run) for run, part in enumerate(parts) for rank in range(len(part.shown)))
    for rank, run in order:
        media = kept[run][rank].media
        if media is None:
            continue
        fits = media if media.size <= room else replace(media, sound="")
        if fits.size > room:
            fits = ClipMedia("", "")
        players += bool(media.sound) and not fits.sound
        pictures += bool(media.picture) and not fits.picture
        room -= fits.size
        kept[run][rank] = replace(kept[run][rank], media=fits)
    return [replace(part, shown=tuple(shown)) for part, shown in zip(parts, kept, strict=True)], players, pictures
