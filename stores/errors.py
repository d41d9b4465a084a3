"""Errors that a store raises. Every message is one line that names the file and the key."""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors raised by :mod:`stores`."""


class StoreNotFoundError(StoreError):
    """The path holds no store, or no such version of it."""


class StoreFormatError(StoreError):
    """The store was written by a newer Reelstore, or is not a store of ours."""


class StoreDamageError(StoreError):
    """A published file is missing, truncated or does not match its receipt."""


class UnsupportedFilesystemError(StoreError):
    """The filesystem offers no exclusive create-by-name, so commits could be lost."""


class InvalidKeyError(StoreError, ValueError):
    """A video key or a feature name is not acceptable."""


class MissingKeyError(StoreError, KeyError):
    """A key, feature, spec or table is not in the pinned version."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0])


class RaggedRowsError(StoreError, ValueError):
    """Rows of unequal length were asked for as one array."""
