"""Holds a parsed text, words with their Universal Dependencies v2 annotation, as values and as a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa


class ParserError(ValueError):
    """Raised when a parser cannot run or a parse cannot be read; one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """One syntactic word.

    Attributes
    ----------
    text, lemma, upos, xpos, feats, deprel
        As in CoNLL-U; "" if the parser gives nothing.
    head
        1-based position of the head among the words of the same sentence; 0 for the root.
    sentence
        0-based number of the sentence in the text.
    start, end
        The characters of the text that the word covers, ``text[start:end]``. If the words of a contraction do not add
        up to its letters (Spanish "del": de, el), each of them covers the whole contraction.
    """

    text: str
    lemma: str
    upos: str
    xpos: str
    feats: str
    head: int
    deprel: str
    sentence: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Parse:
    """A text and its words in order, sentence after sentence."""

    text: str
    tokens: tuple[Token, ...]

    def sentences(self) -> list[range]:
        """Return the positions in ``tokens`` of each sentence, in order."""
        sentences: list[range] = []
        for _, words in itertools.groupby(self.tokens, key=lambda token: token.sentence):
            start = sentences[-1].stop if sentences else 0
            sentences.append(range(start, start + len(list(words))))
        return sentences


_TOKEN = pa.struct(
    [
        pa.field("text", pa.string()),
        pa.field("lemma", pa.string()),
        pa.field("upos", pa.string()),
        pa.field("xpos", pa.string()),
        pa.field("feats", pa.string()),
        pa.field("deprel", pa.string()),
        pa.field("head", pa.int32()),
        pa.field("sentence", pa.int32()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
    ]
)
PARSES = pa.schema([pa.field("text", pa.string()), pa.field("tokens", pa.list_(_TOKEN))])
"""Columns of the ``parses`` table; the fields of a token are those of ``Token``."""


def parses_table(parses: Iterable[Parse]) -> pa.Table:
    """Return the rows of the ``parses`` table, one per parse, in the order given."""
    parses = list(parses)
    words = [token for parse in parses for token in parse.tokens]
    columns = [pa.array([getattr(word, field.name) for word in words], field.type) for field in _TOKEN]
    offsets = list(itertools.accumulate((len(parse.tokens) for parse in parses), initial=0))
    tokens = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(_TOKEN))
    )
    return pa.Table.from_arrays([pa.array([parse.text for parse in parses], pa.string()), tokens], schema=PARSES)


def parses_from_table(table: pa.Table) -> dict[str, Parse]:
    """Return the parses of a ``parses`` table by their text, in the order of the table."""
    return {
        row["text"]: Parse(row["text"], tuple(Token(**token) for token in row["tokens"])) for row in table.to_pylist()
    }
