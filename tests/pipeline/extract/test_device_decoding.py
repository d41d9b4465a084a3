"""``media.backend=nvdec``: children pick, the process of the models decodes, and PyAV takes what it refuses.

A fake torchcodec decodes with PyAV and misbehaves by the names of files; the last tests need the real one, which runs
on the CPU here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from examples.clips import write_clip
from extractors import ExtractorError
from pipeline.extract import Config, preflight, ready_features
from pipeline.extract.compute import Models, compute_rows, decode_pictures
from pipeline.extract.decode_unit import decode_unit
from pipeline.extract.features import Feature
from pipeline.extract.plan import Unit
from pipeline.extract.units import ComputedRow, Decoded, RunContext, UnitFailure
from pipeline.shared import PreflightError, UsageError, sizing
from stores import Store
from stores.commit import create_store
from stores.format import STAGING
from tests._helpers.clusters import nodes
from tests._helpers.fakes import fake_torchcodec
from tests._helpers.media import GENERATED, generate
from tests._helpers.runs import extract, rgb_config

PICTURES = """
features:
  rgb: {extractor: rgb_grid, grid: 2, sampling: {policy: uniform, n: 4}, micro_batch: 4, dtype: float32}
media: {deadline_s: 20}
run: {decode_workers: 1, model_threads: 1}
"""
CONFIG = PICTURES.replace(
    "media:", "  sound: {extractor: logmel_bands, dtype: float32, sampling: {policy: segments, t: 2}}\nmedia:"
)
CLIP = """
features:
  clip:
    {extractor: clip, model: ViT-S-32-alt, weights: "random:0", sampling: {policy: uniform, n: 4}, micro_batch: 4,
     crop: center_crop, dtype: float32}
media: {deadline_s: 20}
run: {decode_workers: 1, model_threads: 1}
"""
REASONS = {
    "strange": "the video engine does not decode it (Video not supported)",
    "closed": "torchcodec cannot open it: no such codec",
    "fewer": "49 frames by torchcodec's count, 50 on screen",
    "late": "frame 6 comes from 0.280000 s, not from 0.240000 s",
    "small": "torchcodec shows 48x32 pixels, not 96x64",
    "full": "torchcodec cannot decode frames 6 to 43: CUDA out of memory. Tried to allocate 1.00 GiB",
}


@pytest.fixture
def fake() -> Iterator[pytest.MonkeyPatch]:
    with fake_torchcodec() as patch:
        yield patch


@pytest.fixture
def on_cpu(fake: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The same code on the device ``cpu``, in the thread of the towers: a user is refused that."""
    fake.setattr(preflight, "check_backend", lambda backend, executor, machine: None)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "good.mp4", seconds=2, width=96, height=64)
    return tmp_path / "videos"


def config(folder: Path, backend: str, text: str = CONFIG, *overrides: str) -> Config:
    return rgb_config(folder.parent, f"media.backend={backend}", *overrides, text=text)


def one(folder: Path, store: Path, uri: str = "", text: str = CONFIG) -> tuple[RunContext, Unit, list[Feature]]:
    """A context and a unit for direct calls."""
    made = config(folder, "nvdec", text)
    features = ready_features(made)
    create_store(store)
    path = Path(uri or folder / "good.mp4")
    unit = Unit(str(uri or path), ("good",), tuple(features), None, 0, "")
    return RunContext(store, features, made.media, made.limits()), unit, list(features.values())


def decoded_unit(context: RunContext, unit: Unit) -> Decoded:
    with context.media_process() as media:
        decoded = decode_unit(context, unit, media)
    assert isinstance(decoded, Decoded), decoded
    return decoded


