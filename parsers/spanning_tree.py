"""Finds the best dependency trees with one root, without a search where the best heads of all words already are one.

Stanza searches with Chu-Liu-Edmonds over scores in which the root is pushed down, so that no tree gets two roots
(Stanojević and Cohen 2021). This makes a cycle of nearly every sentence, most of them for nothing: if the best heads of
all words form a tree, no tree is better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Search = Callable[[NDArray[Any]], NDArray[Any]]


def best_trees(scores: NDArray[Any], lengths: NDArray[Any], search: Search | None = None) -> NDArray[np.int64]:
    """Return the best tree of each sentence of a batch.

    Parameters
    ----------
    scores
        Scores ``[N, L, L]`` of each word (row) for each head (column), where position 0 is the root and the diagonal is
        minus infinity.
    lengths
        Positions of each sentence, the root included ``[N]``; what lies beyond is not read.
    search
        Finds the tree of one sentence whose best heads are none; Stanza's if not given.

    Returns
    -------
    numpy.ndarray
        The head of each word ``[N, L]``; 0 for the root itself, and beyond the end of a sentence.
    """
    if search is None:
        from stanza.models.common import chuliu_edmonds

        search = chuliu_edmonds.chuliu_edmonds_one_root
    places = np.arange(scores.shape[1])
    inside = places < lengths[:, None]
    words = inside & (places > 0)
    within = np.where(inside[:, None, :], scores, -np.inf)
    heads = np.where(words, within.argmax(axis=2), 0)
    best = within.max(axis=2, keepdims=True)
    ties = (within == best).sum(axis=2) > 1
    roots = ((heads == 0) & words).sum(axis=1)
    # Each round doubles the step upwards, so that in a tree every word arrives at the root.
    above = heads
    for _ in range(scores.shape[1].bit_length()):
        above = np.take_along_axis(above, above, axis=1)
    is_tree = (roots == 1) & ~(ties & words).any(axis=1) & ~above.any(axis=1)
    for number in np.flatnonzero(~is_tree).tolist():
        length = lengths[number]
        heads[number, :length] = search(scores[number, :length, :length])
    return heads
