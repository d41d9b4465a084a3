"""What must hold for every method: padding, order, independence of questions, gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests._helpers.coqo_building import SMALL, inputs, settings, sizes
from trainers.coqo.attention import Steps
from trainers.coqo.data import Inputs
from trainers.coqo.losses import objective
from trainers.coqo.model import Answers, clock
from trainers.coqo.task import build_model

COLLECTIVE: dict[str, dict[str, Any]] = {
    "coqo": {},
    "per question": {"qgt": {"guidance": "per_question"}},
    "post-norm, shared tokens": {"qgt": {"norm": "post", "token_sharing": "model", "question_update": "plain"}},
    "no positions": {"positions": "none", "fusion": "product"},
    "audio": {"inputs": "audio"},
    "visual": {"inputs": "visual"},
    "question": {"inputs": "question"},
    "hcrn": {"method": "hcrn"},
    "hcrn with qgt": {"method": "hcrn", "hcrn": {"qgt": True}},
}
AVST = {"method": "avst"}
ALL = {**COLLECTIVE, "avst": AVST}
collective = pytest.mark.parametrize("name", COLLECTIVE)
every = pytest.mark.parametrize("name", ALL)


def model(name: str, maps: bool = True) -> nn.Module:
    torch.manual_seed(0)
    data = {"collective": False} if name == "avst" else {}
    options = {key: dict(value) if isinstance(value, dict) else value for key, value in ALL[name].items()}
    return build_model(settings(data=data, **options), sizes(maps)).eval()


def batch(name: str, **changes: Any) -> Inputs:
    return inputs(questions=1 if name == "avst" else 4, **changes)


def answer(network: nn.Module, given: Inputs) -> Answers:
    answers: Answers = network(given.words, given.q_mask, given.audio, given.visual, given.videos)
    return answers


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def rows(given: Inputs, index: list[int]) -> Inputs:
    at = torch.tensor(index)
    audio, visual = (
        None if steps is None else Steps(*(part[at] for part in steps)) for steps in (given.audio, given.visual)
    )
    return Inputs(given.words[at], given.q_mask[at], audio, visual, given.videos[at], given.labels[at])


def longer(steps: Steps | None, more: int) -> Steps:
    """Pad with ``more`` steps of garbage that are not valid."""
    assert steps is not None
    features, valid, times = steps
    batch_size, step = len(features), features.shape[2:]
    return Steps(
        torch.cat([features, torch.full((batch_size, more, *step), 77.0)], 1),
        torch.cat([valid, torch.zeros(batch_size, more, dtype=torch.bool)], 1),
        torch.cat([times, torch.full((batch_size, more), 5e3, dtype=torch.float64)], 1),
    )


@every
def test_padded_steps_change_nothing(name: str) -> None:
    network, given = model(name), batch(name)
    padded = replace(given, audio=longer(given.audio, 3), visual=longer(given.visual, 3))
    same(answer(network, padded).logits, answer(network, given).logits)


@every
def test_invalid_steps_are_not_read(name: str) -> None:
    """The first video's last step is not valid: what it holds cannot matter."""
    network, given = model(name), batch(name)
    expected = answer(network, given)
    assert given.audio is not None and given.visual is not None
    assert not given.audio.valid[0, -1] and not given.visual.valid[0, -1]
    given.audio.features[0, -1] = 1e4
    given.visual.features[0, -1] = float("nan")
    changed = answer(network, given)
    same(changed.logits, expected.logits)
    for weights in changed.attention.values():
        same(weights[0, :, -1], torch.zeros(weights.shape[1]))


@collective
def test_permuting_questions_permutes_answers(name: str) -> None:
    network, given = model(name), batch(name)
    order = torch.tensor([2, 0, 3, 1])
    moved = replace(given, words=given.words[:, order], q_mask=given.q_mask[:, order])
    same(answer(network, moved).logits, answer(network, given).logits[:, order])


@collective
def test_padded_questions_and_words_change_nothing(name: str) -> None:
    network, given = model(name), batch(name)
    words = torch.zeros(3, 6, 9, dtype=torch.int64)
    words[:, :4, :5] = given.words
    words[:, 4:] = 3  # garbage behind the mask
    q_mask = torch.cat([given.q_mask, torch.zeros(3, 2, dtype=torch.bool)], 1)
    padded = answer(network, replace(given, words=words, q_mask=q_mask)).logits[:, :4]
    same(padded[given.q_mask], answer(network, given).logits[given.q_mask])


@every
def test_an_answer_does_not_depend_on_the_batch(name: str) -> None:
    network = model(name)
    given = inputs(questions=1)
    together = answer(network, given).logits
    for row in range(3):
        same(answer(network, rows(given, [row])).logits, together[row : row + 1])


@collective
def test_one_question_answers_alike_alone_and_padded(name: str) -> None:
    """``docs/facts/coqo.md`` section 3.10: at inference N = 1 and nothing else changes."""
    network, given = model(name), inputs(questions=1)
    padded = torch.zeros(3, 4, given.words.shape[2], dtype=torch.int64)
    padded[:, :1] = given.words
    q_mask = torch.tensor([[True, False, False, False]]).expand(3, 4)
    same(answer(network, replace(given, words=padded, q_mask=q_mask)).logits[:, :1], answer(network, given).logits)


