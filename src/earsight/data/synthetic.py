"""The synthetic data set: ten kinds of synthesised sounds, for trying everything without a download.

Comes in: a folder and a seed. Goes out: a data set in ESC-50's layout (16-bit mono WAV, ``meta/esc50.csv``, and
``dataset.json`` with its name and hints), the same bytes for the same seed. Each source is one draw of a kind's
parameters and gives two clips that differ in noise, place and level; sources never straddle folds. Noise at 0 to 18 dB
below the sound keeps the task from being solved without training.
"""

from __future__ import annotations

import csv
import io
import json
import wave
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earsight.errors import DataError, remedy_of

Wave = npt.NDArray[np.float64]
FOLDS = 5
_TAKES = "AB"


def write_synthetic(
    root: Path, *, seed: int = 0, clips_per_class: int = 20, seconds: float = 2.0, sample_rate_hz: int = 22050
) -> Path:
    """Write the synthetic data set into a folder, made where missing, and return it; the seed decides every sample.

    ``clips_per_class`` is an even number of at least 10, so that each of five folds holds a source of two clips.
    Raises `DataError` if a number is out of range or the folder cannot be written.
    """
    if clips_per_class < 2 * FOLDS or clips_per_class % 2:
        raise DataError(f"clips_per_class is {clips_per_class}; expected an even number of at least {2 * FOLDS}")
    if seed < 0:
        raise DataError(f"seed is {seed}; expected 0 or more")
    if not 0.5 <= seconds <= 60 or sample_rate_hz < 8000:
        raise DataError(f"{seconds:g} s at {sample_rate_hz} Hz; expected 0.5 to 60 s at 8000 Hz or more")
    rows = [["filename", "fold", "target", "category", "esc10", "src_file", "take"]]
    try:
        (root / "audio").mkdir(parents=True, exist_ok=True)
        (root / "meta").mkdir(exist_ok=True)
        for target, (name, make) in enumerate(KINDS.items()):
            for source in range(clips_per_class // 2):
                fold = source % FOLDS + 1
                number = 1000 * (target + 1) + source
                for take, letter in enumerate(_TAKES):
                    filename = f"{fold}-{number}-{letter}-{target}.wav"
                    clip = _clip(make, seed=(seed, target, source), take=take, seconds=seconds, rate=sample_rate_hz)
                    _write_wav(root / "audio" / filename, clip, sample_rate_hz)
                    rows.append([filename, str(fold), str(target), name, "FALSE", str(number), letter])
        hints = {"sample_rate_hz": sample_rate_hz, "clip_seconds": seconds, "frames": max(16, round(50 * seconds))}
        marker = json.dumps({"name": "synthetic", **hints}, indent=2) + "\n"
        (root / "dataset.json").write_text(marker, encoding="utf-8", newline="\n")
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        # Last, so that an interrupted data set does not look complete.
        (root / "meta" / "esc50.csv").write_text(table.getvalue(), encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(
            f"{root}: the synthetic set cannot be written ({error.strerror}); {remedy_of(error)} or name another folder"
        ) from error
    return root


def write_synthetic_recordings(
    root: Path | str,
    *,
    recordings: int = 6,
    seconds: float = 30.0,
    kinds: Sequence[str] = ("chirp_up", "click_train", "siren"),
    seed: int = 0,
    sample_rate_hz: int = 22050,
) -> Path:
    """Write synthetic recordings into ``root/recordings``, and the boxes of what sounds in them as ``root/boxes.csv``.

    One sound of 0.8 to 1.2 s every 2.5 s, at 0 to 20 dB over noise, the kinds in turn; the same seed gives the same
    bytes. Returns the folder; raises `DataError` if a kind is unknown or the folder cannot be written.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise DataError(f"no synthetic sound '{unknown[0]}'; known: {', '.join(KINDS)}")
    root, rate, rows = Path(root), sample_rate_hz, [["path", "begin", "end", "label"]]
    try:
        (root / "recordings").mkdir(parents=True, exist_ok=True)
        for number in range(recordings):
            draw = np.random.default_rng([seed, number, 3])
            wave = _coloured(draw.standard_normal(round(seconds * rate)), slope=-0.5)
            wave *= 0.01 / np.sqrt(np.mean(wave**2))
            for place in range(int(seconds / 2.5)):
                kind, lasts = kinds[(place + number) % len(kinds)], round(draw.uniform(0.8, 1.2), 3)
                first = round((2.5 * place + draw.uniform(0.1, 1.2)) * rate)
                sound = KINDS[kind](np.arange(round(lasts * rate)) / rate, draw)
                sound *= np.hanning(len(sound)) ** 0.25 / np.sqrt(np.mean(sound**2) + 1e-12)
                wave[first : first + len(sound)] += sound * 0.01 * 10 ** (draw.uniform(0, 20) / 20)
                rows.append([f"{number}.wav", f"{first / rate:.3f}", f"{first / rate + lasts:.3f}", kind])
            clip = np.round(wave / max(1.0, np.abs(wave).max() / 0.99) * 32767).astype(np.int16)
            _write_wav(root / "recordings" / f"{number}.wav", clip, rate)
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        (root / "boxes.csv").write_text(table.getvalue(), encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(
            f"{root}: cannot be written ({error.strerror}); {remedy_of(error)} or name another folder"
        ) from error
    return root


def synthetic_waves(*, seconds: float, sample_rate_hz: int, seed: int = 0) -> Iterator[npt.NDArray[np.float32]]:
    """One sound of each kind in memory, shape (samples,); a data set of the same seed has different ones."""
    for target, make in enumerate(KINDS.values()):
        drawn = (seed, target, 1 << 31)  # a source that no data set reaches
        clip = _clip(make, seed=drawn, take=0, seconds=seconds, rate=sample_rate_hz)
        yield (clip / 32768).astype(np.float32)


def _clip(
    make: Callable[[Wave, np.random.Generator], Wave],
    *,
    seed: tuple[int, int, int],
    take: int,
    seconds: float,
    rate: int,
) -> npt.NDArray[np.int16]:
    """One clip: the source's sound, placed, levelled and covered with noise by the take's own draws."""
    samples = round(seconds * rate)
    time = np.arange(samples) / rate
    sound = make(time, np.random.default_rng([*seed, 0]))
    draw = np.random.default_rng([*seed, 1 + take])
    sound = np.roll(sound, draw.integers(samples))
    sound /= np.sqrt(np.mean(sound**2)) + 1e-9
    noise = draw.standard_normal(samples)
    if draw.random() < 0.5:
        noise = _coloured(noise, slope=-0.5)
    noise /= np.sqrt(np.mean(noise**2))
    mixed = sound + noise * 10 ** (-draw.uniform(0, 18) / 20)
    level = 10 ** (draw.uniform(-20, -3) / 20)
    clip: npt.NDArray[np.int16] = np.round(mixed / np.abs(mixed).max() * level * 32767).astype(np.int16)
    return clip


def _write_wav(path: Path, samples: npt.NDArray[np.int16], rate: int) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples.astype("<i2").tobytes())


def _pitch(draw: np.random.Generator, low: float = 200, high: float = 2000) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def _swept(time: Wave, frequency: Wave) -> Wave:
    """A sine whose frequency in Hz is given at each sample."""
    step = time[1] - time[0]
    swept: Wave = np.sin(2 * np.pi * np.cumsum(frequency) * step)
    return swept


def _coloured(noise: Wave, *, slope: float) -> Wave:
    """Noise whose amplitude is proportional to frequency to the power of ``slope``; -0.5 is pink."""
    spectrum = np.fft.rfft(noise)
    spectrum *= np.maximum(np.arange(len(spectrum)), 8.0) ** slope
    return np.fft.irfft(spectrum, len(noise))


def _sine_tone(time: Wave, draw: np.random.Generator) -> Wave:
    return np.sin(2 * np.pi * _pitch(draw) * time)


def _chirp(time: Wave, draw: np.random.Generator, *, upward: bool) -> Wave:
    low = _pitch(draw, 200, 800)
    high = low * draw.uniform(3, 6)
    phase = (time / draw.uniform(0.4, 0.9)) % 1
    return _swept(time, low * (high / low) ** (phase if upward else 1 - phase))


def _noise_bursts(time: Wave, draw: np.random.Generator) -> Wave:
    phase = (time * draw.uniform(2, 5)) % 1
    return draw.standard_normal(len(time)) * (phase < draw.uniform(0.2, 0.5))


def _click_train(time: Wave, draw: np.random.Generator) -> Wave:
    since = time % (1 / draw.uniform(6, 15))
    return np.exp(-since * draw.uniform(400, 900)) * np.sin(2 * np.pi * _pitch(draw, 1500, 3500) * since)


def _tremolo(time: Wave, draw: np.random.Generator) -> Wave:
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * draw.uniform(6, 14) * time)
    return swell * np.sin(2 * np.pi * _pitch(draw) * time)


def _siren(time: Wave, draw: np.random.Generator) -> Wave:
    centre = _pitch(draw, 500, 1500)
    return _swept(time, centre * (1 + draw.uniform(0.25, 0.4) * np.sin(2 * np.pi * draw.uniform(1, 3) * time)))


def _plucked_string(time: Wave, draw: np.random.Generator) -> Wave:
    since = time % draw.uniform(0.4, 0.8)
    pitch, decay = _pitch(draw, 110, 440), draw.uniform(3, 6)
    partials = [np.exp(-since * decay * n**0.5) / n * np.sin(2 * np.pi * n * pitch * since) for n in range(1, 9)]
    string: Wave = np.sum(partials, axis=0)
    return string


def _doorbell(time: Wave, draw: np.random.Generator) -> Wave:
    period = draw.uniform(0.8, 1.2)
    phase = time % period
    second = phase >= period / 2
    pitch = _pitch(draw, 500, 1000) * np.where(second, 1.0, draw.uniform(1.2, 1.35))
    since = np.where(second, phase - period / 2, phase)
    angle = 2 * np.pi * pitch * since
    bell: Wave = np.exp(-4 * since) * (np.sin(angle) + 0.4 * np.sin(3 * angle))
    return bell


def _rain(time: Wave, draw: np.random.Generator) -> Wave:
    drops = np.zeros(len(time))
    count = int(draw.uniform(150, 400) * time[-1])
    drops[draw.integers(len(time), size=count)] = draw.exponential(size=count)
    length = round(0.004 / (time[1] - time[0]))
    tail = draw.standard_normal(length) * np.exp(-np.linspace(0, 6, length))
    return np.convolve(drops, tail, mode="same") + 0.02 * draw.standard_normal(len(time))


KINDS: dict[str, Callable[[Wave, np.random.Generator], Wave]] = {
    "chirp_down": partial(_chirp, upward=False), "chirp_up": partial(_chirp, upward=True),
    "click_train": _click_train, "doorbell": _doorbell, "noise_bursts": _noise_bursts,
    "plucked_string": _plucked_string, "rain": _rain, "sine_tone": _sine_tone, "siren": _siren,
    "tremolo": _tremolo,
}  # fmt: skip
