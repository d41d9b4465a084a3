"""Colour and edge histograms against the definition, pixel by pixel, with the standard library's own hue."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors import ExtractorError, build


def features(frames: NDArray[np.uint8], grid: int, form: str = "map") -> NDArray[np.float32]:
    extractor = build("hue_hog", {"grid": grid, "form": form})
    values = extractor.load("cpu").forward(extractor.prepare(frames))
    assert values.dtype == np.float32 and values.shape[1:] == extractor.output().step_shape
    return values


def defined(cell: NDArray[np.float64], grey: NDArray[np.float64], top: int, left: int) -> list[float]:
    """Compute the 13 channels of one cell of 8 × 8 pixels as the docstring defines them."""
    hues, edges = [0.0] * 6, [0.0] * 4
    for y in range(8):
        for x in range(8):
            hue, _, _ = colorsys.rgb_to_hsv(*cell[y, x])
            chroma = max(cell[y, x]) - min(cell[y, x])
            row, column = top + y, left + x
            inner_row, inner_column = 0 < row < len(grey) - 1, 0 < column < len(grey) - 1
            down = grey[row + 1, column] - grey[row - 1, column] if inner_row else 0.0
            across = grey[row, column + 1] - grey[row, column - 1] if inner_column else 0.0
            angle = math.atan2(down, across) / math.pi % 1
            for bins, at, weight in ((hues, hue, chroma), (edges, angle, min(math.hypot(down, across), 1.0))):
                low = math.floor(at * len(bins))
                share = at * len(bins) - low
                bins[low % len(bins)] += weight * (1 - share) / 64
                bins[(low + 1) % len(bins)] += weight * share / 64
    return [*cell.mean((0, 1)), *np.sqrt(hues), *np.sqrt(edges)]


def test_every_channel_is_as_defined() -> None:
    # 24 × 24 is what a grid of 3 resizes to, so that nothing is resampled.
    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    values = features(frames, 3)
    pixels = frames / 255
    for frame, map_ in zip(pixels, values, strict=True):
        grey = frame @ [0.299, 0.587, 0.114]
        for row, column in ((0, 0), (1, 2), (2, 1)):
            cell = frame[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            np.testing.assert_allclose(map_[row, column], defined(cell, grey, 8 * row, 8 * column), atol=2e-4)


def test_a_red_square_on_grey() -> None:
    frames = np.full((1, 64, 96, 3), 128, np.uint8)
    frames[0, :32, 48:] = (255, 0, 0)
    red, hue = features(frames, 2)[0, :, :, 0], features(frames, 2)[0, :, :, 3:9]
    assert red[0, 1] == 1 and abs(red[1, 0] - 128 / 255) < 1e-6
    assert hue[0, 1].tolist() == [1, 0, 0, 0, 0, 0]
    assert not hue[1].any() and not hue[0, 0].any()


@pytest.mark.parametrize(("axis", "channel"), [(1, 9), (0, 11)])
def test_a_straight_edge_has_one_direction(axis: int, channel: int) -> None:
    frame = np.zeros((16, 16), np.uint8)
    frame[(slice(None), slice(4, None)) if axis else (slice(4, None), slice(None))] = 255
    edges = features(np.repeat(frame[None, :, :, None], 3, axis=3), 2)[0, 0, 0, 9:]
    assert np.flatnonzero(edges).tolist() == [channel - 9]
    # Two of eight columns see the step, at its full size.
    assert edges[channel - 9] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("form", ["map", "flat", "rows"])
def test_a_frame_has_the_same_bits_in_any_company(form: str) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (5, 64, 96, 3), np.uint8)
    values = features(frames, 7, form)
    assert (
        values.shape[1:] == {"map": (7, 7, 13), "flat": (637,), "rows": (182,)}[form]
        and values.min() >= 0
        and values.max() <= 1
    )
    assert features(frames[2:3], 7, form).tobytes() == values[2:3].tobytes()
    assert form == "rows" or values.tobytes() == features(frames, 7).tobytes()


def test_rows_are_means_and_maxima_of_the_map_wherever_a_thing_stands_across() -> None:
    frames = np.full((2, 56, 56, 3), 128, np.uint8)
    frames[0, 8:16, 16:24] = frames[1, 8:16, 40:48] = (255, 0, 0)
    maps, rows = features(frames, 7), features(frames, 7, "rows").reshape(2, 7, 26)
    np.testing.assert_allclose(rows[..., :13], maps.mean(2), atol=1e-7)
    assert np.array_equal(rows[..., 13:], maps.max(2))
    assert not np.array_equal(maps[0], maps[1])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ExtractorError, match="expected RGB frames"):
        build("hue_hog", {}).prepare(np.zeros((2, 8, 8), np.uint8))
