"""The reference of the settings is made from the models: every key has its meaning, every preset its method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from docs.manual.settings_pages import MODELS, Setting, options, settings_pages, walk
from extractors.registry import classes, names
from extractors.text.registry import classes as text_classes
from settings import Section
from tests.conftest import ROOT
from trainers import METHODS


class _Inner(Section):
    """A part."""

    size: Annotated[int, Field(ge=1, le=9)] = 3
    """How large."""


class _Outer(Section):
    """A whole."""

    name: str
    """What it is called."""
    way: Literal["a", "b"] | None = None
    """Which | way."""
    inner: _Inner = _Inner(size=5)
    many: Mapping[str, _Inner] = {}
    """Several."""
    rows: tuple[_Inner, ...] = ()
    """More."""


def test_a_model_is_walked_with_its_defaults() -> None:
    assert list(walk(_Outer)) == [
        Setting("name", "text", "", "What it is called."),
        Setting("way", "`a` or `b` or `null`", "`null`", "Which | way."),
        Setting("inner.size", "integer ≥ 1, ≤ 9", "`5`", "How large."),
        Setting("many", "mapping of text to section", "`{}`", "Several."),
        Setting("many.NAME.size", "integer ≥ 1, ≤ 9", "`3`", "How large."),
        Setting("rows", "list of section", "`[]`", "More."),
        Setting("rows.N.size", "integer ≥ 1, ≤ 9", "`3`", "How large."),
    ]


@pytest.mark.parametrize("command", MODELS)
def test_every_setting_has_a_sentence(command: str) -> None:
    silent = [setting.key for setting in walk(MODELS[command]) if not setting.meaning.strip()]
    assert not silent, f"write a docstring below the field: {silent}"


@pytest.mark.parametrize("command", MODELS)
def test_the_schema_that_a_job_prints_says_the_same(command: str) -> None:
    """``--schema`` is what editors read."""

    def described(model: type[BaseModel]) -> set[str]:
        return {name for name, field in model.model_fields.items() if field.description}

    model = MODELS[command]
    assert described(model) >= {setting.key for setting in walk(model) if "." not in setting.key}


@pytest.mark.parametrize("name", [*names(), *(f"text {name}" for name in text_classes())])
def test_every_option_of_an_extractor_has_a_sentence(name: str) -> None:
    kind, _, text = name.partition(" ")
    cls: type[BaseModel] = text_classes()[text] if text else classes()[kind]
    silent = [option.key for option in options(cls) if not option.meaning.strip()]
    assert not silent, f"{cls.__name__}: {silent}"


def test_presets_stand_with_the_method_that_the_page_about_training_names() -> None:
    stated = dict(re.findall(r"^\| `([\w-]+)` \| (\w+) \|", (ROOT / "docs/training.md").read_text(), re.M))
    assert set(stated.values()) == set(METHODS)
    pages = settings_pages()
    shown = {
        preset: method
        for method in METHODS
        for preset in re.findall(r"^### `([\w-]+)`", pages[f"reference/settings/train-{method}.md"], re.M)
    }
    assert shown == stated


def test_a_preset_is_shown_beside_the_defaults() -> None:
    page = settings_pages()["reference/settings/train-coqo.md"]
    hcrn = page.partition("### `hcrn`\n")[2].partition("###")[0]
    assert "| `model.method` | `hcrn` | `coqo` |" in hcrn and "model.fusion" not in hcrn
