"""The extractor ``internvideo2``: published layouts, what is left out and refused, options, dtypes and tags.

A miniature size stands in for the published ones wherever a file is written.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from extractors import ExtractorError, MicroBatcher, WeightsError, build, tensors
from extractors.internvideo2 import InternVideo2
from extractors.internvideo2_layouts import encoder_of, projector_of
from extractors.internvideo2_models import BACKBONES, Backbone, Release
from extractors.internvideo2_tower import InternVideo2Encoder, interpolate_positions
from extractors.torch_model import TorchModel
from extractors.weights import digest
from pipeline.media import MediaProcess
from pipeline.shared import PreflightError
from stores import Store
from tests._helpers.runs import extract, rgb_config

TINY = Backbone(
    48,
    3,
    4,
    209,
    {"stage2": Release("nobody/tiny", "tiny.pt", 4)},
    image_size=56,
    pool_heads=4,
    pooled=20,
    projected=12,
)
OTHER = Backbone(48, 2, 4, 209, image_size=56, pool_heads=4, pooled=20, projected=12)
State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", TINY)
    monkeypatch.setitem(BACKBONES, "other", OTHER)


def iv2(weights: object = "random:3", **options: Any) -> InternVideo2:
    extractor = build("internvideo2", {"model": "tiny", "image_size": 56, "weights": str(weights), **options})
    assert isinstance(extractor, InternVideo2)
    return extractor


def published(seed: int = 5, backbone: Backbone = TINY, f0: int = 4) -> State:
    """An encoder with random numbers everywhere, as a published file names and shapes its tensors."""
    generator = torch.Generator().manual_seed(seed)
    state = InternVideo2Encoder(backbone, f0).state_dict()
    state = {name: torch.randn(value.shape, generator=generator) * 0.3 for name, value in state.items()}
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].unsqueeze(2)
    return state


def with_projection(state: State, seed: int = 6) -> State:
    generator = torch.Generator().manual_seed(seed)
    more = {"vision_proj.weight": torch.randn(12, 20, generator=generator), "vision_proj.bias": torch.ones(12)}
    return {**state, **more}


def stage2_file(path: Path, state: State) -> Path:
    """Save an encoder as stage 2 does: under a prefix, beside decoders, a text encoder and what joins them."""
    inside = {
        **state,
        "img_pos_embed": torch.randn(1, 17, 48, generator=torch.Generator().manual_seed(8)),
        "clip_pos_embed": torch.zeros(1, 65, 48),
        "clip_img_pos_embed": torch.zeros(1, 17, 48),
        "clip_decoder.0.head.weight": torch.zeros(24, 48),
        "clip_decoder.0.norm.weight": torch.zeros(24),
        "final_clip_decoder.head.weight": torch.zeros(20, 20),
    }
    beside = {
        "text_encoder.bert.embeddings.weight": torch.zeros(3, 3),
        "text_proj.weight": torch.zeros(12, 3),
        "itm_head.weight": torch.zeros(2, 3),
        "temp": torch.tensor(0.07),
        "audio_encoder.x": torch.zeros(1),
        "something_new.weight": torch.zeros(1),
    }
    whole = {f"vision_encoder.{name}": value for name, value in inside.items()} | beside
    torch.save({"module": with_projection(whole)}, path)
    return path


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    path = tmp_path / "plain.safetensors"
    save_file(published(), path)
    return path


def clips(count: int = 2, frames: int = 4, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, frames, 56, 56, 3), np.uint8)


def values(extractor: InternVideo2, given: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
    return extractor.load("cpu", 1).forward(clips(frames=extractor.frames) if given is None else given)


LEFT_OUT = [
    "clip_pos_embed (1 tensor: follows a teacher in training)",
    "clip_img_pos_embed (1 tensor: follows a teacher in training)",
    "clip_decoder (2 tensors: follows a teacher in training)",
    "final_clip_decoder (1 tensor: follows a teacher in training)",
    "text_encoder (1 tensor: belongs to the text encoder)",
    "text_proj (1 tensor: belongs to the text encoder)",
    "itm_head (1 tensor: matches clips with texts)",
    "temp (1 tensor: scales similarities in training)",
    "audio_encoder (1 tensor: encodes sound)",
    "something_new (1 tensor: another network of the file)",
]


def test_a_stage_2_file_is_the_encoder_and_the_rest_is_listed(
    tmp_path: Path, plain_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage2 = stage2_file(tmp_path / "stage2.pt", published())
    with caplog.at_level(logging.INFO, "reelstore.extractors"):
        by_stage2 = values(iv2(stage2, f0=4))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"weights file {stage2} as internvideo2_tiny: left out {'; '.join(LEFT_OUT)}"
    assert by_stage2.tobytes() == values(iv2(plain_file, f0=4)).tobytes()


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder.", "module.", "module.vision_encoder."])
@pytest.mark.parametrize("wrapper", [None, "model", "module", "state_dict"])
def test_wrappers_and_prefixes_are_taken_off(
    prefix: str, wrapper: str | None, tmp_path: Path, plain_file: Path
) -> None:
    state: Any = {f"{prefix}{name}": value for name, value in published().items()}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "wrapped.pth")
    assert values(iv2(tmp_path / "wrapped.pth", f0=4)).tobytes() == values(iv2(plain_file, f0=4)).tobytes()


def test_a_classifier_and_a_half_precision_file_are_read(tmp_path: Path, plain_file: Path) -> None:
    classifier = {"fc_norm.weight": torch.ones(20), "fc_norm.bias": torch.ones(20), "head.weight": torch.ones(7, 20)}
    kept, left_out = encoder_of({**published(), **classifier, "head.bias": torch.ones(7)}, "x")
    assert set(kept) == set(published())
    assert list(map(str, left_out)) == ["fc_norm (2 tensors: classifies)", "head (2 tensors: classifies)"]
    half = {name: value.half() for name, value in published().items()}
    save_file(half, tmp_path / "half.safetensors")
    save_file({name: value.float() for name, value in half.items()}, tmp_path / "float.safetensors")
    first, second = (values(iv2(tmp_path / f"{name}.safetensors", f0=4)) for name in ("half", "float"))
    assert first.tobytes() == second.tobytes()


def changed(**changes: torch.Tensor | None) -> State:
    state: Any = {**published(), **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in state.items() if value is not None}


REFUSED = {
    "another architecture": (
        lambda: {"layers.0.blocks.0.attn.qkv.weight": torch.zeros(9, 3), "norm.weight": torch.zeros(3)},
        r"holds no encoder of InternVideo2 \(no blocks\.0\.attn\.qkv\.weight; it has layers\.0\.",
    ),
    "two encoders": (
        lambda: published() | {f"backbone.{name}": value for name, value in published().items()},
        r"holds several encoders \(.*backbone.*\): keep one",
    ),
    "missing": (
        lambda: changed(blocks__1__attn__q_norm__weight=None),
        r"does not fit: 1 missing \(blocks\.1\.attn\.q_norm\.weight\)",
    ),
    "surplus": (
        lambda: changed(blocks__1__attn__qkv__bias=torch.zeros(144)),
        r"does not fit: 1 unexpected \(blocks\.1\.attn\.qkv\.bias\)",
    ),
    "another shape": (
        lambda: changed(blocks__0__mlp__fc1__bias=torch.zeros(8)),
        r"1 of another shape \(blocks\.0\.mlp\.fc1\.bias \[8\] instead of \[209\]\)",
    ),
    "tubelets of two frames": (
        lambda: changed(patch_embed__proj__weight=torch.zeros(48, 3, 2, 14, 14)),
        r"1 of another shape \(patch_embed\.proj\.weight \[48, 3, 2, 14, 14\] instead of \[48, 3, 14, 14\]\)",
    ),
    "another size": (
        lambda: published(backbone=OTHER),
        r"does not fit tiny: it has 48 channels and 2 blocks instead of 48 and 3: set model=other",
    ),
    "no size": (
        lambda: published(backbone=Backbone(32, 3, 4, 64, image_size=56, pool_heads=4, pooled=20)),
        r"does not fit tiny: it has 32 channels and 3 blocks instead of 48 and 3, no published size",
    ),
    "positions of 8 frames": (
        lambda: published(f0=8),
        r"does not fit f0=4: its position table has 128 rows, it is made for 8 frames of 4x4 patches: set f0=8",
    ),
    "positions that do not divide": (
        lambda: changed(pos_embed=torch.zeros(1, 51, 48)),
        r"does not fit f0=4: its position table has 50 rows, which f0=4 does not give",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_does_not_fit_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    path = tmp_path / "broken.pth"
    torch.save(make(), path)
    with pytest.raises(WeightsError, match=message) as caught:
        iv2(path, f0=4).load("cpu", 1)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(WeightsError) as before:
        iv2(path, f0=4).check_weights()
    assert str(before.value) == str(caught.value)


def test_files_are_checked_without_their_numbers(tmp_path: Path, plain_file: Path) -> None:
    """Names and shapes are all that is read."""
    stage2 = stage2_file(tmp_path / "stage2.pt", published())
    for path in (plain_file, stage2):
        shapes = tensors.read_state_dict(path, shapes_only=True)
        whole = tensors.read_state_dict(path)
        assert {name: value.shape for name, value in shapes.items()} == {n: v.shape for n, v in whole.items()}
        assert {value.device.type for value in shapes.values()} == {"meta"}
        iv2(path, f0=4).check_weights()
    iv2(plain_file, f0=4, projector=str(projector_file(tmp_path / "clip.pt"))).check_weights()
    with pytest.raises(WeightsError, match="holds a whole encoder"):
        iv2(plain_file, f0=4, projector=str(plain_file)).check_weights()


def test_a_wrong_file_ends_a_run_before_any_decode(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(MediaProcess, "decode", decoded)
    save_file(changed(blocks__1__attn__q_norm__weight=None), tmp_path / "broken.safetensors")
    text = f"""
