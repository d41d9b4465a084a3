"""Checks what an extraction needs before it starts: its decoding backend, its weights, and room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from extractors import ExtractorError
from pipeline.extract.features import Feature
from pipeline.extract.plan import Plan
from pipeline.media.torchcodec_backend import why_no_engine, why_unavailable
from pipeline.shared import MachineConfig, PreflightError, sizing

_MARGIN_BYTES = 64 << 20  # for the index, the manifest and the shard that is being written


def check_backend(backend: str, executor: str, machine: MachineConfig) -> None:
    """Check that a decoding backend which needs torch or a GPU can run.

    What only a worker can see on Ray is checked there, when it loads its models.

    Raises
    ------
    PreflightError
        If it cannot.
    """
    reason = None
    if backend == "torchcodec":
        reason = why_unavailable("torchcodec")
    elif backend == "nvdec" and (machine.device == "cpu" or machine.gpus == 0):
        reason = "it decodes on the GPU of the models, which are to run on the CPU (run.device, run.gpus)"
    elif backend == "nvdec" and executor != "ray":
        reason = why_no_engine() if sizing.visible_gpus() else "no GPU is visible"
    if reason is not None:
        raise PreflightError(f"media.backend={backend}: {reason}")


def check_weights(features: Iterable[Feature]) -> None:
    """Check that local weights files fit, as far as extractors can tell without loading them.

    Raises
    ------
    PreflightError
        If one does not.
    """
    for feature in features:
        try:
            feature.extractor.check_weights()
        except ExtractorError as error:
            raise PreflightError(f"features.{feature.name}: {error}") from error


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
