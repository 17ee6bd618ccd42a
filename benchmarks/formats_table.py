"""``python -m benchmarks.formats_table [docs/formats.md]``: what each decoder reads, by files made here.

A seeded wave of three seconds is written by the encoders of Debian (ffmpeg, sox, lame, flac, oggenc, opusenc, wavpack)
and of PyPI (soundfile, av), plain, to pipes, joined and cut. Each file is given to libsndfile alone, to PyAV alone, to
earsight with and without its extra: how many frames, how late, or why not. Then four behaviours of libsndfile and of
formats that no such row shows. Printed, or put between the page's marks.
"""

from __future__ import annotations

import argparse
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import soundfile as sf
import soxr

from earsight.data import audio, decoders
from earsight.errors import AudioError

RATE, SAMPLES = 44100, 132301
MARKS = {name: (f"<!-- {name}: begin -->", f"<!-- {name}: end -->") for name in ("table", "behaviours")}
TOOLS = ("ffmpeg", "sox", "lame", "flac", "oggenc", "opusenc", "wavpack")
FF = "ffmpeg -nostdin -loglevel error -y -i IN "
# Name, ending, encoder and command.
FILES = (
    ("WAV, 16 bits", "wav", "soundfile PCM_16"),
    ("WAV, 32-bit float", "wav", "soundfile FLOAT"),
    ("WAV to a pipe", "wav", FF + "-f wav - | cat > OUT"),
    ("WAV to a pipe", "wav", "sox IN -t wav - | cat > OUT"),
    ("RF64", "wav", FF + "-rf64 always OUT"),
    ("W64", "w64", FF + "OUT"),
    ("W64 to a pipe", "w64", FF + "-f w64 - | cat > OUT"),
    ("W64 to a pipe", "w64", "sox IN -t w64 - | cat > OUT"),
    ("IMA ADPCM in WAV", "wav", FF + "-c:a adpcm_ima_wav OUT"),
    ("MS ADPCM in WAV", "wav", "sox IN -e ms-adpcm OUT"),
    ("GSM 6.10 in WAV", "wav", "sox IN -e gsm-full-rate OUT"),
    ("AIFF", "aiff", "soundfile PCM_24"),
    ("AIFF to a pipe", "aiff", FF + "-f aiff - | cat > OUT"),
    ("AIFF to a pipe", "aiff", "sox IN -t aiff - | cat > OUT"),
    ("AU to a pipe", "au", FF + "-f au - | cat > OUT"),
    ("CAF", "caf", "soundfile PCM_16"),
    ("CAF to a pipe", "caf", FF + "-f caf - | cat > OUT"),
    ("ALAC in CAF", "caf", FF + "-c:a alac OUT"),
    ("IMA4 in AIFF-C", "aiff", FF + "-c:a adpcm_ima_qt -f aiff OUT"),
    ("FLAC", "flac", "flac -s -f -o OUT IN"),
    ("FLAC to a pipe", "flac", FF + "-f flac - | cat > OUT"),
    ("FLAC of 32 bits", "flac", "av flac s32"),
    ("FLAC in Ogg", "oga", "flac -s -f --ogg -o OUT IN"),
    ("Vorbis in Ogg", "ogg", "oggenc -Q -o OUT IN"),
    ("Vorbis in Ogg", "ogg", "soundfile VORBIS"),
    ("Opus in Ogg", "opus", "opusenc --quiet IN OUT"),
    ("Opus in CAF", "caf", FF + "-c:a libopus -ar 48000 -f caf OUT"),
    ("Speex in Ogg", "spx", FF + "-c:a libspeex -ar 16000 OUT"),
    ("MP3", "mp3", "lame --quiet IN OUT"),
    ("MP3", "mp3", "soundfile MPEG_LAYER_III"),
    ("MP3 without a header, CBR", "mp3", "lame --quiet -t -b 128 IN OUT"),
    ("MP3 without a header, VBR", "mp3", "lame --quiet -t -V 4 IN OUT"),
    ("MP3 in WAV", "wav", FF + "-c:a libmp3lame OUT"),
    ("MP2", "mp2", FF + "-c:a mp2 OUT"),
    ("AAC in M4A", "m4a", FF + "-c:a aac OUT"),
    ("AAC in M4A", "m4a", "av aac fltp"),
    ("AAC in ADTS", "aac", FF + "-c:a aac OUT"),
    ("ALAC in M4A", "m4a", FF + "-c:a alac OUT"),
    ("Opus in WebM", "webm", FF + "-c:a libopus OUT"),
    ("Opus in WebM of 16 kHz", "webm", "sox IN -r 16000 IN.16k.wav && ffmpeg -nostdin -loglevel error -y -i IN.16k.wav "
     "-c:a libopus OUT"),
    ("Vorbis in WebM", "webm", FF + "-c:a libvorbis OUT"),
    ("FLAC in Matroska", "mka", FF + "-c:a flac OUT"),
    ("WMA 2", "wma", FF + "-c:a wmav2 OUT"),
    ("WavPack", "wv", "wavpack -q -y IN -o OUT"),
    ("True Audio", "tta", FF + "-c:a tta OUT"),
    ("AC-3", "ac3", FF + "-c:a ac3 OUT"),
    ("G.722 in WAV", "wav", FF + "-c:a g722 -ar 16000 OUT"),
    ("two WAVs, joined", "wav", "cat IN IN > OUT"),
    ("two FLACs, joined", "flac", "flac -s -f -o IN.flac IN && cat IN.flac IN.flac > OUT"),
    ("two MP3s, joined", "mp3", "lame --quiet IN IN.mp3 && cat IN.mp3 IN.mp3 > OUT"),
    ("two Vorbis, chained", "ogg", "oggenc -Q -o IN.ogg IN && cat IN.ogg IN.ogg > OUT"),
    ("two Vorbis of two qualities, chained", "ogg", "oggenc -Q -q 1 -o IN.a IN && oggenc -Q -q 7 -o IN.b IN && "
     "cat IN.a IN.b > OUT"),
    ("two Vorbis of two rates, chained", "ogg", "oggenc -Q -o IN.a IN && oggenc -Q --resample 22050 -o IN.b IN && "
     "cat IN.a IN.b > OUT"),
    ("MP3s of two rates, joined", "mp3", "lame --quiet IN IN.mp3 && lame --quiet --resample 22.05 IN IN.n && "
     "cat IN.mp3 IN.n > OUT"),
    ("MP3, 4 bytes of a frame's data changed", "mp3", "lame --quiet IN OUT && printf 'ZZZZ' | "
     "dd of=OUT bs=1 seek=20100 conv=notrunc status=none"),
    ("MP3, 2000 bytes gone bad", "mp3", "lame --quiet IN OUT && head -c 2000 /dev/zero | "
     "dd of=OUT bs=1 seek=20000 conv=notrunc status=none"),
    ("Vorbis, a byte changed", "ogg", "oggenc -Q -o OUT IN && printf 'Z' | "
     "dd of=OUT bs=1 seek=9000 conv=notrunc status=none"),
    ("FLAC, a byte changed", "flac", "flac -s -f -o OUT IN && printf 'Z' | "
     "dd of=OUT bs=1 seek=90000 conv=notrunc status=none"),
    ("WAV cut at half", "wav", "head -c 130000 IN > OUT"),
    ("FLAC cut at half", "flac", "flac -s -f -o IN.flac IN && head -c $(($(stat -c %s IN.flac) / 2)) IN.flac > OUT"),
    ("Vorbis cut at half", "ogg", "oggenc -Q -o IN.ogg IN && head -c $(($(stat -c %s IN.ogg) / 2)) IN.ogg > OUT"),
    ("M4A cut at half", "m4a", FF + "-c:a aac IN.m4a && head -c $(($(stat -c %s IN.m4a) / 2)) IN.m4a > OUT"),
    ("WAV of data size 0", "wav", "cp IN OUT && printf '\\0\\0\\0\\0' | "
     "dd of=OUT bs=1 seek=40 conv=notrunc status=none"),
)  # fmt: skip


