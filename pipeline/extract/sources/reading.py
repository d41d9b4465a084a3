"""Reads a source (a directory, a glob, or a csv, jsonl or Parquet table) into keyed videos."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow.compute as pc

from pipeline.extract.identity import describe_os_error
from pipeline.extract.remote import Bounds, check_protocols, remote_files
from pipeline.extract.sources.columns import Columns, SourceItem, Sources, first_bad_key
from pipeline.extract.sources.folders import add_directory, add_file, add_glob
from pipeline.extract.sources.names import IMAGES_HINT, KeyMode, has_video_suffix
from pipeline.extract.sources.rules import DEFAULT_RULES, Rules, check_root
from pipeline.extract.sources.tables import TABLE_SUFFIXES, add_table
from pipeline.media import is_image
from pipeline.shared.errors import SourceError
from settings.messages import plural
from stores.errors import InvalidKeyError
from stores.format.layout import check_key

_IGNORED_SHOWN = 5


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

    items: Sources
    ignored: Mapping[str, int]

    def describe_ignored(self) -> str:
        """Return one line such as ``ignored: 24 files (.txt 20, .jpg 4)``, or nothing."""
        if not self.ignored:
            return ""
        counts = sorted(self.ignored.items(), key=lambda pair: (-pair[1], pair[0]))
        shown = ", ".join(f"{suffix or 'no suffix'} {count}" for suffix, count in counts[:_IGNORED_SHOWN])
        more = f", and {len(counts) - _IGNORED_SHOWN} more kinds" if len(counts) > _IGNORED_SHOWN else ""
        return f"ignored: {plural(sum(self.ignored.values()), 'file')} ({shown}{more})"


def read_source(
    source: str, key_mode: KeyMode = "stem", image_rate: float | None = None, rules: Rules = DEFAULT_RULES
) -> Listing:
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
    rules
        What the source may name.

    Raises
    ------
    SourceError
        With one line that names the file, line and field, or both files of a key collision.
    """
    ignored: Counter[str] = Counter()
    columns = Columns()
    if "://" in source:
        check_protocols(source, rules.protocols)
        if source.startswith("file://"):
            return read_source(source.removeprefix("file://"), key_mode, image_rate, rules)
        suffix = PurePosixPath(source).suffix.lower()
        if suffix in TABLE_SUFFIXES:
            add_table(columns, source, None, rules)
        else:
            _add_remote_files(columns, source, key_mode, ignored, rules)
    elif Path(source).is_dir():
        add_directory(columns, Path(source).resolve(), key_mode, image_rate, ignored)
    elif Path(source).suffix.lower() in TABLE_SUFFIXES and not glob.has_magic(source):
        add_table(columns, str(Path(source).resolve()), image_rate, rules)
    elif glob.has_magic(source) and not Path(source).exists():
        add_glob(columns, source, key_mode, image_rate, ignored)
    elif Path(source).exists():
        path = Path(source).resolve()
        add_file(columns, str(path), path.parent, key_mode)
    else:
        raise SourceError(f"{source}: no such directory, glob or table")
    items = _checked(source, Sources(columns.table()), ignored)
    if rules.root is not None:
        check_root(rules.root, items)
    return Listing(items, ignored)


def _checked(source: str, items: Sources, ignored: Counter[str]) -> Sources:
    """Sort by key bytes; refuse bad keys, and collisions by naming both files."""
    if not len(items):
        left_out = Listing(items, ignored).describe_ignored()
        hint = f"; {IMAGES_HINT}" if any(is_image(f"image{suffix}") for suffix in ignored) else ""
        raise SourceError(f"{source}: holds no videos{'; ' if left_out else ''}{left_out}{hint}")
    keys = items.column("key")
    if (bad := first_bad_key(keys)) is not None:
        item = items[bad]
        try:
            check_key(item.key)
        except InvalidKeyError as error:
            raise SourceError(f"{os.fsencode(item.uri).decode(errors='backslashreplace')}: {error}") from error
    ordered = Sources(items.table.take(pc.sort_indices(keys)))
    keys = ordered.column("key")
    repeated = pc.indices_nonzero(pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1)))
    if len(repeated):
        position = repeated[0].as_py()
        one, other = sorted(ordered[position : position + 2], key=lambda item: os.fsencode(item.uri))
        hint = "" if Path(source).suffix.lower() in TABLE_SUFFIXES else "; use --key relpath"
        raise SourceError(f"key {one.key!r} is given twice: {one.uri} and {other.uri}{hint}")
    return ordered


def _add_remote_files(columns: Columns, source: str, key_mode: KeyMode, ignored: Counter[str], rules: Rules) -> None:
    try:
        folder, files = remote_files(source, Bounds(stall_s=rules.stall_s))
    except OSError as error:
        raise SourceError(f"{source}: not readable ({describe_os_error(error)[1]})") from error
    base = PurePosixPath(folder)
    for name, uri in files:
        file = PurePosixPath(name)
        if has_video_suffix(file.name, ignored):
            key = file.stem if key_mode == "stem" else os.path.relpath(file, base)
            columns.add(SourceItem(key, uri))
