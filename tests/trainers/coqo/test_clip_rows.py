"""CoQo reads rows whose steps were clips: vectors [T, C] and maps [T, H, W, C] of a small InternVideo2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stores import Store
from stores.commit import create_store
from tests._helpers.coqo_building import SMALL
from tests._helpers.question_worlds import put_questions, question
from tests._helpers.runs import extract, rgb_config
from trainers.coqo.config import CoqoConfig
from trainers.coqo.task import CoqoTask, build
from trainers.distributed import Ranks
from trainers.loop import evaluate, train
from trainers.progress import Progress

RANKS = Ranks(0, 1, torch.device("cpu"))
TOWER = 'extractor: internvideo2, model: s14, weights: "random:0", image_size: 28, frames: 2'
CONFIG = f"""
features:
  vector: {{{TOWER}, sampling: {{policy: clips, t: 5, frames: 2}}, micro_batch: 5}}
  map: {{{TOWER}, tokens: map, sampling: {{policy: clips, t: 5, frames: 2}}, micro_batch: 5}}
  sound: {{extractor: logmel_bands, sampling: {{policy: segments, t: 5}}}}
run: {{decode_workers: 1, model_threads: 1}}
"""


@pytest.fixture(scope="module")
def root(clip_bytes: tuple[bytes, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four clips with both kinds of rows, and two questions about each."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "videos").mkdir()
    for index, data in enumerate(clip_bytes):
        (folder / "videos" / f"clip{index}.mp4").write_bytes(data)
    root = folder / "store"
    create_store(root)
    for split in ("train", "val", "test"):
        rows = []
        for number in range(4):
            for index, text in enumerate(("Is it red?", "Does it beep?")):
                answer = ("yes", "no")[(number + index) % 2]
                given = {"question": text, "options": [], "answer": answer, "answer_index": None}
                rows.append(question(f"clip{number}", index, **given, modality="Visual", type="Visual Existential"))
        put_questions(root, "toy", split, rows)
    done = extract(folder / "videos", root, rgb_config(folder, text=CONFIG))
    assert done.exit_code == 0, done.summary["failures"]
    return root


def task(root: Path, visual: str) -> CoqoTask:
    settings: dict[str, Any] = {
        "data": {"dataset": "toy", "audio": "sound", "visual": visual, "batch_videos": 4, "allow": ["random_weights"]},
        "loop": {"threads": 1, "tensorboard": False, "device": "cpu", "epochs": 1},
        "model": {**SMALL, "checkpoint": False},
    }
    return build(CoqoConfig.model_validate(settings), Store.open(root, lease=False), RANKS)


@pytest.mark.filterwarnings("ignore:.*random weights")
@pytest.mark.parametrize(("visual", "shape"), [("vector", (4, 5, 768)), ("map", (4, 5, 2, 2, 384))])
def test_coqo_trains_on_rows_of_clips(root: Path, tmp_path: Path, visual: str, shape: tuple[int, ...]) -> None:
    chosen = task(root, visual)
    batch = next(iter(chosen.batches(0, 0)))
    assert batch.visual is not None and batch.audio is not None
    assert batch.visual.features.shape == shape
    with Store.open(root, lease=False) as store:
        assert store.valid(visual, "clip0").sum() < 5, "short clips have padding"
        assert store.times(visual, "clip3").shape == (5,)
    assert train(chosen, chosen.config.loop, tmp_path, RANKS, Progress()).steps == 1
    scored = evaluate(chosen, "test", chosen.config.loop, RANKS)
    assert len(scored.predictions["answers"]) == 8
