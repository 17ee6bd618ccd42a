"""A clip on a page: what the network saw of it as a small picture, and what it heard as a small sound.

Comes in: the sound file of a clip and the recipe's features. Goes out: data URIs, PNG and MP3 (FLAC where libsndfile
writes no MP3), the same bytes for the same file. Pictures are black on white, dark where it is loud.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from earsight.data import audio
from earsight.reports.figures import hz_ticks

if TYPE_CHECKING:
    from earsight.features.spectrogram import Spectrogram

PLAYER_RATE_HZ = 24_000
"""Of the players: what lies above 12 kHz is left out to keep the page small."""
PLAYER_SECONDS = 60.0
"""Longer clips are cut at this length in their players."""


@dataclass(frozen=True)
class ClipMedia:
    """Data URIs of one clip; empty where there is none."""

    picture: str
    sound: str

    @property
    def size(self) -> int:
        """Characters on the page."""
        return len(self.picture) + len(self.sound)


def clip_media(path: Path, front_end: Spectrogram) -> ClipMedia:
    """Picture and sound of one clip.

    Raises
    ------
    AudioError
        If the file cannot be read.
    """
    features = front_end.features
    seconds = features.samples / features.rate
    wave = audio.read(path, sample_rate_hz=features.rate, seconds=seconds)
    picture = _png(audio.fit(wave, features.samples), front_end)
    heard = audio.read(path, sample_rate_hz=PLAYER_RATE_HZ, seconds=min(seconds, PLAYER_SECONDS))
    return ClipMedia(picture, _player(heard))


def _png(wave: NDArray[np.float32], front_end: Spectrogram) -> str:
    """The picture's channels side by side, one a window, with axes."""
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from earsight.analysis.clock import band_hz

    features = front_end.features
    with torch.inference_mode():
        channels = front_end.views(torch.from_numpy(wave)[None])[0, 0].numpy().astype(np.float64)
    low, high = np.percentile(channels, [2, 99.8])
    # Places by hand: a page has dozens of these, and laying each out takes longer than drawing it.
    width, height = 1.55 * len(channels) + 0.65, 1.75
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.55 / width, right=1 - 0.1 / width, bottom=0.4 / height, top=1 - 0.22 / height, wspace=0.08
    )
    axes = figure.subplots(1, len(channels), sharey=True, squeeze=False)[0]
    seconds = features.samples / features.rate
    for axis, channel, window in zip(axes, channels, features.windows_ms, strict=True):
        axis.imshow(
            channel,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="Greys",
            vmin=low,
            vmax=max(high, low + 1e-6),
            extent=(0, seconds, -0.5, len(channel) - 0.5),
        )
        axis.set_title(f"{window:g} ms window", fontsize=8)
        axis.set_xlabel("seconds", fontsize=8)
        axis.tick_params(labelsize=8)
    if features.representation == "mfcc":
        axes[0].set_ylabel("coefficient", fontsize=8)
    else:
        axes[0].set_yticks(*hz_ticks(band_hz(front_end)), fontsize=8)
        axes[0].set_ylabel("kHz", fontsize=8)
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return _uri("image/png", _sixteen_greys(out.getvalue()))


def _sixteen_greys(png: bytes) -> bytes:
    """The same picture in sixteen shades of grey, a quarter of the size."""
    from PIL import Image

    small = Image.open(io.BytesIO(png)).convert("L").quantize(16, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _player(wave: NDArray[np.float32]) -> str:
    import soundfile

    loudest = float(np.abs(wave).max())
    wave = wave / loudest if loudest > 1 else wave
    out = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(out, wave, PLAYER_RATE_HZ, format="MP3", bitrate_mode="VARIABLE", compression_level=0.6)
        return _uri("audio/mpeg", out.getvalue())
    soundfile.write(out, wave, PLAYER_RATE_HZ, format="FLAC", subtype="PCM_16")
    return _uri("audio/flac", out.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
