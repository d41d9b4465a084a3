"""Keeping a store sound and small: verify, repair, compact, collect what no version names."""

from .compact import SHARD_MB, SHARD_ROWS, Compaction, compact
from .gc import GRACE_SECONDS, Collection, collect
from .repair import Repair, adopt, repair
from .verify import Problem, Verification, summary, verify

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
