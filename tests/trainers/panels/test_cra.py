from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from examples.clips import encode, write_clip
from trainers.errors import TrainingError
from trainers.panels.clip import read_frames, read_waveform
from trainers.panels.cra import Panel, draw, to_html


def panel(**changes: Any) -> Panel:
    peak = np.exp(-((np.arange(32) - 10) ** 2) / 4.0)
    given: dict[str, Any] = {
        "name": "video a<b · question a<b_1",
        "question": "why <b>did</b> it turn",
        "options": ["because", "a & b", "$x^"],
        "scores": [1.0, 3.0, -1.0],
        "answer": 0,
        "prediction": 1,
        "times": [float(t) for t in range(32)],
        "attention": (peak / peak.sum()).tolist(),
        "weights": [1 / 32] * 32,
        "duration": 32.0,
        "true_spans": [(8.0, 12.0), (20.0, 22.5)],
        "predicted_span": (9.0, 11.0),
    }
    return Panel(**{**given, **changes})


def test_the_picture_holds_the_frames_and_is_the_same_each_time() -> None:
    magenta = np.zeros((90, 160, 3), np.uint8)
    magenta[..., [0, 2]] = 255
    with_frames = panel(frames=[magenta] * 32)
    data = draw(with_frames)
    assert data == draw(with_frames)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    shown = ((pixels[..., 0] > 250) & (pixels[..., 1] < 5) & (pixels[..., 2] > 250)).mean()
    assert 0.1 < shown < 0.5
    assert Image.open(io.BytesIO(draw(panel()))).height < pixels.shape[0]  # without frames there are no empty rows


def test_the_page_is_whole_in_itself_and_escapes_texts() -> None:
    page = to_html(panel())
    assert "why &lt;b&gt;did&lt;/b&gt; it turn" in page
    assert "a &amp; b" in page
    assert "<p>video a&lt;b · question a&lt;b_1</p>" in page
    assert "8.0–12.0 s, 20.0–22.5 s" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    image = re.search(r"base64,([^\"]+)", page)
    assert image is not None
    assert base64.b64decode(image[1]).startswith(b"\x89PNG")


def test_two_questions_of_the_same_text_are_told_apart_in_the_picture() -> None:
    assert draw(panel()) != draw(panel(name="video c · question c_1"))


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="31 and 32 weights"):
        panel(attention=[0.1] * 31)
    with pytest.raises(ValueError, match="2 scores"):
        panel(scores=[1.0, 2.0])


def test_frames_are_those_shown_at_their_times(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, seed=1, seconds=2.0, width=96, height=64, gop=10)
    times = [0.0, 0.5, 0.51, 1.0, 9.0]
    frames = read_frames(path, times, height=32)
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 5
    assert (frames[1] == frames[2]).all()
    assert (frames[0] != frames[3]).any()
    late = read_frames(path, [0.0, 0.5], start_s=0.5, height=32)
    assert (late[0] == frames[1]).all() and (late[1] == frames[3]).all()


def test_a_file_without_frames_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "no.mp4"
    path.write_bytes(b"not a video")
    with pytest.raises(TrainingError, match=r"no\.mp4: not readable"):
        read_frames(path, [0.0])
    with pytest.raises(TrainingError, match="not readable"):
        read_frames(tmp_path / "absent.mp4", [0.0])


def test_a_clip_within_a_file_has_its_own_sound(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    tone = np.concatenate([np.zeros(16000), 0.5 * np.sin(np.arange(16000) * 0.3)]).astype(np.float32)
    pictures = (np.zeros((48, 64, 3), np.uint8) for _ in range(20))
    encode(path, pictures, fps=10, size=(64, 48), sound=tone, sample_rate=16000)
    whole, second = read_waveform(path), read_waveform(path, 1.0, 0.5)
    assert whole is not None and second is not None
    assert len(second) == 8000 and np.abs(second).max() > 0.4 > 10 * np.abs(whole[:15000]).max()
