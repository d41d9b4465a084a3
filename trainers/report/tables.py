"""The evaluator's own table of a split, from the rows of its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainers.errors import TrainingError
from trainers.metrics import avqa, grounding, numbers
from trainers.metrics.rules import RULES
from trainers.metrics.tables import ScoreTable, accuracy_table, grounding_table, numbers_table
from trainers.predictions import Prediction, SplitPredictions


def score_tables(predictions: SplitPredictions) -> list[ScoreTable]:
    """Return the tables of a split; none if all its answers are hidden."""
    known = [row for row in predictions.rows if row.answer is not None]
    if not known:
        return []
    rule = RULES.get(predictions.dataset)
    if rule is not None and rule.numbers:
        return [_numbers(known)]
    tables = [_accuracy(known, predictions.dataset)]
    if grounded := [row for row in known if row.true_spans and row.span is not None]:
        tables.insert(0, _grounding(grounded))
    return tables


def _grounding(rows: Sequence[Prediction]) -> ScoreTable:
    questions = [
        grounding.GroundedQuestion(
            key=row.question_id,
            video_id=row.video_id,
            type=row.type,
            answer=row.answer_index,
            options=len(row.options),
            duration=row.duration or 0.0,
            spans=tuple(row.true_spans),
        )
        for row in rows
    ]
    answers = {row.question_id: grounding.Answer(row.prediction_index or 0, row.answer_index) for row in rows}
    spans = {row.question_id: row.span for row in rows if row.span is not None}
    table = grounding_table(grounding.score(questions, answers, spans))
    return replace(table, notes=("Counted are questions that have a true and a predicted span.", *table.notes))


def _accuracy(rows: Sequence[Prediction], dataset: str) -> ScoreTable:
    """Return accuracy by type and group; options are compared by their place, since two may have one text."""
    questions, answers = [], {}
    for row in rows:
        right, given = row.answer or "", row.prediction
        if row.answer_index is not None and row.prediction_index is not None:
            right, given = f"option {row.answer_index}", f"option {row.prediction_index}"
        questions.append(avqa.Question(row.question_id, row.question_id, row.type, row.modality, right, row.subset))
        answers[row.question_id] = given
    return accuracy_table(avqa.score(questions, answers, rule=RULES.get(dataset)))


def _numbers(rows: Sequence[Prediction]) -> ScoreTable:
    truth = {row.question_id: _number(row, row.answer) for row in rows}
    return numbers_table(numbers.score(truth, {row.question_id: _number(row, row.prediction) for row in rows}))


def _number(row: Prediction, answer: str | None) -> float:
    try:
        return float(answer or "")
    except ValueError as error:
        raise TrainingError(f"question {row.question_id!r}: answer {answer!r} is not a number") from error
