"""The best dependency tree with one root, at once where every word's best head already makes one.

Stanza searches it by Chu-Liu-Edmonds over scores in which the root is pushed down, so that no tree gets two roots
(Stanojević and Cohen 2021). That makes a cycle of nearly every sentence and takes a third of a parse, most of it for
nothing: heads that are each the best of their word are the best tree if they are a tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Search = Callable[[NDArray[Any]], NDArray[Any]]


def with_shortcut(search: Search) -> Search:
    """`search`, asked only where the best heads are no tree.

    Parameters
    ----------
    search:
        Scores [N, N] of each word (row) for each head (column), 0 being the root's place, → head of each word [N], 0
        for the root's place itself.
    """

    def find(scores: NDArray[Any]) -> NDArray[Any]:
        heads = _best_heads(scores)
        return search(scores) if heads is None else heads

    return find


def _best_heads(scores: NDArray[Any]) -> NDArray[Any] | None:
    """Each word's best head, if these are a tree with one root and no word has two best heads."""
    scores = scores.copy()
    np.fill_diagonal(scores, -np.inf)
    heads = scores.argmax(axis=1)
    heads[0] = 0
    best = scores[1:].max(axis=1, keepdims=True)
    if np.count_nonzero(heads[1:] == 0) != 1 or np.count_nonzero(scores[1:] == best) != len(best):
        return None
    # After doubling the step often enough every word of a tree has arrived at the root.
    above = heads
    for _ in range(len(heads).bit_length()):
        above = above[above]
    return None if above.any() else heads
