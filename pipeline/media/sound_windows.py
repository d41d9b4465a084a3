"""Puts sound on the same steps as the pictures: window i of a feature is the sound of second i.

A step is valid if its segment is (see ``pipeline.media.sampling.Segments``) and the track is present, even if silent,
over at least half of its window; what the track lacks inside a valid window is zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.media.sampling import Segments
from pipeline.media.timeline import EPSILON_S, Samples
from pipeline.media.types import Audio, MediaError


def audio_steps(
    audio: Audio, policy: Segments, duration_s: float, window_samples: int
) -> tuple[NDArray[np.float32], Samples]:
    """Cut a waveform into the windows of a policy.

    Parameters
    ----------
    audio
        The waveform, covering [0, duration_s).
    policy
        Where the windows start: every ``policy.seconds``, ``policy.t`` of them.
    duration_s
        Length of the source or clip in seconds.
    window_samples
        Length of a window in samples.

    Returns
    -------
    windows
        float32 [T, window_samples]. Padding repeats the last valid window (``pad="repeat"``) or is zeros
        (``pad="zero"``); without any sound, all windows are zeros.
    samples
        ``frame`` is the window's number in the track, -1 where the stored row is to be zero; ``time_s`` is the start
        of the segment in seconds; ``valid`` is False for padding.

    Raises
    ------
    MediaError
        ``too_short`` if ``pad="error"`` and a window is not valid.
    """
    time_s = np.arange(policy.t, dtype=np.float64) * policy.seconds
    first = _window_starts(audio, policy)
    waveform = np.zeros(max(int(first[-1]) + window_samples, len(audio.samples)), np.float32)
    waveform[: len(audio.samples)] = audio.samples
    windows = np.stack([waveform[start : start + window_samples] for start in first])
    present = np.array([_overlap(audio, start, start + window_samples) for start in first])
    valid = (time_s + policy.seconds / 2 < duration_s - EPSILON_S) & (2 * present >= window_samples)
    frame = np.arange(policy.t, dtype=np.int64)
    if policy.pad == "error" and not valid.all():
        raise MediaError("too_short", f"{int(valid.sum())} of {policy.t} segments have sound (pad is 'error')")
    if policy.pad == "zero" or not valid.any():
        frame[~valid] = -1
    else:
        last = np.flatnonzero(valid)[-1]
        frame[~valid] = last
    windows = np.where((frame >= 0)[:, None], windows[frame], np.float32(0))
    return windows, Samples(frame, time_s, valid)


def damaged_windows(audio: Audio, policy: Segments, window_samples: int) -> tuple[int, ...]:
    """Return the numbers of the windows in which packets of the sound do not decode, ascending."""
    return tuple(
        number
        for number, start in enumerate(_window_starts(audio, policy).tolist())
        if any(begin < start + window_samples and end > start for begin, end in audio.damaged)
    )


def _window_starts(audio: Audio, policy: Segments) -> NDArray[np.int64]:
    """Return the sample at which each window begins, int64 [T]."""
    return np.rint(np.arange(policy.t, dtype=np.float64) * policy.seconds * audio.rate).astype(np.int64)


def _overlap(audio: Audio, start: int, end: int) -> int:
    """Count the samples of [start, end) in which the track is present."""
    return sum(max(0, min(end, stop) - max(start, begin)) for begin, stop in audio.segments)
