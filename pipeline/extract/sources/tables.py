"""Reads tables of videos: csv, jsonl or Parquet, with one video or clip a row."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.extract.identity import describe_os_error
from pipeline.extract.remote import Bounds, check_protocols, read_remote
from pipeline.extract.sources.columns import Columns, SourceItem
from pipeline.extract.sources.rules import Rules
from pipeline.media import MAX_RATE
from pipeline.shared.errors import SourceError
from settings.files import read_bytes
from settings.messages import available, one_line
from stores.errors import InvalidKeyError
from stores.format.layout import check_key

TABLE_SUFFIXES = frozenset((".csv", ".jsonl", ".parquet"))
REQUIRED = ("video_id", "uri")
OPTIONAL = ("start_s", "end_s", "image_rate")


def add_table(columns: Columns, uri: str, image_rate: float | None, rules: Rules) -> None:
    """Add the videos of a table.

    Raises
    ------
    SourceError
        If the table cannot be read, or a row is wrong; it names the line and the field.
    """
    try:
        if "://" in uri:
            data = read_remote(uri, Bounds(rules.table_bytes, rules.stall_s))
        else:
            data = read_bytes(uri, rules.table_bytes)
    except (OSError, ValueError) as error:
        reason = describe_os_error(error)[1] if isinstance(error, OSError) else one_line(error)
        hint = "; --set source.table_bytes=N allows more" if getattr(error, "errno", 0) == errno.EOVERFLOW else ""
        raise SourceError(f"{uri}: not readable ({reason}){hint}") from error
    suffix = PurePosixPath(uri).suffix.lower()
    reader = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}[suffix]
    base = uri.rsplit("/", 1)[0]
    first_line: dict[str, int] = {}
    for line, row in reader(uri, data):
        item = _table_item(uri, line, row, base, image_rate, rules)
        if item.key in first_line:
            raise SourceError(
                f"{uri}: line {line}: video_id {item.key!r} is given twice (first in line {first_line[item.key]})"
            )
        first_line[item.key] = line
        columns.add(item)


def _check_columns(uri: str, names: Iterable[str]) -> None:
    present = list(names)
    for name in REQUIRED:
        if name not in present:
            raise SourceError(f"{uri}: column {name!r} is missing ({available(map(str, present))})")


def _csv_rows(uri: str, data: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SourceError(f"{uri}: line {line}: not UTF-8") from error
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(uri, rows.fieldnames or ())
        for row in rows:
            if None in row or None in row.values():
                raise SourceError(f"{uri}: line {rows.line_num}: does not have the header's number of fields")
            yield rows.line_num, row
    except csv.Error as error:
        raise SourceError(f"{uri}: line {rows.line_num}: not valid csv ({error})") from error


def _jsonl_rows(uri: str, data: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(data.splitlines(), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{uri}: line {line}: not valid JSON ({one_line(error)})") from error
        if not isinstance(row, dict):
            raise SourceError(f"{uri}: line {line}: must be an object")
        for name in REQUIRED:
            if name not in row:
                raise SourceError(f"{uri}: line {line}: field {name!r} is missing")
        yield line, row


def _parquet_rows(uri: str, data: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        table = pq.read_table(pa.BufferReader(data))
        wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in table.column_names]
        rows = table.select(wanted).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise SourceError(f"{uri}: not a readable Parquet file ({one_line(error)})") from error
    _check_columns(uri, table.column_names)
    yield from enumerate(rows, 1)


def _table_item(
    uri: str, line: int, row: Mapping[str, Any], base: str, image_rate: float | None, rules: Rules
) -> SourceItem:
    texts = {}
    for name in REQUIRED:
        value = row[name]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value:
            raise SourceError(f"{uri}: line {line}: field {name!r} must be text and not empty (got {value!r})")
        texts[name] = value
    try:
        check_key(texts["video_id"])
    except InvalidKeyError as error:
        raise SourceError(f"{uri}: line {line}: field 'video_id': {error}") from error
    start, end = (_seconds(uri, line, row, name) for name in ("start_s", "end_s"))
    if end is not None and end <= (start or 0.0):
        raise SourceError(f"{uri}: line {line}: field 'end_s': {end} is not after the start of the clip")
    location = texts["uri"]
    if "://" in location or (PurePosixPath(location).parts[:1] != ("/",) and "://" in base):
        try:
            check_protocols(location if "://" in location else f"{base}/{location}", rules.protocols)
        except SourceError as error:
            raise SourceError(f"{uri}: line {line}: field 'uri': {error}") from error
    location = location.removeprefix("file://")
    if "\0" in location:
        raise SourceError(f"{uri}: line {line}: field 'uri': holds a NUL byte")
    try:
        location.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise SourceError(f"{uri}: line {line}: field 'uri': not valid Unicode ({error.reason})") from error
    if "://" not in location and not location.startswith("/"):
        location = f"{base}/{location}" if "://" in base else os.path.normpath(Path(base) / location)
    own_rate = _seconds(uri, line, row, "image_rate", "images per second, more than 0")
    if own_rate is None and image_rate is not None and "://" not in location and Path(location).is_dir():
        own_rate = image_rate
    return SourceItem(texts["video_id"], location, start, end, own_rate)


def _seconds(
    uri: str, line: int, row: Mapping[str, Any], name: str, wanted: str = "seconds, 0 or more"
) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0 or (name == "image_rate" and not 0 < seconds <= MAX_RATE):
        raise SourceError(f"{uri}: line {line}: field {name!r} must be {wanted} (got {value!r})")
    return seconds
