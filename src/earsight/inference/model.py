"""A loaded model file: the front end, the network and its calibration; waves in, predictions out.

Comes in: the path of a model file, then sounds: files, arrays of any float type, or batches (batch, samples) float32 at
the model's rate. Goes out: logits, probabilities or `Prediction`s. Spectrograms come from the front end that training
used, as the model file describes it. `earsight.inference.classifier.Classifier` adds recordings and explanations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.calibration.apply import Outputs, calibrated_outputs, check_calibration
from earsight.data import audio
from earsight.data.audio import LOUDEST, resampled
from earsight.data.intake import Channel, Loss, Meter, energy_of, picked
from earsight.errors import DataError, ModelError, counted
from earsight.features.spectrogram import Spectrogram
from earsight.inference.predictions import Prediction
from earsight.models.card import ModelCard
from earsight.models.fast.folding import folded
from earsight.models.modelfile import load
from earsight.models.weights import one_line

NOT_FINITE = "the model gives NaN or infinity for it; use another model file, or train the model again"
"""Why a sound has no prediction that could be read."""


class Model:
    """A loaded model: `predict` takes files and waves, `logits` a batch of waves.

    Parameters
    ----------
    card : ModelCard
        Classes, features, normalisation and calibration; ModelError if the network does not fit the latter.
    model : nn.Module
    device : torch.device, optional
        Where to compute; default the CPU.
    """

    def __init__(self, card: ModelCard, model: nn.Module, *, device: torch.device | None = None) -> None:
        check_calibration(card, model)
        self.card = card
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()
        self.front_end = Spectrogram(card.recipe.features).to(self.device)
        self.left_out: list[tuple[str, Loss]] = []
        """Files that were decoded and lost something of note before the network, by name."""
        self._folding = threading.Lock()
        self._folded: nn.Module | None = None
        self._mean = torch.tensor(card.mean, dtype=torch.float32, device=self.device)[:, None, None]
        self._std = torch.tensor(card.std, dtype=torch.float32, device=self.device)[:, None, None]

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | None = None) -> Self:
        """Load a model file; ModelError if it is not a whole one of this version of earsight."""
        return cls(*load(Path(path)), device=device)

    def use_kernels(self) -> Self:
        """Compute spectrograms with compiled kernels: files take half the time, results change only by rounding.

        Worth it from a hundred sounds on: they take half a second to load (the first time on a machine, some seconds
        to compile) and 130 MB of memory.
        """
        self.front_end.use_kernels()
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.card.classes

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the waves that `logits` takes."""
        return self.card.recipe.features.rate

    @property
    def samples(self) -> int:
        """Length of the waves that `logits` takes, in samples."""
        return self.card.recipe.features.samples

    @property
    def clip_seconds(self) -> float:
        """The same in seconds."""
        return self.samples / self.sample_rate_hz

    def spectrograms(self, waves: Tensor) -> Tensor:
        """Network input (batch, 3, bands, frames) of waves (batch, samples); differentiable."""
        return self.network_input(self.front_end.band_energies(waves)[:, 0])

    def network_input(self, bands: Tensor) -> Tensor:
        """Network input (batch, 3, bands, frames) of log powers (batch, windows, bands, frames); differentiable."""
        raw = self.front_end.finish(bands)
        return ((raw - self._mean) / self._std).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def logits(self, waves: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits (batch, classes) float32 of waves (batch, samples) at `sample_rate_hz`.

        Raises
        ------
        DataError
            If they are of another shape or type, or not finite; as of the other methods that take a batch.
        ModelError
            If a result is not finite; as of the other methods that give arrays.
        """
        with torch.inference_mode():
            spectrograms = self._checked(waves)
            return _all_finite(np.asarray(self._network(spectrograms)(spectrograms).float().cpu().numpy()))

    def probabilities(self, waves: NDArray[np.floating]) -> NDArray[np.float32]:
        """Probabilities (batch, classes) float32 of waves, at the model's calibrated temperature."""
        logits = torch.from_numpy(self.logits(waves))
        return _all_finite(np.asarray(torch.softmax(logits / self.card.temperature, dim=1).numpy()))

    def outputs(self, waves: NDArray[np.floating]) -> Outputs:
        """Probabilities, OOD scores and prediction sets as arrays, of waves (batch, samples) at `sample_rate_hz`."""
        with torch.inference_mode():
            found = self._outputs(self._checked(waves))
        _all_finite(_figures(found))
        return found

    def predict_waves(self, waves: NDArray[np.floating], *, name: str = "") -> list[Prediction]:
        """A prediction for each of a batch of waves (batch, samples) float32 at `sample_rate_hz`.

        One that is not finite has its error instead of classes.
        """
        with torch.inference_mode():
            return self.predict_spectrograms(self._checked(waves), name=name)

    def predict_spectrograms(self, spectrograms: Tensor, *, name: str = "") -> list[Prediction]:
        """Predictions for a batch of `spectrograms`, which other threads may compute in advance."""
        found = self._outputs(spectrograms)
        finite = np.isfinite(_figures(found)).all(axis=1)
        predictions = []
        for row, shares in enumerate(found.probabilities):
            if not finite[row]:
                predictions.append(Prediction(name, (), (), NOT_FINITE))
                continue
            order = np.argsort(-shares, kind="stable")
            plausible = order[found.prediction_sets[row][order]] if found.prediction_sets is not None else ()
            predictions.append(
                Prediction(
                    name,
                    tuple(self.classes[i] for i in order),
                    tuple(float(shares[i]) for i in order),
                    unknown=bool(found.unknown[row]),
                    novelty=None if found.ood_score is None else float(found.ood_score[row]),
                    plausible=tuple(self.classes[i] for i in plausible),
                )
            )
        return predictions

    def predict(self, sound: str | Path | NDArray[np.float32], *, rate: int | None = None) -> Prediction:
        """Classify one sound.

        Parameters
        ----------
        sound : path or ndarray of float, shape (samples,) or (samples, channels)
        rate : int, optional
            Of an array, in Hz; must be given for one.

        Raises
        ------
        AudioError
            If the file cannot be read.
        DataError
            If an array is empty, not finite, of another shape, or came without its rate.
        ModelError
            If the result is not finite.
        """
        wave, name = self.waveform(sound, rate=rate)
        (found,) = self.predict_waves(audio.fit(wave, self.samples)[None], name=name)
        if found.error:
            raise ModelError(f"{name or 'the sound'}: {found.error}")
        return found

    def note_loss(self, name: str, meter: Meter) -> None:
        """Add a sound to `left_out` if the meter that measured it found a loss of note."""
        if found := meter.loss:
            self.left_out.append((name, found))

    def waveform(
        self, sound: str | Path | NDArray[np.float32], *, rate: int | None = None
    ) -> tuple[NDArray[np.float32], str]:
        """The classified part of a sound (its first `samples` or less, mono at `sample_rate_hz`), and its name.

        Takes and raises what `predict` does; what is lost of it is added to `left_out`.
        """
        features = self.card.recipe.features
        meter = Meter(features)
        given: dict[str, Any] = {"channel": features.channel, "observe": meter.add}
        if isinstance(sound, str | Path):
            seconds, name = float(features.clip_seconds), str(sound)
            wave = audio.read(sound, sample_rate_hz=self.sample_rate_hz, seconds=seconds, **given)
            self.note_loss(name, meter)
            return wave, name
        wave = mono(np.asarray(sound), rate=rate, sample_rate_hz=self.sample_rate_hz, **given)
        return wave[: self.samples], ""

    def _checked(self, waves: NDArray[np.floating]) -> Tensor:
        """Network input of a batch of waves from the caller, after checks."""
        return self.spectrograms(torch.from_numpy(batch(waves, samples=self.samples)).to(self.device))

    def _network(self, spectrograms: Tensor) -> nn.Module:
        """The network with batch norms folded; `model` itself is unchanged."""
        with self._folding:
            if self._folded is None:
                noise = torch.randn((1, *spectrograms.shape[1:]), generator=torch.Generator().manual_seed(0))
                try:
                    self._folded = folded(self.model, spectrogram=noise.to(spectrograms))
                except RuntimeError as error:
                    size, name = " x ".join(map(str, noise.shape[2:])), self.card.recipe.backbone.name
                    raise ModelError(f"{name} cannot be run on spectrograms of {size} ({one_line(error)})") from error
            return self._folded

    def _outputs(self, spectrograms: Tensor) -> Outputs:
        return calibrated_outputs(self.card, self._network(spectrograms), spectrograms)


def _figures(found: Outputs) -> NDArray[np.floating]:
    """All numbers of outputs, a row for each sound."""
    scores = [] if found.ood_score is None else [found.ood_score[:, None]]
    return np.concatenate([found.probabilities, *scores], axis=1)


def _all_finite(rows: NDArray[Any]) -> NDArray[Any]:
    """Results, a row for each sound; `ModelError` if some are not finite."""
    wrong = len(rows) - int(np.isfinite(rows).all(axis=1).sum())
    if wrong:
        raise ModelError(f"{wrong} of {counted(len(rows), 'sound')}: {NOT_FINITE}")
    return rows


def mono(
    wave: NDArray[np.floating],
    *,
    rate: int | None,
    sample_rate_hz: int,
    channel: Channel = "mix",
    observe: Callable[[NDArray[np.float32], int], None] | None = None,
) -> NDArray[np.float32]:
    """One sound (samples,) or (samples, channels) at ``rate`` Hz as float32 (samples,) at ``sample_rate_hz``.

    DataError if it is empty, not finite, of another shape or type, or came without its rate.
    """
    if rate is None:
        raise DataError("an array was given without its rate: predict(wave, rate=44100)")
    if wave.ndim not in (1, 2) or not wave.size or not np.issubdtype(wave.dtype, np.floating):
        raise DataError(f"found an array {wave.dtype} {wave.shape}; expected floats (samples,) or (samples, channels)")
    _check_values(wave)
    if rate <= 0:
        raise DataError(f"rate is {rate}; expected the array's sampling rate, as in rate=44100")
    block = wave.astype(np.float32, copy=False).reshape(len(wave), -1)
    if observe is not None:
        observe(block, rate)
    chosen = int(energy_of(block).argmax()) + 1 if channel == "loudest" else channel
    return resampled(picked(block, chosen, "the array"), rate_hz=rate, sample_rate_hz=sample_rate_hz)


def batch(waves: NDArray[np.floating], *, samples: int) -> NDArray[np.float32]:
    """Sounds (batch, samples) as contiguous float32; DataError if empty, not finite, or of another shape or type."""
    waves = np.asarray(waves)
    if waves.ndim != 2 or not len(waves) or waves.shape[1] != samples or not np.issubdtype(waves.dtype, np.floating):
        raise DataError(
            f"found an array {waves.dtype} {waves.shape}; expected floats (batch, {samples}) at the model's rate. "
            "predict takes one sound of any length and rate"
        )
    _check_values(waves)
    return np.ascontiguousarray(waves, dtype=np.float32)


def _check_values(values: NDArray[np.floating]) -> None:
    most = max(float(values.max()), -float(values.min()))  # NaN where there is one
    if not most < LOUDEST:
        if np.isfinite(values).all():
            raise DataError(f"the array holds values up to {most:.3g}; expected samples with full scale at 1")
        raise DataError("the array holds values that are not finite; remove them")
