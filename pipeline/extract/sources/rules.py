"""Says what a source may name: protocols, how large a table may be, and the folder that its files must lie in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.extract.remote import PROTOCOLS, STALL_S
from pipeline.extract.sources.columns import Sources
from pipeline.media import is_image
from pipeline.shared.errors import SourceError
from settings.files import TEXT_BYTES


@dataclass(frozen=True, slots=True)
class Rules:
    """What a source may name; the fields are those of ``SourceConfig`` and ``MediaConfig``.

    Attributes
    ----------
    protocols
        Protocols of URIs.
    root
        Folder that every file must lie in, links resolved; None for anywhere.
    table_bytes
        Size of the largest table.
    stall_s
        Seconds that a remote filesystem may take to answer.
    """

    protocols: Sequence[str] = PROTOCOLS
    root: Path | None = None
    table_bytes: int = TEXT_BYTES
    stall_s: float = STALL_S


DEFAULT_RULES = Rules()


def outside(root: Path | None, path: str | Path, image_rate: float | None) -> str | None:
    """Return what of a local video lies outside of ``root``, links resolved: its file or one of its images, or None."""
    if root is None:
        return None
    real = os.path.realpath(root)
    files = [str(path)]
    if image_rate is not None and os.path.isdir(path):  # noqa: PTH112 (a path may be a plain string)
        files += [os.path.join(path, name) for name in sorted(os.listdir(path)) if is_image(name)]  # noqa: PTH118
    return next((file for file in files if os.path.commonpath((real, os.path.realpath(file))) != real), None)


def check_root(root: Path, items: Sources) -> None:
    """Check that every video lies in a folder.

    Raises
    ------
    SourceError
        With one line that names the first key that does not, and its file.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder (source.root)")
    for item in items:
        stray = item.uri if item.is_remote else outside(root, item.uri, item.image_rate)
        if stray is not None:
            raise SourceError(f"key {item.key!r}: {stray} lies outside of {root} (source.root)")
