"""What a file holds, by its first bytes: words for error messages, with the remedy.

Comes in: an open file descriptor, or the first bytes of a file. Nothing is decoded; `earsight.data.audio` asks when
decoding failed.
"""

from __future__ import annotations

import os

from earsight.errors import counted
from earsight.portable import read_at

HEAD_BYTES = 4096
_CONVERT = "convert it with `ffmpeg -i IN OUT.wav` to WAV or FLAC"
INSTALL = "pip install 'earsight[formats]'"
"""What brings the extra decoder."""
_OTHER_SOUND = {
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "a WMA (ASF) file", b"\x1a\x45\xdf\xa3": "a Matroska or WebM file",
    b"#!AMR": "an AMR file", b"MAC ": "a Monkey's Audio file", b"wvpk": "a WavPack file",
    b"TTA1": "a True Audio file", b"MPCK": "a Musepack file", b"DSD ": "a DSD file", b"FRM8": "a DSD file",
    b"MP+": "a Musepack file", b"tBaK": "a TAK file", b"\x0b\x77": "an AC-3 file",
    b"\x7f\xfe\x80\x01": "a DTS file", b"FLV\x01": "a Flash video", b"\xff\xf1": "a raw AAC stream",
    b"\xff\xf9": "a raw AAC stream",
}  # fmt: skip
_UNREAD = {
    b"nut/multimedia container": "a NUT file", b".SoX": "a SoX file", b"XoS.": "a SoX file",
    b"\xb7\xd8\x00\x20\x37\x49\xda\x11": "a recording of television (WTV)", b"DTSHDHDR": "a DTS-HD file",
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01": "an MXF file", b"ea3\x03": "a Sony OpenMG file",
    b"ajkg": "a Shorten file", b"qoaf": "a QOA file", b".ra\xfd": "a RealAudio file",
    b"\x02dss": "a dictation (DSS)", b"\x03dss": "a dictation (DSS)",
}  # fmt: skip
"""Kinds that FFmpeg reads, but is not asked to here."""
_NOT_SOUND = {
    b"\x89PNG\r\n\x1a\n": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF87a": "a GIF image",
    b"GIF89a": "a GIF image", b"%PDF": "a PDF document", b"PK\x03\x04": "a ZIP archive",
    b"PK\x05\x06": "an empty ZIP archive", b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive", b"MThd": "a MIDI file (notes, no sound)", b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file", b"\x7fELF": "a program",
}  # fmt: skip
_PICTURE_BRANDS = {b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis"}
# Names of codings by the four letters or the WAV tag that stand for them.
_CODINGS = {
    b"mp4a": "AAC", b"aac ": "AAC", b"alac": "ALAC", b"Opus": "Opus", b"opus": "Opus", b"ima4": "IMA4 ADPCM",
    b"ac-3": "AC-3", b"ec-3": "E-AC-3", b"fLaC": "FLAC", b".mp3": "MP3", b"samr": "AMR", b"sawb": "AMR-WB",
}  # fmt: skip
_WAV_CODINGS = {0x64: "G.726", 0x65: "G.722", 0xFF: "AAC", 0x1600: "AAC", 0x1602: "AAC", 0x160: "WMA", 0x161: "WMA"}
_MATROSKA_CODINGS = ("Opus", "Vorbis", "AAC", "FLAC", "MPEG/L3", "AC3", "DTS", "WAVPACK4", "ALAC", "TTA1", "PCM")
_OGG_CODINGS = {b"\x7fFLAC": "FLAC", b"Speex   ": "Speex", b"\x80theora": "Theora", b"fishead": "several streams"}
_SEARCHED = 1 << 20  # bytes at each end of a file among which an MP4's coding is looked for


def no_sound(head: bytes) -> str | None:
    """As `name_content`, but None for sounds of kinds that libsndfile does not read, too."""
    return None if _is_sound(head) else name_content(head)


def name_content(head: bytes) -> str | None:
    """What a file that is no sound holds, by its first `HEAD_BYTES`, and the remedy; None where that is not seen."""
    if not head.strip(b"\0"):
        return f"begins with {counted(len(head), 'zero byte')}, as what was not copied whole; copy or download it again"
    if head[4:8] == b"ftyp":
        return _no_sound("a HEIF or AVIF image") if head[8:12] in _PICTURE_BRANDS else f"an MP4 file: {_CONVERT}"
    for magic, name in (_OTHER_SOUND | _UNREAD).items():
        if head.startswith(magic):
            return f"{name}: {_CONVERT}"
    if head[4:7] == b"\xf8\x72\x6f" and len(head) > 7 and head[7] in (0xBA, 0xBB):
        return f"a TrueHD or MLP stream: {_CONVERT}"
    if head[:4] == b"FORM" and len(head) > 11 and head[8:12] not in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return f"an IFF file ({head[8:12].decode('latin-1')!r}): convert it with `sox IN OUT.wav` if it is a sound"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return _no_sound("an AVI video" if head[8:12] == b"AVI " else "a WebP image")
    found = next((name for magic, name in _NOT_SOUND.items() if head.startswith(magic)), None) or _name_text(head)
    if found is None and len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        found = "a Python pickle"
    return found if found is None or ": " in found else _no_sound(found)


def _no_sound(name: str) -> str:
    return f"{name}, not sound: remove it or name the right file"


def explain(descriptor: int, head: bytes, error: str, *, wanting: bool) -> str:
    """Describe a file that did not decode, by its bytes or else by the decoder's message.

    ``wanting`` says that the extra decoder, which is not installed, may read it.
    """
    coding = _coding(descriptor, head)
    if wanting and coding is not None:
        return f"{coding}, which libsndfile does not read: `{INSTALL}`, or {_CONVERT}"
    found = name_content(head)
    if found is not None and (coding is None or not _is_sound(head)):
        return found
    detail = error.rsplit(": ", 1)[-1].rstrip(".")
    if coding is not None:
        return f"{coding}: truncated, damaged, or in a coding that is not read ({detail}); copy it again, or {_CONVERT}"
    magics = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b"caff", b".snd", b"riff")
    if head.startswith(magics) or (head[0] == 0xFF and len(head) > 1 and head[1] & 0xE0 == 0xE0):
        more = f" or `{INSTALL}`, which reads more codings" if wanting else " or convert it with ffmpeg to WAV or FLAC"
        return f"truncated or damaged sound ({detail}); copy it again{more}"
    return f"not a sound file that can be read ({detail}); convert it with ffmpeg to WAV or FLAC, or remove it"


