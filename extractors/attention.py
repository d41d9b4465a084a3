"""Self-attention of half-precision networks: one matrix product for the three projections, then torch's fused kernel.

``nn.MultiheadAttention`` takes torch's native kernel only under conditions that a compiled network, or one with an odd
number of heads, does not meet. Otherwise it turns its input to put the tokens first, and a projection of
``[tokens, batch, width]`` with frozen weights then becomes one small matrix product per token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class SelfAttention(nn.Module):
    """An ``nn.MultiheadAttention`` in evaluation mode, over its own weights.

    What is not self-attention of the plain kind goes to the original, which is kept.

    Parameters
    ----------
    original
        The module; see ``is_replaceable``.
    """

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.original = original

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend as ``nn.MultiheadAttention`` does: ``[M, T, width]`` to ``[M, T, width]`` and no weights."""
        original = self.original
        if query is not key or key is not value or query.dim() != 3 or need_weights or attn_mask is not None or options:
            result: tuple[torch.Tensor, torch.Tensor | None] = original(
                query, key, value, need_weights=need_weights, attn_mask=attn_mask, **options
            )
            return result
        batch, tokens, width = query.shape
        projected = nn.functional.linear(query, original.in_proj_weight, original.in_proj_bias)  # [M, T, 3·width]
        heads = projected.view(batch, tokens, 3, original.num_heads, original.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)  # [M, heads, T, head_dim]
        output: torch.Tensor = original.out_proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        return output, None


def is_replaceable(module: nn.Module) -> bool:
    """Return whether a module is an ``nn.MultiheadAttention`` whose self-attention ``SelfAttention`` computes."""
    return (
        type(module) is nn.MultiheadAttention
        and module.batch_first
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


def replace_attention(network: nn.Module) -> nn.Module:
    """Put ``SelfAttention`` in the place of every module that allows it, in the network itself, and return that."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if is_replaceable(child) and not isinstance(parent, SelfAttention):
                setattr(parent, name, SelfAttention(child))  # type: ignore[arg-type]  # is_replaceable says so
    return network
