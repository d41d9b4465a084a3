"""Checks what every stage needs before it starts: what would fail after an hour should fail in the first second."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pipeline.shared.errors import PreflightError
from pipeline.shared.results import ExecutorName
from settings.ray_address import check_ray_address


def in_ray_job() -> bool:
    """Return whether this process is the driver of a submitted Ray job (it then runs in an uploaded copy)."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def chosen_executor(asked: ExecutorName) -> Literal["local", "ray"]:
    """Return the executor of a run; if that is Ray, see that the cluster which ``RAY_ADDRESS`` names answers.

    Raises
    ------
    SettingsError
        If it does not.
    """
    name: Literal["local", "ray"] = ("ray" if in_ray_job() else "local") if asked == "auto" else asked
    if name == "ray":
        check_ray_address()
    return name


def check_locations(source: str, store: str, what: str = "SOURCE") -> None:
    """Refuse stores that are not on a filesystem, and relative paths in a submitted job.

    Raises
    ------
    PreflightError
        With the absolute form to use instead.
    """
    if "://" in store:
        raise PreflightError(
            f"--store {store}: a store lives on a filesystem, not in an object store; name a directory"
        )
    if "\0" in store:
        raise PreflightError(f"--store {store!r}: holds a NUL byte; name a directory")
    check_absolute(what, source)
    check_absolute("--store", store)


def check_absolute(what: str, path: str) -> None:
    """Refuse a relative path in a submitted job.

    Raises
    ------
    PreflightError
        With the absolute form to use instead.
    """
    if in_ray_job() and "://" not in path and not Path(path).is_absolute():
        raise PreflightError(
            f"{what} {path}: the path is relative, but a submitted job runs in an uploaded copy; write "
            f'"$(realpath {path})" (an absolute path)'
        )


def check_writable(store: Path) -> None:
    """Check that this user may write in the store directory.

    Raises
    ------
    PreflightError
        If not.
    """
    if store.is_symlink() and not store.exists():
        raise PreflightError(f"{store}: is a link to {store.readlink()}, which does not exist; name another store")
    parent = store
    while not parent.exists():
        parent = parent.parent
    place = "it" if parent == store else str(parent)
    if not parent.is_dir():
        raise PreflightError(f"{store}: {place} is not a directory; name another store")
    if os.statvfs(parent).f_flag & os.ST_RDONLY:
        raise PreflightError(f"{store}: {place} is on a read-only filesystem; remount it or name another directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PreflightError(
            f"{store}: no permission to write in {place}; change its permissions or name another directory"
        )
