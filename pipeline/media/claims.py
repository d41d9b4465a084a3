"""Reads what a container claims about itself: how long it is in bytes, when its edit lists begin, its codecs' delays.

A file that was cut short plays up to the cut and says nothing. Where its container states a size, the statement is
compared with the file; libav compares neither. Only a few kilobytes are read, and nothing that they say is believed
beyond a comparison with the file's real size.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

from pipeline.media.inputs import LOCAL, Files

_HEAD = 1 << 16
_TAIL = 1 << 17
_MOST_BOXES = 100_000
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_TRACKS, _TRACK_ENTRY, _CODEC_DELAY = b"\x16\x54\xae\x6b", b"\xae", b"\x56\xaa"
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_TOP_LEVEL = frozenset(b"ftyp styp moov moof mdat mfra free skip wide sidx ssix uuid meta pnot udta prft emsg".split())
_PARENTS = frozenset({b"moov", b"trak", b"edts"})


def claimed_size(path: str, files: Files = LOCAL) -> int | None:
    """Return how many bytes the container says the file has, or at least how many its last part needs.

    Known are ISO-BMFF in fragments (boxes; a file with one index is judged by that), Matroska and WebM (segment), AVI
    (RIFF chunks), FLV (``filesize`` of the metadata), ASF (file properties), Ogg (the last page) and GIF (its trailer).
    None where the container claims nothing: raw streams, MPEG-TS and MPEG-PS, live Matroska.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with _opened(path, files) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(_HEAD)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"sidx", b"moof"):
            return _fragments(file, size)
        if head.startswith(_EBML):
            return _matroska(head)
        if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
            return _riff(file, size)
        if head.startswith(b"FLV"):
            return _flv(head)
        if head.startswith(_ASF_HEADER):
            return _asf(head)
        if head.startswith(b"OggS"):
            return _ogg(file, size)
        if head.startswith((b"GIF87a", b"GIF89a")):
            return _gif(file, size)
    return None


def _opened(path: str, files: Files) -> BinaryIO:
    return io.BufferedReader(files.open(path))


def edit_list_start(path: str, files: Files = LOCAL) -> Fraction | None:
    """Return the second at which the edit lists of an ISO-BMFF file begin to show something; None without any.

    That is the length of the empty edits at their front (ISO/IEC 14496-12, 8.6.6), the shortest of all tracks.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    starts: list[int] = []
    timescale = 0
    with _opened(path, files) as file:
        size = file.seek(0, io.SEEK_END)
        open_boxes = [(0, size)]
        while open_boxes:
            begin, end = open_boxes.pop()
            for name, start, length in _boxes(file, begin, end):
                if name in _PARENTS:
                    open_boxes.append((start + 8, min(start + length, size)))
                elif name == b"mvhd":
                    timescale = _timescale(_content(file, start, length)) or timescale
                elif name == b"elst":
                    starts.append(_leading_empty_edits(_content(file, start, length)))
    if not starts:
        return None
    return Fraction(min(starts), timescale) if timescale else Fraction(0)


def _content(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start + 8)
    return file.read(min(length - 8, _HEAD))


def _timescale(content: bytes) -> int:
    place = 20 if content[:1] == b"\x01" else 12
    return int(struct.unpack_from(">I", content, place)[0]) if len(content) >= place + 4 else 0


def _leading_empty_edits(content: bytes) -> int:
    entry = struct.Struct(">QqI" if content[:1] == b"\x01" else ">IiI")
    total = 0
    for place in range(8, len(content) - entry.size + 1, entry.size):
        duration, media_time, _ = entry.unpack_from(content, place)
        if media_time != -1:
            break
        total += duration
    return total


def codec_delays(path: str, files: Files = LOCAL) -> list[Fraction]:
    """Return the ``CodecDelay`` of each track of a Matroska file in seconds, in the order of the tracks (RFC 9559).

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with _opened(path, files) as file:
        head = file.read(_HEAD)
    delays = []
    for name, begin, end in _elements(head, 0, len(head)):
        if name == _TRACK_ENTRY:
            own = [head[b:e] for n, b, e in _elements(head, begin, end) if n == _CODEC_DELAY]
            delays.append(Fraction(int.from_bytes(own[0], "big") if own else 0, 1_000_000_000))
    return delays


