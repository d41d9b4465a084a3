"""Parses that are there already, in a CoNLL-U file: from a treebank, another parser, or whoever wrote the sentences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from parsers.conllu import from_conllu
from parsers.parse import Parse, ParserError


class ConlluParser:
    """Looks texts up in a CoNLL-U file; of two parses of one text the first counts.

    Parameters
    ----------
    path :
        UTF-8; documents (``# newdoc``) or else sentences are the texts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def digest(self) -> str:
        """sha256 of what decides a parse: the file.

        Raises
        ------
        ParserError
            If it cannot be read.
        """
        return hashlib.sha256(b"conllu\n" + self._data).hexdigest()

    @cached_property
    def _data(self) -> bytes:
        try:
            return self.path.read_bytes()
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
        """The parses of texts, in their order.

        Raises
        ------
        ParserError
            If the file is not CoNLL-U, or does not hold a text.
        """
        wanted = list(texts)
        absent = [text for text in wanted if text not in self._parses]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise ParserError(f"{self.path}: holds no parse of {absent[0][:80]!r}{more}; add it, or parse with Stanza")
        return [self._parses[text] for text in wanted]