def wave() -> np.ndarray:
    """A sweep with some noise, so that no offset looks like another."""
    t = np.arange(SAMPLES) / RATE
    noise = np.random.default_rng(0).normal(0, 0.02, SAMPLES)
    return 0.3 * np.sin(2 * np.pi * (200 + 900 * t) * t) + noise


def write(command: str, source: Path, path: Path, sound: np.ndarray) -> None:
    """Write a file by a command line, or by a package of PyPI."""
    maker, _, how = command.partition(" ")
    if maker == "soundfile":
        formats = {"ogg": "OGG", "mp3": "MP3"}
        sf.write(path, sound, RATE, subtype=how, format=formats.get(path.suffix[1:]))
    elif maker == "av":
        coding, sample_format = how.split()
        with av.open(path, "w") as out:
            stream = out.add_stream(coding, rate=RATE, options={"strict": "experimental"})
            stream.layout, stream.format = "mono", sample_format
            samples = np.round(sound * 2**31).astype(np.int32) if sample_format == "s32" else sound.astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples[None], format=sample_format, layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            cutter = av.AudioResampler(sample_format, "mono", RATE, frame_size=1024)
            for part in [*cutter.resample(frame), *cutter.resample(None)]:
                out.mux(stream.encode(part))
            out.mux(stream.encode(None))
    else:
        command = command.replace("IN", str(source)).replace("OUT", str(path))
        subprocess.run(["bash", "-c", "set -o pipefail; " + command], check=True, capture_output=True)


