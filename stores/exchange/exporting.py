"""Export a feature to a target: a layout that a published trainer reads unmodified, or a columnar format.

A target is one function in ``TARGETS``. It gets the requested rows and a new folder, and enters what it wrote in the
``Export``. Rows that cannot be written are listed there; none is dropped silently, and none is written with NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ExchangeError, InvalidKeyError
from ..files import read_text
from ..format import layout
from ..progress import Progress, silent
from ..store import Store
from ..wording import available
from .columnar import export_lance, export_parquet, export_webdataset, export_zarr
from .files import csv_records, read_json
from .published import export_music_avqa, export_nextgqa
from .rows import RECORD_FILE, Export, ExportOptions, StoreRows, Target, new_folder, write_json

WHOLE = "all"
"""Name of the only split, if none are given."""

TARGETS: Mapping[str, Target] = {
    "nextgqa": export_nextgqa,
    "music_avqa": export_music_avqa,
    "lance": export_lance,
    "parquet": export_parquet,
    "webdataset": export_webdataset,
    "zarr": export_zarr,
}


def export(
    store: Store,
    feature: str,
    target: str,
    out: Path,
    splits: Mapping[str, Sequence[str]] | None = None,
    options: ExportOptions | None = None,
    progress: Progress = silent,
) -> Export:
    """Write ``feature`` for ``target`` into the new (or empty) folder ``out``.

    The files are written into a temporary folder beside ``out``, which is then renamed: ``out`` is complete or absent.

    Parameters
    ----------
    store
        The store.
    feature
        The feature, ``name`` or ``name@digest``.
    target
        A key of ``TARGETS``.
    out
        The folder to make.
    splits
        Keys by split name; by default one split ``all`` with every key of the feature.
    options
        Options of the target.
    progress
        Told of the rows that are read and, where that comes later, written.

    Raises
    ------
    ExchangeError
        If the folder is not empty, the target is unknown, rows do not fit it, or no row can be written.
    MissingKeyError
        If there is no such feature.
    """
    if target not in TARGETS:
        raise ExchangeError(f"target {target!r}: unknown ({available(sorted(TARGETS))})")
    name, _, _ = feature.partition("@")
    spec = store.spec(feature)
    result = Export(target, name, layout.digest(spec), store.version, bool(spec.get("random_weights")))
    chosen = {layout.check_name(split): list(dict.fromkeys(keys)) for split, keys in (splits or {}).items()}
    chosen = chosen or {WHOLE: store.keys(feature)}
    with new_folder(out, store.path) as folder:
        TARGETS[target](StoreRows(store, feature, progress), chosen, options or ExportOptions(), folder, result)
        if not any(result.files.values()):
            reason = f" ({result.missing[0].key!r}: {result.missing[0].reason})" if result.missing else ""
            raise ExchangeError(f"{store.path}: feature {feature!r}: no row to export{reason}")
        record = {"reelstore": {"version": store.version, "feature": name, "spec_digest": result.spec, "spec": spec}}
        record["export"] = {"target": target, "files": result.files, "missing": [row.key for row in result.missing]}
        if result.layout:
            record["export"]["layout"] = result.layout
        write_json(folder / RECORD_FILE, record)
    return result


def read_keys(path: Path) -> list[str]:
    """Read the video keys of a split file, without duplicates, in the order of the file.

    A ``.csv`` file has a column ``video_id`` (or ``video``). A ``.json`` file is a list of ids, a list of objects with
    ``video_id``, or an object whose names are ids. Any other file has one id per line.

    Raises
    ------
    ExchangeError
        If the file cannot be read like this, is empty, or contains something that is not a key.
    """
    if not path.is_file():
        raise ExchangeError(f"{path}: no such file")
    keys: list[Any]
    if path.suffix.lower() == ".csv":
        records = csv_records(path, ())
        column = next((name for name in ("video_id", "video") if records and name in records[0]), None)
        if column is None:
            raise ExchangeError(f"{path}: no column 'video_id'")
        keys = [record[column] for record in records]
    elif path.suffix.lower() == ".json":
        value = read_json(path)
        entries = list(value) if isinstance(value, Mapping | list) else []
        keys = [entry.get("video_id") if isinstance(entry, Mapping) else entry for entry in entries]
    else:
        try:
            keys = [line for line in read_text(path).split("\n") if line.strip()]
            keys = [line.removesuffix("\r") for line in keys]
        except UnicodeDecodeError as error:
            raise ExchangeError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    if not keys:
        raise ExchangeError(f"{path}: lists no video")
    for number, key in enumerate(keys, start=1):
        if not isinstance(key, str):
            raise ExchangeError(f"{path}: entry {number}: {key!r} is not a video id (a text)")
        try:
            layout.check_key(key)
        except InvalidKeyError as error:
            raise ExchangeError(f"{path}: entry {number}: {error}") from error
    return list(dict.fromkeys(keys))
