"""A rule for what devices compute in: presets have it, the plan tells it, and stored rows that keep to it stay."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from extractors.torch_model import TorchModel
from extractors.trained import Trained
from pipeline.extract import Config, load_config, preset_names, summary
from pipeline.extract.features import ready_features
from pipeline.extract.plan import Plan
from pipeline.extract.summary import PlanSummary, device_type_here, show_plan
from pipeline.shared import MachineConfig, Terminal
from stores import Store
from stores.upkeep import verify
from tests._helpers.media import ffmpeg
from tests._helpers.runs import digests, extract, reasons, rgb_config

CONFIG = """
features:
  linear: {extractor: "tests._helpers.halves:Linear", dtype: float32, sampling: {policy: uniform, n: 4}}
media: {deadline_s: 20}
run: {decode_workers: 1, model_threads: 1}
"""
RULE = {"cuda": "float16", "cpu": "float32", "weights": "cast once"}


def config(folder: Path, dtype: str, *overrides: str) -> Config:
    return rgb_config(folder, f"features.linear.compute_dtype={dtype}", *overrides, text=CONFIG)


def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shards say that a GPU computed them."""
    numerics = TorchModel.numerics
    monkeypatch.setattr(TorchModel, "numerics", lambda model: {**numerics(model), "device_type": "cuda"})


@pytest.mark.usefixtures("preset_files")
@pytest.mark.parametrize("preset", preset_names())
def test_presets_compute_in_float16_on_gpus_and_in_float32_on_cpus(preset: str) -> None:
    if preset in ("demo", "toyworld"):
        assert all(feature.spec["model"]["compute_dtype"] != RULE for feature in ready(preset).values())
        return
    for feature in ready(preset).values():
        assert isinstance(feature.extractor, Trained)
        assert feature.spec["model"]["compute_dtype"] == RULE
        assert feature.extractor.execution("cuda:0", None).compute_dtype == "float16"
        assert feature.extractor.execution("cpu", None).compute_dtype == "float32"


def ready(preset: str) -> dict[str, Any]:
    return ready_features(load_config(preset))


@pytest.mark.parametrize(("first", "second"), [("float32", "auto"), ("auto", "float32")])
def test_rows_of_a_cpu_are_carried_to_and_from_the_rule(videos: Path, tmp_path: Path, first: str, second: str) -> None:
    store = tmp_path / "store"
    made = extract(videos, store, config(tmp_path, first))
    before = digests(store, "linear")
    assert made.summary["computed"] == len(before) > 0
    planned = extract(videos, store, config(tmp_path, second), plan_only=True)
    assert reasons(planned, "linear") == {"carried": len(before)} and planned.summary["videos"] == 0
    done = extract(videos, store, config(tmp_path, second))
    assert (done.summary["computed"], done.summary["carried"]) == (0, len(before))
    assert digests(store, "linear") == before
    with Store.open(store) as opened:
        assert [numerics["compute_dtype"] for numerics in opened.numerics("linear")] == ["float32"]
    assert verify(store, deep=True).ok


def test_rows_of_a_gpu_are_carried_only_if_the_rule_says_what_they_are(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    on_gpu(monkeypatch)
    count = extract(videos, store, config(tmp_path, "float32")).summary["computed"]
    planned = extract(videos, store, config(tmp_path, "auto"), plan_only=True)
    assert reasons(planned, "linear") == {"spec_changed": count}, "the rule says float16 there"
    assert extract(videos, store, config(tmp_path, "float16")).summary["computed"] == count
    planned = extract(videos, store, config(tmp_path, "auto"), plan_only=True)
    assert reasons(planned, "linear") == {"carried": count}


def test_another_half_type_is_computed(videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    count = extract(videos, store, config(tmp_path, "bfloat16")).summary["computed"]
    for dtype in ("float16", "float32", "auto"):
        planned = extract(videos, store, config(tmp_path, dtype), plan_only=True)
        assert reasons(planned, "linear") == {"spec_changed": count}, dtype


def test_a_damaged_row_is_carried_if_only_the_dtype_has_another_name(tmp_path: Path) -> None:
    """What decoding made of a file does not matter then; under another decoding policy it does, as ever."""
    store, folder = tmp_path / "store", tmp_path / "cut"
    folder.mkdir()
    path = folder / "cut.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=4", "-c:v", "libx264", str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert extract(folder, store, config(tmp_path, "float32", "media.truncated=keep")).summary["computed"] == 1
    planned = extract(folder, store, config(tmp_path, "auto", "media.truncated=keep"), plan_only=True)
    assert reasons(planned, "linear") == {"carried": 1}
    planned = extract(folder, store, config(tmp_path, "auto"), plan_only=True)
    assert reasons(planned, "linear") == {"spec_changed": 1}


def test_the_plan_says_what_is_computed_in_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    shown = Terminal(Console(file=text, width=200, highlight=False, soft_wrap=True))
    features = ready("all")
    summary = PlanSummary.of_plan(Plan(), features, device_type="cpu")
    show_plan(shown, Plan(), summary, None)
    assert "clip, clip_t, swin_b, swin_l, vggish: float16 on GPUs, float32 on CPUs (here: float32)\n" in text.getvalue()
    assert set(summary.computes_in) == set(features)
    on_a_gpu = PlanSummary.of_plan(Plan(), features, device_type="cuda").computes_in
    assert on_a_gpu["clip"] == "float16 on GPUs, float32 on CPUs (here: float16)"
    half = ready_features(config(tmp_path, "bfloat16"))
    assert PlanSummary.of_plan(Plan(), half).computes_in == {"linear": "bfloat16"}
    assert PlanSummary.of_plan(Plan(), ready("demo")).computes_in == {}


def test_a_plan_as_json_says_it_too(videos: Path, tmp_path: Path) -> None:
    planned = extract(videos, tmp_path / "store", config(tmp_path, "auto", "run.device=cpu"), plan_only=True)
    assert planned.summary["computes_in"] == {"linear": "float16 on GPUs, float32 on CPUs (here: float32)"}


@pytest.mark.parametrize(
    ("machine", "visible", "expected"),
    [
        ({}, 2, "cuda"),
        ({}, 0, "cpu"),
        ({"gpus": 0}, 1, "cpu"),
        ({"device": "cpu"}, 1, "cpu"),
        ({"device": "cuda:1"}, 0, "cuda"),
    ],
)
def test_where_models_run_follows_the_configuration_and_the_gpus(
    monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any], visible: int, expected: str
) -> None:
    monkeypatch.setattr(summary, "visible_gpus", lambda: visible)
    assert device_type_here(MachineConfig(**machine)) == expected
