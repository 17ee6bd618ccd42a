"""Similarity of each stage's outputs before and after fine-tuning, on held-out clips: SVCCA and CKA.

Comes in: a run folder. Goes out: for each finished trial and each stage of its network, how alike the stage's outputs
are between the weights that the trial started from and those it ended with (the paper's "Weights Change", Fig. 2a).

Outputs are feature maps (clips, channels, height, width). Channels are the dimensions. A row is one position of one
clip, as Raghu et al. count rows of convolutional layers; ``pooled`` averages each clip over its positions, and a row is
then a clip. Both networks are in eval mode. The starting weights are made again from the recipe and the trial's seed.
The head is left out: it starts at random.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.analysis.subspaces import Covariances, Likeness, likeness
from earsight.data import audio
from earsight.errors import DataError, EarsightError, RunError
from earsight.evaluation.summary import read_run
from earsight.features.spectrogram import Spectrogram
from earsight.models.card import ModelCard
from earsight.models.modelfile import load
from earsight.models.stages import stage_ends, stage_names, starting_model
from earsight.training.heldout import HeldOut, held_out
from earsight.training.trial import Trial

FEW = 10
"""Rows for each kept direction below which a value is called uncertain."""

BATCH_SIZE = 16


@dataclass(frozen=True)
class RunSimilarity:
    """Each stage's `Likeness` by fold and seed, of a run folder's ``name``; ``start``: ``pretrained`` or ``random``."""

    name: str
    backbone: str
    start: str
    stages: tuple[str, ...]
    trials: tuple[tuple[int, int, dict[str, Likeness]], ...]


def run_similarity(
    run: Path,
    *,
    data: Path | None = None,
    pooled: bool = False,
    trials: Collection[Trial] | None = None,
    device: torch.device,
    progress: Callable[[int, int, str], None] | None = None,
) -> RunSimilarity:
    """Compare every finished trial of a run folder (or only some ``trials``) with its start.

    ``data`` is the data set, where it has been moved since; rows are clips rather than positions where ``pooled``;
    ``progress`` is called with (clips done, clips in all, a note). RunError if the run has no finished trial, its
    sounds are not found, or its starting weights cannot be made again; DataError if the rows are too few for every
    stage.
    """
    seeds = sorted({int(found.about["seed"]) for found in read_run(run)})
    every = [item for seed in seeds for item in held_out(run, data=data, seed=seed)]
    chosen = [item for item in every if trials is None or Trial(item.fold, item.seed) in trials]
    total, done = sum(len(item.files) for item in chosen), 0
    found, card, names = [], None, []
    for item in chosen:
        card, after = load(item.model)
        before = _start(item, card)
        names = stage_names(after)

        def shown(batch: Tensor, item: HeldOut = item) -> Tensor:
            nonlocal done
            done += len(batch)
            if progress:
                progress(done, total, f"fold {item.fold} seed {item.seed}")
            return batch

        batches = map(shown, spectrograms(card, item.files, device=device))
        here = compare(before.to(device), after.to(device), batches, pooled=pooled)
        found.append((item.fold, item.seed, here))
    if card is None:
        raise RunError(f"{run}: no finished trial in it; run the command that made it again")
    _check_enough(run, found, pooled=pooled)
    backbone, transfer = card.recipe.backbone, card.recipe.transfer
    start = "random" if "none" in (backbone.weights, transfer.fuse) else "pretrained"
    return RunSimilarity(run.resolve().name, backbone.name, start, tuple(names), tuple(found))


def compare(
    before: nn.Module, after: nn.Module, batches: Iterable[Tensor], *, pooled: bool = False
) -> dict[str, Likeness]:
    """Similarity of two networks' outputs by stage, from input to output, without the head.

    Both are of one architecture, on one device; ``batches`` are spectrograms (clips, 3, bands, frames); rows are clips
    where ``pooled``, else positions. DataError if a stage's outputs are all the same, or not finite.
    """
    ends = stage_ends(after)
    gathered: dict[str, Covariances] = {}
    for batch in batches:
        ours, theirs = _outputs(before, ends, batch), _outputs(after, ends, batch)
        for stage in ends:
            x, y = (_rows(made[stage], pooled=pooled) for made in (ours, theirs))
            gathered.setdefault(stage, Covariances(x.shape[1], y.shape[1])).add(x, y)
    out = {}
    for stage, covariances in gathered.items():
        try:
            out[stage] = likeness(covariances)
        except DataError as error:
            raise DataError(f"{stage}: {error}") from error
    return out


def spectrograms(card: ModelCard, files: Sequence[Path], *, device: torch.device) -> Iterator[Tensor]:
    """Network inputs (clips, 3, bands, frames) of sound files as a model takes them, a batch at a time."""
    features = card.recipe.features
    rate, seconds = features.rate, float(features.clip_seconds)
    front_end = Spectrogram(features).to(device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (card.mean, card.std))
    for start in range(0, len(files), BATCH_SIZE):
        read = (
            audio.read(file, sample_rate_hz=rate, seconds=seconds, channel=features.channel)
            for file in files[start : start + BATCH_SIZE]
        )
        waves = [audio.fit(wave, features.samples) for wave in read]
        with torch.inference_mode():
            raw = front_end.spectrograms(torch.from_numpy(np.stack(waves)).to(device))[:, 0]
            out = ((raw - mean) / std).expand(-1, 3, -1, -1)
            yield out.contiguous(memory_format=torch.channels_last)


def similarity_result(found: Sequence[RunSimilarity], *, pooled: bool) -> dict[str, Any]:
    """The values of some runs by stage: mean over trials, and its 95 % interval where there are several.

    The interval is Student's, over the folds' means where there are several folds and over the seeds otherwise. Folds
    share most of their training clips, so that it is narrower than one over new data sets would be.

    Returns ``backbone``, ``rows`` (positions or clips) and ``runs``: for each ``name``, ``start``, ``points`` (a stage
    each: ``svcca`` and ``cka`` with mean, ci95 or None, and trials; ``chance``, ``rows``, ``kept``, ``uncertain``; a
    mean is None where the rows were too few) and ``trials`` (fold, seed, stage and its values). RunError if the runs
    are not of one backbone.
    """
    for one in found[1:]:
        if (one.backbone, one.stages) != (found[0].backbone, found[0].stages):
            raise RunError(
                f"{one.name} is of {one.backbone} ({len(one.stages)} stages), {found[0].name} of {found[0].backbone} "
                f"({len(found[0].stages)}); compare runs of one network"
            )
    runs = []
    for one in found:
        trials = [
            {"fold": fold, "seed": seed, "stage": stage, **asdict(item)}
            for fold, seed, here in one.trials
            for stage, item in here.items()
        ]
        runs.append({"name": one.name, "start": one.start, "points": _points(one), "trials": trials})
    return {
        "analysis": "similarity",
        "backbone": found[0].backbone,
        "rows": "clips" if pooled else "positions",
        "runs": runs,
    }


def _points(found: RunSimilarity) -> list[dict[str, Any]]:
    out = []
    for stage in found.stages:
        rows = [(fold, here[stage]) for fold, _, here in found.trials if stage in here]
        if not rows:
            continue
        out.append(
            {
                "stage": stage,
                "svcca": mean_interval([(fold, item.svcca) for fold, item in rows]),
                "cka": mean_interval([(fold, item.cka) for fold, item in rows]),
                "chance": float(np.mean([item.chance for _, item in rows])),
                "rows": min(item.rows for _, item in rows),
                "kept": max(max(item.kept) for _, item in rows),
                "uncertain": any(item.rows < FEW * max(item.kept) for _, item in rows),
            }
        )
    return out


def mean_interval(
    values: Sequence[tuple[int, float | None]], *, within: tuple[float, float] = (0.0, 1.0)
) -> dict[str, Any]:
    """Mean of (fold, value) pairs, and Student's 95 % interval over the folds' means, or over all of one fold.

    Limits are clipped to ``within``. Returns ``mean`` (None for no value), ``ci95`` (None below two units), ``trials``.
    """
    from scipy.stats import t

    known = [(fold, value) for fold, value in values if value is not None]
    folds = sorted({fold for fold, _ in known})
    units = [value for _, value in known]
    if len(folds) > 1:
        units = [float(np.mean([value for other, value in known if other == fold])) for fold in folds]
    mean = float(np.mean(units)) if units else None
    limits = None
    if mean is not None and len(units) > 1:
        half = float(t.ppf(0.975, len(units) - 1) * np.std(units, ddof=1) / np.sqrt(len(units)))
        limits = [max(within[0], mean - half), min(within[1], mean + half)]
    return {"mean": mean, "ci95": limits, "trials": len(known)}


def _start(item: HeldOut, card: ModelCard) -> nn.Module:
    try:
        return starting_model(card.recipe, classes=len(card.classes), seed=item.seed).eval()
    except EarsightError as error:
        raise RunError(f"{item.model.parent}: its starting weights cannot be made again: {error}") from error


def _outputs(model: nn.Module, ends: dict[str, str], batch: Tensor) -> dict[str, Tensor]:
    """Feature maps of each stage for one batch."""
    made: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            # A copy: a later module may work in place.
            lambda _, given, out, stage=stage: made.update({stage: out.clone()})
        )
        for stage, name in ends.items()
    ]
    try:
        with torch.inference_mode():
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return made


def _rows(maps: Tensor, *, pooled: bool) -> NDArray[np.float64]:
    maps = maps.double().cpu()
    rows = maps.mean(dim=(2, 3)) if pooled else maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    return np.asarray(rows.numpy())


def _check_enough(run: Path, found: list[tuple[int, int, dict[str, Likeness]]], *, pooled: bool) -> None:
    """Raise if no stage of any trial has as many rows as directions."""
    every = [item for _, _, here in found for item in here.values()]
    if every and all(item.svcca is None for item in every):
        least = min(every, key=lambda item: sum(item.kept))
        found_rows = f"{least.rows} held-out clips" if pooled else f"{least.rows} positions of held-out clips"
        remedy = "leave --pooled out" if pooled else "hold out more clips, with fewer folds"
        raise DataError(
            f"{run}: {found_rows} are fewer than the {sum(least.kept)} dimensions to be compared, so that any two "
            f"networks would agree; {remedy}"
        )
