"""The files that a version needs, and how to know that a file is the one that is meant.

A manifest states the digests of what it names, and so do the shard lists that it names. What came from elsewhere is
compared with them before it gets its name in a store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import StoreDamageError
from . import durable, layout, schemas
from .inside import LARGEST_TEXT, StorePath
from .manifest import Manifest, SpecEntry, TableFile
from .receipts import read_receipt
from .segments import SegmentLog


@dataclass(frozen=True, slots=True)
class Holding:
    """A file that a version needs.

    Attributes
    ----------
    path
        Its name, relative to the store.
    bytes
        Its size; None if nothing states it (specs and receipts).
    check
        Gets a file, wherever it lies in a store, and raises StoreDamageError if it is not the one that is meant.
    """

    path: str
    bytes: int | None
    check: Callable[[StorePath], None]

    @property
    def limit(self) -> int:
        """The most bytes that the file may have."""
        return LARGEST_TEXT if self.bytes is None else self.bytes


def described_by(manifest: Manifest, sources: bool = True) -> list[Holding]:
    """Return the files that a manifest names, and the specs and receipts that go with them; no shards.

    ``sources`` says whether the logs of sources and failures are among them.
    """
    found: dict[str, Holding] = {}
    logs = list(manifest.failures) + (list(manifest.sources) if sources else [])
    digests = []
    for _, feature in sorted(manifest.features.items()):
        for spec_digest, entry in sorted(feature.specs.items()):
            digests.append(spec_digest)
            logs += [*entry.index, *entry.shards]
    for _, _, part in manifest.table_parts():
        digests.append(part.spec_digest)
        for file in part.files:
            found[file.path] = table_holding(file)
            receipt = file.path.removesuffix(".parquet") + ".json"
            found[receipt] = Holding(receipt, None, _TableReceipt(file))
    for ref in logs:
        found[ref.path] = Holding(ref.path, ref.bytes, _Digest(ref.sha256))
    for spec_digest in digests:
        path = f"{layout.SPECS}/{spec_digest}.json"
        found[path] = Holding(path, None, _Spec(spec_digest))
    return [found[path] for path in sorted(found)]


def table_holding(file: TableFile) -> Holding:
    """Return a Parquet file of a table."""
    return Holding(file.path, file.bytes, _Digest(file.sha256))


def shards_of(root: StorePath, manifest: Manifest) -> list[Holding]:
    """Return the shards that have a row of a version, and their receipts; its logs are in the store ``root``.

    Raises
    ------
    StoreDamageError
        If a log is damaged, or the index names a shard that is not listed.
    """
    found: list[Holding] = []
    for name, feature in sorted(manifest.features.items()):
        for spec_digest, entry in sorted(feature.specs.items()):
            found += _shards(root, name, spec_digest, entry)
    return found


def _shards(root: StorePath, name: str, spec_digest: str, entry: SpecEntry) -> list[Holding]:
    index = SegmentLog(root, entry.index, schemas.INDEX).table()
    used = sorted(set(index.column("shard").unique().to_pylist()))
    records = SegmentLog(root, entry.shards, schemas.SHARDS).find(used)
    found: list[Holding] = []
    for shard in used:
        if shard not in records:
            raise StoreDamageError(f"{root}: feature {name!r}: shard {shard.hex()} has rows, but is not listed")
        found += shard_holdings(root, name, spec_digest, shard, records[shard])
    return found


def shard_holdings(
    root: StorePath, name: str, spec_digest: str, shard: bytes, record: Mapping[str, Any]
) -> tuple[Holding, Holding]:
    """Return a shard's file and its receipt, given its record in the shard list."""
    path = layout.feature_directory(root, name, spec_digest).relative + f"/{shard.hex()}"
    digest = record["sha256"].hex()
    return (
        Holding(f"{path}.h5", record["bytes"], _Digest(digest)),
        Holding(f"{path}.json", None, _ShardReceipt((shard.hex(), name, spec_digest, digest, record["bytes"]))),
    )


@dataclass(frozen=True, slots=True)
class _Digest:
    """A file with this sha256."""

    sha256: str

    def __call__(self, path: StorePath) -> None:
        if durable.file_digest(path) != self.sha256:
            raise StoreDamageError(f"{path}: its bytes do not match the digest that its version states")


@dataclass(frozen=True, slots=True)
class _Spec:
    """The spec with this digest."""

    digest: str

    def __call__(self, path: StorePath) -> None:
        data = path.read_bytes()
        try:
            spec = json.loads(data)
            same = data == layout.spec_text(spec) and layout.digest(spec) == self.digest
        except (ValueError, TypeError, AttributeError, RecursionError):
            same = False
        if not same:
            raise StoreDamageError(f"{path}: not the spec that its version names")


@dataclass(frozen=True, slots=True)
class _ShardReceipt:
    """The receipt of this shard: id, feature, spec digest, sha256 and bytes."""

    identity: tuple[str, str, str, str, int]

    def __call__(self, path: StorePath) -> None:
        receipt = read_receipt(path)
        stated = (receipt.id, receipt.feature, receipt.spec_digest, receipt.sha256, receipt.bytes)
        if stated != self.identity:
            raise StoreDamageError(f"{path}: the receipt of another shard")


@dataclass(frozen=True, slots=True)
class _TableReceipt:
    """The receipt of this file of a table."""

    file: TableFile

    def __call__(self, path: StorePath) -> None:
        try:
            record = json.loads(layout.unseal(path.read_bytes()))
            stated = {name: record.get(name) for name in ("path", "rows", "bytes", "sha256")}
        except (ValueError, AttributeError, RecursionError) as error:
            raise StoreDamageError(f"{path}: a damaged receipt") from error
        if stated != self.file.model_dump():
            raise StoreDamageError(f"{path}: the receipt of another file")
