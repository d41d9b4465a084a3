"""The parts of the bench on a GPU, each by itself and without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import bare
from bench.device_decoding import difference
from bench.on_gpu import Findings, Setup, nvml, training
from bench.on_gpu.extraction import BuiltClip, Meter, configuration, decode_rate, list_units
from bench.on_gpu.memory import Tight, under_shortage
from bench.on_gpu.towers import FULL, QUICK, Tower, extractor_of, load, network_of, noise
from extractors import MicroBatcher

CPU = torch.device("cpu")


@pytest.mark.parametrize("tower", QUICK[1:], ids=lambda tower: tower.name)
def test_a_tower_that_was_built_once_is_the_one_that_load_builds(tower: Tower) -> None:
    steps = noise(extractor_of(tower), 2)
    for dtype in ("float32", "bfloat16"):
        built, loaded = load(tower, dtype, CPU, 1), extractor_of(tower, dtype).load("cpu", 1)
        assert built.forward(steps).tobytes() == loaded.forward(steps).tobytes()
        assert built.numerics() == loaded.numerics()


def test_the_extraction_s_clip_is_the_one_that_load_builds() -> None:
    tower = QUICK[0]
    extractor = BuiltClip(model=str(tower.model), weights="random:0")
    steps = noise(extractor, 2)
    truth = extractor_of(tower).load("cpu", 1).forward(steps)
    assert extractor.load("cpu", 1).forward(steps).tobytes() == truth.tobytes()


def test_the_bare_network_takes_what_the_tower_makes_of_its_steps() -> None:
    """On equal input the bare network gives the tower's features: it is the same network and the same call."""
    for tower in QUICK[1:]:
        extractor = extractor_of(tower)
        shape = extractor.prepared_shape()
        network = bare.bare_network(network_of(tower), CPU, torch.float32)
        assert network is not network_of(tower)
        ready = bare.ready_batch(shape, 2, CPU, torch.float32)
        with torch.inference_mode():
            features = bare.own_call(network)(ready)
        assert tuple(features.shape) == (2, *extractor.output().step_shape)
        model = load(tower, "float32", CPU, 1)
        if len(shape) == 2:
            assert np.allclose(model.forward(ready[:, 0].numpy()), features.numpy(), atol=1e-6)


def test_the_fastest_bare_rate_is_chosen() -> None:
    rates = [bare.BareRate("eager", 32, 10.0), bare.BareRate("eager", 64, 30.0), bare.BareRate("graph", 64, 20.0)]
    assert bare.best(rates).batch == 64 and bare.best(rates).way == "eager"
    with pytest.raises(MemoryError, match="not even the smallest batch"):
        bare.best([])


def test_batches_that_do_not_fit_are_left_out() -> None:
    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, steps: torch.Tensor) -> torch.Tensor:
            if len(steps) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return steps * self.weight

    rates = bare.eager_rates(Small(), (3, 2), (2, 4, 8, 16), CPU, 0.001, 1)
    assert [(measured.way, measured.batch) for measured in rates[:2]] == [("eager", 2), ("eager", 4)]
    assert [measured.way for measured in rates[2:]] == ["eager, frozen"]


@pytest.mark.parametrize("tower", [tower for tower in FULL if tower.extractor != "swin"], ids=lambda tower: tower.name)
def test_the_bare_network_stays_on_its_device(tower: Tower) -> None:
    """Fake tensors on a GPU refuse any mix of devices. (timm's Swin reads a number while it is built.)"""
    device = torch.device("cuda", 0)
    with FakeTensorMode(allow_non_fake_inputs=True), device:
        network = network_of.__wrapped__(tower).eval()
        steps = bare.ready_batch(extractor_of(tower).prepared_shape(), 64, device, torch.float32)
        with torch.inference_mode():
            features = bare.own_call(network)(steps)
    assert features.device == device and tuple(features.shape) == (64, *extractor_of(tower).output().step_shape)


def test_cra_s_step_stays_on_its_device(tmp_path: Path) -> None:
    device = torch.device("cuda", 0)
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        device,
        patch.object(torch.Tensor, "pin_memory", lambda self: self),
    ):
        task, _, clock = training.cra(Setup(device, True, tmp_path, 1), "float32")
        losses = task.loss(clock.batch.to(device))
    assert {loss.device for loss in losses.values()} == {device}


