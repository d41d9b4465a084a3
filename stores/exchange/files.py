"""Read feature files of another tool: HDF5 with a dataset of ids, or a folder of ``<id>.npy``.

An HDF5 file has ``vid`` (or ``ids``), one id per row, beside a dataset ``[V, T, …]`` (``docs/facts/cra.md`` section
2.4). A folder has one array ``[T, …]`` per file (``docs/facts/coqo.md`` section 2.9), and ``index.csv`` if Reelstore
wrote it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import tokenize
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from ..errors import ExchangeError, InvalidKeyError
from ..files import check_regular, read_text
from ..format import durable, layout
from ..format.rows import Array
from ..wording import available, one_line

logger = logging.getLogger("reelstore.exchange.files")

INDEX_FILE = "index.csv"
INDEX_COLUMNS = ("key", "file", "T", "valid_steps", "mask")
ID_DATASETS = ("vid", "ids")
_CHUNK_CACHE = 64 << 20
_FILTERS = frozenset((1, 2, 3, 4, 5, 6, 32000))
"""The filters that HDF5 and h5py bring along: deflate, shuffle, fletcher32, szip, nbit, scaleoffset and lzf."""
_NPY_ERRORS = (OSError, ValueError, TypeError, OverflowError, MemoryError, EOFError, SyntaxError, tokenize.TokenError)
"""What numpy raises for a damaged header: its documented errors, and those that its Python 2 fallback lets through."""
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)
"""What h5py raises for a damaged file: it maps the errors of HDF5 to these, depending on where they occur."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shape and dtype of a row, known before its values are read."""

    steps: int
    step_shape: tuple[int, ...]
    dtype: np.dtype[Any]


class FileRows(ABC):
    """Rows in feature files of another tool, by key.

    Attributes
    ----------
    format
        Name of the layout, ``nextgqa`` or ``npy``.
    """

    format: ClassVar[str]

    def __init__(self, paths: Iterable[Path]) -> None:
        self._stamps = {path: _stamp(path) for path in paths}

    @abstractmethod
    def places(self) -> list[tuple[Path, str]]:
        """Return the folder of each file, and what the file's name says (its stem); of a folder, itself and ``""``."""

    @abstractmethod
    def keys(self) -> list[str]:
        """Return all keys, sorted."""

    @abstractmethod
    def where(self, key: str) -> str:
        """Return the file and the key, for messages."""

    @abstractmethod
    def shape(self, key: str) -> Shape:
        """Return shape and dtype of a row without reading its values."""

    @abstractmethod
    def row(self, key: str) -> Array:
        """Read a row, ``[T, *step]``."""

    def valid(self, key: str) -> Array:
        """Return the mask of a row, ``[T] bool``: False where the files say that a step is padding."""
        return np.ones(self.shape(key).steps, bool)

    @abstractmethod
    def digests(self) -> list[str]:
        """Return the sha256 of each file, or of a folder as a whole, in hex."""

    @abstractmethod
    def source(self, key: str) -> int:
        """Return which of ``digests`` is that of the file that holds a row."""

    def check_unchanged(self) -> None:
        """Raise ``ExchangeError`` if a file has changed since it was opened."""
        for path, stamp in self._stamps.items():
            if _stamp(path) != stamp:
                raise ExchangeError(f"{path}: changed while it was read; import it again")