features:
  clips:
    extractor: internvideo2
    model: tiny
    image_size: 56
    f0: 4
    weights: {tmp_path / "broken.safetensors"}
    sampling: {{policy: clips, t: 2, frames: 4}}
"""
    with pytest.raises(
        PreflightError, match=r"^features\.clips: weights file .*broken\.safetensors .* 1 missing"
    ) as line:
        extract(videos, tmp_path / "store", rgb_config(tmp_path, text=text))
    assert "\n" not in str(line.value)
    with Store.open(tmp_path / "store") as store:
        assert store.failures().num_rows == 0


def test_f0_must_be_told_for_a_file(plain_file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"option 'f0' is needed: .*plain\.safetensors does not say .*4 for stage 2"):
        iv2(plain_file).spec()
    save_file(published(), tmp_path / "told.safetensors", {"reelstore": '{"model": "internvideo2_tiny", "F0": 4}'})
    told = iv2(tmp_path / "told.safetensors")
    assert told.spec()["positions"] == {"F0": 4, "time": "linear", "space": "bicubic", "one_frame": "image or mean"}
    with pytest.raises(WeightsError, match="has f0=4, not 8"):
        iv2(tmp_path / "told.safetensors", f0=8).spec()
    with pytest.raises(ExtractorError, match="'stage2' has f0=4, not 8"):
        iv2("stage2", f0=8)


def projector_file(path: Path, seed: int = 9, **more: torch.Tensor) -> Path:
    pooling = {name: value for name, value in published(seed).items() if name.startswith("clip_projector.")}
    state: Any = {f"vision_encoder.{name}": value for name, value in pooling.items()}
    beside = {"vision_align.0.weight": torch.ones(20), "text_encoder.x": torch.ones(1), "temp": torch.tensor(1.0)}
    torch.save(state | beside | more, path)
    return path


def test_the_pooling_comes_from_a_second_file(tmp_path: Path, plain_file: Path) -> None:
    """As published for CLIP 1B and 6B: the blocks are those of stage 2."""
    projector = projector_file(tmp_path / "clip.pt")
    both = published() | {name: value for name, value in published(9).items() if name.startswith("clip_projector.")}
    save_file(both, tmp_path / "both.safetensors")
    joined = iv2(plain_file, f0=4, projector=str(projector))
    assert values(joined).tobytes() == values(iv2(tmp_path / "both.safetensors", f0=4)).tobytes()
    assert np.abs(values(joined) - values(iv2(plain_file, f0=4))).max() > 1e-3
    assert joined.spec()["projector"] == {"sha256": digest(projector)}
    assert joined.load("cpu", 1).numerics()["projector_sha256"] == digest(projector)
    assert joined.spec()["weights"] == iv2(plain_file, f0=4).spec()["weights"] == {"sha256": digest(plain_file)}
    state = torch.load(projector, weights_only=True)
    _, left_out = projector_of(state, "x")
    assert [entry.group for entry in left_out] == ["vision_align", "text_encoder", "temp"]


def test_a_projector_that_is_none_is_refused(tmp_path: Path, plain_file: Path) -> None:
    with pytest.raises(WeightsError, match="holds a whole encoder: set weights to it, and no projector"):
        iv2(plain_file, f0=4, projector=str(plain_file)).load("cpu", 1)
    torch.save({"x.weight": torch.ones(3)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"holds no clip_projector \(no clip_projector\.norm1_q\.weight; it has x"):
        iv2(plain_file, f0=4, projector=str(tmp_path / "x.pt")).load("cpu", 1)
    with pytest.raises(WeightsError, match=r"gone\.pt: No such file"):
        iv2(plain_file, f0=4, projector=str(tmp_path / "gone.pt")).spec()
    pinned = iv2(plain_file, f0=4, projector=str(projector_file(tmp_path / "p.pt")), projector_sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"p\.pt has sha256 .*, but 0000"):
        pinned.spec()
    broken = projector_file(tmp_path / "b.pt")
    state = torch.load(broken, weights_only=True)
    del state["vision_encoder.clip_projector.cross_attn.q_bias"]
    torch.save(state, broken)
    with pytest.raises(WeightsError, match=r"as projector of internvideo2_tiny does not fit: 1 missing .*q_bias"):
        iv2(plain_file, f0=4, projector=str(broken)).load("cpu", 1)


def test_the_retrieval_vector_belongs_to_its_pooling(tmp_path: Path, plain_file: Path) -> None:
    stage2 = stage2_file(tmp_path / "stage2.pt", published())
    vectors = values(iv2(stage2, f0=4, tokens="projected"))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    projection = with_projection({})
    pooled = torch.from_numpy(values(iv2(stage2, f0=4)))
    expected = torch.nn.functional.linear(pooled, projection["vision_proj.weight"], projection["vision_proj.bias"])
    np.testing.assert_allclose(vectors, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    with pytest.raises(WeightsError, match="tokens=projected needs vision_proj, which these weights lack"):
        iv2(plain_file, f0=4, tokens="projected").load("cpu", 1)
    without = projector_file(tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match="tokens=projected needs vision_proj"):
        iv2(stage2, f0=4, tokens="projected", projector=str(without)).load("cpu", 1)
    own = projector_file(tmp_path / "own.pt", **with_projection({}, 11))
    joined = iv2(stage2, f0=4, tokens="projected", projector=str(own))
    assert np.abs(values(joined) - vectors).max() > 1e-2


def test_positions_are_fitted_to_the_clips(plain_file: Path) -> None:
    """The loaded network has the published interpolation of its table; the network of F0 frames has the table."""
    table = published()["pos_embed"]
    for options, frames, grid in (({}, 4, 4), ({"frames": 8}, 8, 4), ({"image_size": 84, "frames": 2}, 2, 6)):
        model: Any = iv2(plain_file, f0=4, **options).load("cpu", 1)
        assert torch.equal(model.network.pos_embed, interpolate_positions(table, 4, frames, grid))
    network: Any = iv2(plain_file, f0=4, frames=8).build_network()[0]
    assert torch.equal(network.pos_embed, table)


def test_a_clip_of_one_frame_takes_the_table_for_images_if_there_is_one(tmp_path: Path, plain_file: Path) -> None:
    stage2 = stage2_file(tmp_path / "stage2.pt", published())
    image_table = torch.randn(1, 17, 48, generator=torch.Generator().manual_seed(8))
    with_table: Any = iv2(stage2, f0=4, frames=1).load("cpu", 1)
    assert torch.equal(with_table.network.pos_embed, image_table)
    without: Any = iv2(plain_file, f0=4, frames=1).load("cpu", 1)
    table = published()["pos_embed"]
    assert torch.equal(without.network.pos_embed[:, 1:], table[:, 1:].view(1, 4, 16, 48).mean(1))
    assert torch.equal(without.network.pos_embed[:, :1], table[:, :1])


def test_pictures_are_normalised_and_ordered_as_the_formulas_say(plain_file: Path) -> None:
    extractor = iv2(plain_file, f0=4, tokens="map")
    given = clips()
    normalised = (given.astype(np.float32) / 255 - extractor.mean) / np.array(extractor.std)
    network: Any = extractor.build_network()[0]
    with torch.inference_mode():
        videos = torch.from_numpy(normalised.astype(np.float32)).permute(0, 1, 4, 2, 3)  # [M,F,3,H,W]
        tokens = network.eval()
        expected = tokens.tokens(videos)[:, 1:].view(2, 4, 4, 4, 48).mean(1)
    np.testing.assert_allclose(values(extractor, given), expected, rtol=0, atol=2e-5)


def test_every_option_that_changes_numbers_is_in_the_spec(plain_file: Path) -> None:
    base = iv2(plain_file, f0=4, tokens="map")
    different = [
        iv2(plain_file, f0=4, **options)
        for options in (
            {"tokens": "cls"},
            {"tokens": "mean"},
            {"tokens": "mean", "skip_blocks": 1},
            {"tokens": "pooled"},
            {"tokens": "map", "map_size": 2},
            {"tokens": "map", "gelu": "exact"},
            {"tokens": "map", "frames": 8},
            {"tokens": "map", "skip_blocks": 2},
            {"tokens": "map", "crop": "center_crop"},
        )
    ]
    outputs = [values(extractor) for extractor in (base, *different)]
    specs = [extractor.spec() for extractor in (base, *different)]
    for place, (spec, output) in enumerate(zip(specs, outputs, strict=True)):
        assert specs.count(spec) == 1
        same = [other for other in outputs[:place] if other.shape == output.shape and np.array_equal(other, output)]
        assert not same or spec["preprocessing"] != specs[0]["preprocessing"], spec
    assert specs[0]["gelu"] == "tanh"
    assert values(base).shape == (2, 4, 4, 48)


def test_a_tag_and_its_fetched_file_are_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--nobody--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    stage2_file(snapshot / "tiny.pt", published())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    tag = iv2("stage2", frames=8)
    written = tag.fetch(tmp_path / "fetched")
    assert written is not None and written.model == "internvideo2_tiny"
    assert tag.verify(tmp_path / "fetched") == written
    state = load_file(tmp_path / "fetched" / written.file)
    assert state["pos_embed"].shape == (1, 65, 48), "as it was released"
    assert {"img_pos_embed", "vision_proj.weight"} <= set(state)
    fetched = iv2(tmp_path / "fetched" / written.file, frames=8)
    assert values(fetched).tobytes() == values(tag).tobytes()
    for frames in (1, 4):
        one, other = (iv2(weights, frames=frames) for weights in ("stage2", tmp_path / "fetched" / written.file))
        assert values(one).tobytes() == values(other).tobytes()
    assert tag.spec()["weights"] == {"tag": "stage2"} and fetched.spec()["weights"] == {"sha256": written.sha256}
    assert iv2("stage2", sha256=written.sha256, frames=8).spec() == fetched.spec()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("tokens", ["pooled", "projected", "map"])
def test_half_precision_is_close_and_keeps_its_reference(tokens: Any, dtype: Any) -> None:
    half, exact = iv2(tokens=tokens, compute_dtype=dtype), iv2(tokens=tokens)
    model, given = half.load("cpu", 1), clips()
    assert isinstance(model, TorchModel)
    assert {value.dtype for value in model.network.state_dict().values()} == {getattr(torch, dtype)}
    rounded, reference = model.forward(given), model.reference(given)
    assert reference is not None and reference.tobytes() == values(exact, given).tobytes()
    assert np.abs(rounded - reference).max() > 0
    cosine = (rounded * reference).sum() / np.linalg.norm(rounded) / np.linalg.norm(reference)
    assert cosine > (0.99999 if dtype == "float16" else 0.9998)
    assert half.spec() != exact.spec()


def test_random_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first = values(iv2("random:3"))
    assert torch.equal(before, torch.get_rng_state())
    assert values(iv2("random:3")).tobytes() == first.tobytes()
    assert np.abs(values(iv2("random:4")) - first).max() > 1e-3
    assert iv2("random:3").random_weights and not iv2("stage2").random_weights


def test_rows_of_clips_pass_through_the_micro_batcher() -> None:
    model, given = iv2().load("cpu", 1), clips(5)
    together = dict(MicroBatcher(model, 2).run([("a", given[:1]), ("b", given[1:4]), ("c", given[4:])]))
    alone = dict(MicroBatcher(model, 2).run([("b", given[1:4])]))
    assert together["b"].tobytes() == alone["b"].tobytes()
    np.testing.assert_allclose(together["c"], model.forward(given[4:]), rtol=0, atol=1e-5)


def test_clips_are_prepared_frame_by_frame_and_as_single_frames_are() -> None:
    swin = build("swin", {"weights": "random:0", "crop": "squash"})
    full = build("internvideo2", {"model": "s14", "weights": "random:0"})
    frames = np.random.default_rng(0).integers(0, 256, (8, 45, 80, 3), np.uint8)
    prepared = full.prepare(frames.reshape(2, 4, 45, 80, 3))
    assert prepared.reshape(8, 224, 224, 3).tobytes() == swin.prepare(frames).tobytes()
    assert full.shared_preparation == swin.shared_preparation is not None
    for wrong in (frames, frames.reshape(2, 4, 45, 80, 3).astype(np.float32), frames.reshape(2, 4, 45, 80, 3)[:, :0]):
        with pytest.raises(ExtractorError, match=r"expected RGB clips uint8 \[N,F,H,W,3\], got"):
            full.prepare(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "2b"}, "has no size '2b'"),
        ({"model": "s14", "weights": "stage2"}, "internvideo2_s14 has no tags: download its file"),
        ({"model": "6b", "weights": "stage1"}, r"internvideo2_6b has no weights 'stage1' \(available: stage2\)"),
        ({"frames": 0}, "option 'frames'"),
        ({"image_size": 225}, "225 is no multiple of 14"),
        ({"map_size": 8}, "belongs to tokens=map, not pooled"),
        ({"tokens": "map", "map_size": 7}, "7 does not divide 16 patches"),
        ({"tokens": "map", "skip_blocks": 40}, "40 leaves none of 40 blocks"),
        ({"skip_blocks": 1}, "tokens=pooled follows the last block"),
        ({"gelu": "erf"}, "option 'gelu': .*'tanh' or 'exact'"),
        ({"tokens": "patch"}, "option 'tokens'"),
        ({"projector": "stage2"}, "'stage2' is not the path of a file"),
        ({"weights": "random:0", "projector": "a.pt"}, "belongs to trained weights"),
        ({"projector_sha256": "0" * 64}, "pins the file that 'projector' names"),
        ({"std": [0.2, 0.0, 0.2]}, "option 'std'"),
        ({"f0": 0}, "option 'f0'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExtractorError, match=message) as caught:
        build("internvideo2", options)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("internvideo2: ")


@pytest.mark.parametrize(
    ("model", "tokens", "shape"),
    [("1b", "pooled", (768,)), ("1b", "projected", (512,)), ("6b", "mean", (3200,)), ("l14", "map", (16, 16, 1024))],
)
def test_published_shapes(model: str, tokens: str, shape: tuple[int, ...]) -> None:
    extractor = build("internvideo2", {"model": model, "weights": "random:0", "tokens": tokens})
    assert extractor.output().step_shape == shape
    assert extractor.prepared_shape() == (4, 224, 224, 3)
