"""MPEG audio and FLAC by their frames: how many there are, where another stream begins, and where bytes are none.

Comes in: an open file descriptor. Goes out: a `Survey`, as `earsight.data.containers` gives it for other files. Few MP3
files are sure to have a header that counts their frames, and decoders guess the length of the others; that of a FLAC
counts those of a whole of which the file may be a part.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

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
    b"\x1a\x45\xdf\xa3": "WebM", b"TTA1": "TTA", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "WMA",
}  # fmt: skip
_FLAC_TAIL = 1 << 18  # bytes at its end in which the last frame is looked for
_FLAC_HEADS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
_BEGINS = re.compile(
    rb"OggS|fLaC|RIFF|FORM|ftyp|caff|\.snd|wvpk|TTA1|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75\x8e\x66|ID3|riff\x2e"
)
_FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")
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
    """The first byte behind ID3 and APEv2 tags."""
    while position + 10 < size:
        head = read_at(descriptor, 16, position)
        if head[:3] == b"ID3" and max(head[6:10]) <= 0x7F:
            position += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + (10 if head[5] & 0x10 else 0)
        elif head[:8] == b"APETAGEX":
            position += 32 + int.from_bytes(head[12:16], "little")
        elif head[:3] == b"TAG":
            position += 128
        else:
            break
    return position if position < size else 0


def before_tags(descriptor: int, size: int) -> int:
    """Where the tags at a file's end begin: ID3v1, APEv2 and Lyrics3."""
    while size > 160:
        tail = read_at(descriptor, 32, size - 32)
        if read_at(descriptor, 3, size - 128) == b"TAG":
            length = 128
        elif tail.startswith(b"APETAGEX"):
            length = int.from_bytes(tail[12:16], "little") + 32 * (tail[23] >> 7)
        elif tail.endswith(b"LYRICS200") and tail[17:23].isdigit():
            length = int(tail[17:23]) + 15
        else:
            break
        if not 0 < length < size:  # no tag by its own word
            break
        size -= length
    return size


def another(descriptor: int, size: int, *places: int) -> str:
    """That a sound file of another kind begins at one of the places behind a sound; empty where none does."""
    for place in (place for place in places if place + 12 < size):
        held = read_at(descriptor, 8192, after_tags(descriptor, place, size) or size)
        head = held[:12]
        found = [name for magic, name in _FILES.items() if head.startswith(magic)]
        found += ["WAV"] if head[:4] == b"RIFF" and head[8:] == b"WAVE" else []
        found += ["M4A"] if head[4:8] == b"ftyp" else []
        found += ["AIFF"] if head[:4] == b"FORM" and head[8:11] == b"AIF" else []
        found += ["MPEG-TS"] if held[:1] == held[188:189] == held[376:377] == b"\x47" else []
        found += ["AC-3"] if held[:2] == b"\x0b\x77" and held.find(b"\x0b\x77", 64, 4096) > 0 else []
        found += ["AAC"] if _starts_adts(held) else []
        found += ["MP3"] if (frame := _mpeg_head(held[:4])) is not None and _follows(held, 0, frame) else []
        if found:
            return f"behind its sound begins a file of another kind, {found[0]}: part the two"
    return ""


def _starts_adts(held: bytes) -> bool:
    """Whether two frames of AAC by ADTS stand one behind the other."""
    if len(held) < 7 or held[0] != 0xFF or held[1] & 0xF6 != 0xF0:
        return False
    length = (held[3] & 3) << 11 | held[4] << 3 | held[5] >> 5
    return length > 7 and held[length : length + 2] == held[:2]


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
    if runs[0].begin - start > 4096 and any(read_at(descriptor, 4096, start).strip(b"\0")):
        damage = (0.0, "bytes before its first frame that are none")
    if damage is None and (other := another(descriptor, size, end)):
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


def is_mpeg(head: bytes) -> bool:
    """Whether bytes begin as a frame of MPEG audio does."""
    return _mpeg_head(head[:4]) is not None


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


# FLAC


def survey_flac(descriptor: int, start: int, size: int) -> Survey:
    """A FLAC file, or several in a row; a part of a longer one promises the whole's length.

    Frames of several that FFmpeg joined behind one header are for FFmpeg, which goes by each frame's own.
    """
    begins = [start, *heads_in(descriptor, start + 8, size, _FLAC_HEADS)]
    ends = [*begins[1:], size]
    links, others, joined = zip(*map(functools.partial(_flac_link, descriptor), begins, ends), strict=True)
    found: tuple[Link, ...] = () if len(links) == 1 and links[0].frames is None else links
    return Survey(found, damage=(None, others[-1]) if others[-1] else None, miscounted=any(joined))


def heads_in(descriptor: int, position: int, size: int, heads: tuple[bytes, ...]) -> Iterator[int]:
    """Where from a position on one of the heads, which have one length, stands."""
    tail = b""
    while position < size:
        block = tail + read_at(descriptor, _CHUNK, position)
        places = {block.find(head) for head in heads} - {-1}
        begin = position - len(tail) + (min(places) if places else len(block))
        if places:
            yield begin
        position, tail = (begin + len(heads[0]), b"") if places else (begin, block[1 - len(heads[0]) :])


