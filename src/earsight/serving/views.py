"""Encode arrays for the web page: 8-bit images, outlines and WAV, in base64.

Comes in: waves (samples,) float32 and explanations. Goes out: the parts of an answer in `earsight.serving.schemas`.
"""

from __future__ import annotations

import base64
import io

import numpy as np
import soundfile
from numpy.typing import NDArray

from earsight.analysis.masking import smoothed
from earsight.analysis.time_axis import band_hz
from earsight.data import audio
from earsight.data.audio import Wave
from earsight.features.filterbanks import FLOOR
from earsight.inference.classifier import Classifier
from earsight.inference.explanation import Explanation
from earsight.serving.schemas import ExplanationBody, SpectrogramImage, Waveform

_OUTLINE = 600  # parts of a waveform


def spectrogram_of(classifier: Classifier, wave: Wave, *, start: float) -> SpectrogramImage:
    """The spectrogram of a wave (samples,) of a clip's length or less, which begins at ``start`` seconds."""
    import torch

    front_end = classifier.front_end
    with torch.inference_mode():
        waves = torch.from_numpy(audio.fit(wave, classifier.samples)[None]).to(classifier.device)
        bands = front_end.band_energies(waves)[0, 0].cpu().numpy()
    low, high = float(max(FLOOR, bands.min())), float(bands.max())
    levels = np.clip((bands - low) * (255 / max(high - low, 1e-6)), 0, 255).round().astype(np.uint8)
    windows, rows, columns = levels.shape
    return SpectrogramImage(
        windows_ms=list(classifier.card.recipe.features.windows_ms)[:windows],
        bands_hz=[round(float(middle), 1) for middle in band_hz(front_end)],
        start_seconds=round(start, 3),
        seconds=classifier.samples / classifier.sample_rate_hz,
        low=low,
        high=high,
        rows=rows,
        columns=columns,
        levels=_text(levels.tobytes()),
    )


def waveform_of(wave: Wave, *, rate_hz: int, start: float) -> Waveform:
    """The outline of a wave (samples,)."""
    parts = min(_OUTLINE, len(wave))
    edges = np.linspace(0, len(wave), parts + 1).astype(np.int64)[:-1]
    low, high = np.minimum.reduceat(wave, edges), np.maximum.reduceat(wave, edges)
    return Waveform(
        start_seconds=start,
        seconds=len(wave) / rate_hz,
        low=[round(float(value), 4) for value in low],
        high=[round(float(value), 4) for value in high],
    )


def explanation_of(found: Explanation, *, start: float) -> ExplanationBody:
    """An explanation of a window that begins at ``start`` seconds, as a page shows and plays it."""
    shown = smoothed(found.merged, seconds=found.clip_seconds)
    largest = float(np.abs(shown).max())
    levels = np.round(shown * (127 / max(largest, 1e-12))).astype(np.int8)
    rows, columns = levels.shape
    return ExplanationBody(
        label=found.label,
        probability=found.probability,
        start_seconds=round(start, 3),
        end_seconds=round(start + len(found.wave) / found.sample_rate_hz, 3),
        completeness_error=found.attribution.error,
        complete=found.attribution.complete,
        steps=found.attribution.steps,
        verdict=found.verdict,
        believed=found.believed,
        rows=rows,
        columns=columns,
        largest=largest,
        levels=_text(levels.tobytes()),
        used_probability=found.used_probability,
        unused_probability=found.unused_probability,
        used_energy=found.used_energy,
        used_wav=_wav(found.used, found.sample_rate_hz),
        unused_wav=_wav(found.unused, found.sample_rate_hz),
    )


def _wav(wave: NDArray[np.float32], rate_hz: int) -> str:
    """A 16-bit WAV file; a wave that exceeds full scale is scaled down instead of clipped."""
    peak = max(1.0, float(np.abs(wave).max(initial=0.0)))
    file = io.BytesIO()
    soundfile.write(file, wave / peak, rate_hz, format="WAV", subtype="PCM_16")
    return _text(file.getvalue())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
