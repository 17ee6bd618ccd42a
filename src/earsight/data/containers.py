"""Where in a file its sound lies, by its container's own structure: what was promised, what is there, what is damaged.

Comes in: an open file descriptor. Goes out: a `Survey`: the byte ranges that are sounds of their own (several where
files were joined), sizes that a writer left wrong, bytes that are missing, and where pages or frames are damaged.
Headers are believed only where the bytes bear them out. Nothing is decoded; memory does not grow with the file. MPEG
audio, which has no container, is in `earsight.data.frames`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from earsight.data.contents import HEAD_BYTES, is_stereo_svx
from earsight.data.films import survey_film
from earsight.data.frames import (
    Link,
    Survey,
    after_tags,
    another,
    before_tags,
    heads_in,
    is_mpeg,
    survey_flac,
    survey_mpeg,
)
from earsight.portable import read_at

_CHUNK = 1 << 20
# Writers that cannot seek back (pipes, recorders) leave sizes near 2 or 4 GiB in the header: no promise at all.
_UNKNOWN = (range(0x7F000000, 0x7F001000), range(0x7FFFF000, 0x80001000), range(0xFFFFF000, 1 << 32))
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_W64_KINDS = (_W64_RIFF[5:], _W64_DATA[5:])
"""How the names of W64's chunks end: that of the file and its lists, and all others."""
_WAV_HEADS = (b"RIFF", b"RIFX", b"RF64", b"BW64")  # the last is RF64 of broadcasters (ITU-R BS.2088)
_NO_SOUND = (b"TAG", b"ID3", b"APETAGEX", b"RIFF", b"RF64", b"RIFX", b"FORM", b"caff", b"<?xpacket", b"<x:xmp")
"""How begins what stands behind a sound."""
_MP3_IN_WAV = (0x50, 0x55)
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_TTA_HEAD = b"TTA1\1\0"


class Window:
    """Bytes of an open file as a file object of its own, behind the link's ``head``.

    ``pretended`` is a length that it has by `seek`, with zeros at its far end, where decoders look for tags; reading on
    ends with the bytes that there are.
    """

    def __init__(self, descriptor: int, link: Link, *, pretended: int = 0) -> None:
        self._descriptor, self._link, self._at = descriptor, link, 0
        self._bytes = len(link.head) + link.end - link.begin
        self._size = pretended or self._bytes

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes from the window's begin."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, count: int = -1) -> bytes:
        """As of a file."""
        if self._size > self._bytes and self._at >= self._size - 4096:
            self._at += count
            return bytes(count)
        left = max(0, self._bytes - self._at)
        count = left if count < 0 else min(count, left)
        head = self._link.head
        found = head[self._at : self._at + count]
        if len(found) < count:
            place = self._link.begin + self._at + len(found) - len(head)
            found += read_at(self._descriptor, count - len(found), place)
        self._at += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def survey(descriptor: int) -> Survey:
    """Look through an open, seekable file; see `Survey`."""
    size = os.fstat(descriptor).st_size
    start = after_tags(descriptor, 0, size)
    head, end = read_at(descriptor, 64, start), size
    if (found := _plain(descriptor, head, start, size)) is None:
        end = before_tags(descriptor, size)
        found = _coded(descriptor, head, start, end)
    # Of MP3 the decoder passes over ID3.
    begin = 0 if is_mpeg(head) and read_at(descriptor, 3, 0) == b"ID3" else start
    return found if found.links or (end == size and not begin) else replace(found, links=(Link(begin, end),))


def _plain(descriptor: int, head: bytes, start: int, size: int) -> Survey | None:
    """The same of files whose sound is a chunk of stated length; None of others."""
    if head[:4] in _WAV_HEADS and head[8:12] == b"WAVE":
        return _wav(descriptor, start, size)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _in_a_row(descriptor, start, size, _form)
    if head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV"):
        missing = _missing_chunk(descriptor, size, start=start + 12, layout=">4sI", data=b"BODY")
        # One channel behind the other, which libsndfile takes for one frame after the other.
        return Survey(missing=missing, miscounted=is_stereo_svx(read_at(descriptor, HEAD_BYTES, start)))
    if head.startswith(b"NIST_1A\n"):
        return Survey(missing=_missing_of_sphere(descriptor, size))
    if head[:4] == b"caff":
        return _in_a_row(descriptor, start, size, _caf)
    if head[:16] == _W64_RIFF:
        return _in_a_row(descriptor, start, size, _w64)
    if head[:4] in (b".snd", b"dns.") and len(head) >= 12:
        return _in_a_row(descriptor, start, size, _au)
    return None


