"""When two files, two contents, two rows are the same: content ids, stamps, cache keys, remote statuses."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import fsspec

from pipeline.media import FailureClass
from settings.messages import one_line


def content_id(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(status: os.stat_result) -> str:
    """Return what must stay equal, beside the size, for a local file to count as untouched."""
    return f"{status.st_mtime_ns}:{status.st_ino}"


def cache_key(content: str, start_s: float | None, end_s: float | None, spec_digest: str) -> bytes:
    """Return hash(content id, clip bounds, spec digest): 32 bytes that name one computed row."""
    bounds = ", ".join("null" if bound is None else repr(float(bound)) for bound in (start_s, end_s))
    return hashlib.sha256(f'["{content}", {bounds}, "{spec_digest}"]'.encode()).digest()


def remote_status(uri: str) -> tuple[int, str]:
    """Return (size, etag or the like) of a remote file. Raises OSError if they cannot be had."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    info = filesystem.info(path)
    version = next(
        (str(info[name]) for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created") if info.get(name)),
        "",
    )
    return int(info.get("size") or 0), version


def describe_os_error(error: OSError) -> tuple[FailureClass, str]:
    """Return the failure class and one line of what the system says about a file that cannot be read."""
    failure_class: FailureClass = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
    return failure_class, error.strerror or one_line(error)


def failed_content(content: str | None, start_s: float | None, end_s: float | None) -> str:
    """Return what a failure is remembered for: these bytes, in these bounds."""
    bounds = "" if start_s is None and end_s is None else f"[{start_s},{end_s}]"
    return f"{content or ''}{bounds}"
