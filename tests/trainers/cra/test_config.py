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
    ],
)
def test_what_cannot_be_is_refused(raw: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CraConfig.model_validate(raw)


@pytest.mark.parametrize("name", ["cra", "cra-released", "cra-star", "cra-small", "temp-clip"])
def test_presets_are_valid(name: str) -> None:
    raw, origin = settings.read(PRESETS, name, None, [])
    config = settings.validate(CraConfig, raw, origin)
    assert config.recipe == ("released" if name == "cra-released" else "paper")
    assert config.loop.amsgrad
