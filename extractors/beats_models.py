"""The size of BEATs' encoder, and what a checkpoint's ``cfg`` must say for it to be that encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extractors.base import WeightsError
from settings.messages import available


@dataclass(frozen=True, slots=True)
class Backbone:
    """The shapes and rules of one encoder.

    Attributes
    ----------
    width, depth, heads, hidden
        Channels of a token, number of blocks, attention heads, channels inside an MLP.
    embedded
        Channels of a patch before it is projected to ``width``.
    patch
        Side of a patch, in frames and in bands.
    kernel, groups
        Of the convolution that tells positions.
    buckets, farthest
        Rows of the table of relative positions, and the distance from which on all share the last row.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    embedded: int = 512
    patch: int = 16
    kernel: int = 128
    groups: int = 16
    buckets: int = 320
    farthest: int = 800


BACKBONES: dict[str, Backbone] = {"base": Backbone()}
"""All published encoders, of iterations 1, 2, 3 and 3+, have one size."""

_SIZES = {
    "encoder_embed_dim": "width",
    "encoder_layers": "depth",
    "encoder_attention_heads": "heads",
    "encoder_ffn_embed_dim": "hidden",
    "embed_dim": "embedded",
    "input_patch_size": "patch",
    "conv_pos": "kernel",
    "conv_pos_groups": "groups",
    "num_buckets": "buckets",
    "max_distance": "farthest",
}
_RULES: dict[str, Any] = {
    "activation_fn": "gelu",
    "conv_bias": False,
    "deep_norm": True,
    "gru_rel_pos": True,
    "layer_norm_first": False,
    "relative_position_embedding": True,
}
# What a cfg need not say: the defaults of the published code.
_DEFAULTS: dict[str, Any] = {
    "encoder_embed_dim": 768,
    "encoder_layers": 12,
    "encoder_attention_heads": 12,
    "encoder_ffn_embed_dim": 3072,
    "embed_dim": 512,
    "input_patch_size": -1,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "num_buckets": 320,
    "max_distance": 1280,
    "activation_fn": "gelu",
    "conv_bias": False,
    "deep_norm": False,
    "gru_rel_pos": False,
    "layer_norm_first": False,
    "relative_position_embedding": False,
}
_OF_TRAINING = frozenset(
    {
        "activation_dropout",
        "attention_dropout",
        "dropout",
        "dropout_input",
        "encoder_layerdrop",
        "finetuned_model",
        "layer_wise_gradient_decay_ratio",
        "predictor_class",
        "predictor_dropout",
    }
)


def check_cfg(cfg: Mapping[str, Any], backbone: Backbone, title: str) -> None:
    """Raise WeightsError unless the ``cfg`` of a checkpoint describes an encoder of this size and these rules."""
    wanted = {key: getattr(backbone, attribute) for key, attribute in _SIZES.items()} | _RULES
    differing = [
        f"{key}={found!r} instead of {value!r}"
        for key, value in wanted.items()
        if (found := cfg.get(key, _DEFAULTS[key])) != value
    ]
    if differing:
        raise WeightsError(f"{title} is another encoder: its cfg has {', '.join(differing)}")
    unknown = sorted(str(key) for key in cfg if key not in wanted and key not in _OF_TRAINING)
    if unknown:
        raise WeightsError(
            f"{title} is not known to be this encoder: its cfg has {', '.join(unknown)} ({available(sorted(wanted))})"
        )
