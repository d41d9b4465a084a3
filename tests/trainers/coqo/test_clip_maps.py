"""CLIP's patches as maps: from videos to a store, and from the store into a training step with the spatial stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stores import Store
from tests._helpers.coqo_building import SMALL
from tests._helpers.question_worlds import put_questions, question
from tests._helpers.runs import extract, rgb_config
from trainers.coqo.config import CoqoConfig
from trainers.coqo.task import build
from trainers.distributed import Ranks

CONFIG = """
features:
  clip_map:
    {extractor: clip, model: ViT-S-32-alt, weights: "random:0", image_size: 96, tokens: patch_map, crop: squash,
     sampling: {policy: segments, t: 3}, micro_batch: 3}
  clip_patch:
    {extractor: clip, model: ViT-S-32-alt, weights: "random:0", image_size: 96, tokens: patch, crop: squash,
     sampling: {policy: segments, t: 3}, micro_batch: 3}
  vggish: {extractor: logmel_bands, sampling: {policy: segments, t: 3}, dtype: float32}
run: {model_threads: 1, decode_workers: 1}
"""


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_coqo_trains_on_clip_with_its_spatial_stage(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    result = extract(videos, root, rgb_config(tmp_path, text=CONFIG))
    assert result.exit_code == 0, result.summary["failures"]
    for split, key in (("train", "clip1"), ("val", "clip2"), ("test", "clip3")):
        rows = [
            question(
                key, number, question="Is it loud?", options=[], answer=answer, answer_index=None, modality="Audio"
            )
            for number, answer in enumerate(("yes", "no"))
        ]
        put_questions(root, "toy", split, rows)
    config = CoqoConfig.model_validate(
        {
            "data": {"dataset": "toy", "audio": "vggish", "visual": "clip_map", "allow": ["random_weights"]},
            "loop": {"threads": 1, "tensorboard": False, "device": "cpu"},
            "model": SMALL,
        }
    )
    with Store.open(root, lease=False) as store:
        assert store.shape("clip_map", "clip1")[0] == (3, 3, 3, 384)
        patches = store.row("clip_patch", "clip1")[:, 1:].reshape(3, 3, 3, 384)
        np.testing.assert_array_equal(store.row("clip_map", "clip1"), patches)
        task = build(config, store, Ranks(0, 1, torch.device("cpu")))
        assert task.sizes.visual == (3, 3, 384)
        batch = next(iter(task.batches(0, 0)))
        assert batch.visual is not None and batch.visual.features.shape == (1, 3, 3, 3, 384)
        losses = task.loss(batch)
        sum(losses.values(), torch.tensor(0.0)).backward()
    spatial = {name: value.grad for name, value in task.model.named_parameters() if "spatial" in name}
    assert spatial and all(grad is not None and bool(grad.isfinite().all()) for grad in spatial.values())
    assert any(bool(grad.any()) for grad in spatial.values() if grad is not None)
