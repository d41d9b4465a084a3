"""Features as Lance, WebDataset or Zarr 3, in the stored dtype, with times and masks beside the values.

Lance and Zarr need their packages (``pip install '.[lance]'``, ``'.[zarr]'``); WebDataset shards are plain tar files.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import ExchangeError
from ..format.rows import Array
from .rows import Export, ExportOptions, Missing, Rows, file_names

_BATCH_ROWS = 64
_TAR_BYTES = 256e6


@dataclass(frozen=True, slots=True)
class _Sample:
    key: str
    values: Array
    time_s: Array
    valid: Array


def export_lance(
    rows: Rows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """A split is one ``<split>.lance`` dataset: key, shape, values (flat), time_s, valid; one row a video."""
    _refuse_options("lance", options)
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
        counted = _counted(first, samples, f"{split}.lance", result)
        reader = pa.RecordBatchReader.from_batches(schema, _record_batches(counted, schema))
        lance.write_dataset(reader, str(folder / f"{split}.lance"))


def _record_batches(samples: Iterator[_Sample], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    pending: list[_Sample] = []
    for sample in samples:
        pending.append(sample)
        if len(pending) == _BATCH_ROWS:
            yield _record_batch(pending, schema)
            pending = []
    if pending:
        yield _record_batch(pending, schema)


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


def export_webdataset(
    rows: Rows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """A split is ``<split>-000000.tar`` …; a sample is ``values.npy, times.npy, valid.npy`` and ``json`` (key, spec).

    Sample names are the keys, percent-encoded where they are not file names or hold a dot, at which WebDataset cuts.
    """
    _refuse_options("webdataset", options)
    names = file_names({key for keys in splits.values() for key in keys})
    for split, keys in splits.items():
        for shard, samples in enumerate(_shards(_samples(rows, split, keys, result))):
            name = f"{split}-{shard:06d}.tar"
            with tarfile.open(folder / name, "x", format=tarfile.PAX_FORMAT) as archive:
                for sample in samples:
                    _add(archive, names[sample.key].replace(".", "%2E"), sample, result)
            result.files[name] = len(samples)


def _shards(samples: Iterator[_Sample]) -> Iterator[list[_Sample]]:
    """Runs of samples that fill a tar file; their values are still views of the store."""
    run: list[_Sample] = []
    size = 0
    for sample in samples:
        run.append(sample)
        size += sample.values.nbytes
        if size > _TAR_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run


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
    rows: Rows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """A split is one Zarr 3 group ``<split>.zarr``: values [N, T, …] with a chunk a video, key, time_s, valid.

    Raises
    ------
    ExchangeError
        If rows differ in shape: one Zarr array has one.
    """
    _refuse_options("zarr", options)
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
        # Keys as a JSON attribute: Zarr 3 has no stable string dtype yet.
        group.attrs.update({"feature": result.feature, "spec": result.spec, "keys": stored})
        for name, column in (("time_s", times[:count]), ("valid", valid[:count])):
            group.create_array(name, data=column, chunks=(max(1, count), shape[0]), compressors=None)


def _samples(rows: Rows, split: str, keys: Sequence[str], result: Export) -> Iterator[_Sample]:
    """The rows of a split that are there; the others are entered as missing."""
    for key in keys:
        values = rows.stored(key)
        if isinstance(values, str):
            result.missing.append(Missing(key, split, values))
            continue
        result.padded += rows.padded(key)
        store, feature = rows.store, rows.feature
        yield _Sample(key, values, store.times(feature, key), store.valid(feature, key))


def _counted(first: _Sample, rest: Iterator[_Sample], name: str, result: Export) -> Iterator[_Sample]:
    result.files[name] = 0
    sample: _Sample | None = first
    while sample is not None:
        result.files[name] += 1
        yield sample
        sample = next(rest, None)


def _refuse_options(target: str, options: ExportOptions) -> None:
    if options != ExportOptions():
        raise ExchangeError(f"target {target!r}: has neither --dataset-name, --layout nor --published-times")


def _package(module: str, package: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise ExchangeError(f"target {module!r}: needs the package {package}; pip install '.[{module}]'") from error
