"""Extractors by name.

A name is one of `names()` or `package.module:Class` for a backbone of the user's own, which needs no entry here.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from extractors.base import Extractor, ExtractorError

_Named = TypeVar("_Named", bound=BaseModel)

_ENTRIES = {
    "clip": "extractors.clip:Clip",
    "hue_hog": "extractors.hue_hog:HueHog",
    "logmel_bands": "extractors.logmel_bands:LogmelBands",
    "rgb_grid": "extractors.rgb_grid:RgbGrid",
    "swin": "extractors.swin:Swin",
    "vggish": "extractors.vggish:Vggish",
}


def names() -> list[str]:
    """The built-in extractors, sorted."""
    return sorted(_ENTRIES)


def build(name: str, options: Mapping[str, Any]) -> Extractor:
    """Build the extractor `name` from its options.

    Raises
    ------
    ExtractorError:
        The name is unknown or an option is; one line that names it and, where there is one, the nearest right word.
    """
    return build_named(extractor_class(name), name, options)


def extractor_class(name: str) -> type[Extractor]:
    """The class behind a name. Raises ExtractorError if there is none."""
    # mypy does not take an abstract class for type[T]
    return find(Extractor, "extractor", _ENTRIES, name)  # type: ignore[type-abstract]


def find(base: type[_Named], kind: str, entries: Mapping[str, str], name: str) -> type[_Named]:
    """The subclass of ``base`` that ``name`` means: one of ``entries`` or ``package.module:Class``.

    Raises
    ------
    ExtractorError:
        There is none; the line names the ``kind``, and the nearest right word if there is one.
    """
    if name in entries:
        return _import(base, kind, entries[name])
    if ":" in name:
        return _import(base, kind, name)
    known = sorted(entries)
    raise ExtractorError(f"unknown {kind} {name!r}{_did_you_mean(name, known)}; known: {', '.join(known)}")


def build_named(cls: type[_Named], name: str, options: Mapping[str, Any]) -> _Named:
    """``cls`` from its options. Raises ExtractorError, one line that begins with ``name``."""
    try:
        return cls.model_validate(dict(options))
    except ValidationError as error:
        raise ExtractorError(f"{name}: {_first_problem(error, cls)}") from error
    except ExtractorError as error:
        raise type(error)(f"{name}: {error}") from error


def _import(base: type[_Named], kind: str, target: str) -> type[_Named]:
    module_name, _, class_name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExtractorError(f"{kind} {target!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ExtractorError(f"{kind} {target!r} is not a subclass of {base.__module__}.{base.__name__}")
    return found


def _first_problem(error: ValidationError, cls: type[BaseModel]) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    option = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = sorted(cls.model_fields)
        text = f"unknown option {option!r}{_did_you_mean(option, known)}; known: {', '.join(known)}"
    else:
        reason = first["msg"].removeprefix("Value error, ")
        value = f" (got {first['input']!r})" if option and first["type"] != "missing" else ""
        text = f"option {option!r}: {reason}{value}" if option else reason
    more = len(problems) - 1
    return " ".join(text.split()) + (f" (and {more} more)" if more else "")


def _did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""
