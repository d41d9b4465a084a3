"""Checkpoints of BEATs in the published layout, with random weights, and its encoder in numpy, from its formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.beats_models import Backbone

TINY = Backbone(width=48, depth=3, heads=4, hidden=80, embedded=24, kernel=8, groups=4, buckets=16, farthest=20)
"""Small, and with tokens so far apart that distances share rows of the table."""


def cfg_of(backbone: Backbone, **changed: Any) -> dict[str, Any]:
    """Return the ``cfg`` of a published file, with its switches of training."""
    return {
        "encoder_layers": backbone.depth,
        "encoder_embed_dim": backbone.width,
        "encoder_ffn_embed_dim": backbone.hidden,
        "encoder_attention_heads": backbone.heads,
        "embed_dim": backbone.embedded,
        "input_patch_size": backbone.patch,
        "conv_pos": backbone.kernel,
        "conv_pos_groups": backbone.groups,
        "num_buckets": backbone.buckets,
        "max_distance": backbone.farthest,
        "activation_fn": "gelu",
        "conv_bias": False,
        "deep_norm": True,
        "gru_rel_pos": True,
        "layer_norm_first": False,
        "relative_position_embedding": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "dropout_input": 0.0,
        "encoder_layerdrop": 0.05,
        "layer_wise_gradient_decay_ratio": 0.6,
        **changed,
    }


def published_state(backbone: Backbone = TINY, seed: int = 0, classes: int = 0) -> dict[str, torch.Tensor]:
    """Return random tensors under the published names; with classes, those of a fine-tuned model."""
    generator = torch.Generator().manual_seed(seed)
    width, hidden, patch = backbone.width, backbone.hidden, backbone.patch
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (backbone.embedded, 1, patch, patch),
        "layer_norm.weight": (backbone.embedded,),
        "layer_norm.bias": (backbone.embedded,),
        "post_extract_proj.weight": (width, backbone.embedded),
        "post_extract_proj.bias": (width,),
        "encoder.pos_conv.0.bias": (width,),
        "encoder.pos_conv.0.weight_g": (1, 1, backbone.kernel),
        "encoder.pos_conv.0.weight_v": (width, width // backbone.groups, backbone.kernel),
        "encoder.layer_norm.weight": (width,),
        "encoder.layer_norm.bias": (width,),
    }
    for layer in range(backbone.depth):
        name = f"encoder.layers.{layer}."
        shapes[f"{name}self_attn.grep_a"] = (1, backbone.heads, 1, 1)
        shapes[f"{name}self_attn.relative_attention_bias.weight"] = (backbone.buckets, backbone.heads)
        linear = {f"self_attn.{kind}_proj": (width, width) for kind in ("k", "v", "q", "out")}
        linear |= {
            "self_attn.grep_linear": (8, width // backbone.heads),
            "fc1": (hidden, width),
            "fc2": (width, hidden),
        }
        for kind, shape in linear.items():
            shapes |= {f"{name}{kind}.weight": shape, f"{name}{kind}.bias": shape[:1]}
        for kind in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{name}{kind}.weight": (width,), f"{name}{kind}.bias": (width,)}
    if classes:
        shapes |= {"predictor.weight": (classes, width), "predictor.bias": (classes,)}
    state = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    for name in state:
        if name.endswith(("layer_norm.weight", "grep_a", "weight_g")):
            state[name] += 1.0
        if name.endswith("relative_attention_bias.weight"):
            state[name] = state["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    return state


def reference(
    state: Mapping[str, torch.Tensor], energies: NDArray[Any], backbone: Backbone = TINY
) -> NDArray[np.float64]:
    """Compute the tokens of one window, ``[frames, bands]`` to ``[tokens, D]``, in float64, pair by pair."""
    w = {name: value.double().numpy() for name, value in state.items()}
    patch, heads = backbone.patch, backbone.heads
    times, bands = (side // patch for side in energies.shape)
    x = np.stack(
        [
            np.tensordot(
                w["patch_embedding.weight"][:, 0],
                energies[t * patch : (t + 1) * patch, b * patch : (b + 1) * patch].astype(np.float64),
                2,
            )
            for t in range(times)
            for b in range(bands)
        ]
    )
    x = _norm(w, "layer_norm", x) @ w["post_extract_proj.weight"].T + w["post_extract_proj.bias"]
    x = _norm(w, "encoder.layer_norm", x + _gelu(_convolved(w, x, backbone)))
    alpha = (2 * backbone.depth) ** 0.25
    table = w["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    for layer in range(backbone.depth):
        name = f"encoder.layers.{layer}."
        q, k, v = (_linear(w, f"{name}self_attn.{kind}_proj", x).reshape(len(x), heads, -1) for kind in "qkv")
        mixed = np.zeros_like(v)
        for head in range(heads):
            for i in range(len(x)):
                gates = _linear(w, f"{name}self_attn.grep_linear", q[i, head])
                a, b = (1 / (1 + math.exp(-gates[four : four + 4].sum())) for four in (0, 4))
                gate = a * (b * w[f"{name}self_attn.grep_a"][0, head, 0, 0] - 1) + 2
                scores = np.array(
                    [
                        q[i, head] @ k[j, head] / math.sqrt(q.shape[2]) + gate * table[_row(j - i, backbone), head]
                        for j in range(len(x))
                    ]
                )
                weights = np.exp(scores - scores.max())
                mixed[i, head] = weights @ v[:, head] / weights.sum()
        attended = _linear(w, f"{name}self_attn.out_proj", mixed.reshape(len(x), -1))
        x = _norm(w, f"{name}self_attn_layer_norm", alpha * x + attended)
        branch = _linear(w, f"{name}fc2", _gelu(_linear(w, f"{name}fc1", x)))
        x = _norm(w, f"{name}final_layer_norm", alpha * x + branch)
    return x


def _row(distance: int, backbone: Backbone) -> int:
    """Return the row of a distance: one half each for before and after, half of that exact, the rest logarithmic."""
    half = backbone.buckets // 2
    exact, size = half // 2, abs(distance)
    if size >= exact:
        share = math.log(size / exact) / math.log(backbone.farthest / exact)
        size = min(half - 1, exact + int(share * (half - exact)))
    return size + (half if distance > 0 else 0)


def _convolved(w: Mapping[str, NDArray[Any]], x: NDArray[Any], backbone: Backbone) -> NDArray[Any]:
    """Convolve ``[N,D]`` over places: output n sees n - kernel/2 to n + kernel/2 - 1."""
    kernel = w["encoder.pos_conv.0.weight_v"]
    kernel = w["encoder.pos_conv.0.weight_g"] * kernel / np.sqrt((kernel**2).sum((0, 1), keepdims=True))
    size = kernel.shape[1]
    out = np.tile(w["encoder.pos_conv.0.bias"], (len(x), 1))
    for channel in range(x.shape[1]):
        first = channel // (x.shape[1] // backbone.groups) * size
        for n in range(len(x)):
            for tap in range(backbone.kernel):
                place = n + tap - backbone.kernel // 2
                if 0 <= place < len(x):
                    out[n, channel] += kernel[channel, :, tap] @ x[place, first : first + size]
    return out


def _linear(w: Mapping[str, NDArray[Any]], name: str, x: NDArray[Any]) -> NDArray[Any]:
    product: NDArray[Any] = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    return product


def _norm(w: Mapping[str, NDArray[Any]], name: str, x: NDArray[Any]) -> NDArray[Any]:
    centred = x - x.mean(-1, keepdims=True)
    scaled: NDArray[Any] = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def _gelu(x: NDArray[Any]) -> NDArray[Any]:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
