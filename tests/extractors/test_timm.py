"""The timm extractor against timm: names, data configurations, features, maps, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

from extractors import Extractor, ExtractorError, WeightsError, asking, build
from extractors.testing import check_extractor
from tests._helpers.media import MEDIA

ROOT = Path(__file__).parents[2]
# One of each kind: class token, mean of tokens, convolutions in either order of channels, hybrids of both.
MAPS = {
    "test_vit": (10, 10, 64),
    "test_vit3": (10, 10, 96),
    "test_convnext": (5, 5, 64),
    "test_efficientnet": (5, 5, 256),
    "test_resnet": (5, 5, 96),
    "deit_tiny_distilled_patch16_224": (14, 14, 192),
    "vit_small_patch16_dinov3": (16, 16, 384),
    "mixer_s32_224": (7, 7, 512),
    "swin_tiny_patch4_window7_224": (7, 7, 768),
}
SEED = 3
LIGHT = """
import sys
import numpy as np
from extractors import build
extractor = build("timm", {"model": "test_vit.r160_in1k", "form": "map"})
extractor.spec(), extractor.output(), extractor.prepare(np.zeros((1, 90, 160, 3), np.uint8))
print([name for name in ("torch", "torchvision", "timm", "huggingface_hub") if name in sys.modules])
"""


def extractor_of(model: str, weights: object = f"random:{SEED}", **options: Any) -> Any:
    return build("timm", {"model": model, "weights": str(weights), **options})


def timm_model(name: str, **options: Any) -> Any:
    """Build a model with timm's own factory from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return timm.create_model(name, pretrained=False, **{"num_classes": 0, **options}).eval()


def timm_images(name: str, frames: NDArray[np.uint8]) -> torch.Tensor:
    config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = create_transform(**config, is_training=False)
    return torch.stack([transform(Image.fromarray(frame)) for frame in frames])


def features(extractor: Extractor, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    return extractor.load("cpu", 1).forward(extractor.prepare(frames))


@pytest.fixture(scope="module")
def real_frame() -> NDArray[np.uint8]:
    """Return ``uint8 [1,H,W,3]``, a frame of a real video or noise."""
    for file in sorted(MEDIA.glob("*.mp4")):
        with av.open(str(file)) as container:
            return next(container.decode(video=0)).to_ndarray(format="rgb24")[None]
    return np.random.default_rng(0).integers(0, 256, (1, 90, 160, 3), np.uint8)


@pytest.mark.parametrize("name", MAPS)
def test_features_are_those_of_timm(name: str, real_frame: NDArray[np.uint8]) -> None:
    model, images = timm_model(name), timm_images(name, real_frame)
    with torch.inference_mode():
        pooled, unpooled = model(images).numpy(), model.forward_features(images).numpy()
    height, width, channels = MAPS[name]
    if unpooled.ndim == 3:
        unpooled = unpooled[:, unpooled.shape[1] - height * width :].reshape(1, height, width, channels)
    elif unpooled.shape[1] == channels:
        unpooled = unpooled.transpose(0, 2, 3, 1)
    for form, expected in (("pooled", pooled), ("map", unpooled)):
        extractor = extractor_of(name, form=form)
        actual = features(extractor, real_frame)
        assert actual.shape == (1, *extractor.output().step_shape) == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(("row", "column"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "vit_small_patch16_dinov3"])
def test_maps_are_row_major(name: str, row: int, column: int) -> None:
    """One corner of the picture moves that corner of the map most."""
    extractor = extractor_of(name, form="map")
    size, _, _ = extractor.prepared_shape()
    images = np.full((2, size, size, 3), 128, np.uint8)
    top, left = row * (size - 32), column * (size - 32)
    images[1, top : top + 32, left : left + 32] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    plain, changed = extractor.load("cpu", 1).forward(images)
    difference = np.linalg.norm(changed - plain, axis=2)
    at = np.unravel_index(difference.argmax(), difference.shape)
    assert [int(place > len(difference) / 2) for place in at] == [row, column]


@pytest.mark.parametrize("size", [(360, 640), (640, 360), (225, 224), (37, 91)], ids=str)
@pytest.mark.parametrize(
    "name",
    ["test_vit", "vit_medium_patch16_gap_384", "deepseek_vit_412m", "vit_base_patch16_siglip_224", "dm_nfnet_f0"],
)
def test_pictures_are_those_of_timms_transform(name: str, size: tuple[int, int]) -> None:
    """Centre crops, squashed pictures with and without a margin, borders, and both filters."""
    frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    extractor = extractor_of(name)
    preprocessing = extractor.preprocessing
    normalised = (extractor.prepare(frame) / 255.0 - preprocessing.mean) / preprocessing.std
    expected = timm_images(name, frame).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(normalised, expected, rtol=0, atol=1e-5)


def test_every_data_configuration_of_timm_is_understood_or_refused_by_name() -> None:
    """What the table of crops and filters rests on."""
    configs = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained()]
    assert {config.crop_mode for config in configs} <= {"center", "squash", "border"}
    assert {config.interpolation for config in configs} <= {"bicubic", "bilinear"}
    assert not [config for config in configs if config.crop_mode == "border" and config.crop_pct != 1.0]
    with pytest.raises(ExtractorError, match=r"takes pictures of .* pixels; only square ones are supported"):
        extractor_of("vit_base_patch16_sapiens2")