def _coded(descriptor: int, head: bytes, start: int, size: int) -> Survey:
    """The same of files that may have tags behind, which begin at ``size``."""
    if head[:4] == b"wvpk":
        return _wavpack(descriptor, start, size)
    if head[:4] == b"OggS":
        return _ogg(descriptor, size)
    if head[:6] == _TTA_HEAD:
        begins = [start, *heads_in(descriptor, start + 6, size, (_TTA_HEAD,))]
        other = another(descriptor, size, _tta_end(descriptor, begins[-1]))
        return Survey(_ranges(begins, size), damage=(None, other) if other else None)
    if head[:4] == b"fLaC":
        return survey_flac(descriptor, start, size)
    if head.startswith(b"Creative Voice File"):
        count, missing = _voc_blocks(descriptor, head, size)
        return Survey(miscounted=count > 1, missing=missing)
    if start == 0 and (found := survey_film(descriptor, head, size)) is not None:
        return found
    return survey_mpeg(descriptor, start, size)


def _is_unknown(length: int) -> bool:
    return any(length in sizes for sizes in _UNKNOWN)


# WAV, AIFF, W64, CAF, VOC, SPHERE, WavPack


def _wav(descriptor: int, start: int, size: int) -> Survey:
    """A WAV file, or several in a row."""
    links: list[Link] = []
    found, plain = Survey(), True
    while start < size and (not links or _starts_wav(descriptor, start)):
        link, found, mpeg = _riff(descriptor, start, size)
        if link is None:  # no data chunk
            break
        if mpeg is not None and not links:
            frames = survey_mpeg(descriptor, *mpeg)
            return replace(frames, missing=found.missing, exact=False) if frames.links else found
        links.append(link)
        plain = plain and not link.head
        start = link.end
    return replace(found, links=() if len(links) == 1 and plain else tuple(links))


def _riff(descriptor: int, start: int, size: int) -> tuple[Link | None, Survey, tuple[int, int] | None]:
    """The WAV file at ``start``: its bytes, what is wrong with them, and where its sound is, should that be MPEG."""
    head = read_at(descriptor, 12, start)
    order = ">" if head[:4] == b"RIFX" else "<"
    riff_end = start + 8 + struct.unpack(order + "I", head[4:8])[0]
    position, long_size, tag, form = start + 12, None, 0, b""
    while position + 8 <= size:
        name, length = struct.unpack(order + "4sI", read_at(descriptor, 8, position))
        body = position + 8
        if name == b"ds64" and size >= body + 16:  # RF64 keeps the true lengths here
            riff, long_size = struct.unpack("<QQ", read_at(descriptor, 16, body))
            riff_end = start + 8 + riff
        if name == b"fmt " and length >= 2 and size >= body + 2:
            form = read_at(descriptor, 8 + min(length, _CHUNK), position)
            tag = struct.unpack(order + "H", form[8:10])[0]
        if name != b"data":
            position = body + length + length % 2
            continue
        if long_size is not None and (head[:4] in (b"RF64", b"BW64") or _is_unknown(length)):
            known, end = long_size > 0, body + long_size
        else:
            known, end = not _is_unknown(length), body + length
        end = end if known else size
        behind = end + (end - body) % 2
        # A second file may follow, behind chunks that belong to this one.
        following = riff_end if behind <= riff_end < size else behind
        following = after_tags(descriptor, following, size) or following
        joined = following + 12 <= size and _starts_wav(descriptor, following)
        other = "" if joined else another(descriptor, size, end, behind, following)
        # A size of the whole that is right was written at the end, with that of the sound; unless most lies behind it.
        whole = abs(riff_end - size) <= 1 and size - end < (end - body) // 2
        more = not (other or whole) and _goes_on(descriptor, body, end, size, agrees=riff_end in (end, behind))
        if more:
            wrapped = end + ((size - end) >> 32 << 32)
            end = wrapped if wrapped > end and (wrapped == size or _is_chunk(descriptor, wrapped, size)) else size
        if order == "<" and (more or head[:4] == b"BW64" or (not known and (long_size == 0 or end - body > length))):
            return Link(body, end, _rf64(form, end - body)), Survey(), (body, end) if tag in _MP3_IN_WAV else None
        mpeg = (body, min(end, size)) if tag in _MP3_IN_WAV else None
        missing, damage = max(0, end - size) if known else 0, (None, other) if other else None
        # What ends within a sample was cut, however little of it is missing.
        exact = len(form) >= 22 and (size - body) % (struct.unpack(order + "H", form[20:22])[0] or 1) > 0
        return Link(start, following if joined else size), Survey((), missing, damage, exact=exact), mpeg
    return None, Survey(), None


