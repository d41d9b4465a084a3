"""Errors that a store raises. Every message is one line that names the file and the key."""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors that this package raises."""


class StoreNotFoundError(StoreError):
    """Raised when a path holds no store, or not the version that was asked for."""


class StoreFormatError(StoreError):
    """Raised when a store was written by a newer Reelstore, or a folder is no store."""


class StoreDamageError(StoreError):
    """Raised when a published file is missing, truncated or does not match its receipt."""


class UnsupportedFilesystemError(StoreError):
    """Raised when a filesystem offers no exclusive create-by-name, so that commits could be lost."""


class InvalidKeyError(StoreError, ValueError):
    """Raised when a video key or a feature name is not acceptable."""


class MissingKeyError(StoreError, KeyError):
    """Raised when a key, feature, spec or table is not in the pinned version."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0])


class RaggedRowsError(StoreError, ValueError):
    """Raised when rows of unequal length are asked for as one array."""


class ExchangeError(StoreError):
    """Raised when somebody else's file cannot be read or written; names the file and, where there is one, the key."""
