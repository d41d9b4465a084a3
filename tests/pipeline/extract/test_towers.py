"""Towers on one decode, end to end, with random weights; weights that do not fit end a run before it decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from pipeline.shared import PreflightError
from stores import Store
from tests._helpers.hf_models import save_model
from tests._helpers.runs import extract, rgb_config

CONFIG = """
features:
  clip:
    {extractor: clip, model: ViT-S-32-alt, weights: "random:0", sampling: {policy: uniform, n: 4}, micro_batch: 4}
  swin:
    extractor: swin
    model: swin_tiny_patch4_window7_224
    weights: random:0
    sampling: {policy: segments, t: 3}
    micro_batch: 3
  vggish: {extractor: vggish, weights: "random:0", sampling: {policy: segments, t: 3}, micro_batch: 3, dtype: float32}
run: {model_threads: 1}
"""


@pytest.mark.slow
def test_clip_swin_and_vggish_from_one_pass(videos: Path, tmp_path: Path) -> None:
    config = rgb_config(tmp_path, text=CONFIG)
    result = extract(videos, tmp_path / "store", config, only=frozenset({"clip0", "clip3"}))
    assert result.exit_code == 0, result.summary["failures"]
    assert result.summary["computed"] == 6
    with Store.open(tmp_path / "store") as store, pytest.warns(UserWarning, match="random weights"):
        assert store.read("clip", ["clip0", "clip3"]).shape == (2, 4, 256)
        assert store.read("swin", ["clip0", "clip3"]).shape == (2, 3, 7, 7, 768)
        assert store.read("vggish", ["clip0", "clip3"]).shape == (2, 3, 128)
        assert store.valid("swin", "clip3").tolist() == store.valid("vggish", "clip3").tolist() == [True, True, False]
        assert store.valid("swin", "clip0").tolist() == store.valid("vggish", "clip0").tolist() == [True, False, False]
        for name in ("clip", "swin", "vggish"):
            assert np.isfinite(store.row(name, "clip3")).all()
            assert store.row(name, "clip3").any()


NAMED = """
features:
  pooled:
    {{extractor: timm, model: test_vit, weights: "{timm}", sampling: {{policy: segments, t: 3}}, micro_batch: 3}}
  map:
    {{extractor: timm, model: test_vit, weights: "{timm}", form: map, sampling: {{policy: segments, t: 3}},
     micro_batch: 3}}
  dino: {{extractor: hf, model: "{hf}", form: map, crop: squash, sampling: {{policy: segments, t: 3}}, micro_batch: 3}}
  floats: {{extractor: hf, model: "{floats}", sampling: {{policy: segments, t: 3}}, micro_batch: 3, dtype: float32}}
run: {{model_threads: 1, decode_workers: 1}}
"""


def test_towers_by_name_from_one_pass(videos: Path, tmp_path: Path) -> None:
    weights = tmp_path / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=7).state_dict(), weights)
    models = [save_model(tmp_path / name, name) for name in ("dinov2_registers", "dinov3")]
    text = NAMED.format(timm=weights, hf=models[0], floats=models[1])
    result = extract(videos, tmp_path / "store", rgb_config(tmp_path, text=text))
    assert result.exit_code == 0, result.summary["failures"]
    with Store.open(tmp_path / "store") as store:
        assert store.read("map", ["clip0", "clip3"]).shape == (2, 3, 10, 10, 64)
        assert store.read("dino", ["clip0", "clip3"]).shape == (2, 3, 4, 4, 32)
        assert store.read("floats", ["clip0", "clip3"]).shape == (2, 3, 32)
        assert store.valid("floats", "clip3").tolist() == [True, True, False] and store.row("floats", "clip3")[:2].any()
        assert store.read("pooled", ["clip0", "clip3"]).shape == (2, 3, 64)
        assert not np.array_equal(store.row("dino", "clip0"), store.row("dino", "clip3"))
        assert "preprocessing" in store.spec("dino")["model"]


@pytest.mark.parametrize("tower", ["timm", "hf"])
def test_weights_of_another_network_end_a_run_before_it_decodes(tower: str, videos: Path, tmp_path: Path) -> None:
    weights, folder = tmp_path / "test_vit.safetensors", save_model(tmp_path / "vit", "vit")
    state = timm.create_model("test_vit", num_classes=7).state_dict()
    save_file({name: value for name, value in state.items() if tower == "hf" or name != "norm.bias"}, weights)
    if tower == "hf":
        save_model(tmp_path / "other", "dinov2").joinpath("model.safetensors").replace(folder / "model.safetensors")
    config = rgb_config(tmp_path, text=NAMED.format(timm=weights, hf=folder, floats=folder))
    with pytest.raises(PreflightError, match=r"^features\.\w+: weights .* not fit: .*missing") as caught:
        extract(videos, tmp_path / "store", config)
    assert "\n" not in str(caught.value)
