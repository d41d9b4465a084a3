"""The network behind the ``clip`` text encoder: open_clip's text tower and its tokenizer.

Paper, code, origin of the weights and licences: see ``extractors/clip_tower.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transformer import text_global_pool
from torch import nn

from extractors import hub
from extractors.base import Execution, OutputSpec
from extractors.clip_models import ClipNetwork
from extractors.clip_tower import build_network
from extractors.text.tokens import TokenTextModel, padded_length
from extractors.torch_model import TorchModel

_UNITS = "CLIP joint-space embedding of the text, not normalised"


class _Tower(TorchModel):
    """A text tower: token ids ``int64 [M, L]`` to ``float32 [M, embed_dim]``.

    If attention is causal and the embedding is read at the end token, nothing after that token can reach it: L may then
    be less than the context length.
    """

    def __init__(self, network: Any, cuttable: bool, dim: int, execution: Execution, sha256: str | None) -> None:
        super().__init__(network, OutputSpec((dim,), _UNITS), execution, {"open_clip": open_clip.__version__}, sha256)
        self._cuttable = cuttable

    def _features(self, network: Any, batch: torch.Tensor) -> torch.Tensor:
        if not self._cuttable:
            embedding: torch.Tensor = network.encode_text(batch)
            return embedding
        length = batch.shape[1]
        # open_clip's CLIP.encode_text, which has the whole context length wired in
        x = network.token_embedding(batch) + network.positional_embedding[:length]  # [M, L, width]
        x = network.ln_final(network.transformer(x, attn_mask=network.attn_mask[:length, :length]))
        pooled = text_global_pool(x, batch, network.text_pool_type)  # [M, width]
        projection = network.text_projection
        projected: torch.Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        return projected


def load(network: ClipNetwork, hub_tokenizer: str | None, dim: int, execution: Execution) -> TokenTextModel:
    """Build a network, load its weights and keep its text tower.

    Parameters
    ----------
    network
        The model and its weights.
    hub_tokenizer
        Repository of the tokenizer; None for the one that open_clip ships.
    dim
        Numbers in a vector.
    execution
        Device, dtype, threads and compilation.

    Raises
    ------
    WeightsError
        If the weights or the tokenizer cannot be obtained, or the weights do not fit.
    ExtractorError
        If open_clip cannot build the model, or the device cannot be used.
    """
    tokenizer = _tokenizer(network.name, hub_tokenizer)
    model, sha256 = build_network(network)
    del model.visual
    cuttable = _is_cuttable(model, tokenizer)

    def tokenize(texts: Sequence[str]) -> list[NDArray[np.int64]]:
        rows: NDArray[np.int64] = tokenizer(list(texts)).numpy()
        if not cuttable:
            return list(rows)
        ends = (rows == tokenizer.eot_token_id).argmax(axis=1)
        return [row[: padded_length(int(end) + 1, len(row))] for row, end in zip(rows, ends, strict=True)]

    return TokenTextModel(tokenize, _Tower(model, cuttable, dim, execution, sha256))


def _is_cuttable(model: Any, tokenizer: Any) -> bool:
    """Tell whether attention is causal and the embedding is read at the end token."""
    return (
        isinstance(model, open_clip.CLIP)
        and isinstance(tokenizer, open_clip.SimpleTokenizer)
        and model.attn_mask is not None
        and model.text_projection is not None
        and model.text_pool_type == "argmax"
    )


def _tokenizer(name: str, repository: str | None) -> Any:
    """Make the tokenizer of a model; one that open_clip takes from a hub is downloaded unless it is cached.

    Raises
    ------
    WeightsError
        If the hub cannot be reached or refuses.
    """
    cached = repository and huggingface_hub.try_to_load_from_cache(repository, "tokenizer_config.json")
    if repository is None or isinstance(cached, str):
        return open_clip.get_tokenizer(name)
    endpoint = huggingface_hub.constants.ENDPOINT
    return hub.download(f"the tokenizer of {name}", endpoint, lambda: open_clip.get_tokenizer(name))
