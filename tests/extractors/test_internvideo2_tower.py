"""The network of InternVideo2 against figures of the published modules (``docs/facts/internvideo2.md``, section 8).

The goldens were made by running the published code in float32 on a CPU; ``internvideo2_golden.json`` holds them.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from extractors.internvideo2_models import BACKBONES, Backbone, Reading
from extractors.internvideo2_tower import (
    InternVideo2Encoder,
    RmsNorm,
    interpolate_positions,
    read,
    sine_positions,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "internvideo2_golden.json").read_text())
NET = Backbone(48, 3, 4, 209, image_size=56, pool_heads=4, pooled=20, projected=12)


def fill(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The rule by which every tensor of the golden networks is filled."""
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    u = ((31 * i**2 + 7919 * i + zlib.crc32(name.encode())) % 10007) / 5003.5 - 1
    if len(shape) <= 1:
        values = 1 + 0.1 * u if name.endswith(("weight", "gamma", "sigma")) else 0.05 * u
    else:
        values = u * np.sqrt(3 / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32)).view(shape)


def golden_encoder(gelu: Any = "exact", has_image_table: bool = False) -> InternVideo2Encoder:
    encoder = InternVideo2Encoder(NET, 4, gelu, has_image_table=has_image_table).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        shape = tuple(parameter.shape)
        published = (shape[0], 3, 1, *shape[2:]) if name == "patch_embed.proj.weight" else shape
        parameter.copy_(fill(name, published).view(shape))
    return encoder


def video(frames: int = 4) -> torch.Tensor:
    """The golden video, channels first as published, turned to ``[2, F, 3, 56, 56]``."""
    shape = (2, 3, frames, 56, 56)
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    values = ((17 * i**2 + 104729 * i + 7) % 9973) / 4986.5 - 1
    return torch.from_numpy(values.astype(np.float32)).view(shape).transpose(1, 2)


