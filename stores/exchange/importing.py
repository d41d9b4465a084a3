"""Import feature files of another tool into a store, under a spec that contains the digest of the files."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..commit import Changes, Failure, check_identity, commit, create_store, place_shard, write_spec
from ..errors import ExchangeError, StoreNotFoundError
from ..format import layout, schemas
from ..format.manifest import Manifest, load
from ..format.receipts import read_spec
from ..format.rows import EXTERNAL, UNKNOWN, Array, Row
from ..format.segments import SegmentLog
from ..format.shard import SHARD_MB, ShardWriter
from ..progress import Progress, followed, silent
from ..store import Store
from ..upkeep.repairing import adopt
from ..wording import first_few, plural
from .files import FileRows, joined, open_files
from .frame_times import FrameTimes, read_times

_NUMERICS = {"origin": EXTERNAL}


@dataclass(slots=True)
class Import:
    """Result of an import.

    Attributes
    ----------
    spec
        Spec digest of the imported rows.
    external
        sha256 over the imported files, those of earlier imports that the feature still holds included.
    rows, added
        Number of rows that the store now has of these files, and how many of them are new.
    kept
        Number of rows of earlier imports that stay beside them.
    retired
        Number of rows that the feature had and that ``replace`` took out of it.
    times
        The files that the times come from.
    times_unknown
        Number of keys without times.
    times_unfit
        Number of those for which a file beside the features has times, but not one for each step.
    failed
        Keys whose rows contain NaN or infinite values, with the reason.
    """

    feature: str
    spec: str
    external: str
    version: int
    rows: int
    added: int = 0
    kept: int = 0
    retired: int = 0
    times: list[str] = field(default_factory=list)
    times_unknown: int = 0
    times_unfit: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def import_files(
    root: Path,
    sources: Sequence[Path],
    feature: str,
    format: str | None = None,
    dataset: str | None = None,
    times: Sequence[Path] | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> Import:
    """Store the rows of feature files of another tool as ``feature``; importing the same files again changes nothing.

    The spec contains the digests of the files (``external:<sha256>``). Files of other keys are added to those that were
    imported before: the spec then contains the digests of all, so that neither the order nor the number of imports
    matters. Dtypes are kept. Steps without times have NaN, and the note ``times: unknown`` in their media record. Rows
    with NaN or infinite values are recorded as failures.

    Parameters
    ----------
    root
        The store; created if it does not exist.
    sources, format, dataset
        As in ``open_files``.
    feature
        Name of the feature in the store.
    times
        As in ``read_times``.
    replace
        Let the feature hold these files alone: retire rows that were extracted, and imported rows of other keys or with
        other values.
    progress
        Told of the rows.

    Raises
    ------
    ExchangeError
        If a file cannot be used, or rows would be retired without ``replace``. Nothing is committed then.
    InvalidKeyError
        If ``feature`` is not acceptable as a name.
    """
    root = root.absolute()
    layout.check_name(feature)
    rows = open_files(sources, format, dataset)
    if not rows.keys():
        raise ExchangeError(f"{sources[0]}: contains no row")
    files = _Files(rows, read_times(rows, times), rows.digests())
    spec = _spec(files)
    try:
        check_identity(root)
        stored = _Stored.find(root, load(root), feature)
    except StoreNotFoundError:
        create_store(root)
        stored = None
    kept: list[str] = []
    retired = 0
    known: set[str] = set()  # keys whose rows the store has already, under another spec
    if stored is not None and stored.spec_digest != layout.digest(spec):
        kept, retired = stored.meet(files, replace)
        known = set() if retired else set(stored.store.keys(feature))
        spec = _spec(files, stored.spec if kept else None)
    spec_digest = write_spec(root, spec)
    manifest = adopt(root, load(root), [(feature, spec_digest)]).manifest  # shards of an import that was killed
    keys = rows.keys()
    result = Import(feature, spec_digest, spec["external"]["sha256"], manifest.version, 0, kept=len(kept))
    result.retired = retired
    result.times = [str(path) for path in files.times.files]
    result.times_unknown = sum(1 for key in keys if key not in files.times.seconds)
    result.times_unfit = files.times.unfit
    wanted, result.failed = _wanted(root, manifest, feature, spec_digest, keys)
    writer = _Writer(root, feature, spec_digest, rows)
    try:
        for key in followed(wanted, "rows", progress):
            values = rows.row(key)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                result.failed[key] = f"{rows.where(key)}: contains NaN or infinite values"
                writer.changes.failures.append(_failure(feature, spec_digest, key, files, result.failed[key]))
            else:
                writer.add(_row(files, key, values))
        result.added = sum(1 for key in wanted if key not in result.failed and key not in known)
        if stored is not None and kept:
            present, _ = _wanted(root, manifest, feature, spec_digest, kept)
            for row in stored.rows(present):
                writer.add(row)
            writer.changes.failures += stored.failures(spec_digest, without=keys)
        result.version = commit(root, writer.finish()).version
    finally:
        writer.discard()
    result.rows = len(keys) - len(result.failed)
    return result


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one import, what is known of their times, and their digests."""

    rows: FileRows
    times: FrameTimes
    digests: Sequence[str]

    def digest_of(self, key: str) -> str:
        """Return the sha256 of the file that holds a row."""
        return self.digests[self.rows.source(key)]


