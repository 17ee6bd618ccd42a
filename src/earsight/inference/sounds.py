"""Sounds as callers give them: paths, bytes, open files, arrays and tensors, as the windows that a model takes.

Comes in: one of these. Goes out: an `OpenSound`, whose windows are mono float32 (samples,) at one rate. What is no
sound, or could be read in two ways, is refused with a `DataError` that says what to give instead.
"""

from __future__ import annotations

import numbers
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from earsight.data import audio
from earsight.data.audio import LOUDEST, Wave, resampled
from earsight.data.intake import NO_LOSS, Loss, Meter, energy_of, picked
from earsight.errors import AudioError, DataError, shown, warn_of_sound
from earsight.recipe import Features

Sound: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | NDArray[Any] | torch.Tensor | Sequence[float]
)
CHANNELS, SAMPLES = 8, 16
"""Of an array of two axes the channels are the one of at most so many, the samples the one of more than so many."""
BEYOND = 100.0
"""Times full scale that no recording reaches by itself."""
NO_RATE_HZ, LOW_RATE_HZ, MOST_RATE_HZ = 200, 1000, 100_000_000
"""Below the first no sound is recorded, below the second hardly any: it may be meant in kHz; beyond the last none."""
_HOW = "predict takes a path, the bytes of a sound file, a file opened with 'rb', or an array with its rate"


@dataclass(frozen=True)
class OpenSound:
    """A file, or a whole wave at the model's rate; its ``name`` is empty for an array.

    ``meters`` measure what the network does not get of it, each time that it is gone through.
    """

    name: str
    source: Path | str | Wave
    features: Features
    note: Callable[[str, Meter], None]
    meters: list[Meter] = field(default_factory=list)

    @property
    def loss(self) -> Loss:
        """What was lost of it, as far as it was read."""
        return max(self.meters, key=lambda meter: meter.frames).loss if self.meters else NO_LOSS

    def windows(
        self, *, first: bool = False, excuse: Callable[[str, float], None] | None = None
    ) -> Iterator[tuple[int, Wave]]:
        """The windows that it is cut into, and where each begins; see `earsight.data.audio.read_windows`.

        With ``first`` the window at 0 alone, and no more is read.
        """
        features = self.features
        rate, seconds = features.rate, float(features.clip_seconds)
        if isinstance(self.source, np.ndarray):
            starts = [0] if first else audio.windows(len(self.source), features.samples)
            yield from ((start, self.source[start : start + features.samples]) for start in starts)
            return
        meter = Meter(features)
        self.meters.append(meter)
        given: dict[str, Any] = {"channel": features.channel, "observe": meter.add, "excuse": excuse}
        try:
            if first:
                yield 0, audio.read(self.source, sample_rate_hz=rate, seconds=seconds, **given)
            else:
                yield from audio.read_windows(self.source, sample_rate_hz=rate, seconds=seconds, **given)
        finally:
            self.note(self.name, meter)


