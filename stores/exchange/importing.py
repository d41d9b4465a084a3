"""Import feature files of another tool into a store, under a spec that contains the digest of the files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..commit import Changes, Failure, check_identity, commit, create_store, place_shard, write_spec
from ..errors import ExchangeError, StoreNotFoundError
from ..format import durable, layout, schemas
from ..format.manifest import Manifest, load
from ..format.receipts import read_spec
from ..format.rows import Array, Row
from ..format.segments import SegmentLog
from ..format.shard import SHARD_MB, ShardWriter
from ..upkeep.repairing import adopt
from .files import FileRows, open_files, read_json

EXTERNAL = "external"
"""The extractor of imported rows."""
_NUMERICS = {"origin": EXTERNAL}


@dataclass(slots=True)
class Import:
    """Result of an import.

    Attributes
    ----------
    spec
        Spec digest of the imported rows.
    external
        sha256 over the imported files.
    rows, added
        Number of rows that the store now has of these files, and how many of them are new.
    times_unknown
        Number of keys without times.
    failed
        Keys whose rows contain NaN or infinite values, with the reason.
    """

    feature: str
    spec: str
    external: str
    version: int
    rows: int
    added: int = 0
    times_unknown: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds by key from ``frame2time`` files, and the digest of these files."""

    seconds: Mapping[str, Array]
    digest: str


def import_files(
    root: Path,
    sources: Sequence[Path],
    feature: str,
    format: str | None = None,
    dataset: str | None = None,
    times: Sequence[Path] = (),
    replace: bool = False,
) -> Import:
    """Store the rows of feature files of another tool as ``feature``; importing the same files again changes nothing.

    The spec contains the digest of the files (``external:<sha256>``), so other files have another spec. Dtypes are
    kept. The steps of a row get their times from ``times``, or else the numbers 0, 1, 2 … and the note
    ``times: unknown`` in their media record. Rows with NaN or infinite values are recorded as failures.

    Parameters
    ----------
    root
        The store; created if it does not exist.
    sources, format, dataset
        As in ``open_files``.
    feature
        Name of the feature in the store.
    times
        JSON files ``{key: [T seconds]}``.
    replace
        Also import if the current rows of the feature were extracted by Reelstore.

    Raises
    ------
    ExchangeError
        If a file cannot be used. Nothing is committed then.
    InvalidKeyError
        If ``feature`` is not acceptable as a name.
    """
    root = root.absolute()
    layout.check_name(feature)
    rows = open_files(sources, format, dataset)
    keys = rows.keys()
    if not keys:
        raise ExchangeError(f"{sources[0]}: contains no row")
    given = _read_times(times)
    spec = _spec(rows, keys, given)
    _check_times(rows, keys, given, times)
    try:
        check_identity(root)
        _check_owner(root, load(root), feature, replace)
    except StoreNotFoundError:
        create_store(root)
    spec_digest = write_spec(root, spec)
    manifest = adopt(root, load(root), [(feature, spec_digest)]).manifest  # shards of an import that was killed
    external: str = spec["external"]["sha256"]
    result = Import(feature, spec_digest, external, manifest.version, len(keys))
    result.times_unknown = sum(1 for key in keys if key not in given.seconds)
    wanted, result.failed = _wanted(root, manifest, feature, spec_digest, keys)
    writer = _Writer(root, feature, spec_digest, rows)
    try:
        for key in wanted:
            values = rows.row(key)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                result.failed[key] = f"{rows.where(key)}: contains NaN or infinite values"
                writer.changes.failures.append(_failure(feature, spec_digest, key, result.failed[key], external))
            else:
                writer.add(_row(rows, key, values, given, external))
        result.version = commit(root, writer.finish()).version
    finally:
        writer.discard()
    result.added = len(writer.changes.placed)
    result.rows = len(keys) - len(result.failed)
    return result


class _Writer:
    """The shards of one import, to be placed by one commit when all rows are written."""

    def __init__(self, root: Path, feature: str, spec_digest: str, source: FileRows) -> None:
        self._root = root
        self._feature = feature
        self._spec_digest = spec_digest
        self._source = source
        self._shard: ShardWriter | None = None
        self.changes = Changes(current={feature: spec_digest})

    def add(self, row: Row) -> None:
        if self._shard is None:
            self._shard = ShardWriter(self._root, self._feature, self._spec_digest, _NUMERICS)
        self._shard.add(row)
        if self._shard.bytes >= SHARD_MB * 1e6:
            self._close()

    def _close(self) -> None:
        if self._shard is not None:
            self._source.check_unchanged()  # a finished shard may be adopted even if this import fails later
            receipt = self._shard.finish()
            self._shard = None
            self.changes.shards.append(receipt)
            self.changes.placed += place_shard(self._root, receipt)

    def finish(self) -> Changes:
        self._close()
        return self.changes

    def discard(self) -> None:
        if self._shard is not None:
            self._shard.discard()


