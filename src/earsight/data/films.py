"""Where in files that can hold films too their sound is cut or damaged: MP4, Matroska, WMA, AVI, FLV, MPEG streams.

Comes in: an open file descriptor. Goes out: a `Survey`, as `earsight.data.containers` gives it for other files. Only
what the structure shows is found here; the packets themselves are looked at when they are decoded.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from earsight.data.frames import Link, Survey, after_tags, another
from earsight.portable import read_at

_CHUNK = 1 << 20


def survey_film(descriptor: int, head: bytes, size: int) -> Survey | None:
    """Look through a file by its first bytes; None where it is of another kind."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _boxes(descriptor, size)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _matroska(descriptor, size)
    if head.startswith(_ASF_HEADER):
        return _asf(descriptor, size)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        length = struct.unpack("<I", head[4:8])[0]
        return Survey(missing=max(0, 8 + length - size) if 0 < length < 1 << 31 else 0)
    if head.startswith(b"FLV\x01"):
        return _flash(descriptor, size)
    for lead in (0, 4):  # camcorders write the time in front of each packet
        if head[lead : lead + 1] == b"\x47" == read_at(descriptor, 1, 188 + 2 * lead):
            return _mpegts(descriptor, size, 188 + lead)
    if head.startswith(b"\0\0\1\xba"):
        return Survey(missing=_missing_pack(descriptor, size), exact=True)
    return None


_INDEXES = (b"moov", b"moof", b"mfra")  # boxes that follow an MP4 file's sound, or parts of it


def _boxes(descriptor: int, size: int) -> Survey:
    """An MP4 file, or several in a row, by its boxes: the last one's end lies beyond the file's where it was cut."""
    position, last, begins, indexes = 0, 0, list[int](), 0
    while position + 8 <= size:
        position = after_tags(descriptor, position, size) or position
        head = read_at(descriptor, 16, position)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:16], "big")
        if head[:8] == bytes(8):  # what fills a sector, before another file
            held = read_at(descriptor, _CHUNK, position)
            at = held.find(b"ftyp") - 4
            if at < 0 or held[:at].strip(b"\0"):
                break
            position += at
            continue
        if length == 0:  # to the end
            break
        if length < 8 or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in name):
            gone = _swallowed(descriptor, size, last)
            what = f"{position - last - gone} bytes of it are gone" if gone else another(descriptor, size, position)
            return Survey(damage=(None, what) if what else None)
        if name == b"ftyp" or not begins:
            begins.append(position)
        indexes += name == b"moov"
        last, position = position, position + length
    gone = _swallowed(descriptor, size, last) if position > size else 0
    if gone:
        return Survey(damage=(None, f"{position - last - gone} bytes of it are gone"))
    return Survey(_links(begins, size) if indexes == len(begins) else (), missing=max(0, position - size))


def _swallowed(descriptor: int, size: int, begin: int) -> int:
    """Bytes from the begin of the last box to an index within it; 0 where there is none.

    Only of a box that bytes are missing in does another begin before its end.
    """
    start = max(begin + 8, size - _CHUNK)
    tail = read_at(descriptor, size - start, start)
    for name in _INDEXES:
        at = tail.find(name)
        length = int.from_bytes(tail[max(0, at - 4) : max(0, at)], "big")
        if at >= 4 and 8 <= length <= len(tail) - at + 4:
            return start + at - 4 - begin
    return 0


_EBML, _SEGMENT, _INFO, _TRACKS, _CLUSTER, _TIME = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675, 0xE7
_BLOCK, _SIMPLE_BLOCK = 0xA1, 0xA3
_MASTERS = frozenset({_SEGMENT, _CLUSTER, 0xA0})  # whose parts are looked at: segment, cluster, group of blocks
_ELEMENTS = _MASTERS | {_EBML, _INFO, _TIME, _BLOCK, _SIMPLE_BLOCK, 0xEC, 0xBF, 0xA7, 0xAB, 0x5854, 0x9B, 0xFB, 0x75A1}
_ELEMENTS |= {0x75A2, 0xFA, 0xFD, 0xA4, 0x114D9B74, _TRACKS, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0x1941A469}


