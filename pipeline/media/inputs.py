"""Gives a decoder its input: local files, or what a parent hands to a child that may open none."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

_LENGTH = struct.Struct("<Q")
_MOST_BYTES = 256 << 20  # of a request or a listing; far above any real one


class Window(io.RawIOBase):
    """Reads an open file from a position of its own, so that several may read one descriptor.

    Parameters
    ----------
    descriptor, name
        The file, and its name.
    owned
        Whether the descriptor is closed with this object.
    """

    def __init__(self, descriptor: int, name: str, owned: bool = True) -> None:
        self._descriptor, self._owned = descriptor, owned
        self._at = 0
        self.name = name

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if self._owned and not self.closed:
            os.close(self._descriptor)
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes; all that follow if it is negative."""
        if size is None or size < 0:
            size = max(0, os.fstat(self._descriptor).st_size - self._at)
        data = os.pread(self._descriptor, size, self._at)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer as far as the file goes."""
        count = os.preadv(self._descriptor, [buffer], self._at)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move the position; a place before the start is a negative number, as libav has it, and no exception."""
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence == io.SEEK_END:
            offset += os.fstat(self._descriptor).st_size
        if offset < 0:
            return -errno.EINVAL
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at


class Files(Protocol):
    """Opens the inputs of a decode."""

    def open(self, path: str) -> io.RawIOBase:
        """Open a file at its start, with a position of its own. Raises OSError."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the regular files of a folder, in no order. Raises OSError."""


class LocalFiles:
    """Opens files by their names: regular ones, without ever waiting."""

    def open(self, path: str) -> io.RawIOBase:
        """Open a file at its start."""
        _check(os.stat(path), path)  # noqa: PTH116 (a plain string)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check(os.fstat(descriptor), path)  # another file may have taken its place
        except OSError:
            os.close(descriptor)
            raise
        return Window(descriptor, path)

    def names(self, folder: str) -> list[str]:
        """Return the names of the regular files of a folder, links to such among them."""
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]


LOCAL = LocalFiles()


def _check(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


class HandedFiles:
    """What the parent hands over: the open file of a request, and the images of its folder when they are asked for.

    Parameters
    ----------
    channel
        Where the parent answers.
    ask
        Asks the parent for an image by its name, or for all names (None).
    path, descriptor
        The file of the request; without a descriptor, a folder.
    """

    def __init__(
        self, channel: socket.socket, ask: Callable[[str | None], None], path: str, descriptor: int | None
    ) -> None:
        self._channel, self._ask, self._path, self._descriptor = channel, ask, path, descriptor

    def open(self, path: str) -> io.RawIOBase:
        """Open the file of the request, or an image of its folder."""
        if path == self._path and self._descriptor is not None:
            return Window(self._descriptor, path, owned=False)
        folder, _, name = path.rpartition("/")
        if folder != self._path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        self._ask(name)
        _, descriptor = self._answer()
        if descriptor is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return Window(descriptor, path)

    def names(self, folder: str) -> list[str]:
        """Return the names of the images of the request's folder."""
        self._ask(None)
        return list(self._answer()[0]["names"])

    def _answer(self) -> tuple[dict[str, Any], int | None]:
        answered = receive_message(self._channel)
        if answered is None:
            raise BrokenPipeError(errno.EPIPE, "the parent has gone")
        fields, descriptor = answered
        if "errno" in fields:
            raise OSError(fields["errno"], fields["strerror"])
        return fields, descriptor

    def close(self) -> None:
        """Close the file of the request."""
        if self._descriptor is not None:
            os.close(self._descriptor)


def send_message(channel: socket.socket, fields: dict[str, Any], descriptor: int | None = None) -> None:
    """Send a JSON object and, with its first bytes, an open file."""
    text = json.dumps(fields).encode()
    descriptors = [] if descriptor is None else [descriptor]
    socket.send_fds(channel, [_LENGTH.pack(len(text))], descriptors)
    channel.sendall(text)


def receive_message(channel: socket.socket) -> tuple[dict[str, Any], int | None] | None:
    """Receive what ``send_message`` sent, None at the end of the channel.

    Raises
    ------
    OSError
        If it is longer than any real message.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, _LENGTH.size, 1)
    while head and len(head) < _LENGTH.size:
        more = channel.recv(_LENGTH.size - len(head))
        head = head + more if more else b""
    if not head:
        return None
    length = _LENGTH.unpack(head)[0]
    if length > _MOST_BYTES:
        raise OSError(errno.EMSGSIZE, f"a message of {length} bytes")
    parts, missing = [], length
    while missing:
        part = channel.recv(min(missing, 1 << 20))
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return json.loads(b"".join(parts)), descriptors[0] if descriptors else None


def answer(channel: socket.socket, folder: str, name: str | None) -> None:
    """Answer a child that asks for the names of the files of a folder (None), or for one of these files."""
    try:
        names = LOCAL.names(folder)
        if name is None:
            send_message(channel, {"names": names})
        elif name in names:
            with LOCAL.open(str(Path(folder) / name)) as file:
                send_message(channel, {}, file.fileno())
        else:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    except BrokenPipeError:
        raise
    except OSError as error:
        send_message(channel, {"errno": error.errno or errno.EIO, "strerror": error.strerror or str(error)})
