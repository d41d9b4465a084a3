"""Splits texts into sentences and words with Stanza's tokeniser, all characters of a batch at once.

What an ordinary text needs is done here on arrays: one entry per character, no object per token. A text with blank
lines, runs of blanks or more than 1,000 characters goes through Stanza's own code, and so does everything if the
tokeniser has features that are not known here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parsers.stanza_arrays.sentences import Sentence, from_document

if TYPE_CHECKING:
    from stanza import Pipeline

_BATCH_CHARACTERS = 8192  # of one forward pass, padding included
_LONGEST = 1000  # characters; Stanza cuts a longer text into windows
_UNUSUAL = re.compile(r"[\s\u0080-\u009f]{2}")
_AT_EDGES = ("start_of_para", "end_of_para")
_SPLITTING = "tokenize,mwt"

_Piece = tuple[str, int, int]
"""A word of a contraction, and where it stands in it."""


class Splitter:
    """Splits texts with the tokeniser and the expander of contractions of a pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        from stanza.models.tokenization.data import PER_CHAR_FEAT_FUNCS

        self._pipeline = pipeline
        processor = pipeline.processors["tokenize"]
        self._trainer, self._vocab = processor.trainer, processor.vocab
        self._expander = pipeline.processors.get("mwt")
        self._pieces: dict[str, list[_Piece]] = {}
        self._characters: dict[str, tuple[int, ...]] = {}
        self._is_known = False
        if self._trainer is not None:
            args = self._trainer.args
            names = args["feat_funcs"]
            self._features = [PER_CHAR_FEAT_FUNCS.get(name) for name in names]
            self._edges = [names.index(name) if name in names else None for name in _AT_EDGES]
            self._is_known = (
                all(name in PER_CHAR_FEAT_FUNCS or name in _AT_EDGES for name in names)
                and not args["use_dictionary"]
                and not args.get("charlm_forward_file")
                and not args.get("skip_newline", False)
                and args["shorthand"] != "la_ittb"
            )

    def split(self, texts: Sequence[str]) -> list[list[Sentence]]:
        """Return the sentences of each text. The texts begin and end with no blank, and none is empty."""
        plain = [
            number
            for number, text in enumerate(texts)
            if self._is_known and len(text) <= _LONGEST and not _UNUSUAL.search(text)
        ]
        sentences = dict(zip(plain, self._split_plain([texts[number] for number in plain]), strict=True))
        others = [number for number in range(len(texts)) if number not in sentences]
        if others:
            documents = self._pipeline.bulk_process([texts[number] for number in others], processors=_SPLITTING)
            sentences |= {number: from_document(document) for number, document in zip(others, documents, strict=True)}
        return [sentences[number] for number in range(len(texts))]

    def _split_plain(self, texts: Sequence[str]) -> list[list[Sentence]]:
        from stanza.models.tokenization.data import WHITESPACE_RE

        texts = [WHITESPACE_RE.sub(" ", text) for text in texts]
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        cuts: dict[int, list[tuple[str, int, int, int]]] = {}
        batch: list[int] = []
        for number in order:
            if batch and (len(batch) + 1) * (len(texts[batch[0]]) + 1) > _BATCH_CHARACTERS:
                self._cut(texts, batch, cuts)
                batch = []
            batch.append(number)
        if batch:
            self._cut(texts, batch, cuts)
        if self._expander is not None:
            self._expand({token for found in cuts.values() for token, label, _, _ in found if label >= 3})
        return [self._sentences(cuts[number]) for number in range(len(texts))]

    def _cut(
        self, texts: Sequence[str], batch: Sequence[int], cuts: dict[int, list[tuple[str, int, int, int]]]
    ) -> None:
        """Add the tokens of some texts, the longest first, as (token, label, start, end)."""
        from stanza.models.tokenization.utils import update_pred_regex

        labels = self._labels([texts[number] for number in batch])
        for row, number in zip(labels, batch, strict=True):
            text = texts[number]
            own = row[: len(text)]
            if own[-1] < 2:
                own[-1] = 2
            elif own[-1] > 2:
                own[-1] = 4
            if "." in text or "@" in text:  # every address of a page or of a person has one
                own = update_pred_regex(list(text), own)
            tokens = []
            start = 0
            for end in np.flatnonzero(own).tolist():
                raw = text[start : end + 1]
                token = self._vocab.normalize_token(raw)
                if token:
                    tokens.append((token, int(own[end]), start + len(raw) - len(raw.lstrip()), end + 1))
                start = end + 1
            cuts[number] = tokens

    def _labels(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the best label of each character ``[N, L]``; see Stanza's ``models.tokenization.data``."""
        import torch

        lengths = np.array([len(text) for text in texts])
        inside = np.arange(lengths[0] + 1) < lengths[:, None]
        known = self._characters
        everything = "".join(texts)
        for char in set(everything) - known.keys():
            known[char] = (
                self._vocab.unit2id(char),
                *(0 if function is None else function(char) for function in self._features),
            )
        rows = np.array([known[char] for char in everything], dtype=np.int64)
        units = np.full(inside.shape, self._vocab.unit2id("<PAD>"), dtype=np.int64)
        features = np.zeros((*inside.shape, len(self._features)), dtype=np.float32)
        units[inside] = rows[:, 0]
        features[inside] = rows[:, 1:]
        for place, edge in zip(self._edges, (np.zeros_like(lengths), lengths - 1), strict=True):
            if place is not None:
                features[np.arange(len(texts)), edge, place] = 1
        network = self._trainer.model
        network.eval()
        device = next(network.parameters()).device
        scores = network(
            torch.from_numpy(units).to(device), torch.from_numpy(features).to(device), (lengths + 1).tolist(), None
        )
        best: NDArray[np.int64] = scores.argmax(2).cpu().numpy()
        return best

    def _expand(self, tokens: set[str]) -> None:
        """Learn the words of contractions."""
        from stanza.models.common.doc import Document

        new = sorted(tokens - self._pieces.keys())
        if not new:
            return
        entries = [
            [{"id": (1,), "text": token, "misc": "MWT=Yes", "start_char": 0, "end_char": len(token)}] for token in new
        ]
        document = self._expander.process(Document(entries))
        for token, sentence in zip(new, from_document(document), strict=True):
            self._pieces[token] = list(zip(sentence.words, sentence.starts, sentence.ends, strict=True))

    def _sentences(self, tokens: Sequence[tuple[str, int, int, int]]) -> list[Sentence]:
        sentences = [Sentence()]
        for token, label, start, end in tokens:
            if label >= 3 and token in self._pieces:
                for word, first, last in self._pieces[token]:
                    sentences[-1].add(word, start + first, start + last)
            else:
                sentences[-1].add(token, start, end)
            if label in (2, 4):
                sentences.append(Sentence())
        return [sentence for sentence in sentences if sentence.words]
