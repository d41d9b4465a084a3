"""Rows of csv, JSON and Parquet files with the line each begins in; a broken row costs itself, not its neighbours."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parsers.annotations.report import AnnotationError

_SPACE = re.compile(r"[ \t\n\r]*")

# The whole file is in memory anyhow; with csv's own limit, a cell that is too long would be an error without a field.
csv.field_size_limit(2**31 - 1)


class FileProblem(Exception):
    """No row, or none from here on, can be read."""

    def __init__(self, code: str, message: str, line: int = 0, field: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.line, self.field = code, message, line, field


@dataclass(frozen=True, slots=True)
class Record:
    """One row: its first line, and its fields."""

    line: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    """One row that is not readable."""

    line: int
    code: str
    message: str


def read_text(path: Path) -> str:
    """The text of a file. Bytes that are not UTF-8 become lone surrogates, so that only the rows that use them fail.

    Raises
    ------
    AnnotationError
        If there is no such file, or it is not readable.
    """
    return read_bytes(path).decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: not readable ({error})") from error


def csv_records(text: str, required: Sequence[str | tuple[str, ...]]) -> Iterator[Record | Broken]:
    """Rows of a csv file as text (no cell is taken for a missing value).

    ``required`` names columns that must be there; a tuple names alternatives.

    Raises
    ------
    FileProblem
        If the header is not usable.
    """
    lines = list(io.StringIO(text, newline=""))
    rows = _csv_rows(lines)
    line, header = next(rows, (1, []))
    if isinstance(header, Broken):
        raise FileProblem(header.code, header.message, header.line)
    if not header:
        raise FileProblem("empty_file", "holds no header and no rows")
    _check_header(header, required, line)
    for line, cells in rows:
        if isinstance(cells, Broken):
            yield cells
        elif len(cells) != len(header):
            yield Broken(line, "wrong_columns", f"has {len(cells)} fields, the header has {len(header)}")
        else:
            yield Record(line, dict(zip(header, cells, strict=True)))


def _csv_rows(lines: Sequence[str]) -> Iterator[tuple[int, list[str] | Broken]]:
    """(line, cells) of each row that is not blank. After a broken row reading goes on in the line after its first."""
    start = 0
    while start < len(lines):
        reader = csv.reader((lines[i] for i in range(start, len(lines))), strict=True)
        begun = 0
        try:
            for cells in reader:
                if cells:
                    yield start + begun + 1, cells
                begun = reader.line_num
            return
        except csv.Error as error:
            line = start + begun + 1
            yield line, Broken(line, "malformed_csv", f"not valid csv ({error})")
            start = line


def _check_header(header: Sequence[str], required: Sequence[str | tuple[str, ...]], line: int) -> None:
    repeated = first_repeated(header)
    if repeated is not None:
        raise FileProblem("wrong_header", f"column {repeated!r} is given twice", line, repeated)
    for names in required:
        names = (names,) if isinstance(names, str) else names
        if not any(name in header for name in names):
            there = ", ".join(header)
            wanted = " or ".join(map(repr, names))
            raise FileProblem("wrong_header", f"column {wanted} is missing (there is: {there})", line, names[0])


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that was there before; None where each is there once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


class _Decoder:
    """Decodes one JSON value at a time from a text, and knows the line of each."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._repeated: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self._line, self._counted = 1, 0

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = first_repeated(name for name, _ in pairs)
        if repeated is not None:
            self._repeated.append(repeated)
        return dict(pairs)

    def line(self) -> int:
        """The 1-based line of the current position. Positions only grow."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def skip(self) -> str:
        """Skip white space; return the next character, "" at the end."""
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.text[self.at : self.at + 1]

    def value(self, line: int) -> Any | Broken:
        """The value here; the position moves behind it, unless it is not valid JSON."""
        self._repeated.clear()
        try:
            value, self.at = self._decoder.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            return Broken(error.lineno, "malformed_json", f"not valid JSON ({error.msg}, line {error.lineno})")
        except RecursionError:
            return Broken(line, "malformed_json", "not valid JSON (nested too deeply)")
        except ValueError as error:  # an integer of thousands of digits
            return Broken(line, "malformed_json", f"not valid JSON ({error})")
        if self._repeated:
            return Broken(line, "repeated_key", f"key {self._repeated[0]!r} is given twice in one object")
        return value


def json_records(text: str) -> Iterator[Record | Broken]:
    """Objects of a JSON array.

    After an element that is not valid JSON, reading goes on at the next line that is indented like the first element
    and opens an object; a file without such lines ends there.

    Raises
    ------
    FileProblem
        If the file is not an array, or ends before the array does.
    """
    decoder = _Decoder(text)
    if (first := decoder.skip()) != "[":
        raise FileProblem(*_not_a("an array of objects", first), decoder.line())
    decoder.at += 1
    following = decoder.skip()
    before = text.rfind("\n", 0, decoder.at) + 1
    blank = text[before : decoder.at]
    element = re.compile(rf"^{blank}\{{", re.MULTILINE) if before and not blank.strip() else None
    while following != "]":
        line = decoder.line()
        value, start = decoder.value(line), decoder.at
        if isinstance(value, Broken) and value.code == "malformed_json":
            yield Broken(line, value.code, value.message)
            resumed = element.search(text, start + 1) if element else None
            if resumed is None:
                raise FileProblem("malformed_json", "rows after this one cannot be told apart and are not read", line)
            decoder.at = resumed.end() - 1
            following = "{"
            continue
        yield _record(line, value)
        following = _after_member(decoder, "]")
    _check_end(decoder)


def _record(line: int, value: Any) -> Record | Broken:
    if isinstance(value, Broken):
        return value
    if not isinstance(value, dict):
        return Broken(line, "wrong_type", f"must be an object (got {type(value).__name__})")
    return Record(line, value)


def _after_member(decoder: _Decoder, closing: str) -> str:
    """Skip the comma behind a member; return the next character, which begins another or is ``closing``."""
    following = decoder.skip()
    if following == ",":
        decoder.at += 1
        following = decoder.skip()
        if following == closing:
            raise FileProblem("malformed_json", "not valid JSON (comma before the end)", decoder.line())
    elif following != closing:
        what = f"expected ',' or '{closing}', got {following!r}" if following else "the file ends too early"
        raise FileProblem("malformed_json", f"not valid JSON ({what})", decoder.line())
    return following


def json_members(text: str) -> Iterator[tuple[int, str, Any]]:
    """(line, key, value) of each member of a JSON object; the value may be Broken.

    Raises
    ------
    FileProblem
        If the file is not an object, or from where it stops being valid JSON.
    """
    decoder = _Decoder(text)
    if (first := decoder.skip()) != "{":
        raise FileProblem(*_not_a("an object", first), decoder.line())
    decoder.at += 1
    following = decoder.skip()
    seen: set[str] = set()
    while following != "}":
        line = decoder.line()
        key = decoder.value(line)
        if not isinstance(key, str) or decoder.skip() != ":":
            raise FileProblem("malformed_json", "not valid JSON (expected a key and ':')", line)
        decoder.at += 1
        decoder.skip()
        value = decoder.value(line)
        if isinstance(value, Broken) and value.code == "malformed_json":
            raise FileProblem(value.code, value.message, value.line, key)
        if key in seen:
            value = Broken(line, "repeated_key", f"key {key!r} is given twice in one object")
        seen.add(key)
        yield line, key, value
        following = _after_member(decoder, "}")
    _check_end(decoder)


def _check_end(decoder: _Decoder) -> None:
    """Refuse anything behind the bracket that closes the file's one value."""
    decoder.at += 1
    if decoder.skip():
        raise FileProblem("malformed_json", "not valid JSON (more follows behind its end)", decoder.line())


def _not_a(wanted: str, first: str) -> tuple[str, str]:
    return ("wrong_type", f"must hold {wanted}") if first else ("empty_file", "is empty")


def jsonl_records(text: str) -> Iterator[Record | Broken]:
    """One object a line."""
    for number, line_text in enumerate(text.split("\n"), 1):
        if not line_text.strip():
            continue
        decoder = _Decoder(line_text)
        decoder.skip()
        value = decoder.value(number)
        if isinstance(value, Broken):
            yield Broken(number, value.code, value.message)
        elif decoder.skip():
            yield Broken(number, "malformed_json", "not valid JSON (more than one value in the line)")
        else:
            yield _record(number, value)


def parquet_records(data: bytes, required: Sequence[str]) -> Iterator[Record]:
    """Rows of a Parquet file; the line is the 1-based row.

    Raises
    ------
    FileProblem
        If it is not readable or lacks a column.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
        rows: Iterable[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise FileProblem("malformed_parquet", f"not a readable Parquet file ({error})") from error
    _check_header(table.column_names, required, 1)
    for line, fields in enumerate(rows, 1):
        yield Record(line, fields)
