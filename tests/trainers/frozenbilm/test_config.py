from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

import settings
from trainers.config import PRESETS
from trainers.frozenbilm.config import RELEASED, FrozenBilmConfig

RANDOM = {"weights": "random:0"}


def test_every_released_setting_differs_from_paper_and_is_documented() -> None:
    paper = FrozenBilmConfig().model_dump()
    released = FrozenBilmConfig.model_validate({"recipe": "released"}).model_dump()
    for section, values in RELEASED.items():
        for name, value in values.items():
            assert released[section][name] == value != paper[section][name]
            fields = FrozenBilmConfig.model_fields[section].annotation.model_fields  # type: ignore[union-attr]  # each section has a model
            assert re.search(r"``released``: ", fields[name].description)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"model": {"weights": "random"}}, r"'random' is not random:<seed>, as random:0, nor a folder"),
        ({"model": {"trained": "all"}}, "all trains random weights; those of a folder stay frozen"),
        ({"model": {**RANDOM, "language": {"width": 30}}}, r"model\.language\.heads: 24 does not divide"),
        (
            {"model": {**RANDOM, "method": "cra", "language": {"width": 36, "heads": 4}}},
            r"model\.language\.width: 36 is not a multiple of 8",
        ),
        ({"recipe": "released", "model": {"method": "cra", "front": False}}, "nothing of published grounding reaches"),
        ({"loss": {"negatives": "half"}}, r"loss\.negatives"),
        (
            {"evaluation": {"interval": "proposal"}},
            r"needs a model that proposes a span; set model\.method to gaussian",
        ),
        ({"model": {"proposal": "gaussian"}}, "proposal"),
    ],
)
def test_what_cannot_be_is_refused(raw: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        FrozenBilmConfig.model_validate(raw)


@pytest.mark.parametrize(
    ("name", "method", "epochs", "vq"), [("frozenbilm", "posthoc", 20, 0), ("frozenbilm-cra", "cra", 30, 1)]
)
def test_presets_have_the_published_optimiser(name: str, method: str, epochs: int, vq: float) -> None:
    """``docs/facts/frozenbilm.md`` section 6: the shell of FrozenGQA, and the log of CRA."""
    raw, origin = settings.read(PRESETS, name, None, [])
    config = settings.validate(FrozenBilmConfig, raw, origin)
    loop = config.loop
    assert (config.model.method, loop.epochs, config.loss.vq, config.loss.align) == (method, epochs, vq, 0.5)
    assert (loop.optimizer, loop.lr, loop.betas, loop.weight_decay, loop.clip_norm) == (
        "adam",
        1e-5,
        (0.9, 0.95),
        0,
        0.1,
    )
    assert (loop.schedule, loop.warmup_epochs) == ("linear", epochs / 10)
    assert (config.data.batch, config.data.distractors, config.data.same_video) == (6, 0.3, 0.3)
    assert (config.model.reduction, config.model.dropout, config.text.max_tokens) == (8, 0.1, 100)


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ({}, ()),
        ({"model": {"method": "gaussian"}}, ()),
        ({"model": {"method": "cra"}}, ("linguistic_dictionary", "visual_dictionary")),
        ({"recipe": "released", "model": {"method": "cra"}}, ("visual_dictionary",)),
    ],
)
def test_dictionaries_are_asked_for_where_they_are_used(raw: dict[str, object], names: tuple[str, ...]) -> None:
    assert FrozenBilmConfig.model_validate(raw).dictionaries == names