@dataclass(frozen=True, slots=True)
class _Stored:
    """The rows that a feature has before an import."""

    store: Store
    feature: str
    spec_digest: str
    spec: Mapping[str, Any]

    @classmethod
    def find(cls, root: Path, manifest: Manifest, feature: str) -> _Stored | None:
        """Return the current rows of a feature; None if it has none."""
        entry = manifest.feature(feature)
        if entry is None or not entry.specs[entry.current].rows:
            return None
        return cls(Store(root, manifest), feature, entry.current, read_spec(root, entry.current))

    def meet(self, files: _Files, replace: bool) -> tuple[list[str], int]:
        """Return the keys that stay beside the rows of the files, and the number of rows that go.

        Raises
        ------
        ExchangeError
            If rows would go without ``replace``.
        """
        stored, coming = self.store.keys(self.feature), set(files.rows.keys())
        others = [key for key in stored if key not in coming]
        problem: str | None = None
        if self.spec.get("extractor") != EXTERNAL:
            problem, going = f"were computed by {self.spec.get('extractor')!r}", len(stored)
        else:
            differing = [key for key in stored if key in coming and self._differs(files, key)]
            going = len(others) + len(differing)
            if differing:
                shown = first_few([repr(key) for key in differing])
                problem = f"were imported, and {len(differing)} of them differ ({shown})"
            elif others:
                problem = _unlike(self.spec, files.rows)
        if problem is None and not replace:
            return others, 0
        if not replace:
            raise ExchangeError(
                f"{self.store.path}: feature {self.feature!r}: its {plural(len(stored), 'row')} {problem}; "
                f"import under another name, or use --replace, which retires {plural(going, 'row')}"
            )
        return [], going

    def _differs(self, files: _Files, key: str) -> bool:
        """Return whether a row of the files has other values, times or mask than the stored one."""
        row, name = _row(files, key, files.rows.row(key)), self.feature
        values = self.store.row(name, key)
        same = row.values.dtype == values.dtype and np.array_equal(row.values, values)
        same_times = np.array_equal(row.time_s, self.store.times(name, key), equal_nan=True)
        return not (same and same_times and np.array_equal(row.valid, self.store.valid(name, key)))

    def rows(self, keys: Sequence[str]) -> Iterator[Row]:
        """Yield rows as they are stored."""
        for key in keys:
            shard, place = self.store.place(self.feature, key)
            reader = self.store.shard(self.feature, Path(shard).stem)
            if not reader.row_is_sound(place):
                raise ExchangeError(f"{self.store.path}: {self.feature}: key {key!r}: damaged; run `reelstore repair`")
            yield reader.row(place, key, reader.cache_key(place))

    def failures(self, spec_digest: str, without: Sequence[str]) -> list[Failure]:
        """Return the failures of other keys than those given, under another spec."""
        given = set(without)
        records = [record for record in self.store.failures().to_pylist() if record["feature"] == self.feature]
        failures = [Failure.from_record(record) for record in records if record["video_id"] not in given]
        return [dataclasses.replace(failure, spec_digest=spec_digest) for failure in failures]


def _unlike(spec: Mapping[str, Any], rows: FileRows) -> str | None:
    """Return what stored rows are if rows of the files cannot stand beside them; None if they can."""
    shape = rows.shape(rows.keys()[0])
    if (spec["dtype"], spec["step_shape"]) == (shape.dtype.name, list(shape.step_shape)):
        return None
    stored, coming = f"{spec['dtype']}{spec['step_shape']}", f"{shape.dtype.name}{list(shape.step_shape)}"
    return f"were imported, and have steps of {stored}, not {coming}"


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


def _spec(files: _Files, beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the spec of imported rows: everything that the files say, and those whose rows stay ``beside`` them."""
    rows, keys = files.rows, files.rows.keys()
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
    digests, times, formats = set(files.digests), set(files.times.digests), {rows.format}
    if beside is not None:
        digests |= _file_digests(beside["external"])
        times |= _file_digests(beside["times"])
        formats |= set(beside["external"]["format"].split("+"))
        steps = steps if beside["steps"] == steps else None
    external = joined(digests)
    return {
        "extractor": EXTERNAL,
        "external": {"sha256": external, "files": sorted(digests), "format": "+".join(sorted(formats))},
        "model": {"weights": f"{EXTERNAL}:{external}"},
        "times": {"sha256": joined(times), "files": sorted(times)} if times else UNKNOWN,
        "dtype": first.dtype.name,
        "steps": steps,
        "step_shape": list(first.step_shape),
        "units": UNKNOWN,
        "random_weights": False,
    }


def _file_digests(entry: Mapping[str, Any] | str) -> set[str]:
    """Return the digests that a spec lists; specs of the first release have only the one of all files together."""
    return set() if isinstance(entry, str) else set(entry.get("files", [entry["sha256"]]))


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


def _row(files: _Files, key: str, values: Array) -> Row:
    """Return a row for the store. The duration of the video is not known, nor are its times if no file gives them."""
    seconds = files.times.seconds.get(key)
    return Row(
        key=key,
        cache_key=hashlib.sha256(bytes.fromhex(files.digest_of(key)) + key.encode()).digest(),
        values=values,
        time_s=np.full(len(values), np.nan) if seconds is None else seconds,
        valid=files.rows.valid(key),
        duration_s=math.nan,
        media={"times": UNKNOWN if seconds is None else "given", "duration": UNKNOWN},
    )


def _failure(feature: str, spec_digest: str, key: str, files: _Files, message: str) -> Failure:
    return Failure(
        video_id=key,
        feature=feature,
        spec_digest=spec_digest,
        failure_class="corrupt",
        permanent=True,
        message=message,
        uri=f"{EXTERNAL}:{files.digest_of(key)}",
        content_id=files.digest_of(key),
        attempts=1,
    )
