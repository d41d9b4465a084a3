"""Text encoders: strings in, one vector each out. Describing an encoder imports no torch; loading it does."""

from extractors.text.base import TextEncoder, TextModel
from extractors.text.registry import build_text_encoder, text_encoder_names

__all__ = ["TextEncoder", "TextModel", "build_text_encoder", "text_encoder_names"]
