from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.cra.config import CraConfig
from trainers.cra.model import build_model
from trainers.cra.text import StoredText, TokenText, Words
from trainers.scaling import Standardise

F_DIM, DIM, T, K = 12, 16, 10, 4


def settings(recipe: str = "paper", **model: Any) -> CraConfig:
    small = {"dim": DIM, "heads": 2, **model}
    return CraConfig.model_validate({"recipe": recipe, "model": small, "text": {"heads": 2}})


def build(config: CraConfig, text: torch.nn.Module | None = None, scale: Standardise | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    dictionaries = {"linguistic_dictionary": torch.randn(6, 8, 5), "visual_dictionary": torch.randn(7, F_DIM)}
    if scale is not None:  # of the same frames, before they are standardised
        dictionaries["visual_dictionary"] = dictionaries["visual_dictionary"] * scale.std + scale.mean
    return build_model(config.model, text or StoredText(3, DIM), F_DIM, dictionaries, scale).eval()


def inputs(batch: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    video, candidates = torch.randn(batch, T, F_DIM), torch.randn(batch, K, 6)
    return video, torch.ones(batch, T, dtype=torch.bool), candidates, torch.ones(batch, K, dtype=torch.bool)


METHODS = [
    {},
    {"gsg": False, "back": False},
    {"gaussian": False},
    {"front": False},
    {"back": False},
    {"method": "temp_clip"},
    {"method": "temp_clip", "proposal": "gaussian"},
]


@pytest.mark.parametrize("model", METHODS)
def test_a_sample_does_not_depend_on_its_batch(model: dict[str, Any]) -> None:
    network, given = build(settings(**model)), inputs()
    whole = network(*given)
    for row in range(5):
        alone = network(*(tensor[row : row + 1] for tensor in given))
        torch.testing.assert_close(alone.logits[0], whole.logits[row])
        torch.testing.assert_close(alone.weights[0], whole.weights[row])


def test_as_released_a_sample_depends_on_its_batch() -> None:
    network, given = build(settings("released")), inputs()
    alone = network(*(tensor[:1] for tensor in given))
    assert (alone.logits[0] - network(*given).logits[0]).abs().max() > 1e-3


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("model", METHODS)
def test_padded_frames_and_options_change_nothing(model: dict[str, Any], recipe: str) -> None:
    network = build(settings(recipe, **model))
    video, valid, candidates, exists = inputs()
    plain = network(video, valid, candidates, exists)
    more = torch.zeros(5, 3, F_DIM)
    padded = network(
        torch.cat([video, more + 7], 1),
        torch.cat([valid, more[..., 0] > 0], 1),
        torch.cat([candidates, torch.ones(5, 2, 6)], 1),
        torch.cat([exists, torch.zeros(5, 2, dtype=torch.bool)], 1),
    )
    torch.testing.assert_close(padded.logits[:, :K], plain.logits)
    torch.testing.assert_close(padded.weights[:, :T], plain.weights)
    assert (padded.weights[:, T:] == 0).all()
    assert (padded.logits[:, K:] == -torch.inf).all()
    assert (padded.logits.argmax(1) < K).all()


@pytest.mark.parametrize("model", METHODS)
@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_every_parameter_learns(model: dict[str, Any], recipe: str) -> None:
    text = TokenText(Words(20, DIM, settings().text), DIM, DIM, 0, "attention")
    network = build(settings(recipe, **model), text).train()
    video, valid, _, exists = inputs()
    tokens = torch.randint(1, 20, (5, K, 6))
    for right in (None, torch.tensor([0, 1, 2, 3, 0])):
        grounded = network(video, valid, tokens, exists, right)
        (grounded.logits.logsumexp(1).sum() + grounded.video.pow(2).sum()).backward()
    still = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    # softmax is blind to a constant added to all its inputs: biases of scores and of keys cannot learn.
    assert [name for name in still if not name.endswith((".bias", "words.weight"))] == []


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_the_released_recipe_starts_from_copies(recipe: str) -> None:
    layers = build(settings(recipe, layers=3)).decoder.layers  # type: ignore[union-attr]  # a module of CRA
    queries = [layer.attention.query.weight for layer in layers]
    assert torch.equal(queries[0], queries[2]) is (recipe == "released")
    assert torch.equal(queries[0], layers[2].attention.out.weight) is (recipe == "released")


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_weights_and_their_sum(recipe: str) -> None:
    grounded = build(settings(recipe))(*inputs())
    for weights in (grounded.attention, grounded.weights):
        torch.testing.assert_close(weights.sum(1), torch.ones(5))
    ratio = grounded.weights.amax(1) / grounded.weights.amin(1)
    if recipe == "released":
        assert (ratio <= torch.e).all()


def test_the_query_of_questions_is_the_right_one_alone() -> None:
    network = build(settings())
    video, valid, candidates, exists = inputs()
    right = torch.tensor([0, 1, 2, 3, 0])
    changed = candidates.clone()
    changed[torch.arange(5), (right + 1) % K] += 1
    before, after = (network(video, valid, texts, exists, right) for texts in (candidates, changed))
    torch.testing.assert_close(before.weights, after.weights)
    before, after = (network(video, valid, texts, exists) for texts in (candidates, changed))
    assert (before.weights - after.weights).abs().max() > 1e-6


@pytest.mark.parametrize(("mask_padding", "same"), [(True, True), (False, False)])
def test_padding_of_texts_is_masked_in_paper_only(mask_padding: bool, same: bool) -> None:
    torch.manual_seed(0)
    text = TokenText(Words(20, DIM, settings().text), DIM, DIM, 0, "attention", mask_padding).eval()
    tokens = torch.randint(1, 20, (2, K, 6))
    longer = torch.nn.functional.pad(tokens, (0, 4))
    assert torch.allclose(text(tokens), text(longer), atol=1e-6) is same


def test_rows_of_padding_alone_are_finite() -> None:
    text = TokenText(Words(20, DIM, settings().text), DIM, DIM, 0, "attention").eval()
    assert text(torch.zeros(1, 2, 5, dtype=torch.int64)).isfinite().all()


def test_a_word_is_encoded_in_the_context_of_the_others() -> None:
    torch.manual_seed(0)
    words, real = Words(5, DIM, settings().text).eval(), torch.ones(1, 3, dtype=torch.bool)
    one, other = (words(torch.tensor([ids]), real)[0, 0] for ids in ([1, 2, 3], [1, 2, 4]))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["cra", "temp_clip"])
def test_a_scale_standardises_frames_and_the_visual_dictionary(method: str) -> None:
    config = settings(method=method)
    mean, std = torch.arange(F_DIM).float(), torch.linspace(0.5, 2, F_DIM)
    video, *rest = inputs()
    plain, scaled = build(config), build(config, scale=Standardise(mean, std))
    logits, expected = scaled(video * std + mean, *rest).logits, plain(video, *rest).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert {name for name in scaled.state_dict() if name.startswith("scale.")} == {"scale.mean", "scale.std"}