def _spec(rows: FileRows, keys: Sequence[str], times: _Times) -> dict[str, Any]:
    """Return the spec of imported rows: everything that the files say about themselves."""
    first = rows.shape(keys[0])
    steps: int | None = first.steps
    for key in keys:
        shape = rows.shape(key)
        if (shape.step_shape, shape.dtype) != (first.step_shape, first.dtype):
            raise ExchangeError(
                f"{rows.where(key)}: steps of {shape.dtype.name}{list(shape.step_shape)}, "
                f"{keys[0]!r} has {first.dtype.name}{list(first.step_shape)}"
            )
        if shape.steps != first.steps:
            steps = None
    external = rows.digest()
    return {
        "extractor": EXTERNAL,
        "external": {"sha256": external, "format": rows.format},
        "model": {"weights": f"{EXTERNAL}:{external}"},
        "times": {"sha256": times.digest} if times.seconds else "unknown",
        "dtype": first.dtype.name,
        "steps": steps,
        "step_shape": list(first.step_shape),
        "units": "unknown",
        "random_weights": False,
    }


def _read_times(paths: Sequence[Path]) -> _Times:
    """Read and merge JSON files ``{key: [seconds]}``."""
    seconds: dict[str, Array] = {}
    for path in paths:
        value = read_json(path)
        if not isinstance(value, Mapping) or not value:
            raise ExchangeError(f"{path}: must be an object of the form {{key: [seconds, …]}}")
        for key, entry in value.items():
            numbers = entry if isinstance(entry, list) else [None]
            if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
                raise ExchangeError(f"{path}: key {key!r}: must be a list of finite seconds")
            array = np.array(numbers, np.float64)
            if key in seconds and not np.array_equal(seconds[key], array):
                raise ExchangeError(f"{path}: key {key!r}: its times differ from those in an earlier file")
            seconds[key] = array
    digests = sorted(durable.file_digest(path) for path in paths)
    return _Times(seconds, hashlib.sha256("\n".join(digests).encode()).hexdigest())


def _check_times(rows: FileRows, keys: Sequence[str], times: _Times, paths: Sequence[Path]) -> None:
    """Refuse times of other videos only, and times of the wrong length."""
    timed = [key for key in keys if key in times.seconds]
    if times.seconds and not timed:
        raise ExchangeError(f"{paths[0]}: has times of other videos only, none for {keys[0]!r} or any other key")
    for key in timed:
        steps, seconds = rows.shape(key).steps, times.seconds[key]
        if steps != len(seconds):
            raise ExchangeError(f"{rows.where(key)}: {steps} steps, but {len(seconds)} times")


def _check_owner(root: Path, manifest: Manifest, feature: str, replace: bool) -> None:
    """Refuse to retire extracted rows, unless ``replace`` allows it."""
    entry = manifest.feature(feature)
    if entry is None or replace:
        return
    extractor = read_spec(root, entry.current).get("extractor")
    if extractor != EXTERNAL and entry.specs[entry.current].rows:
        raise ExchangeError(
            f"{root}: feature {feature!r} has rows computed by {extractor!r}; "
            "import under another name, or use --replace to retire them"
        )


def _wanted(
    root: Path, manifest: Manifest, feature: str, spec_digest: str, keys: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Return the keys that are neither stored nor known to fail, and the known failures with their reasons."""
    index = SegmentLog(root, manifest.spec_entry(feature, spec_digest).index, schemas.INDEX)
    log = SegmentLog(root, manifest.failures, schemas.FAILURES)
    wanted, failed = [], {}
    for key in keys:
        if index.get(layout.check_key(key)) is not None:
            continue
        failure = log.get(schemas.failure_key(feature, spec_digest, key))
        if failure is None:
            wanted.append(key)
        else:
            failed[key] = str(failure["message"])
    return wanted, failed


def _row(rows: FileRows, key: str, values: Array, times: _Times, external: str) -> Row:
    """Return a row for the store; the duration of the video is not known and stored as 0."""
    seconds = times.seconds.get(key)
    return Row(
        key=key,
        cache_key=hashlib.sha256(bytes.fromhex(external) + key.encode()).digest(),
        values=values,
        time_s=np.arange(len(values), dtype=np.float64) if seconds is None else seconds,
        valid=rows.valid(key),
        duration_s=0.0,
        media={"times": "unknown" if seconds is None else "given", "duration": "unknown"},
    )


def _failure(feature: str, spec_digest: str, key: str, message: str, external: str) -> Failure:
    return Failure(
        video_id=key,
        feature=feature,
        spec_digest=spec_digest,
        failure_class="corrupt",
        permanent=True,
        message=message,
        uri=f"{EXTERNAL}:{external}",
        content_id=external,
        attempts=1,
    )
