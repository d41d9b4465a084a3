"""The reference of the classes and functions, as directives that mkdocstrings fills from the source.

Which ones there are is read from ``__all__`` of the reader and from the imports of ``docs/extending.md``, so that
nobody keeps a list. Nothing is imported: Python's own parser reads the files.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

__all__ = ["api_pages", "extension_points", "public_names"]

_ROOT = Path(__file__).resolve().parents[2]
_OURS = ("extractors", "parsers", "settings", "trainers")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
_READER = {
    "store": ("reelstore", "stores/__init__.py", "The reader"),
    "loading": ("reelstore.loading", "stores/loading/__init__.py", "Loading"),
}
_REGISTRIES = {
    "Extractors": ("extractors.registry.names", "extractors.registry.build"),
    "Text encoders": ("extractors.text.registry.text_encoder_names", "extractors.text.registry.build_text_encoder"),
    "Annotation formats": ("parsers.annotations.FORMATS",),
    "Export targets": ("reelstore.exchange.exporting.TARGETS",),
    "Training methods": ("trainers.methods.METHODS", "trainers.methods.Method", "trainers.methods.find_method"),
}
_EVALUATORS = ("grounding", "moments", "avqa", "videoqa", "numbers", "rules")


def public_names(file: str) -> list[str]:
    """Return what ``__all__`` of a file lists, in its order."""
    for node in ast.parse((_ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise ValueError(f"{file} has no __all__")


def extension_points() -> list[str]:
    """Return the dotted names of ours that the examples of ``docs/extending.md`` import, in their order."""
    found: dict[str, None] = {}
    for block in _BLOCK.findall((_ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.ImportFrom) or "my_" in (node.module or ""):
                continue
            module = node.module or ""
            if node.level:  # the example of a target, a file of stores/exchange
                module = f"reelstore.exchange.{module}"
            if module.partition(".")[0] in (*_OURS, "reelstore"):
                found.update(dict.fromkeys(f"{module}.{alias.name}" for alias in node.names))
    return [name for name in found if name not in {target for row in _REGISTRIES.values() for target in row}]


def api_pages() -> dict[str, str]:
    """Return the pages of the reference, by their names on the site."""
    pages = {}
    for stem, (package, file, title) in _READER.items():
        body = "\n".join(_directive(f"{package}.{name}") for name in _first_store(public_names(file)))
        pages[f"reference/api/{stem}.md"] = f"# {title}: {package}\n\n{body}"
    registries = "\n".join(
        f"### {heading}\n\n" + "\n".join(_directive(target, level=4) for target in targets)
        for heading, targets in _REGISTRIES.items()
    )
    points = "\n".join(_directive(name, level=3) for name in extension_points())
    pages["reference/api/extending.md"] = (
        "# Registries and base classes\n\nWhat [the page about extending](../../extending.md) uses, in its order.\n\n"
        f"## Registries\n\n{registries}\n## What extensions build on\n\n{points}"
    )
    pages["reference/api/evaluators.md"] = "# Evaluators: trainers.metrics\n\n" + "\n".join(
        _directive(f"trainers.metrics.{name}", members=True) for name in _EVALUATORS
    )
    return pages


def _first_store(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != "Store", name))


def _directive(name: str, level: int = 2, members: bool = False) -> str:
    options = f"    options:\n      heading_level: {level}\n"
    if members:
        options += "      show_root_members_full_path: false\n"
    return f"::: {name}\n{options}"
