"""``weights.py check`` loads every tower and computes with it, or says in one line why it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from examples.clips import write_clip
from jobs.weights import app
from tests._helpers.hf_models import save_model
from tests.conftest import ROOT

CONFIG = """
features:
  grid: {extractor: rgb_grid, grid: 2, sampling: {policy: uniform, n: 4}, micro_batch: 4}
  many: {extractor: rgb_grid, grid: 1, sampling: {policy: segments, t: 3, pad: zero}, dtype: float32}
"""
TINY = "features.clip.model=ViT-S-32-alt"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(CONFIG)
    return path


def check(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_every_tower_computes_noise(config: Path) -> None:
    shown = check("--config", config)
    assert shown.exit_code == 0
    for words in (
        "grid (",
        "many (",
        "takes    ",
        "stores   [12] float16",
        "stores   [3] float32",
        "steps/s over 8 steps of noise",
    ):
        assert words in shown.output
    assert "nearest" not in shown.output


def test_towers_of_sound_say_what_they_take_and_store(tmp_path: Path) -> None:
    config = tmp_path / "sound.yaml"
    sampling = "sampling: {policy: segments, t: 3}, micro_batch: 3"
    config.write_text(
        f"""
features:
  ast: {{extractor: hf_audio, model: {save_model(tmp_path / "ast", "ast")}, form: map, {sampling}}}
  beats: {{extractor: beats, weights: "random:0", {sampling}}}
"""
    )
    shown = check("--config", config)
    assert shown.exit_code == 0, shown.output
    for words in (
        "takes    [98, 32] float32",
        "stores   [10, 2, 32] float16 a step: last hidden state of audio-spectrogram-transformer, times then bands",
        "model base",
        "90.3 M parameters",
        "takes    [96, 128] float32",
        "stores   [768] float16",
    ):
        assert words in shown.output, words


def test_steps_of_a_file_are_those_without_padding(config: Path, tmp_path: Path) -> None:
    clip = tmp_path / "two seconds.mp4"
    write_clip(clip, seed=1, seconds=2.0, width=96, height=64, gop=10)
    command = [sys.executable, "jobs/weights.py", "check", "--config", str(config), "--media", str(clip), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    grid, many = json.loads(done.stdout)["towers"]
    assert grid["steps"] == 4 and many["steps"] == 2 and grid["from_media"]
    assert grid["rounding"]["max_abs"] > 0 and many["rounding"]["max_abs"] == 0  # float16 and float32 as stored
    assert "over 4 steps of two seconds.mp4" in done.stderr
    assert sorted(tmp_path.iterdir()) == [config, clip]


@pytest.mark.parametrize("content", [b"no video", None])
def test_a_file_that_cannot_be_decoded_is_one_line(config: Path, tmp_path: Path, content: bytes | None) -> None:
    clip = tmp_path / "v.mp4"
    if content is not None:
        clip.write_bytes(content)
    shown = check("--config", config, "--media", clip)
    assert shown.exit_code == 2 and shown.output.count("\n") == 1 and "v.mp4: " in shown.output


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    shown = check("cra-nextgqa", "--set", TINY, "--set", f"features.clip.weights={tmp_path / 'absent.safetensors'}")
    assert shown.exit_code == 2 and "absent.safetensors: No such file or directory" in shown.output


@pytest.mark.slow
def test_frames_of_clip_are_compared_with_texts(media: Path) -> None:
    random = ["--set", TINY, "--set", "features.clip.weights=random:0", "--media", media / "realshort.mp4"]
    shown = check("cra-nextgqa", *random, "--text", "a duck", "--text", "a barbell")
    assert shown.exit_code == 0 and "22.6 M parameters" in shown.output
    nearer, farther = (line.removeprefix("  nearest").split(maxsplit=1) for line in shown.output.splitlines()[-2:])
    assert {nearer[1], farther[1]} == {"a duck", "a barbell"} and 1 > float(nearer[0]) > float(farther[0]) > -1
