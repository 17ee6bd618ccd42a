"""Files that are no sound, or sound of a strange kind, for `benchmarks.hostile`. Nothing is read but one good sound.

Goes out: name -> `File`, each with the status and the error code with which a service is to answer it.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 44100


class File(NamedTuple):
    """Bytes, and what is to come of them: ``unreadable``, ``too_long``, ``empty`` ..., or nothing for an answer."""

    content: bytes
    code: str


def encoded(wave: NDArray[Any], rate: int = RATE, *, form: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=form, subtype=subtype)
    return file.getvalue()


def header(
    data: bytes, *, rate: int = RATE, channels: int = 1, bits: int = 16, promised: int | None = None, coding: int = 1
) -> bytes:
    """A WAV file whose header says what we like."""
    promised = len(data) if promised is None else promised
    block = channels * bits // 8
    middle = struct.pack(
        "<HHIIHH", coding, channels, rate & 0xFFFFFFFF, (rate * block) & 0xFFFFFFFF, block & 0xFFFF, bits
    )
    inner = b"WAVEfmt " + struct.pack("<I", 16) + middle + b"data" + struct.pack("<I", promised & 0xFFFFFFFF)
    return b"RIFF" + struct.pack("<I", (len(inner) + promised) & 0xFFFFFFFF) + inner + data


def damaged(content: bytes, *, first: int, seed: int = 0, share: float = 0.01) -> bytes:
    """The bytes with a share of those from ``first`` on replaced."""
    chance = np.random.default_rng(seed)
    values = np.frombuffer(content, np.uint8).copy()
    places = first + np.flatnonzero(chance.random(len(values) - first) < share)
    values[places] = chance.integers(0, 256, len(places))
    return values.tobytes()


def files() -> dict[str, File]:
    """All of them."""
    chance = np.random.default_rng(0)
    noise = (0.1 * chance.standard_normal(5 * RATE)).astype(np.float32)
    silence = np.zeros(RATE, np.float32)
    found = _no_sound(noise) | _broken(noise)
    for value, name in ((np.nan, "NaN"), (np.inf, "infinite"), (1e30, "1e30")):
        found[f"{name} floats"] = File(encoded(silence + np.float32(value), subtype="FLOAT"), "unreadable")
    found |= {
        "a FLAC that claims 2^36 samples": File(_claims_days(encoded(noise, form="FLAC")), "too_long"),
        "10 hours of silence, a small FLAC": File(hours(10), "too_long"),
        "1 Hz, 1000 s": File(encoded(np.zeros(1000, np.int16), 1), "too_long"),
        "1 sample": File(encoded(noise[:1]), ""),
        "64 channels": File(encoded(np.repeat(noise[:RATE, None], 64, axis=1)), ""),
        "1000 channels": File(encoded(np.repeat(noise[:400, None], 1000, axis=1)), ""),
        "silence": File(encoded(silence), ""),
        "192 kHz": File(encoded(noise, 192_000), ""),
        "2 GHz": File(header(bytes(4000), rate=2_000_000_000), ""),
        "1 Hz, 5 s": File(encoded(noise[:5], 1), ""),
        "full scale square wave": File(encoded(np.sign(noise)), ""),
        "rubbish behind the sound": File(encoded(noise) + bytes(100_000), ""),
    }
    return found


def _no_sound(noise: NDArray[np.float32]) -> dict[str, File]:
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.wav", bytes(200_000_000))
    kinds = {
        "text named .wav": b"this is no sound\n" * 40,
        "a web page": b"<!DOCTYPE html><html><body>not found</body></html>",
        "JSON": b'{"error": "not found"}',
        "a PNG spectrogram": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
        "an MP4": b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp42isom" + bytes(4000),
        "a zip bomb (200 MB)": box.getvalue(),
        "a gzip bomb (200 MB)": gzip.compress(bytes(200_000_000), 9),
        "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\xff\xfe.",
        "zero bytes": bytes(100_000),
        "random bytes": np.random.default_rng(1).bytes(100_000),
        "one byte": b"R",
        "a MIDI file": b"MThd\x00\x00\x00\x06\x00\x01\x00\x02\x00\x60" + bytes(200),
    }
    out = {name: File(content, "unreadable") for name, content in kinds.items()}
    return out | {"an empty body": File(b"", "empty")}


def _broken(noise: NDArray[np.float32]) -> dict[str, File]:
    wav, flac, ogg, mp3 = (encoded(noise, form=form) for form in ("WAV", "FLAC", "OGG", "MP3"))
    tiny_chunks = wav[:36] + b"junk\x00\x00\x00\x00" * 500_000 + wav[36:]
    kinds = {
        "a WAV cut short": wav[: len(wav) // 2],
        "a FLAC cut short": flac[: len(flac) // 2],
        "an OGG cut short": ogg[: len(ogg) // 2],
        "a header alone": encoded(noise[:0]),
        "a WAV that claims 4 GB": header(bytes(8000), promised=0x7FFFEFFF),
        "an RF64 that claims 8 EB": b"RF64\xff\xff\xff\xffWAVEds64"
        + struct.pack("<IQQQI", 28, 1 << 62, 1 << 62, 1 << 61, 0)
        + header(bytes(8000), promised=0xFFFFFFFF)[12:],
        "a FLAC with damaged frames": damaged(flac, first=8000),
        "0 Hz": header(bytes(8000), rate=0),
        "4 GHz": header(bytes(8000), rate=0xFFFFFFFF),
        "no channel": header(bytes(8000), channels=0),
        "65535 channels": header(bytes(400_000), channels=65535),
        "0 bits": header(bytes(8000), bits=0),
        "a coding that there is not": header(bytes(8000), coding=0x7777),
    }
    out = {name: File(content, "unreadable") for name, content in kinds.items()}
    # Decoders pass over some damage without a word; what is asked of these is an answer of either kind.
    loose = {
        "ADPCM without a block size": header(bytes(8000), coding=2, bits=0),  # FFmpeg takes one of its own
        "an OGG with damaged pages": damaged(ogg, first=200),
        "an MP3 with damaged frames": damaged(mp3, first=200),
        "an MP3 cut short": mp3[: len(mp3) // 2],
        "a WAV with 500,000 chunks": tiny_chunks,
        "an MP3 behind a tag of 200 MB": b"ID3\x04\x00\x00\x5f\x2f\x30\x00" + mp3,
        "2000 pieces of OGG in a row": encoded(noise[:64], form="OGG")[:4000] * 2000,
    }
    return out | {name: File(content, "any") for name, content in loose.items()}


def _claims_days(flac: bytes) -> bytes:
    """The file with all of the 36 bits set in which it says how many samples there are."""
    return flac[:21] + bytes([flac[21] | 0x0F]) + b"\xff\xff\xff\xff" + flac[26:]


def hours(count: int) -> bytes:
    """Silence for so many hours in a FLAC file of some kB."""
    return encoded(np.zeros(count * 3600 * 1000, np.int16), 1000, form="FLAC")


def fuzzed(count: int) -> Iterator[bytes]:
    """Good files of many forms with bytes changed anywhere or in the head, or rubbish behind what is cut."""
    chance = np.random.default_rng(2)
    noise = (0.1 * chance.standard_normal(RATE // 2)).astype(np.float32)
    forms = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64", "VOC")
    good = [encoded(noise, form=form) for form in forms] + [encoded(noise, form="WAV", subtype="IMA_ADPCM")]
    for number in range(count):
        content = good[number % len(good)]
        way = number // len(good) % 4
        if way == 0:
            yield damaged(content, first=4, seed=number, share=0.002)
        elif way == 1:  # the header alone
            head = damaged(content[:120], first=4, seed=number, share=0.1)
            yield head + content[120:]
        elif way == 2:
            cut = int(chance.integers(5, len(content)))
            yield content[:cut] + chance.bytes(int(chance.integers(1, 5000)))
        else:
            yield content[: int(chance.integers(4, 64))] + chance.bytes(20_000)
