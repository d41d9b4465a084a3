"""Loudness per band: silence, tones, and the front end that it averages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors import ExtractorError, build, logmel


def features(windows: NDArray[np.float32], bands: int = 16) -> NDArray[np.float32]:
    extractor = build("logmel_bands", {"bands": bands})
    return extractor.load("cpu").forward(extractor.prepare(windows))


def test_silence_is_the_logarithm_of_the_offset() -> None:
    values = features(np.zeros((2, 16_000), np.float32))
    assert values.shape == (2, 16) and values.dtype == np.float32
    np.testing.assert_allclose(values, math.log(0.01), rtol=1e-6)


@pytest.mark.parametrize("hertz", [330.0, 660.0, 1320.0, 2640.0])
def test_a_tone_is_loudest_in_its_own_band(hertz: float) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000).astype(np.float32)

    def mel(frequency: float) -> float:
        return 1127 * math.log(1 + frequency / 700)

    # Triangle k of 64 peaks at the (k + 1)-th of 66 equal steps of mel between 125 and 7500 Hz; four make a band.
    triangle = (mel(hertz) - mel(125)) / (mel(7500) - mel(125)) * 65 - 1
    assert features(tone[None])[0].argmax() == round(triangle) // 4


def test_bands_are_means_of_the_front_end() -> None:
    windows = np.random.default_rng(0).uniform(-1, 1, (3, 16_000)).astype(np.float32)
    frames = logmel.log_mel(windows)
    np.testing.assert_allclose(features(windows, 64), frames.mean(1), rtol=1e-5)
    np.testing.assert_allclose(features(windows, 1)[:, 0], frames.mean((1, 2)), rtol=1e-5)
    assert features(windows[1:2]).tobytes() == features(windows)[1:2].tobytes()


@pytest.mark.parametrize("bands", [0, 3, 128])
def test_bands_divide_the_front_ends(bands: int) -> None:
    with pytest.raises(ExtractorError, match="option 'bands': must divide the 64 bands"):
        build("logmel_bands", {"bands": bands})


def test_windows_are_one_second() -> None:
    with pytest.raises(ExtractorError, match=r"expected audio windows float32 \[N,16000\]"):
        build("logmel_bands", {}).prepare(np.zeros((1, 15_600), np.float32))
