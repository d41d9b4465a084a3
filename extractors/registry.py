"""Extractors by name.

A name is one of ``names()``, or ``package.module:Class`` for a backbone of the user's own, which needs no entry here.
An installed package gives its backbones names by entry points of the group ``reelstore.extractors``. The spec of a
class that is not built in holds the digest of its file, so its rows are computed anew once it is edited.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import ValidationError

from extractors.base import Description, Extractor, ExtractorError, is_built_in
from settings import SettingsError
from settings.messages import available, nearest, one_line

_Described = TypeVar("_Described", bound=Description)

_LONGEST_NAME = 100

_ENTRIES = {
    "beats": "extractors.beats:Beats",
    "clip": "extractors.clip:Clip",
    "hf": "extractors.hf:Hf",
    "hf_audio": "extractors.hf_audio:HfAudio",
    "hue_hog": "extractors.hue_hog:HueHog",
    "internvideo2": "extractors.internvideo2:InternVideo2",
    "logmel_bands": "extractors.logmel_bands:LogmelBands",
    "rgb_grid": "extractors.rgb_grid:RgbGrid",
    "swin": "extractors.swin:Swin",
    "timm": "extractors.timm_models:Timm",
    "vggish": "extractors.vggish:Vggish",
}


GROUP = "reelstore.extractors"
"""Group of the entry points by which installed packages name their extractors."""


def names() -> list[str]:
    """Return the names of the built-in extractors and of those that installed packages name, sorted.

    Raises
    ------
    ExtractorError
        If two packages give one name to different classes.
    """
    return sorted(_entries())


def _entries() -> dict[str, str]:
    """Return ``package.module:Class`` by name; no package can take the name of a built-in extractor."""
    installed: dict[str, str] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        if installed.setdefault(entry.name, entry.value) != entry.value:
            raise ExtractorError(
                f"two installed packages name an extractor {entry.name!r}: {installed[entry.name]} and {entry.value}; "
                "name the class itself, or uninstall one"
            )
        if entry.name in _ENTRIES:
            warnings.warn(
                f"extractor {entry.name!r} is the built-in one; that of an installed package is {entry.value!r}",
                stacklevel=3,
            )
    return {**installed, **_ENTRIES}


def classes() -> dict[str, type[Extractor]]:
    """Return the classes of the built-in extractors by name; their fields are the options."""
    return {name: find(Extractor, "extractor", _ENTRIES, name) for name in _ENTRIES}  # type: ignore[type-abstract]  # abstract, and never built here


def build(name: str, options: Mapping[str, Any]) -> Extractor:
    """Build the extractor ``name`` from its options.

    Raises
    ------
    ExtractorError
        If the name or an option is unknown, or an option has a wrong value; the line suggests the nearest right word.
    """
    entries = _ENTRIES if name in _ENTRIES or ":" in name else _entries()
    cls: type[Extractor] = find(Extractor, "extractor", entries, name)  # type: ignore[type-abstract]  # abstract, and never built here
    return build_named(cls, name, options)


def find(base: type[_Described], noun: str, entries: Mapping[str, str], name: str) -> type[_Described]:
    """Return the subclass of ``base`` that ``name`` means: one of ``entries``, or ``package.module:Class``.

    Raises
    ------
    ExtractorError
        If there is none; the line calls it a ``noun`` and suggests the nearest right name.
    """
    if name not in entries and ":" not in name:
        known = sorted(entries)
        raise ExtractorError(f"unknown {noun} {name!r}{nearest(name, known)} ({available(known)})")
    cls = _import(base, noun, entries.get(name, name))
    if cls.code_sha256 is None and not is_built_in(cls):
        warnings.warn(
            f"{noun} {name!r}: its source cannot be read, so an edit would not be noticed; raise its version "
            "whenever its numbers change",
            stacklevel=2,
        )
    return cls


def build_named(cls: type[_Described], name: str, options: Mapping[str, Any]) -> _Described:
    """Build ``cls`` from its options.

    Raises
    ------
    ExtractorError
        If an option is unknown or has a wrong value; the line begins with ``name``.
    """
    try:
        return cls.model_validate(dict(options))
    except ValidationError as error:
        raise ExtractorError(f"{name}: {_first_problem(error, cls)}") from error
    except ExtractorError as error:
        raise type(error)(f"{name}: {error}") from error


def check_code(raw: object, origin: str, allowed: bool) -> None:
    """Refuse settings that name code, ``package.module:Class``, unless that is allowed: reading them imports it.

    A class that an installed package names by an entry point of the group ``reelstore.extractors`` is allowed.

    Parameters
    ----------
    raw
        Settings as they were read: mappings, lists and values. Code may stand under ``extractor`` and, for text
        encoders, under ``name``.
    origin
        What to call them in the message.
    allowed
        Whether all code is.

    Raises
    ------
    SettingsError
        With one line that names the key and the option that allows it.
    """
    if allowed:
        return
    for key, name in _named_code(raw):
        if name not in _entries().values():
            raise SettingsError(
                f"{origin}: {key}: {one_line(name, _LONGEST_NAME)} is code, which settings may not run unasked; "
                "if you trust it, give --allow-code (with --plan as well)"
            )


def _named_code(raw: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of what names a class in settings."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            if key in ("extractor", "name") and isinstance(value, str) and ":" in value:
                yield ".".join((*path, key)), value
            yield from _named_code(value, (*path, str(key)))
    elif isinstance(raw, list):
        for number, value in enumerate(raw):
            yield from _named_code(value, (*path, str(number)))


def _import(base: type[_Described], noun: str, target: str) -> type[_Described]:
    module_name, _, class_name = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExtractorError(f"{noun} {target!r} cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ExtractorError(f"{noun} {target!r} is not a subclass of {base.__module__}.{base.__name__}")
    return cls


def _first_problem(error: ValidationError, cls: type[Description]) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    option = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = sorted(cls.model_fields)
        text = f"unknown option {option!r}{nearest(option, known)} ({available(known)})"
    else:
        reason = first["msg"].removeprefix("Value error, ")
        value = f" (got {first['input']!r})" if option and first["type"] != "missing" else ""
        text = f"option {option!r}: {reason}{value}" if option else reason
    more = len(problems) - 1
    return " ".join(text.split()) + (f" (and {more} more)" if more else "")