def _elements(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (id, start, end) of the content of EBML elements, those inside Segment and Tracks in their place."""
    for _ in range(_MOST_BOXES):
        if begin >= end or not data[begin]:
            return
        width = 9 - data[begin].bit_length()
        name = data[begin : begin + width]
        size = _vint(data, begin + width)
        if size is None:
            return
        length, content = size
        stop = end if length is None else min(content + length, end)
        if name in (_SEGMENT, _TRACKS):
            begin = content
        else:
            yield name, content, stop
            begin = stop


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, claimed length) of the boxes in a range; the last may claim more than there is."""
    for _ in range(_MOST_BOXES):
        if begin + 8 > end:
            return
        file.seek(begin)
        header = file.read(16)
        if len(header) < 8:
            return
        length, name = struct.unpack_from(">I4s", header)
        if length == 1 and len(header) == 16:
            length = struct.unpack_from(">Q", header, 8)[0]
        elif length == 0:
            length = end - begin
        if length < 8:
            return
        yield name, begin, length
        begin += length


def _fragments(file: BinaryIO, size: int) -> int | None:
    """Return the end of the last fragment; None if there is none."""
    end = None
    for name, start, length in _boxes(file, 0, size):
        if name not in _TOP_LEVEL:  # whatever was appended to the file
            break
        if name == b"moof" or (end is not None and name == b"mdat"):
            end = max(end or 0, start + length)
        elif name == b"sidx":
            end = max(end or 0, start + length + _indexed_bytes(_content(file, start, length)))
    return end


def _indexed_bytes(content: bytes) -> int:
    """Return how far behind a segment index the last segment that it lists ends (ISO/IEC 14496-12, 8.16.3)."""
    place = 28 if content[:1] == b"\x01" else 20
    if len(content) < place + 4:
        return 0
    offset = int.from_bytes(content[20:28] if place == 28 else content[16:20], "big")
    count = int.from_bytes(content[place + 2 : place + 4], "big")
    sizes = [
        int.from_bytes(content[entry : entry + 4], "big") & 0x7FFFFFFF
        for entry in range(place + 4, min(place + 4 + 12 * count, len(content) - 11), 12)
    ]
    return offset + sum(sizes)


def _gif(file: BinaryIO, size: int) -> int:
    """Return the place behind the trailer; more than ``size`` if the file ends inside a block."""
    file.seek(10)
    place = 13 + _color_table(file.read(1))
    while place < size:
        file.seek(place)
        kind = file.read(1)
        if kind == b"\x3b":
            return place + 1
        if kind == b"!":
            place += 2
        elif kind == b",":
            file.seek(place + 9)
            place += 11 + _color_table(file.read(1))
        else:  # junk behind the last block, without a trailer before it
            return size
        while True:
            file.seek(place)
            length = file.read(1)
            if not length:
                return size + 1
            place += 1 + length[0]
            if not length[0]:
                break
    return size if place == size else size + 1


def _color_table(flags: bytes) -> int:
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _vint(data: bytes, place: int) -> tuple[int | None, int] | None:
    """Return an EBML size (None: unknown) and the place behind it."""
    if place >= len(data) or not data[place]:
        return None
    width = 9 - data[place].bit_length()
    if place + width > len(data):
        return None
    value = int.from_bytes(data[place : place + width], "big") & ((1 << (7 * width)) - 1)
    return (None if value == (1 << (7 * width)) - 1 else value), place + width


def _matroska(head: bytes) -> int | None:
    header = _vint(head, 4)
    if header is None or header[0] is None:
        return None
    place = header[0] + header[1]
    while place + 4 < len(head):
        if head[place : place + 4] == _SEGMENT:
            segment = _vint(head, place + 4)
            return None if segment is None or segment[0] is None else segment[0] + segment[1]
        if head[place] != 0xEC:  # only Void elements may lie between
            return None
        void = _vint(head, place + 1)
        if void is None or void[0] is None:
            return None
        place = void[0] + void[1]
    return None


def _riff(file: BinaryIO, size: int) -> int:
    """Return the end of the last RIFF chunk: an AVI of more than a gigabyte has several."""
    place = 0
    for _ in range(_MOST_BOXES):
        file.seek(place)
        header = file.read(8)
        if len(header) < 8 or not header.startswith(b"RIFF"):
            break
        length = struct.unpack_from("<I", header, 4)[0]
        if length in (0, 0xFFFFFFFF):  # a writer that never came back to its header
            return 0
        place += 8 + length + length % 2
        if place >= size:
            break
    return place - place % 2 if place == size + 1 else place


def _flv(head: bytes) -> int | None:
    place = head.find(b"\x00\x08filesize\x00")
    if place < 0 or place + 19 > len(head):
        return None
    claimed = struct.unpack_from(">d", head, place + 11)[0]
    return int(claimed) if 0 < claimed < 2**53 else None


def _asf(head: bytes) -> int | None:
    place = head.find(_ASF_FILE_PROPERTIES)
    if place < 0 or place + 92 > len(head):
        return None
    claimed, flags = struct.unpack_from("<Q", head, place + 40)[0], struct.unpack_from("<I", head, place + 88)[0]
    return None if flags & 1 or not claimed else int(claimed)  # flag 1: broadcast, sizes are not valid


def _ogg(file: BinaryIO, size: int) -> int | None:
    begin = max(0, size - _TAIL)
    file.seek(begin)
    tail = file.read()
    place = tail.rfind(b"OggS")
    if place < 0:
        return None
    if not any(
        match[1][0] & 4 for match in re.finditer(rb"OggS\0([\0-\7])", tail)
    ):  # no stream says that it ends (RFC 3533, 6)
        return size + 1
    if place + 27 > len(tail):
        return size + 1
    table = tail[place + 27 : place + 27 + tail[place + 26]]
    return begin + place + 27 + tail[place + 26] + sum(table) if len(table) == tail[place + 26] else size + 1
