"""The swin extractor against timm: shapes, maps, order, transforms, and the original repository's checkpoints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

from extractors import ExtractorError, MicroBatcher, WeightsError, build
from extractors.swin import BACKBONES
from extractors.torch_model import TorchModel

ROOT = Path(__file__).parents[2]
NAME = "swin_tiny_patch4_window7_224"
V2 = "swinv2_tiny_window8_256"
SEED = 3

LIGHT = """
import sys
import numpy as np
import extractors
for options in ({}, {"model": "swin_large_patch4_window12_384", "crop": "squash"}, {"weights": "random:0"}):
    extractor = extractors.build("swin", options)
    extractor.spec(), extractor.output(), extractor.prepare(np.zeros((1, 90, 160, 3), np.uint8))
print([name for name in ("torch", "torchvision", "timm", "huggingface_hub") if name in sys.modules])
"""


def swin(weights: object, **options: Any) -> Any:
    return build("swin", {"model": NAME, "weights": str(weights), **options})


def timm_model(name: str, seed: int, **options: Any) -> Any:
    """Build a model with timm's own factory from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, pretrained=False, **options).eval()


def reference_images(name: str, frames: NDArray[np.uint8]) -> torch.Tensor:
    config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = create_transform(**config, is_training=False)
    return torch.stack([transform(Image.fromarray(frame)) for frame in frames])


def original_layout(network: Any) -> dict[str, torch.Tensor]:
    """Return a timm model's tensors as the original repository saves them, buffers included.

    There, a stage ends with the patch merging into the next one, the classifier is a plain linear layer ``head``, and
    the indices and masks of the windows are persistent.
    """
    state = {}
    for name, value in network.state_dict().items():
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(part for part in parts if part != "fc" or parts[0] != "head")] = value
    kept = ("relative_position_index", "relative_coords_table", "attn_mask")
    return state | {name: value for name, value in network.named_buffers() if name.endswith(kept)}


@pytest.fixture(scope="module")
def network() -> Any:
    return timm_model(NAME, 5, num_classes=1000)


