"""Reads a source (a directory, a glob, or a csv, jsonl or Parquet table) into a list of keyed videos."""

from __future__ import annotations

import csv
import fnmatch
import glob
import io
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.media import MAX_RATE, is_image
from pipeline.shared.errors import SourceError
from settings.messages import available, plural
from stores.errors import InvalidKeyError
from stores.format.layout import check_key

# Every format that the decoder opens (pipeline/media/source.py), by the names that its files commonly have.
_SUFFIXES = """
264 265 3g2 3gp asf avc avi divx dv f4v flv gif h264 h265 hevc ivf m1v m2t m2ts m2v m4v mj2 mjpeg mjpg mk3d mkv mod mov
mp4 mpe mpeg mpg mpv mts mxf nut obu ogg ogm ogv qt rm rmvb tod trp ts vc1 vob vro webm wmv wtv y4m
"""
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
TABLE_SUFFIXES = frozenset((".csv", ".jsonl", ".parquet"))
REQUIRED = ("video_id", "uri")
OPTIONAL = ("start_s", "end_s", "image_rate")

IMAGES_HINT = "folders of images are videos with --set source.image_rate=FPS"

KeyMode = Literal["stem", "relpath"]
_IGNORED_SHOWN = 5


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
    image_rate
        Images per second if ``uri`` is a folder of images; None for a file.
    status
        The file's stat, if listing the source needed it anyway: planning an unchanged tree then needs no second one.
    """

    key: str
    uri: str
    start_s: float | None = None
    end_s: float | None = None
    image_rate: float | None = None
    status: os.stat_result | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the file must be read through fsspec."""
        return "://" in self.uri


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source holds.

    Attributes
    ----------
    items
        The wanted videos, sorted by key bytes.
    ignored
        Number of files that were left out of a directory or glob, by suffix (``""`` for none, ``.*`` for hidden ones).
    """

    items: list[SourceItem]
    ignored: Mapping[str, int]

    def describe_ignored(self) -> str:
        """Return one line such as ``ignored: 24 files (.txt 20, .jpg 4)``, or nothing."""
        if not self.ignored:
            return ""
        counts = sorted(self.ignored.items(), key=lambda pair: (-pair[1], pair[0]))
        shown = ", ".join(f"{suffix or 'no suffix'} {count}" for suffix, count in counts[:_IGNORED_SHOWN])
        more = f", and {len(counts) - _IGNORED_SHOWN} more kinds" if len(counts) > _IGNORED_SHOWN else ""
        return f"ignored: {plural(sum(self.ignored.values()), 'file')} ({shown}{more})"


def read_source(source: str, key_mode: KeyMode = "stem", image_rate: float | None = None) -> Listing:
    """List a source.

    A directory and a wide glob take the files whose suffix is that of a video, and count the others. A file that is
    named, or a glob that states a suffix, is taken whatever the suffix. Linked folders are followed, each once. What
    cannot be read as a file is listed all the same: it becomes a failure of its own and not the end of the run.

    Parameters
    ----------
    source
        A directory (with the videos below it, recursively), a glob, or a table with the columns
        ``video_id, uri[, start_s, end_s, image_rate]``. Each may be an fsspec URI; a relative ``uri`` in a table is
        relative to the table's folder.
    key_mode
        How a file of a directory or glob gets its key; a folder of images has no suffix to lose.
    image_rate
        Images per second: a local folder that holds images and no video is then a video itself. None: images are
        ignored like any other file.

    Raises
    ------
    SourceError
        With one line that names the file, line and field, or both files of a key collision.
    """
    ignored: Counter[str] = Counter()
    items: Iterable[SourceItem]
    if "://" in source:
        if source.startswith("file://"):
            return read_source(source.removeprefix("file://"), key_mode, image_rate)
        suffix = PurePosixPath(source).suffix.lower()
        items = _table(source, None) if suffix in TABLE_SUFFIXES else _remote_files(source, key_mode, ignored)
    elif Path(source).is_dir():
        items = _directory(Path(source).resolve(), key_mode, image_rate, ignored)
    elif Path(source).suffix.lower() in TABLE_SUFFIXES and not glob.has_magic(source):
        items = _table(str(Path(source).resolve()), image_rate)
    elif glob.has_magic(source) and not Path(source).exists():
        items = _glob(source, key_mode, image_rate, ignored)
    elif Path(source).exists():
        path = Path(source).resolve()
        items = [_file_item(str(path), path.parent, key_mode)]
    else:
        raise SourceError(f"{source}: no such directory, glob or table")
    return Listing(_checked(source, items, ignored), ignored)


def _checked(source: str, items: Iterable[SourceItem], ignored: Counter[str]) -> list[SourceItem]:
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
        left_out = Listing([], ignored).describe_ignored()
        hint = f"; {IMAGES_HINT}" if any(is_image(f"image{suffix}") for suffix in ignored) else ""
        raise SourceError(f"{source}: holds no videos{'; ' if left_out else ''}{left_out}{hint}")
    return [keyed[raw] for raw in sorted(keyed)]


def _file_item(path: str, base: Path, key_mode: KeyMode) -> SourceItem:
    key = Path(path).stem if key_mode == "stem" else os.path.relpath(path, base)
    return SourceItem(key, path, status=_stat(path))


def _stat(path: str | os.DirEntry[str]) -> os.stat_result | None:
    """Return a file's stat; None for a dangling link or a circle of links, which planning will meet again."""
    try:
        return path.stat() if isinstance(path, os.DirEntry) else os.stat(path)  # noqa: PTH116 (plain strings are faster)
    except OSError:
        return None


