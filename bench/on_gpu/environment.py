"""Section ``environment``: versions, the card, and the ceilings that no program on it passes."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from bench.bare import rate
from bench.circumstances import commit, versions
from bench.on_gpu.nvml import reader
from bench.on_gpu.section import Section, Setup
from pipeline.media.torchcodec_backend import why_unavailable
from pipeline.shared.sizing import available_cpus, available_memory_gb, visible_gpus

PACKAGES = (
    *("av", "h5py", "numpy", "open_clip_torch", "pillow", "pyarrow", "pydantic", "ray", "stanza", "timm", "torch"),
    *("torchcodec", "torchvggish", "torchvision", "transformers", "triton"),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the ceilings are measured.

    Attributes
    ----------
    matrix
        Side of the square matrices.
    copied_mb
        Megabytes that are copied on the device and to it.
    seconds
        Seconds of each measurement.
    """

    matrix: int
    copied_mb: int
    seconds: float


_SECONDS = 8.0
FULL, QUICK = Sizes(8192, 1024, 0.6), Sizes(128, 4, 0.03)


def run(setup: Setup, section: Section) -> None:
    """Describe the machine and measure its ceilings."""
    section.put("python", platform.python_version())
    section.put("packages", versions(PACKAGES))
    section.put("commit", commit())
    section.put("cpus", available_cpus())
    section.put("memory_gib", available_memory_gb())
    section.put("gpus_by_reelstore", visible_gpus())
    section.put("why_not", {backend: why_unavailable(backend) for backend in ("torchcodec", "nvdec")})
    if setup.on_gpu:
        card = torch.cuda.get_device_properties(setup.device)
        found = reader(str(card.uuid))
        section.put("device", card.name)
        section.put("device_memory_gib", card.total_memory / 2**30)
        section.put("capability", list(torch.cuda.get_device_capability(setup.device)))
        section.put("cuda", torch.version.cuda)
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch does not annotate it
        section.put("cudnn", cudnn)
        section.put("busy_by", None if found is None else found[0])
    else:
        section.put("device", "cpu")
        section.leave_out("power, busy time and copies over PCIe", "they need a CUDA device")
    sizes = QUICK if setup.quick else FULL
    if not setup.quick and not section.has_time("the ceilings", _SECONDS):
        return
    for name in ("float32", "bfloat16", "float16"):
        section.put(f"gemm_{name}_tflops", gemm_tflops(getattr(torch, name), sizes, setup.device))
    section.put("copy_gb_per_s", copy_rate(sizes, setup.device))
    if setup.on_gpu:
        section.put("to_device_gb_per_s", pcie_rate(sizes, setup.device))


def gemm_tflops(dtype: torch.dtype, sizes: Sizes, device: torch.device) -> float:
    """Return TFLOP/s of a product of two square matrices of noise; float32 is without TensorFloat-32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    side = sizes.matrix
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(first)
    return 2 * side**3 * rate(lambda: torch.mm(first, second, out=out), 1, sizes.seconds, device) / 1e12


def copy_rate(sizes: Sizes, device: torch.device) -> float:
    """Return GB/s of a copy on the device, bytes read and written both counted."""
    source = torch.empty(sizes.copied_mb << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * rate(lambda: target.copy_(source), source.numel(), sizes.seconds, device) / 1e9


def pcie_rate(sizes: Sizes, device: torch.device) -> float:
    """Return GB/s of a copy from pinned memory to the device."""
    source = torch.empty(sizes.copied_mb << 20, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    return rate(lambda: target.copy_(source, non_blocking=True), source.numel(), sizes.seconds, device) / 1e9
