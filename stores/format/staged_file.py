"""The file that HDF5 writes a shard to."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType


class StagedFile:
    """A new file that never tells HDF5 of an error; :meth:`close` does, to us.

    HDF5 takes the process down (a segmentation fault in its exit handler) when it cannot flush what
    it holds, as on a full disk. So errors are kept, HDF5 finishes in peace, and the file is thrown away.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
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
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: memoryview) -> int:
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
        data = bytearray(size)
        self.readinto(memoryview(data))
        return bytes(data)

    def readinto(self, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._descriptor, len(view), self._position)
        view[:] = data + bytes(len(view) - len(data))
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        try:
            if self._error is None:
                os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self._error = error
        return self._size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Close the file and raise the first error that there was."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._error is not None:
            raise self._error
