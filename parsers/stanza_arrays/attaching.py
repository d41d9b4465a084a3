"""Attaches words to their heads with Stanza's dependency parser, on arrays in place of documents.

The best heads of a whole batch are found at once, and a search is made only for sentences in which they are no tree.
Relations are scored for the arcs of the trees alone; Stanza scores them for all pairs of words, which only a sentence
needs in which a head has two subjects or two objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from parsers.spanning_tree import best_trees
from parsers.stanza_arrays.sentences import Sentence, document
from parsers.stanza_arrays.words import Distinct, Ids, Padded, batches, share_letters, simplified

_BATCH_WORDS = 3000
_BATCH_PAIRS = 200_000
_BLOCK = 128  # arcs that are scored together, so that what is between two products stays in the cache


class Attacher:
    """Fills the columns ``heads`` and ``deprels`` with the dependency parser of a processor."""

    def __init__(self, processor: Any) -> None:
        from stanza.models.depparse.model import GraphParser

        self._processor = processor
        self._trainer = processor.trainer
        self._network = self._trainer.model
        args = self._trainer.args
        self._is_known = (
            isinstance(self._network, GraphParser)
            and self._network.bert_model is None
            and not args.get("use_arc_embedding")
            and not args.get("reversed", False)
        )
        if self._is_known:
            self._pretrained = processor.pretrain.vocab if processor.pretrain is not None and args["pretrain"] else None
            self._letters = share_letters(self._network)
            self._relations = _Relations(self._network, self._trainer.vocab["deprel"])
            self._resolves = processor.config.get("resolve_head_constraints", True)

    def attach(self, sentences: Sequence[Sentence]) -> None:
        """Attach all words, which are tagged and have their lemmas."""
        if not self._is_known:
            parsed = self._processor.process(document(sentences, "upos", "xpos", "feats", "lemmas"))
            for sentence, own in zip(sentences, parsed.sentences, strict=True):
                sentence.heads = [word.head for word in own.words]
                sentence.deprels = [word.deprel or "_" for word in own.words]
            return
        from stanza.models.common.vocab import ROOT_ID, CompositeVocab

        vocab = self._trainer.vocab
        self._network.eval()
        device = next(self._network.parameters()).device
        texts = [simplified(sentence.words) for sentence in sentences]
        words = Distinct.of([word for text in texts for word in text])
        columns = {
            name: Distinct.of([value for sentence in sentences for value in getattr(sentence, own)]).ids(
                vocab[name].unit2id
            )
            for name, own in (("upos", "upos"), ("xpos", "xpos"), ("feats", "feats"), ("lemma", "lemmas"))
        }
        columns["word"] = words.ids(vocab["word"].unit2id)
        read = self._pretrained
        columns["pretrained"] = (
            np.zeros_like(columns["word"]) if read is None else words.ids(lambda word: read.unit2id(word.lower()))
        )
        columns["row"] = words.places + 1
        roots: dict[str, Any] = dict.fromkeys(columns, ROOT_ID) | {"row": 0}
        if isinstance(vocab["xpos"], CompositeVocab):
            roots["xpos"] = [ROOT_ID] * len(vocab["xpos"])
        roots["feats"] = [ROOT_ID] * len(vocab["feats"])
        if self._letters is not None:
            self._letters.read([[ROOT_ID], *(vocab["char"].map(list(word)) for word in words.values)], device)
        lengths = [len(text) for text in texts]
        for batch in batches(lengths, _BATCH_WORDS, _BATCH_PAIRS):
            padded = Padded(lengths, batch, root=True)
            ids = {name: padded(column, roots[name]).to(device) for name, column in columns.items()}
            trees, labels = self._parse(ids, padded.lengths + 1, [texts[number] for number in batch])
            names = self._relations.names
            for number, tree, own in zip(batch, trees, labels, strict=True):
                sentences[number].heads = tree
                sentences[number].deprels = [names[label] for label in own]

    def _parse(
        self, ids: dict[str, Tensor], lengths: Ids, texts: list[list[str]]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Return the head and the relation of each word of each sentence."""
        network = self._network
        scores, *_ = network.forward_scores(
            ids["word"],
            None,
            ids["row"],
            None,
            ids["upos"],
            ids["xpos"],
            ids["feats"],
            ids["pretrained"],
            ids["lemma"],
            ids["word"][:, 1:],  # stands in for the heads, of which only shape and device are looked at
            None,
            None,
            lengths.tolist(),
            None,
            texts,
        )
        log_scores = F.log_softmax(scores, 2).cpu().numpy()
        trees = best_trees(log_scores, lengths)
        labels, in_conflict = self._relations.label(trees, lengths)
        found = [tree[1:length].tolist() for tree, length in zip(trees, lengths.tolist(), strict=True)]
        names = [own[1:length].tolist() for own, length in zip(labels, lengths.tolist(), strict=True)]
        for number in in_conflict if self._resolves else ():
            length = int(lengths[number])
            tree, own = self._relations.resolve(number, log_scores[number, :length, :length], trees[number, :length])
            found[number], names[number] = tree[1:].tolist(), own
        return found, names