def _matroska(descriptor: int, size: int) -> Survey:
    """A Matroska or WebM file, element by element: bytes that are none show where it is damaged."""
    scale, delay, cluster, begin, seconds, done = 1e6, 0.0, 0, None, 0.0, 0.0
    held, base, position, known, promised, limit = b"", 0, 0, True, size, size
    begins: list[int] = []
    segment = False
    while position < size:
        if position < base or position + 64 > base + len(held):
            held, base = read_at(descriptor, _CHUNK, position), position
        at = position - base
        name, width = _ebml(held[at : at + 4], marked=True)
        length, more = _ebml(held[at + width : at + width + 8])
        body = position + width + more
        if body > size:  # cut within the element's header
            return Survey(_links(begins, size), missing=body - size, exact=True)
        end = body + length if length >= 0 else body
        # Of an unknown element, the next shows whether it is one.
        known, odd = name in _ELEMENTS, not known or not width or not more or length < 0
        if (not known and (odd or end > size)) or (name not in (_EBML, _SEGMENT) and end > limit):
            damage = None if begin is None else (done + seconds, "bytes that are no block")  # before any sound: no film
            return Survey(_links(begins, size), damage=damage)
        value = held[at + width + more : at + width + more + min(8, max(0, length))]
        if name == _EBML:
            begins.append(position)
            done, seconds, begin, cluster, scale = done + seconds, 0.0, None, 0, 1e6
        elif name == _SEGMENT:
            segment = True
            promised = limit = end if length >= 0 else 1 << 62
        elif name == _CLUSTER:
            limit = end if length >= 0 else promised
        elif name == _TIME:
            cluster = int.from_bytes(value, "big")
        elif name == _INFO:
            scale = float(number_of(read_at(descriptor, min(length, _CHUNK), body), b"\x2a\xd7\xb1") or 1e6)
        elif name == _TRACKS:
            delay = number_of(read_at(descriptor, min(length, _CHUNK), body), b"\x56\xaa") / 1e9
        elif name in (_BLOCK, _SIMPLE_BLOCK) and len(value) >= 4:
            track = _ebml(value)[1]
            time = (cluster + int.from_bytes(value[track : track + 2], "big", signed=True)) * scale / 1e9
            begin = time if begin is None else begin
            seconds = max(0.0, time - begin - delay - scale / 1e9)  # timestamps are rounded
        position = body if name in _MASTERS else end
        limit = promised if position >= limit else limit
        if promised <= position < size and int.from_bytes(read_at(descriptor, 4, position), "big") != _EBML:
            other = another(descriptor, size, position)
            return Survey(_links(begins, size), damage=(None, other) if other else None)
    if not segment:
        return Survey()
    promised = promised if promised < 1 << 62 else 0
    return Survey(_links(begins, size), missing=max(position, promised) - size, exact=True)


def _links(begins: list[int], size: int) -> tuple[Link, ...]:
    """Several files in a row, none where it is one."""
    ends = [*begins[1:], size]
    return tuple(Link(begin, end) for begin, end in zip(begins, ends, strict=True)) if len(begins) > 1 else ()


def number_of(element: bytes, name: bytes) -> int:
    """The number in a part of an element, by the part's name; 0 where it has none."""
    at = element.find(name) + len(name)
    size = element[at] & 0x0F if len(name) <= at < len(element) else 0
    return int.from_bytes(element[at + 1 : at + 1 + size], "big")


def _ebml(head: bytes, *, marked: bool = False) -> tuple[int, int]:
    """A number of EBML, with its mark if it is a name, -1 if it is unknown; and how many bytes it takes, 0 for none."""
    if not head or not head[0]:
        return -1, 0
    width = 9 - head[0].bit_length()
    number = int.from_bytes(head[:width], "big")
    most = (1 << 7 * width) - 1
    return (number if marked else -1 if number & most == most else number & most), width


_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _asf(descriptor: int, size: int) -> Survey:
    """A WMA file, or several in a row, by its data object, which is packets of one length that begin alike."""
    position, packet, live, begins, found = 0, 0, False, list[int](), Survey()
    while position + 24 <= size and found.damage is None:
        position = after_tags(descriptor, position, size) or position
        name, length = struct.unpack("<16sQ", read_at(descriptor, 24, position))
        if name == bytes(16) and begins and (held := read_at(descriptor, _CHUNK, position).lstrip(b"\0")):
            position = min(position + _CHUNK, size) - len(held)
            continue
        if name == _ASF_HEADER:
            begins.append(position)
            head = read_at(descriptor, min(length, _CHUNK), position)
            at = head.find(_ASF_PROPERTIES)
            if at > 0 and len(head) >= at + 104:
                flags, least, most = struct.unpack("<III", head[at + 88 : at + 100])
                packet, live = (least if least == most else 0), bool(flags & 1)
        elif name == _ASF_DATA:
            live = live or length <= 50
            end = size if live else position + length
            damage = _asf_damage(descriptor, position + 50, min(end, size), packet)
            found = Survey(missing=max(0, end - size), damage=damage, exact=True)
        if length < 24 or (live and name == _ASF_DATA):
            break
        position += length
        again = read_at(descriptor, 16, position) == _ASF_HEADER
        if found.damage is None and not again and (other := another(descriptor, size, position)):
            found = replace(found, damage=(None, other))
    return replace(found, links=_links(begins, size))


