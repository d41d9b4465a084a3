from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stores.loading import Questions
from trainers.cra.candidates import CandidateSampler, coarse_type, read_paraphrases
from trainers.cra.config import CraConfig, DataConfig
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
    assert sorted(draw.questions) == ["how does it turn in v0", "what is there in v0", "why does it turn in v0"]
    assert draw.options == few.options[0]


@pytest.mark.parametrize(
    ("dataset", "same_video", "drawn"),
    [("nextgqa", True, True), ("nextgqa", False, False), ("other", False, True)],
)
def test_the_same_video_gives_descriptive_questions_unless_released(
    dataset: str, same_video: bool, drawn: bool
) -> None:
    """Types that begin with D are those of NExT-QA only."""
    config = DataConfig(same_video=1.0, descriptive_same_video=same_video)
    draws = [CandidateSampler(questions(dataset), config, 0).draw(0, epoch) for epoch in range(20)]
    assert {"what is there in v0" in draw.questions for draw in draws} == {drawn}


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_other_videos_give_descriptive_questions_in_both_recipes(recipe: str) -> None:
    """The published pool of the same coarse type holds every row (``docs/facts/cra.md`` section 10, item C)."""
    config = CraConfig.model_validate({"recipe": recipe, "data": {"same_video": 0.0}}).data
    for epoch in range(20):
        draw = CandidateSampler(questions(), config, 0).draw(2, epoch)
        assert all(text.startswith("what is there") for text in draw.questions)


def asked(rows: Sequence[tuple[str, str, str]]) -> Questions:
    """Questions of (video, type, text)."""
    return Questions(
        dataset="nextgqa",
        split="train",
        ids=[f"{video}_{number}" for number, (video, _, _) in enumerate(rows)],
        video_ids=[video for video, _, _ in rows],
        texts=[text for _, _, text in rows],
        options=[["a", "b", "c", "d", "e"] for _ in rows],
        answers=["a"] * len(rows),
        answer_index=torch.zeros(len(rows), dtype=torch.int64),
        types=[name for _, name, _ in rows],
        modalities=[None] * len(rows),
        spans=[[] for _ in rows],
        duration=torch.full((len(rows),), float("nan")),
    )


def described_like_nextqa() -> Questions:
    """300 videos with 3 causal, 3 temporal and 2 descriptive questions, which share coarse types."""
    kinds = (
        ("CW", "why does {} turn"), ("CW", "why is {} turning"), ("CH", "how does {} turn"),
        ("TN", "what does {} do then"), ("TC", "what is {} doing when it turns"), ("TP", "what did {} do before"),
        ("DO", "what is {} holding"), ("DL", "where is {}"),
    )  # fmt: skip
    return asked([(f"v{video}", name, text.format(f"v{video}")) for video in range(300) for name, text in kinds])


def published_candidates(split: Questions, index: int, rng: random.Random) -> list[str]:
    """The wrong candidates as the published loader draws them, in words of our own: 4 of one pool, filled up."""
    kind = coarse_type(split.texts[index])
    alike = sorted({text for text in split.texts if coarse_type(text) == kind})
    own = sorted(
        {
            text
            for text, video, name in zip(split.texts, split.video_ids, split.types, strict=True)
            if video == split.video_ids[index] and not name.startswith("D")
        }
    )
    if rng.random() >= 0.3:
        return rng.sample(alike, 4)
    chosen = rng.sample(own, min(4, len(own)))
    return chosen + rng.sample([text for text in alike if text not in own], 4 - len(chosen))


def rates(split: Questions, draws: Iterable[tuple[int, Sequence[str]]]) -> dict[str, float]:
    """How often a wrong candidate is descriptive: of all questions, and of descriptive ones."""
    descriptive = {text for text, name in zip(split.texts, split.types, strict=True) if name.startswith("D")}
    counts: Counter[str] = Counter()
    for index, wrong in draws:
        hit = sum(text in descriptive for text in wrong)
        counts.update(all=len(wrong), all_hit=hit)
        if split.types[index].startswith("D"):
            counts.update(descriptive=len(wrong), descriptive_hit=hit)
    return {name: 100 * counts[f"{name}_hit"] / counts[name] for name in ("all", "descriptive")}


def drawn(split: Questions, recipe: str, epochs: int = 2) -> Iterator[tuple[int, list[str]]]:
    config = CraConfig.model_validate({"recipe": recipe, "data": {"paraphrase": 0.0}}).data
    sampler = CandidateSampler(split, config, 2024)
    for epoch in range(epochs):
        for index in range(len(split.ids)):
            draw = sampler.draw(index, epoch)
            yield index, [text for place, text in enumerate(draw.questions) if place != draw.right]


def test_as_released_wrong_candidates_are_descriptive_as_often_as_published() -> None:
    split, rng = described_like_nextqa(), random.Random(0)
    chosen = range(0, len(split.ids), 3)
    published = rates(split, [(index, published_candidates(split, index, rng)) for index in chosen])
    released = rates(split, drawn(split, "released"))
    assert published["descriptive"] > 40
    assert released == pytest.approx(published, abs=4)
    # In the paper's recipe the same video adds descriptive ones, so that fewer can be told by their text alone.
    assert rates(split, drawn(split, "paper"))["all"] > released["all"] + 3


def test_as_released_the_rates_of_the_real_validation_split(shared: Path) -> None:
    """Measured with the published loader on NExT-QA's val.csv as training split (section 10, item C)."""
    path = shared / "data/annotations/nextqa/val.csv"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    with path.open() as file:
        split = asked([(row["video_id"], row["type"], row["question"]) for row in csv.DictReader(file)])
    assert rates(split, drawn(split, "released")) == pytest.approx({"all": 10.2, "descriptive": 45.9}, abs=0.7)


def test_bad_paraphrases_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    for text in ("{", '{"a": 1}', '{"a": {"gen": [1]}}', "[]"):
        path.write_text(text)
        with pytest.raises(TrainingError, match=r"p\.json"):
            read_paraphrases(path)
