"""Says which frames of a video are wanted: the policies that choose slots on its time axis.

Every policy is a small value object. ``sample`` maps the times at which frames are shown to T steps of one frame, or of
F frames each (``Clips``); ``spec`` is what a feature's spec records; ``policy_from_spec`` reads it back.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.media.timeline import EPSILON_S, Samples, Timeline, frames_at

MAX_STEPS = 1_000_000  # more would be a slip in a settings file: 11 days at one step per second
Pad = Literal["repeat", "zero", "error"]


class SamplingError(ValueError):
    """Raised when a policy cannot be built; the message names the field."""


class TooShort(Exception):
    """Raised when a video has too few frames for a policy."""


class Policy(Protocol):
    """A rule that turns a timeline into slots."""

    @property
    def steps(self) -> int | None:
        """Number of steps T, or None if it depends on the video."""

    def sample(self, timeline: Timeline) -> Samples:
        """Choose the frames; raise ``TooShort`` if the video cannot fill the slots."""

    def spec(self) -> dict[str, Any]:
        """Return the rule in its dictionary form, JSON-able."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """``n`` equal slots over the duration, each the frame on screen at the centre of its slot.

    Slot i asks for t = (i + 1/2) * duration / n. A video of fewer than n frames shows some of them in several slots;
    there, a slot that shows the same frame as the slot before it is padding. ``pad`` says what padding holds: the frame
    again (``repeat``), zeros (``zero``), or nothing at all (``error``: such a video is refused as too short). A longer
    video has no padding, even where it holds one frame over several slots.
    """

    n: int = 32
    pad: Pad = "repeat"
    name: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        _check_count("n", self.n)
        _check_pad(self.pad)

    @property
    def steps(self) -> int | None:
        return self.n

    def sample(self, timeline: Timeline) -> Samples:
        _require_frames(timeline)
        times = self._centres(timeline)
        frame = frames_at(timeline, times)
        valid = np.ones(self.n, dtype=np.bool_)
        if len(timeline.pts_s) < self.n:
            valid[1:] = np.diff(frame) != 0
        return _apply_padding(timeline, times, frame, valid, self.pad, f"{self.n} frames")

    def _centres(self, timeline: Timeline) -> NDArray[np.float64]:
        return (np.arange(self.n, dtype=np.float64) + 0.5) * (timeline.duration_s / self.n)

    def spec(self) -> dict[str, Any]:
        return _spec(self)


@dataclass(frozen=True, slots=True)
class Keyframes(Uniform):
    """``n`` equal slots over the duration, each the key frame nearest to the centre of its slot: cheap and inexact.

    Only frames at which decoding may begin are decoded. ``time_s`` is the key frame's own time, which may be seconds
    away from the centre, before or after it; of two that are as near, the earlier is taken. A slot that shows the same
    frame as the slot before it is padding, except that the first is always valid; ``pad`` works as in ``Uniform``.
    """

    name: ClassVar[str] = "keyframes"

    def sample(self, timeline: Timeline) -> Samples:
        _require_frames(timeline)
        times = self._centres(timeline)
        keys = np.arange(len(timeline.pts_s))
        if timeline.keyframe is not None and timeline.keyframe.any():
            keys = np.flatnonzero(timeline.keyframe)
        after = np.minimum(np.searchsorted(timeline.pts_s[keys], times), len(keys) - 1)
        before = np.maximum(after - 1, 0)
        nearer = np.abs(timeline.pts_s[keys[before]] - times) <= np.abs(timeline.pts_s[keys[after]] - times)
        frame = keys[np.where(nearer, before, after)].astype(np.int64)
        valid = np.ones(self.n, dtype=np.bool_)
        valid[1:] = np.diff(frame) != 0
        return _apply_padding(timeline, times, frame, valid, self.pad, f"{self.n} key frames")


@dataclass(frozen=True, slots=True)
class Segments:
    """``t`` segments of ``seconds`` each from t = 0, each the frame on screen in the middle of its segment.

    Slot i asks for (i + 1/2) * seconds. A segment whose middle lies at or after the end of the video is padding,
    except that the first is always valid. ``pad`` works as in ``Uniform``; ``repeat`` shows the frame of the last valid
    segment again.
    """

    t: int = 60
    seconds: float = 1.0
    pad: Pad = "repeat"
    name: ClassVar[str] = "segments"

    def __post_init__(self) -> None:
        _check_count("t", self.t)
        _check_positive("seconds", self.seconds)
        _check_pad(self.pad)

    @property
    def steps(self) -> int | None:
        return self.t

    def sample(self, timeline: Timeline) -> Samples:
        _require_frames(timeline)
        times = (np.arange(self.t, dtype=np.float64) + 0.5) * self.seconds
        valid = times < timeline.duration_s - EPSILON_S
        valid[0] = True
        frame = frames_at(timeline, times)
        frame[~valid] = frame[valid][-1]
        wanted = f"{self.t} segments of {self.seconds:g} s"
        return _apply_padding(timeline, times, frame, valid, self.pad, wanted)

    def spec(self) -> dict[str, Any]:
        return _spec(self)


@dataclass(frozen=True, slots=True)
class Clips:
    """``t`` segments of ``seconds`` each from t = 0, each a clip of ``frames`` frames at equal distances.

    Frame j of step i is the one on screen at (i + (j + 1/2) / frames) * seconds. Which steps are valid, their times and
    ``pad`` are as in ``Segments``; ``repeat`` shows the frames of the last valid step again. In a valid step, what
    lies at or after the end of the video shows its last frame. With one frame, the steps are those of ``Segments``.
    """

    t: int = 60
    seconds: float = 1.0
    frames: int = 8
    pad: Pad = "repeat"
    name: ClassVar[str] = "clips"

    def __post_init__(self) -> None:
        _ = self._segments
        _check_count("frames", self.frames)
        if self.t * self.frames > MAX_STEPS:
            raise SamplingError(f"frames: {self.t} clips of {self.frames} are more than {MAX_STEPS} frames")

    @property
    def steps(self) -> int | None:
        return self.t

    def sample(self, timeline: Timeline) -> Samples:
        segments = self._segments.sample(timeline)
        parts = (np.arange(self.frames, dtype=np.float64) + 0.5) / self.frames
        frame = frames_at(timeline, (np.arange(self.t, dtype=np.float64)[:, None] + parts) * self.seconds)  # [T, F]
        valid = segments.valid
        frame[~valid] = -1 if self.pad == "zero" else frame[valid][-1]
        return replace(segments, frame=frame)

    @property
    def _segments(self) -> Segments:
        return Segments(self.t, self.seconds, self.pad)

    def spec(self) -> dict[str, Any]:
        return _spec(self)


@dataclass(frozen=True, slots=True)
class Fps:
    """The frames on screen at t = 0, 1/rate, 2/rate, ... before the end: ragged, at least one slot, no padding."""

    rate: float
    name: ClassVar[str] = "fps"

    def __post_init__(self) -> None:
        _check_positive("rate", self.rate)

    @property
    def steps(self) -> int | None:
        return None

    def sample(self, timeline: Timeline) -> Samples:
        _require_frames(timeline)
        count = max(1, math.ceil((timeline.duration_s - EPSILON_S) * self.rate))
        if count > MAX_STEPS:
            raise SamplingError(f"fps.rate: {self.rate:g} gives {count} slots, more than {MAX_STEPS}")
        frame = frames_at(timeline, np.arange(count) / self.rate)
        return Samples(frame, timeline.pts_s[frame], np.ones(count, dtype=np.bool_))

    def spec(self) -> dict[str, Any]:
        return _spec(self)


@dataclass(frozen=True, slots=True)
class NextGqa32:
    """The published sampling of NExT-GQA (Xiao et al., CVPR 2024): 32 of the images of a 6-fps dump.

    The authors dumped each video by hand with FFmpeg at 6 fps and kept files 1, 4, 7, ... (2 fps); ``sample_clips``
    then takes 32 of the M files. The dump is ``ffmpeg -i VIDEO -r 6 %d.jpg``, emulated by ``dump_frames``: its constant
    rate encoder emits the two first frames at once, hence the floor(6T) + 2 files from which 96 % of the published
    tables follow, where the filter ``fps=6`` gives round(6T) files and explains 37 %. ``time_s`` is the real time of
    each image; ``published_time_s`` is the tables' own round((1 + 3c) / 6, 1), which is 0.40 s late on
    average (0.12 to 0.43 s, measured on 12 videos). All slots are valid: repeats in short videos belong to the
    published rule. A folder of images at 6 per second is taken for the dump.
    """

    name: ClassVar[str] = "nextgqa32"
    rate: ClassVar[int] = 6

    @property
    def steps(self) -> int | None:
        return 32

    def sample(self, timeline: Timeline) -> Samples:
        _require_frames(timeline)
        is_dump = timeline.dumped_rate == self.rate
        files = (np.arange(len(timeline.pts_s)) if is_dump else dump_frames(timeline, self.rate))[::3]
        chosen = np.array(sample_clips(len(files), 32, 4), dtype=np.int64)
        frame = files[chosen]
        published = np.array([round((1 + 3 * int(index)) / 6, 1) for index in chosen])
        return Samples(frame, timeline.pts_s[frame], np.ones(32, dtype=np.bool_), published)

    def spec(self) -> dict[str, Any]:
        return _spec(self)


@dataclass(frozen=True, slots=True)
class Star32:
    """The published sampling of STAR for CRA (Chen et al., CVPR 2025): 32 of the F raw frames, by number.

    The numbers are those of ``sample_clips``: ``np.linspace(0, F, 34)[1:33]``, cut to integers, if F is not 2 or 3.
    ``published_time_s`` is the tables' own round(number / fps, 2), with fps the container's average rate; ``time_s`` is
    the frame's real time. All slots are valid: repeats in short videos belong to the published rule.

    The published notebook computes the times and then reads the frames again, at number int(time * fps). Because the
    time is rounded, that is often the frame before. With ``reread`` the policy takes these frames.
    """

    reread: bool = False
    name: ClassVar[str] = "star32"

    def __post_init__(self) -> None:
        if not isinstance(self.reread, bool):
            raise SamplingError(f"reread: {self.reread!r} is neither true nor false")

    @property
    def steps(self) -> int | None:
        return 32

    def sample(self, timeline: Timeline) -> Samples:
        _require_frames(timeline)
        total = len(timeline.pts_s)
        rate = timeline.frame_rate or total / timeline.duration_s
        number = sample_clips(total, 32, 4)
        published = [round(index / rate, 2) for index in number]
        if self.reread:
            number = [min(int(time * rate), total - 1) for time in published]
        frame = np.array(number, dtype=np.int64)
        return Samples(frame, timeline.pts_s[frame], np.ones(32, dtype=np.bool_), np.array(published))

    def spec(self) -> dict[str, Any]:
        return _spec(self)


@dataclass(frozen=True, slots=True)
class MusicAvqa60:
    """The published sampling of MUSIC-AVQA (Li et al., CVPR 2022): the middle frame of each of 60 seconds, by number.

    Slot i takes displayed frame round((1/2 + i) * fps), with fps the container's average rate. A number beyond the
    frame count F wraps inside the last partial second of L = int(F mod fps) frames (int(fps) when 0):
    S + 1 + ((number - S - 1) mod L) with S = F - L; such slots are padding. A number equal to F reads the last
    frame, as the published reader did. ``published_time_s`` is i + 1/2, the second that the slot stands for.

    Some containers state an average rate that their frames do not bear out: 60,000 for DV, 25 for one of 11.7. ``rate``
    says what is then believed: ``stated`` is the published rule, and ``counted`` takes frames over duration wherever
    the two differ by more than a factor of two.
    """

    rate: Literal["stated", "counted"] = "stated"
    name: ClassVar[str] = "music_avqa60"

    def __post_init__(self) -> None:
        if self.rate not in ("stated", "counted"):
            raise SamplingError(f"rate: {self.rate!r} is neither 'stated' nor 'counted'")

    @property
    def steps(self) -> int | None:
        return 60

    def sample(self, timeline: Timeline) -> Samples:
        _require_frames(timeline)
        total = len(timeline.pts_s)
        counted = total / timeline.duration_s
        rate = timeline.frame_rate or counted
        if self.rate == "counted" and rates_disagree(rate, counted):
            rate = counted
        last = int(total % rate) or max(1, int(rate))
        start = total - last
        number = np.array([round((0.5 + second) * rate) for second in range(60)], dtype=np.int64)
        valid = number <= total
        wrapped = start + 1 + (number - start - 1) % last
        frame = np.clip(np.where(valid, number, wrapped), 0, total - 1)
        return Samples(frame, timeline.pts_s[frame], valid, np.arange(60, dtype=np.float64) + 0.5)

    def spec(self) -> dict[str, Any]:
        # The published rule keeps the spec that it had before there was a choice.
        return {"policy": self.name} if self.rate == "stated" else _spec(self)


def rates_disagree(stated: float | None, counted: float) -> bool:
    """Return whether a stated rate and frames over duration differ by more than a factor of two."""
    return stated is not None and not counted / 2 <= stated <= counted * 2


def sample_clips(total: int, num_clips: int, k: int) -> list[int]:
    """Return the centres of ``num_clips`` windows of ``k`` frames over ``total``, as NExT-GQA publishes them.

    The centres come from ``np.linspace`` itself: its rounding error decides one index in some 500 totals below 20,000,
    so integer arithmetic would not reproduce the published tables. A short window that begins at 0 is filled on its
    left with frame 0, any other on its right with its last frame; the element in its middle is taken.

    Raises
    ------
    TooShort
        If ``total`` is 0.
    """
    if total < 1:
        raise TooShort("no frame to sample from")
    chosen = []
    for centre in np.linspace(0, total, num_clips + 2, dtype=np.int32)[1 : num_clips + 1]:
        window = list(range(max(int(centre) - k // 2, 0), min(int(centre) + k // 2, total)))
        missing = k - len(window)
        if window[0] == 0:
            window = [window[0]] * missing + window
        else:
            window = window + [window[-1]] * missing
        chosen.append(window[len(window) // 2])
    return chosen


def dump_frames(timeline: Timeline, rate: int) -> NDArray[np.int64]:
    """Return the indices of the frames in an image dump ``ffmpeg -i VIDEO -r RATE %d.jpg``, in order of the files.

    The rule is the constant-rate branch of the ffmpeg command line (releases 2 to 5.1; checked file by file against
    5.1): with time counted in output frames, an input frame that ends more than 1.1 before the output's clock is
    dropped, one that ends more than 1.1 after it is written round(delta) times, the frame before it filling what
    lies before its own start; at the end the last frame is written as often as the median of the last three fills.
    A frame lasts as many whole output frames as its packet claims or, if that rounds to none, one frame at the
    stream's nominal rate. Times count from FFmpeg's own zero. If the video is the only stream, the output begins with
    its first frame (``VSYNC_VSCFR``).

    Returns
    -------
    numpy.ndarray
        int64 [N], index into ``timeline.pts_s`` for every file; N >= 1 for a video with frames.
    """
    span = min(rate / timeline.nominal_rate, 1.0) if timeline.nominal_rate else 1.0
    shown = timeline.shown_s
    if shown is None:
        shown = np.diff(timeline.pts_s, append=timeline.duration_s)
    written: list[int] = []
    fills = [0, 0, 0]
    origin = 0
    for index, (time_s, shown_s) in enumerate(zip(timeline.pts_s.tolist(), shown.tolist(), strict=True)):
        # FFmpeg keeps 16 extra bits of time and moves values off exact midpoints.
        position = round((time_s - timeline.dump_zero_s) * rate * 65536) / 65536
        position += math.copysign(2.0**-17, position) if position else 0.0
        if index == 0 and timeline.alone and position >= 0.5:
            origin = round(position)
        lead = position - len(written) - origin
        delta = lead + (round(shown_s * rate) or span)
        if lead < 0 < delta:
            lead = 0.0
        copies, fill = 1, 0
        if delta < -1.1:
            copies = 0
        elif delta > 1.1:
            copies = round(delta)
            if lead > 1.1:
                fill = min(round(lead - 0.6), copies)
        fills = [fill, *fills[:2]]
        written += [max(index - 1, 0)] * fill + [index] * (copies - fill)
    written += [len(timeline.pts_s) - 1] * sorted(fills)[1]
    return np.array(written, dtype=np.int64)


_AnyPolicy = Uniform | Keyframes | Segments | Clips | Fps | NextGqa32 | Star32 | MusicAvqa60
_POLICIES: dict[str, type[_AnyPolicy]] = {
    policy.name: policy for policy in (Uniform, Keyframes, Segments, Clips, Fps, NextGqa32, Star32, MusicAvqa60)
}


def policy_from_spec(spec: dict[str, Any]) -> Policy:
    """Build a policy from its dictionary form, as in ``{"policy": "uniform", "n": 32, "pad": "repeat"}``.

    Raises
    ------
    SamplingError
        If the policy or one of its fields is unknown, missing or out of range.
    """
    name = spec.get("policy")
    if not isinstance(name, str) or name not in _POLICIES:
        raise SamplingError(f"sampling.policy: {name!r} is not one of {', '.join(_POLICIES)}")
    policy = _POLICIES[name]
    given = {key: value for key, value in spec.items() if key != "policy"}
    known = [field.name for field in fields(policy)]
    for key in given:
        if key not in known:
            allowed = ", ".join(known) or "none"
            raise SamplingError(f"sampling.{key}: not a field of {name!r} (its fields: {allowed})")
    if policy is Fps and "rate" not in given:
        raise SamplingError("sampling.rate: 'fps' needs a rate in frames per second")
    try:
        return policy(**given)
    except SamplingError as error:
        raise SamplingError(f"sampling.{error}") from None


def _spec(policy: _AnyPolicy) -> dict[str, Any]:
    return {"policy": policy.name, **asdict(policy)}


def _apply_padding(
    timeline: Timeline,
    times: NDArray[np.float64],
    frame: NDArray[np.int64],
    valid: NDArray[np.bool_],
    pad: Pad,
    wanted: str,
) -> Samples:
    """Fill the slots that are not valid as ``pad`` says; raise ``TooShort`` if it says ``error``."""
    time_s = timeline.pts_s[frame]
    if pad == "error" and not valid.all():
        raise TooShort(
            f"{len(timeline.pts_s)} frames in {timeline.duration_s:.3f} s do not fill {wanted} (pad is 'error')"
        )
    if pad == "zero":
        frame = np.where(valid, frame, -1)
        time_s = np.where(valid, time_s, times)
    return Samples(frame, time_s, valid)


def _require_frames(timeline: Timeline) -> None:
    if len(timeline.pts_s) == 0:
        raise TooShort("the video shows no frame")


def _check_count(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_STEPS:
        raise SamplingError(f"{field}: {value!r} is not a whole number from 1 to {MAX_STEPS}")


def _check_positive(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise SamplingError(f"{field}: {value!r} is not a positive number")


def _check_pad(value: object) -> None:
    if value not in ("repeat", "zero", "error"):
        raise SamplingError(f"pad: {value!r} is not one of repeat, zero, error")
