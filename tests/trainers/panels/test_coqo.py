"""The picture of an audio-visual question."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainers.panels.coqo import Attention, Panel, draw, log_mel, shown_frames

TIMES = np.arange(60) + 0.5


def attention(peak: float) -> Attention:
    weights = np.exp(-((TIMES - peak) ** 2) / 20).astype(np.float32)
    return Attention(TIMES, weights / weights.sum())


def panel(**changes: Any) -> Panel:
    given: dict[str, Any] = {
        "name": "video a<b · question a<b_1",
        "question": "Where is the first $ounding instrument?",
        "predicted": "left",
        "answer": "right",
        "duration": 60.0,
        "audio": attention(20),
        "visual": attention(40),
    }
    return Panel(**{**given, **changes})


def picture(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_the_picture_holds_the_frames_and_is_the_same_each_time() -> None:
    magenta = np.zeros((90, 160, 3), np.uint8)
    magenta[..., [0, 2]] = 255
    shown = panel(frames=[magenta] * 60, frame_times=list(TIMES))
    data = draw(shown)
    assert draw(shown) == data
    without = (picture(draw(panel())) == (255, 0, 255)).all(-1).sum()
    assert (picture(data) == (255, 0, 255)).all(-1).sum() > 10_000 > without == 0


def test_two_questions_of_the_same_text_are_told_apart_in_the_picture() -> None:
    assert draw(panel()) != draw(panel(name="video c · question c_1"))


def test_sound_and_every_missing_part_are_optional() -> None:
    beep = np.sin(np.arange(16_000, dtype=np.float32))
    tall, short = picture(draw(panel(waveform=beep))), picture(draw(panel(answer=None, audio=None, visual=None)))
    assert tall.shape[0] > short.shape[0]


def test_the_most_attended_frame_is_framed() -> None:
    frames = [np.zeros((9, 16, 3), np.uint8)] * 60
    shown = shown_frames(panel(frames=frames, frame_times=list(TIMES)))
    assert len(shown) == 12
    framed = [index for index, is_framed in shown if is_framed]
    assert len(framed) == 1 and abs(TIMES[framed[0]] - 40) < 3
    assert not any(
        is_framed for _, is_framed in shown_frames(panel(frames=frames, frame_times=list(TIMES), visual=None))
    )


def test_a_tone_lies_in_its_mel_band() -> None:
    rate = 16_000
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    bands, seconds = log_mel(tone, rate)
    edges = np.linspace(0, 1127 * np.log1p(8000 / 700), 66)
    expected = np.abs(edges[1:-1] - 1127 * np.log1p(1000 / 700)).argmin()
    assert (bands.argmax(0) == expected).all()
    assert seconds[0] == pytest.approx(0.032)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="weights of shape"):
        Attention(TIMES, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="1 frames, 0 times"):
        panel(frames=[np.zeros((9, 16, 3), np.uint8)])
