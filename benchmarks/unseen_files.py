"""``python -m benchmarks.unseen_files [OUT]``: files of many encoders, containers, odd lengths and rates, heard or not.

Every file is a seeded sweep with clicks, written by an encoder of Debian's (ffmpeg, sox, lame, flac, oggenc, opusenc,
wavpack), which must be there. Each is read and compared with the wave that went in: its length within the codec's
padding (`Kind.slack`), its samples by their correlation at the offset 0 (or, where a container cannot say how long the
encoder's delay is, within `Kind.delay`). Then `check`, `predict` and `train` run over all of them. Counted are silent
losses (a file that was read, but is shorter or other than what went in, without a word) and false refusals.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from earsight.data.audio import read
from earsight.errors import AudioError

ENCODERS = ("ffmpeg", "sox", "lame", "flac", "oggenc", "opusenc", "wavpack")


@dataclass(frozen=True)
class Kind:
    """A way to write a file: the command, with IN, OUT and RATE in it; its ending, rates and tolerances."""

    name: str
    ending: str
    command: str
    rates: tuple[int, ...] = (8000, 22050, 48000)
    least: float = 0.9
    slack: int = 0
    delay: int = 0


FF = "ffmpeg -nostdin -loglevel error -y -i IN "
KINDS = (
    Kind("ffmpeg pcm_s24le in W64", "w64", FF + "-c:a pcm_s24le OUT", (11025, 96000), 0.999),
    Kind("ffmpeg pcm_f64le in RF64", "wav", FF + "-c:a pcm_f64le -rf64 always OUT", (12000, 44056), 0.999),
    Kind("ffmpeg pcm_u8 to a pipe", "wav", FF + "-c:a pcm_u8 -f wav - | cat > OUT", (7350, 16000), 0.99),
    Kind("ffmpeg pcm_s16be in AIFF to a pipe", "aiff", FF + "-f aiff - | cat > OUT", (11025, 37800), 0.999),
    Kind("ffmpeg pcm_s16be in AU to a pipe", "au", FF + "-f au - | cat > OUT", (8012, 44100), 0.999),
    Kind("ffmpeg pcm in CAF to a pipe", "caf", FF + "-f caf - | cat > OUT", (22050, 48000), 0.999),
    Kind("ffmpeg FLAC to a pipe", "flac", FF + "-f flac - | cat > OUT", (8000, 44100), 0.999),
    Kind("ffmpeg FLAC in Ogg", "oga", FF + "-c:a flac OUT", (22050, 48000), 0.999),
    Kind("ffmpeg FLAC in Matroska", "mka", FF + "-c:a flac OUT", (16000, 44100), 0.999),
    Kind("ffmpeg ALAC in M4A", "m4a", FF + "-c:a alac OUT", (11025, 48000), 0.999),
    Kind("ffmpeg ALAC in CAF", "caf", FF + "-c:a alac OUT", (16000, 44100), 0.999),
    Kind("ffmpeg AAC in M4A", "m4a", FF + "-c:a aac -b:a 128k OUT", (16000, 44100), 0.95, 2048),
    Kind("ffmpeg AAC in MP4, index first", "mp4", FF + "-c:a aac -movflags +faststart OUT", (32000,), 0.95, 2048),
    Kind("ffmpeg AAC in ADTS", "aac", FF + "-c:a aac OUT", (22050, 48000), 0.95, 3072, 2048),
    Kind("ffmpeg AAC in MPEG-TS", "ts", FF + "-c:a aac OUT", (44100,), 0.95, 3072, 2048),
    Kind("ffmpeg Opus in WebM", "webm", FF + "-c:a libopus -b:a 96k OUT", (16000, 48000), 0.95, 960),
    Kind("ffmpeg Opus in Ogg", "ogg", FF + "-c:a libopus -b:a 96k OUT", (24000, 48000), 0.95, 960),
    Kind("ffmpeg Vorbis in WebM", "webm", FF + "-c:a libvorbis OUT", (22050, 44100), 0.95, 2048),
    Kind("ffmpeg MP3 without Xing", "mp3", FF + "-c:a libmp3lame -write_xing 0 -q:a 4 OUT", (16000, 44100), 0.95, 4000,
         1700),
    Kind("ffmpeg MP3 in WAV", "wav", FF + "-c:a libmp3lame OUT", (44100,), 0.95, 4000, 1700),
    Kind("ffmpeg AC-3", "ac3", FF + "-c:a ac3 -b:a 192k OUT", (48000,), 0.9, 2048, 512),
    Kind("ffmpeg WMA 2", "wma", FF + "-c:a wmav2 OUT", (22050, 44100), 0.9, 4096),
    Kind("ffmpeg ADPCM IMA in WAV", "wav", FF + "-c:a adpcm_ima_wav OUT", (11025, 44100), 0.95, 4096),
    Kind("ffmpeg ADPCM MS in WAV", "wav", FF + "-c:a adpcm_ms OUT", (8000, 22050), 0.95, 4096),
    Kind("ffmpeg mu-law in MOV", "mov", FF + "-c:a pcm_mulaw OUT", (8000, 22050), 0.95),
    Kind("ffmpeg TTA", "tta", FF + "-c:a tta OUT", (16000, 44100), 0.999),
    Kind("sox 24 bits in AIFF", "aiff", "sox IN -b 24 OUT", (11025, 88200), 0.999),
    Kind("sox GSM in WAV", "wav", "sox IN -e gsm-full-rate OUT", (8000,), 0.6, 320),
    Kind("sox A-law in AU", "au", "sox IN -e a-law OUT", (8000, 16000), 0.95),
    Kind("sox to a piped WAV", "wav", "sox IN -t wav - | cat > OUT", (9600, 44100), 0.999),
    Kind("sox Vorbis", "ogg", "sox IN -C 3 OUT", (22050, 32000), 0.95),
    Kind("sox MP3, 64 kbit/s", "mp3", "sox IN -C 64 OUT", (24000, 44100), 0.9, 4000, 1700),
    Kind("sox 8 bits in SPH", "sph", "sox IN -e mu-law -b 8 OUT", (8000,), 0.95),
    Kind("sox 32 bits in CAF", "caf", "sox IN -b 32 OUT", (22050, 192000), 0.999),
    Kind("lame VBR", "mp3", "lame --quiet -V 5 IN OUT", (16000, 48000), 0.95, 1),
    Kind("lame without a tag, CBR", "mp3", "lame --quiet -t -b 96 IN OUT", (32000, 44100), 0.95, 4000, 1700),
    Kind("flac -8 of odd blocks", "flac", "flac -s -f -8 -b 1000 -o OUT IN", (12345, 44100), 0.999),
    Kind("flac in Ogg", "oga", "flac -s -f --ogg -o OUT IN", (22050, 96000), 0.999),
    Kind("flac from raw samples", "flac", "sox IN -t raw -e signed -b 16 - | flac -s -f --force-raw-format "
         "--endian=little --sign=signed --channels=1 --bps=16 --sample-rate=RATE -o OUT -", (16000, 44100), 0.999),
    Kind("oggenc q1", "ogg", "oggenc -Q -q 1 -o OUT IN", (11025, 44100), 0.9),
    # At 32 kbit/s little is left of noise of 1 kHz and more; at 64 the same files give 0.99 and more.
    Kind("opusenc 32 kbit/s", "opus", "opusenc --quiet --bitrate 32 IN OUT", (8000, 44100, 48000), 0.8, 1),
    Kind("opusenc 64 kbit/s", "opus", "opusenc --quiet --bitrate 64 IN OUT", (8000, 44100, 48000), 0.95, 1),
    Kind("wavpack", "wv", "wavpack -q -y IN -o OUT", (22050, 48000), 0.999),
)  # fmt: skip


def wave(rate: int, samples: int, low: float, seed: int) -> np.ndarray:
    """A sweep from ``low`` Hz over an octave and a half, with clicks, so that no offset looks like another."""
    t = np.arange(samples) / rate
    length = samples / rate
    sweep = 0.4 * np.sin(2 * np.pi * (low * t + low * t**2 / length))
    generator = np.random.default_rng(seed)
    sweep *= 0.6 + 0.4 * np.repeat(generator.uniform(-1, 1, samples // 50 + 1), 50)[:samples]
    return sweep


def heard(path: Path, before: np.ndarray, rate: int, kind: Kind) -> str:
    """``same``, or what is wrong with what is read of a file."""
    try:
        found = read(path, sample_rate_hz=rate)
    except AudioError as error:
        return f"refused: {error}"
    if abs(len(found) - len(before)) > kind.slack + kind.delay + 1:
        return f"length {len(found)} for {len(before)}"
    best, size = -1.0, min(len(found), len(before)) - kind.delay
    for offset in range(kind.delay + 1):
        a, b = found[offset : offset + size], before[:size]
        size_here = min(len(a), len(b))
        a, b = a[:size_here] - a[:size_here].mean(), b[:size_here] - b[:size_here].mean()
        best = max(best, float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-12)))
    return "same" if best >= kind.least else f"correlation {best:.3f}"


def run(*words: object, cache: Path) -> subprocess.CompletedProcess[str]:
    """A verb of the command line."""
    command = [sys.executable, "-m", "earsight", *map(str, words)]
    return subprocess.run(command, env=os.environ | {"EARSIGHT_CACHE": str(cache)}, capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", help="where the files are kept; by default nowhere")
    asked = parser.parse_args()
    missing = [name for name in ENCODERS if not shutil.which(name)]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as scratch:
        out = asked.out or Path(scratch) / "files"
        lengths = itertools.cycle((1.0003, 2.31, 3.777, 0.5101, 5.0))
        wrong: list[str] = []
        files: list[Path] = []
        for number, (kind, rate) in enumerate((one, rate) for one in KINDS for rate in one.rates):
            label, low = (("low", 150.0), ("high", 900.0))[number % 2]
            samples = round(next(lengths) * rate) | 1
            before = wave(rate, samples, low, number)
            folder = out / label
            folder.mkdir(parents=True, exist_ok=True)
            source = Path(scratch) / "in.wav"
            sf.write(source, before, rate, subtype="PCM_16")
            path = folder / f"{number:03d}.{kind.ending}"
            command = kind.command.replace("IN", str(source)).replace("OUT", str(path)).replace("RATE", str(rate))
            made = subprocess.run(["bash", "-c", "set -o pipefail; " + command], capture_output=True, text=True)
            if made.returncode or not path.stat().st_size:
                raise SystemExit(f"{kind.name} at {rate} Hz cannot be written: {made.stderr[-300:]}")
            files.append(path)
            outcome = heard(path, before, rate, kind)
            if outcome != "same":
                wrong.append(f"{path.name} ({kind.name}, {rate} Hz, {samples} samples): {outcome}")
        print(f"{len(files)} files by {len(KINDS)} ways; read and compared: {len(files) - len(wrong)} the same")
        print(*wrong, sep="\n")
        refused = sum("): refused" in one for one in wrong)
        print(f"silent losses: {len(wrong) - refused}; false refusals: {refused}")
        cache = Path(scratch) / "cache"
        checked = json.loads(run("check", out, "--json", cache=cache).stdout)
        print("check:", json.dumps(Counter(one.get("kind", "?") for one in checked.get("findings", []))))
        settings = ("--set", "backbone.weights=none", "--set", "training.epochs=2", "--set", "features.clip_seconds=1")
        trained = run("train", out, "--out", f"{scratch}/run", *settings, cache=cache)
        print("train: exit", trained.returncode, trained.stderr.strip().splitlines()[-1:] if trained.returncode else "")
        predicted = run("predict", f"{scratch}/run/model.safetensors", *files, "--json", cache=cache)
        rows = [json.loads(line) for line in predicted.stdout.splitlines()]
        failed = [row for row in rows if "error" in row]
        print(f"predict: exit {predicted.returncode}, {len(rows)} of {len(files)} answered, {len(failed)} errors")


if __name__ == "__main__":
    main()
