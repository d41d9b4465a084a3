"""Which versions a place holds, and how the next one gets there so that none is lost.

Versions of a place need not follow one another: only those that somebody published are there. So what is claimed is
not a number but a succession: whoever publishes after version 3 creates ``after/0000000003.json`` with the whole
manifest in it, and of two who do so at the same time the place lets one. That is the moment of publication; the copy
under ``versions/``, where readers of a store look, is made from it by whoever comes next if its author died.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import SharingError, StoreDamageError
from ..format import Manifest, layout
from ..format.manifest import decode
from .places import Place

AFTER = "after"
_FIRST = "nothing"


@dataclass(frozen=True, slots=True)
class Published:
    """A version of a place: its manifest, the bytes of that, and whether the copy for readers is known to be there."""

    manifest: Manifest
    data: bytes
    settled: bool = True

    @property
    def name(self) -> str:
        """The name of its manifest's file."""
        return _version_name(self.manifest.version)


def _version_name(version: int) -> str:
    return f"{layout.VERSIONS}/{layout.version_file(version)}"


def _succession(version: int | None) -> str:
    return f"{AFTER}/{_FIRST}.json" if version is None else f"{AFTER}/{layout.version_file(version)}"


def newest(place: Place) -> Published | None:
    """Return the newest version of a place; None if nothing was published there.

    Raises
    ------
    SharingError
        If the place cannot be asked.
    StoreDamageError, StoreFormatError
        If what it says of its versions is damaged, or was written by a newer Reelstore.
    """
    names = [name.rpartition("/")[2] for name in place.sizes(layout.VERSIONS)]
    numbers = [version for name in names if (version := layout.parse_version(name)) is not None]
    number = max(numbers, default=None)
    found = None
    successions = place.sizes(AFTER)
    while (name := _succession(number)) in successions:
        data = _read(place, name)
        manifest = decode(f"{place.address}/{name}", data)
        if number is not None and manifest.version <= number:
            raise StoreDamageError(f"{place.address}/{name}: names version {manifest.version}, which is no later one")
        found, number = Published(manifest, data, settled=False), manifest.version
    return found if number is None or found is not None else at(place, number)


def at(place: Place, version: int) -> Published:
    """Return a version of a place.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    SharingError, StoreDamageError, StoreFormatError
        As ``newest``.
    """
    name = _version_name(version)
    data = place.read(name)
    manifest = decode(f"{place.address}/{name}", data)
    if manifest.version != version:
        raise StoreDamageError(f"{place.address}/{name}: holds version {manifest.version}")
    return Published(manifest, data)


def settle(place: Place, published: Published) -> None:
    """Put a version that was published where readers look for it, if its author did not."""
    if not published.settled and not create_once(place, published.name, published.data):
        raise SharingError(f"{place.address}/{published.name}: another version than the one that was published")


def publish(place: Place, before: int | None, published: Published) -> None:
    """Publish a version as the successor of another one; all files that it names are there.

    Raises
    ------
    SharingError
        If somebody else was faster, or the place cannot be written.
    """
    name = _succession(before)
    if not create_once(place, name, published.data):
        winner = decode(f"{place.address}/{name}", _read(place, name))
        raise SharingError(
            f"{place.address}: somebody published version {winner.version} ({winner.created_at}) at the same time; "
            "pull it into a folder of its own, and look which of the two is to go on"
        )
    settle(place, replace(published, settled=False))


def create_once(place: Place, name: str, data: bytes) -> bool:
    """Create a file, and return whether it holds these bytes: also if an earlier try, cut off, created it."""
    try:
        if place.create(name, data):
            return True
    except SharingError:
        try:
            if place.read(name) == data:  # it arrived, and only the answer was lost
                return True
        except FileNotFoundError:
            pass
        raise
    return _read(place, name) == data


def _read(place: Place, name: str) -> bytes:
    try:
        return place.read(name)
    except FileNotFoundError as error:
        raise SharingError(f"{place.address}/{name}: listed, but not there") from error