def test_the_contract() -> None:
    check_extractor(extractor_of("test_vit", form="map"))


def test_planning_and_preparing_import_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_tag_in_the_name_and_in_the_weights_are_the_same() -> None:
    first, second = build("timm", {"model": "test_vit.r160_in1k"}), extractor_of("test_vit", "r160_in1k")
    assert first.spec() == second.spec()
    assert first.spec()["model"] == "test_vit" and first.spec()["weights"] == {"tag": "r160_in1k"}
    config = timm.get_pretrained_cfg("test_vit.r160_in1k")
    preprocessing = first.spec()["preprocessing"]
    assert isinstance(preprocessing, dict)
    assert preprocessing["size"] == config.input_size[1] and preprocessing["mean"] == list(config.mean)
    assert preprocessing["short_side"] == math.floor(config.input_size[1] / config.crop_pct)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model with its classifier, as timm's hub would send it."""
    path = tmp_path_factory.mktemp("timm") / "test_vit.safetensors"
    save_file(timm_model("test_vit", num_classes=1000).state_dict(), path, {"format": "pt"})
    return path


def changed(source: Path, target: Path, **tensors: torch.Tensor | None) -> Path:
    """Copy a file with other tensors; None leaves one out."""
    state: dict[str, Any] = {**load_file(source), **tensors}
    save_file({name: value for name, value in state.items() if value is not None}, target)
    return target


def test_a_file_gives_what_timm_gives_with_it(checkpoint: Path, real_frame: NDArray[np.uint8]) -> None:
    model = timm.create_model("test_vit", checkpoint_path=str(checkpoint), num_classes=1000).eval()
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(timm_images("test_vit", real_frame)), pre_logits=True)
    extractor = extractor_of("test_vit", checkpoint)
    extractor.check_weights()
    np.testing.assert_allclose(features(extractor, real_frame), expected.numpy(), rtol=0, atol=1e-5)
    assert set(extractor.spec()["weights"]) == {"sha256"}


def test_what_does_not_fit_is_listed(checkpoint: Path, tmp_path: Path) -> None:
    broken = changed(
        checkpoint,
        tmp_path / "broken.safetensors",
        **{"norm.bias": None, "extra.weight": torch.zeros(2), "norm.weight": torch.zeros(7)},
    )
    with pytest.raises(WeightsError) as caught:
        extractor_of("test_vit", broken).check_weights()
    with pytest.raises(WeightsError, match=re.escape(str(caught.value))):
        extractor_of("test_vit", broken).load("cpu", 1)
    message = str(caught.value)
    assert "as test_vit does not fit: 1 missing (norm.bias)" in message and "extra.weight" in message
    assert "1 of another shape (norm.weight [7] instead of [64])" in message and "\n" not in message


def test_positions_of_another_size_are_not_quietly_resized(checkpoint: Path, tmp_path: Path) -> None:
    """timm's own loader would."""
    larger = changed(checkpoint, tmp_path / "larger.safetensors", pos_embed=torch.zeros(1, 1 + 14 * 14, 64))
    with pytest.raises(
        WeightsError, match=r"1 of another shape \(pos_embed \[1, 197, 64\] instead of \[1, 101, 64\]\)"
    ):
        extractor_of("test_vit", larger).check_weights()


@pytest.mark.parametrize("model", ["test_vit2", "test_convnext", "test_resnet"])
def test_a_file_of_another_architecture_is_one_line(model: str, checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=f"test_vit.safetensors as {model} does not fit: ") as caught:
        extractor_of(model, checkpoint).check_weights()
    assert "\n" not in str(caught.value)


def test_another_image_size_interpolates_positions_as_timm_does(
    checkpoint: Path, real_frame: NDArray[np.uint8]
) -> None:
    extractor = extractor_of("test_vit", checkpoint, image_size=192, form="map")
    assert extractor.output().step_shape == (12, 12, 64)
    model = timm.create_model("test_vit", checkpoint_path=str(checkpoint), num_classes=1000).eval()
    model.set_input_size(192)
    prepared = extractor.prepare(real_frame)
    images = torch.from_numpy((prepared / 255.0 - 0.5) / 0.5).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = model.forward_features(images)[:, 1:].reshape(1, 12, 12, 64)
    actual = extractor.load("cpu", 1).forward(prepared)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-5)
    with pytest.raises(ExtractorError, match="test_vit does not take pictures of 165 pixels"):
        extractor_of("test_vit", image_size=165)


