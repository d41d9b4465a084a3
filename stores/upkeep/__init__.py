"""Keeping a store sound and small: verify, repair, compact, collect what no version names."""

from .compaction import SHARD_MB, SHARD_ROWS, Compaction, compact
from .gc import GRACE_SECONDS, Collection, collect
from .repairing import Repair, adopt, repair
from .verification import Problem, Verification, summary, verify

__all__ = [
    "GRACE_SECONDS",
    "SHARD_MB",
    "SHARD_ROWS",
    "Collection",
    "Compaction",
    "Problem",
    "Repair",
    "Verification",
    "adopt",
    "collect",
    "compact",
    "repair",
    "summary",
    "verify",
]
