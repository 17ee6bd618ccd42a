"""A model file applied to sound: file or array in, labels with probabilities out.

Comes in: the path of a model file, then audio files or waves. Goes out: `Prediction`s. The spectrograms come from the front
end that training used, as the model file describes it.

Arrays that a caller hands in become waves that the model takes.

Comes in: arrays of any float type. Goes out: float32 at full scale 1; or a `DataError` that says what was found.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.calibration.apply import Outputs, calibrated_outputs, check_calibration
from earsight.data import audio
from earsight.data.audio import LOUDEST, resampled
from earsight.errors import DataError
from earsight.features.spectrogram import Spectrogram
from earsight.models.card import ModelCard
from earsight.models.fast.folding import folded
from earsight.models.modelfile import load

if TYPE_CHECKING:
    from earsight.inference.events import Event, EventRules
    from earsight.inference.explanation import Explanation
    from earsight.inference.recordings import Recording


def mono(wave: NDArray[np.floating], *, rate: int | None, sample_rate_hz: int) -> NDArray[np.float32]:
    """One sound (samples,) or (samples, channels) at ``rate`` Hz as (samples,) at ``sample_rate_hz``.

    Raises
    ------
    DataError
        If it is empty, not finite, of another shape or type, or came without its rate.
    """
    if rate is None:
        raise DataError("an array was given without its rate: predict(wave, rate=44100)")
    if wave.ndim not in (1, 2) or not wave.size or not np.issubdtype(wave.dtype, np.floating):
        raise DataError(f"found an array {wave.dtype} {wave.shape}; expected floats (samples,) or (samples, channels)")
    _check_values(wave)
    if rate <= 0:
        raise DataError(f"rate is {rate}; expected the array's sampling rate, as in rate=44100")
    wave = wave.astype(np.float32, copy=False)
    return resampled(wave.mean(axis=1) if wave.ndim == 2 else wave, rate_hz=rate, sample_rate_hz=sample_rate_hz)


def batch(waves: NDArray[np.floating], *, samples: int) -> NDArray[np.float32]:
    """Sounds (batch, samples), each of the model's length, at its rate.

    Raises
    ------
    DataError
        If it is empty, not finite, or of another shape or type.
    """
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


@dataclass(frozen=True)
class Prediction:
    """What a model says of one sound.

    Attributes
    ----------
    path : str
        The file as it was named; empty for an array.
    classes : tuple of str
        Most probable first.
    probabilities : tuple of float
        Of ``classes``, adding up to 1 over all of the model's classes.
    error : str
        Why there is no prediction; empty where there is one.
    unknown : bool
        The model was calibrated to tell sounds unlike any of its classes, and this is one.
    novelty : float, optional
        How unlike any class the sound is: the score that the model file's threshold is on; higher for stranger sounds.
        None where the model was not calibrated.
    plausible : tuple of str
        Most probable first: the classes among which the sound's is, with the coverage that the model file states; of a
        sound that is of no class it says nothing. Empty where the model was not calibrated.
    """

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str = ""
    unknown: bool = False
    novelty: float | None = None
    plausible: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The most probable class, also of an unknown sound; empty where there is none."""
        return self.classes[0] if self.classes else ""

    @property
    def answer(self) -> str:
        """``unknown`` for an unknown sound, else the label."""
        return "unknown" if self.unknown else self.label


