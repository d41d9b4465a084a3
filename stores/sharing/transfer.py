"""Send a version of a store to a place, and fetch one from it: only what is missing travels, and what it is is checked.

Both ways the manifest comes last, so that whoever looks sees the version before or the one after, with all its files.
A transfer that is cut off is repeated: files that have arrived are not sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..commit import check_identity, create_store
from ..errors import SharingError, StoreDamageError, StoreNotFoundError
from ..format import Manifest, StorePath, durable, layout, load
from ..format.holdings import Holding, described_by, shards_of
from ..format.manifest import newest_version, versions
from ..progress import Progress, silent
from . import versions as history
from .parts import EVERYTHING, Selection, check_selection, select
from .places import Place
from .versions import Published

AT_ONCE = 4
"""Files on the way at the same time."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Transfer:
    """What ``push`` or ``pull`` did.

    Attributes
    ----------
    version
        The version that the target holds now.
    published
        Whether it is new there.
    files, bytes
        Files that travelled, and their size.
    present
        Files that were there already.
    """

    version: int
    published: bool
    files: int
    bytes: int
    present: int


def push(
    root: Path,
    manifest: Manifest,
    place: Place,
    selection: Selection = EVERYTHING,
    over: int | None = None,
    card: Callable[[Manifest], str] | None = None,
    progress: Progress = silent,
) -> Transfer:
    """Publish a version of a store, or a part of it, at a place.

    Parameters
    ----------
    root
        The store, whose files are kept meanwhile (by a lease).
    manifest
        The version.
    place
        Where to; it holds nothing, or an earlier version of the same store and selection.
    selection
        What to send.
    over
        A version of the place that need not be one of this store's: it is superseded, and stays there.
    card
        Returns the text of the place's ``README.md``; none is written if it is not given.
    progress
        Told of the MiB that are sent.

    Raises
    ------
    SharingError
        If the place holds a version that this store does not know, somebody else publishes there at the same time, or
        it cannot be reached or written.
    StoreDamageError
        If a file of the store is damaged. Nothing is published then.
    MissingKeyError
        If the version lacks something that is selected.
    """
    store = check_identity(root)
    if not place.exclusive:
        raise SharingError(
            f"{place.address}: no two can publish there safely: its filesystem cannot create a file only if there is "
            "none; push to s3://, gs://, hf:// or a folder"
        )
    part = select(store, manifest, selection)
    ours = Published(part, part.encode())
    held = history.newest(place)
    if held is not None:
        _check_succession(store, place, held.manifest, part, selection, over)
        history.settle(place, held)
    described = described_by(part)
    wanted = [*described, *shards_of(store, part)]
    sizes = {name: size for folder in _folders(wanted) for name, size in place.sizes(folder).items()}
    missing = [file for file in wanted if not _is_there(store, file, sizes)]
    total = sum(_size(store, file) for file in missing)
    amount = _each(missing, lambda file: _send(store, place, file), total, "MiB sent", progress)
    published = held is None or held.manifest.version != part.version
    if published:
        if held is None:
            history.create_once(place, layout.IDENTITY, (store / layout.IDENTITY).read_bytes())
        history.publish(place, held.manifest.version if held else None, ours)
    if card is not None and (published or missing):
        place.put(layout.CARD, card(part).encode())
    place.finish()
    return Transfer(part.version, published, len(missing), amount, len(wanted) - len(missing))


def _check_succession(
    store: StorePath, place: Place, held: Manifest, part: Manifest, selection: Selection, over: int | None
) -> None:
    """Check that a version may follow the one that the place holds: that is an earlier one of this store, or itself."""
    where = f"{place.address}: holds version {held.version}"
    if held.version > part.version:
        raise SharingError(f"{where}, later than version {part.version} of {store}; pull it first")
    if over == held.version < part.version or part.nonce == held.nonce:
        return
    if held.version == part.version:
        raise SharingError(f"{where}, but not the one of {store} ({selection}); push to another address")
    if held.version not in versions(store):
        raise SharingError(
            f"{where}, which {store} no longer has, so that it may be another store's; "
            f"if it is to be superseded all the same: --over {held.version}"
        )
    if selection.nonce(load(store, held.version)) != held.nonce:
        raise SharingError(
            f"{where}, which is not that of {store} ({selection}); push to another address, "
            f"or supersede it: --over {held.version}"
        )


def _is_there(store: StorePath, file: Holding, sizes: dict[str, int]) -> bool:
    """Return whether a place has a file, whole as far as its size says."""
    return file.path in sizes and sizes[file.path] == _size(store, file)


def _size(store: StorePath, file: Holding) -> int:
    if file.bytes is not None:
        return file.bytes
    try:
        return (store / file.path).status().st_size
    except FileNotFoundError as error:
        raise _missing(store / file.path) from error


def _missing(path: StorePath) -> StoreDamageError:
    return StoreDamageError(f"{path}: named by the version but missing; run `reelstore repair`")


def _send(store: StorePath, place: Place, file: Holding) -> int:
    path = store / file.path
    try:
        file.check(path)
        place.send(file.path, path)
        return _size(store, file)
    except FileNotFoundError as error:
        raise _missing(path) from error