def by_libsndfile(path: Path) -> tuple[np.ndarray, int]:
    """What a user of soundfile gets."""
    found, rate = sf.read(path, dtype="float32", always_2d=True)
    return found[:, 0], rate


def by_pyav(path: Path) -> tuple[np.ndarray, int]:
    """What a user of PyAV gets, who decodes the first stream."""
    with av.open(path) as file:
        stream = file.streams.audio[0]
        mixer = av.AudioResampler(format="fltp", layout="mono")
        parts, rate = [], 0
        for frame in file.decode(stream):
            rate = rate or frame.sample_rate
            parts += [part.to_ndarray()[0] for part in mixer.resample(frame)]
        return np.concatenate(parts), rate


def by_earsight(path: Path) -> tuple[np.ndarray, int]:
    """What is classified."""
    rate = audio.info(path).sample_rate_hz
    return audio.read(path, sample_rate_hz=rate), rate


def outcome(read: Callable[[Path], tuple[np.ndarray, int]], path: Path, sound: np.ndarray) -> str:
    """How many frames of how many there are, and how late they begin; or why none."""
    try:
        found, rate = read(path)
    except AudioError as error:
        return "refused: " + re.sub(r", which libsndfile.*pip install.*", "; names the extra", error.reason)
    except (sf.SoundFileError, av.error.FFmpegError, ValueError, RuntimeError, IndexError, MemoryError) as error:
        words = re.sub(r"'?/tmp\S*'?:? ?|Error opening |'?<\S+ \S+>'?:? ?", "", str(error)).strip().rstrip(".")
        return f"refused ({words[:60]})"
    expected = sound if rate == RATE else soxr.resample(sound, RATE, rate)
    size = 1 << 20
    spectra = np.fft.rfft(found[:SAMPLES], size) * np.conj(np.fft.rfft(expected, size))
    at = int(np.argmax(np.fft.irfft(spectra, size)))
    late = at - size if at > size // 2 else at
    more = len(found) - len(expected)
    frames = "all" if more == 0 else f"{len(found)} of {len(expected)}" if more < 0 else f"{more} more"
    rates = f", {rate} Hz" if rate != RATE else ""
    return frames + rates + (f", {abs(late)} {'late' if late > 0 else 'early'}" if late else "")


def versions() -> str:
    """One line: who wrote and who read."""
    ffmpeg = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    packages = "".join(f", {name} {version(name)}" for name in ("soundfile", "av"))
    dpkg = ["dpkg-query", "-W", "-f", "${Package} ${Version}, ", "sox", "lame", "flac", "vorbis-tools", "opus-tools"]
    debian = subprocess.run([*dpkg, "wavpack"], capture_output=True, text=True, check=False).stdout.rstrip(", ")
    library = f"libsndfile {sf.__libsndfile_version__}; PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
    return f"Writers: ffmpeg {ffmpeg}, {debian}{packages}. Readers: {library}."


def table() -> str:
    """The rows, in Markdown."""
    lines = [versions(), "", "| file | written by | libsndfile alone | PyAV alone | earsight | without the extra |"]
    lines.append("|---|---|---|---|---|---|")
    sound = wave()
    for name, ending, command in FILES:
        with tempfile.TemporaryDirectory() as folder:
            source, path = Path(folder) / "in.wav", Path(folder) / f"out.{ending}"
            sf.write(source, sound, RATE, subtype="PCM_16")
            write(command, source, path, sound)
            cells = [outcome(read, path, sound) for read in (by_libsndfile, by_pyav, by_earsight)]
            with patch.object(decoders, "has_ffmpeg", lambda: False):
                without = outcome(by_earsight, path, sound)
        maker = command.split()[0] if command.split()[0] not in ("cat", "head", "cp") else "soundfile"
        same = "the same" if without == cells[2] else without
        lines.append("| " + " | ".join([name, maker, *cells, same]).replace("\n", " ") + " |")
    return "\n".join(lines)


