"""The network behind the ``sentence`` text encoder: a transformers model, mean-pooled and normalised.

Papers: Nils Reimers and Iryna Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", 2019,
https://arxiv.org/abs/1908.10084; for all-MiniLM-L6-v2 also Wenhui Wang, Furu Wei, Li Dong et al., "MiniLM: Deep
Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers", 2020,
https://arxiv.org/abs/2002.10957.

Code: transformers, https://github.com/huggingface/transformers, Apache-2.0 licence.

Weights: those of the folder or repository that the options name, under the licence of its model card;
https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 has the Apache-2.0 licence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from extractors import tensors, weights
from extractors.base import Execution, OutputSpec, WeightsError
from extractors.text.tokens import TokenTextModel, padded_length
from extractors.torch_model import TorchModel

_PAD = -1  # no token id, so that a text that spells "[PAD]" is not taken for padding
_UNITS = "mean of the last hidden states over the text's tokens, length 1"


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one model.

    Attributes
    ----------
    config
        Shapes of the network, JSON.
    tokenizer
        The tokenizers library's own JSON.
    weights
        Tensors of the network, safetensors.
    """

    config: Path
    tokenizer: Path
    weights: Path


class _Tower(TorchModel):
    """A mean-pooled encoder: token ids ``int64 [M, L]``, -1 for padding, to ``float32 [M, hidden_size]``."""

    def __init__(self, network: nn.Module, dim: int, execution: Execution, sha256: str) -> None:
        libraries = {"transformers": transformers.__version__}
        super().__init__(network, OutputSpec((dim,), _UNITS), execution, libraries, sha256)

    def _features(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        is_token = batch >= 0
        hidden = network(input_ids=batch.clamp(min=0), attention_mask=is_token.long()).last_hidden_state
        kept = is_token.unsqueeze(-1).to(hidden.dtype)  # [M, L, 1]
        mean = (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)  # [M, hidden_size]
        return nn.functional.normalize(mean, dim=1)


def load(files: Files, limit: int, dim: int, execution: Execution) -> TokenTextModel:
    """Build a network, load its weights strictly and prepare its tokenizer.

    Parameters
    ----------
    files
        The files of the model.
    limit
        Tokens of the longest text, begin and end included; longer texts are cut.
    dim
        Numbers in a vector.
    execution
        Device, dtype, threads and compilation.

    Raises
    ------
    WeightsError
        If the weights do not fit.
    ExtractorError
        If the device cannot be used.
    """
    tokenizer: Any = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    tower = _Tower(_network(files), dim, execution, weights.digest(files.weights))

    def tokenize(texts: Sequence[str]) -> list[NDArray[np.int64]]:
        rows = []
        for encoding in tokenizer.encode_batch(list(texts)):
            row = np.full(padded_length(len(encoding.ids), limit), _PAD, np.int64)
            row[: len(encoding.ids)] = encoding.ids
            rows.append(row)
        return rows

    return TokenTextModel(tokenize, tower)


def _network(files: Files) -> nn.Module:
    """Build the encoder and load it strictly: all that it needs, beside a pooling head, must be in the file."""
    config = transformers.AutoConfig.from_pretrained(files.config)
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call]  # not annotated
    wanted = network.state_dict()
    state = tensors.read_state_dict(files.weights)
    prefix = f"{getattr(network, 'base_model_prefix', '')}."
    state = {name.removeprefix(prefix): value for name, value in state.items()}
    # Training heads and the index buffers of older versions are left over; a pooling head is not used.
    used = {name: value for name, value in state.items() if name in wanted}
    used |= {name: value for name, value in wanted.items() if name.startswith("pooler.") and name not in used}
    if not any(name in state for name in wanted):
        raise WeightsError(f"weights file {files.weights} holds no weights of a {config.model_type} model")
    tensors.load_strict(network, used, f"weights file {files.weights} as {config.model_type}")
    return network
