"""From the frames a file shows to the frames a request wants."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline.media.packets import PacketIndex, claimed_by_ffmpeg5, last_duration
from pipeline.media.sampling import EPSILON_S, Samples, Timeline, policy_from_spec
from pipeline.media.source import Source, check_duration
from pipeline.media.types import DecodeRequest, MediaError

Uses = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one pass must deliver.

    Attributes
    ----------
    displayed
        PTS of all frames of the file that are shown, ascending, in the stream's time base.
    duration_s
        Length of the source or clip in seconds.
    source_duration_s
        Length of the whole source in seconds.
    start
        Start of the clip in seconds of the source's axis.
    samples
        What each policy chose.
    uses
        For each wanted PTS, ascending: the slots it fills.
    time_s
        For each wanted PTS, its time on the request's axis.
    """

    displayed: tuple[int, ...]
    duration_s: float
    source_duration_s: float
    start: Fraction
    samples: tuple[Samples, ...]
    uses: dict[int, Uses]
    time_s: dict[int, float]

    @property
    def last(self) -> int | None:
        """The last wanted PTS, or None when no picture is wanted."""
        return max(self.uses, default=None)


def plan(request: DecodeRequest, source: Source, displayed: list[tuple[int, int]], index: PacketIndex) -> Wanted:
    """Lay the frames shown on the request's axis and let every policy choose.

    A clip [start_s, end_s) holds the frames that begin inside it and the one on screen when it begins, which keeps
    its real, negative time.

    Raises
    ------
    MediaError
        `too_short` without frames or for a clip that begins after the end; `too_large`; `corrupt` for a file that
        ends before its index says and before the wanted time is over.
    pipeline.media.sampling.TooShort
        From a policy.
    """
    if not displayed:
        raise MediaError("too_short", "the video shows no frame")
    times = source.seconds(pts for pts, _ in displayed)
    end_of_source = times[-1] + float(last_duration(displayed, source))
    check_duration(end_of_source, request.limits)
    if index.truncated and (request.end_s is None or request.end_s > times[-1]):
        claimed = source.video.frames
        raise MediaError("corrupt", f"the file is cut short: {len(displayed)} of {claimed} claimed frames are there")
    start = request.start_s or 0.0
    end = end_of_source if request.end_s is None else min(request.end_s, end_of_source)
    if start >= end or start < 0:
        bounds = f"[{request.start_s}, {request.end_s})"
        raise MediaError("too_short", f"clip {bounds} s holds nothing of a video of {end_of_source:.3f} s")
    first = max([number for number, time in enumerate(times) if time <= start + EPSILON_S], default=0)
    kept = [number for number in range(first, len(times)) if times[number] < end - EPSILON_S]
    if not kept:
        raise MediaError("too_short", "no frame is shown inside the clip")
    timeline = Timeline(
        pts_s=np.array([times[number] - start for number in kept]),
        duration_s=end - start,
        frame_rate=_rate(source.video.average_rate),
        nominal_rate=_rate(source.video.guessed_rate),
        shown_s=claimed_by_ffmpeg5(displayed, index, source)[kept],
    )
    samples = tuple(policy_from_spec(spec).sample(timeline) for spec in request.policies)
    slots: dict[int, dict[int, list[int]]] = {}
    for policy, chosen in enumerate(samples):
        for slot, frame in enumerate(chosen.frame.tolist()):
            if frame >= 0:
                slots.setdefault(frame, {}).setdefault(policy, []).append(slot)
    uses: dict[int, Uses] = {}
    time_s: dict[int, float] = {}
    for frame in sorted(slots):
        pts = displayed[kept[frame]][0]
        uses[pts] = tuple((policy, tuple(filled)) for policy, filled in sorted(slots[frame].items()))
        time_s[pts] = float(timeline.pts_s[frame])
    return Wanted(
        displayed=tuple(pts for pts, _ in displayed),
        duration_s=timeline.duration_s,
        source_duration_s=end_of_source,
        start=Fraction(start),
        samples=samples,
        uses=uses,
        time_s=time_s,
    )


def _rate(rate: Fraction | None) -> float | None:
    return float(rate) if rate else None
