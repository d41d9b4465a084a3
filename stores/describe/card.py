"""The dataset card: ``README.md`` of a store, generated from its manifest and specs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from ..format import durable, layout
from ..format.manifest import load
from ..store import Store
from .inspect import rounding_errors, weights_of


def write_card(root: Path) -> str:
    """Write the card of the latest version and return its text."""
    text = render_card(Store(root.absolute(), load(root)))
    durable.replace_file(root / layout.CARD, root / layout.STAGING / f"{layout.new_id()}.md", text.encode())
    return text


def render_card(store: Store) -> str:
    """Markdown: features with their recipes and numerics, tables, and what is missing."""
    lines = [
        "# Reelstore dataset card",
        "",
        f"Version {store.version} of `{store.path.name}`, generated from the manifest; do not edit.",
        "",
        "| feature | rows | row shape | dtype | weights | spec |",
        "|---|---:|---|---|---|---|",
    ]
    for name, info in store.features.items():
        spec = store.spec(name)
        shape = "×".join(
            ["T" if spec.get("steps") is None else str(spec["steps"]), *map(str, spec.get("step_shape", []))]
        )
        lines.append(
            f"| {name} | {info.rows} | {shape} | {spec.get('dtype', '')} | {_weights(spec)} | "
            f"`{info.spec_digest[:8]}` |"
        )
    for name in store.features:
        spec = store.spec(name)
        lines += ["", f"## {name}", ""]
        if spec.get("random_weights"):
            lines += ["**Random weights:** these rows are placeholders; do not train a model on them.", ""]
        lines += ["```json", json.dumps(spec, indent=1, sort_keys=True), "```", "", "Numerics:", ""]
        lines += [f"- `{json.dumps(kind, sort_keys=True)}`" for kind in store.numerics(name)] or ["- no rows yet"]
        errors = rounding_errors(store, name)
        if errors:
            lines += ["", "Measured on these rows against float32:", ""]
            lines += [f"- {kind}: {error}" for kind, error in errors.items()]
    if store.tables:
        lines += ["", "## Tables", ""]
        lines += [
            f"- {name}: {store.manifest.tables[name].rows} rows{' (stale)' if store.stale(name) else ''}"
            for name in store.tables
        ]
    failures = store.failures()
    lines += ["", "## Missing rows", ""]
    if failures.num_rows == 0:
        lines.append("None.")
    else:
        by_class = Counter(
            zip(failures.column("feature").to_pylist(), failures.column("class").to_pylist(), strict=True)
        )
        lines += ["| feature | class | rows |", "|---|---|---:|"]
        lines += [f"| {feature} | {kind} | {count} |" for (feature, kind), count in sorted(by_class.items())]
    lines += [
        "",
        "## Reading",
        "",
        "```python",
        "from stores import Store",
        "",
        f'store = Store.open("{store.path.name}", version={store.version})',
        *(f'store.row("{name}", store.keys("{name}")[0])' for name in list(store.features)[:1]),
        "```",
        "",
    ]
    return "\n".join(lines)


def _weights(spec: dict[str, Any]) -> str:
    weights = weights_of(spec)
    return "none" if weights is None else f"`{json.dumps(weights, sort_keys=True)}`"
