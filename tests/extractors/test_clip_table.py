"""open_clip's table of weights: the forms that are read as data, and the child process for all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from extractors import ExtractorError
from extractors.clip_table import read_table

CONSTANTS = "MEAN = (0.5, 0.25, 0.125)\n"
HELPER = """
from .constants import MEAN

def _cfg(url="", hub="", **kwargs):
    return {"url": url, "hub": hub, "mean": MEAN, **kwargs}
"""
AS_DATA = f"""{HELPER}
_SMALL = dict(one=_cfg("x") if False else _cfg(url="a"))
_LARGE = dict(one=_cfg(url="a"), two=_cfg(hub="b", mean=(1.0, 1.0, 1.0), quick=True))
_PRETRAINED = {{"large": _LARGE, "small": dict(one=_cfg())}}
raise RuntimeError("nothing of this file is run")
"""
AS_CODE = f"""{HELPER}
_LARGE = dict(one=_cfg(url="a"), two=_cfg(hub="b", mean=(1.0, 1.0, 1.0), quick=True))
_PRETRAINED = {{name: tags for name, tags in (("large", _LARGE), ("small", dict(one=_cfg())))}}
"""
MEAN = (0.5, 0.25, 0.125)
TABLE = {
    "large": {
        "one": {"url": "a", "hub": "", "mean": MEAN},
        "two": {"url": "", "hub": "b", "mean": (1.0, 1.0, 1.0), "quick": True},
    },
    "small": {"one": {"url": "", "hub": "", "mean": MEAN}},
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an open_clip that a child process imports instead of the real one."""
    folder = tmp_path / "open_clip"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "constants.py").write_text(CONSTANTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return folder


def test_a_table_of_the_known_forms_is_read_without_running_it(package: Path) -> None:
    (package / "pretrained.py").write_text(AS_DATA)
    assert read_table(package) == TABLE


def test_a_table_of_another_form_is_imported_in_a_child_process(
    package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (package / "pretrained.py").write_text(AS_CODE)
    assert read_table(package) == TABLE
    assert "importing open_clip to read its table of weights" in caplog.text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("_TABLE = {}", "cannot import name '_PRETRAINED'"),
        ("_PRETRAINED = {", "never closed"),
        (None, "No module named"),
    ],
)
def test_an_open_clip_without_the_table_is_one_line(package: Path, source: str | None, reason: str) -> None:
    if source is not None:
        (package / "pretrained.py").write_text(source)
    with pytest.raises(
        ExtractorError, match=f"table of weights cannot be read .*{reason}.*install open_clip"
    ) as caught:
        read_table(package)
    assert "\n" not in str(caught.value)
