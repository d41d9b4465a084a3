"""The network behind the `clip` text encoder: open_clip's text tower and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import huggingface_hub
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transformer import text_global_pool
from torch import nn

from extractors import hub
from extractors.base import OutputSpec
from extractors.clip_tower import build_network
from extractors.text.tokens import TokenTextModel, padded_length
from extractors.torch_model import Execution, TorchModel

if TYPE_CHECKING:
    from extractors.text.clip import ClipText

_UNITS = "CLIP joint-space embedding of the text, not normalised"


class _Tower(TorchModel):
    """`int64 [M, L]` token ids to `float32 [M, embed_dim]`.

    Where attention is causal and the embedding is read at the end token, what follows that token cannot reach it: L
    may then be less than the context length.
    """

    def __init__(self, network: Any, cuttable: bool, dim: int, execution: Execution, digest: str | None) -> None:
        super().__init__(network, OutputSpec((dim,), _UNITS), execution, {"open_clip": open_clip.__version__}, digest)
        self._cuttable = cuttable

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        network: Any = self.network
        if not self._cuttable:
            embedding: torch.Tensor = network.encode_text(batch)
            return embedding
        length = batch.shape[1]
        # open_clip's CLIP.encode_text, which has the whole context length wired in
        x = network.token_embedding(batch) + network.positional_embedding[:length]
        x = network.ln_final(network.transformer(x, attn_mask=network.attn_mask[:length, :length]))
        pooled = text_global_pool(x, batch, network.text_pool_type)
        projection = network.text_projection
        projected: torch.Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        return projected


def load(encoder: ClipText, device: str, threads: int | None) -> TokenTextModel:
    """Build and load what `encoder` describes. Raises WeightsError, ExtractorError."""
    tokenizer = _tokenizer(encoder)
    network, digest = build_network(encoder.clip, encoder.quick_gelu())
    del network.visual
    cuttable = _is_causal(network, tokenizer)
    execution = Execution(device, "float32", threads, compile=False)

    def tokenize(texts: Sequence[str]) -> list[NDArray[np.int64]]:
        rows: NDArray[np.int64] = tokenizer(list(texts)).numpy()
        if not cuttable:
            return list(rows)
        ends = (rows == tokenizer.eot_token_id).argmax(axis=1)
        return [row[: padded_length(int(end) + 1, len(row))] for row, end in zip(rows, ends, strict=True)]

    return TokenTextModel(tokenize, _Tower(network, cuttable, encoder.dim, execution, digest))


def _is_causal(network: Any, tokenizer: Any) -> bool:
    return (
        isinstance(network, open_clip.CLIP)
        and isinstance(tokenizer, open_clip.SimpleTokenizer)
        and network.attn_mask is not None
        and network.text_projection is not None
        and network.text_pool_type == "argmax"
    )


def _tokenizer(encoder: ClipText) -> Any:
    """The tokenizer of a model; one that open_clip takes from a hub is downloaded unless it is cached.

    Raises
    ------
    WeightsError:
        The hub cannot be reached or refuses.
    """
    repository = encoder.hub_tokenizer
    found: list[Any] = []

    def make() -> None:
        found.append(open_clip.get_tokenizer(encoder.clip.model))

    cached = repository and huggingface_hub.try_to_load_from_cache(repository, "tokenizer_config.json")
    if repository is None or isinstance(cached, str):
        make()
    else:
        hub.download(f"the tokenizer of {encoder.model}", huggingface_hub.constants.ENDPOINT, make)
    return found[0]
