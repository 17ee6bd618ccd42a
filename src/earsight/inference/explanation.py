"""Why a model says what it says of one sound: attributions, what they sound like, and whether to believe them.

Comes in: a classifier and a sound. Goes out: an `Explanation`, arrays and numbers about one class. Spectrograms and
attributions have one channel a window, (windows, bands, frames); what is merged is (bands, frames), its columns evenly
spaced from 0 s to the end of the clip.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.analysis.attribution import MOST_STEPS, Attribution, grad_cam, integrated_gradients, last_spatial_layer
from earsight.analysis.clock import band_hz, column_edges, merged
from earsight.analysis.faithfulness import Curves, in_words, measure_curves, tiles
from earsight.analysis.masking import positive_part, soft_mask, split_sound
from earsight.data import audio
from earsight.errors import AudioError, DataError, ModelError
from earsight.models.ensemble import Ensemble

if TYPE_CHECKING:
    from earsight.inference.classifier import Classifier

ATTRIBUTION, POSITIVE, GRAD_CAM, LOUDEST = "attribution", "positive part", "Grad-CAM", "loudest"
"""Names of the maps whose orders `Explanation.curves` compares; the positive part is what the mask is made of."""

_SILENT = 1e-3  # how far a spectrogram is above that of silence at most, for a sound to count as silent


@dataclass(frozen=True)
class Explanation:
    """What speaks for one class in one sound.

    Attributes
    ----------
    path : str
        The file as it was named; empty for an array.
    label : str
        The class that is explained.
    top_label : str
        The most probable class.
    probability : float
        Of ``label``.
    sample_rate_hz : int
    wave : ndarray of float32, shape (samples,)
        What the network heard, without the zeros that filled it up.
    clip_seconds : float
        Length of the spectrogram's time axis.
    windows_ms : tuple of float
        The window of each channel.
    edges : ndarray of float64, shape (windows, frames + 1)
        Where each channel's columns begin and end, in seconds.
    band_hz : ndarray of float64, shape (bands,)
        Middle of each band.
    spectrogram : ndarray of float32, shape (windows, bands, frames)
        Log power in the bands.
    attribution : Attribution
        Integrated Gradients, ``values`` of shape (windows, bands, frames).
    merged : ndarray of float64, shape (bands, frames)
        The attributions summed over the channels, on the common clock.
    grad_cam : ndarray of float32, shape (bands, frames)
        0 and above.
    mask : ndarray of float64, shape (bands, frames)
        How much of each cell the network used, 0 to 1, on the common clock.
    used, unused : ndarray of float32, shape (samples,)
        The sound with only what was used, and without it; they add up to ``wave``.
    used_probability, unused_probability : float
        Of ``label``, when the network hears these.
    curves : Curves or None
        Faithfulness of the attribution; None where it was not asked for.
    """

    path: str
    label: str
    top_label: str
    probability: float
    sample_rate_hz: int
    wave: NDArray[np.float32]
    clip_seconds: float
    windows_ms: tuple[float, ...]
    edges: NDArray[np.float64]
    band_hz: NDArray[np.float64]
    spectrogram: NDArray[np.float32]
    attribution: Attribution
    merged: NDArray[np.float64]
    grad_cam: NDArray[np.float32]
    mask: NDArray[np.float64]
    used: NDArray[np.float32]
    unused: NDArray[np.float32]
    used_probability: float
    unused_probability: float
    curves: Curves | None

    @property
    def verdict(self) -> str:
        """Whether to believe the spectrogram, and its positive part; empty where the curves were not asked for."""
        if self.curves is None:
            return ""
        return " ".join(in_words(self.curves, name, rival=LOUDEST) for name in (ATTRIBUTION, POSITIVE))

    @property
    def used_energy(self) -> float:
        """Share of the wave's energy that ``used`` has."""
        whole = float(np.square(self.wave, dtype=np.float64).sum())
        return float(np.square(self.used, dtype=np.float64).sum()) / whole

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        return {
            "path": self.path,
            "label": self.label,
            "top_label": self.top_label,
            "probability": self.probability,
            "completeness": {
                "sum_of_attributions": self.attribution.total,
                "score": self.attribution.score,
                "score_of_silence": self.attribution.silence_score,
                "difference": self.attribution.difference,
                "error": self.attribution.error,
                "steps": self.attribution.steps,
            },
            "audible": {
                "used_probability": self.used_probability,
                "unused_probability": self.unused_probability,
                "used_energy": self.used_energy,
            },
            "faithfulness": self.curves.to_dict() | {"verdict": self.verdict} if self.curves else None,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays, by name, as they go into an ``.npz``."""
        return {
            "spectrogram": self.spectrogram,
            "attribution": self.attribution.values,
            "merged": self.merged,
            "grad_cam": self.grad_cam,
            "mask": self.mask,
            "column_edges_seconds": self.edges,
            "band_hz": self.band_hz,
        }


class FromBands(nn.Module):
    """A classifier's network with all that comes between log powers in bands and its scores.

    With it, attributions are to the power of the sound in bands of frequency, whatever the representation makes of
    that; a single window is one channel; and a normalised spectrogram need not be undone.

    Parameters
    ----------
    classifier : Classifier
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.model = classifier.model
        self._network_input = classifier.network_input

    def forward(self, bands: Tensor) -> Tensor:
        """Log powers (batch, windows, bands, frames) to scores (batch, classes)."""
        scores: Tensor = self.model(self._network_input(bands)).float()
        return scores


def explain(
    classifier: Classifier,
    sound: str | Path | NDArray[np.float32],
    *,
    rate: int | None = None,
    label: str | None = None,
    curves: bool = True,
    seed: int = 0,
    most_steps: int = MOST_STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Explain one class of one sound; see `earsight.inference.classifier.Classifier.explain`."""
    wanted = None if label is None else known_class(classifier.classes, label)
    wave, name = classifier.heard(sound, rate=rate)
    _check_length(wave, name, classifier)
    front_end, network = classifier.front_end, FromBands(classifier)
    with torch.no_grad():
        clip = _clip(wave, classifier)
        views = front_end.band_energies(torch.cat([clip, torch.zeros_like(clip)]))[:, 0]
        spectrogram, silence = views[:1], views[1:]
    if float((spectrogram - silence).abs().max()) < _SILENT:
        raise AudioError(name or "array", "silent, so there is nothing in it to be explained; name a sound")
    probabilities = classifier.probabilities(_clip(wave, classifier).cpu().numpy())[0]
    top = int(probabilities.argmax())
    target = top if wanted is None else wanted
    found = integrated_gradients(network, spectrogram, silence=silence, target=target, most_steps=most_steps)
    if not found.complete:
        raise ModelError(
            f"{name or 'array'}: the attributions for {classifier.classes[target]} add up to {found.total:.4g}, not "
            f"{found.difference:.4g}, after {found.steps} steps ({100 * found.error:.1f} % off; "
            f"{100 * found.tolerance:g} % is asked for); allow more with --max-steps"
        )
    cam = grad_cam(network, spectrogram, target=target, layers=_layers(classifier.model, lambda: network(spectrogram)))
    whole = merged(found.values, front_end)
    mask = soft_mask(found.values, front_end)
    used, unused = split_sound(wave, mask, front_end)
    maps: dict[str, NDArray[Any]] = {
        ATTRIBUTION: found.values,
        POSITIVE: positive_part(found.values, seconds=classifier.samples / classifier.sample_rate_hz),
        GRAD_CAM: np.broadcast_to(cam, found.values.shape),
        LOUDEST: spectrogram[0].cpu().numpy(),
    }

    def probability(spectrograms: Tensor) -> Tensor:
        return torch.softmax(network(spectrograms) / classifier.card.temperature, dim=1)[:, target]

    return Explanation(
        path=name,
        label=classifier.classes[target],
        top_label=classifier.classes[top],
        probability=float(probabilities[target]),
        sample_rate_hz=classifier.sample_rate_hz,
        wave=wave,
        clip_seconds=classifier.samples / classifier.sample_rate_hz,
        windows_ms=tuple(classifier.card.recipe.features.windows_ms),
        edges=np.stack([column_edges(front_end, window=window) for window in range(len(found.values))]),
        band_hz=band_hz(front_end),
        spectrogram=spectrogram[0].cpu().numpy(),
        attribution=found,
        merged=whole,
        grad_cam=cam,
        mask=mask,
        used=used,
        unused=unused,
        used_probability=_probability(classifier, used, target),
        unused_probability=_probability(classifier, unused, target),
        curves=measure_curves(
            probability,
            spectrogram,
            silence=silence,
            tile_of=tiles(front_end),
            maps=maps,
            seed=seed,
            progress=progress,
        )
        if curves
        else None,
    )


def known_class(classes: tuple[str, ...], label: str) -> int:
    """The index of a label.

    Raises
    ------
    DataError
        If the model does not know it; the near name is suggested.
    """
    if label in classes:
        return classes.index(label)
    near = difflib.get_close_matches(label, classes, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"its classes are {', '.join(classes[:12])}"
    raise DataError(f"--label {label}: the model does not know it; {hint}")


def _layers(model: nn.Module, run: Callable[[], object]) -> list[nn.Module]:
    """Where to take Grad-CAM: in the network, or in each member of an ensemble."""
    members = list(model.networks) if isinstance(model, Ensemble) else [model]
    return [last_spatial_layer(member, run) for member in members]


def _check_length(wave: NDArray[np.float32], name: str, classifier: Classifier) -> None:
    window = max(classifier.card.recipe.features.windows_ms)
    lasts = 1000 * len(wave) / classifier.sample_rate_hz
    if lasts < window:
        raise AudioError(
            name or "array",
            f"lasts {lasts:.3g} ms, less than one window of {window:g} ms: too short to be explained; "
            "name a longer sound",
        )


def _clip(wave: NDArray[np.float32], classifier: Classifier) -> Tensor:
    return torch.from_numpy(audio.fit(wave, classifier.samples)[None]).to(classifier.device)


def _probability(classifier: Classifier, wave: NDArray[np.float32], target: int) -> float:
    return float(classifier.probabilities(audio.fit(wave, classifier.samples)[None])[0, target])