class _Relations(nn.Module):
    """Stands in for the network that scores the relations of all pairs of words, and scores those that are asked for.

    Attributes
    ----------
    names
        Names of the relations.
    """

    def __init__(self, network: Any, vocab: Any) -> None:
        from stanza.models.common.vocab import VOCAB_PREFIX_SIZE
        from stanza.models.depparse.head_constraints import DEPREL_TO_GROUP

        super().__init__()
        self._own = network.deprel
        network.deprel = self
        self._vocab = vocab
        layer = self._own.scorer.W_bilin
        self._depth = layer.weight.shape[1]
        with torch.no_grad():
            # [I, J, O] → [I, O·J]: one product gives each word its O vectors, which then meet the head's.
            self._matrix = layer.weight.permute(0, 2, 1).reshape(layer.weight.shape[0], -1).contiguous()
        self._bias = layer.bias
        self.names: list[str] = vocab.unmap(range(VOCAB_PREFIX_SIZE, VOCAB_PREFIX_SIZE + layer.weight.shape[2]))
        groups = {name: number for number, name in enumerate(dict.fromkeys(DEPREL_TO_GROUP.values()))}
        of_relation = [DEPREL_TO_GROUP.get(name) for name in self.names]
        self._groups = np.array([-1 if group is None else groups[group] for group in of_relation])
        self._words = torch.empty(0)

    def forward(self, words: Tensor, heads: Tensor) -> None:
        """Keep the word vectors ``[N, L, D]`` until the trees are known."""
        self._words = words

    def label(self, trees: Ids, lengths: Ids) -> tuple[Ids, list[int]]:
        """Return the best relation of each word to its head ``[N, L]``, and the sentences in which some conflict.

        Parameters
        ----------
        trees
            The head of each word ``[N, L]``; what lies beyond a sentence's length ``[N]`` is not read.
        """
        own = self._own
        hidden = [own.hidden_func(layer(self._words)) for layer in (own.W1, own.W2)]
        places = np.arange(trees.shape[1])
        rows, columns = np.nonzero((places > 0) & (places < lengths[:, None]))
        device = self._words.device
        row, column, above = (torch.from_numpy(a).to(device) for a in (rows, columns, trees[rows, columns]))
        dependents, heads = (
            torch.cat([side[row, place], side.new_ones(len(row), 1)], 1)
            for side, place in zip(hidden, (column, above), strict=True)
        )
        best = []
        for start in range(0, len(row), _BLOCK):
            block = slice(start, start + _BLOCK)
            between = (dependents[block] @ self._matrix).view(-1, len(self.names), self._depth)
            scores = torch.bmm(between, heads[block].unsqueeze(2)).squeeze(2) + self._bias
            best.append(F.log_softmax(scores, 1).argmax(1))
        labels = np.zeros(trees.shape, dtype=np.int64)
        labels[rows, columns] = torch.cat(best).cpu().numpy()
        groups = self._groups[labels[rows, columns]]
        grouped = groups >= 0
        keys = np.stack([rows, trees[rows, columns], groups], 1)[grouped]
        distinct, counts = np.unique(keys, axis=0, return_counts=True)
        return labels, np.unique(distinct[counts > 1, 0]).tolist()

    def resolve(self, number: int, scores: NDArray[np.float32], tree: Ids) -> tuple[Ids, list[int]]:
        """Have Stanza find heads and relations of one sentence that do not conflict.

        Returns
        -------
        The head of each word, the root's included, and the relation of each word.
        """
        from stanza.models.depparse.head_constraints import resolve_head_constraint_violations

        words = self._words[number : number + 1, : len(tree)]
        labels = F.log_softmax(self._own(words, words), 3)[0].cpu().numpy()
        found: tuple[Ids, list[int]] = resolve_head_constraint_violations(scores, labels, tree, self._vocab)
        return found
