"""The files from which grounding is scored: annotations as of NExT-GQA or STAR, answers, spans, attention.

A question's key is ``<video>_<question>``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from settings.messages import first_few
from trainers.cra import spans as intervals
from trainers.errors import EvaluationError
from trainers.metrics.files import read_object
from trainers.metrics.grounding import Answer, GroundedQuestion, Span

_Value = TypeVar("_Value")

_LARGEST = 1e300
_ROUNDING = 1e-6  # of a fraction that a float32 rounded up


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """What scoring needs from the row of a question.

    Attributes
    ----------
    type
        Type of the question.
    answer
        Index of the right option; None if it is hidden or not among the options.
    options
        Number of options.
    """

    type: str
    answer: int | None
    options: int


def read_questions(
    annotations: Path, rows: Mapping[str, QuestionRow], source: Path, official: bool = False
) -> list[GroundedQuestion]:
    """Read the questions that have true spans, in the order of ``annotations``.

    Parameters
    ----------
    annotations
        A JSON file ``{video: {"duration": seconds, "location": {question: [[start, end], …]}}}``.
    rows
        The rows of the questions by key, as ``jobs/evaluate.py`` reads them with the readers of ``jobs/parse.py``.
    source
        The file that they are from, for messages.
    official
        Give a question that has no row the type ``?``; otherwise it is an error.

    Raises
    ------
    EvaluationError
        If a file cannot be read or has another form.
    """
    grounded: dict[str, GroundedQuestion] = {}
    for video, record in read_object(annotations).items():
        duration = _duration(annotations, video, record)
        for question, segments in record["location"].items():
            key = f"{video}_{question}"
            row = rows.get(key)
            if key in grounded:
                raise EvaluationError(f"{annotations}: two questions have the key {key!r}")
            if row is None:
                if not official:
                    raise EvaluationError(f"{annotations}: question {key!r} is not in {source}")
                row = QuestionRow("?", None, 0)
            if not isinstance(segments, list) or not segments:
                raise EvaluationError(f"{annotations}: question {key!r}: must have a list of [start, end] spans")
            spans = tuple(_pair(annotations, key, segment) for segment in segments)
            grounded[key] = GroundedQuestion(key, video, row.type, row.answer, row.options, duration, spans)
    if not grounded:
        raise EvaluationError(f"{annotations}: no question has a span")
    return list(grounded.values())


def read_answers(path: Path, questions: Sequence[GroundedQuestion], official: bool = False) -> dict[str, Answer]:
    """Read answers by key from a JSON file ``{key: {"prediction": index, "answer": index}}``.

    Parameters
    ----------
    path
        The file.
    questions
        The questions that are scored.
    official
        Ignore keys of other questions, and require the right ``answer`` of each.

    Raises
    ------
    EvaluationError
        If the file has another form, or a key or an answer is wrong.
    """
    options = {question.key: question.options for question in questions}

    def answer(key: str, value: Any) -> Answer:
        if not isinstance(value, dict) or not _is_index(value.get("prediction")):
            raise EvaluationError(f'{path}: question {key!r}: must be {{"prediction": index, "answer": index}}')
        stated = value.get("answer")
        if not _is_index(stated) and (official or stated is not None):
            raise EvaluationError(f"{path}: question {key!r}: its answer must be the index of an option")
        if not official and value["prediction"] >= options[key]:
            raise EvaluationError(
                f"{path}: question {key!r}: prediction {value['prediction']} of {options[key]} options, counted from 0"
            )
        return Answer(value["prediction"], stated)

    return _predictions(path, questions, official, answer)


def read_spans(
    path: Path, questions: Sequence[GroundedQuestion], fractions: bool = False, official: bool = False
) -> dict[str, Span]:
    """Read spans in seconds by key from a JSON file ``{key: [start, end]}``.

    Parameters
    ----------
    path
        The file.
    questions
        The questions that are scored.
    fractions
        The file has fractions of the video instead of seconds. Seconds without one beyond the first cause a warning,
        since they may be fractions.
    official
        Read the first and the last of any number of numbers, round fractions to 0.1 s, and ignore keys of other
        questions.

    Raises
    ------
    EvaluationError
        If the file has another form or names an unknown question, or a fraction is greater than 1.
    """
    durations = {question.key: question.duration for question in questions}

    def span(key: str, value: Any) -> Span:
        if official and isinstance(value, list) and value:
            value = [value[0], value[-1]]
        start, end = _pair(path, key, value)
        if fractions and max(start, end) > 1 + _ROUNDING:
            raise EvaluationError(
                f"{path}: question {key!r}: {max(start, end):g} is no fraction of a video; leave --fractions out if "
                "these are seconds"
            )
        if fractions:
            start, end = intervals.to_seconds((start, end), durations[key], official)
        return start, end

    spans = _predictions(path, questions, official, span)
    if not fractions and spans and all(0 <= second <= 1 < durations[key] for key in spans for second in spans[key]):
        warnings.warn(f"{path}: no span goes beyond second 1; fractions of a video need --fractions", stacklevel=2)
    return spans


def read_attention(
    path: Path,
    times: Path | None,
    interval: intervals.Interval,
    questions: Sequence[GroundedQuestion],
    official: bool = False,
) -> dict[str, Span]:
    """Read attention by key from a JSON file ``{key: [weights]}``, and return the spans that a rule reads from it.

    Parameters
    ----------
    path
        The file.
    times
        A JSON file ``{video: [seconds]}`` with the times of the same frames; ``window`` does not need it.
    interval
        The rule.
    questions
        The questions that are scored.
    official
        Use the published form of the rule, and ignore keys of other questions.

    Raises
    ------
    EvaluationError
        If a file has another form or names an unknown question, or times are missing.
    """
    if times is None and interval != "window":
        raise EvaluationError(f"--interval {interval} needs --times, the seconds of the frames")
    table = {} if times is None else read_object(times)
    by_key = {question.key: question for question in questions}

    def span(key: str, value: Any) -> Span:
        weights = _numbers(path, key, value)
        question = by_key[key]
        seconds = None
        if times is not None:
            if question.video_id not in table:
                raise EvaluationError(f"{times}: no times of video {question.video_id!r}, which question {key!r} needs")
            seconds = _numbers(times, question.video_id, table[question.video_id])
        try:
            start, end = intervals.span(interval, weights, seconds, question.duration, official)
        except ValueError as error:
            raise EvaluationError(f"{path}: question {key!r}: {error}") from error
        return start, end

    return _predictions(path, questions, official, span)


def _predictions(
    path: Path, questions: Sequence[GroundedQuestion], official: bool, convert: Callable[[str, Any], _Value]
) -> dict[str, _Value]:
    known = {question.key for question in questions}
    values = read_object(path)
    unknown = [key for key in values if key not in known]
    if unknown and not official:
        raise EvaluationError(
            f"{path}: question {first_few(unknown, 1, repr)}: not in the annotations (--official ignores unknown keys)"
        )
    return {key: convert(key, value) for key, value in values.items() if key in known}


def _duration(path: Path, video: str, record: Any) -> float:
    if not isinstance(record, dict) or not isinstance(record.get("location"), dict):
        raise EvaluationError(f"{path}: video {video!r}: must have a duration and a location")
    duration: Any = record.get("duration")
    if not _is_number(duration) or duration <= 0:
        raise EvaluationError(f"{path}: video {video!r}: its duration must be a number of seconds above 0")
    return float(duration)


def _pair(path: Path, key: str, value: Any) -> Span:
    numbers = _numbers(path, key, value)
    if len(numbers) != 2:
        raise EvaluationError(f"{path}: question {key!r}: a span must be [start, end], has {len(numbers)} numbers")
    return numbers[0], numbers[1]


def _numbers(path: Path, key: str, value: Any) -> list[float]:
    if not isinstance(value, list) or not value or not all(map(_is_number, value)):
        raise EvaluationError(f"{path}: {key!r}: must be a list of finite numbers")
    return [float(number) for number in value]


def _is_number(value: Any) -> bool:
    # Not isfinite: JSON has integers that are too large to become floats.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
