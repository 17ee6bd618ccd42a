"""Clips longer than a window, silent but for a tone near their end: whoever hears only their begin hears nothing."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
TONES = {"high": 1200, "low": 300}


def write_long(folder: Path, *, clips: int = 10, seconds: float = 40, at: float = 35, lasts: float = 1.0) -> Path:
    """So many clips of each of two classes, a folder per class; the tone is in ``lasts`` seconds from ``at`` on."""
    generator = np.random.default_rng(0)
    for label, hz in TONES.items():
        (folder / label).mkdir(parents=True)
        for number in range(clips):
            wave = np.zeros(round(seconds * RATE))
            begin, count = round(at * RATE), round(lasts * RATE)
            tone = np.sin(2 * np.pi * hz * generator.uniform(0.9, 1.1) * np.arange(count) / RATE)
            wave[begin : begin + count] = 0.5 * tone
            soundfile.write(folder / label / f"{number}.wav", wave, RATE, subtype="PCM_16")
    return folder
