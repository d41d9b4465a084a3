"""The clip extractor against open_clip itself: numbers, activation, tokens, shapes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from extractors import Extractor, ExtractorError, WeightsError, build, clip_models
from extractors.clip import Clip

ROOT = Path(__file__).parents[2]
SMALL = {"model": "ViT-S-32-alt", "weights": "random:3", "image_size": 64}
SHOW = """
import hashlib, sys
import numpy as np
from extractors import build
frames = np.random.default_rng(5).integers(0, 256, (2, 64, 64, 3), np.uint8)
extractor = build("clip", {"model": "ViT-S-32-alt", "weights": "random:3", "image_size": 64})
values = extractor.load("cpu", 1).forward(frames)
print(hashlib.sha256(values.tobytes()).hexdigest())
"""


def features(extractor: Extractor, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    return extractor.load("cpu", 1).forward(extractor.prepare(frames))


def reference_model(**overrides: Any) -> Any:
    """Build ViT-S-32-alt with open_clip's own factory from the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return open_clip.create_model("ViT-S-32-alt", force_image_size=64, **overrides).eval()


def reference_images(frames: NDArray[np.uint8]) -> torch.Tensor:
    transform = open_clip.image_transform(64, is_train=False)
    return torch.stack([transform(Image.fromarray(frame)) for frame in frames])


@pytest.mark.parametrize(("activation", "quick_gelu"), [("gelu", False), ("quick_gelu", True)])
def test_cls_is_what_open_clip_encodes(frames: NDArray[np.uint8], activation: str, quick_gelu: bool) -> None:
    with torch.inference_mode():
        model = reference_model(force_quick_gelu=quick_gelu)
        expected = model.encode_image(reference_images(frames)).numpy()
    actual = features(build("clip", {**SMALL, "activation": activation}), frames)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert np.abs(np.linalg.norm(actual, axis=1) - 1).max() > 0.01, "must not be normalised"


def test_patch_tokens_are_the_last_block_after_ln_post_class_token_first(frames: NDArray[np.uint8]) -> None:
    with torch.inference_mode():
        visual = reference_model().visual
        tokens = visual.ln_post(visual.transformer(visual._embeds(reference_images(frames))))
        projected = tokens @ visual.proj
    patch = build("clip", {**SMALL, "tokens": "patch"})
    both = build("clip", {**SMALL, "tokens": "patch_projected"})
    assert patch.output().step_shape == (1 + 2 * 2, 384)
    assert both.output().step_shape == (1 + 2 * 2, 256)
    np.testing.assert_allclose(features(patch, frames), tokens.numpy(), rtol=0, atol=1e-5)
    actual = features(both, frames)
    np.testing.assert_allclose(actual, projected.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(actual[:, 0], features(build("clip", SMALL), frames), rtol=0, atol=1e-5)


def test_a_patch_map_is_the_patches_without_the_class_token_rows_first(frames: NDArray[np.uint8]) -> None:
    options = {**SMALL, "image_size": 96}
    tokens, mapped = build("clip", {**options, "tokens": "patch"}), build("clip", {**options, "tokens": "patch_map"})
    assert mapped.output().step_shape == (3, 3, 384)
    actual = features(mapped, frames)
    assert actual.tobytes() == features(tokens, frames)[:, 1:].reshape(6, 3, 3, 384).tobytes()
    assert mapped.spec() != tokens.spec()
    pixels = np.full((2, 96, 96, 3), 128, np.uint8)
    pixels[1, :32, 64:] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    plain, changed = mapped.load("cpu", 1).forward(pixels)
    difference = np.linalg.norm(changed - plain, axis=2)
    assert np.unravel_index(difference.argmax(), difference.shape) == (0, 2)


@pytest.mark.parametrize(
    ("model", "weights", "options"),
    [("ViT-B-16-SigLIP", "webli", {}), ("ViT-B-16-SigLIP2", "webli", {}), ("PE-Core-T-16-384", "meta", {})],
)
def test_other_towers_encode_what_open_clip_encodes(
    model: str, weights: str, options: dict[str, Any], frames: NDArray[np.uint8]
) -> None:
    """With the preprocessing of the tag, on untrained weights, which no tag has."""
    entry = clip_models.tag_entry(model, weights)
    transform = open_clip.image_transform(
        clip_models.tower(model).image_size,
        is_train=False,
        mean=entry["mean"],
        std=entry["std"],
        resize_mode=entry["resize_mode"],
        interpolation=entry["interpolation"],
    )
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(3)
        reference = open_clip.create_model(model).visual.eval()
        expected = reference(torch.stack([transform(Image.fromarray(frame)) for frame in frames[:1]])).numpy()
    tagged = build("clip", {"model": model, "weights": weights, **options}).preprocessing  # type: ignore[attr-defined]  # of Clip
    extractor = build(
        "clip",
        {
            "model": model,
            "weights": "random:3",
            "crop": tagged.crop,
            "interpolation": tagged.interpolation,
            "mean": tagged.mean,
            "std": tagged.std,
        },
    )
    np.testing.assert_allclose(features(extractor, frames[:1]), expected, rtol=0, atol=1e-5)


def test_the_activation_moves_the_numbers_and_is_in_the_spec(frames: NDArray[np.uint8]) -> None:
    gelu = build("clip", SMALL)
    quick = build("clip", {**SMALL, "activation": "quick_gelu"})
    assert (gelu.spec()["activation"], quick.spec()["activation"]) == ("gelu", "quick_gelu")
    assert np.abs(features(gelu, frames) - features(quick, frames)).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model": "ViT-L-14", "weights": "openai"}, "quick_gelu"),
        ({"model": "ViT-L-14-quickgelu", "weights": "openai"}, "quick_gelu"),
        ({"model": "ViT-L-14", "weights": "laion2b_s32b_b82k"}, "gelu"),
        ({"model": "ViT-B-32", "weights": "laion400m_e32"}, "quick_gelu"),
        ({"model": "ViT-B-16", "weights": "laion400m_e32"}, "gelu"),
        ({"model": "ViT-B-32", "weights": "random:0"}, "gelu"),
        ({"model": "ViT-B-32-quickgelu", "weights": "random:0"}, "quick_gelu"),
        ({"model": "ViT-B-16-SigLIP", "weights": "webli"}, "native"),
    ],
)
def test_the_activation_follows_the_weights(options: dict[str, str], expected: str) -> None:
    assert build("clip", options).spec()["activation"] == expected


