"""Errors that this package raises. Every message is one line that names the file and, if there is one, the key."""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors that this package raises."""


class StoreNotFoundError(StoreError):
    """Raised when there is no store at a path, or not the requested version of it."""


class StoreFormatError(StoreError):
    """Raised when a directory is not a store, or was written by a newer Reelstore."""


class StoreDamageError(StoreError):
    """Raised when a published file is missing, truncated or does not match its receipt."""


class UnsupportedFilesystemError(StoreError):
    """Raised when a filesystem cannot create a name exclusively, so that commits could be lost."""


class InvalidKeyError(StoreError, ValueError):
    """Raised when a video key, or the name of a feature or table, is not acceptable."""


class MissingKeyError(StoreError, KeyError):
    """Raised when a key, feature, spec, step, table or part is not in the pinned version."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0])


class RaggedRowsError(StoreError, ValueError):
    """Raised when rows of unequal shape are requested as one array."""


class ExchangeError(StoreError):
    """Raised when feature files of another tool cannot be read or written."""


class SharingError(StoreError):
    """Raised when a store cannot be sent to a place or fetched from it, or versions there and here have parted."""
