"""A torchcodec that decodes with PyAV, on a card that is not there; ``tests._helpers.fakes`` puts it in the way."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

import pipeline.media.torchcodec_backend

ffmpeg_major_version = 8


class _Stream:
    def __init__(self, device: str) -> None:
        self.device = device

    def synchronize(self) -> None:
        pass


def _within(stream: _Stream) -> Any:
    return contextlib.nullcontext()


# What a process without a card lacks on the way to its decoder.
torch.cuda.is_available = lambda: True
torch.cuda.Stream = _Stream
torch.cuda.stream = _within
pipeline.media.torchcodec_backend.why_no_engine = lambda: None