def open_files(paths: Sequence[Path], format: str | None = None, dataset: str | None = None) -> FileRows:
    """Open HDF5 files (or a folder of them), or one folder of ``.npy`` files.

    Parameters
    ----------
    paths
        Files and folders.
    format
        ``nextgqa`` (HDF5) or ``npy``; by default, whichever the files are.
    dataset
        The feature dataset of HDF5 files; may be None if they have only one.

    Raises
    ------
    ExchangeError
        If the files have neither format, or cannot be used.
    """
    by_format: dict[str, list[Path]] = {"nextgqa": [], "npy": []}
    for path in paths:
        if path.is_dir():
            names = sorted(os.listdir(path))
            files = [path / name for name in names if name.endswith((".h5", ".hdf5"))]
            by_format["nextgqa"] += files
            if INDEX_FILE in names or any(name.endswith(".npy") for name in names):
                by_format["npy"].append(path)
            elif not files:
                raise ExchangeError(f"{path}: contains neither .h5 nor .npy files")
        elif not path.exists():
            raise ExchangeError(f"{path}: no such file or folder")
        elif path.suffix == ".npy":
            raise ExchangeError(f"{path}: a single .npy file; name its folder")
        else:
            by_format["nextgqa"].append(path)
    if format is None:
        if by_format["npy"] and by_format["nextgqa"]:
            raise ExchangeError(f"{paths[0]}: both .h5 and .npy files; choose with --format")
        format = "npy" if by_format["npy"] else "nextgqa"
    if format not in by_format:
        raise ExchangeError(f"format {format!r}: unknown ({available(by_format)})")
    chosen = by_format[format]
    if not chosen:
        raise ExchangeError(f"{paths[0]}: no {format} files here")
    if format == "nextgqa":
        return Hdf5Rows(chosen, dataset)
    if len(chosen) > 1:
        raise ExchangeError(f"{chosen[1]}: a second folder; import one folder of .npy files at a time")
    if dataset is not None:
        raise ExchangeError(f"{chosen[0]}: .npy files have no dataset {dataset!r}; leave it out")
    return NpyRows(chosen[0])


class Hdf5Rows(FileRows):
    """Rows of one or more HDF5 files; no id may appear twice."""

    format = "nextgqa"

    def __init__(self, paths: Sequence[Path], dataset: str | None = None) -> None:
        super().__init__(paths)
        self._datasets: list[h5py.Dataset] = []
        self._rows: dict[str, tuple[int, int]] = {}
        self._paths = list(paths)
        for number, path in enumerate(paths):
            with _hdf5_errors(str(path)):
                file = h5py.File(path, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE)
                ids, values = _pick(path, file, dataset)
                self._datasets.append(values)
                for row, key in enumerate(_ids(path, ids)):
                    if key in self._rows:
                        first, _ = self._rows[key]
                        raise ExchangeError(f"{path}: key {key!r}: appears twice (also in {paths[first]})")
                    self._rows[key] = (number, row)

    def keys(self) -> list[str]:
        return sorted(self._rows)

    def where(self, key: str) -> str:
        return f"{self._paths[self._rows[key][0]]}: key {key!r}"

    def shape(self, key: str) -> Shape:
        values = self._datasets[self._rows[key][0]]
        return Shape(values.shape[1], values.shape[2:], _plain(values.dtype, self.where(key)))

    def row(self, key: str) -> Array:
        number, row = self._rows[key]
        with _hdf5_errors(self.where(key)):
            values: Array = self._datasets[number][row]
        return np.asarray(values, _plain(values.dtype, self.where(key)))

    def places(self) -> list[tuple[Path, str]]:
        return [(path.parent, path.stem) for path in self._paths]

    def digests(self) -> list[str]:
        return [durable.file_digest(path) for path in self._paths]

    def source(self, key: str) -> int:
        return self._rows[key][0]


@contextmanager
def _hdf5_errors(where: str) -> Iterator[None]:
    """Turn an error of h5py into one line, and log its traceback."""
    try:
        yield
    except _HDF5_ERRORS as error:
        logger.debug("%s: cannot be read as HDF5", where, exc_info=True)
        raise ExchangeError(f"{where}: cannot be read as HDF5 ({one_line(error)})") from error


