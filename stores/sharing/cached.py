"""A shared store that is read in place: what is asked for is fetched once, checked, and kept on this machine."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..commit import create_store
from ..format import Manifest, StorePath, durable, layout, load
from ..format.holdings import Holding, described_by
from ..format.manifest import versions
from ..wording import without_credentials
from . import transfer
from .addresses import open_place
from .places import Place

VARIABLE = "REELSTORE_CACHE"
"""Names the folder of all caches; by default ``reelstore`` in the user's cache folder."""


def cache_folder(address: str) -> Path:
    """Return the folder that keeps what was read from an address; nobody removes it but its owner."""
    named = os.environ.get(VARIABLE)
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reelstore"
    plain = without_credentials(address).rstrip("/")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain.rpartition("/")[2])[:64].lstrip(".") or "store"
    return base / f"{name}-{hashlib.sha256(plain.encode()).hexdigest()[:16]}"


class Cache:
    """The files of a shared store that were read so far.

    It can be pickled, and is safe under fork: each process reaches the place by itself.
    """

    def __init__(self, address: str, root: StorePath) -> None:
        self.address = address
        self.root = root
        self._place: tuple[int, Place] | None = None

    def __reduce__(self) -> tuple[type[Cache], tuple[str, StorePath]]:
        return type(self), (self.address, self.root)

    def bring(self, files: Sequence[Holding]) -> None:
        """Fetch the files that are not here.

        Raises
        ------
        SharingError
            If the place cannot be reached, or lacks one.
        StoreDamageError
            If one is not what its version states.
        """
        if missing := [file for file in files if not (self.root / file.path).is_file()]:
            transfer.fetch(self.root, self.place, missing)

    @property
    def place(self) -> Place:
        """The place, reached by this process."""
        if self._place is None or self._place[0] != os.getpid():
            self._place = (os.getpid(), open_place(self.address))
        return self._place[1]


def open_cache(address: str, version: int | None) -> tuple[Cache, Manifest]:
    """Return the cache of a shared store and a version of it, whose lists were fetched.

    A version that is asked for by its number and was opened before is not looked for again.

    Raises
    ------
    StoreNotFoundError
        If there is no store at the address, or no such version.
    SharingError, StoreDamageError, StoreFormatError
        If it cannot be reached, or is damaged.
    OSError
        If the cache cannot be written.
    """
    root = StorePath.of(cache_folder(address))
    cache = Cache(address, root)
    if version is not None and version > 0 and version in versions(root):
        manifest = load(root, version)
    else:
        published = transfer.find(cache.place, version)
        manifest = published.manifest
        create_store(root)
        target = root / layout.VERSIONS / layout.version_file(manifest.version)
        if not target.exists() or target.read_bytes() != published.data:  # a place may have been made anew
            durable.replace_file(target, root / layout.STAGING / layout.new_id(), published.data)
    lists = described_by(manifest, sources=False)
    cache.bring([file for file in lists if not file.path.startswith(f"{layout.TABLES}/")])
    return cache, manifest