def test_the_quickgelu_name_is_the_same_spec() -> None:
    plain = build("clip", {"model": "ViT-L/14", "weights": "openai"})
    assert plain.spec() == build("clip", {"model": "ViT-L-14-quickgelu", "weights": "OpenAI"}).spec()


def test_a_name_that_contradicts_its_weights_is_refused() -> None:
    extractor = build("clip", {"model": "ViT-L-14-quickgelu", "weights": "laion2b_s32b_b82k"})
    with pytest.raises(ExtractorError, match="set activation"):
        extractor.spec()


def test_preprocessing_follows_the_weights_unless_overridden() -> None:
    inception = build("clip", {"model": "ViT-L-14", "weights": "laion2b_s32b_b82k"}).spec()["preprocessing"]
    assert (inception["mean"], inception["crop"]) == ([0.5, 0.5, 0.5], "center_crop")
    siglip = build("clip", {"model": "ViT-B-16-SigLIP", "weights": "webli"})
    assert siglip.spec()["preprocessing"]["crop"] == "squash"
    overridden = build("clip", {"model": "ViT-B-16-SigLIP", "weights": "webli", "crop": "letterbox", "mean": [0.1] * 3})
    assert overridden.spec()["preprocessing"]["crop"] == "letterbox"
    assert overridden.spec()["preprocessing"]["fill"] == [26, 26, 26]


def test_the_table_read_without_importing_open_clip_is_open_clips() -> None:
    pretrained = open_clip.pretrained._PRETRAINED
    assert clip_models.pretrained() == {k: v for k, v in pretrained.items() if not k.endswith("-quickgelu")}
    assert set(clip_models.model_names()) == set(open_clip.list_models())
    assert (clip_models.OPENAI_MEAN, clip_models.OPENAI_STD) == (
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )
    digests = clip_models.openai_digests()
    assert digests["b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"] == "ViT-L-14"
    assert len(digests) == 9


@pytest.mark.parametrize(
    ("model", "tokens", "step_shape", "size"),
    [
        ("ViT-L-14", "cls", (768,), 224),
        ("ViT-L-14", "patch", (257, 1024), 224),
        ("ViT-L-14-336", "patch_projected", (577, 768), 336),
        ("ViT-B-32", "patch_projected", (50, 512), 224),
        ("ViT-L-14", "patch_map", (16, 16, 1024), 224),
        ("ViT-L-14-336", "patch_map", (24, 24, 1024), 336),
        ("RN50", "cls", (1024,), 224),
    ],
)
def test_published_shapes(model: str, tokens: str, step_shape: tuple[int, ...], size: int) -> None:
    extractor = build("clip", {"model": model, "weights": "random:0", "tokens": tokens})
    assert extractor.output().step_shape == step_shape
    assert extractor.prepared_shape() == (size, size, 3)


