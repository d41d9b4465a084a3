"""What is trained, counted and frozen, at full size on the meta device and at small width on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests._helpers.frozenbilm import ALL, IDS, MASK, config, dead_parameters, make, video
from tests.conftest import ROOT
from trainers.frozenbilm.config import FrozenBilmConfig
from trainers.frozenbilm.loading import published_names
from trainers.frozenbilm.losses import balanced_bce
from trainers.frozenbilm.model import FrozenBilm, build_model
from trainers.frozenbilm.tower import LanguageModel, language_config

WORDS = 128_100
LANGUAGE_MODEL = 887_871_588
NG, CRA, DEAD, LIN_NORM = 43_909_634, 75_880_803, 6_174_816, 3_072
EXISTS = torch.ones(2, 3, dtype=torch.bool)


@cache
def full_size(method: str, **model: Any) -> FrozenBilm:
    """The model with all its parameters and none of their memory."""
    chosen = {"weights": "random:0", "method": method, **model}
    settings = FrozenBilmConfig.model_validate({"recipe": "released", "model": chosen})
    with torch.device("meta"):
        language = LanguageModel(language_config(settings.model, WORDS, 0), 768, settings.model)
        dictionaries = {"visual_dictionary": torch.zeros(512, 768), "linguistic_dictionary": torch.zeros(512, 8, 768)}
        return build_model(settings, language, 3, 768, dictionaries)


def count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def trained(model: nn.Module) -> int:
    return count(parameter for parameter in model.parameters() if parameter.requires_grad)


def test_parameters_are_those_of_the_published_models() -> None:
    """``docs/facts/frozenbilm.md`` section 11; the decoder is tied, and CRA's dead parameters are left out or used."""
    plain = full_size("posthoc")
    own = ("adapter", "linear_video", "answer_")
    assert count(one for name, one in plain.named_parameters() if not any(mark in name for mark in own)) == (
        LANGUAGE_MODEL
    )
    assert trained(plain) == 29_735_424
    assert trained(full_size("gaussian")) == NG
    assert trained(full_size("cra")) == CRA - DEAD - LIN_NORM
    assert trained(full_size("cra", back=True)) == CRA - LIN_NORM
    assert count(dead_parameters(1536, 768, 512).values()) == DEAD + LIN_NORM


@pytest.mark.parametrize(("method", "keys"), [("posthoc", 597), ("gaussian", 617), ("cra", 668)])
def test_published_states_have_as_many_keys(method: str, keys: int) -> None:
    """The published ones also hold numbers of positions and two tied copies; FrozenBiLM is counted without answers."""
    names = {*published_names(full_size(method)).values()}
    dead = {*dead_parameters(8, 8, 1)} if method == "cra" else set()
    answers = {"answer_embeddings.weight", "answer_bias"} if method == "posthoc" else set()
    assert len((names | dead) - answers) + 3 == keys


