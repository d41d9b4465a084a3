"""Tags words with Stanza's tagger and finds their lemmas, on arrays in place of documents.

Apart from that, the bilinear scores of a tag given another tag are matrix products here: the other tag has a few dozen
values, so the matrix for each of them is computed once, and the words with that tag are scored together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parsers.stanza_arrays.sentences import Sentence, column, document
from parsers.stanza_arrays.words import Distinct, Padded, batches, share_letters, simplified

_BATCH_WORDS = 3000
_MOST_LEMMAS = 200_000  # pairs of a word and a tag that are remembered

_COLUMNS = ("upos", "xpos", "feats")


class Tagger:
    """Fills the columns ``upos``, ``xpos`` and ``feats`` with the tagger of a processor."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._trainer = processor.trainer
        self._network = self._trainer.model
        pretrained = processor.pretrain is not None and self._trainer.args["pretrain"]
        self._pretrained = processor.pretrain.vocab if pretrained else None
        self._is_known = self._network.bert_model is None and all(name in self._network.tag_names for name in _COLUMNS)
        if self._is_known:
            self._letters = share_letters(self._network)
            _score_by_tag(self._network)

    def tag(self, sentences: Sequence[Sentence]) -> None:
        """Tag all words."""
        if not self._is_known:
            tagged = self._processor.process(document(sentences))
            for name in _COLUMNS:
                for sentence, values in zip(sentences, column(tagged, name), strict=True):
                    setattr(sentence, name, values)
            return
        vocab = self._trainer.vocab
        network = self._network
        network.eval()
        device = next(network.parameters()).device
        texts = [simplified(sentence.words) for sentence in sentences]
        words = Distinct.of([word for text in texts for word in text])
        ids = words.ids(vocab["word"].unit2id)
        read = self._pretrained
        pretrained = np.zeros_like(ids) if read is None else words.ids(lambda word: read.unit2id(word.lower()))
        if self._letters is not None:
            self._letters.read([vocab["char"].map(list(word)) for word in words.values], device)
        lengths = [len(text) for text in texts]
        for batch in batches(lengths, _BATCH_WORDS, _BATCH_WORDS**2):
            padded = Padded(lengths, batch)
            _, predicted = network(
                padded(ids).to(device),
                None,
                padded(words.places).to(device),
                None,
                None,
                padded(pretrained).to(device),
                None,
                padded.lengths.tolist(),
                None,
                [texts[number] for number in batch],
            )
            for name in _COLUMNS:
                best = predicted[network.tag_index[name]].cpu().numpy()[padded.inside]
                values = _names(vocab[name], best)
                for number, end in zip(batch, np.cumsum(padded.lengths).tolist(), strict=True):
                    setattr(sentences[number], name, values[end - lengths[number] : end])


def _names(vocab: Any, ids: Any) -> list[str]:
    """Return the tags with these ids ``[W]`` or ``[W, P]``."""
    distinct, places = np.unique(ids, axis=0, return_inverse=True)
    names = vocab.unmap(distinct.tolist())
    return [names[place] for place in places.reshape(-1).tolist()]


class _ByTag(nn.Module):
    """Scores words for one or more classifiers, given the tag that they are conditioned on.

    Parameters
    ----------
    classifiers
        Stanza's ``BiaffineScorer`` of each; all take the same word vectors ``[W, D]``.
    tags
        The embeddings of the tags ``[T, E]``.
    """

    def __init__(self, classifiers: Sequence[nn.Module], tags: Tensor) -> None:
        super().__init__()
        extended = torch.cat([tags, tags.new_ones(len(tags), 1)], 1)
        layers: list[Any] = [classifier.W_bilin for classifier in classifiers]
        self.sizes = [layer.out_features for layer in layers]
        weights = torch.cat([layer.weight for layer in layers])
        self._bias = torch.cat([layer.bias for layer in layers])
        self._matrices = torch.einsum("oij,tj->tio", weights, extended)

    def forward(self, words: Tensor, tags: Tensor) -> Tensor:
        """Return the scores ``[W, O]`` of all classifiers, side by side, given each word's tag ``[W]``."""
        extended = torch.cat([words, words.new_ones(len(words), 1)], 1)
        order = tags.argsort(stable=True)
        scores = words.new_empty(len(words), self._matrices.shape[2])
        start = 0
        for tag, count in enumerate(torch.bincount(tags, minlength=len(self._matrices)).tolist()):
            if count:
                own = order[start : start + count]
                scores[own] = torch.addmm(self._bias, extended[own], self._matrices[tag])
                start += count
        return scores


class _Part(nn.Module):
    """One of several classifiers that are asked in their order about the same words: the first scores for all."""

    def __init__(self, scorer: _ByTag, number: int, kept: list[Tensor]) -> None:
        super().__init__()
        self._scorer, self._number, self._kept = scorer, number, kept

    def forward(self, words: Tensor, tags: Tensor) -> Tensor:
        if not self._number:
            self._kept[:] = self._scorer(words, tags).split(self._scorer.sizes, 1)
        return self._kept[self._number]


def _score_by_tag(network: Any) -> None:
    """Replace the bilinear classifiers of a tagger that are conditioned on the universal tag by its embedding."""
    from stanza.models.pos.tag_columns import TAG_LINK_EMB

    if network.share_hid or network.link_mode != TAG_LINK_EMB:
        return
    ours = {name for name in network.tag_clf if network.column_parents[name] == ("upos",)}
    with torch.no_grad():
        for name in ours:
            own = network.tag_clf[name]
            several = list(own) if isinstance(own, nn.ModuleList) else [own]
            scorer = _ByTag(several, network.upos_emb.weight)
            kept: list[Tensor] = []
            parts = [_Part(scorer, number, kept) for number in range(len(several))]
            network.tag_clf[name] = nn.ModuleList(parts) if isinstance(own, nn.ModuleList) else parts[0]
    represent = network.parent_representation

    def parent_representation(name: str, hids: Any, tag_scores: Any, gold: Any) -> Tensor:
        if name not in ours:
            given: Tensor = represent(name, hids, tag_scores, gold)
            return given
        best: Tensor = tag_scores["upos"].max(1)[1]
        return best

    network.parent_representation = parent_representation


class Lemmatiser:
    """Fills the column ``lemmas`` with the lemmatiser of a processor; remembers the lemma of each word with its tag."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._is_contextual = not processor.use_identity and processor.trainer.has_contextual_lemmatizers()
        self._lemmas: dict[tuple[str, str], str] = {}

    def lemmatise(self, sentences: Sequence[Sentence]) -> None:
        """Find the lemmas of all words, which are tagged."""
        if self._is_contextual:
            for sentence, lemmas in zip(sentences, self._process(sentences), strict=True):
                sentence.lemmas = lemmas
            return
        known = self._lemmas
        if len(known) > _MOST_LEMMAS:
            known.clear()
        pairs = [list(zip(sentence.words, sentence.upos, strict=True)) for sentence in sentences]
        new = list(dict.fromkeys(pair for own in pairs for pair in own if pair not in known))
        if new:
            words, tags = map(list, zip(*new, strict=True))
            (lemmas,) = self._process([Sentence(words=words, upos=tags)])
            known.update(zip(new, lemmas, strict=True))
        for sentence, own in zip(sentences, pairs, strict=True):
            sentence.lemmas = [known[pair] for pair in own]

    def _process(self, sentences: Sequence[Sentence]) -> list[list[str]]:
        return column(self._processor.process(document(sentences, "upos")), "lemma")
