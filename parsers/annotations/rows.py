"""Turns records into questions: typed access to fields, notes on the way, one error for a row that is refused."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from parsers.annotations.anomalies import Anomalies, Anomaly
from parsers.annotations.files import Broken, FileProblem, Record, first_repeated
from parsers.annotations.schema import Question
from parsers.characters import format_characters, trimmed
from settings.messages import plural

MAX_TEXT = 10_000  # characters; the longest official question has fewer than 200
MAX_KEY_BYTES = 512
_MAX_INT32 = 2**31 - 1
_OPTION = re.compile(r"a(0|[1-9]\d{0,3})")


class RowError(Exception):
    """Raised to refuse one row; ``file`` and ``line`` are set if another file than the row's own is at fault."""

    def __init__(self, code: str, field: str, message: str, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.code, self.field, self.message, self.file, self.line = code, field, message, file, line


@dataclass(slots=True)
class Row:
    """A record that is being read.

    Attributes
    ----------
    file, line
        Where it is; the line is 1-based.
    index
        0-based row in the file; broken rows count.
    fields
        The columns or JSON keys with their values.
    key
        What messages call the row: the question id as soon as it is known.
    notes
        The oddities met so far.
    """

    file: str
    line: int
    index: int
    fields: Mapping[str, Any]
    key: str = ""
    notes: list[Anomaly] = field(default_factory=list)

    def note(self, code: str, name: str, message: str) -> None:
        """Note an oddity in the field ``name``."""
        self.notes.append(Anomaly("note", code, self.file, self.line, self.key, name, message))

    def get(self, name: str) -> Any:
        """Return the field's value; None if it is absent."""
        return self.fields.get(name)

    def required(self, name: str) -> Any:
        """Return the field's value. Raises RowError if it is absent or null."""
        value = self.fields.get(name)
        if value is None:
            raise RowError("missing_field", name, "is missing")
        return value

    def text(self, name: str) -> str:
        """Return a text that is not empty, cleaned as by ``checked_text``."""
        return self.checked_text(name, self.required(name))

    def checked_text(self, name: str, value: object) -> str:
        """Return a text without blanks around it and with ``？`` written as ``?``; both changes are noted."""
        text = self._trimmed(name, check_text(name, value))
        if "？" in text:
            self.note("full_width_mark", name, f"{text!r} holds a full-width question mark; written '?'")
            text = text.replace("？", "?")
        if not text:
            raise RowError("empty_text", name, "must not be empty")
        return text

    def key_text(self, name: str) -> str:
        """Return an id, cleaned as by ``checked_key``."""
        return self.checked_key(name, self.required(name))

    def checked_key(self, name: str, value: object) -> str:
        """Return an id without blanks around it, which is noted; an integer is written in decimal."""
        return check_key(name, self._trimmed(name, check_text(name, decimal(value))))

    def _trimmed(self, name: str, text: str) -> str:
        """Return a text without what nobody sees around it; note this, and what nobody sees inside it."""
        kept = trimmed(text)
        start = text.find(kept)
        if start > 0:
            self.note("leading_blank", name, f"{text!r} begins with white space or a format character; stripped")
        if len(text) > start + len(kept):
            self.note("trailing_blank", name, f"{text!r} ends in white space or a format character; stripped")
        if unseen := format_characters(kept):
            self.note("format_character", name, f"{kept!r} holds {', '.join(unseen)}, which nobody sees; kept")
        return kept

    def count(self, name: str) -> int | None:
        """Return a whole number, 0 or more; None if the field is absent or an empty cell."""
        value = self.get(name)
        if is_empty(value):
            return None
        number = number_of(name, _parsed(value))
        if number != int(number) or number > _MAX_INT32:
            raise RowError("wrong_number", name, f"must be a whole number below 2^31 (got {shown(value)})")
        return int(number)

    def duration(self, name: str) -> float | None:
        """Return a number of seconds, 0 or more; None if the field is absent or an empty cell."""
        value = self.get(name)
        return None if is_empty(value) else number_of(name, _parsed(value))

    def second(self, name: str) -> float | None:
        """Return a point in time, which may lie before 0; None if the field is absent or an empty cell."""
        value = self.get(name)
        return None if is_empty(value) else finite_number(name, _parsed(value))


def is_empty(value: object) -> bool:
    """Return whether a field gives nothing: it is absent, null, or a cell of blanks."""
    return value is None or (isinstance(value, str) and not trimmed(value))


def shown(value: object) -> str:
    """Return a value as it appears in a message."""
    text = value if isinstance(value, float) else ascii(value) if not isinstance(value, str) else repr(value[:80])
    return str(text)[:100]


def _parsed(cell: object) -> object:
    """Return the number that a csv cell holds; anything else unchanged."""
    try:
        return float(cell) if isinstance(cell, str) and len(cell) < 64 else cell
    except ValueError:
        return cell


def decimal(value: object) -> object:
    """Return an integer as text; anything else unchanged."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else value


def check_text(name: str, value: object) -> str:
    """Return a text; refuse what is not text, is too long, holds a NUL, or is not valid Unicode."""
    if not isinstance(value, str):
        raise RowError("wrong_type", name, f"must be text (got {shown(value)})")
    if len(value) > MAX_TEXT:
        raise RowError("too_long", name, f"has {len(value)} characters, but at most {MAX_TEXT} are allowed")
    if "\0" in value:
        raise RowError("nul_byte", name, "holds a NUL byte")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("not_utf8", name, f"is not valid UTF-8 ({shown(value)})") from error
    return value


def check_key(name: str, value: object) -> str:
    """Return a text as a key; refuse an empty one, or one of more than 512 bytes."""
    key = check_text(name, value)
    if not key:
        raise RowError("empty_text", name, "must not be empty")
    size = len(key.encode())
    if size > MAX_KEY_BYTES:
        raise RowError("key_too_long", name, f"has {size} bytes, but at most {MAX_KEY_BYTES} are allowed")
    return key


def finite_number(name: str, value: object) -> float:
    """Return a finite number; refuse any other value."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise RowError("wrong_number", name, f"must be a finite number (got {shown(value)})")
    return number


def number_of(name: str, value: object) -> float:
    """Return a finite number, 0 or more; refuse any other value."""
    number = finite_number(name, value)
    if number < 0:
        raise RowError("negative_number", name, f"must be 0 or more (got {shown(value)})")
    return number


def some_spans(row: Row, name: str, value: object, duration: float | None) -> tuple[tuple[float, float], ...]:
    """Return what ``check_spans`` returns, which must not be empty: a query without a span could not be scored.

    Raises
    ------
    RowError
        Also if there is no span.
    """
    spans = check_spans(row, name, value, duration)
    if not spans:
        raise RowError("no_spans", name, "must hold at least one span")
    return spans


def check_spans(row: Row, name: str, value: object, duration: float | None) -> tuple[tuple[float, float], ...]:
    """Return pairs (start, end) in seconds, as they are given; note an empty span, and one that leaves the video.

    36 spans of NExT-GQA's test split start up to 0.2 s before 0, and 3 of its validation split end after the video.
    The official evaluator takes all of them as they are.

    Raises
    ------
    RowError
        If the value is not a list of pairs of numbers, or a span ends before it starts.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("wrong_type", name, f"must be a list of pairs [start, end] (got {shown(value)})")
    spans = []
    for pair in value:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise RowError("wrong_type", name, f"must be a list of pairs [start, end] (got {shown(pair)})")
        start, end = (finite_number(name, seconds) for seconds in pair)
        if end < start:
            raise RowError("reversed_span", name, f"the span [{start}, {end}] ends before it starts")
        if end == start:
            row.note("empty_span", name, f"the span [{start}, {end}] has no length")
        if start < 0:
            row.note("span_before_start", name, f"the span [{start}, {end}] starts before the video (0 s)")
        if duration is not None and end > duration:
            row.note("span_after_duration", name, f"the span [{start}, {end}] ends after the video ({duration} s)")
        spans.append((start, end))
    return tuple(spans)


def find_answer(row: Row, answer: str, options: Sequence[str], name: str = "answer") -> int:
    """Return the index of the first option that is the answer; note it if there are several."""
    matches = [index for index, option in enumerate(options) if option == answer]
    if not matches:
        raise RowError(
            "answer_not_in_options", name, f"{shown(answer)} is not among the options {shown(list(options))}"
        )
    if len(matches) > 1:
        positions = " and ".join(map(str, matches))
        row.note("ambiguous_answer", name, f"{answer!r} is option {positions}; the first is taken")
    return matches[0]


def note_repeated(row: Row, options: Sequence[str], name: str) -> None:
    """Note an option that is given more than once."""
    repeated = first_repeated(options)
    if repeated is not None:
        row.note("duplicate_option", name, f"{repeated!r} is given more than once")


def find_index(row: Row, name: str, options: Sequence[str]) -> int:
    """Return the index of an option that a cell names by its number, from 0.

    Raises
    ------
    RowError
        If the field is not the number of an option.
    """
    number = row.text(name)
    if number not in map(str, range(len(options))):
        raise RowError("answer_not_in_options", name, f"{shown(number)} is not an index of {len(options)} options")
    return int(number)


def find_letter(row: Row, name: str, options: Sequence[str]) -> int:
    """Return the index of the option that a letter names: 0 for ``A``.

    Raises
    ------
    RowError
        If the field is not the letter of an option.
    """
    letter = row.text(name)
    index = ord(letter) - ord("A") if len(letter) == 1 else -1
    if not 0 <= index < len(options):
        raise RowError("answer_not_in_options", name, f"{shown(letter)} is not the letter of {len(options)} options")
    return index


def option_list(row: Row, name: str) -> tuple[str, ...]:
    """Return the texts of a list of two or more options; note one that is given more than once.

    Raises
    ------
    RowError
        If the field is not such a list.
    """
    values = row.required(name)
    if not isinstance(values, list) or len(values) < 2:
        raise RowError("wrong_type", name, f"must be a list of two or more texts (got {shown(values)})")
    options = tuple(row.checked_text(name, value) for value in values)
    note_repeated(row, options, name)
    return options


def option_names(fields: Iterable[str]) -> list[str]:
    """Return ``a0``, ``a1``, … up to the last such field; one that is missing in between is among them."""
    numbers = [int(match[1]) for name in fields if (match := _OPTION.fullmatch(name))]
    return [f"a{number}" for number in range(max(numbers, default=-1) + 1)]


@dataclass(slots=True)
class QuestionBuilder(ABC):
    """Builds the questions of one file; a subclass knows what the fields of its format mean.

    Attributes
    ----------
    known
        The fields that the published files have; a field beside them is noted once and ignored. None notes none.
    file
        The annotation file, as messages name it.
    dataset, split
        Written into every question.
    anomalies
        Receives the notes and errors.
    """

    known: ClassVar[frozenset[str] | None] = None

    file: str
    dataset: str
    split: str
    anomalies: Anomalies
    _first_lines: dict[str, int] = field(default_factory=dict, init=False)
    _extra: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)

    @abstractmethod
    def build(self, row: Row) -> Question | None:
        """Return the question of a row; None leaves the row out.

        Raises
        ------
        RowError
            To refuse the row.
        """

    def build_all(self, records: Iterable[Record | Broken]) -> list[Question]:
        """Return the questions of all rows that are not refused, flagged with the codes of their notes."""
        questions = []
        for row in self._rows(records):
            self._count_extra(row)
            try:
                question = self.build(row)
            except RowError as error:
                file, line = error.file or self.file, error.line or row.line
                self.anomalies.append(Anomaly("error", error.code, file, line, row.key, error.field, error.message))
                continue
            if question is not None:
                self.anomalies.extend(row.notes)
                questions.append(replace(question, flags=tuple(dict.fromkeys(note.code for note in row.notes))))
        for name, (line, rows) in self._extra.items():
            count = f"{plural(rows, 'row')} {'has' if rows == 1 else 'have'}"
            message = f"{count} this key, which the published files lack; ignored"
            self.anomalies.append(Anomaly("note", "extra_key", self.file, line, "", name, message))
        return questions

    def _count_extra(self, row: Row) -> None:
        """Count the fields of a row that the published files lack, each with the line in which it first occurs."""
        if self.known is None:
            return
        for name in row.fields:
            if name not in self.known:
                line, rows = self._extra.get(name, (row.line, 0))
                self._extra[name] = line, rows + 1

    def invented_id(self, row: Row) -> str:
        """Return the id of a question whose source gives none; rows are counted by file, so it names split and file."""
        return f"row:{self.split}/{Path(self.file).name}:{row.index}"

    def question(self, row: Row, video_id: str, text: str) -> Question:
        """Return a question with what every format gives; a format adds the rest with ``dataclasses.replace``."""
        return Question(
            question_id=row.key,
            video_id=video_id,
            dataset=self.dataset,
            split=self.split,
            row=row.index,
            question=text,
        )

    def hides_answer(self, row: Row, name: str = "answer") -> bool:
        """Return whether a row withholds its answer, which those of a test split may."""
        return self.split.startswith("test") and is_empty(row.get(name))

    def check_unique(self, row: Row, name: str) -> None:
        """Refuse a row whose question id, in the field ``name``, an earlier row has."""
        if row.key in self._first_lines:
            message = f"{row.key!r} is already given in line {self._first_lines[row.key]}"
            raise RowError("duplicate_question_id", name, message)
        self._first_lines[row.key] = row.line

    def _rows(self, records: Iterable[Record | Broken]) -> Iterator[Row]:
        """Yield the rows with their 0-based number; a broken one counts, and is an error."""
        try:
            for index, record in enumerate(records):
                if isinstance(record, Broken):
                    error = Anomaly("error", record.code, self.file, record.line, "", "", record.message)
                    self.anomalies.append(error)
                else:
                    yield Row(self.file, record.line, index, record.fields)
        except FileProblem as problem:
            self.anomalies.append(problem.anomaly(self.file))
