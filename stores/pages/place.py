"""Where pages go, and how the new ones take the place of the old ones without destroying anything else."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from ..errors import StoreError
from ..format import layout

FRONT = "index.html"
"""Name of the first page, unless another one is asked for."""
MARKER = ".reelstore-pages"
"""File that says that a folder holds pages and nothing else, so that it may be replaced."""
_LEFT_FOR_S = 86_400


@dataclass(frozen=True, slots=True)
class Place:
    """Where pages go: the first page, and the folder of all others."""

    front: Path
    folder: Path

    @classmethod
    def of(cls, out: Path) -> Self:
        """Return the place that a path means: a file that ends in ``.html``, with its folder beside it, or a folder."""
        if out.name in ("", ".."):
            out = Path(os.path.abspath(out))  # noqa: PTH100 (a link on the way stays one)
        if out.suffix.lower() in (".html", ".htm"):
            return cls(out, out.with_suffix(""))
        return cls(out / FRONT, out)

    @property
    def to_folder(self) -> str:
        """The beginning of a link from the first page to another one."""
        return "" if self.front.parent == self.folder else quote(f"{self.folder.name}/")

    @property
    def to_front(self) -> str:
        """The link from another page to the first one."""
        return quote(self.front.name) if self.front.parent == self.folder else quote(f"../{self.front.name}")

    @contextmanager
    def replaced(self) -> Iterator[Callable[[str, bytes], None]]:
        """Yield a function that writes a file by its name; at the end, all files take the place of the old ones.

        The first page is called ``index.html`` here. If anything is raised, the old pages stay.

        Raises
        ------
        StoreError
            If the folder holds something else than pages.
        OSError
            If the files cannot be written.
        """
        _check_replaceable(self.folder)
        _sweep(self.folder)
        fresh = self.folder.with_name(f".{self.folder.name}.{layout.new_id()[:8]}")
        beside = self.front.with_name(f".{self.front.name}.{layout.new_id()[:8]}")
        fresh.mkdir()
        inside = self.front.parent == self.folder
        first = fresh / self.front.name if inside else beside
        try:
            (fresh / MARKER).touch()

            def write(name: str, data: bytes) -> None:
                (first if name == FRONT else fresh / name).write_bytes(data)

            yield write
            _replace(self.folder, fresh)
            if not inside:
                beside.replace(self.front)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            beside.unlink(missing_ok=True)
            raise


def _check_replaceable(folder: Path) -> None:
    """Refuse a folder that pages would destroy."""
    if folder.is_symlink() or not folder.is_dir():
        if folder.is_symlink() or folder.exists():
            raise StoreError(f"{folder}: not a folder; name another place for the pages")
        return
    if not (folder / MARKER).exists() and any(folder.iterdir()):
        raise StoreError(f"{folder}: holds something else than pages of a store; name another folder")


def _sweep(folder: Path) -> None:
    """Remove what a run that was killed left beside the folder, if it is a day old."""
    if not folder.parent.is_dir():
        return
    for name in sorted(os.listdir(folder.parent)):
        marker = folder.with_name(name) / MARKER
        left = name.startswith(f".{folder.name}.") and not marker.parent.is_symlink() and marker.is_file()
        if left and marker.stat().st_mtime < time.time() - _LEFT_FOR_S:
            shutil.rmtree(marker.parent, ignore_errors=True)


def _replace(folder: Path, fresh: Path) -> None:
    """Put a folder in the place of another one."""
    old = folder.with_name(f"{fresh.name}.old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