@pytest.fixture(scope="module")
def checkpoint(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save ``network`` as the original repository would publish it."""
    path = tmp_path_factory.mktemp("original") / f"{NAME}.pth"
    torch.save({"model": original_layout(network)}, path)
    return path


@pytest.fixture(scope="module")
def hub_cache(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a hub cache in which the tag ``ms_in1k`` is ``network``, as timm's hub would send it."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / f"models--timm--{NAME}.ms_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(network.state_dict(), repository / "snapshots" / "abc" / "model.safetensors", {"format": "pt"})
    return cache


@pytest.fixture(scope="module")
def model() -> TorchModel:
    loaded: TorchModel = swin(f"random:{SEED}").load("cpu", 1)
    return loaded


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (2, 224, 224, 3), np.uint8)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_the_table_is_timms(name: str) -> None:
    backbone = BACKBONES[name]
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False, num_classes=0)
    assert (network.embed_dim, network.num_features) == (backbone.embed_dim, backbone.channels)
    assert tuple(len(stage.blocks) for stage in network.layers) == backbone.depths
    assert network.patch_embed.img_size == (backbone.image_size,) * 2
    assert {f"{name}.{tag}" for tag in backbone.tags} == set(timm.list_pretrained(f"{name}.*"))
    for tag in backbone.tags:
        config = timm.get_pretrained_cfg(f"{name}.{tag}")
        preprocessing = build("swin", {"model": name, "weights": tag}).spec()["preprocessing"]
        assert isinstance(preprocessing, dict)
        assert (config.mean, config.std) == (tuple(preprocessing["mean"]), tuple(preprocessing["std"]))
        assert config.interpolation == preprocessing["interpolation"]
        assert config.input_size == (3, backbone.image_size, backbone.image_size)
        assert config.pool_size == (backbone.grid, backbone.grid)
        assert int(backbone.image_size / config.crop_pct) == preprocessing["short_side"]


@pytest.mark.parametrize(
    ("model", "step_shape"),
    [
        ("swin_tiny_patch4_window7_224", (7, 7, 768)),
        ("swin_base_patch4_window7_224", (7, 7, 1024)),
        ("swin_base_patch4_window12_384", (12, 12, 1024)),
        ("swin_large_patch4_window7_224", (7, 7, 1536)),
        ("swin_large_patch4_window12_384", (12, 12, 1536)),
        ("swinv2_large_window12_192", (6, 6, 1536)),
    ],
)
def test_published_shapes(model: str, step_shape: tuple[int, ...]) -> None:
    options = {"model": model, "weights": "random:0"}
    assert build("swin", options).output().step_shape == step_shape
    assert build("swin", {**options, "pool": "mean"}).output().step_shape == step_shape[2:]


def test_the_map_is_after_the_final_norm_and_its_mean_is_what_timm_pools(frames: NDArray[np.uint8]) -> None:
    frames = frames[:2]
    reference = timm_model(NAME, SEED, num_classes=0)
    with torch.inference_mode():
        images = reference_images(NAME, frames)
        normed = reference.norm(reference.layers(reference.patch_embed(images)))
        pooled = reference.forward_head(reference.forward_features(images), pre_logits=True)
    assert normed.shape == (2, 7, 7, 768)
    for options, expected in (({}, normed), ({"pool": "mean"}, pooled)):
        extractor = swin(f"random:{SEED}", **options)
        actual = extractor.load("cpu", 1).forward(extractor.prepare(frames))
        assert actual.dtype == np.float32
        assert actual.shape == (2, *extractor.output().step_shape)
        np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("row", "column"), [(0, 6), (6, 0)])
def test_maps_are_row_major(model: TorchModel, row: int, column: int) -> None:
    images = np.full((2, 224, 224, 3), 128, np.uint8)
    patch = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    images[1, row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = patch
    plain, changed = model.forward(images)
    difference = np.linalg.norm(changed - plain, axis=2)
    assert np.unravel_index(difference.argmax(), difference.shape) == (row, column)


@pytest.mark.parametrize("name", [NAME, V2])
def test_a_checkpoint_of_the_original_repository_gives_bitwise_the_same_map(
    name: str, tmp_path: Path, network: Any, checkpoint: Path, frames: NDArray[np.uint8]
) -> None:
    if name != NAME:
        network = timm_model(name, 5, num_classes=1000)
        checkpoint = tmp_path / "v2.pth"
        torch.save({"model": original_layout(network)}, checkpoint)
    saved = torch.load(checkpoint, weights_only=True)["model"]
    assert {"layers.0.downsample.reduction.weight", "head.weight", "layers.0.blocks.1.attn_mask"} <= set(saved)
    assert "layers.3.downsample.reduction.weight" not in saved
    original = build("swin", {"model": name, "weights": str(checkpoint)})
    timms = tmp_path / "timm.safetensors"
    save_file(network.state_dict(), timms)
    prepared = original.prepare(frames[:1])
    actual = original.load("cpu", 1).forward(prepared)
    same = build("swin", {"model": name, "weights": str(timms)}).load("cpu", 1).forward(prepared)
    assert actual.tobytes() == same.tobytes()
    with torch.inference_mode():
        expected = network.forward_features(reference_images(name, frames[:1])).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)


def test_what_does_not_fit_is_listed(checkpoint: Path, tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)["model"]
    broken = dict(saved)
    del broken["norm.bias"]
    broken["absolute_pos_embed"] = torch.zeros(1, 3136, 96)
    broken["norm.weight"] = torch.zeros(1024)
    torch.save({"model": broken}, tmp_path / "broken.pth")
    expected = (
        r"broken.pth as swin_tiny_patch4_window7_224 does not fit: 1 missing \(norm.bias\), "
        r"1 unexpected \(absolute_pos_embed\), 1 of another shape \(norm.weight \[1024\] instead of \[768\]\)"
    )
    with pytest.raises(WeightsError, match=expected) as caught:
        swin(tmp_path / "broken.pth").load("cpu", 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["layers.1.blocks.0.attn.relative_position_index", "layers.0.blocks.1.attn_mask"])
def test_buffers_of_another_window_are_refused(checkpoint: Path, tmp_path: Path, name: str) -> None:
    saved = torch.load(checkpoint, weights_only=True)["model"]
    saved[name] = saved[name].flip(0)
    torch.save({"model": saved}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=f"buffer {re.escape(name)} belongs to another window"):
        swin(tmp_path / "other.pth").load("cpu", 1)


def test_a_tag_its_fetched_file_and_the_original_checkpoint_are_the_same_weights(
    hub_cache: Path,
    checkpoint: Path,
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub_cache))
    tag = swin("ms_in1k")
    with pytest.raises(WeightsError, match="fetch them first"):
        tag.verify(tmp_path)
    written = tag.fetch(tmp_path)
    assert written is not None
    assert (written.extractor, written.model, written.tag) == ("swin", NAME, "ms_in1k")
    assert tag.verify(tmp_path) == written
    assert not [name for name in load_file(tmp_path / written.file) if name.startswith("head")]
    fetched = swin(tmp_path / written.file, sha256=written.sha256)
    by_tag, by_file, by_original = (
        extractor.load("cpu", 1).forward(pixels[:1]).tobytes() for extractor in (tag, fetched, swin(checkpoint))
    )
    assert by_tag == by_file == by_original
    assert tag.spec()["weights"] == {"tag": "ms_in1k"}
    assert fetched.spec()["weights"] == {"sha256": written.sha256}
    small = build("swin", {"model": "swin_small_patch4_window7_224", "weights": str(tmp_path / written.file)})
    with pytest.raises(WeightsError, match=f"holds {NAME}, not swin_small"):
        small.spec()


def test_an_unreachable_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("settings.network.getproxies", dict)
    monkeypatch.setattr("settings.network.socket.create_connection", unreachable)
    with pytest.raises(
        WeightsError, match=r"'ms_in1k' cannot be downloaded \(.*unreachable\).*weights.py fetch"
    ) as caught:
        swin("ms_in1k").load("cpu", 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(360, 640), (640, 360), (225, 224), (37, 91), (333, 332)], ids=str)
@pytest.mark.parametrize("name", [NAME, "swin_base_patch4_window12_384", V2])
def test_the_default_transform_is_timms(name: str, size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    extractor = build("swin", {"model": name, "weights": "random:0"})
    normalised = (extractor.prepare(frame).astype(np.float32) / 255 - extractor.mean) / extractor.std
    expected = reference_images(name, frame).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(normalised, expected, rtol=0, atol=1e-5)


def test_the_original_repositorys_transforms_can_be_chosen(frames: NDArray[np.uint8]) -> None:
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    cropped = transforms.Compose([transforms.Resize(256, bicubic), transforms.CenterCrop(224)])
    squashed = transforms.Resize((384, 384), bicubic)
    for options, transform in (
        ({"model": NAME, "short_side": 256}, cropped),
        ({"model": "swin_base_patch4_window12_384", "crop": "squash"}, squashed),
    ):
        extractor = build("swin", {**options, "weights": "random:0"})
        expected = np.stack([np.asarray(transform(Image.fromarray(frame))) for frame in frames])
        np.testing.assert_array_equal(extractor.prepare(frames), expected)


def test_preprocessing_is_explicit_in_the_spec() -> None:
    default, published, squash = (
        build("swin", {"weights": "random:0", **options}).spec()["preprocessing"]
        for options in ({}, {"short_side": 256}, {"crop": "squash"})
    )
    assert [preprocessing["short_side"] for preprocessing in (default, published, squash)] == [248, 256, None]
    assert build("swin", {"weights": "random:0", "short_side": 248}).spec()["preprocessing"] == default


def test_random_weights_come_from_the_seed_alone(model: TorchModel, pixels: NDArray[np.uint8]) -> None:
    before = torch.get_rng_state()
    again = swin(f"random:{SEED}").load("cpu", 1)
    assert torch.equal(before, torch.get_rng_state())
    assert again.forward(pixels).tobytes() == model.forward(pixels).tobytes()
    assert np.abs(swin("random:4").load("cpu", 1).forward(pixels) - model.forward(pixels)).max() > 0.1
    assert swin("random:4").random_weights
    assert not swin("ms_in1k").random_weights


def test_rows_of_any_length_pass_through_the_micro_batcher(model: TorchModel, pixels: NDArray[np.uint8]) -> None:
    rows = [("a", pixels[:1]), ("b", pixels)]
    together = dict(MicroBatcher(model, 2).run(rows))
    alone = dict(MicroBatcher(model, 2).run(rows[1:]))
    assert together["b"].shape == (2, 7, 7, 768)
    assert together["b"].tobytes() == alone["b"].tobytes()


def test_bfloat16_is_close_and_is_other_numerics(model: TorchModel, pixels: NDArray[np.uint8]) -> None:
    half = swin(f"random:{SEED}", compute_dtype="bfloat16")
    exact, rounded = model.forward(pixels[:1]), half.load("cpu", 1).forward(pixels[:1])
    assert rounded.dtype == np.float32
    assert np.abs(exact - rounded).max() > 0
    cosine = (exact * rounded).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(rounded, axis=-1)
    assert cosine.min() > 0.999
    assert half.spec() != swin(f"random:{SEED}").spec()


def test_numerics_name_what_can_move_the_last_bits(model: TorchModel) -> None:
    numerics = model.numerics()
    assert (numerics["timm"], numerics["torch"], numerics["threads"]) == (timm.__version__, torch.__version__, 1)
    assert json.loads(json.dumps(numerics)) == numerics


def test_planning_and_preparing_import_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "swin_bass_patch4_window7_224"}, "no Swin model .*; did you mean .*'swin_base_patch4_window7_224'"),
        (
            {"model": "vit_base_patch16_224"},
            "'vit_base_patch16_224' is no Swin model; the extractor timm takes any image",
        ),
        ({"model": "swin_s3_tiny_224"}, "no Swin model 'swin_s3_tiny_224'.*; the extractor timm takes others"),
        ({"model": "swin_base_patch4_window7_224.ms_in22k"}, "did you mean 'swin_base_patch4_window7_224'"),
        ({"weights": "ms_in21k"}, "has no weights 'ms_in21k' \\(available: ms_in1k, ms_in22k, ms_in22k_ft_in1k\\)"),
        ({"model": V2}, "\\(available: ms_in1k\\)$"),
        ({"weights": "random:0", "sha256": "0" * 64}, "random weights have none"),
        ({"crop": "squash", "short_side": 256}, "belongs to crop=center_crop"),
        ({"short_side": 200}, "200 is below 224"),
        ({"std": [0.2, 0.0, 0.2]}, "option 'std'"),
        ({"pool": "max"}, "option 'pool': .*got 'max'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExtractorError, match=message) as caught:
        build("swin", options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("swin: ")
