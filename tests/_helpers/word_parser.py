"""A parser for tests that needs no models: the second word is a verb with two arguments, all others are nouns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from parsers import parses_table
from parsers.parse import Parse, ParserError, Refusal, Refused, Token


class WordParser:
    """Stands in for ``parsers.StanzaParser``.

    Records what it parses, refuses the texts of ``refuses``, and raises ``error`` at batch ``fail_at``.
    """

    parsed: ClassVar[list[list[str]]] = []
    digest = "0123456789abcdef" * 4
    fail_at: int | None = None
    refuses: ClassVar[dict[str, Refusal]] = {}
    error: BaseException = ParserError("the models do not load")

    def __init__(self, model_dir: Path | None, lang: str, device: str, batch_size: int, threads: int) -> None:
        self.device = device

    def parse(self, texts: Sequence[str]) -> list[Parse | Refused]:
        if len(WordParser.parsed) == WordParser.fail_at:
            raise WordParser.error
        WordParser.parsed.append(list(texts))
        codes = WordParser.refuses
        return [Refused(text, codes[text], "no") if text in codes else _parse(text) for text in texts]


def parse_here(parser: WordParser, batches: Sequence[Sequence[str]], processes: int) -> Iterator[pa.Table]:
    """Parse in this process, without the second that processes take to start; tests may look at what was parsed."""
    for batch in batches:
        yield parses_table(parser.parse(batch))


def _parse(text: str) -> Parse:
    tokens = []
    start = 0
    for number, word in enumerate(text.split()):
        start = text.index(word, start)
        upos = "VERB" if number == 1 else "NOUN"
        deprel = {0: "nsubj", 1: "root"}.get(number, "obj")
        head = 0 if number == 1 else 2
        tokens.append(Token(word, word, upos, "", "", head, deprel, 0, start, start + len(word)))
        start += len(word)
    return Parse(text, tuple(tokens))
