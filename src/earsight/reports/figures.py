"""Figures of a run: a spectrogram, a confusion matrix, training curves, a reliability curve.

Comes in: arrays and rows that a run saved. Goes out: one file, PNG or SVG by its suffix, written whole or not at all.
Every figure reads in grey: colours differ in lightness, and lines in style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from earsight.errors import EarsightError
from earsight.evaluation.calibration import expected_calibration_error, reliability
from earsight.reports.canvas import blank, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000)


def mel_ticks(sample_rate_hz: int, *, bands: int) -> tuple[NDArray[np.float64], list[str]]:
    """Where octaves of frequency lie on an axis of HTK mel bands.

    The bands' centres and the two outer edges, 0 Hz and half the rate, are ``bands + 2`` points at equal steps of
    ``2595 log10(1 + f / 700)``, so that band 0 is one step above 0 Hz.

    Parameters
    ----------
    sample_rate_hz : int
        Sampling rate, in Hz.
    bands : int
        Mel bands from 0 Hz to half the rate.

    Returns
    -------
    positions : np.ndarray of float64, shape (ticks,)
        In bands; 3.0 is the centre of band 3. Only ticks that lie between two bands' centres and leave room to read.
    labels : list of str
        The frequencies in kHz.
    """
    frequencies = np.array(_TICKS_HZ, dtype=np.float64)
    positions = _mel(frequencies) / _mel(np.float64(sample_rate_hz / 2)) * (bands + 1) - 1
    # Low octaves crowd at high rates; a label needs about a fifteenth of the axis.
    spaced = np.diff(positions, append=np.inf) >= 0.065 * bands
    kept = spaced & (positions >= 0) & (positions <= bands - 1)
    return positions[kept], [f"{frequency / 1000:g}" for frequency in frequencies[kept]]


def spectrogram_figure(
    picture: np.ndarray,
    *,
    path: Path,
    seconds: float,
    sample_rate_hz: int,
    windows_ms: Sequence[float],
    title: str,
    wave: np.ndarray | None = None,
) -> None:
    """Draw the channels of a picture one above the other, with the wave on top if there is one.

    Parameters
    ----------
    picture : np.ndarray of float, shape (channels, bands, frames)
        Log power, band 0 the lowest.
    path : Path
        A ``.png`` or ``.svg`` file; its folder is made.
    seconds : float
        Length of the clip.
    sample_rate_hz : int
        Rate from which the bands were made, in Hz.
    windows_ms : sequence of float
        Each channel's window, in ms. One window for several channels means copies: one is drawn.
    title : str
        Printed as it is.
    wave : np.ndarray of float, shape (samples,), optional
        The clip's samples over the same `seconds`.

    Raises
    ------
    EarsightError
        If the picture is not of this shape, the windows do not fit its channels, or the suffix is another.
    """
    picture = np.asarray(picture, dtype=np.float64)
    if picture.ndim != 3 or picture.size == 0 or len(windows_ms) not in (1, picture.shape[0]):
        raise EarsightError(
            f"found a picture of shape {picture.shape} and {len(windows_ms)} windows, expected (channels, bands, "
            "frames) and one window per channel"
        )
    panels, bands, extra = len(windows_ms), picture.shape[1], int(wave is not None)
    figure = blank(8.0, 2.1 * panels + 1.0 * extra + 0.9)
    grid = figure.add_gridspec(panels + extra, 1, height_ratios=[0.5] * extra + [1.0] * panels)
    first = figure.add_subplot(grid[0])
    axes = [first, *(figure.add_subplot(grid[row], sharex=first) for row in range(1, panels + extra))]
    if wave is not None:
        _draw_wave(axes[0], np.asarray(wave, dtype=np.float64), seconds)
    # One scale for all channels; the quietest hundredth (digital silence) may not eat the contrast of the rest.
    low, high = np.percentile(picture[:panels], [1, 100])
    positions, labels = mel_ticks(sample_rate_hz, bands=bands)
    for axis, channel, window in zip(axes[extra:], picture, windows_ms, strict=False):
        image = axis.imshow(
            channel,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            vmin=low,
            vmax=max(high, low + 1e-6),
            extent=(0, seconds, -0.5, bands - 0.5),
        )
        axis.set_yticks(positions, labels, fontsize=9)
        axis.set_ylabel(f"{window:g} ms window\nkHz (mel scale)")
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False)
    axes[-1].set_xlabel("time in seconds")
    figure.colorbar(image, ax=axes[extra:], label="log power", fraction=0.035, pad=0.015, extend="min")
    figure.suptitle(title, fontsize=11, parse_math=False)
    write_figure(figure, path)


def confusion_figure(confusion: np.ndarray, classes: Sequence[str], *, path: Path) -> None:
    """Draw a confusion matrix: the shade is the share of the true class, the number counts clips.

    Parameters
    ----------
    confusion : np.ndarray of int, shape (classes, classes)
        Row: the true class. Column: the predicted class.
    classes : sequence of str
        Their names; made for 2 to 60. Above that the numbers are left out.
    path : Path
        A ``.png`` or ``.svg`` file; its folder is made.

    Raises
    ------
    EarsightError
        If the matrix does not fit the names, or the suffix is another.
    """
    counts, number = np.asarray(confusion), len(classes)
    if counts.shape != (number, number) or number == 0:
        raise EarsightError(f"found a matrix of shape {counts.shape} for {number} classes, expected one row per class")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [name if len(name) <= 32 else f"{name[:31]}…" for name in classes]
    font = 9.0 if number <= 20 else 7.0
    cell = float(np.clip(0.5 - 0.0075 * (number - 10), 0.2, 0.7)) if number <= 60 else 12 / number
    side = max(4.0, cell * number + 0.7 + max(len(name) for name in names) * font / 120)
    figure = blank(side + 0.9, side)
    axis = figure.add_subplot()
    image = axis.imshow(shares, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    if number <= 60:
        for row, column in np.argwhere(counts > 0):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=shade, fontsize=font)
    step = max(1, -(-number // 80))
    axis.set_xticks(range(0, number, step), names[::step], rotation=90, fontsize=font)
    axis.set_yticks(range(0, number, step), names[::step], fontsize=font)
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        label.set_parse_math(False)
    axis.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="0.85", linewidth=0.5)
    axis.tick_params(which="minor", length=0)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    right = int(np.trace(counts))
    axis.set_title(f"{right} of {counts.sum()} clips right ({100 * right / max(1, counts.sum()):.1f} %)", fontsize=11)
    figure.colorbar(image, label="share of the true class", fraction=0.04, pad=0.02)
    write_figure(figure, path)


def curves_figure(history: Sequence[Mapping[str, Any]], *, path: Path, scored: str = "held-out") -> None:
    """Draw training loss, accuracy (where there is one) and learning rate by epoch.

    Parameters
    ----------
    history : sequence of mapping
        One row per epoch with ``epoch``, ``loss`` and ``learning_rate``; ``accuracy`` (0 to 1) may be missing in some
        rows or in all, and other keys are ignored.
    path : Path
        A ``.png`` or ``.svg`` file; its folder is made.
    scored : str
        What the accuracy was measured on, for its label; with protocol ``inner`` that is not the held-out fold.

    Raises
    ------
    EarsightError
        If there is no row, a key is missing, or the suffix is another.
    """
    needed = ("epoch", "loss", "learning_rate")
    missing = [key for key in needed if any(row.get(key) is None for row in history)]
    if missing or not history:
        raise EarsightError(
            f"history has {len(history)} epochs and lacks {', '.join(missing) or 'all rows'}, "
            f"expected one row per epoch with {', '.join(needed)}"
        )
    drawn = [("loss", "training loss", 1.0, "-"), ("learning_rate", "learning rate", 1.0, "--")]
    if any(row.get("accuracy") is not None for row in history):
        drawn.insert(1, ("accuracy", f"{scored} accuracy in %", 100.0, "-"))
    figure = blank(7.0, 2.2 * len(drawn))
    axes = figure.subplots(len(drawn), 1, sharex=True, height_ratios=[1.0] * (len(drawn) - 1) + [0.6])
    for axis, (key, label, scale, style) in zip(axes, drawn, strict=True):
        known = [row for row in history if row.get(key) is not None]
        axis.plot(
            [row["epoch"] for row in known],
            [scale * row[key] for row in known],
            style,
            color="black",
            marker="o" if len(known) <= 40 else None,
            markersize=3,
        )
        axis.set_ylabel(label)
        axis.grid(color="0.88")
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    write_figure(figure, path)


def reliability_figure(probabilities: np.ndarray, labels: np.ndarray, *, path: Path) -> None:
    """Draw accuracy by confidence in 15 bins, with the number of clips below.

    Parameters
    ----------
    probabilities : np.ndarray of float, shape (clips, classes)
        Rows that sum to 1.
    labels : np.ndarray of int, shape (clips,)
        True class numbers.
    path : Path
        A ``.png`` or ``.svg`` file; its folder is made.

    Raises
    ------
    EarsightError
        If the arrays do not fit each other, or the suffix is another.
    """
    curve = reliability(probabilities, labels)
    error = expected_calibration_error(probabilities, labels)
    figure = blank(5.2, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    left, width = curve.edges[:-1], np.diff(curve.edges)
    upper.bar(left, np.nan_to_num(curve.accuracy), width, align="edge", color="0.75", edgecolor="0.3", label="accuracy")
    upper.plot(curve.confidence, curve.accuracy, "ko", markersize=4, label="at the bin's mean confidence")
    upper.plot([0, 1], [0, 1], "k--", linewidth=1, label="accuracy = confidence")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.set_title(f"expected calibration error {100 * error:.1f} %", fontsize=11)
    upper.legend(loc="upper left")
    lower.bar(left, curve.clips, width, align="edge", color="0.45", edgecolor="0.2")
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel="clips")
    write_figure(figure, path)


def _mel(hz: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0))


def _draw_wave(axis: Axes, wave: NDArray[np.float64], seconds: float) -> None:
    # Least and greatest of each column: a line through every sample of a long clip is slow and looks no different.
    columns = np.array_split(wave, min(len(wave), 1500))
    times = (np.arange(len(columns)) + 0.5) * seconds / len(columns)
    low, high = [part.min() for part in columns], [part.max() for part in columns]
    axis.fill_between(times, low, high, color="0.2", linewidth=0.6, edgecolor="0.2")
    axis.set_ylabel("wave")
    axis.set_xlim(0, seconds)
