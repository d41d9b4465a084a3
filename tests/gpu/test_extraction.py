"""Whole extractions with towers on a GPU, and with pictures from its video engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.device_decoding import difference, prepared_by_pyav, prepared_on_device
from bench.on_gpu.towers import QUICK, extractor_of
from pipeline.extract import Config
from pipeline.extract.precision import rounding_error
from pipeline.media.torchcodec_backend import why_unavailable
from stores import Store
from stores.upkeep import verify
from tests._helpers.runs import extract

pytestmark = pytest.mark.gpu

FRAMES = {"policy": "uniform", "n": 5}
SECONDS = {"policy": "segments", "t": 3, "seconds": 1.0}


def config(device: str, compute_dtype: str = "float32", backend: str = "pyav") -> Config:
    """Return one tower of each kind."""
    common = {"weights": "random:0", "compute_dtype": compute_dtype, "dtype": "float32", "micro_batch": 4}
    features = {
        "clip": {"extractor": "clip", "model": QUICK[0].model, "sampling": FRAMES, **common},
        "swin": {"extractor": "swin", "model": QUICK[1].model, "sampling": FRAMES, **common},
        "vggish": {"extractor": "vggish", "sampling": SECONDS, **common},
    }
    run = {"device": device, "decode_workers": 2}
    return Config.model_validate({"features": features, "media": {"backend": backend}, "run": run})


@pytest.mark.parametrize(("dtype", "cosine"), [("float32", 0.999999), ("float16", 0.9999)])
def test_rows_are_near_those_of_the_cpu_and_the_store_is_sound(
    cuda: torch.device, videos: Path, tmp_path: Path, dtype: str, cosine: float
) -> None:
    assert extract(videos, tmp_path / "cpu", config("cpu")).exit_code == 0
    done = extract(videos, tmp_path / "gpu", config(cuda.type, dtype))
    assert done.exit_code == 0 and done.summary["computed"] == 4 * 3
    assert not verify(tmp_path / "gpu", deep=True).problems
    with Store.open(tmp_path / "cpu") as cpu, Store.open(tmp_path / "gpu") as gpu:
        for feature in ("clip", "swin", "vggish"):
            assert list(gpu.keys(feature)) == list(cpu.keys(feature)) == [f"clip{index}" for index in range(4)]
            for key in cpu.keys(feature):
                assert rounding_error(gpu.row(feature, key), cpu.row(feature, key)).min_cosine >= cosine, (feature, key)


def test_a_second_extraction_gives_the_same_bits(cuda: torch.device, videos: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert extract(videos, tmp_path / name, config(cuda.type, "float16")).exit_code == 0
    with Store.open(tmp_path / "one") as one, Store.open(tmp_path / "two") as two:
        for feature in ("clip", "swin", "vggish"):
            assert [one.digest(feature, key) for key in one.keys(feature)] == [
                two.digest(feature, key) for key in two.keys(feature)
            ]


@pytest.fixture
def nvdec(cuda: torch.device) -> None:
    """Skip the test, by name, where the video engine cannot be used."""
    reason = why_unavailable("nvdec")
    if reason is not None:
        pytest.skip(f"needs the backend nvdec: {reason}")


@pytest.mark.usefixtures("nvdec")
def test_the_video_engine_gives_nearly_pyav_s_pixels(videos: Path) -> None:
    """Its colour conversion is another, so the bound is loose: a wrong matrix or frame costs more than 10 levels."""
    extractor = extractor_of(QUICK[0])
    path = videos / "clip3.mp4"
    policy = {"policy": "uniform", "n": 32}
    truth = prepared_by_pyav(path, policy, extractor)
    apart = difference(prepared_on_device(path, policy, extractor, "cuda").cpu().numpy(), truth)
    assert apart.frames == len(truth) and apart.mean <= 4
    assert apart.psnr_db is None or apart.psnr_db >= 30


@pytest.mark.usefixtures("nvdec")
def test_an_extraction_reads_pictures_from_the_video_engine(videos: Path, tmp_path: Path) -> None:
    done = extract(videos, tmp_path / "store", config("cuda", "float16", backend="nvdec"))
    assert done.exit_code == 0, done.summary["failures"]
    assert not verify(tmp_path / "store", deep=True).problems
    with Store.open(tmp_path / "store") as store:
        assert np.isfinite(store.row("clip", "clip0")).all()
