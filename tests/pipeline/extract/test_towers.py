"""Three towers on one decode, end to end, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stores import Store
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