def pull(
    place: Place,
    folder: Path,
    selection: Selection = EVERYTHING,
    version: int | None = None,
    progress: Progress = silent,
) -> Transfer:
    """Fetch a version of a place, or a part of it, into a store.

    Parameters
    ----------
    place
        Where from.
    folder
        A new or empty folder, or a store that an earlier pull of the same selection made.
    selection
        What to fetch.
    version
        The version; by default the newest.
    progress
        Told of the MiB that arrive.

    Raises
    ------
    StoreNotFoundError
        If there is no store at the place, or no such version.
    SharingError
        If the store has a version that the place does not know, or the place cannot be reached.
    StoreDamageError
        If what arrives is not what its version states. It is not kept then, and nothing is published.
    MissingKeyError
        If the version lacks something that is selected.
    """
    published = find(place, version)
    check_selection(published.manifest, selection)
    store = StorePath(create_store(folder))
    newer = _check_ancestry(store, place, published.manifest, selection)
    described = described_by(published.manifest, sources=selection.everything)
    files, amount, present = fetch(store, place, described, progress)
    part = select(store, published.manifest, selection)
    shards = shards_of(store, part)
    counts = fetch(store, place, shards, progress)
    data = published.data if selection.everything else part.encode()
    if newer:
        publish_locally(store, part.version, data)
    return Transfer(part.version, newer, files + counts[0], amount + counts[1], present + counts[2])


def find(place: Place, version: int | None = None) -> Published:
    """Return a version of a place, by default the newest.

    Raises
    ------
    StoreNotFoundError
        If there is no store at the place, or no such version.
    SharingError, StoreDamageError, StoreFormatError
        If the place cannot be reached, or what it says of its versions is damaged.
    """
    found = history.newest(place)
    if found is None:
        raise StoreNotFoundError(f"{place.address}: no store was published here")
    if version is None or version == found.manifest.version:
        return found
    try:
        return history.at(place, version)
    except FileNotFoundError as error:
        raise StoreNotFoundError(
            f"{place.address}: no version {version} (the newest is {found.manifest.version})"
        ) from error


def _check_ancestry(store: StorePath, place: Place, wanted: Manifest, selection: Selection) -> bool:
    """Return whether a store lacks a version; what it has is an earlier one of the same, or a later one made of it."""
    number = newest_version(store)
    here = load(store, number)
    if number == 0 and not here.files():
        return True
    if here.nonce == selection.nonce(wanted):
        return False
    where = f"{store}: holds version {number}"
    if number > wanted.version in versions(store) and load(store, wanted.version).nonce == selection.nonce(wanted):
        return False
    if number == wanted.version:
        raise SharingError(f"{where}, but not that of {place.address} ({selection}); pull into another folder")
    try:
        known = number < wanted.version and selection.nonce(history.at(place, number).manifest) == here.nonce
    except FileNotFoundError:
        known = False
    if not known:
        raise SharingError(f"{where}, which did not come from {place.address} ({selection}); pull into another folder")
    return True


def fetch(
    store: StorePath, place: Place, files: Sequence[Holding], progress: Progress = silent
) -> tuple[int, int, int]:
    """Fetch the files that a store lacks, and return how many, how many bytes, and how many were there.

    Each gets its name when its content was found to be what its version states.

    Raises
    ------
    SharingError
        If the place cannot be reached, or lacks a file.
    StoreDamageError
        If a file is not the one that is meant.
    """
    missing = [file for file in files if not (store / file.path).is_file()]
    for folder in _folders(missing):
        names = folder.split("/")
        for depth in range(len(names)):
            durable.make_directory(store / "/".join(names[: depth + 1]))
    total = sum(file.bytes or 0 for file in missing)  # receipts have no stated size, and are small
    amount = _each(missing, lambda file: _fetch(store, place, file), total, "MiB read", progress)
    for folder in _folders(missing):
        durable.sync_directory(store / folder)
    return len(missing), amount, len(files) - len(missing)


def _fetch(store: StorePath, place: Place, file: Holding) -> int:
    staged = store / layout.STAGING / layout.new_id()
    try:
        try:
            durable.write_stream(staged, place.bounded(file.path, file.limit))
            file.check(staged)
        except FileNotFoundError as error:
            raise SharingError(f"{place.address}/{file.path}: named by its version, but not there") from error
        except StoreDamageError as error:
            told = str(error).removeprefix(f"{staged}: ")
            raise StoreDamageError(f"{place.address}/{file.path}: {told}") from error
        size = staged.status().st_size
        durable.rename(staged, store / file.path)
        return size
    finally:
        durable.unlink(staged)


def publish_locally(store: StorePath, version: int, data: bytes) -> None:
    """Give a store a version with this manifest, unless it has it.

    Raises
    ------
    SharingError
        If it has another version of this number.
    """
    target = store / layout.VERSIONS / layout.version_file(version)
    won = durable.create_whole(target, store / layout.VERSIONS / f".{layout.new_id()}", data)
    durable.sync_directory(target.parent)
    if not won and target.read_bytes() != data:
        raise SharingError(f"{store}: got another version {version} meanwhile")


def _folders(files: Sequence[Holding]) -> list[str]:
    return sorted({file.path.rpartition("/")[0] for file in files})


def _each(files: Sequence[Holding], move: Callable[[Holding], int], total: int, stage: str, progress: Progress) -> int:
    """Move files, a few at a time, and return their bytes; after the first error no other is begun."""
    moved = 0
    with ThreadPoolExecutor(AT_ONCE) as threads:
        waiting = [threads.submit(move, file) for file in files]
        try:
            for result in waiting:
                moved += result.result()
                progress(stage, moved // _MIB, max(total, moved) // _MIB)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return moved
