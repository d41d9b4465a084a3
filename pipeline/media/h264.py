"""Reads the little of H.264's syntax that skipping relies on: NAL units, IDR pictures, frame-coded sequences.

Clauses are those of ITU-T H.264.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

NAL_IDR = 5
_SLICES = (1, 2, 3, 4)
NAL_SPS = 7
NAL_PPS = 8
NAL_PREFIX = 14
NAL_SUBSET_SPS = 15
NAL_EXTENSION = 20
# Profiles whose parameter sets carry chroma format and scaling lists (clause 7.3.2.1.1).
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


@dataclass(slots=True)
class ParameterSets:
    """Parameter sets seen so far, and the first reason why the stream may not be skipped through."""

    sequence: set[bytes] = field(default_factory=set)
    picture: dict[int, bytes] = field(default_factory=dict)
    objection: str | None = None

    def add(self, nal_type: int, unit: bytes) -> None:
        """Add one NAL unit that is a parameter set."""
        if nal_type in (NAL_SUBSET_SPS, NAL_PREFIX, NAL_EXTENSION):
            self._object("scalable or multi-view extension")
        elif nal_type == NAL_SPS and unit not in self.sequence:
            self.sequence.add(unit)
            if len(self.sequence) > 1:
                self._object("more than one sequence parameter set")
            else:
                self._object(sequence_objection(unit))
        elif nal_type == NAL_PPS:
            try:
                number = Bits(unescape(unit[1:])).unsigned()
            except ValueError:
                self._object("unreadable picture parameter set")
                return
            if self.picture.setdefault(number, unit) != unit:
                self._object("picture parameter sets change")

    def _object(self, reason: str | None) -> None:
        self.objection = self.objection or reason


class Bits:
    """Reads bits and Exp-Golomb codes, most significant first; raises ValueError past the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = len(data) * 8

    def take(self, count: int) -> int:
        """Return the next ``count`` bits."""
        if count > self._left:
            raise ValueError("bit string exhausted")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def unsigned(self) -> int:
        """Return the next unsigned Exp-Golomb code, ue(v) of clause 9.1."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("Exp-Golomb code too long")
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Return the next signed Exp-Golomb code, se(v) of clause 9.1.1."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def unescape(unit: bytes) -> bytes:
    """Remove the emulation prevention bytes of a NAL unit (clause 7.4.1)."""
    return unit.replace(b"\x00\x00\x03", b"\x00\x00")


def sequence_objection(unit: bytes) -> str | None:
    """Return why a sequence with this parameter set may not be skipped through, or None (clause 7.3.2.1.1)."""
    try:
        bits = Bits(unescape(unit[1:]))
        profile = bits.take(8)
        bits.take(16)
        bits.unsigned()
        if profile in _HIGH_PROFILES:
            if bits.unsigned() == 3:
                bits.take(1)
            bits.unsigned()
            bits.unsigned()
            bits.take(1)
            if bits.take(1):
                return "scaling lists in the sequence parameter set"
        bits.unsigned()
        order = bits.unsigned()
        if order == 0:
            bits.unsigned()
        elif order == 1:
            return "picture order count of type 1"
        bits.unsigned()
        if bits.take(1):
            return "gaps in frame numbers are allowed"
        bits.unsigned()
        bits.unsigned()
        return None if bits.take(1) else "field-coded pictures are allowed"
    except ValueError:
        return "unreadable sequence parameter set"


def avcc_length_size(extradata: bytes | None) -> int | None:
    """Return the bytes of the length before each NAL unit if ``extradata`` is an avcC record, or None for Annex B."""
    if extradata and len(extradata) >= 7 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    return None


def avcc_units(extradata: bytes) -> Iterator[bytes]:
    """Yield the NAL units of an avcC record (ISO/IEC 14496-15, 5.3.3.1)."""
    position = 6
    count = extradata[5] & 31
    for group in range(2):
        for _ in range(count):
            size = int.from_bytes(extradata[position : position + 2], "big")
            yield extradata[position + 2 : position + 2 + size]
            position += 2 + size
        if group == 0:
            if position >= len(extradata):
                return
            count = extradata[position]
            position += 1


def units(data: bytes, length_size: int | None) -> Iterator[tuple[int, int]]:
    """Yield the ranges (start, end) of the NAL units in one packet."""
    if length_size is not None:
        position = 0
        while position + length_size < len(data):
            size = int.from_bytes(data[position : position + length_size], "big")
            position += length_size
            yield position, min(position + size, len(data))
            position += size
        return
    start = data.find(b"\x00\x00\x01")
    while start >= 0:
        following = data.find(b"\x00\x00\x01", start + 3)
        yield start + 3, len(data) if following < 0 else following
        start = following


def read_packet(data: bytes, length_size: int | None, sets: ParameterSets) -> tuple[bool, bool]:
    """Return whether the packet is one IDR picture, and whether others may refer to it (``nal_ref_idc``, clause 7.4.1).

    They may unless it has slices and all of them say no. Parameter sets on the way go into ``sets``.
    """
    idr = reference = has_slices = False
    for start, end in units(data, length_size):
        if start >= end:
            continue
        nal_type = data[start] & 31
        if nal_type == NAL_IDR:
            idr = reference = True
        elif nal_type in _SLICES:
            has_slices = True
            reference = reference or data[start] & 0x60 > 0
        elif nal_type in (NAL_SPS, NAL_PPS, NAL_PREFIX, NAL_SUBSET_SPS, NAL_EXTENSION):
            sets.add(nal_type, data[start:end].rstrip(b"\x00"))
    return idr, reference or not has_slices
