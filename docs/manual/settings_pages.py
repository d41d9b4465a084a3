"""The reference of the settings, from the pydantic models that validate them and the presets that are shipped."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from griffe import Docstring, DocstringSectionKind
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import settings
from docs.manual.markdown import code, prose, table
from extractors.registry import classes as extractor_classes
from extractors.text.registry import classes as text_encoder_classes
from pipeline.cluster import ClusterConfig
from pipeline.extract import Config
from pipeline.extract.config import PRESETS as EXTRACTION_PRESETS
from pipeline.parse import ParseConfig
from pipeline.refresh import Dataset
from trainers import METHODS, PRESETS, find_method

__all__ = ["MODELS", "Setting", "options", "settings_pages", "walk"]

MODELS: Mapping[str, type[BaseModel]] = {
    "extract": Config,
    "parse": ParseConfig,
    "cluster": ClusterConfig,
    "refresh": Dataset,
    **{f"train {name}": find_method(name).settings for name in METHODS},
}
"""Command to the model of its settings."""
_STEP: Mapping[type, str] = {Mapping: "NAME", dict: "NAME", tuple: "N"}
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes
    ----------
    key
        Its dotted name; ``NAME`` stands for a name of the user's, ``N`` for a place in a list.
    type
        What values it takes, for a person.
    default
        Its default as YAML; empty if it must be given.
    meaning
        What its docstring says; empty if it has none.
    """

    key: str
    type: str
    default: str
    meaning: str


def settings_pages() -> dict[str, str]:
    """Return the pages of the reference, by their names on the site."""
    pages = {"reference/settings/index.md": _index()}
    for command, model in MODELS.items():
        pages[f"reference/settings/{_stem(command)}.md"] = _page(command, model)
    pages["reference/settings/extractors.md"] = _options_page(
        "Options of extractors", "`features.NAME.extractor` of `extract.py`", extractor_classes()
    )
    pages["reference/settings/encoders.md"] = _options_page(
        "Options of text encoders", "`encoder.name` of `cluster.py`", text_encoder_classes()
    )
    return pages


def walk(model: type[BaseModel], given: BaseModel | None = None, prefix: str = "") -> Iterator[Setting]:
    """Yield every setting of a model in its order, those of its sections in their place.

    Parameters
    ----------
    model
        The model.
    given
        A value of it whose fields are the defaults; those of the model if not given.
    prefix
        What stands before every key.
    """
    for name, field in model.model_fields.items():
        default = getattr(given, name) if given is not None else field.get_default(call_default_factory=True)
        section, step = _section(field.annotation)
        if section is None or step:
            yield Setting(
                prefix + name, _type(field.annotation, field.metadata), _default(default), _meaning(model, name)
            )
        if section is not None:
            inner = default if isinstance(default, BaseModel) else None
            yield from walk(section, inner, f"{prefix}{name}.{step}")


def options(model: type[BaseModel]) -> list[Setting]:
    """Return the options of an extractor or text encoder."""
    return list(walk(model))


