"""One clock out of the timestamps of a file: restarts, jumps and wraps continue, as FFmpeg's tools continue them.

A stream that was recorded in pieces, joined with ``cat`` or received over the air carries timestamps that begin anew,
leap or wrap. FFmpeg's command line follows such a clock by an offset that belongs to the whole file: whenever the DTS
of a packet is not where its stream's last packet ended, by more than a threshold, the offset takes up the difference,
for all streams alike. The rule and its thresholds are those of ``process_input`` in FFmpeg 5.1
(``-dts_delta_threshold 10``).

Formats that say of themselves that their clock may leap (libavformat's flag ``TS_DISCONT``: MPEG-TS, MPEG-PS, Ogg) are
followed to the letter. In all others a step forward is believed, since a screen recording may well hold a still picture
for a minute, and a step back moves the clock only if it is the picture's and the picture stays there: one stray stamp
moves nothing.
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
_DISORDER_S = 1
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
class Clock:
    """What is added to the stamps of a file so that they are one clock.

    Attributes
    ----------
    shifts
        Stream index to pairs (number of a packet in that stream, seconds added from there on), ascending.
    leaps
        How often the clock leapt.
    start_s
        Second at which a file begins whose container does not say it; 0 for all others.
    """

    shifts: Mapping[int, tuple[tuple[int, Fraction], ...]] = field(default_factory=dict)
    leaps: int = 0
    start_s: Fraction = Fraction(0)

    def shift(self, stream: int, number: int) -> Fraction:
        """Return the seconds that are added to packet ``number`` of a stream."""
        shifts = self.shifts.get(stream, ())
        later = bisect_right(shifts, number, key=lambda shift: shift[0])
        return shifts[later - 1][1] if later else Fraction(0)


NO_LEAPS = Clock()


def follow(stamps: Sequence[Stamp], discontinuous: bool, video: int) -> Clock:
    """Find where the clock leaps.

    Streams do not leap at the same packet: the file still holds some of one on the old clock when the other is on the
    new one. A stream therefore stays on its offset while that fits, and takes over the newest when that fits better.

    Parameters
    ----------
    stamps
        The packets of all streams that are read, in file order.
    discontinuous
        Whether the format says that its clock may leap. If not, only the picture moves the clock: sound whose stamps
        step back alone is laid down as ``pipeline.media.audio`` says.
    video
        Index of the video stream.
    """
    newest = Fraction(0)
    leaps = 0
    streams: dict[int, _Follower] = {}
    for number, stamp in enumerate(stamps):
        stream = streams.setdefault(stamp.stream, _Follower())
        if stamp.dts_s is not None:
            stream.take_over(stamp.dts_s, newest)
            may_leap = discontinuous or stamp.stream == video
            if may_leap and stream.leaps(stamp.dts_s, discontinuous, stamps, number):
                leaps += 1
                newest = stream.continue_at_expected(stamp.dts_s)
            stream.advance(stamp.dts_s, stamp.duration_s)
        stream.count += 1
    return Clock({index: tuple(stream.shifts) for index, stream in streams.items() if stream.shifts}, leaps)


@dataclass(slots=True)
class _Follower:
    """One stream on its way through the file: its offset, and where its next packet is expected."""

    offset: Fraction = Fraction(0)
    shifts: list[tuple[int, Fraction]] = field(default_factory=list)
    count: int = 0
    latest: Fraction | None = None
    expected: Fraction = Fraction(0)
    step: Fraction = Fraction(0)

    def take_over(self, dts_s: Fraction, newest: Fraction) -> None:
        """Go over to the newest offset if the packet is not where the old one has it, and nearer by the new one."""
        if newest == self.offset:
            return
        own, other = (abs(dts_s + offset - self.expected) for offset in (self.offset, newest))
        if self.latest is None or (own > BACK_S and other < own):
            self._move(newest)

    def leaps(self, dts_s: Fraction, discontinuous: bool, stamps: Sequence[Stamp], number: int) -> bool:
        """Whether the packet is where no packet of a clock that goes on can be."""
        if self.latest is None:
            return False
        dts = dts_s + self.offset
        back = dts + BACK_S < self.latest
        if discontinuous:
            return back or abs(dts - self.expected) > JUMP_S
        return back and _stays_behind(stamps, number, self.latest - self.offset)

    def continue_at_expected(self, dts_s: Fraction) -> Fraction:
        """Move the offset so that the packet follows the one before it, and return the offset."""
        self._move(self.expected - dts_s)
        return self.offset

    def advance(self, dts_s: Fraction, duration_s: Fraction) -> None:
        """Note the packet."""
        dts = dts_s + self.offset
        if self.latest is not None:
            if dts + BACK_S < self.latest:
                return  # it stepped back and may not leap: another stream may yet show that it was right
            if dts > self.latest:
                self.step = dts - self.latest
        self.latest = dts
        self.expected = dts + (duration_s or self.step)

    def _move(self, offset: Fraction) -> None:
        self.offset = offset
        self.shifts.append((self.count, offset))


def _stays_behind(stamps: Sequence[Stamp], number: int, before: Fraction) -> bool:
    """Whether the packets of a stream from ``number`` on go on from there without returning to where it was.

    Around a restart libav makes some DTS up: they may be out of order by a few frames.
    """
    latest: Fraction | None = None
    seen = 0
    for place in range(number, len(stamps)):
        stamp = stamps[place]
        if stamp.stream != stamps[number].stream or stamp.dts_s is None:
            continue
        if stamp.dts_s >= before or (latest is not None and stamp.dts_s < latest - _DISORDER_S):
            return False
        latest = stamp.dts_s
        seen += 1
        if seen > _SETTLED:
            return True
    return seen > 1
