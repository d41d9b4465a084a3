"""Stores that somebody made on purpose: resealed manifests and receipts, files that are others, mutated bytes."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stores.format import layout
from stores.format.manifest import newest_version

Record = dict[str, Any]


def manifest_path(root: Path) -> Path:
    """Return the newest manifest of a store."""
    return root / layout.VERSIONS / layout.version_file(newest_version(root))


def reseal(path: Path, change: Callable[[Record], None]) -> None:
    """Change a sealed JSON file, and seal it again."""
    record = json.loads(layout.unseal(path.read_bytes()))
    change(record)
    path.write_bytes(layout.seal(json.dumps(record).encode()))


def relist(root: Path, path: Path) -> None:
    """Let the newest manifest state the present size and digest of a segment or table file."""
    relative, data = path.relative_to(root).as_posix(), path.read_bytes()

    def state(value: Any) -> None:
        if isinstance(value, dict) and value.get("path") == relative:
            value.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            state(below)

    reseal(manifest_path(root), state)


def restate(root: Path, shard: Path) -> None:
    """Let the receipt of a shard state the present size and digest of its file."""
    data = shard.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    reseal(shard.with_suffix(".json"), lambda record: record.update(bytes=len(data), sha256=digest))


def picture(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return kind and content of everything in a folder, to compare it later."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        seen[path.relative_to(folder).as_posix()] = (kind, path.read_bytes() if kind == "file" else b"")
    return seen


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with a few of them changed, cut out, repeated or put in."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data) + 1)
        size = chance.choice((1, 1, 4, 16, 200))
        what = chance.randrange(5)
        if what == 0:
            data = data[:at] + chance.randbytes(size) + data[at + size :]
        elif what == 1:
            data = data[:at] + data[at + size :]
        elif what == 2:
            data = data[:at] + data[at : at + size] * 3 + data[at:]
        elif what == 3:
            data = data[:at] + chance.choice((b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 8)) + data[at:]
        else:
            data = data[:at]
    return data


VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 2**70, -(2**63), 1.5, 1e308, "", "x", "../x", "/etc/passwd", "\0", "\ud800"),
    *([], {}, [[]], [1, 2], {"a": 1}, "9" * 50, "a" * 300, "NaN", "<script>", "|O", ">f8", "index/../store.json"),
)


def mutate_json(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with something in it replaced, dropped, doubled or moved."""
    places: list[tuple[Any, Any]] = []

    def collect(below: Any) -> None:
        pairs = below.items() if isinstance(below, dict) else enumerate(below) if isinstance(below, list) else ()
        for key, item in pairs:
            places.append((below, key))
            collect(item)

    value = json.loads(json.dumps(value))
    collect(value)
    if not places:
        return chance.choice(VALUES)
    holder, key = chance.choice(places)
    what = chance.randrange(4)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[chance.choice(("x", "path", "rows", "", "shape"))] = holder.pop(key)
    elif what == 2:
        other, place = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[place])) if place in other or isinstance(other, list) else None
    else:
        holder[key] = chance.choice(VALUES)
    return value


def copied(source: Path, target: Path) -> Path:
    """Copy a store, with its links as links."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target, symlinks=True))
