"""``VideoDecoder`` as far as Reelstore uses it. The name of a file says what goes wrong with it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch

CUDA_ERROR = "CUDA error: an illegal memory access was encountered"


@dataclass
class FrameBatch:
    data: torch.Tensor
    pts_seconds: torch.Tensor


class VideoDecoder:
    def __init__(
        self,
        source: str,
        *,
        stream_index: int,
        dimension_order: str,
        num_ffmpeg_threads: int,
        device: str,
        seek_mode: str,
    ) -> None:
        assert (dimension_order, num_ffmpeg_threads, seek_mode) == ("NHWC", 1, "exact")
        self._name = Path(source).stem
        self.cpu_fallback = "Video not supported" if "strange" in self._name else ""
        if "closed" in self._name:
            raise ValueError("no such codec\nand more lines")
        with av.open(source) as container:
            video = container.streams[stream_index]
            assert isinstance(video, av.VideoStream)
            frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video)]
        self._frames = frames[:-1] if "fewer" in self._name else frames

    def __len__(self) -> int:
        return len(self._frames)

    def get_frames_at(self, numbers: list[int]) -> FrameBatch:
        if "fault" in self._name:
            raise RuntimeError(CUDA_ERROR)
        if "full" in self._name:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1.00 GiB")
        if "kill" in self._name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in self._name:
            time.sleep(3600)
        shift = 1 if "late" in self._name else 0
        chosen = [self._frames[min(number + shift, len(self) - 1)] for number in numbers]
        rgb = np.stack([frame for _, frame in chosen])
        if "small" in self._name:
            rgb = rgb[:, ::2, ::2]
        times = torch.tensor([seconds for seconds, _ in chosen], dtype=torch.float64)
        return FrameBatch(torch.from_numpy(np.ascontiguousarray(rgb)), times)