class TestOnTheCpu:
    def test_rows_are_those_of_pyav_under_another_spec(
        self, folder: Path, tmp_path: Path, on_cpu: pytest.MonkeyPatch
    ) -> None:
        write_clip(folder / "tall.mp4", seed=3, seconds=3, width=64, height=128)
        for backend in ("pyav", "nvdec"):
            assert extract(folder, tmp_path / backend, config(folder, backend)).exit_code == 0
        with Store.open(tmp_path / "pyav") as plain, Store.open(tmp_path / "nvdec") as other:
            for feature in ("rgb", "sound"):
                assert plain.features[feature].spec_digest != other.features[feature].spec_digest
                for key in ("good", "tall"):
                    assert np.array_equal(plain.row(feature, key), other.row(feature, key))
                    assert np.array_equal(plain.times(feature, key), other.times(feature, key))
            decode = other.spec("rgb")["decode"]
            assert (decode["version"], decode["ffmpeg_major"], decode["resize"]) == ("0.0.1", 8, "on the CPU")
            assert not {"ffmpeg_major", "resize"} & other.spec("sound")["decode"].keys()
            media = other.media("rgb", "good")
            assert (media["decode"], media["ffmpeg_major"], media["backend"]["backend"]) == ("nvdec", 8, "nvdec")
            assert "fallback" not in media

    def test_a_tower_gets_tensors_and_gives_the_rows_of_arrays(
        self, folder: Path, tmp_path: Path, on_cpu: pytest.MonkeyPatch
    ) -> None:
        """Also where a file that PyAV decoded shares a micro-batch with one that the device decoded."""
        write_clip(folder / "strange.mp4", seed=2, seconds=2, width=96, height=64)
        for backend in ("pyav", "nvdec"):
            assert extract(folder, tmp_path / backend, config(folder, backend, CLIP)).exit_code == 0
        with Store.open(tmp_path / "pyav") as plain, Store.open(tmp_path / "nvdec") as other:
            assert other.spec("clip")["decode"]["resize"] == "on the device, the bytes of Pillow"
            for key in ("good", "strange"):
                assert np.array_equal(plain.row("clip", key), other.row("clip", key))
        context, unit, features = one(folder, tmp_path / "direct", text=CLIP)
        models = Models.load(features, "cpu", 1)
        (ready,) = decode_pictures(context, models, [decoded_unit(context, unit)])
        assert isinstance(ready.features["clip"].steps, torch.Tensor)

    @pytest.mark.parametrize("name", REASONS)
    def test_a_file_that_is_refused_falls_back_with_the_reason(
        self, folder: Path, tmp_path: Path, on_cpu: pytest.MonkeyPatch, name: str
    ) -> None:
        (folder / "good.mp4").rename(folder / f"{name}.mp4")
        for backend in ("pyav", "nvdec"):
            assert extract(folder, tmp_path / backend, config(folder, backend)).exit_code == 0
        with Store.open(tmp_path / "pyav") as plain, Store.open(tmp_path / "nvdec") as other:
            media = other.media("rgb", name)
            assert media.pop("fallback") == {"from": "nvdec", "reason": REASONS[name]}
            assert media == plain.media("rgb", name)
            assert np.array_equal(plain.row("rgb", name), other.row("rgb", name))
            assert "fallback" not in other.media("sound", name)

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("anamorphic", "pixels that are not square, or a rotation"),
            ("interlaced", "interlaced pictures"),
            ("h264-avi", "packets without times of their own"),
        ],
    )
    def test_the_child_decodes_what_a_gpu_would_show_otherwise(
        self, folder: Path, tmp_path: Path, on_cpu: pytest.MonkeyPatch, kind: str, reason: str
    ) -> None:
        clip = generate(kind, folder)
        (folder / "good.mp4").unlink()
        assert extract(folder, tmp_path / "store", config(folder, "nvdec")).exit_code == 0
        with Store.open(tmp_path / "store") as store:
            media = store.media("rgb", clip.stem)
            assert media["fallback"] == {"from": "nvdec", "reason": reason}
            assert media["backend"]["backend"] == "pyav"

    def test_what_pyav_cannot_decode_either_fails_in_its_class(
        self, folder: Path, tmp_path: Path, on_cpu: pytest.MonkeyPatch
    ) -> None:
        context, unit, features = one(folder, tmp_path / "store")
        decoded = decoded_unit(context, unit)
        (folder / "good.mp4").unlink()
        models = Models.load(features, "cpu", 1)
        (ready,) = decode_pictures(context, models, [decoded])
        assert ready.failures["rgb"][0] == "missing"
        assert list(ready.features) == ["sound"]
        items = list(compute_rows(context, models, [ready]))
        assert {type(item) for item in items} == {ComputedRow, UnitFailure}

    def test_a_file_that_changes_before_it_is_decoded_gives_no_row(
        self, folder: Path, tmp_path: Path, on_cpu: pytest.MonkeyPatch
    ) -> None:
        context, unit, features = one(folder, tmp_path / "store")
        decoded = decoded_unit(context, unit)
        write_clip(folder / "good.mp4", seed=9, seconds=2, width=96, height=64)
        os.utime(folder / "good.mp4", ns=(1, 1))
        (ready,) = decode_pictures(context, Models.load(features, "cpu", 1), [decoded])
        assert ready.failures["rgb"][0] == "changed_during_read"

    def test_other_libraries_than_the_spec_says_are_refused(
        self, folder: Path, tmp_path: Path, on_cpu: pytest.MonkeyPatch
    ) -> None:
        *_, features = one(folder, tmp_path / "store")
        import torchcodec

        on_cpu.setattr(torchcodec, "ffmpeg_major_version", 7)
        with pytest.raises(ExtractorError, match=r"planned with torchcodec .*'ffmpeg_major': 8.*, here is .*7"):
            Models.load(features, "cpu", 1)


