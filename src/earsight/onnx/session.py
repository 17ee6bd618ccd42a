"""An exported model in ONNX Runtime, beside the model file that it comes from.

Comes in: a classifier and the bytes of an ONNX model. Goes out: its answers to waves, the largest difference between
both sides (`Parity`), and how right and how fast each side is on labelled clips.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
"""Of a probability and of the novelty, between torch and ONNX Runtime."""
ALLOWED_IN_PICTURES = 1e-3


class Parity(NamedTuple):
    """The largest difference of a probability, of a spectrogram (in its own units) and of the novelty (None without one).

    ``waves``: how many were compared; ``worst``: which of them had the largest difference of a probability.
    """

    probabilities: float
    spectrograms: float
    novelty: float | None
    waves: int
    worst: str


@dataclass
class Score:
    """What one side did with the clips, and in how many ``seconds`` from waves to answers."""

    seconds: float = 0.0
    hit: list[NDArray[np.bool_]] = field(default_factory=list)
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Which clips were named right, shape (clips,)."""
        return np.concatenate(self.hit)

    @property
    def clips(self) -> int:
        """How many there were."""
        return len(self.hits)


class OnnxModel:
    """An ONNX model in memory, with as many threads as torch has.

    Parameters
    ----------
    model : bytes

    Raises
    ------
    ModelError
        If ONNX Runtime does not load it.
    """

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
    """Waves that show a difference if there is one: the given sounds, synthetic ones, and what is at the edges.

    Yields
    ------
    name : str
    waves : ndarray, shape (batch, samples), float32
        Of several batch sizes and lengths.
    """
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
    """The largest differences between a classifier and its ONNX model.

    Parameters
    ----------
    classifier : Classifier
        On the CPU.
    whole, front_end : OnnxModel
        The model, and its front end alone.
    waves : iterable of (str, ndarray)
        As `probes` gives them.
    """
    shares, spectrograms, count, worst, strange = 0.0, 0.0, 0, "", None
    for name, batch in waves:
        fitted = np.stack([audio.fit(wave, classifier.samples) for wave in batch])
        truth, found = classifier.answers(fitted), whole(batch)
        with torch.inference_mode():
            seen = classifier.front_end(torch.from_numpy(fitted)).numpy()
        gap = _largest(found["probabilities"], truth.probabilities)
        if gap >= shares or not worst:
            shares, worst = gap, name
        spectrograms = max(spectrograms, _largest(front_end(batch)["spectrograms"], seen))
        if truth.novelty is not None:
            strange = max(strange or 0.0, _largest(found["novelty"], truth.novelty))
        count += len(batch)
    return Parity(shares, spectrograms, strange, count, worst)


def _largest(found: NDArray[Any], truth: NDArray[Any]) -> float:
    """Infinite where a value is missing or no number, so that no comparison lets it pass."""
    if found.shape != truth.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - truth).max())


def race(sides: Mapping[str, Any], batches: Iterable[tuple[Wave, NDArray[np.int64]]]) -> dict[str, Score]:
    """Let every side answer the same clips, in turn.

    Parameters
    ----------
    sides : mapping of str to callable
        From waves (batch, samples) to probabilities (batch, classes).
    batches : iterable of (waves, labels)
        Waves float32 of the clip's length; labels int64.
    """
    scores = {name: Score() for name in sides}
    warm = False
    for waves, labels in batches:
        if not warm:  # the first call of each side prepares what later ones use
            for answer in sides.values():
                answer(waves)
            warm = True
        for name, answer in sides.items():
            started = time.perf_counter()
            shares = answer(waves)
            score = scores[name]
            score.seconds += time.perf_counter() - started
            score.hit.append(shares.argmax(axis=1) == labels)
            score.probabilities.append(shares)
    return scores
