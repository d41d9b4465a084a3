"""Puts the fake torchcodec of this folder in the way of a real one, for this process and its children."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pipeline.media import device_recipe, recipe, torchcodec_backend

FOLDER = Path(__file__).parent / "fake_torchcodec"


@contextmanager
def fake_torchcodec() -> Iterator[pytest.MonkeyPatch]:
    """Within, torchcodec is the fake one; a card is pretended, but ``check_backend`` and the sizing see none."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
            patch.delitem(sys.modules, name)
        for owner, name in ((torch.cuda, "is_available"), (torch.cuda, "Stream"), (torch.cuda, "stream")):
            patch.setattr(owner, name, getattr(owner, name))  # the fake changes them: put them back at the end
        patch.setattr(torchcodec_backend, "why_no_engine", torchcodec_backend.why_no_engine)
        patch.syspath_prepend(str(FOLDER))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")])))
        _forget()
        yield patch
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
            del sys.modules[name]
    _forget()


def _forget() -> None:
    recipe.cache_clear()
    device_recipe.cache_clear()
