"""Works out which of the frames that a file shows a request wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline.media.packets import PacketIndex, ffmpeg5_durations, last_duration
from pipeline.media.sampling import EPSILON_S, Samples, Timeline, policy_from_spec
from pipeline.media.source import Source, check_duration
from pipeline.media.types import DecodeRequest, MediaError

Uses = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class FramePlan:
    """The frames that one pass must deliver.

    Attributes
    ----------
    displayed
        PTS of all frames of the file that are shown, ascending, in the stream's time base.
    duration_s
        Length of the source or clip in seconds.
    source_duration_s
        Length of the whole source in seconds.
    samples
        What each policy chose.
    uses
        For each wanted PTS, ascending: the slots it fills.
    time_s
        For each wanted PTS: its time in seconds on the request's axis.
    """

    displayed: tuple[int, ...]
    duration_s: float
    source_duration_s: float
    samples: tuple[Samples, ...]
    uses: dict[int, Uses]
    time_s: dict[int, float]

    @property
    def last(self) -> int | None:
        """The last wanted PTS, or None if no picture is wanted."""
        return max(self.uses, default=None)


def plan_frames(
    request: DecodeRequest, source: Source, displayed: list[tuple[int, int]], index: PacketIndex
) -> FramePlan:
    """Lay the displayed frames on the request's axis and let every policy choose among them.

    A clip [start_s, end_s) holds the frames that begin inside it and the one on screen when it begins, which keeps
    its real, negative time.

    Parameters
    ----------
    displayed
        (pts, duration) of each frame shown, ascending, in the stream's time base.

    Raises
    ------
    MediaError
        ``too_short`` for a video without frames or a clip that begins after its end; ``too_large``; ``corrupt`` for a
        file that ends before its index says and before the wanted time is over.
    pipeline.media.sampling.TooShort
        From a policy.
    """
    if not displayed:
        raise MediaError("too_short", "the video shows no frame")
    times = source.seconds(pts for pts, _ in displayed)
    source_duration_s = times[-1] + float(last_duration(displayed, source))
    check_duration(source_duration_s, request.limits)
    if index.truncated and (request.end_s is None or request.end_s > times[-1]):
        claimed = source.video.frames
        raise MediaError("corrupt", f"the file is cut short: {len(displayed)} of {claimed} claimed frames are there")
    start, end = _clip_bounds(request, source_duration_s)
    inside = _frames_inside(times, start, end)
    timeline = Timeline(
        pts_s=np.array([times[number] - start for number in inside]),
        duration_s=end - start,
        frame_rate=_rate(source.video.average_rate),
        nominal_rate=_rate(source.video.guessed_rate),
        shown_s=ffmpeg5_durations(displayed, index, source)[inside],
    )
    samples = tuple(policy_from_spec(spec).sample(timeline) for spec in request.policies)
    uses = _uses_by_frame(samples)
    pts = {frame: displayed[inside[frame]][0] for frame in uses}
    return FramePlan(
        displayed=tuple(pts for pts, _ in displayed),
        duration_s=timeline.duration_s,
        source_duration_s=source_duration_s,
        samples=samples,
        uses={pts[frame]: slots for frame, slots in uses.items()},
        time_s={pts[frame]: float(timeline.pts_s[frame]) for frame in uses},
    )


def _clip_bounds(request: DecodeRequest, source_duration_s: float) -> tuple[float, float]:
    """Return start and end of the clip in seconds; raise ``too_short`` if nothing lies between them."""
    start = request.start_s or 0.0
    end = source_duration_s if request.end_s is None else min(request.end_s, source_duration_s)
    if start >= end or start < 0:
        bounds = f"[{request.start_s}, {request.end_s})"
        raise MediaError("too_short", f"clip {bounds} s holds nothing of a video of {source_duration_s:.3f} s")
    return start, end


def _frames_inside(times: Sequence[float], start: float, end: float) -> list[int]:
    """Return the numbers of the frames that a clip shows, the one on screen at its start first."""
    first = max([number for number, time in enumerate(times) if time <= start + EPSILON_S], default=0)
    inside = [number for number in range(first, len(times)) if times[number] < end - EPSILON_S]
    if not inside:
        raise MediaError("too_short", "no frame is shown inside the clip")
    return inside


def _uses_by_frame(samples: Sequence[Samples]) -> dict[int, Uses]:
    """Return the slots that each chosen frame fills, by policy; frames ascend."""
    slots: dict[int, dict[int, list[int]]] = {}
    for policy, chosen in enumerate(samples):
        for slot, frame in enumerate(chosen.frame.tolist()):
            if frame >= 0:
                slots.setdefault(frame, {}).setdefault(policy, []).append(slot)
    return {
        frame: tuple((policy, tuple(filled)) for policy, filled in sorted(slots[frame].items()))
        for frame in sorted(slots)
    }


def _rate(rate: Fraction | None) -> float | None:
    return float(rate) if rate else None
