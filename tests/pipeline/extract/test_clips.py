"""Features whose steps are clips: rows, masks, damage, sharing, the GPU's decoder, and what does not suit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from examples.clips import write_clip
from extractors import MicroBatcher, build
from extractors.testing import check_extractor
from pipeline.extract import load_config, preflight
from pipeline.extract.decode_unit import decode_unit, expected_bytes
from pipeline.extract.features import ready_features
from pipeline.extract.local import executor
from pipeline.extract.plan import Unit
from pipeline.extract.units import Decoded, RunContext
from pipeline.media import MediaProcess
from pipeline.shared import ConfigError
from stores import Store
from stores.upkeep import verify
from tests._helpers.clip_grids import ClipGrid, FlatClipGrid
from tests._helpers.fakes import fake_torchcodec
from tests._helpers.films import film, level
from tests._helpers.runs import digests, extract, rgb_config

CLIPS = '"tests._helpers.clip_grids:ClipGrid"'
CONFIG = f"""
features:
  clips: {{extractor: {CLIPS}, dtype: float32, sampling: {{policy: clips, t: 4, frames: 4}}, micro_batch: 3}}
  rgb: {{extractor: rgb_grid, grid: 2, dtype: float32, sampling: {{policy: segments, t: 4}}}}
media: {{deadline_s: 30}}
run: {{decode_workers: 1}}
"""
ONE = """
features:
  one:
    extractor: "tests._helpers.clip_grids:FlatClipGrid"
    frames: 1
    dtype: float32
    sampling: {policy: clips, t: 15, frames: 1}
  segments: {extractor: rgb_grid, grid: 2, dtype: float32, sampling: {policy: segments, t: 15}}
media: {deadline_s: 60}
run: {decode_workers: 1}
"""


@pytest.mark.parametrize("extractor", [ClipGrid(), FlatClipGrid(frames=1)])
def test_the_extractors_of_these_tests_keep_the_contract(extractor: ClipGrid) -> None:
    check_extractor(extractor)


def test_rows_hold_the_frames_of_each_second(tmp_path: Path) -> None:
    """Frame n of the film is grey, and tells n; beside it, single frames come from the same pass."""
    folder = tmp_path / "videos"
    folder.mkdir()
    film(folder / "film.mp4", seconds=2.6)
    assert extract(folder, tmp_path / "store", rgb_config(tmp_path, text=CONFIG)).exit_code == 0
    with Store.open(tmp_path / "store") as store:
        row = store.row("clips", "film")
        assert row.shape == (4, 4, 12)
        lower = row.reshape(4, 4, 2, 2, 3)[:, :, 1].mean((2, 3)) * 255  # [T, F]: noise is above
        numbers = np.array([[3, 9, 15, 21], [28, 34, 40, 46], [53, 59, 64, 64], [53, 59, 64, 64]])
        expected = np.vectorize(level)(numbers)
        np.testing.assert_allclose(lower, expected, atol=1.5)
        assert store.valid("clips", "film").tolist() == [True, True, True, False]
        assert store.times("clips", "film").tolist() == store.times("rgb", "film").tolist()
        assert store.valid("clips", "film").tolist() == store.valid("rgb", "film").tolist()
        assert store.spec("clips")["sampling"] == {
            "policy": "clips", "t": 4, "seconds": 1.0, "frames": 4, "pad": "repeat"
        }  # fmt: skip
        assert (store.spec("clips")["steps"], store.spec("clips")["step_shape"]) == (4, [4, 12])
    assert verify(tmp_path / "store", deep=True).ok


def test_padding_of_zeros_is_zeros(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    film(folder / "film.mp4", seconds=1.2)
    zero = rgb_config(tmp_path, "features.clips.sampling.pad=zero", text=CONFIG)
    assert extract(folder, tmp_path / "store", zero).exit_code == 0
    with Store.open(tmp_path / "store") as store:
        row = store.row("clips", "film")
        assert row[0].all() and not row[1:].any()
        assert store.times("clips", "film").tolist()[1:] == [1.5, 2.5, 3.5]


def same_rows(store: Store, keys: Any) -> None:
    for key in keys:
        assert store.row("one", key).tobytes() == store.row("segments", key).tobytes(), key
        assert store.times("one", key).tobytes() == store.times("segments", key).tobytes()
        assert store.valid("one", key).tobytes() == store.valid("segments", key).tobytes()
        assert store.media("one", key) == store.media("segments", key)


def test_clips_of_one_frame_are_segments_bit_for_bit(videos: Path, tmp_path: Path) -> None:
    assert extract(videos, tmp_path / "store", rgb_config(tmp_path, text=ONE)).exit_code == 0
    with Store.open(tmp_path / "store") as store:
        assert len(store.keys("one")) == 4
        same_rows(store, store.keys("one"))
    assert digests(tmp_path / "store", "one") == digests(tmp_path / "store", "segments")


@pytest.mark.slow
def test_clips_of_one_frame_are_segments_on_real_clips(media: Path, tmp_path: Path) -> None:
    result = extract(media, tmp_path / "store", rgb_config(tmp_path, text=ONE))
    assert result.exit_code == 0, result.summary["failures"]
    with Store.open(tmp_path / "store") as store:
        assert len(store.keys("one")) == len(list(media.iterdir()))
        same_rows(store, store.keys("one"))


def test_a_damaged_frame_marks_its_step_once(tmp_path: Path) -> None:
    """Packets of 0.84 to 2 s do not decode: only the last of four frames of the first second is lost."""
    folder = tmp_path / "videos"
    folder.mkdir()
    path = folder / "damaged.mp4"
    write_clip(path, seconds=3, width=96, height=64)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in packets[19:50]:
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    assert extract(folder, tmp_path / "store", rgb_config(tmp_path, text=CONFIG)).exit_code == 0
    with Store.open(tmp_path / "store") as store:
        assert store.damaged("clips", "damaged").tolist() == [True, True, False, False]
        assert store.damaged("rgb", "damaged").tolist() == [False, True, False, False]
    strict = extract(folder, tmp_path / "strict", rgb_config(tmp_path, "media.damage=fail", text=CONFIG))
    assert strict.summary["failures_by_class"] == {"corrupt": 2}
    messages = {failed["feature"]: failed["message"] for failed in strict.summary["failures"]}
    assert "2 steps would hold damaged pictures (the first is step 0)" in messages["clips"]


IV2 = 'extractor: internvideo2, weights: "random:0"'
SHARED = f"""
features:
  clips: {{{IV2}, model: s14, sampling: {{policy: clips, t: 3, frames: 4}}}}
  map: {{{IV2}, model: l14, tokens: map, sampling: {{policy: clips, t: 3, frames: 4}}}}
  pair: {{{IV2}, model: s14, frames: 2, sampling: {{policy: clips, t: 3, frames: 2}}}}
  swin: {{extractor: swin, weights: "random:0", crop: squash, sampling: {{policy: segments, t: 3}}}}
