"""The dataset card: the ``README.md`` of a store, generated from its manifest and specs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..format import durable, layout
from ..format.inside import Root, StorePath
from ..format.manifest import load
from ..store import Store
from ..wording import one_line
from .coverage import coverage, coverage_lines
from .hub_head import hub_head
from .inspect import count_media_damage, rounding_errors, weights_of


def write_card(root: Root) -> str:
    """Write the card of the latest version into the store, and return its text."""
    root = StorePath.of(root)
    text = render_card(Store(root.root, load(root)))
    durable.replace_file(root / layout.CARD, root / layout.STAGING / f"{layout.new_id()}.md", text.encode())
    return text


def render_card(store: Store, license: str = "unknown") -> str:
    """Return the card as Markdown: features with specs and numerics, tables, and what is missing.

    Before it comes the YAML head that hubs of datasets read; ``license`` is an identifier of theirs.
    """
    lines = [
        *hub_head(store, license),
        "# Reelstore dataset card",
        "",
        f"Version {store.version} of {code(store.path.name)}, generated from the manifest; do not edit.",
        "",
        *_overview(store),
    ]
    for name in store.features:
        lines += ["", f"## {name}", "", *_feature(store, name)]
    lines += ["", "## Coverage", "", *_coverage(store)]
    if store.tables:
        lines += ["", "## Tables", "", *_tables(store)]
    lines += ["", "## Rows that failed", "", *_missing(store)]
    lines += ["", "## Reading", "", *_example(store), ""]
    return "\n".join(lines)


def plain(value: object) -> str:
    """Return text that Markdown shows as it is, on one line: what a store says of itself may come from anybody."""
    return re.sub(r"([\\`*\[\]<>!|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", one_line(str(value)))


def code(text: str) -> str:
    """Return text as inline code, on one line, whatever it holds."""
    shown = one_line(text, longest=1 << 20)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if "`" in shown or not shown.strip() else f"`{shown}`"


def _overview(store: Store) -> list[str]:
    """Return a table with one line per feature."""
    lines = ["| feature | rows | row shape | dtype | weights | spec |", "|---|---:|---|---|---|---|"]
    for name, info in store.features.items():
        spec = store.spec(name)
        steps = "T" if spec.get("steps") is None else str(spec["steps"])
        shape = "×".join([steps, *map(str, spec.get("step_shape", []))])
        lines.append(
            f"| {name} | {info.rows} | {plain(shape)} | {plain(spec.get('dtype', ''))} | {_weights(spec)} | "
            f"`{info.spec_digest[:8]}` |"
        )
    return lines


def _weights(spec: Mapping[str, Any]) -> str:
    weights = weights_of(spec)
    return "none" if weights is None else code(json.dumps(weights, sort_keys=True)).replace("|", "\\|")


def _feature(store: Store, name: str) -> list[str]:
    """Return the section about one feature: its spec, its numerics and its measured errors."""
    spec = store.spec(name)
    lines = []
    if spec.get("random_weights"):
        lines += ["**Random weights:** these rows are placeholders; do not train a model on them.", ""]
    lines += ["```json", json.dumps(spec, indent=1, sort_keys=True), "```", "", "Numerics:", ""]
    lines += [f"- {code(json.dumps(numerics, sort_keys=True))}" for numerics in store.numerics(name)] or [
        "- no rows yet"
    ]
    damage = count_media_damage(store, name)
    if damage.any:
        lines += ["", f"Sources: {damage}."]
    errors = rounding_errors(store, name)
    if errors:
        lines += ["", "Measured on these rows against float32:", ""]
        lines += [f"- {plain(kind)}: {error}" for kind, error in errors.items()]
    return lines


def _coverage(store: Store) -> list[str]:
    """Return how much of the last plan, and of the questions of each split, has a row."""
    return [f"- {plain(line)}" for line in coverage_lines(coverage(store))] or ["Nothing is known of what is wanted."]


def _tables(store: Store) -> list[str]:
    return [
        f"- {name}: {store.manifest.tables[name].rows} rows{' (stale)' if store.stale(name) else ''}"
        for name in store.tables
    ]


def _missing(store: Store) -> list[str]:
    """Return a table with the number of missing rows per feature and failure class."""
    failures = store.failures()
    if failures.num_rows == 0:
        return ["None."]
    pairs = zip(failures.column("feature").to_pylist(), failures.column("class").to_pylist(), strict=True)
    return [
        "| feature | class | rows |",
        "|---|---|---:|",
        *(
            f"| {plain(feature)} | {plain(failure_class)} | {rows} |"
            for (feature, failure_class), rows in sorted(Counter(pairs).items())
        ),
    ]


def _example(store: Store) -> list[str]:
    """Return a code block that reads the first feature."""
    return [
        "```python",
        "from reelstore import Store",
        "",
        f"store = Store.open({store.path.name!r}, version={store.version})",
        *(f'store.row("{name}", store.keys("{name}")[0])' for name in list(store.features)[:1]),
        "```",
    ]
