"""Attention and the Question Guided Transformer against PyTorch's own attention and the printed equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainers.coqo.attention import Attention, masked_mean
from trainers.coqo.config import QgtConfig
from trainers.coqo.qgt import QGT, QGTLayer

DIM = 16


def reference(attention: Attention) -> nn.MultiheadAttention:
    """PyTorch's attention with the same weights."""
    theirs = nn.MultiheadAttention(DIM, attention.heads, batch_first=True)
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.load_state_dict(attention.out.state_dict())
    return theirs


def theirs(attention: Attention, query: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
    mask = None if valid is None else ~valid
    out: Tensor = reference(attention)(query, memory, memory, key_padding_mask=mask)[0]
    return out


def mask(*lengths: int) -> Tensor:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def test_attention_and_its_weights_equal_pytorchs() -> None:
    torch.manual_seed(0)
    attention = Attention(DIM, 4, 0.0)
    query, memory, valid = torch.randn(2, 3, DIM), torch.randn(2, 5, DIM), mask(5, 2)
    expected, weights = reference(attention)(query, memory, memory, key_padding_mask=~valid)
    torch.testing.assert_close(attention(query, memory, valid), expected)
    out, ours = attention.with_weights(query, memory, valid)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(ours, weights)


def config(**changes: object) -> QgtConfig:
    return QgtConfig.model_validate({"heads": 4, "ffn": 24, "tokens": 3, "layers": 1, **changes})


def equations(qgt: QGT, x: Tensor, valid: Tensor, questions: Tensor, q_mask: Tensor) -> Tensor:
    """``docs/facts/coqo.md`` section 3.4 line by line: one post-norm layer, no residual in the attention of F_t."""
    layer = qgt.layers[0]
    assert isinstance(layer, QGTLayer)
    f_t = torch.cat([questions, qgt.tokens.expand(len(x), -1, -1)], dim=1)
    keys = torch.cat([q_mask, torch.ones(len(x), len(qgt.tokens), dtype=torch.bool)], dim=1)
    f_t = layer.norms["question"](theirs(layer.question_attention, f_t, f_t, keys))
    f_m = theirs(layer.self_attention, x, x, valid)
    f_c = theirs(layer.cross_attention, f_m, f_t, keys)
    prime = layer.norms["cross"]((f_m + layer.weight * f_c) + x)
    out: Tensor = layer.norms["output"](layer.ffn(prime) + prime)
    return out


def test_a_layer_is_the_printed_equations() -> None:
    torch.manual_seed(0)
    qgt = QGT(DIM, config(norm="post", question_update="plain", lambda_init=0.3)).eval()
    x, questions = torch.randn(2, 6, DIM), torch.randn(2, 3, DIM)
    valid, q_mask = mask(6, 4), mask(3, 1)
    expected = equations(qgt, x, valid, questions, q_mask)
    torch.testing.assert_close(qgt(x, valid, questions, q_mask)[:, 0], expected)


@pytest.mark.parametrize("guidance", ["shared", "per_question"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_without_lambda_questions_do_not_matter(norm: str, guidance: str) -> None:
    torch.manual_seed(0)
    settings = config(norm=norm, guidance=guidance, lambda_init=0.0, layers=2)
    qgt = QGT(DIM, settings).eval()
    x, q_mask = torch.randn(2, 6, DIM), mask(3, 2)
    one, other = (qgt(x, mask(6, 4), torch.randn(2, 3, DIM), q_mask) for _ in range(2))
    torch.testing.assert_close(one, other)


def test_lambda_is_a_parameter_or_a_constant() -> None:
    assert isinstance(QGTLayer(DIM, config()).weight, nn.Parameter)
    fixed = QGTLayer(DIM, config(lambda_learnable=False, lambda_init=0.1))
    assert "weight" in dict(fixed.named_buffers())


def test_both_readings_coincide_for_one_question() -> None:
    """``docs/facts/coqo.md`` section 3.6: at inference N = 1 and (A) and (B) are the same."""
    torch.manual_seed(0)
    shared = QGT(DIM, config(layers=2)).eval()
    per_question = QGT(DIM, config(layers=2, guidance="per_question")).eval()
    per_question.load_state_dict(shared.state_dict())
    x, valid, question, one = torch.randn(3, 6, DIM), mask(6, 4, 5), torch.randn(3, 1, DIM), mask(1, 1, 1)
    torch.testing.assert_close(shared(x, valid, question, one), per_question(x, valid, question, one))


@pytest.mark.parametrize("guidance", ["shared", "per_question"])
def test_more_layers_attend_questions_without_tokens(guidance: str) -> None:
    """m = 0 is the ablation without R."""
    qgt = QGT(DIM, config(tokens=0, layers=2, guidance=guidance)).eval()
    out = qgt(torch.randn(2, 6, DIM), mask(6, 4), torch.randn(2, 3, DIM), mask(3, 1))
    assert out.isfinite().all()
    assert out.shape == (2, 1 if guidance == "shared" else 3, 6, DIM)


def test_masked_mean_leaves_out_what_is_not_valid() -> None:
    x = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    valid = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(x, valid).tolist() == [[2.0], [0.0]]
