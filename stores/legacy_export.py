"""Writing features in the layouts that published trainers read unmodified.

A target is one function in :data:`TARGETS`: it gets the rows that were asked for and a new folder, and enters what it
wrote in the report. What cannot be written is listed in the report, never dropped in silence and never NaN.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np

from stores import layout
from stores.errors import InvalidKeyError, StoreError
from stores.legacy import INDEX_COLUMNS, INDEX_FILE, LegacyError, csv_records, read_json
from stores.rows import Array, row_digest
from stores.staged_file import StagedFile
from stores.store import Store

RECORD_FILE = "export.json"
FRAMES = 32
WHOLE = "all"
_SAFE = "-_ ()+,=@#"  # beside letters, digits, '.' and '~'; MUSIC-AVQA v2.0 ids hold '#'
_MAX_NAME = 200
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{name}{digit}" for name in ("COM", "LPT") for digit in range(10))}


@dataclass(frozen=True, slots=True)
class Options:
    """What a target may be asked for. None is the target's own default.

    Attributes
    ----------
    dataset : name of the feature dataset (nextgqa; default ``CLIPL_I``).
    naming : ``cra`` for ``<split>.h5``, ``nextgqa`` for ``<dataset>_<split>.h5`` (nextgqa; default ``cra``).
    published_times : write the times that the published recipe claims where a row has them (nextgqa).
    """

    dataset: str | None = None
    naming: str | None = None
    published_times: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """A key that was asked for and is not in the export."""

    key: str
    split: str
    reason: str


@dataclass(slots=True)
class Export:
    """What an export wrote, and what it could not.

    ``padded`` counts rows with steps that are padding; ``times_unknown`` lists keys that no ``frame2time`` file
    names; ``renamed`` counts keys whose file is not simply ``<key>.npy``.
    """

    target: str
    feature: str
    spec: str
    version: int
    random_weights: bool = False
    files: dict[str, int] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    times_unknown: list[str] = field(default_factory=list)
    padded: int = 0
    renamed: int = 0


class Rows:
    """The rows of one feature as float32, each checked against its digest."""

    def __init__(self, store: Store, feature: str) -> None:
        self.store = store
        self.feature = feature
        records = store.failures().to_pylist()
        self._failures = {
            record["video_id"]: f"{record['class']}: {record['message']}"
            for record in records
            if record["feature"] == feature.partition("@")[0]
        }

    def stored(self, key: str) -> Array | str:
        """``[T, *step]`` in the stored dtype, or why there is none."""
        if (self.feature, key) not in self.store:
            return self._failures.get(key, "no row")
        stored = self.store.row(self.feature, key)
        beside = (self.store.times(self.feature, key), self.store.valid(self.feature, key))
        digest = row_digest(stored, *beside, self.store.published_times(self.feature, key))
        if digest.hex() != self.store.digest(self.feature, key):
            return "bytes differ from the row digest; see `store.py repair`"
        return stored

    def load(self, key: str) -> Array | str:
        """``[T, *step] float32``, or why there is none."""
        stored = self.stored(key)
        if isinstance(stored, str):
            return stored
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(stored, "<f4")
        return values if np.isfinite(values).all() else "holds NaN or a value that float32 cannot"

    def padded(self, key: str) -> bool:
        return not self.store.valid(self.feature, key).all()

    def times(self, key: str, published: bool) -> Array | None:
        """``[T] float64`` seconds, or None where they are not known, as of imported rows."""
        if self.store.media(self.feature, key).get("times") == "unknown":
            return None
        claimed = self.store.published_times(self.feature, key) if published else None
        times = self.store.times(self.feature, key) if claimed is None else claimed
        return times if np.isfinite(times).all() else None


Target = Callable[[Rows, Mapping[str, Sequence[str]], Options, Path, Export], None]


def export(
    store: Store,
    feature: str,
    target: str,
    out: Path,
    splits: Mapping[str, Sequence[str]] | None = None,
    options: Options | None = None,
) -> Export:
    """Write ``feature`` for ``target`` into the new (or empty) folder ``out``.

    The folder is filled beside its place and renamed, so that it is there whole or not at all.

    Parameters
    ----------
    splits : keys by split name; None for one split ``all`` with every key of the feature.

    Raises
    ------
    LegacyError
        If the folder holds something, the target is unknown, or rows do not fit it.
    """
    if target not in TARGETS:
        raise LegacyError(f"target {target!r}: there is {', '.join(sorted(TARGETS))}")
    name, _, _ = feature.partition("@")
    spec = store.spec(feature)
    result = Export(target, name, layout.digest(spec), store.version, bool(spec.get("random_weights")))
    chosen = {layout.check_name(split): list(dict.fromkeys(keys)) for split, keys in (splits or {}).items()}
    chosen = chosen or {WHOLE: store.keys(feature)}
    with new_folder(out, store.path) as folder:
        TARGETS[target](Rows(store, feature), chosen, options or Options(), folder, result)
        if not any(result.files.values()):
            reason = f" ({result.missing[0].key!r}: {result.missing[0].reason})" if result.missing else ""
            raise LegacyError(f"{store.path}: feature {feature!r}: no row to export{reason}")
        record = {"reelstore": {"version": store.version, "feature": name, "spec_digest": result.spec, "spec": spec}}
        record["export"] = {"target": target, "files": result.files, "missing": [m.key for m in result.missing]}
        write_json(folder / RECORD_FILE, record)
    return result


def read_keys(path: Path) -> list[str]:
    """Video keys that a split file lists, each once, in the order of the file.

    ``.csv``: column ``video_id`` (or ``video``); ``.json``: a list of ids, a list of objects with
    ``video_id``, or an object whose names are ids; anything else: one id a line.

    Raises
    ------
    LegacyError
        If the file cannot be read so, lists nothing, or lists what is not a key.
    """
    if not path.is_file():
        raise LegacyError(f"{path}: no such file")
    keys: list[Any]
    if path.suffix.lower() == ".csv":
        records = csv_records(path, ())
        column = next((name for name in ("video_id", "video") if records and name in records[0]), None)
        if column is None:
            raise LegacyError(f"{path}: no column 'video_id'")
        keys = [record[column] for record in records]
    elif path.suffix.lower() == ".json":
        value = read_json(path)
        entries = list(value) if isinstance(value, Mapping | list) else []
        keys = [entry.get("video_id") if isinstance(entry, Mapping) else entry for entry in entries]
    else:
        try:
            keys = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
            keys = [line.removesuffix("\r") for line in keys]
        except UnicodeDecodeError as error:
            raise LegacyError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    if not keys:
        raise LegacyError(f"{path}: lists no video")
    for number, key in enumerate(keys, start=1):
        if not isinstance(key, str):
            raise LegacyError(f"{path}: entry {number}: {key!r} is not a video id (a text)")
        try:
            layout.check_key(key)
        except InvalidKeyError as error:
            raise LegacyError(f"{path}: entry {number}: {error}") from error
    return list(dict.fromkeys(keys))


@contextmanager
def new_folder(out: Path, store: Path) -> Iterator[Path]:
    """A folder that becomes ``out`` when all went well, and vanishes otherwise."""
    target = out.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LegacyError(f"{out}: exists and is not an empty folder; name a new one")
    if target.is_relative_to(store.resolve()):
        raise LegacyError(f"{out}: lies inside the store; name a folder elsewhere")
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{layout.new_id()}.partial")
    staged.mkdir()
    try:
        yield staged
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n", encoding="utf-8")


def export_nextgqa(
    rows: Rows, splits: Mapping[str, Sequence[str]], options: Options, folder: Path, result: Export
) -> None:
    """CRA and NExT-GQA: a split is one HDF5 file with ``vid`` (V,) and the feature [V, T, C] float32.

    ``frame2time_<split>.json`` gives 32 seconds a video: entry j is the time of the row that the trainers fetch as
    frame j, ``np.linspace(0, T - 1, 32, dtype=int)[j]``, which is row j where T is 32. Times are real and unrounded
    unless the published ones are asked for. Videos whose times are unknown are left out of it and reported.
    """
    dataset = layout.check_name(options.dataset or "CLIPL_I")
    naming = options.naming or "cra"
    if naming not in ("cra", "nextgqa"):
        raise LegacyError(f"layout {naming!r}: there is cra and nextgqa")
    written: dict[str, list[str]] = {}
    shape: tuple[int, ...] | None = None
    for split, keys in splits.items():
        written[split] = []
        for key in keys:
            values = rows.load(key)
            if isinstance(values, str):
                result.missing.append(Missing(key, split, values))
                continue
            if values.ndim != 2 or values.shape[0] == 0:
                raise LegacyError(
                    f"feature {rows.feature!r}: key {key!r} is {list(values.shape)}; these trainers read [T, C]"
                )
            shape = shape or values.shape
            if values.shape != shape:
                raise LegacyError(
                    f"feature {rows.feature!r}: key {key!r} is {list(values.shape)} beside {list(shape)}; "
                    "one HDF5 dataset holds rows of one shape"
                )
            written[split].append(key)
    for split, keys in written.items():
        name = f"{split}.h5" if naming == "cra" else f"{dataset}_{split}.h5"
        _write_split(folder / name, rows, keys, dataset, shape or (0, 0))
        result.files[name] = len(keys)
        result.padded += sum(map(rows.padded, keys))
        seconds: dict[str, list[float]] = {}
        for key in keys:
            times = rows.times(key, options.published_times)
            if times is None:
                result.times_unknown.append(key)
            else:
                seconds[key] = times[np.linspace(0, len(times) - 1, FRAMES, dtype=int)].tolist()
        if seconds:
            write_json(folder / f"frame2time_{split}.json", seconds)


def _write_split(path: Path, rows: Rows, keys: Sequence[str], dataset: str, shape: tuple[int, ...]) -> None:
    with StagedFile(path) as target, h5py.File(target, "w") as file:
        file.create_dataset("vid", data=keys, shape=(len(keys),), dtype=h5py.string_dtype("utf-8"))
        features = file.create_dataset(dataset, (len(keys), *shape), "<f4")
        for row, key in enumerate(keys):
            values = rows.load(key)
            if isinstance(values, str):
                raise StoreError(f"key {key!r}: changed during the export ({values})")
            features[row] = values


def export_music_avqa(
    rows: Rows, splits: Mapping[str, Sequence[str]], options: Options, folder: Path, result: Export
) -> None:
    """MUSIC-AVQA and its family: one C-order float32 ``<video_id>.npy`` [T, …] a video.

    ``index.csv`` says which file has which key, T, how many steps are valid and, where some are padding, which
    (``mask``, a 0 or 1 a step). All splits share the folder.
    """
    if options != Options():
        raise LegacyError("target 'music_avqa': has neither --dataset-name, --layout nor --published-times")
    asked = {key: split for split, keys in reversed(list(splits.items())) for key in keys}
    names = file_names(asked)
    with (folder / INDEX_FILE).open("x", encoding="utf-8", newline="") as file:
        index = csv.writer(file, lineterminator="\n")
        index.writerow(INDEX_COLUMNS)
        for key in sorted(asked):
            values = rows.load(key)
            if isinstance(values, str):
                result.missing.append(Missing(key, asked[key], values))
                continue
            name = f"{names[key]}.npy"
            np.save(folder / name, values, allow_pickle=False)
            valid = rows.store.valid(rows.feature, key)
            mask = "" if valid.all() else "".join("01"[step] for step in valid.astype(int))
            index.writerow((key, name, len(values), int(valid.sum()), mask))
            result.files["*.npy"] = result.files.get("*.npy", 0) + 1
            result.padded += bool(mask)
            result.renamed += names[key] != key


def _later(name: str) -> Target:
    """A target of :mod:`stores.columnar_export`, which builds on this module."""

    def write(rows: Rows, splits: Mapping[str, Sequence[str]], options: Options, folder: Path, result: Export) -> None:
        from stores import columnar_export

        target: Target = getattr(columnar_export, name)
        target(rows, splits, options, folder, result)

    return write


TARGETS: Mapping[str, Target] = {
    "nextgqa": export_nextgqa,
    "music_avqa": export_music_avqa,
    "lance": _later("export_lance"),
    "webdataset": _later("export_webdataset"),
    "zarr": _later("export_zarr"),
}


def file_names(keys: Iterable[str]) -> dict[str, str]:
    """A harmless file name, without suffix, for every key; no two are equal, whatever the case.

    A key of letters, digits and ``-_ ()+,=@#.~`` keeps its name, so that trainers find ``<video_id>.npy``. The rest is
    percent-encoded, as are a leading dot, the first letter of a Windows device name, and every capital of keys that
    differ only in case. Names above 200 bytes end in ``%~`` and the sha256 of the key.
    """
    plain = {key: _encoded(key) for key in keys}
    folded: dict[str, list[str]] = {}
    for key, name in plain.items():
        folded.setdefault(name.lower(), []).append(key)
    names = {}
    for twins in folded.values():
        for key in twins:
            name = plain[key] if len(twins) == 1 else _encoded(key, capitals=True)
            if name.split(".")[0].rstrip(" ").upper() in _DEVICES:
                name = f"%{ord(name[0]):02X}{name[1:]}"
            if len(name) > _MAX_NAME:
                name = f"{name[:100]}%~{hashlib.sha256(key.encode()).hexdigest()}"
            names[key] = name
    return names


def _encoded(key: str, capitals: bool = False) -> str:
    letters = [f"%{ord(c):02X}" if capitals and "A" <= c <= "Z" else quote(c, safe=_SAFE) for c in key]
    name = "".join(letters)
    return f"%2E{name[1:]}" if name.startswith(".") else name
