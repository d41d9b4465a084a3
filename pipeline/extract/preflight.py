"""Checks of one extraction before it starts: its decoding backend, and room on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.extract.plan import Plan
from pipeline.shared import PreflightError

_MARGIN_BYTES = 64 << 20


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
