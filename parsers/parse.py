"""Holds a parsed text, words with their Universal Dependencies v2 annotation, as values and as a table.

A text that no parser takes is held in the same table, with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

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


Refusal = Literal["text_too_long", "parser_failed"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A text without a parse, and why it has none; a question whose text or right answer is refused has no graph.

    Attributes
    ----------
    text
        The text.
    code
        ``text_too_long``: it is beyond what the parser takes, on any machine. ``parser_failed``: the parser failed on
        this text and on no other, be it for want of memory; another run may succeed.
    message
        What is wrong with the text, in one line.
    """

    text: str
    code: Refusal
    message: str

    @property
    def reason(self) -> str:
        """The code and the message, in one line."""
        return f"{self.code}: {self.message}"


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
PARSES = pa.schema(
    [pa.field("text", pa.string()), pa.field("tokens", pa.list_(_TOKEN)), pa.field("error", pa.string())]
)
"""Columns of the ``parses`` table.

The fields of a token are those of ``Token``. ``error`` is the reason for which a text is refused, and null for a parse.
Tables of older versions lack this column; they hold parses only.
"""


def parses_table(parses: Iterable[Parse | Refused]) -> pa.Table:
    """Return the rows of the ``parses`` table, one per parse or refused text, in the order given."""
    parses = list(parses)
    tokens_of = [parse.tokens if isinstance(parse, Parse) else () for parse in parses]
    words = [token for tokens in tokens_of for token in tokens]
    columns = [pa.array([getattr(word, field.name) for word in words], field.type) for field in _TOKEN]
    offsets = list(itertools.accumulate(map(len, tokens_of), initial=0))
    tokens = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(_TOKEN))
    )
    texts = pa.array([parse.text for parse in parses], pa.string())
    errors = pa.array([parse.reason if isinstance(parse, Refused) else None for parse in parses], pa.string())
    return pa.Table.from_arrays([texts, tokens, errors], schema=PARSES)


def parses_from_table(table: pa.Table) -> dict[str, Parse]:
    """Return the parses of a ``parses`` table by their text, in the order of the table, without refused texts."""
    return {
        row["text"]: Parse(row["text"], tuple(Token(**token) for token in row["tokens"]))
        for row in table.to_pylist()
        if row.get("error") is None
    }


def refused_from_table(table: pa.Table) -> dict[str, Refused]:
    """Return the refused texts of a ``parses`` table by their text, in the order of the table."""
    if "error" not in table.column_names:
        return {}
    refused = {}
    for row in table.select(["text", "error"]).to_pylist():
        if row["error"] is not None:
            code, _, message = row["error"].partition(": ")
            refused[row["text"]] = Refused(row["text"], cast(Refusal, code), message)
    return refused


def first_refused(refused: Mapping[str, Refused], *texts: str | None) -> Refused | None:
    """Return why a question has no graph, given its text and its right answer (None if hidden); None if it has one."""
    return next((refused[text] for text in texts if text is not None and text in refused), None)
