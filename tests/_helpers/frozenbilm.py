"""The small published FrozenBiLM of ``docs/facts/frozenbilm.md`` section 12: its sizes, its weights and its inputs."""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from trainers.frozenbilm.config import FrozenBilmConfig
from trainers.frozenbilm.loading import load_checkpoint, published_names
from trainers.frozenbilm.model import FrozenBilm, build_model
from trainers.frozenbilm.prompts import NO as NO_TEXT
from trainers.frozenbilm.prompts import YES as YES_TEXT
from trainers.frozenbilm.prompts import answer_prompt, match_prompt
from trainers.frozenbilm.tower import LanguageModel, language_config

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "trainers" / "frozenbilm" / "golden.json").read_text())
WORDS, FEATURES, FRAMES, PAD, MASK, YES, NO = 40, 12, 6, 0, 3, 11, 21
IDS = torch.tensor([[1, 5, 9, 3, 22, 17, 2, 0, 0], [1, 6, 8, 12, 30, 3, 25, 14, 2]])
ALL = torch.ones(2, FRAMES, dtype=torch.bool)
SHORT = ALL & ~torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
"""The masks of frames: CRA's, and FrozenBiLM's and NG's."""
_LANGUAGE = {"width": 32, "layers": 3, "heads": 4, "inner": 64, "positions": 64, "buckets": 8}


_TRAINED = {"width": 16, "layers": 2, "heads": 2, "inner": 32, "positions": 64, "buckets": 16, "deviation": 0.25}


def config(method: str = "posthoc", recipe: str = "released", **model: Any) -> FrozenBilmConfig:
    """Return the settings of the small model; adapters are four times narrower than it."""
    chosen = {"method": method, "weights": "random:0", "language": _LANGUAGE, "reduction": 4, **model}
    return FrozenBilmConfig.model_validate({"recipe": recipe, "model": chosen})


def make(settings: FrozenBilmConfig, features: int = FEATURES) -> FrozenBilm:
    """Make the model with random weights, in evaluation mode; CRA's features have 16 numbers, as published."""
    torch.manual_seed(0)
    language = LanguageModel(language_config(settings.model, WORDS, PAD), FEATURES, settings.model)
    dictionaries = {"visual_dictionary": torch.zeros(8, features), "linguistic_dictionary": torch.zeros(8, 8, features)}
    return build_model(settings, language, MASK, features, dictionaries).eval()


def fill(name: str, shape: Iterable[int]) -> Tensor:
    """Return the tensor of a name, by the rule of section 12."""
    shape = tuple(shape)
    i = np.arange(math.prod(shape), dtype=np.int64)
    u = ((31 * i * i + 7919 * i + zlib.crc32(name.encode())) % 10007) / 5003.5 - 1
    if len(shape) <= 1:
        values = 1 + 0.1 * u if name.endswith(("weight", "gamma", "sigma")) else 0.05 * u
    else:
        values = u * math.sqrt(3 / math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def published_state(model: FrozenBilm) -> dict[str, Tensor]:
    """Return a whole published state of a model's kind."""
    own = dict(model.named_parameters())
    state = {}
    for ours, name in published_names(model).items():
        shape = own[ours].shape[::-1] if name.endswith("gcn.lin.weight") else own[ours].shape
        state[name] = fill(name, shape)
    words = state["deberta.embeddings.word_embeddings.weight"]
    state["answer_embeddings.weight"] = words[[YES, NO]].clone()
    state["deberta.embeddings.position_ids"] = torch.arange(64)[None]
    state["lm_predictions.lm_head.decoder.weight"] = words
    state["lm_predictions.lm_head.decoder.bias"] = state["lm_predictions.lm_head.bias"]
    return state


def dead_parameters(width: int, features: int, clusters: int) -> dict[str, Tensor]:
    """Return the parameters of published CRA that nothing reads, by name."""
    c, h = features, width
    shapes: dict[str, tuple[int, ...]] = {
        "node": (clusters, 8, c),
        "norm.weight": (h,),
        "norm.bias": (h,),
        "gcn.bias": (c // 8,),
        "gcn.lin.weight": (c // 8, c),
        "do.q.weight": (c, h),
        "do.q.bias": (c,),
        "do.k.weight": (c, c),
        "do.k.bias": (c,),
        "do.v.weight": (h, c),
        "do.v.bias": (h,),
    }
    named = {f"do._lin_do.{name}": shape for name, shape in shapes.items()}
    named |= {f"do.lin_norm.{name}": (h,) for name in ("weight", "bias")}
    return {name: fill(name, shape) for name, shape in named.items()}


def save(state: dict[str, Tensor], path: Path) -> Path:
    """Save a state as the published trainer does."""
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-5)}, path)
    return path


def published(path: Path, method: str = "posthoc", recipe: str = "released", **model: Any) -> FrozenBilm:
    """Make the small model with the published weights, loaded from a file below ``path``."""
    made = make(config(method, recipe, **model), 16 if method == "cra" else FEATURES)
    load_checkpoint(made, save(published_state(made), path / f"{method}.pth"))
    return made


def video() -> Tensor:
    """Return the frames ``[2, 6, 12]``."""
    i = np.arange(2 * FRAMES * FEATURES, dtype=np.int64)
    values = ((17 * i * i + 104729 * i + 7) % 9973) / 4986.5 - 1
    return torch.from_numpy(values.astype(np.float32)).reshape(2, FRAMES, FEATURES)


def language_folder(folder: Path, texts: Iterable[str]) -> Path:
    """Save a small language model with random weights as Microsoft published theirs, with a tokeniser of ``texts``."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    prompts = [answer_prompt("", ""), match_prompt(""), YES_TEXT, NO_TEXT]
    words = sorted({word for text in (*texts, *prompts) for word in text.replace("[MASK]", "").split()})
    letters = sorted({letter for word in words for letter in (*word, *word.capitalize())} | {"▁"})
    pieces = [*((token, 0.0) for token in special), *((f"▁{word}", -2.0) for word in words)]
    pieces += [(letter, -8.0) for letter in letters]
    transformers.DebertaV2Tokenizer(vocab=pieces, unk_id=3).save_pretrained(folder)
    chosen = config().model
    described = language_config(chosen, len(pieces), 0)
    (folder / "config.json").write_text(json.dumps(described.to_dict()))
    torch.manual_seed(0)
    language = LanguageModel(described, 1, chosen)
    own = {
        name: one.detach().clone()
        for name, one in language.named_parameters()
        if not any(mark in name for mark in ("adapter", "answer_", "linear_video"))
    }
    save_file(own, folder / "model.safetensors")
    return folder


def settings(recipe: str = "paper", **sections: dict[str, Any]) -> FrozenBilmConfig:
    """Return the settings of a small model with random weights that is trained whole on ``cra_worlds``."""
    raw: dict[str, Any] = {
        "recipe": recipe,
        "data": {"dataset": "toy", "tests": [], "batch": 16, "distractors": 0.0},
        "model": {"weights": "random:0", "trained": "all", "language": _TRAINED, "dropout": 0.0},
        "loop": {"epochs": 2, "lr": 3e-3, "threads": 1, "tensorboard": False, "clip_norm": 1.0, "warmup_epochs": 0.5},
    }
    for name, values in sections.items():
        raw[name] = {**raw.get(name, {}), **values}
    return FrozenBilmConfig.model_validate(raw)
