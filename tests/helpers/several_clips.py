"""Clips of several labels that a tiny network learns: each class is a tone, and tones sound together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

TONES = {"high": 2500.0, "low": 400.0, "middle": 1100.0}
RATE = 8000


def wave(names, *, seed, seconds=0.5):
    generator = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    out = generator.normal(0, 0.01, len(times))
    for name in names:
        out += generator.uniform(0.1, 0.3) * np.sin(2 * np.pi * TONES[name] * times + generator.uniform(0, 6))
    return out.astype(np.float32)


def write_several(root: Path, *, clips=48, seconds=0.5, masked=False, longer=()) -> Path:
    """A csv of so many clips in groups of two, with none to three labels; ``longer`` ones last three times as long."""
    generator = np.random.default_rng(3)
    root.mkdir(parents=True, exist_ok=True)
    rows = ["path,label,group,fold" + (",unknown" if masked else "")]
    for n in range(clips):
        names = [name for name in sorted(TONES) if generator.random() < 0.45]
        soundfile.write(root / f"{n:03}.wav", wave(names, seed=n, seconds=seconds * (3 if n in longer else 1)), RATE)
        others = [name for name in sorted(TONES) if name not in names]
        mask = f",{others[0]}" if masked and n % 4 == 0 and others else ","
        rows.append(f"{n:03}.wav,{';'.join(names)},g{n // 2},{1 + n // 2 % 3}" + (mask if masked else ""))
    (root / "clips.csv").write_text("\n".join(rows) + "\n")
    return root / "clips.csv"
