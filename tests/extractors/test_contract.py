"""Every registered extractor and text encoder keeps its contract, and the checks notice each broken promise.

A new name is tested without writing a test: give it small random weights in ``SMALL`` of ``tests/_helpers/towers.py``
or ``SMALL_TEXT``, or it is built with its defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extractors import build, names
from extractors.testing import check_extractor, check_text_encoder
from extractors.text import build_text_encoder, text_encoder_names
from tests._helpers.towers import small_options
from tests.extractors.broken import Broken, BrokenText

SMALL_TEXT: dict[str, dict[str, Any]] = {
    "clip": {"model": "ViT-S-32-alt", "weights": "random:0"},
    "hashed": {"size": 16},
}


@pytest.mark.parametrize("name", names())
def test_every_extractor_keeps_the_contract(name: str, tmp_path: Path) -> None:
    extractor = build(name, small_options(name, tmp_path))
    weights = extractor.spec().get("weights")
    if isinstance(weights, dict) and "tag" in weights:
        pytest.skip(f"{name}: needs the weights {weights['tag']!r}; give it small random ones in SMALL")
    check_extractor(extractor)


@pytest.mark.parametrize("name", text_encoder_names())
def test_every_text_encoder_keeps_the_contract(name: str, request: pytest.FixtureRequest) -> None:
    options = SMALL_TEXT.get(name, {})
    if name == "sentence":
        minilm: Path = request.getfixturevalue("minilm")
        options = {"model": str(minilm)}
    check_text_encoder(build_text_encoder(name, options))


BROKEN = {
    "spec: JSON": r"spec\(\) is not JSON \(Object of type set",
    "spec: lists": r"spec\(\) is not the same when read back from JSON",
    "spec: finite": r"spec\(\) is not JSON",
    "spec: stable": r"spec\(\) gives another spec when called again",
    "spec: object": r"spec\(\) differs for another object of the same options",
    "spec: process": r"spec\(\) differs in another process",
    "spec: name": r"spec\(\) has no 'extractor' that is the name",
    "spec: version": r"spec\(\) has no 'version' that is the version",
    "output: shape": r"output\(\) has the step shape \(0, 4\)",
    "output: units": r"set units",
    "pickling": r"cannot be pickled \(cannot pickle 'lock' object\)",
    "pickling: changes": r"pickling changes it",
    "prepare: imports": r"imports torch; only load\(\) may",
    "prepare: refuses": r"prepare\(\) takes float32; it must raise ExtractorError unless uint8",
    "prepare: pure": r"prepare\(\) changes its input",
    "prepare: shape": r"prepare\(\) returns uint8 \[5, 3, 4, 3\]; promised is uint8 \[5, 4, 4, 3\]",
    "prepare: dtype": r"prepare\(\) returns float32 \[5, 4, 4, 3\]; promised is uint8",
    "prepare: again": r"prepare\(\) gives other values when called again",
    "prepare: strided": r"prepare\(\) gives other values for a strided array",
    "prepare: alone": r"prepare\(\) lets the result of a step depend on the steps beside it",
    "prepare: order": r"prepare\(\) lets the result of a step depend on the steps beside it",
    "forward: output": r"the model's output is not the output\(\) of its extractor",
    "forward: shape": r"forward\(\) returns float32 \[2, 47\]; promised is float32 \[2, 48\]",
    "forward: dtype": r"forward\(\) returns float64 \[2, 48\]; promised is float32",
    "forward: finite": r"forward\(\) returns values that are not finite",
    "forward: again": r"forward\(\) gives other values for the same batch",
    "forward: neighbours": r"forward\(\) lets the values of a step depend on the steps beside it",
    "forward: buffer": r"forward\(\) overwrites the array that it returned before",
    "forward: load": r"a second load\(\) gives other values",
    "reference": r"reference\(\) must return None or float32 \[2, 48\]",
    "numerics": r"numerics\(\) is not JSON",
}


@pytest.mark.parametrize("promise", BROKEN)
def test_a_broken_promise_is_one_clear_line(promise: str) -> None:
    with pytest.raises(AssertionError, match=f"^rgb_grid: .*{BROKEN[promise]}") as caught:
        check_extractor(Broken(breaks=promise))
    assert "\n" not in str(caught.value)


def test_nothing_else_is_broken_in_the_broken_extractor() -> None:
    check_extractor(Broken())


def test_a_class_that_no_other_process_can_import_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(AssertionError, match=r"rgb_grid: it cannot be used in a new process \(.*No module named"):
        check_extractor(Broken())


BROKEN_TEXT = {
    "spec: name": r"spec\(\) has no 'encoder' that is the name",
    "spec: version": r"spec\(\) has no 'version' that is the version",
    "dim": r"dim is 0; it must be a positive whole number",
    "encode: shape": r"encode\(\) returns float32 \[6, 256\]; promised is float32 \[6, 257\]",
    "encode: dtype": r"encode\(\) returns float64 \[6, 256\]; promised is float32",
    "encode: finite": r"encode\(\) returns values that are not finite",
    "encode: none": r"encode\(\[\]\) returns float32 \[1, 256\]; promised is float32 \[0, 256\]",
    "encode: again": r"encode\(\) gives other vectors for the same texts",
    "encode: neighbours": r"encode\(\) lets a vector depend on the texts beside it",
    "encode: order": r"encode\(\) lets a vector depend on the texts beside it",
    "encode: load": r"a second load\(\) gives other vectors",
    "numerics": r"numerics\(\) is not JSON",
}


@pytest.mark.parametrize("promise", BROKEN_TEXT)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_broken_promise_of_a_text_encoder_is_one_clear_line(promise: str) -> None:
    with pytest.raises(AssertionError, match=f"^hashed: .*{BROKEN_TEXT[promise]}") as caught:
        check_text_encoder(BrokenText(breaks=promise))
    assert "\n" not in str(caught.value)


def test_nothing_else_is_broken_in_the_broken_text_encoder() -> None:
    check_text_encoder(BrokenText())
