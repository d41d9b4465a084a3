"""Features on one scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stores import Store
from stores.loading import QuestionDataset, VideoDataset, View
from tests._helpers.coqo_worlds import world
from trainers.scaling import Standardise, standardise


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("avqa") / "store")


@pytest.mark.parametrize("dataset", [QuestionDataset, VideoDataset])
@pytest.mark.parametrize("name", ["sound", "maps"])
def test_the_scale_is_that_of_all_valid_steps_of_the_training_videos(
    root: Path, dataset: type[QuestionDataset] | type[VideoDataset], name: str
) -> None:
    with Store.open(root, lease=False) as store:
        read = dataset(store, "train", {"view": View(name)}, dataset="toy")
        scale = standardise(read, "view")
        rows = [store.row(name, video)[store.valid(name, video)] for video in read.videos]
        values = np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows]).astype(float)
    np.testing.assert_allclose(scale.mean, values.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scale.std, np.maximum(values.std(0), 1e-3), rtol=1e-5, atol=1e-6)


def test_a_number_that_never_changes_is_not_blown_up_and_the_scale_is_saved() -> None:
    scale = Standardise(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 0.0]))
    assert scale(torch.tensor([[3.0, 5.0]])).tolist() == [[1, 0]]
    assert not list(scale.parameters()) and set(scale.state_dict()) == {"mean", "std"}