def test_a_file_needs_the_tag_whose_preprocessing_it_had(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(timm_model("resnet18").state_dict(), file)
    with pytest.raises(ExtractorError, match=r"the tags of resnet18 differ .*; name that of model.safetensors, for ex"):
        extractor_of("resnet18", file)
    filters = {
        tag: extractor_of(f"resnet18.{tag}", file).spec()["preprocessing"]["interpolation"]
        for tag in ("a1_in1k", "tv_in1k")
    }
    assert filters == {"a1_in1k": "bicubic", "tv_in1k": "bilinear"}


def test_a_tag_and_its_fetched_file_are_the_same(
    checkpoint: Path, tmp_path: Path, real_frame: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--timm--test_vit.r160_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc" / "model.safetensors").write_bytes(checkpoint.read_bytes())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    tag = build("timm", {"model": "test_vit.r160_in1k"})
    written = tag.fetch(tmp_path / "weights")
    assert written is not None and (written.model, written.tag) == ("test_vit", "r160_in1k")
    assert tag.verify(tmp_path / "weights") == written
    fetched = extractor_of("test_vit", tmp_path / "weights" / written.file)
    assert features(fetched, real_frame).tobytes() == features(tag, real_frame).tobytes()
    assert fetched.spec()["preprocessing"] == tag.spec()["preprocessing"]
    with pytest.raises(WeightsError, match="holds test_vit, not test_vit2"):
        extractor_of("test_vit2", tmp_path / "weights" / written.file)


def test_bfloat16_is_close(real_frame: NDArray[np.uint8]) -> None:
    exact = features(extractor_of("test_vit", form="map"), real_frame)
    half = features(extractor_of("test_vit", form="map", compute_dtype="bfloat16"), real_frame)
    cosine = (exact * half).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(half, axis=-1)
    assert np.abs(exact - half).max() > 0 and cosine.min() > 0.999


def test_random_weights_follow_from_their_seed() -> None:
    before = torch.get_rng_state()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), np.uint8)
    first, same, other = (extractor_of("test_vit", f"random:{seed}").load("cpu", 1) for seed in (3, 3, 4))
    assert first.forward(pixels).tobytes() == same.forward(pixels).tobytes() != other.forward(pixels).tobytes()
    assert torch.equal(before, torch.get_rng_state())
    numerics = first.numerics()
    assert numerics["timm"] == timm.__version__ and json.loads(json.dumps(numerics)) == numerics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "vit_bass_patch16_224.mae"},
            "timm has no model 'vit_bass_patch16_224'; did you mean .*vit_base_patch",
        ),
        ({"model": "vit_base_patch16_224.may"}, r"vit_base_patch16_224 has no weights 'may' \(available: .*mae"),
        ({"model": "test_vit"}, "option 'weights': name the tag of test_vit"),
        ({"model": "test_vit.r160_in1k", "weights": "other"}, "name two tags; name one"),
        ({"model": "crossvit_tiny_240", "weights": "random:0", "form": "map"}, "CrossVit has no map .*set form=pooled"),
        ({"model": "test_vit", "weights": "random:0", "form": "patch"}, "option 'form': .*got 'patch'"),
        ({"model": "test_vit", "weights": "random:0", "std": [0.2, 0.0, 0.2]}, "option 'std'"),
        ({"weights": "random:0"}, "option 'model': Field required"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExtractorError, match=f"^timm: .*{message}") as caught:
        build("timm", options)
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtractorError, match="the timm extractor needs the package no_such; install it with pip"):
        asking.ask(
            "the timm extractor", "no_such", "extractors.timm_tower:describe", "test_vit", None, None, None, None
        )


def test_a_question_to_a_process_of_its_own_has_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors cross over as what they are; a library that fails to import is one line."""
    question = ("timm", "extractors.timm_tower:describe")
    here = asking.ask("it", *question, "test_vit", None, 192)
    asking._asked.cache_clear()
    monkeypatch.setattr(asking.sys, "modules", {name: module for name, module in sys.modules.items() if name != "timm"})
    assert asking.ask("it", *question, "test_vit", None, 192) == here
    with pytest.raises(WeightsError, match="test_vit has no weights 'nope'"):
        asking.ask("it", *question, "test_vit", "nope", None)
    monkeypatch.setattr(asking, "_CHILD", "raise ImportError('half installed')")
    with pytest.raises(ExtractorError, match=r"timm cannot be asked about a model \(ImportError: half installed\)"):
        asking.ask("it", *question, "test_vit", None, 160)