def _goes_on(descriptor: int, body: int, end: int, size: int, *, agrees: bool) -> bool:
    """Whether the bytes show that the sound of a chunk goes on behind a size of 32 bits that wrapped, or is stale.

    ``agrees`` is whether the file's own size confirms it, as in a header from before the power failed it may.
    """
    behind = end + (end - body) % 2
    stale = end == body or not agrees or size - end >= max(4096, (end - body) // 10)
    # Some writers leave out the byte that fills up an odd size.
    return stale and behind < size and not any(_is_chunk(descriptor, place, size) for place in (end, behind))


def _rf64(form: bytes, length: int) -> bytes:
    """The header of a WAV file of any length, up to its data, with this format chunk."""
    form += b"\0" * (len(form) % 2)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, length + len(form) + 56, length, 0, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + form + b"data\xff\xff\xff\xff"


def _starts_wav(descriptor: int, position: int) -> bool:
    head = read_at(descriptor, 12, position)
    return head[:4] in _WAV_HEADS and head[8:12] == b"WAVE"


def _is_chunk(descriptor: int, position: int, size: int) -> bool:
    """Whether what follows a data chunk is another chunk, a tag, zeros or a scrap, rather than more sound."""
    head = read_at(descriptor, 4096, position)
    if len(head) < 8 or head.startswith(_NO_SOUND):
        return True
    if not head.strip(b"\0") and size - position <= 4096:  # a sector that was filled up
        return True
    length = min(struct.unpack(order, head[4:8])[0] for order in ("<I", ">I"))
    return all(0x20 <= byte < 0x7F for byte in head[:4]) and position + 8 + length <= size + 1


def _missing_chunk(descriptor: int, size: int, *, start: int, layout: str, data: bytes, align: int = 2) -> int:
    """Walk the chunks to the one with the sound and compare its length with the file's."""
    header = struct.calcsize(layout)
    position = start
    while position + header <= size:
        name, length = struct.unpack(layout, read_at(descriptor, header, position))
        length -= header if layout == "<16sq" else 0
        body = position + header
        if name == data:
            known = 0 < length < 1 << 62 and not (layout == ">4sI" and _is_unknown(length))
            return max(0, body + length - size) if known else 0
        if length < 0:
            return 0
        position = body + length + (-length) % align
    return 0


def _in_a_row(descriptor: int, start: int, size: int, one: Callable[..., tuple[Survey, int]]) -> Survey:
    """A file, or several in a row: ``one`` surveys that at a place, and says where another begins behind, else -1."""
    links, following = list[Link](), start
    while following >= 0:
        found, following = one(descriptor, following, size)
        links += found.links
    plain = len(links) == 1 and not links[0].head and links[0].end == size
    return replace(found, links=() if plain else tuple(links))


def _form(descriptor: int, start: int, size: int) -> tuple[Survey, int]:
    """The AIFF file at ``start``, for `_in_a_row`."""
    position, form = start + 12, read_at(descriptor, 12, start)
    following = start + 8 + int.from_bytes(form[4:8], "big")
    following = after_tags(descriptor, following, size) or following
    while position + 8 <= size:
        name, length = struct.unpack(">4sI", read_at(descriptor, 8, position))
        body = position + 8
        end = body + length
        if name == b"COMM":
            form += read_at(descriptor, min(8 + length + length % 2, _CHUNK), position)
        if name != b"SSND":
            position = end + length % 2
            continue
        unknown = length == 0 or _is_unknown(length)
        agrees = following in (end, end + length % 2)
        joined = end <= following and read_at(descriptor, 12, following)[8:11] == b"AIF"
        if not (unknown or joined) and (other := another(descriptor, size, end, end + length % 2, following)):
            return Survey((Link(start, size),), damage=(None, other)), -1
        # Before the sound stand eight bytes that count as the chunk's.
        whole = abs(following - size) <= 1 and size - end < length // 2  # as of a WAV
        if unknown or (not whole and _goes_on(descriptor, min(body + 8, end), end, size, agrees=agrees)):
            # Of size 0 libsndfile reads to the end of the file, however long.
            head = form + struct.pack(">4sI", b"SSND", 0)
            return Survey((Link(body, size, head),)), -1
        if joined:
            return Survey((Link(start, following),)), following
        return Survey((Link(start, size),), max(0, end - size)), -1
    return Survey((Link(start, size),)), -1


def _w64(descriptor: int, start: int, size: int) -> tuple[Survey, int]:
    """The W64 file at ``start``, for `_in_a_row`."""
    missing = _missing_chunk(descriptor, size, start=start + 40, layout="<16sq", data=_W64_DATA, align=8)
    end = start + int.from_bytes(read_at(descriptor, 8, start + 16), "little")
    behind = after_tags(descriptor, end, size) or end
    last = end if start + 40 < end < before_tags(descriptor, size) + 1 <= size else size
    joined = start + 40 < behind < size and read_at(descriptor, 16, behind) == _W64_RIFF
    other = "" if joined or start + 40 >= behind else another(descriptor, size, behind)
    link = _as_rf64(descriptor, start, end if joined or other else last)
    if joined or other:
        return Survey((link,), damage=(None, other) if other else None), behind if joined else -1
    return Survey((link,), missing), -1


def _as_rf64(descriptor: int, start: int, end: int) -> Link:
    """The W64 file at ``start``, behind a header of RF64 where it has WAVEFORMATEXTENSIBLE of anything but integers.

    Of that libsndfile passes over what the samples are, and takes floats for integers.
    """
    position, form = start + 40, b""
    while position + 24 <= end:
        name, length = struct.unpack("<16sq", read_at(descriptor, 24, position))
        body = position + 24
        if name[:4] == b"fmt " and 40 <= length < _CHUNK:
            form = b"fmt " + struct.pack("<I", length - 24) + read_at(descriptor, length - 24, body)
        if name == _W64_DATA and form[8:10] == b"\xfe\xff" and form[32:34] != b"\1\0":
            stop = min(end, position + length) if 24 < length < 1 << 62 else end
            return Link(body, stop, _rf64(form, stop - body))
        behind = position + length + (-length) % 8
        if name == _W64_DATA and position < behind < end and read_at(descriptor, 16, behind)[5:] in _W64_KINDS:
            return Link(start, position + length)  # libsndfile goes on into the chunk behind
        if length < 24 or name == _W64_DATA:
            break
        position = behind
    return Link(start, end)


def _au(descriptor: int, start: int, size: int) -> tuple[Survey, int]:
    """The AU file at ``start``, for `_in_a_row`."""
    head, size = read_at(descriptor, 24, start), before_tags(descriptor, size)
    order = ">" if head[:4] == b".snd" else "<"
    offset, length = struct.unpack(order + "II", head[4:12])
    end = start + offset + length
    if end < size and read_at(descriptor, 4, end) == head[:4]:
        return Survey((Link(start, end),)), end
    other = another(descriptor, size, end)
    missing = 0 if _is_unknown(length) else max(0, end - size)
    # No chunk can follow, so that it is a size from before the power failed; libsndfile takes bit 31 for a sign.
    if end < size or length >> 31:
        opening = head[:4] + struct.pack(order + "II", 24, 0xFFFFFFFF) + head[12:24]
        found = Link(start + offset, end if other else size, opening)
        return Survey((found,), missing, (None, other) if other else None), -1
    return Survey((Link(start, size),), missing), -1


def _caf(descriptor: int, start: int, size: int) -> tuple[Survey, int]:
    """The CAF file at ``start``, for `_in_a_row`.

    A data chunk of length -1, which libsndfile refuses, or with sound behind it goes to the end.
    """
    size = before_tags(descriptor, size)
    position, found = start + 8, Survey((Link(start, size),))
    while position + 12 <= size:
        position = after_tags(descriptor, position, size) or position
        name, length = struct.unpack(">4sq", read_at(descriptor, 12, position))
        body = position + 12
        if name == b"caff":
            return Survey((Link(start, position),)), position
        behind = read_at(descriptor, 5, body + length) if 0 <= length < size - body else b"caff"
        if b"caff" not in behind and (other := another(descriptor, size, body + length)):
            return replace(found, damage=(None, other)), -1
        places = (body + length, body + length + length % 2)  # some writers fill up an odd length
        goes_on = b"caff" not in behind and not any(_is_chunk(descriptor, place, size) for place in places)
        if name == b"data" and (length == -1 or goes_on):
            head = read_at(descriptor, position + 4 - start, start) + struct.pack(">q", size - body)
            return Survey((Link(body, size, head),)), -1
        if name == b"data" and (missing := body + length - size) > 0:
            tail = max(body, size - _CHUNK)
            # Before the end of the sound no table begins, unless bytes of it are missing.
            if (at := read_at(descriptor, size - tail, tail).find(b"pakt")) >= 0:
                return replace(found, damage=(None, f"{body + length - tail - at} bytes of it are gone")), -1
            return replace(found, missing=missing), -1
        if length < 0:
            break
        position = body + length
        position += read_at(descriptor, 5, position)[1:] == b"caff"  # libsndfile fills up odd lengths
    return found, -1


def _voc_blocks(descriptor: int, head: bytes, size: int) -> tuple[int, int]:
    """How many blocks with sound a VOC file has, and bytes that the last lacks.

    Of several, libsndfile takes the headers for samples. sox counts 8 bytes too few.
    """
    position, count = struct.unpack("<H", head[20:22])[0] if len(head) > 22 else size, 0
    while position + 4 <= size:
        block = read_at(descriptor, 4, position)
        length = int.from_bytes(block[1:], "little")
        count += block[0] in (1, 2, 9)
        if not 0 < block[0] < 10 or count > 1 or length in (0, 0xFFFFFF):  # the end, or a length that was not known
            break
        position += 4 + length
    return count, max(0, position - size)


def _missing_of_sphere(descriptor: int, size: int) -> int:
    """Bytes that a NIST SPHERE file lacks by the numbers in its header, which is text."""
    words = read_at(descriptor, 1024, 0).split()
    triples = zip(words, words[1:], words[2:], strict=False)
    numbers = {word: int(value) for word, kind, value in triples if kind[:1] == b"-" and value.isdigit()}
    wanted = [numbers.get(name, 0) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    if b"embedded-shorten" in b" ".join(words) or not words[1].isdigit():
        return 0
    return max(0, int(words[1]) + wanted[0] * wanted[1] * wanted[2] - size) if all(wanted) else 0


def _wavpack(descriptor: int, start: int, size: int) -> Survey:
    """A WavPack file, block by block, or several in a row."""
    begins, ends, position, promised, miscounted = list[int](), list[int](), start, 0, False
    while position + 32 <= size:
        head = read_at(descriptor, 32, position)
        if head[:4] != b"wvpk":
            if (behind := after_tags(descriptor, position, size)) <= position:
                break
            ends, position = [*ends, position], behind
            continue
        length, total, index, samples, flags = struct.unpack("<I4xIIII", head[4:28])
        if flags & 0x800 and samples and not index:  # the first channels of the first block
            ends += [position] if len(ends) < len(begins) else []
            begins.append(position)
            promised = total
        miscounted = miscounted or (total != promised and bool(begins))  # FFmpeg tells the first the length of all
        position += 8 + length
    other = another(descriptor, size, position)
    end = position if other or 0 < size - position <= 4096 else size  # behind more bytes, blocks go on
    begins = begins or [start]  # a piece of a longer one
    links = tuple(Link(*one) for one in zip(begins, [*ends[: len(begins) - 1], end], strict=True))
    links = links if len(links) > 1 or start or end < size else ()
    return Survey(links, max(0, position - size), (None, other) if other else None, miscounted, exact=True)


def _tta_end(descriptor: int, begin: int) -> int:
    """Where a True Audio file ends by the lengths of its frames, which last 256 / 245 s."""
    rate, samples = struct.unpack("<10xII", read_at(descriptor, 18, begin))
    count = -(-samples * 245 // (256 * rate)) if rate else 0
    table = read_at(descriptor, min(4 * count, _CHUNK), begin + 22)
    return begin + 26 + len(table) + int(np.frombuffer(table[: len(table) // 4 * 4], dtype="<u4").sum())


# Ogg


@dataclass(frozen=True)
class _Page:
    begin: int
    end: int
    first: bool  # of its logical stream
    granule: int
    serial: int
    number: int
    body: bytes
    whole: bool  # its checksum holds


def _ogg(descriptor: int, size: int) -> Survey:
    """An Ogg file: chained streams are links; every page has a checksum, which shows where it is damaged."""
    begins: list[int] = []
    heads: set[int] = set()  # serial numbers of the current link's streams
    numbers: dict[int, int] = {}
    opening, rate, delay, seconds, done = False, 0, 0, 0.0, 0.0
    end = 0
    for page in _pages(descriptor, size):
        if page.begin > max(end, after_tags(descriptor, end, size) if page.begin > end else 0) or not page.whole:
            return Survey(_ranges(begins, size), damage=(done + seconds, "a damaged page"))
        if page.end > size:
            return Survey(_ranges(begins, size), missing=page.end - size, exact=True)
        end = page.end
        if page.first:
            if not opening:
                begins.append(page.begin)
                heads, numbers, rate, delay = set(), {}, 0, 0
                done, seconds = done + seconds, 0.0
            rate = rate or _ogg_rate(page.body)
            if page.body.startswith(b"OpusHead") and len(page.body) >= 12:
                delay = int.from_bytes(page.body[10:12], "little")
            heads.add(page.serial)
        elif page.number != numbers.get(page.serial, page.number - 1) + 1:
            return Survey(_ranges(begins, size), damage=(done + seconds, "a page is missing"))
        numbers[page.serial] = page.number
        opening = page.first
        if rate and page.granule > 0 and len(heads) == 1:
            seconds = max(0, page.granule - delay) / rate
    if other := another(descriptor, size, end):
        return Survey(_ranges(begins, size), damage=(done + seconds, other))
    if end < size and any(read_at(descriptor, min(size - end, 4096), end).strip(b"\0")):
        scrap = read_at(descriptor, 4, end)
        if b"OggS".startswith(scrap) or size - end > 4096:
            return Survey(_ranges(begins, size), missing=27, exact=True)
    return Survey(_ranges(begins, size))


def _ranges(begins: list[int], size: int) -> tuple[Link, ...]:
    if len(begins) < 2:
        return ()
    return tuple(Link(begin, end) for begin, end in zip(begins, [*begins[1:], size], strict=True))


def _ogg_rate(body: bytes) -> int:
    if body.startswith(b"\x01vorbis") and len(body) >= 16:
        return int(struct.unpack("<I", body[12:16])[0])
    if body.startswith(b"\x7fFLAC") and len(body) >= 30:
        return int.from_bytes(body[27:30], "big") >> 4
    if body.startswith(b"Speex   ") and len(body) >= 40:
        return int.from_bytes(body[36:40], "little")
    return 48000 if body.startswith(b"OpusHead") else 0


def _pages(descriptor: int, size: int) -> Iterator[_Page]:
    """Pages in order; one whose end is missing is the last; where bytes are none, the search goes on behind them."""
    held, at, position = b"", 0, 0  # `held` begins at `position` of the file
    while True:
        if len(held) - at < 66000 and position + len(held) < size:
            held, position = held[at:] + read_at(descriptor, _CHUNK, position + len(held)), position + at
            at = 0
        found = held.find(b"OggS\0", at)
        if found < 0 or len(held) - found < 27:
            if position + len(held) >= size:
                return
            at = max(at, len(held) - 30) if found < 0 else found
            continue
        if len(held) - found < 66000 and position + len(held) < size:
            at = found
            continue
        count = held[found + 26]
        body = found + 27 + count
        if body > len(held):  # the end of the file lies in the list of segments
            yield _Page(position + found, position + body, False, 0, 0, 0, b"", True)
            return
        end = body + sum(held[found + 27 : body])
        flags, granule, serial, number, crc = struct.unpack("<BqIII", held[found + 5 : found + 26])
        page = held[found:end]
        cut = end > len(held)
        whole = cut or _ogg_crc(page[:22] + b"\0\0\0\0" + page[26:]) == crc
        first = bool(flags & 2)
        body_bytes = page[27 + count :] if first else b""
        yield _Page(position + found, position + end, first, granule, serial, number, body_bytes, whole)
        if cut:
            return
        at = end if whole else found + 5


def _ogg_crc(page: bytes) -> int:
    """Ogg's CRC-32 is that of zlib with all bits in the other order, and nothing inverted."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(crc.to_bytes(4, "little").translate(_REVERSED), "big")