class TestCopies:
    """A remote file is copied to be picked from; the copy lives until the process of the models has read it."""

    @pytest.fixture
    def uri(self, folder: Path) -> Iterator[str]:
        with fsspec.open("memory://nvdec/good.mp4", "wb") as remote:
            remote.write((folder / "good.mp4").read_bytes())
        yield "memory://nvdec/good.mp4"
        fsspec.filesystem("memory").rm("/nvdec", recursive=True)

    def test_it_is_removed_when_it_is_read(
        self, folder: Path, tmp_path: Path, uri: str, on_cpu: pytest.MonkeyPatch
    ) -> None:
        context, unit, features = one(folder, tmp_path / "store", uri)
        decoded = decoded_unit(context, unit)
        assert len(list((tmp_path / "store" / STAGING).iterdir())) == 1
        (ready,) = decode_pictures(context, Models.load(features, "cpu", 1), [decoded])
        assert not ready.failures
        assert not list((tmp_path / "store" / STAGING).iterdir())

    def test_it_is_fetched_again_if_whoever_read_it_died(
        self, folder: Path, tmp_path: Path, uri: str, on_cpu: pytest.MonkeyPatch
    ) -> None:
        context, unit, features = one(folder, tmp_path / "store", uri)
        decoded = decoded_unit(context, unit)
        models = Models.load(features, "cpu", 1)
        first, second = (decode_pictures(context, models, [decoded])[0] for _ in range(2))
        assert np.array_equal(first.features["rgb"].steps, second.features["rgb"].steps)
        with fsspec.open(uri, "ab") as remote:
            remote.write(b"more")
        (third,) = decode_pictures(context, models, [decoded])
        assert third.failures["rgb"][0] == "changed_during_read"
        assert not list((tmp_path / "store" / STAGING).iterdir())

    def test_a_run_leaves_none_behind(self, folder: Path, tmp_path: Path, uri: str) -> None:
        with fake_torchcodec():
            context, unit, _ = one(folder, tmp_path / "store", uri)
            decoded_unit(context, unit)
            other = replace(context, id="another")
            decoded_unit(other, unit)
        context.remove_copies()
        assert [path.name.partition("-")[0] for path in (tmp_path / "store" / STAGING).iterdir()] == ["another"]


class TestInTheProcessOfAGpu:
    """The model process of a declared GPU, with the fake torchcodec in it."""

    @pytest.fixture(autouse=True)
    def card(self, fake: pytest.MonkeyPatch) -> None:
        fake.setattr(sizing, "visible_gpus", lambda: 1)
        fake.setattr(preflight, "why_no_engine", lambda: None)

    @pytest.mark.slow
    def test_rows_fall_back_and_crashes_are_their_own(self, folder: Path, tmp_path: Path) -> None:
        for number in range(20):
            write_clip(folder / f"n{number:02d}.mp4", seed=number, seconds=1, width=96, height=64)
        write_clip(folder / "late.mp4", seed=98, seconds=2, width=96, height=64)
        write_clip(folder / "n10-kill.mp4", seed=97, seconds=2, width=96, height=64)
        done = extract(folder, tmp_path / "store", config(folder, "nvdec", PICTURES))
        assert done.summary["failures_by_class"] == {"crash": 1}
        assert [failed["video_id"] for failed in done.summary["failures"]] == ["n10-kill"]
        with Store.open(tmp_path / "store") as store:
            assert store.keys("rgb") == ["good", "late", *(f"n{number:02d}" for number in range(20))]
            assert store.media("rgb", "late")["fallback"]["reason"] == REASONS["late"]

    @pytest.mark.slow
    def test_a_cuda_error_is_the_machine_s(self, folder: Path, tmp_path: Path) -> None:
        (folder / "good.mp4").rename(folder / "fault.mp4")
        with pytest.raises(UsageError, match=r"cuda:0, decoding: .*illegal memory access.*No row was marked"):
            extract(folder, tmp_path / "store", config(folder, "nvdec"))
        with Store.open(tmp_path / "store") as store:
            assert store.failures().num_rows == 0

    @pytest.mark.slow
    def test_a_driver_that_hangs_costs_its_file(self, folder: Path, tmp_path: Path) -> None:
        (folder / "good.mp4").rename(folder / "hang.mp4")
        done = extract(folder, tmp_path / "store", config(folder, "nvdec", CONFIG, "media.deadline_s=3"))
        assert done.summary["failures_by_class"] == {"crash": 2}


