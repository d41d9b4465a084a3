"""Reads a source (a directory, a glob, or a csv, jsonl or Parquet table) into a list of keyed videos."""

from __future__ import annotations

import csv
import glob
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shared.errors import SourceError
from settings.messages import available
from stores.errors import InvalidKeyError
from stores.format.layout import check_key

_SUFFIXES = """
3gp asf avi divx f4v flv m1v m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv
"""
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
TABLE_SUFFIXES = frozenset((".csv", ".jsonl", ".parquet"))
REQUIRED = ("video_id", "uri")
OPTIONAL = ("start_s", "end_s")

KeyMode = Literal["stem", "relpath"]


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One wanted video or clip.

    Attributes
    ----------
    key
        The video key.
    uri
        An absolute local path or an fsspec URI.
    start_s, end_s
        Bounds of the clip in seconds; None means the video's own.
    status
        The file's stat, if listing the source needed it anyway: planning an unchanged tree then needs no second one.
    """

    key: str
    uri: str
    start_s: float | None = None
    end_s: float | None = None
    status: os.stat_result | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the file must be read through fsspec."""
        return "://" in self.uri


def read_source(source: str, key_mode: KeyMode = "stem") -> list[SourceItem]:
    """List a source, sorted by key bytes.

    Parameters
    ----------
    source
        A directory (with the videos below it, recursively), a glob, or a table with the columns
        ``video_id, uri[, start_s, end_s]``. Each may be an fsspec URI; a relative ``uri`` in a table is relative to the
        table's folder.
    key_mode
        How a file of a directory or glob gets its key.

    Raises
    ------
    SourceError
        With one line that names the file, line and field, or both files of a key collision.
    """
    if "://" in source:
        if source.startswith("file://"):
            return read_source(source.removeprefix("file://"), key_mode)
        suffix = PurePosixPath(source).suffix.lower()
        items = _table(source) if suffix in TABLE_SUFFIXES else _remote_files(source, key_mode)
    elif Path(source).is_dir():
        items = _directory(Path(source).resolve(), key_mode)
    elif Path(source).suffix.lower() in TABLE_SUFFIXES and not glob.has_magic(source):
        items = _table(str(Path(source).resolve()))
    elif glob.has_magic(source) and not Path(source).exists():
        items = _glob(source, key_mode)
    elif Path(source).is_file():
        path = Path(source).resolve()
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise SourceError(f"{source}: neither a video nor a table (.csv, .jsonl, .parquet)")
        items = [_file_item(str(path), path.parent, key_mode, path.stat())]
    else:
        raise SourceError(f"{source}: no such directory, glob or table")
    return _checked(source, items)


def _checked(source: str, items: Iterable[SourceItem]) -> list[SourceItem]:
    """Sort by key bytes; refuse bad keys, and collisions by naming both files."""
    keyed: dict[bytes, SourceItem] = {}
    for item in items:
        try:
            raw = check_key(item.key)
        except InvalidKeyError as error:
            raise SourceError(f"{os.fsencode(item.uri).decode(errors='backslashreplace')}: {error}") from error
        if raw in keyed:
            hint = "" if Path(source).suffix.lower() in TABLE_SUFFIXES else "; use --key relpath"
            raise SourceError(f"key {item.key!r} is given twice: {keyed[raw].uri} and {item.uri}{hint}")
        keyed[raw] = item
    if not keyed:
        raise SourceError(f"{source}: holds no videos")
    return [keyed[raw] for raw in sorted(keyed)]


def _file_item(path: str, base: Path, key_mode: KeyMode, status: os.stat_result | None) -> SourceItem:
    key = Path(path).stem if key_mode == "stem" else os.path.relpath(path, base)
    return SourceItem(key, path, status=status)


def _directory(root: Path, key_mode: KeyMode) -> Iterator[SourceItem]:
    pending = [str(root)]
    while pending:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            raise SourceError(f"{folder}: not readable ({error.strerror})") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
                continue
            stem, _, suffix = entry.name.rpartition(".")
            if f".{suffix.lower()}" in VIDEO_SUFFIXES:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    status = None
                # Plain strings, not Path: a tree may have a hundred thousand files.
                key = stem if key_mode == "stem" else os.path.relpath(entry.path, root)
                yield SourceItem(key, entry.path, status=status)


def _glob(pattern: str, key_mode: KeyMode) -> Iterator[SourceItem]:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed]).resolve() if fixed else Path.cwd()
    pattern = str(Path(glob.escape(str(base)), *parts[fixed:]))
    for name in sorted(glob.glob(pattern, recursive=True), key=os.fsencode):  # noqa: PTH207 (absolute patterns)
        path = Path(name).absolute()
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            yield _file_item(str(path), base, key_mode, path.stat())


def _remote_files(source: str, key_mode: KeyMode) -> Iterator[SourceItem]:
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
        names = filesystem.glob(path) if glob.has_magic(path) else filesystem.find(path)
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{source}: not readable ({error})") from error
    base = PurePosixPath(path.split("*", 1)[0])
    for name in sorted(names):
        file = PurePosixPath(name)
        if file.suffix.lower() in VIDEO_SUFFIXES:
            key = file.stem if key_mode == "stem" else os.path.relpath(file, base)
            yield SourceItem(key, filesystem.unstrip_protocol(name))


def _table(uri: str) -> list[SourceItem]:
    try:
        with fsspec.open(uri, "rb") as file:
            data = file.read()
    except (OSError, ImportError, ValueError) as error:
        raise SourceError(f"{uri}: not readable ({error})") from error
    suffix = PurePosixPath(uri).suffix.lower()
    reader = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}[suffix]
    base = uri.rsplit("/", 1)[0]
    items = []
    first_line: dict[str, int] = {}
    for line, row in reader(uri, data):
        item = _table_item(uri, line, row, base)
        if item.key in first_line:
            raise SourceError(
                f"{uri}: line {line}: video_id {item.key!r} is given twice (first in line {first_line[item.key]})"
            )
        first_line[item.key] = line
        items.append(item)
    return items


def _columns(uri: str, names: Iterable[str]) -> None:
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
        _columns(uri, rows.fieldnames or ())
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
        except ValueError as error:
            raise SourceError(f"{uri}: line {line}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise SourceError(f"{uri}: line {line}: must be an object")
        for name in REQUIRED:
            if name not in row:
                raise SourceError(f"{uri}: line {line}: field {name!r} is missing")
        yield line, row


def _parquet_rows(uri: str, data: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise SourceError(f"{uri}: not a readable Parquet file ({error})") from error
    _columns(uri, table.column_names)
    wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in table.column_names]
    yield from enumerate(table.select(wanted).to_pylist(), 1)


def _table_item(uri: str, line: int, row: Mapping[str, Any], base: str) -> SourceItem:
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
    start, end = (_seconds(uri, line, row, name) for name in OPTIONAL)
    if end is not None and end <= (start or 0.0):
        raise SourceError(f"{uri}: line {line}: field 'end_s': {end} is not after the start of the clip")
    location = texts["uri"].removeprefix("file://")
    if "\0" in location:
        raise SourceError(f"{uri}: line {line}: field 'uri': holds a NUL byte")
    if "://" not in location and not location.startswith("/"):
        location = f"{base}/{location}" if "://" in base else os.path.normpath(Path(base) / location)
    return SourceItem(texts["video_id"], location, start, end)


def _seconds(uri: str, line: int, row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise SourceError(f"{uri}: line {line}: field {name!r} must be seconds, 0 or more (got {value!r})")
    return seconds
