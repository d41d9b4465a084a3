"""Reads CoNLL-U (https://universaldependencies.org/format.html), the format of treebanks and of other parsers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from parsers.parse import Parse, ParserError, Token


@dataclass(slots=True)
class _Surface:
    """A stretch of the text: a word, or a contraction of several words."""

    form: str
    space_after: bool
    words: list[list[str]]


@dataclass(slots=True)
class _Sentence:
    line: int
    text: str | None = None
    new_document: bool = False
    surfaces: list[_Surface] = field(default_factory=list)


def from_conllu(text: str, origin: str = "CoNLL-U") -> list[Parse]:
    """Return the parses in a CoNLL-U file, one per document if it marks documents (``# newdoc``), else per sentence.

    A contraction (``1-2``) gives its words, and empty nodes (``1.1``) are left out. The sentences of a document are
    joined by a blank. A sentence without ``# text`` gets its text from the forms.

    Parameters
    ----------
    text
        The content of the file.
    origin
        What to call the file in messages.

    Raises
    ------
    ParserError
        If a line does not have ten columns, an ID or HEAD is not a number, or a form is not in the text.
    """
    documents: list[list[_Sentence]] = []
    sentences = list(_sentences(text, origin))
    marked = any(sentence.new_document for sentence in sentences)
    for sentence in sentences:
        if sentence.new_document or not marked or not documents:
            documents.append([])
        documents[-1].append(sentence)
    return [_parse(document, origin) for document in documents]


def _sentences(text: str, origin: str) -> Iterator[_Sentence]:
    sentence: _Sentence | None = None
    covered = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if not line.strip():
            if sentence is not None and sentence.surfaces:
                yield sentence
            sentence, covered = None, 0
            continue
        sentence = sentence or _Sentence(number)
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            sentence.new_document |= key.split()[:1] == ["newdoc"]
            if key.strip() == "text":
                sentence.text = value.strip()
            continue
        columns = line.split("\t")
        if len(columns) != 10:
            raise ParserError(f"{origin} line {number}: must have 10 columns separated by tabs (got {len(columns)})")
        if "." in columns[0]:
            continue
        first, _, last = columns[0].partition("-")
        if not all(part.isdecimal() for part in (first, last or first)):
            raise ParserError(f"{origin} line {number}: ID {columns[0]!r} is neither a number nor a range")
        surface = _Surface(columns[1], "SpaceAfter=No" not in columns[9].split("|"), [])
        if last:
            covered = int(last)
            sentence.surfaces.append(surface)
            continue
        if not columns[6].isdecimal():
            raise ParserError(f"{origin} line {number}: HEAD {columns[6]!r} is not a number")
        if int(first) > covered:
            sentence.surfaces.append(surface)
        sentence.surfaces[-1].words.append(columns)


def _parse(document: list[_Sentence], origin: str) -> Parse:
    text = " ".join(_text(sentence) for sentence in document)
    tokens = []
    cursor = 0
    for number, sentence in enumerate(document):
        for surface in sentence.surfaces:
            start = text.find(surface.form, cursor)
            if start < 0:
                raise ParserError(
                    f"{origin} line {sentence.line}: {surface.form!r} is not in the text, or not in this order"
                )
            cursor = start + len(surface.form)
            shared = "".join(columns[1] for columns in surface.words) == surface.form
            for columns in surface.words:
                end = start + len(columns[1]) if shared else cursor
                tokens.append(_token(columns, number, start, end))
                start = end if shared else start
    return Parse(text, tuple(tokens))


def _text(sentence: _Sentence) -> str:
    if sentence.text is not None:
        return sentence.text
    return "".join(
        f"{surface.form} " if surface.space_after else surface.form for surface in sentence.surfaces
    ).rstrip()


def _token(columns: list[str], sentence: int, start: int, end: int) -> Token:
    _, form, lemma, upos, xpos, feats, head, deprel, _, _ = columns
    lemma, upos, xpos, feats, deprel = ("" if value == "_" else value for value in (lemma, upos, xpos, feats, deprel))
    return Token(form, lemma, upos, xpos, feats, int(head), deprel, sentence, start, end)
