"""Published files: the language model of Microsoft, and checkpoints of FrozenBiLM, FrozenGQA and CRA.

``docs/facts/frozenbilm.md`` section 13 lists their keys. A file either has exactly the keys of one of the layouts that
belong to the model, or it is refused with the difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from settings.files import check_regular, open_regular, read_text
from settings.messages import first_few, one_line, why_not_loaded
from trainers.checkpoint import UNREADABLE
from trainers.errors import TrainingError
from trainers.frozenbilm.config import FrozenBilmConfig, ModelConfig
from trainers.frozenbilm.grounding import CraTop, GaussianTop
from trainers.frozenbilm.model import FrozenBilm
from trainers.frozenbilm.prompts import Tokeniser, load_tokeniser
from trainers.frozenbilm.tower import LanguageModel, deberta

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

_NEEDED = {
    "model_type": "deberta-v2",
    "relative_attention": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
    "hidden_act": "gelu",
}
_POSITION_IDS = "deberta.embeddings.position_ids"
_TWINS = {
    "lm_predictions.lm_head.decoder.weight": "deberta.embeddings.word_embeddings.weight",
    "lm_predictions.lm_head.decoder.bias": "lm_predictions.lm_head.bias",
}
"""Copies in a file, and the tensors that they must equal."""
_ANSWERS = ("answer_embeddings.weight", "answer_bias")
_OWN = ("linear_video.", "adapter.", *_ANSWERS)
"""What marks parameters that Microsoft's language model lacks."""
_OTHER_HEAD = "mask_predictions."
"""A head of Microsoft's that no masked language model has; transformers leaves it out, too."""

_BLOCK = {
    "attention.query": "attention.q_lin",
    "attention.key": "attention.k_lin",
    "attention.value": "attention.v_lin",
    "attention.out": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "feed_forward.0": "ffn.lin1",
    "feed_forward.2": "ffn.lin2",
    "feed_forward_norm": "output_layer_norm",
}
_GAUSSIAN = {**{f"block.{ours}": f"trans_gauss.layer.0.{name}" for ours, name in _BLOCK.items()}, "head": "logit_gauss"}
_CRA = {
    **{f"block.{ours}": f"trans.layer.0.{name}" for ours, name in _BLOCK.items()},
    "fusion": "fusion",
    "fusion_lin": "fusion_lin",
    "word": "word_attn.0",
    "grounding.video": "grounding_module.v_proj",
    "grounding.query": "grounding_module.qa_proj",
    "grounding.score": "grounding_module.grounding",
    "grounding.sigma": "grounding_module.gs_filter.sigma",
    "front.dictionary": "do._vis_do.visual_clusters",
    "front.out": "do._vis_do.do.fc",
    "front": "do._vis_do.do",
    "norm": "do.vis_norm",
    "back.dictionary": "do._lin_do.node",
    "back.graph.weight": "do._lin_do.gcn.lin.weight",
    "back.graph.bias": "do._lin_do.gcn.bias",
    "back.norm": "do._lin_do.norm",
    "back.query": "do._lin_do.do.q",
    "back.key": "do._lin_do.do.k",
    "back.value": "do._lin_do.do.v",
}
_TRANSPOSED = ("do._lin_do.gcn.lin.weight",)
_DEAD = ("do.lin_norm.", "do._lin_do.", "do._vis_do.do.prob_m.")
"""Parameters of published CRA that a model may lack: nothing reads the first, our settings switch the others off."""


def load_language_model(config: ModelConfig, feature_dim: int) -> tuple[LanguageModel, Tokeniser, str]:
    """Make the language model of a folder, with its weights and its tokeniser.

    The folder's weights file may be missing if ``config.checkpoint`` holds the whole model.

    Returns
    -------
    The language model, its tokeniser, and a digest of its weights file (empty if there is none).

    Raises
    ------
    TrainingError
        If something is missing in the folder or does not fit.
    """
    folder = Path(config.weights)
    tokens = load_tokeniser(_require_folder(folder))
    described = read_config(folder, config)
    if tokens.mask >= described.vocab_size:
        raise TrainingError(f"{folder / CONFIG}: has {described.vocab_size} words, and [MASK] is number {tokens.mask}")
    language = LanguageModel(described, feature_dim, config)
    file = weights_file(folder)
    if file is not None:
        load_weights(language, file)
    elif config.checkpoint is None:
        raise TrainingError(f"model.weights {config.weights!r}: has no {' or '.join(WEIGHTS)}")
    return language, tokens, "" if file is None else weights_digest(file)


def parts_of_language_model(settings: FrozenBilmConfig) -> Iterator[Callable[[], object]]:
    """Yield what reads the tokeniser, the sizes and the weights' presence, and the checkpoint's tensors."""
    config = settings.model
    yield deberta
    if config.seed is None:
        folder = Path(config.weights)
        yield partial(_require_folder, folder)
        if folder.is_dir():
            yield partial(load_tokeniser, folder)
            yield partial(read_config, folder, config)
            if (file := weights_file(folder)) is not None:
                yield partial(read_tensors, file)
    if config.checkpoint is not None:
        yield partial(read_tensors, config.checkpoint)


def _require_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise TrainingError(
            f"model.weights {str(folder)!r}: no such folder; name that of deberta-v2-xlarge, or random:<seed>"
        )
    return folder