def test_memory_of_the_full_size_is_what_the_page_states() -> None:
    """By count, in GB of 10^9 bytes: float32 weights, gradients and Adam's two means, and checkpoints."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(posthoc|gaussian|cra)` \| ([0-9,]+) \| ([0-9,]+) \| (.+) \|$", page, re.M)
    assert len(rows) == 3
    for method, parameters, learned, gigabytes in rows:
        model = full_size(method, back=True)
        whole, own = count(model.parameters()), trained(model)
        assert (int(parameters.replace(",", "")), int(learned.replace(",", ""))) == (whole, own)
        expected = [4 * whole / 1e9, (4 * whole + 12 * own) / 1e9, 4 * own / 1e9]
        assert [float(cell) for cell in gigabytes.split(" | ")] == [round(value, 2) for value in expected]


def scores(model: FrozenBilm, ids: Tensor | None = None) -> Any:
    ids = torch.stack([IDS, IDS.roll(1, 1), IDS], 1) if ids is None else ids
    return model(video(), ALL, ids, EXISTS[:, : ids.shape[1]])


def gradients(model: FrozenBilm) -> dict[str, Tensor | None]:
    model.train()
    balanced_bce(scores(model).logits, torch.tensor([1, 0]), EXISTS).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    return {name: one.grad for name, one in model.named_parameters() if one.requires_grad}


def test_the_published_gaussian_is_not_trained() -> None:
    """Its gradient is exactly 0 (section 8): what it changes is read by no answer. That of all else is not."""
    found = gradients(make(config("gaussian", dropout=0.0)))
    top = {name: one for name, one in found.items() if name.startswith("top.")}
    assert len(top) == 18
    for name, gradient in top.items():
        assert gradient is not None and not gradient.any(), name
    for name, gradient in found.items():
        assert name in top or (gradient is not None and gradient.any()), name


def test_the_repaired_gaussian_is_trained() -> None:
    found = gradients(make(config("gaussian", grounding="repaired", dropout=0.0)))
    head = [gradient for name, gradient in found.items() if name.startswith("top.head")]
    assert len(head) == 2 and all(gradient is not None and gradient.any() for gradient in head)


@pytest.mark.parametrize(
    ("chosen", "grounded"),
    [
        ({}, True),
        ({"batch_mixing": False}, False),
        ({"batch_mixing": False, "grounding": "repaired"}, True),
        ({"front": False, "grounding": "repaired"}, True),
    ],
)
def test_what_of_cra_reaches_the_answer(chosen: dict[str, Any], grounded: bool) -> None:
    """Without mixing, the published front door reads the mean frame alone."""
    found = gradients(make(config("cra", dropout=0.0, **chosen), 16))
    sigma = found["top.grounding.sigma"]
    assert (sigma is not None and bool(sigma.any())) == grounded


def test_what_is_trained() -> None:
    model = make(config())
    names = {name for name, one in model.named_parameters() if one.requires_grad}
    assert all("LayerNorm" in name or "adapter" in name or "linear_video" in name for name in names)
    assert sum("LayerNorm.weight" in name for name in names) == 2 * 3 + 4  # embeddings, relative, convolution, head
    everything = make(config(trained="all"))
    still = [name for name, one in everything.named_parameters() if not one.requires_grad]
    assert still == ["language.lm_predictions.lm_head.bias"]
    assert all(gradient is not None for gradient in gradients(everything).values())


def test_adapters_start_as_their_setting_says() -> None:
    for start, largest in (("standard", 0.2), ("small", 2e-3)):
        model = make(config(adapter_init=start))
        adapters = [one for name, one in model.named_parameters() if "adapter" in name or "linear_video" in name]
        assert max(float(one.detach().abs().max()) for one in adapters) <= largest
        biases = [one for one in adapters if one.ndim == 1]
        assert any(bool(one.any()) for one in biases) == (start == "small")


def test_layers_may_be_computed_twice() -> None:
    plain, again = make(config("cra", "paper"), 16), make(config("cra", "paper", recompute=True), 16)
    torch.manual_seed(1)
    first = gradients(plain)
    torch.manual_seed(1)
    second = gradients(again)
    for name, gradient in first.items():
        assert (gradient is None) == (second[name] is None)
        if gradient is not None:
            torch.testing.assert_close(second[name], gradient)


@pytest.mark.parametrize("method", ["posthoc", "gaussian", "cra"])
def test_a_sample_is_scored_as_if_it_were_alone(method: str) -> None:
    """The recipe ``paper`` depends neither on the rest of the batch nor on its padding nor on the other options."""
    model = make(config(method, "paper"), 16 if method == "cra" else 12)
    with torch.no_grad():
        ids = torch.stack([IDS, IDS.roll(1, 1)], 1)
        ids[0, 1] = torch.tensor([1, 5, 3, 2, 0, 0, 0, 0, 0])
        both = scores(model, ids)
        alone = model(video()[:1], ALL[:1], ids[:1, 1:, :4], EXISTS[:1, :1])
    torch.testing.assert_close(both.logits[:1, 1:], alone.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(both.weights[:1, 1:], alone.weights, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["posthoc", "gaussian", "cra"])
def test_a_longer_video_in_the_batch_moves_no_text(method: str) -> None:
    """Text stands behind the frames, in as many slots as the longest video of all has."""
    model = make(config(method, "paper"), 16 if method == "cra" else 12)
    frames, valid, ids = video().clone(), ALL.clone(), IDS[:, None]
    valid[0, 4:] = False
    frames[0, 4:] = 0
    model.slots = 8
    with torch.no_grad():
        both = model(frames, valid, ids, EXISTS[:, :1])
        alone = model(frames[:1, :4], valid[:1, :4], ids[:1], EXISTS[:1, :1])
        model.slots = 0
        moved = model(frames[:1, :4], valid[:1, :4], ids[:1], EXISTS[:1, :1])
    torch.testing.assert_close(both.logits[:1], alone.logits, atol=1e-5, rtol=0)
    assert alone.weights.shape == (1, 1, 4)
    torch.testing.assert_close(both.weights[:1, :, :4], alone.weights, atol=1e-5, rtol=0)
    assert not torch.allclose(moved.logits, alone.logits, atol=1e-5, rtol=0)


def test_a_batch_of_one_and_options_that_are_not_there() -> None:
    model = make(config("cra", dropout=0.0), 16)
    ids = torch.stack([IDS, IDS], 1)
    exists = torch.tensor([[True, True], [True, False]])
    with torch.no_grad():
        scored = model(video(), ALL, ids, exists)
        alone = model(video()[:1], ALL[:1], ids[:1, 1:], exists[:1, 1:])
    assert scored.logits[1, 1] == -torch.inf
    assert bool(scored.logits[exists].isfinite().all())
    torch.testing.assert_close(scored.logits[0, 1], alone.logits[0, 0], atol=1e-5, rtol=0)  # it mixes with nobody
    assert scored.predicted().weights.shape == (2, 6)


def test_the_last_mask_counts() -> None:
    """A text of the dataset may hold [MASK], too; the prompt's own comes last."""
    model = make(config())
    ids = IDS.clone()
    ids[0, 1] = MASK
    with torch.no_grad():
        first = scores(model, ids[:, None])
        ids[0, 3] = 7
        second = scores(model, ids[:, None])
    assert first.logits[0, 0] != second.logits[0, 0]


def test_what_is_longer_than_the_positions_is_one_line() -> None:
    model = make(config())
    with pytest.raises(Exception, match=r"6 frames and 60 tokens are longer than the 64 positions") as caught:
        scores(model, torch.full((2, 1, 60), MASK))
    assert "\n" not in str(caught.value)


def test_a_small_model_learns_two_videos_by_heart() -> None:
    model = make(config("cra", "paper", trained="all", dropout=0.0), 16).train()
    torch.manual_seed(0)
    ids = torch.randint(5, 40, (2, 3, 9))
    ids[..., 6] = MASK
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=3e-3)
    right = torch.tensor([2, 0])
    for _ in range(20):
        optimizer.zero_grad()
        loss = balanced_bce(scores(model, ids).logits, right, EXISTS)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
    assert loss.item() < 0.2  # from ln 2
    assert torch.equal(scores(model, ids).logits.argmax(1), right)
