"""Works out which of the frames that a file shows a request wants."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.media.packets import PacketIndex, ffmpeg5_durations, last_duration
from pipeline.media.sampling import policy_from_spec, rates_disagree
from pipeline.media.source import Source, check_duration
from pipeline.media.timeline import EPSILON_S, Samples, Timeline
from pipeline.media.types import DecodeRequest, FailureClass, MediaError

_NO_FRAME: tuple[FailureClass, str] = ("too_short", "the video shows no frame")
MAX_RATE = 1000.0
"""Frames per second beyond which the timestamps of a video are no account of time."""

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

    def slots_of(self, frames: Container[int], policies: int) -> tuple[tuple[int, ...], ...]:
        """Return, for each of the policies, the slots that show one of some frames, ascending."""
        slots: list[list[int]] = [[] for _ in range(policies)]
        for pts, uses in self.uses.items():
            if pts in frames:
                for policy, filled in uses:
                    slots[policy] += filled
        return tuple(tuple(sorted(filled)) for filled in slots)


def plan_frames(
    request: DecodeRequest,
    source: Source,
    displayed: list[tuple[int, int]],
    index: PacketIndex,
    duration_s: float | None = None,
) -> FramePlan:
    """Lay the displayed frames on the request's axis and let every policy choose among them.

    A clip [start_s, end_s) holds the frames that begin inside it and the one on screen when it begins, which keeps
    its real, negative time.

    Parameters
    ----------
    displayed
        (pts, duration) of each frame shown, ascending, in the stream's time base.
    duration_s
        Length of the source in seconds, if its packets tell: frames that do not decode make no video shorter, and the
        sound that is wanted alone must last as long. By default it ends with the last frame shown.

    Raises
    ------
    MediaError
        ``too_short`` for a video without frames or a clip that begins after its end; ``too_large``; ``corrupt`` for a
        file that ends before its container says and before the wanted time is over, unless the request keeps such
        files; ``bad_timestamps`` for frames that follow each other faster than any video's.
    pipeline.media.sampling.TooShort
        From a policy.
    """
    if not displayed:
        raise MediaError(*(("corrupt", f"the file is cut short: {index.cut}") if index.cut else _NO_FRAME))
    timeline = timeline_of(source, displayed, index, whole=request.start_s is None and request.end_s is None)
    check_duration(timeline.duration_s, request.limits)
    first, last = timeline.pts_s[[0, -1]].tolist()
    _check_rate(len(displayed), last - first)
    if index.cut and request.truncated == "fail" and (request.end_s is None or request.end_s > last):
        raise MediaError("corrupt", f"the file is cut short: {index.cut}")
    if duration_s is not None:
        timeline = replace(timeline, duration_s=duration_s)
    return lay_out(request, [pts for pts, _ in displayed], timeline)


def timeline_of(source: Source, displayed: list[tuple[int, int]], index: PacketIndex, whole: bool) -> Timeline:
    """Return the timeline of a source; ``whole`` says whether all of it is wanted, and not a clip."""
    times = source.seconds(pts for pts, _ in displayed)
    return Timeline(
        pts_s=np.array(times),
        duration_s=times[-1] + float(last_duration(displayed, source)),
        frame_rate=_rate(source.video.average_rate),
        nominal_rate=_rate(source.video.guessed_rate),
        shown_s=ffmpeg5_durations(displayed, index, source),
        dump_zero_s=float(source.dump_zero - source.zero) if whole else 0.0,
        alone=whole and len(source.container.streams) == 1,
        keyframe=_key_frames(displayed, index),
    )


def lay_out(request: DecodeRequest, displayed: Sequence[int], timeline: Timeline) -> FramePlan:
    """Cut the request's clip out of a source's timeline and let every policy choose among its frames.

    Parameters
    ----------
    displayed
        What the frames of the timeline are known by, ascending: their PTS.

    Raises
    ------
    MediaError
        ``too_short`` for a clip that begins after the end of the source.
    pipeline.media.sampling.TooShort, pipeline.media.sampling.SamplingError
        From a policy.
    """
    times = timeline.pts_s.tolist()
    start, end = _clip_bounds(request, timeline.duration_s)
    inside = _frames_inside(times, start, end)
    clip = replace(
        timeline,
        pts_s=np.array([times[number] - start for number in inside]),
        duration_s=end - start,
        shown_s=None if timeline.shown_s is None else timeline.shown_s[inside],
        keyframe=None if timeline.keyframe is None else timeline.keyframe[inside],
    )
    samples = tuple(policy_from_spec(spec).sample(clip) for spec in request.policies)
    uses = _uses_by_frame(samples)
    pts = {frame: displayed[inside[frame]] for frame in uses}
    return FramePlan(
        displayed=tuple(displayed),
        duration_s=clip.duration_s,
        source_duration_s=timeline.duration_s,
        samples=samples,
        uses={pts[frame]: slots for frame, slots in uses.items()},
        time_s={pts[frame]: float(clip.pts_s[frame]) for frame in uses},
    )


def _key_frames(displayed: Sequence[tuple[int, int]], index: PacketIndex) -> NDArray[np.bool_]:
    """Return which of the frames shown are key frames, bool [F]; the first one always is."""
    keys = {pts for pts, keyframe in zip(index.pts, index.keyframe, strict=True) if keyframe}
    key = np.array([pts in keys for pts, _ in displayed], dtype=np.bool_)
    key[0] = True
    return key


def _check_rate(frames: int, seconds: float) -> None:
    if frames > 2 and frames - 1 > MAX_RATE * seconds:
        raise MediaError("bad_timestamps", f"the timestamps put {frames} frames into {seconds:.6f} s")


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
        for slot, frame in enumerate(chosen.frame.ravel().tolist()):
            if frame >= 0:
                slots.setdefault(frame, {}).setdefault(policy, []).append(slot)
    return {
        frame: tuple((policy, tuple(filled)) for policy, filled in sorted(slots[frame].items()))
        for frame in sorted(slots)
    }


def rate_remark(source: Source, plan: FramePlan) -> dict[str, float]:
    """Return frames over duration for the media record if the rate that the container states is another by far."""
    counted = len(plan.displayed) / plan.source_duration_s if plan.source_duration_s > 0 else 0.0
    disagree = counted > 0 and rates_disagree(_rate(source.video.average_rate), counted)
    return {"counted_rate": counted} if disagree else {}


def _rate(rate: Fraction | None) -> float | None:
    return float(rate) if rate else None
