"""What several features prepare alike is prepared, held and sent once."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.clip import Clip
from extractors.preprocess import Preprocessing
from extractors.swin import Swin
from extractors.vggish import Vggish
from pipeline.extract import load_config
from pipeline.extract.decode_unit import decode_unit
from pipeline.extract.features import ready_features
from pipeline.extract.plan import Unit
from pipeline.extract.units import Decoded, RunContext

SQUASHED: dict[str, Any] = {"crop": "squash", "weights": "random:0"}
SEGMENTS = "sampling: {policy: segments, t: 6, seconds: 1.0}"
ALIKE = f"""
features:
  clip_t: {{extractor: clip, model: ViT-S-32-alt, weights: 'random:0', crop: squash, {SEGMENTS}}}
  swin_b: {{extractor: swin, weights: 'random:0', crop: squash, {SEGMENTS}}}
  swin_l: {{extractor: swin, model: swin_large_patch4_window7_224, weights: 'random:0', crop: squash, {SEGMENTS}}}
  centre: {{extractor: swin, weights: 'random:0', {SEGMENTS}}}
  other: {{extractor: swin, weights: 'random:0', crop: squash, sampling: {{policy: uniform, n: 3}}}}
  loud: {{extractor: vggish, weights: 'random:0', {SEGMENTS}}}
  plain: {{extractor: vggish, weights: 'random:0', final_relu: false, {SEGMENTS}}}
"""


def decoded(video: Path, folder: Path, names: tuple[str, ...]) -> Decoded:
    file = folder / "alike.yaml"
    file.write_text(ALIKE)
    config = load_config(file=file)
    context = RunContext(folder, ready_features(config), config.media, config.limits())
    status = video.stat()
    unit = Unit(str(video), ("v",), names, None, status.st_size, "")
    with context.media_process() as media:
        result = decode_unit(context, unit, media)
    assert isinstance(result, Decoded)
    return result


def test_equal_steps_are_one_array(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame is resized once for each geometry, and travels once."""
    resized: list[str] = []
    apply = Preprocessing.apply

    def counted(self: Preprocessing, frames: NDArray[Any]) -> NDArray[np.uint8]:
        resized.append(self.crop)
        return apply(self, frames)

    monkeypatch.setattr(Preprocessing, "apply", counted)
    clip = videos / "clip0.mp4"
    names = ("clip_t", "swin_b", "swin_l", "centre", "other", "loud", "plain")
    together = decoded(clip, tmp_path, names)
    assert together.failures == {}
    steps = {name: prepared.steps for name, prepared in together.features.items()}
    assert steps["clip_t"] is steps["swin_b"]
    assert steps["swin_b"] is steps["swin_l"]
    assert steps["loud"] is steps["plain"]
    assert len({id(array) for array in steps.values()}) == 4
    assert resized.count("squash") <= together.frames
    assert resized.count("center_crop") <= 6
    assert together.nbytes == sum({id(array): array.nbytes for array in steps.values()}.values())
    assert len(pickle.dumps(together, protocol=5)) < 1.1 * together.nbytes
    for name in names:
        alone = decoded(clip, tmp_path, (name,))
        assert alone.features[name].steps.tobytes() == steps[name].tobytes(), name


def test_a_subclass_that_prepares_in_its_own_way_shares_nothing() -> None:
    class Mirrored(Swin):
        def prepare(self, frames: NDArray[Any]) -> NDArray[np.uint8]:
            return super().prepare(frames)[:, :, ::-1]

    assert Swin(**SQUASHED).shared_preparation == Clip(model="ViT-B-32", **SQUASHED).shared_preparation is not None
    assert Mirrored(**SQUASHED).shared_preparation is None


@pytest.mark.parametrize(
    "other",
    [
        Swin(weights="random:0", crop="letterbox"),
        Swin(weights="random:0", crop="squash", interpolation="bilinear"),
        Swin(weights="random:0", crop="squash", model="swin_base_patch4_window12_384"),
        Vggish(weights="random:0"),
    ],
)
def test_another_geometry_is_not_shared(other: Any) -> None:
    assert other.shared_preparation != Swin(**SQUASHED).shared_preparation


def test_the_fill_of_a_letterbox_is_part_of_it() -> None:
    grey, black = (Swin(weights="random:0", crop="letterbox", mean=(m, m, m)) for m in (0.5, 0.0))
    assert grey.shared_preparation != black.shared_preparation
