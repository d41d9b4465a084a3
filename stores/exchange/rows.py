"""What every export target works with: rows of a feature, options, a new folder, a record of what was written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..errors import ExchangeError
from ..format import layout
from ..format.rows import Array
from ..progress import Progress, followed, silent
from ..store import Store
from ..wording import available

RECORD_FILE = "export.json"
_SAFE = "-_ ()+,=@#"  # beside letters, digits, '.' and '~'; video ids of MUSIC-AVQA v2.0 contain '#'
_MAX_NAME = 200
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{name}{digit}" for name in ("COM", "LPT") for digit in range(10))}


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of a target; None stands for the target's own default.

    Attributes
    ----------
    dataset
        Name of the feature dataset (nextgqa; default ``CLIPL_I``).
    naming
        The layout. nextgqa: ``cra`` for ``<split>.h5`` (default), ``nextgqa`` for ``<dataset>_<split>.h5``. music_avqa:
        ``thwc`` (default) or ``tchw``, the order of a map's axes.
    published_times
        Write the times that the published recipe states, for rows that have them (nextgqa).
    """

    dataset: str | None = None
    naming: str | None = None
    published_times: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """A key that was requested but is not in the export."""

    key: str
    split: str
    reason: str


@dataclass(slots=True)
class Export:
    """What an export wrote, and what it could not write.

    Attributes
    ----------
    spec
        Spec digest of the feature.
    files
        Number of rows by file name.
    missing
        Requested keys that are not in the export.
    times_unknown
        Keys that no ``frame2time`` file lists, because their times are not known.
    padded
        Number of rows with steps that are padding.
    renamed
        Number of keys whose file is not simply called ``<key>.npy``.
    layout
        The order of the axes of maps in ``.npy`` files, ``thwc`` or ``tchw``; empty if there are none.
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
    layout: str = ""


class MissingRowError(ExchangeError):
    """Raised when a row cannot be exported. ``reason`` says why, without feature and key."""

    def __init__(self, feature: str, key: str, reason: str) -> None:
        super().__init__(f"feature {feature!r}: key {key!r}: {reason}")
        self.reason = reason


class StoreRows:
    """The rows of one feature of a store, for comparing and exporting."""

    def __init__(self, store: Store, feature: str, progress: Progress = silent) -> None:
        self.store = store
        self.feature = feature
        self.progress = progress

    @cached_property
    def _failures(self) -> dict[str, str]:
        """Why rows could not be computed, by key."""
        name = self.feature.partition("@")[0]
        return {
            record["video_id"]: f"{record['class']}: {record['message']}"
            for record in self.store.failures().to_pylist()
            if record["feature"] == name
        }

    def keys(self) -> list[str]:
        """Return all keys, sorted as UTF-8 bytes."""
        return self.store.keys(self.feature)

    def row(self, key: str) -> Array:
        """Return a row, ``[T, *step]`` in the stored dtype, without checking its digest."""
        return self.store.row(self.feature, key)

    def verified(self, key: str) -> Array:
        """Return a row, ``[T, *step]`` in the stored dtype, whose bytes match its digest.

        Raises
        ------
        MissingRowError
            If there is no such row, or its bytes have changed.
        """
        if (self.feature, key) not in self.store:
            raise MissingRowError(self.feature, key, self._failures.get(key, "no row"))
        values = self.row(key)
        shard, row = self.store.place(self.feature, key)
        if not self.store.shard(self.feature, Path(shard).stem).row_is_sound(row):
            raise MissingRowError(self.feature, key, "bytes do not match the row digest; run `reelstore repair`")
        return values

    def as_float32(self, key: str) -> Array:
        """Return a verified row as ``[T, *step] float32``.

        Raises
        ------
        MissingRowError
            If there is no sound row, or float32 cannot hold its values.
        """
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(self.verified(key), "<f4")
        if not np.isfinite(values).all():
            raise MissingRowError(self.feature, key, "contains NaN or a value too large for float32")
        return values

    def is_padded(self, key: str) -> bool:
        """Return whether some steps of a row are padding."""
        return not self.store.valid(self.feature, key).all()

    def times(self, key: str, published: bool) -> Array | None:
        """Return the times of a row, ``[T] float64`` in seconds; None if they are not known (imported rows)."""
        stated = self.store.published_times(self.feature, key) if published else None
        times = self.store.times(self.feature, key) if stated is None else stated
        return times if np.isfinite(times).all() else None


Target = Callable[[StoreRows, Mapping[str, Sequence[str]], ExportOptions, Path, Export], None]
"""Writes the rows of each split (keys by split name) into a new folder, and enters what it wrote in the ``Export``."""


def available_rows(
    read: Callable[[str], Array], wanted: Iterable[tuple[str, str]], result: Export, progress: Progress = silent
) -> Iterator[tuple[str, Array]]:
    """Yield (key, values) of the rows that ``read`` returns, and list the others in ``result.missing``.

    ``wanted`` gives (split, key) pairs; ``read`` is a method of ``StoreRows``.
    """
    for split, key in followed(list(wanted), "rows", progress):
        try:
            values = read(key)
        except MissingRowError as error:
            result.missing.append(Missing(key, split, error.reason))
        else:
            yield key, values


def refuse_options(target: str, options: ExportOptions, layouts: Sequence[str] = ()) -> None:
    """Raise ``ExchangeError`` if options are given for a target that has none, or none but ``layouts``."""
    if options != ExportOptions(naming=options.naming if layouts else None):
        refused = "--dataset-name nor" if layouts else "--dataset-name, --layout nor"
        raise ExchangeError(f"target {target!r}: takes neither {refused} --published-times")
    if options.naming is not None and options.naming not in layouts:
        raise ExchangeError(f"layout {options.naming!r}: unknown for {target} ({available(layouts)})")


@contextmanager
def new_folder(out: Path, store: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``out`` if all goes well, and is removed otherwise.

    Raises
    ------
    ExchangeError
        If ``out`` is not empty, not a folder, or inside the store.
    """
    target = out.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExchangeError(f"{out}: exists and is not an empty folder; name a new one")
    if target.is_relative_to(store.resolve()):
        raise ExchangeError(f"{out}: lies inside the store; name a folder elsewhere")
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{layout.new_id()}.partial")
    staged.mkdir()
    try:
        yield staged
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as ASCII JSON on one line; NaN is an error."""
    path.write_text(json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n", encoding="utf-8")


def file_names(keys: Iterable[str]) -> dict[str, str]:
    """Return a harmless file name, without suffix, for every key; no two names are equal, even if case is ignored.

    A key of letters, digits and ``-_ ()+,=@#.~`` is its own name, so that trainers find ``<video_id>.npy``. Every other
    character is percent-encoded. So are a leading dot, the first letter of a Windows device name, and the capitals of
    keys that differ only in case. Names above 200 bytes are cut and end in ``%~`` and the sha256 of the key.
    """
    plain = {key: _encoded(key) for key in keys}
    by_lower_case: dict[str, list[str]] = {}
    for key, name in plain.items():
        by_lower_case.setdefault(name.lower(), []).append(key)
    names = {}
    for same in by_lower_case.values():
        for key in same:
            name = plain[key] if len(same) == 1 else _encoded(key, capitals=True)
            if name.split(".")[0].rstrip(" ").upper() in _DEVICES:
                name = f"%{ord(name[0]):02X}{name[1:]}"
            if len(name) > _MAX_NAME:
                name = f"{name[:100]}%~{hashlib.sha256(key.encode()).hexdigest()}"
            names[key] = name
    return names


def _encoded(key: str, capitals: bool = False) -> str:
    """Percent-encode what no file name should contain, with ``capitals`` also capital letters."""
    letters = [f"%{ord(c):02X}" if capitals and "A" <= c <= "Z" else quote(c, safe=_SAFE) for c in key]
    name = "".join(letters)
    return f"%2E{name[1:]}" if name.startswith(".") else name
