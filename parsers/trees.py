"""Dependency trees over the words of a parse, sound whatever heads a parser wrote."""

from __future__ import annotations

from collections.abc import Iterator

from parsers.parse import Parse, Token


class Tree:
    """Heads and children of a parse's words, by their positions in `parse.tokens`.

    A word whose head is out of range becomes a root, and so does the first word that is met of a cycle: every walk up
    or down ends.

    Attributes
    ----------
    tokens:
        The parse's words.
    heads:
        Position of each word's head; -1 for a root.
    children:
        Positions of each word's dependents, in order.
    top_down:
        All positions, every word after its head.
    """

    def __init__(self, parse: Parse) -> None:
        self.tokens = parse.tokens
        self.heads = [-1] * len(parse.tokens)
        for sentence in parse.sentences():
            for position in sentence:
                head = sentence.start + parse.tokens[position].head - 1
                if head in sentence and head != position:
                    self.heads[position] = head
        self._cut_cycles()
        self.children: list[list[int]] = [[] for _ in self.tokens]
        for position, head in enumerate(self.heads):
            if head >= 0:
                self.children[head].append(position)
        self.top_down = [position for position, head in enumerate(self.heads) if head < 0]
        for position in self.top_down:  # grows as it is read
            self.top_down.extend(self.children[position])

    def relation(self, position: int) -> str:
        """The word's relation to its head, subtype included: `nsubj:pass`."""
        return self.tokens[position].deprel

    def dependents(self, position: int, *relations: str) -> list[int]:
        """Children whose relation, subtype left out unless asked for, is one of `relations`."""
        return [
            child
            for child in self.children[position]
            if self.relation(child) in relations or base(self.relation(child)) in relations
        ]

    def ancestors(self, position: int) -> Iterator[int]:
        """The word, its head, that one's head, … up to a root."""
        while position >= 0:
            yield position
            position = self.heads[position]

    def _cut_cycles(self) -> None:
        settled = [False] * len(self.heads)
        for start in range(len(self.heads)):
            path: dict[int, None] = {}
            position = start
            while position >= 0 and not settled[position] and position not in path:
                path[position] = None
                position = self.heads[position]
            if position in path:
                self.heads[position] = -1
            for passed in path:
                settled[passed] = True


def base(relation: str) -> str:
    """A relation without its subtype: `nsubj` of `nsubj:pass`."""
    return relation.partition(":")[0]


def has_feature(token: Token, *features: str) -> bool:
    """Whether the word has one of the morphological features, written as `Polarity=Neg`."""
    return any(feature in features for feature in token.feats.split("|"))