def _pick(path: Path, file: h5py.File, wanted: str | None) -> tuple[h5py.Dataset, h5py.Dataset]:
    """Return the id dataset and the feature dataset of a file."""
    for name in file:
        if not isinstance(link := file.get(name, getlink=True), h5py.HardLink):
            where = f" in {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
            raise ExchangeError(f"{path}: {name!r} is a link to {link.path}{where}; links are not followed")
    datasets = {name: item for name in file if isinstance(item := file.get(name), h5py.Dataset)}
    ids = next((datasets[name] for name in ID_DATASETS if name in datasets), None)
    if ids is None:
        raise ExchangeError(f"{path}: no dataset 'vid' or 'ids' ({available(sorted(datasets))})")
    others = sorted(name for name in datasets if name not in ID_DATASETS)
    if wanted is None:
        if len(others) != 1:
            reason = "several datasets" if others else "no dataset"
            raise ExchangeError(f"{path}: {reason} beside the ids; name one with --dataset-name ({available(others)})")
        wanted = others[0]
    if wanted not in others:
        raise ExchangeError(f"{path}: no dataset {wanted!r} ({available(others)})")
    values = datasets[wanted]
    for dataset in (ids, values):
        _check_self_contained(path, dataset)
    if ids.ndim != 1 or values.ndim < 2 or values.shape[0] != ids.shape[0]:
        raise ExchangeError(f"{path}: dataset {wanted!r} is {list(values.shape)} beside {list(ids.shape)} ids")
    if values.ndim < 3 or values.shape[1] == 0:
        raise ExchangeError(f"{path}: dataset {wanted!r} is {list(values.shape)}; rows must be [T, …] with T > 0")
    return ids, values


def _check_self_contained(path: Path, dataset: h5py.Dataset) -> None:
    """Raise ``ExchangeError`` if a dataset lies in other files, needs a plug-in to be read, or holds objects."""
    name = dataset.name.rpartition("/")[2]
    layers = dataset.id.get_create_plist()
    filters = [layers.get_filter(number)[0] for number in range(layers.get_nfilters())]
    foreign = [code for code in filters if code not in _FILTERS]
    if dataset.external:
        problem = f"has its numbers in another file ({dataset.external[0][0]}), which is not read"
    elif dataset.is_virtual:
        problem = "is a virtual dataset, whose numbers lie in other files, which are not read"
    elif foreign:
        problem = f"is packed by filter {foreign[0]}, a plug-in, which is not loaded"
    elif dataset.dtype.kind == "O" and h5py.check_string_dtype(dataset.dtype) is None:
        problem = "holds objects or arrays of varying length; rows are arrays of numbers, ids are texts"
    else:
        return
    raise ExchangeError(f"{path}: dataset {name!r} {problem}; copy it into a plain file first")


def _ids(path: Path, dataset: h5py.Dataset) -> list[str]:
    """Read ids as text."""
    keys = []
    for row, raw in enumerate(dataset[()]):
        if not isinstance(raw, bytes | str | np.integer):
            raise ExchangeError(f"{path}: id {row}: neither text nor a number")
        try:
            key = raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
            layout.check_key(key)
        except (UnicodeDecodeError, InvalidKeyError) as error:
            raise ExchangeError(f"{path}: id {row}: {error}") from error
        keys.append(key)
    return keys