@pytest.mark.parametrize("model", ["RN50", "MobileCLIP2-S0"])
def test_other_towers_return_the_shape_they_promise(model: str, frames: NDArray[np.uint8]) -> None:
    extractor = build("clip", {"model": model, "weights": "random:0"})
    assert features(extractor, frames[:1]).shape == (1, *extractor.output().step_shape)


def test_coca_returns_its_pooled_embedding_not_normalised(frames: NDArray[np.uint8]) -> None:
    extractor = build("clip", {"model": "coca_ViT-B-32", "weights": "random:0"})
    actual = features(extractor, frames[:1])
    assert actual.shape == (1, 512)
    assert abs(float(np.linalg.norm(actual)) - 1) > 0.01


def test_random_weights_are_the_same_in_every_process_and_leave_the_random_state_alone() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (2, 64, 64, 3), np.uint8)
    before = torch.get_rng_state()
    here = build("clip", SMALL).load("cpu", 1).forward(pixels)
    assert torch.equal(before, torch.get_rng_state())
    there = subprocess.run([sys.executable, "-c", SHOW], cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()
    other = build("clip", {**SMALL, "weights": "random:4"}).load("cpu", 1).forward(pixels)
    assert np.abs(here - other).max() > 0.01


def test_random_weights_are_said_to_be_random() -> None:
    assert build("clip", SMALL).random_weights
    assert build("clip", SMALL).spec()["weights"] == {"random": 3}
    assert not build("clip", {}).random_weights


def test_bfloat16_is_close_and_other_numerics(frames: NDArray[np.uint8]) -> None:
    exact, half = build("clip", SMALL), build("clip", {**SMALL, "compute_dtype": "bfloat16"})
    model = half.load("cpu", 1)
    a, b = features(exact, frames), model.forward(half.prepare(frames))
    assert b.dtype == np.float32
    assert np.abs(a - b).max() > 0
    assert (np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999
    assert model.numerics()["compute_dtype"] == "bfloat16"
    assert exact.spec() != half.spec()


def test_numerics_name_what_can_move_the_last_bits() -> None:
    numerics = build("clip", SMALL).load("cpu", 1).numerics()
    assert numerics["device_type"] == "cpu"
    assert numerics["threads"] == 1
    assert numerics["torch"] == torch.__version__


def test_an_absent_device_is_one_line() -> None:
    with pytest.raises(ExtractorError, match="device 'nonsense' cannot be used") as caught:
        build("clip", SMALL).load("nonsense")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-L-41"}, "no model 'ViT-L-41'; did you mean .*'ViT-L-14'"),
        ({"weights": "openia"}, "ViT-L-14 has no weights 'openia' \\(available: .*openai"),
        ({"model": "ViT-S-32-alt", "weights": "openai"}, "open_clip has no weights for it"),
        ({"weights": "random"}, "write random:<seed>"),
        ({"weights": "random:-1"}, "write random:<seed>"),
        ({"weights": "a b"}, "neither random:<seed>, a hub tag nor a file"),
        ({"crop": "middle"}, "option 'crop': .*got 'middle'"),
        ({"image_size": 230}, "230 is not a multiple of the patch size 14"),
        ({"model": "RN50", "image_size": 256}, "RN50 takes 224 pixels only"),
        ({"model": "RN50", "tokens": "patch"}, "only tokens=cls"),
        ({"model": "ViT-B-16-SigLIP", "weights": "webli", "tokens": "patch_map"}, "only tokens=cls"),
        ({"model": "ViT-L-14-CLIPA", "weights": "datacomp1b", "tokens": "patch"}, "only tokens=cls"),
        ({"model": "RN50", "activation": "gelu"}, "leave activation=auto"),
        ({"weights": "random:0", "sha256": "0" * 64}, "random weights have none"),
        ({"sha256": "12"}, "option 'sha256'"),
        ({"std": [0.2, 0.0, 0.2]}, "option 'std'"),
        ({"crops": "squash"}, "unknown option 'crops'; did you mean 'crop'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExtractorError, match=message) as caught:
        build("clip", options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("clip: ")


def test_a_contradiction_between_tag_and_model_is_a_weights_error() -> None:
    with pytest.raises(WeightsError):
        build("clip", {"weights": "openia"})


def test_options_are_frozen() -> None:
    extractor = Clip(model="ViT-S-32-alt", weights="random:0")
    with pytest.raises(ValueError, match="frozen"):
        extractor.weights = "random:1"
