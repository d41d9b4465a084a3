"""From records to questions: typed access to fields, notes on the way, one error for a row that is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parsers.annotations.files import Broken, FileProblem, Record, first_repeated
from parsers.annotations.report import Anomaly, Collector
from parsers.annotations.schema import Question

MAX_TEXT = 10_000  # characters; the longest official question has under 200
MAX_KEY_BYTES = 512
_MAX_INT32 = 2**31 - 1


class RowError(Exception):
    """One row is refused. ``file`` and ``line`` are set where another file than the row's own is at fault."""

    def __init__(self, code: str, field: str, message: str, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.code, self.field, self.message, self.file, self.line = code, field, message, file, line


@dataclass(slots=True)
class Row:
    """A record that is being read: its fields, and what was noted about it so far."""

    file: str
    line: int
    index: int
    fields: Mapping[str, Any]
    key: str = ""
    notes: list[Anomaly] = field(default_factory=list)

    def note(self, code: str, name: str, message: str) -> None:
        self.notes.append(Anomaly("note", code, self.file, self.line, self.key, name, message))

    def get(self, name: str) -> Any:
        """The field's value, None where it is absent."""
        return self.fields.get(name)

    def required(self, name: str) -> Any:
        value = self.fields.get(name)
        if value is None:
            raise RowError("missing_field", name, "is missing")
        return value

    def text(self, name: str) -> str:
        """A text that is not empty, without trailing blanks (a note), ``？`` written ``?`` (a note)."""
        return self.checked_text(name, self.required(name))

    def checked_text(self, name: str, value: Any) -> str:
        check_text(name, value)
        text: str = value
        if text != text.rstrip():
            self.note("trailing_blank", name, f"{text!r} ends in white space; stripped")
            text = text.rstrip()
        if "？" in text:
            self.note("full_width_mark", name, f"{text!r} holds a full-width question mark; written '?'")
            text = text.replace("？", "?")
        if not text:
            raise RowError("empty_text", name, "must not be empty")
        return text

    def key_text(self, name: str) -> str:
        """An id; integers are written in decimal."""
        return check_key(name, decimal(self.required(name)))

    def count(self, name: str) -> int | None:
        """A whole number, 0 or more; None where the field is absent or an empty cell."""
        value = self.get(name)
        if value is None or value == "":
            return None
        number = number_of(name, _parsed(value))
        if number != int(number) or number > _MAX_INT32:
            raise RowError("wrong_number", name, f"must be a whole number below 2^31 (got {shown(value)})")
        return int(number)

    def seconds(self, name: str) -> float | None:
        """A finite number, 0 or more; None where the field is absent or an empty cell."""
        value = self.get(name)
        return None if value is None or value == "" else number_of(name, _parsed(value))


def shown(value: Any) -> str:
    """A value as it appears in a message."""
    text = value if isinstance(value, float) else ascii(value) if not isinstance(value, str) else repr(value[:80])
    return str(text)[:100]


def _parsed(cell: Any) -> Any:
    """The number that a csv cell holds; anything else unchanged."""
    try:
        return float(cell) if isinstance(cell, str) and len(cell) < 64 else cell
    except ValueError:
        return cell


def decimal(value: Any) -> Any:
    """Integers as text; anything else unchanged."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else value


def check_text(name: str, value: Any) -> None:
    """Refuse what is not text, is too long, holds NUL, or is not valid Unicode."""
    if not isinstance(value, str):
        raise RowError("wrong_type", name, f"must be text (got {shown(value)})")
    if len(value) > MAX_TEXT:
        raise RowError("too_long", name, f"has {len(value)} characters, at most {MAX_TEXT} are allowed")
    if "\0" in value:
        raise RowError("nul_byte", name, "holds a NUL byte")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("not_utf8", name, f"is not valid UTF-8 ({shown(value)})") from error


def check_key(name: str, value: Any) -> str:
    """Refuse what cannot be a key: an empty text, or more than 512 bytes."""
    check_text(name, value)
    if not value:
        raise RowError("empty_text", name, "must not be empty")
    size = len(value.encode())
    if size > MAX_KEY_BYTES:
        raise RowError("key_too_long", name, f"has {size} bytes, at most {MAX_KEY_BYTES} are allowed")
    return str(value)


def number_of(name: str, value: Any) -> float:
    """A finite number, 0 or more."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise RowError("wrong_number", name, f"must be a finite number (got {shown(value)})")
    if number < 0:
        raise RowError("negative_number", name, f"must be 0 or more (got {shown(value)})")
    return number


def check_spans(row: Row, name: str, value: Any, duration: float | None) -> tuple[tuple[float, float], ...]:
    """[start, end] pairs in seconds; an end after the video's end is a note."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("wrong_type", name, f"must be a list of [start, end] (got {shown(value)})")
    spans = []
    for pair in value:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise RowError("wrong_type", name, f"must be a list of [start, end] (got {shown(pair)})")
        start, end = (number_of(name, each) for each in pair)
        if end < start:
            raise RowError("reversed_span", name, f"the span [{start}, {end}] ends before it starts")
        if end == start:
            row.note("empty_span", name, f"the span [{start}, {end}] has no length")
        if duration is not None and end > duration:
            row.note("span_after_duration", name, f"the span [{start}, {end}] ends after the video ({duration} s)")
        spans.append((start, end))
    return tuple(spans)


def find_answer(row: Row, answer: str, options: Sequence[str], name: str = "answer") -> int:
    """The index of the first option that is the answer; repeated options are notes."""
    found = [i for i, option in enumerate(options) if option == answer]
    if not found:
        raise RowError(
            "answer_not_in_options", name, f"{shown(answer)} is not among the options {shown(list(options))}"
        )
    if len(found) > 1:
        row.note("ambiguous_answer", name, f"{answer!r} is option {' and '.join(map(str, found))}; the first is taken")
    return found[0]


def note_repeated(row: Row, options: Sequence[str], name: str) -> None:
    repeated = first_repeated(options)
    if repeated is not None:
        row.note("duplicate_option", name, f"{repeated!r} is given more than once")


def build_questions(
    file: str,
    records: Iterable[Record | Broken],
    build: Callable[[Row], Question | None],
    report: Collector,
) -> list[Question]:
    """Questions of all records that can be read; every other is an error in the report. None leaves a row out."""
    questions = []
    for row in readable_rows(file, records, report):
        try:
            question = build(row)
        except RowError as error:
            at = error.file or file, error.line or row.line
            report.append(Anomaly("error", error.code, *at, row.key, error.field, error.message))
            continue
        if question is None:
            continue
        for note in row.notes:
            report.append(note)
        questions.append(replace(question, flags=tuple(dict.fromkeys(note.code for note in row.notes))))
    return questions


def readable_rows(file: str, records: Iterable[Record | Broken], report: Collector) -> Iterable[Row]:
    """Rows with their 0-based number; broken ones count, and go to the report."""
    try:
        for index, record in enumerate(records):
            if isinstance(record, Broken):
                report.append(Anomaly("error", record.code, file, record.line, "", "", record.message))
            else:
                yield Row(file, record.line, index, record.fields)
    except FileProblem as problem:
        report.append(Anomaly("error", problem.code, file, problem.line, "", problem.field, problem.message))


class UniqueIds:
    """Refuses a question id that was given before."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}

    def check(self, row: Row, name: str) -> None:
        if row.key in self._first:
            message = f"{row.key!r} was given before, in line {self._first[row.key]}"
            raise RowError("duplicate_question_id", name, message)
        self._first[row.key] = row.line
