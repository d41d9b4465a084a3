"""The bytes of a store: layout, shards, segments, manifests, and the system calls that write them.

``docs/format.md`` specifies what these modules read and write. They import no other part of the package except its
errors.
"""

from . import durable, layout, leases, schemas, segments
from .inside import StorePath
from .layout import (
    CARD,
    IDENTITY,
    MAX_KEY_BYTES,
    STAGING,
    canonical_json,
    check_key,
    check_name,
    digest,
    feature_directory,
    new_id,
)
from .manifest import Manifest, SpecEntry, TablePart, first_manifest, load, newest_version, versions
from .mapped import empty_half_page_off, map_file, will_read
from .media_damage import DAMAGED_STEPS, TRUNCATED, MediaDamage, damaged_steps, media_damage
from .receipts import read_receipt, read_spec
from .rounding import COMPUTE, STORAGE, RoundingError, pooled_by_kind
from .rows import Array, Receipt, Row, row_digest
from .segments import SegmentLog
from .shard import SHARD_MB, SHARD_ROWS, ShardReader, ShardWriter
from .staged_file import StagedFile

__all__ = [
    "CARD",
    "COMPUTE",
    "DAMAGED_STEPS",
    "IDENTITY",
    "MAX_KEY_BYTES",
    "SHARD_MB",
    "SHARD_ROWS",
    "STAGING",
    "STORAGE",
    "TRUNCATED",
    "Array",
    "Manifest",
    "MediaDamage",
    "Receipt",
    "RoundingError",
    "Row",
    "SegmentLog",
    "ShardReader",
    "ShardWriter",
    "SpecEntry",
    "StagedFile",
    "StorePath",
    "TablePart",
    "canonical_json",
    "check_key",
    "check_name",
    "damaged_steps",
    "digest",
    "durable",
    "empty_half_page_off",
    "feature_directory",
    "first_manifest",
    "layout",
    "leases",
    "load",
    "map_file",
    "media_damage",
    "new_id",
    "newest_version",
    "pooled_by_kind",
    "read_receipt",
    "read_spec",
    "row_digest",
    "schemas",
    "segments",
    "versions",
    "will_read",
]
