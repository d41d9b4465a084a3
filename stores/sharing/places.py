"""Where stores are shared: a folder, a bucket, a repository of a hub.

A place holds the files of a store under the names that they have in it, and two verbs suffice to publish there: replace
a file, and create one unless it exists. A place that cannot do the second (``exclusive`` is False) can be read only:
two who publish at the same time could lose a version.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import SharingError, StoreError
from ..format import StorePath, durable, layout
from ..format.inside import LARGEST_TEXT
from ..wording import one_line, without_credentials

CHUNK = 4 << 20


class Place(ABC):
    """Files by name below one address.

    Attributes
    ----------
    address
        The address, without credentials.
    exclusive
        Whether a file can be created only if there is none.
    """

    address: str
    exclusive: bool = True

    @abstractmethod
    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size of every file below a folder, by its name below the place.

        Raises
        ------
        SharingError
            If the place cannot be asked.
        """

    @abstractmethod
    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        SharingError
            If it cannot be read.
        """

    @abstractmethod
    def send(self, name: str, source: StorePath) -> None:
        """Store a local file. Whoever lists the place meanwhile sees nothing of it, or all. Raises SharingError."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Give a file this content. Raises SharingError."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Create a file unless there is one, and return whether this call did. Raises SharingError."""

    def finish(self) -> None:  # noqa: B027 (most places have nothing to do)
        """Make visible whatever was sent and is not yet. Raises SharingError."""

    def read(self, name: str, limit: int = LARGEST_TEXT) -> bytes:
        """Return the content of a file of at most ``limit`` bytes.

        Raises
        ------
        FileNotFoundError
            If there is none.
        SharingError
            If it cannot be read, or is larger.
        """
        return b"".join(self.bounded(name, limit))

    def bounded(self, name: str, limit: int) -> Iterator[bytes]:
        """Yield the content of a file of at most ``limit`` bytes. Raises as ``read`` does."""
        size = 0
        for chunk in self.chunks(name):
            size += len(chunk)
            if size > limit:
                raise SharingError(f"{self.address}/{name}: more than the {limit} bytes that it may have")
            yield chunk


class FolderPlace(Place):
    """A folder of this machine, or one that is mounted on it. What lies there can be opened as a store."""

    def __init__(self, folder: Path) -> None:
        self._root = StorePath.of(folder)
        self.address = str(folder)

    def sizes(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        waiting = [self._root / folder]
        while waiting:
            here = waiting.pop()
            waiting += here.directories()
            found.update((path.relative, path.status().st_size) for path in here.files())
        return found

    def chunks(self, name: str) -> Iterator[bytes]:
        with (self._root / name).opened() as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def send(self, name: str, source: StorePath) -> None:
        staged = self._staged(name)
        with source.opened() as file:
            durable.write_stream(staged, iter(lambda: file.read(CHUNK), b""))
        self._name(staged, name)

    def put(self, name: str, data: bytes) -> None:
        staged = self._staged(name)
        durable.write_new(staged, data)
        self._name(staged, name)

    def create(self, name: str, data: bytes) -> bool:
        staged = self._staged(name)
        target = self._root / name
        if target.exists():
            return False
        won = durable.create_whole(target, staged, data)
        durable.sync_directory(target.parent)
        return won

    def _staged(self, name: str) -> StorePath:
        """Return the path of a new file, after the folders of it and of ``name`` were made."""
        for folder in (self._root, self._root / layout.STAGING, *_folders(self._root, name)):
            durable.make_directory(folder)
        return self._root / layout.STAGING / layout.new_id()

    def _name(self, staged: StorePath, name: str) -> None:
        durable.rename(staged, self._root / name)
        durable.sync_directory((self._root / name).parent)


def _folders(root: StorePath, name: str) -> list[StorePath]:
    """Return the folders on the way to a file, outermost first."""
    names = name.split("/")[:-1]
    return [root / "/".join(names[: depth + 1]) for depth in range(len(names))]


class RemotePlace(Place):
    """A place that fsspec reaches.

    Parameters
    ----------
    filesystem
        The filesystem of fsspec, without caches of listings.
    base
        The place's folder, as the filesystem names it.
    address
        How the user names it.
    exclusive
        Whether the filesystem creates a file only if there is none, on ``mode="create"``.
    """

    def __init__(self, filesystem: Any, base: str, address: str, exclusive: bool) -> None:
        self._files = filesystem
        self._base = base.rstrip("/")
        self.address = without_credentials(address).rstrip("/")
        self.exclusive = exclusive

    def sizes(self, folder: str) -> dict[str, int]:
        with self._asked(folder):
            try:
                found = self._files.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self._base) + 1
        return {name[start:]: int(record.get("size") or 0) for name, record in found.items() if len(name) > start}

    def chunks(self, name: str) -> Iterator[bytes]:
        with self._asked(name, reads=True), self._files.open(self._path(name), "rb", block_size=CHUNK) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def send(self, name: str, source: StorePath) -> None:
        with self._asked(name), source.by_descriptor() as path:
            self._files.put_file(path, self._path(name))

    def put(self, name: str, data: bytes) -> None:
        with self._asked(name):
            self._files.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        with self._asked(name):
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
        return True

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    @contextmanager
    def _asked(self, name: str, reads: bool = False) -> Iterator[None]:
        """Say in one line what the filesystem says, whichever library it is; if this reads, let a missing file be."""
        try:
            yield
        except StoreError:
            raise
        except FileNotFoundError as error:
            if reads:
                raise
            raise SharingError(f"{self.address}/{name}: {reason_of(error)}") from error
        except Exception as error:
            raise SharingError(f"{self.address}/{name}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return what an error of a library says, as one line that holds no credentials."""
    return without_credentials(one_line(error) or type(error).__name__)