def _has_video_suffix(name: str, ignored: Counter[str]) -> bool:
    """Return whether a file's name is that of a video; count the name if it is not."""
    if name.startswith("."):
        ignored[".*"] += 1
        return False
    _, dot, suffix = name.rpartition(".")
    if f".{suffix.lower()}" in VIDEO_SUFFIXES:
        return True
    ignored[f".{suffix.lower()}" if dot else ""] += 1
    return False


class _Folders:
    """Walks folders, each once: by its own name first, and through a link only if nothing else leads there."""

    def __init__(self, root: str) -> None:
        self._pending = [root]
        self._links: list[str] = []
        self._seen: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        """Yield one folder after the other with its files, sorted by name."""
        while self._pending or self._links:
            linked = not self._pending
            folder = self._links.pop() if linked else self._pending.pop()
            try:
                status = os.stat(folder)  # noqa: PTH116
                if (status.st_dev, status.st_ino) in self._seen:
                    continue
                self._seen.add((status.st_dev, status.st_ino))
                entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
            except OSError as error:
                raise SourceError(f"{folder}: not readable ({error.strerror})") from error
            yield folder, [entry for entry in entries if not self._is_folder(entry)]
            self._links.sort(key=os.fsencode, reverse=True)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            if not entry.is_dir():
                return False
        except OSError:  # a circle of links
            return False
        if not entry.name.startswith("."):
            (self._links if entry.is_symlink() else self._pending).append(entry.path)
        return True


def _directory(root: Path, key_mode: KeyMode, image_rate: float | None, ignored: Counter[str]) -> Iterator[SourceItem]:
    for folder, files in _Folders(str(root)):
        passed_over: Counter[str] = Counter()
        videos = [entry for entry in files if _has_video_suffix(entry.name, passed_over)]
        if image_rate is not None and not videos and any(is_image(entry.name) for entry in files):
            yield _image_folder(folder, str(root), key_mode, image_rate)
            passed_over = Counter()
        ignored.update(passed_over)
        for entry in videos:
            # Plain strings, not Path: a tree may have a hundred thousand files.
            key = entry.name.rpartition(".")[0] if key_mode == "stem" else os.path.relpath(entry.path, root)
            yield SourceItem(key, entry.path, status=_stat(entry))


def _image_folder(folder: str, base: str, key_mode: KeyMode, image_rate: float) -> SourceItem:
    name = os.path.basename(folder)  # noqa: PTH119
    key = name if key_mode == "stem" or folder == base else os.path.relpath(folder, base)
    return SourceItem(key, folder, image_rate=image_rate)


def _holds_images_alone(folder: str) -> bool:
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return any(map(is_image, names)) and not any(_has_video_suffix(name, Counter()) for name in names)


def _glob(pattern: str, key_mode: KeyMode, image_rate: float | None, ignored: Counter[str]) -> Iterator[SourceItem]:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed]).resolve() if fixed else Path.cwd()
    _, dot, suffix = parts[-1].rpartition(".")
    states_suffix = bool(dot) and not glob.has_magic(suffix)
    for path in sorted(_matches(base, parts[fixed:], image_rate is not None), key=os.fsencode):
        status = _stat(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            if image_rate is not None and _holds_images_alone(path):
                yield _image_folder(path, str(base), key_mode, image_rate)
            continue
        name = os.path.basename(path)  # noqa: PTH119
        if states_suffix or _has_video_suffix(name, ignored):
            key = name.rpartition(".")[0] or name if key_mode == "stem" else os.path.relpath(path, base)
            yield SourceItem(key, path, status=status)


def _matches(base: Path, parts: Sequence[str], with_folders: bool) -> Iterator[str]:
    """Yield the paths below ``base`` that a glob's parts match; ``**`` enters every folder once, through links too."""
    if "**" not in parts:
        pattern = str(Path(glob.escape(str(base)), *parts))
        yield from (os.path.abspath(path) for path in glob.glob(pattern))  # noqa: PTH100, PTH207 (plain strings)
        return
    for folder, files in _Folders(str(base)):
        if with_folders and _match_parts(Path(folder).relative_to(base).parts, parts):
            yield folder
        for entry in files:
            if _match_parts(Path(entry.path).relative_to(base).parts, parts):
                yield entry.path


def _match_parts(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether the parts of a path are those of a glob; ``**`` stands for any folders, no wildcard for a dot."""
    if not parts or not names:
        return not parts and not names
    if parts[0] == "**":
        return list(parts) == ["**"] or any(_match_parts(names[skip:], parts[1:]) for skip in range(len(names)))
    if names[0].startswith(".") and not parts[0].startswith("."):
        return False
    return fnmatch.fnmatchcase(names[0], parts[0]) and _match_parts(names[1:], parts[1:])


def _remote_files(source: str, key_mode: KeyMode, ignored: Counter[str]) -> Iterator[SourceItem]:
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
        names = filesystem.glob(path) if glob.has_magic(path) else filesystem.find(path)
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{source}: not readable ({error})") from error
    base = PurePosixPath(path.split("*", 1)[0])
    for name in sorted(names):
        file = PurePosixPath(name)
        if _has_video_suffix(file.name, ignored):
            key = file.stem if key_mode == "stem" else os.path.relpath(file, base)
            yield SourceItem(key, filesystem.unstrip_protocol(name))


def _table(uri: str, image_rate: float | None) -> list[SourceItem]:
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
        item = _table_item(uri, line, row, base, image_rate)
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


def _table_item(uri: str, line: int, row: Mapping[str, Any], base: str, image_rate: float | None) -> SourceItem:
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
    location = texts["uri"].removeprefix("file://")
    if "\0" in location:
        raise SourceError(f"{uri}: line {line}: field 'uri': holds a NUL byte")
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
