"""Recognise file types by their first bytes, and count the bytes missing from a truncated sound file.

Comes in: an open file descriptor, or the first bytes of a file. Goes out: words for an error message, or a number of
bytes. Nothing is decoded; `earsight.data.audio` asks when decoding failed or may have ended early.
"""

from __future__ import annotations

import os
import struct

HEAD_BYTES = 4096
_CONVERT = "convert it with `ffmpeg -i IN OUT.wav` to WAV or FLAC"
_OTHER_SOUND = (
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMA (ASF) file"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM file"),
    (b"#!AMR", "an AMR file"),
    (b"MAC ", "a Monkey's Audio file"),
    (b"wvpk", "a WavPack file"),
    (b"TTA1", "a True Audio file"),
    (b"MPCK", "a Musepack file"),
    (b"DSD ", "a DSD file"),
    (b"FLV\x01", "a Flash video"),
    (b"\xff\xf1", "a raw AAC stream"),
    (b"\xff\xf9", "a raw AAC stream"),
)
_NOT_SOUND = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"MThd", "a MIDI file (notes, no sound)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x7fELF", "a program"),
)
_PICTURE_BRANDS = {b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis"}
# Writers that cannot seek back (pipes, recorders) leave sizes near 2 or 4 GiB, or 0, in the header: no promise at all.
_UNKNOWN_SIZE = 0x7FFFF000
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


def name_content(head: bytes) -> str | None:
    """What a file that is no sound holds, by its first `HEAD_BYTES`, and the remedy; None where that is not seen."""
    if not head.strip(b"\0"):
        return "nothing but zero bytes; copy or download it again"
    if head[4:8] == b"ftyp":
        return _no_sound("a HEIF or AVIF image") if head[8:12] in _PICTURE_BRANDS else f"an MP4 (AAC) file: {_CONVERT}"
    for magic, name in _OTHER_SOUND:
        if head.startswith(magic):
            return f"{name}: {_CONVERT}"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return _no_sound("an AVI video" if head[8:12] == b"AVI " else "a WebP image")
    found = next((name for magic, name in _NOT_SOUND if head.startswith(magic)), None) or _name_text(head)
    if found is None and len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        found = "a Python pickle"
    return found if found is None or ": " in found else _no_sound(found)


def _no_sound(name: str) -> str:
    return f"{name}, not sound: remove it or name the right file"


def explain(head: bytes, error: str) -> str:
    """Describe a file that did not decode, by its first bytes or else by the decoder's message."""
    found = name_content(head)
    if found is not None:
        return found
    detail = error.rsplit(": ", 1)[-1].rstrip(".")
    magics = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b"caff", b".snd", b"riff")
    if head.startswith(magics) or (head[0] == 0xFF and len(head) > 1 and head[1] & 0xE0 == 0xE0):
        return f"truncated or damaged sound ({detail}); copy it again or convert it with ffmpeg to WAV or FLAC"
    return f"not a sound file that can be read ({detail}); convert it with ffmpeg to WAV or FLAC, or remove it"


def _name_text(head: bytes) -> str | None:
    text = _decoded(head)
    if text is None:
        return None
    start = text.lstrip().lower()
    if start.startswith("version https://git-lfs"):
        return "a Git LFS pointer: fetch the sound itself with `git lfs pull`"
    if start.startswith(("<!doctype html", "<html", "<head", "<body")) or "<html" in start[:512]:
        return "an HTML page"
    if start.startswith(("<?xml", "<svg")):
        return "an XML file"
    if start[:1] in ("{", "[") and any(mark in start for mark in ('"', "]", "}")):
        return "a JSON file"
    return "a text file"


def _decoded(head: bytes) -> str | None:
    """The text of the bytes, or None where they are no text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head[: len(head) // 2 * 2].decode("utf-16", errors="replace")
        return text if "�" not in text[:-1] and text.isprintable() else None
    for cut in range(4):  # the head may end inside a character of up to four bytes
        try:
            text = head[: len(head) - cut].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        control = sum(character < " " and character not in "\t\n\r\f\x1b" for character in text)
        return text if control == 0 else None
    return None


def missing_bytes(descriptor: int) -> int:
    """Bytes of sound that an open, seekable file lacks according to its header; 0 if it lacks none.

    For WAV, AIFF, AU, CAF, W64 and Ogg libsndfile reports no missing end, so an interrupted download would pass for a
    short clip.
    """
    size = os.fstat(descriptor).st_size
    head = os.pread(descriptor, 64, 0)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _missing_chunk(
            descriptor, size, start=12, layout=">4sI" if head[:4] == b"RIFX" else "<4sI", data=b"data"
        )
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _missing_chunk(descriptor, size, start=12, layout=">4sI", data=b"SSND")
    if head[:4] == b"caff":
        return _missing_chunk(descriptor, size, start=8, layout=">4sq", data=b"data", align=1)
    if head[:4] == b"riff":
        return _missing_chunk(descriptor, size, start=40, layout="<16sQ", data=_W64_DATA, align=8, inclusive=True)
    if head[:4] in (b".snd", b"dns.") and len(head) >= 12:
        offset, length = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
        return 0 if length >= _UNKNOWN_SIZE else max(0, offset + length - size)
    if head[:4] == b"OggS":
        return _missing_ogg(descriptor, size)
    return 0


def _missing_chunk(
    descriptor: int, size: int, *, start: int, layout: str, data: bytes, align: int = 2, inclusive: bool = False
) -> int:
    """Walk the chunks to the one with the sound and compare its length with the file's."""
    header = struct.calcsize(layout)
    position, long_size = start, None
    while position + header <= size:
        name, length = struct.unpack(layout, os.pread(descriptor, header, position))
        if name == b"ds64":  # RF64 keeps the true length of the data chunk here
            whole = size >= position + 24
            long_size = struct.unpack("<Q", os.pread(descriptor, 24, position)[16:24])[0] if whole else None
        body = position + header
        length -= header if inclusive else 0
        if name == data:
            promised = long_size if long_size is not None and length >= _UNKNOWN_SIZE else length
            known = promised > 0 and (promised < _UNKNOWN_SIZE or long_size is not None or layout in ("<16sQ", ">4sq"))
            return max(0, body + promised - size) if known else 0
        if length < 0:
            return 0
        position = body + length + (-length) % align
    return 0


def _missing_ogg(descriptor: int, size: int) -> int:
    """An Ogg file ends with a whole page; count what its last page lacks."""
    tail_start = max(0, size - 2 * 65536)
    tail = os.pread(descriptor, size - tail_start, tail_start)
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) - at < 27:
        return 27
    segments = tail[27 + at : 27 + at + tail[at + 26]]
    if len(segments) < tail[at + 26]:
        return tail[at + 26] - len(segments)
    return max(0, at + 27 + len(segments) + sum(segments) - len(tail))