@contextmanager
def opened(
    sound: Sound, *, rate: float | None, features: Features, note: Callable[[str, Meter], None]
) -> Iterator[OpenSound]:
    """A sound for a model of these resolved features; ``rate`` is that of an array.

    ``note`` is called with a file's name ("" for an array) and what measured which part of it the features leave out.

    Bytes and open files lie in a temporary file while the block runs. Raises what `predict` does.
    """
    rate = None if rate is None else _rate(rate)
    if isinstance(sound, memoryview) and sound.format != "B":  # of an array, not of a file's bytes
        sound = np.asarray(sound)
    if rate is not None and (
        isinstance(sound, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(sound, "read")
    ):
        raise DataError(f"rate={rate} was given with a sound file, whose header says its rate: leave rate out")
    if isinstance(sound, str | os.PathLike):
        yield OpenSound(str(sound), str(sound), features, note)
    elif isinstance(sound, bytes | bytearray | memoryview) or hasattr(sound, "read"):
        with _as_file(sound) as (path, name):
            try:
                yield OpenSound(name, path, features, note)
            except AudioError as error:
                raise AudioError(name or "the bytes", error.reason) from error
    else:
        meter = Meter(features)
        wave = mono(_array(sound), rate=rate, features=features, meter=meter)
        note("", meter)
        yield OpenSound("", wave, features, note, [meter])


@contextmanager
def _as_file(sound: Any) -> Iterator[tuple[Path, str]]:
    """The content of a sound file in a temporary one, and its name where it has one."""
    with tempfile.TemporaryDirectory(prefix="earsight-") as folder:
        path, name = Path(folder) / "sound", getattr(sound, "name", "")
        with path.open("wb") as out:
            if hasattr(sound, "read"):
                if isinstance(sound.read(0), str):
                    raise DataError(f"{name or 'the file'} was opened as text; open it with 'rb'")
                if not isinstance(sound.read(0), bytes):  # as soundfile.SoundFile, which gives arrays
                    raise DataError(f"the sound is {shown(sound)}, whose read() gives no bytes; {_HOW}")
                if hasattr(sound, "seekable") and sound.seekable():
                    sound.seek(0)  # what was read or written before stands behind us
                shutil.copyfileobj(sound, out)
            else:
                out.write(sound)
        yield path, name if isinstance(name, str) else ""


def _array(sound: Any) -> NDArray[Any]:
    """An array, a tensor or a list of numbers as an array; DataError for what is none."""
    if isinstance(sound, torch.Tensor):
        sound = sound.detach().cpu()
        return np.asarray((sound.float() if sound.dtype == torch.bfloat16 else sound).numpy())
    if isinstance(sound, list | tuple) and sound and isinstance(sound[0], str | os.PathLike | bytes):
        raise DataError(f"a list of {len(sound)} was given, and predict takes one sound: use predict_files(paths)")
    pair = isinstance(sound, tuple) and len(sound) == 2 and np.ndim(sound[0]) > 0 and np.ndim(sound[1]) == 0
    if pair or (isinstance(sound, dict) and {"array", "sampling_rate"} <= sound.keys()):
        names = "wave, rate" if pair else "sound['array'], sound['sampling_rate']"
        raise DataError(f"found a wave together with its rate; give them apart: predict(wave, rate=rate), of {names}")
    if not isinstance(sound, np.ndarray | list | tuple) and not hasattr(sound, "__array__"):
        raise DataError(f"the sound is {shown(sound)}; {_HOW}")
    if isinstance(sound, np.ma.MaskedArray) and (hidden := int(np.ma.getmaskarray(sound).sum())):
        raise DataError(
            f"found a masked array, {hidden} of whose values are masked, and what sounds there is not known: give "
            "wave.filled(0) for silence, or wave.compressed() to leave them out"
        )
    try:
        return np.asarray(sound)
    except ValueError as error:
        raise DataError(f"the sound is a list that is no array ({error}); {_HOW}") from error


def mono(wave: NDArray[Any], *, rate: float | None, features: Features, meter: Meter | None = None) -> Wave:
    """One sound at ``rate`` Hz as one channel, float32 (samples,) at the features' rate.

    ``wave`` is (samples,), (samples, channels) or (channels, samples) of floats, or of integers, whose full scale
    becomes 1. ``meter`` measures it. A `SoundWarning` says that floats look like integers. DataError if it is empty,
    not finite, of another shape or type, or came without its rate.
    """
    rate_hz = _rate(rate)
    if rate_hz < NO_RATE_HZ:
        raise DataError(f"rate is {rate}, which no recording has; rates are in Hz: did you mean {1000 * rate_hz:g}?")
    if rate_hz < LOW_RATE_HZ:
        warn_of_sound(f"rate is {rate} Hz: of samples at {rate} kHz it is {1000 * rate_hz:g}")
    integers = not np.issubdtype(wave.dtype, np.floating)
    if wave.dtype == np.int32 and wave.size and wave.any() and -(1 << 15) <= wave.min() <= wave.max() < 1 << 15:
        warn_of_sound("the array holds int32 within 16 bits, whose full scale is 2**31: give 16-bit samples as int16")
    wave = _scaled(wave)
    if wave.ndim == 2:
        wave = _channels_last(wave)
    check_values(wave)
    if not integers and (most := float(np.abs(wave).max())) > BEYOND:
        warn_of_sound(
            f"the array holds floats up to {most:.4g}, whose full scale is 1: if they were 16-bit samples, divide them "
            "by 32768, or give the integers themselves"
        )
    block = wave.astype(np.float32, copy=False).reshape(len(wave), -1)
    if meter is not None:
        meter.add(block, round(rate_hz))
    channel = int(energy_of(block).argmax()) + 1 if features.channel == "loudest" else features.channel
    return resampled(picked(block, channel, "the array"), rate_hz=rate_hz, sample_rate_hz=features.rate)


def _rate(rate: Any) -> Any:
    if rate is None:
        raise DataError("an array was given without its rate: predict(wave, rate=44100)")
    if isinstance(rate, bool | np.bool_) or not isinstance(rate, numbers.Real):
        raise DataError(f"rate is {rate!r}, a {type(rate).__name__}; expected a number of Hz, as in rate=44100")
    if not 0 < float(rate) <= MOST_RATE_HZ:
        raise DataError(f"rate is {rate}; expected the array's sampling rate, as in rate=44100")
    return rate


def _scaled(wave: NDArray[Any]) -> NDArray[np.floating]:
    """The array as floats with full scale at 1; DataError for what has no scale, or is empty."""
    kind = wave.dtype
    if wave.ndim not in (1, 2) or not wave.size:
        shapes = "(samples,), (samples, channels) or (channels, samples)"
        raise DataError(f"found an array {kind} {wave.shape}; expected one sound {shapes}")
    if np.issubdtype(kind, np.floating):
        return wave
    if kind.kind == "i" and kind.itemsize <= 4:
        return np.asarray(wave / float(1 << (8 * kind.itemsize - 1)))
    if kind == np.uint8:  # as WAV files of 8 bits have it
        return np.asarray((wave - 128.0) / 128)
    way = "expected floats with full scale at 1, or int16 or int32 samples"
    if kind.kind in "iu":
        floats = "wave.astype(np.float32)" if kind.kind == "i" else "(wave.astype(np.float32) - scale)"
        way += f": give {floats} / scale, with scale = 32768 for 16 bits, 2**23 for 24"
    raise DataError(f"found an array {kind} {wave.shape}, whose full scale is not known; {way}")


def _channels_last(wave: NDArray[np.floating]) -> NDArray[np.floating]:
    few, many = sorted(wave.shape)
    if not (few <= CHANNELS and many > SAMPLES):
        raise DataError(
            f"found an array {wave.dtype} {wave.shape}, and cannot tell samples from channels; expected (samples, "
            f"channels) or (channels, samples) with at most {CHANNELS} channels and more than {SAMPLES} samples. "
            "predict takes one sound: for one channel give wave[:, 0] or wave[0]"
        )
    # Laid out alike, so that every orientation has the bits of the others.
    return np.ascontiguousarray(wave if wave.shape[1] == few else wave.T)


def check_values(values: NDArray[np.floating]) -> None:
    """DataError where samples are not finite, or beyond any scale."""
    most = max(float(values.max()), -float(values.min()))  # NaN where there is one
    if not most < LOUDEST:
        if np.isfinite(values).all():
            raise DataError(f"the array holds values up to {most:.3g}; expected samples with full scale at 1")
        raise DataError("the array holds values that are not finite; remove them")
