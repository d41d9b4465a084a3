"""Small random models of transformers, saved as the library saves its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_CLIP_TEXT = {**_SMALL, "vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}


def _dino_v2() -> Any:
    return transformers.Dinov2Config(**_SMALL, image_size=56, patch_size=14)


def _dino_v2_registers() -> Any:
    return transformers.Dinov2WithRegistersConfig(**_SMALL, image_size=56, patch_size=14, num_register_tokens=4)


def _dino_v3() -> Any:
    return transformers.DINOv3ViTConfig(**_SMALL, image_size=64, patch_size=16, num_register_tokens=4)


def _siglip() -> Any:
    text = {**_SMALL, "vocab_size": 99, "max_position_embeddings": 16}
    return transformers.SiglipConfig(vision_config={**_SMALL, "image_size": 64, "patch_size": 16}, text_config=text)


def _siglip_vision() -> Any:
    return transformers.SiglipVisionConfig(**_SMALL, image_size=64, patch_size=16)


def _clip() -> Any:
    vision = {**_SMALL, "image_size": 64, "patch_size": 16}
    return transformers.CLIPConfig(vision_config=vision, text_config=_CLIP_TEXT, projection_dim=24)


def _vit() -> Any:
    return transformers.ViTConfig(**_SMALL, image_size=64, patch_size=16)


def _convnext() -> Any:
    return transformers.ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1], image_size=64)


def _swin() -> Any:
    return transformers.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=64, window_size=4)


def _ast() -> Any:
    return transformers.ASTConfig(**_SMALL, num_mel_bins=32, max_length=128)


def _clap(**options: Any) -> Any:
    audio = {"depths": [1, 1], "num_attention_heads": [1, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16}
    audio |= {"spec_size": 64, "num_mel_bins": 16, **options}
    return transformers.ClapConfig(audio_config=audio, text_config=_CLIP_TEXT, projection_dim=24)


def _fused_clap() -> Any:
    return _clap(enable_fusion=True, fusion_type="aff_2d")


_BIT = {"size": {"shortest_edge": 72}, "crop_size": {"height": 56, "width": 56}}
_SQUARE = {"size": {"height": 64, "width": 64}}

MODELS: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "dinov2": (_dino_v2, "BitImageProcessor", {**_BIT, "image_mean": [0.485, 0.456, 0.406]}),
    "dinov2_registers": (_dino_v2_registers, "BitImageProcessor", _BIT),
    "dinov3": (_dino_v3, "DINOv3ViTImageProcessor", _SQUARE),
    "siglip": (_siglip, "SiglipImageProcessor", _SQUARE),
    "siglip_vision": (_siglip_vision, "SiglipImageProcessor", _SQUARE),
    "clip": (_clip, "CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": 64}),
    "vit": (_vit, "ViTImageProcessor", _SQUARE),
    "convnext": (_convnext, "ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.875}),
    "swin": (_swin, "ViTImageProcessor", _SQUARE),
}
"""Name of a model of images to the configuration, the class of the image processor and its settings."""


_SECONDS = {"feature_size": 16, "max_length_s": 2, "frequency_min": 50}

SOUNDS: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "ast": (_ast, "ASTFeatureExtractor", {"num_mel_bins": 32, "max_length": 128}),
    "clap": (_clap, "ClapFeatureExtractor", {**_SECONDS, "truncation": "rand_trunc"}),
    "clap_fused": (_fused_clap, "ClapFeatureExtractor", _SECONDS),
}
"""The same of models of sound, with their feature extractors."""


def save_model(folder: Path, name: str, seed: int = 1) -> Path:
    """Save one of ``MODELS`` or ``SOUNDS`` with random weights and its processor; return the folder."""
    configured, processor, settings = {**MODELS, **SOUNDS}[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = transformers.AutoModel.from_config(configured())
        for value in model.parameters():  # biases and scales that start at 0 or 1 would hide what is left out
            value.data.add_(torch.randn_like(value), alpha=0.05)
    model.save_pretrained(folder)
    getattr(transformers, processor)(**settings).save_pretrained(folder)
    return folder
