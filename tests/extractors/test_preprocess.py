"""Crop policies against open_clip's own evaluation transform, and on tensors against Pillow."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import av
import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from extractors import ExtractorError, resampling
from extractors.clip_models import OPENAI_MEAN, OPENAI_STD
from extractors.preprocess import Crop, Interpolation, Preprocessing
from tests._helpers.media import MEDIA

RESIZE_MODE = {"center_crop": "shortest", "squash": "squash", "letterbox": "longest"}
SIZES = [(360, 640), (640, 360), (224, 224), (225, 224), (333, 332), (100, 50), (37, 91), (720, 1280), (3, 400)]
CROPS: list[Crop] = ["center_crop", "squash", "letterbox"]
INTERPOLATIONS: list[Interpolation] = ["bicubic", "bilinear"]


def preprocessing(crop: Crop, interpolation: Interpolation = "bicubic") -> Preprocessing:
    return Preprocessing(224, crop, interpolation, OPENAI_MEAN, OPENAI_STD)


def reference(ours: Preprocessing, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Transform a frame as open_clip does, before normalisation, on the 0..255 scale."""
    transform = open_clip.image_transform(
        ours.size,
        is_train=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resize_mode=RESIZE_MODE[ours.crop],
        interpolation=ours.interpolation,
        fill_color=ours.fill,
    )
    scaled = transform(Image.fromarray(frame)).numpy().transpose(1, 2, 0) * 255
    return np.rint(scaled).astype(np.uint8)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_open_clip_on_any_shape(size: tuple[int, int], crop: Crop, interpolation: Interpolation) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    ours = preprocessing(crop, interpolation)
    np.testing.assert_array_equal(ours.apply(frame[None])[0], reference(ours, frame))


@pytest.mark.parametrize("crop", CROPS)
def test_equals_open_clip_on_real_frames(crop: Crop) -> None:
    files = sorted(MEDIA.glob("*.mp4"))
    if not files:
        pytest.skip(f"no videos in {MEDIA}")
    ours = preprocessing(crop)
    for file in files:
        with av.open(str(file)) as container:
            frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
        np.testing.assert_array_equal(ours.apply(frame[None])[0], reference(ours, frame), err_msg=file.name)


def test_letterbox_keeps_everything_and_pads_with_what_normalises_to_zero() -> None:
    ours = preprocessing("letterbox")
    white = np.full((1, 90, 160, 3), 255, np.uint8)
    square = ours.apply(white)[0]
    bars = (square == np.array(ours.fill)).all(axis=(1, 2))
    assert bars.sum() == 224 - 126
    assert bars[:49].all()
    assert bars[-49:].all()
    assert (square[~bars] == 255).all()
    normalised = (np.array(ours.fill) / 255 - ours.mean) / ours.std
    assert np.abs(normalised).max() < 0.01


def test_centre_crop_loses_the_sides_and_squash_keeps_them() -> None:
    frame = np.zeros((1, 90, 160, 3), np.uint8)
    frame[:, :, :20] = 255
    assert preprocessing("center_crop").apply(frame).max() == 0
    assert (preprocessing("squash").apply(frame)[0, :, 0] == 255).all()


@pytest.mark.parametrize(
    "bad",
    [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 0, 8, 3), np.uint8)],
)
def test_other_arrays_are_refused_with_their_shape(bad: NDArray[np.uint8]) -> None:
    with pytest.raises(ExtractorError, match=r"expected RGB frames uint8 \[N,H,W,3\], got"):
        preprocessing("squash").apply(bad)


def test_frames_need_be_neither_contiguous_nor_writable() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (2, 100, 100, 3), np.uint8)
    view = whole[::-1, 10:60, ::2]
    view.flags.writeable = False
    np.testing.assert_array_equal(
        preprocessing("squash").apply(view), preprocessing("squash").apply(np.ascontiguousarray(view))
    )


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_tensor_gets_the_bytes_of_pillow(size: tuple[int, int], crop: Crop, interpolation: Interpolation) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, *size, 3), np.uint8)
    extremes = (rng.integers(0, 2, (2, *size, 3)) * 255).astype(np.uint8)
    ours = preprocessing(crop, interpolation)
    for frames in (noise, extremes):
        prepared = ours.apply_tensor(torch.from_numpy(frames))
        assert prepared.dtype == torch.uint8
        np.testing.assert_array_equal(prepared.numpy(), ours.apply(frames))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop", CROPS)
