"""The policy ``clips``: T steps of F frames, against a plain reference, ``segments`` and a film that counts frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media import Frame, Header, MediaProcess
from pipeline.media.decoding import decode
from pipeline.media.sampling import Clips, SamplingError, Segments, TooShort, policy_from_spec
from pipeline.media.timeline import EPSILON_S, Timeline
from pipeline.media.types import DecodeRequest
from tests._helpers.films import film, level
from tests._helpers.media import MEDIA_NAMES, media


def even(frames: int, rate: float = 25.0) -> Timeline:
    return Timeline(np.arange(frames) / rate, frames / rate, rate, rate)


@pytest.mark.parametrize(
    ("policy", "timeline", "frame", "valid"),
    [
        # Quarters of a second, centres at 0.125 0.375 0.625 0.875 s.
        (Clips(t=2, frames=4), even(50), [[3, 9, 15, 21], [28, 34, 40, 46]], [True, True]),
        # The middle of the second second, 1.5 s, lies before the end at 1.6 s; its last quarter shows the last frame.
        (Clips(t=2, frames=4), even(40), [[3, 9, 15, 21], [28, 34, 39, 39]], [True, True]),
        # The second middle does not: padding repeats the last valid step.
        (Clips(t=3, frames=2), even(36), [[6, 18], [6, 18], [6, 18]], [True, False, False]),
        (Clips(t=3, frames=2, pad="zero"), even(36), [[6, 18], [-1, -1], [-1, -1]], [True, False, False]),
        # A video shorter than half a segment still fills the first.
        (Clips(t=2, frames=3), even(5), [[4, 4, 4], [4, 4, 4]], [True, False]),
        # Two-second segments, one frame each: those of ``segments``.
        (Clips(t=2, seconds=2.0, frames=1), even(100), [[25], [75]], [True, True]),
        # A frame that is held fills several places.
        (Clips(t=1, frames=4), Timeline(np.array([0.0, 0.5]), 1.0, None), [[0, 0, 1, 1]], [True]),
    ],
)
def test_clips_by_table(policy: Clips, timeline: Timeline, frame: list[list[int]], valid: list[bool]) -> None:
    samples = policy.sample(timeline)
    assert samples.frame.tolist() == frame
    assert samples.valid.tolist() == valid
    assert samples.empty.tolist() == [row[0] < 0 for row in frame]
    assert samples.frame.dtype == np.int64 and samples.time_s.shape == samples.valid.shape == (policy.t,)


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Frames at whole milliseconds, some of them long; the first may begin late, or before a clip does."""
    gaps = draw(st.lists(st.integers(1, 400), min_size=1, max_size=60))
    times = np.cumsum([draw(st.integers(-200, 400)), *gaps[:-1]]) / 1000
    return Timeline(times, max(float(times[-1]) + gaps[-1] / 1000, 0.001), None)


def on_screen(timeline: Timeline, time: float) -> int:
    """The last frame that is shown at a time or before it; the first if there is none."""
    shown = [number for number, pts in enumerate(timeline.pts_s.tolist()) if pts <= time + EPSILON_S]
    return max(shown, default=0)


