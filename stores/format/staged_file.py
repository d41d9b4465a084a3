"""The file object through which HDF5 writes a shard."""

from __future__ import annotations

import os
from types import TracebackType


class StagedFile:
    """A new file that hides write errors from HDF5; ``close`` raises them instead.

    If HDF5 cannot flush its buffers, as on a full disk, it takes the whole process down (a segmentation fault in its
    exit handler). So the first error is kept, HDF5 finishes as if nothing had happened, and the caller discards the
    file when ``close`` raises.

    Parameters
    ----------
    descriptor
        Of the new file, open for reading and writing; ``close`` closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self._size = 0
        self._error: OSError | None = None

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, as ``io.IOBase.seek``."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def write(self, data: memoryview) -> int:
        """Write at the position; after an earlier error, only pretend to."""
        view = memoryview(data).cast("B")
        end = self._position + len(view)
        try:
            rest = view
            while rest and self._error is None:
                rest = rest[os.pwrite(self._descriptor, rest, end - len(rest)) :]
        except OSError as error:
            self._error = error
        self._position = end
        self._size = max(self._size, end)
        return len(view)

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes from the position on, zeros beyond the end."""
        data = bytearray(size)
        self.readinto(memoryview(data))
        return bytes(data)

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from the position on, with zeros beyond the end."""
        view = memoryview(buffer).cast("B")
        data = os.pread(self._descriptor, len(view), self._position)
        view[:] = data + bytes(len(view) - len(data))
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file, by default to the position."""
        self._size = self._position if size is None else size
        try:
            if self._error is None:
                os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self._error = error
        return self._size

    def flush(self) -> None:
        """Do nothing: every write has already gone to the operating system."""

    def close(self) -> None:
        """Close the file and raise the first error, if there was one."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._error is not None:
            raise self._error
