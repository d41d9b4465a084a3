"""Half precision: weights cast once, one matrix product a projection, a rule for devices, float32 as it ever was."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from extractors import ExtractorError, build
from extractors.compiling import check_compiler
from extractors.dtypes import describe, prescribed, same_on, spec_entry, used_on
from extractors.half_layers import PatchEmbedding, SelfAttention, replace_layers
from extractors.torch_model import TorchModel, _set_cuda_precision, dtype_of
from extractors.trained import Trained

ROOT = Path(__file__).parents[2]
CLIP = {"model": "ViT-S-32-alt", "weights": "random:3", "image_size": 64}
SWIN = {"model": "swin_tiny_patch4_window7_224", "weights": "random:1"}
RULE = {"cuda": "float16", "cpu": "float32", "weights": "cast once"}
NUMERICS = {
    "device_type",
    "device_name",
    "cpu_capability",
    "threads",
    "compute_dtype",
    "tf32",
    "compile",
    "torch",
    "weights_sha256",
}
COMPILE = """
from extractors import ExtractorError, build
try:
    build("clip", {"model": "ViT-S-32-alt", "weights": "random:0", "compile": True}).load("cpu", 1)
except ExtractorError as error:
    print(error)
"""


def trained(name: str, **options: Any) -> Trained:
    extractor = build(name, {"weights": "random:1", **options})
    assert isinstance(extractor, Trained)
    return extractor


def loaded(name: str, **options: Any) -> TorchModel:
    model = trained(name, **options).load("cpu", 1)
    assert isinstance(model, TorchModel)
    return model


def steps(extractor: Trained, count: int = 2) -> NDArray[Any]:
    generator = np.random.default_rng(0)
    shape = (count, *extractor.prepared_shape())
    if extractor.prepared_dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.uniform(-4.6, 5, shape).astype(np.float32)


@pytest.mark.parametrize(("name", "options"), [("clip", CLIP), ("swin", SWIN), ("vggish", {})])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_network_is_cast_once_and_the_float32_one_is_kept(name: str, options: dict[str, Any], dtype: str) -> None:
    half = trained(name, **options, compute_dtype=dtype)
    model, exact = half.load("cpu", 1), loaded(name, **options)
    assert isinstance(model, TorchModel)
    floating = [value for value in model.network.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in floating} == {getattr(torch, dtype)}
    prepared = steps(half)
    values, reference = model.forward(prepared), model.reference(prepared)
    assert reference is not None and reference.tobytes() == exact.forward(prepared).tobytes()
    assert exact.reference(prepared) is None
    assert values.dtype == np.float32 and np.abs(values - reference).max() > 0
    cosine = (values * reference).sum() / np.linalg.norm(values) / np.linalg.norm(reference)
    assert cosine > (0.99999 if dtype == "float16" else 0.9998)
    assert model.numerics()["compute_dtype"] == dtype
    assert model.forward(prepared).tobytes() == values.tobytes(), "a reference in between changes nothing"


def test_float32_is_the_plain_network_bit_for_bit() -> None:
    """What the CPU path stores keeps its digests: no cast, no other attention, the same numerics and spec."""
    extractor = trained("clip", **CLIP)
    model, prepared = extractor.load("cpu", 1), steps(extractor)
    network: Any = extractor.build_network()[0]
    assert isinstance(model, TorchModel)
    plain = copy.deepcopy(model.network)
    assert any(isinstance(module, nn.MultiheadAttention) for module in plain.modules())
    assert not any(isinstance(module, SelfAttention) for module in plain.modules())
    preprocessing = extractor.preprocessing  # type: ignore[attr-defined]  # of Clip
    images = torch.from_numpy(prepared).permute(0, 3, 1, 2).float().div(255)
    images = (images - torch.tensor(preprocessing.mean).view(1, 3, 1, 1)) / torch.tensor(preprocessing.std).view(
        1, 3, 1, 1
    )
    with torch.inference_mode():
        expected = plain(images.contiguous(memory_format=torch.channels_last)).numpy()
    assert model.forward(prepared).tobytes() == expected.tobytes()
    assert {value.dtype for value in network.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert set(model.numerics()) == NUMERICS | {"open_clip"}
    assert set(loaded("swin", **SWIN).numerics()) == NUMERICS | {"timm", "fused_attention"}
    assert set(loaded("vggish").numerics()) == NUMERICS | {"torchvggish", "numpy"}


@pytest.mark.parametrize("name", ["clip", "swin", "vggish"])
def test_the_spec_of_float32_says_what_it_said_and_others_say_more(name: str) -> None:
    def entry(**options: Any) -> Any:
        spec = dict(trained(name, **options).spec())
        return spec.pop("compute_dtype"), spec

    assert entry() == entry(compute_dtype="float32")
    assert entry()[0] == "float32"
    assert entry(compute_dtype="bfloat16") == ({"dtype": "bfloat16", "weights": "cast once"}, entry()[1])
    assert entry(compute_dtype="auto") == (RULE, entry()[1])


def test_auto_is_one_spec_and_its_dtype_follows_the_device() -> None:
    extractor = trained("vggish", compute_dtype="auto")
    assert [extractor.execution(device, 1).compute_dtype for device in ("cpu", "cuda", "cuda:3")] == [
        "float32",
        "float16",
        "float16",
    ]
    assert used_on("cuda", "bfloat16") == "bfloat16"
    model = extractor.load("cpu", 1)
    prepared = steps(extractor)
    assert model.numerics() == loaded("vggish").numerics()
    assert model.forward(prepared).tobytes() == loaded("vggish").forward(prepared).tobytes()


def test_what_a_spec_prescribes_is_read_from_its_entry() -> None:
    half, auto = spec_entry("bfloat16"), spec_entry("auto")
    assert [prescribed(half, device) for device in ("cpu", "cuda")] == ["bfloat16", "bfloat16"]
    assert [prescribed(auto, device) for device in ("cpu", "cuda", "mps")] == ["float32", "float16", None]
    assert prescribed("float32", "cuda") == "float32" and prescribed("float64", "cpu") == "float64"
    assert prescribed("float16", "cuda") is None, "older specs meant autocast"
    assert prescribed(None, "cpu") is None
    assert describe(auto, "cpu") == "float16 on GPUs, float32 on CPUs (here: float32)"
    assert describe(auto, "cuda") == "float16 on GPUs, float32 on CPUs (here: float16)"
    assert describe(half, "cuda") == "bfloat16"
    assert describe("float32", "cuda") is None


@pytest.mark.parametrize(
    ("older", "newer", "device", "used", "same"),
    [
        ("float32", RULE, "cpu", "float32", True),
        (RULE, "float32", "cpu", "float32", True),
        ("float32", RULE, "cuda", "float32", False),  # made in float32 on a GPU; the rule says float16 there
        (spec_entry("float16"), RULE, "cuda", "float16", True),
        (spec_entry("float16"), RULE, "cpu", "float16", False),
        ("float16", RULE, "cuda", "float16", False),  # autocast
        ("float16", spec_entry("float16"), "cuda", "float16", False),
        ("float32", RULE, "cpu", None, False),
        ("float32", "float32", "cpu", None, True),
    ],
)
def test_numerics_prove_that_two_specs_prescribe_the_same(
    older: Any, newer: Any, device: str, used: str | None, same: bool
) -> None:
    numerics = {"device_type": device} | ({} if used is None else {"compute_dtype": used})
    assert same_on({"compute_dtype": older}, {"compute_dtype": newer}, numerics) is same


@pytest.mark.parametrize("heads", [3, 4])
def test_attention_with_one_projection_is_torchs(heads: int) -> None:
    """In float32, over the same weights; with torch's fast path (even heads) and without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        original = nn.MultiheadAttention(12 * heads, heads, batch_first=True).eval().requires_grad_(False)
        x = torch.randn(5, 7, 12 * heads)
    block = replace_layers(nn.Sequential(copy.deepcopy(original)))[0]  # type: ignore[index]  # a Sequential
    assert isinstance(block, SelfAttention)
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    with torch.inference_mode():
        torch.testing.assert_close(block(x, x, x, need_weights=False)[0], original(x, x, x)[0])
        for options in ({"attn_mask": mask, "need_weights": False}, {"need_weights": True}):
            expected, weights = original(x, x, x, **options)
            actual, own_weights = block(x, x, x, **options)
            assert torch.equal(actual, expected) and (weights is None) == (own_weights is None)
        assert torch.equal(block(x, x[:, :3], x[:, :3])[0], original(x, x[:, :3], x[:, :3])[0])


