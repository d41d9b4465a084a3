"""Paths that cannot leave the store: the one way from a name in a store to a file on the disk.

A store may come from a stranger. Its manifests name files, and its folders hold whatever was put there. So a name is
never joined to a path as it is: ``StorePath`` refuses every name that is not plainly below the store, and opens one
directory after the other, each relative to the one before and none through a link. What is asked about a file and what
is opened is then the same file, whatever is renamed in the meantime. The store itself may lie behind links; no part of
it may be one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

from ..errors import StoreDamageError

LARGEST_TEXT = 256 << 20
"""A file that is read whole (a manifest, spec, receipt, lease or card) may have this many bytes."""
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # opening a pipe must not wait for its other end


@dataclass(frozen=True, slots=True, order=True)
class StorePath:
    """A store, or something in it.

    Attributes
    ----------
    root
        The store's own directory, absolute. Links on the way to it are followed.
    names
        The names below it.
    """

    root: Path
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, store: Path | StorePath) -> StorePath:
        """Return the path of a store."""
        return store if isinstance(store, StorePath) else cls(store.absolute())

    def __truediv__(self, relative: str) -> StorePath:
        """Return what lies below, by names between slashes.

        Raises
        ------
        StoreDamageError
            If a name is empty, ``.`` or ``..``, or holds a NUL.
        """
        names = relative.split("/")
        if any(name in ("", ".", "..") or "\0" in name for name in names):
            raise StoreDamageError(f"{self}: {relative[:200]!r} does not name a file of a store")
        return StorePath(self.root, (*self.names, *names))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """The path for messages, and for who opens nothing."""
        return self.root.joinpath(*self.names)

    @property
    def relative(self) -> str:
        """The path below the store, with slashes, as manifests name it."""
        return "/".join(self.names)

    @property
    def name(self) -> str:
        """The last name."""
        return self.names[-1] if self.names else self.root.name

    @property
    def stem(self) -> str:
        """The last name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of the last name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> StorePath:
        """The directory in which it lies; the store for the store itself."""
        return StorePath(self.root, self.names[:-1])

    def with_suffix(self, suffix: str) -> StorePath:
        """Return the file beside this one with another suffix."""
        return StorePath(self.root, (*self.names[:-1], str(PurePosixPath(self.name).with_suffix(suffix))))

    @contextmanager
    def descriptor_of_parent(self) -> Iterator[int]:
        """Open the directory in which it lies, and yield its descriptor.

        Raises
        ------
        StoreDamageError
            If a directory on the way is a link.
        OSError
            If a directory on the way cannot be opened.
        """
        descriptor = os.open(self.root, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            for depth, name in enumerate(self.names[:-1]):
                inner = _open(name, _DIRECTORY, descriptor, StorePath(self.root, self.names[: depth + 1]))
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def open_directory(self) -> int:
        """Open it as a directory and return a descriptor that can be listed and synced. Raises as ``open`` does."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if not self.names:
            return os.open(self.root, flags)
        with self.descriptor_of_parent() as parent:
            return _open(self.name, flags | os.O_NOFOLLOW, parent, self)

    def open(self, flags: int = os.O_RDONLY) -> int:
        """Open it as a regular file and return the descriptor.

        Raises
        ------
        StoreDamageError
            If it, or a directory on the way to it, is a link; if it is no regular file.
        OSError
            As ``os.open``.
        """
        with self.descriptor_of_parent() as parent:
            descriptor = _open(self.name, flags | _FILE, parent, self)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StoreDamageError(f"{self}: not a regular file")
        return descriptor

    @contextmanager
    def opened(self) -> Iterator[BufferedReader]:
        """Open it for reading, and yield the file. Raises as ``open`` does."""
        with os.fdopen(self.open(), "rb") as file:
            yield file

    @contextmanager
    def by_descriptor(self) -> Iterator[str]:
        """Open it, and yield a path that leads to the open file, for a library that opens files itself."""
        descriptor = self.open()
        try:
            yield f"/dev/fd/{descriptor}"
        finally:
            os.close(descriptor)

    def read_bytes(self, limit: int = LARGEST_TEXT) -> bytes:
        """Return its content.

        Raises
        ------
        StoreDamageError
            As ``open``, and if it is larger than ``limit`` bytes.
        OSError
            If it cannot be read.
        """
        with self.opened() as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise StoreDamageError(f"{self}: larger than {limit >> 20} MiB, which no such file of a store is")
        return data

    def status(self) -> os.stat_result:
        """Return the status of itself, also of a link.

        Raises
        ------
        StoreDamageError
            If a directory on the way is a link.
        OSError
            If it is not there.
        """
        if not self.names:
            return self.root.stat()
        with self.descriptor_of_parent() as parent:
            return os.stat(self.name, dir_fd=parent, follow_symlinks=False)

    def is_file(self) -> bool:
        """Return whether it is a regular file. Raises ``StoreDamageError`` as ``status`` does."""
        return self._is(stat.S_ISREG)

    def is_directory(self) -> bool:
        """Return whether it is a directory. Raises ``StoreDamageError`` as ``status`` does."""
        return self._is(stat.S_ISDIR)

    def exists(self) -> bool:
        """Return whether there is anything of this name. Raises ``StoreDamageError`` as ``status`` does."""
        return self._is(lambda mode: True)

    def _is(self, kind: Callable[[int], bool]) -> bool:
        try:
            return kind(self.status().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def listing(self) -> list[str]:
        """Return the names that a directory holds, sorted; none if it is not there.

        Raises
        ------
        StoreDamageError
            If it, or a directory on the way to it, is a link.
        OSError
            If it is no directory, or cannot be read.
        """
        return self._names(lambda entry: True)

    def entries(self) -> list[StorePath]:
        """Return what a directory holds, sorted by name. Raises as ``listing`` does."""
        return self._below(self.listing())

    def files(self, suffix: str = "") -> list[StorePath]:
        """Return the regular files of a directory whose names end so, sorted. Raises as ``listing`` does."""
        return self._below(
            self._names(lambda entry: entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False))
        )

    def directories(self) -> list[StorePath]:
        """Return the directories in a directory, sorted, without links to some. Raises as ``listing`` does."""
        return self._below(self._names(lambda entry: entry.is_dir(follow_symlinks=False)))

    def _below(self, names: list[str]) -> list[StorePath]:
        return [StorePath(self.root, (*self.names, name)) for name in names]

    def _names(self, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        try:
            descriptor = self.open_directory()
        except FileNotFoundError:
            return []
        try:
            with os.scandir(descriptor) as entries:
                return sorted(entry.name for entry in entries if wanted(entry))
        finally:
            os.close(descriptor)


Root = Path | StorePath
"""A store, as its callers name it or as its own modules do."""


def _open(name: str, flags: int, parent: int, path: StorePath) -> int:
    """Open a name in a directory, created with the usual mode if the flags ask for that; say it clearly of a link."""
    try:
        return os.open(name, flags, 0o666, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and _is_link(name, parent):
            raise StoreDamageError(f"{path}: a symbolic link; no part of a store may be one") from error
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a pipe or device without its other end
            raise StoreDamageError(f"{path}: not a regular file") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def _is_link(name: str, parent: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False
