"""open_clip's table of pretrained weights, read from its installed source without running any of it.

Importing open_clip imports torch (seconds, hundreds of megabytes), which planning and decoding must not pay for. The
table is a Python module of literals, names, ``dict(…)`` and short helpers that return one dictionary
(``_pcfg(url=…, quick_gelu=True)``); exactly these forms are evaluated here. If an open_clip writes its table in another
form, a child process imports it and sends the table back, which takes a few seconds.
"""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from extractors.base import ExtractorError
from settings.messages import one_line

logger = logging.getLogger("reelstore.extractors.clip_table")

Table: TypeAlias = dict[str, dict[str, dict[str, Any]]]

_TABLE = "_PRETRAINED"
_PRINT_TABLE = f"import json; from open_clip.pretrained import {_TABLE} as table; print(json.dumps(table))"


class _UnknownFormError(Exception):
    """Raised when an expression has a form that is not evaluated."""


def read_table(package: Path) -> Table:
    """Read the table of pretrained weights: model, then tag, then its preprocessing and address.

    Parameters
    ----------
    package
        Folder of the installed open_clip.

    Raises
    ------
    ExtractorError
        If this open_clip has no such table.
    """
    try:
        module = _Literals()
        for name in ("constants.py", "pretrained.py"):
            module.read(package / name)
        table: Table = module.values[_TABLE]
        return table
    except (OSError, SyntaxError, KeyError) as error:
        logger.warning("importing open_clip to read its table of weights, whose form is unknown (%s)", one_line(error))
        logger.debug("%s was not understood", package / "pretrained.py", exc_info=True)
        return _imported_table()


def _imported_table() -> Table:
    done = subprocess.run([sys.executable, "-c", _PRINT_TABLE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = one_line((done.stderr.splitlines() or ["no output"])[-1])
        raise ExtractorError(f"open_clip's table of weights cannot be read ({reason}); install open_clip_torch 3")
    table: Table = json.loads(done.stdout.splitlines()[-1], object_hook=_with_tuples)
    return table


def _with_tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the lists of a JSON object back into the tuples that they were in Python."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


class _Literals:
    """The module-level names of Python files, as far as their values are made of the known forms."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._functions: dict[str, ast.FunctionDef] = {}

    def read(self, path: Path) -> None:
        """Add the names of a file; one whose value has an unknown form is left out."""
        for statement in ast.parse(path.read_text("utf-8")).body:
            match statement:
                case ast.FunctionDef():
                    self._functions[statement.name] = statement
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    try:
                        self.values[name] = self._value(value, self.values)
                    except _UnknownFormError:
                        self.values.pop(name, None)

    def _value(self, node: ast.expr | None, names: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.Tuple(elts=elements):
                return tuple(self._value(element, names) for element in elements)
            case ast.Dict(keys=keys, values=values):
                return self._mapping(zip(keys, values, strict=True), names)
            case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
                arguments = self._mapping(
                    ((ast.Constant(word.arg) if word.arg else None, word.value) for word in keywords), names
                )
                return arguments if name == "dict" else self._call(name, arguments)
        raise _UnknownFormError

    def _mapping(self, items: Iterable[tuple[ast.expr | None, ast.expr]], names: Mapping[str, Any]) -> dict[Any, Any]:
        """Evaluate keys and values; a key that is None stands for ``**value``."""
        mapping: dict[Any, Any] = {}
        for key, item in items:
            value = self._value(item, names)
            mapping.update(value if key is None else {self._value(key, names): value})
        return mapping

    def _call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Evaluate a helper ``def name(a=…, **rest): return …`` that is called with keywords only."""
        function = self._functions.get(name)
        match function:
            case ast.FunctionDef(body=[ast.Return(value=result)], args=ast.arguments(kwarg=ast.arg(arg=rest))):
                signature = function.args
            case _:
                raise _UnknownFormError
        if signature.posonlyargs or signature.kwonlyargs:
            raise _UnknownFormError
        parameters = [parameter.arg for parameter in signature.args]
        with_default = parameters[len(parameters) - len(signature.defaults) :]
        local = dict(self.values)
        for parameter, default in zip(with_default, signature.defaults, strict=True):
            local[parameter] = self._value(default, self.values)
        local |= {word: value for word, value in arguments.items() if word in parameters}
        local[rest] = {word: value for word, value in arguments.items() if word not in parameters}
        return self._value(result, local)
