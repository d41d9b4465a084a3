"""The network behind the `sentence` text encoder: a transformers model, mean-pooled and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from extractors import weights
from extractors.base import OutputSpec, WeightsError
from extractors.text.tokens import TokenTextModel, padded_length
from extractors.torch_model import Execution, TorchModel

if TYPE_CHECKING:
    from extractors.text.sentence import SentenceText

_PAD = -1  # no token id, so that a text that spells "[PAD]" is not taken for padding
_UNITS = "mean of the last hidden states over the text's tokens, length 1"


class _Tower(TorchModel):
    """`int64 [M, L]` token ids, -1 where there is none, to `float32 [M, hidden_size]`."""

    def __init__(self, network: nn.Module, dim: int, execution: Execution, digest: str) -> None:
        libraries = {"transformers": transformers.__version__}
        super().__init__(network, OutputSpec((dim,), _UNITS), execution, libraries, digest)

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        there = batch >= 0
        hidden = self.network(input_ids=batch.clamp(min=0), attention_mask=there.long()).last_hidden_state
        kept = there.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(mean, dim=1)


def load(encoder: SentenceText, tokenizer_file: Path, device: str, threads: int | None) -> TokenTextModel:
    """Build and load what `encoder` describes. Raises WeightsError, ExtractorError."""
    limit = encoder.context_length
    tokenizer: Any = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    weights_file = encoder.file("model.safetensors")
    network = _network(encoder.file("config.json"), weights_file)
    execution = Execution(device, "float32", threads, compile=False)
    tower = _Tower(network, encoder.dim, execution, weights.digest(weights_file))

    def tokenize(texts: Sequence[str]) -> list[NDArray[np.int64]]:
        rows = []
        for encoding in tokenizer.encode_batch(list(texts)):
            row = np.full(padded_length(len(encoding.ids), limit), _PAD, np.int64)
            row[: len(encoding.ids)] = encoding.ids
            rows.append(row)
        return rows

    return TokenTextModel(tokenize, tower)


def _network(config_file: Path, weights_file: Path) -> nn.Module:
    """The encoder without a pooling head, loaded strictly: all that it needs must be in the file."""
    config = transformers.AutoConfig.from_pretrained(config_file)
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    wanted = network.state_dict()
    state = weights.read_state_dict(weights_file)
    prefix = f"{getattr(network, 'base_model_prefix', '')}."
    state = {name.removeprefix(prefix): value for name, value in state.items()}
    # Heads of training and index buffers of older versions are left over; a pooling head is not used.
    used = {name: value for name, value in state.items() if name in wanted}
    used |= {name: value for name, value in wanted.items() if name.startswith("pooler.") and name not in used}
    if not any(name in state for name in wanted):
        raise WeightsError(f"weights file {weights_file} holds no weights of a {config.model_type} model")
    weights.load_strict(network, used, f"weights file {weights_file} as {config.model_type}")
    return network
