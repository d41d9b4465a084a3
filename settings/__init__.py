"""Settings files: a YAML preset or file, ``a.b=c`` overrides on top, validated by a pydantic model.

A leaf that every house may import; it imports none.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)


class Section(BaseModel):
    """A group of settings: frozen, and an unknown key in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SettingsError(Exception):
    """Settings cannot be used. The message is one line that names the file or option and the key."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not a silent override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in seen:
                raise SettingsError(
                    f"{node.start_mark.name}: line {line}: key {key!r} is given twice (first in line {seen[key]})"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def preset_names(folder: Path) -> list[str]:
    """The presets of a folder of YAML files, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read(folder: Path, preset: str | None, file: Path | None, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """A preset of ``folder`` or a file, with ``a.b=c`` overrides applied in order, and what to call it in messages.

    Raises
    ------
    SettingsError
        If both are named, none is there, or something cannot be read.
    """
    if preset is not None and file is not None:
        raise SettingsError("--preset and --config exclude each other; name one")
    if file is not None:
        path, origin = file, str(file)
    else:
        names = preset_names(folder)
        if preset not in names:
            raise SettingsError(
                f"preset {preset!r}: unknown; there is {', '.join(names)}{nearest(preset or '', names)}"
            )
        path, origin = folder / f"{preset}.yaml", f"preset {preset}"
    raw = read_yaml(path, origin)
    for each in overrides:
        override(raw, each)
    return raw, origin


def read_yaml(path: Path, origin: str) -> dict[str, Any]:
    """A YAML file that must hold a mapping; ``origin`` names it in messages.

    Raises
    ------
    SettingsError
        If it is missing, not UTF-8, not YAML, not a mapping, or gives a key twice.
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
    """Apply ``a.b=c`` in place; the value is YAML.

    Raises
    ------
    SettingsError
        If the text has another form or reaches into a value.
    """
    name, equals, value_text = text.partition("=")
    path = name.split(".")
    if not equals or not all(path):
        raise SettingsError(f"--set {text}: must look like a.b=c")
    try:
        value = yaml.safe_load(value_text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"--set {text[:200]}: the value is not valid YAML") from error
    section = raw
    for part in path[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise SettingsError(f"--set {text}: {part!r} is a value, not a section")
    section[path[-1]] = value


def validate(model: type[_Model], raw: dict[str, Any], origin: str) -> _Model:
    """The validated value.

    Raises
    ------
    SettingsError
        With the first problem, as ``origin: key: what is wrong``.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(f"{origin}: {describe(error, model)}") from error


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation, as ``key: what is wrong``."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, problem["loc"][:-1])
        more = nearest(str(problem["loc"][-1]), known) or ("; there is " + ", ".join(known) if known else "")
        return f"{where}: unknown key{more}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"{where}: required, but not given"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]} (got {problem['input']!r})"


def _known_keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys of the section at ``path``; none where it is not a section of fixed keys."""
    section: Any = model
    for part in path:
        field = getattr(section, "model_fields", {}).get(str(part))
        choices = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        section = next((each for each in choices if hasattr(each, "model_fields")), None)
    return sorted(getattr(section, "model_fields", ()))


def nearest(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` when something near is known, else nothing."""
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""
