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

from settings.files import read_bytes
from settings.messages import available, nearest, one_line, printable

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
_WORDED_PROBLEMS = 64  # of a hostile file with as many wrong keys as it has bytes
_SETTINGS_BYTES = 1 << 20
_MOST_VALUES = 20_000  # far above the longest real file
_MOST_LEVELS = 100
_LONGEST_NUMBER = 1000
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")  # 1:1:1 is one, to the base of sixty

_Model = TypeVar("_Model", bound=BaseModel)


class Section(BaseModel):
    """A group of settings. It is frozen, and an unknown key in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SettingsError(Exception):
    """Raised when settings cannot be used; one line that names the file or option, and the key."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """Loads YAML in which a key given twice is an error, not a silent override, and which ends with too many values."""

    values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        self.values += 1
        if node is not None and self.values > _MOST_VALUES:
            raise _refused(node, f"more than {_MOST_VALUES} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first_lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in first_lines:
                shown = one_line(repr(key), _LONGEST_SHOWN)
                raise _refused(key_node, f"key {shown} is given twice (first in line {first_lines[key]})")
            first_lines[key] = line
        return super().construct_mapping(node, deep)


def _load(text: str | bytes, name: str) -> Any:
    """Load one YAML document, whose size with all its aliases written out is bounded.

    Raises
    ------
    SettingsError, yaml.YAMLError, ValueError, RecursionError
        If it gives a key twice or is too large; is not YAML; holds a value that is none; is nested too deeply.
    """
    loader = _UniqueKeyLoader(text)
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _refused(node: yaml.Node, problem: str) -> SettingsError:
    return SettingsError(f"{node.start_mark.name}: line {node.start_mark.line + 1}: {problem}")


def _check_size(root: yaml.Node) -> None:
    """Raise ``SettingsError`` if a document is large or deep once its aliases are written out, or holds itself."""
    sizes: dict[int, tuple[int, int]] = {}  # of a node that is done: values in it, and levels
    open_nodes: set[int] = set()
    stack = [root]
    while stack:
        node = stack[-1]
        children = _children(node)
        if id(node) in open_nodes:
            stack.pop()
            open_nodes.discard(id(node))
            inside = [sizes[id(child)] for child in children]
            values, levels = 1 + sum(count for count, _ in inside), 1 + max((deep for _, deep in inside), default=0)
            if values > _MOST_VALUES:
                raise _refused(node, f"more than {_MOST_VALUES} values, with aliases written out")
            if levels > _MOST_LEVELS:
                raise _refused(node, f"more than {_MOST_LEVELS} levels, with aliases written out")
            sizes[id(node)] = values, levels
        elif id(node) in sizes:
            stack.pop()
        else:
            if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
                raise _refused(node, f"a number of {len(node.value)} characters")
            if any(id(child) in open_nodes for child in children) or node in children:
                raise _refused(node, "not valid YAML (a value that holds itself)")
            open_nodes.add(id(node))
            stack += [child for child in children if id(child) not in sizes]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


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
        raw = _load(read_bytes(path, _SETTINGS_BYTES).decode("utf-8"), str(path))
    except FileNotFoundError as error:
        raise SettingsError(f"{origin}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{origin}: not readable ({getattr(error, 'strerror', None) or error})") from error
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
        value = _load(value_text, option)
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
        raise SettingsError(f"{origin}: {describe(error, model, raw)}") from error


def describe(error: ValidationError, model: type[BaseModel], raw: Mapping[str, Any] | None = None) -> str:
    """Return the problems of a validation in one line, as ``key: what is wrong; key: what is wrong``.

    ``raw`` is what was validated: beside a section that lacks something, it may hold the one that was meant.
    """
    found = error.errors(include_url=False)
    problems = list(dict.fromkeys(_describe(problem, model, raw) for problem in found[:_WORDED_PROBLEMS]))
    rest = len(problems[_SHOWN_PROBLEMS:]) + len(found[_WORDED_PROBLEMS:])
    more = [f"and {rest} more"] if rest else []
    return "; ".join([*problems[:_SHOWN_PROBLEMS], *more])


def _describe(problem: Mapping[str, Any], model: type[BaseModel], raw: Mapping[str, Any] | None) -> str:
    where = ".".join(one_line(str(part), _LONGEST_SHOWN) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, problem["loc"][:-1])
        hint = nearest(str(problem["loc"][-1])[:_LONGEST_SHOWN], known) or (f"; {available(known)}" if known else "")
        return f"{where}: unknown key{hint}"
    if problem["type"] == "value_error":
        return one_line(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"{where}: required, but not given{_sibling(raw, problem['loc'][:-1])}"
    given = one_line(repr(problem["input"]), _LONGEST_SHOWN)
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]} (got {given})"


def _sibling(raw: Any, path: Sequence[int | str]) -> str:
    """Return the name of the section beside the one at ``path`` that may have been meant, as ``nearest`` does."""
    if not path:
        return ""
    for part in path[:-1]:
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    beside = [str(key) for key in raw if key != path[-1]] if isinstance(raw, Mapping) else []
    return nearest(str(path[-1])[:_LONGEST_SHOWN], beside)


def _known_keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the keys of the section at ``path``; none if it is not a section with fixed keys."""
    section: Any = model
    for part in path:
        field = getattr(section, "model_fields", {}).get(str(part))
        types = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        section = next((annotated for annotated in types if hasattr(annotated, "model_fields")), None)
    return sorted(getattr(section, "model_fields", ()))
