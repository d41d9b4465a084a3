"""Reads rows of csv, JSON and Parquet files, each with its first line; a broken row does not cost its neighbours."""

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

from parsers.annotations.anomalies import AnnotationError, Anomaly
from settings import files
from settings.messages import available, one_line

_NO_TEXT = {
    b"\x1f\x8b": "is compressed by gzip; unpack it",
    b"PK\x03\x04": "is a zip file (or a spreadsheet); unpack it, or save it as csv",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
}
"""First bytes of files that are not read as text, and what to do."""

_SPACE = re.compile(r"[ \t\n\r]*")

# The whole file is in memory anyway; under the default limit, the error for a long cell could not name its field.
csv.field_size_limit(2**31 - 1)


class FileProblem(Exception):
    """Raised when a file cannot be read, or not past this point."""

    def __init__(self, code: str, message: str, line: int = 0, field: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.line, self.field = code, message, line, field

    def anomaly(self, file: str) -> Anomaly:
        """Return the problem as an error in ``file``."""
        return Anomaly("error", self.code, file, self.line, "", self.field, self.message, ends_file=True)


@dataclass(frozen=True, slots=True)
class Record:
    """One row: its 1-based first line, and its fields."""

    line: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    """One row that cannot be read, and why."""

    line: int
    code: str
    message: str


def read_text(path: Path) -> str:
    """Return the text of a file. Bytes that are not UTF-8 become lone surrogates, so that only their rows fail.

    Raises
    ------
    AnnotationError
        If there is no such file, it is not readable, or it is compressed or in another encoding as a whole.
    """
    data = read_bytes(path)
    for signature, what in _NO_TEXT.items():
        if data.startswith(signature):
            raise AnnotationError(f"{path}: {what}")
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    AnnotationError
        If there is no such file, or it is not readable.
    """
    try:
        return files.read_bytes(path)
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: not readable ({getattr(error, 'strerror', None) or error})") from error


def csv_records(
    text: str, required: Sequence[str | tuple[str, ...]], delimiter: str = ","
) -> Iterator[Record | Broken]:
    """Yield the rows of a csv file; every cell is text, and none counts as a missing value.

    Parameters
    ----------
    text
        The content of the file.
    required
        The columns that must exist; a tuple names alternatives.
    delimiter
        The character between two cells.

    Raises
    ------
    FileProblem
        If the header cannot be used, or the file ends within a row.
    """
    lines = list(io.StringIO(text, newline=""))
    rows = _csv_rows(lines, delimiter)
    line, header = next(rows, (1, []))
    if isinstance(header, Broken):
        raise FileProblem(header.code, header.message, header.line)
    if not header:
        raise FileProblem("empty_file", "has neither a header nor rows")
    _check_header(header, required, line)
    broken: Broken | None = None
    for line, cells in rows:
        broken = None
        if isinstance(cells, Broken):
            broken = cells
        elif len(cells) != len(header):
            broken = Broken(line, "wrong_columns", f"has {len(cells)} fields, the header has {len(header)}")
        else:
            yield Record(line, dict(zip(header, cells, strict=True)))
            continue
        yield broken
    _check_cut(text, broken)


def _csv_rows(lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, list[str] | Broken]]:
    """Yield (line, cells) of each row that is not blank; after a broken row, go on in the line after its first."""
    start = 0
    while start < len(lines):
        reader = csv.reader((lines[i] for i in range(start, len(lines))), strict=True, delimiter=delimiter)
        read = 0
        try:
            for cells in reader:
                if cells:
                    yield start + read + 1, cells
                read = reader.line_num
            return
        except csv.Error as error:
            line = start + read + 1
            yield line, Broken(line, "malformed_csv", f"not valid csv ({error})")
            start = line


def _check_header(header: Sequence[str], required: Sequence[str | tuple[str, ...]], line: int) -> None:
    repeated = first_repeated(header)
    if repeated is not None:
        raise FileProblem("wrong_header", f"column {repeated!r} is given twice", line, repeated)
    for names in required:
        names = (names,) if isinstance(names, str) else names
        if not any(name in header for name in names):
            column = " or ".join(map(repr, names))
            raise FileProblem("wrong_header", f"column {column} is missing ({available(header)})", line, names[0])


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs a second time; None if each occurs once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


class _Decoder:
    """Decodes one JSON value at a time from a text, and knows in which line it is."""

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
        """Return the 1-based line of the current position, which only ever grows."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def skip(self) -> str:
        """Skip white space; return the next character, or "" at the end."""
        space = _SPACE.match(self.text, self.at)
        self.at = space.end() if space else self.at
        return self.text[self.at : self.at + 1]

    def value(self, line: int) -> Any | Broken:
        """Return the value at the position, and move behind it unless it is not valid JSON."""
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
    """Yield the objects of a JSON array.

    After an element that is not valid JSON, reading goes on at the next line that opens an object and is indented like
    the first element. A file without such lines ends there.

    Raises
    ------
    FileProblem
        If the file is not an array, or stops being valid JSON.
    """
    decoder = _Decoder(text)
    if (first := decoder.skip()) != "[":
        raise _wrong_start("an array of objects", first, decoder.line())
    decoder.at += 1
    following = decoder.skip()
    line_start = text.rfind("\n", 0, decoder.at) + 1
    indent = text[line_start : decoder.at]
    element = re.compile(rf"^{indent}\{{", re.MULTILINE) if line_start and not indent.strip() else None
    while following != "]":
        line = decoder.line()
        value, start = decoder.value(line), decoder.at
        if isinstance(value, Broken) and value.code == "malformed_json":
            yield Broken(line, value.code, value.message)
            resumed = element.search(text, start + 1) if element else None
            if resumed is None:
                raise FileProblem(
                    "malformed_json", "the rows after this one cannot be told apart, so they are not read", line
                )
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
    """Skip the comma after a member; return the next character, which begins another member or is ``closing``."""
    following = decoder.skip()
    if following == ",":
        decoder.at += 1
        following = decoder.skip()
        if following == closing:
            raise FileProblem("malformed_json", "not valid JSON (a comma before the end)", decoder.line())
    elif following != closing:
        reason = f"expected ',' or '{closing}', got {following!r}" if following else "the file ends too early"
        raise FileProblem("malformed_json", f"not valid JSON ({reason})", decoder.line())
    return following


def json_members(text: str) -> Iterator[tuple[int, str, Any]]:
    """Yield (line, key, value) of each member of a JSON object; the value may be ``Broken``.

    Raises
    ------
    FileProblem
        If the file is not an object, or stops being valid JSON.
    """
    decoder = _Decoder(text)
    if (first := decoder.skip()) != "{":
        raise _wrong_start("an object", first, decoder.line())
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
    """Refuse anything after the bracket that closes the file's one value."""
    decoder.at += 1
    if decoder.skip():
        raise FileProblem("malformed_json", "not valid JSON (more text after its end)", decoder.line())


def _wrong_start(wanted: str, first: str, line: int) -> FileProblem:
    if not first:
        return FileProblem("empty_file", "is empty", line)
    return FileProblem("wrong_type", f"must hold {wanted}", line)


def _check_cut(text: str, last: Broken | None) -> None:
    """Refuse a file whose last row is broken and does not end its line: the rows after it were lost on the way."""
    if last is not None and not text.endswith(("\n", "\r")):
        raise FileProblem("ends_early", f"ends within this row ({last.message}); get the whole file", last.line)


def jsonl_records(text: str) -> Iterator[Record | Broken]:
    """Yield the objects of a file that has one per line; blank lines are skipped.

    Raises
    ------
    FileProblem
        If the file ends within a row.
    """
    broken: Broken | None = None
    for number, line_text in enumerate(text.split("\n"), 1):
        if not line_text.strip():
            continue
        decoder = _Decoder(line_text)
        decoder.skip()
        value = decoder.value(number)
        broken = Broken(number, value.code, value.message) if isinstance(value, Broken) else None
        if broken is None and decoder.skip():
            broken = Broken(number, "malformed_json", "not valid JSON (more than one value on the line)")
        yield broken or _record(number, value)
    _check_cut(text, broken)


def parquet_records(data: bytes, required: Sequence[str]) -> Iterator[Record]:
    """Yield the rows of a Parquet file; the line is the 1-based number of the row.

    Raises
    ------
    FileProblem
        If the file is not readable, or lacks a column of ``required``.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
        rows: Iterable[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise FileProblem("malformed_parquet", f"not a readable Parquet file ({one_line(error)})") from error
    _check_header(table.column_names, required, 1)
    for line, fields in enumerate(rows, 1):
        yield Record(line, fields)
