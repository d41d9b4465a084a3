"""The hf extractor against transformers: its processors, its models, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from extractors import Extractor, ExtractorError, WeightsError, build, hf_processor
from extractors.testing import check_extractor
from tests._helpers.hf_models import MODELS, save_model
from tests._helpers.media import MEDIA

ROOT = Path(__file__).parents[2]
PREFIX = {"dinov2": 1, "dinov2_registers": 5, "dinov3": 5, "clip": 1, "vit": 1}
SIDE = {"dinov2": 4, "dinov2_registers": 4, "convnext": 2, "swin": 8}
LIGHT = """
import sys
import numpy as np
from extractors import build
extractor = build("hf", {"model": sys.argv[1], "form": "map"})
extractor.spec(), extractor.output(), extractor.prepare(np.zeros((1, 90, 160, 3), np.uint8))
print([name for name in ("torch", "torchvision", "transformers", "huggingface_hub") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hf")
    return {name: save_model(root / name, name) for name in MODELS}


@pytest.fixture(scope="module")
def real_frames() -> list[NDArray[np.uint8]]:
    """Return a frame of each real video; without any, frames of noise."""
    frames = []
    for file in sorted(MEDIA.glob("*.mp4"))[:3]:
        with av.open(str(file)) as container:
            frames.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    generator = np.random.default_rng(0)
    return frames or [generator.integers(0, 256, (*size, 3), np.uint8) for size in ((90, 161), (161, 91))]


def hf(folder: Path, **options: Any) -> Any:
    return build("hf", {"model": str(folder), **options})


def features(extractor: Extractor, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    return extractor.load("cpu", 1).forward(extractor.prepare(frame[None]))


def edited(folder: Path, target: Path, **settings: Any) -> Path:
    """Copy a model with other settings of its image processor."""
    target.mkdir()
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((folder / name).read_bytes())
    content = json.loads((folder / "preprocessor_config.json").read_text())
    content |= settings
    (target / "preprocessor_config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return target


def pixels(folder: Path, frame: NDArray[np.uint8]) -> torch.Tensor:
    """Prepare a frame as the library does, with the backend that is meant where there are two."""
    backend = None if "dinov3" in folder.name else "pil"
    processor: Any = transformers.AutoImageProcessor.from_pretrained(folder, backend=backend)
    prepared: torch.Tensor = processor(images=Image.fromarray(frame), return_tensors="pt")["pixel_values"]
    return prepared


@pytest.mark.parametrize("name", MODELS)
def test_pictures_are_those_of_the_librarys_processor(
    name: str, folders: dict[str, Path], real_frames: list[NDArray[np.uint8]]
) -> None:
    extractor = hf(folders[name])
    preprocessing = extractor.preprocessing
    for frame in real_frames:
        prepared = extractor.prepare(frame[None]).astype(np.float32)
        normalised = (prepared / 255 - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)
        expected = pixels(folders[name], frame).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(normalised, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(225, 224), (224, 225), (37, 91), (333, 332), (64, 64), (57, 101)], ids=str)
@pytest.mark.parametrize("name", ["dinov2", "clip", "convnext"])
def test_crops_begin_where_the_librarys_do(name: str, size: tuple[int, int], folders: dict[str, Path]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    extractor = hf(folders[name])
    preprocessing = extractor.preprocessing
    normalised = (extractor.prepare(frame[None]) / 255.0 - preprocessing.mean) / preprocessing.std
    expected = pixels(folders[name], frame).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(normalised, expected, rtol=0, atol=1e-5)


def test_the_torchvision_backend_differs_by_a_step_here_and_there(
    folders: dict[str, Path], real_frames: list[NDArray[np.uint8]]
) -> None:
    """What the docstring of ``extractors/hf_processor.py`` says of it, which is why the spec names the library."""
    extractor = hf(folders["siglip"])
    processor: Any = transformers.AutoImageProcessor.from_pretrained(folders["siglip"], backend="torchvision")
    for frame in real_frames:
        other = processor(images=Image.fromarray(frame), return_tensors="pt")["pixel_values"][0].numpy()
        steps = np.abs((other.transpose(1, 2, 0) * 0.5 + 0.5) * 255 - extractor.prepare(frame[None])[0])
        assert steps.max() < 2.01
    assert "Pillow" in extractor.spec()["preprocessing"]["library"]


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_automodel(
    name: str, folders: dict[str, Path], real_frames: list[NDArray[np.uint8]]
) -> None:
    frame = real_frames[0]
    model: Any = transformers.AutoModel.from_pretrained(folders[name]).eval()
    images = pixels(folders[name], frame)
    with torch.inference_mode():
        output = getattr(model, "vision_model", model)(pixel_values=images)
        hidden = output.last_hidden_state.numpy()
        if hasattr(model, "get_image_features"):
            embedded = model.get_image_features(pixel_values=images)
            pooled = getattr(embedded, "pooler_output", embedded).numpy()
        else:
            pooled = output.pooler_output.numpy().reshape(1, -1)
    side = SIDE.get(name, 4)
    if hidden.ndim == 4:
        mapped = hidden.transpose(0, 2, 3, 1)
    else:
        mapped = hidden[:, PREFIX.get(name, 0) :].reshape(1, side, side, -1)
    for form, expected in (("pooled", pooled), ("map", mapped)):
        extractor = hf(folders[name], form=form)
        extractor.check_weights()
        actual = features(extractor, frame)
        assert actual.shape == (1, *extractor.output().step_shape) == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)
    if name in PREFIX:
        np.testing.assert_allclose(features(hf(folders[name], form="cls"), frame), hidden[:, 0], rtol=0, atol=2e-5)
    else:
        with pytest.raises(ExtractorError, match="has no class token; set form=pooled or form=map"):
            hf(folders[name], form="cls")


@pytest.mark.parametrize("name", ["dinov2_registers", "siglip_vision", "convnext"])
@pytest.mark.parametrize(("row", "column"), [(0, 1), (1, 0)])
def test_maps_are_row_major(name: str, row: int, column: int, folders: dict[str, Path]) -> None:
    """One corner of the picture moves that corner of the map most."""
    extractor = hf(folders[name], form="map")
    size, _, _ = extractor.prepared_shape()
    images = np.full((2, size, size, 3), 128, np.uint8)
    corner = (slice(row * (size - 16), row * (size - 16) + 16), slice(column * (size - 16), column * (size - 16) + 16))
    images[(1, *corner)] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    plain, changed = extractor.load("cpu", 1).forward(images)
    difference = np.linalg.norm(changed - plain, axis=2)
    last = len(difference) - 1
    assert np.unravel_index(difference.argmax(), difference.shape) == (row * last, column * last)


@pytest.mark.parametrize("name", ["dinov2_registers", "dinov3", "siglip"])
def test_the_contract(name: str, folders: dict[str, Path]) -> None:
    check_extractor(hf(folders[name], form="map"))


def test_processors_have_the_defaults_of_their_classes() -> None:
    for name in hf_processor.PROCESSORS:
        cls: Any = getattr(transformers, name)
        written = json.loads(cls().to_json_string())
        given = hf_processor.read(
            {"image_processor_type": name} if name not in ("ConvNextImageProcessor",) else written
        )
        assert given == hf_processor.read(written), name


def test_planning_and_preparing_import_no_torch(folders: dict[str, Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(folders["dinov2"])], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_spec_holds_what_can_change_rows(folders: dict[str, Path], tmp_path: Path) -> None:
    extractor = hf(folders["dinov2"])
    spec = extractor.spec()
    assert (spec["model"], spec["processor"], spec["form"]) == ("dinov2", "BitImageProcessor", "pooled")
    expected = {"size": 56, "crop": "center_crop", "interpolation": "bicubic", "antialias": True, "short_side": 72}
    assert {key: spec["preprocessing"][key] for key in expected} == expected
    copy = edited(folders["dinov2"], tmp_path / "copy")
    assert hf(copy).spec() == spec, "a copy of the files is the same"
    assert hf(edited(folders["dinov2"], tmp_path / "filter", resample=2)).spec() != spec
    other = changed(copy, tmp_path / "other", **{"layernorm.bias": torch.ones(32)})
    assert hf(other).spec() == {**spec, "weights": hf(other).spec()["weights"]} != spec


def test_random_weights_follow_from_their_seed(folders: dict[str, Path], real_frames: list[NDArray[np.uint8]]) -> None:
    before = torch.get_rng_state()
    first, same, other = (hf(folders["dinov2"], weights=f"random:{seed}") for seed in (3, 3, 4))
    assert first.random_weights and first.spec()["weights"] == {"random": 3}
    frame = real_frames[0]
    assert features(first, frame).tobytes() == features(same, frame).tobytes()
    assert np.abs(features(first, frame) - features(other, frame)).max() > 1e-3
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["dinov2", "siglip", "vit"])
def test_bfloat16_is_close(name: str, folders: dict[str, Path], real_frames: list[NDArray[np.uint8]]) -> None:
    exact = features(hf(folders[name], form="map"), real_frames[0])
    half = features(hf(folders[name], form="map", compute_dtype="bfloat16"), real_frames[0])
    cosine = (exact * half).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(half, axis=-1)
    assert np.abs(exact - half).max() > 0 and cosine.min() > 0.999


def test_another_size_is_refused_or_interpolated(
    folders: dict[str, Path], tmp_path: Path, real_frames: list[NDArray[np.uint8]]
) -> None:
    larger = edited(folders["vit"], tmp_path / "larger", size={"height": 96, "width": 96})
    with pytest.raises(ExtractorError, match="vit does not take pictures of 96 pixels, which its processor makes, but"):
        hf(larger)
    assert hf(larger, image_size=64).prepared_shape() == (64, 64, 3)
    extractor = hf(larger, form="map", interpolate_positions=True)
    assert extractor.output().step_shape == (6, 6, 32)
    model: Any = transformers.AutoModel.from_pretrained(larger).eval()
    with torch.inference_mode():
        expected = model(pixel_values=pixels(larger, real_frames[0]), interpolate_pos_encoding=True)
    actual = features(extractor, real_frames[0]).reshape(36, 32)
    np.testing.assert_allclose(actual, expected.last_hidden_state[0, 1:].numpy(), rtol=0, atol=2e-5)
    with pytest.raises(ExtractorError, match="dinov2 has no positions that it interpolates on demand"):
        hf(folders["dinov2"], interpolate_positions=True)
    assert hf(folders["dinov2"], form="map", image_size=84).output().step_shape == (6, 6, 32)
    assert hf(folders["dinov2"], image_size=84).spec()["preprocessing"]["short_side"] == 108


def test_a_crop_of_ones_own_takes_the_whole_picture(folders: dict[str, Path]) -> None:
    extractor = hf(folders["dinov2"], crop="squash")
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((56, 56), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(extractor.prepare(frame[None])[0], expected)


def changed(folder: Path, target: Path, **tensors: torch.Tensor | None) -> Path:
    """Copy a model with other tensors; None leaves one out."""
    edited(folder, target)
    state: dict[str, Any] = {**load_file(target / "model.safetensors"), **tensors}
    kept = {name: value for name, value in state.items() if value is not None}
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    return target


def test_weights_that_do_not_fit_are_listed(folders: dict[str, Path], tmp_path: Path) -> None:
    source = folders["dinov2"]
    broken = changed(
        source,
        tmp_path / "broken",
        **{"layernorm.bias": None, "extra.weight": torch.zeros(2), "layernorm.weight": torch.zeros(7)},
    )
    with pytest.raises(WeightsError) as caught:
        hf(broken).check_weights()
    with pytest.raises(WeightsError, match=re.escape(str(caught.value))):
        hf(broken).load("cpu", 1)
    message = str(caught.value)
    assert "as dinov2 do not fit: 1 missing (layernorm.bias), 1 unexpected (extra.weight)" in message
    assert "1 of another shape (layernorm.weight [7] instead of [32])" in message and "\n" not in message
    head = changed(source, tmp_path / "head", **{"classifier.weight": torch.zeros(5, 32)})
    assert hf(head).load("cpu", 1).output.step_shape == (32,)
    foreign = edited(folders["vit"], tmp_path / "foreign")
    (foreign / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"as vit do not fit: .*missing .*unexpected"):
        hf(foreign).check_weights()
    (foreign / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        hf(foreign).check_weights()
    with pytest.raises(WeightsError, match="cannot be read"):
        hf(foreign).load("cpu", 1)


def test_a_pooler_that_a_file_does_not_hold_is_not_made_up(
    folders: dict[str, Path], tmp_path: Path, real_frames: list[NDArray[np.uint8]]
) -> None:
    without = changed(folders["vit"], tmp_path / "without", **{"pooler.dense.weight": None, "pooler.dense.bias": None})
    with pytest.raises(WeightsError, match=r"have no pooler \(pooler.dense.bias, .*\); set form=cls or form=map"):
        hf(without).check_weights()
    for form in ("cls", "map"):
        actual, expected = (features(hf(folder, form=form), real_frames[0]) for folder in (without, folders["vit"]))
        assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_processor_type": "Siglip2ImageProcessor"}, "Siglip2ImageProcessor; it cuts pictures into a varying"),
        (
            {"image_processor_type": "DetrImageProcessor"},
            r"DetrImageProcessor, which is not supported \(available: Bit",
        ),
        ({"image_processor_type": None}, "names no image_processor_type"),
        ({"do_resize": False}, "has do_resize=false"),
        ({"do_normalize": False}, "has do_normalize=false"),
        ({"do_pad": True}, "has do_pad=true"),
        ({"rescale_factor": 1.0}, "has rescale_factor=1.0; only 1/255"),
        ({"resample": 1}, "has resample=1; only 2"),
        ({"size": {"height": 64, "width": 32}}, "has size=.*only square pictures"),
        ({"do_center_crop": False}, "pictures would differ in size"),
        ({"crop_size": 99}, "crops 99 pixels from pictures of 72"),
        ({"image_mean": [0.5]}, r"has the statistics \[0.5\]"),
    ],
)
def test_a_processor_that_is_not_understood_is_one_line(
    settings: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ExtractorError, match=f"preprocessor_config.json .*{message}") as caught:
        hf(edited(folders["dinov2"], tmp_path / "edited", **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "somewhere/model.safetensors"}, "the folder goes into model"),
        ({"weights": "main"}, "write model for the weights of the model's own folder"),
        ({"weights": "random"}, "write random:<seed>"),
        ({"form": "patch"}, "option 'form': .*got 'patch'"),
        ({"std": [0.2, 0.0, 0.2]}, "option 'std'"),
        ({"weights": "random:0", "sha256": "0" * 64}, "random weights have none"),
        ({"crop_size": 3}, "unknown option 'crop_size'"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], message: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ExtractorError, match=f"^hf: .*{message}") as caught:
        hf(folders["dinov2"], **options)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_is_one_line(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="no such folder, and not the name of a repository"):
        hf(tmp_path / "nothing")
    with pytest.raises(
        WeightsError, match=r"no preprocessor_config.json; it must hold config.json, preprocessor_config"
    ):
        hf(tmp_path)
    folder = edited(folders["vit"], tmp_path / "odd")
    for content, message in (
        ('{"model_type": "no_such"}', "odd/config.json is not the configuration of a model: .*no_such"),
        (
            '{"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}',
            "bert is no model of images",
        ),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(ExtractorError, match=message) as caught:
            hf(folder, weights="random:0")
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"model.safetensors has sha256 .*, but 0{64} is pinned"):
        hf(folders["vit"], sha256="0" * 64).spec()


def test_a_repository_its_fetched_copy_and_a_folder_are_the_same(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--me--dinov2"
    snapshot = edited(folders["dinov2"], tmp_path / "snapshot")
    (repository / "snapshots").mkdir(parents=True)
    snapshot.rename(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    for name in ("main", "v2"):
        (repository / "refs" / name).write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = hf(folders["dinov2"]).spec()
    remote = build("hf", {"model": "me/dinov2", "revision": "v2"})
    assert remote.spec() == spec
    with pytest.raises(WeightsError, match="fetch them first"):
        remote.verify(tmp_path / "weights")
    fetched = remote.fetch(tmp_path / "weights")
    assert fetched is not None and (fetched.option, fetched.tag, fetched.model) == ("model", "v2", "me/dinov2")
    assert remote.verify(tmp_path / "weights") == fetched
    assert hf(tmp_path / "weights" / fetched.file).spec() == spec
    assert hf(folders["dinov2"]).fetch(tmp_path) is None


def test_weights_in_several_files_have_one_digest(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = edited(folders["dinov2"], tmp_path / "shards")
    model: Any = transformers.AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    whole, shards = hf(folders["dinov2"]), hf(folder)
    frame = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    assert features(shards, frame).tobytes() == features(whole, frame).tobytes()
    digest = shards.spec()["weights"]["sha256"]
    assert len(digest) == 64 and digest != whole.spec()["weights"]["sha256"]
    with pytest.raises(ExtractorError, match="pins one file"):
        hf(folder, sha256=digest).spec()


def test_options_are_frozen_values(folders: dict[str, Path]) -> None:
    extractor = hf(folders["dinov2"])
    assert dataclasses.is_dataclass(extractor.preprocessing)
    with pytest.raises(ValueError, match="frozen"):
        extractor.form = "map"