def _is_sound(head: bytes) -> bool:
    """Whether the bytes are those of a sound or a film."""
    film = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    brand = head[4:8] == b"ftyp" and head[8:12] not in _PICTURE_BRANDS
    return film or brand or head.startswith(tuple(_OTHER_SOUND))


def _coding(descriptor: int, head: bytes) -> str | None:
    """A container and the coding in it, where they are of a kind that libsndfile lacks; None for others."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") and head[8:12] not in _PICTURE_BRANDS:
        return f"an MP4 file ({_mp4_coding(descriptor)})"
    if head.startswith(b"caff"):
        if len(head) < 32 or head[28:32] in (b"lpcm", b"ulaw", b"alaw"):  # which libsndfile reads
            return None
        return f"a CAF file ({_CODINGS.get(head[28:32], head[28:32].decode('latin-1').strip())})"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        found = next((name for name in _MATROSKA_CODINGS if f"A_{name}".upper().encode() in head.upper()), None)
        return f"a Matroska or WebM file ({found or 'unknown coding'})"
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE" and (at := head.find(b"fmt ")) > 0:
        tag = int.from_bytes(head[at + 8 : at + 10], "little")
        name = _WAV_CODINGS.get(tag, f"format {tag:#06x}")
        return None if tag in (1, 3, 6, 7, 0xFFFE) else f"a WAV file in {name}"
    if head.startswith(b"OggS"):
        at = 27 + head[26] if len(head) > 27 else 0
        coding = next((name for magic, name in _OGG_CODINGS.items() if head.startswith(magic, at)), None)
        return None if coding is None else f"an Ogg file ({coding})"
    if head.startswith(b"fLaC") and len(head) > 21:
        bits = (int.from_bytes(head[20:22], "big") >> 4 & 31) + 1
        return f"a FLAC file of {bits} bits" if bits > 24 else None
    if head.startswith(b"Creative Voice File"):
        return "a VOC file of several blocks"
    if head[:1] == head[188:189] == b"\x47":
        return "an MPEG transport stream"
    if is_stereo_svx(head):
        return "an 8SVX file of two channels"
    return next((name for magic, name in _OTHER_SOUND.items() if head.startswith(magic)), None)


def is_stereo_svx(head: bytes) -> bool:
    """Whether an 8SVX or 16SV file, by its first bytes, says that it has two channels."""
    return head[8:12] in (b"8SVX", b"16SV") and b"CHAN\0\0\0\4\0\0\0\6" in head.partition(b"BODY")[0]


def _mp4_coding(descriptor: int) -> str:
    """The coding that an MP4 file's sample description names."""
    size = os.fstat(descriptor).st_size
    for part in (read_at(descriptor, _SEARCHED, 0), read_at(descriptor, _SEARCHED, max(0, size - _SEARCHED))):
        at = part.find(b"stsd")
        while at >= 0:
            if (found := _CODINGS.get(part[at + 16 : at + 20])) is not None:
                return found
            at = part.find(b"stsd", at + 4)
    return "unknown coding"


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
