"""Tells which of the frames shown are damaged: those that decoded badly, those that refer to them, and stand-ins.

libavcodec conceals what it can; its H.264 decoder flags a picture in which it did, the others say so in the log. A
packet that does not decode shows nothing. Frames that refer to such a picture look wrong as well, and no decoder says
so. Damage that still is a valid stream is noticed by nobody. Between a damaged packet and the next one
where decoding may begin, every frame may refer to it, so all of them count as damaged; a packet that no other refers to
spoils its own frame alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.media.frame_plan import FramePlan
from pipeline.media.packets import PacketIndex


@dataclass(slots=True)
class DamageLog:
    """What one complete decode of a video stream came upon.

    Attributes
    ----------
    undecodable
        Numbers of the packets that do not decode, in the order of the file.
    concealed
        Numbers of the packets of which the decoder says in its log that something in them is wrong.
    corrupt
        PTS of the frames that the decoder flags.
    shown
        PTS of all frames that were shown after damage and before the next key frame, in the decoder's order. Used where
        packets and frames cannot be told apart by their PTS.
    """

    undecodable: list[int] = field(default_factory=list)
    concealed: list[int] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.undecodable or self.concealed or self.corrupt)


def damaged_frames(log: DamageLog, index: PacketIndex) -> frozenset[int]:
    """Return the PTS of the frames that are damaged, whether they are shown or not; ``log`` is of a complete decode."""
    if not index.timed:
        return frozenset(log.corrupt) | frozenset(log.shown)
    place = {pts: number for number, pts in enumerate(index.pts)}
    hurt = {*log.undecodable, *log.concealed, *index.corrupt, *(place[pts] for pts in log.corrupt if pts in place)}
    spoilt: set[int] = {pts for pts in log.corrupt if pts not in place}
    covered = 0  # all packets before this one are spoilt already, or whole
    for number in sorted(hurt):
        if number >= covered:
            affected, covered = _affected(number, index)
            spoilt.update(pts for pts in affected if pts is not None)
    return frozenset(spoilt)


def damaged_slots(
    damaged: frozenset[int], predicted: FramePlan | None, actual: FramePlan, policies: int
) -> tuple[tuple[int, ...], ...]:
    """Return, for each policy, the slots that show a damaged frame or stand in for one that is not shown, ascending.

    Parameters
    ----------
    damaged
        PTS of the damaged frames.
    predicted
        The plan by which all frames would have been shown; None if the packets did not tell.
    actual
        The plan that was carried out.
    """
    marked = actual.slots_of(damaged, policies)
    if predicted is None:
        return marked
    lost = predicted.slots_of(damaged - frozenset(actual.displayed), policies)
    return tuple(tuple(sorted({*shown, *missing})) for shown, missing in zip(marked, lost, strict=True))


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
