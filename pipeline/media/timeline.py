"""The time axis of a video, and what a sampling policy chose on it.

One rule of display holds everywhere: the frame at t is the one with the greatest presentation time <= t, before the
first frame the first. Comparisons allow one microsecond, the resolution at which containers state their start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPSILON_S = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The frames a video shows.

    Attributes
    ----------
    pts_s
        float64 [F], times of display in seconds, ascending; t = 0 is the presentation zero, or the start of the clip.
        A clip's first frame may carry a small negative time: it was already on screen when the clip began.
    duration_s
        End of the last frame in seconds, or the length of the clip.
    frame_rate
        Average frames per second as the container states it, or None.
    nominal_rate
        Frames per second that FFmpeg's tools assume for the stream (``av_guess_frame_rate``), or None; it differs from
        the average on variable-rate files, and only the published 6-fps dump depends on it.
    shown_s
        float64 [F], seconds that FFmpeg 5.1 reads as each packet's duration (0 for none); if None, the gaps between
        frames stand in. Only the published 6-fps dump depends on it.
    dump_zero_s
        Second of this axis that FFmpeg's command line takes for 0 (``Source.dump_zero``); only the dump depends on it.
    alone
        Whether the video is the file's only stream: a dump of it begins with the first frame, wherever that is.
    dumped_rate
        Images per second if the frames are the images of a dump already; None for a video.
    keyframe
        bool [F], where decoding may begin; None where that is not known.
    """

    pts_s: NDArray[np.float64]
    duration_s: float
    frame_rate: float | None
    nominal_rate: float | None = None
    shown_s: NDArray[np.float64] | None = None
    dump_zero_s: float = 0.0
    alone: bool = False
    dumped_rate: float | None = None
    keyframe: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What a policy chose, one entry per step. A step shows one frame, or the F frames of a clip.

    The places of the frames, called slots, are numbered from 0: T of them, or T * F, step by step.

    Attributes
    ----------
    frame
        int64 [T], or [T, F] for clips: index into ``Timeline.pts_s``; -1 where the slot is to be filled with zeros
        (``pad="zero"``), which all slots of a step are or none is.
    time_s
        float64 [T], the chosen frame's own time; for a step of zeros, the time that the step asks for. For clips, that
        of the frame in the middle of the segment.
    valid
        bool [T], False where the step is padding.
    published_time_s
        float64 [T], the time that a published rule gives each step in its own tables, or None.
    """

    frame: NDArray[np.int64]
    time_s: NDArray[np.float64]
    valid: NDArray[np.bool_]
    published_time_s: NDArray[np.float64] | None = None

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Return which steps are zeros, bool [T]."""
        empty: NDArray[np.bool_] = np.all(self.frame.reshape(len(self.frame), -1) < 0, axis=1)
        return empty

    def by_slot(self, steps: Any) -> Any:
        """View an array or tensor [T, ...] or [T, F, ...] slot by slot: [slots, ...], over the same memory."""
        return steps.reshape(self.frame.size, *steps.shape[self.frame.ndim :])

    def steps_of(self, slots: Iterable[int]) -> list[int]:
        """Return the steps that some slots belong to, ascending, each once."""
        frames = self.frame.size // len(self.frame)
        return sorted({slot // frames for slot in slots})


def frames_at(timeline: Timeline, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the indices, int64, of the frames on screen at ``times_s``, float64 of any shape."""
    index = np.searchsorted(timeline.pts_s, times_s + EPSILON_S, side="right") - 1
    return np.maximum(index, 0).astype(np.int64)
