"""The figure of a spectrogram, and functions for other such figures: cells as an image, ticks in kHz.

Comes in: a spectrogram (channels, bands, frames) of log power, and its axes. Goes out: one file, PNG or SVG by
its suffix, written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from earsight.errors import EarsightError
from earsight.reports.drawings import blank, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000)


def mel_ticks(band_hz: tuple[float, float], *, bands: int) -> tuple[NDArray[np.float64], list[str]]:
    """Octave ticks for an axis of HTK mel bands between two frequencies: positions (ticks,), and labels in kHz.

    The bands' centres and the two outer edges are ``bands + 2`` points at equal steps of ``2595 log10(1 + f / 700)``:
    band 0 is one step above the lower frequency, and position 3.0 is the centre of band 3. Only ticks between the
    bands' centres that leave room to read are given.
    """
    frequencies = np.array(_TICKS_HZ, dtype=np.float64)
    low, high = (_mel(np.float64(hz)) for hz in band_hz)
    positions = (_mel(frequencies) - low) / (high - low) * (bands + 1) - 1
    # Low octaves crowd at high rates; a label needs about a fifteenth of the axis.
    spaced = np.diff(positions, append=np.inf) >= 0.065 * bands
    kept = spaced & (positions >= 0) & (positions <= bands - 1)
    return positions[kept], [f"{frequency / 1000:g}" for frequency in frequencies[kept]]


def hz_ticks(hertz: NDArray[np.float64], *, room: float = 0.1) -> tuple[NDArray[np.float64], list[str]]:
    """Octave ticks for an axis of bands with known centre frequencies, as `mel_ticks` returns them.

    ``hertz`` is float64 of shape (bands,), never falling; ``room`` is the share of the axis that a label needs.
    """
    ticks = np.array(_TICKS_HZ, dtype=np.float64)
    ticks = ticks[(hertz[0] <= ticks) & (ticks <= hertz[-1])]
    places = np.interp(ticks, hertz, np.arange(len(hertz)))
    kept = np.diff(places, append=np.inf) >= room * len(hertz)
    return places[kept], [f"{tick / 1000:g}" for tick in ticks[kept]]


def draw_cells(
    axis: Axes, cells: NDArray[Any], *, cmap: str, low: float, high: float, left: float, right: float
) -> Any:
    """Draw cells (bands, frames), the lowest band below, from ``left`` to ``right`` in seconds; return the image."""
    return axis.imshow(
        cells,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=cmap,
        vmin=low,
        vmax=high,
        extent=(left, right, -0.5, len(cells) - 0.5),
    )


def spectrogram_figure(
    spectrogram: np.ndarray,
    *,
    path: Path,
    seconds: float,
    band_hz: tuple[float, float],
    windows_ms: Sequence[float],
    title: str,
    wave: np.ndarray | None = None,
) -> None:
    """Draw the channels of a spectrogram one above the other, under the waveform if there is one.

    ``spectrogram`` is log power, float (channels, bands, frames), band 0 the lowest; ``band_hz`` has the frequencies
    between which the mel bands lie, ``windows_ms`` each channel's window. One window for several channels means copies:
    one is drawn. ``wave``, float (samples,), lasts the same ``seconds``, the length of the clip. ``path`` is a ``.png``
    or ``.svg`` file; its folder is made.

    EarsightError if the spectrogram is not of this shape, the windows do not fit its channels, or the suffix is
    another.
    """
    spectrogram = np.asarray(spectrogram, dtype=np.float64)
    if spectrogram.ndim != 3 or spectrogram.size == 0 or len(windows_ms) not in (1, spectrogram.shape[0]):
        raise EarsightError(
            f"found a spectrogram of shape {spectrogram.shape} and {len(windows_ms)} windows, expected "
            "(channels, bands, frames) and one window per channel"
        )
    panels, bands, extra = len(windows_ms), spectrogram.shape[1], int(wave is not None)
    figure = blank(8.0, 2.1 * panels + 1.0 * extra + 0.9)
    grid = figure.add_gridspec(panels + extra, 1, height_ratios=[0.5] * extra + [1.0] * panels)
    first = figure.add_subplot(grid[0])
    axes = [first, *(figure.add_subplot(grid[row], sharex=first) for row in range(1, panels + extra))]
    if wave is not None:
        _draw_wave(axes[0], np.asarray(wave, dtype=np.float64), seconds)
    # One scale for all channels, without the quietest hundredth (digital silence), which would cost contrast.
    low, high = np.percentile(spectrogram[:panels], [1, 100])
    positions, labels = mel_ticks(band_hz, bands=bands)
    for axis, channel, window in zip(axes[extra:], spectrogram, windows_ms, strict=False):
        image = draw_cells(axis, channel, cmap="magma", low=low, high=max(high, low + 1e-6), left=0, right=seconds)
        axis.set_yticks(positions, labels, fontsize=9)
        axis.set_ylabel(f"{window:g} ms window\nkHz (mel scale)")
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False)
    axes[-1].set_xlabel("time in seconds")
    figure.colorbar(image, ax=axes[extra:], label="log power", fraction=0.035, pad=0.015, extend="min")
    figure.suptitle(title, fontsize=11, parse_math=False)
    write_figure(figure, path)


def _mel(hz: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0))


def _draw_wave(axis: Axes, wave: NDArray[np.float64], seconds: float) -> None:
    # Minimum and maximum of each column: a line through every sample of a long clip is slow and looks the same.
    columns = np.array_split(wave, min(len(wave), 1500))
    times = (np.arange(len(columns)) + 0.5) * seconds / len(columns)
    low, high = [part.min() for part in columns], [part.max() for part in columns]
    axis.fill_between(times, low, high, color="0.2", linewidth=0.6, edgecolor="0.2")
    axis.set_ylabel("wave")
    axis.set_xlim(0, seconds)
