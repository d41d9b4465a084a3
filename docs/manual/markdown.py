"""Markdown that the references are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["cell", "code", "prose", "table"]

_ROLE = re.compile(r":\w+:`~?([^`]+)`")


def prose(text: str) -> str:
    """Return a docstring as Markdown: what has two backticks has one, and signs that Markdown would take are kept."""
    pieces = re.split(r"(``.+?``)", _ROLE.sub(r"``\1``", text), flags=re.S)
    return "".join(
        f"`{piece[2:-2]}`" if piece.startswith("``") else re.sub(r"([\\*_<\[\]])", r"\\\1", piece) for piece in pieces
    )


def code(text: str) -> str:
    """Return code in a line, whatever signs it has."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}" if text else ""


def cell(text: str) -> str:
    """Return text as the cell of a table; its paragraphs follow one another there, and a bar in code stays one."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(piece if piece.startswith("`") else piece.replace("|", r"\|") for piece in pieces)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells, which are Markdown."""
    lines = [heads, ["---"] * len(heads), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
