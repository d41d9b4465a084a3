"""The parser of these tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest

from parsers import parses_table
from pipeline.parse import run as parsing
from tests._helpers.word_parser import WordParser


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


def parse_here(parser: WordParser, batches: Sequence[Sequence[str]], processes: int) -> Iterator[pa.Table]:
    """Parse in this process, whose memory the tests look at."""
    for batch in batches:
        yield parses_table(parser.parse(batch))
