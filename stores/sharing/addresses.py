"""Which place an address names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import SharingError
from ..wording import one_line, without_credentials
from .hub import HubPlace
from .places import FolderPlace, Place, RemotePlace, reason_of

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://")
_EXCLUSIVE = {"s3", "s3a", "gs", "gcs"}
"""Protocols of fsspec whose ``pipe_file(mode="create")`` creates an object only if there is none."""


def is_address(text: object) -> bool:
    """Return whether this is the address of a place, rather than the path of a store."""
    return isinstance(text, str) and _SCHEME.match(text) is not None


def open_place(address: str) -> Place:
    """Return the place at an address: a folder (a path, or ``file://``), or what fsspec reaches (``s3://``, ``hf://``).

    Raises
    ------
    SharingError
        If no filesystem is known for the address, or its package is not installed.
    """
    scheme = _SCHEME.match(address)
    if scheme is None:
        return FolderPlace(Path(address))
    protocol = scheme[1].lower()
    shown = without_credentials(address)
    if "::" in address:
        raise SharingError(f"{shown}: chained addresses are not places; name the bucket or folder itself")
    if protocol in ("file", "local"):
        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost"):
            raise SharingError(f"{shown}: a file:// address has three slashes before its path")
        return FolderPlace(Path(unquote(parts.path)))
    filesystem, base = _filesystem(address, shown, protocol)
    if protocol == "hf":
        return HubPlace(filesystem, base, address)
    return RemotePlace(filesystem, base, address, protocol in _EXCLUSIVE)


def _filesystem(address: str, shown: str, protocol: str) -> tuple[Any, str]:
    """Return the filesystem of an address, and the address as it names it."""
    try:
        import fsspec
    except ImportError as error:
        raise SharingError(f"{shown}: needs a package that is not installed: pip install 'reelstore[share]'") from error
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise SharingError(f"{shown}: no filesystem is known for {protocol}://") from error
    except ImportError as error:
        missing = getattr(error.__cause__ or error, "name", None) or one_line(error)
        package = missing.partition(".")[0].replace("_", "-")
        raise SharingError(
            f"{shown}: {protocol}:// needs a package that is not installed: pip install {package}"
        ) from error
    try:
        filesystem, base = fsspec.core.url_to_fs(address, skip_instance_cache=True, use_listings_cache=False)
    except Exception as error:
        raise SharingError(f"{shown}: {reason_of(error)}") from error
    if not base.strip("/"):
        raise SharingError(f"{shown}: names no bucket or folder")
    return filesystem, base
