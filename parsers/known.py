"""Reads existing parses from a CoNLL-U file (a treebank, another parser, or hand annotation)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from parsers.conllu import from_conllu
from parsers.parse import Parse, ParserError
from settings.files import read_bytes
from settings.messages import first_few

_EPOCH = 2
"""Part of the digest; raised when the same file would give other rows of the ``parses`` table."""

_LONGEST_SHOWN = 80


class ConlluParser:
    """Looks texts up in a CoNLL-U file. If a text has two parses, the first one counts.

    Parameters
    ----------
    path
        A file in UTF-8. A text is a document (``# newdoc``), or a sentence if the file marks no documents.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides a parse, which is the file.

        Raises
        ------
        ParserError
            If the file cannot be read.
        """
        return hashlib.sha256(b"conllu %d\n" % _EPOCH + self._data).hexdigest()

    @cached_property
    def _data(self) -> bytes:
        try:
            return read_bytes(self.path)
        except (OSError, ValueError) as error:  # a name with a NUL
            raise ParserError(f"{str(self.path)!r}: not readable ({getattr(error, 'strerror', error)})") from error

    @cached_property
    def _parses(self) -> dict[str, Parse]:
        try:
            text = self._data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ParserError(f"{self.path}: not UTF-8 ({error.reason} at byte {error.start})") from error
        return {parse.text: parse for parse in reversed(from_conllu(text, str(self.path)))}

    def parse(self, texts: Iterable[str]) -> list[Parse]:
        """Return the parses of texts, in their order.

        Raises
        ------
        ParserError
            If the file is not CoNLL-U, or does not hold one of the texts.
        """
        texts = list(texts)
        absent = [text[:_LONGEST_SHOWN] for text in texts if text not in self._parses]
        if absent:
            raise ParserError(
                f"{self.path}: holds no parse of {first_few(absent, 1, repr)}; add it, or parse with Stanza"
            )
        return [self._parses[text] for text in texts]
