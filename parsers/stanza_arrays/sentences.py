"""Holds sentences as columns of words, and shows them to the parts of Stanza that read documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stanza.models.common.doc import Document


@dataclass(slots=True)
class Sentence:
    """The words of one sentence, column by column; each column has one entry per word, in order.

    Attributes
    ----------
    words
        The words; a contraction is split into its words.
    starts, ends
        The characters of the text that each word covers, ``text[start:end]``.
    upos, xpos, feats, lemmas
        As in CoNLL-U; ``_`` if there is nothing.
    heads
        1-based positions of the heads; 0 for the root.
    deprels
        Relations to the heads.
    """

    words: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    upos: list[str] = field(default_factory=list)
    xpos: list[str] = field(default_factory=list)
    feats: list[str] = field(default_factory=list)
    lemmas: list[str] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    deprels: list[str] = field(default_factory=list)

    def add(self, word: str, start: int, end: int) -> None:
        """Append a word."""
        self.words.append(word)
        self.starts.append(start)
        self.ends.append(end)


def document(sentences: Sequence[Sentence], *columns: str) -> Document:
    """Return a Stanza document of sentences, with their words and these columns (named as attributes)."""
    from stanza.models.common.doc import Document

    names = {"upos": "upos", "xpos": "xpos", "feats": "feats", "lemmas": "lemma"}
    entries = [
        [
            {"id": (number,), "text": word}
            | {names[column]: _null(getattr(sentence, column)[number - 1]) for column in columns}
            for number, word in enumerate(sentence.words, 1)
        ]
        for sentence in sentences
    ]
    return Document(entries)


def from_document(document: Any) -> list[Sentence]:
    """Return the sentences of a document that Stanza has split."""
    sentences = []
    for own in document.sentences:
        sentence = Sentence()
        for word in own.words:
            span = word if word.start_char is not None else word.parent
            sentence.add(word.text, span.start_char, span.end_char)
        sentences.append(sentence)
    return sentences


def column(document: Any, name: str) -> list[list[str]]:
    """Return one attribute of all words of a document, sentence by sentence; ``_`` for a word that has none."""
    return [[getattr(word, name) or "_" for word in sentence.words] for sentence in document.sentences]


def _null(value: str) -> str | None:
    return None if value == "_" else value
