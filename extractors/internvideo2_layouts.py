"""Reads the published files of InternVideo2: finds the encoder in them and lists what is left out, and why.

The layouts are those of ``docs/facts/internvideo2.md``, section 3. Nothing is left out that is not listed here: what
remains must fit the encoder exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

from extractors.base import WeightsError
from extractors.internvideo2_models import BACKBONES, Backbone
from extractors.tensors import LeftOut
from settings.messages import first_few, plural

State = dict[str, torch.Tensor]

_ENCODER = "blocks.0.attn.qkv.weight"
_PROJECTOR = "clip_projector.norm1_q.weight"
_WRAPPERS = frozenset({"vision_encoder", "backbone", "encoder", "module", "model"})
_PROJECTION = ("vision_proj.weight", "vision_proj.bias")
_TEACHER = "follows a teacher in training"
_MASKED = "restores hidden tokens in training"
_CLASSIFIER = "classifies"
_TEXT = "belongs to the text encoder"
_LEFT_OUT = {
    "clip_decoder": _TEACHER,
    "final_clip_decoder": _TEACHER,
    "clip_pos_embed": _TEACHER,
    "clip_img_pos_embed": _TEACHER,
    "mae_decoder": _MASKED,
    "mae_pos_embed": _MASKED,
    "head": _CLASSIFIER,
    "fc_norm": _CLASSIFIER,
    "text_encoder": _TEXT,
    "transformer": _TEXT,
    "text_proj": _TEXT,
    "itm_head": "matches clips with texts",
    "vision_align": "aligns the pooled vector with texts; its layout is not known here",
    "temp": "scales similarities in training",
    "audio_encoder": "encodes sound",
}
_BESIDE = "another network of the file"


def encoder_of(state: Mapping[str, torch.Tensor], title: str) -> tuple[State, tuple[LeftOut, ...]]:
    """Return the encoder's tensors under their own names, and what is left out.

    The retrieval vector's ``vision_proj`` and the table for images, ``img_pos_embed``, stay if the file has them.

    Raises
    ------
    WeightsError
        If there is no encoder of this family, or more than one.
    """
    kept, left_out = _select(state, _prefix(state, _ENCODER, f"{title} holds no encoder of InternVideo2"))
    weight = kept.get("patch_embed.proj.weight")
    if weight is not None and weight.ndim == 5 and weight.shape[2] == 1:
        # A convolution over one frame at a time is one over images.
        kept["patch_embed.proj.weight"] = weight.squeeze(2)  # [D,3,1,p,p] to [D,3,p,p]
    return kept, left_out


def projector_of(state: Mapping[str, torch.Tensor], title: str) -> tuple[State, tuple[LeftOut, ...]]:
    """Return the tensors of the pooling in a file that holds no encoder, and what is left out.

    Raises
    ------
    WeightsError
        If the file has no pooling, or an encoder of its own.
    """
    kept, left_out = _select(state, _prefix(state, _PROJECTOR, f"{title} holds no clip_projector"))
    if _ENCODER in kept:
        raise WeightsError(f"{title} holds a whole encoder: set weights to it, and no projector")
    return kept, left_out


def check_fit(state: State, model: str, backbone: Backbone, f0: int, title: str) -> None:
    """Raise WeightsError if an encoder has another size, or its position table is not made for ``f0`` frames."""
    width, depth = _size(state)
    if (width, depth) != (backbone.width, backbone.depth):
        others = [name for name, other in BACKBONES.items() if (other.width, other.depth) == (width, depth)]
        remedy = f": set model={others[0]}" if others else ", no published size"
        raise WeightsError(
            f"{title} does not fit {model}: it has {width} channels and {plural(depth, 'block')} instead of "
            f"{backbone.width} and {backbone.depth}{remedy}"
        )
    if "pos_embed" not in state:
        return  # which the strict loading tells
    rows, cells = state["pos_embed"].shape[1] - 1, backbone.grid**2
    if rows != f0 * cells:
        frames = f"{plural(rows // cells, 'frame')} of {backbone.grid}x{backbone.grid} patches"
        remedy = (
            f"it is made for {frames}: set f0={rows // cells}" if rows % cells == 0 else f"which f0={f0} does not give"
        )
        raise WeightsError(f"{title} does not fit f0={f0}: its position table has {rows} rows, {remedy}")


def _size(state: State) -> tuple[int, int]:
    """Return the width and the depth of an encoder by its tensors."""
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    return state[_ENCODER].shape[-1], len(blocks)


def _prefix(state: Mapping[str, torch.Tensor], key: str, missing: str) -> str:
    """Return the one prefix of wrappers under which a file has a tensor."""
    ends = [name.removesuffix(key) for name in state if name.endswith(key)]
    found = [prefix for prefix in ends if all(part in _WRAPPERS for part in prefix.split(".")[:-1])]
    if not found:
        raise WeightsError(f"{missing} (no {key}; it has {first_few(list(state), 3)})")
    if len(found) > 1:
        raise WeightsError(f"{missing.partition(' holds')[0]} holds several encoders ({first_few(found, 4)}): keep one")
    return found[0]


def _select(state: Mapping[str, torch.Tensor], prefix: str) -> tuple[State, tuple[LeftOut, ...]]:
    kept: State = {}
    counts: Counter[tuple[str, str]] = Counter()
    for name, value in state.items():
        inside = name.startswith(prefix)
        own = name.removeprefix(prefix)
        group = own.partition(".")[0]
        if own in _PROJECTION:
            kept[own] = value
        elif group in _LEFT_OUT:
            counts[group, _LEFT_OUT[group]] += 1
        elif inside:
            kept[own] = value
        else:
            counts[group, _BESIDE] += 1
    return kept, tuple(LeftOut(group, count, reason) for (group, reason), count in counts.items())