def weights_file(folder: Path) -> Path | None:
    """Return the file that holds the language model's weights, if there is one."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def weights_digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with open_regular(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_config(folder: Path, config: ModelConfig) -> Any:
    """Return the settings of transformers in a folder, with the dropout of ours.

    Raises
    ------
    TrainingError
        If there is no readable ``config.json``, or it is that of another kind of model.
    """
    path = folder / CONFIG
    try:
        raw = json.loads(read_text(path))
        found = deberta().DebertaV2Config.from_dict(raw)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TrainingError(f"{path}: not readable ({one_line(error)})") from error
    wrong = [f"{name} {raw.get(name)!r}" for name, value in _NEEDED.items() if raw.get(name) != value]
    if wrong:
        raise TrainingError(f"{path}: {', '.join(wrong)}: not a language model of DeBERTa-v2 as FrozenBiLM needs it")
    found.hidden_dropout_prob = found.attention_probs_dropout_prob = config.dropout
    return found


def load_weights(language: LanguageModel, file: Path) -> None:
    """Copy Microsoft's weights into a language model; its adapters and its map of frames stay as they are.

    Raises
    ------
    TrainingError
        If the file cannot be read, or does not hold exactly the tensors of the language model.
    """
    state = {name: tensor for name, tensor in read_tensors(file).items() if not name.startswith(_OTHER_HEAD)}
    own = dict(language.named_parameters())
    names = {name: name for name in own if not any(mark in name for mark in _OWN)}
    _require_same(file, _without_copies(state, file), {"the language model": names})
    _copy(own, names, state, file)


def load_checkpoint(model: FrozenBilm, file: Path, whole: bool = False) -> None:
    """Copy a published checkpoint into a model.

    It is of the model's own kind, or of FrozenBiLM alone; what is put on top then stays as it is.

    Parameters
    ----------
    model
        The model.
    file
        A file of torch or safetensors.
    whole
        Refuse a file of only what was trained.

    Raises
    ------
    TrainingError
        If the file cannot be read, or its keys and shapes are those of none of these.
    """
    own = dict(model.named_parameters())
    names = {published: ours for ours, published in published_names(model).items()}
    state = _without_copies(read_tensors(file), file)
    dead = [name for name in state if name not in names and name.startswith(_DEAD)]
    others = [name for name in _ANSWERS if name in state and state[name].shape != own[names[name]].shape]
    state = {name: tensor for name, tensor in state.items() if name not in (*dead, *others)}
    layouts: dict[str, Mapping[str, str]] = {}
    for part, prefix in (("the whole model", ""), ("FrozenBiLM", "language.")):
        for kind in ("all of", "what is trained of")[: 1 if whole else 2]:
            layouts[f"{kind} {part}"] = {
                published: ours
                for published, ours in names.items()
                if ours.startswith(prefix)
                and (own[ours].requires_grad or kind == "all of")
                and (published in state or published not in _ANSWERS)
            }
    _copy(own, _require_same(file, state, layouts), state, file)


def published_names(model: FrozenBilm) -> dict[str, str]:
    """Return the published name of each parameter of a model."""
    top = _GAUSSIAN if isinstance(model.top, GaussianTop) else _CRA if isinstance(model.top, CraTop) else {}
    prefixes = {"language.": "", **{f"top.{ours}": name for ours, name in top.items()}}
    longest_first = sorted(prefixes, key=len, reverse=True)
    found = {}
    for name, _ in model.named_parameters():
        prefix = next(one for one in longest_first if name.startswith(one))
        found[name] = prefixes[prefix] + name.removeprefix(prefix)
    return found


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file of safetensors or torch.

    In a file of torch they may lie under ``model``, beside the arguments of a command line.

    Raises
    ------
    TrainingError
        If it cannot be read, or holds anything else.
    """
    try:
        check_regular(file)
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (*UNREADABLE, SafetensorError) as error:
        raise TrainingError(f"{file}: not readable ({why_not_loaded(error)})") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(one, Tensor) for one in content.values()):
        raise TrainingError(f"{file}: holds no weights by name")
    return dict(content)


def _without_copies(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Take away numbers of positions and tied copies; raise TrainingError if a copy differs from its original."""
    state.pop(_POSITION_IDS, None)
    for copy, original in _TWINS.items():
        if copy in state and not (original in state and torch.equal(state[copy], state[original])):
            raise TrainingError(f"{file}: {copy} is not {original}; published models tie them")
        state.pop(copy, None)
    return state


def _require_same(
    file: Path, state: Mapping[str, Tensor], layouts: Mapping[str, Mapping[str, str]]
) -> Mapping[str, str]:
    """Return the layout whose keys a file has; raise TrainingError with the difference from the nearest if none."""
    differences = {name: sorted(state.keys() ^ layout.keys()) for name, layout in layouts.items()}
    nearest = min(differences, key=lambda name: len(differences[name]))
    if differences[nearest]:
        missing = [name for name in differences[nearest] if name not in state]
        unknown = [name for name in differences[nearest] if name in state]
        parts = [f"{what} {first_few(names)}" for what, names in (("lacks", missing), ("adds", unknown)) if names]
        raise TrainingError(f"{file}: has not the tensors of {nearest}: it {' and '.join(parts)}")
    return layouts[nearest]


@torch.no_grad()
def _copy(own: Mapping[str, nn.Parameter], names: Mapping[str, str], state: Mapping[str, Tensor], file: Path) -> None:
    """Copy tensors by their published names."""
    for published, ours in names.items():
        tensor = state[published].T if published in _TRANSPOSED else state[published]
        if tensor.shape != own[ours].shape:
            raise TrainingError(
                f"{file}: {published} is {_shape(tensor)}; the model has {_shape(own[ours])}: other sizes, or features "
                "of another width"
            )
        own[ours].copy_(tensor)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