def sought(folder: Path) -> str:
    """How far a seek in a Vorbis file misses, by the frames that are read there, of 400 places."""
    path = folder / "a.ogg"
    sf.write(path, wave(), RATE, format="OGG", subtype="VORBIS")
    whole = sf.read(path, dtype="float32")[0]
    places, missed = [*range(1000, SAMPLES - 4000, SAMPLES // 300), *range(SAMPLES - 4000, SAMPLES - 60, 40)], []
    for place in places:
        with sf.SoundFile(path) as file:
            file.seek(place)
            found = file.read(50, dtype="float32")
        near = (at for at in range(max(0, place - 4096), place + 4096) if np.array_equal(found, whole[at : at + 50]))
        if (at := next(near, None)) != place:
            missed.append(None if at is None else at - place)
    known = [one for one in missed if one is not None]
    far = f", by {' to '.join(map(str, sorted({min(known), max(known)})))} frames" if known else ""
    return f"{len(missed)} of {len(places)} places missed{far}"


def one_frame(folder: Path) -> str:
    """How long a sound of one frame comes back from block codings."""
    sf.write(folder / "in.wav", np.zeros(1), RATE, subtype="PCM_16")
    lengths = []
    for name, kind in (("IMA", "IMA_ADPCM"), ("MS ADPCM", "MS_ADPCM"), ("GSM", "GSM610")):
        sf.write(folder / f"{kind}.wav", np.zeros(1), RATE, subtype=kind)
        lengths.append(f"{name} by soundfile {len(sf.read(folder / f'{kind}.wav')[0])}")
    write(FF + "-c:a adpcm_ima_wav OUT", folder / "in.wav", folder / "f.wav", np.zeros(1))
    write("sox IN -e ima-adpcm OUT", folder / "in.wav", folder / "s.wav", np.zeros(1))
    lengths += [
        f"IMA by {name} {len(sf.read(folder / file)[0])}" for name, file in (("ffmpeg", "f.wav"), ("sox", "s.wav"))
    ]
    return "one frame comes back as " + ", ".join(lengths)


def right_justified(folder: Path) -> str:
    """How loud a WAV of 24 bits is read whose samples stand in the low bits of 32."""
    samples = np.round(0.5 * 2**23 * np.sin(np.arange(RATE) / 20)).astype("<i4").tobytes()
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 4 * RATE, 4, 32, 22, 24, 0) + guid
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    (folder / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    peaks = [np.abs(read(folder / "a.wav")[0]).max() for read in (by_libsndfile, by_earsight)]
    return "a peak of 0.5 is read as " + " and ".join(f"{peak:.5f}" for peak in peaks)


def time_expanded(folder: Path) -> str:
    """The rate that is read of a bat recording at 384 kHz that was slowed down ten times, as its GUANO chunk says."""
    text = b"GUANO|Version: 1.0\nSamplerate: 384000\nTE: 10\n"
    sf.write(folder / "a.wav", wave(), 38400, subtype="PCM_16")
    content = (folder / "a.wav").read_bytes() + b"guan" + struct.pack("<I", len(text)) + text + bytes(len(text) % 2)
    (folder / "a.wav").write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    return f"384,000 Hz slowed down ten times: {audio.info(folder / 'a.wav').sample_rate_hz} Hz, the rate of the header"


def behaviours() -> str:
    """Rows of what was seen, and what earsight does."""
    rows = (
        ("a seek in Vorbis", sought, "no seek but in PCM and FLAC"),
        ("ADPCM and GSM fill up whole blocks", one_frame, "as they are read"),
        (
            "WAV of 24 bits in the low bits of 32 (right-justified)",
            right_justified,
            "as read; `check` names quiet clips",
        ),
        ("time-expanded recordings", time_expanded, "as read: correct the rate first"),
    )
    lines = ["| behaviour | seen | what earsight does |", "|---|---|---|"]
    for name, see, does in rows:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(f"| {name} | {see(Path(folder))} | {does} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, nargs="?", help="a page with the two marks; by default it is printed")
    asked = parser.parse_args()
    if missing := [name for name in TOOLS if not shutil.which(name)]:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    made = {"table": table(), "behaviours": behaviours()}
    if asked.page is None:
        print(*made.values(), sep="\n\n")
        return
    text = asked.page.read_text()
    for name, (begin, end) in MARKS.items():
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{made[name]}\n{end}{rest.split(end)[1]}"
    asked.page.write_text(text)


if __name__ == "__main__":
    main()
