"""Paths inside a store, which names and keys are acceptable, canonical JSON and seals."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidKeyError
from .inside import Root, StorePath

FORMAT = "reelstore"
FORMAT_VERSION = 3  # 2: tables have named parts; 3: parts are stale one by one, versions name their command
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
MEMBERS = "_members"
"""Suffix of the table that lists what the parts of another table are made of. Both are committed together."""
CARD = "README.md"
REPORT = "report.html"
DIRECTORIES = (VERSIONS, SPECS, INDEX, SOURCES, EVENTS, LEASES, FEATURES, TABLES, FAILURES, STAGING)

_SEAL_BYTES = len(b',"seal":""}\n') + 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VERSION_FILE = re.compile(r"(\d{10})\.json")


def check_key(key: str) -> bytes:
    """Return the UTF-8 bytes of a video key.

    Keys are compared as bytes. They are never normalised and never become paths, so any text of 1 to 512 bytes without
    a NUL is acceptable.

    Raises
    ------
    InvalidKeyError
        If the key is empty, too long, contains a NUL byte, or is not valid Unicode.
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
        raise InvalidKeyError(f"key {key[:40]!r}: contains a NUL byte")
    return raw


def check_name(name: str) -> str:
    """Return a feature or table name unchanged. Unlike keys, these names become paths.

    Raises
    ------
    InvalidKeyError
        If it is not 1 to 64 letters, digits, ``_``, ``-`` or ``.``, starting with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise InvalidKeyError(
            f"name {name[:64]!r}: must be 1-64 letters, digits, '_', '-' or '.', starting with a letter or digit"
        )
    return name


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Return the one JSON text of a value that is hashed (sorted keys, no white space, no NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def spec_text(spec: Mapping[str, Any]) -> bytes:
    """Return the content of a spec's file under ``specs/``."""
    return json.dumps(spec, sort_keys=True, indent=1).encode() + b"\n"


def digest(value: Mapping[str, Any]) -> str:
    """Return the sha256 of the canonical JSON, in hex. For a spec, this is its *spec digest*."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def seal(record: bytes) -> bytes:
    """Append the sha256 of a JSON object to it as its last member, so that any flipped bit is noticed."""
    body = record.rstrip().removesuffix(b"}").rstrip()
    return body + _seal_of(body)


def unseal(data: bytes) -> bytes:
    """Return the JSON object that ``seal`` was given.

    Raises
    ------
    ValueError
        If any bit differs from what was sealed.
    """
    body, tail = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if tail != _seal_of(body):
        raise ValueError("its bytes do not match its seal")
    return body + b"}"


def _seal_of(body: bytes) -> bytes:
    return b',"seal":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def new_id() -> str:
    """Return a random id of 32 hexadecimal digits, as shards and segments have."""
    return uuid.uuid4().hex


def version_file(version: int) -> str:
    """Return the name of a version's manifest."""
    return f"{version:010d}.json"


def parse_version(file_name: str) -> int | None:
    """Return the version that a manifest's file name states, or None if the file is not a manifest."""
    match = _VERSION_FILE.fullmatch(file_name)
    return int(match.group(1)) if match else None


def feature_directory(root: Root, name: str, spec_digest: str) -> StorePath:
    """Return the directory with the shards of a feature under one spec."""
    return StorePath.of(root) / FEATURES / f"{check_name(name)}-{spec_digest[:8]}"


def table_directory(root: Root, name: str, spec_digest: str) -> StorePath:
    """Return the directory with the Parquet files of a table under one spec."""
    return StorePath.of(root) / TABLES / f"{check_name(name)}-{spec_digest[:8]}"
