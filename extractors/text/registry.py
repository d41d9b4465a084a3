"""Text encoders by name.

A name is one of ``text_encoder_names()``: ``clip`` (the text tower of any open_clip model), ``sentence`` (a sentence
encoder of the transformers library) or ``hashed`` (no weights). ``package.module:Class`` names an encoder of the user's
own, a subclass of ``TextEncoder``, which needs no entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extractors.registry import build_named, find
from extractors.text.base import TextEncoder

_ENTRIES = {
    "clip": "extractors.text.clip:ClipText",
    "hashed": "extractors.text.hashed:HashedText",
    "sentence": "extractors.text.sentence:SentenceText",
}


def text_encoder_names() -> list[str]:
    """Return the names of the built-in text encoders, sorted."""
    return sorted(_ENTRIES)


def classes() -> dict[str, type[TextEncoder]]:
    """Return the classes of the built-in text encoders by name; their fields are the options."""
    return {name: find(TextEncoder, "text encoder", _ENTRIES, name) for name in _ENTRIES}  # type: ignore[type-abstract]  # abstract, and never built here


def build_text_encoder(name: str, options: Mapping[str, Any]) -> TextEncoder:
    """Build the text encoder ``name`` from its options.

    Raises
    ------
    ExtractorError
        If the name or an option is unknown, or an option has a wrong value; the line suggests the nearest right word.
    """
    cls: type[TextEncoder] = find(TextEncoder, "text encoder", _ENTRIES, name)  # type: ignore[type-abstract]  # abstract, and never built here
    return build_named(cls, name, options)
