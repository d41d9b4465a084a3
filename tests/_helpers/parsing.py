"""Runs parses in tests, with a parser that needs no models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.parse import ParseRequest, load_parse_config
from pipeline.parse import parse as run_parse
from stores import Store
from tests._helpers.runs import Done
from tests._helpers.word_parser import WordParser

ROWS: list[dict[str, Any]] = [
    {
        "video_id": f"v{i % 3}",
        "question_id": f"q{i}",
        "question": f"boy{i} throws ball{i}",
        "answer": a,
        "options": ["x", a],
    }
    for i, a in enumerate(("red", "green", "red", "blue hat", "red"))
]


def write(folder: Path, rows: list[Any], split: str = "val") -> Path:
    path = folder / f"{split}.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def parse(path: Path | list[Path], *overrides: str, **request: Any) -> Done:
    paths = path if isinstance(path, list) else [path]
    given = [str(one) for one in paths]
    request = {
        "split": paths[0].stem,
        "store": str(paths[0].parent / "store"),
        "dataset": "mine",
        "format": "table",
    } | request
    allow_failures = request.pop("allow_failures", False)
    config = load_parse_config(None, overrides)
    return Done.of(run_parse(ParseRequest(annotations=given, config=config, **request)), allow_failures)


def stored(folder: Path, table: str, part: str | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Store.open(folder / "store").table(table, part).to_pylist()
    return rows


def texts() -> list[str]:
    return [text for batch in WordParser.parsed for text in batch]
