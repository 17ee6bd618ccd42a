"""Arrays that a caller hands in become waves that the model takes.

Comes in: arrays of any float type. Goes out: float32 at full scale 1; or a `DataError` that says what was found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from earsight.data.audio import LOUDEST, resampled
from earsight.errors import DataError


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
