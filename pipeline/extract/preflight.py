"""Checks what an extraction needs before it starts: its decoding backend, and room on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.extract.plan import Plan
from pipeline.shared import PreflightError

_MARGIN_BYTES = 64 << 20  # for the index, the manifest and the shard that is being written


def check_backend(backend: str, executor: str) -> None:
    """Check that this machine can run a decoding backend that needs torch.

    Raises
    ------
    PreflightError
        If it cannot, or if Ray's decode workers, which hold no GPU, should decode on one.
    """
    if backend not in ("torchcodec", "nvdec"):
        return
    if backend == "nvdec" and executor == "ray":
        raise PreflightError("media.backend=nvdec: Ray's decode workers hold no GPU; use --executor local")
    from pipeline.media.torchcodec_backend import why_unavailable

    reason = why_unavailable(backend)
    if reason is not None:
        raise PreflightError(f"media.backend={backend}: {reason}")


def check_space(store: Path, plan: Plan) -> None:
    """Check that the free disk space holds what the plan writes.

    Raises
    ------
    PreflightError
        If it does not.
    """
    free = shutil.disk_usage(store).free
    # Values lie both in the spool and in the shard until the shard is published.
    need = plan.bytes_to_write + min(plan.bytes_to_write, _MARGIN_BYTES) + (_MARGIN_BYTES if plan.units else 0)
    if free < need:
        raise PreflightError(
            f"{store}: {free / 1e9:.2f} GB free, this run writes about {need / 1e9:.2f} GB; "
            "free space, or take fewer videos with --limit"
        )