def check(values: torch.Tensor, golden: dict[str, Any]) -> None:
    """Compare elements to the 1e-5 that six decimals allow, and sums to a hundred thousandth of what is summed."""
    assert list(values.shape) == golden["shape"]
    flat = values.double().flatten()
    np.testing.assert_allclose(flat[: len(golden["first"])], golden["first"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(flat[-len(golden["last"]) :], golden["last"], rtol=0, atol=1e-5)
    assert abs(float(flat.sum()) - golden["sum"]) <= 1e-6 * golden["abs_sum"]
    assert abs(float(flat.abs().sum()) - golden["abs_sum"]) <= 1e-6 * golden["abs_sum"]


def taken(encoder: InternVideo2Encoder, tokens: Any, frames: int = 4, blocks: int = 3, size: int = 4) -> torch.Tensor:
    return read(encoder, video(frames), Reading(frames, 4, tokens, size, blocks))


def test_the_forward_pass_is_the_published_one() -> None:
    encoder = golden_encoder()
    clips = video()
    check(encoder.tokens(clips, 0), GOLDEN["tokens_into_block0"])
    check(encoder.tokens(clips, 1), GOLDEN["tokens_after_block0"])
    check(encoder.tokens(clips, 2), GOLDEN["stage2_l_minus_2"])
    tokens = encoder.tokens(clips)
    check(tokens, GOLDEN["tokens_after_last_block"])
    check(tokens, GOLDEN["stage2"]["x_vis"])
    check(tokens[:, 1:].view(2, 4, 16, 48).mean(2), GOLDEN["patch_map_mean_over_space"])
    pooled = taken(encoder, "pooled")
    check(pooled, GOLDEN["clip_vision_pooled"])
    np.testing.assert_allclose(pooled[0], GOLDEN["clip_vision_pooled_row0"], rtol=0, atol=1e-5)
    check(pooled, GOLDEN["stage2"]["x_pool_vis"])


def test_the_classifier_on_top_gives_the_published_logits() -> None:
    """The classifier is left out of the tower; on its pooled vector it must be what it was."""
    pooled = taken(golden_encoder(), "pooled")
    normed = functional.layer_norm(pooled, (20,), fill("fc_norm.weight", (20,)), fill("fc_norm.bias", (20,)), 1e-5)
    logits = functional.linear(normed, fill("head.weight", (7, 20)), fill("head.bias", (7,)))
    np.testing.assert_allclose(logits, GOLDEN["classifier_logits_values"], rtol=0, atol=1e-5)


def test_the_two_gelus_are_the_published_two() -> None:
    pooled = taken(golden_encoder("tanh"), "pooled")
    check(pooled, GOLDEN["clip_vision_pooled_tanh_gelu"])
    assert (pooled - taken(golden_encoder("exact"), "pooled")).abs().max() > 1e-4


@pytest.mark.parametrize("has_image_table", [False, True])
def test_a_clip_of_one_frame_takes_the_table_of_images_or_the_mean(has_image_table: bool) -> None:
    encoder = golden_encoder(has_image_table=has_image_table)
    encoder.set_positions(1, 4)
    pooled = taken(encoder, "pooled", frames=1)
    check(pooled, GOLDEN["stage2_image"]["x_pool_vis"] if has_image_table else GOLDEN["clip_vision_image"])
    if has_image_table:
        check(encoder.tokens(video(1)), GOLDEN["stage2_image"]["x_vis"])


def test_rms_norm() -> None:
    with torch.no_grad():
        normed = RmsNorm(12)(torch.linspace(-1, 1, 12))
    np.testing.assert_allclose(normed, GOLDEN["rmsnorm_linspace"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("golden", "f0", "frames", "grid"),
    [("interp_t4_to_t8", 4, 8, 4), ("interp_4x4_to_6x6", 4, 4, 6), ("interp_t8_to_t4", 8, 4, 4)],
)
def test_positions_are_interpolated_as_published(golden: str, f0: int, frames: int, grid: int) -> None:
    table = fill("pos_embed", (1, 1 + f0 * 16, 48))
    fitted = interpolate_positions(table, f0, frames, grid)
    assert torch.equal(fitted[:, 0], table[:, 0])
    expected = GOLDEN[golden]
    np.testing.assert_allclose(fitted.flatten()[:6], expected["first"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(fitted.flatten()[-3:], expected["last"], rtol=0, atol=1e-6)
    assert list(fitted.shape) == expected["shape"]
    assert float(fitted.double().sum()) == pytest.approx(expected["sum"], abs=1e-5)
    assert float(fitted.double().abs().sum()) == pytest.approx(expected["abs_sum"], abs=1e-5)


def test_positions_that_fit_stay_as_they_are() -> None:
    table = fill("pos_embed", (1, 65, 48))
    assert torch.equal(interpolate_positions(table, 4, 4, 4), table)


def test_positions_of_untrained_weights() -> None:
    table = sine_positions(1408, 16, 8)[0]
    golden = GOLDEN["pos_1408_16_8"]
    assert list(table.shape) == golden["shape"]
    assert float(table.double().sum()) == pytest.approx(golden["sum"], rel=1e-6)
    assert float(table.double().abs().sum()) == pytest.approx(golden["abs_sum"], rel=1e-6)
    np.testing.assert_allclose(table[1, :6], golden["row1_first"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(table[2, 352:358], golden["row2_at_352"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(table[257, :6], golden["row257_first"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(table[-1, -3:], golden["row_last"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(sine_positions(48, 4, 4)[0, 2], GOLDEN["pos_48_4_4"]["row2"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "block", "pooling", "whole", "keys"),
    [
        ("s14", 1_774_080, 741_504, 23_043_840, 174),
        ("b14", 7_087_104, 2_366_976, 89_438_976, 174),
        ("l14", 12_595_200, 3_942_144, 308_929_280, 330),
        ("1b", 25_248_768, 7_042_176, 1_020_708_608, 538),
        ("6b", 122_918_400, 33_207_168, 5_941_735_168, 642),
    ],
)
def test_parameters_and_keys_of_all_sizes(model: str, block: int, pooling: int, whole: int, keys: int) -> None:
    backbone = BACKBONES[model]
    with torch.device("meta"):
        encoder = InternVideo2Encoder(backbone, 8)
        of_stage_2 = InternVideo2Encoder(backbone, 4)

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert {count(part) for part in encoder.blocks} == {block}
    assert count(encoder.clip_projector) == pooling
    assert count(encoder) == whole
    assert count(of_stage_2) == whole - 1024 * backbone.width
    assert len(encoder.state_dict()) == keys
    assert backbone.width % backbone.heads == 0 == backbone.width % backbone.pool_heads


def test_what_is_taken_of_a_clip() -> None:
    encoder = golden_encoder()
    tokens = encoder.tokens(video())
    assert torch.equal(taken(encoder, "cls"), tokens[:, 0])
    patches = tokens[:, 1:].view(2, 4, 4, 4, 48)  # [M, F, rows, columns, D]
    torch.testing.assert_close(taken(encoder, "map"), patches.mean(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(taken(encoder, "mean"), patches.mean((1, 2, 3)), rtol=0, atol=1e-6)
    coarse = taken(encoder, "map", size=2)
    torch.testing.assert_close(coarse[:, 0, 1], patches[:, :, :2, 2:].mean((1, 2, 3)), rtol=0, atol=1e-6)
    torch.testing.assert_close(coarse[:, 1, 0], patches[:, :, 2:, :2].mean((1, 2, 3)), rtol=0, atol=1e-6)
    torch.testing.assert_close(taken(encoder, "cls", blocks=2), encoder.tokens(video(), 2)[:, 0])
    projecting = InternVideo2Encoder(NET, 4, "exact", projects=True).eval().requires_grad_(False)
    projecting.load_state_dict({**projecting.state_dict(), **encoder.state_dict()})
    assert projecting.vision_proj is not None
    vector = projecting.vision_proj(taken(encoder, "pooled"))
    torch.testing.assert_close(taken(projecting, "projected"), vector / vector.norm(dim=-1, keepdim=True))


def test_fused_attention_is_the_formula() -> None:
    """softmax(q kᵀ / sqrt(d)) v, written out."""
    attention = golden_encoder().blocks[0].attn
    x = fill("x.weight", (2, 65, 48))
    weight, heads = attention.qkv.weight, attention.heads
    q, k, v = functional.linear(x, weight).split(48, -1)
    q, k = attention.q_norm(q), attention.k_norm(k)
    q, k, v = (part.view(2, 65, heads, 12).transpose(1, 2).double() for part in (q, k, v))
    written = torch.softmax(q @ k.transpose(2, 3) / 12**0.5, -1) @ v
    expected = attention.proj(written.float().transpose(1, 2).reshape(2, 65, 48))
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-6)
