"""The shortcut finds the same tree as Stanza's own search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parsers.spanning_tree import with_shortcut

chuliu_edmonds = pytest.importorskip("stanza.models.common.chuliu_edmonds")


def test_the_shortcut_gives_the_result_of_the_search() -> None:
    random = np.random.default_rng(0)
    searched = 0

    def search(scores: NDArray[Any]) -> NDArray[Any]:
        nonlocal searched
        searched += 1
        return chuliu_edmonds.chuliu_edmonds_one_root(scores)

    find = with_shortcut(search)
    for _ in range(600):
        size = int(random.integers(2, 9))
        scores = random.normal(0, 4, (size, size)).astype(np.float32)
        # A confident parser: most words give a head to their left a high score, and the first word the root.
        for word in range(1, size):
            scores[word, random.integers(0, word) if word == 1 else random.integers(1, word)] += random.choice([0, 12])
        np.fill_diagonal(scores, -np.inf)
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        before = scores.copy()
        heads = find(scores)
        expected = chuliu_edmonds.chuliu_edmonds_one_root(scores)
        assert np.array_equal(heads, expected)
        assert heads.dtype == expected.dtype
        assert np.array_equal(scores, before)
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
    searched = []
    with_shortcut(lambda scores: searched.append(scores) or np.zeros(3))(np.array(scores, np.float32))
    assert len(searched) == 1