def _section(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """Return the model that a field holds, alone or several times, and what stands for one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    for argument in get_args(annotation):
        section, step = _section(argument)
        if section is not None:
            origin = get_origin(annotation)
            several = next((word for kind, word in _STEP.items() if origin is kind or _is_mapping(origin, kind)), "")
            return section, f"{several}.{step}" if several else step
    return None, ""


def _is_mapping(origin: Any, kind: type) -> bool:
    return kind is Mapping and isinstance(origin, type) and issubclass(origin, Mapping)


def _type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return what values a field takes, as a person would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], arguments[1:])
    if origin is Literal:
        return " or ".join(code(_yaml(value)) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is tuple:
        inner = [argument for argument in arguments if argument is not Ellipsis]
        if Ellipsis in arguments:
            return f"list of {_type(inner[0])}"
        return f"list of {len(inner)}: {', '.join(_type(argument) for argument in inner)}"
    if origin is not None and _is_mapping(origin, Mapping):
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if annotation is type(None):
        return "`null`"
    names = {str: "text", int: "integer", float: "number", bool: "`true` or `false`", Path: "path", Any: "value"}
    name = names.get(annotation, "section" if _section(annotation)[0] else getattr(annotation, "__name__", "value"))
    return f"{name}{_bounds(metadata)}"


def _bounds(metadata: Sequence[Any]) -> str:
    flat = [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]
    words = []
    for item in flat:
        words += [f"{sign} {getattr(item, name):g}" for name, sign in _BOUNDS.items() if hasattr(item, name)]
        if isinstance(item, annotated_types.MultipleOf):
            words.append(f"a multiple of {item.multiple_of}")
        if isinstance(item, annotated_types.MinLen) and item.min_length == 1:
            words.append("not empty")
        if pattern := getattr(item, "pattern", None):
            words.append(code(str(pattern)))
    return f" {', '.join(words)}" if words else ""


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return ""
    return code(_yaml(_plain(value)))


def _plain(value: Any) -> Any:
    """Return a value as what YAML and JSON know."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _meaning(model: type[BaseModel], name: str) -> str:
    """Return what is said of a field: below it, or in the section Attributes of its class or of one above."""
    described = model.model_fields[name].description
    if described:
        return inspect.cleandoc(described)
    return next((text for cls in model.__mro__ if (text := _attributes(cls).get(name))), "")


@cache
def _attributes(cls: type) -> dict[str, str]:
    said = {}
    for section in Docstring(inspect.cleandoc(cls.__dict__.get("__doc__") or "")).parse("numpy"):
        if section.kind is DocstringSectionKind.attributes:
            for attribute in section.value:
                for name in attribute.name.split(","):
                    said[name.strip()] = attribute.description
    return said


def _stem(command: str) -> str:
    return command.replace(" ", "-")


def _said(cls: type) -> str:
    """Return the sentences of a class, without its sections."""
    first = Docstring(inspect.getdoc(cls) or "").parse("numpy")[0]
    return prose(str(first.value)) if first.kind is DocstringSectionKind.text else ""


def _rows(found: Sequence[Setting]) -> str:
    return table(
        ("setting", "values", "default", "meaning"),
        [(code(one.key), one.type, one.default or "must be given", prose(one.meaning)) for one in found],
    )


def _index() -> str:
    rows = [(f"[`{command}`]({_stem(command)}.md)", _said(model)) for command, model in MODELS.items()]
    return (
        "# Settings\n\nThese pages are written from the code when the site is built. A setting `a.b` is given as "
        "`--set a.b=VALUE`, or in a YAML file (`--config`) as key `b` below `a`; VALUE is read as YAML. Each command "
        "prints its settings with `--show-config` and their JSON Schema with `--schema`.\n\n"
        + table(("command", "settings"), rows)
        + "\nThe options of [extractors](extractors.md) and [text encoders](encoders.md) stand beside the settings of "
        "the section that names one.\n"
    )


def _page(command: str, model: type[BaseModel]) -> str:
    job = command.partition(" ")[0]
    what = "`DATASET.yaml` of " if command == "refresh" else ""
    parts = [f"# Settings of {command}\n", _said(model), f"\nThey are the settings of {what}`python jobs/{job}.py`.\n"]
    groups: dict[str, list[Setting]] = {}
    for one in walk(model):
        groups.setdefault(one.key.partition(".")[0] if "." in one.key else "", []).append(one)
    alone = groups.pop("", [])
    for one in list(alone):
        if one.key in groups:
            alone.remove(one)
            groups[one.key].insert(0, one)
    for name, found in ([("General", alone)] if alone else []) + list(groups.items()):
        section = _section(model.model_fields[name].annotation)[0] if name in model.model_fields else None
        heading = f"## {code(name)}" if name != "General" else "## General"
        parts.append(f"{heading}\n\n{_said(section) if section else ''}\n\n{_rows(found)}")
    presets = _presets(command)
    if presets:
        parts.append("## Presets\n\nWhat each preset sets, beside the default where there is one.\n")
        parts += [f"### {code(name)}\n\n{_differences(model, value)}" for name, value in presets]
    return "\n".join(parts)


def _presets(command: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what the presets of a command set, that of the method's own name first, then by name."""
    folder = {"extract": EXTRACTION_PRESETS}.get(command, PRESETS if command.startswith("train ") else None)
    if folder is None:
        return []
    method = command.removeprefix("train ")
    found = []
    for name in settings.preset_names(folder):
        if folder is PRESETS and name.partition("-")[0] in {*METHODS} - {method}:
            continue
        raw, origin = settings.read(folder, name, None, [])
        with suppress(settings.SettingsError):  # the preset of another method
            if folder is PRESETS:
                settings.validate(MODELS[command], raw, origin)
            found.append((name, raw))
    return sorted(found, key=lambda pair: (pair[0] != method, pair[0]))


def _differences(model: type[BaseModel], raw: Mapping[str, Any]) -> str:
    defaults = {one.key: one.default for one in walk(model)}
    rows = []
    for key, value in _flat(raw):
        shown = code(_yaml(value))
        default = defaults.get(re.sub(r"^features\.\w+", "features.NAME", key), "")
        if shown != default:
            rows.append((code(key), shown, default))
    return table(("setting", "value", "default"), rows) if rows else "All settings have their defaults.\n"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _options_page(title: str, where: str, classes: Mapping[str, type[BaseModel]]) -> str:
    parts = [f"# {title}\n\nThe names that {where} takes, each with its options; they stand beside it.\n"]
    for name, cls in classes.items():
        found = options(cls)
        parts.append(f"## {code(name)}\n\n{_said(cls)}\n\n{_rows(found) if found else 'It has no options.'}\n")
    return "\n".join(parts)