@pytest.mark.parametrize(("size", "bias"), [(28, True), (30, False)])
def test_patches_by_a_matrix_product_are_those_of_the_convolution(size: int, bias: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        original = nn.Conv2d(3, 6, (7, 14), stride=(7, 14), bias=bias).requires_grad_(False)
        images = torch.randn(4, 3, size, 28).contiguous(memory_format=torch.channels_last)
    layer = replace_layers(nn.Sequential(copy.deepcopy(original)))[0]  # type: ignore[index]  # a Sequential
    assert isinstance(layer, PatchEmbedding)
    torch.testing.assert_close(layer(images), original(images), rtol=0, atol=1e-5)
    assert layer(images).shape == (4, 6, size // 7, 2)


@pytest.mark.parametrize(
    "options",
    [{"stride": 1}, {"stride": 2, "padding": 1}, {"stride": 2, "dilation": 2}, {"stride": 2, "groups": 3}],
)
def test_other_convolutions_are_left_alone(options: dict[str, int]) -> None:
    layer = replace_layers(nn.Sequential(nn.Conv2d(3, 6, 2, **options)))[0]  # type: ignore[index, arg-type]  # numbers
    assert type(layer) is nn.Conv2d


class _Kernels(TorchDispatchMode):
    """Records aten operators with the shapes of their inputs, decomposed as far as a GPU would see them.

    ``scaled_dot_product_attention`` stays whole: which kernel it is depends on the card. ``_fused_rms_norm`` is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[tuple[int, ...]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace != "aten":
            return func(*args, **(kwargs or {}))
        if name not in ("scaled_dot_product_attention", "_fused_rms_norm"):
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        if not func.is_view and name not in ("_unsafe_view", "empty_strided"):
            self.calls.append((name, [tuple(x.shape) for x in args if isinstance(x, torch.Tensor)]))
        return func(*args, **(kwargs or {}))


def _kernels(model: TorchModel, batch: torch.Tensor) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Run one forward of a loaded model on a GPU that does not exist; return its kernels."""

    def moved(value: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda:0")

    with FakeTensorMode():
        for module in model.network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(moved(parameter), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = moved(buffer)
        for name in ("_mean", "_std"):
            if hasattr(model, name):
                setattr(model, name, moved(getattr(model, name)))
        kernels = _Kernels()
        with torch.inference_mode(), kernels:
            features = model._own_features(moved(batch)).float()
    assert features.device.type == "cuda"
    return kernels.calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "micro_batch", "products", "most"),
    [
        # patches, 24 blocks of 4 projections, and the last one
        ("clip", {"model": "ViT-L-14"}, 32, 98, 290),
        ("clip", {"model": "ViT-L-14", "tokens": "patch"}, 32, 97, 290),
        # patches, 24 blocks of 4 projections, 3 patch mergings
        ("swin", {"model": "swin_base_patch4_window7_224"}, 30, 100, 600),
        # patches, 12 blocks of 4 projections, 4 of the pooling
        ("internvideo2", {"model": "b14"}, 4, 53, 190),
        ("internvideo2", {"model": "b14", "tokens": "map", "map_size": 8}, 4, 49, 180),
        ("vggish", {}, 30, 3, 30),
        # patches and their projection, 12 blocks of 4 projections, a gate and 2 layers
        ("beats", {}, 30, 86, 270),
    ],
)
def test_every_projection_is_one_matrix_product_and_nothing_is_cast_on_the_way(
    name: str, options: dict[str, Any], micro_batch: int, products: int, most: int
) -> None:
    extractor = trained(name, **options, compute_dtype="float16")
    model = extractor.load("cpu", 1)
    assert isinstance(model, TorchModel)
    batch = torch.empty((micro_batch, *extractor.prepared_shape()), dtype=getattr(torch, extractor.prepared_dtype))
    calls = _kernels(model, batch)
    counts = Counter(kernel for kernel, _ in calls)
    assert counts["mm"] + counts["addmm"] == products, counts
    assert not counts["bmm"] + counts["baddbmm"], [shapes for kernel, shapes in calls if kernel.endswith("bmm")]
    assert counts["_to_copy"] <= 3, counts  # pixels to float32, images to float16, features to float32
    assert sum(counts.values()) <= most, counts


def test_the_count_of_kernels_sees_a_product_per_token() -> None:
    """The test above can fail: torch's own module, without its fast path, is what it looks for."""
    model = loaded("clip", **CLIP, compute_dtype="float16")
    for module in model.network.modules():
        if isinstance(getattr(module, "attn", None), SelfAttention):
            module.attn = module.attn.original  # type: ignore[union-attr]  # a SelfAttention
    with _without_fast_path():
        calls = _kernels(model, torch.empty((8, 64, 64, 3), dtype=torch.uint8))
    batched = [shapes for kernel, shapes in calls if kernel == "bmm"]
    assert batched and all(first[0] == 5 for first, _ in batched), batched  # 5 tokens


@contextmanager
def _without_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_swin_takes_fused_attention_where_it_is_as_close(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("swin", **SWIN, compute_dtype="bfloat16")
    flags = {module.fused_attn for module in model.network.modules() if hasattr(module, "fused_attn")}
    assert flags == {model.numerics()["fused_attention"]} == {True}
    assert loaded("swin", **SWIN).numerics()["fused_attention"] is False, "float32 keeps timm's own choice"
    v2 = loaded("swin", model="swinv2_tiny_window8_256", compute_dtype="bfloat16")
    assert v2.numerics()["fused_attention"] is False, "timm has none for version 2"

    fused = nn.functional.scaled_dot_product_attention

    def worse(*arguments: torch.Tensor, **options: Any) -> torch.Tensor:
        return fused(*arguments, **options) * 1.1

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", worse)
    plain = loaded("swin", **SWIN, compute_dtype="bfloat16")
    assert plain.numerics()["fused_attention"] is False
    assert not any(getattr(module, "fused_attn", False) for module in plain.network.modules())


def test_cuda_sums_in_float32_whatever_was_set_before() -> None:
    matmul = torch.backends.cuda.matmul
    matmul.allow_fp16_reduced_precision_reduction = True
    matmul.allow_bf16_reduced_precision_reduction = True
    _set_cuda_precision()
    assert matmul.allow_fp16_reduced_precision_reduction is False
    assert matmul.allow_bf16_reduced_precision_reduction is False


def _load_compiled(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_compiling_without_a_compiler_ends_at_the_load(tmp_path: Path) -> None:
    said = _load_compiled(PATH=str(tmp_path), CC="/nowhere/cc", CXX="/nowhere/c++")
    assert said.startswith("option 'compile': no C++ compiler works (tried: /nowhere/c++)")
    assert said.count("\n") == 1


def test_compiling_with_a_broken_compiler_ends_at_the_load(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "cannot find crti.o" >&2\nexit 1\n')
    broken.chmod(0o755)
    assert (
        _load_compiled(CXX=str(broken))
        == f"option 'compile': the compiler {broken} does not work: cannot find crti.o\n"
    )


def test_triton_needs_a_c_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExtractorError, match="triton needs a C compiler on a GPU; install gcc or set CC"):
        check_compiler("cuda")
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    with pytest.raises(ExtractorError, match=r"cc does not work: .*No such file"):
        check_compiler("cuda")


def test_dtype_of_is_that_of_the_parameters() -> None:
    assert dtype_of(nn.Linear(2, 2).bfloat16()) is torch.bfloat16
