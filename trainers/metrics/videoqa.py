"""Scores of video question answering: open answers, options and numbers, by the rule of each dataset.

``trainers.metrics.rules`` names the rules. Predictions are one JSON object by question id. An open answer is a text. An
option is its text, or its index from 0, also as ``{"prediction": index}`` as published files have it. A number is a
number or a text that holds one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainers.errors import EvaluationError
from trainers.metrics import avqa, numbers
from trainers.metrics.avqa import AvqaScores
from trainers.metrics.files import read_object
from trainers.metrics.numbers import NumberScores
from trainers.metrics.rules import RULES

_LARGEST = 1e9


def score(table: pa.Table, answers: Path, dataset: str, source: Path | None = None) -> AvqaScores | NumberScores:
    """Compare the predictions of a file with annotated questions.

    Parameters
    ----------
    table
        Questions with the columns of a store's ``questions`` table.
    answers
        The file of predictions.
    dataset
        Whose rule is taken; a dataset without one is scored by type, as ``avqa`` does.
    source
        The file that the table is from, for messages.

    Raises
    ------
    EvaluationError
        If a file has another form, an answer is hidden, or there is no question.
    """
    rule = RULES.get(dataset)
    questions = avqa.questions_of(table, source)
    if not questions:
        raise EvaluationError(f"{source}: has no question" if source else "there is no question")
    predictions = read_object(answers)
    if rule is not None and rule.numbers:
        truth = {question.question_id: _number(source, question.question_id, question.answer) for question in questions}
        try:
            return numbers.score(truth, {name: _number(answers, name, value) for name, value in predictions.items()})
        except EvaluationError as error:
            raise EvaluationError(f"{answers}: {error}") from error
    options = dict(zip(table["question_id"].to_pylist(), table["options"].to_pylist(), strict=True))
    if not any(options.values()):
        texts = {name: _text(answers, name, value) for name, value in predictions.items()}
        return avqa.score(questions, texts, rule=rule)
    indices = dict(zip(table["question_id"].to_pylist(), table["answer_index"].to_pylist(), strict=True))
    chosen = {
        name: _option(answers, name, value, options.get(name), indices.get(name)) for name, value in predictions.items()
    }
    asked = [avqa.with_answer(question, _of_option(indices[question.question_id])) for question in questions]
    most = max(map(len, options.values()))
    return avqa.score(asked, chosen, [_of_option(index) for index in range(most)], rule)


def _of_option(index: int) -> str:
    """Return the name under which an option is compared: options of one text stay apart."""
    return f"option {index}"


def _option(path: Path, name: str, value: Any, options: Sequence[str] | None, right: int | None) -> str:
    """Return the name of a predicted option; a text that is none is itself, and so no possible answer.

    An index names one option. A text that several options have names the right one of them, if it is among them.
    """
    index = value.get("prediction") if isinstance(value, Mapping) else value
    if isinstance(index, str):
        if not options or index not in options:
            return index
        return _of_option(right if right is not None and options[right] == index else options.index(index))
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise EvaluationError(f"{path}: question {name!r}: must be the text or the index of an option")
    if options is not None and index >= len(options):
        raise EvaluationError(f"{path}: question {name!r}: option {index} of {len(options)}, counted from 0")
    return _of_option(index)


def _text(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise EvaluationError(f"{path}: question {name!r}: its answer must be a text")
    return value


def _number(path: Path | None, name: str, value: Any) -> float:
    """Return a finite number, given as such or as a text."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not abs(number) < _LARGEST:
        raise EvaluationError(f"{path}: question {name!r}: its answer must be a number")
    return number
