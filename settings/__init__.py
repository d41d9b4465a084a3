"""Settings files: a YAML preset or file, ``a.b=c`` overrides on top, validated by a pydantic model.

A leaf: ``extractors``, ``parsers``, ``pipeline``, ``trainers``, ``jobs`` and ``bench`` may import it, and it imports
none of them. ``stores`` does not import it, because it is installed alone.

This package only reads and validates. The models, and with them every key and its default, live beside the code that
they configure:

- ``pipeline/extract/config.py``: videos, sampling, features, and the size of shards
- ``pipeline/parse/config.py``: the parser and the graphs of questions
- ``pipeline/cluster/run.py``: confounder dictionaries
- ``pipeline/shared/sizing.py``: processes, threads and memory of the machine
- ``pipeline/refresh.py``: one file that describes a whole dataset
- ``trainers/config.py``: the training loop, the same for every method
- ``trainers/cra/config.py`` and ``trainers/coqo/config.py``: data, model, losses and evaluation of a method
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from settings.messages import available, nearest, printable

__all__ = [
    "Section",
    "SettingsError",
    "describe",
    "override",
    "preset_names",
    "read",
    "read_yaml",
    "validate",
]

_LONGEST_SHOWN = 200
_SHOWN_PROBLEMS = 8

_Model = TypeVar("_Model", bound=BaseModel)


class Section(BaseModel):
    """A group of settings. It is frozen, and an unknown key in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SettingsError(Exception):
    """Raised when settings cannot be used; one line that names the file or option, and the key."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """Loads YAML in which a key given twice is an error, not a silent override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first_lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in first_lines:
                where = f"{node.start_mark.name}: line {line}"
                raise SettingsError(f"{where}: key {key!r} is given twice (first in line {first_lines[key]})")
            first_lines[key] = line
        return super().construct_mapping(node, deep)


def preset_names(folder: Path) -> list[str]:
    """Return the names of the presets in a folder of YAML files, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read(folder: Path, preset: str | None, file: Path | None, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Read a preset of ``folder`` or a file, and apply ``a.b=c`` overrides in order.

    Returns
    -------
    raw
        The settings, not validated yet.
    origin
        What to call them in messages: ``preset NAME``, or the path of the file.

    Raises
    ------
    SettingsError
        If both a preset and a file are named, there is no such preset, or something cannot be read.
    """
    if preset is not None and file is not None:
        raise SettingsError("--preset and --config exclude each other; name one")
    if file is not None:
        path, origin = file, str(file)
    else:
        names = preset_names(folder)
        if preset not in names:
            raise SettingsError(f"preset {preset!r}: unknown; {available(names)}{nearest(preset or '', names)}")
        path, origin = folder / f"{preset}.yaml", f"preset {preset}"
    raw = read_yaml(path, origin)
    for text in overrides:
        override(raw, text)
    return raw, origin


def read_yaml(path: Path, origin: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; ``origin`` names it in messages.

    Raises
    ------
    SettingsError
        If the file is missing, not UTF-8, not YAML, not a mapping, or gives a key twice.
    """
    try:
        with path.open(encoding="utf-8") as file:
            raw = yaml.load(file, Loader=_UniqueKeyLoader)
    except FileNotFoundError as error:
        raise SettingsError(f"{origin}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{origin}: not readable ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise SettingsError(f"{origin}: {where}not valid YAML ({getattr(error, 'problem', None) or error})") from error
    except (ValueError, RecursionError) as error:  # 2020-13-45 looks like a date
        raise SettingsError(f"{origin}: not valid YAML ({error})") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{origin}: must be a mapping of sections")
    return raw


def override(raw: dict[str, Any], text: str) -> None:
    """Apply an override ``a.b=c`` to ``raw``, in place; ``c`` is YAML.

    Raises
    ------
    SettingsError
        If the text has another form, its value is not YAML, or it reaches into a value as if it were a section.
    """
    name, equals, value_text = text.partition("=")
    path = name.split(".")
    option = f"--set {printable(text[:_LONGEST_SHOWN])}"
    if not equals or not all(path):
        raise SettingsError(f"{option}: must look like a.b=c")
    try:
        value = yaml.safe_load(value_text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{option}: the value is not valid YAML") from error
    section = raw
    for part in path[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise SettingsError(f"{option}: {part!r} is a value, not a section")
    section[path[-1]] = value


def validate(model: type[_Model], raw: dict[str, Any], origin: str) -> _Model:
    """Return the settings as a value of ``model``.

    Raises
    ------
    SettingsError
        With all problems in one line, as ``origin: key: what is wrong; key: what is wrong``.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(f"{origin}: {describe(error, model)}") from error


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the problems of a validation in one line, as ``key: what is wrong; key: what is wrong``."""
    problems = list(dict.fromkeys(_describe(problem, model) for problem in error.errors()))
    more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
    return "; ".join([*problems[:_SHOWN_PROBLEMS], *more])


def _describe(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, problem["loc"][:-1])
        hint = nearest(str(problem["loc"][-1]), known) or (f"; {available(known)}" if known else "")
        return f"{where}: unknown key{hint}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"{where}: required, but not given"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]} (got {problem['input']!r})"


def _known_keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the keys of the section at ``path``; none if it is not a section with fixed keys."""
    section: Any = model
    for part in path:
        field = getattr(section, "model_fields", {}).get(str(part))
        types = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        section = next((annotated for annotated in types if hasattr(annotated, "model_fields")), None)
    return sorted(getattr(section, "model_fields", ()))
