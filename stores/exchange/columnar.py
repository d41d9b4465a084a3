"""Export features as Lance, WebDataset, Zarr 3 or Parquet, in the stored dtype, with times and masks beside the values.

Lance and Zarr need their packages (``pip install 'reelstore[lance]'``, ``'reelstore[zarr]'``); WebDataset shards are
plain tar files, and Parquet is what the reader needs anyway.
"""

from __future__ import annotations

import importlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ExchangeError
from ..format.rows import Array
from .rows import Export, ExportOptions, StoreRows, available_rows, file_names, refuse_options

_BATCH_ROWS = 64
"""Rows of a Lance record batch, and of a Parquet row group."""
_TAR_BYTES = 256e6
"""Size at which a WebDataset shard is finished."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """A row with its times and mask."""

    key: str
    values: Array
    time_s: Array
    valid: Array


def export_lance(
    rows: StoreRows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """Write one dataset ``<split>.lance`` per split, with a row per video: key, shape, values (flat), time_s, valid.

    Raises
    ------
    ExchangeError
        If any option is given, or the package is missing.
    """
    refuse_options("lance", options)
    lance: Any = _package("lance", "pylance")
    for split, keys in splits.items():
        samples = _samples(rows, split, keys, result)
        first = next(samples, None)
        if first is None:
            continue
        schema = pa.schema(
            [
                pa.field("key", pa.string(), nullable=False),
                pa.field("shape", pa.list_(pa.int32()), nullable=False),
                pa.field("values", pa.list_(pa.from_numpy_dtype(first.values.dtype)), nullable=False),
                pa.field("time_s", pa.list_(pa.float64()), nullable=False),
                pa.field("valid", pa.list_(pa.bool_()), nullable=False),
            ]
        )
        written = _counted(first, samples, f"{split}.lance", result)
        batches = (_record_batch(group, schema) for group in _groups(written))
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        lance.write_dataset(reader, str(folder / f"{split}.lance"))


def _groups(samples: Iterator[_Sample]) -> Iterator[list[_Sample]]:
    """Yield samples in groups that are written together."""
    pending: list[_Sample] = []
    for sample in samples:
        pending.append(sample)
        if len(pending) == _BATCH_ROWS:
            yield pending
            pending = []
    if pending:
        yield pending


def _record_batch(samples: Sequence[_Sample], schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        pa.array([sample.key for sample in samples]),
        _lists([np.array(sample.values.shape, np.int32) for sample in samples]),
        _lists([sample.values.reshape(-1) for sample in samples]),
        _lists([sample.time_s for sample in samples]),
        _lists([sample.valid for sample in samples]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _lists(arrays: Sequence[Array]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(arrays)))


def export_parquet(
    rows: StoreRows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """Write one file ``<split>.parquet`` per split, with a row per video: key, values, time_s, valid.

    ``values`` is a list of lists that has the shape of a row, ``[T][…]``; all of its axes have a fixed size, but for
    the first one in a split whose rows differ in length. Hugging Face ``datasets`` reads the file and gives arrays of
    this shape (``load_dataset("parquet", data_files=…)``, ``with_format("numpy")``).

    Raises
    ------
    ExchangeError
        If any option is given, or the steps of rows differ in shape.
    """
    refuse_options("parquet", options)
    for split, keys in splits.items():
        lengths = {rows.store.shape(rows.feature, key)[0][0] for key in keys if (rows.feature, key) in rows.store}
        fixed = len(lengths) == 1 and min(lengths) > 0
        samples = _samples(rows, split, keys, result)
        first = next(samples, None)
        if first is None:
            continue
        name, step = f"{split}.parquet", first.values.shape[1:]
        with pq.ParquetWriter(folder / name, _table([first], fixed).schema, compression="zstd") as writer:
            for group in _groups(_counted(first, samples, name, result)):
                other = next((sample for sample in group if sample.values.shape[1:] != step), None)
                if other is not None:
                    raise ExchangeError(
                        f"feature {rows.feature!r}: steps of key {other.key!r} are {list(other.values.shape[1:])} "
                        f"beside {list(step)}; a column holds steps of one shape"
                    )
                writer.write_table(_table(group, fixed), row_group_size=_BATCH_ROWS)


def _table(samples: Sequence[_Sample], fixed: bool) -> pa.Table:
    return pa.table(
        {
            "key": [sample.key for sample in samples],
            "values": _nested([sample.values for sample in samples], fixed),
            "time_s": _nested([sample.time_s for sample in samples], fixed),
            "valid": _nested([sample.valid for sample in samples], fixed),
        }
    )


def _nested(arrays: Sequence[Array], fixed: bool) -> pa.Array:
    """Return arrays ``[T, …]`` as lists of lists; the first axis has a fixed size, too, if all have as many steps."""
    column = pa.array(np.concatenate([array.reshape(-1) for array in arrays]))
    for size in reversed(arrays[0].shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    if fixed:
        return pa.FixedSizeListArray.from_arrays(column, len(arrays[0]))
    return pa.ListArray.from_arrays(np.cumsum([0, *map(len, arrays)]).astype(np.int32), column)


def export_webdataset(
    rows: StoreRows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """Write tar files ``<split>-000000.tar`` … with values, times, mask (``.npy``) and ``json`` per video.

    Sample names are the keys, percent-encoded if they are not file names. Dots are encoded too, because WebDataset
    splits names at them. ``json`` has the key, the feature and its spec digest.

    Raises
    ------
    ExchangeError
        If any option is given.
    """
    refuse_options("webdataset", options)
    names = file_names({key for keys in splits.values() for key in keys})
    for split, keys in splits.items():
        for shard, samples in enumerate(_shards(_samples(rows, split, keys, result))):
            name = f"{split}-{shard:06d}.tar"
            with tarfile.open(folder / name, "x", format=tarfile.PAX_FORMAT) as archive:
                for sample in samples:
                    _add(archive, names[sample.key].replace(".", "%2E"), sample, result)
            result.files[name] = len(samples)


def _shards(samples: Iterator[_Sample]) -> Iterator[list[_Sample]]:
    """Yield lists of samples that fill a tar file each; their values are still views of the store."""
    shard: list[_Sample] = []
    size = 0
    for sample in samples:
        shard.append(sample)
        size += sample.values.nbytes
        if size > _TAR_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _add(archive: tarfile.TarFile, stem: str, sample: _Sample, result: Export) -> None:
    record = {"key": sample.key, "feature": result.feature, "spec": result.spec}
    for suffix, data in (
        ("json", json.dumps(record, sort_keys=True).encode()),
        ("times.npy", _npy(sample.time_s)),
        ("valid.npy", _npy(sample.valid)),
        ("values.npy", _npy(sample.values)),
    ):
        info = tarfile.TarInfo(f"{stem}.{suffix}")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def export_zarr(
    rows: StoreRows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """Write one Zarr 3 group ``<split>.zarr`` per split: values ``[N, T, …]`` with a chunk per video, time_s and valid.

    The keys, in the order of the rows, are the attribute ``keys`` of the group.

    Raises
    ------
    ExchangeError
        If any option is given, the package is missing, or rows differ in shape.
    """
    refuse_options("zarr", options)
    zarr: Any = _package("zarr", "zarr")
    for split, keys in splits.items():
        present = [key for key in keys if (rows.feature, key) in rows.store]
        samples = _samples(rows, split, keys, result)
        first = next(samples, None)
        if first is None:
            continue
        group = zarr.create_group(folder / f"{split}.zarr", zarr_format=3)
        shape = first.values.shape
        values = group.create_array(
            "values",
            shape=(len(present), *shape),
            chunks=(1, *shape),
            dtype=first.values.dtype,
            compressors=None,
        )
        times = np.empty((len(present), shape[0]), np.float64)
        valid = np.empty((len(present), shape[0]), bool)
        stored: list[str] = []
        for row, sample in enumerate(_counted(first, samples, f"{split}.zarr", result)):
            if sample.values.shape != shape:
                raise ExchangeError(
                    f"feature {rows.feature!r}: key {sample.key!r} is {list(sample.values.shape)} "
                    f"beside {list(shape)}; a Zarr array holds rows of one shape"
                )
            values[row] = sample.values
            times[row], valid[row] = sample.time_s, sample.valid
            stored.append(sample.key)
        count = len(stored)
        values.resize((count, *shape))
        # The keys are a JSON attribute, since Zarr 3 has no stable string dtype yet.
        group.attrs.update({"feature": result.feature, "spec": result.spec, "keys": stored})
        for name, column in (("time_s", times[:count]), ("valid", valid[:count])):
            group.create_array(name, data=column, chunks=(max(1, count), shape[0]), compressors=None)


def _samples(rows: StoreRows, split: str, keys: Sequence[str], result: Export) -> Iterator[_Sample]:
    """Yield the rows of a split that can be exported; the others are entered as missing."""
    store, feature = rows.store, rows.feature
    for key, values in available_rows(rows.verified, ((split, key) for key in keys), result, rows.progress):
        if rows.is_padded(key):
            result.padded += 1
        yield _Sample(key, values, store.times(feature, key), store.valid(feature, key))


def _counted(first: _Sample, rest: Iterator[_Sample], name: str, result: Export) -> Iterator[_Sample]:
    """Yield all samples, and count them in ``result.files``."""
    result.files[name] = 0
    sample: _Sample | None = first
    while sample is not None:
        result.files[name] += 1
        yield sample
        sample = next(rest, None)


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExchangeError(
            f"target {module!r}: needs the package {package}; pip install 'reelstore[{module}]'"
        ) from error