class Classifier:
    """A loaded model: `predict` takes files and waves, `logits` a batch of waves.

    Parameters
    ----------
    card : ModelCard
        Classes, features and normalisation.
    model : nn.Module
        The network, in eval mode.
    device : torch.device, optional
        Where to compute; default the CPU.

    Raises
    ------
    ModelError
        If the card's calibration cannot be carried out with this network.
    """

    def __init__(self, card: ModelCard, model: nn.Module, *, device: torch.device | None = None) -> None:
        check_calibration(card, model)
        self.card = card
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()
        self.front_end = Spectrogram(card.recipe.features).to(self.device)
        self._folding = threading.Lock()
        self._fast: nn.Module | None = None
        self._mean = torch.tensor(card.mean, dtype=torch.float32, device=self.device)[:, None, None]
        self._std = torch.tensor(card.std, dtype=torch.float32, device=self.device)[:, None, None]

    def use_kernels(self) -> Classifier:
        """Make ready for a hundred sounds or more.

        The front end then computes by compiled kernels, where there are some: files are heard almost twice as fast,
        and answers are the same up to rounding. They take half a second to load (the first time on a machine, some
        seconds to compile) and 130 MB of memory.
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

    def spectrograms(self, waves: Tensor) -> Tensor:
        """Network input (batch, 3, bands, frames) of waves (batch, samples); differentiable."""
        return self.network_input(self.front_end.band_energies(waves)[:, 0])

    def network_input(self, bands: Tensor) -> Tensor:
        """Network input (batch, 3, bands, frames) of log powers (batch, windows, bands, frames); differentiable."""
        raw = self.front_end.finish(bands)
        return ((raw - self._mean) / self._std).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def _seen(self, waves: NDArray[np.floating]) -> Tensor:
        """Network input of a batch that is looked at before."""
        return self.spectrograms(torch.from_numpy(batch(waves, samples=self.samples)).to(self.device))

    def logits(self, waves: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits (batch, classes) float32 of waves (batch, samples) at `sample_rate_hz`.

        Raises
        ------
        DataError
            If they are of another shape or type, or not finite; as of the other methods that take a batch.
        """
        with torch.inference_mode():
            return self._scores(self._seen(waves))

    def probabilities(self, waves: NDArray[np.floating]) -> NDArray[np.float32]:
        """The same as probabilities (batch, classes) float32, at the model's calibrated temperature."""
        with torch.inference_mode():
            return self._calibrated(self._seen(waves))

    def _scores(self, spectrograms: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self._network(spectrograms)(spectrograms).float().cpu().numpy())

    def _network(self, spectrograms: Tensor) -> nn.Module:
        """The network for predictions alone; `model` is left as it is for whoever wants its stages or gradients."""
        with self._folding:
            if self._fast is None:
                noise = torch.randn((1, *spectrograms.shape[1:]), generator=torch.Generator().manual_seed(0))
                self._fast = folded(self.model, spectrogram=noise.to(spectrograms))
            return self._fast

    def answers(self, waves: NDArray[np.floating]) -> Outputs:
        """What `predict` says, as arrays, of waves (batch, samples) float32 at `sample_rate_hz`."""
        with torch.inference_mode():
            return self._answers(self._seen(waves))

    def _calibrated(self, spectrograms: Tensor) -> NDArray[np.float32]:
        logits = torch.from_numpy(self._scores(spectrograms)) / self.card.temperature
        return np.asarray(torch.softmax(logits, dim=1).numpy())

    def _answers(self, spectrograms: Tensor) -> Outputs:
        return calibrated_outputs(self.card, self._network(spectrograms), spectrograms)

    def predict(self, sound: str | Path | NDArray[np.float32], *, rate: int | None = None) -> Prediction:
        """Classify one sound.

        Parameters
        ----------
        sound : path or ndarray of float, shape (samples,) or (samples, channels)
        rate : int, optional
            Of an array, in Hz; must be given for one.

        Returns
        -------
        Prediction

        Raises
        ------
        AudioError
            If the file cannot be read.
        DataError
            If an array is empty, not finite, of another shape, or came without its rate.
        """
        wave, name = self.heard(sound, rate=rate)
        return self._ranked(name, self.answers(audio.fit(wave, self.samples)[None]), 0)

    def heard(
        self, sound: str | Path | NDArray[np.float32], *, rate: int | None = None
    ) -> tuple[NDArray[np.float32], str]:
        """What the model hears of one sound: its first `samples` or less, mono at `sample_rate_hz`; and its name.

        Takes and raises what `predict` does.
        """
        if isinstance(sound, str | Path):
            seconds = float(self.card.recipe.features.clip_seconds)
            return audio.read(sound, sample_rate_hz=self.sample_rate_hz, seconds=seconds), str(sound)
        wave = mono(np.asarray(sound), rate=rate, sample_rate_hz=self.sample_rate_hz)
        return wave[: self.samples], ""

    def explain(
        self,
        sound: str | Path | NDArray[np.float32],
        *,
        rate: int | None = None,
        label: str | None = None,
        curves: bool = True,
        seed: int = 0,
        most_steps: int = 2048,
        progress: Callable[[int, int], None] | None = None,
    ) -> Explanation:
        """Why the model says what it says of one sound.

        Parameters
        ----------
        sound : path or ndarray of float, shape (samples,) or (samples, channels)
            Longer ones than a clip are cut at its length, as in `predict`.
        rate : int, optional
            Of an array, in Hz; must be given for one.
        label : str, optional
            The class to explain; default the most probable one.
        curves : bool
            Whether to measure how far the attributions are to be believed.
        seed : int
            Of the random orders that they are compared with.
        most_steps : int
            Bound of the steps of Integrated Gradients, which are doubled until it is complete within 1 %.
        progress : callable, optional
            Called with (curves done, curves in all).

        Returns
        -------
        Explanation

        Raises
        ------
        AudioError
            If the file cannot be read, the sound is silent, or it is shorter than one window.
        DataError
            If an array is no sound, or the model does not know the label.
        ModelError
            If the attributions are not complete within 1 % after ``most_steps``.
        """
        from earsight.inference.explanation import explain

        return explain(
            self,
            sound,
            rate=rate,
            label=label,
            curves=curves,
            seed=seed,
            most_steps=most_steps,
            progress=progress,
        )

    def recording(self, path: str | Path, *, hop_seconds: float = 1.0) -> Recording:
        """A recording of any length in windows; iterating gives them, in constant memory.

        Parameters
        ----------
        path : str or Path
        hop_seconds : float
            From the start of one window to that of the next.

        Returns
        -------
        Recording

        Raises
        ------
        EarsightError
            If the hop is no length. Iterating raises AudioError, for a damaged file after what could be read of it.
        """
        from earsight.inference.recordings import Recording

        return Recording(self, path, hop_seconds=hop_seconds)

    def events(self, path: str | Path, *, hop_seconds: float = 1.0, rules: EventRules | None = None) -> Iterator[Event]:
        """From when to when classes are heard in a recording of any length, in constant memory.

        Parameters
        ----------
        path : str or Path
        hop_seconds : float
            From the start of one window to that of the next.
        rules : EventRules, optional
            Threshold, release, shortest event and longest gap.

        Yields
        ------
        Event
            In the order in which they end.

        Raises
        ------
        EarsightError, AudioError
            As `recording` and its iteration do.
        """
        from earsight.inference.events import EventRules, events_of

        recording = self.recording(path, hop_seconds=hop_seconds)
        return events_of(
            recording,
            rules or EventRules(),
            hop_seconds=hop_seconds,
            window_seconds=self.samples / self.sample_rate_hz,
        )

    def predict_waves(self, waves: NDArray[np.floating], *, name: str = "") -> list[Prediction]:
        """What `predict` says of each of a batch of waves (batch, samples) float32 at `sample_rate_hz`."""
        with torch.inference_mode():
            return self.predict_spectrograms(self._seen(waves), name=name)

    def predict_spectrograms(self, spectrograms: Tensor, *, name: str = "") -> list[Prediction]:
        """The same of a batch of `spectrograms`, which several threads can make while another one is in here."""
        found = self._answers(spectrograms)
        return [self._ranked(name, found, row) for row in range(len(spectrograms))]

    def predict_files(self, paths: Iterable[str | Path], *, batch_size: int = 16) -> Iterator[Prediction]:
        """Classify many files in constant memory, in their order; an unreadable one becomes a row with its error."""
        from earsight.inference.clips import predict_clips

        yield from predict_clips(self, paths, batch_size=batch_size)

    def _ranked(self, name: str, found: Outputs, row: int) -> Prediction:
        shares = found.probabilities[row]
        order = np.argsort(-shares, kind="stable")
        inside = found.prediction_sets[row] if found.prediction_sets is not None else np.zeros(len(shares), dtype=bool)
        return Prediction(
            name,
            tuple(self.classes[i] for i in order),
            tuple(float(shares[i]) for i in order),
            unknown=bool(found.unknown[row]),
            novelty=None if found.ood_score is None else float(found.ood_score[row]),
            plausible=tuple(self.classes[i] for i in order if inside[i]),
        )


def load_classifier(path: str | Path, *, device: torch.device | None = None) -> Classifier:
    """Load a model file.

    Raises
    ------
    ModelError
        If the file is not a whole model file of this version of earsight.
    """
    card, model = load(Path(path))
    return Classifier(card, model, device=device)
