"""Where things lie inside a store directory, and which names are acceptable."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidKeyError

FORMAT = "reelstore"
FORMAT_VERSION = 2  # 2: tables have named parts
MAX_KEY_BYTES = 512

IDENTITY = "store.json"
VERSIONS = "versions"
SPECS = "specs"
INDEX = "index"
SOURCES = "sources"
EVENTS = "events"
LEASES = "leases"
FEATURES = "features"
TABLES = "tables"
FAILURES = "failures"
STAGING = "staging"
CARD = "README.md"
REPORT = "report.html"
DIRECTORIES = (VERSIONS, SPECS, INDEX, SOURCES, EVENTS, LEASES, FEATURES, TABLES, FAILURES, STAGING)

_SEAL_BYTES = len(b',"seal":""}\n') + 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VERSION_FILE = re.compile(r"(\d{10})\.json")


def check_key(key: str) -> bytes:
    """Return the UTF-8 bytes of a video key.

    Keys compare as bytes, are never normalised and never become paths, so any text is
    acceptable that is not empty and at most 512 bytes long.

    Raises
    ------
    InvalidKeyError
        If the key is empty, too long, holds a NUL, or is not valid Unicode.
    """
    try:
        raw = key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidKeyError(f"key {key[:40]!r}: not valid Unicode ({error.reason})") from error
    if not raw:
        raise InvalidKeyError("key '': a video key must not be empty")
    if len(raw) > MAX_KEY_BYTES:
        raise InvalidKeyError(f"key {key[:40]!r}…: {len(raw)} bytes long, at most {MAX_KEY_BYTES} are allowed")
    if b"\0" in raw:
        raise InvalidKeyError(f"key {key[:40]!r}: holds a NUL byte")
    return raw


def check_name(name: str) -> str:
    """Return a feature or table name unchanged, or raise: these names do become paths."""
    if not _NAME.fullmatch(name):
        raise InvalidKeyError(
            f"name {name[:64]!r}: must be 1-64 letters, digits, '_', '-' or '.', starting with a letter or digit"
        )
    return name


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Serialise to the one JSON text that digests are taken of (sorted, compact, no NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def spec_text(spec: Mapping[str, Any]) -> bytes:
    """The bytes of a spec's file."""
    return json.dumps(spec, sort_keys=True, indent=1).encode() + b"\n"


def digest(value: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON, in hex. This is the *spec digest* of a spec."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def seal(record: bytes) -> bytes:
    """Close a JSON object with the sha256 of all that precedes it, so that any flipped bit shows."""
    body = record.rstrip().removesuffix(b"}").rstrip()
    return body + _seal_of(body)


def unseal(data: bytes) -> bytes:
    """Return the JSON object that :func:`seal` closed.

    Raises
    ------
    ValueError
        If a single bit differs from what was sealed.
    """
    body, tail = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if tail != _seal_of(body):
        raise ValueError("its bytes differ from its seal")
    return body + b"}"


def _seal_of(body: bytes) -> bytes:
    return b',"seal":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def new_id() -> str:
    return uuid.uuid4().hex


def version_file(version: int) -> str:
    return f"{version:010d}.json"


def parse_version(file_name: str) -> int | None:
    match = _VERSION_FILE.fullmatch(file_name)
    return int(match.group(1)) if match else None


def feature_directory(root: Path, name: str, spec_digest: str) -> Path:
    return root / FEATURES / f"{check_name(name)}-{spec_digest[:8]}"


def table_directory(root: Path, name: str, spec_digest: str) -> Path:
    return root / TABLES / f"{check_name(name)}-{spec_digest[:8]}"