def _flac_link(descriptor: int, begin: int, end: int) -> tuple[Link, str, bool]:
    """A FLAC stream, its frames counted where what it promises is the length of a whole that it is part of, or stale.

    The second is what its last frame shows. libsndfile would stop there, so it gets a header that promises nothing.
    Also that something else begins behind its last frame, and whether the numbers of its frames do not follow on.
    """
    link, info = Link(begin, end), read_at(descriptor, 4096, begin)
    total = int.from_bytes(info[21:26], "big") & 0xFFFFFFFFF
    longest = int.from_bytes(info[15:18], "big")  # frame, in bytes; 0 where the writer did not say
    frames = _flac_ends(descriptor, link)
    ours = frames is not None and frames[2] in (total, total + frames[0])
    if (not ours or b"Lavf" in info or b"ffmpeg" in info) and _is_joined(descriptor, link):
        return link, "", True
    if not total or frames is None:
        lost = total and 0 < longest < _FLAC_TAIL // 2 and end - begin > _FLAC_TAIL
        return link, "behind its sound stand other bytes: part the two" if lost else "", False
    first, _, stop, at = frames
    if stop > total:
        plain = info[:21] + bytes([info[21] & 0xF0]) + bytes(4)
        return Link(begin + 26, end, plain, stop - first), "", False
    tail = read_at(descriptor, end - at, at)
    odd = stop < total or len(tail) > longest or _BEGINS.search(tail)
    ends = _frame_ends(tail) if odd else []
    if stop < total and end - at in ends:  # whole to the last byte
        return replace(link, frames=stop - first), "", False
    other = another(descriptor, end, *(at + one for one in ends)) if stop == total else ""
    return replace(link, frames=total - first) if 0 < first < total else link, other, False


def _is_joined(descriptor: int, link: Link) -> bool:
    """Whether behind a whole frame of a FLAC stream stands one whose number does not follow on."""
    block = int.from_bytes(read_at(descriptor, 2, link.begin + 10), "big")
    position, last, expected = _flac_frames_begin(descriptor, link.begin), -1, -1
    while position + 16 < link.end:
        held = read_at(descriptor, min(_CHUNK + 16, link.end - position), position)
        for match in _FLAC_SYNC.finditer(held, 0, _CHUNK + 1):
            at = position + match.start()
            found = _flac_number(held[match.start() : match.start() + 16], block)
            if found is None or at == last:
                continue
            odd = last >= 0 and found[0] != expected and at - last < _CHUNK
            if odd and at - last in _frame_ends(read_at(descriptor, at - last, last)):
                return True
            last, expected = at, found[1]  # behind damage too, so that it costs no more than one frame's checksum
        position += _CHUNK
    return False


def _frame_ends(data: bytes) -> list[int]:
    """The lengths at which a FLAC frame may end that begins the data: where its CRC-16 holds."""
    value, ends = 0, []
    for length, byte in enumerate(data, start=1):
        value = (value << 8 ^ _CRC16[value >> 8 ^ byte]) & 0xFFFF
        if not value:
            ends.append(length)
    return ends


def _crc16_entry(value: int) -> int:
    for _ in range(8):
        value = value << 1 ^ 0x18005 if value & 0x8000 else value << 1
    return value


_CRC16 = [_crc16_entry(byte << 8) for byte in range(256)]


def _flac_frames_begin(descriptor: int, start: int) -> int:
    """The first byte behind the metadata of the FLAC stream at ``start``."""
    position, last = start + 4, False
    while not last:
        head = read_at(descriptor, 4, position)
        last = len(head) < 4 or bool(head[0] & 0x80)
        position += 4 + int.from_bytes(head[1:], "big")
    return position


def flac_last_frame(descriptor: int, link: Link) -> tuple[int, int] | None:
    """Where the last frame of a FLAC stream begins and would end, in sample frames from its first; None if not found.

    A stream that was cut ends within it; one that is damaged before it goes on to its promised end.
    """
    found = _flac_ends(descriptor, link)
    return found and (found[1] - found[0], found[2] - found[0])


def _flac_ends(descriptor: int, link: Link) -> tuple[int, int, int, int] | None:
    """The numbers of the first sample of a FLAC stream, of the first of its last frame, and of one behind that.

    And where in the file that frame begins.
    """
    start = link.begin - len(link.head)
    block = int.from_bytes(read_at(descriptor, 2, start + 10), "big")
    head = read_at(descriptor, 16, _flac_frames_begin(descriptor, start))
    first = _flac_number(head, block)
    begin = max(link.begin, link.end - _FLAC_TAIL)
    tail = read_at(descriptor, link.end - begin, begin)
    at = len(tail)
    while first is not None and (at := tail.rfind(head[:2], 0, at + 1)) >= 0:
        found = _flac_number(tail[at : at + 16], block)
        # Of the same rate and width as the first: chance bytes seldom are.
        if found is not None and not (tail[at + 2] ^ head[2]) & 15 and not (tail[at + 3] ^ head[3]) & 15:
            return first[0], *found, begin + at
    return None


def _flac_number(head: bytes, block: int) -> tuple[int, int] | None:
    """The numbers of the first sample of a FLAC frame and of one behind it, by its header; None if it is none."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFC != 0xF8:
        return None
    more = 0 if head[4] < 0x80 else 7 - (head[4] ^ 0xFF).bit_length()
    code, at = head[2] >> 4, 5 + more
    behind = at + {6: 1, 7: 2}.get(code, 0)
    size = behind + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if len(head) <= size or _crc8(head[:size]) != head[size]:
        return None
    number = head[4] & (0x3F >> more) if more else head[4]
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    number = number if head[1] & 1 else number * block
    written = int.from_bytes(head[at:behind], "big") + 1
    lengths = (block, 192, 576, 1152, 2304, 4608, written, written)
    return number, number + (256 << code - 8 if code > 7 else lengths[code])


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07) & 0xFF if value & 0x80 else value << 1
    return value
