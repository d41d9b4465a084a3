from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

import settings
from trainers.config import PRESETS
from trainers.cra.config import RELEASED, CraConfig


def test_every_released_setting_differs_from_paper_and_is_documented_with_its_number() -> None:
    paper = CraConfig().model_dump()
    released = CraConfig.model_validate({"recipe": "released"}).model_dump()
    for section, values in RELEASED.items():
        for name, value in values.items():
            assert released[section][name] == value != paper[section][name]
            fields = CraConfig.model_fields[section].annotation.model_fields  # type: ignore[union-attr]  # each section has a model
            assert re.search(r"``released``: .+ \((fact|facts|section) \d", fields[name].description)


def test_a_setting_that_is_given_wins_over_the_recipe() -> None:
    config = CraConfig.model_validate(
        {"recipe": "released", "model": {"back": True, "dim": 128}, "loop": {"epochs": 3}}
    )
    assert config.model.back and config.model.double_softmax
    assert (config.loop.epochs, config.loop.lr, config.loop.amsgrad) == (3, 1e-5, True)
    assert CraConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"model": {"dim": 96, "heads": 7}}, "model.heads"),
        ({"loss": {"negatives": 8}}, "loss.negatives"),
        ({"model": {"gsg": False}}, "model.back"),
        ({"model": {"dim": 100}}, "multiple of 8"),
        ({"recipe": "other"}, "recipe"),
        ({"model": {"gss": True}}, "gss"),
        ({"model": {"proposal": "gaussian"}}, "model.proposal: gaussian belongs to model.method temp_clip"),
        ({"model": {"method": "temp_clip"}, "evaluation": {"interval": "proposal"}}, "evaluation.interval: proposal"),
    ],
)
def test_what_cannot_be_is_refused(raw: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CraConfig.model_validate(raw)


RELEASED_PRESETS = ("cra-released", "temp-clip-released", "temp-clip-ng", "temp-clip-ng-plus")


def preset(name: str) -> CraConfig:
    raw, origin = settings.read(PRESETS, name, None, [])
    return settings.validate(CraConfig, raw, origin)


@pytest.mark.parametrize("name", ["cra", "cra-star", "cra-small", "temp-clip", *RELEASED_PRESETS])
def test_presets_are_valid(name: str) -> None:
    config = preset(name)
    assert config.recipe == ("released" if name in RELEASED_PRESETS else "paper")
    assert config.loop.amsgrad


@pytest.mark.parametrize(
    ("name", "baseline", "vg_loss"),
    [("temp-clip-released", "posthoc", 0), ("temp-clip-ng", "NG", 0), ("temp-clip-ng-plus", "NG+", 1)],
)
def test_the_published_baselines_have_the_values_of_their_files(name: str, baseline: str, vg_loss: float) -> None:
    """config/TempCLIP/TempCLIP_NextGQA{_PH,}.yml of WissingChen/CRA-GQA at db1f654, value by value; NG has no file."""
    config = preset(name)
    assert config.loss.vq == vg_loss and config.loss.vqa == 1
    assert config.model.proposal == ("posthoc" if baseline == "posthoc" else "gaussian")
    assert config.span_rule == ("posthoc" if baseline == "posthoc" else "proposal")
    model, loop, text, data = config.model, config.loop, config.text, config.data
    assert (model.method, model.layers, model.heads, model.dim, model.dropout) == ("temp_clip", 2, 8, 768, 0.3)
    assert (loop.optimizer, loop.lr, loop.weight_decay, loop.amsgrad) == ("adam", 1e-5, 0, True)
    assert (loop.epochs, loop.clip_norm, loop.seed, loop.patience) == (30, 12, 2025, 30)
    assert (loop.schedule, loop.warmup_epochs) == ("cosine", 1)  # published under the name ``warmup``
    assert (text.question_tokens, text.option_tokens, text.mask_padding) == (30, 38, False)
    assert (data.batch, data.paraphrase, data.distractors, data.same_video) == (64, 0.3, 0.3, 0.3)
    assert not data.distinct_candidates and not data.descriptive_same_video
    assert config.evaluation.published_spans and config.evaluation.published_times
