"""Writes golden_logmel.npz: librosa's log-mels of four synthesised waves. From the repository: python THIS_FILE."""

from pathlib import Path

import librosa
import numpy as np

RATE, SECONDS, BANDS, FFT_MS = 8000, 0.5, 32, 100.0
WINDOWS_MS, HOPS_MS = (25.0, 50.0, 100.0), (10.0, 25.0, 50.0)
FILE = Path(__file__).with_name("golden_logmel.npz")


def waves():
    """A chirp, a tone burst in silence, clicks, and noise: int16 codes (4, samples)."""
    samples = round(RATE * SECONDS)
    time = np.arange(samples) / RATE
    chirp = 0.5 * np.sin(2 * np.pi * (100 * time + 3500 * time**2))
    burst = np.where((time > 0.2) & (time < 0.3), np.sin(2 * np.pi * 1000 * time), 0.0)
    clicks = (np.arange(samples) % 500 == 7) * 0.9
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, samples)
    return np.round(np.stack([chirp, burst, clicks, noise]) * 32767).astype(np.int16)


def librosa_log_mels(wave, *, rate, window_ms, hop_ms, fft_ms, bands):
    """Log-mels (bands, columns) float64 of one float64 wave, all by librosa."""
    power = librosa.feature.melspectrogram(
        y=np.asarray(wave, dtype=np.float64),
        sr=rate,
        n_fft=round(fft_ms * rate / 1000),
        hop_length=round(hop_ms * rate / 1000),
        win_length=round(window_ms * rate / 1000),
        window="hann",
        center=True,
        pad_mode="reflect",
        power=2.0,
        n_mels=bands,
        htk=True,
        norm=None,
        dtype=np.float64,
    )
    return np.log(power + 1e-6)


def golden():
    """What the file holds: the waves, and their log-mels window by window."""
    codes = waves()
    found = {"waves": codes}
    for index, (window_ms, hop_ms) in enumerate(zip(WINDOWS_MS, HOPS_MS, strict=True)):
        logs = [
            librosa_log_mels(wave / 32768, rate=RATE, window_ms=window_ms, hop_ms=hop_ms, fft_ms=FFT_MS, bands=BANDS)
            for wave in codes
        ]
        found[f"log_mels{index}"] = np.stack(logs).astype(np.float32)
    return found


if __name__ == "__main__":
    np.savez_compressed(FILE, **golden())
    print(FILE.name, FILE.stat().st_size, "bytes")