@given(
    timelines(),
    st.integers(1, 12),
    st.sampled_from([0.25, 0.4, 1.0, 2.0]),
    st.integers(1, 9),
    st.sampled_from(["repeat", "zero"]),
)
def test_clips_are_what_the_rule_says(timeline: Timeline, t: int, seconds: float, frames: int, pad: Any) -> None:
    samples = Clips(t, seconds, frames, pad).sample(timeline)
    last_valid = 0
    for step in range(t):
        middle = float((step + Fraction(1, 2)) * Fraction(seconds))
        valid = step == 0 or middle < timeline.duration_s - EPSILON_S
        assert samples.valid[step] == valid
        last_valid = step if valid else last_valid
        if not valid and pad == "zero":
            assert samples.frame[step].tolist() == [-1] * frames
            assert samples.time_s[step] == middle
            continue
        for place in range(frames):
            asked = float((last_valid + Fraction(2 * place + 1, 2 * frames)) * Fraction(seconds))
            # Within rounding of a frame's time either neighbour is right.
            allowed = {on_screen(timeline, asked - 1e-9), on_screen(timeline, asked + 1e-9)}
            assert int(samples.frame[step, place]) in allowed
    segments = Segments(t, seconds, pad).sample(timeline)
    assert np.array_equal(samples.time_s, segments.time_s) and np.array_equal(samples.valid, segments.valid)
    assert (np.diff(samples.frame[samples.valid], axis=1) >= 0).all()
    if frames % 2:
        assert np.array_equal(samples.frame[:, frames // 2], segments.frame)


@given(timelines(), st.integers(1, 20), st.sampled_from([0.1, 0.3, 1.0, 1.7]), st.sampled_from(["repeat", "zero"]))
def test_one_frame_is_segments(timeline: Timeline, t: int, seconds: float, pad: Any) -> None:
    clips, segments = Clips(t, seconds, 1, pad).sample(timeline), Segments(t, seconds, pad).sample(timeline)
    assert clips.frame.shape == (t, 1)
    for one, other in (
        (clips.frame[:, 0], segments.frame),
        (clips.time_s, segments.time_s),
        (clips.valid, segments.valid),
    ):
        assert one.tobytes() == other.tobytes() and one.dtype == other.dtype


@pytest.mark.parametrize("name", MEDIA_NAMES)
def test_one_frame_is_segments_on_real_clips(name: str) -> None:
    policies = (Clips(15, 1.0, 1).spec(), Segments(15).spec())
    header = next(iter(decode(DecodeRequest(str(media(name)), policies))))
    assert isinstance(header, Header)
    clips, segments = header.samples
    assert clips.frame[:, 0].tobytes() == segments.frame.tobytes() and clips.valid.tolist() == segments.valid.tolist()
    assert clips.time_s.tobytes() == segments.time_s.tobytes()


def test_error_padding_refuses_short_videos() -> None:
    with pytest.raises(TooShort, match=r"do not fill 4 segments of 1 s \(pad is 'error'\)"):
        Clips(t=4, pad="error").sample(even(60))
    with pytest.raises(TooShort, match="shows no frame"):
        Clips().sample(Timeline(np.empty(0), 0.0, None))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"frames": 0}, "sampling.frames: 0 is not a whole number from 1"),
        ({"frames": 2.0}, "sampling.frames: 2.0 is not"),
        ({"t": 0}, "sampling.t: 0 is not"),
        ({"seconds": -1}, "sampling.seconds: -1 is not a positive number"),
        ({"pad": "loop"}, "sampling.pad: 'loop' is not one of"),
        ({"t": 1000, "frames": 1001}, "sampling.frames: 1000 clips of 1001 are more than 1000000 frames"),
        ({"n": 3}, r"sampling.n: not a field of 'clips' \(its fields: t, seconds, frames, pad\)"),
    ],
)
def test_a_wrong_field_is_one_line(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        policy_from_spec({"policy": "clips", **spec})


def test_the_spec_reads_back() -> None:
    policy = Clips(20, 0.5, 4, "zero")
    assert policy.spec() == {"policy": "clips", "t": 20, "seconds": 0.5, "frames": 4, "pad": "zero"}
    assert policy_from_spec(policy.spec()) == policy
    assert policy.steps == 20


def test_slots_number_the_frames_step_by_step() -> None:
    samples = Clips(t=3, frames=2).sample(even(75))
    steps = np.arange(3 * 2 * 5).reshape(3, 2, 5)
    assert samples.by_slot(steps).shape == (6, 5)
    samples.by_slot(steps)[3] = -1
    assert (steps[1, 1] == -1).all() and (steps == -1).sum() == 5
    assert samples.steps_of([5, 0, 1, 4]) == [0, 2]
    flat = Segments(t=3).sample(even(75))
    assert flat.by_slot(steps) is not None and flat.by_slot(steps).shape == (3, 2, 5)
    assert flat.steps_of([2, 0]) == [0, 2]


def test_one_pass_gives_clips_and_single_frames(tmp_path: Path) -> None:
    """The film's pictures tell their numbers; a child process sends what this process would decode."""
    path = film(tmp_path / "film.mp4", seconds=2.6)
    policies = (Clips(4, frames=4).spec(), Segments(4).spec())
    request = DecodeRequest(str(path), policies)
    header, shown = collected(decode(request))
    clips = [3, 9, 15, 21, 28, 34, 40, 46, 53, 59, 64, 64, 53, 59, 64, 64]
    np.testing.assert_allclose(shown[0], [level(number) for number in clips], atol=1.5)
    np.testing.assert_allclose(shown[1], [level(number) for number in (12, 37, 62, 62)], atol=1.5)
    assert header.samples[0].frame.shape == (4, 4)
    assert header.samples[0].time_s.tolist() == header.samples[1].time_s.tolist()
    with MediaProcess(30, 2048, 10, "pyav") as child:
        again, sent = collected(child.decode(request))
    assert sent == shown
    assert np.array_equal(again.samples[0].frame, header.samples[0].frame)


def collected(events: Any) -> tuple[Header, list[list[float]]]:
    """The header and, for each policy, the grey that the picture of each slot shows: neighbours differ by 2."""
    header, slots = None, [dict[int, float](), dict[int, float]()]
    for event in events:
        if isinstance(event, Header):
            header = event
        elif isinstance(event, Frame):
            for policy, places in event.uses:
                slots[policy] |= dict.fromkeys(places, float(np.median(event.rgb)))
    assert header is not None
    return header, [[found[slot] for slot in sorted(found)] for found in slots]
