"""Windows of sound for front ends: real where the shared data is there, and what breaks careless arithmetic."""

from __future__ import annotations

import wave

import numpy as np
from numpy.typing import NDArray

from examples.clips import shapes_of, waveform
from tests._helpers.media import MEDIA

REAL = MEDIA.parent / "audio" / "torchvggish_test.wav"


def real_windows(rate: int) -> NDArray[np.float32]:
    """Return windows of one second, ``float32 [N, rate]``: noise, silence, a tone, a click, music and real sound."""
    times = np.arange(rate) / rate
    click = np.zeros(rate)
    click[rate // 3] = 1.0
    windows = [
        np.random.default_rng(0).uniform(-1, 1, rate),
        np.zeros(rate),
        0.5 * np.sin(2 * np.pi * 440 * times),
        click,
        np.full(rate, 0.25),
        waveform(shapes_of(3), 1.0, rate)[:rate],
    ]
    if REAL.is_file():
        with wave.open(str(REAL)) as file:
            sound = np.frombuffer(file.readframes(4 * rate), np.int16) / 32768.0
        windows += [sound[start : start + rate] for start in range(0, len(sound) - rate + 1, rate)]
    return np.stack(windows).astype(np.float32)