def test_in_training_questions_share_clues() -> None:
    """The point of the method: another question of the same video changes what a question reads."""
    network, given = model("coqo"), batch("coqo")
    other = given.words.clone()
    other[:, 3] = torch.tensor([9, 9, 9, 9, 9])
    changed = answer(network, replace(given, words=other)).logits
    assert not torch.allclose(changed[0, 0], answer(network, given).logits[0, 0], atol=1e-6)


@every
@pytest.mark.parametrize("maps", [True, False])
def test_gradients_reach_every_parameter(name: str, maps: bool) -> None:
    network, given = model(name, maps).train(), batch(name, maps=maps)
    for _ in range(8 if "hcrn" in name else 1):  # HCRN draws subsets: a step leaves some relations out
        objective(answer(network, given), given.labels, settings().loss)["total"].backward()
    unreached = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    # A softmax is not changed by a bias that is the same for every key or score.
    assert [name for name in unreached if not name.endswith((".key.bias", ".score.bias"))] == []


@every
def test_silent_and_blind_videos_give_finite_answers_and_gradients(name: str) -> None:
    network, given = model(name).train(), batch(name)
    assert given.audio is not None and given.visual is not None
    given.audio.valid[:2] = False
    given.visual.valid[1] = False
    losses = objective(answer(network, given), given.labels, settings().loss)
    losses["total"].backward()
    assert losses["total"].isfinite()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())


@every
def test_bfloat16_trains(name: str) -> None:
    """What a GPU runs: half-precision features under autocast, close to full precision."""
    network, given = model(name), batch(name)
    assert given.audio is not None and given.visual is not None
    stored = replace(given, visual=given.visual._replace(features=given.visual.features.half()))
    expected = answer(network, given).logits
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(answer(network, stored).logits.float(), expected, rtol=0.1, atol=0.1)
        losses = objective(answer(network.train(), stored), given.labels, settings().loss)
    losses["total"].backward()
    assert losses["total"].dtype == torch.float32 and losses["total"].isfinite()


@pytest.mark.parametrize("level", ["guided", "projected"])
def test_losses_are_those_of_the_paper(level: str) -> None:
    config = settings(loss={"inter": 0.25, "intra": 2.0, "inter_level": level})
    torch.manual_seed(0)
    network, given = build_model(config, sizes()).train(), inputs()
    losses = objective(answer(network, given), given.labels, config.loss)
    assert set(losses) == {"total", "qa", "inter", "intra"}
    expected = losses["qa"] + 0.25 * losses["inter"] + 2.0 * losses["intra"]
    same(losses["total"], expected)


def test_intra_loss_is_zero_for_single_questions_and_inter_is_not() -> None:
    network, given = model("coqo").train(), inputs(questions=1)
    losses = objective(answer(network, given), given.labels, settings().loss)
    assert float(losses["intra"].detach()) == 0
    assert float(losses["inter"].detach()) > 0


def test_padded_and_unknown_labels_are_left_out() -> None:
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, -1, 4], [-1, -1, -1]])
    loss = objective(Answers(logits), labels, settings().loss)["total"]
    expected = -(logits[0, 0].log_softmax(0)[1] + logits[0, 2].log_softmax(0)[4]) / 2
    same(loss, expected)
    assert float(objective(Answers(logits), torch.full((2, 3), -1), settings().loss)["total"]) == 0


@pytest.mark.parametrize("name", ["coqo", "avst", "audio", "visual"])
def test_attention_over_steps_sums_to_one(name: str) -> None:
    answers, given = answer(model(name), batch(name)), batch(name)
    assert set(answers.attention) == {"coqo": {"audio", "visual"}, "avst": {"audio", "visual"}}.get(name, {name})
    for weights in answers.attention.values():
        assert weights.shape == (3, given.words.shape[1], 6)
        same(weights.sum(-1), torch.ones(weights.shape[:2]))


@every
def test_the_state_dict_is_the_whole_model(name: str) -> None:
    network, given = model(name), batch(name)
    torch.manual_seed(99)
    options = {key: dict(value) if isinstance(value, dict) else value for key, value in ALL[name].items()}
    other = build_model(settings(data={"collective": name != "avst"}, **options), sizes()).eval()
    other.load_state_dict(network.state_dict())
    same(answer(other, given).logits, answer(network, given).logits)


def test_small_is_small() -> None:
    """The demo's size must stay quick on a laptop."""
    assert sum(parameter.numel() for parameter in model("coqo").parameters()) < 150_000
    assert SMALL["dim"] == 32


def test_steps_of_unknown_times_have_no_positions() -> None:
    """A time that is not known is not the time 0, nor a step number."""
    config = settings().model
    times = torch.tensor([[0.5, 1.5], [float("nan"), float("nan")]])
    encoded = clock(Steps(torch.zeros(2, 2, 4), torch.ones(2, 2, dtype=torch.bool), times), config)
    assert encoded.isfinite().all() and (encoded[1] == 0).all() and (encoded[0] != 0).any()
    assert (
        clock(Steps(torch.zeros(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), times[:1, :1] * 0), config) != 0
    ).any()
