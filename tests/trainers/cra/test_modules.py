"""Modules against the numbers of ``docs/facts/cra.md``, which come from running the published code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.cra import alignment
from trainers.cra.grounding import Grounding, gaussian_kernel, smooth
from trainers.cra.intervention import EDGES, BackDoor, FrontDoor, GraphConvolution, normalised_adjacency
from trainers.cra.temp_clip import gaussian_weights
from trainers.cra.video import Decoder, SelfAttention, UnbiasedLayerNorm, VideoEmbedding, positions

ALL = torch.ones(1, 32, dtype=torch.bool)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_released_modules() -> None:
    assert count(VideoEmbedding(768, 768, 0.3)) == 592_128
    assert count(Grounding(768, double_softmax=True, gated=True)) == 1_481_474
    assert count(BackDoor(torch.zeros(512, 8, 768), 768)) == 4_992_864
    assert count(FrontDoor(torch.zeros(512, 768), 768, batch_mixing=True)) == 4_528_128
    # All of the published decoder is 13,991,623, of which pools and selectors that nothing uses are 296,645.
    decoder = Decoder(768, 8, 2, 0.1, 0.0, UnbiasedLayerNorm)
    used = count(decoder) + 1_481_474 + 4_528_128 + count(nn.Linear(768, 768))
    assert used == 13_991_623 - 296_645


def self_attention(decoder: Decoder, frames: Tensor) -> float:
    """How much a frame attends to itself in the first layer, on average."""
    layer = decoder.layers[0]
    x = layer.attention_norm(frames)
    q, k = (linear(x).unflatten(-1, (8, -1)).transpose(1, 2) for linear in (layer.attention.query, layer.attention.key))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(96)).softmax(-1)
    return float(weights.diagonal(dim1=-2, dim2=-1).mean().detach())


@pytest.mark.parametrize(("cloned", "itself"), [(True, 0.443), (False, 0.0315)])
def test_a_cloned_decoder_starts_as_the_published_one(cloned: bool, itself: float) -> None:
    """Copied maps let a frame attend to itself (``docs/facts/cra.md`` section 11.2, measured on the published code)."""
    torch.manual_seed(0)
    decoder = Decoder(768, 8, 2, 0.1, 0.0, UnbiasedLayerNorm, cloned=cloned)
    first, second = decoder.layers
    maps = [first.attention.query, first.attention.key, first.attention.value, first.attention.out]
    for other in maps[1:]:
        assert torch.equal(maps[0].weight, other.weight) is cloned
        assert torch.equal(maps[0].bias, other.bias) is cloned
    for name, value in first.state_dict().items():
        if not name.endswith(("norm.weight", "norm.bias")):
            assert torch.equal(value, second.state_dict()[name]) is cloned
    assert self_attention(decoder, torch.randn(4, 32, 768)) == pytest.approx(itself, abs=0.01)
    # Equal at the start, but not the same: 13 maps and norms of two layers, and the last norm.
    assert len({parameter.data_ptr() for parameter in decoder.parameters()}) == 34
    plain = Decoder(768, 8, 2, 0.1, 0.0, UnbiasedLayerNorm)
    assert count(decoder) == count(plain)


def test_the_kernel_at_sigma_one() -> None:
    golden = torch.tensor([0.0544887, 0.2442014, 0.4026200, 0.2442014, 0.0544887])
    torch.testing.assert_close(gaussian_kernel(torch.tensor(1.0)), golden, atol=1e-7, rtol=0)
    assert gaussian_kernel(torch.tensor(0.0)).tolist() == [0, 0, 1, 0, 0]
    assert gaussian_kernel(torch.tensor(-2.0)).tolist() == gaussian_kernel(torch.tensor(2.0)).tolist()


def test_double_softmax_goldens() -> None:
    kernel = gaussian_kernel(torch.tensor(1.0))
    peak = F.one_hot(torch.tensor([10]), 32).float()
    w = smooth(peak, kernel, ALL, double_softmax=True)[0]
    expected = [0.045105, 0.038497, 0.031845, 0.030156]
    assert w[[10, 11, 12, 13]].tolist() == pytest.approx(expected, abs=1e-6)
    assert w[[10, 9, 8, 7]].tolist() == pytest.approx(expected, abs=1e-6)
    flat = smooth(torch.full((1, 32), 1 / 32), kernel, ALL, double_softmax=True)[0]
    assert flat[[0, 1, 2, 16, 30, 31]].tolist() == pytest.approx(
        [0.030981, 0.031218, 0.031271, 0.031271, 0.031218, 0.030981], abs=1e-6
    )


def test_without_the_second_softmax_a_peak_stays_a_peak() -> None:
    kernel = gaussian_kernel(torch.tensor(1.0))
    peak = F.one_hot(torch.tensor([0]), 32).float()
    w = smooth(peak, kernel, ALL, double_softmax=False)[0]
    assert w.sum().item() == pytest.approx(1)
    assert w[:3].tolist() == pytest.approx([x / 0.7013101 for x in (0.4026200, 0.2442014, 0.0544887)], abs=1e-6)
    valid = ALL.clone()
    valid[:, 1] = False
    assert smooth(peak, kernel, valid, double_softmax=False)[0, 1] == 0


def test_the_published_gate_tells_frames_only_the_sign_of_their_match() -> None:
    """norm(g v) = norm(v) for every g > 0: frames that match the query more are weighted no differently."""
    torch.manual_seed(0)
    frames, query = torch.randn(1, 32, 768), torch.randn(1, 768)
    shares = {}
    for gated in (True, False):
        module = Grounding(768, gated=gated)
        leaf = query.clone().requires_grad_()
        p, _ = module(frames, leaf, ALL)
        (gradient,) = torch.autograd.grad(p[0, 3], leaf)
        shares[gated] = gradient.norm().item()
        v, q = module.video(frames)[0], module.query(query)[0]
        if gated:
            assert module.score is not None
            assert ((v @ q) > 0).all()
            expected = module.score(v).squeeze(-1).softmax(0)
        else:
            expected = (v @ q / math.sqrt(768)).softmax(0)
        torch.testing.assert_close(p[0].detach(), expected.detach(), atol=1e-4, rtol=1e-3)
    assert shares[True] < 1e-3 * shares[False]


def test_rows_of_the_normalised_graph() -> None:
    rows = {
        0: {0: 1},
        1: {0: 0.707, 1: 0.5},
        2: {0: 0.707, 2: 0.5},
        3: {0: 0.5, 2: 0.354, 3: 0.25, 4: 0.289},
        4: {0: 0.577, 2: 0.408, 4: 0.333},
        5: {0: 0.577, 2: 0.408, 5: 0.333},
        6: {5: 0.408, 6: 0.5},
        7: {5: 0.333, 6: 0.408, 7: 0.333},
    }
    golden = torch.zeros(8, 8)
    for target, sources in rows.items():
        for source, weight in sources.items():
            golden[target, source] = weight
    torch.testing.assert_close(normalised_adjacency(), golden, atol=6e-4, rtol=0)
    assert len(set(EDGES)) == 12


def test_a_graph_is_convolved_without_the_others() -> None:
    torch.manual_seed(0)
    graphs, convolution = torch.randn(3, 8, 16), GraphConvolution(16, 4)
    alone = convolution(graphs[1])
    torch.testing.assert_close(convolution(graphs)[1], alone)
    by_hand = torch.stack(
        [sum(normalised_adjacency()[t, s] * (graphs[1, s] @ convolution.weight) for s in range(8)) for t in range(8)]
    )
    torch.testing.assert_close(alone, by_hand)


def test_front_door_without_mixing_is_the_published_one_for_a_batch_of_one() -> None:
    torch.manual_seed(0)
    dictionary, x, m = torch.randn(16, 12), torch.randn(4, 8), torch.randn(4, 8)
    published, clean = FrontDoor(dictionary, 8, batch_mixing=True), FrontDoor(dictionary, 8)
    clean.load_state_dict(published.state_dict(), strict=False)
    alone = torch.cat([published(x[i : i + 1], m[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(clean(x, m), alone)
    assert (published(x, m) - alone).abs().max() > 1e-3


def test_back_door_is_the_formula() -> None:
    torch.manual_seed(0)
    module, query = BackDoor(torch.randn(5, 8, 6), 16), torch.randn(3, 16)
    z = torch.einsum("ts,kse,ef->ktf", normalised_adjacency(), module.dictionary, module.graph.weight).reshape(5, 16)
    attention = torch.softmax(module.query(query) @ module.key(z).T / 4, -1)
    torch.testing.assert_close(module(query), module.norm(attention @ module.value(z) + query))


def test_unbiased_layer_norm_is_the_formula() -> None:
    x = torch.tensor([[1.0, 2, 3, 6]])
    std = math.sqrt(14 / 3)
    expected = [(value - 3) / (std + 1e-6) for value in (1, 2, 3, 6)]
    assert UnbiasedLayerNorm(4)(x)[0].tolist() == pytest.approx(expected)


def test_positions_are_sinusoids() -> None:
    table = positions(32, 768)
    assert table[0, :4].tolist() == [0, 1, 0, 1]
    assert table[5, 0].item() == pytest.approx(math.sin(5))
    assert table[5, 7].item() == pytest.approx(math.cos(5 * 10_000 ** (-6 / 768)), abs=1e-5)


def test_a_prior_multiplies_attention_and_renormalises_it() -> None:
    torch.manual_seed(0)
    module = SelfAttention(8, 2, 0.0)
    x, prior = torch.randn(2, 5, 8), torch.rand(2, 5)
    q, k, v = (linear(x).unflatten(-1, (2, 4)).transpose(1, 2) for linear in (module.query, module.key, module.value))
    weights = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) * (prior[:, None, None] + 1e-10)
    expected = module.out(((weights / weights.sum(-1, keepdim=True)) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x, torch.ones(2, 5, dtype=torch.bool), prior), expected)


def test_gaussian_proposals_peak_at_their_centre() -> None:
    bell = gaussian_weights(torch.tensor([0.5, 10 / 31, 0.1]), torch.tensor([0.9, 0.001, 0.0]), torch.ones(3, 32) > 0)
    assert bell[0, 15].item() == pytest.approx(1) == bell[0, 16].item()
    s = 0.9 / 9
    assert bell[0, 20].item() == pytest.approx(
        math.exp(-((20 / 31 - 0.5) ** 2 - (0.5 / 31) ** 2) / (2 * s * s)), abs=1e-5
    )
    assert bell[1].argmax() == 10
    assert bell.isfinite().all()


def _reference_nce(queries: Tensor, keys: Tensor, temperature: float) -> float:
    queries, keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
    losses = []
    for i in range(len(queries)):
        scores = [math.exp(float(queries[i] @ keys[j]) / temperature) for j in range(len(keys))]
        losses.append(-math.log(scores[i] / sum(scores)))
    return sum(losses) / len(losses)


def test_bidirectional_alignment_is_the_mean_of_both_directions() -> None:
    torch.manual_seed(0)
    video, text = torch.randn(6, 8), torch.randn(6, 8)
    expected = (_reference_nce(video, text, 0.5) + _reference_nce(text, video, 0.5)) / 2
    assert alignment.bidirectional(video, text, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_sampled_alignment_draws_others_only() -> None:
    """With two samples, the only negative is the other one, 32 times (``docs/facts/cra.md`` section 5.5 by hand)."""
    torch.manual_seed(0)
    video, text = torch.randn(2, 8), torch.randn(2, 8)
    z, t = F.normalize(video, dim=-1), F.normalize(text, dim=-1)
    losses = []
    for own, other in ((0, 1), (1, 0)):
        right, wrong = (math.exp(float(t[own] @ z[j]) / 0.07) for j in (own, other))
        losses.append(-math.log(right / (right + 32 * wrong)))
    assert alignment.sampled(video, text, 0.07, 32).item() == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_sampled_alignment_starts_near_ln_33_and_takes_a_batch_of_one() -> None:
    torch.manual_seed(0)
    video, text = torch.randn(64, 768), torch.randn(64, 768)
    assert alignment.sampled(video, text, 0.07, 32).item() == pytest.approx(math.log(33), abs=0.3)
    assert alignment.sampled(video[:1], text[:1], 0.07, 32).item() == 0
    assert alignment.bidirectional(video[:1], text[:1], 0.07).item() == 0
