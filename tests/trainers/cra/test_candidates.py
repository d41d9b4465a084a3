from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from stores.loading import Questions
from trainers.cra.candidates import CandidateSampler, coarse_type, read_paraphrases
from trainers.cra.config import DataConfig
from trainers.errors import TrainingError


def test_coarse_types_of_the_real_validation_split(shared: Path) -> None:
    """``docs/facts/cra.md`` section 3, counted with the published function."""
    with (shared / "data/annotations/nextgqa/val.csv").open() as file:
        counts = Counter(coarse_type(row["question"]) for row in csv.DictReader(file))
    assert counts == {
        "why": 1473, "whata": 1018, "how": 680, "whatb": 121, "whato": 36, "where": 21, "who": 3, "other": 3,
        "which": 2, "howm": 1,
    }  # fmt: skip


def questions(dataset: str = "nextgqa") -> Questions:
    """12 videos, each asked why, how and to describe."""
    rows = [(f"v{video}", number) for video in range(12) for number in range(3)]
    starts = ("why does it turn", "how does it turn", "what is there")
    answers = [f"answer {video} {number}" for video, number in rows]
    return Questions(
        dataset=dataset,
        split="train",
        ids=[f"{video}_{number}" for video, number in rows],
        video_ids=[video for video, _ in rows],
        texts=[f"{starts[number]} in {video}" for video, number in rows],
        options=[["red", answer, "green", "blue", "pink"] for answer in answers],
        answers=list(answers),
        answer_index=torch.ones(len(rows), dtype=torch.int64),
        types=[("CW", "CH", "DO")[number] for _, number in rows],
        modalities=[None] * len(rows),
        spans=[[] for _ in rows],
        duration=torch.full((len(rows),), float("nan")),
    )


def sampler(**config: Any) -> CandidateSampler:
    return CandidateSampler(questions(), DataConfig.model_validate(config), seed=7)


def test_a_draw_depends_on_seed_epoch_and_question_alone() -> None:
    config = {"distractors": 1.0}
    first, second = sampler(**config), sampler(**config)
    for index in reversed(range(36)):
        second.draw(index, 5)
    assert [first.draw(index, 1) for index in range(36)] == [second.draw(index, 1) for index in range(36)]
    assert [first.draw(index, 2) for index in range(36)] != [second.draw(index, 1) for index in range(36)]


def test_options_are_resampled_from_answers_to_questions_that_ask_alike() -> None:
    drawn = [sampler(distractors=1.0).draw(0, epoch) for epoch in range(50)]
    for draw in drawn:
        assert draw.options[draw.answer] == "answer v0 0"
        assert len(set(draw.options)) == 5
        assert all(option.endswith(" 0") for option in draw.options)  # answers to why
    assert len({draw.answer for draw in drawn}) == 5
    kept = sampler(distractors=0.0).draw(0, 0)
    assert (kept.options, kept.answer) == (["red", "answer v0 0", "green", "blue", "pink"], 1)


@pytest.mark.parametrize("same_video", [0.0, 1.0])
def test_the_question_of_the_video_is_among_the_candidates_once(same_video: float) -> None:
    for epoch in range(50):
        draw = sampler(same_video=same_video).draw(1, epoch)
        assert draw.questions[draw.right] == "how does it turn in v0"
        assert len(set(draw.questions)) == 5
        assert not any(text.startswith("what") for text in draw.questions)  # descriptions fit any video
        assert ("why does it turn in v0" in draw.questions) == (same_video == 1)


def test_as_released_the_positive_can_be_drawn_again() -> None:
    """``docs/facts/cra.md`` fact 10: from the same video nearly always, since its pool is small."""
    released = sampler(same_video=1.0, distinct_candidates=False, distractors=1.0)
    twice = 0
    for epoch in range(50):
        draw = released.draw(1, epoch)
        assert draw.right == draw.questions.index("how does it turn in v0")
        assert draw.answer == draw.options.index("answer v0 1")
        twice += draw.questions.count("how does it turn in v0") == 2
    assert twice == 50


@pytest.mark.parametrize(("paraphrase_types", "start"), [(False, "why"), (True, "how")])
def test_a_paraphrase_takes_the_questions_place(paraphrase_types: bool, start: str, tmp_path: Path) -> None:
    path = tmp_path / "paraphrases.json"
    path.write_text(json.dumps({"v0_0": {"ori": "why does it turn in v0", "gen": ["How come it turns?"]}}))
    config = DataConfig(paraphrase=1.0, same_video=0.0, paraphrase_types=paraphrase_types)
    draw = CandidateSampler(questions(), config, 0, read_paraphrases(path)).draw(0, 0)
    assert draw.question == draw.questions[draw.right] == "How come it turns"
    assert all(text.startswith(start) for text in draw.questions if text != draw.question)
    assert "why does it turn in v0" not in draw.questions


@pytest.mark.parametrize("text", ["", "[]", '{"v0_0": ["why"]}', '{"v0_0": {}}', '{"v0_0": {"gen": [1]}}', b"\xff"])
def test_paraphrases_of_another_form_are_one_line(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "paraphrases.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(TrainingError) as refused:
        read_paraphrases(path)
    assert str(refused.value) == f'{path}: must be JSON {{question id: {{"gen": [paraphrases]}}}}'
    with pytest.raises(TrainingError, match=r"gone\.json: not readable \(No such file or directory\)"):
        read_paraphrases(tmp_path / "gone.json")


def test_small_pools_give_fewer_candidates_and_keep_the_options() -> None:
    whole = questions()
    few = Questions(
        **{
            name: getattr(whole, name)[:3] if name not in ("dataset", "split") else getattr(whole, name)
            for name in Questions.__slots__
        }
    )
    draw = CandidateSampler(few, DataConfig(distractors=1.0), 0).draw(0, 0)
    assert sorted(draw.questions) == ["how does it turn in v0", "why does it turn in v0"]
    assert draw.options == few.options[0]


def test_descriptive_types_are_those_of_nextgqa_only() -> None:
    draws = [CandidateSampler(questions("other"), DataConfig(), 0).draw(2, epoch) for epoch in range(20)]
    assert all(any(text.startswith("what") and "v0" not in text for text in draw.questions) for draw in draws)


def test_bad_paraphrases_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    for text in ("{", '{"a": 1}', '{"a": {"gen": [1]}}', "[]"):
        path.write_text(text)
        with pytest.raises(TrainingError, match=r"p\.json"):
            read_paraphrases(path)
