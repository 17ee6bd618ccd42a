"""MPEG audio frame by frame: how many there are, where one stream ends and another begins, and where bytes are none.

Comes in: an open file descriptor. Goes out: a `Survey`, as `earsight.data.containers` gives it for other files. Few MP3
files are sure to have a header that counts their frames, and decoders guess the length of the others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from earsight.portable import read_at

_CHUNK = 1 << 20
# kbit/s by index: MPEG 1 layers I, II, III; MPEG 2 and 2.5 layer I, then II and III.
_BITRATES = {
    (3, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_FILES = {
    b"fLaC": "FLAC", b"OggS": "Ogg", b"caff": "CAF", b".snd": "AU", b"riff\x2e\x91\xcf\x11": "W64", b"wvpk": "WavPack",
    b"\x1a\x45\xdf\xa3": "WebM",
}  # fmt: skip
_CHAIN = 3  # frames that must follow one another before bytes count as MPEG audio


@dataclass(frozen=True)
class Link:
    """Bytes ``begin`` to ``end`` of a file: one sound, to be decoded by itself.

    ``head`` is read in front of those bytes, where a header has to be mended; ``frames`` is the number of sample frames
    that were counted, None where the decoder's own count holds.
    """

    begin: int
    end: int
    head: bytes = b""
    frames: int | None = None


@dataclass(frozen=True)
class Survey:
    """What a container's structure shows.

    ``links`` is empty where the file is one sound as it stands. ``damage`` is a time in seconds, None where that is not
    known, and what is wrong there; ``missing`` counts bytes behind the end. ``miscounted`` says that libsndfile takes
    other bytes for sound.
    """

    links: tuple[Link, ...] = ()
    missing: int = 0
    damage: tuple[float | None, str] | None = None
    miscounted: bool = False
    exact: bool = False
    """Whether each missing byte tells that the file was cut."""


def after_tags(descriptor: int, position: int, size: int) -> int:
    """The first byte behind ID3v2 tags."""
    while position + 10 < size:
        head = read_at(descriptor, 10, position)
        if head[:3] != b"ID3" or max(head[6:10]) > 0x7F:
            break
        position += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + (10 if head[5] & 0x10 else 0)
    return position if position < size else 0


def another(descriptor: int, size: int, *places: int) -> str:
    """That a sound file of another kind begins at one of the places behind a sound; empty where none does."""
    for place in (place for place in places if place + 12 < size):
        head, held = read_at(descriptor, 12, place), read_at(descriptor, 8192, after_tags(descriptor, place, size))
        found = [name for magic, name in _FILES.items() if head.startswith(magic)]
        found += ["WAV"] if head[:4] == b"RIFF" and head[8:] == b"WAVE" else []
        found += ["AIFF"] if head[:4] == b"FORM" and head[8:11] == b"AIF" else []
        found += ["MP3"] if (frame := _mpeg_head(held)) is not None and _follows(held, 0, frame) else []
        if found:
            return f"behind its sound begins a file of another kind, {found[0]}: part the two"
    return ""


@dataclass
class _Run:
    """Frames that a decoder takes for one stream: the same layer, rate and number of channels."""

    begin: int
    kind: tuple[int, int, int]
    samples: int  # of a frame
    count: int = 0
    tagged: int | None = None  # frames by a Xing or Info header
    tagged_bytes: int = 0  # and its bytes
    at_tagged: int = 0  # where the frame behind those begins


def survey_mpeg(descriptor: int, start: int, size: int) -> Survey:
    """MPEG audio, frame by frame, since only some files have a header that counts them."""
    runs: list[_Run] = []
    ends: list[int] = []
    seconds, damage, end = 0.0, None, start
    for position, head, tag in _frames(descriptor, start, size):
        kind, length, samples = head
        if position > end and runs and damage is None and not _is_tag(descriptor, end):
            damage = (seconds, "bytes that are no frames")
        run = runs[-1] if runs else None
        if run is None or run.kind != kind or tag is not None:
            if run is not None:
                ends.append(position)
            run = _Run(position, kind, samples)
            runs.append(run)
            if tag is not None:  # the frame that holds the header is no sound
                run.count, run.tagged, run.tagged_bytes = -1, tag[0] or None, tag[1]
        if run.tagged is not None and run.count == run.tagged:
            run.at_tagged = position
        run.count += 1
        seconds += samples / kind[1]
        end = position + length
    if not runs:
        return Survey()
    if damage is None and (other := another(descriptor, size, end, end + 128)):  # as long is an ID3v1 tag
        damage = (seconds, other)
    ends.append(size)
    links: list[Link] = []
    missing = 0
    for run, stop in zip(runs, ends, strict=True):
        links += _links_of(run, min(stop, end))
        if run.tagged is not None and run.count < run.tagged:
            promised = run.tagged_bytes or (stop - run.begin) * run.tagged // max(1, run.count + 1)
            missing = max(missing, promised - (stop - run.begin))
    last = _mpeg_head(read_at(descriptor, 4, end)) if end < size else None
    if last is not None and last[0] == runs[-1].kind and runs[-1].tagged is None:  # no count tells that it is cut
        missing = max(missing, end + last[1] - size)
    if len(links) == 1 and links[0].frames is None:
        return Survey(missing=missing, damage=damage, exact=True)
    return Survey(tuple(links), missing, damage, exact=True)


def _links_of(run: _Run, stop: int) -> list[Link]:
    """One link, or two where more frames follow those that the header counts."""
    if run.tagged is None:
        return [Link(run.begin, stop, frames=run.count * run.samples)]
    if run.count > run.tagged + 1:
        rest = (run.count - run.tagged) * run.samples
        return [Link(run.begin, run.at_tagged), Link(run.at_tagged, stop, frames=rest)]
    return [Link(run.begin, stop)]


def _is_tag(descriptor: int, position: int) -> bool:
    head = read_at(descriptor, 4096, position)
    return head.startswith((b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")) or not head.strip(b"\0")


Head = tuple[tuple[int, int, int], int, int]


def _frames(descriptor: int, start: int, size: int) -> Iterator[tuple[int, Head, tuple[int, int] | None]]:
    """Position, header and `_xing` of each whole frame."""
    held, base, position, chained, found_any = b"", start, start, False, False
    while position + 4 <= size:
        at = position - base
        if at < 0 or (at + 8192 > len(held) and base + len(held) < size):
            base, at = position, 0
            held = read_at(descriptor, _CHUNK, base)
        head = _mpeg_head(held[at : at + 4])
        if head is not None and (chained or _follows(held, at, head)):
            if position + head[1] > size:
                return
            yield position, head, _xing(held[at : at + 200], head)
            position, chained, found_any = position + head[1], True, True
            continue
        chained = False
        if held.startswith(b"ID3", at):
            position = max(position + 1, after_tags(descriptor, position, size))
            continue
        found = held.find(b"\xff", at + 1)
        position = base + (found if found >= 0 else len(held))
        # A file that does not begin with frames, or soon after, holds none.
        if position - start > 1 << 16 and not found_any:
            return


def _follows(held: bytes, at: int, head: Head) -> bool:
    """Whether frames of the same kind follow one another from here on."""
    for _ in range(_CHAIN):
        at += head[1]
        if at + 4 > len(held):
            return at == len(held)
        following = _mpeg_head(held[at : at + 4])
        if following is None or following[0] != head[0]:
            return False
        head = following
    return True


def _mpeg_head(head: bytes) -> Head | None:
    """(layer, rate in Hz, channels), length in bytes, samples of a frame; None if this is no header."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rates, index = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer == 4 or rates == 3 or index in (0, 15):
        return None
    rate = _MPEG_RATES[version][rates]
    kbits = _BITRATES[3 if version == 3 else 2, layer if version == 3 else min(layer, 2)][index - 1]
    padding = head[2] >> 1 & 1
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    length = (12000 * kbits // rate + padding) * 4 if layer == 1 else samples // 8 * 1000 * kbits // rate + padding
    return (layer, rate, 1 if head[3] >> 6 == 3 else 2), length, samples


def _xing(frame: bytes, head: Head) -> tuple[int, int] | None:
    """The numbers of frames and bytes by a Xing, Info or VBRI header, 0 for what it does not say; None without one."""
    (layer, _, channels), _, samples = head
    if layer != 3:
        return None
    side = (17 if channels == 1 else 32) if samples == 1152 else (9 if channels == 1 else 17)
    for at in (4 + side, 6 + side):  # behind a checksum, if there is one
        if frame[at : at + 4] in (b"Xing", b"Info") and len(frame) >= at + 16:
            flags, numbers = frame[at + 7], struct.unpack(">II", frame[at + 8 : at + 16])
            frames = numbers[0] if flags & 1 else 0
            return frames, (numbers[flags & 1] if flags & 2 else 0)
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        count, frames = struct.unpack(">II", frame[46:54])
        return frames, count
    return None
