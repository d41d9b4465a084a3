"""Tells which of the frames shown are damaged: those that decoded badly, those that refer to them, and stand-ins.

libavcodec conceals what it can and flags a picture in which it did; a packet that does not decode shows nothing. Frames
that refer to such a picture look wrong as well, and no decoder flags them. Between a damaged packet and the next one
where decoding may begin, every frame may refer to it, so all of them count as damaged; a packet that no other refers to
spoils its own frame alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.media.packets import PacketIndex


@dataclass(slots=True)
class DamageLog:
    """What one complete decode of a video stream came upon.

    Attributes
    ----------
    undecodable
        Numbers of the packets that do not decode, in the order of the file.
    corrupt
        PTS of the frames that the decoder flags.
    shown
        PTS of all frames that were shown after damage and before the next key frame, in the decoder's order. Used where
        packets and frames cannot be told apart by their PTS.
    """

    undecodable: list[int] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.undecodable or self.corrupt)


def damaged_frames(log: DamageLog, index: PacketIndex, displayed: Sequence[int]) -> frozenset[int]:
    """Return the PTS of the frames shown that are damaged or stand in for one that is not shown.

    Parameters
    ----------
    log
        From a complete decode.
    displayed
        PTS of all frames shown, ascending.
    """
    if not index.timed:
        return frozenset(log.corrupt) | frozenset(log.shown)
    place = {pts: number for number, pts in enumerate(index.pts)}
    hurt = {*log.undecodable, *index.corrupt, *(place[pts] for pts in log.corrupt if pts in place)}
    spoilt: set[int] = {pts for pts in log.corrupt if pts not in place}
    covered = 0  # all packets before this one are spoilt already, or whole
    for number in sorted(hurt):
        if number >= covered:
            affected, covered = _affected(number, index)
            spoilt.update(pts for pts in affected if pts is not None)
    shown = frozenset(displayed)
    stand_ins = set()
    for number in sorted(hurt):
        pts = index.pts[number]
        if pts is not None and pts not in shown and not index.discard[number]:
            earlier = bisect_left(displayed, pts) - 1
            if earlier >= 0:
                stand_ins.add(displayed[earlier])
    return shown & (spoilt | stand_ins)


def _affected(number: int, index: PacketIndex) -> tuple[Sequence[int | None], int]:
    """Return the PTS of the packets whose frames may refer to packet ``number``, its own first, and where they end."""
    if not index.reference[number]:
        return [index.pts[number]], number + 1
    end = _next_entry(number, index)
    affected = list(index.pts[number:end])
    if end < len(index.pts) and (entry := index.pts[end]) is not None:
        # Pictures that follow the entry point in the file and precede it on screen may refer to what lies before it.
        leading = index.pts[end + 1 : _next_entry(end, index)]
        affected += [pts for pts in leading if pts is not None and pts < entry]
    return affected, end


def _next_entry(number: int, index: PacketIndex) -> int:
    """Return the number of the next packet where decoding may begin, or that of all packets."""
    return next((later for later in range(number + 1, len(index.pts)) if index.entry[later]), len(index.pts))