def test_coqo_s_batch_has_the_shapes_of_music_avqa(tmp_path: Path) -> None:
    sizes = training.Sizes(93, 42, (128,), (7, 7, 1024))
    batch = training.coqo_batch(6, 3, sizes)
    assert batch.visual is not None and batch.visual.features.shape == (6, 3, 7, 7, 1024)
    assert batch.visual.features.dtype == torch.float16
    assert batch.q_mask.sum(1).tolist() == [1, 2, 3, 4, 5, 6]
    assert bool(((batch.labels >= 0) == batch.q_mask).all()) and bool((batch.words[~batch.q_mask] == 0).all())


def test_memory_that_runs_out_halves_the_micro_batch_until_it_fits() -> None:
    tower = QUICK[2]
    steps, model = noise(extractor_of(tower), 11), load(tower, "float32", CPU, 1)
    rows = [("whole", steps[:8]), ("ragged", steps[8:])]
    found = under_shortage(model, 8, rows, lambda: MicroBatcher(Tight(model, 3), 8))
    assert (found.asked, found.used, found.same_bits) == (8, 2, True)
    assert found.against_plenty.min_cosine > 0.999999


def test_pixels_are_compared_after_the_resize() -> None:
    truth = np.zeros((2, 4, 4, 3), np.uint8)
    other = truth.copy()
    other[1] = 2
    found = difference(other, truth)
    assert (found.frames, found.mean, found.largest) == (2, 1.0, 2)
    assert found.psnr_db == pytest.approx(10 * np.log10(255**2 / 2))
    assert difference(truth, truth).psnr_db is None


def test_a_clip_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video " + name.encode())
    config = configuration(Setup(CPU, True, tmp_path, 1), QUICK[0])
    with pytest.raises(RuntimeError, match=r"[ab]\.mp4 cannot be decoded"):
        decode_rate(config, list_units(config, tmp_path), 1)


def test_the_meter_leaves_out_start_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, clock = Meter(), iter([0.0, 10.0, 11.0, 14.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert meter.steady() is None
    for done in (5, 10, 10, 60, 96, 100):
        meter.stage("extract", done, 100)
    meter.stage("hash", 7, 100)
    assert meter.done[0] == (0.0, 5)
    assert meter.steady() == ((10.0, 10), (14.0, 96))


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    findings = Findings(tmp_path)
    findings.put("one", "rates", {4: float("nan"), 8: np.float32(2.5), "best": bare.BareRate("eager", 8, float("inf"))})
    assert json.loads((tmp_path / "one.json").read_text())["rates"] == {
        **{"4": None, "8": 2.5},
        "best": {"way": "eager", "batch": 8, "steps_per_second": None},
    }


def test_without_library_and_command_nothing_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "libabsent.so.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvml.reader() is None
    with nvml.Watch() as watch:
        pass
    assert watch.busy() == nvml.Busy("none")


def test_the_command_stands_in_for_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text('#!/bin/sh\ncase "$*" in *--id=GPU-abc*) echo "75, 412.5" ;; *) echo "0, [N/A]" ;; esac\n')
    command.chmod(0o755)
    monkeypatch.setattr(nvml, "LIBRARY", "libabsent.so.1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    first, other = nvml.reader("abc"), nvml.reader()
    assert first is not None and other is not None
    assert (first[0], first[1](), other[1]()) == ("nvidia-smi", (75.0, 412.5), (0.0, None))


LIBRARY = """
#include <string.h>
static int gpu = 17;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &gpu; return index ? 2 : 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  *device = &gpu; return strcmp(uuid, "GPU-abc") ? 6 : 0;
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *used) {
  used[0] = device == &gpu ? 93 : 1; used[1] = 40; return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { *milliwatts = 350500; return 0; }
"""


def test_the_library_is_called_as_its_header_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of our own with the signatures of NVIDIA's nvml.h: handles are pointers, numbers unsigned."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "nvml.c").write_text(LIBRARY)
    library = tmp_path / "libfake.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    monkeypatch.setattr(nvml, "LIBRARY", str(library))
    for uuid in (None, "abc"):
        found = nvml.reader(uuid)
        assert found is not None and (found[0], found[1]()) == ("nvml", (93.0, 350.5))
    seen = threading.Event()
    watch = nvml.Watch("abc", every_s=0.001)
    with watch:
        while watch.busy().samples < 3:
            assert not seen.wait(0.001)
    assert watch.busy().percent == 93.0 and watch.busy().watts == 350.5
    assert watch.busy(until=0.0) == nvml.Busy("nvml")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvml.reader("another") is None
