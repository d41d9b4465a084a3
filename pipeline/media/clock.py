"""One clock out of the timestamps of a file: restarts, jumps and wraps continue, as FFmpeg's tools continue them.

A stream that was recorded in pieces, joined with ``cat`` or received over the air carries timestamps that begin anew,
leap or wrap. FFmpeg's command line follows such a clock by an offset that belongs to the whole file: whenever the DTS
of a packet is not where its stream's last packet ended, by more than a threshold, the offset takes up the difference,
for all streams alike. The rule and its thresholds are those of ``process_input`` in FFmpeg 5.1
(``-dts_delta_threshold 10``).

Formats that say of themselves that their clock may leap (libavformat's flag ``TS_DISCONT``: MPEG-TS, MPEG-PS, Ogg) are
followed to the letter. In all others a step forward is believed, since a screen recording may well hold a still picture
for a minute, and a step back moves the clock only if the stream stays there: one stray stamp moves nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

JUMP_S = 10
"""Seconds, either way, beyond which a discontinuous format's clock is taken to have leapt."""
BACK_S = Fraction(1, 10)
"""Seconds by which a DTS may fall behind the one before it."""
_SETTLED = 8  # packets after a step back that must stay behind, in formats whose clock is not expected to leap


@dataclass(frozen=True, slots=True)
class Stamp:
    """When one packet is due, in the order in which the file holds it.

    Attributes
    ----------
    stream
        Index of the packet's stream.
    dts_s
        Decoding time in seconds of the file's own clock, or None.
    duration_s
        How long the packet lasts in seconds; 0 if that is not known.
    """

    stream: int
    dts_s: Fraction | None
    duration_s: Fraction


@dataclass(frozen=True, slots=True)
class Leap:
    """A place where the clock was continued: from packet ``number`` on, ``by_s`` seconds are added to every stamp."""

    number: int
    by_s: Fraction


@dataclass(frozen=True, slots=True)
class Clock:
    """What is added to the stamps of a file so that they are one clock.

    Attributes
    ----------
    shifts
        Stream index to pairs (number of a packet in that stream, seconds added from there on), ascending.
    leaps
        How often the clock leapt, both directions counted.
    """

    shifts: Mapping[int, tuple[tuple[int, Fraction], ...]] = field(default_factory=dict)
    leaps: int = 0

    def shift(self, stream: int, number: int) -> Fraction:
        """Return the seconds that are added to packet ``number`` of a stream."""
        shifts = self.shifts.get(stream, ())
        later = bisect_right(shifts, number, key=lambda shift: shift[0])
        return shifts[later - 1][1] if later else Fraction(0)


NO_LEAPS = Clock()


def follow(stamps: Sequence[Stamp], discontinuous: bool) -> Clock:
    """Find where the clock leaps.

    Parameters
    ----------
    stamps
        The packets of all streams that are read, in file order.
    discontinuous
        Whether the format says that its clock may leap.
    """
    return _clock(find_leaps(stamps, discontinuous), stamps)


def find_leaps(stamps: Sequence[Stamp], discontinuous: bool) -> list[Leap]:
    """Return the leaps, ascending by packet; ``by_s`` is the whole offset from there on. Empty for a clean clock."""
    leaps: list[Leap] = []
    offset = Fraction(0)
    expected: dict[int, Fraction] = {}
    latest: dict[int, Fraction] = {}
    step: dict[int, Fraction] = {}
    for number, stamp in enumerate(stamps):
        if stamp.dts_s is None:
            continue
        dts = stamp.dts_s + offset
        before = latest.get(stamp.stream)
        if before is not None:
            delta = dts - expected[stamp.stream]
            back = dts + BACK_S < before
            if discontinuous:
                leapt = abs(delta) > JUMP_S or back
            else:
                leapt = back and _stays_behind(stamps, number, before - offset)
            if leapt:
                offset -= delta
                dts -= delta
                leaps.append(Leap(number, offset))
            elif dts > before:
                step[stamp.stream] = dts - before
        latest[stamp.stream] = dts
        expected[stamp.stream] = dts + (stamp.duration_s or step.get(stamp.stream, Fraction(0)))
    return leaps


def _stays_behind(stamps: Sequence[Stamp], number: int, before: Fraction) -> bool:
    """Whether the packets of a stream from ``number`` on ascend from there without returning to where it was."""
    latest: Fraction | None = None
    seen = 0
    for stamp in stamps[number:]:
        if stamp.stream != stamps[number].stream or stamp.dts_s is None:
            continue
        if stamp.dts_s >= before or (latest is not None and stamp.dts_s < latest):
            return False
        latest = stamp.dts_s
        seen += 1
        if seen > _SETTLED:
            return True
    return seen > 1


def _clock(leaps: Sequence[Leap], stamps: Sequence[Stamp]) -> Clock:
    """Say for each stream from which of its own packets on what is added."""
    shifts: dict[int, list[tuple[int, Fraction]]] = {}
    counts: dict[int, int] = {}
    by_s, due = Fraction(0), iter(leaps)
    leap = next(due, None)
    for number, stamp in enumerate(stamps):
        if leap is not None and leap.number == number:
            by_s, leap = leap.by_s, next(due, None)
        own = shifts.setdefault(stamp.stream, [])
        if by_s != (own[-1][1] if own else 0):
            own.append((counts.get(stamp.stream, 0), by_s))
        counts[stamp.stream] = counts.get(stamp.stream, 0) + 1
    return Clock({stream: tuple(own) for stream, own in shifts.items() if own}, len(leaps))
