"""The trees of a batch are those that Stanza's own search finds, one sentence after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parsers.spanning_tree import best_trees

chuliu_edmonds = pytest.importorskip("stanza.models.common.chuliu_edmonds")


def random_scores(random: np.random.Generator, size: int) -> NDArray[np.float32]:
    scores = random.normal(0, 4, (size, size)).astype(np.float32)
    # A confident parser: most words give a head to their left a high score, and the first word the root.
    for word in range(1, size):
        scores[word, random.integers(0, word) if word == 1 else random.integers(1, word)] += random.choice([0, 12])
    np.fill_diagonal(scores, -np.inf)
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def test_trees_of_a_batch_are_those_of_the_search() -> None:
    random = np.random.default_rng(0)
    searched = 0

    def search(scores: NDArray[Any]) -> NDArray[Any]:
        nonlocal searched
        searched += 1
        return np.array(chuliu_edmonds.chuliu_edmonds_one_root(scores))

    for _ in range(40):
        lengths = random.integers(2, 9, 15)
        # What lies beyond a sentence is padding, whose scores are as high as any.
        batch = random.normal(9, 9, (15, 9, 9)).astype(np.float32)
        alone = [random_scores(random, int(length)) for length in lengths]
        for scores, own in zip(batch, alone, strict=True):
            scores[: len(own), : len(own)] = own
        before = batch.copy()
        trees = best_trees(batch, lengths, search)
        for tree, own in zip(trees, alone, strict=True):
            assert tree[: len(own)].tolist() == chuliu_edmonds.chuliu_edmonds_one_root(own).tolist()
            assert not tree[len(own) :].any()
        assert np.array_equal(batch, before)
    assert 100 < searched < 500


@pytest.mark.parametrize(
    "scores",
    [
        [[0, 0, 0], [5, 0, 1], [5, 1, 0]],  # two roots
        [[0, 0, 0], [1, 0, 5], [1, 5, 0]],  # a cycle
        [[0, 0, 0], [5, 0, 1], [3, 3, 0]],  # two best heads
    ],
)
def test_heads_that_are_not_a_tree_are_searched(scores: list[list[float]]) -> None:
    matrix = np.array([scores], np.float32)
    matrix[0][np.diag_indices(3)] = -np.inf
    searched: list[NDArray[Any]] = []

    def search(scores: NDArray[Any]) -> NDArray[Any]:
        searched.append(scores)
        return np.array([0, 0, 1])

    assert best_trees(matrix, np.array([3]), search).tolist() == [[0, 0, 1]]
    assert len(searched) == 1


def test_stanzas_search_is_the_default() -> None:
    scores = random_scores(np.random.default_rng(3), 7)[None]
    expected = chuliu_edmonds.chuliu_edmonds_one_root(scores[0]).tolist()
    assert best_trees(scores, np.array([7])).tolist() == [expected]
