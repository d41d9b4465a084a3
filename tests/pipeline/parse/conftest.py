"""The parser of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.parse import run as parsing
from tests._helpers.word_parser import WordParser, parse_here


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (
        ("parsed", []),
        ("refuses", {}),
        ("fail_at", None),
        ("digest", WordParser.digest),
        ("error", WordParser.error),
    ):
        monkeypatch.setattr(WordParser, name, value)
    monkeypatch.setattr(parsing, "StanzaParser", WordParser)
    monkeypatch.setattr(parsing, "parse_in_processes", parse_here)
    yield
