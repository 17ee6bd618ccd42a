"""A loaded model file: the front end, the network and its calibration; waves in, predictions out.

Comes in: the path of a model file, then sounds (see `earsight.inference.sounds`), or batches (batch, samples) float32
at the model's rate. Goes out: logits, probabilities or `Prediction`s. Spectrograms come from the front end that
training used, as the model file describes it. `earsight.inference.classifier.Classifier` adds recordings and
explanations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.arguments import checked, instance
from earsight.calibration.apply import (
    Outputs,
    Pool,
    Raw,
    calibrated,
    card_probabilities,
    check_calibration,
    fits_pools,
    raw_outputs,
    threshold_of,
)
from earsight.data import audio
from earsight.data.audio import Wave
from earsight.data.intake import Loss, Meter, loss_texts
from earsight.errors import DataError, ModelError, RecipeError, counted, warn_of_sound
from earsight.features.spectrogram import Spectrogram
from earsight.inference.predictions import Prediction
from earsight.inference.sounds import OpenSound, Sound, check_values, opened
from earsight.models.card import ModelCard
from earsight.models.fast.compiled import why_not_reduced, with_compiled
from earsight.models.fast.folding import folded
from earsight.models.modelfile import load
from earsight.models.weights import one_line

NOT_FINITE = "the model gives NaN or infinity for it; use another model file, or train the model again"
"""Why a sound has no prediction that could be read."""
CHUNK = 4
"""Windows of a long sound that go through the network at once: more are hardly faster, and take more memory."""


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
        self._losses: dict[str, tuple[int, Loss]] = {}
        self._warned: set[str] = set()
        self._folding = threading.Lock()
        self._folded: nn.Module | None = None
        self._compiles, self._reduced = False, False
        self._mean = torch.tensor(card.mean, dtype=torch.float32, device=self.device)[:, None, None]
        self._std = torch.tensor(card.std, dtype=torch.float32, device=self.device)[:, None, None]

    @classmethod
    @checked(device=instance("a torch.device", torch.device))
    def load(cls, path: str | Path, *, device: torch.device | None = None) -> Self:
        """Load a model file; ModelError if it is not a whole one of this version of earsight."""
        found = load(Path(path))
        try:
            return cls(*found, device=device)
        except RecipeError as error:
            raise ModelError(f"{path}: its card asks for features that cannot be made ({error})") from error

    def use_kernels(self) -> Self:
        """Compute spectrograms with compiled kernels, and the network as by `use_compiled_network`.

        Files take half the time or less, results change only by rounding. Worth it from a hundred sounds on: the
        kernels take half a second to load (the first time on a machine, some seconds to compile) and 130 MB of memory.
        """
        self.front_end.use_kernels()
        return self.use_compiled_network(reduced=self._reduced)

    def use_compiled_network(self, *, reduced: bool = False) -> Self:
        """Compute the network by OpenVINO where that is installed, on a CPU, with the same logits within rounding.

        Half the time; worth it from a hundred windows on, since the network is compiled in about a second. ``reduced``
        computes in bfloat16, where that is faster (else ModelError), and FFTs in float32: probabilities are off by
        about a hundredth.
        """
        if reduced and (why := why_not_reduced() if self.device.type == "cpu" else f"on {self.device.type}"):
            raise ModelError(f"bfloat16 cannot be had: {why}; leave the precision at float32")
        with self._folding:
            if reduced != self._reduced:
                dtype, fast = torch.float32 if reduced else torch.float64, self.front_end.kernels
                front_end = Spectrogram(self.card.recipe.features, fft_dtype=dtype).to(self.device)
                self.front_end = front_end.use_kernels() if fast else front_end
            self._compiles, self._reduced, self._folded = self.device.type == "cpu", reduced, None
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
        order = torch.contiguous_format if self._compiles else torch.channels_last  # as OpenVINO and PyTorch like it
        return ((raw - self._mean) / self._std).expand(-1, 3, -1, -1).contiguous(memory_format=order)

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
        if self.card.several:
            return card_probabilities(self.card, self.logits(waves)).astype(np.float32)
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
        return self.predictions(self.raw(waves), name=name)

    def raw(self, waves: NDArray[np.floating]) -> Raw:
        """What the network gives for a batch of waves (batch, samples), before the calibration."""
        with torch.inference_mode():
            return self.raw_of(self._checked(waves))

    def raw_of(self, spectrograms: Tensor) -> Raw:
        """The same for a batch of `spectrograms`, which other threads may compute in advance."""
        return raw_outputs(self.card, self._network(spectrograms), spectrograms)

    def predictions(self, raw: Raw, *, name: str = "") -> list[Prediction]:
        """A prediction for each window by itself."""
        return self._predictions(calibrated(self.card, raw), name, is_fit=True)

    def first_alone(self, found: Prediction) -> Prediction:
        """The prediction of a full first window, of a sound that may have more: calibrated if these would not count."""
        return replace(found, calibrated=False) if found.calibrated and fits_pools(self.card) else found

    def pooled(self, pool: Pool, *, name: str = "") -> Prediction:
        """The prediction for a sound whose windows a pool has gathered."""
        (found,) = self._predictions(pool.outputs(), name, is_fit=fits_pools(self.card))
        return found if found.error else replace(found, windows=pool.windows, agreement=pool.agreement)

    def _predictions(self, found: Outputs, name: str, *, is_fit: bool) -> list[Prediction]:
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
                    calibrated=is_fit if self.card.calibration else None,
                    several=self.card.several,
                    named=self._named(shares, order),
                )
            )
        return predictions

    def _named(self, shares: NDArray[np.floating], order: NDArray[np.int64]) -> tuple[str, ...]:
        """Of classes that may sound together those that reach their thresholds, in this order."""
        if not self.card.several:
            return ()
        return tuple(self.classes[i] for i in order if shares[i] >= threshold_of(self.card, self.classes[i]))

    def predict(self, sound: Sound, *, rate: float | None = None, first: bool = False) -> Prediction:
        """Classify one sound.

        One that is longer than a window by more than a tenth is classified whole (see `Prediction`), files in constant
        memory.

        Parameters
        ----------
        sound : str or Path, bytes or open file of a sound file; or ndarray or Tensor
            Arrays are (samples,), (samples, channels) or (channels, samples): the channels are the axis of at most 8,
            the samples that of more than 16. Floats have full scale at 1, and integers theirs.
        rate : float, optional
            Of an array, in Hz; must be given for one, and for nothing else.
        first : bool
            Use only the first window, however long the sound is.

        Raises
        ------
        AudioError
            If the file cannot be read.
        DataError
            If an array is empty, not finite, of another shape or type, or came without its rate; or what was given is
            no sound.
        ModelError
            If the result is not finite.

        Warns
        -----
        SoundWarning
            Where much of a sound does not reach the network, once a kind; and where floats look like integers.
        """
        with self.opened(sound, rate=rate) as source:
            windows, pool = source.windows(first=first), Pool(self.card)
            _, wave = next(windows)
            raw = self.raw(audio.fit(wave, self.samples)[None])
            pool.add(raw)
            for group in grouped(windows):
                pool.add(self.raw(np.stack(group)))
            left_out = source.loss.to_dict()
        (found,) = (
            [self.pooled(pool, name=source.name)] if pool.windows > 1 else self.predictions(raw, name=source.name)
        )
        if found.error:
            raise ModelError(f"{source.name or 'the sound'}: {found.error}")
        found = replace(found, left_out=left_out)
        return self.first_alone(found) if first and len(wave) >= self.samples else found

    def note_loss(self, name: str, meter: Meter) -> None:
        """Add a file to `left_out` if the meter that measured it found a loss of note; warn of each kind once.

        A long file may be read several times, not always to its end: what measured most of it counts.
        """
        for kind, (_, text) in loss_texts([(name, meter.loss)], self.card.recipe.features, what="sound").items():
            if kind not in self._warned:
                self._warned.add(kind)
                warn_of_sound(f"{text} ({name or 'an array'}); of other sounds Prediction.left_out says it")
        if not name or meter.frames < self._losses.get(name, (0,))[0]:
            return
        if found := meter.loss:
            self._losses[name] = meter.frames, found
        else:
            self._losses.pop(name, None)

    @property
    def left_out(self) -> list[tuple[str, Loss]]:
        """Files that were decoded and lost something of note before the network, each once, sorted by name."""
        return [(name, loss) for name, (_, loss) in sorted(self._losses.items())]

    def opened(self, sound: Sound, *, rate: float | None = None) -> AbstractContextManager[OpenSound]:
        """A sound with its windows; takes and raises what `predict` does."""
        return opened(sound, rate=rate, features=self.card.recipe.features, note=self.note_loss)

    def waveform(self, sound: Sound, *, rate: float | None = None) -> tuple[NDArray[np.float32], str]:
        """The first window of a sound (its first `samples` or less, mono at `sample_rate_hz`), and its name.

        Takes and raises what `predict` does; what is lost of it is added to `left_out`.
        """
        with self.opened(sound, rate=rate) as source:
            return next(source.windows(first=True))[1], source.name

    def _checked(self, waves: NDArray[np.floating]) -> Tensor:
        """Network input of a batch of waves from the caller, after checks."""
        return self.spectrograms(torch.from_numpy(batch(waves, samples=self.samples)).to(self.device))

    def _network(self, spectrograms: Tensor) -> nn.Module:
        """The network, compiled if that was asked for, else with batch norms folded; `model` itself is unchanged."""
        with self._folding:
            if self._folded is None:
                noise = torch.randn((1, *spectrograms.shape[1:]), generator=torch.Generator().manual_seed(0))
                try:
                    if self._compiles:
                        self._folded = with_compiled(self.model, spectrogram=noise, reduced=self._reduced)
                    else:
                        self._folded = folded(self.model, spectrogram=noise.to(spectrograms))
                except RuntimeError as error:
                    size, name = " x ".join(map(str, noise.shape[2:])), self.card.recipe.backbone.name
                    raise ModelError(f"{name} cannot be run on spectrograms of {size} ({one_line(error)})") from error
            return self._folded

    def _outputs(self, spectrograms: Tensor) -> Outputs:
        return calibrated(self.card, self.raw_of(spectrograms))


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


def grouped(windows: Iterable[tuple[int, Wave]]) -> Iterator[list[Wave]]:
    """The waves of windows, by `CHUNK`."""
    waves = (wave for _, wave in windows)
    while group := list(islice(waves, CHUNK)):
        yield group


def batch(waves: NDArray[np.floating], *, samples: int) -> NDArray[np.float32]:
    """Sounds (batch, samples) as contiguous float32; DataError if empty, not finite, or of another shape or type."""
    waves = np.asarray(waves)
    if waves.ndim != 2 or not len(waves) or waves.shape[1] != samples or not np.issubdtype(waves.dtype, np.floating):
        raise DataError(
            f"waves is an array {waves.dtype} {waves.shape}; expected floats (batch, {samples}) at the model's rate. "
            "predict takes one sound of any length and rate"
        )
    check_values(waves)
    return np.ascontiguousarray(waves, dtype=np.float32)