class TestPreflight:
    @pytest.mark.parametrize(
        ("overrides", "words"),
        [
            ((), "media.backend=nvdec: no GPU is visible"),
            (
                ("run.device=cpu",),
                "media.backend=nvdec: it decodes on the GPU of the models, which are to run on",
            ),
        ],
    )
    def test_without_a_gpu_nothing_is_computed(
        self, folder: Path, tmp_path: Path, fake: pytest.MonkeyPatch, overrides: tuple[str, ...], words: str
    ) -> None:
        fake.setattr(sizing, "visible_gpus", lambda: 0)
        with pytest.raises(PreflightError) as caught:
            extract(folder, tmp_path / "store", config(folder, "nvdec", CONFIG, *overrides))
        assert words in str(caught.value) and "\n" not in str(caught.value)

    def test_without_torchcodec_the_configuration_is_refused(self, folder: Path, fake: pytest.MonkeyPatch) -> None:
        fake.setitem(sys.modules, "torchcodec", None)
        with pytest.raises(UsageError, match=r"media\.backend: .*torchcodec"):
            ready_features(config(folder, "nvdec"))


def real_torchcodec() -> Any:
    return pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, OSError, RuntimeError))


@pytest.mark.parametrize("kind", GENERATED)
def test_the_real_torchcodec_gives_the_rows_of_pyav_or_falls_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, where FFmpeg decodes: other builds differ in deeper chroma alone."""
    real_torchcodec()
    monkeypatch.setattr(preflight, "check_backend", lambda backend, executor, machine: None)
    folder = tmp_path / "videos"
    folder.mkdir()
    key = generate(kind, folder).stem
    for backend in ("pyav", "nvdec"):
        assert extract(folder, tmp_path / backend, config(folder, backend, PICTURES)).exit_code == 0
    with Store.open(tmp_path / "pyav") as plain, Store.open(tmp_path / "nvdec") as other:
        fallback = other.media("rgb", key).get("fallback")
        assert fallback is None or kind not in ("h264", "hevc", "vp9", "av1", "open-gop", "mpeg4-asp", "slow"), fallback
        assert np.array_equal(plain.times("rgb", key), other.times("rgb", key))
        limit = 0.03 if kind == "ten-bit" else 0.0
        assert np.abs(plain.row("rgb", key) - other.row("rgb", key)).max() <= limit


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("gpus", [1, 0])
def test_model_actors_of_a_cluster_decode_or_the_cluster_is_refused(
    folder: Path, tmp_path: Path, fake: pytest.MonkeyPatch, gpus: int
) -> None:
    """A declared GPU, with the fake torchcodec on the path of the workers."""
    for number in range(6):
        write_clip(folder / f"more{number}.mp4", seed=number, seconds=2, width=96, height=64)
    write_clip(folder / "late.mp4", seed=8, seconds=2, width=96, height=64)
    write_clip(folder / "kill.mp4", seed=7, seconds=2, width=96, height=64)
    file = tmp_path / "nvdec.yaml"
    file.write_text(PICTURES.replace("deadline_s: 20", "deadline_s: 20, backend: nvdec"))
    with nodes((2, gpus)) as cluster:
        job = cluster.start(str(folder), "--store", str(tmp_path / "store"), "--config", str(file))
        code, summary, err = job.end()
    if not gpus:
        assert code == 2
        assert "media.backend=nvdec: the Ray cluster has no GPU" in err
        return
    assert code == 3, err
    assert summary["failures_by_class"] == {"crash": 1}
    with Store.open(tmp_path / "store") as store:
        assert store.keys("rgb") == ["good", "late", *(f"more{number}" for number in range(6))]
        assert store.media("rgb", "good")["decode"] == "nvdec"
        assert store.media("rgb", "late")["fallback"]["reason"] == REASONS["late"]
