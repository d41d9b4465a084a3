"""Keeps what was found on disk: one JSON file per section and one for all, rewritten whenever something is added."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

MERGED = "gpu.json"


class Report:
    """The findings of all sections.

    Parameters
    ----------
    folder
        Where ``SECTION.json`` and ``gpu.json`` are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sections: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, section: str, name: str, value: Any) -> None:
        """Add a finding, or replace it, and write both files: whoever is killed now leaves it behind."""
        self.sections.setdefault(section, {})[name] = plain(value)
        _replace(self.folder / f"{section}.json", self.sections[section])
        _replace(self.folder / MERGED, self.sections)

    def copy_to(self, path: Path) -> None:
        """Write the findings of all sections to another file, too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, self.sections)


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: objects as dicts, numbers that are not finite as null."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(part) for part in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _replace(path: Path, values: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
