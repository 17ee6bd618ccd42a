"""Compare an exported ONNX model with its model file: the largest output differences.

Comes in: a classifier and the bytes of an ONNX model. Goes out: the ONNX model's outputs for waves (batch, samples)
float32, and the largest differences of probabilities, spectrograms and OOD scores (`Parity`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from earsight.data import audio
from earsight.data.synthetic import synthetic_waves
from earsight.errors import ModelError
from earsight.inference.classifier import Classifier

Wave = NDArray[np.float32]
ALLOWED = 1e-4
"""Difference of a probability and of an OOD score between torch and ONNX Runtime."""
SPECTROGRAM_ALLOWED = 1e-3


class Parity(NamedTuple):
    """The largest differences, of a probability in the probe ``worst``; ``novelty``: of the OOD score, if any."""

    probabilities: float
    spectrograms: float
    novelty: float | None
    waves: int
    worst: str


class OnnxModel:
    """An ONNX model in memory, with as many threads as torch has; ModelError if ONNX Runtime does not load it."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of its C++ side for each kind of failure
            reason = " ".join(str(error).split())
            raise ModelError(f"ONNX Runtime {onnxruntime.__version__} does not load the model: {reason}") from error
        self._names = [value.name for value in self._session.get_outputs()]

    def __call__(self, waves: Wave) -> dict[str, NDArray[Any]]:
        """The outputs by name, of waves (batch, samples) float32 of any length."""
        return dict(zip(self._names, self._session.run(None, {"waves": waves}), strict=True))


def probes(classifier: Classifier, sounds: Iterable[Wave] = ()) -> Iterator[tuple[str, Wave]]:
    """Names and waves (batch, samples) float32 to compare: given sounds, synthetic ones, noise, silence, and edges."""
    rate, samples = classifier.sample_rate_hz, classifier.samples
    draw = np.random.default_rng(0)
    for number, wave in enumerate(sounds):
        yield f"clip {number + 1}", wave[None]
    made = list(synthetic_waves(seconds=samples / rate, sample_rate_hz=rate, seed=1))
    yield "synthetic sounds", np.stack(made)
    noise = draw.normal(0, 0.1, (3, samples)).astype(np.float32)
    yield "noise", noise
    yield "quiet noise", 1e-4 * noise[:1]
    yield "silence", np.zeros((1, samples), dtype=np.float32)
    tone = np.sin(2 * np.pi * rate / 16 * np.arange(samples) / rate).astype(np.float32)
    yield "a tone of full scale", tone[None]
    for share in (0.0, 0.01, 0.5, 1.5, 3.0):
        length = max(1, round(share * samples))
        yield f"{length} samples", draw.normal(0, 0.1, (2, length)).astype(np.float32)


def compare(
    classifier: Classifier, whole: OnnxModel, front_end: OnnxModel, waves: Iterable[tuple[str, Wave]]
) -> Parity:
    """The largest differences between a classifier on the CPU and its ONNX model, whole and front end alone."""
    probabilities, spectrograms, novelty, count, worst = 0.0, 0.0, None, 0, ""
    for name, batch in waves:
        fitted = np.stack([audio.fit(wave, classifier.samples) for wave in batch])
        expected, found = classifier.outputs(fitted), whole(batch)
        with torch.inference_mode():
            exact = classifier.front_end(torch.from_numpy(fitted)).numpy()
        gap = _largest(found["probabilities"], expected.probabilities)
        if gap >= probabilities or not worst:
            probabilities, worst = gap, name
        spectrograms = max(spectrograms, _largest(front_end(batch)["spectrograms"], exact))
        if expected.ood_score is not None:
            novelty = max(novelty or 0.0, _largest(found["novelty"], expected.ood_score))
        count += len(batch)
    return Parity(probabilities, spectrograms, novelty, count, worst)


def _largest(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest difference; infinite if a value is missing or NaN."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected).max())
