"""Checks before a run: what would fail after an hour should fail in the first second."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.errors import PreflightError
from pipeline.plan import Plan

_MARGIN_BYTES = 64 << 20


def in_ray_job() -> bool:
    """Whether this process is the driver of a submitted Ray job (it then runs in an uploaded copy)."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


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
            f"{what} {path}: relative, but a submitted job runs in an uploaded copy; write "
            f'"$(realpath {path})" (an absolute path)'
        )


def check_backend(backend: str, executor: str) -> None:
    """The machine must be able to run an opt-in decoding backend that needs torch.

    Raises
    ------
    PreflightError
        If it is not, or if GPU decoding is asked of Ray's decode workers, which hold no GPU.
    """
    if backend not in ("torchcodec", "nvdec"):
        return
    if backend == "nvdec" and executor == "ray":
        raise PreflightError("media.backend=nvdec: Ray's decode workers hold no GPU; use --executor local")
    from pipeline.media.torchcodec_backend import unavailable

    missing = unavailable(backend)
    if missing is not None:
        raise PreflightError(f"media.backend={backend}: {missing}")


def check_space(store: Path, plan: Plan) -> None:
    """Free disk must hold what the plan writes.

    Raises
    ------
    PreflightError
        If it does not.
    """
    free = shutil.disk_usage(store).free
    # values lie in the spool and in the shard until the shard is published
    need = plan.bytes_to_write + min(plan.bytes_to_write, _MARGIN_BYTES) + (_MARGIN_BYTES if plan.units else 0)
    if free < need:
        raise PreflightError(
            f"{store}: {free / 1e9:.2f} GB free, this run writes about {need / 1e9:.2f} GB; "
            "free space, or take fewer videos with --limit"
        )


def check_writable(store: Path) -> None:
    """The store directory must accept files from this user.

    Raises
    ------
    PreflightError
        If it does not.
    """
    parent = store
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise PreflightError(f"{store}: {parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PreflightError(f"{store}: no right to write in {parent}")
