"""What every export target works with: the rows of a feature, options, a new folder, an account of what was written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..errors import ExchangeError
from ..format import layout
from ..format.rows import Array, row_digest
from ..store import Store

RECORD_FILE = "export.json"
_SAFE = "-_ ()+,=@#"  # beside letters, digits, '.' and '~'; MUSIC-AVQA v2.0 ids hold '#'
_MAX_NAME = 200
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{name}{digit}" for name in ("COM", "LPT") for digit in range(10))}


@dataclass(frozen=True, slots=True)
class ExportOptions:
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


Target = Callable[[Rows, Mapping[str, Sequence[str]], ExportOptions, Path, Export], None]


@contextmanager
def new_folder(out: Path, store: Path) -> Iterator[Path]:
    """A folder that becomes ``out`` when all went well, and vanishes otherwise."""
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
    path.write_text(json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n", encoding="utf-8")


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
