"""Content ids, stamps and cache keys: when two rows are the same row."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def content_id(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(status: os.stat_result) -> str:
    """What must stay equal (beside the size) for a local file to count as untouched."""
    return f"{status.st_mtime_ns}:{status.st_ino}"


def cache_key(content: str, start_s: float | None, end_s: float | None, spec_digest: str) -> bytes:
    """hash(content id, clip bounds, spec digest): 32 bytes that name one computed row."""
    bounds = ", ".join("null" if bound is None else repr(float(bound)) for bound in (start_s, end_s))
    return hashlib.sha256(f'["{content}", {bounds}, "{spec_digest}"]'.encode()).digest()
