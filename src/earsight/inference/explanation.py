"""Explain one prediction: attributions over the spectrogram, the sound that they select, and their faithfulness.

Comes in: a model and a sound, of which one window of the clip's length is explained. Goes out: an `Explanation`, arrays
and numbers about one class. Spectrograms and attributions have one channel a window of the STFT, (windows, bands,
frames); what is merged is (bands, frames), its columns evenly spaced from 0 s to the end of the clip.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.calibration.apply import Pool, card_probabilities
from earsight.data import audio
from earsight.errors import AudioError, DataError, ModelError, counted
from earsight.inference.formats import harmless
from earsight.inference.model import Model, grouped
from earsight.inference.predictions import error_words
from earsight.inference.sounds import Sound
from earsight.models.ensemble import Ensemble

if TYPE_CHECKING:  # a prediction does not load the analysis
    from earsight.analysis.attribution import Attribution
    from earsight.analysis.faithfulness import Curves

MAPS = ATTRIBUTION, POSITIVE, GRAD_CAM, LOUDEST = "attribution", "positive part", "Grad-CAM", "loudest"
"""Names of the maps whose orders `Explanation.curves` compares; the mask is made from the positive part."""

_ANY = 1 << 20  # more steps than any time allows
_SILENT = 1e-3  # a sound counts as silent if its spectrogram is nowhere further above that of silence


@dataclass(frozen=True, eq=False)
class Explanation:
    """The attributions of one class's score to one sound."""

    path: str  #: the file as it was named; empty for an array
    label: str  #: the class that is explained
    top_label: str  #: the most probable class of the whole sound
    probability: float  #: of the label in the wave
    sample_rate_hz: int  #: of the wave
    wave: NDArray[np.float32]  #: (samples,): the explained window without padding
    clip_seconds: float  #: length of the spectrogram's time axis
    windows_ms: tuple[float, ...]  #: the window of each channel
    edges: NDArray[np.float64]  #: (windows, frames + 1): where each channel's columns begin and end, in seconds
    band_hz: NDArray[np.float64]  #: (bands,): middle of each band
    spectrogram: NDArray[np.float32]  #: (windows, bands, frames): log power in the bands
    attribution: Attribution  #: Integrated Gradients, ``values`` of shape (windows, bands, frames)
    merged: NDArray[np.float64]  #: (bands, frames): the attributions summed over the channels, on the common clock
    grad_cam: NDArray[np.float32]  #: (bands, frames), 0 and above
    mask: NDArray[np.float64]  #: (bands, frames): how much of each cell the network used, 0 to 1, on the common clock
    used: NDArray[np.float32]  #: (samples,): the part of the wave that the network used
    unused: NDArray[np.float32]  #: (samples,): the rest; both add up to the wave
    used_probability: float  #: of the label in the part that was used
    unused_probability: float  #: of the label in the rest
    curves: Curves | None  #: faithfulness of the attribution; None where it was not asked for
    begin_seconds: float = 0.0  #: where the window begins: of several the one with the label's highest probability
    windows: int = 1  #: into which the sound was cut
    damage: str = ""  #: what is wrong with the file, where it was used all the same
    read_seconds: float | None = None  #: and how much of it is whole
    left_out: dict[str, float] = field(default_factory=dict)  #: as of a `Prediction`

    @property
    def end_seconds(self) -> float:
        """Where the window ends in the sound."""
        return self.begin_seconds + len(self.wave) / self.sample_rate_hz

    @property
    def verdict(self) -> str:
        """Whether to believe the attributions, and their positive part; empty if the curves were not measured."""
        if self.curves is None:
            return ""
        from earsight.analysis.faithfulness import verdict

        return " ".join(verdict(self.curves, name, rival=LOUDEST) for name in (ATTRIBUTION, POSITIVE))

    @property
    def believed(self) -> Literal["yes", "with care", "no"]:
        """The verdict on the attributions in a word; "no" where the curves were not measured."""
        if self.curves is None:
            return "no"
        from earsight.analysis.faithfulness import better_than_random

        counts: tuple[Literal["yes", "with care", "no"], ...] = ("no", "with care", "yes")
        return counts[len(better_than_random(self.curves, ATTRIBUTION))]

    @property
    def used_energy(self) -> float:
        """Share of the wave's energy that ``used`` has."""
        whole = float(np.square(self.wave, dtype=np.float64).sum())
        return float(np.square(self.used, dtype=np.float64).sum()) / whole

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        found = self.attribution
        return {
            **{name: getattr(self, name) for name in ("path", "label", "top_label", "probability")},
            **{name: round(getattr(self, name), 3) for name in ("begin_seconds", "end_seconds")},
            "windows": self.windows,
            **({"damage": self.damage, "read_seconds": self.read_seconds} if self.damage else {}),
            **({"left_out": self.left_out} if self.left_out else {}),
            "completeness": {
                "sum_of_attributions": found.total,
                "score": found.score,
                "score_of_silence": found.silence_score,
                **{name: getattr(found, name) for name in ("difference", "error", "steps")},
            },
            "audible": {
                name: getattr(self, name) for name in ("used_probability", "unused_probability", "used_energy")
            },
            "faithfulness": self.curves.to_dict() | {"verdict": self.verdict} if self.curves else None,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays, by name, as they go into an ``.npz``."""
        return {
            **{"spectrogram": self.spectrogram, "attribution": self.attribution.values, "merged": self.merged},
            **{"grad_cam": self.grad_cam, "mask": self.mask, "column_edges_seconds": self.edges},
            "band_hz": self.band_hz,
        }


class FromBands(nn.Module):
    """A model's network, from log band powers to scores.

    With it, attributions are to the sound's power in frequency bands, whatever the representation and its
    normalisation; a single window is one channel.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model.model
        self._network_input = model.network_input

    def forward(self, bands: Tensor) -> Tensor:
        """Log powers (batch, windows, bands, frames) to scores (batch, classes)."""
        scores: Tensor = self.model(self._network_input(bands)).float()
        return scores


def explain(
    model: Model,
    sound: Sound,
    *,
    rate: float | None = None,
    label: str | None = None,
    first: bool = False,
    damaged: bool = False,
    curves: bool = True,
    seed: int = 0,
    most_steps: int = 2048,
    most_seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Attribute one class's score to the parts of one sound's spectrogram.

    `earsight.explain` says what the parameters are; ``progress`` is called with (curves done, curves in all). Raises
    AudioError if the file cannot be read, or the sound is silent or shorter than one window; DataError if an array is
    no sound, or the label is unknown; ModelError if the attributions are not complete within 1 % after ``most_steps``.
    With ``most_seconds`` they take as many steps as fit into that time, and one that is not complete is returned too.
    """
    from earsight.analysis.attribution import grad_cam, integrated_gradients, last_spatial_layer
    from earsight.analysis.faithfulness import measure_curves, tiles
    from earsight.analysis.masking import positive_part, soft_mask, split_sound
    from earsight.analysis.time_axis import band_hz, column_edges, sum_channels

    wanted = None if label is None else known_class(model.classes, label)
    damage: list[tuple[str, float]] = []

    def excuse(what: str, seconds: float) -> None:
        damage[:] = [(what, seconds)]

    with model.opened(sound, rate=rate) as source:
        name = source.name
        parts = partial(source.windows, excuse=excuse if damaged else None)
        begin, wave, windows, top = strongest_window(model, parts, wanted, first=first, name=name)
        left_out = source.loss.to_dict()
    _check_length(wave, name, model)
    front_end, network = model.front_end, FromBands(model)
    spectrogram, silence = bands_of(model, wave)
    if not is_audible(spectrogram, silence):
        raise AudioError(name or "array", "silent, so there is nothing in it to be explained; name a sound")
    try:
        probabilities = _probabilities(model, wave)
    except ModelError as error:
        raise ModelError(f"{name or 'array'}: {error}") from error
    top = int(probabilities.argmax()) if top is None else top
    target = top if wanted is None else wanted
    found = integrated_gradients(
        network,
        spectrogram,
        silence=silence,
        target=target,
        most_steps=most_steps if most_seconds is None else _ANY,
        most_seconds=math.inf if most_seconds is None else most_seconds,
    )
    if not found.complete and most_seconds is None:
        raise ModelError(
            f"{name or 'array'}: the attributions for {model.classes[target]} add up to {found.total:.4g}, not "
            f"{found.difference:.4g}, after {counted(found.steps, 'step')} "
            f"({error_words(found.error, found.tolerance)} off; {100 * found.tolerance:g} % is asked for); allow more: "
            f"--max-steps {8 * most_steps}"
        )
    # Grad-CAM is taken in the network, or in each member of an ensemble.
    members = list(model.model.networks) if isinstance(model.model, Ensemble) else [model.model]
    layers = [last_spatial_layer(member, lambda: network(spectrogram)) for member in members]
    cam = grad_cam(network, spectrogram, target=target, layers=layers)
    mask = soft_mask(found.values, front_end)
    used, unused = split_sound(wave, mask, front_end)
    positive, shared = positive_part(found.values, seconds=model.clip_seconds), np.broadcast_to(cam, found.values.shape)
    drawn: list[NDArray[Any]] = [found.values, positive, shared, spectrogram[0].cpu().numpy()]
    maps = dict(zip(MAPS, drawn, strict=True))

    def probability(spectrograms: Tensor) -> Tensor:
        scaled = network(spectrograms) / torch.tensor(model.card.scale, device=spectrograms.device)
        return torch.sigmoid(scaled)[:, target] if model.card.several else torch.softmax(scaled, dim=1)[:, target]

    measured = None
    if curves:
        measured = measure_curves(
            probability, spectrogram, silence=silence, tile_of=tiles(front_end), maps=maps, seed=seed, progress=progress
        )
    return Explanation(
        path=name,
        label=model.classes[target],
        top_label=model.classes[top],
        probability=float(probabilities[target]),
        sample_rate_hz=model.sample_rate_hz,
        wave=wave,
        clip_seconds=model.clip_seconds,
        windows_ms=tuple(model.card.recipe.features.windows_ms),
        edges=np.stack([column_edges(front_end, window=window) for window in range(len(found.values))]),
        band_hz=band_hz(front_end),
        spectrogram=spectrogram[0].cpu().numpy(),
        attribution=found,
        merged=sum_channels(found.values, front_end),
        grad_cam=cam,
        mask=mask,
        used=used,
        unused=unused,
        used_probability=float(_probabilities(model, used)[target]),
        unused_probability=float(_probabilities(model, unused)[target]),
        curves=measured,
        begin_seconds=begin / model.sample_rate_hz,
        windows=windows,
        damage=damage[0][0] if damage else "",
        read_seconds=damage[0][1] if damage else None,
        left_out=left_out,
    )


def strongest_window(
    model: Model,
    windows_of: Callable[..., Iterator[tuple[int, NDArray[np.float32]]]],
    wanted: int | None,
    *,
    first: bool,
    name: str,
) -> tuple[int, NDArray[np.float32], int, int | None]:
    """The window that speaks most for a class, or else for the whole sound's most probable one.

    Silent windows are passed over, unless all are. Returns where it begins, its wave, how many windows there are, and
    of several the most probable class.
    """
    parts = windows_of(first=first)
    begin, wave = next(parts)
    after = next(parts, None)
    if after is None:
        return begin, wave, 1, None
    pool = Pool(model.card)
    best, windows = np.full(len(model.classes), -2.0), np.zeros(len(model.classes), dtype=np.int64)
    for group in chain([[wave]], grouped(chain([after], parts))):
        raw = model.raw(np.stack(group))
        found_of = card_probabilities(model.card, raw.logits)
        for number, (shares, wave) in enumerate(zip(found_of, group, strict=True), start=pool.windows):
            spoken = shares if is_audible(*bands_of(model, wave)) else shares - 1
            windows[spoken > best] = number
            best = np.maximum(best, spoken)
        pool.add(raw)
    found = model.pooled(pool, name=name)
    if found.error:
        raise ModelError(f"{name or 'array'}: {found.error}")
    top = model.classes.index(found.label)
    number = int(windows[top if wanted is None else wanted])
    # Read again: to keep a window for each class could take much memory.
    begin, wave = next(islice(windows_of(), number, None))
    return begin, wave, pool.windows, top


def bands_of(model: Model, wave: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Log powers (1, windows, bands, frames) of a wave (samples,) that is padded to a clip, and of silence."""
    waves = np.zeros((2, model.samples), dtype=np.float32)
    waves[0, : len(wave)] = wave
    with torch.no_grad():
        bands = model.front_end.band_energies(torch.from_numpy(waves).to(model.device))[:, 0]
    return bands[:1], bands[1:]


def is_audible(spectrogram: Tensor, silence: Tensor) -> bool:
    """Whether log powers differ from those of silence, as `bands_of` gives both."""
    return float((spectrogram - silence).abs().max()) >= _SILENT


def known_class(classes: tuple[str, ...], label: str) -> int:
    """The index of a label; DataError with the nearest name if the model does not know it."""
    if label in classes:
        return classes.index(label)
    near = difflib.get_close_matches(label, classes, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"its classes are {', '.join(classes[:12])}"
    raise DataError(f"--label {label}: the model does not know it; {harmless(hint)}")


def _check_length(wave: NDArray[np.float32], name: str, model: Model) -> None:
    window = max(model.card.recipe.features.windows_ms)
    lasts = 1000 * len(wave) / model.sample_rate_hz
    if lasts < window:
        raise AudioError(
            name or "array",
            f"lasts {lasts:.3g} ms, less than one window of {window:g} ms: too short to be explained; "
            "name a longer sound",
        )


def _probabilities(model: Model, wave: NDArray[np.float32]) -> NDArray[np.float32]:
    (row,) = model.probabilities(audio.fit(wave, model.samples)[None])
    return np.asarray(row)
