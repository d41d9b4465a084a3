"""Takes texts through all steps: sentences and words, tags, lemmas, heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from parsers.stanza_arrays.attaching import Attacher
from parsers.stanza_arrays.sentences import Sentence
from parsers.stanza_arrays.splitting import Splitter
from parsers.stanza_arrays.tagging import Lemmatiser, Tagger

if TYPE_CHECKING:
    from stanza import Pipeline


class Engine:
    """The loaded models of a pipeline. What it gives for some texts depends on these texts alone."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._splitter = Splitter(pipeline)
        self._tagger = Tagger(pipeline.processors["pos"])
        self._lemmatiser = Lemmatiser(pipeline.processors["lemma"])
        self._attacher = Attacher(pipeline.processors["depparse"])

    def split(self, texts: Sequence[str]) -> list[list[Sentence]]:
        """Return the sentences of each text, with their words. No text is empty or begins or ends with a blank."""
        with torch.inference_mode():
            return self._splitter.split(texts)

    def annotate(self, sentences: Sequence[Sentence]) -> None:
        """Fill all columns of some sentences, none of which is empty."""
        if sentences:
            with torch.inference_mode():
                self._tagger.tag(sentences)
                self._lemmatiser.lemmatise(sentences)
                self._attacher.attach(sentences)
