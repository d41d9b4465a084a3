"""CoQo and the baselines trained from a small store, through the loop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stores import Store
from stores.errors import StoreError
from tests._helpers.building import commit_rows
from tests._helpers.coqo_building import SMALL
from tests._helpers.coqo_worlds import SOUND, STEPS, questions, sound, world
from tests._helpers.question_worlds import put_questions
from trainers.coqo.config import CoqoConfig
from trainers.coqo.data import Inputs
from trainers.coqo.task import CoqoTask, ScaledSteps, build
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.loop import evaluate, train
from trainers.progress import Progress

RANKS = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("avqa") / "store")


def settings(data: dict[str, Any] | None = None, loop: dict[str, Any] | None = None, **model: Any) -> CoqoConfig:
    return CoqoConfig.model_validate(
        {
            "data": {"dataset": "toy", "audio": "sound", "visual": "maps", "batch_videos": 8, **(data or {})},
            "loop": {"threads": 1, "tensorboard": False, "device": "cpu", **(loop or {})},
            "model": {**SMALL, "checkpoint": False, **model},
        }
    )


def task(root: Path, **changes: Any) -> CoqoTask:
    return build(settings(**changes), Store.open(root, lease=False), RANKS)


def all_questions(batches: list[Inputs]) -> int:
    return sum(int(batch.q_mask.sum()) for batch in batches)


def test_an_epoch_has_every_train_question_once(root: Path) -> None:
    collective = task(root)
    batches = list(collective.batches(0, 0))
    assert len(batches) == collective.steps_per_epoch() == 3
    assert all_questions(batches) == 24 * 3
    single = task(root, data={"collective": False, "batch_questions": 16})
    batches = list(single.batches(0, 0))
    assert (all_questions(batches), {batch.words.shape[1] for batch in batches}) == (24 * 3, {1})


def test_an_epoch_resumes_in_the_middle(root: Path) -> None:
    one = task(root)
    whole, rest = list(one.batches(3, 0)), list(one.batches(3, 1))
    for expected, got in zip(whole[1:], rest, strict=True):
        assert torch.equal(expected.words, got.words)
        assert expected.audio is not None and got.audio is not None
        assert torch.equal(expected.audio.features, got.audio.features)


def test_stored_dtypes_travel_as_they_are(root: Path) -> None:
    """Maps are most of the traffic; they widen on the device only."""
    batch = next(iter(task(root, data={"stride": 2}).batches(0, 0)))
    assert batch.visual is not None and batch.audio is not None
    assert (batch.visual.features.dtype, batch.visual.features.shape) == (torch.float16, (8, 3, 2, 2, 4))
    assert batch.audio.times[0].tolist() == [0.5, 2.5, 4.5]


METHODS: dict[str, dict[str, Any]] = {
    "coqo": {},
    "coqo, each question guides": {"qgt": {**SMALL["qgt"], "guidance": "per_question"}},
    "single questions": {"data": {"collective": False, "batch_questions": 24}},
    "pooled": {"data": {"pool": True}},
    "question": {"inputs": "question"},
    "audio": {"inputs": "audio"},
    "visual": {"inputs": "visual"},
    "avst": {"method": "avst", "data": {"collective": False, "batch_questions": 24}},
    "hcrn": {"method": "hcrn"},
    "hcrn with qgt": {"method": "hcrn", "hcrn": {**SMALL["hcrn"], "qgt": True}},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_answers_through_the_loop(root: Path, tmp_path: Path, name: str) -> None:
    chosen = task(root, loop={"epochs": 1}, **METHODS[name])
    outcome = train(chosen, chosen.config.loop, tmp_path, RANKS, Progress())
    assert outcome.steps == 3
    scored = evaluate(chosen, "test", chosen.config.loop, RANKS)
    assert len(scored.predictions["answers"]) == 8 * 3
    for question, by_modality in scored.predictions["attention"].items():
        video = question.rpartition("_")[0]
        for modality, weights in by_modality.items():
            assert sum(weights) == pytest.approx(1, abs=1e-5)
            assert len(scored.predictions["times"][video][modality]) == len(weights)
    assert {"overall", "Audio", "Visual", "Audio-Visual", "Audio-Visual Location"} <= set(scored.metrics)
    logged = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert logged


@pytest.mark.slow
def test_coqo_learns_what_eyes_and_ears_can_tell(root: Path, tmp_path: Path) -> None:
    loop = {"epochs": 120, "lr": 1e-3, "schedule": "constant"}
    chosen = task(root, loop=loop, dropout=0.0, qgt={**SMALL["qgt"], "layers": 1, "dropout": 0.0})
    train(chosen, chosen.config.loop, tmp_path, RANKS, Progress())
    scored = evaluate(chosen, "test", chosen.config.loop, RANKS)
    assert scored.metrics["Audio-Visual"] > 90  # "where is the beeping colour" needs both
    assert scored.metrics["overall"] > 90


def test_a_score_does_not_depend_on_the_batch_size(root: Path) -> None:
    """``docs/facts/coqo.md`` section 1.8: the published loop is right at batch size 1 only."""
    many, one = (task(root, data={"batch_questions": size}) for size in (64, 1))
    one.model.load_state_dict(many.model.state_dict())
    expected = evaluate(many, "val", many.config.loop, RANKS)
    scored = evaluate(one, "val", one.config.loop, RANKS)
    assert (scored.metrics, scored.predictions["answers"]) == (expected.metrics, expected.predictions["answers"])


def test_a_checkpoint_tells_its_vocabularies_and_version(root: Path) -> None:
    described = task(root).describe()
    assert (described["method"], described["settings"]["data"]["dataset"]) == ("coqo", "toy")  # type: ignore[call-overload,index]  # JSON
    assert described["store_version"] == Store.open(root, lease=False).version
    assert described["answers"]["answers"] == ("green", "left", "no", "red", "right", "yes")  # type: ignore[call-overload,index]  # JSON
    assert "Which" in described["words"]["words"]  # type: ignore[operator,index]  # JSON
    json.dumps(described)


def test_what_the_store_lacks_is_said_before_training(root: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="swin"):
        task(root, data={"visual": "swin"})
    with pytest.raises(StoreError, match="no questions of 'toy/dev'"):
        task(root, data={"val": "dev"})
    hidden = world(tmp_path / "hidden", 4, 2)
    put_questions(hidden, "toy", "train", questions(range(4), answer=None))
    with pytest.raises(TrainingError, match="split 'train' of 'toy' has no answers"):
        task(hidden)
    put_questions(hidden, "toy", "train", questions(range(4)))
    put_questions(hidden, "toy", "val", questions(range(4, 6), answer=None))
    with pytest.raises(TrainingError, match="split 'val' of 'toy' has no answers to validate with"):
        task(hidden)


def test_hidden_answers_are_predicted_and_not_scored(tmp_path: Path) -> None:
    """All of a test split, or some of a split: then the others alone are scored."""
    root = world(tmp_path / "store", 4, 2)
    put_questions(root, "toy", "test", questions(range(6, 8), answer=None))
    put_questions(root, "toy", "val", [*questions([4]), *questions([5], answer=None)])
    trained = task(root, data={"tests": ["test"]}, loop={"epochs": 1})
    outcome = train(trained, trained.config.loop, tmp_path / "run", RANKS, Progress())
    assert set(outcome.best) >= {"overall", "Audio", "Visual", "Audio-Visual"}
    hidden = evaluate(trained, "test", trained.config.loop, RANKS)
    assert hidden.metrics == {} and len(hidden.predictions["answers"]) == 6
    assert set(hidden.predictions["answers"].values()) <= set(trained.encoder.answers.answers)
    partly = evaluate(trained, "val", trained.config.loop, RANKS)
    right = sum(
        partly.predictions["answers"][question["question_id"]] == question["answer"] for question in questions([4])
    )
    assert len(partly.predictions["answers"]) == 6 and partly.metrics["overall"] == pytest.approx(100 * right / 3)


@pytest.mark.parametrize("stride", [STEPS, STEPS + 1, 100])
def test_a_stride_that_leaves_one_step_is_refused(root: Path, stride: int) -> None:
    with pytest.raises(TrainingError, match=f"data.stride={stride} leaves one of the {STEPS} steps of 'sound'; set it"):
        task(root, data={"stride": stride})
    assert task(root, data={"stride": STEPS - 1}).steps_per_epoch() == 3


def test_a_video_without_a_row_is_refused_or_allowed(tmp_path: Path) -> None:
    store = world(tmp_path / "store", 4, 2)
    put_questions(store, "toy", "train", questions([*range(4), 99]))
    with pytest.raises(StoreError, match=r"1 of 5 videos without a row.*allow: missing"):
        task(store)
    chosen = task(store, data={"allow": ["missing"]})
    losses = chosen.loss(next(iter(chosen.batches(0, 0))))
    assert all(bool(value.isfinite()) for value in losses.values())


@pytest.mark.parametrize("method", ["coqo", "avst", "hcrn"])
def test_batches_of_nothing_but_videos_without_a_row(tmp_path: Path, method: str) -> None:
    store = world(tmp_path / "store", 4, 2)
    put_questions(store, "toy", "train", questions([98, 99, 0, 1]))  # the first video has none either
    data = {"allow": ["missing"], "batch_videos": 1, "batch_questions": 1, "collective": method != "avst"}
    chosen = task(store, data=data, method=method)
    for batch in chosen.batches(0, 0):
        assert all(bool(value.isfinite()) for value in chosen.loss(batch).values())


@pytest.mark.parametrize("method", ["coqo", "avst"])
def test_standardised_features_train_and_their_scale_is_saved(root: Path, tmp_path: Path, method: str) -> None:
    data = {"standardise": True, "collective": method != "avst"}
    chosen = task(root, data=data, loop={"epochs": 1}, method=method)
    train(chosen, chosen.config.loop, tmp_path, RANKS, Progress())
    state = torch.load(tmp_path / "last.pt")["model"]
    assert {"scales.audio.mean", "scales.visual.std"} <= state.keys()
    batch = next(iter(chosen.batches(0, 0)))
    assert batch.visual is not None and isinstance(chosen.model, ScaledSteps)
    seen = chosen.model.scales["visual"](batch.visual.features)[batch.visual.valid]
    assert abs(float(seen.mean())) < 0.2 and 0.7 < float(seen.std()) < 1.3
    assert evaluate(chosen, "val", chosen.config.loop, RANKS).metrics["overall"] >= 0


def test_avst_needs_the_same_steps_of_both(root: Path, tmp_path: Path) -> None:
    store = world(tmp_path / "store", 4, 2)
    rows = map(sound, range(8))
    short = [replace(row, values=row.values[:-1], time_s=row.time_s[:-1], valid=row.valid[:-1]) for row in rows]
    commit_rows(store, short, feature="hum", spec={**SOUND, "name": "hum", "steps": STEPS - 1})
    with pytest.raises(TrainingError, match="AVST needs as many steps of sound as frames; hum has"):
        task(store, data={"audio": "hum", "collective": False}, method="avst")
