"""Answer heads: classes by frequency, options, numbers; the losses against formulas written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stores import Store
from stores.commit import create_store
from tests._helpers.building import commit_rows
from tests._helpers.coqo_building import SMALL
from tests._helpers.coqo_worlds import MAPS, facts, maps, world
from tests._helpers.question_worlds import put_questions, question
from trainers.coqo.answers import AnswerVocabulary
from trainers.coqo.config import AnswerConfig, CoqoConfig
from trainers.coqo.heads import ClassHead, NumberHead, OptionHead, Options, OptionScores, whole_number
from trainers.coqo.question import Vocabulary
from trainers.coqo.task import CoqoTask, build
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.loop import evaluate, train
from trainers.progress import Progress

RANKS = Ranks(0, 1, torch.device("cpu"))
QGT = {**SMALL["qgt"], "layers": 1, "dropout": 0.0}
CHOICES = ["a red ball", "a green ball", "nothing at all"]


def asked(numbers: range, kind: str, **changes: Any) -> list[dict[str, Any]]:
    """Two questions per video of ``coqo_worlds``: the colour of each side as an option, or a number for the left."""
    rows = []
    for number in numbers:
        left, _, _ = facts(number)
        for index, text in enumerate(("Which ball is left ?", "Which ball is right ?")):
            right = left if index == 0 else 1 - left
            given: dict[str, Any] = {"question": text, "options": [], "answer_index": None, "type": "action"}
            if kind == "options":
                own = CHOICES[: 2 + number % 2]  # questions have two or three options
                given |= {"options": own, "answer": own[right], "answer_index": right}
            else:
                given |= {"answer": str(4 * left), "type": "count"}
            rows.append(question(f"v{number:03}", index, **{**given, **changes}))
    return rows


def options_world(root: Path, kind: str, **changes: Any) -> Path:
    create_store(root)
    commit_rows(root, map(maps, range(40)), feature="maps", spec=MAPS)
    for split, numbers in (("train", range(24)), ("val", range(24, 32)), ("test", range(32, 40))):
        put_questions(root, "toy", split, asked(numbers, kind, **changes))
    return root


def task(root: Path, answer: dict[str, Any], loop: dict[str, Any] | None = None, **data: Any) -> CoqoTask:
    config = CoqoConfig.model_validate(
        {
            "data": {"dataset": "toy", "visual": "maps", "batch_videos": 8, **data},
            "model": {**SMALL, "inputs": "visual", "checkpoint": False, "dropout": 0.0, "qgt": QGT},
            "answer": answer,
            "loop": {"threads": 1, "tensorboard": False, "device": "cpu", **(loop or {})},
        }
    )
    return build(config, Store.open(root, lease=False), RANKS)


def test_classes_by_frequency() -> None:
    answers = ["b"] * 3 + ["d"] * 2 + ["a"] * 2 + ["c"]
    assert AnswerVocabulary.of("toy", answers).answers == ("a", "b", "c", "d")
    assert AnswerVocabulary.of("toy", answers, minimum=2).answers == ("a", "b", "d")
    assert AnswerVocabulary.of("toy", answers, top=2).answers == ("a", "b")  # of two as frequent, the first in order
    assert AnswerVocabulary.of("toy", reversed(answers), top=2).digest == AnswerVocabulary.of("toy", "bbbaa").digest
    assert len(AnswerVocabulary.of("music_avqa", answers, top=2)) == 42


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"head": "options", "top": 3}, "answer.top: belongs to answer.head=classes"),
        ({"minimum": 2, "head": "number"}, "answer.minimum: belongs"),
        ({"loss": "hinge"}, "answer.loss: belongs to answer.head=options"),
        ({"rule": "hcrn"}, "answer.rule: belongs to answer.head=number"),
        ({"top": 4}, "music_avqa has 42 published classes"),
    ],
)
def test_settings_that_mean_nothing_are_refused(answer: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoqoConfig.model_validate({"answer": answer})


def test_the_losses_are_their_formulas() -> None:
    scores, right = torch.tensor([[2.0, 1.5, -1.0], [0.0, 0.5, 3.0]]), torch.tensor([0, 1])
    hinge = OptionHead(3, "hinge").loss(scores, right)
    assert float(hinge) == pytest.approx((1 + 1.5 - 2) + 0 + (1 + 0 - 0.5) + (1 + 3 - 0.5))
    assert float(OptionHead(3, "cross_entropy").loss(scores, right)) == pytest.approx(
        float(-scores.log_softmax(1)[range(2), right].sum())
    )
    squared = NumberHead(AnswerConfig(head="number")).loss(torch.tensor([[2.5], [4.0]]), torch.tensor([3, 1]))
    assert float(squared) == pytest.approx(0.25 + 9)
    assert ClassHead(AnswerVocabulary(("a", "b"))).outputs == 2


@pytest.mark.parametrize(
    ("rule", "texts", "labels"), [("raw", ["0", "2", "12"], [0, 3]), ("hcrn", ["1", "2", "10"], [1, 3])]
)
def test_numbers_are_rounded_clamped_and_lifted_by_their_rule(rule: str, texts: list[str], labels: list[int]) -> None:
    head = NumberHead(AnswerConfig.model_validate({"head": "number", "rule": rule}))
    assert head.texts(torch.tensor([[-3.0], [2.4], [12.2]]), [[]] * 3) == texts
    assert head.encode([["0", "3"], [None]], 2).tolist() == [labels, [-1, -1]]


def test_options_are_padded_and_never_chosen_in_padding() -> None:
    vocabulary = Vocabulary.build(CHOICES)
    options = Options.of([[CHOICES[:2], CHOICES], [[]]], vocabulary)
    assert (options.words.shape[:3], options.lengths.tolist()) == ((2, 2, 3), [[[3, 3, 0], [3, 3, 3]], [[0] * 3] * 2])
    assert OptionHead(8, "hinge").texts(torch.tensor([[0.0, 1.0, -9.0]]), [CHOICES[:2]]) == [CHOICES[1]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cross_entropy", "hinge"])
def test_options_are_learned_from_the_picture(tmp_path: Path, kind: str) -> None:
    root = options_world(tmp_path / "store", "options")
    loop = {"epochs": 60, "lr": 3e-3, "schedule": "constant", "validate_epochs": 20}
    chosen = task(root, {"head": "options", "loss": kind}, loop)
    assert isinstance(chosen.model, OptionScores)
    train(chosen, chosen.config.loop, tmp_path / "run", RANKS, Progress())
    scored = evaluate(chosen, "test", chosen.config.loop, RANKS)
    assert scored.metrics["overall"] > 90 and "outside_vocabulary" not in scored.metrics
    assert set(scored.predictions["answers"].values()) <= set(CHOICES)


@pytest.mark.slow
def test_numbers_are_learned_and_reported_under_every_rule(tmp_path: Path) -> None:
    root = options_world(tmp_path / "store", "number")
    loop = {"epochs": 60, "lr": 3e-3, "schedule": "constant", "validate_epochs": 20}
    chosen = task(root, {"head": "number", "rule": "hcrn"}, loop)
    assert chosen.select == "negative_mse"
    outcome = train(chosen, chosen.config.loop, tmp_path / "run", RANKS, Progress())
    assert set(outcome.best) == {"overall", "mse_raw", "mse_tgif_qa", "mse_hcrn", "negative_mse"}
    scored = evaluate(chosen, "test", chosen.config.loop, RANKS)
    assert scored.metrics["mse_hcrn"] < 0.3 and scored.metrics["negative_mse"] == -scored.metrics["mse_hcrn"]
    assert scored.metrics["mse_tgif_qa"] >= 0.5  # half of the answers are 0, which a prediction of 1 … 10 cannot be


@pytest.mark.parametrize("collective", [True, False])
@pytest.mark.parametrize("head", ["options", "number"])
def test_an_answer_does_not_depend_on_the_other_rows_of_a_batch(tmp_path: Path, head: str, collective: bool) -> None:
    root = options_world(tmp_path / "store", head)
    many, one = (
        task(root, {"head": head}, batch_questions=size, collective=collective, batch_videos=size) for size in (16, 1)
    )
    one.model.load_state_dict(many.model.state_dict())
    expected, got = (evaluate(each, "test", each.config.loop, RANKS).predictions["answers"] for each in (many, one))
    assert got == expected and len(got) == 16
    losses = many.loss(next(iter(many.batches(0, 0))))
    assert bool(losses["total"].isfinite())
    losses["total"].backward()  # type: ignore[no-untyped-call]  # torch leaves it out
    assert all(parameter.grad is not None for parameter in many.model.parameters() if parameter.requires_grad)


def test_answers_without_a_class_are_wrong_and_counted(tmp_path: Path) -> None:
    chosen = task(world(tmp_path / "store"), {"top": 2})
    assert len(chosen.encoder.answers.answers) == 2  # type: ignore[union-attr]  # the classes of this head
    scored = evaluate(chosen, "test", chosen.config.loop, RANKS)
    truth = [row["answer"] for row in Store.open(tmp_path / "store", lease=False).table("questions").to_pylist()]
    assert len(set(truth)) == 6
    assert 50 <= scored.metrics["outside_vocabulary"] <= 75
    assert scored.metrics["overall"] <= 100 - scored.metrics["outside_vocabulary"] + 1e-6


def test_head_and_tail_are_scored(tmp_path: Path) -> None:
    root = world(tmp_path / "store", 8, 4)
    rows = Store.open(root, lease=False).table("questions", "toy/test").to_pylist()
    subsets = ["head" if number % 3 else "tail" for number in range(len(rows))]
    put_questions(root, "toy", "test", [row | {"subset": name} for row, name in zip(rows, subsets, strict=True)])
    chosen = task(root, {})
    known = evaluate(chosen, "test", chosen.config.loop, RANKS).metrics
    assert {"head", "tail"} <= set(known)
    assert known["overall"] == pytest.approx((8 * known["head"] + 4 * known["tail"]) / 12)


@pytest.mark.parametrize(
    ("kind", "changes", "head", "message"),
    [
        ("options", {"options": ["one"]}, "options", "question 'v000_0' has 1 options; answer.head=options needs 2"),
        ("number", {"answer": "many"}, "number", "question 'v000_0': answer 'many': answer.head=number needs whole"),
        ("options", {"answer": None, "answer_index": None}, "options", "has no answers to"),
    ],
)
def test_what_a_head_cannot_answer_is_said_before_training(
    tmp_path: Path, kind: str, changes: dict[str, Any], head: str, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        task(options_world(tmp_path / "store", kind, **changes), {"head": head})


@pytest.mark.parametrize("text", ["-1", "1.5", "", "²", "9999999999"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(TrainingError, match="needs whole numbers"):
        whole_number(text)