"""


def test_what_is_prepared_alike_is_prepared_once(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of one policy share their array; a frame that clips and single frames show is resized once."""
    from extractors.preprocess import Preprocessing

    resized: list[int] = []
    apply = Preprocessing.apply

    def counted(self: Preprocessing, frames: Any) -> Any:
        resized.append(len(frames))
        return apply(self, frames)

    monkeypatch.setattr(Preprocessing, "apply", counted)
    config = rgb_config(tmp_path, text=SHARED)
    context = RunContext(tmp_path, ready_features(config), config.media, config.limits())
    clip = videos / "clip3.mp4"
    unit = Unit(str(clip), ("v",), tuple(context.features), None, clip.stat().st_size, "")
    with context.media_process() as child:
        decoded = decode_unit(context, unit, child)
    assert isinstance(decoded, Decoded) and not decoded.failures
    steps = {name: prepared.steps for name, prepared in decoded.features.items()}
    assert steps["clips"] is steps["map"]
    assert {name: array.shape for name, array in steps.items()} == {
        "clips": (3, 4, 224, 224, 3),
        "map": (3, 4, 224, 224, 3),
        "pair": (3, 2, 224, 224, 3),
        "swin": (3, 224, 224, 3),
    }
    assert resized == [1] * decoded.frames, "frame by frame, each once"
    assert decoded.nbytes == (4 + 2 + 1) * 3 * 224 * 224 * 3
    assert decoded.nbytes == expected_bytes(context.features.values()), "so many fit, before the first is decoded"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["features.rgb.sampling={policy: clips, t: 4}"],
            "features.rgb.sampling: rgb_grid takes single frames, which 'segments' gives, not 'clips'",
        ),
        (
            ["features.clips.sampling={policy: segments}"],
            "features.clips.sampling: clip_grid takes clips of 4 frames, which 'clips' gives, not 'segments'",
        ),
        (
            ["features.clips.sampling.frames=8"],
            "features.clips.sampling: clips of 8 frames, but clip_grid is set to take 4",
        ),
        (
            ["features.rgb.extractor=logmel_bands", "features.rgb.sampling={policy: clips, t: 4}"],
            "features.rgb.sampling: sound is sampled by 'segments', not 'clips'",
        ),
    ],
)
def test_a_policy_that_does_not_suit_is_refused_before_any_decode(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(MediaProcess, "decode", decoded)
    text = CONFIG.replace(", grid: 2", "") if "logmel" in overrides[0] else CONFIG
    with pytest.raises(ConfigError) as caught:
        extract(videos, tmp_path / "store", rgb_config(tmp_path, *overrides, text=text))
    assert str(caught.value) == message
    assert not (tmp_path / "store").exists()


def test_a_group_is_bounded_by_bytes(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are many times larger than single frames; rows do not depend on how they are grouped."""
    config = rgb_config(tmp_path, text=CONFIG)
    extract(videos, tmp_path / "usual", config)
    monkeypatch.setattr(executor, "GROUP_BYTES", 1)
    sizes: list[int] = []
    takes_more = executor.takes_more

    def seen(group: Any) -> bool:
        sizes.append(len(group))
        return takes_more(group)

    monkeypatch.setattr(executor, "takes_more", seen)
    assert extract(videos, tmp_path / "small", config).exit_code == 0
    assert max(sizes) == 1
    assert digests(tmp_path / "small", "clips") == digests(tmp_path / "usual", "clips")


@pytest.fixture
def on_cpu() -> Iterator[pytest.MonkeyPatch]:
    with fake_torchcodec() as patch:
        patch.setattr(preflight, "check_backend", lambda backend, executor, machine: None)
        yield patch


@pytest.mark.parametrize("tower", ["clip_grid", "internvideo2"])
def test_the_decoder_of_a_gpu_gives_the_rows_of_pyav(tower: str, tmp_path: Path, on_cpu: pytest.MonkeyPatch) -> None:
    """On the CPU with a stand-in for torchcodec; frames are prepared on the device where the extractor can."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_clip(folder / "good.mp4", seconds=3, width=96, height=64)
    write_clip(folder / "strange.mp4", seed=2, seconds=2, width=96, height=64)  # the stand-in refuses it
    text = CONFIG
    if tower == "internvideo2":
        text = text.replace(
            f"extractor: {CLIPS}", "extractor: internvideo2, model: s14, weights: 'random:0', image_size: 28"
        )
    for backend in ("pyav", "nvdec"):
        done = extract(folder, tmp_path / backend, rgb_config(tmp_path, f"media.backend={backend}", text=text))
        assert done.exit_code == 0, done.summary["failures"]
    with Store.open(tmp_path / "pyav") as plain, Store.open(tmp_path / "nvdec") as other:
        resize = other.spec("clips")["decode"]["resize"]
        assert resize == ("on the CPU" if tower == "clip_grid" else "on the device, the bytes of Pillow")
        assert other.media("clips", "good")["decode"] == "nvdec"
        assert other.media("clips", "strange")["fallback"]["from"] == "nvdec"
        for key in ("good", "strange"):
            assert np.array_equal(plain.row("clips", key), other.row("clips", key))
            assert np.array_equal(plain.valid("clips", key), other.valid("clips", key))


def test_a_tower_of_clips_is_tried_on_noise() -> None:
    """What tells a faulty machine from a bad row takes the shape of clips, too."""
    extractor = build("tests._helpers.clip_grids:ClipGrid", {"frames": 3})
    batcher = MicroBatcher(extractor.load("cpu"), 2)
    batcher.probe(extractor.prepared_shape(), extractor.prepared_dtype)
    assert batcher.run([("a", np.zeros((3, 3, 2, 2, 3), np.uint8))])[0][1].shape == (3, 3, 12)


def test_presets_of_internvideo2_sample_the_seconds_of_the_sound() -> None:
    for size, width in (("1b", 1408), ("6b", 3200)):
        features = ready_features(load_config(f"coqo-internvideo2-{size}"))
        clips, sound = features[f"internvideo2_{size}"], features["vggish"]
        assert clips.extractor.output().step_shape == (8, 8, width)
        spec = clips.policy.spec()
        assert (spec["t"], spec["seconds"]) == (sound.policy.spec()["t"], sound.policy.spec()["seconds"])
        assert spec["frames"] == clips.extractor.prepared_shape()[0] == 4
        assert clips.spec["model"]["positions"]["F0"] == 4
        assert clips.spec["model"]["gelu"] == "tanh"
