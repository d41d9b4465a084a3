"""A weights file that does not fit ends with one line and exit code 2 before anything is decoded, for every tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from extractors import Extractor, WeightsError, beats_models, build, names
from extractors.registry import _ENTRIES, find
from extractors.trained import Trained
from jobs.extract import app
from pipeline.media import MediaProcess
from tests._helpers.beats_files import TINY
from tests._helpers.towers import SPOILT, small_options, with_file


def trained_names() -> list[str]:
    """Return the names of registered extractors that have weights."""
    base: Any = Extractor  # abstract, and never built here
    return [name for name in names() if issubclass(find(base, "extractor", _ENTRIES, name), Trained)]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(beats_models.BACKBONES, "tiny", TINY)


def test_every_tower_is_among_them() -> None:
    assert trained_names() == ["beats", "clip", "hf", "hf_audio", "internvideo2", "swin", "timm", "vggish"]


@pytest.mark.parametrize("name", trained_names())
def test_every_kind_of_bad_file_is_one_line(name: str, tmp_path: Path) -> None:
    options, file, state = with_file(name, tmp_path)
    build(name, options).check_weights()  # a good one passes
    sound = file.read_bytes()
    for kind, (spoil, words) in SPOILT.items():
        spoil(file, state)
        with pytest.raises(WeightsError, match=words) as caught:
            build(name, options).check_weights()
        line = str(caught.value)
        assert "\n" not in line and len(line) < 700, kind
        assert str(file) in line or str(file.parent) in line, f"{kind}: {line}"
        file.write_bytes(sound)


@pytest.mark.parametrize("name", trained_names())
def test_loading_refuses_what_the_check_refuses(name: str, tmp_path: Path) -> None:
    options, file, state = with_file(name, tmp_path)
    for kind in ("a missing tensor", "a surplus tensor", "a wrong size"):
        SPOILT[kind][0](file, state)
        lines = []
        for refuse in (lambda: build(name, options).check_weights(), lambda: build(name, options).load("cpu", 1)):
            with pytest.raises(WeightsError) as caught:
                refuse()
            lines.append(str(caught.value))
        assert lines[0] == lines[1], kind


@pytest.mark.parametrize("name", trained_names())
def test_random_weights_need_no_file(name: str, tmp_path: Path) -> None:
    options = {**small_options(name, tmp_path), "weights": "random:0"}
    build(name, options).check_weights()


@pytest.mark.parametrize("kind", ["a missing tensor", "code"])
@pytest.mark.parametrize("name", trained_names())
def test_an_extraction_ends_before_anything_is_decoded(
    name: str, kind: str, tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(MediaProcess, "decode", decoded)
    options, file, state = with_file(name, tmp_path)
    SPOILT[kind][0](file, state)
    lines = "".join(f"    {key}: {value}\n" for key, value in options.items())
    policy = "{policy: clips, t: 2, frames: 2}" if name == "internvideo2" else "{policy: segments, t: 2}"
    (tmp_path / "tower.yaml").write_text(f"features:\n  tower:\n    extractor: {name}\n{lines}    sampling: {policy}\n")
    store = tmp_path / "store"
    shown = CliRunner().invoke(app, [str(videos), "--store", str(store), "--config", str(tmp_path / "tower.yaml")])
    assert shown.exit_code == 2, shown.output
    last = shown.output.strip().splitlines()[-1]
    assert "features.tower: " in last and ("1 missing" in last or "cannot be read" in last)
    assert "Traceback" not in shown.output


def test_a_bad_pca_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "pca.npz"
    path.write_bytes(b"nothing")
    vggish = build("vggish", {"weights": "random:0", "pca": str(path)})
    with pytest.raises(WeightsError, match=f"pca file {path} cannot be read"):
        vggish.check_weights()


def test_another_window_of_swin_passes_by_shapes_and_is_refused_by_numbers(tmp_path: Path) -> None:
    """What the check cannot know without numbers, loading still sees."""
    options, file, state = with_file("swin", tmp_path)
    name = "layers.0.blocks.0.attn.relative_position_index"
    torch.save({**state, name: torch.zeros(49, 49, dtype=torch.int64)}, file)
    build("swin", options).check_weights()
    with pytest.raises(WeightsError, match="belongs to another window or image size"):
        build("swin", options).load("cpu", 1)
    torch.save({**state, name: torch.zeros(9, 9, dtype=torch.int64)}, file)
    with pytest.raises(WeightsError, match="belongs to another window or image size"):
        build("swin", options).check_weights()