def _asf_damage(descriptor: int, begin: int, end: int, packet: int) -> tuple[float, str] | None:
    """When a packet of ASF was to be sent before one that does not begin as the first does."""
    first, start, seconds = b"", 0.0, 0.0
    for position in range(begin, end - 24, packet) if packet >= 32 else ():
        head = read_at(descriptor, 24, position)
        first = first or head[:3]
        if head[:3] != first or first[0] != 0x82:
            return (seconds, "bytes that are no packet") if first[0] == 0x82 else None
        lengths = sum((0, 1, 2, 4)[head[3] >> shift & 3] for shift in (1, 3, 5))
        sent = int.from_bytes(head[5 + lengths : 9 + lengths], "little") / 1000
        start = sent if position == begin else start
        seconds = max(0.0, sent - start)
    return None


def _missing_pack(descriptor: int, size: int) -> int:
    """Bytes that the last packet of an MPEG program stream lacks; 0 where its packets break off before."""
    held, base, position = b"", 0, 0
    while position + 6 <= size:
        if position < base or position + 16 > base + len(held):
            held, base = read_at(descriptor, _CHUNK, position), position
        head = held[position - base : position - base + 16]
        if head[:3] != b"\0\0\1" or head[3] <= 0xB9:  # no packet, or the end
            return 0
        if head[3] == 0xBA:
            position += 12 if head[4] >> 6 == 0 else 14 + (head[13] & 7 if len(head) > 13 else 0)
        else:
            position += 6 + int.from_bytes(head[4:6], "big")
    return max(0, position - size)


def _flash(descriptor: int, size: int) -> Survey:
    """A Flash video, by its tags: behind each stands its length once more, which shows where bytes are none."""
    held, base, position, before = b"", 0, int.from_bytes(read_at(descriptor, 4, 5), "big"), 0
    times = [0.0, 0.0]  # of the first sound, and of the last that is whole
    time, tags = -1.0, 0
    while position + 4 < size:
        if position < base or position + 16 > base + len(held):
            held, base = read_at(descriptor, _CHUNK, position), position
        head = held[position - base : position - base + 16]
        if int.from_bytes(head[:4], "big") != before or head[4] & 0x1F not in (8, 9, 18):  # sound, video, words
            scrap = not read_at(descriptor, 4096, position + 4).strip(b"\0")
            what = "a second file begins" if b"FLV\1" in head else "bytes that are no tag"
            # Some writers fill in no lengths.
            return Survey(damage=None if scrap or tags < 3 else (times[1] - times[0], what))
        if time >= 0:
            times, tags = [times[0] if tags else time, time], tags + 1
        sound = head[4] & 0x1F == 8 and len(head) >= 12
        time = int.from_bytes(head[11:12] + head[8:11], "big") / 1000 if sound else -1.0
        before = 11 + int.from_bytes(head[5:8], "big")
        position += 4 + before
    last = int.from_bytes(read_at(descriptor, 4, size - 4), "big")
    whole = 11 < last < size and int.from_bytes(read_at(descriptor, 3, size - 3 - last), "big") == last - 11
    if position > size and whole:
        # It ends with a whole tag, so that a wrong length led beyond the end.
        return Survey(damage=(times[1] - times[0], "bytes that are no tag"))
    return Survey(missing=max(0, position - size), exact=True)


def _mpegts(descriptor: int, size: int, packet: int) -> Survey:
    """An MPEG transport stream: whether its last packet, and the last part of its sound, are whole."""
    begin = max(0, size - packet * 5600)
    tail = read_at(descriptor, size - begin, begin)
    phases = (phase for phase in range(packet) if all(tail[at] == 0x47 for at in range(phase, len(tail), packet)[-5:]))
    phase = next(phases, 0)
    rest = (len(tail) - phase + packet - 188) % packet
    if rest:
        return Survey(missing=packet - rest, exact=True)
    wanting: dict[int, int] = {}
    for at in range(phase, len(tail) - 187, packet):
        pid, control = int.from_bytes(tail[at + 1 : at + 3], "big"), tail[at + 3]
        payload = tail[at + 4 + (1 + tail[at + 4] if control & 0x20 else 0) : at + 188] if control & 0x10 else b""
        if pid & 0x4000 and payload[:3] == b"\0\0\1":
            sound = 0xC0 <= payload[3] < 0xE0 or payload[3] in (0xBD, 0xFD)
            length = int.from_bytes(payload[4:6], "big")
            wanting[pid & 0x1FFF] = 6 + length if sound and length else 0
        if pid & 0x1FFF in wanting:
            wanting[pid & 0x1FFF] -= len(payload)
    return Survey(missing=max(0, *wanting.values(), 0), exact=True)
