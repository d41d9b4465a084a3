"""Reading settings: overrides, unknown keys, and messages of one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

import settings


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner | None = None
    many: dict[str, Inner] = {}


def test_overrides_apply_in_order_on_top_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("inner: {rate: 2}\n")
    raw, origin = settings.read(tmp_path, "base", None, ["inner.rate=3", "inner.rate=4"])
    assert settings.validate(Outer, raw, origin) == Outer(inner=Inner(rate=4))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.rat=1", "preset base: inner.rat: unknown key; did you mean 'rate'?"),
        ("many.x.speed=1", "preset base: many.x.speed: unknown key"),
        ("inner.x=1", "preset base: inner.x: unknown key; available: rate"),
        ("inner.rate=fast", "preset base: inner.rate: input should be a valid number"),
    ],
)
def test_a_wrong_key_is_named_with_its_section(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "base.yaml").write_text("inner: {}\n")
    raw, origin = settings.read(tmp_path, "base", None, [override])
    with pytest.raises(settings.SettingsError) as caught:
        settings.validate(Outer, raw, origin)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_exactly_one_source_is_read(tmp_path: Path) -> None:
    with pytest.raises(settings.SettingsError, match="exclude each other"):
        settings.read(tmp_path, "a", tmp_path / "b.yaml", [])
    with pytest.raises(settings.SettingsError, match=r"^preset None: unknown; available: none$"):
        settings.read(tmp_path, None, None, [])
    (tmp_path / "base.yaml").touch()
    with pytest.raises(
        settings.SettingsError, match=r"^preset 'bass': unknown; available: base; did you mean 'base'\?$"
    ):
        settings.read(tmp_path, "bass", None, [])


@pytest.mark.parametrize("text", ["a: 2020-13-45", "? [a]\n: b", "a: " + "[" * 3000, "a: &x [*y]"])
def test_yaml_that_cannot_be_loaded_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "base.yaml"
    path.write_text(text)
    with pytest.raises(settings.SettingsError, match=r"base: .*not valid YAML"):
        settings.read_yaml(path, "base")
    with pytest.raises(settings.SettingsError, match="not valid YAML"):
        settings.override({}, "a=" + text.partition("a: ")[2] if "a: " in text else "a={[a]: b}")


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", "a\nb", "inner=1\n2: ["])
def test_an_override_that_cannot_be_applied_is_one_line(text: str) -> None:
    with pytest.raises(settings.SettingsError, match=r"^--set ") as caught:
        settings.override({}, text)
    assert str(caught.value).isprintable()


def test_an_override_does_not_reach_into_a_value() -> None:
    with pytest.raises(settings.SettingsError, match=r"^--set a\.b=1: 'a' is a value, not a section$"):
        settings.override({"a": 3}, "a.b=1")


def test_all_wrong_keys_are_named_in_one_line() -> None:
    with pytest.raises(settings.SettingsError) as error:
        settings.validate(Outer, {"iner": {}, "inner": {"rat": 3, "rate": "fast"}}, "x.yaml")
    line = str(error.value)
    assert "\n" not in line and line.startswith("x.yaml: ")
    assert line.count("unknown key") == 2 and "inner.rate: " in line
