"""Alignment losses against loops over the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.coqo.alignment import InterAlignment, intra_alignment, matching_loss, other_videos

TAU = 0.07


def info_nce(a: Tensor, v: Tensor) -> float:
    """``docs/facts/coqo.md`` section 3.7, one row at a time."""
    total = 0.0
    for i in range(len(a)):
        for one, many in ((a[i], v), (v[i], a)):
            scores = [float(F.cosine_similarity(one, other, dim=0)) / TAU for other in many]
            total += scores[i] - math.log(sum(math.exp(score) for score in scores))
    return -total / (2 * len(a))


def test_contrast_is_the_symmetric_info_nce() -> None:
    torch.manual_seed(0)
    a, v = torch.randn(5, 8), torch.randn(5, 8)
    inter = InterAlignment(8, TAU)
    assert float(inter.contrast(a, v, torch.arange(5))) == pytest.approx(info_nce(a, v), rel=1e-5)


def test_rows_of_one_video_are_not_each_others_negatives() -> None:
    """``docs/facts/coqo.md`` section 3.7: two rows of one video would be false negatives."""
    torch.manual_seed(0)
    a, v = torch.randn(3, 8), torch.randn(3, 8)
    inter = InterAlignment(8, TAU)
    twice = inter.contrast(a[[0, 0, 1]], v[[0, 0, 1]], torch.tensor([7, 7, 4]))
    # Each row of the pair sees itself and the third row; the third sees both of the pair.
    pair = info_nce(a[[0, 1]], v[[0, 1]])
    assert float(inter.contrast(a[:2], v[:2], torch.tensor([7, 4]))) == pytest.approx(pair, rel=1e-5)
    assert math.isfinite(float(twice))
    assert float(inter.contrast(a, v, torch.zeros(3, dtype=torch.int64))) == 0


def test_negatives_never_pair_a_video_with_itself() -> None:
    videos = torch.tensor([3, 1, 3, 2, 3])
    for seed in range(200):
        torch.manual_seed(seed)
        rows, partners = other_videos(videos)
        assert rows.tolist() == [0, 1, 2, 3, 4]
        assert (videos[rows] != videos[partners]).all()
    rows, partners = other_videos(torch.tensor([5, 5]))
    assert rows.tolist() == partners.tolist() == []


def test_every_other_video_is_drawn() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([other_videos(torch.arange(4))[1] for _ in range(100)])
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_matching_is_two_cross_entropies() -> None:
    positive, negative = torch.tensor([[0.2, 1.0]]), torch.tensor([[0.5, -1.0]])
    right = -math.log(math.exp(1.0) / (math.exp(0.2) + math.exp(1.0)))
    wrong = -math.log(math.exp(0.5) / (math.exp(0.5) + math.exp(-1.0)))
    assert float(matching_loss(positive, negative)) == pytest.approx(right + wrong)


def test_one_video_has_no_inter_loss() -> None:
    inter = InterAlignment(8, TAU)
    for rows in (1, 0):
        loss = inter(torch.randn(rows, 8), torch.randn(rows, 8), torch.zeros(rows, dtype=torch.int64))
        assert loss.item() == 0


def words(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)[..., None]


def test_intra_is_info_nce_over_each_videos_questions() -> None:
    torch.manual_seed(0)
    a, v = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    q_mask = torch.tensor([[True, True, True], [True, True, False]])
    loss = intra_alignment(a, v, q_mask, words([1, 2, 3], [1, 2, 0]), TAU)
    expected = (3 * info_nce(a[0], v[0]) + 2 * info_nce(a[1, :2], v[1, :2])) / 5
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_intra_is_zero_for_single_questions() -> None:
    """``docs/facts/coqo.md`` section 3.8: contributes 0 when N = 1, padded or not."""
    a, v = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    one = torch.tensor([[True, False, False]]).expand(2, 3)
    assert float(intra_alignment(a, v, one, words([1, 0, 0], [2, 0, 0]), TAU)) == 0
    assert float(intra_alignment(a[:, :1], v[:, :1], one[:, :1], words([1], [2]), TAU)) == 0


def test_the_same_question_twice_is_not_a_negative() -> None:
    torch.manual_seed(0)
    a = torch.randn(1, 2, 8)
    assert float(intra_alignment(a, a, torch.ones(1, 2, dtype=torch.bool), words([4, 4]), TAU)) == 0