def test_a_tensor_of_real_frames_gets_the_bytes_of_pillow(crop: Crop, interpolation: Interpolation) -> None:
    files = sorted(MEDIA.glob("*.mp4"))
    if not files:
        pytest.skip(f"no videos in {MEDIA}")
    ours = Preprocessing(224, crop, interpolation, OPENAI_MEAN, OPENAI_STD, 256 if crop == "center_crop" else None)
    for file in files:
        with av.open(str(file)) as container:
            frame = next(container.decode(video=0)).to_ndarray(format="rgb24")[None]
        np.testing.assert_array_equal(ours.apply_tensor(torch.from_numpy(frame)).numpy(), ours.apply(frame))


@given(st.tuples(*[st.integers(1, 300)] * 2), st.tuples(*[st.integers(4, 200)] * 2), st.sampled_from(INTERPOLATIONS))
@settings(deadline=None, max_examples=60)
def test_any_size_is_resized_as_pillow_does(
    before: tuple[int, int], after: tuple[int, int], interpolation: Interpolation
) -> None:
    """Whatever pass Pillow takes first: it depends on the shape."""
    frame = np.random.default_rng(1).integers(0, 256, (*before, 3), np.uint8)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    pillow = Image.fromarray(frame).resize(after[::-1], filters[interpolation])
    ours = resampling.resize(torch.from_numpy(frame)[None], *after, interpolation)
    np.testing.assert_array_equal(ours[0].numpy(), np.asarray(pillow))


def test_a_device_that_does_not_come_to_the_same_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of fewer bits, as TensorFloat-32 would keep them."""
    exact = resampling._plan.__wrapped__

    def rounded(length: int, size: int, interpolation: Interpolation) -> object:
        plan = exact(length, size, interpolation)
        return replace(plan, high=np.round(plan.high / 256) * np.float32(256))

    monkeypatch.setattr(resampling, "_plan", rounded)
    with pytest.raises(ValueError, match="cpu does not resize 61x53 to 31x29 as Pillow"):
        resampling.resize(torch.zeros(1, 53, 61, 3, dtype=torch.uint8), 29, 31, "bicubic")


@pytest.mark.parametrize("size", [(225, 224), (90, 161), (37, 91)], ids=str)
@pytest.mark.parametrize("odd_margin", ["even", "down"])
@pytest.mark.parametrize("crop", ["center_crop", "squash"])
def test_margins_are_cut_alike_on_both_paths(
    crop: Crop, odd_margin: Literal["even", "down"], size: tuple[int, int]
) -> None:
    ours = Preprocessing(64, crop, "bicubic", OPENAI_MEAN, OPENAI_STD, 81, odd_margin)
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    np.testing.assert_array_equal(ours.apply_tensor(torch.from_numpy(frames)).numpy(), ours.apply(frames))
    assert ours.geometry() != replace(ours, short_side=80).geometry()


def test_pictures_that_are_not_rounded_are_those_that_are_before_they_are() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 160, 3), np.uint8)
    ours = Preprocessing(64, "squash", "bilinear", OPENAI_MEAN, OPENAI_STD, rounded=False)
    floats, rounded = ours.apply(frames), replace(ours, rounded=True).apply(frames)
    assert floats.dtype == np.float32 and floats.shape == rounded.shape
    # Pillow rounds after each of its two passes, of which the first counts less.
    assert 0.4 < np.abs(floats - rounded).max() < 1.1
    assert ours.geometry() != replace(ours, rounded=True).geometry() and ours.spec()["resized_in"] == "float32"
