"""Several questions of a video answered together, beside each alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stores import Store
from tests._helpers.coqo_building import SMALL
from tests._helpers.coqo_worlds import questions, world
from tests._helpers.question_worlds import put_questions
from trainers.coqo.config import CoqoConfig
from trainers.coqo.task import build
from trainers.coqo.together import TogetherScores, compare
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.panels import open_run
from trainers.results import TrainRequest
from trainers.run import run


def trained(folder: Path, data: dict[str, Any] | None = None, **model: Any) -> Path:
    """Train for one epoch on the toy store; its test split has one video with a single question more."""
    store = world(folder / "store", 16, 4)
    put_questions(store, "toy", "test", [*questions(range(20, 24)), questions([0])[0]])
    settings = CoqoConfig.model_validate(
        {
            "data": {"dataset": "toy", "audio": "sound", "visual": "maps", "batch_videos": 3, **(data or {})},
            "loop": {"threads": 1, "tensorboard": False, "device": "cpu", "epochs": 1},
            "model": {**SMALL, "checkpoint": False, **model},
        }
    )
    version = Store.open(store, lease=False).version
    chosen = settings.model_dump(mode="json")
    run(TrainRequest(method="coqo", store=str(store), version=version, out=str(folder / "run"), settings=chosen))
    return folder / "run"


def compared(folder: Path, *counts: int) -> TogetherScores:
    return compare(open_run(folder), "test", counts, "cpu")


def test_alone_is_what_the_run_has_scored(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    scores = compared(folder, 2, 3)
    assert (scores.n, scores.videos, list(scores.groups)) == (12, 4, [1, 2, 3])  # the single question is left out
    answers = json.loads((folder / "answers_test.json").read_text())
    truth = {row["question_id"]: row["answer"] for row in questions(range(20, 24))}
    right = sum(answers[name] == answer for name, answer in truth.items())
    assert scores.groups[1].metrics["overall"] == pytest.approx(100 * right / 12)
    assert (scores.groups[1].changed, scores.groups[1].left_alone) == (0, 12)
    assert [scores.groups[count].left_alone for count in (2, 3)] == [4, 0]  # three questions, two by two
    assert {"Audio", "Visual", "overall"} <= set(scores.groups[3].metrics)
    json.dumps(scores.to_json())


def test_a_host_without_guidance_answers_alike(tmp_path: Path) -> None:
    """HCRN by itself reads a video for each question, so that the others change nothing."""
    scores = compared(trained(tmp_path, method="hcrn"), 2, 3)
    assert [group.changed for group in scores.groups.values()] == [0, 0, 0]
    assert scores.groups[1].metrics == scores.groups[3].metrics


def test_guided_questions_see_each_other(tmp_path: Path) -> None:
    store = Store.open(world(tmp_path / "store", 4, 2), lease=False)
    data = {"dataset": "toy", "audio": "sound", "visual": "maps"}
    config = CoqoConfig.model_validate({"data": data, "model": {**SMALL, "checkpoint": False}})
    task = build(config, store, Ranks(0, 1, torch.device("cpu")))
    task.model.eval()
    videos = task.videos("test")
    with torch.inference_mode():
        alone, all_three = (
            task.answer(task.encoder.videos(videos[(0, chosen)])).logits[0, 0] for chosen in ((0,), (0, 1, 2))
        )
    assert float((alone - all_three).abs().max()) > 1e-4


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    folder = trained(tmp_path / "avst", {"collective": False}, method="avst")
    with pytest.raises(TrainingError, match="avst takes one question of a video at a time"):
        compared(folder, 2)
    folder = trained(tmp_path / "coqo", inputs="question")
    put_questions(tmp_path / "coqo/store", "toy", "lonely", questions(range(20, 24))[::3])
    described = json.loads((folder / "results.json").read_text())
    described["store_version"] = Store.open(tmp_path / "coqo/store", lease=False).version
    (folder / "results.json").write_text(json.dumps(described))
    with pytest.raises(TrainingError, match="no video of split 'lonely' has two questions"):
        compare(open_run(folder), "lonely", [2], "cpu")
