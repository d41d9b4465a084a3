"""Dependency trees over the words of a parse, sound whatever heads a parser wrote."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from parsers.parse import Parse, Token


class Tree:
    """Heads and children of a parse's words, by their positions in ``parse.tokens``.

    A word whose head is out of range becomes a root, and so does the first word met in a cycle, so every walk up or
    down ends.

    Attributes
    ----------
    tokens
        The parse's words.
    heads
        Position of each word's head; -1 for a root.
    children
        Positions of each word's dependents, in order.
    top_down
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
        roots = [position for position, head in enumerate(self.heads) if head < 0]
        self.top_down = self.descend(roots, lambda head, child: True)

    def relation(self, position: int) -> str:
        """Return the word's relation to its head, subtype included, as ``nsubj:pass``."""
        return self.tokens[position].deprel

    def dependents(self, position: int, *relations: str) -> list[int]:
        """Return the children whose relation is one of ``relations``, with its subtype or without."""
        return [
            child
            for child in self.children[position]
            if self.relation(child) in relations or base(self.relation(child)) in relations
        ]

    def ancestors(self, position: int) -> Iterator[int]:
        """Yield the word, its head, the head's head, … up to a root."""
        while position >= 0:
            yield position
            position = self.heads[position]

    def descend(self, starts: Iterable[int], follow: Callable[[int, int], bool]) -> list[int]:
        """Return ``starts`` and the words below them that ``follow(head, child)`` reaches, breadth first."""
        words: list[int] = []
        queue = deque(starts)
        while queue:
            head = queue.popleft()
            words.append(head)
            queue.extend(child for child in self.children[head] if follow(head, child))
        return words

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
    """Return a relation without its subtype: ``nsubj`` for ``nsubj:pass``."""
    return relation.partition(":")[0]


def has_feature(token: Token, *features: str) -> bool:
    """Return whether the word has one of the morphological features, each written as ``Polarity=Neg``."""
    return any(feature in features for feature in token.feats.split("|"))
