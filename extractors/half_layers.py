"""Layers of half-precision networks that are as many matrix products as they have projections, over the same weights.

``nn.MultiheadAttention`` takes torch's native kernel only under conditions that a compiled network, or one with an odd
number of heads, does not meet. Otherwise it turns its input to put the tokens first, and a projection of
``[tokens, batch, width]`` with frozen weights then becomes one small matrix product per token.

A convolution that cuts an image into patches is one matrix product over the patches. Libraries of convolutions are slow
at it in half precision: they are made for more channels than three.
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
        The module; see ``is_self_attention``.
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


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its kernel, as one matrix product.

    Parameters
    ----------
    original
        The module; see ``is_patch_embedding``.
    """

    def __init__(self, original: nn.Conv2d) -> None:
        super().__init__()
        self.original = original

    @property
    def weight(self) -> torch.Tensor:
        """The weights of the original, whose dtype networks ask for."""
        return self.original.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn ``[M, C, H, W]`` in channels_last order into ``[M, out, H/p, W/q]`` in the same order."""
        original = self.original
        count, channels, height, width = images.shape
        p, q = original.kernel_size
        if height % p or width % q:
            cut: torch.Tensor = original(images)  # it leaves out the rest at the right and at the bottom
            return cut
        strips = images.permute(0, 2, 3, 1).reshape(count, height // p, p, width // q, q * channels)
        patches = strips.transpose(2, 3).reshape(count, height // p, width // q, p * q * channels)
        weight = original.weight.permute(0, 2, 3, 1).flatten(1)  # [out, p·q·C]
        return nn.functional.linear(patches, weight, original.bias).permute(0, 3, 1, 2)


def is_self_attention(module: nn.Module) -> bool:
    """Return whether a module is an ``nn.MultiheadAttention`` whose self-attention ``SelfAttention`` computes."""
    return (
        type(module) is nn.MultiheadAttention
        and module.batch_first
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


def is_patch_embedding(module: nn.Module) -> bool:
    """Return whether a module is a convolution of patches that touch and do not overlap."""
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == module.stride != (1, 1)
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
    )


def replace_layers(network: nn.Module) -> nn.Module:
    """Put these layers in the places of those that they can replace, in the network itself, and return that."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if is_self_attention(child):
                setattr(parent, name, SelfAttention(child))  # type: ignore[arg-type]  # is_self_attention says so
            elif is_patch_embedding(child):
                setattr(parent, name, PatchEmbedding(child))  # type: ignore[arg-type]  # is_patch_embedding says so
    return network
