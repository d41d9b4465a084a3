"""Keep a store sound and small: verify, repair, compact it, roll it back, collect the files that no version names."""

from .compaction import Compaction, compact
from .gc import GRACE_SECONDS, Collection, collect
from .repairing import Repair, adopt, repair
from .rollback import rollback
from .verification import Problem, Verification, VerificationSummary, summary, verify

__all__ = [
    "GRACE_SECONDS",
    "Collection",
    "Compaction",
    "Problem",
    "Repair",
    "Verification",
    "VerificationSummary",
    "adopt",
    "collect",
    "compact",
    "repair",
    "rollback",
    "summary",
    "verify",
]
