"""What the tests on a GPU share. Everything here is collected without one, and without Ray and Stanza."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The GPU. The test skips, by name, without one."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if "CUDA_VISIBLE_DEVICES" not in os.environ:  # where the driver's folder is hidden, it tells that there is one
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    return torch.device("cuda")