class NpyRows(FileRows):
    """Rows of a folder of ``<id>.npy``.

    If there is an ``index.csv``, it gives the key of each file; otherwise the stem of the file name is the key.
    """

    format = "npy"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = folder / INDEX_FILE
        names = sorted(name for name in os.listdir(folder) if name.endswith(".npy"))
        self._masks: dict[str, Array] = {}
        self._steps: dict[str, int] = {}
        if index.exists():
            self._names = self._read_index(index, set(names))
        else:
            self._names = {_stem(folder, name): name for name in names}
        super().__init__([folder / name for name in self._names.values()])
        self._shapes: dict[str, Shape] = {}

    def _read_index(self, index: Path, present: set[str]) -> dict[str, str]:
        """Return the file names by key; every name in ``present`` must be listed once."""
        names: dict[str, str] = {}
        for line, record in enumerate(csv_records(index, ("key", "file")), start=2):
            key, name = record["key"], record["file"]
            try:
                layout.check_key(key)
            except InvalidKeyError as error:
                raise ExchangeError(f"{index}: record {line}: {error}") from error
            if key in names:
                raise ExchangeError(f"{index}: key {key!r}: appears twice")
            if name not in present:
                raise ExchangeError(f"{index}: key {key!r}: there is no file {name!r} in this folder")
            present.discard(name)
            names[key] = name
            if steps := record.get("T"):
                if not steps.isdecimal():
                    raise ExchangeError(f"{index}: key {key!r}: T is {steps[:20]!r}")
                self._steps[key] = int(steps)
            if mask := record.get("mask"):
                if set(mask) - {"0", "1"}:
                    raise ExchangeError(f"{index}: key {key!r}: its mask is not made of 0 and 1")
                self._masks[key] = np.frombuffer(mask.encode(), np.uint8) == ord("1")
        if present:
            raise ExchangeError(f"{index}: does not list {min(present)!r}; list every .npy file of the folder")
        return names

    def keys(self) -> list[str]:
        return sorted(self._names)

    def where(self, key: str) -> str:
        return f"{self._folder / self._names[key]}: key {key!r}"

    def _map(self, key: str) -> Array:
        try:
            values: Array = np.lib.format.open_memmap(self._folder / self._names[key], mode="r")
        except _NPY_ERRORS as error:
            logger.debug("%s: cannot be read as .npy", self.where(key), exc_info=True)
            raise ExchangeError(f"{self.where(key)}: cannot be read as a .npy array ({one_line(error)})") from error
        if values.ndim == 0 or values.shape[0] == 0 or (values.ndim == 1 and key not in self._steps):
            raise ExchangeError(f"{self.where(key)}: is {list(values.shape)}; rows must be [T, …] with T > 0")
        return values

    def shape(self, key: str) -> Shape:
        if key not in self._shapes:
            values = self._map(key)
            for steps in (self._steps.get(key), len(self._masks.get(key, values))):
                if steps not in (None, len(values)):
                    raise ExchangeError(f"{self.where(key)}: {len(values)} steps, {INDEX_FILE} says {steps}")
            self._shapes[key] = Shape(len(values), values.shape[1:], _plain(values.dtype, self.where(key)))
        return self._shapes[key]

    def row(self, key: str) -> Array:
        return np.array(self._map(key), self.shape(key).dtype, order="C")

    def valid(self, key: str) -> Array:
        mask = self._masks.get(key)
        return np.ones(self.shape(key).steps, bool) if mask is None else mask

    def places(self) -> list[tuple[Path, str]]:
        return [(self._folder, "")]

    def digests(self) -> list[str]:
        """Return one sha256 over the files, and over keys and masks, which the files themselves do not contain."""
        lines = []
        for key, name in self._names.items():
            mask = self._masks.get(key)
            padding = "" if mask is None or mask.all() else hashlib.sha256(mask.tobytes()).hexdigest()
            lines.append(f"{durable.file_digest(self._folder / name)} {padding} {key}")
        return [joined(lines)]

    def source(self, key: str) -> int:
        return 0


def _stem(folder: Path, name: str) -> str:
    """Return the key that a file name stands for."""
    key = name.removesuffix(".npy")
    try:
        layout.check_key(key)
    except InvalidKeyError as error:
        raise ExchangeError(f"{folder}: file {name[:64]!r}: {error}") from error
    return key


def _stamp(path: Path) -> tuple[int, int, int]:
    status = check_regular(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


def joined(digests: Iterable[str]) -> str:
    """Return one digest of several, whatever their order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _plain(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """Return the little-endian form of a dtype, or raise if a store cannot hold it."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise ExchangeError(f"{where}: contains {dtype}; rows are arrays of numbers")
    return dtype.newbyteorder("<")


def csv_records(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file whose header must name ``columns``.

    Raises
    ------
    ExchangeError
        If it cannot be read, or a column is missing.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ExchangeError(f"{path}: no column {missing[0]!r}")
        return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExchangeError(f"{path}: cannot be read as CSV ({one_line(error)})") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    ExchangeError
        If it cannot be read.
    """
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ExchangeError(f"{path}: cannot be read as JSON ({one_line(error)})") from error
