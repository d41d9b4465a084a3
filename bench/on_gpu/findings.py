"""Keeps what was found on disk: one JSON file per section and one for all, rewritten whenever something is added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import plain, replace_text

MERGED = "gpu.json"


class Findings:
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
        self._write(f"{section}.json", self.sections[section])
        self._write(MERGED, self.sections)

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        replace_text(self.folder / name, json.dumps(values, indent=1) + "\n")
