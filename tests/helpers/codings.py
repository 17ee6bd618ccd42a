"""Sounds in the containers and codings that FFmpeg writes, as bytes."""

from __future__ import annotations

import io

import av
import numpy as np

RATE = 44100
WAVE = (
    0.3 * np.sin(2 * np.pi * (200 + 900 * np.arange(3 * RATE) / RATE) * np.arange(3 * RATE) / RATE)
    + np.random.default_rng(0).normal(0, 0.02, 3 * RATE)
).astype(np.float32)


def by_ffmpeg(container, codec, *, wave=WAVE, rate=RATE, sample_format="fltp", options=None, codec_options=None):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=codec_options or {})
        stream.layout, stream.format = "mono", sample_format
        values = {"flt": np.float32, "fltp": np.float32, "s16": np.int16, "s16p": np.int16, "s32": np.int32}
        kind = values[sample_format]
        scale = 1 if kind is np.float32 else 2 ** (8 * np.dtype(kind).itemsize - 1)
        samples = np.round(wave.astype(np.float64) * scale).astype(kind) if scale > 1 else wave
        frame = av.AudioFrame.from_ndarray(samples[None], format=sample_format, layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(
            format=sample_format, layout="mono", rate=rate, frame_size=stream.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return buffer.getvalue()
