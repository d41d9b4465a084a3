"""Features that are read once, before the first step, and then kept in memory or on the GPU."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch

from stores.loading import QuestionDataset, VideoDataset
from trainers.errors import TrainingError

Where = Literal["none", "ram", "gpu"]


def keep(datasets: Collection[QuestionDataset | VideoDataset], where: Where, device: torch.device) -> None:
    """Read the features of all datasets, and keep them where ``data.preload`` says; this changes no batch.

    Parameters
    ----------
    datasets
        The datasets of all splits of a run.
    where
        ``ram``, ``gpu``, or ``none`` to read each batch from the files of the store.
    device
        Where the run trains.

    Raises
    ------
    TrainingError
        If ``gpu`` is asked for, and the run trains on the CPU or the features do not fit on its GPU.
    """
    if where == "none":
        return
    if where == "gpu":
        if device.type != "cuda":
            raise TrainingError(f"data.preload=gpu: this run trains on {device.type}; use data.preload=ram or none")
        needed = sum(dataset.table.resident_bytes for dataset in datasets)
        free, _ = torch.cuda.mem_get_info(device)
        if needed > free:
            raise TrainingError(
                f"data.preload=gpu: the features need {_gigabytes(needed)}, and {_gigabytes(free)} of {device} are "
                "free; use data.preload=ram or none"
            )
    for dataset in datasets:
        dataset.table.keep(str(device) if where == "gpu" else "cpu")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
